//! Where things are: the workspace's own paths, found from the place xtask was built in.

use std::path::{Path, PathBuf};

/// The directory that holds the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// Cargo's output directory, which also holds downloaded tools and the BPF object.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs xtask, so that one toolchain builds everything.
pub(crate) fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
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
