//! Flows that were balanced packet by packet: what their packets become, and how long they last.
//!
//! A flow has two entries in FLOWS, one a direction, each under the packet as it comes in; either
//! leads to the other ([`other_way`]).
//!
//! # A pod that is its own backend
//! Its packet would come back with its own source address, which every stack refuses. So the
//! client is named by the service's address, with the client's port: the pod sees a connection
//! from the service, and its answers come this way.
//! # The end of a flow
//! An entry is as good as gone when it was not used for the time that [`flow_idle`] names, when it
//! is another pod's ([`Flow::owner`]), and when the client speaks to the backend directly with the
//! same ports: from then on answers are to that.
//! # Two flows whose answers look alike
//! A client's stack gives the same port to connections that go elsewhere: to two services, or to a
//! service and to a pod. Where both end at one backend, that cannot tell them apart. A TCP
//! connection that is open keeps the answers, and the later one is refused
//! ([`PortTaken`](crate::abi::Reason::PortTaken)): its client asks again, and another backend may
//! be chosen. With UDP the later one has them.

use crate::abi::{Address, Flow, FlowKey, U16Be, flow_ended, flow_idle, flow_kind, protocol};
use crate::deliver::{PacketMaps, Work};
use crate::packet::{Frame, Packet, Ports};

/// One end of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Address,
    pub port: U16Be,
}

/// Both ends of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub source: Endpoint,
    pub destination: Endpoint,
}

/// The part of the transport header that decides over flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) ports: Ports,
    /// Of TCP; zero otherwise.
    pub(crate) flags: u8,
}

mod tcp {
    pub(super) const FIN: u8 = 0x01;
    pub(super) const SYN: u8 = 0x02;
    pub(super) const RST: u8 = 0x04;
    pub(super) const ACK: u8 = 0x10;
    pub(super) const FLAGS_OFFSET: u32 = 13;
    pub(super) const HEADER: u32 = 20;
}

impl Segment {
    /// Of a packet that has ports and is no later fragment; absent when it is too short.
    #[inline(always)]
    pub(crate) fn of<F: Frame>(frame: &F, packet: &Packet) -> Option<Self> {
        let ports = packet.ports(frame)?;
        if packet.protocol != protocol::TCP {
            return Some(Self { ports, flags: 0 });
        }
        if packet.transport + tcp::HEADER > packet.end {
            return None;
        }
        let flags = frame.load(packet.transport + tcp::FLAGS_OFFSET)?;
        Some(Self { ports, flags })
    }

    /// Whether a connection begins here: a TCP packet with SYN and without ACK.
    #[inline(always)]
    pub(crate) const fn opens(&self) -> bool {
        self.flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }
}

/// The key of this packet.
#[inline(always)]
pub(crate) fn flow_key(packet: &Packet, ports: &Ports, key: &mut FlowKey) {
    key.source = packet.source;
    key.destination = packet.destination;
    key.source_port = ports.source;
    key.destination_port = ports.destination;
    set_protocol(key, packet.protocol);
}

/// The key of an answer to this packet.
#[inline(always)]
pub(crate) fn answer_key(packet: &Packet, ports: &Ports, key: &mut FlowKey) {
    key.source = packet.destination;
    key.destination = packet.source;
    key.source_port = ports.destination;
    key.destination_port = ports.source;
    set_protocol(key, packet.protocol);
}

#[inline(always)]
fn set_protocol(key: &mut FlowKey, protocol: u8) {
    key.protocol = protocol;
    key.pad = 0;
    key.pad_half = 0;
}

/// The ends that a packet with this key gets.
#[inline(always)]
pub(crate) fn translated(key: &FlowKey, flow: &Flow, ends: &mut Ends) {
    ends.source = Endpoint { address: key.source, port: key.source_port };
    ends.destination = Endpoint { address: key.destination, port: key.destination_port };
    if flow.kind == flow_kind::TO_BACKEND {
        if flow.address.same(&key.source) {
            ends.source.address = key.destination;
        }
        ends.destination = Endpoint { address: flow.address, port: flow.port };
        return;
    }
    if flow.kind == flow_kind::TO_SELF {
        ends.destination.address = key.source;
    }
    ends.source = Endpoint { address: flow.address, port: flow.port };
}

/// The key of the flow's packets in the other direction, from the ends that it gives in this one.
#[inline(always)]
pub(crate) fn other_way(ends: &Ends, protocol: u8, other: &mut FlowKey) {
    other.source = ends.destination.address;
    other.destination = ends.source.address;
    other.source_port = ends.destination.port;
    other.destination_port = ends.source.port;
    set_protocol(other, protocol);
}

/// What becomes of packets in the other direction.
#[inline(always)]
pub(crate) fn way_back(key: &FlowKey, flow: &Flow, back: &mut Flow) {
    let to_self = flow.address.same(&key.source);
    back.address = key.destination;
    back.port = key.destination_port;
    back.kind = if to_self { flow_kind::TO_SELF } else { flow_kind::TO_CLIENT };
    back.ended = flow.ended;
    back.backend = flow.backend;
    back.service = flow.service;
    back.owner = flow.owner;
    back.last_used = flow.last_used;
}

