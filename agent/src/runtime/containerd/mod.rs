//! containerd through its native gRPC API, from 1.6 on. No CRI.
//!
//! One connection serves all calls; tonic opens it again when containerd was restarted. All
//! objects live in one containerd namespace per node, so that several nodes can share a containerd.
//! A container has a shim of its own and its output is written to a file by that shim: neither the
//! agent's nor containerd's end stops a container or loses its output.

use std::path::PathBuf;
use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::{
    Blob, ContainerKey, Ended, ExecOutcome, Exit, FoundContainer, Layer, NewContainer, PullScope,
    Rootfs, Runtime, RuntimeCallFailed, StoreBlobFailed, StoredImage,
};

mod containers;
mod exec;
mod images;

use containers::Deletions;

const NAMESPACE_HEADER: &str = "containerd-namespace";
const LEASE_HEADER: &str = "containerd-lease";
const SNAPSHOTTER: &str = "overlayfs";
/// tonic's own limit of 4 MiB is too small for the list of a full node's containers.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How long containerd may take for one call; starting a container on a busy disk is the longest.
/// A call that hangs because of a start that was given up half way is tried again after it.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// Which containerd, and what of it, belongs to this node.
#[derive(Clone, Debug)]
pub(crate) struct ContainerdConfig {
    pub(crate) socket: PathBuf,
    pub(crate) namespace: String,
    /// Where runc keeps its state; containerd's default when absent.
    pub(crate) runc_root: Option<PathBuf>,
}

/// A connection to containerd.
pub(crate) struct Containerd {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
    runc_root: Option<PathBuf>,
    version_limit: Duration,
    deletions: Deletions,
}

/// There is no usable containerd behind the socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectContainerdFailed {
    #[error("cannot reach containerd at {at}: {reason}; is it installed and running?",
            at = socket.display())]
    Unreachable { socket: PathBuf, reason: String },
    #[error("{0:?} is not a valid containerd namespace")]
    BadNamespace(String),
}

impl Containerd {
    pub(crate) async fn connect(
        config: &ContainerdConfig,
    ) -> Result<Self, ConnectContainerdFailed> {
        Self::connect_within(config, VERSION_LIMIT).await
    }

    async fn connect_within(
        config: &ContainerdConfig,
        version_limit: Duration,
    ) -> Result<Self, ConnectContainerdFailed> {
        let namespace = config
            .namespace
            .parse()
            .map_err(|_| ConnectContainerdFailed::BadNamespace(config.namespace.clone()))?;
        let unreachable = |reason: String| ConnectContainerdFailed::Unreachable {
            socket: config.socket.clone(),
            reason,
        };
        let channel = containerd_client::connect(&config.socket)
            .await
            .map_err(|error| unreachable(innermost(&error)))?;
        let runc_root = config.runc_root.clone();
        let deletions = Deletions::default();
        let this = Self { channel, namespace, runc_root, version_limit, deletions };
        this.get_version().await.map_err(|error| unreachable(error.to_string()))?;
        Ok(this)
    }

    async fn get_version(&self) -> Result<String, RuntimeCallFailed> {
        let mut request = Request::new(());
        request.set_timeout(self.version_limit);
        let answer = self.versions().version(request).await.map_err(failed)?;
        Ok(format!("containerd://{}", answer.into_inner().version))
    }

    /// A request that must be answered within [`ANSWER_LIMIT`].
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.lasting(message);
        request.set_timeout(ANSWER_LIMIT);
        request
    }

    /// A request whose answer may take for ever: the end of a container.
    fn lasting<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(NAMESPACE_HEADER, self.namespace.clone());
        request
    }

    /// A request of a pull: how long it takes depends on the image.
    fn leased<T>(&self, scope: &PullScope, message: T) -> Request<T> {
        let mut request = self.lasting(message);
        if let Ok(lease) = scope.lease.parse() {
            request.metadata_mut().insert(LEASE_HEADER, lease);
        }
        request
    }

    fn versions(&self) -> VersionClient<Channel> {
        VersionClient::new(self.channel.clone())
    }

    fn container_service(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn image_service(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone())
    }

    fn diffs(&self) -> DiffClient<Channel> {
        DiffClient::new(self.channel.clone())
    }

    fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel.clone())
    }
}

