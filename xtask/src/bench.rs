//! `cargo xtask bench`: measurements with goals, each a program of its own.
//!
//! Guarantees: prints each figure beside its goal, reached or not; a goal that is missed is no
//! failure, because a busy machine misses all of them. The programs measured are those that users
//! run; what drives them is the development build.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{bpf, build, process, workspace};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(clap::Subcommand)]
enum Suite {
    /// What services cost at the socket: the programs by the kernel's own statistics, and connect()
    /// through a service beside a direct one.
    Sockets(Sockets),
    /// What many services cost a node's agent: programming them all, changing one, memory.
    Services(Services),
}

#[derive(clap::Args)]
struct Sockets {
    /// Also write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How many services the larger table has.
    #[arg(long, value_name = "COUNT", default_value_t = 30_000)]
    services: u32,
    /// Pairs of TCP connections, one direct and one through the service.
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    pairs: u32,
}

#[derive(clap::Args)]
struct Services {
    /// Also write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How many services there are.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    services: u32,
    /// How many endpoints each of them has.
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    endpoints: u32,
}

/// Build, measure, print.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !workspace::is_root() {
        bail!("benchmarks make network namespaces and load programs: run them as root");
    }
    bpf::build()?;
    match &args.suite {
        Suite::Sockets(sockets) => {
            let counts = [("services", sockets.services), ("pairs", sockets.pairs)];
            bench("sockets", &counts, sockets.json.as_ref())
        }
        Suite::Services(services) => {
            // Here the speed of the agent's own code counts.
            build::binaries(true)?;
            let counts = [("services", services.services), ("endpoints", services.endpoints)];
            bench("services", &counts, services.json.as_ref())
        }
    }
}

fn bench(name: &str, counts: &[(&str, u32)], json: Option<&PathBuf>) -> Result<()> {
    let mut bench = workspace::cargo();
    // The whole workspace is named so that dependencies keep one set of features.
    bench
        .current_dir(workspace::root())
        .env("BOWLINE_BIN", workspace::target().join("release/bowline"))
        .args(["bench", "--workspace", "--profile", "dev", "--bench", name, "--"]);
    for (flag, count) in counts {
        bench.arg(format!("--{flag}")).arg(count.to_string());
    }
    if let Some(file) = json {
        bench.arg("--json").arg(std::path::absolute(file)?);
    }
    process::run(&mut bench)
}
