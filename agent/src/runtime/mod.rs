//! The container runtime, behind one trait; containerd is the first implementation.
//!
//! Guarantees: every operation can be repeated (creating what exists, killing or removing what is
//! gone are successes), so that a caller converges by calling again after a failure or a restart.
//! What a container is (pod, name, attempt, how it ended) is kept by the runtime itself, as labels,
//! and is read back by [`Runtime::containers`]: the agent has no state file of its own.
//!
//! Not guaranteed: order between operations on different containers, and anything about images
//! that nobody references any more (the runtime may collect them).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use jiff::Timestamp;
use oci_spec::runtime::Spec;

mod containerd;
mod labels;

pub(crate) use containerd::{Containerd, ContainerdConfig};
pub(crate) use labels::ContainerKey;

/// What a runtime does for the agent. All of it is local to the node; no registry is talked to.
pub(crate) trait Runtime: Send + Sync + 'static {
    /// Name and version as `Node.status.nodeInfo.containerRuntimeVersion` shows them.
    fn version(&self) -> BoxFuture<'_, Result<String, RuntimeCallFailed>>;

    /// The image stored under `name`, or `None` when it is not there or not complete.
    fn image<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<StoredImage>, RuntimeCallFailed>>;

    /// Opens a scope that keeps what is stored through it from being collected until
    /// [`Runtime::close_pull`] is called, or a day has passed.
    fn open_pull(&self) -> BoxFuture<'_, Result<PullScope, RuntimeCallFailed>>;

    /// Ends the scope; what no image references then becomes collectable.
    fn close_pull(&self, scope: PullScope) -> BoxFuture<'_, Result<(), RuntimeCallFailed>>;

    /// True when the blob is stored already.
    fn has_blob<'a>(
        &'a self,
        scope: &'a PullScope,
        blob: &'a Blob,
    ) -> BoxFuture<'a, Result<bool, RuntimeCallFailed>>;

    /// Stores a blob; the runtime checks size and digest.
    fn store_blob<'a>(
        &'a self,
        scope: &'a PullScope,
        blob: &'a Blob,
        data: BoxStream<'a, std::io::Result<bytes::Bytes>>,
    ) -> BoxFuture<'a, Result<(), StoreBlobFailed>>;

    /// Unpacks stored layers, lowest first, and returns the name of the resulting file system.
    fn unpack<'a>(
        &'a self,
        scope: &'a PullScope,
        layers: &'a [Layer],
    ) -> BoxFuture<'a, Result<String, RuntimeCallFailed>>;

    /// Names an image whose blobs are stored and whose layers are unpacked.
    fn name_image<'a>(
        &'a self,
        name: &'a str,
        manifest: &'a Blob,
    ) -> BoxFuture<'a, Result<(), RuntimeCallFailed>>;

    /// Makes the writable root file system of a container from an image's. The container is listed
    /// from then on.
    fn prepare_rootfs<'a>(
        &'a self,
        key: &'a ContainerKey,
        image_id: &'a str,
        rootfs: &'a str,
    ) -> BoxFuture<'a, Result<Rootfs, RuntimeCallFailed>>;

    /// Creates the container and starts its process.
    fn start<'a>(
        &'a self,
        container: &'a NewContainer,
        rootfs: &'a Rootfs,
    ) -> BoxFuture<'a, Result<Timestamp, RuntimeCallFailed>>;

    /// Waits until the container's process has ended. Lasts as long as the container does.
    fn wait<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Exit, RuntimeCallFailed>>;

    /// Sends a signal to the container's first process, or to all of them.
    fn kill<'a>(
        &'a self,
        id: &'a str,
        signal: i32,
        all: bool,
    ) -> BoxFuture<'a, Result<(), RuntimeCallFailed>>;

    /// Runs a command in a running container and returns its exit status.
    fn exec<'a>(
        &'a self,
        id: &'a str,
        command: &'a [String],
        limit: Duration,
    ) -> BoxFuture<'a, Result<ExecOutcome, RuntimeCallFailed>>;

    /// Frees what an ended container held (process record, root file system) and notes how it
    /// ended; the container stays listed until [`Runtime::remove`].
    fn settle<'a>(
        &'a self,
        id: &'a str,
        end: &'a Ended,
    ) -> BoxFuture<'a, Result<(), RuntimeCallFailed>>;

    /// Removes a container with all that belongs to it; a running one is killed.
    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), RuntimeCallFailed>>;

    /// Every container of this node that the agent made, running or not.
    fn containers(&self) -> BoxFuture<'_, Result<Vec<FoundContainer>, RuntimeCallFailed>>;
}

/// A call to the runtime failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeCallFailed {
    /// The runtime could not be reached; its state is unknown.
    #[error("container runtime is not reachable: {0}")]
    Unreachable(String),
    /// What the call named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The runtime refused or could not do it.
    #[error("{0}")]
    Refused(String),
}

/// Storing a blob failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreBlobFailed {
    /// Reading the data failed, so nothing was stored.
    #[error("reading {digest}: {source}")]
    Read { digest: String, source: std::io::Error },
    /// The runtime failed.
    #[error("storing {digest}: {source}")]
    Store { digest: String, source: RuntimeCallFailed },
}

