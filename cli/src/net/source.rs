//! Where a node's data plane is: under a BPF file system, or of a node of a local cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bowline_agent::CONDITION_FILE;
use bowline_agent::datapath::{AgentsNetns, agents_netns};

use super::{Args, trace};
use crate::cluster::{self, Place, Record};

/// Where a node's data plane is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) bpffs: PathBuf,
    pub(super) run_dir: PathBuf,
    /// What is known of the node.
    pub(super) node: Option<Known>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) kubeconfig: PathBuf,
    /// The node's network namespace, if it is not this process's.
    pub(super) netns: Option<PathBuf>,
}

impl Source {
    pub(super) fn netns(&self) -> Option<&Path> {
        self.node.as_ref()?.netns.as_deref()
    }

    /// The node's network namespace, if it is not this process's: the one that was said, or else
    /// the one in which its agent said it was.
    pub(super) fn netns_or(&self, said: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
        if said.is_some() || self.node.is_some() {
            return Ok(said.or(self.netns()).map(Path::to_path_buf));
        }
        match agents_netns(&self.run_dir.join(CONDITION_FILE)) {
            AgentsNetns::Own | AgentsNetns::Unsaid => Ok(None),
            AgentsNetns::At(path) => Ok(Some(path)),
            AgentsNetns::NoAgent => bail!(
                "no agent has said in {} in which network namespace the node is: give its \
                 --run-dir, or --netns PATH",
                self.run_dir.display()
            ),
            AgentsNetns::Gone => bail!(
                "the network namespace of the node's agent is not this one, and is not found: give \
                 --netns PATH"
            ),
        }
    }
}

/// The only local cluster, or that of the name.
pub(super) fn local(args: &Args) -> anyhow::Result<(Place, Record)> {
    let place = cluster::only(args.name.as_deref(), ", or give --kubeconfig or --bpffs")?;
    match Record::read(&place)? {
        Some(record) => Ok((place, record)),
        None => {
            bail!("cluster {} was never finished: remove it with `bowline down`", place.name)
        }
    }
}

/// The node that is asked about.
pub(super) fn source(args: &Args) -> anyhow::Result<Source> {
    if let Some(source) = &args.served {
        return Ok(source.clone());
    }
    if let Some(bpffs) = &args.bpffs {
        let run_dir = args.run_dir.clone();
        return Ok(Source { bpffs: bpffs.clone(), run_dir, node: None });
    }
    let (place, record) = local(args)?;
    of_node(&place, &names(&record), args.node.as_deref())
}

/// All nodes of a local cluster.
pub(super) fn every_source(args: &Args) -> anyhow::Result<Vec<Source>> {
    let (place, record) = local(args)?;
    let nodes = names(&record);
    nodes.iter().map(|(name, _)| of_node(&place, &nodes, Some(name))).collect()
}

/// Those of whose cluster more can be asked: all of a local one; or the one node, where it is known
/// which API knows it.
pub(super) fn cluster_of(args: &Args) -> Vec<Source> {
    let Ok(own) = source(args) else { return Vec::new() };
    match (&args.bpffs, &args.served, &args.kubeconfig) {
        (Some(_), _, None) => Vec::new(),
        (Some(_), _, Some(kubeconfig)) => {
            let (name, kubeconfig) = ("here".to_owned(), kubeconfig.clone());
            vec![Source { node: Some(Known { name, kubeconfig, netns: None }), ..own }]
        }
        (None, Some(_), _) => vec![own],
        (None, None, _) => every_source(args).unwrap_or_default(),
    }
}

/// The nodes of a local cluster, the wanted one first.
pub(super) fn local_nodes(args: &Args) -> anyhow::Result<trace::Nodes> {
    let (own, wanted) = (source(args)?, every_source(args)?);
    let (_, record) = local(args)?;
    let here = |of: Source| {
        let known = of.node?;
        let node = record.plan.nodes.iter().find(|node| node.name == known.name)?;
        Some(trace::Here {
            name: known.name,
            addresses: node.addresses.iter().map(|it| it.address).collect(),
            bpffs: of.bpffs,
            run_dir: of.run_dir,
            netns: known.netns,
        })
    };
    let own = here(own).context("the cluster's record does not have the node")?;
    let others = wanted.into_iter().filter_map(here).filter(|it| it.name != own.name).collect();
    Ok(trace::Nodes { own, others, kubeconfig: None, lent: false })
}

/// Of each node, with its network namespace.
fn names(record: &Record) -> Vec<(&str, &str)> {
    record.plan.nodes.iter().map(|node| (&*node.name, &*node.namespace)).collect()
}

/// One of these nodes, each with its network namespace.
fn of_node(place: &Place, nodes: &[(&str, &str)], wanted: Option<&str>) -> anyhow::Result<Source> {
    let first = nodes.first().map(|(name, _)| *name);
    let wanted = wanted.or(first).unwrap_or_default();
    let Some((node, namespace)) = nodes.iter().find(|(name, _)| *name == wanted) else {
        let names: Vec<&str> = nodes.iter().map(|(name, _)| *name).collect();
        bail!("cluster {} has no node {wanted}: it has {}", place.name, names.join(", "));
    };
    let known = Known {
        name: (*node).to_owned(),
        kubeconfig: place.kubeconfig(),
        netns: Some(cluster::netns_path(namespace)),
    };
    let run_dir = place.node_dir(node).join("run");
    Ok(Source { bpffs: place.bpffs(node), run_dir, node: Some(known) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [(&str, &str); 2] = [("node1", "bl-x-node1"), ("node2", "bl-x-node2")];

    #[test]
    fn the_first_node_is_the_default() {
        let place = Place::new("x", Some(Path::new("/d"))).unwrap();
        let source = of_node(&place, &NODES, None).unwrap();
        assert_eq!(source.bpffs, Path::new("/d/nodes/node1/bpf"));
        let source = of_node(&place, &NODES, Some("node2")).unwrap();
        assert_eq!(source.bpffs, Path::new("/d/nodes/node2/bpf"));
        let error = of_node(&place, &NODES, Some("node9")).unwrap_err().to_string();
        assert!(error.contains("has no node node9: it has node1"), "{error}");
    }

    #[test]
    fn the_network_of_a_node_is_said_or_known_or_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().to_path_buf();
        let source = Source { bpffs: PathBuf::from("/b"), run_dir, node: None };
        let said = Path::new("/run/netns/a");
        assert_eq!(source.netns_or(Some(said)).unwrap().as_deref(), Some(said));
        let error = source.netns_or(None).unwrap_err().to_string();
        assert!(error.contains("--run-dir") && error.contains("--netns PATH"), "{error}");
        let write = |text: &str| std::fs::write(directory.path().join(CONDITION_FILE), text);
        write(r#"{"features":[],"programs":[],"full":{}}"#).unwrap();
        assert_eq!(source.netns_or(None).unwrap(), None, "of an older agent");
        let elsewhere = r#"{"features":[],"programs":[],"full":{},"netns":{"device":0,"inode":1}}"#;
        write(elsewhere).unwrap();
        let error = source.netns_or(None).unwrap_err().to_string();
        assert!(error.contains("is not this one"), "{error}");
        let place = Place::new("x", Some(Path::new("/d"))).unwrap();
        let known = of_node(&place, &NODES, None).unwrap();
        assert_eq!(known.netns_or(None).unwrap().as_deref(), known.netns());
    }
}
