//! Packets that lie: about their source, their lengths, their way. Each is refused by its name
//! when a pod sends it, and left to the stack when it comes from elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use bowline_ebpf_abi::Reason;
use bowline_lab::frame::{ACK, Body, End, Packet, SYN};
use bowline_lab::packets::{
    BACKEND_PORT, CLIENT_MAC, CLIENT_PORT, EMPTY, LOCAL, LOCAL_MAC, Lab, Net, PORT, REMOTE, nets,
};
use bowline_lab::rows::{Hook, Row, Verdict};

fn client(net: &Net) -> End {
    (net.client, CLIENT_PORT)
}

fn sources(net: &Net) -> Vec<Row> {
    let mut rows = Vec::new();
    let v4 = net.client.is_ipv4();
    let any = if v4 { "0.0.0.0" } else { "::" }.parse().unwrap();
    let loopback = if v4 { "127.0.0.1" } else { "::1" }.parse().unwrap();
    let table = [
        ("another pod's", net.other, Reason::SpoofedSource),
        ("another node's pod's", net.remote, Reason::SpoofedSource),
        ("the node's", net.node, Reason::SpoofedSource),
        ("a service's", net.vips.local, Reason::SpoofedSource),
        ("the world's", net.outside, Reason::SpoofedSource),
        ("a loopback", loopback, Reason::SpoofedSource),
        ("no", any, if v4 { Reason::SpoofedSource } else { Reason::LinkLocal }),
    ];
    for (whose, source, reason) in table {
        for (to, destination) in
            [("a pod", net.local), ("a service", net.vips.local), ("the world", net.outside)]
        {
            let what = format!("{}: from {whose} address to {to}", net.name);
            let packet = Packet::new((source, 1), (destination, PORT), Body::Tcp(SYN));
            rows.push(Row::new(what, Hook::FromPod, packet).dropped(reason));
        }
    }
    let groups: &[(&str, &str, Reason)] = if v4 {
        &[
            ("all hosts", "224.0.0.1", Reason::Multicast),
            ("a group", "239.1.2.3", Reason::Multicast),
            ("everybody", "255.255.255.255", Reason::Broadcast),
        ]
    } else {
        &[("all nodes", "ff02::1", Reason::Multicast), ("a group", "ff0e::123", Reason::Multicast)]
    };
    for (what, to, reason) in groups {
        let packet = Packet::new(client(net), (to.parse().unwrap(), 5353), Body::Udp);
        rows.push(
            Row::new(format!("{}: to {what}", net.name), Hook::FromPod, packet).dropped(*reason),
        );
    }
    let empty = Packet::new(client(net), (net.vips.empty, PORT), Body::Tcp(SYN));
    rows.push(
        Row::new(format!("{}: to a service with nobody", net.name), Hook::FromPod, empty.clone())
            .dropped(Reason::NoBackend)
            .refused_by(net.service(EMPTY)),
    );
    let elsewhere = empty.from((net.remote, 1));
    let what = format!("{}: to such a service on the uplink", net.name);
    rows.push(Row::new(what, Hook::FromUplink, elsewhere).into_stack());
    rows
}

