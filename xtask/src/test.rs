//! `cargo xtask test`: everything that has to hold before a change goes in.
//!
//! Guarantees: the cheap checks come first; each phase before the tests says how long it took; the
//! last line is cargo-nextest's own count of tests, with their time; tests that need root are
//! counted as skipped when root is missing, never as passed.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{bpf, build, fuzz, kernels, process, setup, tidy, workspace};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Do not look for missing packages first.
    #[arg(long)]
    skip_setup: bool,
    /// Only run the tests: no formatting, lints or tidy.
    #[arg(long)]
    only_tests: bool,
    /// Also what takes minutes: the data plane on Debian's kernels, as `cargo xtask kernels` does,
    /// services that change for a minute, and fuzzing led by coverage.
    #[arg(long)]
    thorough: bool,
    /// Arguments for `cargo nextest run`, for example a filter.
    #[arg(last = true, value_name = "NEXTEST ARGS")]
    nextest: Vec<String>,
}

/// How long a thorough run fuzzes.
const FUZZING: Duration = Duration::from_secs(60);

/// Run all of it; the first failure ends the run.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.skip_setup {
        phase("set-up", || set_up(args.thorough))?;
    }
    phase("the BPF object", bpf::build)?;
    if !args.only_tests {
        phase("formatting, lints and tidy", lint)?;
    }
    // Only the test of upgrades to other layouts needs it, and it costs a minute.
    let upgrades = args.thorough || args.nextest.iter().any(|word| word.contains("other_layouts"));
    phase("the build", || build_all(upgrades))?;
    // Before the tests, so that their count stays the last line.
    if args.thorough {
        phase("fuzzing", || fuzz::run(FUZZING))?;
        phase("the kernels", kernels::check_all)?;
    }
    test(args, upgrades)
}

/// Does one part of the work and says how long it took.
fn phase<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let done = work()?;
    eprintln!("= {name} took {:.1} s", start.elapsed().as_secs_f64());
    Ok(done)
}

fn set_up(thorough: bool) -> Result<()> {
    setup::install(setup::Scope::Test)?;
    if thorough {
        setup::install(setup::Scope::Kernels)?;
    }
    Ok(())
}

fn lint() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    for manifest in workspace::OUTSIDE {
        cargo(&["fmt", "--check", "--manifest-path", manifest])?;
    }
    tidy::check()?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    fuzz::lint()
}

fn build_all(upgrades: bool) -> Result<()> {
    build::workload()?;
    // Bins and tests in one command, and thus with one set of features.
    cargo(&["build", "--workspace", "--bins", "--tests"])?;
    if upgrades {
        build::next()?;
    }
    Ok(())
}

fn test(args: &Args, upgrades: bool) -> Result<()> {
    let mut nextest = workspace::cargo();
    nextest
        .current_dir(workspace::root())
        .env("BOWLINE_BIN", workspace::target().join("debug/bowline"))
        .args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    if args.thorough {
        nextest.env("BOWLINE_THOROUGH", "1");
    }
    if upgrades {
        nextest.arg("--ignore-default-filter");
    }
    if workspace::is_root() {
        nextest.args(["--run-ignored", "all"]);
    } else {
        eprintln!("WARNING: not root. Packet tests and end-to-end tests are SKIPPED,");
        eprintln!("WARNING: and counted as skipped in the closing line. Run as root to run them.");
    }
    nextest.args(&args.nextest);
    process::run(&mut nextest)
}

fn cargo(args: &[&str]) -> Result<()> {
    process::run(workspace::cargo().current_dir(workspace::root()).args(args))
}
