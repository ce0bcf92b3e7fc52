//! Control groups: one tree per cluster, in the cgroup2 hierarchy and, where the container runtime
//! put containers there, in every cgroup v1 hierarchy too.
//!
//! Guarantees: [`kill_all`] ends every process of the cluster whoever started it, because a child
//! cannot leave its cgroup by itself. Nothing outside `/bowline/<name>` is read or written.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::mounts::Mount;
use super::place::{self, Place};

/// How long killed processes may take to leave, and busy groups to become free.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// Makes a group and its parents in the cgroup2 hierarchy.
pub(crate) fn make(root: &Path, group: &Path) -> anyhow::Result<()> {
    let path = root.join(group);
    let started = Instant::now();
    loop {
        match fs::create_dir_all(&path) {
            // The `down` of another cluster removed a parent that was empty for a moment.
            Err(error) if is_missing(&error) && started.elapsed() < PATIENCE => {
                std::thread::sleep(PAUSE);
            }
            made => {
                return made.with_context(|| format!("cannot make cgroup {}", path.display()));
            }
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// The cluster's directory in each hierarchy in which it exists.
pub(crate) fn trees(place: &Place, mounts: &[Mount]) -> Vec<PathBuf> {
    let hierarchies = mounts.iter().filter(|mount| mount.is_cgroup());
    let trees = hierarchies.map(|mount| mount.target.join(place.cgroup()));
    let existing: BTreeSet<PathBuf> = trees.filter(|tree| tree.is_dir()).collect();
    existing.into_iter().collect()
}

/// Groups of a tree, the tree itself included, deepest first.
fn groups(tree: &Path) -> Vec<PathBuf> {
    let mut found = vec![tree.to_path_buf()];
    let mut next = 0;
    while let Some(group) = found.get(next).cloned() {
        next += 1;
        let Ok(entries) = fs::read_dir(&group) else { continue };
        let children = entries.flatten().filter(|it| it.file_type().is_ok_and(|t| t.is_dir()));
        found.extend(children.map(|entry| entry.path()));
    }
    found.reverse();
    found
}

/// Process ids in a tree.
pub(crate) fn members(tree: &Path) -> BTreeSet<i32> {
    let mut pids = BTreeSet::new();
    for group in groups(tree) {
        let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        pids.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok()));
    }
    pids
}

/// Ends all members of the trees and waits until they are gone; returns how many there were.
pub(crate) fn kill_all(trees: &[PathBuf]) -> anyhow::Result<usize> {
    let own = Pid::this().as_raw();
    let started = Instant::now();
    let mut killed = BTreeSet::new();
    loop {
        let alive: BTreeSet<i32> = trees.iter().flat_map(|tree| members(tree)).collect();
        if alive.contains(&own) {
            bail!("this command runs inside of the cluster: run it from outside");
        }
        // Zero stands for a member in a process-id namespace that this one cannot see.
        let alive: Vec<i32> = alive.into_iter().filter(|&pid| pid > 0).collect();
        if alive.is_empty() {
            return Ok(killed.len());
        }
        if started.elapsed() > PATIENCE {
            bail!("processes {alive:?} do not end after SIGKILL: look at them with ps");
        }
        for pid in alive {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => bail!("cannot kill process {pid}: {error}"),
            }
            killed.insert(pid);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Removes a tree, deepest first.
pub(crate) fn remove(tree: &Path) -> anyhow::Result<()> {
    let started = Instant::now();
    for group in groups(tree) {
        // A group stays busy for a moment after its last process has ended, and a process that was
        // being started may have joined since.
        while let Err(error) = fs::remove_dir(&group) {
            let busy = error.kind() == io::ErrorKind::ResourceBusy;
            if error.kind() == io::ErrorKind::NotFound {
                break;
            }
            if !busy || started.elapsed() > PATIENCE {
                return Err(error)
                    .with_context(|| format!("cannot remove cgroup {}", group.display()));
            }
            kill_all(&[tree.to_path_buf()])?;
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Removes what the clusters' groups stand in, in each hierarchy in which it is empty: also for a
/// cluster whose own group is not there, because its `up` was killed between the two.
pub(crate) fn remove_parents(mounts: &[Mount]) {
    for mount in mounts.iter().filter(|mount| mount.is_cgroup()) {
        // Not empty means that another cluster is here; that is no error.
        drop(fs::remove_dir(mount.target.join(place::CGROUP)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_listed_deepest_first() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        fs::create_dir_all(root.path().join("c")).unwrap();
        let groups = groups(root.path());
        assert_eq!(groups.len(), 4);
        let position = |name: &str| groups.iter().position(|it| it.ends_with(name)).unwrap();
        assert!(position("a/b") < position("a"));
        assert_eq!(groups.last().map(PathBuf::as_path), Some(root.path()));
    }

    #[test]
    fn members_are_collected_over_the_tree() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("cgroup.procs"), "12\n7\n").unwrap();
        fs::write(root.path().join("a/cgroup.procs"), "99\n").unwrap();
        assert_eq!(members(root.path()), BTreeSet::from([7, 12, 99]));
    }

    #[test]
    fn the_parent_goes_with_the_last_group_and_when_there_never_was_one() {
        let root = tempfile::tempdir().unwrap();
        let mount = Mount { target: root.path().to_path_buf(), kind: "cgroup2".to_owned() };
        let mounts = [mount];
        make(root.path(), Path::new("bowline/x")).unwrap();
        remove_parents(&mounts);
        assert!(root.path().join("bowline/x").is_dir());
        remove(&root.path().join("bowline/x")).unwrap();
        remove_parents(&mounts);
        assert!(!root.path().join("bowline").exists());
        remove_parents(&mounts);
    }

    #[test]
    fn a_tree_that_is_gone_has_no_members_and_needs_no_removal() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("bowline/x");
        assert!(members(&tree).is_empty());
        remove(&tree).unwrap();
        assert_eq!(kill_all(&[tree]).unwrap(), 0);
    }
}
