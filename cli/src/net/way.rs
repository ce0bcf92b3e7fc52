//! Which way a command takes to its nodes: from what is pinned on this machine, or through the API.
//!
//! Guarantees: said on standard error before a table on a terminal; where output goes elsewhere, or
//! is for programs, it is a line of the log (`--log-level info`). Never on standard output.

use std::io::IsTerminal as _;
use std::path::Path;

use super::listen;
use super::{Args, source};

/// Says that nodes of this machine are asked, and which.
pub(super) fn here(args: &Args) {
    // Somebody asked through the API, and knows.
    if args.served.is_some() {
        return;
    }
    if let Some(bpffs) = &args.bpffs {
        return say(
            args,
            &format!("from {} of this machine, not through the API", bpffs.display()),
        );
    }
    // Why there is no cluster is said by what needs one.
    let Ok((place, record)) = source::local(args) else { return };
    let first = record.plan.nodes.first().map_or("", |node| node.name.as_str());
    let nodes = match &args.node {
        _ if args.all_nodes => "all nodes".to_owned(),
        Some(node) => node.clone(),
        None => first.to_owned(),
    };
    let cluster = &place.name;
    say(args, &format!("{nodes} of the local cluster {cluster}, not through the API"));
}

/// Says that these nodes are asked through the API.
pub(super) fn through<'a>(
    args: &Args,
    kubeconfig: &Path,
    nodes: impl ExactSizeIterator<Item = &'a str>,
) {
    say(args, &words(kubeconfig, nodes));
}

fn words<'a>(kubeconfig: &Path, mut nodes: impl ExactSizeIterator<Item = &'a str>) -> String {
    let whom = match (nodes.len(), nodes.next()) {
        (1, Some(only)) => only.to_owned(),
        (count, _) => format!("{count} nodes"),
    };
    format!("{whom} through the API of {}", kubeconfig.display())
}

fn say(args: &Args, way: &str) {
    let is_read = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    if args.output.is_table() && is_read {
        listen::say(way);
    } else {
        tracing::info!("{way}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_or_counted() {
        let file = Path::new("admin.kubeconfig");
        for (nodes, expected) in [
            (&["n1"][..], "n1 through the API of admin.kubeconfig"),
            (&["n1", "n2"], "2 nodes through the API of admin.kubeconfig"),
        ] {
            assert_eq!(words(file, nodes.iter().copied()), expected);
        }
    }
}
