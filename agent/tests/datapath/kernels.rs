//! What `cargo xtask kernels` runs in every guest: all programs at work between two nodes, in one
//! world, because software emulation makes each world dear.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::servers::{Answer, BACKEND_PORT, Connection, PATIENCE, SERVICE, Server, service_with};
use crate::world::{Pod, World};

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn traffic_flows_between_two_nodes() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    for backend in world.backends() {
        here.apply_services(&service_with(&[backend.address])).unwrap();
        let direct = SocketAddr::from((backend.address, BACKEND_PORT));
        assert_eq!(asked(&world, direct), expected(&world, backend), "pod to pod");
        // Outside the cgroup no socket hook runs, so each packet is translated.
        let before = world.here.counted("balanced");
        assert_eq!(asked(&world, SERVICE), expected(&world, backend), "packet programs");
        let translated = settled(|| world.here.counted("balanced"));
        assert!(translated > before, "{before} {translated}");

        world.here.cgroup.enter();
        assert_eq!(asked(&world, SERVICE), expected(&world, backend), "socket programs");
        assert_eq!(world.here.counted("balanced"), translated, "no packet was translated");
        world.here.cgroup.leave();
    }
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

/// Who answers the client over TCP and over UDP, and which client they see.
type Seen = [(IpAddr, IpAddr); 2];

fn expected(world: &World, backend: &Pod) -> Seen {
    [(backend.address.into(), world.client().address.into()); 2]
}

fn asked(world: &World, to: SocketAddr) -> Seen {
    world.client().namespace.run(move || {
        let mut connection = Connection::open(to).unwrap();
        assert_eq!(connection.peer(), to, "getpeername");
        let stream = connection.ask("hello").unwrap();

        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"hello", to).unwrap();
        let mut buffer = [0; 256];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, to, "answers come from where they were asked for");
        let datagram = Answer::parse(&String::from_utf8_lossy(&buffer[..length]));
        [stream, datagram].map(|answer| (answer.backend.into(), answer.client.into()))
    })
}
