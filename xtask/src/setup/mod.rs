//! `cargo xtask setup`: what a machine needs beyond the Rust toolchain.
//!
//! Guarantees: idempotent; says what each thing is for before it installs it; asks nothing; calls
//! apt only when a package is missing. Other releases' kubectl, kernels and the Python client go
//! below `target` and touch nothing else on the machine.
//!
//! Does not: configure or start anything. Packages that bring a service keep whatever state their
//! installation gives it; bowline uses instances of its own.

mod kubectl;
mod packages;
mod python;

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{bpf, process, workspace};

/// What to set up for.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what is missing; exit with an error when something is.
    #[arg(long)]
    check: bool,
    /// Also install what `cargo xtask kernels` needs.
    #[arg(long)]
    kernels: bool,
}

/// How much of it is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Build and run the demo.
    Demo,
    /// The demo's needs, a test runner, the two kubectl releases and the Python client.
    Test,
    /// Build, and boot other kernels.
    Kernels,
}

/// Install everything, or with `--check` only look.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.check {
        return check(if args.kernels { Scope::Kernels } else { Scope::Test });
    }
    install(Scope::Test)?;
    if args.kernels {
        install(Scope::Kernels)?;
    }
    eprintln!("set-up is complete");
    Ok(())
}

/// Install what `scope` needs and is missing.
pub(crate) fn install(scope: Scope) -> Result<()> {
    packages::install(bpf::find_toolchain().is_some(), scope)?;
    let toolchain = bpf::find_toolchain()
        .context("still no BPF-capable Rust compiler after installing the packages")?;
    eprintln!("BPF compiler: {toolchain}");
    bpf_linker()?;
    if scope == Scope::Test {
        nextest()?;
        for release in kubectl::RELEASES {
            kubectl::install(release)?;
        }
        python::install()?;
    }
    Ok(())
}

fn check(scope: Scope) -> Result<()> {
    let mut missing = packages::missing(bpf::find_toolchain().is_some(), scope)?
        .into_iter()
        .map(|package| format!("package {}: {}", package.name, package.purpose))
        .collect::<Vec<_>>();
    for program in ["bpf-linker", "cargo-nextest"] {
        if workspace::find_program(program).is_none() {
            missing.push(format!("program {program}"));
        }
    }
    for release in kubectl::RELEASES {
        if !kubectl::path(release).is_file() {
            missing.push(format!("kubectl {}", release.version));
        }
    }
    if !python::is_installed() {
        missing.push(format!("Python's {}", python::CLIENT));
    }
    if missing.is_empty() {
        eprintln!("nothing is missing");
        return Ok(());
    }
    for line in &missing {
        eprintln!("missing: {line}");
    }
    bail!("{} things are missing: run `cargo xtask setup`", missing.len())
}

fn bpf_linker() -> Result<()> {
    if workspace::find_program("bpf-linker").is_some() {
        return Ok(());
    }
    let prefix = llvm_prefix()?;
    eprintln!("installing bpf-linker: links the compiled eBPF programs into one object with BTF");
    process::run(
        workspace::cargo()
            .env("LLVM_PREFIX", prefix)
            .args(["install", "bpf-linker", "--version", "0.13.0", "--locked"])
            .args(["--no-default-features", "--features", "llvm-22"]),
    )
}

/// Where LLVM 22 keeps its libraries, as its own llvm-config says.
fn llvm_prefix() -> Result<String> {
    for program in ["llvm-config-22", "llvm-config"] {
        if let Some(config) = workspace::find_program(program) {
            return Ok(process::output(Command::new(config).arg("--prefix"))?.trim().to_owned());
        }
    }
    let debian = "/usr/lib/llvm-22";
    if std::path::Path::new(debian).is_dir() {
        return Ok(debian.to_owned());
    }
    bail!("bpf-linker needs LLVM 22, and no llvm-config-22 was found")
}

fn nextest() -> Result<()> {
    if workspace::find_program("cargo-nextest").is_some() {
        return Ok(());
    }
    eprintln!("installing cargo-nextest: runs the tests, each in a process of its own");
    process::run(
        workspace::cargo()
            // Made to be used here, not to be given away: most of its build time is optimization.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            // Its self-updater would pull in a second TLS stack that nothing here uses.
            .args(["install", "cargo-nextest", "--locked", "--no-default-features"])
            .args(["--features", "default-no-update"]),
    )
}
