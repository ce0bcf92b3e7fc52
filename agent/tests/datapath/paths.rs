//! Packets that are not plain: a pod that is its own backend, errors about translated packets, and
//! routers on the way through which less fits.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use bowline_lab::world::{Pod, UPLINK, World};

use crate::servers::{BACKEND_PORT, Connection, PATIENCE, SERVICE, SERVICE6, Server, services_of};

/// Outside the cgroup no socket hook runs. The pod cannot take its own address for its client's:
/// it sees the service's.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_pod_reaches_itself_through_its_own_service_packet_by_packet() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let _server = Server::start(world.client());
    here.apply_services(&services_of(&[world.client()])).unwrap();
    for service in [SERVICE, SERVICE6] {
        let own = world.client().like(service.ip());
        let expected = format!("{own} {} hello", service.ip());
        world.client().namespace.run(move || {
            for _ in 0..5 {
                let mut connection = Connection::open(service).unwrap();
                assert_eq!(connection.say("hello").unwrap(), expected, "TCP");
                let socket = datagrams(service);
                socket.send_to(b"hello", service).unwrap();
                let mut buffer = [0; 256];
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(from, service, "UDP");
                assert_eq!(String::from_utf8_lossy(&buffer[..length]), expected, "UDP");
            }
        });
    }
    assert!(world.here.counted("balanced") > 0);
}

fn datagrams(to: SocketAddr) -> UdpSocket {
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Nobody listens at the backend, whose kernel says so and quotes the packet that it got. The
/// client's kernel finds the socket by the quoted packet: only if that is the one that was sent.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn errors_about_translated_packets_reach_the_socket_that_sent_them() {
    let world = World::new();
    let (mut here, _there) = world.open();
    for (round, backend) in world.backends().into_iter().enumerate() {
        here.apply_services(&services_of(&[backend])).unwrap();
        for service in [SERVICE, SERVICE6] {
            world.client().namespace.run(move || {
                let socket = datagrams(service);
                socket.connect(service).unwrap();
                socket.send(b"is anybody there?").unwrap();
                let error = socket.recv(&mut [0; 64]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{service}");
            });
        }
        assert_eq!(world.here.counted("error-translated"), 2 * (round as u64 + 1));
    }
}

/// What fits through the router towards the other node, in bytes.
const NARROW: u32 = 1300;

/// Sends so many bytes over TCP and gives what arrived, and what the pod knows of its way there.
fn bulk(world: &World, far: &Pod, to: SocketAddr, size: usize) -> (u64, String) {
    let backend = SocketAddr::from((far.like(to.ip()), BACKEND_PORT));
    let listener = far.namespace.run(move || TcpListener::bind(backend).unwrap());
    let sink = far.namespace.spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let size = std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
        stream.write_all(&size.to_be_bytes()).unwrap();
    });
    let seen = world.client().namespace.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&vec![7; size]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut size = [0; 8];
        stream.read_exact(&mut size).unwrap();
        let to = to.ip().to_string();
        let route = Command::new("ip").args(["route", "get", &to]).output().unwrap().stdout;
        (u64::from_be_bytes(size), String::from_utf8_lossy(&route).into_owned())
    });
    sink.join().unwrap();
    seen
}

/// The router says so to the pod that sent; through a service it quotes a translated packet. The
/// connection goes on with smaller packets.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_router_through_which_less_fits_is_obeyed() {
    const SIZE: usize = 1 << 20;
    let world = World::apart(NARROW);
    let (mut here, _there) = world.open();
    let far = world.backends()[1];
    here.apply_services(&services_of(&[far])).unwrap();
    for service in [SERVICE, SERVICE6] {
        for to in [SocketAddr::from((far.like(service.ip()), BACKEND_PORT)), service] {
            let (received, route) = bulk(&world, far, to, SIZE);
            assert_eq!(received, SIZE as u64, "to {to}");
            let learned = format!("mtu {NARROW}");
            assert!(route.contains(&learned), "the pod knows of its way to {to}: {route}");
        }
    }
    assert!(world.here.counted("error-translated") >= 2);
}

/// How many IPv4 packets the router has cut into pieces.
fn cut_by_the_router(world: &World) -> u64 {
    world.router.as_ref().unwrap().run(|| {
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("Ip: "));
        let mut next = || lines.next().unwrap().split(' ');
        let mut fields = next().zip(next());
        fields.find(|(name, _)| *name == "FragOKs").unwrap().1.parse().unwrap()
    })
}

/// Between nodes a packet is a datagram of VXLAN that may be cut: no pod has to know of the router,
/// whose link is narrower than the pods' own. What fits through the pod's link arrives as it is,
/// and what does not in the pod's own pieces.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_router_under_the_tunnel_through_which_less_fits_is_passed() {
    const SIZE: usize = 1 << 20;
    const FITS: usize = 1_300;
    const FITS_NOT: usize = 4_000;
    let world = World::apart(NARROW);
    // The link is as narrow from its other end: what is larger would not get into the router.
    world.there.namespace.ip(&format!("link set {UPLINK} mtu {NARROW}"));
    let (here, there) = world.open();
    let (mut here, _there) = world.tunnel(here, there);
    let far = world.backends()[1];
    here.apply_services(&services_of(&[far])).unwrap();
    let backend = |service: SocketAddr| SocketAddr::from((far.like(service.ip()), BACKEND_PORT));
    for service in [SERVICE, SERVICE6] {
        for to in [backend(service), service] {
            let before = cut_by_the_router(&world);
            let (received, route) = bulk(&world, far, to, SIZE);
            assert_eq!(received, SIZE as u64, "to {to}");
            assert!(!route.contains("mtu"), "nobody told the pod of its way to {to}: {route}");
            let cut = cut_by_the_router(&world) - before;
            println!("{received} bytes to {to}: {cut} packets were cut");
            assert!(cut >= SIZE as u64 / 1_450, "to {to}: {cut} packets did not fit");
        }
    }
    let _server = Server::start(far);
    for service in [SERVICE, SERVICE6] {
        // Without a socket hook a service takes no pieces.
        let plain = [(backend(service), FITS), (backend(service), FITS_NOT), (service, FITS)];
        let before = cut_by_the_router(&world);
        plain.into_iter().for_each(|(to, size)| echoed(&world, far, to, size));
        world.here.cgroup.enter();
        [FITS, FITS_NOT].into_iter().for_each(|size| echoed(&world, far, service, size));
        world.here.cgroup.leave();
        let cut = cut_by_the_router(&world) - before;
        // Three that fit, and two or three pieces of each of the others.
        assert!(cut >= 3 + 2 * 2, "to {service}: {cut} datagrams did not fit");
    }
}

/// Sends one datagram, which comes back whole.
fn echoed(world: &World, far: &Pod, to: SocketAddr, size: usize) {
    let (from, by) = (world.client().like(to.ip()), far.like(to.ip()));
    world.client().namespace.run(move || {
        let question = "q".repeat(size);
        let socket = datagrams(to);
        socket.send_to(question.as_bytes(), to).unwrap();
        let mut buffer = vec![0; 2 * size];
        let received = socket.recv_from(&mut buffer);
        let (length, answered) = received.unwrap_or_else(|e| panic!("{size} bytes to {to}: {e}"));
        assert_eq!(answered, to);
        let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(answer == format!("{by} {from} {question}"), "{size} bytes to {to}");
    });
}
