//! Images: blobs in the content store, layers unpacked by the diff service.
//!
//! containerd's garbage collector starts at image names and leases and follows labels: the manifest
//! names its config and layers, the config names the unpacked file system. A pull holds a lease
//! until the image has its name.

use std::collections::HashMap;

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::services::v1::{
    AddResourceRequest, ApplyRequest, CreateImageRequest, CreateRequest, DeleteRequest,
    GetImageRequest, Image, Info, InfoRequest, ReadContentRequest, Resource, UpdateImageRequest,
    UpdateRequest, WriteAction, WriteContentRequest,
};
use containerd_client::types::Descriptor;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::super::{
    Blob, Keeps, Layer, PullScope, RuntimeCallFailed, StoreBlobFailed, StoredImage,
};
use super::{Containerd, SNAPSHOTTER, failed, gone_is_fine};

/// A lease left by an agent that died during a pull goes away after this time.
const LEASE_HOURS: i64 = 24;
/// How much of a blob is in flight between the registry and containerd.
const WRITES_IN_FLIGHT: usize = 8;
const CHUNK_BYTES: usize = 256 << 10;

/// What the agent needs to know of a manifest.
#[derive(serde::Deserialize)]
struct Manifest {
    config: ManifestEntry,
}

#[derive(serde::Deserialize)]
struct ManifestEntry {
    digest: String,
}

/// What the runtime needs to know of an image's config.
#[derive(serde::Deserialize)]
struct ConfigLayers {
    rootfs: DiffIds,
}

#[derive(serde::Deserialize)]
struct DiffIds {
    diff_ids: Vec<String>,
}

impl Containerd {
    pub(super) async fn find_image(
        &self,
        name: &str,
    ) -> Result<Option<StoredImage>, RuntimeCallFailed> {
        let request = GetImageRequest { name: name.to_owned() };
        let image = match self.image_service().get(self.request(request)).await {
            Ok(answer) => answer.into_inner().image,
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(failed(status)),
        };
        let Some(target) = image.and_then(|image| image.target) else { return Ok(None) };
        match self.read_image(target.digest).await {
            Err(RuntimeCallFailed::NotFound(_)) => Ok(None),
            other => other,
        }
    }

