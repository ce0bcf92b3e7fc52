//! Plan of the node network: ways to other nodes, the tunnel device, the DNS address, kernel
//! settings, the masquerading rule, and what sandboxes left behind.
//!
//! Pure. Removals come before additions; a plan for a node that is as it should be is empty.

mod nodes;

pub(crate) use nodes::{desired, own_ranges};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use bowline_api::cidr::Cidr;

use crate::{
    config::{DNS_ADDRESS, DNS_ADDRESS_V6},
    datapath::Hop,
    network::{
        LinkSeen, Masquerade, Neighbour, Ranges, Reach, Route, SandboxLink, TUNNEL_LINK, Tunnel,
        Uplink, Via, is_pod_link, pod_neighbours, pod_routes, tunnel,
    },
};

/// A kernel setting of the node's namespace: when it will do, and what it is set to otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) name: String,
    pub(crate) sound: fn(&str) -> bool,
    pub(crate) value: &'static str,
}

/// Forwarding between links, and a check of source addresses that is not strict: packets of a pod
/// may come in on a link that the way back does not lead through. A router listens to other
/// routers only when told so; an uplink that got its IPv6 routes that way keeps them.
pub(crate) fn settings(uplink: &str, ipv6: bool) -> Vec<Setting> {
    let setting = |name: &str, sound, value| Setting { name: name.to_owned(), sound, value };
    let mut all = vec![
        setting("net/ipv4/ip_forward", |value| value == "1", "1"),
        setting("net/ipv4/conf/all/rp_filter", |value| value != "1", "2"),
    ];
    if ipv6 {
        let listen = format!("net/ipv6/conf/{uplink}/accept_ra");
        all.push(setting(&listen, |value| value != "1", "2"));
        all.push(setting("net/ipv6/conf/all/forwarding", |value| value == "1", "1"));
    }
    all
}

/// What the node network should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Desired {
    /// The ranges of this node's pods, once it has some.
    pub(crate) own_ranges: Option<Ranges>,
    /// The pod ranges of the other nodes and the way to each.
    pub(crate) remote: BTreeMap<Cidr, Hop>,
    /// Nodes to which there is no way for packets as they are.
    pub(crate) stranded: BTreeSet<String>,
    pub(crate) uplink: Uplink,
    pub(crate) reach: Reach,
    pub(crate) masquerade: Option<Masquerade>,
    /// Links of ready sandboxes.
    pub(crate) links: Vec<SandboxLink>,
}

/// What the data plane was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) routes: BTreeMap<Cidr, Hop>,
    /// The tunnel device there was: one that was made anew needs its program.
    pub(crate) tunnel: Option<u32>,
}

/// What the node network is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) links: Vec<LinkSeen>,
    /// Routes of ours.
    pub(crate) routes: BTreeSet<Route>,
    pub(crate) neighbours: BTreeSet<Neighbour>,
    /// The addresses of `lo` that are the DNS server's.
    pub(crate) dns_addresses: BTreeSet<IpAddr>,
    /// Values of [`settings`], by name.
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) masquerade: Option<Masquerade>,
    /// Sandboxes that are not whole and that nobody works on.
    pub(crate) abandoned: BTreeSet<String>,
    /// What the data plane was last told, if anything.
    pub(crate) data_plane: Option<Told>,
}

