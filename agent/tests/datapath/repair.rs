//! What somebody breaks by hand is found, named and mended.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{SchedClassifier, loaded_programs};
use bowline_agent::datapath::{ApiObjects, Datapath, Hop, Raw, ServiceTable, service_table};
use bowline_ebpf_abi::{
    ABI_VERSION, Address, Backend, Edition, Mac, Pod, Route, Service, ServiceKey, ServiceLine,
    Slot, map,
};
use bowline_lab::world::{NODE, Node, TUNNEL, World};

use k8s_openapi::api::core::v1::Service as ApiService;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::json;

use crate::servers::{Connection, SERVICE, Server, TestService, VIP, serve, service_with};

type Bytes<const N: usize> = [u8; N];
const SERVICE_KEY: usize = size_of::<ServiceKey>();
const ADDRESS: usize = size_of::<Address>();

/// The kernel lets go of a link some time after its pin: more than one look may be needed.
fn verify_until_mended(node: &Node, mut datapath: Datapath) -> (Datapath, Vec<String>) {
    for _ in 0..100 {
        let repairs;
        (datapath, repairs) = node.verify(datapath);
        if !repairs.is_empty() {
            return (datapath, repairs);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    (datapath, Vec::new())
}

fn open(pins: &Path, name: &str) -> MapData {
    MapData::from_pin(pins.join("maps").join(name)).unwrap()
}

/// Changes the first value, removes the first entry, or adds one, of a hash map.
fn spoil_hash<const K: usize, const V: usize>(pins: &Path, name: &str, how: Spoil) {
    let mut map: HashMap<_, Bytes<K>, Bytes<V>> =
        HashMap::try_from(Map::HashMap(open(pins, name))).unwrap();
    // Addresses of IPv4 are in mapped form, which comes before all of IPv6.
    let (key, mut value) = map.iter().map(Result::unwrap).min().unwrap();
    match how {
        Spoil::Remove => map.remove(&key).unwrap(),
        Spoil::Change => {
            value[0] ^= 0x55;
            map.insert(key, value, 0).unwrap();
        }
        Spoil::Add => map.insert([9; K], value, 0).unwrap(),
    }
}

/// Changes the first element that anybody uses.
fn spoil_array<const V: usize>(pins: &Path, name: &str) {
    let mut map: Array<_, Bytes<V>> = Array::try_from(Map::Array(open(pins, name))).unwrap();
    let used = (0..map.len()).find(|index| map.get(index, 0).unwrap() != [0; V]).unwrap();
    map.set(used, [0xee; V], 0).unwrap();
}

fn spoil_routes(pins: &Path, how: Spoil) {
    const V: usize = size_of::<Route>();
    let mut map: LpmTrie<_, Bytes<ADDRESS>, Bytes<V>> =
        LpmTrie::try_from(Map::LpmTrie(open(pins, map::ROUTES))).unwrap();
    let (key, mut value) = map.iter().next().unwrap().unwrap();
    match how {
        Spoil::Remove => map.remove(&key).unwrap(),
        Spoil::Change => {
            value[15] ^= 0x55;
            map.insert(&key, value, 0).unwrap();
        }
        Spoil::Add => map.insert(&Key::new(64, [9; ADDRESS]), value, 0).unwrap(),
    }
}

#[derive(Clone, Copy, Debug)]
enum Spoil {
    Remove,
    Change,
    Add,
}

/// Leaves the first service one of its backends less.
fn spoil_backends(pins: &Path) {
    let mut map: HashMap<_, Raw<ServiceKey>, Raw<Service>> =
        HashMap::try_from(Map::HashMap(open(pins, map::SERVICES))).unwrap();
    let (key, Raw(service)) = map.iter().map(Result::unwrap).min_by_key(|(key, _)| key.0).unwrap();
    let service = Service { slot_count: service.slot_count - 1, ..service };
    map.insert(key, Raw(service), 0).unwrap();
}

/// Gives the first pod's address another hardware address.
fn spoil_mac(pins: &Path) {
    let mut map: HashMap<_, Raw<Address>, Raw<Pod>> =
        HashMap::try_from(Map::HashMap(open(pins, map::PODS))).unwrap();
    let (address, Raw(pod)) = map.iter().map(Result::unwrap).min_by_key(|(key, _)| key.0).unwrap();
    let pod = Pod { mac: Mac::new([2; 6]), ..pod };
    map.insert(address, Raw(pod), 0).unwrap();
}

/// No address is looked for any more.
fn spoil_span(pins: &Path) {
    let mut map: Array<_, Raw<Edition>> =
        Array::try_from(Map::Array(open(pins, map::EDITION))).unwrap();
    let Raw(Edition { number, .. }) = map.get(&0, 0).unwrap();
    map.set(0, Raw(Edition { number, ..Edition::EMPTY }), 0).unwrap();
}

/// A name, the damage, what `bowline net diff` says of it as `kind difference object`, and the
/// words that the repair must have.
type Row = (&'static str, fn(&Path), &'static [&'static str], &'static [&'static str]);

const SERVICE_VALUE: usize = size_of::<Service>();

fn spoil_service(pins: &Path, how: Spoil) {
    spoil_hash::<SERVICE_KEY, SERVICE_VALUE>(pins, map::SERVICES, how);
}

fn spoil_pod(pins: &Path, how: Spoil) {
    spoil_hash::<ADDRESS, { size_of::<Pod>() }>(pins, map::PODS, how);
}

const ROWS: &[Row] = &[
    (
        "service removed",
        |pins| spoil_service(pins, Spoil::Remove),
        &["service missing default/web 10.9.8.7:80/TCP", "line extra 10.9.8.7:80/TCP"],
        &["map SERVICES", "1 missing", "10.9.8.7:80/"],
    ),
    (
        "service changed",
        |pins| spoil_service(pins, Spoil::Change),
        &["line changed 10.9.8.7:80/TCP"],
        &["map SERVICES", "1 changed", "10.9.8.7:80/"],
    ),
    (
        "service with a backend less",
        spoil_backends,
        &["service changed default/web 10.9.8.7:80/TCP", "line changed 10.9.8.7:80/TCP"],
        &["map SERVICES", "1 changed", "10.9.8.7:80/"],
    ),
    (
        "service of nobody's",
        |pins| spoil_service(pins, Spoil::Add),
        &[
            "service extra [909:909:",
            "line missing [909:909:",
            "address missing 909:909:",
            "span missing 909:909:",
        ],
        &["map SERVICES", "1 of nobody's"],
    ),
    (
        "slot",
        |pins| spoil_array::<{ size_of::<Slot>() }>(pins, map::SLOTS),
        &["service changed default/web 10.9.8.7:80/", "line changed 10.9.8.7:80/"],
        &["map SLOTS", "1 changed"],
    ),
    (
        "backend",
        |pins| spoil_array::<{ size_of::<Backend>() }>(pins, map::BACKENDS),
        &["service changed default/web 10.9.8.7:80/", "line changed 10.9.8.7:80/"],
        &["map BACKENDS", "1 changed"],
    ),
    (
        "service line",
        |pins| spoil_array::<{ size_of::<ServiceLine>() }>(pins, map::SERVICE_LINES),
        &["line changed 10.9.8.7:80/"],
        &["map SERVICE_LINES", "1 changed"],
    ),
    (
        "address removed",
        |pins| spoil_hash::<ADDRESS, 4>(pins, map::ADDRESSES, Spoil::Remove),
        &["address missing 10.9.8.7"],
        &["map ADDRESSES", "1 missing", "10.9.8.7"],
    ),
    (
        "address of nobody's",
        |pins| spoil_hash::<ADDRESS, 4>(pins, map::ADDRESSES, Spoil::Add),
        &["address extra 909:909:"],
        &["map ADDRESSES", "1 of nobody's", "909:909:"],
    ),
    ("edition", spoil_span, &["span missing 10.9.8.7"], &["map EDITION", "1 changed"]),
    (
        "pod removed",
        |pins| spoil_pod(pins, Spoil::Remove),
        &["pod missing default/pod5"],
        &["map PODS", "1 missing", "10.240.1.5"],
    ),
    (
        "pod changed",
        spoil_mac,
        &["pod changed default/pod5"],
        &["map PODS", "1 changed", "10.240.1.5"],
    ),
    (
        "pod of nobody's",
        |pins| spoil_pod(pins, Spoil::Add),
        &["pod extra 909:909:"],
        &["map PODS", "1 of nobody's", "909:909:"],
    ),
    (
        "route removed",
        |pins| spoil_routes(pins, Spoil::Remove),
        &["route missing 10.240.2.0/24"],
        &["map ROUTES", "1 missing", "10.240.2.0/24"],
    ),
    (
        "route changed",
        |pins| spoil_routes(pins, Spoil::Change),
        &["route changed 10.240.2.0/24"],
        &["map ROUTES", "1 changed", "10.240.2.0/24"],
    ),
    (
        "route of nobody's",
        |pins| spoil_routes(pins, Spoil::Add),
        &["route extra 909:909:"],
        &["map ROUTES", "1 of nobody's"],
    ),
    (
        "socket program",
        |pins| std::fs::remove_file(pins.join("links/connect4")).unwrap(),
        &["program missing connect4"],
        &["program connect4", "attached again"],
    ),
];

/// What the API would say of both nodes, of the first one's pods and of these services.
fn objects(world: &World, services: &[&TestService]) -> ApiObjects {
    let nodes = [(NODE, &world.here), ("node2", &world.there)].map(|(name, node)| {
        let addresses = [IpAddr::from(node.address()), node.address6().into()]
            .map(|address| json!({"type": "InternalIP", "address": address}));
        let ranges = node.ranges().map(|range| range.to_string());
        json!({"metadata": {"name": name}, "spec": {"podCIDRs": ranges},
               "status": {"addresses": addresses}})
    });
    let pods = world.here.pods.iter().map(|pod| {
        let addresses = pod.link.addresses.iter().map(|address| json!({"ip": address}));
        json!({"metadata": {"namespace": pod.link.namespace, "name": pod.link.name,
                            "uid": pod.link.uid},
               "spec": {"nodeName": NODE, "containers": []},
               "status": {"phase": "Running", "podIPs": addresses.collect::<Vec<_>>()}})
    });
    let (services, slices) = services.iter().map(|service| service.objects()).unzip();
    ApiObjects {
        services,
        slices,
        nodes: nodes.map(|node| serde_json::from_value(node).unwrap()).into(),
        pods: pods.map(|pod| serde_json::from_value(pod).unwrap()).collect(),
    }
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn damage_by_hand_is_found_named_and_mended() {
    let world = World::new();
    let (mut here, _there, _servers) = serve(&world);
    let service = TestService::new("web", VIP, &world.backends().map(|pod| pod.address));
    let objects = objects(&world, &[&service]);
    let works = || {
        world.client().namespace.run(|| {
            for _ in 0..8 {
                Connection::open(SERVICE).unwrap().ask("hello").unwrap();
            }
        });
    };
    works();
    let pins = world.here.bpffs().join("bowline").join(format!("v{ABI_VERSION}"));
    let mut repairs;
    (here, repairs) = world.here.verify(here);
    assert_eq!(repairs, Vec::<String>::new(), "healthy");
    assert_eq!(world.here.differences(objects.clone()), Vec::<String>::new(), "healthy");
    for (what, spoil, named, words) in ROWS {
        spoil_in(&world.here, &pins, *spoil);
        let found = world.here.differences(objects.clone());
        let names = |line: &str, name: &str| line.starts_with(name);
        let expected = named.iter().all(|name| found.iter().any(|line| names(line, name)))
            && found.iter().all(|line| named.iter().any(|name| names(line, name)));
        assert!(expected, "{what}: {found:?}");
        (here, repairs) = verify_until_mended(&world.here, here);
        let [repair] = &repairs[..] else { panic!("{what}: {repairs:?}") };
        assert!(words.iter().all(|word| repair.contains(word)), "{what}: {repair}");
        (here, repairs) = world.here.verify(here);
        assert_eq!(repairs, Vec::<String>::new(), "{what} is mended for good");
        assert_eq!(world.here.differences(objects.clone()), Vec::<String>::new(), "{what}");
        works();
    }
}

fn spoil_in(node: &Node, pins: &Path, spoil: fn(&Path)) {
    let pins = pins.to_path_buf();
    node.namespace.run(move || spoil(&pins));
}

/// Puts another program in the place of this link's: one that looks at packets somewhere else.
fn replace_program(pin: &Path) {
    let link = |pin: &Path| FdLink::from(PinnedLink::from_pin(pin).unwrap());
    let own = link(pin).info().unwrap().program_id();
    let pins = std::fs::read_dir(pin.parent().unwrap()).unwrap().map(Result::unwrap);
    // Those of packet programs name an interface.
    let pins = pins.filter(|pin| pin.file_name().to_string_lossy().contains('-'));
    let numbers = pins.map(|pin| link(&pin.path()).info().unwrap().program_id());
    let numbers = numbers.filter(|number| *number != own);
    let number = numbers.min().unwrap();
    let mut programs = loaded_programs().filter_map(Result::ok);
    let info = programs.find(|program| program.id() == number).unwrap();
    let mut program = SchedClassifier::from_program_info(info, "other".into()).unwrap();
    program.attach_to_link(link(pin).try_into().unwrap()).unwrap();
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn detached_packet_programs_are_attached_again() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let objects = objects(&world, &[]);
    assert_eq!(world.here.differences(objects.clone()), Vec::<String>::new(), "healthy");
    let links = world.here.bpffs().join("bowline").join(format!("v{ABI_VERSION}")).join("links");
    let pod = world.here.pods[0].link.ifindex;
    let uplink = world.here.namespace.run(|| nix::net::if_::if_nametoindex("eth0").unwrap());
    let pins =
        [format!("from_pod-{pod}"), format!("to_pod-{pod}"), format!("from_uplink-{uplink}")];
    for pin in pins {
        let path = links.join(&pin);
        let removed = world.here.namespace.run({
            let path = path.clone();
            move || path.exists() && std::fs::remove_file(&path).is_ok()
        });
        // Below Linux 6.6 there are filters in their place, without a pin.
        if !removed {
            eprintln!("SKIPPED: no TCX link at {}", path.display());
            continue;
        }
        let named = world.here.differences(objects.clone());
        assert_eq!(named, [format!("program missing {pin}")]);
        let repairs;
        (here, repairs) = verify_until_mended(&world.here, here);
        let [repair] = &repairs[..] else { panic!("{pin}: {repairs:?}") };
        let program = pin.split('-').next().unwrap();
        let words = [program, "its pin was gone", "attached again"];
        assert!(words.iter().all(|word| repair.contains(word)), "{repair}");

        let path = path.clone();
        world.here.namespace.run(move || replace_program(&path));
        let named = world.here.differences(objects.clone());
        assert_eq!(named, [format!("program changed {pin}")]);
        let repairs;
        (here, repairs) = world.here.verify(here);
        let [repair] = &repairs[..] else { panic!("{pin}: {repairs:?}") };
        let words = [program, "another program was in its place", "attached again"];
        assert!(words.iter().all(|word| repair.contains(word)), "{repair}");
    }
    // A filter or a link: what was there once is there again.
    let left;
    (_, left) = world.here.verify(here);
    assert_eq!(left, Vec::<String>::new());
}

/// A link that was removed by hand comes back under another number: the pod is attached there, and
/// nothing of the old number stays.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn links_that_were_made_anew_leave_no_pins_of_the_old_ones() {
    let mut world = World::new();
    let (mut here, there) = world.open();
    let tcx = world.here.link_pins().iter().any(|pin| pin.starts_with("from_pod-"));
    let ifindex = |world: &World| world.here.pods[0].link.ifindex;
    let old = ifindex(&world);
    let kept = world.here.pods[1].link.ifindex;
    world.here.rewire_pod(0);
    let new = ifindex(&world);
    assert_ne!(old, new);
    // While the link is gone there is nothing to mend, and nothing fails.
    let repairs;
    (here, repairs) = world.here.verify(here);
    assert_eq!(repairs, Vec::<String>::new());
    let objects = objects(&world, &[]);
    let hang_on_nothing =
        ["from_pod", "to_pod"].map(|name| format!("program changed {name}-{old}"));
    let named = if tcx { hang_on_nothing.to_vec() } else { Vec::new() };
    assert_eq!(world.here.differences(objects.clone()), named);

    here = world.here.attach(here, &world.here.pods[0]);
    let rows = world.here.snapshot().pods;
    let of = |address: IpAddr| rows.iter().find(|row| row.address == address).unwrap().ifindex;
    let pod = &world.here.pods[0];
    assert_eq!([of(pod.address.into()), of(pod.address6.into())], [new, new], "PODS");
    for (ifindex, there) in [(old, false), (new, tcx), (kept, tcx)] {
        for program in ["from_pod", "to_pod"] {
            assert_eq!(pins_of(&world, program, ifindex), there, "{program} of {ifindex}");
        }
    }
    let (mut here, repairs) = world.here.verify(here);
    assert_eq!(repairs, Vec::<String>::new(), "all is attached");
    assert_eq!(world.here.differences(objects), Vec::<String>::new(), "all is attached");
    let servers = world.backends().map(Server::start);
    here.apply_services(&service_with(&world.backends().map(|pod| pod.address))).unwrap();
    let asks = |world: &World| {
        let before = world.here.counted("balanced");
        world.client().namespace.run(|| {
            for _ in 0..8 {
                Connection::open(SERVICE).unwrap().ask("hello").unwrap();
            }
        });
        // Outside the cgroup no socket hook runs: only the new link's programs translate.
        assert!(world.here.counted("balanced") > before);
    };
    asks(&world);

    let (here, _there) = world.tunnel(here, there);
    let old = world.here.namespace.ifindex(TUNNEL);
    assert_eq!(pins_of(&world, "from_uplink", old), tcx);
    world.here.remake_tunnel();
    let new = world.here.namespace.ifindex(TUNNEL);
    let here = world.here.lead(here, &world.there, [Hop::Tunnel(world.there.address().into()); 2]);
    let pinned = [old, new].map(|ifindex| pins_of(&world, "from_uplink", ifindex));
    assert_eq!(pinned, [false, tcx], "pins of the old tunnel device and of the new one");
    let (_here, repairs) = world.here.verify(here);
    assert_eq!(repairs, Vec::<String>::new(), "all is attached");
    asks(&world);
    drop(servers);
}

fn pins_of(world: &World, program: &str, ifindex: u32) -> bool {
    world.here.link_pins().contains(&format!("{program}-{ifindex}"))
}

/// Services 10.9.x.y:80, each with backends of its own.
fn many_services(count: u16, backends: u8) -> ServiceTable {
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for number in 0..count {
        let [high, low] = number.to_be_bytes();
        let name = format!("s{number}");
        services.push(serde_json::from_value::<ApiService>(json!({
            "metadata": {"namespace": "default", "name": name},
            "spec": {"clusterIP": format!("10.9.{high}.{low}"), "ports": [{"port": 80}]}})));
        let endpoints =
            (0..backends).map(|b| json!({"addresses": [format!("10.{b}.{high}.{low}")]}));
        slices.push(serde_json::from_value::<EndpointSlice>(json!({
            "metadata": {"namespace": "default", "name": name,
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": [{"port": 8080}]})));
    }
    let services: Vec<ApiService> = services.into_iter().map(Result::unwrap).collect();
    let slices: Vec<EndpointSlice> = slices.into_iter().map(Result::unwrap).collect();
    service_table(&services, &slices, "node1")
}

/// So many services are verified in less than a tenth of the pause between two looks, by the time
/// that it takes of a CPU: other tests run meanwhile.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn ten_thousand_services_are_verified_in_passing() {
    let world = World::new();
    let mut here = world.here.open();
    here.apply_services(&many_services(10_000, 6)).unwrap();
    let mut times = Vec::new();
    for _ in 0..5 {
        let time;
        (here, time) = world.here.namespace.run(move || {
            let start = cpu_time();
            let verified = here.verify();
            assert!(verified.repairs.is_empty() && verified.failures.is_empty(), "{verified:?}");
            (here, cpu_time() - start)
        });
        times.push(time);
    }
    times.sort_unstable();
    println!("10,000 services with 6 backends: verified in {:?} (median of 5)", times[2]);
    assert!(times[2].as_millis() < 200, "{times:?}");
}

/// What the calling thread has had of a CPU.
fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    [usage.user_time(), usage.system_time()]
        .into_iter()
        .map(|time| Duration::from_micros(time.num_microseconds().try_into().unwrap()))
        .sum()
}
