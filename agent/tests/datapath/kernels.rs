//! What `cargo xtask kernels` runs in every guest: all programs at work between two nodes, in one
//! world, because software emulation makes each world dear.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bowline_agent::datapath::{Datapath, Feature, ProgramStatus};
use bowline_lab::world::{Node, Pod, TUNNEL, UPLINK, World};
use nix::errno::Errno;

use crate::refusals::calls;
use crate::servers::{
    BACKEND_PORT, Connection, PATIENCE, SERVICE, SERVICE6, Server, VIP, services_of,
};
use crate::sockets::all_reach_each_other;

/// Also says what the guest's row in the table needs.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn traffic_flows_between_two_nodes() {
    let world = World::new();
    let (mut here, there) = world.open();
    let status = world.here.status();
    for feature in &status.features {
        assert!(feature.present || feature.otherwise.is_some(), "{feature:?}");
        if feature.used {
            println!("bowline-fact feature {}", feature.name);
        }
    }
    let at_work =
        |program: &&ProgramStatus| program.instructions.is_some() && !program.attached.is_empty();
    let count = status.programs.iter().filter(at_work).count();
    println!("bowline-fact programs {count}/{}", status.programs.len());
    assert!(count >= 11 && count == status.programs.len(), "{:?}", status.programs);
    all_hooks_see_packets(&world);
    flows_between_two_nodes(&world, &mut here);
    packets_take_the_short_ways(&world);
    all_reach_each_other(&world);
    let nodes = [&world.here, &world.there];
    let before = nodes.map(|node| sent(node, TUNNEL));
    assert!(before.iter().all(|packets| *packets < OTHERS), "{before:?} went through the tunnel");

    let (mut here, _there) = world.tunnel(here, there);
    let far = world.backends()[1];
    let _server = Server::start(far);
    flows_to(&world, &mut here, far);
    let through = [0, 1].map(|n| sent(nodes[n], TUNNEL) - before[n]);
    assert!(through.iter().all(|packets| *packets > 30), "{through:?} went through the tunnel");
}

/// What newer kernels have is switched off, and the older way carries the same traffic.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn traffic_flows_without_the_features_that_have_another_way() {
    let world = World::new();
    let (newest, _there) = world.open();
    let used = |node: &Node| {
        let features = node.status().features.into_iter().filter(|feature| feature.used);
        features.map(|feature| feature.name).collect::<Vec<_>>()
    };
    let before = used(&world.here);
    drop(newest);
    let all = [Feature::Tcx, Feature::SetRetval];
    let here = world.open_without(&all);
    let after = used(&world.here);
    assert!(!after.iter().any(|name| name == "tcx" || name == "set-retval"), "{after:?}");
    assert!(before.iter().any(|name| name == "redirect-peer") && before.len() <= after.len() + 2);

    let status = world.here.status();
    let hooks: Vec<&str> = status.programs.iter().map(|program| program.hook.as_str()).collect();
    assert!(hooks.contains(&"clsact ingress") && !hooks.contains(&"tcx ingress"), "{hooks:?}");
    // Each packet is seen by the filters alone: what the links left is gone.
    let left = world.here.link_pins();
    assert!(!left.iter().any(|pin| pin.contains("_pod") || pin.contains("uplink")), "{left:?}");

    all_hooks_see_packets(&world);
    let here = lost_filters_are_missed(&world, here);

    let mut here = refused_with(&world, here, Errno::EPERM);
    flows_between_two_nodes(&world, &mut here);
    let here = world.open_without(&[]);
    let error = match before.iter().any(|name| name == "set-retval") {
        true => Errno::ECONNREFUSED,
        false => Errno::EPERM,
    };
    let mut here = refused_with(&world, here, error);
    all_hooks_see_packets(&world);
    flows_between_two_nodes(&world, &mut here);
}

/// A service without backends refuses every call with this error, by both families and by IPv4 on
/// a socket of IPv6.
fn refused_with(world: &World, mut here: Datapath, expected: Errno) -> Datapath {
    here.apply_services(&services_of(&[])).unwrap();
    let mapped = SocketAddr::from((VIP.to_ipv6_mapped(), SERVICE.port()));
    world.here.cgroup.enter();
    for to in [SERVICE, SERVICE6, mapped] {
        for namespace in [&world.client().namespace, &world.here.namespace] {
            let start = Instant::now();
            for (call, result) in namespace.run(move || calls(to)) {
                let error = result.err().and_then(|error| error.raw_os_error());
                assert_eq!(error.map(Errno::from_raw), Some(expected), "{call} to {to}");
            }
            assert!(start.elapsed() < PATIENCE, "{to} is refused at once");
        }
    }
    world.here.cgroup.leave();
    here
}

