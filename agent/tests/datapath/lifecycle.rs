//! The data plane over time: changes under load, agents that die and come back, maps that are full.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bowline_agent::datapath::{Datapath, MapSizes, ServiceSummary};
use bowline_lab::world::{Pod, World};

use crate::servers::{
    BACKEND_PORT, Connection, SERVICE, SERVICE6, Server, service_with, services_of,
};

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

/// How a load asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Over a new connection each time.
    Tcp,
    /// Over a new connected socket each time.
    ConnectedUdp,
    /// Over one socket, which names the service with each datagram.
    UnconnectedUdp,
}

/// Asks one question after the other.
struct Asker {
    kind: Kind,
    service: SocketAddr,
    unconnected: Option<UdpSocket>,
    asked: u32,
    lost: Arc<AtomicU32>,
}

impl Asker {
    /// Who answered, and how many changes had begun when nobody else could be chosen any more.
    fn ask(&mut self, history: &History) -> Result<(IpAddr, usize), String> {
        self.asked += 1;
        let begun = || history.begun.load(Ordering::SeqCst);
        if self.kind == Kind::Tcp {
            let mut connection =
                Connection::open(self.service).map_err(|e| format!("connect: {e}"))?;
            let last = begun();
            let answer = connection.say("load").map_err(|e| format!("ask: {e}"))?;
            return Ok((backend_of(&answer), last));
        }
        let socket = self.socket().map_err(|e| format!("connect: {e}"))?;
        let question = format!("question {}", self.asked);
        let answer = self.answer_to(&socket, &question);
        self.unconnected = (self.kind == Kind::UnconnectedUdp).then_some(socket);
        // A connected socket may have been moved off a backend that was gone meanwhile.
        Ok((backend_of(&answer?), begun()))
    }

    fn socket(&mut self) -> std::io::Result<UdpSocket> {
        if let Some(socket) = self.unconnected.take() {
            return Ok(socket);
        }
        let any = if self.service.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        if self.kind == Kind::ConnectedUdp {
            socket.connect(self.service)?;
        }
        Ok(socket)
    }

    /// Asks up to four times. What is lost is counted, what is refused is a failure.
    fn answer_to(&self, socket: &UdpSocket, question: &str) -> Result<String, String> {
        for _ in 0..4 {
            let sent = match self.kind {
                Kind::UnconnectedUdp => socket.send_to(question.as_bytes(), self.service),
                _ => socket.send(question.as_bytes()),
            };
            sent.map_err(|e| format!("send: {e}"))?;
            let mut buffer = [0; 256];
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    if from != self.service || !answer.ends_with(&format!(" {question}")) {
                        return Err(format!("{from} answers {answer} to {question}"));
                    }
                    return Ok(answer);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => return Err(format!("receive: {error}")),
            }
        }
        Err("nobody answered".to_owned())
    }
}

fn backend_of(answer: &str) -> IpAddr {
    answer.split(' ').next().unwrap().parse().unwrap()
}

/// Asks without pause until it is stopped; any failure, and an answer of a backend that was in no
/// set between the connection's beginning and its end, ends it with the reason.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    lost: Arc<AtomicU32>,
    thread: JoinHandle<Result<(), String>>,
}

