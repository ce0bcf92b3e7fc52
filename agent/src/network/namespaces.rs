//! Namespaces that live without a process: made in a thread of their own and pinned by a bind
//! mount.
//!
//! Guarantees: a thread that entered another namespace runs nothing else afterwards. The mounts
//! are made in the agent's mount namespace; that containerd sees them is checked before the agent
//! starts (`preflight`).

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{FsType, statfs},
};
use tokio::sync::oneshot;

/// `NSFS_MAGIC`, the file system of namespace files.
const NSFS: FsType = FsType(0x6e73_6673);

/// What is pinned for each sandbox.
pub(super) const NAMES: [&str; 3] = ["net", "ipc", "uts"];

/// A step with namespaces failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceFailed {
    #[error("making namespaces for hostname {hostname:?}: {source}")]
    Make { hostname: String, source: Errno },
    #[error("pinning a namespace at {}: {source}", path.display())]
    Pin { path: PathBuf, source: io::Error },
    #[error("unpinning the namespace at {}: {source}", path.display())]
    Unpin { path: PathBuf, source: io::Error },
    #[error("entering the network namespace at {}: {source}", path.display())]
    Enter { path: PathBuf, source: io::Error },
    #[error("starting a thread for a namespace: {0}")]
    Thread(io::Error),
    #[error("the thread that worked in a namespace ended without a result")]
    ThreadDied,
}

/// Runs `work` in a thread of its own. The thread ends with it, so `work` may change the thread's
/// namespaces.
pub(super) async fn in_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NamespaceFailed> {
    let (done, result) = oneshot::channel();
    thread::Builder::new()
        .name("sandbox".to_owned())
        .spawn(move || {
            // Nobody waits any more when the caller was cancelled; then the result is of no use.
            let _ = done.send(work());
        })
        .map_err(NamespaceFailed::Thread)?;
    result.await.map_err(|_| NamespaceFailed::ThreadDied)
}

/// Makes the three namespaces of a sandbox and pins them in `dir`; the calling thread is in them
/// afterwards. With `host_network`, `net` is the thread's own network namespace.
pub(super) fn make(dir: &Path, hostname: &str, host_network: bool) -> Result<(), NamespaceFailed> {
    let failed = |source| NamespaceFailed::Make { hostname: hostname.to_owned(), source };
    let mut flags = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    if !host_network {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).map_err(failed)?;
    nix::unistd::sethostname(hostname).map_err(failed)?;
    for name in NAMES {
        pin(&dir.join(name), name)?;
    }
    Ok(())
}

fn pin(path: &Path, name: &str) -> Result<(), NamespaceFailed> {
    let failed = |source| NamespaceFailed::Pin { path: path.to_owned(), source };
    OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
    let source = format!("/proc/thread-self/ns/{name}");
    mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|error| failed(error.into()))
}

/// Whether a namespace is pinned at `path`.
pub(super) fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == NSFS)
}

/// Unpins what is mounted at `path`, however often, and removes the file. What is not there is
/// no error.
pub(super) fn unpin(path: &Path) -> Result<(), NamespaceFailed> {
    let failed = |source| NamespaceFailed::Unpin { path: path.to_owned(), source };
    while is_pinned(path) {
        umount2(path, MntFlags::MNT_DETACH).map_err(|error| failed(error.into()))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Moves the calling thread into the network namespace at `path`.
pub(super) fn enter_network(path: &Path) -> Result<(), NamespaceFailed> {
    let failed = |source| NamespaceFailed::Enter { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| failed(error.into()))
}
