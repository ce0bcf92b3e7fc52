//! What the way through a service costs beside the pod's own address, and beside the ways of
//! others. `cargo xtask bench path` runs it; needs root, iptables and nft.
//!
//! The same client asks the same kind of server, on another node, by the pod's own address (the
//! limit), through bowline's socket hooks, through its packet programs, and through the rules that
//! kube-proxy writes for iptables and for nftables, and through a proxy in user space. Every slice
//! of time goes to one of them, in turns; figures are ratios to the limit of the same round, as a
//! median with the least and the most. The way is that of the service in the worst place: the last
//! one. Everything happens in namespaces and a cgroup of its own; nothing of it is left.

#![expect(clippy::unwrap_used, reason = "a failure of the support code ends the run")]

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/datapath/world.rs"]
mod world;

#[path = "path/baselines.rs"]
mod baselines;
#[path = "path/load.rs"]
mod load;
#[path = "path/page.rs"]
mod page;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use baselines::{Plain, Rules, many_ports};
use bowline_agent::datapath::{ServiceTable, service_table};
use clap::Parser;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use load::{Load, serve_at};
use serde_json::{Value, json};
use world::{Namespace, World};

#[derive(Parser)]
#[command(about = "What the way through a service costs")]
struct Arguments {
    /// Also write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write a page with plots to this file, as HTML
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// How many services there are; may be repeated
    #[arg(long, value_name = "COUNT", default_values_t = [1, 100, 1_000, 10_000, 30_000])]
    services: Vec<u32>,
    /// Rounds; in each, every way has its turn with every load
    #[arg(long, value_name = "COUNT", default_value_t = 9)]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// How long a turn lasts, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 150)]
    turn: u64,
    /// Given by `cargo bench`, and of no meaning here
    #[arg(long, hide = true)]
    bench: bool,
}

pub(crate) const PORT: u16 = 80;
pub(crate) const BACKEND_PORT: u16 = 8080;
/// So far apart may the rounds of the limit itself be, most to least, before the machine counts as
/// too noisy to tell.
const NOISE: f64 = 1.5;

/// The address of service `number`.
pub(crate) fn vip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 9, 0, 1)) + number)
}

/// This many services with these backends.
fn services(count: u32, backends: &[Ipv4Addr]) -> ServiceTable {
    let ports = json!([{"name": "t", "port": PORT, "protocol": "TCP"},
                       {"name": "u", "port": PORT, "protocol": "UDP"}]);
    let service = |number: u32| -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": format!("s{number}")},
            "spec": {"clusterIP": vip(number), "ports": ports}}))
        .unwrap()
    };
    let endpoints: Vec<Value> =
        backends.iter().map(|address| json!({"addresses": [address]})).collect();
    let slice = |number: u32| -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": format!("s{number}-1"),
                         "labels": {"kubernetes.io/service-name": format!("s{number}")}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "t", "port": BACKEND_PORT, "protocol": "TCP"},
                      {"name": "u", "port": BACKEND_PORT, "protocol": "UDP"}]}))
        .unwrap()
    };
    let slices: Vec<EndpointSlice> = (0..count).map(slice).collect();
    let services: Vec<Service> = (0..count).map(service).collect();
    service_table(&services, &slices, "node1")
}

/// One way to the server.
struct Way<'a> {
    name: &'static str,
    client: &'a Namespace,
    target: SocketAddr,
    /// Whether the client is where bowline's socket hooks are.
    hooked: bool,
    /// The proxy of the founding deck knows TCP alone.
    udp: bool,
}

