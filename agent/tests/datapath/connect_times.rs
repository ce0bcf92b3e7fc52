//! How long connections to services take to open, as it is counted and told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, RingBuf};
use bowline_agent::datapath::{Filter, Listener, dump, monotonic_ns};
use bowline_ebpf_abi::{
    ABI_VERSION, ConnectTimes, Direction, Event, NO_SERVICE, Reason, map, protocol,
};
use bowline_lab::world::World;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, connect, listen, socket,
};

use crate::servers::{
    BACKEND_PORT, PATIENCE, SERVICE, SERVICE6, Server, VIP, service_with, services_of,
};

/// How many connections took how many nanoseconds all together, by the places of the map.
fn times(world: &World) -> Vec<(u64, u64)> {
    let bpffs = world.here.bpffs();
    let rows = world.here.namespace.run(move || dump(&bpffs, map::CONNECT_TIMES).unwrap());
    let mut times = vec![(0, 0); ConnectTimes::ENTRIES as usize];
    for row in rows {
        let place: usize = row.key.parse().unwrap();
        for cpu in row.value.as_array().unwrap() {
            let number = |name: &str| cpu[name].as_u64().unwrap();
            times[place].0 += number("count");
            times[place].1 += number("total_ns");
        }
    }
    times
}

fn count(world: &World) -> u64 {
    times(world).iter().map(|(count, _)| count).sum()
}

fn total_ns(world: &World) -> u64 {
    times(world).iter().map(|(_, total)| total).sum()
}

/// The service of IPv4 in the form of IPv6.
fn mapped() -> SocketAddr {
    SocketAddr::from((VIP.to_ipv6_mapped(), 80))
}

/// What a client knows of its connection: its own end, and how long it waited.
#[derive(Clone, Copy, Debug)]
struct Waited {
    own: SocketAddr,
    nanoseconds: u64,
}

/// A connection of the calling thread.
fn open(to: SocketAddr) -> (TcpStream, Waited) {
    let start = Instant::now();
    let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    let nanoseconds = start.elapsed().as_nanos() as u64;
    let own = stream.local_addr().unwrap();
    (stream, Waited { own: SocketAddr::new(own.ip().to_canonical(), own.port()), nanoseconds })
}

/// Somebody who is told of open connections.
fn listener(world: &World) -> Listener {
    let bpffs = world.here.bpffs();
    let filter = Filter { reason: Some(Reason::Connected), ..Filter::default() };
    world.here.namespace.run(move || Listener::open(&bpffs, &filter).unwrap())
}

/// What is told since then, by this moment.
fn told(listener: &mut Listener, since_ns: u64) -> Vec<Event> {
    let events = std::iter::from_fn(|| listener.read().map(|(event, _)| event));
    events.filter(|event| event.time_ns >= since_ns).collect()
}

/// Whether something waits for a reader.
fn is_anything_told(world: &World) -> bool {
    let pin = world.here.bpffs().join(format!("bowline/v{ABI_VERSION}/maps/{}", map::EVENTS));
    world.here.namespace.run(move || {
        let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
        RingBuf::try_from(map).unwrap().next().is_some()
    })
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn every_tcp_connection_to_a_service_is_counted_and_nothing_else() {
    const ROUNDS: u64 = 20;
    let world = World::new();
    let (mut here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    here.apply_services(&services_of(&world.backends())).unwrap();
    world.here.cgroup.enter();
    assert_eq!(count(&world), 0);
    for (so_far, to) in (0..).zip([SERVICE, SERVICE6, mapped()]) {
        let before = total_ns(&world);
        let open = move || (0..ROUNDS).map(|_| open(to).1.nanoseconds).sum::<u64>();
        let waited = world.client().namespace.run(open);
        assert_eq!(count(&world), (so_far + 1) * ROUNDS, "{to}");
        let took = total_ns(&world) - before;
        assert!(took > 0 && took <= waited, "{to}: {took} ns of the {waited} that clients waited");
    }

    // The same backends, directly; datagrams, connected and not; a service without backends.
    let [pod, other] = world.backends();
    let direct = [IpAddr::from(pod.address), pod.address6.into(), other.address.into()];
    world.client().namespace.run(move || {
        for address in direct {
            drop(open(SocketAddr::from((address, BACKEND_PORT))));
        }
        for to in [SERVICE, SERVICE6] {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"hello", to).unwrap();
            socket.recv_from(&mut [0; 64]).unwrap();
            socket.connect(to).unwrap();
            socket.send(b"hello").unwrap();
            socket.recv(&mut [0; 64]).unwrap();
        }
    });
    here.apply_services(&service_with(&[])).unwrap();
    world.client().namespace.run(|| TcpStream::connect_timeout(&SERVICE, PATIENCE).unwrap_err());
    assert_eq!(count(&world), 3 * ROUNDS);
}

/// A socket that its service's backend refused is still a socket.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_connection_past_all_services_is_not_the_refused_one_before_it() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let [refusing, serving] = world.backends();
    let _server = Server::start(serving);
    here.apply_services(&service_with(&[refusing.address])).unwrap();
    world.here.cgroup.enter();
    let address = serving.address;
    world.client().namespace.run(move || {
        let to = |address: Ipv4Addr, port| SockaddrIn::from(SocketAddrV4::new(address, port));
        let flags = SockFlag::empty();
        let client = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        let refused = connect(client.as_raw_fd(), &to(VIP, 80));
        assert_eq!(refused, Err(Errno::ECONNREFUSED));
        connect(client.as_raw_fd(), &to(address, BACKEND_PORT)).unwrap();
    });
    assert_eq!(count(&world), 0);
    here.apply_services(&service_with(&[serving.address])).unwrap();
    world.client().namespace.run(|| drop(open(SERVICE)));
    assert_eq!(count(&world), 1);
}

