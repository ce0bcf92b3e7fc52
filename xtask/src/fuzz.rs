//! Spoiled packets led by coverage: builds the libFuzzer target of `ebpf/datapath/fuzz` and runs it
//! for a while.
//!
//! The flags are those that cargo-fuzz passes, without its address sanitizer, which would want a
//! nightly compiler; so the released compiler and a C++ compiler are all that is needed.
//! Guarantees: what was learned is kept in `target/fuzz/corpus`, an input that breaks something in
//! `target/fuzz` under the name that is printed.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{process, workspace};

/// Coverage of edges, comparisons seen by the fuzzer.
const INSTRUMENTATION: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// An input that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lints the target, so that each run of the tests notices when it no longer compiles. libFuzzer
/// itself, half a minute of C++, is left out: nothing is linked here.
pub(crate) fn lint() -> Result<()> {
    let package = workspace::root().join("ebpf/datapath/fuzz");
    process::run(
        workspace::cargo()
            .current_dir(&package)
            // Any file that is there: a library that is somewhere else is not built.
            .env("CUSTOM_LIBFUZZER_PATH", package.join("Cargo.toml"))
            .env("CARGO_TARGET_DIR", workspace::target().join("fuzz"))
            .args(["clippy", "--locked", "--all-targets", "--", "-D", "warnings"]),
    )
}

/// Fuzzes for this long; an input that breaks something is an error.
pub(crate) fn run(time: Duration) -> Result<()> {
    let directory = workspace::target().join("fuzz");
    let corpus = directory.join("corpus");
    std::fs::create_dir_all(&corpus)
        .with_context(|| format!("cannot make {}", corpus.display()))?;
    // Named, so that the flags are for the target alone and not for build scripts.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    process::run(
        workspace::cargo()
            .current_dir(workspace::root().join("ebpf/datapath/fuzz"))
            .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\x1f"))
            .env("CARGO_TARGET_DIR", &directory)
            .args(["build", "--release", "--locked", "--target", &target]),
    )?;
    process::run(
        std::process::Command::new(directory.join(target).join("release/packets"))
            .arg(&corpus)
            .arg(format!("-artifact_prefix={}/", directory.display()))
            .arg(format!("-max_total_time={}", time.as_secs()))
            .arg(format!("-timeout={}", PATIENCE.as_secs()))
            .args(["-max_len=2048", "-use_value_profile=1", "-print_final_stats=1"]),
    )
}
