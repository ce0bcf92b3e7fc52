//! What is refused, outside of the tables: system calls on sockets, and frames that no test-run of
//! the kernel takes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use bowline_ebpf_abi::Reason;
use bowline_lab::frame::{Body, Packet};
use bowline_lab::world::{Namespace, Node, UPLINK, World};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use crate::servers::{BACKEND_PORT, PATIENCE, SERVICE, SERVICE6, services_of};

/// What is counted as refused: packets and bytes by direction and reason.
fn refusals(node: &Node) -> BTreeMap<(&'static str, &'static str), (u64, u64)> {
    let rows = node.snapshot().counters.into_iter().filter(|row| row.dropped);
    rows.map(|row| ((row.direction, row.reason), (row.packets, row.bytes))).collect()
}

/// The ways to ask for a service, each the business of a program of its own.
pub(crate) fn calls(to: SocketAddr) -> [(&'static str, std::io::Result<()>); 3] {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let datagrams = || UdpSocket::bind(any).unwrap();
    [
        ("TCP connect", TcpStream::connect_timeout(&to, PATIENCE).map(drop)),
        ("UDP connect", datagrams().connect(to)),
        ("sendto", datagrams().send_to(b"hello", to).map(drop)),
    ]
}

/// Every reason that a socket program has to refuse a call is seen here, by both families and by
/// IPv4 on a socket of IPv6, or is said to need a fault that cannot be made from outside.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn every_refused_call_is_counted_by_its_reason() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let backends = world.backends();
    let mapped: SocketAddr = "[::ffff:10.9.8.7]:80".parse().unwrap();
    let mut seen = BTreeSet::new();
    for (reason, port, pods) in
        [(Reason::NoBackend, 80, &backends[..0]), (Reason::UnknownPort, 81, &backends[..])]
    {
        here.apply_services(&services_of(pods)).unwrap();
        world.here.cgroup.enter();
        for service in [SERVICE, SERVICE6, mapped] {
            let to = SocketAddr::from((service.ip(), port));
            let before = refusals(&world.here);
            // A pod's unconnected datagram may be an answer; the node's may not.
            let results = world.here.namespace.run(move || calls(to));
            for (call, result) in &results {
                assert!(result.is_err(), "{call} to {to}: {result:?}");
            }
            let mut expected = before;
            let count = expected.entry(("socket", reason.name())).or_default();
            count.0 += results.len() as u64;
            assert_eq!(refusals(&world.here), expected, "to {to}");
        }
        world.here.cgroup.leave();
        seen.insert(reason);
    }
    let unseen: Vec<&str> = Reason::OF_CALLS
        .into_iter()
        .filter(|reason| !seen.contains(reason))
        .map(Reason::name)
        .collect();
    assert_eq!(unseen, NEEDS_A_FAULT);
    let counted: BTreeSet<&str> = refusals(&world.here)
        .into_keys()
        .filter(|(direction, _)| *direction == "socket")
        .map(|(_, reason)| reason)
        .collect();
    assert_eq!(counted, seen.into_iter().map(Reason::name).collect());
}

/// PEERS has a place for every socket, and REVERSE gives way to new entries.
const NEEDS_A_FAULT: [&str; 1] = ["flow-not-stored"];

/// The list is what the programs name: one more there is one more here.
#[test]
fn the_reasons_of_calls_are_those_that_socket_programs_give() {
    let program = include_str!("../../../ebpf/programs/src/socket.rs");
    let word = |text: &'static str| text.split(|c: char| !c.is_alphanumeric()).next();
    let named: BTreeSet<&str> = program.split("Reason::").skip(1).filter_map(word).collect();
    let listed: Vec<String> = Reason::OF_CALLS.iter().map(|reason| format!("{reason:?}")).collect();
    assert_eq!(named, listed.iter().map(String::as_str).collect());
    assert!(Reason::OF_CALLS.into_iter().all(Reason::is_drop));
}