/// The cause at the end of an error's chain: tonic's outer ones say only "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn failed(status: Status) -> RuntimeCallFailed {
    match status.code() {
        Code::NotFound => RuntimeCallFailed::NotFound(status.message().to_owned()),
        Code::Unavailable => RuntimeCallFailed::Unreachable(status.message().to_owned()),
        // Ours or, as it is told of ours, containerd's own.
        Code::DeadlineExceeded | Code::Cancelled => {
            RuntimeCallFailed::Unreachable("containerd gave no answer in time".to_owned())
        }
        // A transport error that is not an answer of containerd has a source.
        _ if std::error::Error::source(&status).is_some() => {
            RuntimeCallFailed::Unreachable(innermost(&status))
        }
        _ => RuntimeCallFailed::Refused(status.message().to_owned()),
    }
}

/// Success, or the thing was gone already.
fn gone_is_fine<T>(result: Result<T, Status>) -> Result<(), RuntimeCallFailed> {
    match result {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(failed(status)),
    }
}

fn timestamp(wire: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    let wire = wire?;
    // containerd sends year 1 for a time that is not set.
    (wire.seconds > 0).then(|| Timestamp::new(wire.seconds, wire.nanos).ok()).flatten()
}

impl Runtime for Containerd {
    fn version(&self) -> BoxFuture<'_, Result<String, RuntimeCallFailed>> {
        self.get_version().boxed()
    }

    fn image<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<StoredImage>, RuntimeCallFailed>> {
        self.find_image(name).boxed()
    }

    fn open_pull(&self) -> BoxFuture<'_, Result<PullScope, RuntimeCallFailed>> {
        self.create_lease().boxed()
    }

    fn close_pull(&self, scope: PullScope) -> BoxFuture<'_, Result<(), RuntimeCallFailed>> {
        self.delete_lease(scope).boxed()
    }

    fn has_blob<'a>(
        &'a self,
        scope: &'a PullScope,
        blob: &'a Blob,
    ) -> BoxFuture<'a, Result<bool, RuntimeCallFailed>> {
        self.find_blob(scope, blob).boxed()
    }

    fn store_blob<'a>(
        &'a self,
        scope: &'a PullScope,
        blob: &'a Blob,
        data: BoxStream<'a, std::io::Result<bytes::Bytes>>,
    ) -> BoxFuture<'a, Result<(), StoreBlobFailed>> {
        self.write_blob(scope, blob, data).boxed()
    }

    fn unpack<'a>(
        &'a self,
        scope: &'a PullScope,
        layers: &'a [Layer],
    ) -> BoxFuture<'a, Result<String, RuntimeCallFailed>> {
        self.unpack_layers(scope, layers).boxed()
    }

    fn name_image<'a>(
        &'a self,
        name: &'a str,
        manifest: &'a Blob,
    ) -> BoxFuture<'a, Result<(), RuntimeCallFailed>> {
        self.put_image(name, manifest).boxed()
    }

    fn prepare_rootfs<'a>(
        &'a self,
        key: &'a ContainerKey,
        image_id: &'a str,
        rootfs: &'a str,
    ) -> BoxFuture<'a, Result<Rootfs, RuntimeCallFailed>> {
        self.prepare_snapshot(key, image_id, rootfs).boxed()
    }

    fn start<'a>(
        &'a self,
        container: &'a NewContainer,
        rootfs: &'a Rootfs,
    ) -> BoxFuture<'a, Result<Timestamp, RuntimeCallFailed>> {
        self.start_container(container, rootfs).boxed()
    }

    fn wait<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Exit, RuntimeCallFailed>> {
        self.wait_for_exit(id).boxed()
    }

    fn kill<'a>(
        &'a self,
        id: &'a str,
        signal: i32,
        all: bool,
    ) -> BoxFuture<'a, Result<(), RuntimeCallFailed>> {
        self.send_signal(id, signal, all).boxed()
    }

    fn exec<'a>(
        &'a self,
        id: &'a str,
        command: &'a [String],
        limit: Duration,
    ) -> BoxFuture<'a, Result<ExecOutcome, RuntimeCallFailed>> {
        self.exec_in(id, command, limit).boxed()
    }

    fn settle<'a>(
        &'a self,
        id: &'a str,
        end: &'a Ended,
    ) -> BoxFuture<'a, Result<(), RuntimeCallFailed>> {
        self.settle_container(id, end).boxed()
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), RuntimeCallFailed>> {
        self.remove_container(id).boxed()
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<FoundContainer>, RuntimeCallFailed>> {
        self.list_containers().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_containerd_that_never_answers_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("containerd.sock");
        // Connections wait in the backlog, as those to a stopped containerd.
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let config = ContainerdConfig { socket, namespace: "test".into(), runc_root: None };
        let connected = Containerd::connect_within(&config, Duration::from_millis(200));
        let connected = tokio::time::timeout(Duration::from_secs(5), connected).await;
        let error = connected.expect("it is given up").err().expect("nobody answered");
        assert!(error.to_string().contains("gave no answer in time"), "{error}");
    }
}