/// Whether TCP said that this flow is over.
#[inline(always)]
pub(crate) const fn is_closed(flow: &Flow) -> bool {
    let both = flow_ended::BY_CLIENT | flow_ended::BY_BACKEND;
    flow.ended & flow_ended::RESET != 0 || flow.ended & both == both
}

/// How long the flow may be idle, in seconds.
#[inline(always)]
pub(crate) const fn patience(protocol: u8, flow: &Flow) -> u32 {
    if protocol != protocol::TCP {
        flow_idle::UDP
    } else if is_closed(flow) {
        flow_idle::TCP_CLOSED
    } else if flow.ended & (flow_ended::BY_CLIENT | flow_ended::BY_BACKEND) != 0 {
        flow_idle::TCP_CLOSING
    } else if flow.ended & flow_ended::OPENING != 0 {
        flow_idle::TCP_OPENING
    } else {
        flow_idle::TCP
    }
}

/// The time as entries hold it.
#[inline(always)]
pub(crate) fn seconds<M: PacketMaps>(maps: &M) -> u32 {
    (maps.now_ns() / 1_000_000_000) as u32
}

/// Reads the entry of the work's key, and what it makes of a packet; false if there is none, if it
/// is not this pod's or was not used for too long.
#[inline(always)]
pub(crate) fn live<M: PacketMaps>(maps: &M, work: &mut Work, owner: u32) -> bool {
    if !maps.flow(&work.key, &mut work.flow) {
        return false;
    }
    if !is_kept(maps, &work.flow, work.key.protocol, owner) {
        return false;
    }
    translated(&work.key, &work.flow, &mut work.rewrite.ends);
    work.rewrite.service = work.flow.service;
    true
}

/// Notes that the work's flow was used, and what TCP says of its beginning and end.
#[inline(always)]
pub(crate) fn note<M: PacketMaps>(maps: &M, work: &mut Work, segment: &Segment) {
    let by_backend = work.flow.kind != flow_kind::TO_BACKEND;
    let mut ended = 0;
    if segment.flags & tcp::FIN != 0 {
        ended |= if by_backend { flow_ended::BY_BACKEND } else { flow_ended::BY_CLIENT };
    }
    if segment.flags & tcp::RST != 0 {
        ended |= flow_ended::RESET;
    }
    let answered = if by_backend { work.flow.ended & flow_ended::OPENING } else { 0 };
    let now = seconds(maps);
    let idle = now.wrapping_sub(work.flow.last_used);
    if ended & !work.flow.ended != 0 || answered != 0 || idle >= flow_idle::GRAIN {
        maps.use_flow(&work.key, now, ended, answered);
        other_way(&work.rewrite.ends, work.key.protocol, &mut work.other);
        // A full map lets go of entries one by one. Without the way back the client would never
        // hear that the backend has given up.
        if !maps.use_flow(&work.other, now, ended, answered) && !by_backend {
            way_back(&work.key, &work.flow, &mut work.back);
            work.back.last_used = now;
            work.back.ended |= ended;
            maps.store_flow(&work.other, &work.back);
        }
    }
}

/// Whether an entry is this pod's and was used lately enough.
#[inline(always)]
fn is_kept<M: PacketMaps>(maps: &M, flow: &Flow, protocol: u8, owner: u32) -> bool {
    let idle = seconds(maps).wrapping_sub(flow.last_used);
    flow.owner == owner && idle <= patience(protocol, flow)
}

/// The client opens a flow to the backend itself: its old flow through a service must not name the
/// answers any more. False if that is a TCP connection that is open.
#[inline(always)]
pub(crate) fn forget_answers<M: PacketMaps>(
    maps: &M,
    work: &mut Work,
    ports: &Ports,
    owner: u32,
) -> bool {
    answer_key(&work.packet, ports, &mut work.key);
    if maps.flow(&work.key, &mut work.flow) && work.flow.kind == flow_kind::TO_CLIENT {
        if work.key.protocol == protocol::TCP
            && !is_closed(&work.flow)
            && is_kept(maps, &work.flow, protocol::TCP, owner)
        {
            return false;
        }
        translated(&work.key, &work.flow, &mut work.rewrite.ends);
        other_way(&work.rewrite.ends, work.key.protocol, &mut work.other);
        maps.delete_flow(&work.other);
        maps.delete_flow(&work.key);
    }
    true
}

/// Whose the answers to the work's flow are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Own,
    Nobodys,
    /// Those of another connection, which is open.
    Taken,
}

/// Asks for the entry of the work's other key.
#[inline(always)]
pub(crate) fn answers<M: PacketMaps>(maps: &M, work: &mut Work, owner: u32) -> Answers {
    let (key, back) = (&work.key, &mut work.back);
    if !maps.flow(&work.other, back) || !is_kept(maps, back, key.protocol, owner) {
        return Answers::Nobodys;
    }
    if back.port.bits() == key.destination_port.bits() && back.address.same(&key.destination) {
        return Answers::Own;
    }
    if key.protocol != protocol::TCP || is_closed(back) { Answers::Nobodys } else { Answers::Taken }
}
