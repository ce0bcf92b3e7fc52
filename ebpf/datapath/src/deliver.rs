//! Where a packet goes.
//!
//! # Source address
//! A pod sends from its own addresses and from no other. An ICMP error of a pod is about a packet
//! that the pod received: the quoted destination is the error's source and the quoted source its
//! destination. Pods play no routers.
//! # Pods and nodes
//! A pod of this node gets the packet directly; a pod range of another node gets it over the
//! uplink or the tunnel. Neither is translated.
//! # Services
//! Packets that still carry a service's address did not pass a socket hook (raw sockets, packets
//! forwarded by a pod). A backend is chosen once a flow and remembered in FLOWS, in both
//! directions ([`crate::flows`]). A TCP connection that is opened anew, and any UDP packet, moves
//! off a backend that is gone; an established TCP connection never moves. Whatever else is sent to
//! an address that services have is refused: another port, another protocol (an echo request is
//! one), a fragment. No machine has that address, so there is nowhere for it to go. So is a
//! connection whose answers would be taken for those of an open one ([`crate::flows`]).
//! # Answers, and errors about them
//! Packets for a pod that has such flows are looked up in FLOWS and get the service's name back.
//! So does the packet that an ICMP error quotes, in either direction; the error's own source too,
//! where it is the backend's.
//! # Fragments
//! travel as they are between pods. A piece of a packet that would have to be translated is
//! refused, as its other pieces carry no ports to be known by.
//! # Neighbour discovery
//! is the node's own stack's, as far as it stays on the link between pod and node. Whatever else
//! looks like it is a packet as any other.
//! # Taking over from another build
//! For a moment its programs come after these and know flows that these do not know yet. A packet
//! of a connection that is open and unknown is left to them.
//! # Everything else
//! is the stack's, too: node addresses, the outside, expired packets (so that it can send the
//! ICMP error). What this module makes nothing of on the uplink is the stack's to judge.
//!
//! Everything large lives in [`Work`], which a program keeps in a map: the kernel's stack has 512
//! bytes, and what the verifier sees come out of a map it does not tell apart, so that the ways
//! through a program do not multiply.

use crate::abi::{
    Address, Direction, Event, Flow, FlowKey, Mac, NO_SERVICE, Pod, Reason, Route, ServiceKey,
    U32Be, affinity_kind, flow_ended, flow_kind, pod_flags, protocol, route_flags, state,
};
use crate::affinity::Client;
use crate::balance::{Choice, ServiceMaps, choose};
use crate::control::{Control, control, quoted};
use crate::flows::{
    Answers, Ends, Segment, answer_key, answers, flow_key, forget_answers, is_closed, live, note,
    other_way, seconds, translated, way_back,
};
use crate::packet::{Fragment, Frame, Packet, packet_flags};

/// The maps that delivery reads and writes.
pub trait PacketMaps: ServiceMaps {
    fn pod(&self, address: &Address) -> Option<Pod>;
    fn route(&self, address: &Address) -> Option<Route>;
    /// Whether there is an entry, which is copied to `into` then.
    fn flow(&self, key: &FlowKey, into: &mut Flow) -> bool;
    /// Whether the flow could be stored.
    fn store_flow(&self, key: &FlowKey, flow: &Flow) -> bool;
    /// Sets the time of the last use, sets and clears bits of `ended`; false without such a flow.
    fn use_flow(&self, key: &FlowKey, now: u32, set: u8, clear: u8) -> bool;
    fn delete_flow(&self, key: &FlowKey);
    /// Notes at the pod that FLOWS has entries for it.
    fn mark_pod(&self, address: &Address);
    /// A number with evenly spread high bits.
    fn random(&self) -> u32;
    /// Counts a new flow of a service.
    fn count_connection(&self, service: u32);
    fn count_refused(&self, service: u32);
    /// Whether what is left to the stack meets the programs of another build first, which may know
    /// more flows.
    fn others_follow(&self) -> bool;
}

/// What to do with the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// The node's own stack takes it.
    #[default]
    Stack,
    /// To the pod behind the veth [`Way::ifindex`].
    Pod,
    /// Out of the device [`Way::ifindex`], to the neighbour [`Way::node`].
    Node,
    /// Through the tunnel device [`Way::ifindex`], to the node [`Way::node`].
    Tunnel,
    /// Nowhere, because of [`Work::reason`].
    Drop,
}

