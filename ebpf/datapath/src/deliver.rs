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
    Address, Flow, FlowKey, Pod, Reason, Route, ServiceKey, U16Be, flow_kind, pod_flags, protocol,
    state,
};
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
}

/// What to do with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The node's own stack takes it.
    Stack,
    /// To the pod behind this veth.
    Pod { ifindex: u32, mac: [u8; 6] },
    /// Out of this device, to this node.
    Node { ifindex: u32, node: Address },
    /// Nowhere.
    Drop(Reason),
}

/// Which end of the packet a rewrite changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    pub rewrite: Option<Rewrite>,
}

impl Decision {
    #[inline(always)]
    const fn of(verdict: Verdict) -> Self {
        Self { verdict, rewrite: None }
    }

    #[inline(always)]
    const fn drop(reason: Reason) -> Self {
        Self::of(Verdict::Drop(reason))
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
    match maps.pod(&ip.source()) {
        Some(sender) if sender.ifindex == ifindex => {}
        _ => return Decision::drop(Reason::SpoofedSource),
    }
    if ip.time_to_live <= 1 {
        return Decision::of(Verdict::Stack);
    }
    let destination = ip.destination();
    if let Some(pod) = maps.pod(&destination) {
        let verdict = Verdict::Pod { ifindex: pod.ifindex, mac: pod.mac };
        return Decision { verdict, rewrite: answer_for(maps, ip, transport, &pod) };
    }
    if let Some(route) = maps.route(&destination) {
        return Decision::of(Verdict::Node { ifindex: route.ifindex, node: route.node });
    }
    to_service(maps, ip, transport)
}

/// A packet that arrived on the uplink.
#[inline(always)]
pub fn from_uplink<M: PacketMaps, T: Transport>(
    maps: &M,
    ip: &Ipv4Header,
    transport: &T,
) -> Decision {
    if ip.check().is_err() || ip.time_to_live <= 1 {
        return Decision::of(Verdict::Stack);
    }
    let destination = ip.destination();
    let Some(pod) = maps.pod(&destination) else {
        return Decision::of(Verdict::Stack);
    };
    let verdict = Verdict::Pod { ifindex: pod.ifindex, mac: pod.mac };
    Decision { verdict, rewrite: answer_for(maps, ip, transport, &pod) }
}

/// A packet that the node's stack hands to a pod: only answers may need their name back.
#[inline(always)]
pub fn to_pod<M: PacketMaps, T: Transport>(maps: &M, ip: &Ipv4Header, transport: &T) -> Decision {
    let rewrite = match maps.pod(&ip.destination()) {
        Some(pod) => answer_for(maps, ip, transport, &pod),
        None => None,
    };
    Decision { verdict: Verdict::Stack, rewrite }
}

/// The way to a backend, the node's stack being the default.
#[inline(always)]
fn towards<M: PacketMaps>(maps: &M, destination: &Address) -> Verdict {
    if let Some(pod) = maps.pod(destination) {
        return Verdict::Pod { ifindex: pod.ifindex, mac: pod.mac };
    }
    match maps.route(destination) {
        Some(route) => Verdict::Node { ifindex: route.ifindex, node: route.node },
        None => Verdict::Stack,
    }
}

/// The fallback balancer: a packet whose destination is neither a pod nor a pod range.
#[inline(always)]
fn to_service<M: PacketMaps, T: Transport>(maps: &M, ip: &Ipv4Header, transport: &T) -> Decision {
    if !ip.has_ports() || ip.is_fragment() {
        return Decision::of(Verdict::Stack);
    }
    let Some(ports) = transport.ports() else {
        return Decision::drop(Reason::Malformed);
    };
    let flow_key = flow_key(ip, &ports);
    let flow = match remembered(maps, ip, transport, &flow_key) {
        Some(flow) => flow,
        None => match remember(maps, &flow_key) {
            Ok(Some(flow)) => flow,
            Ok(None) => return Decision::of(Verdict::Stack),
            Err(reason) => return Decision::drop(reason),
        },
    };
    let rewrite = Some(Rewrite {
        side: Side::Destination,
        address: flow.address,
        port: flow.port,
        old_address: flow_key.destination,
        old_port: flow_key.destination_port,
        service: flow.service,
    });
    Decision { verdict: towards(maps, &flow.address), rewrite }
}

/// The flow's backend, if it has one that may still be used.
#[inline(always)]
fn remembered<M: PacketMaps, T: Transport>(
    maps: &M,
    ip: &Ipv4Header,
    transport: &T,
    key: &FlowKey,
) -> Option<Flow> {
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
    let (id, number, backend) = match choose(maps, &service, maps.random()) {
        Choice::NotAService => return Ok(None),
        Choice::NoBackend { .. } => return Err(Reason::NoBackend),
        Choice::Backend { service, id, backend } => (service, id, backend),
    };
    let back_key = FlowKey {
        source: backend.address,
        destination: key.source,
        source_port: backend.port,
        destination_port: key.source_port,
        protocol: key.protocol,
        pad: [0; 3],
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
fn answer_for<M: PacketMaps, T: Transport>(
    maps: &M,
    ip: &Ipv4Header,
    transport: &T,
    pod: &Pod,
) -> Option<Rewrite> {
    if pod.flags & pod_flags::HAS_FLOWS == 0 || !ip.has_ports() || ip.is_fragment() {
        return None;
    }
    let key = flow_key(ip, &transport.ports()?);
    let flow = maps.flow(&key)?;
    if flow.kind != flow_kind::TO_CLIENT {
        return None;
    }
    Some(Rewrite {
        side: Side::Source,
        address: flow.address,
        port: flow.port,
        old_address: key.source,
        old_port: key.source_port,
        service: flow.service,
    })
}

#[inline(always)]
fn flow_key(ip: &Ipv4Header, ports: &Ports) -> FlowKey {
    FlowKey {
        source: ip.source(),
        destination: ip.destination(),
        source_port: ports.source,
        destination_port: ports.destination,
        protocol: ip.protocol,
        pad: [0; 3],
    }
}

#[cfg(test)]
mod tests;
