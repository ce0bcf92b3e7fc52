//! A benchmark that is interrupted removes its cluster or its namespaces, and what one left that
//! was killed goes with the next.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::alone;
use bowline_tests::artifacts;
use bowline_tests::cluster::cgroup2;
use bowline_tests::command::{command, finish};
use bowline_tests::node::netns_path;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(60);

fn benchmark() -> Result<Command> {
    let mut bench = command(env!("CARGO_BIN_EXE_bowline-bench"));
    bench.env("BOWLINE_BIN", artifacts::bowline()?);
    bench.args(["measure", "programming", "--services", "2", "--rounds", "1"]);
    Ok(bench)
}

/// A benchmark whose cluster is up. It is killed when this value is dropped.
struct Bench {
    process: Child,
    cluster: PathBuf,
}

impl Bench {
    fn start() -> Result<Self> {
        let process = benchmark()?.stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let mut bench = Self { process, cluster: PathBuf::new() };
        let start = Instant::now();
        while !bench.cluster.join("admin.kubeconfig").exists() {
            if let Some(status) = bench.process.try_wait()? {
                bail!("the benchmark ended with {status}: {}", bench.said()?);
            }
            ensure!(start.elapsed() < PATIENCE, "the benchmark has no cluster");
            std::thread::sleep(Duration::from_millis(20));
            bench.cluster = alone::cluster_of(bench.process.id()).unwrap_or_default();
        }
        Ok(bench)
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        kill(Pid::from_raw(i32::try_from(self.process.id())?), signal)?;
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            ensure!(start.elapsed() < PATIENCE, "the benchmark survives {signal}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn said(&mut self) -> Result<String> {
        let mut said = String::new();
        self.process.stderr.take().context("read already")?.read_to_string(&mut said)?;
        Ok(said)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Until the benchmark replaces the agents that `up` started.
fn wait_for_agents(cluster: &Path) -> Result<()> {
    let start = Instant::now();
    let log = cluster.join("logs").join("node1.log");
    let starts =
        || fs::read_to_string(&log).map_or(0, |log| log.matches("the data plane is open").count());
    while starts() < 2 {
        ensure!(start.elapsed() < PATIENCE, "no agent was started again");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn name(cluster: &Path) -> String {
    cluster.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What is still there of a cluster.
fn left(cluster: &Path) -> Vec<PathBuf> {
    let register = Path::new("/run/bowline/clusters").join(name(cluster));
    let namespace = netns_path(&format!("bl-{}-net", name(cluster)));
    let all = [cluster.to_path_buf(), register, namespace];
    all.into_iter().filter(|path| path.symlink_metadata().is_ok()).collect()
}

#[test]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
fn a_benchmark_that_is_interrupted_or_killed_leaves_no_cluster() -> Result<()> {
    let mut first = Bench::start()?;
    ensure!(left(&first.cluster).len() == 3, "a cluster has {:?}", left(&first.cluster));
    let status = first.end(Signal::SIGTERM)?;
    ensure!(status.code() == Some(130), "SIGTERM ended it with {status}");
    let said = first.said()?;
    ensure!(said.contains("interrupted; what was made is removed"), "it said {said}");
    ensure!(left(&first.cluster).is_empty(), "left by SIGTERM: {:?}", left(&first.cluster));

    let mut second = Bench::start()?;
    // A killed `up` would remove the cluster itself.
    wait_for_agents(&second.cluster)?;
    second.end(Signal::SIGKILL)?;
    ensure!(left(&second.cluster).len() == 3, "SIGKILL left {:?}", left(&second.cluster));

    let mut third = Bench::start()?;
    ensure!(left(&second.cluster).is_empty(), "not removed: {:?}", left(&second.cluster));
    let refused = finish(&mut benchmark()?)?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(2), "a fourth ended with {}: {why}", refused.status);
    ensure!(why == "error: another benchmark runs on this machine: wait until it ends\n", "{why}");
    let status = third.end(Signal::SIGINT)?;
    ensure!(status.code() == Some(130), "SIGINT ended it with {status}");
    let removed = format!("left: cluster {}", name(&second.cluster));
    let said = third.said()?;
    ensure!(said.contains(&removed), "it did not say {removed}: {said}");
    ensure!(left(&third.cluster).is_empty(), "left by SIGINT: {:?}", left(&third.cluster));
    // Nobody else's name begins as the directories of these do.
    for process in [first, second, third].map(|bench| bench.process.id()) {
        let prefix = format!("bench-{process}-");
        let names = fs::read_dir(std::env::temp_dir())?.flatten().map(|entry| entry.file_name());
        let names: Vec<_> =
            names.filter(|name| name.to_string_lossy().starts_with(&prefix)).collect();
        ensure!(names.is_empty(), "temporary directories are left: {names:?}");
    }
    Ok(())
}

/// The cgroups and directories of a world of namespaces, by the process that made it.
fn of_world(process: u32) -> Result<Vec<PathBuf>> {
    let prefix = format!("bowline-test-{process}-");
    let parents = [cgroup2()?, std::env::temp_dir()];
    let entries = parents.iter().flat_map(fs::read_dir).flatten().flatten();
    let ours = entries.filter(|it| it.file_name().to_string_lossy().starts_with(&prefix));
    Ok(ours.map(|it| it.path()).collect())
}

/// Whether threads of it are in a cgroup whose sockets are balanced.
fn is_at_work(process: u32) -> Result<bool> {
    let threads = |path: &PathBuf| fs::read_to_string(path.join("balanced/cgroup.threads"));
    // What is no cgroup of a world has none.
    let all = of_world(process)?;
    Ok(all.iter().any(|path| threads(path).is_ok_and(|threads| !threads.is_empty())))
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn an_interrupted_suite_of_the_data_plane_removes_its_world() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut bench = command(env!("CARGO_BIN_EXE_bowline-bench"));
        bench.args(["measure", "path", "--services", "1", "--rounds", "1000", "--slices", "1"]);
        let process = bench.stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let mut bench = Bench { process, cluster: PathBuf::new() };
        let id = bench.process.id();
        let start = Instant::now();
        while !is_at_work(id)? {
            ensure!(start.elapsed() < PATIENCE, "only {:?}", of_world(id)?);
            ensure!(bench.process.try_wait()?.is_none(), "it ended: {}", bench.said()?);
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = bench.end(signal)?;
        let said = bench.said()?;
        ensure!(status.code() == Some(130), "{signal} ended it with {status}: {said}");
        // After what it was at.
        let told: Vec<&str> = said.lines().filter(|line| line.contains("error")).collect();
        ensure!(told == ["error: interrupted; what was made is removed"], "it said {said}");
        ensure!(of_world(id)?.is_empty(), "left by {signal}: {:?}", of_world(id)?);
    }
    Ok(())
}
