//! Bulk data between pods of two nodes, as it is and by tunnel, beside a plain veth pair and beside
//! the same pods without offloads, in turn: how much it is depends on the machine, so the ratios
//! are held against loose bounds. Nothing on the way may switch the offloads off, and packets
//! larger than the MTU prove it, with the sender and with the receiver.
//!
//! A veth has no generic receive offload unless it polls (NAPI), and needs none: what the sender
//! did not cut arrives in one piece. So it is as on the plain pair; the tunnel device has it.

use anyhow::{Context, Result, ensure};
use bowline_tests::Place;
use bowline_tests::command::{command, output};
use bowline_tests::node::netns_path;
use bowline_tests::pod_network::{Family, Stage, run};

/// Seconds of one transfer.
const SECONDS: u32 = 1;
/// A stream between pods is at least this part of one over a plain veth pair, which may be three
/// times as fast as itself, depending on the processors that its ends run on.
const LEAST_OF_PLAIN: f64 = 0.1;
/// And so many times one between the same pods whose packets are cut before they are sent. If
/// somebody switched the offloads off there would be no difference.
const LEAST_GAIN: f64 = 1.5;

const GRO: &str = "generic-receive-offload";

const DUAL: [&str; 2] = ["--pod-cidr", "10.240.0.0/16,fd00:10:240::/48"];

