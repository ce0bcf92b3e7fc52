//! What the Node objects ask of this node's network.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bowline_api::cidr::Cidr;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::Desired;
use crate::{
    config::Routing,
    datapath::Hop,
    network::{Addresses, Masquerade, Ranges, Reach, SandboxLink, Uplink, first_of_each},
};

/// What the Node objects ask of this node. `masquerade`: the agent was told to.
pub(crate) fn desired(
    nodes: &[Arc<Node>],
    node_name: &str,
    uplink: &Uplink,
    reach: Reach,
    masquerade: bool,
    links: Vec<SandboxLink>,
) -> Desired {
    let own = nodes.iter().find(|node| node.name_any() == node_name);
    let own_ranges = own.and_then(|node| own_ranges(node));
    let is_own = |range: Cidr| own_ranges.is_some_and(|own| own.iter().any(|it| it == range));
    let mut remote = BTreeMap::new();
    let mut stranded = BTreeSet::new();
    let mut members: BTreeSet<Cidr> = uplink.addresses.iter().map(Cidr::host).collect();
    members.extend(own_ranges.into_iter().flat_map(Ranges::iter));
    for node in nodes.iter().filter(|node| node.name_any() != node_name) {
        let Some(addresses) = internal_addresses(node) else { continue };
        if addresses.v4 == uplink.addresses.v4 {
            continue;
        }
        members.extend(addresses.iter().map(Cidr::host));
        // A range that two nodes claim is a mistake of whoever gave it out; this node's own pods
        // come first.
        for range in ranges(node).filter(|range| !is_own(*range)) {
            members.insert(range);
            match hop(range, addresses, uplink, reach.routing) {
                Some(hop) => drop(remote.insert(range, hop)),
                None => drop(stranded.insert(node.name_any())),
            }
        }
    }
    let masquerade = own_ranges
        .filter(|_| masquerade)
        .map(|own| Masquerade::new(own.iter().collect(), &members));
    let uplink = uplink.clone();
    Desired { own_ranges, remote, stranded, uplink, reach, masquerade, links }
}

/// The way to a range of a node; none if its packets would need a tunnel that is not wanted, or
/// an address that the node does not have.
fn hop(range: Cidr, node: Addresses, uplink: &Uplink, routing: Routing) -> Option<Hop> {
    let on_link = node
        .like(range.network())
        .filter(|address| uplink.networks.iter().any(|network| network.contains(*address)));
    match (routing, on_link) {
        (Routing::Native | Routing::Auto, Some(address)) => Some(Hop::Uplink(address)),
        (Routing::Native, None) => None,
        (Routing::Tunnel, _) | (Routing::Auto, None) => Some(Hop::Tunnel(node.v4.into())),
    }
}

fn ranges(node: &Node) -> impl Iterator<Item = Cidr> {
    let spec = node.spec.as_ref();
    let one = spec.and_then(|spec| spec.pod_cidr.as_ref());
    let many = spec.and_then(|spec| spec.pod_cidrs.as_ref()).into_iter().flatten();
    one.into_iter().chain(many).filter_map(|text| text.parse().ok())
}

/// The ranges of a node's pods, once it has one of IPv4.
pub(crate) fn own_ranges(node: &Node) -> Option<Ranges> {
    let v4 = ranges(node).find(|range| !range.is_ipv6())?;
    Some(Ranges { v4, v6: ranges(node).find(|range| range.is_ipv6()) })
}

/// The addresses by which a node is reached; every node has an IPv4 address.
fn internal_addresses(node: &Node) -> Option<Addresses> {
    let listed = node.status.as_ref()?.addresses.as_ref()?;
    let internal = listed.iter().filter(|address| address.type_ == "InternalIP");
    let (v4, v6) = first_of_each(internal.filter_map(|address| address.address.parse().ok()));
    Some(Addresses { v4: v4?, v6 })
}