/// What would be neighbour discovery on a link, from elsewhere or to elsewhere.
fn false_neighbours(net: &Net) -> Vec<Row> {
    let end = |text: &str| (text.parse().unwrap(), 0);
    let (own, foreign, link) = ((net.client, 0), (net.outside, 0), end("fe80::5"));
    let mut rows = Vec::new();
    for kind in [133, 135, 136] {
        let row = |what: &str, from: End, to: End| {
            let packet = Packet::new(from, to, Body::Icmp(kind)).hops(255);
            Row::new(format!("{}: kind {kind} {what}", net.name), Hook::FromPod, packet)
        };
        for (what, to) in [
            ("to a pod", (net.local, 0)),
            ("to another node's pod", (net.remote, 0)),
            ("to the world", (net.outside, 0)),
            ("to the node", (net.node, 0)),
        ] {
            let what = |whose: &str| format!("{what} from {whose} address");
            for (whose, from) in [("a foreign", foreign), ("another pod's", (net.other, 0))] {
                rows.push(row(&what(whose), from, to).dropped(Reason::SpoofedSource));
            }
            for (whose, from) in [("a link-local", link), ("no", end("::"))] {
                rows.push(row(&what(whose), from, to).dropped(Reason::LinkLocal));
            }
        }
        for (what, to, reason) in [
            ("to the gateway from a foreign address", end("fe80::1"), Reason::SpoofedSource),
            ("to the link from a foreign address", end("ff02::1"), Reason::Multicast),
        ] {
            rows.push(row(what, foreign, to).dropped(reason));
        }
        rows.push(row("to a wider group", own, end("ff05::2")).dropped(Reason::Multicast));
        rows.push(row("to another node's pod", own, (net.remote, 0)).into_node());
        let routed = Packet::new(link, end("fe80::1"), Body::Icmp(kind))
            .hops(255)
            .extension(43, &[0, 0, 1, 0, 0, 0, 0]);
        let what = format!("{}: kind {kind} with a route", net.name);
        rows.push(Row::new(what, Hook::FromPod, routed).dropped(Reason::SourceRoute));
    }
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn false_ends() {
    Lab::run(|lab| {
        let mut rows: Vec<Row> = nets().iter().flat_map(sources).collect();
        let [_, v6] = nets();
        let link_local = ("fe80::5".parse().unwrap(), 1);
        for (what, to, body) in [
            ("a datagram from a link-local address", (v6.local, PORT), Body::Udp),
            ("echo to the gateway from one", ("fe80::1".parse().unwrap(), 0), Body::Icmp(128)),
            ("neighbour advertisement past a router", (v6.local, 0), Body::Icmp(136)),
        ] {
            let packet = Packet::new(link_local, to, body);
            rows.push(Row::new(what, Hook::FromPod, packet).dropped(Reason::LinkLocal));
        }
        rows.extend(false_neighbours(&v6));
        let report = Packet::new(link_local, ("ff02::16".parse().unwrap(), 0), Body::Icmp(143))
            .hops(1)
            .extension(0, &[0, 5, 2, 0, 0, 1, 0]);
        let row = Row::new("a report of listened groups", Hook::FromPod, report);
        rows.push(row.dropped(Reason::Multicast));
        lab.check("false ends", &rows);
    });
}

/// Everywhere that a header ends, and just before. No kernel of today takes the frames that end
/// within the IP header; these travel in `refusals.rs`.
fn truncated(net: &Net) -> Vec<Row> {
    let mut rows = Vec::new();
    let start = if net.client.is_ipv4() { 34 } else { 54 };
    let service = Packet::new(client(net), (net.vips.local, PORT), Body::Tcp(SYN));
    let datagram = service.clone().body(Body::Udp);
    let pod = service.clone().to((net.local, PORT));
    let cuts: Vec<usize> = vec![14, 15, 20, start - 1, start, start + 3, start + 4, start + 19];
    for (to, packet) in [("a service", &service), ("a pod", &pod)] {
        for cut in &cuts {
            let what = format!("{}: the frame to {to} ends after {cut} bytes", net.name);
            let packet = packet.clone().cut(*cut);
            let arriving = packet.clone().from((net.remote, 1)).to((net.local, 1));
            let uplink = what.clone() + " (uplink)";
            let stack = what.clone() + " (stack)";
            let three = [
                Row::new(what, Hook::FromPod, packet).dropped(Reason::Malformed),
                Row::new(uplink, Hook::FromUplink, arriving.clone()).into_stack(),
                Row::new(stack, Hook::ToPod, arriving).into_stack(),
            ];
            let within_the_header = *cut < start;
            rows.extend(
                three.map(|row| if within_the_header { row.if_the_kernel_lets() } else { row }),
            );
        }
    }
    // The IP header tells the truth, and the transport header is not all there.
    for (body, packet, length) in [("TCP", &service, 20), ("UDP", &datagram, 8)] {
        for there in [0, 1, 4, length - 1] {
            let what = format!("{}: {there} bytes of {body}", net.name);
            let (at, total) = if start == 34 { (16, 20 + there) } else { (18, there) };
            let bytes = (total as u16).to_be_bytes();
            let short = packet.clone().patch(at, &bytes).cut(start + there);
            let out = short.clone().to((net.local, PORT));
            rows.push(
                Row::new(format!("{what} to a service"), Hook::FromPod, short)
                    .dropped(Reason::Malformed),
            );
            // Nobody has to read it on the way to a pod.
            rows.push(Row::new(format!("{what} to a pod"), Hook::FromPod, out).into_pod(LOCAL_MAC));
        }
    }
    let echo = Body::Icmp(if start == 34 { 8 } else { 128 });
    let ping = Packet::new(client(net), (net.local, 0), echo);
    let (at, total) = if start == 34 { (16, 27u16) } else { (18, 7) };
    let short = ping.patch(at, &total.to_be_bytes()).cut(start + 7);
    let what = format!("{}: 7 bytes of ICMP", net.name);
    rows.push(Row::new(what, Hook::FromPod, short).dropped(Reason::Malformed));
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn cut_short() {
    Lab::run(|lab| {
        let rows: Vec<Row> = nets().iter().flat_map(truncated).collect();
        lab.check("cut short", &rows);
    });
}

/// Lengths in transport headers that contradict the IP header. No program needs them, and the
/// receiver, who does, gets them as they are.
fn lying_lengths(net: &Net) -> Vec<Row> {
    let mut rows = Vec::new();
    let datagram = [
        ("UDP that says 0 bytes", 0u16),
        ("UDP that says less than its header", 7),
        ("UDP that says to have no data", 8),
        ("UDP that says one byte less", 24),
        ("UDP that says one byte more", 26),
        ("UDP that says 65,535 bytes", u16::MAX),
    ];
    let datagram =
        datagram.map(|(what, length)| (what, Body::Udp, 4, length.to_be_bytes().to_vec()));
    let segment = [
        ("TCP that says its header has 0 bytes", 0x00),
        ("TCP that says its header has 16 bytes", 0x40),
        ("TCP that says its header is longer than the packet", 0xf0),
    ];
    let segment = segment.map(|(what, offset)| (what, Body::Tcp(SYN), 12, vec![offset]));
    for (what, body, at, bytes) in datagram.into_iter().chain(segment) {
        let lying = |packet: Packet| {
            let at = packet.body_at() + at;
            packet.patch(at, &bytes)
        };
        let row = |rest: &str, hook, packet: Packet| {
            Row::new(format!("{}: {what}, {rest}", net.name), hook, lying(packet))
        };
        let service = Packet::new(client(net), (net.vips.remote, PORT), body.clone());
        let direct = service.clone().to((net.local, PORT));
        let far = service.clone().to((net.remote, BACKEND_PORT));
        rows.push(row("to a pod", Hook::FromPod, direct.clone()).into_pod(LOCAL_MAC));
        rows.push(row("to another node's pod", Hook::FromPod, far.clone()).into_node());
        let arriving = direct.from((net.remote, PORT));
        rows.push(row("on the uplink", Hook::FromUplink, arriving).into_pod(LOCAL_MAC));
        rows.push(
            row("to a service", Hook::FromPod, service.clone())
                .into_node_as(lying(far))
                .opens(net.service(REMOTE)),
        );
        let content = match body {
            Body::Tcp(_) => Body::Tcp(SYN | ACK),
            other => other,
        };
        let answer = Packet::new((net.remote, BACKEND_PORT), client(net), content);
        let named = lying(answer.clone().from((net.vips.remote, PORT)));
        rows.push(
            row("an answer of a service", Hook::FromUplink, answer)
                .after(Hook::FromPod, service)
                .into_pod_as(CLIENT_MAC, named)
                .continues(net.service(REMOTE), Reason::AnswerTranslated),
        );
    }
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn lengths_that_only_the_receiver_reads() {
    Lab::run(|lab| {
        let rows: Vec<Row> = nets().iter().flat_map(lying_lengths).collect();
        lab.check("lying lengths", &rows);
    });
}

/// A base packet and the bytes that spoil it.
fn spoiled() -> Vec<Row> {
    let [v4, v6] = nets();
    let to = |net: &Net| Packet::new(client(net), (net.local, PORT), Body::Tcp(ACK));
    let bad = |what: &str, packet: Packet, reason: Reason| {
        Row::new(what, Hook::FromPod, packet).dropped(reason)
    };
    let malformed = |what: &str, packet: Packet| bad(what, packet, Reason::Malformed);
    let v4_bytes: [(&str, usize, &[u8]); 6] = [
        ("IPv4: version 6", 14, &[0x65]),
        ("IPv4: version 0", 14, &[0x05]),
        ("IPv4: a header of 16 bytes", 14, &[0x44]),
        ("IPv4: a total length of zero", 16, &[0, 0]),
        ("IPv4: a total length below the header's", 16, &[0, 19]),
        ("IPv4: a total length beyond the frame", 16, &[1, 0]),
    ];
    let mut rows: Vec<Row> = Vec::new();
    for (what, at, bytes) in v4_bytes {
        rows.push(malformed(what, to(&v4).patch(at, bytes)));
    }
    rows.push(malformed("IPv4: a header longer than the packet", {
        to(&v4).patch(14, &[0x4f]).patch(16, &[0, 57])
    }));
    rows.push(malformed("IPv4: a fragment beyond 65,535 bytes", to(&v4).fragment(65_528, false)));
    let options: [(&str, &[u8], Reason); 5] = [
        ("loose source route", &[131, 7, 4, 192, 0, 2, 1, 0], Reason::SourceRoute),
        ("strict source route", &[1, 137, 7, 4, 192, 0, 2, 1], Reason::SourceRoute),
        ("option of length 0", &[7, 0, 4, 0], Reason::Malformed),
        ("option of length 1", &[1, 7, 1, 0], Reason::Malformed),
        ("option beyond the header", &[7, 9, 4, 0, 0, 0, 0, 0], Reason::Malformed),
    ];
    for (what, bytes, reason) in options {
        rows.push(bad(&format!("IPv4: {what}"), to(&v4).options(bytes), reason));
        let arriving = to(&v4).options(bytes).from((v4.remote, 1));
        let row =
            Row::new(format!("IPv4: {what} (uplink)"), Hook::FromUplink, arriving).into_stack();
        let read = reason == Reason::SourceRoute;
        rows.push(if read { row.also(Reason::IpOptions) } else { row });
    }
    let v6_bytes: [(&str, usize, &[u8]); 3] = [
        ("IPv6: version 4", 14, &[0x40]),
        ("IPv6: a payload length beyond the frame", 18, &[1, 0]),
        ("IPv6: fragment header said, none there", 20, &[44]),
    ];
    let small = Packet::new(client(&v6), (v6.local, 0), Body::Other(59, vec![0; 4]));
    for (what, at, bytes) in v6_bytes {
        let base = if at == 20 { small.clone() } else { to(&v6) };
        rows.push(malformed(what, base.patch(at, bytes)));
    }
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 240, 1, 5];
    rows.push(malformed("IPv6: an IPv4 pod's address, mapped", to(&v6).patch(22, &mapped)));
    rows.push(malformed("IPv6: to such an address", to(&v6).patch(38, &mapped)));
    let rest = [0, 1, 4, 0, 0, 0, 0];
    let routing = [0, 0, 1, 0, 0, 0, 0];
    rows.push(bad(
        "IPv6: a route with a segment left",
        to(&v6).extension(43, &routing),
        Reason::SourceRoute,
    ));
    let hops = to(&v6).extension(60, &rest).extension(0, &rest);
    rows.push(malformed("IPv6: hop-by-hop that is not first", hops));
    let long = to(&v6).extension(60, &[200, 1, 4, 0, 0, 0, 0]);
    rows.push(malformed("IPv6: an extension beyond the packet", long));
    let many = (0..6).fold(to(&v6), |packet, _| packet.extension(60, &rest));
    rows.push(bad("IPv6: six extension headers", many, Reason::TooManyHeaders));
    let endless = (0..12).fold(to(&v6), |packet, _| packet.extension(60, &rest));
    rows.push(bad("IPv6: twelve", endless.clone(), Reason::TooManyHeaders));
    let arriving = endless.from((v6.remote, 1));
    rows.push(Row::new("IPv6: twelve (uplink)", Hook::FromUplink, arriving).into_stack());
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn contradictions() {
    Lab::run(|lab| lab.check("contradictions", &spoiled()));
}

/// A checksum that is wrong stays as wrong as it was: the receiver has to see it.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn wrong_checksums() {
    Lab::run(|lab| {
        let mut rows = Vec::new();
        for net in nets() {
            for (body, content, offset) in [("TCP", Body::Tcp(SYN), 16), ("UDP", Body::Udp, 6)] {
                let right = Packet::new(client(&net), (net.vips.local, PORT), content);
                let at = right.body_at() + offset;
                let (wrong, out) = (right.off_by_one(at), right.to((net.local, BACKEND_PORT)));
                let out = out.off_by_one(at);
                let what = format!("{}: {body} with a wrong checksum", net.name);
                rows.push(
                    Row::new(format!("{what} to a service"), Hook::FromPod, wrong.clone())
                        .into_pod_as(LOCAL_MAC, out)
                        .opens(net.service(LOCAL)),
                );
                let direct = wrong.to((net.local, PORT)).off_by_one(at);
                rows.push(
                    Row::new(format!("{what} to a pod"), Hook::FromPod, direct).into_pod(LOCAL_MAC),
                );
            }
        }
        rows.extend(wrong_header_checksums());
        lab.check("wrong checksums", &rows);
    });
}

/// Of IPv4 headers, which each router writes anew.
fn wrong_header_checksums() -> Vec<Row> {
    const AT: usize = 24;
    let [net, _] = nets();
    let right = Packet::new(client(&net), (net.vips.local, PORT), Body::Tcp(SYN));
    let (direct, through) = (right.clone().to((net.local, PORT)), right.clone());
    let backend = right.clone().to((net.local, BACKEND_PORT));
    let remote = right.to((net.remote, PORT));
    // As it leaves, one hop later.
    let wrong_after = |packet: &Packet| {
        let hop_limit = packet.hop_limit;
        Packet { hop_limit, ..packet.clone().hops(hop_limit - 1).off_by_one(AT) }
    };
    let row = |what: &str, packet: &Packet| {
        let what = format!("IPv4: a wrong header checksum to {what}");
        Row::new(what, Hook::FromPod, packet.off_by_one(AT))
    };
    vec![
        row("a pod", &direct).into_pod_as(LOCAL_MAC, wrong_after(&direct)),
        row("another node's pod", &remote).into_node_as(wrong_after(&remote)),
        row("a service", &through)
            .into_pod_as(LOCAL_MAC, wrong_after(&backend))
            .opens(net.service(LOCAL)),
    ]
}

/// Deterministic, so that a failure comes back.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Packets of each kind, from each kind of sender to each kind of receiver.
fn frames_to_spoil() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for net in nets() {
        let echo = Body::Icmp(if net.client.is_ipv4() { 8 } else { 128 });
        let vips = [net.vips.local, net.vips.remote, net.vips.empty, net.vips.own, net.vips.sticky];
        let others = [net.local, net.remote, net.tunnelled, net.outside, net.node];
        for from in [net.client, net.local, net.remote, net.outside] {
            for to in vips.into_iter().chain(others).chain([net.client]) {
                for body in [Body::Tcp(SYN), Body::Tcp(ACK), Body::Udp, echo.clone()] {
                    frames.push(Packet::new((from, CLIENT_PORT), (to, PORT), body));
                }
                let answer = (from, BACKEND_PORT);
                frames.push(Packet::new(answer, (to, CLIENT_PORT), Body::Tcp(ACK)));
            }
        }
    }
    let mut all: Vec<Vec<u8>> = frames.iter().map(Packet::bytes).collect();
    let rows = spoiled().into_iter().chain(nets().iter().flat_map(truncated).collect::<Vec<_>>());
    all.extend(rows.filter_map(|row| row.dropped_frame()));
    all
}

fn is_way(reason: Reason) -> bool {
    [Reason::LocalPod, Reason::RemoteNode, Reason::Stack].contains(&reason)
}

/// Whatever a frame is: a program that drops it counts one reason to do so, and one that does not
/// counts the one way that the frame goes.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn random_frames_are_counted_once() {
    const FRAMES: u64 = 3_000;
    Lab::run(|lab| {
        let (good, mut random) = (frames_to_spoil(), Random(0x9e37_79b9_7f4a_7c15));
        let (mut sent, mut verdicts) = (0, BTreeMap::new());
        lab.clear();
        for _ in 0..2 * FRAMES {
            let mut frame = good[random.below(good.len())].clone();
            for _ in 0..random.below(4) {
                // Most of them where headers are.
                let at = random.below(frame.len().min(80));
                frame[at] = random.next() as u8;
            }
            if random.below(8) == 0 {
                frame.truncate(14 + random.below(frame.len() - 13));
            }
            let hook = [Hook::FromPod, Hook::ToPod, Hook::FromUplink][random.below(3)];
            let before = lab.packets_of(hook);
            // Later kernels refuse to run programs on frames that end within the IP header.
            let Ok((verdict, _)) = lab.send(hook, &frame) else { continue };
            let after = lab.packets_of(hook);
            let moved = after.into_iter().map(|(reason, now)| (reason, now - before[&reason]));
            let moved: Vec<(Reason, u64)> = moved.filter(|(_, more)| *more > 0).collect();
            let counted = [Reason::is_drop, is_way].map(|counts: fn(Reason) -> bool| -> u64 {
                moved.iter().filter(|(reason, _)| counts(*reason)).map(|(_, more)| more).sum()
            });
            let expected = if verdict == Verdict::Drop { [1, 0] } else { [0, 1] };
            let known = !matches!(verdict, Verdict::Unknown(_));
            assert!(known && counted == expected, "{hook:?} {verdict:?} {moved:?}: {frame:02x?}");
            *verdicts.entry(format!("{hook:?} {verdict:?}")).or_insert(0) += 1;
            sent += 1;
            if sent == FRAMES {
                break;
            }
        }
        println!("{sent} spoiled frames: {verdicts:?}");
        assert_eq!(sent, FRAMES, "this kernel takes too few of them");
        // Both from pods, and all else is left to the stack or goes to a pod.
        assert!(verdicts.len() >= 6 && verdicts.values().all(|count| *count > 10), "{verdicts:?}");
    });
}

