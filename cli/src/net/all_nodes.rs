//! `--all-nodes`: the same command on every node of a local cluster, one after the other.
//!
//! Guarantees: each node is asked by a process of its own, with the words that were given; a node
//! that fails is named and the others are shown all the same. The exit status is the highest of
//! all.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use crate::output::{self, Format};

/// The flag's own name, which nodes are not given.
const FLAG: &str = "--all-nodes";

/// Shows what each node says; gives the highest exit status.
pub(super) fn run(cluster: &str, nodes: &[String], format: Format) -> anyhow::Result<i32> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let words: Vec<OsString> = std::env::args_os().skip(1).filter(|word| word != FLAG).collect();
    let (mut worst, mut documents) = (0, Map::new());
    for node in nodes {
        let mut command = Command::new(&program);
        command.args(&words).args(["--node", node]);
        if !words.iter().any(|word| word.to_string_lossy().starts_with("--name")) {
            command.args(["--name", cluster]);
        }
        let ended = command.stdin(Stdio::null()).output().context("cannot ask a node")?;
        let error = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
        if !error.is_empty() {
            tracing::warn!("{node}: {error}");
        }
        worst = worst.max(ended.status.code().unwrap_or(1));
        let said = String::from_utf8_lossy(&ended.stdout);
        match format {
            _ if format.is_table() => output::text(&format!("{node}:\n{said}\n"))?,
            _ if said.trim().is_empty() => drop(documents.insert(node.clone(), Value::Null)),
            _ => drop(documents.insert(node.clone(), parsed(&said, format)?)),
        }
    }
    if !format.is_table() {
        output::document(&Value::Object(documents), format)?;
    }
    Ok(worst)
}

fn parsed(said: &str, format: Format) -> anyhow::Result<Value> {
    let value = match format {
        Format::Yaml => serde_yaml_ng::from_str(said).map_err(anyhow::Error::from),
        _ => serde_json::from_str(said).map_err(anyhow::Error::from),
    };
    match value {
        Ok(value) => Ok(value),
        Err(error) => bail!("a node said something else: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nodes_say_is_read_in_either_form() {
        assert_eq!(parsed("[1]", Format::Json).unwrap(), json!([1]));
        assert_eq!(parsed("- a: 1\n", Format::Yaml).unwrap(), json!([{ "a": 1 }]));
        assert!(parsed("oh", Format::Json).is_err());
    }
}
