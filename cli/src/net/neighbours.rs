//! `bowline net neighbours`: what the kernel knows of the machines at the other end of a node's
//! links.

use std::path::Path;

use bowline_agent::datapath::neighbours;

use crate::output::{self, Format, Table};

/// Prints them.
pub(super) fn print(netns: Option<&Path>, format: Format) -> anyhow::Result<()> {
    let rows = neighbours(netns)?;
    if !format.is_table() {
        return output::document(&rows, format);
    }
    let more = ["number", "confirmed", "used", "changed"];
    let mut table = Table::with_more(format, ["address", "link", "mac", "state"], more);
    let ago = |seconds: Option<u64>| match seconds {
        Some(seconds) => format!("{seconds} s ago"),
        None => "-".to_owned(),
    };
    for row in rows {
        let mac = row.mac.unwrap_or_else(|| "-".to_owned());
        table.row([
            row.address.to_string(),
            row.link,
            mac,
            row.state,
            row.ifindex.to_string(),
            ago(row.confirmed_seconds_ago),
            ago(row.used_seconds_ago),
            ago(row.updated_seconds_ago),
        ]);
    }
    Ok(table.print()?)
}
