//! What the network of pods costs. `bowline bench network` runs it; needs root and iptables.
//!
//! The same client asks the same kind of server from node to node without pods (the limit), from
//! pod to pod by bowline (on one node; to another node as the packets are, and by VXLAN), and from
//! pod to pod on Linux bridges, with the kernel's routing and masquerading by iptables. Every slice
//! of a few milliseconds goes to one of them, in turns; figures are ratios to the limit of the same
//! round. The limit has a second turn, as a control: what that is away from 1, the measurement adds
//! by itself. The way between the nodes is changed twice a round, in the running data plane.
//! Everything happens in namespaces and cgroups of its own; nothing of it is left.

mod bridge;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bowline_agent::datapath::{Datapath, Hop};
use bowline_figures::results::{Better, Figure, Relation, Run, Statistics, median};
use bowline_figures::screen::Screen;
use bowline_lab::world::{Namespace, Node, TUNNEL, World};
use clap::Args;
use serde_json::json;

use crate::load::{Kind, Load, balanced, last_cpu, round, serve_at};
use bridge::Bridge;

#[derive(Args)]
pub(crate) struct Options {
    /// Rounds; in each, every way has its turn with every load
    #[arg(long, value_name = "COUNT", default_value_t = 25)]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// How long a turn lasts, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 100)]
    turn: u64,
}

pub(crate) const BACKEND_PORT: u16 = 8080;
const LIMIT: &str = "node to node, no pods";
/// The same once more, which shows what the measurement itself makes of two that are alike.
const AGAIN: &str = "node to node, no pods, again";
const NATIVE: &str = "bowline, to another node";
const TUNNELLED: &str = "bowline, to another node by VXLAN";
const NEAR: &str = "bowline, on one node";
const BRIDGE: &str = "bridge and masquerade, to another node";
const NEAR_BRIDGE: &str = "bridge, on one node";

/// The limit's among the ways.
const LIMIT_PLACE: usize = 0;

const LOADS: [Load; 5] = [
    Load::one(Kind::Kept),
    Load::many(Kind::Kept),
    Load::one(Kind::Stream),
    Load::many(Kind::Stream),
    Load::one(Kind::Datagrams),
];

/// One way to a server.
struct Way<'a> {
    name: &'static str,
    client: &'a Namespace,
    target: SocketAddr,
    /// Whether bowline's nodes reach each other by the tunnel meanwhile.
    tunnel: bool,
}

/// The data planes of both nodes, and how they reach each other.
struct Planes {
    both: Option<(Datapath, Datapath)>,
    tunnel: bool,
}

impl Planes {
    /// Changes the way between the nodes if it is another.
    fn lead(&mut self, world: &World, tunnel: bool) {
        if self.tunnel == tunnel {
            return;
        }
        let (here, there) = self.both.take().unwrap();
        self.both = Some(if tunnel {
            world.tunnel(here, there)
        } else {
            for pod in world.here.pods.iter().chain(&world.there.pods) {
                pod.namespace.ip("link set eth0 mtu 1500");
            }
            (untunnel(&world.here, here, &world.there), untunnel(&world.there, there, &world.here))
        });
        self.tunnel = tunnel;
    }
}

fn untunnel(node: &Node, datapath: Datapath, other: &Node) -> Datapath {
    let hops = [Hop::Uplink(other.address().into()), Hop::Uplink(other.address6().into())];
    node.lead(datapath, other, hops)
}

/// How many packets a node has sent into its tunnel.
fn tunnelled(node: &Namespace) -> u64 {
    let text = node.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let counts = text.lines().find_map(|line| line.trim().strip_prefix(TUNNEL)).unwrap();
    // Eight numbers of what came in, then that of packets after that of bytes.
    counts.trim_start_matches(':').split_whitespace().nth(9).unwrap().parse().unwrap()
}

/// That each way between the nodes is the one that its name says.
fn check(world: &World, planes: &mut Planes, target: SocketAddr) {
    for tunnel in [true, false] {
        planes.lead(world, tunnel);
        let before = tunnelled(&world.here.namespace);
        Load::one(Kind::Kept).team(&world.client().namespace, None, &[target]).slice();
        let used = tunnelled(&world.here.namespace) > before;
        assert_eq!(used, tunnel, "whether packets took the tunnel");
    }
}

/// What was found of one way under one load: a rate a round, in operations or bytes a second, and
/// that of the limit meanwhile.
struct Found {
    way: &'static str,
    rates: Vec<f64>,
    limit: Vec<f64>,
}

