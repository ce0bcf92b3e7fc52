//! Images on this node: what is there, and getting what is not.
//!
//! Guarantees: an image name is pulled once at a time, a layer that several images share is
//! fetched and unpacked once; a name that was resolved once costs no call to the runtime until the
//! runtime says that the image is gone ([`Images::forget`]).
//! Not here: removing images that nobody uses, and credentials (pulls are anonymous).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Container;
use oci_client::Reference;

use crate::runtime::{Runtime, RuntimeCallFailed, StoredImage};

mod config;
pub(crate) mod name;
mod registry;

pub(crate) use config::ImageConfig;
pub(crate) use registry::{PullImageFailed, Registries};

/// An image that is ready to run.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// The full name, as `registry/repository:tag`.
    pub(crate) name: String,
    /// `registry/repository@digest`: what the pod's status shows.
    pub(crate) id: String,
    /// What the runtime calls the unpacked file system.
    pub(crate) rootfs: String,
    pub(crate) config: ImageConfig,
}

/// How an image came to be there; for the pod's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    WasPresent,
    Pulled { took: Duration, bytes: u64 },
}

/// When a registry is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    pub(crate) fn of(container: &Container) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some(_) => Self::IfNotPresent,
            None => {
                let image = container.image.as_deref().unwrap_or_default();
                let last = image.rsplit('/').next().unwrap_or(image);
                let fixed = last.contains('@')
                    || last.split_once(':').is_some_and(|(_, tag)| tag != "latest");
                if fixed { Self::IfNotPresent } else { Self::Always }
            }
        }
    }
}

/// An image cannot be had; the variants are the reasons that a container's status shows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveImageFailed {
    #[error("Failed to apply default image tag {image:?}: couldn't parse image name: {source}")]
    InvalidName { image: String, source: name::ParseNameFailed },
    #[error("Container image {0:?} is not present with pull policy of Never")]
    NeverPull(String),
    #[error("failed to pull image {image:?}: {source}")]
    Pull { image: String, source: PullImageFailed },
}

impl ResolveImageFailed {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "InvalidImageName",
            Self::NeverPull(_) => "ErrImageNeverPull",
            Self::Pull { .. } => "ErrImagePull",
        }
    }
}

/// The node's images.
pub(crate) struct Images {
    runtime: Arc<dyn Runtime>,
    registries: Registries,
    known: Mutex<HashMap<String, Arc<Image>>>,
    flights: Flights,
}

impl Images {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, registries: Registries) -> Self {
        Self { runtime, registries, known: Mutex::default(), flights: Flights::default() }
    }

    /// Makes the image ready. `pulling` is called before a registry is asked.
    pub(crate) async fn resolve(
        &self,
        image: &str,
        policy: PullPolicy,
        pulling: impl FnOnce() + Send,
    ) -> Result<(Arc<Image>, Arrival), ResolveImageFailed> {
        let reference = name::parse(image).map_err(|source| ResolveImageFailed::InvalidName {
            image: image.to_owned(),
            source,
        })?;
        let name = reference.whole();
        if policy != PullPolicy::Always
            && let Some(known) = self.known(&name)
        {
            return Ok((known, Arrival::WasPresent));
        }
        let pull_failed = |source| ResolveImageFailed::Pull { image: image.to_owned(), source };
        let turn = self.flights.turn(&name);
        let _turn = turn.lock().await;
        let stored = match self.known(&name) {
            Some(known) => Some(known),
            None => self.stored(&reference, &name).await.map_err(|e| pull_failed(e.into()))?,
        };
        match (policy, stored) {
            (PullPolicy::Never | PullPolicy::IfNotPresent, Some(image)) => {
                Ok((image, Arrival::WasPresent))
            }
            (PullPolicy::Never, None) => Err(ResolveImageFailed::NeverPull(image.to_owned())),
            (PullPolicy::Always | PullPolicy::IfNotPresent, stored) => {
                pulling();
                self.pull(&reference, &name, stored).await.map_err(pull_failed)
            }
        }
    }

    /// Drops what is remembered of an image, because the runtime does not have it any more.
    pub(crate) fn forget(&self, image: &Image) {
        lock(&self.known).remove(&image.name);
    }

    fn known(&self, name: &str) -> Option<Arc<Image>> {
        lock(&self.known).get(name).cloned()
    }

    async fn stored(
        &self,
        reference: &Reference,
        name: &str,
    ) -> Result<Option<Arc<Image>>, RuntimeCallFailed> {
        let stored = self.runtime.image(name).await?;
        Ok(stored.and_then(|stored| self.remember(reference, name, &stored).ok()))
    }

    fn remember(
        &self,
        reference: &Reference,
        name: &str,
        stored: &StoredImage,
    ) -> Result<Arc<Image>, serde_json::Error> {
        let image = Arc::new(Image {
            name: name.to_owned(),
            id: format!(
                "{}/{}@{}",
                reference.registry(),
                reference.repository(),
                stored.manifest_digest
            ),
            rootfs: stored.rootfs.clone(),
            config: ImageConfig::parse(&stored.config)?,
        });
        lock(&self.known).insert(name.to_owned(), image.clone());
        Ok(image)
    }

    async fn pull(
        &self,
        reference: &Reference,
        name: &str,
        stored: Option<Arc<Image>>,
    ) -> Result<(Arc<Image>, Arrival), PullImageFailed> {
        let begun = Instant::now();
        let manifest = self.registries.manifest(reference).await?;
        let arrival = |bytes| Arrival::Pulled { took: begun.elapsed(), bytes };
        if let Some(image) = stored
            && image.id.ends_with(&format!("@{}", manifest.digest))
        {
            return Ok((image, arrival(manifest.size())));
        }
        let scope = self.runtime.open_pull().await?;
        let pulled = self
            .registries
            .fetch(self.runtime.as_ref(), &self.flights, &scope, reference, &manifest)
            .await;
        let named = match pulled {
            Ok((blob, stored)) => match self.runtime.name_image(name, &blob).await {
                Ok(()) => Ok(stored),
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = self.runtime.close_pull(scope).await {
            tracing::warn!(image = name, %error, "the pull's lease stays until it expires");
        }
        let image = self.remember(reference, name, &named?)?;
        Ok((image, arrival(manifest.size())))
    }
}

/// One at a time per key; keys are forgotten when nobody holds their turn.
#[derive(Default)]
struct Flights(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Flights {
    fn turn(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.0);
        if let Some(turn) = turns.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(key.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The maps are valid after a panic of another holder: each insert is one operation.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_follows_the_tag() {
        for (image, given, expected) in [
            ("nginx", None, PullPolicy::Always),
            ("nginx:latest", None, PullPolicy::Always),
            ("nginx:1.27", None, PullPolicy::IfNotPresent),
            ("127.0.0.1:5000/nginx", None, PullPolicy::Always),
            ("127.0.0.1:5000/nginx:1", None, PullPolicy::IfNotPresent),
            ("nginx@sha256:00", None, PullPolicy::IfNotPresent),
            ("nginx", Some("Never"), PullPolicy::Never),
            ("nginx", Some("IfNotPresent"), PullPolicy::IfNotPresent),
            ("nginx:1.27", Some("Always"), PullPolicy::Always),
        ] {
            let container = Container {
                image: Some(image.into()),
                image_pull_policy: given.map(Into::into),
                ..Container::default()
            };
            assert_eq!(PullPolicy::of(&container), expected, "{image} {given:?}");
        }
    }
}
