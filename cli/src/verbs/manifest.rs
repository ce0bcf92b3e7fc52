//! Manifests: YAML or JSON, from files, directories or standard input.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

/// Largest manifest that is read; a bound, not a limit that anybody should meet.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// An object of a manifest, with where it came from.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) source: String,
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) object: Value,
}

/// Reads all objects: `-` is standard input, a directory means its `.yaml`, `.yml`, `.json` files.
pub(super) fn read(sources: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for source in sources {
        for file in files(source)? {
            let name =
                if is_stdin(&file) { "standard input".into() } else { file.display().to_string() };
            documents.extend(parse(&name, &contents(&file)?)?);
        }
    }
    if documents.is_empty() {
        bail!("no objects in {}", display_all(sources));
    }
    Ok(documents)
}

fn display_all(sources: &[PathBuf]) -> String {
    let names: Vec<String> = sources.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn files(source: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if is_stdin(source) || !source.is_dir() {
        return Ok(vec![source.to_path_buf()]);
    }
    let cannot = || format!("cannot read directory {}", source.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(source).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let known = path.extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json");
        if known && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn contents(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if is_stdin(file) {
        std::io::stdin().take(MAX_BYTES).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text)
}

/// Takes the documents of a text apart, and lists into their items.
fn parse(source: &str, text: &str) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for (index, part) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let place = || format!("{source}, document {}", index + 1);
        let value = Value::deserialize(part).with_context(|| format!("{} is no YAML", place()))?;
        collect(value, &place(), &mut documents)?;
    }
    Ok(documents)
}

fn collect(value: Value, source: &str, documents: &mut Vec<Document>) -> anyhow::Result<()> {
    if value.is_null() {
        return Ok(());
    }
    let field = |name: &str| match value.get(name).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(anyhow::anyhow!("{source}: `{name}` is missing")),
    };
    let (api_version, kind) = (field("apiVersion")?, field("kind")?);
    if let Some(items) = value.get("items").and_then(Value::as_array)
        && kind.ends_with("List")
    {
        return items.iter().try_for_each(|item| collect(item.clone(), source, documents));
    }
    documents.push(Document { source: source.to_owned(), api_version, kind, object: value });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Result<Vec<String>, String> {
        let documents = parse("x.yaml", text).map_err(|error| format!("{error:#}"))?;
        Ok(documents.into_iter().map(|document| document.kind).collect())
    }

    #[test]
    fn documents_and_lists_are_taken_apart() {
        let text = "---\napiVersion: v1\nkind: Pod\n---\n# nothing\n---\n\
                    apiVersion: v1\nkind: List\n\
                    items:\n- {apiVersion: v1, kind: Service}\n- {apiVersion: v1, kind: Secret}\n";
        assert_eq!(kinds(text), Ok(vec!["Pod".into(), "Service".into(), "Secret".into()]));
        assert_eq!(kinds(r#"{"apiVersion": "v1", "kind": "Pod"}"#), Ok(vec!["Pod".into()]));
    }

    #[test]
    fn bad_manifests_say_where() {
        for (text, expected) in [
            ("kind: Pod", "x.yaml, document 1: `apiVersion` is missing"),
            ("apiVersion: v1\n---\n", "x.yaml, document 1: `kind` is missing"),
            ("apiVersion: v1\nkind: Pod\n---\na: [", "x.yaml, document 2 is no YAML"),
        ] {
            let error = kinds(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_directory_means_its_manifests_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for (name, kind) in [("b.yaml", "Service"), ("a.json", "Pod"), ("c.txt", "Secret")] {
            let text = format!("{{\"apiVersion\": \"v1\", \"kind\": \"{kind}\"}}");
            fs::write(dir.path().join(name), text).unwrap();
        }
        let documents = read(&[dir.path().to_path_buf()]).unwrap();
        let kinds: Vec<_> = documents.iter().map(|document| document.kind.as_str()).collect();
        assert_eq!(kinds, ["Pod", "Service"]);
    }
}
