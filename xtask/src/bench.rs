//! `cargo xtask bench`: measurements with goals, each a program of its own.
//!
//! Guarantees: prints each figure beside its goal, reached or not; a goal that is missed is no
//! failure, because a busy machine misses all of them. The programs measured are those that users
//! run; what drives them is the development build.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{bpf, process, workspace};

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

/// Build, measure, print.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !workspace::is_root() {
        bail!("benchmarks make network namespaces and load programs: run them as root");
    }
    bpf::build()?;
    let Suite::Sockets(sockets) = &args.suite;
    let mut bench = workspace::cargo();
    // The whole workspace is named so that dependencies keep one set of features.
    bench
        .current_dir(workspace::root())
        .args(["bench", "--workspace", "--profile", "dev", "--bench", "sockets", "--"])
        .args(["--services", &sockets.services.to_string()])
        .args(["--pairs", &sockets.pairs.to_string()]);
    if let Some(file) = &sockets.json {
        bench.arg("--json").arg(std::path::absolute(file)?);
    }
    process::run(&mut bench)
}
