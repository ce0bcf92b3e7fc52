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
    let compilers = workspace::find_all_programs("rustc").into_iter().filter_map(|rustc| {
        let sysroot = sysroot(&mut Command::new(&rustc))?;
        Some((rustc, sysroot))
    });
    let nightly = || {
        let mut nightly = Command::new("rustup");
        // A toolchain that a rustup above us chose would win over the words below.
        sysroot(nightly.env_remove("RUSTUP_TOOLCHAIN").args(["run", "nightly", "rustc"]))
    };
    choose(compilers, nightly)
}

/// The first compiler with a built `core` for BPF; else the nightly, if it has `core`'s source.
fn choose(
    mut compilers: impl Iterator<Item = (PathBuf, PathBuf)>,
    nightly: impl FnOnce() -> Option<PathBuf>,
) -> Option<Toolchain> {
    let ready = |sysroot: &Path| sysroot.join("lib/rustlib").join(TARGET).is_dir();
    if let Some((rustc, _)) = compilers.find(|(_, sysroot)| ready(sysroot)) {
        return Some(Toolchain::PrebuiltCore { rustc });
    }
    let source = nightly()?.join("lib/rustlib/src/rust/library/core");
    source.is_dir().then_some(Toolchain::NightlyWithSource)
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    let path = process::output(rustc.args(["--print", "sysroot"])).ok()?;
    Some(PathBuf::from(path.trim()))
}

/// Which map layouts the programs are built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abi {
    Current,
    /// Others, of the next version: for the test of upgrades and downgrades.
    Next,
}

/// Build the programs and put the object where tests and the binary look for it.
pub(crate) fn build() -> Result<PathBuf> {
    build_with(Abi::Current)
}

/// The same with these layouts.
pub(crate) fn build_with(abi: Abi) -> Result<PathBuf> {
    let toolchain = find_toolchain().context(
        "no Rust compiler here can build BPF: run `cargo xtask setup` as root, or \
         `rustup toolchain install nightly --component rust-src`",
    )?;
    if workspace::find_program("bpf-linker").is_none() {
        bail!("bpf-linker is missing: run `cargo xtask setup`");
    }
    eprintln!("BPF compiler: {toolchain}");
    let output = workspace::target().join("bpf-build");
    let mut command = command(&toolchain, &output);
    let object = match abi {
        Abi::Current => "bpf/bowline.bpf.o",
        Abi::Next => {
            command.args(["--features", "next-abi"]);
            "bpf/bowline-next.bpf.o"
        }
    };
    process::run(&mut command)?;
    let built = output.join(TARGET).join("release/bowline");
    let object = workspace::target().join(object);
    install(&built, &object)?;
    Ok(object)
}

fn command(toolchain: &Toolchain, output: &Path) -> Command {
    let mut command;
    match toolchain {
        Toolchain::PrebuiltCore { rustc } => {
            command = workspace::cargo();
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
        // The same object whoever builds it: the compiler would lay the functions out otherwise.
        .env("CARGO_INCREMENTAL", "0")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_compiler_is_taken_before_a_nightly_and_a_nightly_only_with_source() {
        let dir = tempfile::tempdir().unwrap();
        let sysroot = |name: &str, inside: &str| {
            let root = dir.path().join(name);
            std::fs::create_dir_all(root.join(inside)).unwrap();
            root
        };
        let plain = sysroot("plain", "lib/rustlib/x86_64-unknown-linux-gnu");
        let debian = sysroot("debian", "lib/rustlib/bpfel-unknown-none/lib");
        let bare = sysroot("bare", "lib/rustlib");
        let full = sysroot("full", "lib/rustlib/src/rust/library/core/src");
        let of = |compilers: &[&PathBuf], nightly: Option<&PathBuf>| {
            let compilers =
                compilers.iter().map(|root| (root.join("bin/rustc"), root.to_path_buf()));
            choose(compilers, || nightly.cloned())
        };
        let ready = Some(Toolchain::PrebuiltCore { rustc: debian.join("bin/rustc") });
        assert_eq!(of(&[&plain, &debian], Some(&full)), ready);
        assert_eq!(of(&[&plain], Some(&full)), Some(Toolchain::NightlyWithSource));
        assert_eq!(of(&[&plain], Some(&bare)), None);
        assert_eq!(of(&[&plain], None), None);
        assert_eq!(of(&[], Some(&full)), Some(Toolchain::NightlyWithSource));
    }

    #[test]
    fn each_toolchain_is_asked_in_its_own_way() {
        let line = |toolchain| process::shown(&command(&toolchain, Path::new("/out")));
        let nightly = line(Toolchain::NightlyWithSource);
        assert!(
            nightly.starts_with("rustup run nightly cargo build -Z build-std=core"),
            "{nightly}"
        );
        let debian = Toolchain::PrebuiltCore { rustc: "/usr/bin/rustc".into() };
        let command = command(&debian, Path::new("/out"));
        let set = |name: &str| {
            let mut all = command.get_envs();
            all.find(|(key, _)| *key == name).and_then(|(_, value)| value).map(ToOwned::to_owned)
        };
        assert_eq!(set("RUSTC"), Some("/usr/bin/rustc".into()));
        assert_eq!(set("RUSTC_BOOTSTRAP"), Some("1".into()));
        assert!(!line(debian).contains("build-std"));
    }
}
