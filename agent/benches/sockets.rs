//! What services cost at the socket. `cargo xtask bench sockets` runs it; needs root.
//!
//! Two kinds of figures: nanoseconds of one run of a program, by the kernel's own statistics (the
//! minimum over the batches, less the cost of an empty program measured in the same way), and the
//! time of a TCP connect() through a service beside that of a direct one, interleaved. Everything
//! happens in namespaces and a cgroup of its own; nothing of it is left.

#![expect(clippy::unwrap_used, reason = "a failure of the support code ends the run")]

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/datapath/world.rs"]
mod world;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::sys::{Stats, enable_stats};
use bowline_agent::datapath::{Datapath, EmptyPrograms, Runs, ServiceTable, service_table};
use clap::Parser;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use world::World;

#[derive(Parser)]
#[command(about = "What services cost at the socket")]
struct Arguments {
    /// Also write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How many services the larger table has
    #[arg(long, value_name = "COUNT", default_value_t = 30_000)]
    services: u32,
    /// Batches of each measurement
    #[arg(long, value_name = "COUNT", default_value_t = 60)]
    batches: u32,
    /// Calls in a batch
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    calls: u32,
    /// Pairs of TCP connections, one direct and one through the service
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    pairs: u32,
    /// Given by `cargo bench`, and of no meaning here
    #[arg(long, hide = true)]
    bench: bool,
}

const PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
const NO_SERVICE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 240, 1, 200), 9));

/// The address of service `number`.
fn vip(number: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 9, 0, 1)) + number), PORT))
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
    /// Nanoseconds.
    goal: f64,
    batch: Batch,
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
) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..batches {
        let batch = batch.clone();
        let before = runs().unwrap();
        world.client().namespace.run(move || batch());
        best = best.min(nanoseconds(before, runs().unwrap()));
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

/// Each address a different one, in no order.
fn scattered(call: u32, batch: u32, count: u32) -> u32 {
    (u64::from(call + batch).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % count
}

fn cases(arguments: &Arguments, world: &World, count: u32) -> Vec<Case> {
    let calls = arguments.calls;
    if count > 1 {
        let next = std::sync::atomic::AtomicU32::new(0);
        let batch = connects(calls, move |_| {
            let call = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            vip(scattered(call, 0, count))
        });
        let name = "connect4, a random one of the services";
        return vec![Case { name, program: "connect4", goal: 900.0, batch }];
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
    let case =
        |name, program, goal, batch: &Batch| Case { name, program, goal, batch: batch.clone() };
    vec![
        case("connect4, one service", "connect4", 250.0, &connects(calls, |_| vip(0))),
        case("connect4, no service", "connect4", 60.0, &connects(calls, |_| NO_SERVICE)),
        case("sendmsg4, hit", "sendmsg4", 80.0, &exchange),
        case("recvmsg4, hit", "recvmsg4", 80.0, &exchange),
        case("getpeername4, hit", "getpeername4", 35.0, &(ask as Batch)),
    ]
}

/// What an empty program at `hook` costs in a batch that calls it.
fn empty(world: &World, arguments: &Arguments, hook: &'static str) -> f64 {
    let programs = EmptyPrograms::attach(&world.there.cgroup.path).unwrap();
    world.there.cgroup.enter();
    let address = world.client().address;
    let calls = arguments.calls;
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
    let cost = cheapest(world, &batch, arguments.batches, || programs.runs(hook));
    world.there.cgroup.leave();
    cost
}

/// Measures each case; the kernel's statistics are on only here.
fn measure(world: &World, datapath: &Datapath, arguments: &Arguments, count: u32) -> Vec<Value> {
    let _statistics = enable_stats(Stats::RunTime).unwrap();
    let cases = cases(arguments, world, count);
    world.here.cgroup.leave();
    let mut found = Vec::new();
    for case in cases {
        let nothing = empty(world, arguments, case.program);
        world.here.cgroup.enter();
        let runs = || datapath.socket_program_runs(case.program);
        let raw = cheapest(world, &case.batch, arguments.batches, runs);
        world.here.cgroup.leave();
        let cost = raw - nothing;
        let verdict = if cost <= case.goal { "reached" } else { "NOT reached" };
        println!(
            "{:<42} {count:>6} services  {cost:>7.1} ns  (empty {nothing:.1}; goal {}, {verdict})",
            case.name, case.goal
        );
        found.push(json!({"name": case.name, "services": count, "nanoseconds": cost,
                          "empty": nothing, "goal": case.goal}));
    }
    found
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

/// A direct connect() and one through a service, in turns.
fn compare(world: &World, arguments: &Arguments, count: u32) -> Value {
    let [_, server] = world.backends();
    let backend = SocketAddr::from((server.address, BACKEND_PORT));
    let listener = server.namespace.run(move || TcpListener::bind(backend).unwrap());
    let pairs = arguments.pairs;
    let accepting = server.namespace.spawn(move || {
        for stream in listener.incoming().take(2 * pairs as usize) {
            drop::<Option<TcpStream>>(stream.ok());
        }
    });
    world.here.cgroup.enter();
    let (direct, through) = world.client().namespace.run(move || {
        let (mut direct, mut through) = (Vec::new(), Vec::new());
        for pair in 0..pairs {
            let service = vip(scattered(pair, 0, count));
            // Neither is always the first.
            if pair % 2 == 0 {
                direct.push(connect_time(backend));
                through.push(connect_time(service));
            } else {
                through.push(connect_time(service));
                direct.push(connect_time(backend));
            }
        }
        (median(direct), median(through))
    });
    world.here.cgroup.leave();
    accepting.join().unwrap();
    let more = (through.as_secs_f64() / direct.as_secs_f64() - 1.0) * 100.0;
    let verdict = if more <= 3.0 { "reached" } else { "NOT reached" };
    println!(
        "TCP connect(), median of {pairs}                 {count:>6} services  direct {direct:?}, \
         through the service {through:?}: {more:+.2}%  (goal +3%, {verdict})"
    );
    json!({"name": "connect", "services": count, "pairs": pairs, "percent_more": more,
           "direct_nanoseconds": direct.as_nanos() as u64,
           "through_nanoseconds": through.as_nanos() as u64, "goal": 3.0})
}

fn main() {
    let arguments = Arguments::parse();
    let world = World::new();
    let (mut here, _there) = world.open();
    // What the programs choose has to have somewhere to go without leaving the namespace.
    let own = world.client().address;
    let mut figures = Vec::new();
    for count in [1, arguments.services] {
        // A backend of its own for each service, as they have outside of benchmarks.
        let backend = |number| match count {
            1 => (own, BACKEND_PORT),
            _ => (own, 1_024 + (number % 60_000) as u16),
        };
        here.apply_services(&services(count, "UDP", backend)).unwrap();
        figures.extend(measure(&world, &here, &arguments, count));
        let server = (world.backends()[1].address, BACKEND_PORT);
        here.apply_services(&services(count, "TCP", |_| server)).unwrap();
        figures.push(compare(&world, &arguments, count));
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&figures).unwrap();
        std::fs::write(file, text + "\n").unwrap();
    }
}
