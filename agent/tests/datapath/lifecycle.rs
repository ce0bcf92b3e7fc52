//! The data plane over time: changes under load, agents that die and come back, maps that are full.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bowline_agent::datapath::{Datapath, MapSizes, ServiceSummary};

use crate::servers::{Connection, SERVICE, SERVICE6, Server, service_with, services_of};
use crate::world::{Pod, World};

/// The backends that a service has one after the other, again and again.
struct History {
    cycle: Vec<Vec<IpAddr>>,
    /// How many changes have begun, and how many are done.
    begun: AtomicUsize,
    done: AtomicUsize,
}

impl History {
    fn of(cycle: Vec<Vec<IpAddr>>) -> Arc<Self> {
        Arc::new(Self { cycle, begun: AtomicUsize::new(0), done: AtomicUsize::new(0) })
    }

    fn set(&self, change: usize) -> &[IpAddr] {
        &self.cycle[change % self.cycle.len()]
    }

    /// Makes the next change.
    fn change(&self, make: impl FnOnce(&[IpAddr])) {
        let next = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        make(self.set(next));
        self.done.store(next, Ordering::SeqCst);
    }
}

/// Connects and asks without pause until it is stopped; any failure, and an answer of a backend
/// that was in no set between the connection's beginning and its end, ends it with the reason.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    thread: JoinHandle<Result<(), String>>,
}

