//! Packets that go where they should: pods, nodes, tunnels, services, the stack.

use bowline_ebpf_abi::Reason;
use bowline_lab::frame::{ACK, Body, DEVICE_MAC, End, HOST_MAC, Packet, SYN};
use bowline_lab::packets::{
    BACKEND_PORT, CLIENT_PORT, LOCAL, LOCAL_MAC, Lab, NODE, Net, PORT, REMOTE, TUNNELLED, nets,
};
use bowline_lab::rows::{Hook, Row};

fn client(net: &Net) -> End {
    (net.client, CLIENT_PORT)
}

/// A packet with every kind of body, between these.
fn bodies(from: End, to: End) -> Vec<(&'static str, Packet)> {
    let mut all = vec![
        ("TCP", Packet::new(from, to, Body::Tcp(ACK))),
        ("UDP", Packet::new(from, to, Body::Udp)),
        ("echo", Packet::new(from, to, Body::Icmp(if from.0.is_ipv4() { 8 } else { 128 }))),
        ("SCTP", Packet::new(from, to, Body::Other(132, vec![7; 40]))),
        ("a protocol without data", Packet::new(from, to, Body::Other(59, Vec::new()))),
    ];
    if from.0.is_ipv4() {
        all.push(("UDP without a checksum", Packet::new(from, to, Body::UdpUnchecked)));
    }
    all
}

