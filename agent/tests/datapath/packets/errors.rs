//! ICMP errors about packets, translated ones and others, and what a pod may say in one.

use bowline_ebpf_abi::Reason;
use bowline_lab::frame::{ACK, Body, Packet, SYN};
use bowline_lab::packets::{
    BACKEND_PORT, CLIENT_MAC, CLIENT_PORT, LOCAL, LOCAL_MAC, Lab, Net, OWN, PORT, REMOTE, nets,
};
use bowline_lab::rows::{Hook, Row};

/// An error of this kind about the packet, to whoever sent it.
fn error(net: &Net, from: std::net::IpAddr, kind: u8, about: &Packet, bytes: usize) -> Packet {
    assert!(from.is_ipv4() == net.client.is_ipv4());
    let body = Body::Error { kind, quoted: Box::new(about.clone()), bytes };
    Packet::new((from, 0), (about.source.0, 0), body)
}

/// Destination unreachable (with fragmentation needed), time exceeded, and IPv6's packet too big.
fn kinds(net: &Net) -> &'static [(&'static str, u8)] {
    if net.client.is_ipv4() {
        &[("unreachable", 3), ("time exceeded", 11), ("parameter problem", 12)]
    } else {
        &[("unreachable", 1), ("too big", 2), ("time exceeded", 3), ("parameter problem", 4)]
    }
}

const FULL: usize = 1000;