/// How the kernel names a device to who sends through it.
fn device(namespace: &Namespace, name: &str) -> LinkAddr {
    let name = name.to_owned();
    namespace.run(move || {
        let mut devices = nix::ifaddrs::getifaddrs().unwrap();
        let found = devices.find_map(|found| {
            let address = found.address.filter(|_| found.interface_name == name)?;
            address.as_link_addr().copied()
        });
        found.unwrap()
    })
}

/// Sends frames as they are.
fn send_raw(namespace: &Namespace, through: LinkAddr, frames: Vec<Vec<u8>>) {
    namespace.run(move || {
        let (kind, flags) = (SockType::Raw, SockFlag::empty());
        let raw = socket(AddressFamily::Packet, kind, flags, None).unwrap();
        for frame in frames {
            let sent = sendto(raw.as_raw_fd(), &frame, &through, MsgFlags::empty());
            assert_eq!(sent, Ok(frame.len()), "{frame:02x?}");
        }
    });
}

/// The hardware address of the node's end of each pod's link.
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0xff, 1];

/// Frames of both families that end within the IP header, or right before it.
fn short_frames(from: &[IpAddr], to: [u8; 6], mac: [u8; 6]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for address in from {
        let there = if address.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" }.parse().unwrap();
        let packet = Packet::new((*address, 40_000), (there, 80), Body::Udp);
        let packet = Packet { to, from: mac, ..packet };
        let header = if address.is_ipv4() { 34 } else { 54 };
        let cuts = [14, 15, 20, 33, 53].into_iter().filter(|cut| *cut < header);
        frames.extend(cuts.map(|cut| packet.clone().cut(cut).bytes()));
    }
    frames
}

/// The kernel runs no program on such a frame in a test-run: here they travel. A pod's are dropped
/// by their name, each once; others' are left to the stack, which knows what to do with them.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn frames_that_end_within_the_ip_header_are_dropped_by_name() {
    let world = World::new();
    let (_here, _there) = world.open();
    let pod = world.client();
    let frames = short_frames(&pod.link.addresses, GATEWAY, pod.link.mac);
    let lengths: Vec<usize> = frames.iter().map(Vec::len).collect();
    assert_eq!(lengths, [14, 15, 20, 33, 14, 15, 20, 33, 53]);
    let malformed = |node: &Node, direction| {
        let all = refusals(node);
        all.get(&(direction, Reason::Malformed.name())).copied().unwrap_or_default()
    };
    assert_eq!(malformed(&world.here, "from-pod"), (0, 0));
    let (count, bytes) = (frames.len() as u64, lengths.iter().sum::<usize>() as u64);
    for round in 1..=3 {
        send_raw(&pod.namespace, device(&pod.namespace, "eth0"), frames.clone());
        world.here.wait_for_count(Reason::Malformed.name(), round * count);
        assert_eq!(malformed(&world.here, "from-pod"), (round * count, round * bytes));
    }

    // To the uplink from the other node, and to the pod from its own.
    let left = |direction: &str| counted(&world.here, direction, Reason::Stack).0;
    let before = ["from-uplink", "to-pod"].map(left);
    let uplinks = [&world.here, &world.there].map(|node| device(&node.namespace, UPLINK));
    let [here_mac, there_mac] = uplinks.map(|uplink| uplink.addr().unwrap());
    let arriving = short_frames(&pod.link.addresses, here_mac, there_mac);
    send_raw(&world.there.namespace, uplinks[1], arriving);
    let host = device(&world.here.namespace, &pod.link.name);
    let handed = short_frames(&pod.link.addresses, pod.link.mac, GATEWAY);
    send_raw(&world.here.namespace, host, handed);
    for (direction, before) in ["from-uplink", "to-pod"].into_iter().zip(before) {
        let more = left(direction) - before;
        assert!(more >= count, "{direction}: {more} of {count}");
        assert_eq!(malformed(&world.here, direction), (0, 0));
    }
    assert_eq!(malformed(&world.here, "from-pod"), (3 * count, 3 * bytes));
}

