//! `bowline bench`: becomes the suites' program, which stands beside this one.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, bail};

const PROGRAM: &str = "bowline-bench";

/// Measure bowline on this machine, beside what others have for the same
///
/// The suites are a program of their own, bowline-bench, which is looked for beside this one. Needs
/// root; everything happens in network namespaces that it makes and removes.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
#[command(after_help = "Examples:
  bowline bench --help               the suites, and their flags
  bowline bench path --quick         the way through a service, in about two minutes
  bowline bench all                  everything; figures and a page go to ./bench-results
  bowline bench compare old/path.json new/path.json")]
pub(crate) struct Args {
    /// A suite and its flags, as `bowline bench --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    words: Vec<OsString>,
}

/// Becomes the suites' program; returns only when that failed.
pub(crate) fn exec(args: &Args) -> anyhow::Result<Infallible> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let program = own.with_file_name(PROGRAM);
    if !program.is_file() {
        bail!(
            "there is no {PROGRAM} beside {}: build it with `cargo xtask build --release`, or copy \
             it there",
            own.display()
        );
    }
    let mut bench = Command::new(&program);
    bench.args(&args.words).env("BOWLINE_BIN", &own);
    Err(bench.exec()).with_context(|| format!("cannot start {}", program.display()))
}
