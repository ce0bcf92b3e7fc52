//! Socket load balancing: connect, send, receive, and the peer's name.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use bowline_lab::world::World;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockFlag,
    SockProtocol, SockType, SockaddrIn, SockaddrStorage, connect, recv, recvfrom, recvmsg, send,
    sendmmsg, sendmsg, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::servers::{
    Answer, BACKEND_PORT, Connection, PATIENCE, SERVICE, SERVICE6, Server, TestService, VIP, serve,
    service_with, services_of,
};

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn tcp_through_the_service_reaches_every_backend_and_shows_the_client() {
    let world = World::new();
    let (_here, _there, servers) = serve(&world);

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
    let (_here, _there, _servers) = serve(&world);

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

/// An unconnected UDP socket of the calling thread.
pub(crate) fn datagrams() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The next datagram: what it says, and from whom it is.
fn receive(socket: &UdpSocket) -> (Answer, SocketAddr) {
    let mut buffer = [0; 256];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (Answer::parse(&String::from_utf8_lossy(&buffer[..length])), from)
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn answers_of_services_that_share_backends_have_the_right_names() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    let addresses = world.backends().map(|pod| pod.address);
    let vips = [1, 2].map(|number| Ipv4Addr::new(10, 9, 9, number));
    let all = vips.map(|vip| TestService::new(&format!("s{vip}"), vip, &addresses));
    here.apply_services(&TestService::tables(&all.each_ref())).unwrap();
    world.here.cgroup.enter();
    let names = vips.map(|vip| SocketAddr::from((vip, 80)));
    world.client().namespace.run(move || {
        for round in 0..50 {
            let socket = datagrams();
            // All questions are under way before the first answer is read.
            for turn in 0..3 {
                for name in names {
                    socket.send_to(format!("{round} {turn} {name}").as_bytes(), name).unwrap();
                }
            }
            for _ in 0..6 {
                let (answer, from) = receive(&socket);
                assert!(answer.line.ends_with(&from.to_string()), "{answer:?} from {from}");
            }
        }
    });

    // With one backend for both, the name that was used last is the best to be had.
    let all = vips.map(|vip| TestService::new(&format!("s{vip}"), vip, &addresses[..1]));
    here.apply_services(&TestService::tables(&all.each_ref())).unwrap();
    world.client().namespace.run(move || {
        let socket = datagrams();
        for name in names.into_iter().cycle().take(10) {
            socket.send_to(b"hello", name).unwrap();
            assert_eq!(receive(&socket).1, name);
        }
    });
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_pod_reaches_itself_through_its_own_service() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let _server = Server::start(world.client());
    let own = world.client().address;
    here.apply_services(&service_with(&[own])).unwrap();
    world.here.cgroup.enter();
    world.client().namespace.run(move || {
        let mut connection = Connection::open(SERVICE).unwrap();
        let answer = connection.ask("hello").unwrap();
        assert_eq!((answer.backend, answer.client), (own, own), "TCP, no NAT");
        assert_eq!(connection.peer(), SERVICE);
        let socket = datagrams();
        socket.send_to(b"hello", SERVICE).unwrap();
        let (answer, from) = receive(&socket);
        assert_eq!((answer.backend, answer.client, from), (own, own, SERVICE), "UDP");
    });
    assert_eq!(world.here.counted("from-pod"), 0);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn the_nodes_own_processes_are_clients_and_backends() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let _server = Server::start(world.backends()[1]);
    let (node, pod) = (world.here.address(), world.backends()[1].address);
    let listener = world
        .here
        .namespace
        .run(move || std::net::TcpListener::bind((node, BACKEND_PORT)).unwrap());
    let serving = world.here.namespace.spawn(move || {
        use std::io::{BufRead, BufReader, Write};
        for _ in 0..2 {
            let (mut stream, client) = listener.accept().unwrap();
            // What is closed before all was read is reset, and the answer may be lost.
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            writeln!(stream, "{node} {} hello", client.ip()).unwrap();
        }
    });
    world.here.cgroup.enter();
    // A pod's service, asked by the node.
    here.apply_services(&service_with(&[pod])).unwrap();
    let answer = world.here.namespace.run(|| {
        let mut connection = Connection::open(SERVICE).unwrap();
        assert_eq!(connection.peer(), SERVICE);
        connection.ask("hello").unwrap()
    });
    assert_eq!((answer.backend, answer.client), (pod, node));
    // The node's own service, asked by the node and by a pod.
    here.apply_services(&service_with(&[node])).unwrap();
    for (place, client) in
        [(&world.here.namespace, node), (&world.client().namespace, world.client().address)]
    {
        let answer = place.run(|| Connection::open(SERVICE).unwrap().ask("hello").unwrap());
        assert_eq!((answer.backend, answer.client), (node, client));
    }
    serving.join().unwrap();
}

/// Answers one connection and one datagram on `address` with the address of the client.
fn answer_once(address: SocketAddr) -> std::thread::JoinHandle<()> {
    let listener = std::net::TcpListener::bind(address).unwrap();
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, client) = listener.accept().unwrap();
        write!(stream, "{}", client.ip()).unwrap();
        drop(stream);
        let mut buffer = [0; 64];
        let (_, client) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(client.ip().to_string().as_bytes(), client).unwrap();
    })
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn each_family_has_its_own_backends_also_on_dual_stack_sockets() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let vip4 = VIP;
    let vip6: Ipv6Addr = "fd00:9::7".parse().unwrap();
    let pod4 = world.client().address;
    let pod6: Ipv6Addr = "fd00:240::5".parse().unwrap();
    world.client().namespace.ip(&format!("addr add {pod6}/128 dev lo nodad"));
    let four = TestService::new("web", vip4, &[pod4]);
    let six = TestService::new("web6", vip6, &[pod6]);
    here.apply_services(&TestService::tables(&[&four, &six])).unwrap();
    let mapped = SocketAddr::from((vip4.to_ipv6_mapped(), 80));
    let cases = [
        (SocketAddr::from((vip4, 80)), IpAddr::from(pod4), "0.0.0.0:0"),
        (SocketAddr::from((vip6, 80)), IpAddr::from(pod6), "[::]:0"),
        (mapped, IpAddr::from(pod4), "[::]:0"),
    ];
    for (service, backend, any) in cases {
        let server = world
            .client()
            .namespace
            .run(move || answer_once(SocketAddr::from((backend, BACKEND_PORT))));
        world.here.cgroup.enter();
        world.client().namespace.run(move || {
            use std::io::Read;
            let mut stream = std::net::TcpStream::connect_timeout(&service, PATIENCE).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), service, "getpeername");
            let mut seen = String::new();
            stream.read_to_string(&mut seen).unwrap();
            assert_eq!(seen, backend.to_string(), "the client is the pod itself");
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"hello", service).unwrap();
            let mut buffer = [0; 64];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(from, service, "recvmsg");
            assert_eq!(buffer[..length], *backend.to_string().as_bytes());
            socket.connect(service).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), service, "connected UDP");
        });
        world.here.cgroup.leave();
        server.join().unwrap();
    }
    // Nobody ready in one family refuses that family alone.
    let nobody = TestService::new("web6", vip6, &[] as &[Ipv6Addr]);
    here.apply_services(&TestService::tables(&[&four, &nobody])).unwrap();
    world.here.cgroup.enter();
    world.client().namespace.run(move || {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        let error = socket.send_to(b"hello", SocketAddr::from((vip6, 80))).unwrap_err();
        let expected = [Errno::ECONNREFUSED, Errno::EPERM].map(|errno| Some(errno as i32));
        assert!(expected.contains(&error.raw_os_error()), "{error}");
        socket.connect(mapped).unwrap();
    });
}

