//! What `cargo xtask build` made, and where it is.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The workspace's directory.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// Cargo's output directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The binary under test.
pub fn bowline() -> Result<PathBuf> {
    let path = std::env::var_os("BOWLINE_BIN")
        .map_or_else(|| target().join("debug/bowline"), PathBuf::from);
    built(path)
}

/// The same with other map layouts.
pub fn next_bowline() -> Result<PathBuf> {
    built(target().join("next/debug/bowline"))
}

/// The static program that runs inside pods.
pub fn workload() -> Result<PathBuf> {
    built(target().join("workload/bowline-workload"))
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
