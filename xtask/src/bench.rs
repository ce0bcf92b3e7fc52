//! `cargo xtask bench`: measurements with goals, each a program of its own.
//!
//! Guarantees: prints each figure beside its goal, reached or not; a goal that is missed is no
//! failure, because a busy machine misses all of them. What fails is `compare`, when something got
//! worse beyond the noise, and `--gate`, when a check does not hold: both then end with the status
//! 1, and with 2 when they could not find out, as diff and grep do. The programs measured are those
//! that users run, in a release build. Suites that need no cluster are benchmarks of the agent
//! (`agent/benches`), those that do are one program (`tests/benches`). Every suite writes the same
//! format (`bench/results.rs`). An interrupt is a suite's own to end: it removes what it made.

mod compare;
mod gate;
mod read;
#[cfg_attr(not(test), expect(dead_code, reason = "the suites write what xtask reads"))]
mod results;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Result, anyhow, bail};

use crate::{bpf, build, process, workspace};

/// What to measure.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  cargo xtask bench path --quick --json a.json    measure, and keep every sample
  cargo xtask bench programs                      nanoseconds of each program for each packet
  cargo xtask bench compare a.json b.json         what changed from one run to another
  cargo xtask bench --gate xtask/bench-gate.json  measure, and fail where a check does not hold
  cargo xtask bench --gate xtask/bench-gate.json --json a.json --json s.json
                                                  the same with what was measured before")]
pub(crate) struct Args {
    /// Check the figures that this file names; fail, with a line for each that does not hold.
    ///
    /// The suites are run as the file says, or taken from `--json`. The status is 1 if a check does
    /// not hold, 2 if that could not be found out.
    #[arg(long, value_name = "FILE")]
    gate: Option<PathBuf>,
    /// Results of a suite, instead of running it; one of each that the gate names.
    #[arg(long, value_name = "FILE", requires = "gate")]
    json: Vec<PathBuf>,
    #[command(subcommand)]
    suite: Option<Suite>,
}

#[derive(clap::Subcommand)]
enum Suite {
    /// What the way through a service costs, beside the pod's own address, kube-proxy's rules and a
    /// proxy in user space: requests, connections, streams, datagrams.
    Path(Path),
    /// What services cost at the socket: the programs by the kernel's own statistics, and connect()
    /// through a service beside a direct one.
    Sockets(Sockets),
    /// What many services cost a node's agent, beside kube-proxy's rules: programming them all,
    /// changing one at rest and under churn, memory.
    Programming(Programming),
    /// What a cluster takes: `up`; pods from `apply` to Ready, away again and to another version;
    /// memory and processor time, idle, with 100 pods, with 10,000 services.
    Cluster(Cluster),
    /// What the API costs its clients: create, update, get and list with 1, 16 and 256 of them,
    /// one change told to 1,000 watchers, a list of 10,000 pods.
    Api(Api),
    /// What the packet programs cost: nanoseconds, and instructions where the processor counts
    /// them, of each class of packets, beside a program that does nothing.
    Programs(Programs),
    /// What the network of pods costs, on one node and to another, natively and by VXLAN, beside
    /// node to node without pods and beside Linux bridges: requests, streams, datagrams.
    Network(Network),
    /// What changed from one run of a suite to another, beyond the noise. The status is 1 if
    /// something got worse, 2 if that could not be found out.
    Compare(compare::Args),
}

impl Suite {
    /// Where it writes its results; nothing if it measures nothing.
    fn json(&mut self) -> Option<&mut Option<PathBuf>> {
        match self {
            Self::Path(suite) => Some(&mut suite.json),
            Self::Sockets(suite) => Some(&mut suite.json),
            Self::Programming(suite) => Some(&mut suite.json),
            Self::Cluster(suite) => Some(&mut suite.json),
            Self::Api(suite) => Some(&mut suite.json),
            Self::Programs(suite) => Some(&mut suite.json),
            Self::Network(suite) => Some(&mut suite.json),
            Self::Compare(_) => None,
        }
    }
}

