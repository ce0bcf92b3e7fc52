//! What the way through a service costs beside the pod's own address, and beside the ways of
//! others. `bowline bench path` runs it; needs root, iptables and nft.
//!
//! The same client asks the same kind of server, on another node and on its own, by the pod's own
//! address (the limit), through bowline's socket hooks, through its packet programs, through the
//! rules that kube-proxy writes for iptables and for nftables, and through a proxy in user space.
//! Every slice of a few milliseconds goes to one of them, in turns; figures are ratios to the limit
//! of the same round, as a median with the least and the most. The limit has a second turn, as a
//! control: what that is away from 1, the measurement adds by itself. The service is the one in the
//! worst place for each way: the last one, which bowline finds in no line of its own. All have TCP
//! and UDP in bowline; in others' rules only the last has UDP, too. Everything happens in
//! namespaces and a cgroup of its own; nothing of it is left.

mod addresses;
mod baselines;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use bowline_agent::datapath::{ServiceTable, service_table};
use bowline_figures::results::{Better, Figure, Machine, Relation, Run, Statistics, median};
use bowline_figures::screen::Screen;
use bowline_lab::world::{Namespace, Node, Pod, World};
use clap::Args;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::load::{Kind, Load, balanced, last_cpu, round, serve_at};
use addresses::Addresses;
use baselines::{Plain, Rules, many_ports};

#[derive(Args)]
pub(crate) struct Options {
    /// How many services there are; may be repeated
    #[arg(long, value_name = "COUNT", required = true)]
    services: Vec<u32>,
    /// Rounds of loads with the longest slices; of others more
    #[arg(long, value_name = "COUNT")]
    rounds: u32,
    /// Slices of each way in a round at most: as many of them as leave their order balanced
    #[arg(long, value_name = "COUNT")]
    slices: u32,
}

pub(crate) const PORT: u16 = 80;
pub(crate) const BACKEND_PORT: u16 = 8080;
/// Of each service: more than fit into its place in SERVICE_LINES, and all equally far.
const BACKENDS: u8 = 4;
/// The last number of the address of the client whose packets are balanced one by one: a pod of its
/// own, because connections that no socket hook saw share their ports with those that one did.
const UNHOOKED: u8 = 4;
/// The last numbers of the first one's address, on the client's node and on the other.
const NEAR: u8 = 6;
const FAR: u8 = 7;
const LIMIT: &str = "pod's own address";
/// The same once more, which shows what the measurement itself makes of two that are alike.
const AGAIN: &str = "pod's own address, again";
const HOOKS: &str = "bowline, socket hooks";
const PROGRAMS: &str = "bowline, packet programs";
/// Through the last of many services it is to be at least so fast as through the only one.
const MANY_GOAL: f64 = 0.97;

/// Where the server is, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    OtherNode,
    OneNode,
}

/// Which services there are, where they lead, and what is asked of the last one.
#[derive(Clone, Copy)]
struct Scene {
    count: u32,
    place: Place,
    load: Load,
}

impl Scene {
    /// What is measured, without the way.
    fn name(self) -> String {
        self.of(&format!("{} services", self.count))
    }

    /// The same with all of their numbers together.
    fn of_all(self) -> String {
        self.of("any number of services")
    }

    fn of(self, services: &str) -> String {
        let place = if self.place == Place::OneNode { ", on one node" } else { "" };
        format!("{}, {services}{place}", self.load.name())
    }

    /// In which plot it stands.
    fn plot(self) -> String {
        let place = if self.place == Place::OneNode { " on the client's node" } else { "" };
        format!("{}, to the {LIMIT}{place}", self.load.name())
    }
}

/// The first so many of these services, with these backends.
fn services(addresses: Addresses, count: u32, backends: &[Ipv4Addr]) -> ServiceTable {
    let ports = json!([{"name": "t", "port": PORT, "protocol": "TCP"},
                       {"name": "u", "port": PORT, "protocol": "UDP"}]);
    let service = |number: u32| -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": format!("s{number}")},
            "spec": {"clusterIP": addresses.of_number(number), "ports": ports}}))
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
    targets: Vec<SocketAddr>,
    /// Whether the client is where bowline's socket hooks are.
    hooked: bool,
    /// The proxy of the founding deck knows TCP alone.
    udp: bool,
}

