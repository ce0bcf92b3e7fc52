//! Where packets go, as a table of situations on a node with pods `.5` (veth 5) and `.6` (veth 6),
//! a route to another node and one service.

extern crate std;

use super::*;
use crate::fake::{FakeMaps, address, key};
use std::net::Ipv4Addr;

/// The pod behind this veth.
fn pod(ifindex: u32) -> Decision {
    let mac = Mac::new([2, 0, 0, 0, 0, ifindex as u8]);
    Decision::pod(&Pod { ifindex, mac, flags: 0 })
}

/// The decision without its rewrite, and what the packet's changed end becomes.
fn parts(found: Decision) -> (Decision, Option<Address>) {
    let rewrite = found.rewrite;
    let changed = (rewrite.side != Side::Neither).then_some(rewrite.address);
    (found.rewriting(Rewrite::NONE), changed)
}

struct Segment {
    source: u16,
    destination: u16,
    opens: bool,
}

impl Transport for Segment {
    fn ports(&self) -> Option<Ports> {
        let (source, destination) = (U16Be::new(self.source), U16Be::new(self.destination));
        Some(Ports { source, destination })
    }
    fn opens_connection(&self) -> bool {
        self.opens
    }
}

const SYN: Segment = Segment { source: 40_000, destination: 80, opens: true };
const DATA: Segment = Segment { source: 40_000, destination: 80, opens: false };
const ANSWER: Segment = Segment { source: 8080, destination: 40_000, opens: false };

fn header(source: &str, destination: &str) -> Ipv4Header {
    let word = |text: &str| U32Be::new(u32::from(text.parse::<Ipv4Addr>().unwrap()));
    Ipv4Header {
        version_and_length: 0x45,
        time_to_live: 64,
        protocol: protocol::TCP,
        source: word(source),
        destination: word(destination),
        ..Ipv4Header::default()
    }
}

fn node() -> FakeMaps {
    let mut maps = FakeMaps::default();
    maps.add_pod("10.240.0.5", 5);
    maps.add_pod("10.240.0.6", 6);
    let route = Route { node: address("172.30.0.12"), ifindex: 2, flags: 0 };
    maps.routes.insert(address("10.240.1.0"), route);
    maps.program(key("10.9.0.7", 80), &["10.240.0.6"]);
    maps.program(key("10.9.0.8", 80), &["10.240.1.9"]);
    maps.program(key("10.9.0.9", 80), &[]);
    maps.program(key("10.9.0.1", 80), &["172.30.0.1"]);
    maps
}

fn node_two() -> Decision {
    Decision::node(&Route { node: address("172.30.0.12"), ifindex: 2, flags: 0 })
}

#[test]
fn packets_from_pods_go_where_they_should() {
    let (drop, stack) = (Decision::drop, Decision::stack());
    let table = [
        ("a pod of this node", "10.240.0.6", pod(6), None),
        ("a pod of another node", "10.240.1.77", node_two(), None),
        ("the node itself", "172.30.0.11", stack, None),
        ("the outside", "192.0.2.1", stack, None),
        ("a service with a local backend", "10.9.0.7", pod(6), Some("10.240.0.6")),
        ("a service with a remote backend", "10.9.0.8", node_two(), Some("10.240.1.9")),
        ("a service that is no pod", "10.9.0.1", stack, Some("172.30.0.1")),
        ("a service without backends", "10.9.0.9", drop(Reason::NoBackend), None),
    ];
    for (what, destination, verdict, rewritten) in table {
        let found = from_pod(&node(), &header("10.240.0.5", destination), &SYN, 5);
        assert_eq!(parts(found), (verdict, rewritten.map(address)), "{what}");
    }
}

#[test]
fn a_pod_sends_only_from_its_own_address() {
    for source in ["10.240.0.6", "10.240.1.5", "172.30.0.11", "0.0.0.0"] {
        let found = from_pod(&node(), &header(source, "10.240.0.6"), &SYN, 5);
        assert_eq!(found, Decision::drop(Reason::SpoofedSource), "{source}");
    }
}

#[test]
fn what_is_not_ipv4_is_refused() {
    for (what, first) in [("version 6", 0x65), ("a header of 16 bytes", 0x44)] {
        let ip = Ipv4Header { version_and_length: first, ..header("10.240.0.5", "10.240.0.6") };
        assert_eq!(from_pod(&node(), &ip, &SYN, 5), Decision::drop(Reason::Malformed), "{what}");
    }
}