    async fn read_image(
        &self,
        manifest_digest: String,
    ) -> Result<Option<StoredImage>, RuntimeCallFailed> {
        let manifest = self.read_blob(&manifest_digest).await?;
        // An index, which another tool has stored under the name, is no image for the agent.
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest) else { return Ok(None) };
        let config = self.read_blob(&manifest.config.digest).await?;
        let Ok(layers) = serde_json::from_slice::<ConfigLayers>(&config) else { return Ok(None) };
        let Some(rootfs) = chain_ids(&layers.rootfs.diff_ids).pop() else { return Ok(None) };
        if !self.has_snapshot(&rootfs).await? {
            return Ok(None);
        }
        Ok(Some(StoredImage { manifest_digest, config, rootfs }))
    }

    async fn read_blob(&self, digest: &str) -> Result<Vec<u8>, RuntimeCallFailed> {
        let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
        let answer = self.content().read(self.request(request)).await.map_err(failed)?;
        let mut parts = answer.into_inner();
        let mut data = Vec::new();
        while let Some(part) = parts.message().await.map_err(failed)? {
            data.extend_from_slice(&part.data);
        }
        Ok(data)
    }

    pub(super) async fn create_lease(&self) -> Result<PullScope, RuntimeCallFailed> {
        let expires = Timestamp::now() + SignedDuration::from_hours(LEASE_HOURS);
        let request = CreateRequest {
            id: format!("bowline-pull-{}", uuid::Uuid::new_v4().simple()),
            labels: HashMap::from([(
                "containerd.io/gc.expire".to_owned(),
                expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            )]),
        };
        let id = request.id.clone();
        self.leases().create(self.request(request)).await.map_err(failed)?;
        Ok(PullScope { lease: id })
    }

    pub(super) async fn delete_lease(&self, scope: PullScope) -> Result<(), RuntimeCallFailed> {
        let request = DeleteRequest { id: scope.lease, sync: false };
        let mut leases: LeasesClient<Channel> = self.leases();
        gone_is_fine(leases.delete(self.request(request)).await)
    }

    pub(super) async fn find_blob(
        &self,
        scope: &PullScope,
        blob: &Blob,
    ) -> Result<bool, RuntimeCallFailed> {
        let hold = AddResourceRequest {
            id: scope.lease.clone(),
            resource: Some(Resource { id: blob.digest.clone(), r#type: "content".to_owned() }),
        };
        self.leases().add_resource(self.request(hold)).await.map_err(failed)?;
        let request = InfoRequest { digest: blob.digest.clone() };
        match self.content().info(self.request(request)).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(failed(status)),
        }
    }

    pub(super) async fn write_blob(
        &self,
        scope: &PullScope,
        blob: &Blob,
        data: BoxStream<'_, std::io::Result<bytes::Bytes>>,
    ) -> Result<(), StoreBlobFailed> {
        let (requests, receiver) = mpsc::channel(WRITES_IN_FLIGHT);
        let mut content = self.content();
        let request = self.leased(scope, ReceiverStream::new(receiver));
        let answers = async {
            let mut answers = content.write(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok::<_, Status>(())
        };
        let (sent, answered) = tokio::join!(send_blob(blob, data, requests), answers);
        match answered {
            Ok(()) => sent.map_err(|source| read_failed(blob, source)),
            Err(status) if status.code() == Code::AlreadyExists => self
                .label_blob(blob)
                .await
                .map_err(|source| StoreBlobFailed::Store { digest: blob.digest.clone(), source }),
            Err(status) => match sent {
                Err(source) => Err(read_failed(blob, source)),
                Ok(()) => Err(StoreBlobFailed::Store {
                    digest: blob.digest.clone(),
                    source: failed(status),
                }),
            },
        }
    }

    async fn label_blob(&self, blob: &Blob) -> Result<(), RuntimeCallFailed> {
        let labels = keep_labels(&blob.keeps);
        if labels.is_empty() {
            return Ok(());
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = Info { digest: blob.digest.clone(), labels, ..Default::default() };
        let request =
            UpdateRequest { info: Some(info), update_mask: Some(prost_types::FieldMask { paths }) };
        self.content().update(self.request(request)).await.map(|_| ()).map_err(failed)
    }

    pub(super) async fn unpack_layers(
        &self,
        scope: &PullScope,
        layers: &[Layer],
    ) -> Result<String, RuntimeCallFailed> {
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let chain = chain_ids(&diff_ids);
        let mut parent = String::new();
        for (layer, name) in layers.iter().zip(&chain) {
            if !self.has_snapshot(name).await? {
                self.unpack_layer(scope, layer, &parent, name).await?;
            }
            parent.clone_from(name);
        }
        if parent.is_empty() {
            return Err(RuntimeCallFailed::Refused("the image has no layers".to_owned()));
        }
        Ok(parent)
    }

    async fn unpack_layer(
        &self,
        scope: &PullScope,
        layer: &Layer,
        parent: &str,
        name: &str,
    ) -> Result<(), RuntimeCallFailed> {
        let key = format!("unpack-{} {name}", uuid::Uuid::new_v4().simple());
        let prepare = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.clone(),
            parent: parent.to_owned(),
            labels: HashMap::new(),
        };
        let prepared = self.snapshots().prepare(self.leased(scope, prepare)).await;
        let mounts = prepared.map_err(failed)?.into_inner().mounts;
        let apply =
            ApplyRequest { diff: Some(descriptor(&layer.blob)), mounts, ..Default::default() };
        let unpacked = async {
            let applied = self.diffs().apply(self.leased(scope, apply)).await.map_err(failed)?;
            let applied = applied.into_inner().applied.unwrap_or_default().digest;
            if applied != layer.diff_id {
                return Err(RuntimeCallFailed::Refused(format!(
                    "layer {} unpacks to {applied}, its image says {}",
                    layer.blob.digest, layer.diff_id
                )));
            }
            let commit = CommitSnapshotRequest {
                snapshotter: SNAPSHOTTER.to_owned(),
                name: name.to_owned(),
                key: key.clone(),
                labels: HashMap::new(),
            };
            match self.snapshots().commit(self.leased(scope, commit)).await {
                Ok(_) => Ok(()),
                Err(status) => Err(failed(status)),
            }
        }
        .await;
        if let Err(error) = unpacked {
            let remove = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key };
            gone_is_fine(self.snapshots().remove(self.request(remove)).await)?;
            // Another pull may have been faster with the same layer.
            return if self.has_snapshot(name).await? { Ok(()) } else { Err(error) };
        }
        Ok(())
    }

    async fn has_snapshot(&self, name: &str) -> Result<bool, RuntimeCallFailed> {
        let request =
            StatSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: name.to_owned() };
        match self.snapshots().stat(self.request(request)).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(failed(status)),
        }
    }

    pub(super) async fn put_image(
        &self,
        name: &str,
        manifest: &Blob,
    ) -> Result<(), RuntimeCallFailed> {
        let image = Image {
            name: name.to_owned(),
            target: Some(descriptor(manifest)),
            ..Default::default()
        };
        let create = CreateImageRequest { image: Some(image.clone()), ..Default::default() };
        match self.image_service().create(self.request(create)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {
                let update = UpdateImageRequest {
                    image: Some(image),
                    update_mask: Some(prost_types::FieldMask { paths: vec!["target".to_owned()] }),
                    ..Default::default()
                };
                let updated = self.image_service().update(self.request(update)).await;
                updated.map(|_| ()).map_err(failed)
            }
            Err(status) => Err(failed(status)),
        }
    }
}

