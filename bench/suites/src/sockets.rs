//! What services cost at the socket. `bowline bench sockets` runs it; needs root.
//!
//! Two kinds of figures. Nanoseconds of one run of a program, by the kernel's own statistics: the
//! cheapest of all batches less the cheapest of an empty program, which is what there are goals
//! for, and beside it the same of each round. And the time of a TCP connect() through a service
//! beside that of a direct one (the medians of a round), interleaved. What is timed runs on one
//! CPU. Everything happens in namespaces and a cgroup of its own; nothing of it is left.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aya::sys::{Stats, enable_stats};
use bowline_agent::datapath::{
    Datapath, EmptyPrograms, Filter, Listener, Runs, ServiceTable, service_table,
};
use bowline_figures::results::{Better, Figure, Relation, Run, Statistics};
use bowline_figures::screen::Screen;
use bowline_lab::world::World;
use clap::Args;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::interrupts;
use crate::stay::stay;

#[derive(Args)]
pub(crate) struct Options {
    /// How many services the larger table has
    #[arg(long, value_name = "COUNT", default_value_t = 30_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1_000..))]
    services: u32,
    /// Rounds; in each, what is measured and its baseline have their turn
    #[arg(long, value_name = "COUNT", default_value_t = 9)]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Batches of each measurement in all rounds together, at least
    #[arg(long, value_name = "COUNT", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    batches: u32,
    /// Calls in a batch
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    calls: u32,
    /// Pairs of TCP connections in all rounds, one direct and one through the service
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    pairs: u32,
}

const PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
const NO_SERVICE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 240, 1, 200), 9));

const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The address of so many services before it is nobody's, among those of many services.
const GAP: u32 = 100;

fn at_place(place: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(u32::from(FIRST_SERVICE) + place), PORT))
}

/// The address of service `number`.
fn vip(number: u32) -> SocketAddr {
    at_place(if number < GAP { number } else { number + 1 })
}

/// Where one service leads.
type Backend = (Ipv4Addr, u16);

/// This many services of one port, with one backend each.
fn services(count: u32, protocol: &str, backend: impl Fn(u32) -> Backend) -> ServiceTable {
    let service = |number: u32| -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": format!("s{number}")},
            "spec": {"clusterIP": vip(number).ip(), "ports": [
                {"port": PORT, "protocol": protocol}]}}))
        .unwrap()
    };
    let slice = |number: u32| -> EndpointSlice {
        let (address, port) = backend(number);
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": format!("s{number}-1"),
                         "labels": {"kubernetes.io/service-name": format!("s{number}")}},
            "addressType": "IPv4", "endpoints": [{"addresses": [address]}],
            "ports": [{"port": port, "protocol": protocol}]}))
        .unwrap()
    };
    let slices: Vec<EndpointSlice> = (0..count).map(slice).collect();
    let services: Vec<Service> = (0..count).map(service).collect();
    service_table(&services, &slices, "node1")
}

/// What is measured in one batch.
type Batch = Arc<dyn Fn() + Send + Sync>;

/// A measurement of one program.
struct Case {
    name: &'static str,
    program: &'static str,
    /// Nanoseconds, if there is one.
    goal: Option<f64>,
    batch: Batch,
    /// Whether somebody is told of each call meanwhile.
    is_told: bool,
}

fn nanoseconds(before: Runs, after: Runs) -> f64 {
    (after.time - before.time).as_nanos() as f64 / (after.count - before.count) as f64
}

/// The cheapest batch, in nanoseconds a run.
fn cheapest(
    world: &World,
    batch: &Batch,
    batches: u32,
    runs: impl Fn() -> std::io::Result<Runs>,
    mut after: impl FnMut(),
) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..batches {
        let batch = batch.clone();
        let before = runs().unwrap();
        world.client().namespace.run(move || batch());
        best = best.min(nanoseconds(before, runs().unwrap()));
        after();
    }
    best
}

