//! `bowline net neighbours`: what the kernel knows of the machines at the other end of a node's
//! links.

use std::path::Path;

use bowline_agent::datapath::neighbours;

use crate::output::{self, Format, Table};

/// Prints them.
pub(super) fn print(netns: Option<&Path>, format: Format) -> anyhow::Result<()> {
    let rows = neighbours(netns)?;
    if format != Format::Table {
        return output::document(&rows, format);
    }
    let mut table = Table::new(["address", "link", "mac", "state"]);
    for row in rows {
        let mac = row.mac.unwrap_or_else(|| "-".to_owned());
        table.row([row.address.to_string(), row.link, mac, row.state]);
    }
    Ok(table.print()?)
}
