//! The suites of `cargo xtask bench` that measure whole clusters, or a server.
//!
//! Guarantees: one runs at a time; it removes what it made, also when it is interrupted, and what
//! an earlier one left that was killed. The status is 130 after an interrupt, 2 after a failure.

mod api;
mod cluster;
mod fleet;
mod programming;
#[expect(dead_code, reason = "another suite has a proxy in user space, too")]
#[path = "../../agent/benches/path/rules.rs"]
mod rules;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use bowline_figures::results::{Run, Statistics};
use bowline_figures::screen::Screen;
use bowline_figures::table::Table;
use bowline_tests::alone::Alone;
use bowline_tests::interrupts;
use clap::{Parser, Subcommand};
use tokio::sync::watch;

/// Measure whole clusters, or a server.
#[derive(Parser)]
#[command(name = "bowline-bench")]
struct Options {
    /// Also write the figures, with all samples, to this file, as JSON
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand)]
enum Suite {
    /// What many services cost a node's agent
    Programming(programming::Options),
    /// What a cluster takes: starting it, pods, memory and processor time
    Cluster(cluster::Options),
    /// What the API costs its clients
    Api(api::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    // From here on an interrupt is an error like any other: what was made is removed.
    interrupts::end_of(2, async |interrupted| run(&options, interrupted).await).await
}

async fn run(options: &Options, mut interrupted: watch::Receiver<bool>) -> Result<()> {
    let alone = Alone::begin()?;
    for removed in alone.clean()? {
        eprintln!("removed what an earlier benchmark left: {removed}");
    }
    let screen = Screen::open();
    let (name, parameters) = match &options.suite {
        Suite::Programming(options) => ("programming", options.parameters()),
        Suite::Cluster(options) => ("cluster", options.parameters()),
        Suite::Api(options) => ("api", options.parameters()),
    };
    let mut run = Run::begin(name, &parameters, Statistics::Off);
    let suite = async {
        match &options.suite {
            Suite::Programming(options) => programming::measure(options, &alone, &screen).await,
            Suite::Cluster(options) => cluster::measure(options, &alone, &screen).await,
            Suite::Api(options) => api::measure(options, &alone, &screen).await,
        }
    };
    let figures = tokio::select! {
        biased;
        Ok(_) = interrupted.wait_for(|yes| *yes) => Err(anyhow!("interrupted")),
        figures = suite => figures,
    };
    drop(screen);
    run.extend(figures?);
    println!("median [least .. most of the rounds]\n{}", Table(run.figures()));
    run.end(options.json.as_deref()).context("cannot write the figures")
}