fn unhooked(world: &World) -> &Pod {
    world.here.pods.iter().find(|pod| pod.address.octets()[3] == UNHOOKED).unwrap()
}

/// What was found of one way under one load: a rate a round, in operations or bytes a second.
struct Found {
    way: &'static str,
    rates: Vec<f64>,
}

/// All that is measured.
struct Stage<'a> {
    options: &'a Options,
    world: &'a World,
    others: &'a [(Rules, Plain)],
    /// Without services.
    bare: &'a Plain,
}

impl Stage<'_> {
    /// Writes the rules of others for these services, of which at least the last one leads to these
    /// backends, and checks them.
    fn ways(&self, all: Addresses, place: Place, backends: &[Ipv4Addr]) -> Vec<Way<'_>> {
        let direct: Vec<SocketAddr> =
            backends.iter().map(|it| (*it, BACKEND_PORT).into()).collect();
        let client = &self.world.client().namespace;
        let unhooked = &unhooked(self.world).namespace;
        let way = |name, client, targets| Way { name, client, targets, hooked: false, udp: true };
        let mut ways = vec![
            way(LIMIT, client, direct.clone()),
            way(AGAIN, client, direct.clone()),
            Way { hooked: true, ..way(HOOKS, client, vec![all.target()]) },
            way(PROGRAMS, unhooked, vec![all.target()]),
            way("no service, kernel's own routing", &self.bare.client, direct),
        ];
        for (rules, plain) in self.others {
            match place {
                Place::OtherNode => rules.write(plain, all, backends),
                Place::OneNode => rules.lead_last(plain, all, backends),
            }
            rules.check(plain, all.target(), backends);
            ways.push(Way {
                name: rules.name(),
                client: &plain.client,
                targets: vec![all.target()],
                hooked: false,
                udp: *rules != Rules::Userspace,
            });
        }
        ways
    }

    /// Every way in turns, a slice at a time.
    fn rounds(&self, ways: &[Way<'_>], scene: Scene) -> Vec<Found> {
        let load = scene.load;
        let ways: Vec<&Way<'_>> = ways.iter().filter(|way| way.udp || !load.is_udp()).collect();
        let found = |way: &&Way<'_>| Found { way: way.name, rates: Vec::new() };
        let mut all: Vec<Found> = ways.iter().map(found).collect();
        let screen = Screen::open();
        screen.begin(scene.name());
        load.place();
        let slices = balanced(self.options.slices as usize, ways.len());
        let cgroup = &self.world.here.cgroup;
        let (hooked, beside) = (cgroup.path.as_path(), cgroup.beside());
        let team = |place: usize| {
            let way = ways[place];
            let cgroup = if way.hooked { hooked } else { &beside };
            load.team(way.client, Some(cgroup), &way.targets)
        };
        for _ in 0..load.rounds(self.options.rounds) {
            // Teams are new in each: which ports they have, and which backends, decides more than
            // one round.
            for (found, work) in all.iter_mut().zip(round(ways.len(), slices, team)) {
                found.rates.push(work.rate());
            }
        }
        all
    }
}

fn ratios(rates: &[f64], to: &[f64]) -> Vec<f64> {
    rates.iter().zip(to).map(|(rate, one)| rate / one).collect()
}

/// A rate a round of this way.
fn rates<'a>(all: &'a [Found], way: &str) -> &'a [f64] {
    &all.iter().find(|found| found.way == way).unwrap().rates
}

/// What a way reaches of the limit.
fn of_limit(all: &[Found], way: &str) -> Vec<f64> {
    ratios(rates(all, way), rates(all, LIMIT))
}