/// The next datagram of either family.
fn receive_any(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 256];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
}

/// By both families, and by IPv4 on a socket of IPv6: one call for many datagrams, and for each of
/// them a call that names the service.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn datagrams_that_name_the_service_are_all_balanced() {
    let world = World::new();
    let (mut here, _there, _servers) = serve(&world);
    here.apply_services(&services_of(&world.backends())).unwrap();
    let mapped: SocketAddr = "[::ffff:10.9.8.7]:80".parse().unwrap();
    for service in [SERVICE, mapped, SERVICE6] {
        let backends = world.backends().map(|pod| pod.like(service.ip().to_canonical()));
        for together in [true, false] {
            let answers = world.client().namespace.run(move || named_to(service, together));
            let mut lines = Vec::new();
            let mut seen = BTreeSet::new();
            for (answer, from) in answers {
                assert_eq!(from, service, "{answer}");
                let mut words = answer.splitn(3, ' ');
                let mut next = || words.next().unwrap().to_owned();
                seen.insert(next().parse().unwrap());
                let client = world.client().like(service.ip().to_canonical());
                assert_eq!(next(), client.to_string());
                lines.push(next());
            }
            lines.sort_unstable();
            assert_eq!(lines, questions(), "{service}, in one call: {together}");
            let known = seen.iter().all(|backend| backends.contains(backend));
            assert!(known && !seen.is_empty(), "{service}: {seen:?}");
        }
    }
    assert_eq!(world.here.counted("balanced"), 0, "not left to the packet programs");
}

fn questions() -> Vec<String> {
    (0..8).map(|number| format!("datagram {number}")).collect()
}

