//! `cargo xtask bench`: `bowline bench` of this tree, with what it needs built.

use std::process::{Command, ExitCode};

use bowline_figures::command::{self, Args, Setting};

use crate::{bpf, build, workspace};

/// Measure, compare, or check; an optimized build is made for what measures.
pub(crate) fn run(args: &Args) -> ExitCode {
    let program = || {
        bpf::build()?;
        // What runs in pods, and what users run: the speed of our own code counts, the clients'
        // included.
        let release = build::all(true)?;
        let mut bench = Command::new(release.join("bowline-bench"));
        bench.current_dir(workspace::root()).env("BOWLINE_BIN", release.join("bowline"));
        Ok(bench)
    };
    command::run(args, &Setting { folder: workspace::target().join("bench"), program: &program })
}