fn about_translated(net: &Net) -> Vec<Row> {
    let mut rows = Vec::new();
    let client = (net.client, CLIENT_PORT);
    for (body, content) in [("TCP", Body::Tcp(SYN)), ("UDP", Body::Udp)] {
        for (bytes, quote) in [(8, "8 bytes"), (FULL, "all")] {
            for (kind, number) in kinds(net) {
                let what = |rest: &str| {
                    format!("{}: {kind} about {body}, {quote} quoted, {rest}", net.name)
                };
                let sent = Packet::new(client, (net.vips.remote, PORT), content.clone());
                let seen = sent.clone().to((net.remote, BACKEND_PORT)).hops(7);
                let wanted = sent.clone().hops(7);
                // A router on the way speaks for itself, the backend as the service.
                for (who, from, named) in [
                    ("a router", net.outside, net.outside),
                    ("the backend", net.remote, net.vips.remote),
                ] {
                    let packet = error(net, from, *number, &seen, bytes);
                    let out = error(net, named, *number, &wanted, bytes);
                    rows.push(
                        Row::new(what(who), Hook::FromUplink, packet.clone())
                            .after(Hook::FromPod, sent.clone())
                            .into_pod_as(CLIENT_MAC, out.clone())
                            .continues(net.service(REMOTE), Reason::ErrorTranslated),
                    );
                    rows.push(
                        Row::new(what(&format!("{who}, from the stack")), Hook::ToPod, packet)
                            .after(Hook::FromPod, sent.clone())
                            .into_stack_as(out)
                            .continues(net.service(REMOTE), Reason::ErrorTranslated),
                    );
                }
            }
        }
        let sent = Packet::new(client, (net.vips.local, PORT), content.clone());
        let unreachable = kinds(net)[0].1;
        for bytes in [8, FULL] {
            let what = |rest: &str| format!("{}: {body} error, {bytes} bytes: {rest}", net.name);
            let seen = sent.clone().to((net.local, BACKEND_PORT)).hops(63);
            rows.push(
                Row::new(
                    what("of a local backend"),
                    Hook::FromPod,
                    error(net, net.local, unreachable, &seen, bytes),
                )
                .after(Hook::FromPod, sent.clone())
                .into_pod_as(
                    CLIENT_MAC,
                    error(net, net.vips.local, unreachable, &sent.clone().hops(63), bytes),
                )
                .continues(net.service(LOCAL), Reason::ErrorTranslated),
            );
            // The client has no use for the answer and says so: to the service, as far as it knows.
            let answer = Packet::new((net.vips.local, PORT), client, content.clone());
            let real = Packet::new((net.local, BACKEND_PORT), client, content.clone());
            rows.push(
                Row::new(
                    what("of the client"),
                    Hook::FromPod,
                    error(net, net.client, unreachable, &answer, bytes),
                )
                .after(Hook::FromPod, sent.clone())
                .into_pod_as(LOCAL_MAC, error(net, net.client, unreachable, &real, bytes))
                .continues(net.service(LOCAL), Reason::ErrorTranslated),
            );
            // A pod that is its own backend has no such port.
            let own = Packet::new(client, (net.vips.own, PORT), content.clone());
            let seen = Packet::new(
                (net.vips.own, CLIENT_PORT),
                (net.client, BACKEND_PORT),
                content.clone(),
            );
            rows.push(
                Row::new(
                    what("of a pod to itself"),
                    Hook::FromPod,
                    error(net, net.client, unreachable, &seen, bytes),
                )
                .after(Hook::FromPod, own.clone())
                .into_pod_as(CLIENT_MAC, error(net, net.vips.own, unreachable, &own, bytes))
                .continues(net.service(OWN), Reason::ErrorTranslated),
            );
        }
    }
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn about_translated_flows() {
    Lab::run(|lab| {
        let mut rows: Vec<Row> = nets().iter().flat_map(about_translated).collect();
        let [v4, _] = nets();
        let sent =
            Packet::new((v4.client, CLIENT_PORT), (v4.vips.remote, PORT), Body::UdpUnchecked);
        let seen = sent.clone().to((v4.remote, BACKEND_PORT));
        rows.push(
            Row::new(
                "IPv4: about UDP without a checksum",
                Hook::FromUplink,
                error(&v4, v4.outside, 11, &seen, 8),
            )
            .after(Hook::FromPod, sent.clone())
            .into_pod_as(CLIENT_MAC, error(&v4, v4.outside, 11, &sent, 8))
            .continues(v4.service(REMOTE), Reason::ErrorTranslated),
        );
        lab.check("errors about translated flows", &rows);
    });
}

/// A change of a packet's header, with its name.
type Dressing = (&'static str, fn(Packet) -> Packet);

/// IPv4 options.
const OPTIONS: [Dressing; 3] = [
    ("4 bytes of options", |packet| packet.options(&[1, 1, 1, 0])),
    ("a record route", |packet| packet.options(&[7, 7, 4, 0, 0, 0, 0, 0])),
    ("40 bytes of options", |packet| packet.options(&[1; 40])),
];

const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];
const USED_UP: [u8; 7] = [0, 4, 0, 0, 0, 0, 0];

/// IPv6 extension headers.
const EXTENSIONS: [Dressing; 5] = [
    ("hop-by-hop", |packet| packet.extension(0, &PADDING)),
    ("destination options", |packet| packet.extension(60, &PADDING)),
    ("a route that is used up", |packet| packet.extension(43, &USED_UP)),
    ("a fragment header on a whole packet", |packet| packet.fragment(0, false)),
    ("five headers", |packet| {
        let packet = packet.extension(0, &PADDING).extension(60, &PADDING);
        packet.extension(43, &USED_UP).extension(60, &PADDING).fragment(0, false)
    }),
];

fn dressings(net: &Net) -> &'static [Dressing] {
    if net.client.is_ipv4() { &OPTIONS } else { &EXTENSIONS }
}

