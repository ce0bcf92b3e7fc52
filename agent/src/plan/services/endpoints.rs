//! Which endpoints of a service a node uses.
//!
//! In this order, and each step only among what the one before left:
//! 1. Slices of the virtual address's own family, and their port of the service port's name.
//! 2. `internalTrafficPolicy: Local` (KEP-2086): endpoints of this node, or nobody.
//! 3. Ready endpoints; terminating ones that still serve while there is no ready one (KEP-1669).
//! 4. Topology hints (KEP-4444, KEP-3015), not with `Local`: if every ready endpoint says which
//!    nodes it is for, those for this node; else if every one says which zones, those for this
//!    node's zone. Hints that leave nobody are not followed.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use bowline_ebpf_abi::U16Be;

use super::{BackendAddress, Place};
use crate::watch::{Endpoint, Port, Slice};

/// Backends, each with the object that it is, where the slice says so (`namespace/name`).
pub(super) type Backends = BTreeMap<BackendAddress, Option<Arc<str>>>;

/// What asks for endpoints.
pub(super) struct Wish<'a> {
    /// The virtual address.
    pub(super) address: IpAddr,
    pub(super) port: &'a Port,
    pub(super) only_local: bool,
    pub(super) place: &'a Place,
}

/// An endpoint and where it listens.
type Candidate<'a> = (&'a Endpoint, u16);

impl Wish<'_> {
    /// The backends among these slices.
    pub(super) fn backends<'a>(&self, slices: impl Iterator<Item = &'a Slice>) -> Backends {
        let candidates: Vec<Candidate<'_>> = slices
            .filter_map(|slice| Some((slice, self.target_port(slice)?)))
            .flat_map(|(slice, port)| slice.endpoints.iter().map(move |found| (found, port)))
            .filter(|(endpoint, _)| endpoint.address.is_ipv4() == self.address.is_ipv4())
            .filter(|(endpoint, _)| !self.only_local || self.is_here(endpoint))
            .collect();
        let ready: Vec<Candidate<'_>> =
            candidates.iter().filter(|(endpoint, _)| endpoint.ready).copied().collect();
        if ready.is_empty() {
            let serves = |endpoint: &Endpoint| endpoint.serving && endpoint.terminating;
            return collect(candidates.into_iter().filter(|(endpoint, _)| serves(endpoint)));
        }
        if self.only_local {
            return collect(ready.into_iter());
        }
        let near = self.nearness(&ready);
        collect(ready.into_iter().filter(|(endpoint, _)| near.includes(endpoint)))
    }

    /// All that serve, whether or not this node uses them for new connections.
    pub(super) fn serving<'a>(
        &self,
        slices: impl Iterator<Item = &'a Slice>,
    ) -> Vec<BackendAddress> {
        slices
            .filter_map(|slice| Some((slice, self.target_port(slice)?)))
            .flat_map(|(slice, port)| slice.endpoints.iter().map(move |found| (found, port)))
            .filter(|(endpoint, _)| endpoint.address.is_ipv4() == self.address.is_ipv4())
            .filter(|(endpoint, _)| endpoint.ready || (endpoint.serving && endpoint.terminating))
            .map(|(endpoint, port)| BackendAddress {
                address: endpoint.address.into(),
                port: U16Be::new(port),
            })
            .collect()
    }

    fn is_here(&self, endpoint: &Endpoint) -> bool {
        endpoint.node.as_deref() == Some(&*self.place.node)
    }

    /// The slice's number for the service's port: they share name and protocol.
    fn target_port(&self, slice: &Slice) -> Option<u16> {
        let Port { name, protocol, .. } = self.port;
        let found = slice.ports.iter().find(|p| p.name == *name && p.protocol == *protocol);
        found.map(|port| port.number)
    }

    /// How far the hints of these endpoints can be followed.
    fn nearness(&self, ready: &[Candidate<'_>]) -> Nearness<'_> {
        let place = self.place;
        let followed = |near: &Nearness<'_>| {
            let all_say = ready.iter().all(|(endpoint, _)| near.is_hinted(endpoint));
            all_say && ready.iter().any(|(endpoint, _)| near.includes(endpoint))
        };
        let node = Nearness::Node(&place.node);
        if followed(&node) {
            return node;
        }
        let zone = place.zone.as_deref().map(Nearness::Zone);
        zone.filter(followed).unwrap_or(Nearness::Anywhere)
    }
}

/// Whose endpoints are used.
enum Nearness<'a> {
    Node(&'a str),
    Zone(&'a str),
    Anywhere,
}

impl Nearness<'_> {
    fn is_hinted(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Node(_) => endpoint.for_nodes.is_some(),
            Self::Zone(_) => endpoint.for_zones.is_some(),
            Self::Anywhere => true,
        }
    }

    fn includes(&self, endpoint: &Endpoint) -> bool {
        let names = |list: &Option<Arc<[Arc<str>]>>, wanted: &str| {
            list.iter().flat_map(|names| names.iter()).any(|name| &**name == wanted)
        };
        match self {
            Self::Node(node) => names(&endpoint.for_nodes, node),
            Self::Zone(zone) => names(&endpoint.for_zones, zone),
            Self::Anywhere => true,
        }
    }
}

fn collect<'a>(found: impl Iterator<Item = Candidate<'a>>) -> Backends {
    found
        .map(|(endpoint, port)| {
            let address = endpoint.address.into();
            (BackendAddress { address, port: U16Be::new(port) }, endpoint.target.clone())
        })
        .collect()
}