fn read_failed(blob: &Blob, source: std::io::Error) -> StoreBlobFailed {
    StoreBlobFailed::Read { digest: blob.digest.clone(), source }
}

/// Sends a blob as one write transaction. Ends early without an error when the receiver is gone:
/// the answer then says why.
async fn send_blob(
    blob: &Blob,
    mut data: BoxStream<'_, std::io::Result<bytes::Bytes>>,
    requests: mpsc::Sender<WriteContentRequest>,
) -> std::io::Result<()> {
    let total = i64::try_from(blob.size).unwrap_or(i64::MAX);
    let base = WriteContentRequest {
        r#ref: format!("bowline-{}", blob.digest),
        total,
        expected: blob.digest.clone(),
        ..Default::default()
    };
    let stat = WriteContentRequest { action: WriteAction::Stat.into(), ..base.clone() };
    if requests.send(stat).await.is_err() {
        return Ok(());
    }
    let mut offset = 0;
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    loop {
        let part = data.next().await.transpose()?;
        let last = part.is_none();
        chunk.extend_from_slice(part.as_deref().unwrap_or_default());
        if !chunk.is_empty() && (last || chunk.len() >= CHUNK_BYTES) {
            let length = i64::try_from(chunk.len()).unwrap_or(i64::MAX);
            let write = WriteContentRequest {
                action: WriteAction::Write.into(),
                offset,
                data: std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_BYTES)),
                ..base.clone()
            };
            offset += length;
            if requests.send(write).await.is_err() {
                return Ok(());
            }
        }
        if last {
            break;
        }
    }
    let commit = WriteContentRequest {
        action: WriteAction::Commit.into(),
        offset,
        labels: keep_labels(&blob.keeps),
        ..base
    };
    // A closed channel means that containerd has answered with an error already.
    let _ = requests.send(commit).await;
    Ok(())
}

fn keep_labels(keeps: &Keeps) -> HashMap<String, String> {
    let blobs =
        keeps.blobs.iter().enumerate().map(|(index, digest)| {
            (format!("containerd.io/gc.ref.content.{index}"), digest.clone())
        });
    let rootfs = keeps
        .rootfs
        .iter()
        .map(|name| (format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"), name.clone()));
    blobs.chain(rootfs).collect()
}

fn descriptor(blob: &Blob) -> Descriptor {
    Descriptor {
        media_type: blob.media_type.clone(),
        digest: blob.digest.clone(),
        size: i64::try_from(blob.size).unwrap_or(i64::MAX),
        annotations: HashMap::new(),
    }
}

/// The names of the file systems that come out of stacking layers, lowest first, as the OCI image
/// specification defines them.
pub(super) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(parent) => {
                let hash = Sha256::digest(format!("{parent} {diff_id}"));
                let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("sha256:{hex}")
            }
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_layer_is_its_own_chain() {
        assert_eq!(chain_ids(&["sha256:a".to_owned()]), ["sha256:a"]);
        assert!(chain_ids(&[]).is_empty());
    }

    #[test]
    fn a_chain_hashes_parent_and_layer() {
        let chain = chain_ids(&["sha256:a".to_owned(), "sha256:b".to_owned()]);
        // printf 'sha256:a sha256:b' | sha256sum
        assert_eq!(
            chain[1],
            "sha256:970a948bffa8de94d6e22d747ba8c95030e6e546909f98f54e99a13005e173a8"
        );
    }
}
