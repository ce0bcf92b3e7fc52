//! `cargo xtask build`: the BPF object, the static test workload, then the workspace's binaries.
//!
//! The order matters: the object is there before anything that wants to carry it is compiled.
//! Cargo is always asked for the whole workspace, so that dependencies keep one set of features
//! and are compiled once for building, testing and the demo.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{bpf, process, workspace};

/// What to build.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build the optimized binary instead of the development one.
    #[arg(long)]
    release: bool,
    /// Build only the BPF object.
    #[arg(long)]
    bpf_only: bool,
}

/// Build what `args` asks for and say where it is.
pub(crate) fn run(args: &Args) -> Result<()> {
    let object = bpf::build()?;
    eprintln!("BPF object: {}", object.display());
    if args.bpf_only {
        return Ok(());
    }
    let built = all(args.release)?;
    eprintln!("binary: {}", built.join("bowline").display());
    Ok(())
}

/// Everything that is run; the directory where `bowline` and `bowline-bench` are, and what the pods
/// of the latter run.
pub(crate) fn all(release: bool) -> Result<PathBuf> {
    let workload = workload()?;
    binaries(release)?;
    let built = workspace::target().join(if release { "release" } else { "debug" });
    copy(&workload, &built.join("bowline-bench-pod"))?;
    Ok(built)
}

/// The workspace's binaries in the development profile, or optimized.
pub(crate) fn binaries(release: bool) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.current_dir(workspace::root()).args(["build", "--workspace", "--bins"]);
    if release {
        cargo.arg("--release");
    }
    process::run(&mut cargo)
}

/// Has cargo build; where the one program is whose source ends with this path.
pub(crate) fn executable(cargo: &mut Command, source: &str) -> Result<PathBuf> {
    let text = process::printed(cargo.args(["--message-format", "json-render-diagnostics"]))?;
    let found = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| {
            message["target"]["src_path"].as_str().is_some_and(|path| path.ends_with(source))
        })
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    found.with_context(|| format!("cargo built no program of {source}"))
}

/// The binary with other map layouts, at `target/next/debug/bowline`: what upgrades and downgrades
/// are tested with. It shares the dependencies that are compiled for the workspace.
pub(crate) fn next() -> Result<()> {
    bpf::build_with(bpf::Abi::Next)?;
    process::run(
        workspace::cargo()
            .current_dir(workspace::root())
            .env("CARGO_BUILD_BUILD_DIR", workspace::target())
            .env("CARGO_TARGET_DIR", workspace::target().join("next"))
            .args(["build", "--workspace", "--bin", "bowline", "--features", "bowline/next-abi"]),
    )
}

/// The program that runs inside test pods: linked statically, because their images hold no libc.
pub(crate) fn workload() -> Result<PathBuf> {
    let target = workspace::target().join("workload");
    process::run(
        workspace::cargo()
            .current_dir(workspace::root())
            // A directory of its own: other flags must not disturb the workspace's artifacts.
            .env("CARGO_TARGET_DIR", &target)
            .args(["rustc", "--quiet", "-p", "bowline-workload", "--bin", "bowline-workload"])
            .args(["--", "-C", "target-feature=+crt-static", "-C", "strip=symbols"]),
    )?;
    let built = target.join("debug/bowline-workload");
    let wanted = target.join("bowline-workload");
    copy(&built, &wanted)?;
    Ok(wanted)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
