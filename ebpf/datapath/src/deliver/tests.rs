//! Where packets go and what they become, on a node with pods `.5` (veth 5) and `.6` (veth 6), a
//! route to another node, one through a tunnel, and some services; in both families. The kernel's
//! own tables (`agent/tests/datapath/packets`) say more of each packet; here are the properties.

extern crate std;

use super::*;
use crate::abi::{flow_idle, flow_kind};
use crate::fake::{FakeMaps, address, frame, ip_frame, key};
use crate::packet::{Bytes, ETHERNET, Extent, Family, parse};
use proptest::prelude::*;
use std::net::IpAddr;
use std::string::{String, ToString};
use std::vec::Vec;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const VETH: u32 = 5;

/// The pods' range in this family.
fn pod(v6: bool, range: u8, number: u8) -> String {
    if v6 {
        std::format!("fd00:10:240:{range}::{number}")
    } else {
        std::format!("10.240.{range}.{number}")
    }
}

fn vip(v6: bool, number: u8) -> String {
    if v6 { std::format!("fd00:10:9::{number}") } else { std::format!("10.9.0.{number}") }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node() -> FakeMaps {
    let mut maps = FakeMaps::default();
    for v6 in [false, true] {
        maps.add_pod(&pod(v6, 0, 5), VETH);
        maps.add_pod(&pod(v6, 0, 6), 6);
        let route = Route { node: address("172.30.0.12"), ifindex: 2, flags: 0 };
        maps.routes.insert(address(&pod(v6, 1, 0)), route);
        let tunnel = Route { ifindex: 3, flags: route_flags::TUNNEL, ..route };
        maps.routes.insert(address(&pod(v6, 2, 0)), tunnel);
        maps.program(key(&vip(v6, 1), 80), &[&pod(v6, 0, 6)]);
        maps.program(key(&vip(v6, 2), 80), &[&pod(v6, 1, 9)]);
        maps.program(key(&vip(v6, 3), 80), &[&pod(v6, 2, 9)]);
        maps.program(key(&vip(v6, 4), 80), &[]);
        maps.program(key(&vip(v6, 5), 80), &[&pod(v6, 0, 5)]);
    }
    maps
}

/// What the program does that the function is for.
fn seen(bytes: &[u8], decide: impl FnOnce(&Bytes<'_>, &mut Work) -> Verdict) -> (Verdict, Work) {
    let family = if bytes[14] >> 4 == 4 { Family::V4 } else { Family::V6 };
    let mut work = Work::default();
    let bytes = Bytes(bytes);
    parse(&bytes, ETHERNET, family, Extent::Whole, &mut work.packet).unwrap();
    let verdict = decide(&bytes, &mut work);
    (verdict, work)
}

fn sent(maps: &FakeMaps, bytes: &[u8]) -> (Verdict, Work) {
    seen(bytes, |bytes, work| from_pod(maps, bytes, work, VETH))
}

fn tcp(from: (&str, u16), to: (&str, u16), flags: u8) -> Vec<u8> {
    frame(protocol::TCP, (ip(from.0), from.1), (ip(to.0), to.1), flags)
}

fn refused(work: &Work) -> String {
    let same = |reason: &Reason| work.reason == ReasonCode(*reason as u32);
    Reason::ALL.into_iter().find(same).unwrap().name().to_string()
}

#[test]
fn packets_from_pods_go_where_they_should() {
    for v6 in [false, true] {
        let outside = if v6 { "2001:db8::1" } else { "192.0.2.1" };
        let table = [
            ("a pod of this node", pod(v6, 0, 6), Verdict::Pod, 6, None),
            ("a pod of another node", pod(v6, 1, 77), Verdict::Node, 2, None),
            ("a pod behind the tunnel", pod(v6, 2, 77), Verdict::Tunnel, 3, None),
            ("the outside", outside.to_string(), Verdict::Stack, 0, None),
            ("a local backend", vip(v6, 1), Verdict::Pod, 6, Some(pod(v6, 0, 6))),
            ("a remote backend", vip(v6, 2), Verdict::Node, 2, Some(pod(v6, 1, 9))),
            ("a tunnelled backend", vip(v6, 3), Verdict::Tunnel, 3, Some(pod(v6, 2, 9))),
            ("itself", vip(v6, 5), Verdict::Pod, VETH, Some(pod(v6, 0, 5))),
            ("nobody", vip(v6, 4), Verdict::Drop, 0, None),
        ];
        for (what, to, verdict, ifindex, becomes) in table {
            let bytes = tcp((&pod(v6, 0, 5), 40_000), (&to, 80), SYN);
            let (found, work) = sent(&node(), &bytes);
            assert_eq!((found, work.way.ifindex), (verdict, ifindex), "{what}");
            let changed = work.rewrite.change == Change::Ends;
            let destination = work.rewrite.ends.destination.address;
            let destination = changed.then(|| IpAddr::from(destination));
            assert_eq!(destination, becomes.map(|text| ip(&text)), "{what}");
        }
    }
}

#[test]
fn a_flow_that_cannot_be_remembered_is_refused() {
    let mut maps = node();
    maps.flows_full = true;
    let bytes = tcp(("10.240.0.5", 40_000), ("10.9.0.1", 80), SYN);
    let (verdict, work) = sent(&maps, &bytes);
    assert_eq!((verdict, refused(&work)), (Verdict::Drop, "flow-not-stored".to_string()));
}

#[test]
fn a_flow_is_used_as_long_as_its_packets_come() {
    let maps = node();
    let bytes = |flags| tcp(("10.240.0.5", 40_000), ("10.9.0.2", 80), flags);
    let second = 1_000_000_000;
    sent(&maps, &bytes(SYN));
    let used = |maps: &FakeMaps| {
        let flows = maps.flows.borrow();
        flows.values().map(|flow| flow.last_used).collect::<Vec<u32>>()
    };
    maps.now_ns.set(4 * second);
    sent(&maps, &bytes(ACK));
    assert_eq!(used(&maps), [0, 0], "written no more often than needed");
    maps.now_ns.set(90_000 * second);
    let (_, work) = sent(&maps, &bytes(ACK));
    assert_eq!(work.rewrite.change, Change::Ends, "balanced anew after a day");
    assert_eq!(used(&maps), [90_000, 90_000]);
    maps.now_ns.set(90_060 * second);
    sent(&maps, &bytes(ACK));
    assert_eq!(used(&maps), [90_060, 90_060], "in both directions");
    assert_eq!(maps.connections.get(), 2);
}

#[test]
fn a_way_back_that_a_full_map_let_go_of_is_there_again() {
    for (v6, service) in [(false, 2), (true, 2), (false, 5), (true, 5)] {
        let to = vip(v6, service);
        let bytes = |flags| tcp((&pod(v6, 0, 5), 40_000), (&to, 80), flags);
        let opened = || {
            let maps = node();
            sent(&maps, &bytes(SYN));
            maps.now_ns.set(u64::from(flow_idle::GRAIN) * 1_000_000_000);
            maps
        };
        for flags in [ACK, FIN, RST] {
            let (maps, whole) = (opened(), opened());
            maps.flows.borrow_mut().retain(|_, flow| flow.kind == flow_kind::TO_BACKEND);
            sent(&maps, &bytes(flags));
            sent(&whole, &bytes(flags));
            assert_eq!(whole.flows.borrow().len(), 2);
            assert_eq!(maps.flows, whole.flows, "{to} {flags}");
        }
    }
}

#[test]
fn neighbour_discovery_is_no_way_past_the_source_check() {
    let maps = node();
    let own = pod(true, 0, 5);
    for kind in [133, 135, 136] {
        let sent = |from: &str, to: &str| {
            let segment = [kind, 0, 0, 0, 0, 0, 0, 0];
            let mut bytes = ip_frame(protocol::ICMPV6, ip(from), ip(to), &segment);
            bytes[21] = 255;
            let (verdict, work) = sent(&maps, &bytes);
            if verdict == Verdict::Drop { refused(&work) } else { std::format!("{verdict:?}") }
        };
        for from in [own.as_str(), "fe80::5", "::"] {
            assert_eq!(sent(from, "fe80::1"), "Stack");
            assert_eq!(sent(from, "ff02::1:ff00:1"), "Stack");
        }
        for to in [pod(true, 0, 6), pod(true, 1, 9), pod(true, 2, 9), "2001:db8::1".to_string()] {
            assert_eq!(sent("2001:db8::bad", &to), "spoofed-source");
            assert_eq!(sent(&pod(true, 0, 6), &to), "spoofed-source");
            assert_eq!(sent("fe80::5", &to), "link-local");
            assert_eq!(sent("::", &to), "link-local");
        }
        assert_eq!(sent("2001:db8::bad", "fe80::1"), "spoofed-source");
        assert_eq!(sent("2001:db8::bad", "ff02::1"), "multicast");
        assert_eq!(sent(&own, "ff05::2"), "multicast");
        assert_eq!(sent(&own, &pod(true, 1, 9)), "Node");
    }
}

#[test]
fn open_connections_that_are_unknown_are_left_to_programs_that_follow() {
    for v6 in [false, true] {
        let (client, name, backend) = (pod(v6, 0, 5), vip(v6, 2), pod(v6, 1, 9));
        let out = |port, flags| tcp((&client, port), (&name, 80), flags);
        let back = |port, flags| tcp((&backend, 8080), (&client, port), flags);
        let arrives = |maps: &FakeMaps, bytes: &[u8]| {
            let (verdict, work) = seen(bytes, |bytes, work| from_uplink(maps, bytes, work));
            (verdict, work.rewrite.change)
        };
        let mut maps = node();
        // One is known.
        sent(&maps, &out(1, SYN));
        for (follow, unknown_out, unknown_back) in
            [(false, Verdict::Node, Verdict::Pod), (true, Verdict::Stack, Verdict::Stack)]
        {
            maps.others_follow = follow;
            assert_eq!(sent(&maps, &out(1, ACK)).0, Verdict::Node);
            assert_eq!(arrives(&maps, &back(1, ACK)), (Verdict::Pod, Change::Ends));
            assert_eq!(sent(&maps, &out(2, SYN)).0, Verdict::Node);
            assert_eq!(arrives(&maps, &back(3, ACK)), (unknown_back, Change::Nothing));
            assert_eq!(sent(&maps, &out(4 + u16::from(follow), ACK)).0, unknown_out);
        }
        // What is over here may have a successor there.
        maps.others_follow = false;
        sent(&maps, &out(1, RST));
        for (follow, verdict) in [(false, Verdict::Pod), (true, Verdict::Stack)] {
            maps.others_follow = follow;
            assert_eq!(arrives(&maps, &back(1, ACK)).0, verdict);
        }
    }
}

proptest! {
    /// No packet changes that is not for a service, whatever else it is; what is for a service's
    /// address goes nowhere else.
    #[test]
    fn only_services_are_translated(
        v6 in any::<bool>(),
        to in 0..5u8,
        number in any::<u8>(),
        port in any::<u16>(),
        flags in any::<u8>(),
        tcp in any::<bool>(),
    ) {
        let maps = node();
        let outside = if v6 { "2001:db8::1" } else { "192.0.2.1" };
        let destination = match to {
            0..3 => pod(v6, to, number),
            3 => vip(v6, number),
            _ => outside.to_string(),
        };
        let address = to == 3 && (1..=5).contains(&number);
        let service = address && port == 80 && tcp;
        let protocol = if tcp { protocol::TCP } else { protocol::UDP };
        let from = (ip(&pod(v6, 0, 5)), 40_000);
        let (verdict, work) = sent(&maps, &frame(protocol, from, (ip(&destination), port), flags));
        if !service {
            prop_assert_eq!(work.rewrite.change, Change::Nothing);
            prop_assert_eq!(verdict == Verdict::Drop, address);
            prop_assert!(!address || refused(&work) == "unknown-port");
            prop_assert!(maps.flows.borrow().is_empty());
        }
    }

    /// The answer to a translated packet has the ends that the client used, turned round.
    #[test]
    fn there_and_back_is_the_identity(
        v6 in any::<bool>(),
        service in 1..=5u8,
        port in 1..=u16::MAX,
    ) {
        prop_assume!(service != 4);
        let maps = node();
        let (client, name) = (pod(v6, 0, 5), vip(v6, service));
        let (_, there) = sent(&maps, &tcp((&client, port), (&name, 80), SYN));
        prop_assert_eq!(there.rewrite.change, Change::Ends);
        let Ends { source, destination } = there.rewrite.ends;
        let end = |end: crate::flows::Endpoint| (IpAddr::from(end.address), end.port.get());
        let answer = frame(protocol::TCP, end(destination), end(source), SYN | ACK);
        let (_, back) = match service {
            // From the other pod of this node, from the uplink, or from the client itself.
            1 => seen(&answer, |bytes, work| from_pod(&maps, bytes, work, 6)),
            5 => sent(&maps, &answer),
            _ => seen(&answer, |bytes, work| from_uplink(&maps, bytes, work)),
        };
        prop_assert_eq!(back.rewrite.change, Change::Ends);
        prop_assert_eq!(end(back.rewrite.ends.source), (ip(&name), 80));
        prop_assert_eq!(end(back.rewrite.ends.destination), (ip(&client), port));
    }

    /// Connections of one pod to one backend, through two services: while one is open, its answers
    /// have its service's name, and nobody else gets its port.
    #[test]
    fn an_open_connection_keeps_its_answers(
        v6 in any::<bool>(),
        steps in proptest::collection::vec((0..3u8, 0..2u16, any::<bool>()), 1..40),
    ) {
        let mut maps = node();
        let (client, backend) = (pod(v6, 0, 5), pod(v6, 1, 9));
        maps.program(key(&vip(v6, 6), 80), &[&backend]);
        let names = [(vip(v6, 2), 80), (vip(v6, 6), 80), (backend.clone(), 8080)];
        // By port, who is open.
        let mut open = [None::<u8>; 2];
        for (to, port, ends) in steps {
            let holder = &mut open[usize::from(port)];
            let (name, target) = &names[usize::from(to)];
            let flags = if ends { RST } else { SYN };
            if ends && *holder != Some(to) {
                continue;
            }
            let (verdict, work) = sent(&maps, &tcp((&client, port), (name, *target), flags));
            let taken = holder.is_some_and(|open| open != to);
            prop_assert_eq!(verdict == Verdict::Drop, taken);
            if taken {
                prop_assert_eq!(refused(&work), "port-taken");
                continue;
            }
            // Packets to the backend itself belong to no flow that is known here.
            *holder = (!ends && to < 2).then_some(to);
            for (port, to) in (0u16..).zip(open) {
                let Some(to) = to else { continue };
                let answer = tcp((&backend, 8080), (&client, port), ACK);
                let (_, work) = seen(&answer, |bytes, work| from_uplink(&maps, bytes, work));
                let source = work.rewrite.ends.source;
                prop_assert_eq!(work.rewrite.change, Change::Ends);
                let name = ip(&names[usize::from(to)].0);
                prop_assert_eq!((IpAddr::from(source.address), source.port.get()), (name, 80));
            }
        }
    }

    /// A pod has one address a family: nothing else leaves it.
    #[test]
    fn no_other_source_leaves_a_pod(octets in any::<[u8; 4]>(), to in 0..4u8) {
        let maps = node();
        let source = IpAddr::from(octets);
        prop_assume!(source != ip("10.240.0.5"));
        let destination = ip(&pod(false, to, 9));
        let bytes = frame(protocol::UDP, (source, 1), (destination, 80), 0);
        let (verdict, work) = sent(&maps, &bytes);
        prop_assert_eq!((verdict, refused(&work)), (Verdict::Drop, "spoofed-source".to_string()));
    }
}