/// What a link must offer, as ethtool names it.
const OFFLOADS: [&str; 5] = [
    "rx-checksumming",
    "tx-checksumming",
    "scatter-gather",
    "tcp-segmentation-offload",
    "generic-segmentation-offload",
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn offloads_stay_on_as_packets_are_and_by_tunnel() -> Result<()> {
    for (routing, mtu) in [("native", 1500), ("tunnel", 1450)] {
        let stage = Stage::up(&[&DUAL[..], &["--routing", routing]].concat()).await?;
        let measured = || {
            let plain = PlainPair::make(&stage.cluster.name)?;
            // Before anything is switched here.
            every_link_offloads(&stage, is_on(&plain.place(0), "eth0", GRO)?)?;
            for family in [Family::V4, Family::V6] {
                let Compared { pods, alone, cut } = Compared::of(&stage, family, &plain, mtu)?;
                let (ratio, gain) = (pods / alone, pods / cut);
                println!(
                    "{routing} {family:?}: {:.2} Gbit/s from pod to pod, {:.2} over a plain veth \
                     pair, ratio {ratio:.2}; {:.2} without offloads, gain {gain:.1}",
                    pods / 1e9,
                    alone / 1e9,
                    cut / 1e9
                );
                ensure!(ratio >= LEAST_OF_PLAIN, "only {ratio:.2} of a plain veth pair's");
                ensure!(gain >= LEAST_GAIN, "only {gain:.2} times as much as without offloads");
            }
            every_link_offloads(&stage, is_on(&plain.place(0), "eth0", GRO)?)?;
            Ok(())
        };
        measured().map_err(|error| stage.explain(error).context(format!("--routing {routing}")))?;
    }
    Ok(())
}

/// Transfers side by side, in bits per second.
struct Compared {
    /// From pod to pod: the faster of two, because other programs may take the machine's time.
    pods: f64,
    /// Over the plain veth pair.
    alone: f64,
    /// From pod to pod, with packets of the MTU.
    cut: f64,
}

impl Compared {
    fn of(stage: &Stage, family: Family, plain: &PlainPair, mtu: u64) -> Result<Self> {
        let sender = stage.network(&stage.here)?;
        let whole = || {
            let Transfer { bits_per_second, sent, received } = between_pods(stage, family)?;
            ensure!(sent > 2 * mtu, "{family:?}: {sent} bytes a packet: cut by the sender");
            ensure!(received > 2 * mtu, "{family:?}: {received} bytes a packet: cut on the way");
            Ok(bits_per_second)
        };
        let before = whole()?;
        let alone = bits_per_second(&plain.place(0), &plain.place(1), "198.18.0.2")?;
        run(&sender, "ethtool -K eth0 tso off gso off")?;
        let cut = between_pods(stage, family)?;
        run(&sender, "ethtool -K eth0 tso on gso on")?;
        ensure!(cut.sent < 2 * mtu, "{family:?}: {} bytes a packet, not cut", cut.sent);
        Ok(Self { pods: whole()?.max(before), alone, cut: cut.bits_per_second })
    }
}

/// What a transfer was like.
struct Transfer {
    bits_per_second: f64,
    /// Bytes a packet, on average.
    sent: u64,
    received: u64,
}

fn between_pods(stage: &Stage, family: Family) -> Result<Transfer> {
    let (from, to) = (stage.network(&stage.here)?, stage.network(&stage.there)?);
    let before = [traffic(&from, "tx")?, traffic(&to, "rx")?];
    let target = family.of(&stage.there)?.to_string();
    let bits_per_second = bits_per_second(&from, &to, &target)?;
    let after = [traffic(&from, "tx")?, traffic(&to, "rx")?];
    let size = |at: usize| (after[at].0 - before[at].0) / (after[at].1 - before[at].1).max(1);
    Ok(Transfer { bits_per_second, sent: size(0), received: size(1) })
}

/// Both pods', the nodes' ends of all pods' links, their uplinks and their tunnel devices.
fn every_link_offloads(stage: &Stage, plain_gro: bool) -> Result<()> {
    let mut links = 0;
    for place in [stage.network(&stage.here)?, stage.network(&stage.there)?] {
        offloads_are_on(&place, "eth0", plain_gro)?;
    }
    for node in &stage.cluster.nodes {
        let place = node.place()?;
        let all: serde_json::Value = serde_json::from_str(&run(&place, "ip -j -d link show")?)?;
        for link in all.as_array().into_iter().flatten() {
            let name = link["ifname"].as_str().context("a link without a name")?;
            match link["linkinfo"]["info_kind"].as_str() {
                Some("veth") => offloads_are_on(&place, name, plain_gro)?,
                Some("vxlan") => offloads_are_on(&place, name, true)?,
                _ => continue,
            }
            links += 1;
        }
    }
    // Three pods and two uplinks, at least.
    ensure!(links >= 5, "{links} links of nodes");
    Ok(())
}

/// Bytes and packets that a pod has sent (`tx`) or received (`rx`).
fn traffic(pod: &Place, way: &str) -> Result<(u64, u64)> {
    let text = run(pod, "ip -j -s link show eth0")?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    let count = |name: &str| links[0]["stats64"][way][name].as_u64().context("no statistics");
    Ok((count("bytes")?, count("packets")?))
}

fn offloads_are_on(place: &Place, link: &str, gro: bool) -> Result<()> {
    for name in OFFLOADS {
        ensure!(is_on(place, link, name)?, "{name} is off on {link}");
    }
    ensure!(is_on(place, link, GRO)? == gro, "{GRO} is not {gro} on {link}");
    Ok(())
}

fn is_on(place: &Place, link: &str, offload: &str) -> Result<bool> {
    let text = run(place, &format!("ethtool -k {link}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(offload)?.strip_prefix(": "));
    Ok(line.with_context(|| format!("no {offload} in {text}"))?.starts_with("on"))
}

/// One TCP stream for some seconds, as the receiver saw it.
fn bits_per_second(from: &Place, to: &Place, target: &str) -> Result<f64> {
    let mut server = to.command("iperf3");
    let mut server = server.args(["-s", "-1"]).stdout(std::process::Stdio::null()).spawn()?;
    let client = format!("iperf3 -J -t {SECONDS} --connect-timeout 2000 -c {target}");
    // The server needs a moment before it listens; until then the report is of a failure.
    let mut figure = None;
    for _ in 0..20 {
        let report: Option<serde_json::Value> =
            run(from, &client).ok().and_then(|said| serde_json::from_str(&said).ok());
        figure = report.and_then(|it| it["end"]["sum_received"]["bits_per_second"].as_f64());
        if figure.is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    server.kill()?;
    server.wait()?;
    figure.context("iperf3 gave no figure")
}

/// Two namespaces and a veth pair between them. They go when this value is dropped.
struct PlainPair {
    names: [String; 2],
}

impl PlainPair {
    fn make(unique: &str) -> Result<Self> {
        let pair = Self { names: ["a", "b"].map(|end| format!("{unique}-plain-{end}")) };
        for name in &pair.names {
            output(command("ip").args(["netns", "add", name]))?;
        }
        let other = &pair.names[1];
        run(&pair.place(0), &format!("ip link add eth0 type veth peer name eth0 netns {other}"))?;
        for (end, address) in [(0, "198.18.0.1/24"), (1, "198.18.0.2/24")] {
            run(&pair.place(end), &format!("ip addr add {address} dev eth0"))?;
            run(&pair.place(end), "ip link set eth0 up")?;
        }
        Ok(pair)
    }

    fn place(&self, end: usize) -> Place {
        Place::network(&netns_path(&self.names[end]))
    }
}

impl Drop for PlainPair {
    fn drop(&mut self) {
        for name in &self.names {
            // The pair goes with the first of them. A destructor cannot fail.
            drop(output(command("ip").args(["netns", "del", name])));
        }
    }
}