/// The quoted transport header is not where it is in a plain packet.
fn about_dressed(net: &Net) -> Vec<Row> {
    let mut rows = Vec::new();
    let client = (net.client, CLIENT_PORT);
    let kind = kinds(net)[0].1;
    for (dressing, dress) in dressings(net) {
        for (body, content) in [("TCP", Body::Tcp(SYN)), ("UDP", Body::Udp)] {
            for bytes in [8, FULL] {
                let row = |what: &str, hook, packet| {
                    let about = format!("{body} with {dressing}, {bytes} bytes quoted");
                    Row::new(format!("{}: about {about}, {what}", net.name), hook, packet)
                };
                let sent = Packet::new(client, (net.vips.remote, PORT), content.clone());
                let seen = dress(sent.clone().to((net.remote, BACKEND_PORT)).hops(7));
                let wanted = dress(sent.clone().hops(7));
                for (who, from, named) in [
                    ("of a router", net.outside, net.outside),
                    ("of the backend", net.remote, net.vips.remote),
                ] {
                    let packet = error(net, from, kind, &seen, bytes);
                    let out = error(net, named, kind, &wanted, bytes);
                    let service = net.service(REMOTE);
                    rows.push(
                        row(who, Hook::FromUplink, packet.clone())
                            .after(Hook::FromPod, sent.clone())
                            .into_pod_as(CLIENT_MAC, out.clone())
                            .continues(service, Reason::ErrorTranslated),
                    );
                    rows.push(
                        row(&format!("{who}, from the stack"), Hook::ToPod, packet)
                            .after(Hook::FromPod, sent.clone())
                            .into_stack_as(out)
                            .continues(service, Reason::ErrorTranslated),
                    );
                }
                let sent = sent.to((net.vips.local, PORT));
                let seen = dress(sent.clone().to((net.local, BACKEND_PORT)));
                let packet = error(net, net.local, kind, &seen, bytes);
                let out = error(net, net.vips.local, kind, &dress(sent.clone()), bytes);
                rows.push(
                    row("of a pod beside it", Hook::FromPod, packet)
                        .after(Hook::FromPod, sent.clone())
                        .into_pod_as(CLIENT_MAC, out)
                        .continues(net.service(LOCAL), Reason::ErrorTranslated),
                );
                let answer = |from| dress(Packet::new(from, client, content.clone()));
                let packet = error(net, net.client, kind, &answer((net.vips.local, PORT)), bytes);
                let real = answer((net.local, BACKEND_PORT));
                rows.push(
                    row("of the client", Hook::FromPod, packet)
                        .after(Hook::FromPod, sent)
                        .into_pod_as(LOCAL_MAC, error(net, net.client, kind, &real, bytes))
                        .continues(net.service(LOCAL), Reason::ErrorTranslated),
                );
            }
        }
        let direct = dress(Packet::new((net.remote, BACKEND_PORT), client, Body::Udp));
        let packet = error(net, net.client, kind, &direct, 8);
        let what = format!("{}: about a direct packet with {dressing}", net.name);
        rows.push(Row::new(what, Hook::FromPod, packet).into_node());
    }
    rows
}

