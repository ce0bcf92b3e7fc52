//! Bulk data between pods of two nodes, as it is and by tunnel, beside a plain veth pair in the
//! same run: the ratio is printed, for it depends on the machine. What must hold is that nothing
//! on the way switched the offloads off, and that packets larger than the MTU prove it.

use anyhow::{Context, Result, ensure};
use bowline_tests::Place;
use bowline_tests::command::{command, output};
use bowline_tests::node::netns_path;
use bowline_tests::pod_network::{Family, Stage, run};

/// Seconds of one transfer.
const SECONDS: u32 = 3;

/// What a pod's link must offer, as ethtool names it.
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
        let stage = Stage::up(&["--routing", routing]).await?;
        let measured = || {
            let plain = PlainPair::make(&stage.cluster.name)?;
            let alone = bits_per_second(&plain.place(0), &plain.place(1), "198.18.0.2")?;
            let (from, to) = (stage.network(&stage.here)?, stage.network(&stage.there)?);
            let target = Family::V4.of(&stage.there)?.to_string();
            let before = sent(&from)?;
            let pods = bits_per_second(&from, &to, &target)?;
            let after = sent(&from)?;
            let size = (after.0 - before.0) / (after.1 - before.1).max(1);
            println!(
                "{routing}: {:.2} Gbit/s from pod to pod, {:.2} Gbit/s over a plain veth pair, \
                 ratio {:.2}; {size} bytes a packet",
                pods / 1e9,
                alone / 1e9,
                pods / alone
            );
            ensure!(size > 2 * mtu, "packets of {size} bytes: segmented by the sender");
            offloads_are_on(&from, "eth0")?;
            if routing == "tunnel" {
                offloads_are_on(&stage.cluster.nodes[0].place()?, "bl-vxlan")?;
            }
            Ok(())
        };
        measured().map_err(|error| stage.explain(error).context(format!("--routing {routing}")))?;
    }
    Ok(())
}

/// Bytes and packets that a pod has sent.
fn sent(pod: &Place) -> Result<(u64, u64)> {
    let text = run(pod, "ip -j -s link show eth0")?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    let count = |name: &str| links[0]["stats64"]["tx"][name].as_u64().context("no statistics");
    Ok((count("bytes")?, count("packets")?))
}

fn offloads_are_on(place: &Place, link: &str) -> Result<()> {
    let text = run(place, &format!("ethtool -k {link}"))?;
    for name in OFFLOADS {
        let on = text.lines().any(|line| line.starts_with(&format!("{name}: on")));
        ensure!(on, "{name} is off on {link}: {text}");
    }
    Ok(())
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
