//! Socket load balancing: connect, send, receive, and the peer's name.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recvfrom, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::servers::{
    Answer, BACKEND_PORT, Connection, PATIENCE, SERVICE, Server, TestService, VIP, service_with,
};
use crate::world::World;

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn tcp_through_the_service_reaches_every_backend_and_shows_the_client() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let servers = world.backends().map(Server::start);
    let addresses = world.backends().map(|pod| pod.address);
    here.apply_services(&service_with(&addresses)).unwrap();
    world.here.cgroup.enter();

    let client = world.client().address;
    let seen = world.client().namespace.run(move || {
        let mut seen: BTreeMap<Ipv4Addr, u32> = BTreeMap::new();
        for round in 0..300 {
            let mut connection = Connection::open(SERVICE).unwrap();
            assert_eq!(connection.peer(), SERVICE, "getpeername");
            let answer = connection.ask(&format!("round {round}")).unwrap();
            assert_eq!(answer.client, client, "no NAT");
            *seen.entry(answer.backend).or_default() += 1;
        }
        seen
    });
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.values().all(|n| *n > 90), "{seen:?}");
    let snapshot = world.here.snapshot();
    let row = snapshot.services.iter().find(|row| row.protocol == "TCP").unwrap();
    assert_eq!((row.connections, row.packets), (300, 0));
    let balanced = snapshot.counters.iter().find(|row| row.reason == "balanced");
    assert_eq!(balanced, None, "no packet was translated");
    drop(servers);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn udp_works_connected_and_unconnected_and_answers_come_from_the_service() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    let addresses = world.backends().map(|pod| pod.address);
    here.apply_services(&service_with(&addresses)).unwrap();
    world.here.cgroup.enter();

    world.client().namespace.run(move || {
        let mut buffer = [0; 256];
        for connected in [false, true] {
            for round in 0..50 {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut backends = Vec::new();
                if connected {
                    socket.connect(SERVICE).unwrap();
                    assert_eq!(socket.peer_addr().unwrap(), SERVICE);
                }
                for _ in 0..2 {
                    let sent = match connected {
                        true => socket.send(b"hello"),
                        false => socket.send_to(b"hello", SERVICE),
                    };
                    sent.unwrap();
                    let (length, from) = socket.recv_from(&mut buffer).unwrap();
                    assert_eq!(from, SERVICE, "round {round}, connected {connected}");
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    backends.push(Answer::parse(&text).backend);
                }
                assert_eq!(backends[0], backends[1], "one socket, one backend");
            }
        }
    });
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_dual_stack_socket_is_balanced_too() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let _server = Server::start(world.backends()[0]);
    here.apply_services(&service_with(&[world.backends()[0].address])).unwrap();
    world.here.cgroup.enter();
    world.client().namespace.run(move || {
        let mapped: SocketAddr = "[::ffff:10.9.8.7]:80".parse().unwrap();
        let mut connection = Connection::open(mapped).unwrap();
        assert_eq!(connection.peer(), mapped);
        connection.ask("hello").unwrap();
    });
    assert_eq!(world.here.counted("balanced"), 0, "not left to the packet programs");
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_service_without_backends_refuses_at_once() {
    let world = World::new();
    let (mut here, _there) = world.open();
    here.apply_services(&service_with(&[])).unwrap();
    world.here.cgroup.enter();
    let error = world.client().namespace.run(move || {
        let start = std::time::Instant::now();
        let error = Connection::open(SERVICE).err().unwrap();
        assert!(start.elapsed() < PATIENCE / 10, "took {:?}", start.elapsed());
        error.kind()
    });
    let expected = [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied];
    assert!(expected.contains(&error), "{error:?}");
    assert_eq!(world.here.counted("no-backend"), 1);

    world.client().namespace.run(move || {
        let expected = [Errno::ECONNREFUSED, Errno::EPERM].map(|errno| Some(errno as i32));
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let sent = socket.send_to(b"hello", SERVICE).unwrap_err();
        assert!(expected.contains(&sent.raw_os_error()), "sendto: {sent}");
        let connected = socket.connect(SERVICE).unwrap_err();
        assert!(expected.contains(&connected.raw_os_error()), "connect: {connected}");
    });
    // The names are on disk at the latest when the agent ends.
    drop(here);
    let snapshot = world.here.snapshot();
    let refused = |protocol| {
        let row = snapshot.services.iter().find(|row| row.protocol == protocol).unwrap();
        (row.name.as_deref(), row.refused, row.connections)
    };
    assert_eq!(refused("TCP"), (Some("web"), 1, 0));
    assert_eq!(refused("UDP"), (Some("web"), 2, 0));
}