/// Names a blob by content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    /// Digests of the blobs, and the unpacked file system, that must live as long as this one.
    pub(crate) keeps: Keeps,
}

/// What a blob keeps from being collected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keeps {
    pub(crate) blobs: Vec<String>,
    pub(crate) rootfs: Option<String>,
}

/// One layer of an image.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) blob: Blob,
    /// Digest of the uncompressed layer.
    pub(crate) diff_id: String,
}

/// Keeps a pull's blobs alive; made by [`Runtime::open_pull`].
#[derive(Clone, Debug)]
pub(crate) struct PullScope {
    pub(crate) lease: String,
}

/// An image as the runtime has it: raw documents, complete and unpacked.
#[derive(Clone, Debug)]
pub(crate) struct StoredImage {
    pub(crate) manifest_digest: String,
    pub(crate) config: Vec<u8>,
    pub(crate) rootfs: String,
}

/// A container's root file system before its start.
#[derive(Clone, Debug)]
pub(crate) struct Rootfs {
    /// Directories of the read-only layers, uppermost first; used to look up users.
    pub(crate) lower_dirs: Vec<PathBuf>,
    pub(crate) mounts: Vec<RootfsMount>,
}

/// One mount of a root file system.
#[derive(Clone, Debug)]
pub(crate) struct RootfsMount {
    pub(crate) kind: String,
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) options: Vec<String>,
}

/// All that is needed to start a container.
#[derive(Clone, Debug)]
pub(crate) struct NewContainer {
    pub(crate) id: String,
    pub(crate) key: ContainerKey,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) spec: Spec,
    /// Standard output and error are appended to this file by the runtime's shim, so that they
    /// outlive the agent.
    pub(crate) log: PathBuf,
}

/// How a container's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) at: Timestamp,
}

/// How a command that was run in a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExecOutcome {
    Exited(i32),
    /// It ran longer than its limit and was killed.
    TimedOut,
}

/// The end of a container as it is noted with the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Timestamp,
}

/// A container found in the runtime.
#[derive(Clone, Debug)]
pub(crate) struct FoundContainer {
    pub(crate) id: String,
    pub(crate) key: ContainerKey,
    pub(crate) image_id: String,
    pub(crate) created_at: Timestamp,
    pub(crate) state: FoundState,
}

/// State of a container found in the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FoundState {
    /// It was created, or its root file system was, and its process never started: a start was
    /// interrupted.
    Created,
    Running,
    /// Its process ended and nobody has settled it.
    Stopped(Exit),
    /// Settled; only the record is left.
    Settled(Ended),
}

/// Users and groups of an image; a larger file is no such list.
const LAYER_FILE_BYTES_MAX: u64 = 4 << 20;

/// Reads the root file system's copy of a file such as `/etc/passwd`, uppermost layer first.
pub(crate) fn read_from_layers(rootfs: &Rootfs, path: &str) -> Option<String> {
    let relative = Path::new(path).strip_prefix("/").unwrap_or(Path::new(path));
    rootfs.lower_dirs.iter().find_map(|dir| {
        let file = dir.join(relative);
        // A symlink in an image, also one on the way, must not lead the agent out of the layer.
        let real = std::fs::canonicalize(&file).ok()?;
        if real != std::fs::canonicalize(dir).ok()?.join(relative) {
            return None;
        }
        let meta = std::fs::metadata(&real).ok()?;
        let fits = meta.is_file() && meta.len() <= LAYER_FILE_BYTES_MAX;
        fits.then(|| std::fs::read_to_string(&real).ok()).flatten()
    })
}

/// Labels as the runtime keeps them.
pub(crate) type Labels = BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn layers_are_read_from_the_top_and_never_left() {
        let root = tempfile::tempdir().unwrap();
        let [outside, upper, lower] =
            ["outside", "upper", "lower"].map(|dir| root.path().join(dir));
        for (dir, text) in [(&outside, "host"), (&lower, "lower")] {
            std::fs::create_dir_all(dir.join("etc")).unwrap();
            std::fs::write(dir.join("etc/passwd"), text).unwrap();
        }
        std::fs::create_dir(&upper).unwrap();
        let rootfs = Rootfs { lower_dirs: vec![upper.clone(), lower], mounts: Vec::new() };
        let read = || read_from_layers(&rootfs, "/etc/passwd");
        assert_eq!(read().as_deref(), Some("lower"));
        symlink(outside.join("etc"), upper.join("etc")).unwrap();
        assert_eq!(read().as_deref(), Some("lower"));
        std::fs::remove_file(upper.join("etc")).unwrap();
        std::fs::create_dir(upper.join("etc")).unwrap();
        symlink(outside.join("etc/passwd"), upper.join("etc/passwd")).unwrap();
        assert_eq!(read().as_deref(), Some("lower"));
        std::fs::remove_file(upper.join("etc/passwd")).unwrap();
        std::fs::write(upper.join("etc/passwd"), "upper").unwrap();
        assert_eq!(read().as_deref(), Some("upper"));
    }
}
