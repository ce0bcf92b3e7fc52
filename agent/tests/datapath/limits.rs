//! Full maps: the error names the map, its size and the flag; what was programmed keeps working;
//! `bowline net status` reads of it. Maps that programs fill on their own have no error to give:
//! what was not used for longest gives way in them.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bowline_agent::datapath::{
    Cidr, Datapath, FullMap, Hop, MapSizes, PodLink, ServiceTable, Status, service_table,
};
use bowline_ebpf_abi::map;
use bowline_lab::world::World;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::servers::{
    BACKEND_PORT, Connection, PATIENCE, SERVICE, Server, TestService, service_with,
};
use crate::sockets::datagrams;

/// A service `default/<name>` at this address, TCP port 80, with these backends.
struct Wanted {
    name: &'static str,
    vip: Ipv4Addr,
    backends: Vec<Ipv4Addr>,
}

const FIRST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

fn table(wanted: &[Wanted]) -> ServiceTable {
    let service = |wanted: &Wanted| -> Service {
        let vip = wanted.vip;
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": wanted.name},
            "spec": {"clusterIP": vip, "clusterIPs": [vip],
                     "ports": [{"port": 80, "protocol": "TCP"}]}}))
        .unwrap()
    };
    let slice = |wanted: &Wanted| -> EndpointSlice {
        let endpoints: Vec<_> =
            wanted.backends.iter().map(|address| json!({"addresses": [address]})).collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": format!("{}-1", wanted.name),
                         "labels": {"kubernetes.io/service-name": wanted.name}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"port": BACKEND_PORT, "protocol": "TCP"}]}))
        .unwrap()
    };
    let services: Vec<Service> = wanted.iter().map(service).collect();
    let slices: Vec<EndpointSlice> = wanted.iter().map(slice).collect();
    service_table(&services, &slices, "node1")
}

fn full(status: &Status, map: &str) -> Option<FullMap> {
    status.maps.iter().find(|row| row.name == map).unwrap().full.clone()
}

/// Fills `map` with a service that works, and asks for a second one that finds no room.
fn second_service_finds_no_room(assignment: &str) {
    let world = World::new();
    let _servers = world.backends().map(Server::start);
    let backends = world.backends().map(|pod| pod.address);
    let mut sizes = MapSizes::default();
    sizes.set(assignment).unwrap();
    let (map, size) = assignment.split_once('=').unwrap();

    let first = || Wanted { name: "first", vip: FIRST, backends: backends.to_vec() };
    let others = vec![Ipv4Addr::new(10, 240, 9, 1), Ipv4Addr::new(10, 240, 9, 2)];
    let second = Wanted { name: "second", vip: SECOND, backends: others };
    let mut here = attach_pods(&world, world.here.open_with(sizes));
    here.apply_services(&table(&[first()])).unwrap();
    let row = |world: &World| {
        let maps = world.here.status().maps;
        maps.into_iter().find(|row| row.name == map).unwrap()
    };
    let before = row(&world);
    assert_eq!((before.used, before.size, before.full), (Some(before.size), before.size, None));
    assert_eq!(before.size.to_string(), size);
    assert!(before.bytes > 0);

    let error = here.apply_services(&table(&[first(), second])).unwrap_err().to_string();
    let flag = format!("--map-size {map}=");
    for word in ["default/second", map, &format!("{size} entries"), &flag] {
        assert!(error.contains(word), "{word}: {error}");
    }
    let noted = full(&world.here.status(), map).unwrap();
    assert!(noted.message.contains(&flag), "{noted:?}");
    assert_eq!(noted.refused, ["default/second".to_owned()].into());

    world.here.cgroup.enter();
    let seen = world.client().namespace.run(|| {
        let ask = |_| {
            let mut connection = Connection::open(SocketAddr::from((FIRST, 80))).unwrap();
            connection.ask("still there?").unwrap().backend
        };
        (0..20).map(ask).collect::<Vec<_>>()
    });
    world.here.cgroup.leave();
    assert!(seen.iter().all(|backend| backends.contains(backend)), "{seen:?}");

    // A larger map takes over what the small one held, and all is well.
    drop(here);
    let mut here = world.here.open_with(MapSizes::default());
    assert_eq!(full(&world.here.status(), map), None);
    let second = Wanted { name: "second", vip: SECOND, backends: backends.to_vec() };
    let summary = here.apply_services(&table(&[first(), second])).unwrap();
    assert_eq!((summary.added, summary.unchanged), (1, 1));
}

