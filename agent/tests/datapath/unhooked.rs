//! The packet programs: service packets that passed no socket hook, and what is refused.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use bowline_lab::frame::sum;
use bowline_lab::world::World;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, connect, recvfrom,
    sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::servers::{BACKEND_PORT, Connection, PATIENCE, SERVICE, Server, VIP, service_with};

/// Outside the cgroup no socket hook runs, so the packets carry the service's address.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn tcp_without_socket_hooks_is_balanced_packet_by_packet() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    let client = world.client().address;
    for backend in world.backends().map(|pod| pod.address) {
        here.apply_services(&service_with(&[backend])).unwrap();
        world.client().namespace.run(move || {
            for round in 0..20 {
                let mut connection = Connection::open(SERVICE).unwrap();
                assert_eq!(connection.peer(), SERVICE);
                let answer = connection.ask(&format!("round {round}")).unwrap();
                assert_eq!((answer.backend, answer.client), (backend, client));
            }
        });
    }
    let counters = world.here.counted("balanced");
    assert!(counters > 40, "translated packet by packet: {counters}");
    assert!(world.here.counted("answer-translated") > 40);
    let row = world.here.snapshot().services.into_iter().find(|r| r.protocol == "TCP").unwrap();
    assert_eq!(row.connections, 40);
    assert!(row.packets > 80 && row.bytes > row.packets * 40, "{row:?}");
}

/// Large writes travel as segments that the kernel cuts and checksums late.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn bulk_data_survives_the_translation() {
    const SIZE: usize = 8 << 20;
    let world = World::new();
    let (mut here, _there) = world.open();
    for backend in world.backends() {
        here.apply_services(&service_with(&[backend.address])).unwrap();
        let address = SocketAddrV4::new(backend.address, BACKEND_PORT);
        let listener = backend.namespace.run(move || TcpListener::bind(address).unwrap());
        let echo = backend.namespace.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = stream.try_clone().unwrap();
            std::io::copy(&mut reader, &mut stream).unwrap()
        });
        let returned = world.client().namespace.run(move || {
            let mut stream = TcpStream::connect_timeout(&SERVICE, PATIENCE).unwrap();
            let mut reader = stream.try_clone().unwrap();
            let reading = std::thread::spawn(move || {
                let mut all = Vec::with_capacity(SIZE);
                reader.read_to_end(&mut all).unwrap();
                all
            });
            stream.write_all(&pattern(SIZE)).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            reading.join().unwrap()
        });
        assert_eq!(echo.join().unwrap(), SIZE as u64);
        assert!(returned == pattern(SIZE), "the bytes came back changed");
    }
    assert!(world.here.counted("balanced") > 0);
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn raw_udp() -> OwnedFd {
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Udp);
    let raw = raw.unwrap();
    setsockopt(&raw, sockopt::ReceiveTimeout, &TimeVal::new(5, 0)).unwrap();
    raw
}

