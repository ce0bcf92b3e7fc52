//! The data plane over time: changes under load, agents that die and come back, maps that are full.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bowline_agent::datapath::{Datapath, MapSizes, ServiceSummary};

use crate::servers::{Connection, SERVICE, Server, service_with};
use crate::world::{Pod, World};

/// Connects and asks without pause until it is stopped; any failure ends it with the reason.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    thread: JoinHandle<Result<(), String>>,
}

impl Load {
    fn start(pod: &Pod, allowed: Vec<Ipv4Addr>) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (their_stop, their_done) = (stop.clone(), done.clone());
        let thread = pod.namespace.spawn(move || {
            while !their_stop.load(Ordering::Relaxed) {
                let mut connection =
                    Connection::open(SERVICE).map_err(|e| format!("connect: {e}"))?;
                let answer = connection.ask("load").map_err(|e| format!("ask: {e}"))?;
                if !allowed.contains(&answer.backend) {
                    return Err(format!("answered by {answer:?}"));
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

fn change_a_thousand_times_under_load(in_cgroup: bool) {
    let world = World::new();
    let (mut here, _there) = world.open();
    let _servers = world.backends().map(Server::start);
    let [a, b] = world.backends().map(|pod| pod.address);
    here.apply_services(&service_with(&[a])).unwrap();
    if in_cgroup {
        world.here.cgroup.enter();
    }
    let load = Load::start(world.client(), vec![a, b]);
    load.wait_for(10);
    let sets = [vec![a, b], vec![b], vec![a, b], vec![a]];
    for (change, set) in sets.iter().cycle().take(1_000).enumerate() {
        let summary = here.apply_services(&service_with(set)).unwrap();
        assert_eq!(summary.changed, 2, "change {change}");
        // The machine may be slow: requests must really meet the changes.
        if change % 5 == 4 {
            load.wait_for(1);
        }
    }
    load.wait_for(10);
    let requests = load.finish();
    assert!(requests > 100, "only {requests} requests");
    assert_eq!(world.here.counted("no-backend"), 0);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_connection() {
    change_a_thousand_times_under_load(true);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_connection_at_the_packet_programs() {
    change_a_thousand_times_under_load(false);
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
    let load = Load::start(world.client(), addresses.to_vec());
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
    let mut agent = open_with(1_024);
    world.here.cgroup.enter();
    let mut sockets: Vec<Connection> = Vec::new();
    for peers in [4_096, 512, 262_144] {
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
