//! The object verbs: `get`, `describe`, `apply`, `delete`, `scale`, `logs`.
//!
//! They speak the Kubernetes API over HTTP and nothing else: what a server does not offer through
//! discovery, they do not know.

pub(crate) mod apply;
pub(crate) mod client;
pub(crate) mod delete;
pub(crate) mod describe;
mod discovery;
pub(crate) mod get;
pub(crate) mod logs;
mod manifest;
mod merge;
pub(crate) mod scale;
mod table;

use client::Connection;
use discovery::{Catalog, Resource};

/// Which objects a command is about.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Scope {
    /// Namespace [default: the kubeconfig's, or `default`]
    #[arg(long, short)]
    pub(crate) namespace: Option<String>,
}

impl Scope {
    fn namespace<'a>(&'a self, connection: &'a Connection) -> &'a str {
        self.namespace.as_deref().unwrap_or(&connection.namespace)
    }
}

/// A type and names, from `TYPE NAME...` or `TYPE/NAME ...`.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    resource: String,
    names: Vec<String>,
}

/// Understands the words of a command line; several types come as `TYPE,TYPE`.
fn targets(words: &[String]) -> anyhow::Result<Vec<Target>> {
    let Some(first) = words.first() else {
        anyhow::bail!("say what: a type such as `pods`, or `pod/NAME`");
    };
    if first.contains('/') {
        let pair = |word: &String| match word.split_once('/') {
            Some(_) if word.contains(',') => Err(anyhow::anyhow!(
                "`{word}`: TYPE/NAME words are separated by spaces, as in `pod/a svc/b`"
            )),
            Some((kind, name)) if !kind.is_empty() && !name.is_empty() => {
                Ok(Target { resource: kind.to_owned(), names: vec![name.to_owned()] })
            }
            _ => Err(anyhow::anyhow!("`{word}` is not TYPE/NAME: do not mix the two forms")),
        };
        return words.iter().map(pair).collect();
    }
    let names = &words[1..];
    if words.iter().any(String::is_empty) {
        // A variable of a script that is not set, most often.
        anyhow::bail!("an empty word is neither a type nor a name");
    }
    if let Some(word) = names.iter().find(|name| name.contains('/')) {
        anyhow::bail!("`{word}` is not a name: do not mix `TYPE NAME` and `TYPE/NAME`");
    }
    let types = first.split(',').filter(|kind| !kind.is_empty());
    Ok(types.map(|kind| Target { resource: kind.to_owned(), names: names.to_vec() }).collect())
}

/// Looks the types up in what the server offers.
fn resolve<'a>(
    catalog: &'a Catalog,
    targets: &'a [Target],
) -> anyhow::Result<Vec<(&'a Resource, &'a [String])>> {
    let mut resolved = Vec::new();
    for target in targets {
        for resource in catalog.find(&target.resource)? {
            resolved.push((resource, target.names.as_slice()));
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Vec<(String, Vec<String>)>, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let targets = targets(&words).map_err(|error| error.to_string())?;
        Ok(targets.into_iter().map(|target| (target.resource, target.names)).collect())
    }

    #[test]
    fn both_forms_are_understood() {
        let owned = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        for (line, expected) in [
            ("pods", vec![("pods", vec![])]),
            ("pod a b", vec![("pod", vec!["a", "b"])]),
            ("pods,svc", vec![("pods", vec![]), ("svc", vec![])]),
            ("pod/a svc/b", vec![("pod", vec!["a"]), ("svc", vec!["b"])]),
        ] {
            let expected: Vec<_> =
                expected.into_iter().map(|(it, names)| (it.to_owned(), owned(&names))).collect();
            assert_eq!(parse(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn mixed_forms_are_refused() {
        for (line, expected) in [
            ("", "say what"),
            ("pod/a b", "do not mix"),
            ("pod svc/b", "do not mix"),
            ("pod/", "not TYPE/NAME"),
            ("/a", "not TYPE/NAME"),
            ("pod/a,svc", "separated by spaces"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn empty_words_are_refused() {
        for words in [&["pod", ""][..], &["pod", "a", ""], &["", "a"], &[""], &["pod/a", ""]] {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            assert!(targets(&words).is_err(), "{words:?}");
        }
    }
}
