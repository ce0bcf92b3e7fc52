//! Where a packet goes.
//!
//! # Source address
//! A pod sends from its own address and from no other.
//! # Pods and nodes
//! A pod of this node gets the packet directly; a pod range of another node gets it over the
//! uplink. Neither is translated.
//! # Services
//! Packets that still carry a service's address did not pass a socket hook (raw sockets, packets
//! forwarded by a pod). A backend is chosen once a flow and remembered in FLOWS, in both
//! directions. A TCP connection that is opened anew, and any UDP packet, moves off a backend that
//! is gone; an established TCP connection never moves.
//! # Answers
//! Packets for a pod that has such flows are looked up in FLOWS and get the service's name back.
//! # Everything else
//! is the node's own stack's: node addresses, the outside, expired packets (so that it can send
//! the ICMP error).

use crate::abi::{
    Address, Flow, FlowKey, Mac, Pod, Reason, Route, ServiceKey, U16Be, U32Be, affinity_kind,
    flow_kind, pod_flags, protocol, state,
};
use crate::affinity::Client;
use crate::balance::{Choice, ServiceMaps, choose};
use crate::packet::{Ipv4Header, Ports, Transport};

/// The maps that delivery reads and writes.
pub trait PacketMaps: ServiceMaps {
    fn pod(&self, address: &Address) -> Option<Pod>;
    fn route(&self, address: &Address) -> Option<Route>;
    fn flow(&self, key: &FlowKey) -> Option<Flow>;
    /// Whether the flow could be stored.
    fn store_flow(&self, key: &FlowKey, flow: &Flow) -> bool;
    /// Notes at the pod that FLOWS has entries for it.
    fn mark_pod(&self, address: &Address);
    /// A number with evenly spread high bits.
    fn random(&self) -> u32;
    /// Counts a new flow of a service.
    fn count_connection(&self, service: u32);
    fn count_refused(&self, service: u32);
}

/// What to do with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The node's own stack takes it.
    Stack,
    /// To the pod behind the veth [`Decision::ifindex`].
    Pod,
    /// Out of the device [`Decision::ifindex`], to the node [`Decision::node`].
    Node,
    /// Nowhere, because of [`Decision::reason`].
    Drop,
}

/// Which end of the packet changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Neither,
    Source,
    Destination,
}

/// A change of one end's address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    pub side: Side,
    pub address: Address,
    pub port: U16Be,
    pub old_address: Address,
    pub old_port: U16Be,
    /// Whose translation this is: index into SERVICE_COUNTERS.
    pub service: u32,
}

/// Where the packet goes and how it has to be changed before.
///
/// Flat, with every field always set: the verifier refuses to read a register that an enum's
/// payload leaves unset on some path, and the compiler merges such paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    pub reason: Reason,
    pub ifindex: u32,
    pub mac: Mac,
    pub node: Address,
    pub rewrite: Rewrite,
}

impl Rewrite {
    /// Nothing changes.
    pub const NONE: Self = Self {
        side: Side::Neither,
        address: ZERO,
        port: U16Be::new(0),
        old_address: ZERO,
        old_port: U16Be::new(0),
        service: 0,
    };
}

const ZERO: Address = Address::from_words([U32Be::new(0); 4]);

impl Decision {
    #[inline(always)]
    const fn stack() -> Self {
        Self {
            verdict: Verdict::Stack,
            reason: Reason::Stack,
            ifindex: 0,
            mac: Mac::new([0; 6]),
            node: ZERO,
            rewrite: Rewrite::NONE,
        }
    }

    #[inline(always)]
    const fn drop(reason: Reason) -> Self {
        Self { verdict: Verdict::Drop, reason, ..Self::stack() }
    }

    #[inline(always)]
    const fn pod(pod: &Pod) -> Self {
        Self {
            verdict: Verdict::Pod,
            reason: Reason::LocalPod,
            ifindex: pod.ifindex,
            mac: pod.mac,
            ..Self::stack()
        }
    }

    #[inline(always)]
    const fn node(route: &Route) -> Self {
        Self {
            verdict: Verdict::Node,
            reason: Reason::RemoteNode,
            ifindex: route.ifindex,
            node: route.node,
            ..Self::stack()
        }
    }

    #[inline(always)]
    const fn rewriting(self, rewrite: Rewrite) -> Self {
        Self { rewrite, ..self }
    }
}

/// A packet that a pod sent through the veth `ifindex`.
#[inline(always)]
pub fn from_pod<M: PacketMaps, T: Transport>(
    maps: &M,
    ip: &Ipv4Header,
    transport: &T,
    ifindex: u32,
) -> Decision {
    if let Err(reason) = ip.check() {
        return Decision::drop(reason);
    }
    let sender = match maps.pod(&ip.source()) {
        Some(sender) if sender.ifindex == ifindex => sender,
        _ => return Decision::drop(Reason::SpoofedSource),
    };
    if ip.time_to_live <= 1 {
        return Decision::stack();
    }
    let destination = ip.destination();
    if let Some(pod) = maps.pod(&destination) {
        return Decision::pod(&pod).rewriting(answer(maps, ip, transport, &pod));
    }
    if let Some(route) = maps.route(&destination) {
        return Decision::node(&route);
    }
    to_service(maps, ip, transport, &sender)
}

/// A packet that arrived on the uplink.
#[inline(always)]
pub fn from_uplink<M: PacketMaps, T: Transport>(
    maps: &M,
    ip: &Ipv4Header,
    transport: &T,
) -> Decision {
    if ip.check().is_err() || ip.time_to_live <= 1 {
        return Decision::stack();
    }
    let destination = ip.destination();
    let Some(pod) = maps.pod(&destination) else {
        return Decision::stack();
    };
    Decision::pod(&pod).rewriting(answer(maps, ip, transport, &pod))
}