/// Every way beside the limit, that one once more, too; the limit as it is.
fn figures(scene: Scene, all: &[Found]) -> Vec<Figure> {
    let load = scene.load;
    let name = |way: &str| format!("{}: {way}", scene.name());
    let figure = |found: &Found| {
        if found.way == LIMIT {
            return Figure::new(name(LIMIT), load.unit(), None, found.rates.clone());
        }
        let ours = [HOOKS, PROGRAMS].contains(&found.way).then_some(Better::More);
        Figure::new(name(found.way), "ratio", ours, of_limit(all, found.way))
            .at(&scene.plot(), found.way, scene.count, "services")
            .goal((found.way == HOOKS).then(|| load.goal()))
            .beside(LIMIT, Relation::Ratio)
            .from(load.unit(), &found.rates)
    };
    all.iter().map(figure).collect()
}

/// What else there are goals for: the hooks beside kube-proxy's rules, and beside themselves with
/// the first number of services.
fn comparisons(scene: Scene, all: &[Found], first: Option<&(u32, Vec<f64>)>) -> Vec<Figure> {
    let hooks = rates(all, HOOKS);
    let mut figures = Vec::new();
    let mut add = |other: &str, samples: Vec<f64>, goal: f64| {
        let name = format!("{}: {HOOKS}, to {other}", scene.name());
        let figure = Figure::new(name, "ratio", Better::More, samples);
        figures.push(figure.goal(goal).beside(other, Relation::Ratio));
    };
    if scene.load.kind == Kind::Fresh {
        let others = [Rules::Iptables, Rules::Nftables].map(Rules::name);
        for found in all.iter().filter(|found| others.contains(&found.way)) {
            add(found.way, ratios(hooks, &found.rates), 1.0);
        }
    }
    if let Some((few, then)) = first.filter(|(few, _)| *few < scene.count) {
        let other = format!("the same with {few}, each to the {LIMIT}");
        add(&other, ratios(&of_limit(all, HOOKS), then), MANY_GOAL);
    }
    figures
}

/// One load at one place with all numbers of services together. Hooks cost the same with any, so
/// that more rounds tell what those of one number cannot; that it is so is a figure of its own.
struct OfAll {
    scene: Scene,
    /// The first number, and what the hooks reach of the limit with it.
    first: (u32, Vec<f64>),
    hooks: Vec<f64>,
    again: Vec<f64>,
}

impl OfAll {
    fn new(scene: Scene, all: &[Found]) -> Self {
        Self {
            scene,
            first: (scene.count, of_limit(all, HOOKS)),
            hooks: Vec::new(),
            again: Vec::new(),
        }
    }

    fn extend(&mut self, all: &[Found]) {
        self.hooks.extend(of_limit(all, HOOKS));
        self.again.extend(of_limit(all, AGAIN));
    }

    fn figures(self) -> [Figure; 2] {
        let Self { scene, hooks, again, .. } = self;
        let figure = |way: &str, samples, better| {
            let name = format!("{}: {way}", scene.of_all());
            Figure::new(name, "ratio", better, samples).beside(LIMIT, Relation::Ratio)
        };
        [
            figure(HOOKS, hooks, Some(Better::More)).goal(scene.load.goal()),
            figure(AGAIN, again, None),
        ]
    }
}

/// Prints the ratios to the first way, which is the limit.
fn report(scene: Scene, all: &[Found], figures: &[Figure]) {
    println!("\n{}", scene.name());
    for (found, figure) in all.iter().zip(figures) {
        let [middle, least, most] = match found.way {
            LIMIT => [1.0; 3],
            _ => [figure.median, figure.min, figure.max],
        };
        let noisy = figure.noisy == Some(true);
        println!(
            "  {:<34} {middle:>6.3}  [{least:.3} .. {most:.3}]   {:<14}{}",
            found.way,
            scene.load.shown(median(&found.rates)),
            if noisy { "  (too noisy to tell)" } else { "" }
        );
    }
}