/// A datagram with its checksum, as a program with a raw socket writes it.
fn datagram(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut bytes = [from.1, to.1, length, 0].map(u16::to_be_bytes).concat();
    bytes.extend_from_slice(payload);
    let sum = checksum(from.0, to.0, &bytes);
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The pseudo header that a UDP checksum covers.
fn pseudo_header(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> Vec<u8> {
    let length = (segment.len() as u16).to_be_bytes();
    [&from.octets()[..], &to.octets(), &[0, 17], &length].concat()
}

/// Of a UDP segment.
fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    !sum(&[&pseudo_header(from, to, segment), segment].concat())
}

/// Whether a received checksum is right. A veth leaves its last part to hardware that is not there:
/// then the field holds the sum of the pseudo header.
fn is_checked(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> bool {
    let field = u16::from_be_bytes([segment[6], segment[7]]);
    checksum(from, to, segment) == 0 || field == sum(&pseudo_header(from, to, segment))
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_raw_socket_s_packet_is_balanced_even_under_the_socket_hooks() {
    const PORT: u16 = 40_123;
    let world = World::new();
    let (mut here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    world.here.cgroup.enter();
    let client = world.client().address;
    for backend in world.backends().map(|pod| pod.address) {
        here.apply_services(&service_with(&[backend])).unwrap();
        for payload in ["even", "odd"] {
            let segment = world.client().namespace.run(move || {
                // Somebody must own the port, or the kernel answers with an ICMP error.
                let _owner = UdpSocket::bind((client, PORT)).unwrap();
                let raw = raw_udp();
                let packet = datagram((client, PORT), (VIP, 80), payload.as_bytes());
                let to = SockaddrIn::from(SocketAddrV4::new(VIP, 0));
                sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
                let mut buffer = vec![0; 2048];
                let (length, _) = recvfrom::<SockaddrIn>(raw.as_raw_fd(), &mut buffer).unwrap();
                buffer.truncate(length);
                buffer
            });
            let (header, segment) = segment.split_at(20);
            let source = Ipv4Addr::from(<[u8; 4]>::try_from(&header[12..16]).unwrap());
            assert_eq!(source, VIP, "the answer comes from the service");
            assert_eq!(u16::from_be_bytes([segment[0], segment[1]]), 80);
            assert!(is_checked(VIP, client, segment), "{segment:x?}");
            let text = String::from_utf8_lossy(&segment[8..]).into_owned();
            assert_eq!(text, format!("{backend} {client} {payload}"));
        }
    }
    assert!(world.here.counted("balanced") >= 4);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_pod_cannot_send_from_another_address() {
    let world = World::new();
    let (_here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    world.client().namespace.ip("addr add 10.240.1.99/32 dev eth0");
    let before = world.here.counted("spoofed-source");
    for backend in world.backends().map(|pod| pod.address) {
        world.client().namespace.run(move || {
            let socket = UdpSocket::bind("10.240.1.99:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            socket.send_to(b"who am I", (backend, BACKEND_PORT)).unwrap();
            assert!(socket.recv_from(&mut [0; 64]).is_err());
        });
    }
    assert_eq!(world.here.counted("spoofed-source") - before, 2);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn packets_for_a_service_without_backends_are_dropped_by_name() {
    let world = World::new();
    let (mut here, _there) = world.open();
    here.apply_services(&service_with(&[])).unwrap();
    let client = world.client().address;
    world.client().namespace.run(move || {
        let raw = raw_udp();
        let packet = datagram((client, 40_000), (VIP, 80), b"x");
        let to = SockaddrIn::from(SocketAddrV4::new(VIP, 0));
        sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
    });
    assert_eq!(world.here.counted("no-backend"), 1);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn what_is_for_no_port_of_a_service_never_leaves_the_node() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let addresses = world.backends().map(|pod| pod.address);
    world.here.namespace.ip(&format!("route add default via {}", world.there.address()));
    let (client, before) = (world.client().address, forwarded(&world));
    for (round, backends) in [&addresses[..], &[]].into_iter().enumerate() {
        here.apply_services(&service_with(backends)).unwrap();
        world.client().namespace.run(move || {
            let send = |kind, number, bytes: &[u8]| {
                let raw = socket(AddressFamily::Inet, kind, SockFlag::empty(), number).unwrap();
                let to = SockaddrIn::from(SocketAddrV4::new(VIP, 0));
                sendto(raw.as_raw_fd(), bytes, &to, MsgFlags::empty()).unwrap();
            };
            let unknown = datagram((client, 40_000), (VIP, 81), b"x");
            send(SockType::Raw, SockProtocol::Udp, &unknown);
            // An echo request, with its checksum.
            send(SockType::Raw, SockProtocol::Icmp, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
            // Larger than a packet may be: the kernel sends pieces.
            let large = datagram((client, 40_000), (VIP, 80), &[7; 4_000]);
            send(SockType::Raw, SockProtocol::Udp, &large);
        });
        let round = round as u64 + 1;
        assert_eq!(world.here.counted("unknown-port"), round);
        assert_eq!(world.here.counted("service-protocol"), round);
        assert_eq!(world.here.counted("fragmented-service"), 3 * round);
    }
    assert_eq!(forwarded(&world), before, "nothing was left to the stack to forward");
}

/// How many IPv4 packets the node's own stack has forwarded.
fn forwarded(world: &World) -> u64 {
    world.here.namespace.run(|| {
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("Ip: "));
        let mut next = || lines.next().unwrap().split(' ');
        let mut fields = next().zip(next());
        fields.find(|(name, _)| *name == "ForwDatagrams").unwrap().1.parse().unwrap()
    })
}

/// The socket is older than its process's place in the cgroup, so it has no hooks.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn an_open_connection_stays_with_its_backend_when_the_set_changes() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    let [first, second] = world.backends().map(|pod| pod.address);
    here.apply_services(&service_with(&[first])).unwrap();
    let stream = world.client().namespace.run(move || {
        let (family, kind) = (AddressFamily::Inet, SockType::Stream);
        let stream = socket(family, kind, SockFlag::empty(), None).unwrap();
        let SocketAddr::V4(service) = SERVICE else { unreachable!() };
        connect(stream.as_raw_fd(), &SockaddrIn::from(service)).unwrap();
        TcpStream::from(stream)
    });
    let mut open = Connection::over(stream).unwrap();
    assert_eq!(open.ask("before").unwrap().backend, first);
    here.apply_services(&service_with(&[second])).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        assert_eq!(open.ask("after").unwrap().backend, first);
    }
    let fresh = world.client().namespace.run(move || Connection::open(SERVICE).unwrap().ask("new"));
    assert_eq!(fresh.unwrap().backend, second);
}
