//! Full maps: the error names the map, its size and the flag; what was programmed keeps working;
//! `bowline net status` reads of it.

use std::net::{Ipv4Addr, SocketAddr};

use bowline_agent::datapath::{
    Cidr, Datapath, FullMap, Hop, MapSizes, PodLink, ServiceTable, Status, service_table,
};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::servers::{BACKEND_PORT, Connection, Server};
use crate::world::World;

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
    let before = counts();
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

#[test]
fn maps_are_as_large_as_was_promised() {
    let MapSizes { services, slots, backends, reverse, affinity, .. } = MapSizes::default();
    assert_eq!((services, backends, slots), (65_536, 65_536, 1_048_576));
    assert_eq!((affinity, reverse), (65_536, 262_144));
}