#[derive(clap::Args)]
struct Path {
    /// Also write the figures, with all samples, to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write a page with plots to this file, as HTML.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// How many services there are; may be repeated [default: 1, 100, 1000, 10000, 30000].
    #[arg(long, value_name = "COUNT")]
    services: Vec<u32>,
    /// Rounds; in each, every way has its turn with every load.
    #[arg(long, value_name = "COUNT", default_value_t = 15)]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Only 1 and 1,000 services, and short rounds: less than two minutes.
    #[arg(long, conflicts_with_all = ["services", "rounds"])]
    quick: bool,
}

#[derive(clap::Args)]
struct Sockets {
    /// Also write the figures, with all samples, to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How many services the larger table has.
    #[arg(long, value_name = "COUNT", default_value_t = 30_000)]
    services: u32,
    /// Pairs of TCP connections, one direct and one through the service.
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    pairs: u32,
    /// Rounds; in each, what is measured and its baseline have their turn.
    #[arg(long, value_name = "COUNT", default_value_t = 9)]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Few rounds and few pairs: less than a minute.
    #[arg(long, conflicts_with_all = ["rounds", "pairs"])]
    quick: bool,
}

#[derive(clap::Args)]
struct Programming {
    /// Also write the figures, with all samples, to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How many services there are; may be repeated [default: 1000, 10000, 30000].
    #[arg(long, value_name = "COUNT")]
    services: Vec<u32>,
    /// Rounds; in each, the agent starts on an empty node, and everybody changes services.
    #[arg(long, value_name = "COUNT", default_value_t = 7)]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// 1,000 services beside kube-proxy's rules, and 10,000 alone; few rounds: about two minutes.
    #[arg(long, conflicts_with_all = ["services", "rounds"])]
    quick: bool,
}

#[derive(clap::Args)]
struct Cluster {
    /// Also write the figures, with all samples, to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds; in each, everything has its turn.
    #[arg(long, value_name = "COUNT", default_value_t = 7)]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Few rounds, 30 pods and 1,000 services at most: about two minutes.
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
}

#[derive(clap::Args)]
struct Api {
    /// Also write the figures, with all samples, to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds; in each, every number of clients has its turn with everything.
    #[arg(long, value_name = "COUNT", default_value_t = 9)]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Fewer and shorter rounds: about a minute.
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
}

#[derive(clap::Args)]
struct Programs {
    /// Also write the figures, with all samples, to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds; in each, a program and the one that does nothing have their turns.
    #[arg(long, value_name = "COUNT", default_value_t = 15)]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Few rounds: some seconds.
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
}

#[derive(clap::Args)]
struct Network {
    /// Also write the figures, with all samples, to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds; in each, every way has its turn with every load.
    #[arg(long, value_name = "COUNT", default_value_t = 25)]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Fewer and shorter rounds: less than a minute.
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
}

/// What comparing or checking found.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Good,
    /// Something got worse or does not hold: in one line.
    Bad(String),
}

/// Measure, compare, or check; the status is in the module's own words.
pub(crate) fn run(args: &Args) -> ExitCode {
    let outcome = match (&args.gate, &args.suite) {
        (Some(gate), _) => gate::run(gate, &args.json),
        (None, Some(Suite::Compare(files))) => compare::run(files),
        (None, Some(suite)) => measure(suite).map(|()| Outcome::Good),
        (None, None) => Err(anyhow!("say what to measure, or give a gate: see --help")),
    };
    let (status, error) = status(outcome);
    if let Some(error) = error {
        eprintln!("error: {error}");
    }
    ExitCode::from(status)
}

/// The exit status, and the line that says why.
fn status(outcome: Result<Outcome>) -> (u8, Option<String>) {
    match outcome {
        Ok(Outcome::Good) => (0, None),
        Ok(Outcome::Bad(why)) => (1, Some(why)),
        Err(error) => (2, Some(format!("{error:#}"))),
    }
}

