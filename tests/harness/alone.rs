//! What benchmarks need of a machine: each other's absence, names that nobody else has, and an end
//! to what one of them left that was killed.
//!
//! Guarantees: the kernel itself gives the machine back when a benchmark ends, however it does;
//! what is removed was a benchmark's, by its name and its place. Benchmarks in different network
//! namespaces do not see each other.

use std::fs;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;

use crate::artifacts;
use crate::cluster::Wishes;
use crate::command::{command, output};

/// An abstract socket: it goes with the process that holds it.
const HELD: &[u8] = b"bowline-bench";
/// What the names of clusters and directories begin with.
const PREFIX: &str = "bench-";
const REGISTER: &str = "/run/bowline/clusters";
const PARENT: &str = "/var/lib/bowline";

/// While this value lives no other benchmark begins.
pub struct Alone {
    _held: UnixListener,
}

impl Alone {
    /// Takes the machine, or says that somebody else has it.
    pub fn begin() -> Result<Self> {
        let held = UnixListener::bind_addr(&SocketAddr::from_abstract_name(HELD)?);
        let held = held.map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => {
                anyhow!("another benchmark runs on this machine: wait until it ends")
            }
            _ => anyhow!("cannot take the machine: {error}"),
        })?;
        Ok(Self { _held: held })
    }

    /// Removes what benchmarks left that were killed, and names it.
    pub fn clean(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for name in left(Path::new(REGISTER)) {
            let directory = Path::new(PARENT).join(&name);
            // Of another place it is somebody else's, whatever its name.
            if fs::read_link(Path::new(REGISTER).join(&name)).is_ok_and(|link| link == directory) {
                remove_cluster(&name)
                    .with_context(|| format!("an earlier benchmark's cluster {name} is left"))?;
                removed.push(format!("cluster {name}"));
            }
        }
        for parent in [std::env::temp_dir(), artifacts::target().join("registry")] {
            for name in left(&parent) {
                let path = parent.join(name);
                fs::remove_dir_all(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
                removed.push(format!("directory {}", path.display()));
            }
        }
        Ok(removed)
    }

    /// A cluster of so many nodes, under a name by which the next benchmark knows it.
    pub fn wishes(&self, nodes: usize) -> Wishes {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let dir = Path::new(PARENT).join(&name);
        Wishes { name: Some(name), dir: Some(dir), nodes, registry: false, ..Wishes::default() }
    }

    /// A directory for whatever is no cluster; it goes with its value.
    pub fn directory(&self) -> Result<TempDir> {
        let prefix = format!("{PREFIX}{}-", std::process::id());
        Ok(tempfile::Builder::new().prefix(&prefix).tempdir()?)
    }
}

fn remove_cluster(name: &str) -> Result<()> {
    let down = || output(command(artifacts::bowline()?).args(["down", "--name", name]));
    if down().is_err() {
        // What was killed with its benchmark may still have been removing it.
        std::thread::sleep(Duration::from_secs(1));
        down()?;
    }
    Ok(())
}

/// Names in a directory that benchmarks gave.
fn left(parent: &Path) -> Vec<String> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| is_ours(name)).collect()
}

/// `bench-` and a process, and then whatever tells its things apart.
fn is_ours(name: &str) -> bool {
    let words = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    words.is_some_and(|(process, rest)| process.parse::<u32>().is_ok() && !rest.is_empty())
}

/// Where a benchmark's cluster is, if it has one: by the benchmark's process.
pub fn cluster_of(process: u32) -> Option<PathBuf> {
    let prefix = format!("{PREFIX}{process}-");
    let name = left(Path::new(REGISTER)).into_iter().find(|name| name.starts_with(&prefix))?;
    Some(Path::new(PARENT).join(name))
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn only_what_benchmarks_name_is_theirs() {
        let ours = ["bench-4711-0", "bench-1-x7Qz0w"];
        let others = ["bench", "bench-", "bench-4711", "bench-4711-", "bench-me-0", "demo", "t1-0"];
        assert!(ours.into_iter().all(is_ours));
        assert!(!others.into_iter().any(is_ours));
    }
}
