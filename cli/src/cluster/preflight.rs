//! What must hold before `up` touches anything: the machine's part.
//!
//! Guarantees: nothing is changed. Each failure is one line that says what to do.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::place::Place;
use super::spec::Args;
use super::{cgroups, containerd, mounts, namespaces};

/// Oldest kernel with everything the data plane needs.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Programs that must be in `PATH`.
const PROGRAMS: [&str; 2] = ["containerd", "runc"];

/// What stands in the way of a local cluster.
#[derive(Debug, Error)]
pub(crate) enum NotPossible {
    #[error("`bowline up` needs root: run it with sudo")]
    NotRoot,
    #[error("kernel {0} is too old: bowline needs Linux 5.10 or newer")]
    Kernel(String),
    #[error(
        "no cgroup2 hierarchy is mounted: mount one with \
         `mount -t cgroup2 none /sys/fs/cgroup/unified`, or boot with systemd's unified hierarchy"
    )]
    NoCgroup2,
    #[error("{0} is not installed: install it (Debian: `apt-get install containerd runc`)")]
    NoProgram(&'static str),
    #[error("port {port} on 127.0.0.1 cannot be used ({error}): choose another --port, or 0")]
    Port { port: u16, error: std::io::Error },
    #[error(
        "cluster `{name}` exists already in {}: remove it with `bowline down --name {name}`, or \
         choose another --name",
        dir.display()
    )]
    Taken { name: String, dir: PathBuf },
    #[error("{what} is left of a cluster `{name}`: clean up with `bowline down --name {name}`")]
    LeftOver { what: String, name: String },
    #[error("{} is not empty: choose another --dir, or empty it", .0.display())]
    DirectoryInUse(PathBuf),
    #[error(
        "{} is too long for a cluster's directory: choose a --dir of up to {max} bytes",
        dir.display()
    )]
    DirectoryTooLong { dir: PathBuf, max: usize },
    #[error("cannot read the mount table: {0}")]
    Mounts(String),
}

/// What a look at the machine found.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) cgroup_root: PathBuf,
}

/// Looks at the machine.
pub(crate) fn check(place: &Place, wishes: &Args) -> Result<Machine, NotPossible> {
    if !nix::unistd::geteuid().is_root() {
        return Err(NotPossible::NotRoot);
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if kernel_version(&release).is_none_or(|version| version < OLDEST_KERNEL) {
        return Err(NotPossible::Kernel(release.trim().to_owned()));
    }
    let mounts = mounts::read().map_err(|error| NotPossible::Mounts(format!("{error:#}")))?;
    let cgroup_root = mounts::cgroup2(&mounts).ok_or(NotPossible::NoCgroup2)?.to_path_buf();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(missing) = PROGRAMS.into_iter().find(|program| !is_in(program, &path)) {
        return Err(NotPossible::NoProgram(missing));
    }
    check_name_is_free(place, &mounts)?;
    check_directory(&place.dir)?;
    if wishes.port != 0 {
        TcpListener::bind((Ipv4Addr::LOCALHOST, wishes.port))
            .map_err(|error| NotPossible::Port { port: wishes.port, error })?;
    }
    Ok(Machine { cgroup_root })
}

fn check_name_is_free(place: &Place, mounts: &[mounts::Mount]) -> Result<(), NotPossible> {
    let name = place.name.clone();
    if let Ok(dir) = std::fs::read_link(place.register_entry()) {
        return Err(NotPossible::Taken { name, dir });
    }
    if place.record().exists() {
        return Err(NotPossible::Taken { name, dir: place.dir.clone() });
    }
    let namespace = namespaces::existing(place).into_iter().next();
    let left_over = namespace.map(|it| format!("network namespace {it}")).or_else(|| {
        let tree = cgroups::trees(place, mounts).into_iter().next()?;
        Some(format!("cgroup {}", tree.display()))
    });
    left_over.map_or(Ok(()), |what| Err(NotPossible::LeftOver { what, name }))
}

fn check_directory(dir: &Path) -> Result<(), NotPossible> {
    if dir.as_os_str().len() > containerd::MAX_DIRECTORY {
        let (dir, max) = (dir.to_path_buf(), containerd::MAX_DIRECTORY);
        return Err(NotPossible::DirectoryTooLong { dir, max });
    }
    let used = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    if used { Err(NotPossible::DirectoryInUse(dir.to_path_buf())) } else { Ok(()) }
}

/// `6.1.0-13-amd64` as (6, 1).
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn is_in(program: &str, path: &std::ffi::OsStr) -> bool {
    std::env::split_paths(path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases() {
        assert_eq!(kernel_version("6.1.0-13-amd64\n"), Some((6, 1)));
        assert_eq!(kernel_version("5.10.0"), Some((5, 10)));
        assert_eq!(kernel_version("5.9-rc1"), Some((5, 9)));
        assert_eq!(kernel_version(""), None);
        assert!(kernel_version("5.9.16") < Some(OLDEST_KERNEL));
    }

    #[test]
    fn a_directory_must_be_absent_or_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_directory(dir.path()).is_ok());
        assert!(check_directory(&dir.path().join("absent")).is_ok());
        std::fs::write(dir.path().join("x"), "").unwrap();
        let error = check_directory(dir.path()).unwrap_err().to_string();
        assert!(error.contains("is not empty"), "{error}");
        let long = dir.path().join("x".repeat(80));
        assert!(matches!(check_directory(&long), Err(NotPossible::DirectoryTooLong { .. })));
    }

    #[test]
    fn programs_are_looked_up_in_the_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("runc"), "").unwrap();
        let path = std::env::join_paths(["/nonexistent".as_ref(), dir.path()]).unwrap();
        assert!(is_in("runc", &path));
        assert!(!is_in("containerd", &path));
    }
}
