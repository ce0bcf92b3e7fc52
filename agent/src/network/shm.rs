//! The memory that the containers of a pod share: one tmpfs a sandbox, which each of them has at
//! `/dev/shm`.
//!
//! Guarantees: what is in it lives as long as the sandbox, whatever ends or restarts meanwhile, the
//! agent included. It holds 64 MiB at most, as in Kubernetes.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Its name in the sandbox's directory.
pub(super) const NAME: &str = "shm";

/// Any user of any container may write there.
const OPTIONS: &str = "mode=1777,size=65536k";

/// A step with a pod's shared memory failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SharedMemoryFailed {
    #[error("mounting the pod's shared memory at {}: {source}", path.display())]
    Mount { path: PathBuf, source: io::Error },
    #[error("unmounting the pod's shared memory at {}: {source}", path.display())]
    Unmount { path: PathBuf, source: io::Error },
}

/// Mounts what a pod shares at `path`, unless it is there.
pub(crate) fn mount_shm(path: &Path) -> Result<(), SharedMemoryFailed> {
    let failed = |source| SharedMemoryFailed::Mount { path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(failed)?;
    if is_mounted(path).map_err(failed)? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), path, Some("tmpfs"), flags, Some(OPTIONS))
        .map_err(|error| failed(error.into()))
}

/// Unmounts what is mounted at `path`, however often, and removes the directory. What is not there
/// is no error.
pub(crate) fn unmount_shm(path: &Path) -> Result<(), SharedMemoryFailed> {
    let failed = |source| SharedMemoryFailed::Unmount { path: path.to_owned(), source };
    let remove = || {
        while is_mounted(path)? {
            umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
        }
        fs::remove_dir(path)
    };
    match remove() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// A directory that is on another device than the one it is in has something mounted on it.
fn is_mounted(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    Ok(fs::metadata(path)?.dev() != fs::metadata(parent)?.dev())
}
