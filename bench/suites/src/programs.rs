//! What the packet programs cost, a class of packets each. `bowline bench programs` runs it;
//! needs root.
//!
//! Each program is run again and again on one packet, which is written anew before each run, and so
//! is a program that does nothing; in each round both have their turns, and the figure is what the
//! cheapest of the one's takes more than the cheapest of the other's. Before it is timed, a packet
//! has to come to what its class says, and again after the last of many runs. The maps are those
//! of the tests' tables of packets. Nothing is attached and nothing sent.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::programs::SchedClassifier;
use bowline_agent::datapath::{Instructions, Repeat, Repeated};
use bowline_figures::results::{Better, Figure, Relation, Run, Statistics};
use bowline_figures::screen::Screen;
use bowline_lab::frame::{ACK, Body, Packet, SYN, UDP};
use bowline_lab::packets::{BACKEND_PORT, CLIENT_PORT, Lab, Net, PORT, nets};
use bowline_lab::rows::{Hook, Verdict};
use clap::Args;
use serde_json::json;

use crate::interrupts;
use crate::stay::stay;

#[derive(Args)]
pub(crate) struct Options {
    /// Rounds; in each, a program and the one that does nothing have their turns
    #[arg(long, value_name = "COUNT", default_value_t = 15)]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Turns of each in a round, of which the cheapest counts
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// Runs in a turn
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=20_000))]
    runs: u32,
}

/// A class of packets at one program.
struct Case {
    name: String,
    hook: Hook,
    packet: Packet,
    verdict: Verdict,
    /// What has to have gone through before.
    before: Option<(Hook, Packet)>,
    /// Whether each run is a connection of its own.
    fresh: bool,
    /// Whether somebody is told of each run meanwhile.
    told: bool,
}

impl Case {
    /// A packet of no flow that goes to another device.
    fn new(net: &Net, hook: Hook, class: &str, packet: Packet) -> Self {
        let name = format!("{}, {}: {class}", hook.name(), net.name);
        Self {
            name,
            hook,
            packet,
            verdict: Verdict::Redirect,
            before: None,
            fresh: false,
            told: false,
        }
    }

    fn comes_to(self, verdict: Verdict) -> Self {
        Self { verdict, ..self }
    }

    fn after(self, hook: Hook, packet: Packet) -> Self {
        Self { before: Some((hook, packet)), ..self }
    }

    /// The same while somebody listens.
    fn told(self) -> Self {
        Self { name: format!("{}, while somebody listens", self.name), told: true, ..self }
    }

    fn each_new(self) -> Self {
        Self { fresh: true, ..self }
    }
}

/// Two words of IP options that do nothing; of IPv6, a header of destination options.
fn with_options(packet: Packet) -> Packet {
    const DESTINATION_OPTIONS: u8 = 60;
    if packet.source.0.is_ipv4() {
        packet.options(&[1, 1, 1, 1, 1, 1, 1, 0])
    } else {
        packet.extension(DESTINATION_OPTIONS, &[0, 1, 4, 0, 0, 0, 0])
    }
}

/// An echo request.
fn echo(net: &Net) -> Body {
    Body::Icmp(if net.client.is_ipv4() { 8 } else { 128 })
}

/// A later part of a datagram.
fn piece(packet: Packet) -> Packet {
    packet.body(Body::Other(UDP, vec![7; 24])).fragment(1480, true)
}

