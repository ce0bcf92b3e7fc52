//! `cargo xtask kernels`: the data plane on the kernels of Debian's releases, old and new.
//!
//! Each kernel boots in qemu with the data plane's test binary and nothing else: it loads and
//! attaches every program, runs the packet tables and sends traffic between two nodes. Software
//! emulation, so that it works in a machine without virtualization: correctness, never timings.
//!
//! Guarantees: a kernel counts as passed only when its guest said so with its last line, loaded
//! every program and ran as many tests and rows of packet tables as there are; the newest one only
//! when its programs' sizes, which are printed, could be compared with golden ones. The exit status
//! is not zero when any did not. Guests have no network device. Kernels are downloaded below
//! `target/kernels` and installed nowhere; the newest is looked up anew after a week.

mod archive;
mod guest;
mod image;
mod release;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::{bpf, build, setup, workspace};
use guest::{Guest, Report};
use release::{Kernel, RELEASES};

/// Which kernels, and how.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only this kernel: 5.10, 6.1, 6.12 or newest; may be repeated.
    #[arg(long, value_name = "KERNEL", value_parser = release::NAMES)]
    kernel: Vec<String>,
    /// Only the tests whose names contain this; may be repeated [default: all that guests run].
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
    /// Print everything that the guests print, also when they pass.
    #[arg(long)]
    verbose: bool,
    /// Look for a newer build of each kernel instead of taking the one that is there.
    #[arg(long)]
    update: bool,
    /// Do not look for missing packages first.
    #[arg(long)]
    skip_setup: bool,
}

/// Tests that guests run, by prefix.
const TESTS: [&str; 8] = [
    "packets::",
    "kernels::",
    "paths::a_router_through",
    "paths::errors",
    "refusals::frames_of_a_vlan",
    "statistics::",
    "sockets::a_connected_udp_socket",
    "sockets::a_port_that_a_service_has_not",
];

/// Guests that run side by side; each keeps one CPU busy.
const AT_ONCE: usize = 2;

/// A guest that has not ended by then is stuck, also on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(400);

/// All kernels together should take no longer: people wait for them.
const BUDGET: Duration = Duration::from_secs(300);

/// Boots them all and prints the table.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.skip_setup {
        setup::install(setup::Scope::Kernels)?;
    }
    bpf::build()?;
    check(args)
}

/// All of them, for who has installed and built already.
pub(crate) fn check_all() -> Result<()> {
    check(&Args::default())
}

fn check(args: &Args) -> Result<()> {
    let wanted = |name: &str| args.kernel.is_empty() || args.kernel.iter().any(|k| k == name);
    let kernels: Result<Vec<Kernel>> = RELEASES
        .iter()
        .filter(|release| wanted(release.name))
        .map(|release| release.prepare(args.update))
        .collect();
    let kernels = kernels?;
    let base = image::base(&test_binary()?)?;
    let filters: Vec<&str> = match args.filter.as_slice() {
        [] => TESTS.to_vec(),
        filters => filters.iter().map(String::as_str).collect(),
    };
    let whole = args.filter.is_empty();
    let start = Instant::now();
    let mut reports = Vec::new();
    for some in kernels.chunks(AT_ONCE) {
        let guests: Result<Vec<Guest<'_>>> =
            some.iter().map(|kernel| Guest::start(kernel, &base, &filters)).collect();
        for guest in guests? {
            let report = guest.finish(PATIENCE, whole)?;
            if args.verbose || !report.passed() {
                eprintln!("{}", report.output);
            }
            reports.push(report);
        }
    }
    print(&reports);
    print_sizes(&reports);
    let took = start.elapsed();
    let seconds = took.as_secs_f64();
    let mark = if took > BUDGET { "SLOW: " } else { "" };
    eprintln!("{mark}{} kernels in {seconds:.0} s of {} s", reports.len(), BUDGET.as_secs());
    verdict(&reports, whole)
}

/// `whole`: no test was left out on request, so that all kernels run the same ones.
fn verdict(reports: &[Report], whole: bool) -> Result<()> {
    let failed: Vec<&str> = reports.iter().filter(|r| !r.passed()).map(|r| r.kernel).collect();
    ensure!(failed.is_empty(), "failed on {}", failed.join(", "));
    let counts: BTreeSet<u32> = reports.iter().map(Report::tests).collect();
    ensure!(!whole || counts.len() <= 1, "kernels ran different numbers of tests: {counts:?}");
    Ok(())
}

/// The data plane's integration tests, built.
fn test_binary() -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    // The whole workspace, for one set of features; of it only this test.
    cargo.current_dir(workspace::root()).args(["build", "--workspace", "--test", "datapath"]);
    build::executable(&mut cargo, "agent/tests/datapath/main.rs")
}

fn print(reports: &[Report]) {
    let header = ["kernel", "programs", "rows passed", "tests passed", "features used", ""];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(reports.iter().map(Report::cells));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("   ").trim_end());
    }
}

/// Instructions of each program, and how many the verifier went through.
fn print_sizes(reports: &[Report]) {
    for line in reports.iter().flat_map(Report::newest_sizes) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            [program, instructions, verified] => {
                println!("{program:<13} {instructions:>6} instructions, {verified:>7} verified");
            }
            _ => println!("\nprograms as {line} has them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::guest::tests::passed;
    use super::verdict;

    #[test]
    fn all_kernels_must_run_the_same_number_of_tests_unless_some_were_chosen() {
        let same = [passed("5.10", 30), passed("6.1", 30)];
        verdict(&same, true).unwrap();
        let other = [passed("5.10", 30), passed("6.1", 29)];
        let error = verdict(&other, true).unwrap_err().to_string();
        assert!(error.contains("29, 30"), "{error}");
        verdict(&other, false).unwrap();
        verdict(&[passed("5.10", 30), passed("6.1", 0)], false).unwrap_err();
    }
}