/// What of the packet changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    #[default]
    Nothing,
    /// Its ends.
    Ends,
    /// It is an ICMP error: the packet that it quotes ([`Work::inner`]), seen as the error's own
    /// direction (the quoted source becomes [`Rewrite::ends`]' destination), and the error's
    /// addresses.
    Quoted,
}

/// A change of addresses and ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub change: Change,
    pub ends: Ends,
    /// Whose translation or refusal this is: index into SERVICE_COUNTERS, or [`NO_SERVICE`].
    pub service: u32,
}

/// The next hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    pub ifindex: u32,
    pub mac: Mac,
    pub node: Address,
}

/// A [`Reason`] that may be left over from another packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReasonCode(u32);

impl ReasonCode {
    #[inline(always)]
    const fn set(&mut self, reason: Reason) {
        self.0 = reason as u32;
    }

    /// The number of the reason.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        self.0 as u16
    }

    /// The index into COUNTERS.
    #[inline(always)]
    pub const fn index(self, direction: Direction) -> u32 {
        Reason::index_of(self.0, direction)
    }
}

/// One packet and all that is found out about it. Only what the verdict and [`Rewrite::change`]
/// call for has a meaning; the rest is left over from the packet before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    pub packet: Packet,
    /// The packet that an ICMP error quotes.
    pub inner: Packet,
    pub way: Way,
    pub rewrite: Rewrite,
    /// Why it is dropped, or under what name its change is counted.
    pub reason: ReasonCode,
    /// Room for what is told of it.
    pub event: Event,
    pub(crate) key: FlowKey,
    pub(crate) other: FlowKey,
    pub(crate) flow: Flow,
    pub(crate) back: Flow,
}

/// A packet that a pod sent through the veth `ifindex`.
#[inline(always)]
pub fn from_pod<M: PacketMaps, F: Frame>(
    maps: &M,
    frame: &F,
    work: &mut Work,
    ifindex: u32,
) -> Verdict {
    begin(work);
    let control = match control(frame, &work.packet) {
        Ok(Control::Neighbor) if stays_on_link(maps, &work.packet, ifindex) => {
            return Verdict::Stack;
        }
        Ok(control) => control,
        Err(reason) => return drop(work, reason),
    };
    let sender = match sender(maps, &work.packet, ifindex) {
        Ok(sender) => sender,
        Err(reason) => return drop(work, reason),
    };
    match control {
        Control::Router => return drop(work, Reason::RouterMessage),
        Control::Error => return error_from_pod(maps, frame, work, &sender),
        _ => {}
    }
    if work.packet.hop_limit <= 1 {
        return Verdict::Stack;
    }
    if let Some(pod) = maps.pod(&work.packet.destination) {
        if !speaks_directly(maps, frame, work, &sender) {
            return drop(work, Reason::PortTaken);
        }
        let verdict = to(work, &pod);
        return answered(maps, frame, work, &pod, verdict);
    }
    if let Some(route) = maps.route(&work.packet.destination) {
        if !speaks_directly(maps, frame, work, &sender) {
            return drop(work, Reason::PortTaken);
        }
        return over(work, &route);
    }
    to_service(maps, frame, work, &sender)
}

/// Whether a message of neighbour discovery is between a pod and its node: to an address that no
/// node forwards, from the pod's own address, one of the link or none (RFC 4861, 4.1 to 4.4).
#[inline(always)]
fn stays_on_link<M: PacketMaps>(maps: &M, packet: &Packet, ifindex: u32) -> bool {
    let (from, to) = (&packet.source, &packet.destination);
    if packet.flags & packet_flags::SOURCE_ROUTE != 0
        || !to.is_link_local_v6() && !to.is_link_group_v6()
    {
        return false;
    }
    from.is_link_local_v6()
        || from.same(&UNSPECIFIED)
        || maps.pod(from).is_some_and(|pod| pod.ifindex == ifindex)
}

/// The pod that may send this packet, or why nobody may.
#[inline(always)]
fn sender<M: PacketMaps>(maps: &M, packet: &Packet, ifindex: u32) -> Result<Pod, Reason> {
    if packet.flags & packet_flags::SOURCE_ROUTE != 0 {
        return Err(Reason::SourceRoute);
    }
    if packet.destination.is_multicast() {
        return Err(Reason::Multicast);
    }
    if packet.destination.is_broadcast() {
        return Err(Reason::Broadcast);
    }
    match maps.pod(&packet.source) {
        Some(sender) if sender.ifindex == ifindex => Ok(sender),
        _ if packet.source.is_link_local_v6() || packet.source.same(&UNSPECIFIED) => {
            Err(Reason::LinkLocal)
        }
        _ => Err(Reason::SpoofedSource),
    }
}