impl Load {
    fn start(pod: &Pod, service: SocketAddr, history: Arc<History>) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (their_stop, their_done) = (stop.clone(), done.clone());
        let thread = pod.namespace.spawn(move || {
            while !their_stop.load(Ordering::Relaxed) {
                let first = history.done.load(Ordering::SeqCst);
                let mut connection =
                    Connection::open(service).map_err(|e| format!("connect: {e}"))?;
                let last = history.begun.load(Ordering::SeqCst);
                let answer = connection.say("load").map_err(|e| format!("ask: {e}"))?;
                let backend: IpAddr = answer.split(' ').next().unwrap().parse().unwrap();
                if !(first..=last).any(|change| history.set(change).contains(&backend)) {
                    return Err(format!("{backend} is in no set from {first} to {last}"));
                }
                their_done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self { stop, done, thread }
    }

    fn requests(&self) -> u32 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until this many more requests are done.
    fn wait_for(&self, more: u32) {
        let (goal, start) = (self.requests() + more, Instant::now());
        while self.requests() < goal {
            assert!(!self.thread.is_finished(), "the load ended early");
            assert!(start.elapsed() < Duration::from_secs(20), "the load is stuck");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn finish(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap();
        self.done.load(Ordering::Relaxed)
    }
}

fn change_a_thousand_times_under_load(service: SocketAddr, in_cgroup: bool) {
    let world = World::new();
    let (mut here, _there) = world.open();
    let pods = world.backends();
    let _servers = pods.map(Server::start);
    let address = |pod: &Pod| match service {
        SocketAddr::V4(_) => IpAddr::from(pod.address),
        SocketAddr::V6(_) => pod.address6.into(),
    };
    let [a, b] = pods.map(address);
    // Shared backends, and none.
    let cycle = vec![vec![a], vec![a, b], vec![b], vec![a], vec![b], vec![a, b]];
    let history = History::of(cycle);
    here.apply_services(&services_of(&[pods[0]])).unwrap();
    if in_cgroup {
        world.here.cgroup.enter();
    }
    let load = Load::start(world.client(), service, history.clone());
    load.wait_for(10);
    for change in 0..1_000 {
        history.change(|set| {
            let of_set: Vec<&Pod> =
                pods.into_iter().filter(|pod| set.contains(&address(pod))).collect();
            let summary = here.apply_services(&services_of(&of_set)).unwrap();
            assert_eq!(summary.changed, 4, "change {change}: two protocols, two families");
        });
        // The machine may be slow: requests must really meet the changes.
        if change % 5 == 4 {
            load.wait_for(1);
        }
    }
    load.wait_for(10);
    let requests = load.finish();
    println!("{requests} connections met 1000 changes");
    assert!(requests > 100, "only {requests} requests");
    assert_eq!(world.here.counted("no-backend"), 0);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_connection() {
    change_a_thousand_times_under_load(SERVICE, true);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_connection_over_ipv6() {
    change_a_thousand_times_under_load(SERVICE6, true);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_connection_at_the_packet_programs() {
    change_a_thousand_times_under_load(SERVICE, false);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_connection_at_the_packet_programs_over_ipv6() {
    change_a_thousand_times_under_load(SERVICE6, false);
}

fn take_over_under_load(in_cgroup: bool) {
    let world = World::new();
    let (mut here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    let addresses = world.backends().map(|pod| pod.address);
    let table = service_with(&addresses);
    here.apply_services(&table).unwrap();
    if in_cgroup {
        world.here.cgroup.enter();
    }
    let mut open = world.client().namespace.run(|| Connection::open(SERVICE).unwrap());
    let first = open.ask("before").unwrap().backend;
    let everybody = addresses.map(IpAddr::from).to_vec();
    let load = Load::start(world.client(), SERVICE, History::of(vec![everybody]));
    let mut agent: Option<Datapath> = Some(here);
    for _ in 0..5 {
        // The agent is gone for a while: everything goes on.
        agent.take();
        load.wait_for(20);
        assert_eq!(open.ask("nobody there").unwrap().backend, first);
        let mut next = world.here.open();
        let unchanged = ServiceSummary { unchanged: 2, ..ServiceSummary::default() };
        assert_eq!(next.apply_services(&table).unwrap(), unchanged);
        assert_eq!(next.pods().len(), 4, "two pods, two addresses each");
        load.wait_for(20);
        // The next agent starts while this one still runs.
        agent = Some(world.here.open());
        assert_eq!(open.ask("taken over").unwrap().backend, first);
    }
    load.finish();
    assert_eq!(world.here.counted("no-backend"), 0);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn agents_come_and_go_under_load() {
    take_over_under_load(true);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn agents_come_and_go_under_load_at_the_packet_programs() {
    take_over_under_load(false);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_full_map_says_so_and_a_larger_one_takes_over_what_it_held() {
    let world = World::new();
    let mut sizes = MapSizes::default();
    for assignment in ["SLOTS=4", "BACKENDS=16"] {
        sizes.set(assignment).unwrap();
    }
    for wrong in ["SLOTS", "SLOTS=", "SLOTS=0", "slots=4", "COUNTERS=4"] {
        let error = sizes.set(wrong).unwrap_err().to_string();
        assert!(error.contains(wrong) && error.contains("BACKENDS"), "{error}");
    }
    let mut small = world.here.open_with(sizes);
    let address = |number| Ipv4Addr::new(10, 240, 9, number);
    let (two, three): (Vec<_>, Vec<_>) =
        ((1..=2).map(address).collect(), (1..=3).map(address).collect());
    small.apply_services(&service_with(&two)).unwrap();
    let error = small.apply_services(&service_with(&three)).unwrap_err().to_string();
    let says = ["default/web", "SLOTS", "4 entries", "--map-size SLOTS="];
    assert!(says.iter().all(|word| error.contains(word)), "{error}");
    let rows = |world: &World| world.here.snapshot().backends.len();
    assert_eq!(rows(&world), 4, "what was programmed stays: two backends for TCP and for UDP");
    drop(small);

    let mut large = world.here.open_with(MapSizes { slots: 64, ..sizes });
    assert_eq!(rows(&world), 4, "the larger map holds the same");
    assert_eq!(large.apply_services(&service_with(&three)).unwrap().changed, 2);
    assert_eq!(rows(&world), 6);
    let slots = world.here.snapshot().maps.into_iter().find(|row| row.name == "SLOTS").unwrap();
    assert_eq!((slots.used, slots.size), (6, 64));
}

/// PEERS never fills up: a newer socket takes an older one's place. Its size may change under
/// sockets that are open.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn open_sockets_keep_their_names_when_the_map_of_peers_grows_and_shrinks() {
    let world = World::new();
    let (here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    let addresses = world.backends().map(|pod| pod.address);
    let table = service_with(&addresses);
    let open_with = |peers| {
        let mut sizes = MapSizes::default();
        sizes.set(&format!("PEERS={peers}")).unwrap();
        let mut opened = world.here.open_with(sizes);
        opened.apply_services(&table).unwrap();
        opened
    };
    drop(here);
    let mut agent = open_with(262_144);
    world.here.cgroup.enter();
    let mut sockets: Vec<Connection> = Vec::new();
    // Each CPU numbers its sockets from a block of 4,096 of its own, and sockets of other tests are
    // numbered with ours: in a table with room for many blocks none takes another's place.
    for peers in [524_288, 131_072, 262_144] {
        let more = world
            .client()
            .namespace
            .run(|| (0..20).map(|_| Connection::open(SERVICE).unwrap()).collect::<Vec<_>>());
        sockets.extend(more);
        drop(agent);
        agent = open_with(peers);
        for socket in &mut sockets {
            assert_eq!(socket.peer(), SERVICE, "with {peers}");
            socket.ask("still there?").unwrap();
        }
        let rows = world.here.status().maps;
        let row = rows.into_iter().find(|row| row.name == "PEERS").unwrap();
        assert_eq!((row.size, row.flag), (peers, Some("--map-size PEERS=")));
    }
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn pods_come_and_go() {
    let world = World::new();
    let (mut here, _there) = world.open();
    let pod = &world.here.pods[0];
    let row =
        |world: &World| world.here.snapshot().pods.into_iter().find(|r| r.address == pod.address);
    drop(here);
    here = world.here.open();
    let found = row(&world).unwrap();
    assert_eq!(found.mac, "02:00:00:00:00:05");
    let here = world.here.namespace.run({
        let addresses = pod.link.addresses.clone();
        move || {
            here.detach_pod(&addresses).unwrap();
            here.detach_pod(&addresses).unwrap();
            here
        }
    });
    assert!(row(&world).is_none());
    assert_eq!(here.pods().len(), 2);
    // An interface that vanished while no agent ran is forgotten at the next start.
    drop(here);
    world.here.namespace.ip("link del pod6");
    let here = world.here.open_with(MapSizes::default());
    assert!(here.pods().is_empty());
    drop(here);
    let named = world.here.snapshot();
    assert!(named.pods.is_empty(), "{named:?}");
}
