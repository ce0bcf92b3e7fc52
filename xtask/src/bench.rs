//! `cargo xtask bench`: measurements with goals.
//!
//! Guarantees: prints each figure beside its goal, reached or not; a goal that is missed is no
//! failure, because a busy machine misses all of them. What fails is `compare`, when something got
//! worse beyond the noise, and `--gate`, when a check does not hold: both then end with the status
//! 1, and with 2 when they could not find out, as diff and grep do. Suites that need no cluster are
//! benchmarks of the agent (`agent/benches`), in the development profile: what they time is in the
//! kernel, and the programs there are the same in each. Those that need one are one program
//! (`tests/benches`); what they time is what users run, in a release build. Every suite writes the
//! same format (`bench/figures`) into one folder, with a page of all that is there. A suite that
//! is interrupted, or whose xtask is killed, removes what it made and ends.

mod gate;
mod suites;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use bowline_figures::{Outcome, compare, page};

use suites::{Extent, Suite};

/// What to measure.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  cargo xtask bench path --quick                  measure; figures and page are in target/bench
  cargo xtask bench all --quick --folder new      every suite, and one page
  cargo xtask bench compare old/path.json new/path.json
                                                  what changed from one run to another
  cargo xtask bench --gate xtask/bench-gate.json  measure, and fail where a check does not hold
  cargo xtask bench --gate xtask/bench-gate.json --json new/path.json --json new/sockets.json
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
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    #[command(flatten)]
    Suite(Suite),
    /// Every suite, one after the other.
    All(Extent),
    /// What changed from one run of a suite to another, beyond the noise. The status is 1 if
    /// something got worse, 2 if that could not be found out.
    Compare(compare::Args),
}

/// Measure, compare, or check; the status is in the module's own words.
pub(crate) fn run(args: &Args) -> ExitCode {
    let outcome = match (&args.gate, &args.what) {
        (Some(gate), _) => gate::run(gate, &args.json),
        (None, Some(What::Compare(files))) => compare::run(files),
        (None, Some(What::Suite(suite))) => {
            measure(std::slice::from_ref(suite)).map(|_| Outcome::Good)
        }
        (None, Some(What::All(extent))) => {
            Suite::all(extent).and_then(|all| measure(&all)).map(|_| Outcome::Good)
        }
        (None, None) => Err(anyhow!("say what to measure, or give a gate: see --help")),
    };
    Outcome::exit(outcome)
}

/// Builds, measures, prints, and makes the page anew after each suite; where the figures are.
fn measure(suites: &[Suite]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for (place, suite) in suites.iter().enumerate() {
        if suites.len() > 1 {
            eprintln!("= {}, {} of {}", suite.name(), place + 1, suites.len());
        }
        let folder = suite.extent().folder()?;
        let json = suite.run(&folder)?;
        let (page, left_out) = page::write(&folder)?;
        for why in left_out {
            eprintln!("not on the page: {why}");
        }
        eprintln!("figures: {}", json.display());
        eprintln!("page:    {}", page.display());
        files.push(json);
    }
    Ok(files)
}
