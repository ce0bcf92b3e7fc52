//! Plan of the node network: routes to other nodes, the DNS address, kernel settings, and what
//! sandboxes left behind.
//!
//! Pure. Removals come before additions; a plan for a node that is as it should be is empty.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    sync::Arc,
};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::network::{
    Ipv4Range, LinkSeen, Mac, Route, SandboxLink, Uplink, Via, is_pod_link, pod_mac, pod_route,
};

/// Forwarding between links, and a check of source addresses that is not strict: packets of a pod
/// may come in on a link that the way back does not lead through.
pub(crate) const SETTINGS: [Setting; 2] = [
    Setting { name: "net/ipv4/ip_forward", sound: |value| value == "1", value: "1" },
    Setting { name: "net/ipv4/conf/all/rp_filter", sound: |value| value != "1", value: "2" },
];

/// A kernel setting of the node's namespace: when it will do, and what it is set to otherwise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) sound: fn(&str) -> bool,
    pub(crate) value: &'static str,
}

/// What the node network should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Desired {
    /// The range of this node's pods, once it has one.
    pub(crate) own_range: Option<Ipv4Range>,
    /// The pod ranges of the other nodes and the address that each is reached by.
    pub(crate) remote: BTreeMap<Ipv4Range, Ipv4Addr>,
    pub(crate) uplink: Uplink,
    /// Links of ready sandboxes.
    pub(crate) links: Vec<SandboxLink>,
}

/// What the node network is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) links: Vec<LinkSeen>,
    /// Routes of ours.
    pub(crate) routes: BTreeSet<Route>,
    pub(crate) neighbours: BTreeSet<(u32, Ipv4Addr, Mac)>,
    /// The DNS address is on `lo`.
    pub(crate) dns_address: bool,
    /// Values of [`SETTINGS`], by name.
    pub(crate) settings: BTreeMap<&'static str, String>,
    /// Sandboxes that are not whole and that nobody works on.
    pub(crate) abandoned: BTreeSet<String>,
    /// What the data plane was last told, if anything.
    pub(crate) data_plane: Option<BTreeMap<Ipv4Range, Ipv4Addr>>,
}

/// One change to the node network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Remove what is left of a sandbox.
    RemoveSandbox {
        uid: String,
    },
    /// Remove a pod's link that belongs to no sandbox.
    RemoveLink(LinkSeen),
    RemoveRoute(Route),
    Set {
        name: &'static str,
        value: &'static str,
    },
    AddDnsAddress,
    /// Make a sandbox's link, its neighbour entry and its route anew, or complete them.
    RestoreLink {
        uid: String,
    },
    PutRoute(Route),
    /// Tell the data plane the ways to all other nodes.
    SetDataPlaneRoutes(BTreeMap<Ipv4Range, Ipv4Addr>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveSandbox { uid } => write!(f, "remove the remains of sandbox {uid}"),
            Self::RemoveLink(link) => write!(f, "remove link {}", link.name),
            Self::RemoveRoute(route) => write!(f, "remove route {route}"),
            Self::Set { name, value } => write!(f, "set {}={value}", name.replace('/', ".")),
            Self::AddDnsAddress => write!(f, "add the DNS address"),
            Self::RestoreLink { uid } => write!(f, "restore the link of sandbox {uid}"),
            Self::PutRoute(route) => write!(f, "add route {route}"),
            Self::SetDataPlaneRoutes(routes) => {
                write!(f, "tell the data plane {} routes", routes.len())
            }
        }
    }
}

/// What the Node objects ask of this node.
pub(crate) fn desired(
    nodes: &[Arc<Node>],
    node_name: &str,
    uplink: &Uplink,
    links: Vec<SandboxLink>,
) -> Desired {
    let own_range = nodes.iter().find(|node| node.name_any() == node_name).and_then(|n| range(n));
    let remote = nodes
        .iter()
        .filter(|node| node.name_any() != node_name)
        .filter_map(|node| Some((range(node)?, internal_address(node)?)))
        // A range that two nodes claim is a mistake of whoever gave it out; this node's own pods
        // come first.
        .filter(|(range, address)| Some(*range) != own_range && *address != uplink.address)
        .collect();
    Desired { own_range, remote, uplink: uplink.clone(), links }
}

fn range(node: &Node) -> Option<Ipv4Range> {
    let spec = node.spec.as_ref()?;
    let many = spec.pod_cidrs.iter().flatten();
    spec.pod_cidr.iter().chain(many).find_map(|text| text.parse().ok())
}

/// The address by which a node is reached.
pub(crate) fn internal_address(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).next()
}

/// The steps that lead from what is to what should be.
pub(crate) fn plan(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps: Vec<Step> =
        observed.abandoned.iter().map(|uid| Step::RemoveSandbox { uid: uid.clone() }).collect();
    let owned: BTreeSet<&str> = desired.links.iter().map(|link| link.link.as_str()).collect();
    let strays = observed
        .links
        .iter()
        .filter(|link| is_pod_link(&link.name) && !owned.contains(link.name.as_str()));
    steps.extend(strays.cloned().map(Step::RemoveLink));

    let (routes, damaged) = routes_and_damage(desired, observed);
    let wanted: BTreeSet<Ipv4Range> = routes.iter().map(|route| route.destination).collect();
    // A wrong route to a wanted destination is replaced in one step, never removed first.
    let stale = observed.routes.iter().filter(|route| !wanted.contains(&route.destination));
    steps.extend(stale.copied().map(Step::RemoveRoute));

    for setting in SETTINGS {
        let value = observed.settings.get(setting.name);
        if value.is_some_and(|value| !(setting.sound)(value)) {
            steps.push(Step::Set { name: setting.name, value: setting.value });
        }
    }
    if !observed.dns_address {
        steps.push(Step::AddDnsAddress);
    }
    steps.extend(damaged.into_iter().map(|uid| Step::RestoreLink { uid }));
    let missing = routes.iter().filter(|route| !observed.routes.contains(route));
    let missing = missing.filter(|route| !matches!(route.via, Via::Link { .. }));
    steps.extend(missing.copied().map(Step::PutRoute));
    if observed.data_plane.as_ref() != Some(&desired.remote) {
        steps.push(Step::SetDataPlaneRoutes(desired.remote.clone()));
    }
    steps
}

/// All routes that should be, and the sandboxes whose link, neighbour entry or route is not as
/// it should be.
fn routes_and_damage(desired: &Desired, observed: &Observed) -> (BTreeSet<Route>, Vec<String>) {
    let link = desired.uplink.index;
    let mut routes: BTreeSet<Route> = desired
        .remote
        .iter()
        .map(|(range, address)| Route {
            destination: *range,
            via: Via::Node { address: *address, link },
            source: None,
        })
        .collect();
    routes.extend(desired.own_range.map(|destination| Route {
        destination,
        via: Via::Unreachable,
        source: None,
    }));
    let mut damaged = Vec::new();
    for sandbox in &desired.links {
        let seen = observed.links.iter().find(|link| link.name == sandbox.link);
        let index = seen.map_or(0, |link| link.index);
        let route = pod_route(index, sandbox.address, desired.uplink.address);
        let neighbour = (index, sandbox.address, pod_mac(sandbox.address));
        let whole = seen.is_some_and(|link| link.up)
            && observed.routes.contains(&route)
            && observed.neighbours.contains(&neighbour);
        if !whole {
            damaged.push(sandbox.uid.clone());
        }
        routes.insert(route);
    }
    (routes, damaged)
}

#[cfg(test)]
mod tests;