/// A packet that the node's stack hands to a pod: only answers may need their name back.
#[inline(always)]
pub fn to_pod<M: PacketMaps, T: Transport>(maps: &M, ip: &Ipv4Header, transport: &T) -> Decision {
    match maps.pod(&ip.destination()) {
        Some(pod) => Decision::stack().rewriting(answer(maps, ip, transport, &pod)),
        None => Decision::stack(),
    }
}

/// The way to a backend, the node's stack being the default.
#[inline(always)]
fn towards<M: PacketMaps>(maps: &M, destination: &Address) -> Decision {
    if let Some(pod) = maps.pod(destination) {
        return Decision::pod(&pod);
    }
    match maps.route(destination) {
        Some(route) => Decision::node(&route),
        None => Decision::stack(),
    }
}

/// The fallback balancer: a packet whose destination is neither a pod nor a pod range.
#[inline(always)]
fn to_service<M: PacketMaps, T: Transport>(
    maps: &M,
    ip: &Ipv4Header,
    transport: &T,
    sender: &Pod,
) -> Decision {
    if !ip.has_ports() || ip.is_fragment() {
        return Decision::stack();
    }
    let Some(ports) = transport.ports() else {
        return Decision::drop(Reason::Malformed);
    };
    let flow_key = flow_key(ip, &ports);
    let flow = match remembered(maps, ip, transport, sender, &flow_key) {
        Some(flow) => flow,
        None => match remember(maps, &flow_key) {
            Ok(Some(flow)) => flow,
            Ok(None) => return Decision::stack(),
            Err(reason) => return Decision::drop(reason),
        },
    };
    towards(maps, &flow.address).rewriting(Rewrite {
        side: Side::Destination,
        address: flow.address,
        port: flow.port,
        old_address: flow_key.destination,
        old_port: flow_key.destination_port,
        service: flow.service,
    })
}

/// The flow's backend, if it has one that may still be used.
#[inline(always)]
fn remembered<M: PacketMaps, T: Transport>(
    maps: &M,
    ip: &Ipv4Header,
    transport: &T,
    sender: &Pod,
    key: &FlowKey,
) -> Option<Flow> {
    // Most pods never have one: their packets to the outside are spared the look-up.
    if sender.flags & pod_flags::HAS_FLOWS == 0 {
        return None;
    }
    let flow = maps.flow(key)?;
    if flow.kind != flow_kind::TO_BACKEND {
        return None;
    }
    if ip.protocol == protocol::TCP && !transport.opens_connection() {
        return Some(flow);
    }
    let backend = maps.backend(flow.backend)?;
    let same = backend.port.bits() == flow.port.bits() && backend.address.same(&flow.address);
    if backend.state == state::ACTIVE && same { Some(flow) } else { None }
}

/// Chooses a backend for a new flow and stores both directions.
#[inline(always)]
fn remember<M: PacketMaps>(maps: &M, key: &FlowKey) -> Result<Option<Flow>, Reason> {
    let service = ServiceKey::new(key.destination, key.destination_port, key.protocol);
    let client = || Client { kind: affinity_kind::ADDRESS, name: key.source };
    let (id, number, backend) = match choose(maps, &service, || maps.random(), client) {
        Choice::NotAService => return Ok(None),
        Choice::NoBackend { service } => {
            maps.count_refused(service);
            return Err(Reason::NoBackend);
        }
        Choice::Backend { service, id, backend } => (service, id, backend),
    };
    let back_key = FlowKey {
        source: backend.address,
        destination: key.source,
        source_port: backend.port,
        destination_port: key.source_port,
        protocol: key.protocol,
        pad: 0,
        pad_half: 0,
    };
    let back = Flow {
        address: key.destination,
        port: key.destination_port,
        kind: flow_kind::TO_CLIENT,
        pad: 0,
        backend: number,
        service: id,
    };
    if !maps.store_flow(&back_key, &back) {
        return Err(Reason::FlowNotStored);
    }
    maps.mark_pod(&key.source);
    let flow = Flow {
        address: backend.address,
        port: backend.port,
        kind: flow_kind::TO_BACKEND,
        pad: 0,
        backend: number,
        service: id,
    };
    if !maps.store_flow(key, &flow) {
        return Err(Reason::FlowNotStored);
    }
    maps.count_connection(id);
    Ok(Some(flow))
}

/// The service's name for a backend's answer to this pod.
#[inline(always)]
fn answer<M: PacketMaps, T: Transport>(
    maps: &M,
    ip: &Ipv4Header,
    transport: &T,
    pod: &Pod,
) -> Rewrite {
    if pod.flags & pod_flags::HAS_FLOWS == 0 || !ip.has_ports() || ip.is_fragment() {
        return Rewrite::NONE;
    }
    let Some(ports) = transport.ports() else {
        return Rewrite::NONE;
    };
    let key = flow_key(ip, &ports);
    match maps.flow(&key) {
        Some(flow) if flow.kind == flow_kind::TO_CLIENT => Rewrite {
            side: Side::Source,
            address: flow.address,
            port: flow.port,
            old_address: key.source,
            old_port: key.source_port,
            service: flow.service,
        },
        _ => Rewrite::NONE,
    }
}

#[inline(always)]
fn flow_key(ip: &Ipv4Header, ports: &Ports) -> FlowKey {
    FlowKey {
        source: ip.source(),
        destination: ip.destination(),
        source_port: ports.source,
        destination_port: ports.destination,
        protocol: ip.protocol,
        pad: 0,
        pad_half: 0,
    }
}

#[cfg(test)]
mod tests;
