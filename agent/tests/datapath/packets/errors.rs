//! ICMP errors about packets, translated ones and others, and what a pod may say in one.

use bowline_ebpf_abi::Reason;

use super::frame::{ACK, Body, Packet, SYN};
use super::lab::{
    BACKEND_PORT, CLIENT_MAC, CLIENT_PORT, Hook, LOCAL, LOCAL_MAC, Lab, Net, OWN, PORT, REMOTE,
    Row, nets,
};

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