#[test]
fn expired_packets_are_left_to_the_stack() {
    for destination in ["10.240.0.6", "10.240.1.9", "10.9.0.7"] {
        let ip = Ipv4Header { time_to_live: 1, ..header("10.240.0.5", destination) };
        assert_eq!(from_pod(&node(), &ip, &SYN, 5), Decision::stack());
        assert_eq!(from_uplink(&node(), &ip, &SYN), Decision::stack());
    }
}

#[test]
fn fragments_and_other_protocols_are_never_translated() {
    let to_service = header("10.240.0.5", "10.9.0.7");
    let fragment = Ipv4Header { fragment: U16Be::new(0x2000), ..to_service };
    let icmp = Ipv4Header { protocol: 1, ..to_service };
    for ip in [fragment, icmp] {
        assert_eq!(from_pod(&node(), &ip, &SYN, 5), Decision::stack());
    }
}

#[test]
fn an_answer_gets_the_service_s_name_back_on_every_way_home() {
    let maps = node();
    from_pod(&maps, &header("10.240.0.5", "10.9.0.7"), &SYN, 5);
    from_pod(&maps, &header("10.240.0.5", "10.9.0.8"), &SYN, 5);
    assert_eq!(maps.connections.get(), 2);

    let name = |found: Decision| {
        let Rewrite { side, address, port, .. } = found.rewrite;
        (side, address, port.get())
    };
    let local = from_pod(&maps, &header("10.240.0.6", "10.240.0.5"), &ANSWER, 6);
    assert_eq!(parts(local).0, pod(5));
    assert_eq!(name(local), (Side::Source, address("10.9.0.7"), 80));
    let remote = from_uplink(&maps, &header("10.240.1.9", "10.240.0.5"), &ANSWER);
    assert_eq!(parts(remote).0, pod(5));
    assert_eq!(name(remote), (Side::Source, address("10.9.0.8"), 80));
    let stack = to_pod(&maps, &header("10.240.1.9", "10.240.0.5"), &ANSWER);
    assert_eq!(name(stack), (Side::Source, address("10.9.0.8"), 80));
    // The same backend's other traffic keeps its own name.
    let other = Segment { source: 8080, destination: 41_000, opens: false };
    let plain = from_pod(&maps, &header("10.240.0.6", "10.240.0.5"), &other, 6);
    assert_eq!(plain, pod(5));
}

#[test]
fn an_open_connection_stays_and_a_new_one_moves_when_the_backend_goes() {
    let mut maps = node();
    maps.program(key("10.9.0.10", 80), &["10.240.1.1", "10.240.1.2"]);
    let ip = header("10.240.0.5", "10.9.0.10");
    let first = from_pod(&maps, &ip, &SYN, 5).rewrite.address;
    assert_eq!(first, address("10.240.1.1"));
    maps.random.set(u32::MAX);
    let again = from_pod(&maps, &ip, &SYN, 5).rewrite.address;
    assert_eq!(again, first, "a repeated SYN goes to the same backend");

    let gone = *maps.backends.borrow().iter().find(|(_, b)| b.address == first).unwrap().0;
    maps.backends.borrow_mut().get_mut(&gone).unwrap().state = state::FREE;
    let open = from_pod(&maps, &ip, &DATA, 5).rewrite.address;
    assert_eq!(open, first, "an open connection is never moved");
    let fresh = from_pod(&maps, &ip, &SYN, 5).rewrite.address;
    assert_eq!(fresh, address("10.240.1.2"));
}

#[test]
fn a_flow_that_cannot_be_remembered_is_refused() {
    let mut maps = node();
    maps.flows_full = true;
    let found = from_pod(&maps, &header("10.240.0.5", "10.9.0.7"), &SYN, 5);
    assert_eq!(found, Decision::drop(Reason::FlowNotStored));
}

#[test]
fn the_uplink_delivers_to_pods_and_leaves_the_rest() {
    let found = from_uplink(&node(), &header("10.240.1.9", "10.240.0.6"), &SYN);
    assert_eq!(found, pod(6));
    for destination in ["172.30.0.11", "10.240.1.9", "10.9.0.7"] {
        let found = from_uplink(&node(), &header("10.240.1.9", destination), &SYN);
        assert_eq!(found, Decision::stack(), "{destination}");
    }
}