/// Sends all questions to the service over one unconnected socket, and gives what comes back.
fn named_to(service: SocketAddr, together: bool) -> Vec<(String, SocketAddr)> {
    let any = if service.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (fd, to, none) = (socket.as_raw_fd(), SockaddrStorage::from(service), MsgFlags::empty());
    let texts = questions();
    let parts: Vec<[IoSlice<'_>; 1]> =
        texts.iter().map(|text| [IoSlice::new(text.as_bytes())]).collect();
    if together {
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(parts.len(), None);
        let names = vec![Some(to); parts.len()];
        let control = Vec::<ControlMessage<'_>>::new();
        let sent = sendmmsg(fd, &mut headers, &parts, names, control, none);
        assert_eq!(sent.unwrap().count(), texts.len());
    } else {
        for part in &parts {
            assert_eq!(sendmsg(fd, part, &[], none, Some(&to)), Ok(part[0].len()));
        }
    }
    texts.iter().map(|_| receive_any(&socket)).collect()
}

/// Asks over a connected socket, as often as it takes, and gives who answered after how long.
fn ask_until(socket: &UdpSocket, wanted: impl Fn(Ipv4Addr) -> bool) -> (Ipv4Addr, Duration) {
    let start = std::time::Instant::now();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut buffer = [0; 256];
    while start.elapsed() < PATIENCE {
        // A client of its kind knows nothing but these two calls.
        let _ = socket.send(b"hello");
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let backend = Answer::parse(&String::from_utf8_lossy(&buffer[..length])).backend;
        if wanted(backend) {
            return (backend, start.elapsed());
        }
    }
    panic!("nobody answered");
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_connected_udp_socket_leaves_a_backend_that_is_gone() {
    let world = World::new();
    let (mut here, _there, _servers) = serve(&world);
    let (socket, first) = world.client().namespace.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(SERVICE).unwrap();
        let (first, _) = ask_until(&socket, |_| true);
        (socket, first)
    });
    // One that named the pod itself is not the service's business.
    let direct = world.client().namespace.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((first, BACKEND_PORT)).unwrap();
        socket
    });
    let local = socket.local_addr().unwrap();
    let addresses = world.backends().map(|pod| pod.address);
    let second = addresses.into_iter().find(|address| *address != first).unwrap();

    // Who only terminates still serves its clients.
    let service = TestService::new("web", VIP, &[first, second]);
    here.apply_services(&service.first_backend_is(false, true).table()).unwrap();
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(ask_until(&socket, |_| true).0, first);

    // A receive call that waits meanwhile goes on waiting, and gets the answer.
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let waiting = socket.try_clone().unwrap();
    let waiting = std::thread::spawn(move || {
        let mut buffer = [0; 256];
        let length = waiting.recv(&mut buffer).unwrap();
        Answer::parse(&String::from_utf8_lossy(&buffer[..length])).backend
    });
    here.apply_services(&service_with(&[second])).unwrap();
    let start = std::time::Instant::now();
    while !waiting.is_finished() && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(600));
        socket.send(b"hello").unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(waiting.join().unwrap(), second);
    assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
    assert_eq!(socket.local_addr().unwrap(), local, "the client's own name stays");
    assert_eq!(socket.peer_addr().unwrap(), SERVICE);
    assert_eq!(direct.peer_addr().unwrap(), SocketAddr::from((first, BACKEND_PORT)));
    world.here.wait_for_count("socket-moved", 1);

    // Nobody there: it is moved as soon as there is.
    here.apply_services(&service_with(&[])).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    here.apply_services(&service_with(&[first])).unwrap();
    let (_, after) = ask_until(&socket, |backend| backend == first);
    assert!(after < Duration::from_secs(1), "took {after:?}");
    world.here.wait_for_count("socket-moved", 2);
    assert_eq!(world.here.counted("socket-destroyed"), 0);
}

