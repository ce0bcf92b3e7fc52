//! The command line of `bowline bench` and of `cargo xtask bench`.
//!
//! Guarantees: a goal that is missed is no failure, because a busy machine misses all of them. What
//! fails is `compare`, when something got worse beyond the noise, and a gate, when a check does not
//! hold: both then end with the status 1, and with 2 when they could not find out, as diff and grep
//! do. Every suite writes into one folder, with a page of all that is there; one that is
//! interrupted, or whose parent is killed, removes what it made and ends.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};

use crate::results::Results;
use crate::suites::{Extent, Interrupted, Suite};
use crate::{Outcome, compare, gate, page, read};

/// The first word of the command line by which the suites' program measures one.
pub const MEASURE: &str = "measure";

/// What to measure.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  bowline bench path --quick                measure; figures and page are in bench-results
  bowline bench all --quick --folder new    every suite, and one page
  bowline bench compare old/path.json new/path.json
                                            what changed from one run to another
  bowline bench --gate bench/gate.json      measure, and fail where a check does not hold
  bowline bench --gate bench/gate.json --json new/path.json --json new/sockets.json
                                            the same with what was measured before")]
pub struct Args {
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

/// What differs between those who offer this command.
pub struct Setting<'a> {
    /// Where figures go if nobody says it.
    pub folder: PathBuf,
    /// Where the suites' program is; it is built if need be.
    pub program: &'a dyn Fn() -> Result<PathBuf>,
}

/// Measure, compare, or check; the status is in the module's own words.
pub fn run(args: &Args, setting: &Setting<'_>) -> ExitCode {
    let outcome = match (&args.gate, &args.what) {
        (Some(gate), _) => gate::run(gate, &args.json, setting),
        (None, Some(What::Compare(files))) => compare::run(files),
        (None, Some(What::Suite(suite))) => {
            measure(std::slice::from_ref(suite), setting).map(|_| Outcome::Good)
        }
        (None, Some(What::All(extent))) => {
            Suite::all(extent).and_then(|all| measure(&all, setting)).map(|_| Outcome::Good)
        }
        (None, None) => Err(anyhow!("say what to measure, or give a gate: see --help")),
    };
    Outcome::exit(outcome)
}

/// Measures, prints, and makes the page anew after each suite; what was found. Goes on past a suite
/// that fails, to an error at the end, unless it is interrupted.
pub(crate) fn measure(suites: &[Suite], setting: &Setting<'_>) -> Result<Vec<Results>> {
    if !nix::unistd::geteuid().is_root() {
        bail!("benchmarks make network namespaces and load programs: run them as root");
    }
    let program = (setting.program)()?;
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    for (place, suite) in suites.iter().enumerate() {
        if suites.len() > 1 {
            eprintln!("= {}, {} of {}", suite.name(), place + 1, suites.len());
        }
        match one(suite, setting, &program) {
            Ok(results) => all.push(results),
            // What the others find is not lost by it.
            Err(error) if suites.len() > 1 && !error.is::<Interrupted>() => {
                eprintln!("error: {error:#}");
                failed.push(suite.name());
            }
            Err(error) => return Err(error),
        }
    }
    if !failed.is_empty() {
        bail!("of {} suites these failed: {}", suites.len(), failed.join(", "));
    }
    Ok(all)
}

/// Measures one suite.
fn one(suite: &Suite, setting: &Setting<'_>, program: &Path) -> Result<Results> {
    let folder = suite.extent().folder(&setting.folder)?;
    let json = suite.run(&folder, program)?;
    let (page, left_out) = page::write(&folder)?;
    for why in left_out {
        eprintln!("not on the page: {why}");
    }
    let results = read::results(&json)?;
    eprintln!("{}", results.noise());
    let (seconds, budget) = (results.seconds, suite.extent().budget().as_secs_f64());
    if seconds > budget {
        eprintln!("slow: the suite took {seconds:.0} s of {budget:.0} s");
    }
    eprintln!("figures: {}", json.display());
    eprintln!("page:    {}", page.display());
    Ok(results)
}
