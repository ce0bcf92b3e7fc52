//! `cargo xtask demo`: from source to a served request, then the report.
//!
//! The scenario itself lives in `tests/`, where the end-to-end tests play the same steps; this
//! command only makes sure that everything it needs has been installed and built.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{bpf, build, process, setup, workspace};

/// How to play the scenario.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also write the facts of the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the cluster up and print how to use it.
    #[arg(long)]
    keep: bool,
    /// Name of the cluster.
    #[arg(long, default_value = "demo")]
    name: String,
    /// Use the development build, which is compiled sooner and takes more memory.
    #[arg(long)]
    dev: bool,
    /// Do not look for missing packages first.
    #[arg(long)]
    skip_setup: bool,
}

/// Install, build, play, report, clean up.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !workspace::is_root() {
        bail!("the demo makes network namespaces and containers: run it as root");
    }
    if !args.skip_setup {
        setup::install(setup::Scope::Demo)?;
    }
    bpf::build()?;
    build::workload()?;
    build::binaries(!args.dev)?;
    let profile = workspace::target().join(if args.dev { "debug" } else { "release" });
    let mut demo = Command::new(profile.join("bowline-first-light"));
    demo.current_dir(workspace::root()).env("BOWLINE_BIN", profile.join("bowline"));

    demo.args(["--name", &args.name]);
    if let Some(file) = &args.json {
        demo.arg("--json").arg(file);
    }
    if args.keep {
        demo.arg("--keep");
    }
    // In our place: an interrupt is the demo's alone, and who waits for us waits for its clean-up.
    Err(process::become_program(&mut demo))
}
