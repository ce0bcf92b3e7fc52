//! `cargo xtask bench`: `bowline bench` of this tree, with what it needs built.

use std::process::ExitCode;

use bowline_figures::command::{self, Args, Setting};

use crate::{bpf, build, workspace};

/// Measure, compare, or check; an optimized build is made for what measures.
pub(crate) fn run(args: &Args) -> ExitCode {
    let program = || {
        bpf::build()?;
        // What runs in pods, and what users run: the speed of our own code counts, the clients'
        // included. The program finds both beside itself.
        Ok(build::all(true)?.join("bowline-bench"))
    };
    command::run(args, &Setting { folder: workspace::target().join("bench"), program: &program })
}
