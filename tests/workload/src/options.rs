//! Command lines of the form `WORD... --name value...`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;

/// The words and the named values of a command line.
pub(crate) struct Options {
    words: Vec<String>,
    named: BTreeMap<String, String>,
}

impl Options {
    /// Split a command line; a name without a value is an error.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { words: Vec::new(), named: BTreeMap::new() };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            if let Some(name) = argument.strip_prefix("--") {
                let value = arguments.next().ok_or_else(|| format!("--{name} needs a value"))?;
                options.named.insert(name.to_owned(), value);
            } else {
                options.words.push(argument);
            }
        }
        Ok(options)
    }

    /// The word at `index`.
    pub(crate) fn word(&self, index: usize) -> Result<&str, String> {
        self.words.get(index).map(String::as_str).ok_or_else(|| "an argument is missing".to_owned())
    }

    /// The word at `index` as address and port.
    pub(crate) fn target(&self, index: usize) -> Result<SocketAddr, String> {
        let word = self.word(index)?;
        word.parse().map_err(|error| format!("{word}: {error}"))
    }

    /// A named value, if it was given.
    pub(crate) fn get<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(value) = self.named.get(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| format!("--{name} {value}: not a valid value"))
    }

    /// A named value, or `default`.
    pub(crate) fn or<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        Ok(self.get(name)?.unwrap_or(default))
    }
}
