//! Pulls from OCI registries into the runtime's store.
//!
//! Anonymous. A registry is asked over HTTPS unless it is listed as insecure, then over plain HTTP.
//! The proxy variables of the environment are not used: they are those of the shell that started
//! the agent, and a registry is usually nearer to the node than they are.

use std::sync::OnceLock;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use oci_client::Reference;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

use super::Flights;
use crate::runtime::{
    Blob, Keeps, Layer, PullScope, Runtime, RuntimeCallFailed, StoreBlobFailed, StoredImage,
};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const READ_LIMIT: Duration = Duration::from_secs(60);
const LAYERS_AT_ONCE: usize = 3;
/// A manifest that needs more hops than index and image is a loop.
const MANIFEST_HOPS_MAX: usize = 3;

const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// A pull did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullImageFailed {
    #[error("{0}: not found")]
    NotFound(String),
    #[error("{0}: access denied, or the repository does not exist; pulls are anonymous")]
    Denied(String),
    #[error("the registry {registry} cannot be reached: {reason}")]
    Unreachable { registry: String, reason: String },
    #[error("the registry {registry} answered: {reason}")]
    Registry { registry: String, reason: String },
    #[error("no image for linux/{0} in the index")]
    NoPlatform(&'static str),
    #[error("the image's documents cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the image has {layers} layers, its config names {diff_ids}")]
    LayersDiffer { layers: usize, diff_ids: usize },
    #[error("the index leads to another index")]
    TooManyHops,
    #[error(transparent)]
    Store(#[from] StoreBlobFailed),
    #[error(transparent)]
    Runtime(#[from] RuntimeCallFailed),
}

/// The registries of the world, and which of them speak plain HTTP.
pub(crate) struct Registries {
    insecure: Vec<String>,
    http: OnceLock<oci_client::Client>,
    https: OnceLock<oci_client::Client>,
}

/// A manifest as the registry has it.
pub(super) struct RemoteManifest {
    pub(super) digest: String,
    document: Vec<u8>,
    parsed: Manifest,
}

impl RemoteManifest {
    pub(super) fn size(&self) -> u64 {
        self.parsed.layers.iter().map(|layer| layer.size).sum()
    }
}

/// An image's manifest, or an index: the fields that tell them apart are all optional.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyManifest {
    #[serde(default)]
    manifests: Vec<IndexEntry>,
}

#[derive(Deserialize)]
struct IndexEntry {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    media_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

#[derive(Deserialize)]
struct ConfigLayers {
    rootfs: DiffIds,
}

#[derive(Deserialize)]
struct DiffIds {
    diff_ids: Vec<String>,
}

impl Registries {
    /// `insecure` lists registries as image names spell them, `host` or `host:port`.
    pub(crate) fn new(insecure: Vec<String>) -> Self {
        Self { insecure, http: OnceLock::new(), https: OnceLock::new() }
    }

    /// Clients are made when first used: loading the system's certificates takes time and memory.
    fn client(&self, reference: &Reference) -> Result<&oci_client::Client, PullImageFailed> {
        let registry = reference.resolve_registry();
        let plain = self.insecure.iter().any(|insecure| insecure == registry);
        let slot = if plain { &self.http } else { &self.https };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            // Nothing is verified over plain HTTP; this spares loading the system's certificates.
            accept_invalid_certificates: plain,
            connect_timeout: Some(CONNECT_LIMIT),
            read_timeout: Some(READ_LIMIT),
            // Naming a proxy that is excepted for every host turns the environment's off.
            http_proxy: Some("http://127.0.0.1:9".to_owned()),
            no_proxy: Some("*,0.0.0.0/0,::/0".to_owned()),
            ..ClientConfig::default()
        };
        let client = oci_client::Client::try_from(config)
            .map_err(|error| registry_error(reference, &error))?;
        Ok(slot.get_or_init(|| client))
    }

    /// The manifest of the image for this machine's architecture.
    pub(super) async fn manifest(
        &self,
        reference: &Reference,
    ) -> Result<RemoteManifest, PullImageFailed> {
        let client = self.client(reference)?;
        let mut reference = reference.clone();
        for _ in 0..MANIFEST_HOPS_MAX {
            let (document, digest) = client
                .pull_manifest_raw(&reference, &RegistryAuth::Anonymous, &MANIFEST_TYPES)
                .await
                .map_err(|error| registry_error(&reference, &error))?;
            let any: AnyManifest = serde_json::from_slice(&document)?;
            if any.manifests.is_empty() {
                let parsed = serde_json::from_slice(&document)?;
                return Ok(RemoteManifest { digest, document: document.into(), parsed });
            }
            let here = any.manifests.into_iter().find(|entry| {
                entry.platform.as_ref().is_none_or(|platform| {
                    platform.os == "linux" && platform.architecture == architecture()
                })
            });
            let here = here.ok_or(PullImageFailed::NoPlatform(architecture()))?;
            reference = reference.clone_with_digest(here.digest);
        }
        Err(PullImageFailed::TooManyHops)
    }

    /// Brings all of an image into the runtime's store and unpacks it.
    pub(super) async fn fetch(
        &self,
        runtime: &dyn Runtime,
        flights: &Flights,
        scope: &PullScope,
        reference: &Reference,
        manifest: &RemoteManifest,
    ) -> Result<(Blob, StoredImage), PullImageFailed> {
        let client = self.client(reference)?;
        let parsed = &manifest.parsed;
        let mut config = Vec::new();
        client
            .pull_blob(reference, parsed.config.digest.as_str(), &mut config)
            .await
            .map_err(|error| registry_error(reference, &error))?;
        let diff_ids = serde_json::from_slice::<ConfigLayers>(&config)?.rootfs.diff_ids;
        if diff_ids.len() != parsed.layers.len() {
            return Err(PullImageFailed::LayersDiffer {
                layers: parsed.layers.len(),
                diff_ids: diff_ids.len(),
            });
        }
        let layers: Vec<Layer> = parsed
            .layers
            .iter()
            .zip(&diff_ids)
            .map(|(layer, diff_id)| Layer {
                blob: blob(layer, Keeps::default()),
                diff_id: diff_id.clone(),
            })
            .collect();
        // Collected first: a stream that maps borrowed layers is not `Send` to the compiler.
        let fetches: Vec<_> = layers
            .iter()
            .map(|layer| fetch_layer(client, runtime, flights, scope, reference, layer))
            .collect();
        futures::stream::iter(fetches).buffer_unordered(LAYERS_AT_ONCE).try_collect::<()>().await?;
        // Layers below are unpacked one after the other; the lowest one guards the whole stack.
        let turn = flights.turn(&format!("unpack {}", diff_ids.first().map_or("", |id| id)));
        let turn = turn.lock().await;
        let rootfs = runtime.unpack(scope, &layers).await?;
        drop(turn);
        let keeps = Keeps { blobs: Vec::new(), rootfs: Some(rootfs.clone()) };
        let config_blob = blob(&parsed.config, keeps);
        store(runtime, scope, &config_blob, config.clone()).await?;
        let documents = std::iter::once(&parsed.config).chain(&parsed.layers);
        let manifest_blob = Blob {
            media_type: parsed.media_type.clone().unwrap_or_else(|| MANIFEST_TYPES[0].to_owned()),
            digest: manifest.digest.clone(),
            size: manifest.document.len() as u64,
            keeps: Keeps { blobs: documents.map(|d| d.digest.clone()).collect(), rootfs: None },
        };
        store(runtime, scope, &manifest_blob, manifest.document.clone()).await?;
        let stored = StoredImage { manifest_digest: manifest.digest.clone(), config, rootfs };
        Ok((manifest_blob, stored))
    }
}

async fn fetch_layer(
    client: &oci_client::Client,
    runtime: &dyn Runtime,
    flights: &Flights,
    scope: &PullScope,
    reference: &Reference,
    layer: &Layer,
) -> Result<(), PullImageFailed> {
    let turn = flights.turn(&layer.blob.digest);
    let _turn = turn.lock().await;
    if runtime.has_blob(scope, &layer.blob).await? {
        return Ok(());
    }
    let data = client
        .pull_blob_stream(reference, layer.blob.digest.as_str())
        .await
        .map_err(|error| registry_error(reference, &error))?;
    Ok(runtime.store_blob(scope, &layer.blob, data.stream).await?)
}

async fn store(
    runtime: &dyn Runtime,
    scope: &PullScope,
    blob: &Blob,
    document: Vec<u8>,
) -> Result<(), StoreBlobFailed> {
    let data = futures::stream::iter([Ok(bytes::Bytes::from(document))]).boxed();
    runtime.store_blob(scope, blob, data).await
}

fn blob(descriptor: &Descriptor, keeps: Keeps) -> Blob {
    Blob {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        keeps,
    }
}

/// This machine's architecture as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn registry_error(reference: &Reference, error: &OciDistributionError) -> PullImageFailed {
    let registry = reference.resolve_registry().to_owned();
    match error {
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => {
            PullImageFailed::NotFound(reference.whole())
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            use OciErrorCode::{BlobUnknown, Denied, ManifestUnknown, NameUnknown, NotFound};
            let has = |codes: &[OciErrorCode]| {
                envelope.errors.iter().any(|error| codes.contains(&error.code))
            };
            if has(&[ManifestUnknown, NameUnknown, NotFound, BlobUnknown]) {
                PullImageFailed::NotFound(reference.whole())
            } else if has(&[Denied, OciErrorCode::Unauthorized]) {
                PullImageFailed::Denied(reference.whole())
            } else {
                PullImageFailed::Registry { registry, reason: envelope.to_string() }
            }
        }
        OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::UnauthorizedError { .. } => {
            PullImageFailed::Denied(reference.whole())
        }
        OciDistributionError::RequestError(_) | OciDistributionError::IoError(_) => {
            PullImageFailed::Unreachable { registry, reason: chain(error) }
        }
        other => PullImageFailed::Registry { registry, reason: other.to_string() },
    }
}

/// The last cause says what happened ("Connection refused"), the ones before only where.
fn chain(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