/// The packet with VLAN tags before what it carries, the outer one first: kind and content.
fn tagged(packet: &Packet, tags: &[(u16, u16)]) -> Vec<u8> {
    let mut frame = packet.bytes();
    let tags = tags.iter().flat_map(|(kind, tag)| [kind.to_be_bytes(), tag.to_be_bytes()]);
    frame.splice(12..12, tags.flatten());
    frame
}

/// A priority without a VLAN.
const PRIORITY: &[(u16, u16)] = &[(0x8100, 6 << 13)];

/// What tags there are: of a VLAN, a priority, a provider's, and one in another.
const TAGS: [&[(u16, u16)]; 4] =
    [&[(0x8100, 5)], PRIORITY, &[(0x88a8, 5)], &[(0x88a8, 5), (0x8100, 6)]];

/// The kernel takes a tag off a frame before a program sees it and keeps it beside the packet,
/// which then looks like any other; the rows of a test-run have theirs in the frame. A pod's are
/// dropped by their name. On the uplink they are left to the stack, which has no such VLAN, and
/// takes a frame with a priority for one without a tag.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn frames_of_a_vlan_reach_nobody() {
    const TAGGED: u16 = 40_001;
    const PLAIN: u16 = 40_002;
    let world = World::new();
    let (_here, _there) = world.open();
    let (pod, [near, far]) = (world.client(), world.backends());
    let uplinks = [&world.here, &world.there].map(|node| device(&node.namespace, UPLINK));
    let [here_mac, there_mac] = uplinks.map(|uplink| uplink.addr().unwrap());
    let link = device(&pod.namespace, "eth0");
    // Who sends through what to whom, with which hardware addresses, and what becomes of it.
    let ways = [
        (&pod.namespace, link, [pod, near], [GATEWAY, pod.link.mac], ("from-pod", Reason::Vlan)),
        (
            &world.there.namespace,
            uplinks[1],
            [far, pod],
            [here_mac, there_mac],
            ("from-uplink", Reason::Stack),
        ),
    ];
    for (sender, through, [source, receiver], [to, from], (direction, reason)) in ways {
        for family in [SERVICE.ip(), SERVICE6.ip()] {
            let name = SocketAddr::from((receiver.like(family), BACKEND_PORT));
            let socket = receiver.namespace.run(move || UdpSocket::bind(name).unwrap());
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let packet = |port| {
                let source = (source.like(family), port);
                Packet { to, from, ..Packet::new(source, (name.ip(), name.port()), Body::Udp) }
            };
            for tags in TAGS {
                let what = format!("{tags:04x?} to {name}");
                let frame = tagged(&packet(TAGGED), tags);
                // A program sees it without its outer tag.
                let bytes = frame.len() as u64 - 4;
                let before = counted(&world.here, direction, reason);
                send_raw(sender, through, vec![frame]);
                let start = Instant::now();
                while counted(&world.here, direction, reason) == before {
                    assert!(start.elapsed() < PATIENCE, "{what}: no {} counted", reason.name());
                    std::thread::sleep(Duration::from_millis(5));
                }
                // The same without a tag comes after it and arrives.
                send_raw(sender, through, vec![packet(PLAIN).bytes()]);
                let by_stack = !reason.is_drop() && tags == PRIORITY;
                let arrive = if by_stack { &[TAGGED, PLAIN][..] } else { &[PLAIN] };
                for port in arrive {
                    let (_, peer) = socket.recv_from(&mut [0; 64]).unwrap();
                    assert_eq!(peer.port(), *port, "{what}");
                }
                if reason.is_drop() {
                    let expected = (before.0 + 1, before.1 + bytes);
                    assert_eq!(counted(&world.here, direction, reason), expected, "{what}");
                }
            }
        }
    }
}

/// What a node has counted by this reason in this direction: packets and bytes.
fn counted(node: &Node, direction: &str, reason: Reason) -> (u64, u64) {
    let rows = node.snapshot().counters;
    let row = rows.iter().find(|row| (row.direction, row.reason) == (direction, reason.name()));
    row.map_or((0, 0), |row| (row.packets, row.bytes))
}