const UNSPECIFIED: Address = Address::from_words([U32Be::new(0); 4]);

/// A packet that arrived on the uplink or out of the tunnel.
#[inline(always)]
pub fn from_uplink<M: PacketMaps, F: Frame>(maps: &M, frame: &F, work: &mut Work) -> Verdict {
    begin(work);
    let packet = &work.packet;
    if packet.hop_limit <= 1 || packet.flags & packet_flags::SOURCE_ROUTE != 0 {
        return Verdict::Stack;
    }
    let Some(pod) = maps.pod(&packet.destination) else {
        return Verdict::Stack;
    };
    let verdict = to(work, &pod);
    arriving(maps, frame, work, &pod, verdict)
}

/// A packet that the node's stack hands to a pod: only answers may need their name back.
#[inline(always)]
pub fn to_pod<M: PacketMaps, F: Frame>(maps: &M, frame: &F, work: &mut Work) -> Verdict {
    begin(work);
    match maps.pod(&work.packet.destination) {
        Some(pod) => arriving(maps, frame, work, &pod, Verdict::Stack),
        None => Verdict::Stack,
    }
}

#[inline(always)]
fn begin(work: &mut Work) {
    work.rewrite.change = Change::Nothing;
    work.rewrite.service = NO_SERVICE;
}

#[inline(always)]
fn drop(work: &mut Work, reason: Reason) -> Verdict {
    work.reason.set(reason);
    Verdict::Drop
}

#[inline(always)]
fn to(work: &mut Work, pod: &Pod) -> Verdict {
    work.way.ifindex = pod.ifindex;
    work.way.mac = pod.mac;
    Verdict::Pod
}

#[inline(always)]
fn over(work: &mut Work, route: &Route) -> Verdict {
    work.way.ifindex = route.ifindex;
    work.way.node = route.node;
    if route.flags & route_flags::TUNNEL != 0 { Verdict::Tunnel } else { Verdict::Node }
}

/// The way to where the packet goes after its change, the node's stack being the default.
#[inline(always)]
fn towards_end<M: PacketMaps>(maps: &M, work: &mut Work) -> Verdict {
    let destination = work.rewrite.ends.destination.address;
    if let Some(pod) = maps.pod(&destination) {
        return to(work, &pod);
    }
    match maps.route(&destination) {
        Some(route) => over(work, &route),
        None => Verdict::Stack,
    }
}

/// A packet for a pod from elsewhere: an answer, an error about one, or neither. The verdict is
/// this one if it may go on.
#[inline(always)]
fn arriving<M: PacketMaps, F: Frame>(
    maps: &M,
    frame: &F,
    work: &mut Work,
    pod: &Pod,
    verdict: Verdict,
) -> Verdict {
    if pod.flags & pod_flags::HAS_FLOWS == 0 {
        return verdict;
    }
    if let Ok(Control::Error) = control(frame, &work.packet) {
        if quoted(frame, &work.packet, &mut work.inner).is_ok() {
            error_about(maps, frame, work, pod.ifindex);
        }
        return verdict;
    }
    answered(maps, frame, work, pod, verdict)
}

/// An ICMP error that a pod sent: about a packet that it received, or nothing.
#[inline(never)]
fn error_from_pod<M: PacketMaps, F: Frame>(
    maps: &M,
    frame: &F,
    work: &mut Work,
    sender: &Pod,
) -> Verdict {
    if let Err(reason) = quoted(frame, &work.packet, &mut work.inner) {
        return drop(work, reason);
    }
    let (outer, inner) = (&work.packet, &work.inner);
    if !inner.destination.same(&outer.source) || !inner.source.same(&outer.destination) {
        return drop(work, Reason::ForgedError);
    }
    if outer.hop_limit <= 1 {
        return Verdict::Stack;
    }
    let owner = maps.pod(&outer.destination).unwrap_or(*sender);
    if owner.flags & pod_flags::HAS_FLOWS != 0 {
        error_about(maps, frame, work, owner.ifindex);
    }
    if work.rewrite.change == Change::Nothing {
        work.rewrite.ends.destination.address = work.packet.destination;
    }
    match towards_end(maps, work) {
        Verdict::Stack if work.rewrite.change == Change::Nothing => {
            unless_service(maps, work, Reason::ServiceProtocol)
        }
        verdict => verdict,
    }
}