/// Every way in turns, a slice at a time: first those of one way between the nodes, then those of
/// the other, each beside the limit.
fn rounds(
    options: &Options,
    world: &World,
    planes: &mut Planes,
    ways: &[Way<'_>],
    load: Load,
) -> Vec<Found> {
    let found = |way: &Way<'_>| Found { way: way.name, rates: Vec::new(), limit: Vec::new() };
    let mut all: Vec<Found> = ways.iter().map(found).collect();
    let slices = load.slices(Duration::from_millis(options.turn)) as usize;
    let screen = Screen::open();
    screen.begin(load.name());
    load.place();
    for _ in 0..options.rounds {
        for tunnel in [false, true] {
            planes.lead(world, tunnel);
            // The limit is the first of them.
            let here: Vec<usize> = (0..ways.len())
                .filter(|place| *place == LIMIT_PLACE || ways[*place].tunnel == tunnel)
                .collect();
            let team = |place: usize| {
                let way = &ways[here[place]];
                load.team(way.client, None, &[way.target])
            };
            let works = round(here.len(), balanced(slices, here.len()), team);
            let limit = works[0].rate();
            for (place, work) in
                here.into_iter().zip(works).filter(|(place, _)| *place != LIMIT_PLACE || !tunnel)
            {
                all[place].rates.push(work.rate());
                all[place].limit.push(limit);
            }
        }
    }
    all
}

/// What a way is to reach of the limit.
fn goal(way: &str, load: Load) -> Option<f64> {
    (way == NATIVE).then_some(if load.kind == Kind::Stream { 1.0 } else { 0.95 })
}

/// Every way beside the limit, and bowline's beside a bridge's; the limit as it is. Prints them.
fn report(load: Load, all: &[Found]) -> Vec<Figure> {
    let rates = |name: &str| &all.iter().find(|found| found.way == name).unwrap().rates;
    let ratios = |one: &[f64], other: &[f64]| -> Vec<f64> {
        one.iter().zip(other).map(|(one, other)| one / other).collect()
    };
    let limit = rates(LIMIT);
    let name = |way: &str| format!("{}: {way}", load.name());
    println!("\n{}", load.name());
    println!("  {LIMIT:<40}                            {}", load.shown(median(limit)));
    let mut figures = vec![Figure::new(name(LIMIT), load.unit(), None, limit.clone())];
    let print = |what: &str, figure: &Figure, rates: &[f64]| {
        let Figure { median: middle, min, max, .. } = figure;
        let said = match figure.judgement() {
            none if none.is_empty() && figure.noisy == Some(true) => "too noisy to tell".to_owned(),
            said => said,
        };
        let shown = load.shown(median(rates));
        println!("  {what:<40} {middle:>6.3}  [{min:.3} .. {max:.3}]   {shown:<14}  {said}");
    };
    for Found { way, rates, limit } in all.iter().filter(|found| found.way != LIMIT) {
        let ours = way.starts_with("bowline").then_some(Better::More);
        let figure = Figure::new(name(way), "ratio", ours, ratios(rates, limit))
            .goal(goal(way, load))
            .beside(LIMIT, Relation::Ratio)
            .from(load.unit(), rates);
        print(way, &figure, rates);
        figures.push(figure);
    }
    for (ours, other) in [(NATIVE, BRIDGE), (NEAR, NEAR_BRIDGE)] {
        let samples = ratios(rates(ours), rates(other));
        let name = name(&format!("{ours}, to {other}"));
        let figure = Figure::new(name, "ratio", Better::More, samples);
        figures.push(figure.beside(other, Relation::Ratio).from(load.unit(), rates(ours)));
    }
    figures
}

pub(crate) fn measure(options: &Options, json: Option<&Path>) {
    let parameters = [
        ("rounds", json!(options.rounds)),
        ("turn_milliseconds", json!(options.turn)),
        ("cpu_of_one_connection", json!(last_cpu())),
    ];
    let mut run = Run::begin("network", &parameters, Statistics::Off);
    let world = World::new();
    let mut planes = Planes { both: Some(world.open()), tunnel: false };
    let bridge = Bridge::new();
    let [near, far] = world.backends();
    let at = |address| SocketAddr::from((address, BACKEND_PORT));
    let [near_at, far_at, node_at] = [near.address, far.address, world.there.address()].map(at);
    serve_at(&near.namespace, near_at);
    serve_at(&far.namespace, far_at);
    serve_at(&world.there.namespace, node_at);
    check(&world, &mut planes, far_at);
    bridge.check();
    let (pod, node) = (&world.client().namespace, &world.here.namespace);
    let way = |name, client, target| Way { name, client, target, tunnel: false };
    let ways = [
        way(LIMIT, node, node_at),
        way(AGAIN, node, node_at),
        way(NATIVE, pod, far_at),
        Way { tunnel: true, ..way(TUNNELLED, pod, far_at) },
        way(BRIDGE, &bridge.client, bridge.far),
        way(NEAR, pod, near_at),
        way(NEAR_BRIDGE, &bridge.client, bridge.near),
    ];
    println!("ratios to `{LIMIT}` in the same round: median [least .. most of the rounds]");
    for load in LOADS {
        let all = rounds(options, &world, &mut planes, &ways, load);
        run.extend(report(load, &all));
    }
    run.end(json).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_beside_itself_as_a_control() {
        let found = |way, rates: [f64; 5]| Found {
            way,
            rates: rates.to_vec(),
            limit: vec![100.0, 100.0, 200.0, 100.0, 100.0],
        };
        let all = [
            found(LIMIT, [100.0, 100.0, 200.0, 100.0, 100.0]),
            found(AGAIN, [101.0, 99.0, 200.0, 102.0, 98.0]),
            found(NATIVE, [90.0, 91.0, 180.0, 92.0, 89.0]),
            found(TUNNELLED, [60.0; 5]),
            found(BRIDGE, [60.0; 5]),
            found(NEAR, [95.0; 5]),
            found(NEAR_BRIDGE, [80.0; 5]),
        ];
        for load in [Load::one(Kind::Kept), Load::one(Kind::Stream)] {
            let figures = report(load, &all);
            let name = format!("{}: {AGAIN}", load.name());
            let again = figures.iter().find(|figure| figure.name == name).unwrap();
            assert_eq!(again.samples, [1.01, 0.99, 1.0, 1.02, 0.98]);
            // It says something of the machine, not of bowline.
            assert_eq!((again.better, again.goal), (None, None));
            assert_eq!(again.baseline.as_ref().map(|it| it.name.as_str()), Some(LIMIT));
            let native = format!("{}: {NATIVE}", load.name());
            let native = figures.iter().find(|figure| figure.name == native).unwrap();
            assert!(native.goal.is_some_and(|goal| goal >= 0.95));
        }
    }
}
