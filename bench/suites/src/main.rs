//! The suites of `bowline bench` and of `cargo xtask bench`, and their command line.
//!
//! Guarantees: one suite runs at a time on a machine; it removes what it made, also when it is
//! interrupted, and what an earlier one left that was killed. The status is 130 after an interrupt,
//! 2 after a failure. Each suite is a process of its own (`measure SUITE`): what it does to itself,
//! its processor or its cgroup, is over with it.

mod api;
mod cluster;
mod fleet;
#[expect(clippy::unwrap_used, reason = "a failure of the support code ends a suite")]
mod interrupts;
#[expect(clippy::unwrap_used, reason = "a failure of the support code ends a suite")]
mod load;
#[expect(clippy::unwrap_used, reason = "a failure of the support code ends a suite")]
mod network;
#[expect(clippy::unwrap_used, reason = "a failure of the support code ends a suite")]
mod path;
mod programming;
#[expect(clippy::unwrap_used, reason = "a failure of the support code ends a suite")]
mod programs;
mod rules;
#[expect(clippy::unwrap_used, reason = "a failure of the support code ends a suite")]
mod sockets;
#[expect(clippy::unwrap_used, reason = "a failure of the support code ends a suite")]
mod stay;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use bowline_figures::child;
use bowline_figures::command::{self, Setting};
use bowline_figures::results::{Figure, Run, Statistics};
use bowline_figures::screen::Screen;
use bowline_figures::table::Table;
use bowline_tests::alone::Alone;
use clap::{Parser, Subcommand};
use tokio::sync::watch;

/// Measure bowline on this machine, beside what others have for the same. Needs root.
#[derive(Parser)]
#[command(name = "bowline bench", bin_name = "bowline bench", version, max_term_width = 100)]
struct CommandLine {
    #[command(flatten)]
    args: command::Args,
}

/// Measure one suite; what the command line above runs.
#[derive(Parser)]
#[command(name = "bowline-bench measure")]
struct Measure {
    /// Also write the figures, with all samples, to this file, as JSON
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand)]
enum Suite {
    #[command(flatten)]
    DataPlane(DataPlane),
    #[command(flatten)]
    Clusters(Clusters),
}

/// Suites that need no cluster.
#[derive(Subcommand)]
enum DataPlane {
    /// What the way through a service costs
    Path(path::Options),
    /// What services cost at the socket
    Sockets(sockets::Options),
    /// What the packet programs cost
    Programs(programs::Options),
    /// What the network of pods costs
    Network(network::Options),
}

/// Suites that start clusters, or a server.
#[derive(Subcommand)]
enum Clusters {
    /// What many services cost a node's agent
    Programming(programming::Options),
    /// What a cluster takes: starting it, pods, memory and processor time
    Cluster(cluster::Options),
    /// What the API costs its clients
    Api(api::Options),
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().peekable();
    let program = words.next();
    if words.peek().is_some_and(|word| word == OsStr::new(command::MEASURE)) {
        return measure(&Measure::parse_from(program.into_iter().chain(words.skip(1))));
    }
    let folder = PathBuf::from("bench-results");
    let program = || Ok(std::env::current_exe()?);
    command::run(&CommandLine::parse().args, &Setting { folder, program: &program })
}

fn measure(options: &Measure) -> ExitCode {
    let alone = match begin() {
        Ok(alone) => alone,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(2);
        }
    };
    let json = options.json.as_deref();
    match &options.suite {
        Suite::DataPlane(suite) => ExitCode::from(interrupts::end_of(|| match suite {
            DataPlane::Path(options) => path::measure(options, json),
            DataPlane::Sockets(options) => sockets::measure(options, json),
            DataPlane::Programs(options) => programs::measure(options, json),
            DataPlane::Network(options) => network::measure(options, json),
        })),
        Suite::Clusters(suite) => of_clusters(suite, json, &alone),
    }
}

/// Takes the machine, and removes what suites left that were killed.
fn begin() -> Result<Alone> {
    child::ends_with_parent()?;
    let alone = Alone::begin()?;
    for removed in alone.clean()? {
        eprintln!("removed what an earlier benchmark left: {removed}");
    }
    Ok(alone)
}

#[tokio::main]
async fn of_clusters(suite: &Clusters, json: Option<&Path>, alone: &Alone) -> ExitCode {
    // From here on an interrupt is an error like any other: what was made is removed.
    bowline_tests::interrupts::end_of(2, async |interrupted| {
        let (name, parameters) = match suite {
            Clusters::Programming(options) => ("programming", options.parameters()),
            Clusters::Cluster(options) => ("cluster", options.parameters()),
            Clusters::Api(options) => ("api", options.parameters()),
        };
        let mut run = Run::begin(name, &parameters, Statistics::Off);
        run.extend(figures(suite, alone, interrupted).await?);
        println!("median [least .. most of the rounds]\n{}", Table(run.figures()));
        run.end(json).context("cannot write the figures")
    })
    .await
}

/// Measures until it is done or interrupted.
async fn figures(
    suite: &Clusters,
    alone: &Alone,
    mut interrupted: watch::Receiver<bool>,
) -> Result<Vec<Figure>> {
    let screen = Screen::open();
    let suite = async {
        match suite {
            Clusters::Programming(options) => programming::measure(options, alone, &screen).await,
            Clusters::Cluster(options) => cluster::measure(options, alone, &screen).await,
            Clusters::Api(options) => api::measure(options, alone, &screen).await,
        }
    };
    tokio::select! {
        biased;
        Ok(_) = interrupted.wait_for(|yes| *yes) => Err(anyhow!("interrupted")),
        figures = suite => figures,
    }
}