/// What becomes of an ICMP error about the quoted packet, whose flow is the pod's behind this veth:
/// the opposite of what became of the packet.
#[inline(always)]
fn error_about<M: PacketMaps, F: Frame>(maps: &M, frame: &F, work: &mut Work, owner: u32) {
    let inner = &work.inner;
    if !inner.has_ports() || inner.fragment == Fragment::Later {
        return;
    }
    let Some(ports) = inner.ports(frame) else {
        return;
    };
    answer_key(inner, &ports, &mut work.key);
    if live(maps, work, owner) {
        work.rewrite.change = Change::Quoted;
        work.reason.set(Reason::ErrorTranslated);
    }
}

/// A pod with flows that opens one to an address itself ends the one it had through a service.
/// False if it cannot, as that is open.
#[inline(always)]
fn speaks_directly<M: PacketMaps, F: Frame>(
    maps: &M,
    frame: &F,
    work: &mut Work,
    sender: &Pod,
) -> bool {
    if sender.flags & pod_flags::HAS_FLOWS == 0
        || !work.packet.has_ports()
        || work.packet.fragment == Fragment::Later
    {
        return true;
    }
    match Segment::of(frame, &work.packet) {
        Some(segment) if work.packet.protocol != protocol::TCP || segment.opens() => {
            forget_answers(maps, work, &segment.ports, sender.ifindex)
        }
        _ => true,
    }
}

/// The fallback balancer: a packet whose destination is neither a pod nor a pod range.
#[inline(never)]
fn to_service<M: PacketMaps, F: Frame>(
    maps: &M,
    frame: &F,
    work: &mut Work,
    sender: &Pod,
) -> Verdict {
    if !work.packet.has_ports() {
        return unless_service(maps, work, Reason::ServiceProtocol);
    }
    if work.packet.fragment == Fragment::Later {
        return unless_service(maps, work, Reason::FragmentedService);
    }
    let Some(segment) = Segment::of(frame, &work.packet) else {
        return drop(work, Reason::Malformed);
    };
    if work.packet.fragment == Fragment::First {
        return unless_service(maps, work, Reason::FragmentedService);
    }
    flow_key(&work.packet, &segment.ports, &mut work.key);
    work.reason.set(Reason::Balanced);
    if remembered(maps, work, &segment, sender) {
        if work.flow.kind != flow_kind::TO_BACKEND {
            work.reason.set(Reason::AnswerTranslated);
        }
    } else if is_others(maps, work, &segment) {
        return Verdict::Stack;
    } else {
        match remember(maps, work, sender.ifindex) {
            Verdict::Pod => {}
            refused => return refused,
        }
    }
    work.rewrite.change = Change::Ends;
    towards_end(maps, work)
}

/// To the stack, or nowhere if the destination is an address that services have.
#[inline(always)]
fn unless_service<M: PacketMaps>(maps: &M, work: &mut Work, reason: Reason) -> Verdict {
    if maps.has_address(&work.packet.destination) { drop(work, reason) } else { Verdict::Stack }
}

#[inline(always)]
fn service_key(key: &FlowKey) -> ServiceKey {
    ServiceKey::new(key.destination, key.destination_port, key.protocol)
}

/// Whether the flow is known and its backend may still be used. A function of its own in the
/// object: what it needs of the stack is free again when [`remember`] needs most.
#[inline(never)]
fn remembered<M: PacketMaps>(maps: &M, work: &mut Work, segment: &Segment, sender: &Pod) -> bool {
    // Most pods never have one: their packets to the outside are spared the look-up.
    if sender.flags & pod_flags::HAS_FLOWS == 0
        || !live(maps, work, sender.ifindex)
        || work.flow.kind == flow_kind::TO_CLIENT
        || is_outdated(maps, work, segment)
    {
        return false;
    }
    let may_move = work.key.protocol != protocol::TCP || segment.opens();
    if work.flow.kind == flow_kind::TO_BACKEND && may_move {
        let flow = &work.flow;
        let Some(backend) = maps.backend(flow.backend) else {
            return false;
        };
        let same = backend.port.bits() == flow.port.bits() && backend.address.same(&flow.address);
        if backend.state != state::ACTIVE || !same || is_closed(flow) {
            return false;
        }
        if segment.opens() {
            other_way(&work.rewrite.ends, protocol::TCP, &mut work.other);
            if answers(maps, work, sender.ifindex) != Answers::Own {
                return false;
            }
        }
    }
    note(maps, work, segment);
    true
}