pub(crate) fn measure(options: &Options, json: Option<&Path>) {
    let mut run = Run::begin(
        "path",
        &[
            ("services", json!(options.services)),
            ("rounds", json!(options.rounds)),
            ("slices", json!(options.slices)),
            ("cpu_of_one_connection", json!(last_cpu())),
        ],
        Statistics::Off,
    );
    let mut world = World::new();
    for more in 1..BACKENDS {
        world.here.add_pod(NEAR + more);
        world.there.add_pod(FAR + more);
    }
    world.here.add_pod(UNHOOKED);
    let (mut here, _there) = world.open();
    for client in [world.client(), unhooked(&world)] {
        many_ports(&client.namespace);
    }
    let [near, far] = [(&world.here, NEAR), (&world.there, FAR)].map(|(node, first)| {
        let pods = node.pods.iter().filter(|pod| pod.address.octets()[3] >= first);
        let serving = pods.map(|pod| {
            serve_at(&pod.namespace, SocketAddr::from((pod.address, BACKEND_PORT)));
            pod.address
        });
        serving.collect::<Vec<_>>()
    });
    let plain = || Plain::new(&near, &far);
    let others: Vec<(Rules, Plain)> = Rules::ALL.map(|rules| (rules, plain())).into();
    let bare = plain();
    let three = Addresses::new(3);
    for (rules, plain) in &others {
        rules.write(plain, three, &near);
        rules.check(plain, three.target(), &near);
        rules.check_hairpin(plain, three.target());
    }
    // A socket is balanced by the cgroup of the thread that makes it.
    world.here.cgroup.open_to_threads();
    let stage = Stage { options, world: &world, others: &others, bare: &bare };
    // By place and load.
    let mut of_all: Vec<OfAll> = Vec::new();
    for &count in &options.services {
        let addresses = Addresses::of(count, &world.here);
        let mut part = 0;
        for (place, backends) in [(Place::OtherNode, &far), (Place::OneNode, &near)] {
            // The one that comes last finds its place taken.
            for there in [0, count - 1, count] {
                here.apply_services(&services(addresses, there, backends)).unwrap();
            }
            check_place(&world.here, addresses);
            let ways = stage.ways(addresses, place, backends);
            for load in Load::ALL {
                let scene = Scene { count, place, load };
                let all = stage.rounds(&ways, scene);
                let ways = figures(scene, &all);
                report(scene, &all, &ways);
                run.extend(ways);
                run.extend(comparisons(scene, &all, of_all.get(part).map(|it| &it.first)));
                if of_all.len() == part {
                    of_all.push(OfAll::new(scene, &all));
                }
                of_all[part].extend(&all);
                part += 1;
            }
            run.keep(json).unwrap();
        }
    }
    run.extend(of_all.into_iter().flat_map(OfAll::figures));
    goals(run.figures());
    println!("\n{}", about(options, run.machine()));
    run.end(json).unwrap();
}

/// That the service which is asked is in the worst place, if there is another one.
fn check_place(node: &Node, addresses: Addresses) {
    let target = addresses.target();
    let rows = node.snapshot().services;
    let row = rows
        .iter()
        .find(|row| row.protocol == "TCP" && row.address == target.ip() && row.port == PORT);
    let row = row.unwrap_or_else(|| panic!("no service at {target}"));
    assert_eq!(row.line.is_none(), addresses.count > 1, "{target} in SERVICE_LINES");
}

/// Those figures that there are goals for.
fn goals(figures: &[Figure]) {
    println!("\ngoals");
    for figure in figures.iter().filter(|figure| figure.goal.is_some()) {
        let Figure { name, median, min, max, .. } = figure;
        println!("  {name}\n    {median:.3}  [{min:.3} .. {max:.3}]  {}", figure.judgement());
    }
}

/// What the figures are, and of which machine.
fn about(options: &Options, machine: &Machine) -> String {
    format!(
        "Ratios to the pod's own address in the same round: the median of {} rounds or more, and \
         the least and the most of them; every way in turns of some milliseconds; across two nodes \
         and on one, through the last of the services. {}.",
        options.rounds,
        machine.shown()
    )
}