/// What was found of one way under one load: a rate a round, in operations or bytes a second.
struct Found {
    way: &'static str,
    rates: Vec<f64>,
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Every way in turns; which one begins differs from round to round.
fn rounds(arguments: &Arguments, world: &World, ways: &[Way<'_>], load: Load) -> Vec<Found> {
    let ways: Vec<&Way<'_>> = ways.iter().filter(|way| way.udp || !load.is_udp()).collect();
    let found = |way: &&Way<'_>| Found { way: way.name, rates: Vec::new() };
    let mut all: Vec<Found> = ways.iter().map(found).collect();
    let turn = Duration::from_millis(arguments.turn);
    for round in 0..arguments.rounds as usize {
        for step in 0..ways.len() {
            let place = (round + step) % ways.len();
            let (way, target) = (ways[place], ways[place].target);
            if way.hooked {
                world.here.cgroup.enter();
            }
            let rate = way.client.run(move || load.run(target, turn));
            world.here.cgroup.leave();
            all[place].rates.push(rate);
        }
    }
    all
}

/// Prints and gives the ratios to the first way, which is the limit.
fn report(count: u32, load: Load, all: &[Found]) -> Value {
    let limit = &all[0].rates;
    let spread = limit.iter().copied().fold(0.0, f64::max)
        / limit.iter().copied().fold(f64::INFINITY, f64::min);
    let noisy = if spread > NOISE { "  (the machine is too noisy to tell)" } else { "" };
    println!("\n{count} services, {}{noisy}", load.name());
    let mut rows = Vec::new();
    for found in all {
        let ratios: Vec<f64> =
            found.rates.iter().zip(limit).map(|(rate, one)| rate / one).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        let middle = median(&ratios);
        println!(
            "  {:<34} {middle:>6.3}  [{least:.3} .. {most:.3}]   {}",
            found.way,
            load.shown(median(&found.rates))
        );
        rows.push(json!({"way": found.way, "ratio": middle, "least": least, "most": most,
                         "rates": found.rates}));
    }
    json!({"services": count, "load": load.name(), "unit": load.unit(), "noisy": !noisy.is_empty(),
           "ways": rows})
}

fn main() {
    let arguments = Arguments::parse();
    let world = World::new();
    let (mut here, _there) = world.open();
    let backends = [world.backends()[1].address];
    let direct = SocketAddr::from((backends[0], BACKEND_PORT));
    // Rules are checked with two, and timed with one: nobody's is nearer than another's.
    let several = [backends[0], Ipv4Addr::from(u32::from(backends[0]) + 1)];
    many_ports(&world.client().namespace);
    serve_at(&world.backends()[1].namespace, direct);
    let plain: Vec<(Rules, Plain)> =
        Rules::ALL.into_iter().map(|rules| (rules, Plain::new(&several))).collect();
    let bare = Plain::new(&several);
    for (rules, plain) in &plain {
        rules.write(plain, 3, &several);
        rules.check(plain, SocketAddr::from((vip(2), PORT)), &several);
    }

    let mut figures = Vec::new();
    for &count in &arguments.services {
        here.apply_services(&services(count, &backends)).unwrap();
        let service = SocketAddr::from((vip(count - 1), PORT));
        let client = &world.client().namespace;
        let mut ways = vec![
            Way { name: "pod's own address", client, target: direct, hooked: false, udp: true },
            Way { name: "bowline, socket hooks", client, target: service, hooked: true, udp: true },
            Way {
                name: "bowline, packet programs",
                client,
                target: service,
                hooked: false,
                udp: true,
            },
            Way {
                name: "no service, kernel's own routing",
                client: &bare.client,
                target: direct,
                hooked: false,
                udp: true,
            },
        ];
        for (rules, plain) in &plain {
            rules.write(plain, count, &backends);
            rules.check(plain, service, &backends);
            ways.push(Way {
                name: rules.name(),
                client: &plain.client,
                target: service,
                hooked: false,
                udp: *rules != Rules::Userspace,
            });
        }
        for load in Load::ALL {
            figures.push(report(count, load, &rounds(&arguments, &world, &ways, load)));
        }
    }
    let about = about(&arguments);
    println!("\n{about}");
    if let Some(file) = &arguments.html {
        std::fs::write(file, page::page(&figures, &about)).unwrap();
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&json!({"about": about, "figures": figures}));
        std::fs::write(file, text.unwrap() + "\n").unwrap();
    }
}

/// What the figures are, and of which machine.
fn about(arguments: &Arguments) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "Ratios to the pod's own address in the same round: the median of {} rounds, and the least \
         and the most of them; {} ms a turn, every way in turns; across two nodes, through the \
         last of the services. {cpus} CPUs ({}), Linux {}.",
        arguments.rounds,
        arguments.turn,
        model.unwrap_or("unknown"),
        read("/proc/sys/kernel/osrelease").trim()
    )
}
