//! `cluster.json`: what `up` makes, written before it makes anything.
//!
//! Guarantees: the file is replaced whole, so after a crash at any point it is either absent (and
//! nothing was made beyond the directory) or complete.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::place::Place;
use super::plan::Plan;

/// What is known about a cluster on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) name: String,
    /// Version of the binary that made the cluster.
    pub(crate) version: String,
    /// The cluster's own directory and others that did not exist before, children first. They
    /// are removed when they are empty.
    pub(crate) made_directories: Vec<PathBuf>,
    pub(crate) plan: Plan,
}

impl Record {
    /// Replaces the file.
    pub(crate) fn write(&self, place: &Place) -> anyhow::Result<()> {
        let path = place.record();
        let text = serde_json::to_string_pretty(self).context("cannot write JSON")?;
        let fresh = path.with_extension("json.new");
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads the file; `None` when there is none.
    pub(crate) fn read(place: &Place) -> anyhow::Result<Option<Self>> {
        let path = place.record();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let record = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged", path.display()))?;
        Ok(Some(record))
    }
}
