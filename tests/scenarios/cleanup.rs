//! `down` removes everything that `up` made, whatever happened in between, and nothing else.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::api::Api;
use bowline_tests::command::output;
use bowline_tests::load::Load;
use bowline_tests::machine::Machine;
use bowline_tests::node::netns_path;
use bowline_tests::{Cluster, Wishes};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(60);
/// The kernel frees programs and links some time after the last that holds them is gone.
const FREED: Duration = Duration::from_secs(10);
const PINS: &str = "/run/netns";
/// Says that the mount at PINS is a cluster's.
const OWN_MOUNT: &str = "/run/bowline/netns-mount";
const NIFTY: &str = "App=Nifty";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn after_sigkill_of_everything() -> Result<()> {
    let before = Machine::look()?;
    let neighbour = Neighbour::up().await?;
    let with_neighbour = Machine::look()?;
    let cluster = Cluster::up(&Wishes::default())?;
    let api = cluster.api().await?;
    cluster.apply("nifty.yaml")?;
    api.ready_pods(NIFTY, 3, PATIENCE).await.map_err(|error| cluster.with_logs(error))?;
    let during = Machine::look()?;
    let made = with_neighbour.difference(&during);
    for kind in
        ["/run/netns/", "mount ", "cgroup ", "/run/containerd/s/", "bpf program", "bpf link"]
    {
        let seen = made.iter().any(|thing| thing.starts_with(&format!("left: {kind}")));
        ensure!(seen, "the look does not see {kind}: {made:#?}");
    }
    let of_the_host = ["link ", "address ", "route ", "policy ", "rule "];
    let foreign: Vec<_> = made
        .iter()
        .filter_map(|thing| thing.split_once(": "))
        .filter(|(_, thing)| of_the_host.iter().any(|kind| thing.starts_with(kind)))
        .collect();
    ensure!(foreign.is_empty(), "`up` changed the host's own network: {foreign:#?}");

    cluster.kill_everything()?;
    cluster.down()?;
    ensure!(!cluster.dir.exists(), "`down` left {}", cluster.dir.display());
    nothing_left(&with_neighbour)?;
    cluster.down()?;
    nothing_left(&with_neighbour)?;
    neighbour.expect_whole().await?;
    nothing_left(&before)
}

/// A cluster that has nothing to do with what happens, and a client that would notice.
struct Neighbour {
    load: Load,
    api: Api,
    pod: Pod,
    cluster: Cluster,
}

impl Neighbour {
    async fn up() -> Result<Self> {
        let cluster = Cluster::up(&Wishes { nodes: 1, ..Wishes::default() })?;
        let api = cluster.api().await?;
        cluster.apply("nifty.yaml")?;
        api.scale::<ReplicationController>("nifty", 1).await?;
        let pods = api.ready_pods(NIFTY, 1, PATIENCE).await;
        let pod = pods.map_err(|error| cluster.with_logs(error))?.remove(0);
        api.endpoints("nifty-svc", 1, PATIENCE).await?;
        cluster.agrees(PATIENCE).await?;
        let load = Load::start(&cluster.nodes[0].place()?, "10.9.8.7:80".parse()?, 2, 2000)?;
        Ok(Self { load, api, pod, cluster })
    }

    /// Every request was answered, and everything is as it was; then it goes.
    async fn expect_whole(self) -> Result<()> {
        let seen = self.load.stop()?;
        seen.expect_no_failure("at the neighbour's service")?;
        println!("{} requests at the neighbour's service, 0 failed", seen.ok);
        let pods = self.api.ready_pods(NIFTY, 1, PATIENCE).await?;
        let runs = |pod: &Pod| {
            let status = pod.status.clone().unwrap_or_default();
            let containers = status.container_statuses.unwrap_or_default();
            let one = |c: &k8s_openapi::api::core::v1::ContainerStatus| {
                (c.container_id.clone(), c.restart_count)
            };
            (pod.metadata.uid.clone(), containers.iter().map(one).collect::<Vec<_>>())
        };
        ensure!(runs(&pods[0]) == runs(&self.pod), "the neighbour's pod is another one");
        let (status, rows) = self.cluster.net_diff("node1")?;
        ensure!(status == 0, "the neighbour's maps: {rows:?}");
        let nodes = output(&mut self.cluster.bowline(&["get", "nodes"])?)?;
        ensure!(nodes.contains("Ready") && !nodes.contains("NotReady"), "the neighbour: {nodes}");
        Ok(())
    }
}

/// How far `up` has come. Each holds from then on.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The name is taken, and nothing else is there.
    Claimed,
    Recorded,
    FirstNamespace,
    LastNamespace,
    ServerAnswers,
    LastAgent,
}

const MOMENTS: [Moment; 6] = [
    Moment::Claimed,
    Moment::Recorded,
    Moment::FirstNamespace,
    Moment::LastNamespace,
    Moment::ServerAnswers,
    Moment::LastAgent,
];

impl Moment {
    fn has_come(self, cluster: &Cluster) -> bool {
        let last = &cluster.nodes[cluster.nodes.len() - 1];
        match self {
            Self::Claimed => {
                let entry = Path::new("/run/bowline/clusters").join(&cluster.name);
                entry.symlink_metadata().is_ok()
            }
            Self::Recorded => cluster.dir.join("cluster.json").exists(),
            Self::FirstNamespace => netns_path(&cluster.bridge_namespace()).exists(),
            Self::LastNamespace => netns_path(last.namespace()).exists(),
            Self::ServerAnswers => cluster.kubeconfig().exists(),
            Self::LastAgent => last.agent_pid().is_ok(),
        }
    }