/// Chooses a backend for a new flow and stores both directions. The verdict is to go on
/// ([`Verdict::Pod`]), to leave the packet alone or to drop it.
#[inline(never)]
fn remember<M: PacketMaps>(maps: &M, work: &mut Work, owner: u32) -> Verdict {
    // Packets to the outside are spared the search.
    if !maps.may_have_address(&work.key.destination) {
        return Verdict::Stack;
    }
    let service = service_key(&work.key);
    let source = work.key.source;
    let client = || Some(Client { kind: affinity_kind::ADDRESS, name: source });
    let (id, number, backend) = match choose(maps, &service, None, || maps.random(), client) {
        Choice::NotAService => return unless_service(maps, work, Reason::UnknownPort),
        Choice::NoBackend { service } => {
            work.rewrite.service = service;
            maps.count_refused(service);
            return drop(work, Reason::NoBackend);
        }
        Choice::Backend { service, id, backend, .. } => (service, id, backend),
    };
    let flow = &mut work.flow;
    flow.address = backend.address;
    flow.port = backend.port;
    flow.kind = flow_kind::TO_BACKEND;
    flow.ended = if work.key.protocol == protocol::TCP { flow_ended::OPENING } else { 0 };
    flow.backend = number;
    flow.service = id;
    flow.owner = owner;
    flow.last_used = seconds(maps);
    translated(&work.key, &work.flow, &mut work.rewrite.ends);
    work.rewrite.service = id;
    other_way(&work.rewrite.ends, work.key.protocol, &mut work.other);
    if answers(maps, work, owner) == Answers::Taken {
        return drop(work, Reason::PortTaken);
    }
    way_back(&work.key, &work.flow, &mut work.back);
    if !maps.store_flow(&work.other, &work.back) {
        return drop(work, Reason::FlowNotStored);
    }
    maps.mark_pod(&work.key.source);
    if !maps.store_flow(&work.key, &work.flow) {
        return drop(work, Reason::FlowNotStored);
    }
    maps.count_connection(id);
    Verdict::Pod
}

/// Gives a packet on its way to this pod the service's name, if it is a backend's answer. The
/// verdict is this one unless it would have to and cannot.
#[inline(never)]
fn answered<M: PacketMaps, F: Frame>(
    maps: &M,
    frame: &F,
    work: &mut Work,
    pod: &Pod,
    verdict: Verdict,
) -> Verdict {
    if pod.flags & pod_flags::HAS_FLOWS == 0
        || !work.packet.has_ports()
        || work.packet.fragment == Fragment::Later
    {
        return verdict;
    }
    let Some(segment) = Segment::of(frame, &work.packet) else {
        return verdict;
    };
    flow_key(&work.packet, &segment.ports, &mut work.key);
    if !live(maps, work, pod.ifindex)
        || work.flow.kind != flow_kind::TO_CLIENT
        || is_outdated(maps, work, &segment)
    {
        return if is_others(maps, work, &segment) { Verdict::Stack } else { verdict };
    }
    if work.packet.fragment == Fragment::First {
        return drop(work, Reason::FragmentedService);
    }
    note(maps, work, &segment);
    work.rewrite.change = Change::Ends;
    work.reason.set(Reason::AnswerTranslated);
    verdict
}

/// Whether a packet without a flow may have one in another build's maps.
#[inline(always)]
fn is_others<M: PacketMaps>(maps: &M, work: &Work, segment: &Segment) -> bool {
    work.packet.protocol == protocol::TCP && !segment.opens() && maps.others_follow()
}

/// Whether the flow is over that a packet would continue, while another build's maps may have one
/// in its place that is open.
#[inline(always)]
fn is_outdated<M: PacketMaps>(maps: &M, work: &Work, segment: &Segment) -> bool {
    is_closed(&work.flow) && is_others(maps, work, segment)
}

#[cfg(test)]
mod tests;
