//! Where things are: the workspace's own paths, found from the place xtask was built in.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Manifests of the packages outside the workspace, each a workspace of its own.
pub(crate) const OUTSIDE: [&str; 2] = ["ebpf/programs/Cargo.toml", "ebpf/datapath/fuzz/Cargo.toml"];

/// The directory that holds the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// Cargo's output directory, which also holds downloaded tools and the BPF object.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs xtask, so that one toolchain builds everything. It does not see what cargo
/// told xtask about xtask's own package: build scripts that look at those variables (ring's) would
/// take every change between `cargo xtask` and plain cargo for a reason to build anew.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(describes_a_package) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Whether cargo sets this variable for the programs of one package only.
fn describes_a_package(variable: &str) -> bool {
    let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_NAME", "CARGO_CRATE_NAME"];
    prefixes.iter().any(|prefix| variable.starts_with(prefix))
}

/// The first file called `program` in PATH.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    find_all_programs(program).into_iter().next()
}

/// Every file called `program` in PATH, in PATH's order, and in cargo's own directory.
pub(crate) fn find_all_programs(program: &str) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> =
        std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default();
    // Tools of the administrator (nft, ip) are not in every user's PATH.
    directories.extend(["/usr/bin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in directories {
        let candidate = directory.join(program);
        if candidate.is_file() && !found.contains(&candidate) {
            found.push(candidate);
        }
    }
    found
}

/// Whether this process may do what needs root. Read from /proc, so that no libc call is needed.
pub(crate) fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .and_then(|ids| ids.split_whitespace().nth(1))
            == Some("0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_package_that_runs_reaches_the_next_cargo() {
        let ours: Vec<_> = std::env::vars().map(|(name, _)| name).collect();
        assert!(ours.iter().any(|name| name == "CARGO_MANIFEST_DIR"), "run by cargo");
        let cargo = cargo();
        let removed: Vec<_> = cargo.get_envs().filter(|(_, value)| value.is_none()).collect();
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR"] {
            assert!(removed.iter().any(|(removed, _)| *removed == name), "{name}");
        }
        assert!(!describes_a_package("CARGO_HOME") && !describes_a_package("CARGO_TARGET_DIR"));
    }
}