/// Every way to be refused is on some row of these tables, or is said to need a fault that cannot
/// be made from outside.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn every_refusal_has_its_row() {
    Lab::run(|lab| {
        let [v4, v6] = nets();
        let mut rows: Vec<Row> = [v4, v6].iter().flat_map(sources).collect();
        rows.extend(spoiled());
        rows.extend([v4, v6].iter().flat_map(truncated));
        let mut frames: Vec<Vec<u8>> = rows.iter().filter_map(Row::dropped_frame).collect();
        let tagged = Packet {
            ether_type: Some(0x8100),
            ..Packet::new(client(&v4), (v4.local, 0), Body::Udp)
        };
        let odd = Packet { ether_type: Some(0x88cc), ..tagged.clone() };
        let piece = Packet::new(client(&v4), (v4.vips.local, PORT), Body::Udp).fragment(0, true);
        let port = Packet::new(client(&v4), (v4.vips.local, PORT + 1), Body::Udp);
        let echo = Packet::new(client(&v4), (v4.vips.local, 0), Body::Icmp(8));
        let router = Packet::new(client(&v4), (v4.remote, 0), Body::Icmp(5));
        let link = Packet::new(("fe80::5".parse().unwrap(), 1), (v6.local, 1), Body::Udp);
        let quoted = Box::new(Packet::new((v4.remote, 1), (v4.local, 1), Body::Udp));
        let body = Body::Error { kind: 3, quoted, bytes: 8 };
        let forged = Packet::new((v4.client, 0), (v4.remote, 0), body);
        for packet in [tagged, odd, piece, port, echo, router, link, forged] {
            frames.push(packet.bytes());
        }
        let mut seen = BTreeSet::new();
        for frame in frames {
            seen.extend(lab.refusals_of(&[], &frame));
        }
        let open = Packet::new(client(&v4), (v4.vips.local, PORT), Body::Tcp(SYN));
        let beside = open.clone().to((v4.local, BACKEND_PORT));
        seen.extend(lab.refusals_of(&[open.bytes()], &beside.bytes()));
        let unseen: Vec<&str> = Reason::ALL
            .into_iter()
            .filter(|reason| reason.is_drop() && !seen.contains(reason))
            .map(Reason::name)
            .collect();
        assert_eq!(unseen, NEEDS_A_FAULT);
    });
}

/// FLOWS gives way to new entries as long as it can, and headers that were read can be written.
const NEEDS_A_FAULT: [&str; 2] = ["flow-not-stored", "rewrite-failed"];
