//! `bowline bench`: becomes the suites' program, which stands beside this one.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
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

/// `help bench compare` is for the suites' program, as `bench compare --help` is. Nothing for other
/// words, and where that program is missing and no command of it is named.
pub(crate) fn help(words: &[OsString]) -> Option<Args> {
    let [first, second, suite @ ..] = words else { return None };
    let is_asked = first == "help" && second == "bench";
    let is_for_it = is_asked && (!suite.is_empty() || program().is_ok_and(|it| it.is_file()));
    let words = suite.iter().cloned().chain([OsString::from("--help")]);
    is_for_it.then(|| Args { words: words.collect() })
}

/// Where the suites' program should be.
fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    Ok(own.with_file_name(PROGRAM))
}

/// Becomes the suites' program; returns only when that failed.
pub(crate) fn exec(args: &Args) -> anyhow::Result<Infallible> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let program = program()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_of_a_suite_is_asked_of_the_suites_program() {
        let asked = |line: &str| {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            help(&words).map(|args| args.words)
        };
        let own = |words: &[&str]| Some(words.iter().map(OsString::from).collect::<Vec<_>>());
        for (line, expected) in [
            ("help bench compare", own(&["compare", "--help"])),
            ("help bench path", own(&["path", "--help"])),
            // No such program stands beside that of the tests.
            ("help bench", None),
            ("help net", None),
            ("bench help", None),
            ("help", None),
        ] {
            assert_eq!(asked(line), expected, "{line}");
        }
    }
}
