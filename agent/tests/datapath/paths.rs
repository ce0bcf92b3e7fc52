//! Packets that are not plain: a pod that is its own backend, errors about translated packets, and
//! routers on the way through which less fits.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use crate::servers::{BACKEND_PORT, Connection, PATIENCE, SERVICE, SERVICE6, Server, services_of};
use crate::world::World;

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
        let backend = SocketAddr::from((far.like(service.ip()), BACKEND_PORT));
        for to in [backend, service] {
            let listener = far.namespace.run(move || TcpListener::bind(backend).unwrap());
            let sink = far.namespace.spawn(move || {
                let mut stream = listener.accept().unwrap().0;
                let size = std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
                stream.write_all(&size.to_be_bytes()).unwrap();
            });
            let (received, route) = world.client().namespace.run(move || {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(&vec![7; SIZE]).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut size = [0; 8];
                stream.read_exact(&mut size).unwrap();
                let to = to.ip().to_string();
                let route = Command::new("ip").args(["route", "get", &to]).output().unwrap().stdout;
                (u64::from_be_bytes(size), String::from_utf8_lossy(&route).into_owned())
            });
            sink.join().unwrap();
            assert_eq!(received, SIZE as u64, "to {to}");
            let learned = format!("mtu {NARROW}");
            assert!(route.contains(&learned), "the pod knows of its way to {to}: {route}");
        }
    }
    assert!(world.here.counted("error-translated") >= 2);
}