/// A backend whose queue is full loses the question; the client's stack asks again after a second.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_backend_that_is_late_shows() {
    const LOST: Duration = Duration::from_millis(300);
    const ASKS_AGAIN_NS: u64 = 900_000_000;
    let world = World::new();
    let (mut here, _there) = world.open();
    let backend = world.backends()[1];
    let at = SocketAddr::from((backend.address, BACKEND_PORT));
    let server = backend.namespace.run(move || {
        let server = TcpListener::bind(at).unwrap();
        listen(&server, Backlog::new(0).unwrap()).unwrap();
        server
    });
    here.apply_services(&service_with(&[backend.address])).unwrap();
    world.here.cgroup.enter();
    let mut listener = listener(&world);
    let first = world.client().namespace.run(move || open(at).0);
    let since = monotonic_ns();
    let client = world.client().namespace.spawn(|| open(SERVICE).1);
    std::thread::sleep(LOST);
    drop(server.accept().unwrap());
    let waited = client.join().unwrap();
    let [event] = told(&mut listener, since)[..] else { panic!("not one event") };
    let took = event.connect_ns;
    println!("{took} ns of {}", waited.nanoseconds);
    assert!(took >= ASKS_AGAIN_NS && took <= waited.nanoseconds, "{took} of {waited:?}");
    let place = ConnectTimes::place(took) as usize;
    assert_eq!((count(&world), times(&world)[place]), (1, (1, took)));
    drop(first);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn who_listens_is_told_of_each_connection_and_nobody_else_is() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let backend = world.backends()[1];
    let _server = Server::start(backend);
    here.apply_services(&services_of(&[backend])).unwrap();
    world.here.cgroup.enter();
    let connect = |to| world.client().namespace.run(move || open(to).1);
    connect(SERVICE);
    assert!(!is_anything_told(&world), "nobody listens");
    let since = monotonic_ns();
    let mut listener = listener(&world);
    for to in [SERVICE, SERVICE6, mapped()] {
        let waited = connect(to);
        let events = told(&mut listener, since);
        let [event] = events[..] else { panic!("{to}: {events:?}") };
        let end = |address: bowline_ebpf_abi::Address, port: bowline_ebpf_abi::U16Be| {
            SocketAddr::new(IpAddr::from(address), port.get())
        };
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        assert_eq!(end(event.source, event.source_port), waited.own, "the client");
        assert_eq!(end(event.destination, event.destination_port), to, "the service");
        let reached = SocketAddr::from((backend.like(to.ip()), BACKEND_PORT));
        assert_eq!(end(event.becomes, event.becomes_port), reached, "the backend");
        assert_eq!((event.protocol, event.direction), (protocol::TCP, Direction::Socket as u16));
        assert!(event.connect_ns > 0 && event.connect_ns <= waited.nanoseconds, "{waited:?}");
        let rows = world.here.snapshot().services;
        let row = rows.iter().find(|row| (row.address, row.protocol) == (to.ip(), "TCP"));
        assert_eq!(Some(event.service), row.map(|row| row.id));
        assert!(event.service != NO_SERVICE && event.is_changed());
    }

    // Whose filter is for something else hears nothing.
    drop(listener);
    for (filter, hears) in [
        (Filter { port: Some(80), ..Filter::default() }, true),
        (Filter { port: Some(81), ..Filter::default() }, false),
        (Filter { addresses: vec![world.client().address.into()], ..Filter::default() }, true),
        (Filter { addresses: vec![Ipv4Addr::new(10, 9, 9, 9).into()], ..Filter::default() }, false),
        (Filter { reason: Some(Reason::Balanced), ..Filter::default() }, false),
    ] {
        let (bpffs, wanted) = (world.here.bpffs(), filter.clone());
        let open = move || Listener::open(&bpffs, &wanted).unwrap();
        let mut listener = world.here.namespace.run(open);
        let since = monotonic_ns();
        connect(SERVICE);
        let is_one = |event: &Event| event.reason == Reason::Connected as u16;
        let heard = told(&mut listener, since).iter().filter(|it| is_one(it)).count();
        assert_eq!(heard, usize::from(hears), "{filter:?}");
    }
    assert_eq!(count(&world), 1 + 3 + 5);
}
