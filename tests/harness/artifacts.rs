//! What `cargo xtask build` made, and where it is: beside the program that asks, or in cargo's
//! output directory.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The workspace's directory.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// Cargo's output directory; where this runs without its workspace, a directory for what can be
/// made again.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => PathBuf::from(directory),
        None if workspace().is_dir() => workspace().join("target"),
        None => PathBuf::from("/var/cache/bowline"),
    }
}

/// A program of this name in the directory of the one that runs.
fn beside(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name(name);
    path.is_file().then_some(path)
}

/// The binary under test.
pub fn bowline() -> Result<PathBuf> {
    let named = std::env::var_os("BOWLINE_BIN").map(PathBuf::from);
    built(named.or_else(|| beside("bowline")).unwrap_or_else(|| target().join("debug/bowline")))
}

/// The same with other map layouts.
pub fn next_bowline() -> Result<PathBuf> {
    built(target().join("next/debug/bowline"))
}

/// The static program that runs inside pods.
pub fn workload() -> Result<PathBuf> {
    let built_here = || target().join("workload/bowline-workload");
    built(beside("bowline-bench-pod").unwrap_or_else(built_here))
}

/// A manifest of `examples/`.
pub fn example(name: &str) -> PathBuf {
    workspace().join("examples").join(name)
}

fn built(path: PathBuf) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("{} is not built: run `cargo xtask build`", path.display());
    }
    Ok(path)
}
