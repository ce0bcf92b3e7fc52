//! Another build of the agent takes over under load: one with the same map layouts ten times, then
//! one with others, and back, also when it is killed on the way. No connection breaks and none is
//! refused.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_ebpf_abi::ABI_VERSION;
use bowline_tests::api::{Found, wait};
use bowline_tests::artifacts;
use bowline_tests::load::{self, Load};
use bowline_tests::{EchoStage, Node, Wishes};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(60);
const REPLACEMENTS: usize = 10;
/// Workers that open a connection every 16 ms: a thousand a second, also when one has to wait.
const WORKERS: u32 = 16;
const EVERY_US: u32 = 16_000;
const OPEN: u32 = 20;
/// After so long TCP asks again: a first packet that went nowhere costs this, and no error.
const SECOND_TRY: Duration = Duration::from_secs(1);
/// Of the build with other layouts.
const NEXT_VERSION: u32 = ABI_VERSION + 1;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn an_upgrade_under_load_breaks_nothing() -> Result<()> {
    let mut wishes = Wishes { nodes: 2, ..Wishes::default() };
    // An agent that is killed all the time says nothing, and its pods shall stay for all that.
    wishes.flags.extend(["--node-monitor-grace-period", "120"].map(str::to_owned));
    let stage = EchoStage::up(&wishes).await?;
    let played = async {
        same_layouts(&stage).await.context("builds with the same layouts")?;
        other_layouts(&stage).await.context("a build with other layouts and back")?;
        broken_off(&stage).await.context("takeovers that are killed")
    };
    let played: Result<()> = played.await;
    played.map_err(|error| stage.cluster.with_logs(error))
}

/// What runs while agents come and go.
struct Traffic {
    fresh: Load,
    open: Load,
    start: Instant,
}

impl Traffic {
    async fn start(stage: &EchoStage) -> Result<Self> {
        let fresh = Load::start(&stage.place()?, EchoStage::service(), WORKERS, EVERY_US)?;
        let open = Load::hold(&stage.place()?, EchoStage::service(), OPEN)?;
        let start = Instant::now();
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(Self { fresh, open, start })
    }

    fn stop(self, during: &str) -> Result<()> {
        let seconds = self.start.elapsed().as_secs_f64();
        let (fresh, open) = (self.fresh.stop()?, self.open.stop()?);
        let slowest = Duration::from_micros(fresh.latency_us.max.into());
        println!(
            "{during}: {} fresh connections in {seconds:.1} s ({:.0} a second), {} failed, the \
             slowest took {slowest:.0?}; {OPEN} open connections with {} requests, {} failed",
            fresh.requests,
            fresh.requests as f64 / seconds,
            fresh.failed,
            open.requests,
            open.failed
        );
        fresh.expect_no_failure(&format!("on fresh connections during {during}"))?;
        open.expect_no_failure(&format!("on open connections during {during}"))?;
        ensure!(slowest < SECOND_TRY, "during {during} a connection was asked for twice");
        Ok(())
    }
}

/// Ends the agent and starts that of a build; waits until it has the node's data plane in hand.
async fn replace(node: &Node, signal: Signal, build: &Path) -> Result<()> {
    let opened = || -> Result<usize> {
        Ok(std::fs::read_to_string(node.log())?.matches("the data plane is open").count())
    };
    let before = opened()?;
    if node.agent_pid().is_ok() {
        node.end_agent(signal)?;
    }
    node.start_agent_of(build, &[])?;
    wait("an agent that has the data plane in hand", PATIENCE, async || {
        Ok(if opened()? > before { Found::Yes(()) } else { Found::NotYet("none".to_owned()) })
    })
    .await
}

async fn same_layouts(stage: &EchoStage) -> Result<()> {
    let (node, build) = (stage.node()?, artifacts::bowline()?);
    let traffic = Traffic::start(stage).await?;
    for round in 0..REPLACEMENTS {
        let signal = if round % 2 == 0 { Signal::SIGKILL } else { Signal::SIGTERM };
        replace(node, signal, &build).await?;
    }
    traffic.stop(&format!("{REPLACEMENTS} replacements"))?;
    stage.cluster.agrees(PATIENCE).await.map(drop)
}

async fn other_layouts(stage: &EchoStage) -> Result<()> {
    let node = stage.node()?;
    let traffic = Traffic::start(stage).await?;
    for (build, version) in
        [(artifacts::next_bowline()?, NEXT_VERSION), (artifacts::bowline()?, ABI_VERSION)]
    {
        replace(node, Signal::SIGKILL, &build).await?;
        ensure!(versions(node)? == [version], "pinned are versions {:?}", versions(node)?);
        load::requests(&stage.place()?, EchoStage::service(), 200)?
            .expect_no_failure(&format!("with the maps of version {version}"))?;
    }
    traffic.stop("an upgrade to other layouts and a downgrade")?;
    stage.cluster.agrees(PATIENCE).await.map(drop)
}

/// Agents of both builds in turn, each killed at a step of its takeover; then one that may finish.
async fn broken_off(stage: &EchoStage) -> Result<()> {
    let node = stage.node()?;
    let traffic = Traffic::start(stage).await?;
    node.end_agent(Signal::SIGKILL)?;
    let builds = [(artifacts::next_bowline()?, NEXT_VERSION), (artifacts::bowline()?, ABI_VERSION)];
    let (mut rounds, mut halfway) = (0, 0);
    // What a takeover makes one after the other, and how long after it the agent dies.
    for step in ["maps/SERVICES", "layouts", "links/connect4", "links/getpeername6"] {
        for (delay, (build, version)) in
            [0, 2, 8, 30, 120, 500].into_iter().zip(builds.iter().cycle())
        {
            let directory = node.bpffs().join(format!("bowline/v{version}"));
            let was_there = directory.join(step).exists();
            node.start_agent_of(build, &[])?;
            appears(&directory.join(step), was_there)?;
            std::thread::sleep(Duration::from_millis(delay));
            node.end_agent(Signal::SIGKILL)?;
            halfway += usize::from(versions(node)?.len() > 1);
            rounds += 1;
        }
    }
    replace(node, Signal::SIGKILL, &artifacts::bowline()?).await?;
    traffic.stop(&format!("{rounds} takeovers that were killed, {halfway} of them halfway"))?;
    ensure!(halfway * 4 > rounds, "only {halfway} of {rounds} were killed halfway");
    ensure!(versions(node)? == [ABI_VERSION], "pinned are versions {:?}", versions(node)?);
    stage.cluster.agrees(PATIENCE).await.map(drop)
}

/// Waits for a pin; one that was there before is waited for until it is made anew or a while.
fn appears(path: &Path, was_there: bool) -> Result<()> {
    let start = Instant::now();
    while !path.exists() || (was_there && start.elapsed() < Duration::from_millis(500)) {
        ensure!(start.elapsed() < PATIENCE, "{} does not appear", path.display());
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// The versions that are pinned, in order.
fn versions(node: &Node) -> Result<Vec<u32>> {
    let entries = std::fs::read_dir(node.bpffs().join("bowline"))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<Result<_>>()?;
    let mut versions: Vec<u32> =
        names.iter().filter_map(|name| name.strip_prefix('v')?.parse().ok()).collect();
    versions.sort_unstable();
    Ok(versions)
}
