//! `bowline net maps dump` and `get`: any pinned map, entry by entry.

use std::path::Path;

use anyhow::bail;
use bowline_agent::datapath::{DUMPED, DumpRow, dump};
use serde_json::Value;

use crate::output::{self, Format, Table};

/// The map that has no entries.
const EVENTS: &str = "EVENTS";

/// How full the maps are, or what is in one.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) wanted: Option<Wanted>,
}

/// Which entries.
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Wanted {
    /// All entries of a map
    #[command(after_help = "Examples:
  bowline net maps dump SERVICES --node node1
  bowline net maps dump flows --raw --node node1")]
    Dump {
        /// As `bowline net maps` names it
        map: String,
        /// Show bytes in hexadecimal digits, as they are in the map
        #[arg(long)]
        raw: bool,
    },
    /// One entry of a map
    #[command(after_help = "Examples:
  bowline net maps get SERVICES 10.9.8.7:80/TCP --node node1
  bowline net maps get PODS 10.240.0.2 --node node1 -o yaml
  bowline net maps get BACKENDS 7 --node node1")]
    Get {
        /// As `bowline net maps` names it
        map: String,
        /// As `dump` shows it
        key: String,
        /// Show bytes in hexadecimal digits, as they are in the map
        #[arg(long)]
        raw: bool,
    },
}

/// Prints what is wanted of the maps under this BPF file system.
pub(super) fn print(bpffs: &Path, wanted: &Wanted, format: Format) -> anyhow::Result<()> {
    let (Wanted::Dump { map, raw } | Wanted::Get { map, raw, .. }) = wanted;
    let map = known(map)?;
    let mut rows = dump(bpffs, map)?;
    if let Wanted::Get { key, .. } = wanted {
        let Some(place) = rows.iter().position(|row| row.key == *key) else {
            bail!("map {map} has no entry {key}{}", such_as(key, &rows));
        };
        rows = vec![rows.swap_remove(place)];
        if !format.is_table() {
            return output::document(&rows[0], format);
        }
    }
    match format.is_table() {
        true => Ok(table(&rows, *raw, format).print()?),
        false => output::document(&rows, format),
    }
}

/// The end of an error about a key: the nearest ones, or one that shows the form.
fn such_as(key: &str, rows: &[DumpRow]) -> String {
    let keys: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
    match (output::nearest(key, &keys), keys.first()) {
        (nearest, _) if !nearest.is_empty() => nearest,
        (_, Some(first)) => format!(": a key of it looks like {first}"),
        _ => ": it is empty".to_owned(),
    }
}

fn known(map: &str) -> anyhow::Result<&'static str> {
    let wanted = map.to_ascii_uppercase();
    if wanted == EVENTS {
        bail!("{EVENTS} is a ring buffer and cannot be dumped: `bowline net monitor` reads it");
    }
    match DUMPED.iter().find(|name| **name == wanted) {
        Some(name) => Ok(name),
        None => bail!("there is no map {map}{}", output::nearest(&wanted, &DUMPED)),
    }
}

/// Wide: what entries mean, and their bytes as well.
fn table(rows: &[DumpRow], raw: bool, format: Format) -> Table {
    let format = if raw { Format::Table } else { format };
    let mut table = Table::with_more(format, ["key", "value"], ["raw key", "raw value"]);
    for row in rows {
        if raw {
            table.row([row.raw_key.clone(), row.raw_value.clone()]);
            continue;
        }
        let named = row.key_fields.as_ref().and_then(counter);
        let key = named.map_or_else(|| row.key.clone(), |name| format!("{} {name}", row.key));
        table.row([key, flat(&row.value), row.raw_key.clone(), row.raw_value.clone()]);
    }
    table
}

/// What a key that is a number stands for.
fn counter(fields: &Value) -> Option<String> {
    let (reason, direction) = (fields["reason"].as_str()?, fields["direction"].as_str()?);
    Some(format!("{reason}/{direction}"))
}

/// `a=1 b.c=2`, and lists with commas.
fn flat(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| match value {
                Value::Object(inner) => {
                    let inner = inner
                        .iter()
                        .map(|(inner, value)| format!("{name}.{inner}={}", flat(value)));
                    inner.collect::<Vec<_>>().join(" ")
                }
                value => format!("{name}={}", flat(value)),
            };
            fields.iter().map(field).collect::<Vec<_>>().join(" ")
        }
        Value::Array(items) => items.iter().map(flat).collect::<Vec<_>>().join(", "),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_one_line() {
        let value = json!({"key": {"port": 80}, "near": {"words": [1, 2]}, "name": "10.9.8.7"});
        assert_eq!(flat(&value), "key.port=80 name=10.9.8.7 near.words=1, 2");
        assert_eq!(flat(&json!([{"packets": 1}, {"packets": 2}])), "packets=1, packets=2");
    }

    #[test]
    fn a_map_that_there_is_not_has_neighbours() {
        assert_eq!(known("pods").unwrap(), "PODS");
        let error = known("events").unwrap_err().to_string();
        assert!(error.contains("is a ring buffer") && error.contains("monitor"), "{error}");
        let error = known("service").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no map service: did you mean SERVICES or SERVICE_LINES or SERVICE_COUNTERS?"
        );
    }
}
