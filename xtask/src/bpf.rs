//! Building the BPF object: which compiler can do it, and with what flags.
//!
//! A compiler can when its sysroot holds a `core` for the BPF target (Debian ships one), or when
//! it is a rustup nightly with `rust-src`, which builds `core` itself.
//!
//! Guarantees: the object lies at `target/bpf/bowline.bpf.o` and is only rewritten when its
//! content changed, so that what carries it is not built again for nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

const TARGET: &str = "bpfel-unknown-none";

/// A compiler that can produce BPF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// A rustc whose sysroot carries a built `core` for BPF.
    PrebuiltCore { rustc: PathBuf },
    /// A rustup nightly that compiles `core` from its own source.
    NightlyWithSource,
}

impl std::fmt::Display for Toolchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PrebuiltCore { rustc } => {
                write!(f, "{} (its sysroot carries core for BPF)", rustc.display())
            }
            Self::NightlyWithSource => f.write_str("rustup nightly (builds core from rust-src)"),
        }
    }
}

/// The compiler that will be taken, if there is one.
pub(crate) fn find_toolchain() -> Option<Toolchain> {
    for rustc in workspace::find_all_programs("rustc") {
        if sysroot(Command::new(&rustc))
            .is_some_and(|s| s.join("lib/rustlib").join(TARGET).is_dir())
        {
            return Some(Toolchain::PrebuiltCore { rustc });
        }
    }
    let mut nightly = Command::new("rustup");
    nightly.args(["run", "nightly", "rustc"]);
    let source = "lib/rustlib/src/rust/library/core";
    sysroot(nightly)
        .is_some_and(|s| s.join(source).is_dir())
        .then_some(Toolchain::NightlyWithSource)
}

fn sysroot(mut rustc: Command) -> Option<PathBuf> {
    let path = process::output(rustc.args(["--print", "sysroot"])).ok()?;
    Some(PathBuf::from(path.trim()))
}

/// Build the programs and put the object where tests and the binary look for it.
pub(crate) fn build() -> Result<PathBuf> {
    let toolchain = find_toolchain().context(
        "no Rust compiler here can build BPF: run `cargo xtask setup` as root, or \
         `rustup toolchain install nightly --component rust-src`",
    )?;
    if workspace::find_program("bpf-linker").is_none() {
        bail!("bpf-linker is missing: run `cargo xtask setup`");
    }
    eprintln!("BPF compiler: {toolchain}");
    let output = workspace::target().join("bpf-build");
    process::run(&mut command(&toolchain, &output))?;
    let built = output.join(TARGET).join("release/bowline");
    let object = workspace::target().join("bpf/bowline.bpf.o");
    install(&built, &object)?;
    Ok(object)
}

fn command(toolchain: &Toolchain, output: &Path) -> Command {
    let mut command;
    match toolchain {
        Toolchain::PrebuiltCore { rustc } => {
            command = Command::new(workspace::cargo());
            // The released compiler accepts the unstable features that BPF needs only when told.
            command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").arg("build");
        }
        Toolchain::NightlyWithSource => {
            command = Command::new("rustup");
            command.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
            command.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC");
        }
    }
    let arch = std::env::consts::ARCH;
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clinker=bpf-linker".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    command
        .current_dir(workspace::root().join("ebpf/programs"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTFLAGS")
        .env("CARGO_TARGET_DIR", output)
        .args(["--release", "--locked", "--target", TARGET]);
    command
}

fn install(built: &Path, object: &Path) -> Result<()> {
    let bytes = std::fs::read(built)
        .with_context(|| format!("the build left no object at {}", built.display()))?;
    if std::fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(parent) = object.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make {}", parent.display()))?;
    }
    std::fs::write(object, bytes).with_context(|| format!("cannot write {}", object.display()))
}