/// A descriptor on its way through a Unix socket is in nobody's table.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_connected_udp_socket_that_nobody_holds_is_destroyed() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    let [first, second] = world.backends().map(|pod| pod.address);
    here.apply_services(&service_with(&[first])).unwrap();
    world.here.cgroup.enter();
    let (sender, receiver) = UnixDatagram::pair().unwrap();
    world.client().namespace.run(move || {
        let socket = datagrams();
        socket.connect(SERVICE).unwrap();
        ask_until(&socket, |backend| backend == first);
        let descriptors = [socket.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let text = [IoSlice::new(b"take it")];
        let flags = MsgFlags::empty();
        sendmsg::<()>(sender.as_raw_fd(), &text, &rights, flags, None).unwrap();
    });
    here.apply_services(&service_with(&[second])).unwrap();
    world.here.wait_for_count("socket-destroyed", 1);
    assert_eq!(world.here.counted("socket-moved"), 0);

    let mut text = [0; 16];
    let mut room = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::empty();
    let got = recvmsg::<()>(receiver.as_raw_fd(), &mut parts, Some(&mut room), flags).unwrap();
    let Some(ControlMessageOwned::ScmRights(descriptors)) = got.cmsgs().unwrap().next() else {
        panic!("no descriptor came");
    };
    let socket = descriptors[0];
    let error = send(socket, b"hello", flags).unwrap_err();
    assert_eq!(error, Errno::EDESTADDRREQ, "the next call says so");
    assert_eq!(recv(socket, &mut [0; 8], flags), Err(Errno::ECONNABORTED), "and why");
    // Its owner connects anew, and is served.
    let SocketAddr::V4(service) = SERVICE else { unreachable!() };
    connect(socket, &SockaddrIn::from(service)).unwrap();
    send(socket, b"hello", flags).unwrap();
    let mut buffer = [0; 256];
    let length = recv(socket, &mut buffer, flags).unwrap();
    let answer = Answer::parse(&String::from_utf8_lossy(&buffer[..length]));
    assert_eq!(answer.backend, second);
    nix::unistd::close(socket).unwrap();
}

/// Expects a refusal at once, as the kernel can say it.
fn refused<T>(what: &str, call: impl FnOnce() -> std::io::Result<T>) {
    let start = std::time::Instant::now();
    let Err(error) = call() else { panic!("{what} was not refused") };
    let expected = [Errno::ECONNREFUSED, Errno::EPERM].map(|errno| Some(errno as i32));
    assert!(expected.contains(&error.raw_os_error()), "{what}: {error}");
    assert!(start.elapsed() < PATIENCE / 10, "{what} took {:?}", start.elapsed());
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_port_that_a_service_has_not_is_refused_at_once() {
    let world = World::new();
    let (mut here, there) = world.open();
    let _servers = world.backends().map(Server::start);
    let addresses = world.backends().map(|pod| pod.address);
    let above = Ipv4Addr::from(u32::from(VIP) + 2);
    let services = [VIP, above].map(|vip| TestService::new(&format!("s{vip}"), vip, &addresses));
    here.apply_services(&TestService::tables(&services.each_ref())).unwrap();
    // What is not refused would leave the node this way.
    world.here.namespace.ip(&format!("route add default via {}", world.there.address()));
    let mapped = VIP.to_ipv6_mapped();
    // A pod's datagram may be an answer: its packet is dropped, and its sender not told.
    let ask = move |in_pod: bool| {
        let sent = |what: &str, call: &dyn Fn() -> std::io::Result<usize>| match in_pod {
            true => assert_eq!(call().unwrap(), 5, "{what}"),
            false => refused(what, call),
        };
        let other = SocketAddr::from((VIP, 81));
        refused("TCP", || std::net::TcpStream::connect(other));
        refused("TCP, mapped", || std::net::TcpStream::connect((mapped, 81)));
        refused("connected UDP", || datagrams().connect(other));
        sent("UDP", &|| datagrams().send_to(b"hello", other));
        let dual = UdpSocket::bind("[::]:0").unwrap();
        sent("UDP, mapped", &|| dual.send_to(b"hello", (mapped, 81)));
        // The service itself, and a pod on any port, are what they were.
        Connection::open(SERVICE).unwrap().ask("hello").unwrap();
        let pod = SocketAddr::from((addresses[1], BACKEND_PORT));
        Connection::open(pod).unwrap().ask("hello").unwrap();
        datagrams().connect((addresses[1], 81)).unwrap();
        // An address between two services' that is none itself.
        datagrams().connect((Ipv4Addr::from(u32::from(VIP) + 1), 80)).unwrap();
    };
    world.here.cgroup.enter();
    world.client().namespace.run(move || ask(true));
    world.here.namespace.run(move || ask(false));
    assert_eq!(world.here.counted("unknown-port"), 10);

    // Another agent finds it so, and it ends with the service.
    drop(here);
    let mut here = world.open_without(&[]);
    world.client().namespace.run(move || refused("TCP", || Connection::open((VIP, 81).into())));
    here.apply_services(&services[1].table()).unwrap();
    world.client().namespace.run(|| datagrams().connect((VIP, 81)).unwrap());
    world.client().namespace.run(move || refused("TCP", || Connection::open((above, 81).into())));
    drop(there);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn pods_reach_each_other_and_the_nodes_untranslated() {
    let world = World::new();
    let (_here, _there) = world.open();
    all_reach_each_other(&world);
}

/// By TCP and by ICMP, under the socket hooks.
pub(crate) fn all_reach_each_other(world: &World) {
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
    world.here.cgroup.leave();
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