/// Build, measure, print.
fn measure(suite: &Suite) -> Result<()> {
    if !workspace::is_root() {
        bail!("benchmarks make network namespaces and load programs: run them as root");
    }
    bpf::build()?;
    match suite {
        Suite::Compare(_) => bail!("`compare` measures nothing"),
        Suite::Path(path) => {
            let (services, rounds, turn) = match path.quick {
                true => (&[1, 1_000][..], 15, 40),
                false => (&path.services[..], path.rounds, 100),
            };
            let counts: Vec<(&str, u32)> = services
                .iter()
                .map(|count| ("services", *count))
                .chain([("rounds", rounds), ("turn", turn)])
                .collect();
            bench("path", &counts, &[("json", &path.json), ("html", &path.html)])
        }
        Suite::Sockets(sockets) => {
            let (rounds, batches, pairs) = match sockets.quick {
                true => (5, 4, 5_000),
                false => (sockets.rounds, 8, sockets.pairs),
            };
            let mut counts = vec![("services", sockets.services), ("pairs", pairs)];
            counts.extend([("rounds", rounds), ("batches", batches)]);
            bench("sockets", &counts, &[("json", &sockets.json)])
        }
        Suite::Programming(programming) => {
            let (services, rounds, changes, others) = match programming.quick {
                true => (&[1_000, 10_000][..], 5, 40, 1_000),
                false => (&programming.services[..], programming.rounds, 100, 10_000),
            };
            let mut counts: Vec<(&str, u32)> =
                services.iter().map(|count| ("services", *count)).collect();
            counts.extend([("rounds", rounds), ("changes", changes), ("others", others)]);
            of_clusters("programming", &counts, &programming.json)
        }
        Suite::Cluster(cluster) => {
            // What runs in the pods.
            build::workload()?;
            let (rounds, single, pods, services, window) = match cluster.quick {
                true => (5, 10, 30, 1_000, 2_000),
                false => (cluster.rounds, 30, 100, 10_000, 5_000),
            };
            let mut counts = vec![("rounds", rounds), ("single", single), ("pods", pods)];
            counts.extend([("services", services), ("window", window)]);
            of_clusters("cluster", &counts, &cluster.json)
        }
        Suite::Api(api) => {
            let (rounds, turn, changes) =
                if api.quick { (5, 200, 10) } else { (api.rounds, 500, 20) };
            let counts = [("rounds", rounds), ("turn", turn), ("changes", changes)];
            of_clusters("api", &counts, &api.json)
        }
        Suite::Programs(programs) => {
            let rounds = if programs.quick { 5 } else { programs.rounds };
            bench("programs", &[("rounds", rounds)], &[("json", &programs.json)])
        }
        Suite::Network(network) => {
            let (rounds, turn) = if network.quick { (15, 50) } else { (network.rounds, 100) };
            bench("network", &[("rounds", rounds), ("turn", turn)], &[("json", &network.json)])
        }
    }
}

/// Runs a suite that uses the data plane without a cluster.
fn bench(name: &str, counts: &[(&str, u32)], files: &[(&str, &Option<PathBuf>)]) -> Result<()> {
    let mut bench = workspace::cargo();
    // The whole workspace is named so that dependencies keep one set of features.
    bench.current_dir(workspace::root()).args([
        "bench",
        "--workspace",
        "--profile",
        "dev",
        "--bench",
        name,
        "--",
    ]);
    arguments(&mut bench, counts, files)?;
    process::run_to_its_end(&mut bench)
}

/// Runs a suite that starts clusters. It is told when we are killed, and removes them.
fn of_clusters(name: &str, counts: &[(&str, u32)], json: &Option<PathBuf>) -> Result<()> {
    // Here the speed of our own code counts, the clients' included.
    build::binaries(true)?;
    let release = workspace::target().join("release");
    let mut bench = Command::new("setpriv");
    bench.current_dir(workspace::root()).env("BOWLINE_BIN", release.join("bowline"));
    bench.args(["--pdeathsig", "TERM"]).arg(release.join("bowline-bench")).arg(name);
    arguments(&mut bench, counts, &[("json", json)])?;
    process::run_to_its_end(&mut bench)
}

fn arguments(
    bench: &mut Command,
    counts: &[(&str, u32)],
    files: &[(&str, &Option<PathBuf>)],
) -> Result<()> {
    for (flag, count) in counts {
        bench.arg(format!("--{flag}")).arg(count.to_string());
    }
    for (flag, file) in files {
        if let Some(file) = file {
            bench.arg(format!("--{flag}")).arg(std::path::absolute(file)?);
        }
    }
    Ok(())
}
