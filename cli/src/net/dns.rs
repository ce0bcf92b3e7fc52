//! `bowline net dns`: the counts of a node's DNS server.

use std::path::Path;

use anyhow::Context;
use bowline_agent::{DnsCount, DnsFigures};

use crate::output::{self, Format, Table};

/// Prints what the agent with this run directory counted.
pub(super) fn print(run_dir: &Path, format: Format) -> anyhow::Result<()> {
    let figures = DnsFigures::read(run_dir).with_context(|| {
        format!("cannot read DNS counts in {}: is an agent at work there?", run_dir.display())
    })?;
    match format {
        Format::Table => Ok(table(&figures.counts).print()?),
        Format::Wide => {
            table(&figures.counts).print()?;
            let DnsFigures { since, written, .. } = &figures;
            Ok(output::line(&format!("\ncounted from {since:.0} to {written:.0}"))?)
        }
        _ => output::document(&figures, format),
    }
}

fn table(counts: &[DnsCount]) -> Table {
    let mut table = Table::new(["what", "count", "limit", "raised by"]);
    for row in counts {
        let limit = row.limit.map(|limit| limit.to_string()).unwrap_or_default();
        let flag = row.flag.clone().unwrap_or_default();
        table.row([row.name.clone(), row.count.to_string(), limit, flag]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_name_their_flags() {
        let count = |name: &str, limit: Option<u64>| DnsCount {
            name: name.to_owned(),
            count: 3,
            limit,
            flag: limit.map(|_| "--dns-forwards".to_owned()),
        };
        let text = table(&[count("cache hits", None), count("refused", Some(512))]).render(false);
        assert_eq!(text, "cache hits   3\nrefused      3   512   --dns-forwards\n");
    }
}
