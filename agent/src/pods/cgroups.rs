//! What is left to do around containers' cgroups: runc makes and removes a container's own; the
//! pod's directory above them, and the question whether memory ran out, are here.
//!
//! Works with cgroup v2, v1 and both together: every mounted hierarchy is looked at.

use std::fs;
use std::path::{Path, PathBuf};

/// The mounted cgroup hierarchies of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    mounts: Vec<PathBuf>,
    /// Below each hierarchy's root, where this node's pods live.
    parent: PathBuf,
}

impl Cgroups {
    /// `parent` is absolute within the hierarchies, as `/bowline/demo/node1/pods`.
    pub(crate) fn discover(parent: PathBuf) -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self { mounts: cgroup_mounts(&mountinfo), parent }
    }

    /// The container's cgroup as the OCI specification names it.
    pub(crate) fn container_path(&self, uid: &str, id: &str) -> PathBuf {
        self.parent.join(uid).join(id)
    }

    /// True when the kernel has killed a process of the container for lack of memory.
    pub(crate) fn ran_out_of_memory(&self, uid: &str, id: &str) -> bool {
        let own = self.container_path(uid, id);
        self.mounts.iter().any(|mount| {
            let dir = below(mount, &own);
            ["memory.events", "memory.oom_control"].iter().any(|file| {
                fs::read_to_string(dir.join(file)).is_ok_and(|text| oom_kills(&text) > 0)
            })
        })
    }

    /// Removes a pod's directories; those that are gone already are fine.
    pub(crate) fn remove_pod(&self, uid: &str) -> std::io::Result<()> {
        let pod = self.parent.join(uid);
        for mount in &self.mounts {
            remove_empty_tree(&below(mount, &pod))?;
        }
        Ok(())
    }
}

fn below(mount: &Path, path: &Path) -> PathBuf {
    mount.join(path.strip_prefix("/").unwrap_or(path))
}

/// cgroup directories hold only files that the kernel makes, so children go first, then it.
fn remove_empty_tree(dir: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn oom_kills(text: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("oom_kill "));
    lines.next().and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn cgroup_mounts(mountinfo: &str) -> Vec<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let kind = right.split(' ').next()?;
        let path = left.split(' ').nth(4)?;
        matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(path))
    });
    mounts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found() {
        let mountinfo = "\
24 1 0:22 / /sys rw shared:2 - sysfs sysfs rw
30 24 0:26 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 1 8:1 / /data rw - ext4 /dev/x rw";
        assert_eq!(
            cgroup_mounts(mountinfo),
            ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"].map(PathBuf::from)
        );
    }

    #[test]
    fn both_versions_count_kills() {
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(oom_kills("low 0\noom 1\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(oom_kills(""), 0);
    }
}