/// What pods send.
fn from_pod(net: &Net) -> Vec<Case> {
    let case = |class: &str, packet| Case::new(net, Hook::FromPod, class, packet);
    let to = |address: IpAddr| {
        let ends = ((net.client, CLIENT_PORT), (address, BACKEND_PORT));
        Packet::new(ends.0, ends.1, Body::Tcp(ACK))
    };
    let service = |flags| to(net.vips.remote).to((net.vips.remote, PORT)).body(Body::Tcp(flags));
    let near = to(net.vips.local).to((net.vips.local, PORT)).body(Body::Tcp(SYN));
    let answer =
        Packet::new((net.local, BACKEND_PORT), (net.client, CLIENT_PORT), Body::Tcp(SYN | ACK));
    let spoofed = to(net.local).from((net.other, CLIENT_PORT));
    vec![
        case("to a pod of the node", to(net.local)),
        case("to another node's pod", to(net.remote)),
        case("to another node's pod, by the tunnel", to(net.tunnelled)),
        case("to the outside", to(net.outside)).comes_to(Verdict::Stack),
        case("to a service, a new flow", service(SYN)).each_new(),
        case("to a service, a known flow", service(ACK)).after(Hook::FromPod, service(SYN)),
        case("answer of a flow", answer).after(Hook::FromPod, near),
        case("ICMP echo", to(net.local).body(echo(net))),
        case("fragment", piece(to(net.local))),
        case("IP options", with_options(to(net.local))),
        case("drop, by its false source", spoofed.clone()).comes_to(Verdict::Drop),
        case("to another node's pod", to(net.remote)).told(),
        case("to a service, a known flow", service(ACK)).after(Hook::FromPod, service(SYN)).told(),
        case("drop, by its false source", spoofed).comes_to(Verdict::Drop).told(),
    ]
}

/// What arrives, from other nodes at the uplink, or from the stack at the pod.
fn to_pod(net: &Net, hook: Hook) -> Vec<Case> {
    let from = |address: IpAddr| {
        let ends = ((address, BACKEND_PORT), (net.client, CLIENT_PORT));
        Packet::new(ends.0, ends.1, Body::Tcp(SYN | ACK))
    };
    let opening = Packet::new((net.client, CLIENT_PORT), (net.vips.remote, PORT), Body::Tcp(SYN));
    // At the pod itself there is nowhere else to go.
    let on = if hook == Hook::ToPod { Verdict::Stack } else { Verdict::Redirect };
    let case = |class: &str, packet| Case::new(net, hook, class, packet).comes_to(on);
    let mut cases = vec![
        case("of another node's pod", from(net.remote)),
        case("of the outside", from(net.outside)),
        case("answer of a flow", from(net.remote)).after(Hook::FromPod, opening),
        case("ICMP echo", from(net.remote).body(echo(net))),
        case("fragment", piece(from(net.remote))),
        case("IP options", with_options(from(net.remote))),
    ];
    if hook == Hook::FromUplink {
        cases.push(case("of another node's pod", from(net.remote)).told());
        let own = from(net.remote).to((net.node, PORT));
        cases.push(case("to the node itself", own).comes_to(Verdict::Stack));
    }
    cases
}

fn cases() -> Vec<Case> {
    let of = |net: &Net| {
        let [uplink, pod] = [Hook::FromUplink, Hook::ToPod].map(|hook| to_pod(net, hook));
        from_pod(net).into_iter().chain(uplink).chain(pod).collect::<Vec<_>>()
    };
    nets().iter().flat_map(of).collect()
}

/// The maps as the class needs them.
fn prepare(lab: &mut Lab, case: &Case) {
    lab.clear();
    if let Some((hook, packet)) = &case.before {
        lab.send(*hook, &packet.bytes()).unwrap();
    }
}

fn descriptor(lab: &Lab, hook: Hook) -> BorrowedFd<'_> {
    let program: &SchedClassifier = lab.object.program(hook.name()).unwrap().try_into().unwrap();
    program.fd().unwrap().as_fd()
}

/// The least of some turns, in nanoseconds and in instructions a run.
fn cheapest(turns: u32, mut turn: impl FnMut() -> Repeated) -> (f64, Option<f64>) {
    let mut least: Option<(f64, Option<f64>)> = None;
    for _ in 0..turns {
        let Repeated { nanoseconds, instructions, .. } = turn();
        let before = least.unwrap_or((nanoseconds, instructions));
        let fewer = before.1.zip(instructions).map(|(one, other)| one.min(other));
        least = Some((before.0.min(nanoseconds), fewer));
    }
    least.unwrap()
}

/// A class with what was found so far: a sample a round.
struct Measured {
    case: Case,
    program: Repeat,
    nothing: Repeat,
    costs: Vec<f64>,
    raw: Vec<f64>,
    instructions: Vec<f64>,
}