/// Connects a fresh UDP socket to each address in turn.
fn connects(calls: u32, address: impl Fn(u32) -> SocketAddr + Send + Sync + 'static) -> Batch {
    Arc::new(move || {
        for call in 0..calls {
            UdpSocket::bind("0.0.0.0:0").unwrap().connect(address(call)).unwrap();
        }
    })
}

/// Sends a datagram through the service and receives the answer.
fn exchanges(calls: u32, client: Arc<UdpSocket>, server: Arc<UdpSocket>) -> Batch {
    Arc::new(move || {
        let mut buffer = [0; 64];
        for _ in 0..calls {
            client.send_to(b"hello", vip(0)).unwrap();
            let (_, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(b"hello", from).unwrap();
            let (_, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!(from.port(), PORT, "the answer has the service's name");
        }
    })
}

/// A different service with each call, in no order.
fn scattered(call: u32, count: u32) -> u32 {
    (u64::from(call).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % count
}

fn cases(options: &Options, world: &World, count: u32) -> Vec<Case> {
    let calls = options.calls;
    let case = |name, program, goal: f64, batch: &Batch| {
        let (goal, batch) = (Some(goal), batch.clone());
        Case { name, program, goal, batch, is_told: false }
    };
    let nobody = case("connect4, no service", "connect4", 60.0, &connects(calls, |_| NO_SERVICE));
    if count > 1 {
        let next = AtomicU32::new(0);
        let random =
            connects(calls, move |_| vip(scattered(next.fetch_add(1, Ordering::Relaxed), count)));
        let gap = connects(calls, |_| at_place(GAP));
        return vec![
            case("connect4, a random one of the services", "connect4", 900.0, &random),
            nobody,
            case("connect4, no service, amid their addresses", "connect4", 60.0, &gap),
        ];
    }
    let backend = world.client().address;
    // Not in the cgroup yet: the server's own calls are not measured.
    let server =
        world.client().namespace.run(move || UdpSocket::bind((backend, BACKEND_PORT)).unwrap());
    world.here.cgroup.enter();
    let (client, peer) = world.client().namespace.run(|| {
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        let peer = UdpSocket::bind("0.0.0.0:0").unwrap();
        peer.connect(vip(0)).unwrap();
        (client, peer)
    });
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    let exchange = exchanges(calls, Arc::new(client), Arc::new(server));
    let ask = Arc::new(move || {
        for _ in 0..calls {
            assert_eq!(peer.peer_addr().unwrap(), vip(0));
        }
    });
    let one = case("connect4, one service", "connect4", 250.0, &connects(calls, |_| vip(0)));
    let name = "connect4, one service, while somebody listens";
    let told = Case { name, goal: None, batch: one.batch.clone(), is_told: true, ..one };
    vec![
        one,
        told,
        nobody,
        case("sendmsg4, hit", "sendmsg4", 80.0, &exchange),
        case("recvmsg4, hit", "recvmsg4", 80.0, &exchange),
        case("getpeername4, hit", "getpeername4", 35.0, &(ask as Batch)),
    ]
}

/// A batch that calls an empty program at `hook`.
fn empty(world: &World, calls: u32, hook: &'static str) -> Batch {
    world.there.cgroup.enter();
    let address = world.client().address;
    let batch: Batch = world.client().namespace.run(move || -> Batch {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        let own = socket.local_addr().unwrap();
        match hook {
            "connect4" => return connects(calls, |_| NO_SERVICE),
            "getpeername4" => socket.connect(NO_SERVICE).unwrap(),
            _ => {}
        }
        Arc::new(move || {
            let mut buffer = [0; 64];
            for _ in 0..calls {
                if hook == "getpeername4" {
                    socket.peer_addr().unwrap();
                } else {
                    socket.send_to(b"hello", own).unwrap();
                    socket.recv_from(&mut buffer).unwrap();
                }
            }
        })
    });
    world.there.cgroup.leave();
    batch
}

/// Listens to everything, for longer than the batches of a round take.
fn listen(world: &World) -> Listener {
    let bpffs = world.here.bpffs();
    world.here.namespace.run(move || Listener::open(&bpffs, &Filter::default()).unwrap())
}

/// Measures each case; the kernel's statistics are on only here.
fn of_programs(world: &World, datapath: &Datapath, options: &Options, count: u32) -> Vec<Figure> {
    let _statistics = enable_stats(Stats::RunTime).unwrap();
    let cases = cases(options, world, count);
    world.here.cgroup.leave();
    let nothing = EmptyPrograms::attach(&world.there.cgroup.path).unwrap();
    let empties: Vec<Batch> =
        cases.iter().map(|case| empty(world, options.calls, case.program)).collect();
    // What was measured, and the same of the empty program: a sample a round.
    let mut samples = vec![(Vec::new(), Vec::new()); cases.len()];
    let batches = options.batches.div_ceil(options.rounds);
    let screen = Screen::open();
    // A case's rounds are far apart: a processor that is slow for a second is slow in one.
    for round in 1..=options.rounds {
        let name = services_name("socket programs", count);
        screen.begin(format!("{name}: round {round} of {}", options.rounds));
        for ((case, empty), (raw, none)) in cases.iter().zip(&empties).zip(&mut samples) {
            interrupts::check();
            world.there.cgroup.enter();
            let runs = || nothing.runs(case.program);
            none.push(cheapest(world, empty, batches, runs, || {}));
            world.there.cgroup.leave();
            let mut listener = case.is_told.then(|| listen(world));
            let told = || {
                let Some(listener) = &mut listener else { return };
                // What the kernels of both ends send by themselves is told, too.
                let calls =
                    std::iter::from_fn(|| listener.read()).filter(|(event, _)| event.is_changed());
                let calls = calls.count();
                assert_eq!((calls, listener.lost().unwrap()), (options.calls as usize, 0));
            };
            world.here.cgroup.enter();
            let runs = || datapath.socket_program_runs(case.program);
            raw.push(cheapest(world, &case.batch, batches, runs, told));
            world.here.cgroup.leave();
        }
    }
    drop(screen);
    let found = cases.iter().zip(samples);
    found.flat_map(|(case, (raw, none))| figures(case, count, &raw, &none)).collect()
}

/// The least of all rounds, which has the goal, and what the rounds found. Prints them.
fn figures(case: &Case, count: u32, raw: &[f64], none: &[f64]) -> [Figure; 2] {
    let name = services_name(case.name, count);
    let figure = |name: &str, costs: Vec<f64>, raw: &[f64]| {
        let figure = Figure::new(name, "ns", Better::Less, costs);
        figure.beside("an empty program", Relation::Difference).from("ns", raw)
    };
    let [least, empty] =
        [raw, none].map(|samples| samples.iter().copied().fold(f64::INFINITY, f64::min));
    let least = figure(&name, vec![least - empty], &[least]).goal(case.goal);
    let costs = raw.iter().zip(none).map(|(raw, none)| raw - none).collect();
    let rounds = figure(&format!("{name}, each round"), costs, raw);
    println!(
        "{:<46} {count:>6} services  {:>7.1} ns  (rounds {:.1} [{:.1} .. {:.1}]; \
         empty {empty:.1}{})",
        case.name,
        least.median,
        rounds.median,
        rounds.min,
        rounds.max,
        if case.goal.is_some() { format!("; {}", least.judgement()) } else { String::new() }
    );
    [least, rounds]
}

/// What a figure is called among those of other numbers of services.
fn services_name(name: &str, count: u32) -> String {
    format!("{name}, {count} {}", if count == 1 { "service" } else { "services" })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The time of one connect(), with the connection reset at once so that none piles up.
fn connect_time(to: SocketAddr) -> Duration {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
    use nix::sys::socket::{setsockopt, sockopt::Linger};
    use std::os::fd::AsRawFd;
    let SocketAddr::V4(to) = to else { panic!("{to} is not IPv4") };
    let stream =
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&stream, Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    let address = SockaddrIn::from(to);
    let start = Instant::now();
    connect(stream.as_raw_fd(), &address).unwrap();
    start.elapsed()
}

/// A direct connect() and one through a service, in turns; gives the figure.
fn compare(world: &World, options: &Options, count: u32) -> Figure {
    let [_, server] = world.backends();
    let backend = SocketAddr::from((server.address, BACKEND_PORT));
    let listener = server.namespace.run(move || TcpListener::bind(backend).unwrap());
    let (rounds, pairs) = (options.rounds, options.pairs / options.rounds);
    let accepting = server.namespace.spawn(move || {
        for stream in listener.incoming().take(2 * (rounds * pairs) as usize) {
            drop::<Option<TcpStream>>(stream.ok());
        }
    });
    let screen = Screen::open();
    screen.begin(services_name("TCP connect()", count));
    world.here.cgroup.enter();
    let times: Vec<[f64; 2]> = world.client().namespace.run(move || {
        let round = |round: u32| {
            interrupts::check();
            let (mut direct, mut through) = (Vec::new(), Vec::new());
            for pair in round * pairs..(round + 1) * pairs {
                let service = vip(scattered(pair, count));
                // Neither is always the first.
                if pair % 2 == 0 {
                    direct.push(connect_time(backend));
                    through.push(connect_time(service));
                } else {
                    through.push(connect_time(service));
                    direct.push(connect_time(backend));
                }
            }
            [direct, through].map(|times| median(times).as_nanos() as f64)
        };
        (0..rounds).map(round).collect()
    });
    world.here.cgroup.leave();
    drop(screen);
    accepting.join().unwrap();
    let through: Vec<f64> = times.iter().map(|[_, through]| *through).collect();
    let ratios = times.iter().map(|[direct, through]| through / direct).collect();
    let name = services_name("TCP connect() through a service", count);
    let figure = Figure::new(name, "ratio", Better::Less, ratios)
        .goal(1.03)
        .beside("TCP connect() without one", Relation::Ratio)
        .from("ns", &through);
    println!(
        "TCP connect(), medians of {pairs:<17}{count:>6} services  {:>7.3} of a direct one  \
         [{:.3} .. {:.3}]  ({:.1} us; {})",
        figure.median,
        figure.min,
        figure.max,
        bowline_figures::results::median(&through) / 1e3,
        figure.judgement()
    );
    figure
}

pub(crate) fn measure(options: &Options, json: Option<&Path>) {
    let parameters = [
        ("services", json!(options.services)),
        ("rounds", json!(options.rounds)),
        ("batches", json!(options.batches)),
        ("calls", json!(options.calls)),
        ("pairs", json!(options.pairs)),
    ];
    let mut run = Run::begin("sockets", &parameters, Statistics::WhereNeeded);
    stay();
    let world = World::new();
    let (mut here, _there) = world.open();
    // What the programs choose has to have somewhere to go without leaving the namespace.
    let own = world.client().address;
    for count in [1, options.services] {
        interrupts::check();
        // A backend of its own for each service, as they have outside of benchmarks.
        let backend = |number| match count {
            1 => (own, BACKEND_PORT),
            _ => (own, 1_024 + (number % 60_000) as u16),
        };
        here.apply_services(&services(count, "UDP", backend)).unwrap();
        run.extend(of_programs(&world, &here, options, count));
        let server = (world.backends()[1].address, BACKEND_PORT);
        here.apply_services(&services(count, "TCP", |_| server)).unwrap();
        run.extend([compare(&world, options, count)]);
    }
    run.end(json).unwrap();
}