fn direct(net: &Net) -> Vec<Row> {
    let mut rows = Vec::new();
    let name = net.name;
    for (body, packet) in bodies(client(net), (net.local, BACKEND_PORT)) {
        let row = |what: &str, hook, packet: &Packet| {
            Row::new(format!("{name}: {body} {what}"), hook, packet.clone())
        };
        rows.push(row("to a pod of this node", Hook::FromPod, &packet).into_pod(LOCAL_MAC));
        let far = packet.clone().to((net.remote, BACKEND_PORT));
        rows.push(row("to another node's pod", Hook::FromPod, &far).into_node());
        let tunnel = packet.clone().to((net.tunnelled, BACKEND_PORT));
        rows.push(row("through the tunnel", Hook::FromPod, &tunnel).into_node());
        let arriving = packet.clone().from((net.remote, CLIENT_PORT));
        rows.push(row("from the uplink", Hook::FromUplink, &arriving).into_pod(LOCAL_MAC));
        rows.push(row("from the stack", Hook::ToPod, &arriving).into_stack());
        let node = packet.clone().to((net.node, BACKEND_PORT));
        rows.push(row("to the node", Hook::FromPod, &node).into_stack());
    }
    let tcp = Packet::new(client(net), (net.local, PORT), Body::Tcp(SYN));
    let row = |what: &str, hook, packet: Packet| Row::new(format!("{name}: {what}"), hook, packet);
    let outside = tcp.clone().to((net.outside, PORT));
    rows.push(row("to the world", Hook::FromPod, outside.clone()).into_stack());
    rows.push(row("from the world to nobody here", Hook::FromUplink, outside).into_stack());
    rows.push(row("with one hop to live", Hook::FromPod, tcp.clone().hops(1)).into_stack());
    rows.push(row("with none", Hook::FromPod, tcp.clone().hops(0)).into_stack());
    rows.push(row("with two", Hook::FromPod, tcp.clone().hops(2)).into_pod(LOCAL_MAC));
    let arriving = tcp.clone().from((net.remote, PORT));
    let expired = arriving.clone().hops(1);
    rows.push(row("expired on the uplink", Hook::FromUplink, expired).into_stack());
    let flooded = Packet { to: HOST_MAC, ..arriving };
    rows.push(row("for another machine", Hook::FromUplink, flooded).into_stack());
    let padded = tcp.clone().cut(tcp.bytes().len() + 9);
    rows.push(row("padded", Hook::FromPod, padded).into_pod(LOCAL_MAC));
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn untranslated() {
    Lab::run(|lab| {
        let rows: Vec<Row> = nets().iter().flat_map(direct).collect();
        lab.check("untranslated", &rows);
    });
}

fn balanced(net: &Net) -> Vec<Row> {
    let mut rows = Vec::new();
    let named = [("TCP", Body::Tcp(SYN)), ("UDP", Body::Udp), ("mid-stream TCP", Body::Tcp(ACK))];
    for (body, content) in named {
        let packet = |vip| Packet::new(client(net), (vip, PORT), content.clone());
        let row = |what: &str, packet: &Packet| {
            let what = format!("{}: {body} to a service {what}", net.name);
            Row::new(what, Hook::FromPod, packet.clone())
        };
        let local = packet(net.vips.local);
        rows.push(
            row("with a local backend", &local)
                .into_pod_as(LOCAL_MAC, local.clone().to((net.local, BACKEND_PORT)))
                .opens(net.service(LOCAL)),
        );
        let remote = packet(net.vips.remote);
        rows.push(
            row("with a remote backend", &remote)
                .into_node_as(remote.clone().to((net.remote, BACKEND_PORT)))
                .opens(net.service(REMOTE)),
        );
        let far = packet(net.vips.tunnelled);
        rows.push(
            row("with a backend behind the tunnel", &far)
                .into_node_as(far.clone().to((net.tunnelled, BACKEND_PORT)))
                .opens(net.service(TUNNELLED)),
        );
        let node = packet(net.vips.node);
        rows.push(
            row("that is the node itself", &node)
                .into_stack_as(node.clone().to((net.node, 53)))
                .opens(net.service(NODE)),
        );
        let other = local.clone().to((net.vips.local, PORT + 1));
        rows.push(row("on a port that it has not", &other).dropped(Reason::UnknownPort));
        // Between two services, and one that the other family's addresses would span.
        let nobody = local.clone().to((net.nobody, PORT));
        rows.push(row("that is none", &nobody).into_stack());
        let expired = local.clone().hops(1);
        rows.push(row("with one hop to live", &expired).into_stack());
        let padded = local.clone().cut(local.bytes().len() + 5);
        let out = padded.clone().to((net.local, BACKEND_PORT));
        rows.push(row("padded", &padded).into_pod_as(LOCAL_MAC, out).opens(net.service(LOCAL)));
    }
    for (body, packet) in bodies(client(net), (net.vips.local, PORT)) {
        if !body.contains("TCP") && !body.contains("UDP") {
            let row = |to: &str, packet: Packet| {
                Row::new(format!("{}: {body} to {to}", net.name), Hook::FromPod, packet)
            };
            rows.push(row("a service", packet.clone()).dropped(Reason::ServiceProtocol));
            let empty = packet.clone().to((net.vips.empty, PORT));
            rows.push(row("a service without backends", empty).dropped(Reason::ServiceProtocol));
            let expired = packet.clone().hops(1);
            rows.push(row("a service with one hop to live", expired).into_stack());
            rows.push(row("no service", packet.to((net.nobody, PORT))).into_stack());
        }
    }
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn services() {
    Lab::run(|lab| {
        let mut rows: Vec<Row> = nets().iter().flat_map(balanced).collect();
        let [v4, _] = nets();
        let unchecked = Packet::new(client(&v4), (v4.vips.local, PORT), Body::UdpUnchecked);
        rows.push(
            Row::new("IPv4: UDP without a checksum keeps none", Hook::FromPod, unchecked.clone())
                .into_pod_as(LOCAL_MAC, unchecked.to((v4.local, BACKEND_PORT)))
                .opens(v4.service(LOCAL)),
        );
        lab.check("services", &rows);
    });
}

/// Packets with fragments, options and extension headers.
fn unusual() -> Vec<Row> {
    let mut rows = Vec::new();
    let kinds = [("first", (0, true)), ("middle", (1480, true)), ("last", (2960, false))];
    for net in nets() {
        let piece =
            |to, (offset, more)| Packet::new(client(&net), to, Body::Udp).fragment(offset, more);
        for (kind, at) in kinds {
            let what = |rest: &str| format!("{}: {kind} fragment {rest}", net.name);
            let local = piece((net.local, BACKEND_PORT), at);
            rows.push(
                Row::new(what("to a pod"), Hook::FromPod, local.clone())
                    .into_pod(LOCAL_MAC)
                    .also(Reason::Fragment),
            );
            rows.push(
                Row::new(what("to another node"), Hook::FromPod, local.clone().to((net.remote, 9)))
                    .into_node()
                    .also(Reason::Fragment),
            );
            rows.push(
                Row::new(what("from the uplink"), Hook::FromUplink, local.from((net.remote, 9)))
                    .into_pod(LOCAL_MAC)
                    .also(Reason::Fragment),
            );
            let service =
                Row::new(what("to a service"), Hook::FromPod, piece((net.vips.local, PORT), at));
            rows.push(service.dropped(Reason::FragmentedService));
            let port = piece((net.vips.local, PORT + 1), at);
            rows.push(
                Row::new(what("to a port that the service has not"), Hook::FromPod, port)
                    .dropped(Reason::FragmentedService),
            );
            let echo = Packet {
                body: Body::Icmp(if net.client.is_ipv4() { 8 } else { 128 }),
                ..piece((net.vips.local, 0), at)
            };
            rows.push(
                Row::new(what("of an echo to a service"), Hook::FromPod, echo)
                    .dropped(Reason::ServiceProtocol),
            );
            let nobody = piece((net.nobody, PORT), at);
            rows.push(
                Row::new(what("to no service"), Hook::FromPod, nobody)
                    .into_stack()
                    .also(Reason::Fragment),
            );
        }
        let world = piece((net.outside, PORT), (0, true));
        let what = format!("{}: first fragment to the world", net.name);
        rows.push(Row::new(what, Hook::FromPod, world).into_stack().also(Reason::Fragment));
    }
    let [v4, v6] = nets();
    let to_local = |net: &Net| Packet::new(client(net), (net.local, PORT), Body::Tcp(SYN));
    let to_service = |net: &Net| Packet::new(client(net), (net.vips.local, PORT), Body::Tcp(SYN));
    let options: [(&str, &[u8]); 4] = [
        ("nothing but padding", &[1, 1, 1, 0]),
        ("a record route", &[7, 7, 4, 0, 0, 0, 0, 0]),
        ("a timestamp", &[68, 8, 5, 0, 0, 0, 0, 0]),
        ("40 bytes of them", &[1; 40]),
    ];
    for (what, bytes) in options {
        let direct = to_local(&v4).options(bytes);
        rows.push(
            Row::new(format!("IPv4 options, {what}: to a pod"), Hook::FromPod, direct)
                .into_pod(LOCAL_MAC)
                .also(Reason::IpOptions),
        );
        let service = to_service(&v4).options(bytes);
        rows.push(
            Row::new(format!("IPv4 options, {what}: to a service"), Hook::FromPod, service.clone())
                .into_pod_as(LOCAL_MAC, service.to((v4.local, BACKEND_PORT)))
                .opens(v4.service(LOCAL))
                .also(Reason::IpOptions),
        );
    }
    let rest = [0, 1, 4, 0, 0, 0, 0];
    let used_up = [0, 4, 0, 0, 0, 0, 0];
    let chains: [(&str, &[u8]); 5] = [
        ("hop-by-hop", &[0]),
        ("destination", &[60]),
        ("routing without segments left", &[43]),
        ("hop-by-hop, destination", &[0, 60]),
        ("five of them", &[0, 60, 43, 60, 60]),
    ];
    for (what, kinds) in chains {
        let build = |packet: Packet| {
            kinds.iter().fold(packet, |packet, kind| {
                packet.extension(*kind, if *kind == 43 { &used_up } else { &rest })
            })
        };
        rows.push(
            Row::new(format!("IPv6 {what}: to a pod"), Hook::FromPod, build(to_local(&v6)))
                .into_pod(LOCAL_MAC)
                .also(Reason::IpOptions),
        );
        let service = build(to_service(&v6));
        rows.push(
            Row::new(format!("IPv6 {what}: to a service"), Hook::FromPod, service.clone())
                .into_pod_as(LOCAL_MAC, service.to((v6.local, BACKEND_PORT)))
                .opens(v6.service(LOCAL))
                .also(Reason::IpOptions),
        );
    }
    // RFC 6946: a fragment header on a whole packet changes nothing.
    let atomic = to_service(&v6).fragment(0, false);
    rows.push(
        Row::new("IPv6 atomic fragment to a service", Hook::FromPod, atomic.clone())
            .into_pod_as(LOCAL_MAC, atomic.to((v6.local, BACKEND_PORT)))
            .opens(v6.service(LOCAL)),
    );
    let after = to_local(&v6).extension(0, &rest).fragment(1480, true);
    rows.push(
        Row::new("IPv6 hop-by-hop and a middle fragment", Hook::FromPod, after)
            .into_pod(LOCAL_MAC)
            .also(Reason::IpOptions)
            .also(Reason::Fragment),
    );
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn fragments_and_options() {
    Lab::run(|lab| lab.check("fragments and options", &unusual()));
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn link_layer() {
    Lab::run(|lab| {
        let [v4, v6] = nets();
        let arp = Packet {
            ether_type: Some(0x0806),
            ..Packet::new(client(&v4), (v4.local, 0), Body::Udp)
        };
        let mut rows = Vec::new();
        for hook in [Hook::FromPod, Hook::ToPod, Hook::FromUplink] {
            rows.push(Row::new(format!("ARP {hook:?}"), hook, arp.clone()).into_stack());
            let tagged = Packet { ether_type: Some(0x8100), ..arp.clone() };
            let row = Row::new(format!("VLAN {hook:?}"), hook, tagged.clone());
            let double = Packet { ether_type: Some(0x88a8), ..arp.clone() };
            let other = Row::new(format!("service VLAN {hook:?}"), hook, double);
            let odd = Packet { ether_type: Some(0x88cc), ..arp.clone() };
            let unknown = Row::new(format!("LLDP {hook:?}"), hook, odd);
            if hook == Hook::FromPod {
                rows.push(row.dropped(Reason::Vlan));
                rows.push(other.dropped(Reason::Vlan));
                rows.push(unknown.dropped(Reason::UnsupportedProtocol));
            } else {
                rows.extend([row.into_stack(), other.into_stack(), unknown.into_stack()]);
            }
        }
        let link_local = |last: &str| (format!("fe80::{last}").parse().unwrap(), 0);
        let group = ("ff02::1:ff00:1".parse().unwrap(), 0);
        let nobody = ("::".parse().unwrap(), 0);
        let own = (v6.client, 0);
        let cases = [
            ("neighbour solicitation", link_local("5"), group, 135),
            ("duplicate address detection", nobody, group, 135),
            ("neighbour solicitation to the gateway", own, link_local("1"), 135),
            ("neighbour advertisement", link_local("5"), link_local("1"), 136),
            ("router solicitation", link_local("5"), ("ff02::2".parse().unwrap(), 0), 133),
        ];
        for (what, from, to, kind) in cases {
            let packet = Packet::new(from, to, Body::Icmp(kind)).hops(255);
            rows.push(Row::new(what, Hook::FromPod, packet).into_stack());
        }
        assert_eq!(arp.to, DEVICE_MAC);
        lab.check("link layer", &rows);
    });
}