/// Who answers a fresh TCP connection and a fresh UDP socket of the calling thread.
fn answering() -> [Ipv4Addr; 2] {
    let tcp = Connection::open(SERVICE).unwrap().ask("hello").unwrap().backend;
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"hello", SERVICE).unwrap();
    let mut buffer = [0; 256];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(from, SERVICE);
    [tcp, Answer::parse(&String::from_utf8_lossy(&buffer[..length])).backend]
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn session_affinity_holds_until_the_client_was_idle_or_the_backend_goes() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    let addresses = world.backends().map(|pod| pod.address);
    let service = |backends: &[Ipv4Addr]| TestService::new("web", VIP, backends).sticky(2);
    here.apply_services(&service(&addresses).table()).unwrap();
    world.here.cgroup.enter();

    let first = world.client().namespace.run(answering);
    for _ in 0..20 {
        assert_eq!(world.client().namespace.run(answering), first, "a pod is one client");
    }
    // Use prolongs: longer than the time-out all in all.
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(world.client().namespace.run(answering), first);
    }
    // Another client is asked for, as the node itself: it may get any, and keeps that.
    let node = world.here.namespace.run(answering);
    assert_eq!(world.here.namespace.run(answering), node);

    // Idle for the time-out: sooner or later another one answers.
    let anew = (0..8).any(|_| {
        std::thread::sleep(Duration::from_millis(2_050));
        world.client().namespace.run(answering) != first
    });
    assert!(anew, "the time-out is not heeded");

    // A backend that leaves, or only serves on, is left at once.
    let kept = world.client().namespace.run(answering);
    let others = addresses.into_iter().filter(|address| *address != kept[0]).collect::<Vec<_>>();
    let terminating = [kept[0], others[0]];
    let draining = service(&terminating).first_backend_is(false, true);
    here.apply_services(&draining.table()).unwrap();
    assert_eq!(world.client().namespace.run(answering), [others[0]; 2]);
    here.apply_services(&service(&[kept[0]]).table()).unwrap();
    assert_eq!(world.client().namespace.run(answering), [kept[0]; 2]);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn pods_reach_each_other_and_the_nodes_untranslated() {
    let world = World::new();
    let (_here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    world.here.cgroup.enter();
    let client = world.client().address;
    for backend in world.backends().map(|pod| pod.address) {
        let answer = world.client().namespace.run(move || {
            let to = SocketAddr::from((backend, BACKEND_PORT));
            let mut connection = Connection::open(to).unwrap();
            assert_eq!(connection.peer(), to);
            connection.ask("hello").unwrap()
        });
        assert_eq!((answer.backend, answer.client), (backend, client));
        // From the node itself, too.
        let to = SocketAddr::from((backend, BACKEND_PORT));
        world.here.namespace.run(move || Connection::open(to).unwrap().ask("hello").unwrap());
    }
    for (destination, what) in [
        (world.here.address(), "own node"),
        (world.there.address(), "other node"),
        (world.backends()[0].address, "pod here"),
        (world.backends()[1].address, "pod there"),
    ] {
        let answered = world.client().namespace.run(move || ping(destination));
        assert!(answered, "ICMP to {what}");
    }
    assert!(world.here.counted("local-pod") > 0);
    assert!(world.here.counted("remote-node") > 0);
}

/// Whether an ICMP echo request is answered by the address it went to.
fn ping(destination: Ipv4Addr) -> bool {
    let icmp = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Icmp);
    let icmp = icmp.unwrap();
    setsockopt(&icmp, sockopt::ReceiveTimeout, &TimeVal::new(2, 0)).unwrap();
    // Type 8, checksum over type, number 0x1234 and sequence 1.
    let request = [8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1];
    let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
    sendto(icmp.as_raw_fd(), &request, &to, MsgFlags::empty()).unwrap();
    let mut buffer = [0; 128];
    // The request comes back as well where it is for oneself; ten packets are enough to see.
    (0..10).any(|_| {
        let Ok((length, from)) = recvfrom::<SockaddrIn>(icmp.as_raw_fd(), &mut buffer) else {
            return false;
        };
        let reply = length >= 28 && buffer[20] == 0 && buffer[24..28] == request[4..8];
        reply && from.is_some_and(|from| from.ip() == destination)
    })
}
