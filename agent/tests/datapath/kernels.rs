//! What `cargo xtask kernels` runs in every guest: all programs at work between two nodes, in one
//! world, because software emulation makes each world dear.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use bowline_agent::datapath::{Datapath, Feature, ProgramStatus};

use crate::servers::{
    BACKEND_PORT, Connection, PATIENCE, SERVICE, SERVICE6, Server, service_with, services_of,
};
use crate::world::{Node, Pod, TUNNEL, World};

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
    flows_between_two_nodes(&world, &mut here);

    let (mut here, _there) = world.tunnel(here, there);
    let far = world.backends()[1];
    let _server = Server::start(far);
    let nodes = [&world.here, &world.there];
    let before = nodes.map(|node| sent(node, TUNNEL));
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

    let mut here = refused_with(&world, here, ErrorKind::PermissionDenied);
    flows_between_two_nodes(&world, &mut here);
    let here = world.open_without(&[]);
    let error = match before.iter().any(|name| name == "set-retval") {
        true => ErrorKind::ConnectionRefused,
        false => ErrorKind::PermissionDenied,
    };
    let mut here = refused_with(&world, here, error);
    flows_between_two_nodes(&world, &mut here);
}

fn refused_with(world: &World, mut here: Datapath, expected: ErrorKind) -> Datapath {
    here.apply_services(&service_with(&[])).unwrap();
    world.here.cgroup.enter();
    let refused = world.client().namespace.run(|| Connection::open(SERVICE).err());
    world.here.cgroup.leave();
    assert_eq!(refused.map(|error| error.kind()), Some(expected));
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

/// How many packets a device of this node has sent.
fn sent(node: &Node, device: &'static str) -> u64 {
    let list = node.namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let line = list.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    line.unwrap().split_whitespace().nth(9).unwrap().parse().unwrap()
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