/// The quoted header ends too soon, or has no end: a pod may not say that, and from elsewhere it is
/// nothing to translate.
fn about_unreadable(net: &Net) -> Vec<Row> {
    let mut rows = Vec::new();
    let client = (net.client, CLIENT_PORT);
    let (kind, (at, header)) = (kinds(net)[0].1, fine_quote(net));
    let mut table = Vec::new();
    for (dressing, dress) in dressings(net) {
        for there in [header, header + 3] {
            let what = format!("{dressing}, of which {} bytes are there", there - header);
            table.push((what, *dress, Some(at + there), Reason::Malformed));
        }
    }
    if net.client.is_ipv6() {
        let six: fn(Packet) -> Packet =
            |packet| (0..6).fold(packet, |packet, _| packet.extension(60, &PADDING));
        table.push(("six headers".to_owned(), six, None, Reason::TooManyHeaders));
    }
    for (what, dress, length, reason) in table {
        let shortened = |packet| match length {
            Some(length) => shorten(net, packet, length),
            None => packet,
        };
        let what = format!("{}: about a packet with {what}", net.name);
        let received = dress(Packet::new((net.local, BACKEND_PORT), client, Body::Udp));
        let said = shortened(error(net, net.client, kind, &received, 8));
        rows.push(Row::new(what.clone(), Hook::FromPod, said).dropped(reason));
        let sent = Packet::new(client, (net.vips.remote, PORT), Body::Udp);
        let seen = dress(sent.clone().to((net.remote, BACKEND_PORT)));
        let heard = shortened(error(net, net.outside, kind, &seen, 8));
        rows.push(
            Row::new(format!("{what} (uplink)"), Hook::FromUplink, heard)
                .after(Hook::FromPod, sent)
                .into_pod(CLIENT_MAC),
        );
    }
    // A piece has no ports to be known by.
    let piece = Packet::new((net.remote, BACKEND_PORT), client, Body::Udp).fragment(1480, true);
    let packet = error(net, net.client, kind, &piece, 8);
    rows.push(Row::new(format!("{}: about a piece", net.name), Hook::FromPod, packet).into_node());
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn about_packets_with_options() {
    Lab::run(|lab| {
        let about = |net| [about_dressed(net), about_unreadable(net)].concat();
        let rows: Vec<Row> = nets().iter().flat_map(about).collect();
        lab.check("errors about packets with options", &rows);
    });
}

/// An ICMP checksum that is wrong stays as wrong as it was: the receiver has to see it.
fn with_wrong_checksums(net: &Net) -> Vec<Row> {
    let mut rows = Vec::new();
    let client = (net.client, CLIENT_PORT);
    let kind = kinds(net)[0].1;
    let wrong = |packet: Packet| packet.off_by_one(packet.body_at() + 2);
    let row = |what: &str, hook, packet| {
        let what = format!("{}: a wrong checksum of an {what}", net.name);
        Row::new(what, hook, wrong(packet))
    };
    for (body, content) in [("TCP", Body::Tcp(SYN)), ("UDP", Body::Udp)] {
        let sent = Packet::new(client, (net.vips.remote, PORT), content.clone());
        let seen = sent.clone().to((net.remote, BACKEND_PORT)).hops(7);
        let wanted = sent.clone().hops(7);
        for (who, from, named) in
            [("a router", net.outside, net.outside), ("the backend", net.remote, net.vips.remote)]
        {
            let what = format!("error about {body} of {who}");
            let packet = error(net, from, kind, &seen, 8);
            let out = wrong(error(net, named, kind, &wanted, 8));
            let service = net.service(REMOTE);
            rows.push(
                row(&what, Hook::FromUplink, packet.clone())
                    .after(Hook::FromPod, sent.clone())
                    .into_pod_as(CLIENT_MAC, out.clone())
                    .continues(service, Reason::ErrorTranslated),
            );
            rows.push(
                row(&format!("{what}, from the stack"), Hook::ToPod, packet)
                    .after(Hook::FromPod, sent.clone())
                    .into_stack_as(out)
                    .continues(service, Reason::ErrorTranslated),
            );
        }
    }
    let received = Packet::new((net.remote, BACKEND_PORT), client, Body::Udp);
    let said = error(net, net.client, kind, &received, 8);
    rows.push(row("error about a direct packet", Hook::FromPod, said).into_node());
    let echo = Body::Icmp(if net.client.is_ipv4() { 8 } else { 128 });
    let echo = Packet::new(client, (net.local, 0), echo);
    rows.push(row("echo request", Hook::FromPod, echo).into_pod(LOCAL_MAC));
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn wrong_checksums() {
    Lab::run(|lab| {
        let rows: Vec<Row> = nets().iter().flat_map(with_wrong_checksums).collect();
        lab.check("errors with wrong checksums", &rows);
    });
}

fn about_others(net: &Net) -> Vec<Row> {
    let mut rows = Vec::new();
    let client = (net.client, CLIENT_PORT);
    let name = net.name;
    let (unreachable, exceeded) = if net.client.is_ipv4() { (3, 11) } else { (1, 3) };
    let received = Packet::new((net.remote, BACKEND_PORT), client, Body::Tcp(ACK));
    let row =
        |what: &str, packet: Packet| Row::new(format!("{name}: {what}"), Hook::FromPod, packet);
    let fine = error(net, net.client, unreachable, &received, 8);
    rows.push(row("an error about what was received", fine.clone()).into_node());
    rows.push(row("the same with one hop to live", fine.hops(1)).into_stack());
    let near = Packet::new((net.local, BACKEND_PORT), client, Body::Udp);
    let packet = error(net, net.client, unreachable, &near, FULL);
    rows.push(row("an error to a pod of this node", packet).into_pod(LOCAL_MAC));
    let world = Packet::new((net.outside, 53), client, Body::Udp);
    let packet = error(net, net.client, unreachable, &world, 8);
    rows.push(row("an error to the world", packet).into_stack());
    let service = Packet::new((net.vips.local, PORT), client, Body::Udp);
    let packet = error(net, net.client, unreachable, &service, 8);
    rows.push(row("an error to a service", packet).dropped(Reason::ServiceProtocol));
    let others = received.clone().to((net.local, CLIENT_PORT));
    let packet = error(net, net.client, exceeded, &others, 8);
    rows.push(row("an error about another's packet", packet).dropped(Reason::ForgedError));
    let misled = error(net, net.client, unreachable, &received, 8).to((net.outside, 0));
    rows.push(row("an error to somebody else", misled).dropped(Reason::ForgedError));
    let mine = Packet::new(client, (net.remote, 1), Body::Udp);
    let packet =
        Packet { destination: (net.remote, 0), ..error(net, net.client, unreachable, &mine, 8) };
    rows.push(row("an error about its own packet", packet).dropped(Reason::ForgedError));
    let forged = error(net, net.local, unreachable, &received.to((net.local, 5)), 8);
    let spoofed = Packet { source: (net.other, 0), ..forged };
    rows.push(row("an error from another's address", spoofed).dropped(Reason::SpoofedSource));
    // The quoted packet must be there to be judged.
    let at = fine_quote(net);
    for (what, missing) in [("nothing quoted", at.1), ("half a header quoted", at.1 - 10)] {
        let whole = error(net, net.client, unreachable, &near, 0);
        let length = whole.bytes().len() - missing;
        let shorter = shorten(net, whole, length);
        rows.push(row(what, shorter).dropped(Reason::Malformed));
    }
    // Errors that arrive about direct packets stay as they are.
    let sent = Packet::new(client, (net.remote, 9), Body::Udp);
    let packet = error(net, net.remote, unreachable, &sent, 8);
    rows.push(
        Row::new(format!("{name}: about a direct packet"), Hook::FromUplink, packet.clone())
            .into_pod(CLIENT_MAC),
    );
    let opened = Packet::new(client, (net.vips.remote, PORT), Body::Udp);
    rows.push(
        Row::new(format!("{name}: the same beside a flow"), Hook::FromUplink, packet)
            .after(Hook::FromPod, opened)
            .into_pod(CLIENT_MAC),
    );
    for (what, kind) in if net.client.is_ipv4() {
        [("a redirect", 5), ("a router advertisement", 9)]
    } else {
        [("a redirect", 137), ("a router advertisement", 134)]
    } {
        let packet = Packet::new(client, (net.remote, 0), Body::Icmp(kind));
        rows.push(row(what, packet).dropped(Reason::RouterMessage));
    }
    rows
}

/// Where the quoted packet starts, and how long its header is.
fn fine_quote(net: &Net) -> (usize, usize) {
    if net.client.is_ipv4() { (42, 20) } else { (62, 40) }
}

/// The frame cut to this length, with lengths that agree.
fn shorten(net: &Net, packet: Packet, length: usize) -> Packet {
    let (at, header) = if net.client.is_ipv4() { (16, 14) } else { (18, 54) };
    let total = ((length - header) as u16).to_be_bytes();
    packet.patch(at, &total).cut(length)
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn about_other_packets() {
    Lab::run(|lab| {
        let rows: Vec<Row> = nets().iter().flat_map(about_others).collect();
        lab.check("errors about other packets", &rows);
    });
}