/// Every packet program of both nodes runs where it should, by what the kernel says, and sees what
/// the nodes' own processes and the pods send each other.
fn all_hooks_see_packets(world: &World) {
    const DATAGRAMS: u32 = 50;
    let nodes = [&world.here, &world.there];
    let problems = nodes.map(|node| node.status().problems);
    assert_eq!(problems, [Vec::<String>::new(), Vec::new()]);
    let _servers = world.backends().map(Server::start);
    // A node's stack hands packets to a pod beside it, and answers come from there; from the other
    // node's pod they come by the uplink.
    let expected = [&["to-pod", "from-pod", "from-uplink"][..], &["from-uplink", "from-pod"]];
    for v6 in [false, true] {
        let before = nodes.map(seen);
        for pod in world.backends() {
            let to = if v6 { pod.address6.into() } else { pod.address.into() };
            world.here.namespace.run(move || ping_pong((to, BACKEND_PORT), DATAGRAMS));
        }
        for ((node, before), expected) in nodes.into_iter().zip(before).zip(expected) {
            let after = seen(node);
            for direction in expected {
                let [before, after] = [&before, &after].map(|all| all.get(direction).copied());
                let more = after.unwrap_or_default() - before.unwrap_or_default();
                assert!(more >= u64::from(DATAGRAMS), "{direction}: {more}, IPv6: {v6}");
            }
        }
    }
}

/// How many packets each packet program of a node has counted on their way, by direction.
fn seen(node: &Node) -> BTreeMap<&'static str, u64> {
    let mut all = BTreeMap::new();
    let rows = node.snapshot().counters.into_iter();
    let ways = ["local-pod", "remote-node", "stack"];
    for row in rows.filter(|row| ways.contains(&row.reason)) {
        *all.entry(row.direction).or_default() += row.packets;
    }
    all
}

/// A filter that somebody removed is no longer said to be there, and is put back.
fn lost_filters_are_missed(world: &World, mut here: Datapath) -> Datapath {
    let link = &world.client().link;
    for (program, side, device, ifindex) in [
        ("from_pod", "ingress", link.name.as_str(), link.ifindex),
        ("to_pod", "egress", link.name.as_str(), link.ifindex),
        ("from_uplink", "ingress", UPLINK, world.here.namespace.ifindex(UPLINK)),
    ] {
        let place = format!("link {ifindex}");
        let is_said_there = || {
            let status = world.here.status();
            let found = status.programs.iter().find(|found| found.name == program);
            (found.unwrap().attached.contains(&place), status.problems)
        };
        assert_eq!(is_said_there(), (true, Vec::new()));
        world.here.namespace.tc(&format!("filter del dev {device} {side} prio 1"));
        let problem = format!("program {program} does not run at {place}: no filter of ours is");
        let (there, problems) = is_said_there();
        assert!(problems.len() == 1 && problems[0].contains(&problem), "{problems:?}");
        assert!(!there, "{program} at {place}");
        let repairs;
        (here, repairs) = world.here.verify(here);
        let [repair] = &repairs[..] else { panic!("{program}: {repairs:?}") };
        let words = [program, "its filter was gone", "attached again"];
        assert!(words.iter().all(|word| repair.contains(word)), "{repair}");
        assert_eq!(is_said_there(), (true, Vec::new()));
    }
    here
}

/// To a pod of this node and to one of the other, by both families.
fn flows_between_two_nodes(world: &World, here: &mut Datapath) {
    let _servers = world.backends().map(Server::start);
    for backend in world.backends() {
        flows_to(world, here, backend);
    }
}

