//! Flows that were balanced packet by packet: answers, their end, and a pod that is its own
//! backend.

use std::net::IpAddr;

use bowline_ebpf_abi::{Flow, FlowKey, Reason, U16Be, flow_ended, flow_idle, flow_kind, protocol};
use bowline_lab::frame::{ACK, Body, FIN, Packet, RST, SYN, TCP};
use bowline_lab::packets::{
    AFFINITY_SECONDS, BACKEND_PORT, CLIENT_MAC, CLIENT_PORT, DEVICE, LOCAL, LOCAL_MAC, Lab, Net,
    OWN, PORT, REMOTE, STICKY, nets,
};
use bowline_lab::rows::{Hook, Row};

fn to(net: &Net, vip: IpAddr, body: Body) -> Packet {
    Packet::new((net.client, CLIENT_PORT), (vip, PORT), body)
}

fn answer(net: &Net, from: IpAddr, body: Body) -> Packet {
    Packet::new((from, BACKEND_PORT), (net.client, CLIENT_PORT), body)
}

/// What the client sends to the backend without a service.
fn itself(net: &Net, body: Body) -> Packet {
    Packet::new((net.client, CLIENT_PORT), (net.remote, BACKEND_PORT), body)
}

fn answers(net: &Net) -> Vec<Row> {
    let mut rows = Vec::new();
    let bodies = [("TCP", Body::Tcp(SYN), Body::Tcp(SYN | ACK)), ("UDP", Body::Udp, Body::Udp)];
    for (body, opening, answering) in bodies {
        let what = |rest: &str| format!("{}: {body} answer {rest}", net.name);
        let near = answer(net, net.local, answering.clone());
        let far = answer(net, net.remote, answering.clone());
        let named = |packet: &Packet, vip| packet.clone().from((vip, PORT));
        let opened = |row: Row, vip| row.after(Hook::FromPod, to(net, vip, opening.clone()));
        rows.push(
            opened(
                Row::new(what("of a local backend"), Hook::FromPod, near.clone()),
                net.vips.local,
            )
            .into_pod_as(CLIENT_MAC, named(&near, net.vips.local))
            .continues(net.service(LOCAL), Reason::AnswerTranslated),
        );
        rows.push(
            opened(
                Row::new(what("from the uplink"), Hook::FromUplink, far.clone()),
                net.vips.remote,
            )
            .into_pod_as(CLIENT_MAC, named(&far, net.vips.remote))
            .continues(net.service(REMOTE), Reason::AnswerTranslated),
        );
        rows.push(
            opened(Row::new(what("from the stack"), Hook::ToPod, far.clone()), net.vips.remote)
                .into_stack_as(named(&far, net.vips.remote))
                .continues(net.service(REMOTE), Reason::AnswerTranslated),
        );
        let elsewhere = near.clone().to((net.client, CLIENT_PORT + 1));
        rows.push(
            opened(Row::new(what("to another port"), Hook::FromPod, elsewhere), net.vips.local)
                .into_pod(CLIENT_MAC),
        );
        rows.push(Row::new(what("of no flow"), Hook::FromPod, near.clone()).into_pod(CLIENT_MAC));
        let piece = far.clone().fragment(0, true);
        rows.push(
            opened(Row::new(what("in pieces"), Hook::FromUplink, piece), net.vips.remote)
                .dropped(Reason::FragmentedService),
        );
        let again = to(net, net.vips.local, opening.clone());
        rows.push(
            opened(
                Row::new(what("(a second packet)"), Hook::FromPod, again.clone()),
                net.vips.local,
            )
            .into_pod_as(LOCAL_MAC, again.to((net.local, BACKEND_PORT)))
            .continues(net.service(LOCAL), Reason::Balanced),
        );
        // The client speaks to the backend itself, from the same port: with TCP, once the flow is
        // over.
        let direct = opened(
            Row::new(what("to a direct flow"), Hook::FromUplink, far.clone()),
            net.vips.remote,
        );
        let over = answer(net, net.remote, Body::Tcp(RST));
        let direct = if body == "TCP" { direct.after(Hook::FromUplink, over) } else { direct };
        rows.push(direct.after(Hook::FromPod, itself(net, opening)).into_pod(CLIENT_MAC));
    }
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn names_come_back() {
    Lab::run(|lab| {
        let rows: Vec<Row> = nets().iter().flat_map(answers).collect();
        lab.check("names come back", &rows);
    });
}

fn own_backend(net: &Net) -> Vec<Row> {
    let name = net.name;
    let mut rows = Vec::new();
    for (body, opening, answering) in
        [("TCP", Body::Tcp(SYN), Body::Tcp(SYN | ACK)), ("UDP", Body::Udp, Body::Udp)]
    {
        let out = to(net, net.vips.own, opening);
        let seen = out.clone().from((net.vips.own, CLIENT_PORT)).to((net.client, BACKEND_PORT));
        rows.push(
            Row::new(format!("{name}: {body} to itself"), Hook::FromPod, out.clone())
                .into_pod_as(CLIENT_MAC, seen)
                .opens(net.service(OWN)),
        );
        let back = (net.client, BACKEND_PORT);
        let back = Packet::new(back, (net.vips.own, CLIENT_PORT), answering);
        let named = back.clone().from((net.vips.own, PORT)).to((net.client, CLIENT_PORT));
        rows.push(
            Row::new(format!("{name}: {body} answer to itself"), Hook::FromPod, back)
                .after(Hook::FromPod, out)
                .into_pod_as(CLIENT_MAC, named)
                .continues(net.service(OWN), Reason::AnswerTranslated),
        );
    }
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_pod_is_its_own_backend() {
    Lab::run(|lab| {
        let rows: Vec<Row> = nets().iter().flat_map(own_backend).collect();
        lab.check("own backend", &rows);
    });
}

/// A flow's entry that names a backend's answers.
fn naming(net: &Net, number: u8) -> (FlowKey, Flow) {
    let key = FlowKey {
        source: net.remote.into(),
        destination: net.client.into(),
        source_port: U16Be::new(BACKEND_PORT),
        destination_port: U16Be::new(CLIENT_PORT),
        protocol: number,
        ..FlowKey::default()
    };
    let flow = Flow {
        address: net.vips.remote.into(),
        port: U16Be::new(PORT),
        kind: flow_kind::TO_CLIENT,
        service: net.service(REMOTE),
        owner: DEVICE,
        ..Flow::default()
    };
    (key, flow)
}

/// Two connections of one pod, from one port and to one backend: of the first, which came through
/// another service, there is the entry for the backend's answers.
fn alike(net: &Net) -> Vec<Row> {
    let fin = flow_ended::BY_CLIENT;
    let table = [
        ("that is open", 0, 0, 0, true),
        ("that is idle", 0, 0, flow_idle::TCP - 2, true),
        ("that nobody answers yet", flow_ended::OPENING, 0, 0, true),
        ("that nobody answered", flow_ended::OPENING, 0, flow_idle::TCP_OPENING + 2, false),
        ("that is half closed", fin, 0, 0, true),
        ("that is long gone", 0, 0, flow_idle::TCP + 2, false),
        ("that is closed", fin | flow_ended::BY_BACKEND, 0, 0, false),
        ("that was reset", flow_ended::RESET, 0, 0, false),
        ("of an earlier pod", 0, 7, 0, false),
    ];
    let (key, flow) = naming(net, protocol::TCP);
    let flow = Flow { address: net.vips.local.into(), ..flow };
    let opening = to(net, net.vips.remote, Body::Tcp(SYN));
    let translated = opening.clone().to((net.remote, BACKEND_PORT));
    let mut rows = Vec::new();
    for (what, ended, owner, age, refused) in table {
        let first = Flow { ended, owner: DEVICE + owner, ..flow };
        let row = |rest: &str, packet: &Packet| {
            let what = format!("{}: {rest} one {what}", net.name);
            Row::new(what, Hook::FromPod, packet.clone()).flow(key, first, age)
        };
        let through = row("a connection through a service, after", &opening);
        let direct = row("a connection to the backend, after", &itself(net, Body::Tcp(SYN)));
        if refused {
            rows.push(through.dropped(Reason::PortTaken));
            rows.push(direct.dropped(Reason::PortTaken));
        } else {
            let node = through.into_node_as(translated.clone());
            rows.push(node.opens(net.service(REMOTE)));
            rows.push(direct.into_node());
        }
    }
    // With UDP the later one has the answers.
    let (key, flow) = naming(net, protocol::UDP);
    let flow = Flow { address: net.vips.local.into(), ..flow };
    let datagram = to(net, net.vips.remote, Body::Udp);
    let translated = datagram.clone().to((net.remote, BACKEND_PORT));
    rows.push(
        Row::new(
            format!("{}: a datagram after another service's", net.name),
            Hook::FromPod,
            datagram,
        )
        .flow(key, flow, 0)
        .into_node_as(translated)
        .opens(net.service(REMOTE)),
    );
    rows
}

/// A connection that is asked for again is one whose answers come back, or it is made anew.
fn asked_again(net: &Net) -> Vec<Row> {
    let opening = to(net, net.vips.remote, Body::Tcp(SYN));
    let key = FlowKey {
        source: net.client.into(),
        destination: net.vips.remote.into(),
        source_port: U16Be::new(CLIENT_PORT),
        destination_port: U16Be::new(PORT),
        protocol: protocol::TCP,
        ..FlowKey::default()
    };
    let flow = Flow {
        address: net.remote.into(),
        port: U16Be::new(BACKEND_PORT),
        kind: flow_kind::TO_BACKEND,
        backend: net.service(REMOTE) * 4,
        service: net.service(REMOTE),
        owner: DEVICE,
        ..Flow::default()
    };
    let translated = opening.clone().to((net.remote, BACKEND_PORT));
    let row = |what: &str| {
        let what = format!("{}: a connection asked for again, {what}", net.name);
        Row::new(what, Hook::FromPod, opening.clone()).flow(key, flow, 0)
    };
    let (answers, naming) = naming(net, protocol::TCP);
    let others = Flow { address: net.vips.local.into(), ..naming };
    vec![
        row("with the way back")
            .flow(answers, naming, 0)
            .into_node_as(translated.clone())
            .continues(net.service(REMOTE), Reason::Balanced),
        row("without a way back").into_node_as(translated).opens(net.service(REMOTE)),
        row("with another's way back").flow(answers, others, 0).dropped(Reason::PortTaken),
    ]
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn answers_belong_to_one_connection() {
    Lab::run(|lab| {
        let rows: Vec<Row> =
            nets().iter().flat_map(|net| [alike(net), asked_again(net)]).flatten().collect();
        lab.check("answers of two connections", &rows);
    });
}

fn ages(net: &Net) -> Vec<Row> {
    let (fin, both) = (flow_ended::BY_CLIENT, flow_ended::BY_CLIENT | flow_ended::BY_BACKEND);
    let (tcp, udp) = (protocol::TCP, protocol::UDP);
    let table = [
        ("UDP", udp, 0, flow_idle::UDP),
        ("open TCP", tcp, 0, flow_idle::TCP),
        ("unanswered TCP", tcp, flow_ended::OPENING, flow_idle::TCP_OPENING),
        ("closing TCP", tcp, fin, flow_idle::TCP_CLOSING),
        ("closed TCP", tcp, both, flow_idle::TCP_CLOSED),
        ("reset TCP", tcp, flow_ended::RESET, flow_idle::TCP_CLOSED),
    ];
    let mut rows = Vec::new();
    for (what, number, ended, patience) in table {
        let body = if number == TCP { Body::Tcp(ACK) } else { Body::Udp };
        let packet = answer(net, net.remote, body);
        let named = packet.clone().from((net.vips.remote, PORT));
        let (key, flow) = naming(net, number);
        let flow = Flow { ended, ..flow };
        let row = |rest: &str, flow, age| {
            let what = format!("{}: {what} flow {rest}", net.name);
            Row::new(what, Hook::FromUplink, packet.clone()).flow(key, flow, age)
        };
        rows.push(
            row("near its end", flow, patience - 2)
                .into_pod_as(CLIENT_MAC, named.clone())
                .continues(net.service(REMOTE), Reason::AnswerTranslated),
        );
        rows.push(row("past its end", flow, patience + 2).into_pod(CLIENT_MAC));
        let predecessor = Flow { owner: DEVICE + 7, ..flow };
        rows.push(row("of an earlier pod", predecessor, 0).into_pod(CLIENT_MAC));
    }
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn flows_age() {
    Lab::run(|lab| {
        let rows: Vec<Row> = nets().iter().flat_map(ages).collect();
        lab.check("ages", &rows);
    });
}

/// What TCP says of a connection's end is noted in both directions.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn the_end_of_a_connection_is_noted() {
    Lab::run(|lab| {
        for net in nets() {
            let both = flow_ended::BY_CLIENT | flow_ended::BY_BACKEND;
            let opening = flow_ended::OPENING;
            let out = |flags| (Hook::FromPod, to(&net, net.vips.remote, Body::Tcp(flags)));
            let back = |flags| (Hook::FromUplink, answer(&net, net.remote, Body::Tcp(flags)));
            let table = [
                ("open", vec![out(SYN), back(SYN | ACK), out(ACK)], 0),
                ("opening", vec![out(SYN), out(SYN)], opening),
                ("given up", vec![out(SYN), out(RST)], flow_ended::RESET | opening),
                ("half closed", vec![out(SYN), back(ACK), out(FIN | ACK)], flow_ended::BY_CLIENT),
                ("the other half", vec![out(SYN), back(FIN | ACK)], flow_ended::BY_BACKEND),
                ("closed", vec![out(SYN), back(FIN | ACK), out(FIN | ACK)], both),
                ("reset", vec![out(SYN), back(RST)], flow_ended::RESET),
                ("opened anew", vec![out(SYN), back(RST), out(SYN)], opening),
            ];
            for (what, packets, ended) in table {
                lab.clear();
                for (hook, packet) in packets {
                    lab.send(hook, &packet.bytes()).unwrap();
                }
                let flows = lab.flows();
                let found: Vec<u8> = flows.iter().map(|(_, flow)| flow.ended).collect();
                assert_eq!(found, [ended, ended], "{}: {what}", net.name);
            }
        }
    });
}

/// The service's only backend is another now, under the same number.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn an_open_connection_stays_and_a_new_one_moves() {
    Lab::run(|lab| {
        for net in nets() {
            lab.clear();
            let sent_to = |lab: &mut Lab, flags| {
                let packet = to(&net, net.vips.local, Body::Tcp(flags));
                let (_, out) = lab.send(Hook::FromPod, &packet.bytes()).unwrap();
                match net.client {
                    IpAddr::V4(_) => IpAddr::from(<[u8; 4]>::try_from(&out[30..34]).unwrap()),
                    IpAddr::V6(_) => IpAddr::from(<[u8; 16]>::try_from(&out[38..54]).unwrap()),
                }
            };
            assert_eq!(sent_to(lab, SYN), net.local);
            lab.replace_backend(&net, LOCAL, (net.remote, BACKEND_PORT));
            assert_eq!(sent_to(lab, ACK), net.local, "an open connection stays");
            assert_eq!(sent_to(lab, SYN), net.remote, "a new one goes where backends are");
        }
    });
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_client_is_known_again() {
    Lab::run(|lab| {
        for net in nets() {
            lab.clear();
            let port = |port| Packet {
                source: (net.client, port),
                ..to(&net, net.vips.sticky, Body::Tcp(SYN))
            };
            for n in 0..20 {
                lab.send(Hook::FromPod, &port(41_000 + n).bytes()).unwrap();
            }
            let flows = lab.flows().into_iter().map(|(_, flow)| flow);
            let chosen: Vec<u32> = flows
                .filter(|flow| flow.kind == flow_kind::TO_BACKEND)
                .map(|flow| flow.backend)
                .collect();
            assert_eq!(chosen.len(), 20);
            assert!(chosen.iter().all(|backend| *backend == chosen[0]), "{chosen:?}");
            assert!(chosen[0] / 4 == net.service(STICKY));
        }
    });
}

/// The first packet of a flow to the service with affinity, of which each backend is one row.
fn known(net: &Net) -> Vec<Row> {
    let timeout = u64::from(AFFINITY_SECONDS);
    let mut rows = Vec::new();
    for (body, content) in [("TCP", Body::Tcp(SYN)), ("UDP", Body::Udp)] {
        let packet = to(net, net.vips.sticky, content);
        for (idle, seconds_ago) in [("a moment", 0), ("nearly as long as it may be", timeout - 5)] {
            let row = |backend| {
                let what = format!("{}: {body} of a client that was idle {idle}", net.name);
                let row = Row::new(what, Hook::FromPod, packet.clone());
                row.known(net.client, backend, seconds_ago)
            };
            let near = packet.clone().to((net.local, BACKEND_PORT));
            let far = packet.clone().to((net.remote, BACKEND_PORT));
            let id = net.service(STICKY);
            rows.push(row(0).into_pod_as(LOCAL_MAC, near).opens(id));
            rows.push(row(1).into_node_as(far).opens(id));
        }
    }
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_client_keeps_its_backend_until_it_was_idle_for_too_long() {
    const TRIES: u32 = 40;
    Lab::run(|lab| {
        let rows: Vec<Row> = nets().iter().flat_map(known).collect();
        lab.check("affinity", &rows);
        let timeout = u64::from(AFFINITY_SECONDS);
        for net in nets() {
            let send = |lab: &mut Lab, seconds_ago, backend| {
                lab.clear();
                lab.add_client(net.client, backend, seconds_ago);
                let packet = to(&net, net.vips.sticky, Body::Tcp(SYN));
                lab.send(Hook::FromPod, &packet.bytes()).unwrap();
                let flows = lab.flows().into_iter().map(|(_, flow)| flow);
                let sent: Vec<u32> = flows
                    .filter(|flow| flow.kind == flow_kind::TO_BACKEND)
                    .map(|flow| flow.backend - 4 * net.service(STICKY))
                    .collect();
                let (kept, idle) = lab.client(net.client);
                assert_eq!(sent, [kept], "{}: what was chosen is what is kept to", net.name);
                (kept, idle)
            };
            for backend in [0, 1] {
                // The time of a use is written when a sixteenth of the time-out has passed.
                let (kept, idle) = send(lab, timeout / 16 - 5, backend);
                assert!(kept == backend && idle >= timeout / 16 - 5, "{kept} {idle}");
                let (kept, idle) = send(lab, timeout / 16 + 5, backend);
                assert!(kept == backend && idle < 5, "{kept} {idle}");
                // One that was idle for too long goes anywhere.
                let moved = (0..TRIES).filter(|_| {
                    let (kept, idle) = send(lab, timeout + 5, backend);
                    assert!(idle < 5, "{}: {idle} s", net.name);
                    kept != backend
                });
                let moved = moved.count();
                assert!(moved > 0 && moved < TRIES as usize, "{}: {moved} moved", net.name);
            }
        }
    });
}
