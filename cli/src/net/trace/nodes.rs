//! The nodes that a packet may cross, and how each is listened to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use bowline_agent::datapath::NodePlace;
use bowline_agent::{CONDITION_FILE, NAMES_FILE, TraceFilter};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use tokio::time::timeout;

use super::subscriptions::Subscriptions;
use super::{Args, lent};
use crate::net::source::Source;
use crate::verbs::client::{Connection, connect_file};

/// How long the API may take to say which nodes there are.
const PATIENCE: Duration = Duration::from_secs(5);

/// Other nodes that are listened to at most.
const MOST_NODES: usize = 16;

/// A node of this machine.
pub(in crate::net) struct Here {
    pub(in crate::net) name: String,
    /// Empty where it is not known.
    pub(in crate::net) addresses: Vec<IpAddr>,
    pub(in crate::net) bpffs: PathBuf,
    pub(in crate::net) run_dir: PathBuf,
    pub(in crate::net) netns: Option<PathBuf>,
}

impl Here {
    pub(super) fn place(&self) -> NodePlace {
        NodePlace {
            bpffs: self.bpffs.clone(),
            netns: self.netns.clone(),
            names_file: self.run_dir.join(NAMES_FILE),
            condition_file: self.run_dir.join(CONDITION_FILE),
        }
    }
}

/// Where to look: the client's node, and the others of a local cluster.
pub(in crate::net) struct Nodes {
    pub(in crate::net) own: Here,
    pub(in crate::net) others: Vec<Here>,
    /// Names the API through which nodes of other machines are listened to.
    pub(in crate::net) kubeconfig: Option<PathBuf>,
    /// Whoever asked listens to them.
    pub(in crate::net) lent: bool,
}

impl Nodes {
    /// The node whose maps are pinned there.
    pub(in crate::net) fn of_bpffs(
        args: &Args,
        source: Source,
        netns: Option<PathBuf>,
        kubeconfig: Option<PathBuf>,
    ) -> Self {
        let own = Here {
            name: args.node_name.clone().unwrap_or_else(|| "here".to_owned()),
            addresses: Vec::new(),
            bpffs: source.bpffs,
            run_dir: source.run_dir,
            netns,
        };
        Self { own, others: Vec::new(), kubeconfig, lent: false }
    }

    /// The node that is answered for.
    pub(in crate::net) fn of_served(source: &Source) -> Self {
        let known = source.node.clone();
        let own = Here {
            name: known.as_ref().map_or_else(|| "here".to_owned(), |node| node.name.clone()),
            addresses: Vec::new(),
            bpffs: source.bpffs.clone(),
            run_dir: source.run_dir.clone(),
            netns: known.and_then(|node| node.netns),
        };
        Self { own, others: Vec::new(), kubeconfig: None, lent: true }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Here> {
        std::iter::once(&self.own).chain(&self.others)
    }

    /// Listens to the client's node, and to those with these addresses.
    pub(super) async fn listen(
        &self,
        subscriptions: &mut Subscriptions,
        others: &BTreeSet<IpAddr>,
        filter: &TraceFilter,
    ) -> anyhow::Result<()> {
        let mut here = vec![&self.own];
        let mut elsewhere = Vec::new();
        for (number, address) in others.iter().enumerate() {
            match self.others.iter().find(|node| node.addresses.contains(address)) {
                _ if number >= MOST_NODES => {
                    let why = format!("it may come to more than {MOST_NODES} nodes");
                    subscriptions.note_all_unreachable(&[*address], &why);
                }
                Some(node) => here.push(node),
                None => elsewhere.push(*address),
            }
        }
        // These may take their time, and what is open on this machine has to be read every second.
        match &self.kubeconfig {
            _ if elsewhere.is_empty() => {}
            _ if self.lent => {
                lent::borrow(subscriptions, elsewhere.into_iter().collect(), filter).await?;
            }
            None => {
                let why = "--kubeconfig names the API through which it is asked";
                subscriptions.note_all_unreachable(&elsewhere, why);
            }
            Some(kubeconfig) => match connect_file(kubeconfig).await {
                Ok(api) => listen_elsewhere(subscriptions, &elsewhere, filter, &api).await,
                Err(error) => {
                    subscriptions.note_all_unreachable(&elsewhere, &format!("{error:#}"));
                }
            },
        }
        for node in here {
            subscriptions.here(&node.name, &node.place(), &filter.filter());
        }
        Ok(())
    }
}

/// Listens to the nodes with these addresses through the API.
pub(super) async fn listen_elsewhere(
    subscriptions: &mut Subscriptions,
    nodes: &[IpAddr],
    filter: &TraceFilter,
    api: &Connection,
) {
    match named(api).await {
        Ok(known) => {
            let strange: Vec<IpAddr> =
                nodes.iter().filter(|it| !known.contains_key(it)).copied().collect();
            subscriptions.note_all_unreachable(&strange, "the API knows no node with this address");
            let names = nodes.iter().filter_map(|address| known.get(address));
            let names: Vec<&str> = names.map(String::as_str).collect();
            subscriptions.there(&names, api, filter).await;
        }
        Err(error) => subscriptions.note_all_unreachable(nodes, &format!("{error:#}")),
    }
}

/// The names of the API's nodes by their addresses.
async fn named(api: &Connection) -> anyhow::Result<BTreeMap<IpAddr, String>> {
    let nodes = Api::<Node>::all(api.client.clone());
    let nodes = timeout(PATIENCE, nodes.list(&ListParams::default())).await;
    let nodes = nodes.context("the API does not answer")?.context("the API names no nodes")?;
    let mut found = BTreeMap::new();
    for node in nodes {
        let name = node.metadata.name.unwrap_or_default();
        let addresses = node.status.into_iter().flat_map(|it| it.addresses.into_iter().flatten());
        let addresses = addresses.filter_map(|it| it.address.parse::<IpAddr>().ok());
        found.extend(addresses.map(|address| (address, name.clone())));
    }
    Ok(found)
}
