//! The mount table, and taking mounts away.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts can lie on top of each other and under others; more rounds than this means that
/// somebody mounts while we unmount.
const MAX_ROUNDS: usize = 64;

/// How often a mount is tried again that something uses.
const MAX_LOOKS: usize = 20;
const LOOK: Duration = Duration::from_millis(10);

/// A line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) target: PathBuf,
    pub(crate) kind: String,
}

impl Mount {
    pub(crate) fn is_cgroup(&self) -> bool {
        self.kind == "cgroup" || self.kind == "cgroup2"
    }
}

/// The mounts that this process sees, in the order in which they were made.
pub(crate) fn read() -> anyhow::Result<Vec<Mount>> {
    let text = fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse_line).collect())
}

/// Where the first cgroup2 hierarchy is mounted.
pub(crate) fn cgroup2(mounts: &[Mount]) -> Option<&Path> {
    mounts.iter().find(|mount| mount.kind == "cgroup2").map(|mount| mount.target.as_path())
}

/// Parses `id parent major:minor root target options [tags...] - kind source super-options`.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let target = fields.get(4)?;
    let separator = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let kind = fields.get(separator + 1)?;
    Some(Mount {
        target: std::ffi::OsString::from_vec(unescape(target)).into(),
        kind: String::from_utf8_lossy(kind).into_owned(),
    })
}

/// Undoes the kernel's octal escapes: `\040` is a blank.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| tail.get(..3)).flatten();
        let value = octal.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match value {
            Some(value) => {
                plain.push(value);
                rest = &tail[3..];
            }
            None => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    plain
}

/// Mounts at or under a directory, the last made first: each lies on top of those after it.
fn under<'a>(mounts: &'a [Mount], dir: &Path) -> Vec<&'a Path> {
    let inside = mounts.iter().filter(|mount| mount.target.starts_with(dir));
    let mut inside: Vec<&Path> = inside.map(|mount| mount.target.as_path()).collect();
    inside.reverse();
    inside
}

/// Takes away every mount at or under a directory; returns how many there were.
pub(crate) fn remove_under(dir: &Path) -> anyhow::Result<usize> {
    let mut removed = 0;
    for _ in 0..MAX_ROUNDS {
        let mounts = read()?;
        let inside = under(&mounts, dir);
        if inside.is_empty() {
            return Ok(removed);
        }
        for target in inside {
            remove(target)?;
            removed += 1;
        }
    }
    bail!("mounts under {} keep coming back: is a process still at work there?", dir.display())
}

/// Takes away one mount; lazily when something still uses it.
pub(crate) fn remove(target: &Path) -> anyhow::Result<()> {
    let flags = MntFlags::UMOUNT_NOFOLLOW;
    let result = umount2(target, flags).or_else(|error| match error {
        Errno::EBUSY => umount2(target, flags | MntFlags::MNT_DETACH),
        other => Err(other),
    });
    match result {
        // Not a mount point, or gone: somebody else was faster.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot unmount {}", target.display())),
    }
}

/// Takes away one mount unless something uses it; says whether it is gone. Who only looks at it
/// uses it for a moment: that is waited for, `MAX_LOOKS` times `LOOK`.
pub(crate) fn remove_unused(target: &Path) -> anyhow::Result<bool> {
    for _ in 0..MAX_LOOKS {
        match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => return Ok(true),
            Err(Errno::EBUSY) => std::thread::sleep(LOOK),
            Err(error) => bail!("cannot unmount {}: {error}", target.display()),
        }
    }
    Ok(false)
}

/// Mounts a BPF file system of its own at a directory.
pub(crate) fn make_bpffs(target: &Path) -> anyhow::Result<()> {
    mount(Some("bpf"), target, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("cannot mount a BPF file system at {}", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:1 master:2 - cgroup2 cgroup2 rw
50 27 0:40 / /d/nodes/node1/bpf rw - bpf bpf rw
51 27 0:41 / /d/with\\040blank rw - tmpfs none rw
52 27 0:42 / /d/nodes/node1/bpf rw - bpf bpf rw
53 27 0:43 / /dx rw - tmpfs none rw
";

    fn table() -> Vec<Mount> {
        TABLE.as_bytes().split(|&byte| byte == b'\n').filter_map(parse_line).collect()
    }

    #[test]
    fn lines_are_understood_with_and_without_tags() {
        let mounts = table();
        assert_eq!(mounts.len(), 9);
        assert_eq!(cgroup2(&mounts), Some(Path::new("/sys/fs/cgroup/unified")));
        let cgroups: Vec<_> = mounts.iter().filter(|mount| mount.is_cgroup()).collect();
        assert_eq!(cgroups.len(), 2);
    }

    #[test]
    fn mounts_under_a_directory_come_last_made_first() {
        let mounts = table();
        let expected = ["/d/nodes/node1/bpf", "/d/with blank", "/d/nodes/node1/bpf"].map(Path::new);
        assert_eq!(under(&mounts, Path::new("/d")), expected);
    }

    #[test]
    #[ignore = "needs root; run by `cargo xtask test` as root"]
    fn what_is_used_stays_mounted() {
        let directory = tempfile::tempdir().unwrap();
        make_bpffs(directory.path()).unwrap();
        let is_there = || read().unwrap().iter().any(|mount| mount.target == directory.path());
        let user = fs::File::open(directory.path()).unwrap();
        assert!(!remove_unused(directory.path()).unwrap() && is_there());
        drop(user);
        assert!(remove_unused(directory.path()).unwrap() && !is_there());
    }

    #[test]
    fn damaged_lines_are_skipped() {
        for line in ["", "1 2 3", "1 2 0:1 / /x rw - ", "1 2 0:1 / /x rw shared:1"] {
            assert_eq!(parse_line(line.as_bytes()).filter(|it| !it.kind.is_empty()), None);
        }
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"a\\134b"), b"a\\b");
    }
}