/// One change to the node network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Remove what is left of a sandbox.
    RemoveSandbox {
        uid: String,
    },
    /// Remove a link of ours that nobody wants.
    RemoveLink(LinkSeen),
    RemoveRoute(Route),
    RemoveNeighbour(Neighbour),
    RemoveMasquerade,
    Set {
        name: String,
        value: &'static str,
    },
    AddDnsAddress(IpAddr),
    /// Make the tunnel device, or make it right.
    MakeTunnel(Tunnel),
    /// Make a sandbox's link, its neighbour entries and its routes anew, or complete them.
    RestoreLink {
        uid: String,
    },
    /// Enter another node's hardware address on the tunnel device.
    PutNeighbour(Neighbour),
    PutRoute(Route),
    PutMasquerade(Masquerade),
    /// Tell the data plane the ways to all other nodes.
    SetDataPlaneRoutes(BTreeMap<Cidr, Hop>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveSandbox { uid } => write!(f, "remove the remains of sandbox {uid}"),
            Self::RemoveLink(link) => write!(f, "remove link {}", link.name),
            Self::RemoveRoute(route) => write!(f, "remove route {route}"),
            Self::RemoveNeighbour((link, address, _)) => {
                write!(f, "remove neighbour {address} on link {link}")
            }
            Self::RemoveMasquerade => write!(f, "remove the masquerading rule"),
            Self::Set { name, value } => write!(f, "set {}={value}", name.replace('/', ".")),
            Self::AddDnsAddress(address) => write!(f, "add the DNS address {address}"),
            Self::MakeTunnel(_) => write!(f, "make the tunnel device {TUNNEL_LINK}"),
            Self::RestoreLink { uid } => write!(f, "restore the link of sandbox {uid}"),
            Self::PutNeighbour((link, address, _)) => {
                write!(f, "enter neighbour {address} on link {link}")
            }
            Self::PutRoute(route) => write!(f, "add route {route}"),
            Self::PutMasquerade(_) => write!(f, "write the masquerading rule"),
            Self::SetDataPlaneRoutes(routes) => {
                write!(f, "tell the data plane {} routes", routes.len())
            }
        }
    }
}

/// The steps that lead from what is to what should be.
pub(crate) fn plan(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps: Vec<Step> =
        observed.abandoned.iter().map(|uid| Step::RemoveSandbox { uid: uid.clone() }).collect();
    let strays = observed.links.iter().filter(|link| is_stray(desired, link));
    steps.extend(strays.cloned().map(Step::RemoveLink));

    // A tunnel device that is not there yet has number 0: what depends on it comes with the next
    // round, which its making brings about.
    let seen = observed.links.iter().find(|link| link.name == TUNNEL_LINK);
    let tunnel = desired.reach.tunnel.and(seen).map(|link| link.index);
    let far = far_side(desired, tunnel);
    let (pods, damaged) = pods_and_damage(desired, observed);
    let routes: BTreeSet<Route> = far.routes.iter().copied().chain(pods).collect();
    let wanted: BTreeSet<Cidr> = routes.iter().map(|route| route.destination).collect();
    // A wrong route to a wanted destination is replaced in one step, never removed first.
    let stale = observed.routes.iter().filter(|route| !wanted.contains(&route.destination));
    steps.extend(stale.copied().map(Step::RemoveRoute));
    let on_tunnel = observed.neighbours.iter().filter(|(link, ..)| Some(*link) == tunnel);
    let gone = on_tunnel
        .filter(|(_, address, _)| !far.neighbours.iter().any(|(_, wanted, _)| wanted == address));
    steps.extend(gone.copied().map(Step::RemoveNeighbour));
    if desired.masquerade.is_none() && observed.masquerade.is_some() {
        steps.push(Step::RemoveMasquerade);
    }

    steps.extend(node_steps(desired, observed, seen));
    steps.extend(damaged.into_iter().map(|uid| Step::RestoreLink { uid }));
    let missing = far.neighbours.iter().filter(|entry| !observed.neighbours.contains(entry));
    steps.extend(missing.copied().map(Step::PutNeighbour));
    let missing = far.routes.iter().filter(|route| !observed.routes.contains(route));
    steps.extend(missing.copied().map(Step::PutRoute));
    match &desired.masquerade {
        Some(wanted) if observed.masquerade.as_ref() != Some(wanted) => {
            steps.push(Step::PutMasquerade(wanted.clone()));
        }
        _ => {}
    }
    let telling = Told { routes: desired.remote.clone(), tunnel };
    if observed.data_plane.as_ref() != Some(&telling) {
        steps.push(Step::SetDataPlaneRoutes(telling.routes));
    }
    steps
}