impl Measured {
    fn new(lab: &mut Lab, case: Case) -> Self {
        let frame = case.packet.bytes();
        prepare(lab, &case);
        let (verdict, _) = lab.send(case.hook, &frame).unwrap();
        assert_eq!(verdict, case.verdict, "{}", case.name);
        let port_at = case.fresh.then(|| case.packet.body_at());
        let program = Repeat::new(Some(descriptor(lab, case.hook)), &frame, port_at).unwrap();
        let nothing = Repeat::new(None, &frame, port_at).unwrap();
        let (costs, raw, instructions) = (Vec::new(), Vec::new(), Vec::new());
        Self { case, program, nothing, costs, raw, instructions }
    }

    /// One round.
    fn measure(&mut self, lab: &mut Lab, options: &Options, counter: Option<&Instructions>) {
        let Self { case, program, nothing, .. } = self;
        prepare(lab, case);
        let empty = cheapest(options.turns, || nothing.run(options.runs, counter).unwrap());
        lab.listen(case.told);
        let whole = cheapest(options.turns, || {
            // The connections of the turn before are new again.
            if case.fresh {
                prepare(lab, case);
            }
            let found = program.run(options.runs, counter).unwrap();
            assert_eq!(Verdict::of(found.returned), case.verdict, "{}: the last", case.name);
            let told = if case.told { options.runs as usize } else { 0 };
            assert_eq!(lab.heard(), told, "{}: events", case.name);
            found
        });
        lab.listen(false);
        self.costs.push(whole.0 - empty.0);
        self.raw.push(whole.0);
        self.instructions.extend(whole.1.zip(empty.1).map(|(whole, empty)| whole - empty));
    }

    /// What it costs, and that in instructions if they can be counted.
    fn figures(self) -> Vec<Figure> {
        let name = self.case.name;
        let figure = |name: String, unit: &str, samples: Vec<f64>| {
            let figure = Figure::new(name, unit, Better::Less, samples);
            figure.beside("a program that does nothing", Relation::Difference)
        };
        let mut figures = vec![figure(name.clone(), "ns", self.costs).from("ns", &self.raw)];
        if !self.instructions.is_empty() {
            let name = format!("{name}, instructions");
            figures.push(figure(name, "instructions", self.instructions));
        }
        figures
    }
}

fn print(figures: &[Figure]) {
    let Figure { name, median, min, max, noisy, .. } = &figures[0];
    let count = figures.get(1).map_or("-".to_owned(), |count| format!("{:.0}", count.median));
    let noisy = if *noisy == Some(true) { "  (too noisy to tell)" } else { "" };
    println!("{name:<58} {median:>7.1} ns  [{min:.1} .. {max:.1}]  {count:>6}{noisy}");
}

pub(crate) fn measure(options: &Options, json: Option<&Path>) {
    let parameters = [
        ("rounds", json!(options.rounds)),
        ("turns", json!(options.turns)),
        ("runs", json!(options.runs)),
    ];
    let mut run = Run::begin("programs", &parameters, Statistics::Off);
    stay();
    let counter = Instructions::new();
    println!("nanoseconds a packet, median [least .. most of the rounds]; instructions a packet");
    if let Err(error) = &counter {
        println!("this machine does not count instructions: {error}");
    }
    let counter = counter.ok();
    Lab::run(|lab| {
        let mut all: Vec<Measured> =
            cases().into_iter().map(|case| Measured::new(lab, case)).collect();
        // A class's rounds are far apart: a processor that is slow for a second is slow in one.
        let screen = Screen::open();
        for round in 1..=options.rounds {
            screen.begin(format!("round {round} of {}", options.rounds));
            for one in &mut all {
                interrupts::check();
                one.measure(lab, options, counter.as_ref());
            }
        }
        drop(screen);
        for figures in all.into_iter().map(Measured::figures) {
            print(&figures);
            run.extend(figures);
        }
    });
    run.end(json).unwrap();
}
