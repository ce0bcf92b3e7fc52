//! Whether any namespace of a cluster holds a packet rule or a translation.

use std::path::Path;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::command::output;
use crate::node::netns_path;
use crate::place::Place;

/// What one namespace holds.
#[derive(Debug)]
pub struct Rules {
    pub namespace: String,
    /// Rules of nftables and of both iptables, as those programs print them.
    pub rules: Vec<String>,
    /// Connections that conntrack knows with a translated address; `None` where it does not show
    /// them.
    pub translated: Option<usize>,
}

/// Look into the bridge's and each node's namespace, and into `pods`.
pub fn in_cluster(cluster: &Cluster, pods: &[(String, Place)]) -> Result<Vec<Rules>> {
    let mut names = vec![cluster.bridge_namespace()];
    names.extend(cluster.nodes.iter().map(|node| node.namespace().to_owned()));
    let mut found = Vec::new();
    for name in names {
        found.push(look(name.clone(), &Place::network(&netns_path(&name)))?);
    }
    for (name, place) in pods {
        found.push(look(name.clone(), place)?);
    }
    Ok(found)
}

fn look(namespace: String, place: &Place) -> Result<Rules> {
    let mut rules = Vec::new();
    let nft = output(place.command("nft").args(["list", "ruleset"]))?;
    rules.extend(nft.lines().map(str::to_owned));
    let needed = ["iptables-save", "iptables-legacy-save", "ip6tables-save"];
    let optional = ["ip6tables-legacy-save"].into_iter().filter(|program| is_there(program));
    for program in needed.into_iter().chain(optional) {
        let saved = output(&mut place.command(program))?;
        rules.extend(saved.lines().filter(|line| line.starts_with("-A")).map(str::to_owned));
    }
    rules.retain(|rule| !rule.trim().is_empty());
    Ok(Rules { namespace, rules, translated: translated(place)? })
}

/// Whether a program is found where programs are looked for.
fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// What a kernel has that tracks connections, whether or not it shows them as a file.
const CONNTRACK: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Entries whose reply is not the mirror image of the original.
fn translated(place: &Place) -> Result<Option<usize>> {
    let script = "! test -e /proc/net/nf_conntrack || { echo shown; cat /proc/net/nf_conntrack; }";
    let table = output(place.command("sh").args(["-c", script]))?;
    Ok(count(&table, Path::new(CONNTRACK).exists()))
}

/// `None` when connections are tracked and not shown; a kernel that tracks none translates none.
fn count(table: &str, is_tracking: bool) -> Option<usize> {
    match table.strip_prefix("shown\n") {
        Some(shown) => Some(shown.lines().filter(|line| is_translated(line)).count()),
        None => (!is_tracking).then_some(0),
    }
}

fn is_translated(line: &str) -> bool {
    let field = |name: &str| {
        line.split_whitespace()
            .filter_map(|word| word.strip_prefix(name)?.strip_prefix('='))
            .collect::<Vec<_>>()
    };
    let (sources, destinations) = (field("src"), field("dst"));
    match (sources.as_slice(), destinations.as_slice()) {
        ([source, reply_source], [destination, reply_destination]) => {
            source != reply_destination || destination != reply_source
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{count, is_translated};

    #[test]
    fn a_translation_is_seen_in_the_reply_tuple() {
        let plain = "ipv4 2 tcp 6 9 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 \
                     src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1";
        assert!(!is_translated(plain));
        assert!(is_translated(
            &plain.replace("src=10.0.0.2 dst=10.0.0.1", "src=10.0.0.9 dst=10.0.0.1")
        ));
        assert!(!is_translated("garbage"));
        assert_eq!(count(&format!("shown\n{plain}\n"), true), Some(0));
        let translated = plain.replace("src=10.0.0.2 dst=10.0.0.1", "src=10.0.0.2 dst=10.0.0.8");
        assert_eq!(count(&format!("shown\n{plain}\n{translated}\n"), true), Some(1));
    }

    #[test]
    fn what_is_not_shown_is_not_none() {
        assert_eq!(count("", true), None);
        assert_eq!(count("", false), Some(0));
        assert_eq!(count("shown\n", true), Some(0));
    }
}