fn flows_to(world: &World, here: &mut Datapath, backend: &Pod) {
    here.apply_services(&services_of(&[backend])).unwrap();
    for service in [SERVICE, SERVICE6] {
        let (backend, client) = (backend.like(service.ip()), world.client().like(service.ip()));
        let seen = [format!("{backend} {client}"), format!("{backend} {client}")];
        let direct = SocketAddr::from((backend, BACKEND_PORT));
        assert_eq!(asked(world, direct, LARGE), seen, "pod to pod");
        // Outside the cgroup no socket hook runs, so each packet is translated.
        let before = world.here.counted("balanced");
        assert_eq!(asked(world, service, SMALL), seen, "packet programs");
        let translated = settled(|| world.here.counted("balanced"));
        assert!(translated > before, "{before} {translated}");

        world.here.cgroup.enter();
        assert_eq!(asked(world, service, LARGE), seen, "socket programs");
        assert_eq!(world.here.counted("balanced"), translated, "no packet was translated");
        world.here.cgroup.leave();
    }
}

/// Other packets that may be on the way meanwhile: what stacks say of themselves.
const OTHERS: u64 = 20;

/// Packets of a pod go straight into the network namespace of a pod beside it, and to another node
/// past their own node's stack.
fn packets_take_the_short_ways(world: &World) {
    const DATAGRAMS: u32 = 200;
    let _servers = world.backends().map(Server::start);
    for (backend, way) in world.backends().into_iter().zip(["redirect_peer", "redirect_neigh"]) {
        for address in [IpAddr::from(backend.address), backend.address6.into()] {
            let pods = [world.client(), world.backends()[0]];
            // A packet that is sent out of the host side of a veth counts there.
            let counts = || {
                let links = pods.map(|pod| sent(&world.here, &pod.link.name));
                [links[0], links[1], forwarded(&world.here, address.is_ipv6())]
            };
            let before = counts();
            world.client().namespace.run(move || ping_pong((address, BACKEND_PORT), DATAGRAMS));
            let after = counts();
            let more = [0, 1, 2].map(|n| after[n] - before[n]);
            println!("{DATAGRAMS} datagrams to {address}: {more:?} sent, sent, forwarded");
            assert!(more.iter().all(|count| *count < OTHERS), "{way} to {address}: {more:?}");
        }
    }
}

/// Sends datagrams, each after the answer to the one before.
fn ping_pong(to: (IpAddr, u16), datagrams: u32) {
    let any: SocketAddr = if to.0.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    for number in 0..datagrams {
        socket.send(number.to_string().as_bytes()).unwrap();
        let mut buffer = [0; 128];
        let length = socket.recv(&mut buffer).unwrap();
        let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(answer.ends_with(&format!(" {number}")), "{answer}");
    }
}

/// How many packets a device of this node has sent.
fn sent(node: &Node, device: &str) -> u64 {
    let list = node.namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let line = list.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    line.unwrap().split_whitespace().nth(9).unwrap().parse().unwrap()
}

/// How many packets of a family this node's own stack has passed on.
fn forwarded(node: &Node, v6: bool) -> u64 {
    let read = |name: &'static str| {
        node.namespace
            .run(move || fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap())
    };
    let count = if v6 {
        let text = read("snmp6");
        let line = text.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams"));
        line.unwrap().trim().to_owned()
    } else {
        let text = read("snmp");
        let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut columns = names.split(' ').zip(values.split(' '));
        columns.find(|(name, _)| *name == "ForwDatagrams").unwrap().1.to_owned()
    };
    count.parse().unwrap()
}

/// A number that has stopped to change: a closed connection has some packets left to send.
fn settled(read: impl Fn() -> u64) -> u64 {
    let mut last = read();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(200));
        let next = read();
        if next == last {
            return next;
        }
        last = next;
    }
    last
}

/// Bytes of a question that fits into one packet, and of one that does not: over UDP it travels as
/// fragments.
const SMALL: usize = 5;
const LARGE: usize = 4000;

/// Who answers the client over TCP and over UDP, and which client they see: `backend client`.
fn asked(world: &World, to: SocketAddr, size: usize) -> [String; 2] {
    let question = "q".repeat(size);
    let answers = world.client().namespace.run({
        let question = question.clone();
        move || {
            let mut connection = Connection::open(to).unwrap();
            assert_eq!(connection.peer(), to, "getpeername");
            let stream = connection.say(&question).unwrap();

            let any: SocketAddr =
                if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(question.as_bytes(), to).unwrap();
            let mut buffer = [0; 2 * LARGE];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(from, to, "answers come from where they were asked for");
            [stream, String::from_utf8_lossy(&buffer[..length]).into_owned()]
        }
    });
    answers.map(|answer| {
        let who = answer.strip_suffix(&question).expect("the whole question comes back");
        who.trim_end().to_owned()
    })
}
