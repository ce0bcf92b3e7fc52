//! Files of figures, read with an error of one line for whatever is wrong with them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::results::{FORMAT, Results, VERSION};

/// The figures of one run.
pub fn results(file: &Path) -> Result<Results> {
    let results: Results = document(file, FORMAT, VERSION)?;
    let empty = results.figures.iter().find(|figure| figure.samples.is_empty());
    if let Some(figure) = empty {
        bail!("{}: no samples of `{}`", file.display(), figure.name);
    }
    Ok(results)
}

/// A file that says what it is, of the version that this build knows.
pub fn document<T: DeserializeOwned>(file: &Path, format: &str, version: u32) -> Result<T> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
    let value: Value =
        serde_json::from_str(&text).with_context(|| format!("{shown} is not JSON"))?;
    if value["format"] != format {
        bail!("{shown} is no {format} file: its `format` is {}", value["format"]);
    }
    if value["version"] != version {
        let other = &value["version"];
        bail!("{shown} has version {other} of {format}; this build reads {version}: measure again");
    }
    serde_json::from_value(value).with_context(|| format!("{shown} is not as {format} should be"))
}