    /// Starts `up` and sends it a signal at this moment; how it ended.
    fn strike(self, signal: Signal) -> Result<(Cluster, ExitStatus, String)> {
        let wishes = Wishes { nodes: 2, registry: false, ..Wishes::default() };
        let (cluster, mut up) = Cluster::begin(&wishes)?;
        let struck = self.wait_and_send(&cluster, &mut up, signal);
        let status = struck.and_then(|()| ended(&mut up));
        if status.is_err() {
            drop(up.kill());
            drop(up.wait());
        }
        let mut said = String::new();
        up.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
        let status = status.with_context(|| format!("{self:?}, {signal}: `up` said {said}"))?;
        Ok((cluster, status, said))
    }

    fn wait_and_send(self, cluster: &Cluster, up: &mut Child, signal: Signal) -> Result<()> {
        let start = Instant::now();
        while !self.has_come(cluster) {
            if let Some(status) = up.try_wait()? {
                bail!("`up` ended before, with {status}");
            }
            ensure!(start.elapsed() < PATIENCE, "it does not come");
            std::thread::sleep(Duration::from_micros(200));
        }
        ensure!(up.try_wait()?.is_none(), "`up` has ended already");
        kill(Pid::from_raw(i32::try_from(up.id())?), signal)?;
        Ok(())
    }
}

fn ended(up: &mut Child) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = up.try_wait()? {
            return Ok(status);
        }
        ensure!(start.elapsed() < PATIENCE, "`up` goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
fn after_sigkill_of_up_half_way() -> Result<()> {
    let before = Machine::look()?;
    for moment in MOMENTS {
        let (cluster, status, _) = moment.strike(Signal::SIGKILL)?;
        ensure!(status.code().is_none(), "{moment:?}: {status}");
        let left = before.difference(&Machine::look()?);
        ensure!(!left.is_empty(), "{moment:?}: the look sees nothing of half a cluster");
        if matches!(moment, Moment::Claimed) {
            // As when it was killed between making this and the cluster's own group in it.
            fs::create_dir_all(cluster.parent_cgroup()?)?;
        }
        for _ in 0..2 {
            cluster.down().with_context(|| format!("{moment:?}"))?;
            ensure!(!cluster.dir.exists(), "{moment:?}: `down` left {}", cluster.dir.display());
            nothing_left(&before).with_context(|| format!("{moment:?}"))?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
fn an_interrupted_up_removes_what_it_made() -> Result<()> {
    let before = Machine::look()?;
    for moment in MOMENTS {
        let (cluster, status, said) = moment.strike(Signal::SIGINT)?;
        ensure!(status.code() == Some(1), "{moment:?}: {status}: {said}");
        ensure!(said.contains("interrupted: everything made so far is removed"), "it said {said}");
        ensure!(!cluster.dir.exists(), "{moment:?}: `up` left {}", cluster.dir.display());
        nothing_left(&before).with_context(|| format!("{moment:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn an_orderly_end_and_a_neighbour_that_stays() -> Result<()> {
    let before = Machine::look()?;
    let wishes = Wishes { nodes: 1, registry: false, ..Wishes::default() };
    let stays = Cluster::up(&wishes)?;
    let with_one = Machine::look()?;
    let goes = Cluster::up(&wishes)?;
    let dir = goes.dir.clone();
    drop(goes);
    ensure!(!dir.exists(), "`down` left {}", dir.display());
    nothing_left(&with_one)?;
    let nodes = output(&mut stays.bowline(&["get", "nodes"])?)?;
    ensure!(nodes.contains("Ready") && !nodes.contains("NotReady"), "the neighbour: {nodes}");
    drop(stays);
    nothing_left(&before)?;
    // Not by comparison: clusters before these may have left it.
    ensure!(!Path::new(OWN_MOUNT).exists(), "the last `down` left {PINS} mounted");
    Ok(())
}

/// `up`, `down` and `ip netns add` of others mount and unmount below the pins of namespaces: one at
/// a time. Two that come first would both mount, and one that goes take another's pins along.
#[test]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
fn up_waits_for_who_holds_the_pins() -> Result<()> {
    fs::create_dir_all(PINS)?;
    let before = Machine::look()?;
    let held = File::open(PINS)?;
    held.lock()?;
    let wishes = Wishes { nodes: 1, registry: false, ..Wishes::default() };
    let (cluster, mut up) = Cluster::begin(&wishes)?;
    let start = Instant::now();
    while !waits_for_a_lock(&up)? {
        ensure!(up.try_wait()?.is_none(), "`up` did not wait");
        ensure!(start.elapsed() < PATIENCE, "`up` neither waits nor ends");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pin = netns_path(&cluster.bridge_namespace());
    ensure!(!pin.exists(), "`up` pinned {} meanwhile", pin.display());
    drop(held);
    let status = ended(&mut up)?;
    ensure!(status.success() && pin.exists(), "{status}");
    drop(cluster);
    nothing_left(&before)
}

/// Whether a process waits for somebody's lock.
fn waits_for_a_lock(process: &Child) -> Result<bool> {
    let pid = process.id().to_string();
    let locks = fs::read_to_string("/proc/locks")?;
    // `1: -> FLOCK  ADVISORY  WRITE <pid> ...`
    let waits = |line: &str| line.contains("->") && line.split_whitespace().nth(5) == Some(&pid);
    Ok(locks.lines().any(waits))
}

fn nothing_left(before: &Machine) -> Result<()> {
    let start = Instant::now();
    loop {
        let left = before.difference(&Machine::look()?);
        // Only what the kernel frees by itself is waited for.
        let freed_later = left.iter().all(|thing| thing.starts_with("left: bpf "));
        if left.is_empty() {
            return Ok(());
        }
        ensure!(freed_later && start.elapsed() < FREED, "not as before: {left:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