/// What the node itself needs: settings, the DNS address, the tunnel device.
fn node_steps(desired: &Desired, observed: &Observed, tunnel: Option<&LinkSeen>) -> Vec<Step> {
    let mut steps = Vec::new();
    for setting in settings(&desired.uplink.name, desired.has_ipv6()) {
        let value = observed.settings.get(&setting.name);
        if value.is_some_and(|value| !(setting.sound)(value)) {
            steps.push(Step::Set { name: setting.name, value: setting.value });
        }
    }
    let missing = desired.dns_addresses().filter(|it| !observed.dns_addresses.contains(it));
    steps.extend(missing.map(Step::AddDnsAddress));
    let wanted = desired.reach.tunnel;
    let unfit = wanted.filter(|wanted| !tunnel.is_some_and(|seen| wanted.is(seen)));
    steps.extend(unfit.map(Step::MakeTunnel));
    steps
}

/// Whether a link has a name of ours and no reason to be there.
fn is_stray(desired: &Desired, link: &LinkSeen) -> bool {
    let name = link.name.as_str();
    let unowned = || !desired.links.iter().any(|sandbox| sandbox.link == name);
    name == TUNNEL_LINK && desired.reach.tunnel.is_none() || is_pod_link(name) && unowned()
}

impl Desired {
    /// Where this node answers DNS.
    pub(crate) fn dns_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v6 = self.has_ipv6().then_some(DNS_ADDRESS_V6);
        std::iter::once(DNS_ADDRESS.into()).chain(v6.map(IpAddr::V6))
    }

    /// Whether pods have IPv6 addresses.
    pub(crate) fn has_ipv6(&self) -> bool {
        self.own_ranges.is_some_and(|ranges| ranges.v6.is_some())
    }
}

/// What leads to other nodes' pods, and away from addresses of this node that no pod has.
struct FarSide {
    routes: BTreeSet<Route>,
    neighbours: BTreeSet<Neighbour>,
}

fn far_side(desired: &Desired, tunnel: Option<u32>) -> FarSide {
    let mut far = FarSide { routes: BTreeSet::new(), neighbours: BTreeSet::new() };
    for (&destination, hop) in &desired.remote {
        let own = desired.uplink.addresses.like(destination.network());
        let (via, source) = match (hop, tunnel) {
            (Hop::Uplink(address), _) => {
                (Via::Node { address: *address, link: desired.uplink.index }, None)
            }
            (Hop::Tunnel(IpAddr::V4(node)), Some(link)) => {
                let gateway = tunnel::gateway(destination, *node);
                far.neighbours.insert((link, gateway, tunnel::mac(*node)));
                (Via::Tunnel { node: *node, link }, own)
            }
            (Hop::Tunnel(_), _) => continue,
        };
        far.routes.insert(Route { destination, via, source });
    }
    far.routes.extend(
        desired.own_ranges.into_iter().flat_map(Ranges::iter).map(|destination| Route {
            destination,
            via: Via::Unreachable,
            source: None,
        }),
    );
    far
}

/// The routes to this node's pods, and the sandboxes whose link, neighbour entries or routes are
/// not as they should be.
fn pods_and_damage(desired: &Desired, observed: &Observed) -> (Vec<Route>, Vec<String>) {
    let (mut routes, mut damaged) = (Vec::new(), Vec::new());
    let node = desired.uplink.addresses;
    for sandbox in &desired.links {
        let seen = observed.links.iter().find(|link| link.name == sandbox.link);
        let index = seen.map_or(0, |link| link.index);
        let own: Vec<Route> = pod_routes(index, sandbox.addresses, node).collect();
        let whole = seen.is_some_and(|link| link.up && link.mtu == desired.reach.pod_mtu)
            && own.iter().all(|route| observed.routes.contains(route))
            && pod_neighbours(index, sandbox.addresses)
                .all(|neighbour| observed.neighbours.contains(&neighbour));
        if !whole {
            damaged.push(sandbox.uid.clone());
        }
        routes.extend(own);
    }
    (routes, damaged)
}

#[cfg(test)]
mod tests;
