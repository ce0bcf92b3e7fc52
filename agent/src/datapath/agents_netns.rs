//! In which network namespace a node's data plane is, as its agent wrote it down: links, routes and
//! neighbours are to be read there, whoever reads them.
//!
//! Guarantees: a namespace is told from others by its number on the file system of namespaces, and
//! is looked for where `ip netns` pins them and at processes; no namespace is entered.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::condition::Condition;

/// Where ip-netns(8) pins namespaces.
const PINNED: &str = "/run/netns";

/// A network namespace, by what nothing else has at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Netns {
    device: u64,
    inode: u64,
}

impl Netns {
    /// That of the calling thread.
    pub(super) fn own() -> Option<Self> {
        Self::at(Path::new("/proc/thread-self/ns/net"))
    }

    fn at(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self { device: file.dev(), inode: file.ino() })
    }
}

/// Where a node's network is, seen from the calling thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentsNetns {
    /// No agent wrote down anything.
    NoAgent,
    /// An agent of an older build did not write down where it is.
    Unsaid,
    /// Where the calling thread is.
    Own,
    At(PathBuf),
    /// It has no name, and nobody is in it.
    Gone,
}

/// Where the agent's network is that wrote this file.
pub fn agents_netns(condition_file: &Path) -> AgentsNetns {
    if !condition_file.exists() {
        return AgentsNetns::NoAgent;
    }
    match Condition::read(condition_file).netns {
        None => AgentsNetns::Unsaid,
        Some(netns) if Netns::own() == Some(netns) => AgentsNetns::Own,
        Some(netns) => match found(netns, pinned().chain(of_processes())) {
            Some(path) => AgentsNetns::At(path),
            None => AgentsNetns::Gone,
        },
    }
}

fn found(netns: Netns, mut places: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    places.find(|place| Netns::at(place) == Some(netns))
}

fn pinned() -> impl Iterator<Item = PathBuf> {
    entries(PINNED)
}

fn of_processes() -> impl Iterator<Item = PathBuf> {
    entries("/proc").map(|process| process.join("ns/net"))
}

fn entries(directory: &str) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_namespace_is_told_from_this_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("datapath.json");
        let of = |netns: Option<Netns>| {
            let condition = Condition { netns, ..Condition::default() };
            fs::write(&file, serde_json::to_vec(&condition).unwrap()).unwrap();
            agents_netns(&file)
        };
        assert_eq!(agents_netns(&file), AgentsNetns::NoAgent);
        assert_eq!(of(None), AgentsNetns::Unsaid);
        assert_eq!(of(Netns::own()), AgentsNetns::Own);
        assert_eq!(of(Some(Netns { device: 0, inode: 1 })), AgentsNetns::Gone);
        let before = r#"{"features": [], "programs": [], "full": {}}"#;
        fs::write(&file, before).unwrap();
        assert_eq!(agents_netns(&file), AgentsNetns::Unsaid, "an older build's");
    }

    #[test]
    fn a_namespace_is_found_by_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
        for path in [&one, &other] {
            fs::write(path, "").unwrap();
        }
        let wanted = Netns::at(&other).unwrap();
        let places = [directory.path().join("none"), one.clone(), other.clone()];
        assert_eq!(found(wanted, places.into_iter()), Some(other));
        assert_eq!(found(wanted, [one].into_iter()), None);
    }
}