impl Load {
    fn start(pod: &Pod, kind: Kind, service: SocketAddr, history: Arc<History>) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (their_stop, their_done) = (stop.clone(), done.clone());
        let lost = Arc::new(AtomicU32::new(0));
        let mut asker = Asker { kind, service, unconnected: None, asked: 0, lost: lost.clone() };
        let thread = pod.namespace.spawn(move || {
            while !their_stop.load(Ordering::Relaxed) {
                let first = history.done.load(Ordering::SeqCst);
                let (backend, last) = asker.ask(&history)?;
                if !(first..=last).any(|change| history.set(change).contains(&backend)) {
                    return Err(format!("{backend} is in no set from {first} to {last}"));
                }
                their_done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self { stop, done, lost, thread }
    }

    fn requests(&self) -> u32 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until this many more requests are done.
    fn wait_for(&self, more: u32) {
        let (goal, start) = (self.requests() + more, Instant::now());
        while self.requests() < goal {
            // Its reason comes with `finish`.
            if self.thread.is_finished() {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "the load is stuck");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many requests there were, and how many datagrams were lost.
    fn finish(self) -> (u32, u32) {
        self.end().unwrap()
    }

    fn end(self) -> Result<(u32, u32), String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()?;
        Ok((self.done.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed)))
    }
}

fn change_a_thousand_times_under_load(kind: Kind, service: SocketAddr, in_cgroup: bool) {
    let world = World::new();
    let (mut here, _there) = world.open();
    let pods = world.backends();
    let _servers = pods.map(Server::start);
    let address = |pod: &Pod| match service {
        SocketAddr::V4(_) => IpAddr::from(pod.address),
        SocketAddr::V6(_) => pod.address6.into(),
    };
    let [a, b] = pods.map(address);
    for backend in [a, b] {
        // Nodes that do not know each other yet ask again after a second, as this test would.
        let backend = SocketAddr::from((backend, BACKEND_PORT));
        world.client().namespace.run(move || Connection::open(backend).unwrap());
    }
    // Shared backends, and none.
    let cycle = vec![vec![a], vec![a, b], vec![b], vec![a], vec![b], vec![a, b]];
    let history = History::of(cycle);
    here.apply_services(&services_of(&[pods[0]])).unwrap();
    if in_cgroup {
        world.here.cgroup.enter();
    }
    let load = Load::start(world.client(), kind, service, history.clone());
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
    let ended = load.end();
    let (requests, lost) =
        ended.unwrap_or_else(|error| panic!("{error}\n{}", world.unreachables()));
    println!("{requests} requests met 1000 changes, {lost} datagrams were lost");
    assert!(requests > 100, "only {requests} requests");
    // An answer that is on its way to a connected socket when that moves finds nobody.
    let bearable = if kind == Kind::ConnectedUdp { requests / 100 } else { 0 };
    assert!(lost <= bearable, "{lost} of {requests} were lost");
    assert_eq!(world.here.counted("no-backend"), 0);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_connection() {
    change_a_thousand_times_under_load(Kind::Tcp, SERVICE, true);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_connection_over_ipv6() {
    change_a_thousand_times_under_load(Kind::Tcp, SERVICE6, true);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_connection_at_the_packet_programs() {
    change_a_thousand_times_under_load(Kind::Tcp, SERVICE, false);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_connection_at_the_packet_programs_over_ipv6() {
    change_a_thousand_times_under_load(Kind::Tcp, SERVICE6, false);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_connected_datagram() {
    change_a_thousand_times_under_load(Kind::ConnectedUdp, SERVICE, true);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_unconnected_datagram() {
    change_a_thousand_times_under_load(Kind::UnconnectedUdp, SERVICE, true);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_connected_datagram_over_ipv6() {
    change_a_thousand_times_under_load(Kind::ConnectedUdp, SERVICE6, true);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_unconnected_datagram_over_ipv6() {
    change_a_thousand_times_under_load(Kind::UnconnectedUdp, SERVICE6, true);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_datagram_at_the_packet_programs() {
    change_a_thousand_times_under_load(Kind::ConnectedUdp, SERVICE, false);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_datagram_at_the_packet_programs_over_ipv6() {
    change_a_thousand_times_under_load(Kind::ConnectedUdp, SERVICE6, false);
}

/// One socket is one flow, which moves whenever its backend goes.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_datagram_of_one_flow_at_the_packet_programs() {
    change_a_thousand_times_under_load(Kind::UnconnectedUdp, SERVICE, false);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_thousand_changes_refuse_no_datagram_of_one_flow_at_the_packet_programs_over_ipv6() {
    change_a_thousand_times_under_load(Kind::UnconnectedUdp, SERVICE6, false);
}

fn take_over_under_load(service: SocketAddr, in_cgroup: bool) {
    let world = World::new();
    let (mut here, _there) = world.open();
    let pods = world.backends();
    let _servers = pods.map(Server::start);
    let table = services_of(&pods);
    here.apply_services(&table).unwrap();
    if in_cgroup {
        world.here.cgroup.enter();
    }
    let mut open = world.client().namespace.run(move || Connection::open(service).unwrap());
    let first = backend_of(&open.say("before").unwrap());
    let everybody = pods.map(|pod| pod.like(service.ip())).to_vec();
    let load = Load::start(world.client(), Kind::Tcp, service, History::of(vec![everybody]));
    let mut agent: Option<Datapath> = Some(here);
    for _ in 0..5 {
        // The agent is gone for a while: everything goes on.
        agent.take();
        load.wait_for(20);
        assert_eq!(backend_of(&open.say("nobody there").unwrap()), first);
        let mut next = world.here.open();
        let unchanged = ServiceSummary { unchanged: 4, ..ServiceSummary::default() };
        assert_eq!(next.apply_services(&table).unwrap(), unchanged);
        assert_eq!(next.pods().len(), 4, "two pods, two addresses each");
        load.wait_for(20);
        // The next agent starts while this one still runs.
        agent = Some(world.here.open());
        assert_eq!(backend_of(&open.say("taken over").unwrap()), first);
    }
    let (requests, _) = load.finish();
    assert!(requests >= 200, "only {requests} requests");
    assert_eq!(world.here.counted("no-backend"), 0);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn agents_come_and_go_under_load() {
    take_over_under_load(SERVICE, true);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn agents_come_and_go_under_load_over_ipv6() {
    take_over_under_load(SERVICE6, true);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn agents_come_and_go_under_load_at_the_packet_programs() {
    take_over_under_load(SERVICE, false);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn agents_come_and_go_under_load_at_the_packet_programs_over_ipv6() {
    take_over_under_load(SERVICE6, false);
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
    assert_eq!(found.mac, "0a:62:0a:f0:01:05");
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
