//! `cargo xtask`: everything a developer does with this workspace, as seven commands.
//!
//! Guarantees: each command can be run on a clean clone and repeated; it says what it runs; it
//! ends with a non-zero status as soon as one step failed.
//!
//! Does not: ask questions, or need root where the work does not (`tidy`, `build`).

mod bench;
mod bpf;
mod build;
mod debian;
mod demo;
mod fuzz;
mod kernels;
mod process;
mod setup;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Set-up, build, test, demo and tidy of the bowline workspace.
#[derive(Subcommand)]
enum Command {
    /// Install what building, testing and the demo need; says what each part is for.
    ///
    /// Idempotent: what is there already is left alone, and apt is only called when a package is
    /// missing. Only installing packages needs root.
    Setup(setup::Args),
    /// Build the BPF object, the static test workload and the bowline binary.
    Build(build::Args),
    /// Formatting, lints, tidy, and every test, run by cargo-nextest.
    ///
    /// End-to-end tests and packet tests need root. Without it they are counted as skipped, and
    /// the run says so.
    Test(test::Args),
    /// Run the data plane's tests on Debian's kernels, 5.10 to the newest, in qemu.
    ///
    /// Loads and attaches every program, runs the packet tables and two nodes' traffic on each, and
    /// prints a table. Part of `test --thorough`.
    Kernels(kernels::Args),
    /// Play the founding scenario on a real three-node cluster and print what was seen.
    Demo(demo::Args),
    /// Measure what has a goal, and print each figure beside it. Needs root.
    #[command(after_help = "\
Examples:
  cargo xtask bench path --quick                  measure; figures and page are in target/bench
  cargo xtask bench all --quick --folder new      every suite, and one page
  cargo xtask bench compare old/path.json new/path.json
                                                  what changed from one run to another
  cargo xtask bench --gate bench/gate.json        measure, and fail where a check does not hold
  cargo xtask bench --gate bench/gate.json --json new/path.json --json new/sockets.json
                                                  the same with what was measured before")]
    Bench(bowline_figures::command::Args),
    /// Check the habits a program can check: sizes, names, module docs, where unsafe may live.
    Tidy(tidy::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Kernels(args) => kernels::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => return bench::run(&args),
        Command::Tidy(args) => tidy::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Everything below a command that has nothing to say about itself.
    fn silent(command: &clap::Command, path: &str) -> Vec<String> {
        let mut found = Vec::new();
        if command.get_about().is_none() {
            found.push(path.to_owned());
        }
        let silent_arguments = command
            .get_arguments()
            .filter(|argument| argument.get_help().is_none() && argument.get_long_help().is_none());
        found.extend(silent_arguments.map(|argument| format!("{path} {}", argument.get_id())));
        for below in command.get_subcommands() {
            found.extend(silent(below, &format!("{path} {}", below.get_name())));
        }
        found
    }

    #[test]
    fn every_command_and_flag_has_help() {
        let command = Cli::command();
        command.clone().debug_assert();
        assert_eq!(command.get_subcommands().count(), 7);
        assert_eq!(silent(&command, "xtask"), Vec::<String>::new());
    }
}