fn attach_pods(world: &World, datapath: Datapath) -> Datapath {
    let links: Vec<PodLink> = world.here.pods.iter().map(|pod| pod.link.clone()).collect();
    world.here.namespace.run(move || {
        let mut datapath = datapath;
        for link in &links {
            datapath.attach_pod(link).unwrap();
        }
        datapath
    })
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn services_without_room_are_named_and_the_others_work() {
    second_service_finds_no_room("SERVICES=1");
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn backends_without_room_are_named_and_the_others_work() {
    second_service_finds_no_room("BACKENDS=2");
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn slots_without_room_are_named_and_the_others_work() {
    second_service_finds_no_room("SLOTS=2");
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_pod_without_room_is_named_until_it_finds_some() {
    let world = World::new();
    let [first, second] = [0, 1].map(|number| world.here.pods[number].link.clone());
    let mut here = world.here.open_with(MapSizes { pods: 2, ..MapSizes::default() });
    let second_name = format!("default/{}", second.name);
    // Each pod takes one entry a family.
    let addresses = first.addresses.clone();
    let error = world.here.namespace.run({
        let second = second.clone();
        move || {
            here.attach_pod(&first).unwrap();
            (here.attach_pod(&second).unwrap_err().to_string(), here)
        }
    });
    let (error, mut here) = error;
    for word in [second_name.as_str(), "PODS", "2 entries", "--map-size PODS="] {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert!(full(&world.here.status(), "PODS").unwrap().refused.contains(&second_name));
    // One that is deleted needs no room.
    here.detach_pod(&second.addresses).unwrap();
    assert_eq!(full(&world.here.status(), "PODS"), None);
    let _here = world.here.namespace.run(move || {
        here.attach_pod(&second).unwrap_err();
        here.detach_pod(&addresses).unwrap();
        here.attach_pod(&second).unwrap();
        here
    });
    assert_eq!(full(&world.here.status(), "PODS"), None);
}

/// What is counted once the stacks have told their links of new addresses, which they do for about
/// a second: nothing changes for longer than that.
fn when_quiet<T: PartialEq>(counts: impl Fn() -> T) -> T {
    const QUIET: Duration = Duration::from_millis(1_500);
    let (mut last, start) = (counts(), Instant::now());
    let mut since = start;
    while since.elapsed() < QUIET {
        assert!(start.elapsed() < 10 * QUIET, "the stacks never are quiet");
        std::thread::sleep(QUIET / 30);
        let now = counts();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn routes_without_room_are_named_and_the_first_one_works() {
    let world = World::new();
    let here = world.here.open_with(MapSizes { routes: 1, ..MapSizes::default() });
    let mut here = attach_pods(&world, here);
    let (first, hop) = (world.there.ranges()[0], Hop::Uplink(world.there.address().into()));
    let second = Cidr::containing(Ipv4Addr::new(10, 240, 3, 0), 24).unwrap();
    let error = here.set_routes(&[(first, hop), (second, hop)].into()).unwrap_err().to_string();
    for word in ["ROUTES", "1 entries", "--map-size ROUTES="] {
        assert!(error.contains(word), "{word}: {error}");
    }
    let noted = full(&world.here.status(), "ROUTES").unwrap();
    assert!(noted.message.contains("--map-size ROUTES="), "{noted:?}");
    assert_eq!(noted.refused, ["routes to other nodes".to_owned()].into());
    let rows = world.here.snapshot().routes;
    assert_eq!(rows.len(), 1, "{rows:?}");

    // The node's own stack knows the way, too: who took it is what is counted.
    let there = world.there.open();
    let far = world.backends()[1];
    let _server = Server::start(far);
    let to = SocketAddr::from((far.address, BACKEND_PORT));
    let counts = || ["remote-node", "stack"].map(|reason| world.here.counted(reason));
    let before = when_quiet(counts);
    let answer = world.client().namespace.run(move || {
        let mut connection = Connection::open(to).unwrap();
        (0..5).map(|_| connection.ask("still there?").unwrap().backend).last()
    });
    assert_eq!(answer, Some(far.address));
    let [remote, stack] = [0, 1].map(|n| counts()[n] - before[n]);
    // The pods' stacks speak of themselves now and then.
    assert!(remote >= 7 && stack <= 3, "{remote} over the route, {stack} by the stack");
    drop(there);

    // What needs less room has some.
    here.set_routes(&[(first, hop)].into()).unwrap();
    assert_eq!(full(&world.here.status(), "ROUTES"), None);
}

/// How many entries a map has.
fn used(world: &World, map: &str) -> u32 {
    let maps = world.here.snapshot().maps;
    maps.into_iter().find(|row| row.name == map).unwrap().used
}

/// FLOWS refuses nobody: what was not used for longest gives way, so a new connection always finds
/// room. An open one whose entries are gone is balanced anew with its client's next packet. It goes
/// on where that comes to the same backend, and is reset at once where it comes to another, which
/// knows nothing of it: its client neither waits nor is answered by a stranger.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn open_flows_give_way_to_new_ones() {
    const ROOM: u32 = 64;
    const OPEN: usize = 20;
    const NEW: usize = 200;
    let world = World::new();
    let _servers = world.backends().map(Server::start);
    let here = world.here.open_with(MapSizes { flows: ROOM, ..MapSizes::default() });
    let mut here = attach_pods(&world, here);
    here.apply_services(&service_with(&world.backends().map(|pod| pod.address))).unwrap();
    // Outside the cgroup no socket hook runs: each connection has an entry a direction.
    let (kept, cut) = world.client().namespace.run(|| {
        let ask = |connection: &mut Connection, line: &str| {
            let answer = connection.ask(line)?;
            assert_eq!(answer.line, line);
            Ok::<_, std::io::Error>(answer.backend)
        };
        let mut open = Vec::new();
        for _ in 0..OPEN {
            let mut connection = Connection::open(SERVICE).unwrap();
            let backend = ask(&mut connection, "first").unwrap();
            open.push((connection, backend));
        }
        for round in 0..NEW {
            let mut connection = Connection::open(SERVICE).unwrap();
            ask(&mut connection, &format!("new {round}")).unwrap();
        }
        let (mut kept, mut cut) = (0, Vec::new());
        for (connection, backend) in &mut open {
            let start = Instant::now();
            match ask(connection, "second") {
                Ok(same) => {
                    assert_eq!(same, *backend, "answered by a stranger");
                    kept += 1;
                }
                Err(error) => cut.push((error.kind(), start.elapsed())),
            }
        }
        (kept, cut)
    });
    let used = used(&world, map::FLOWS);
    println!("{used} of {ROOM} entries; of {OPEN} open connections {kept} went on, cut: {cut:?}");
    assert!(used <= ROOM);
    assert!(kept > 0 && !cut.is_empty(), "{kept} went on, {} did not", cut.len());
    let reset = |(kind, took): &(ErrorKind, Duration)| {
        *kind == ErrorKind::ConnectionReset && *took < PATIENCE / 2
    };
    assert!(cut.iter().all(reset), "{cut:?}");
    assert_eq!(world.here.counted("flow-not-stored"), 0);
}

/// REVERSE refuses nobody, either: a datagram is sent and arrives, and an answer that is read while
/// its entry is there has its service's name. One whose entry is gone shows its backend's own,
/// never another's, until its socket asks again.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn names_of_answers_give_way_to_newer_ones() {
    const ROOM: u32 = 16;
    const SOCKETS: usize = 100;
    let world = World::new();
    let _servers = world.backends().map(Server::start);
    let here = world.here.open_with(MapSizes { reverse: ROOM, ..MapSizes::default() });
    let mut here = attach_pods(&world, here);
    let services = [FIRST, SECOND].into_iter().zip(world.backends());
    let services: Vec<TestService> = services
        .map(|(vip, pod)| TestService::new(&format!("s{vip}"), vip, &[pod.address]))
        .collect();
    here.apply_services(&TestService::tables(&services.iter().collect::<Vec<_>>())).unwrap();
    let [first, second] = [FIRST, SECOND].map(|vip| SocketAddr::from((vip, 80)));
    let own = SocketAddr::from((world.backends()[1].address, BACKEND_PORT));
    world.here.cgroup.enter();
    let late = world.client().namespace.run(move || {
        let receive = |socket: &UdpSocket| socket.recv_from(&mut [0; 64]).unwrap().1;
        let ask = |socket: &UdpSocket, name| {
            socket.send_to(b"hello", name).unwrap();
            receive(socket)
        };
        let sockets: Vec<UdpSocket> = (0..SOCKETS).map(|_| datagrams()).collect();
        for socket in &sockets {
            // The first name is in PEERS, each socket's own; the second one goes to REVERSE.
            assert_eq!(ask(socket, first), first);
            assert_eq!(ask(socket, second), second);
        }
        // All questions are on their way before the first answer is read.
        for socket in &sockets {
            socket.send_to(b"hello", second).unwrap();
        }
        let late: Vec<SocketAddr> = sockets.iter().map(receive).collect();
        for socket in &sockets {
            assert_eq!(ask(socket, second), second, "asked again");
            assert_eq!(ask(socket, first), first);
        }
        late
    });
    world.here.cgroup.leave();
    let named = |name| late.iter().filter(|from| **from == name).count();
    let (named, unnamed) = (named(second), named(own));
    println!("of {SOCKETS} late answers {named} had their name, {unnamed} their backend's own");
    assert_eq!(named + unnamed, SOCKETS, "{late:?}");
    assert!(unnamed >= SOCKETS - ROOM as usize && used(&world, map::REVERSE) <= ROOM);
    assert_eq!(world.here.counted("flow-not-stored"), 0);
}

/// AFFINITY refuses nobody, either: a client whose entry gave way is balanced anew, and keeps to
/// what it comes to then.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn clients_that_were_forgotten_are_balanced_anew() {
    const ROOM: u32 = 16;
    const SERVICES: u8 = 60;
    let world = World::new();
    let _servers = world.backends().map(Server::start);
    let here = world.here.open_with(MapSizes { affinity: ROOM, ..MapSizes::default() });
    let mut here = attach_pods(&world, here);
    let backends = world.backends().map(|pod| pod.address);
    let vips: Vec<Ipv4Addr> = (1..=SERVICES).map(|n| Ipv4Addr::new(10, 9, 9, n)).collect();
    let services: Vec<TestService> = vips
        .iter()
        .map(|vip| TestService::new(&format!("s{vip}"), *vip, &backends).sticky(3600))
        .collect();
    here.apply_services(&TestService::tables(&services.iter().collect::<Vec<_>>())).unwrap();
    for hooked in [true, false] {
        if hooked {
            world.here.cgroup.enter();
        }
        let vips = vips.clone();
        let rounds = world.client().namespace.run(move || {
            let ask = |vip: &Ipv4Addr| {
                let mut connection = Connection::open(SocketAddr::from((*vip, 80))).unwrap();
                connection.ask("hello").unwrap().backend
            };
            let round = |_| {
                let kept = |vip| {
                    let chosen = ask(vip);
                    assert_eq!(ask(vip), chosen, "{vip} was asked just now");
                    chosen
                };
                vips.iter().map(kept).collect::<Vec<_>>()
            };
            [0, 1].map(round)
        });
        world.here.cgroup.leave();
        let [first, second] = &rounds;
        let moved = first.iter().zip(second).filter(|(first, second)| first != second).count();
        println!("of {SERVICES} clients {moved} moved, at the sockets: {hooked}");
        assert!(moved > 0 && moved < usize::from(SERVICES), "{moved} moved");
        let used = used(&world, map::AFFINITY);
        assert!(used > 0 && used <= ROOM, "{used} of {ROOM}");
    }
}

#[test]
fn maps_are_as_large_as_was_promised() {
    let MapSizes { services, slots, backends, reverse, affinity, .. } = MapSizes::default();
    assert_eq!((services, backends, slots), (65_536, 65_536, 1_048_576));
    assert_eq!((affinity, reverse), (65_536, 262_144));
}
