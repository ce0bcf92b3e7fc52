//! Starting one container: image, environment, specification, process.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::Node;
use super::env::{ConfigSource, PodPlace, resolve_env};
use super::events::Severity;
use super::images::{Arrival, Image, PullPolicy, ResolveImageFailed};
use super::oci::{BindMount, SpecParts, build_spec};
use super::resources::{cgroup_limits, qos_class};
use super::users::resolve_user;
use super::volumes::{Volumes, container_mounts};
use crate::network::Sandbox;
use crate::runtime::{ContainerKey, NewContainer, Rootfs, RuntimeCallFailed};

const TERMINATION_LOG: &str = "/dev/termination-log";

/// What all containers of a pod stand on.
#[derive(Clone, Debug)]
pub(super) struct Grounded {
    pub(super) sandbox: Sandbox,
    pub(super) volumes: Volumes,
    pub(super) files: Vec<BindMount>,
}

/// A process that runs.
#[derive(Clone, Debug)]
pub(super) struct Started {
    pub(super) id: String,
    pub(super) image_id: String,
    pub(super) at: Timestamp,
}

/// A container did not come to run.
#[derive(Clone, Debug)]
pub(super) enum StartFailed {
    /// Nothing was made; trying again later may help.
    Blocked { reason: &'static str, message: String },
    /// The runtime could not start the process: it counts as a run that failed.
    Crashed { id: String, image_id: String, message: String },
}

impl StartFailed {
    fn config(error: &dyn std::fmt::Display) -> Self {
        Self::Blocked { reason: "CreateContainerConfigError", message: error.to_string() }
    }

    fn create(error: &dyn std::fmt::Display) -> Self {
        Self::Blocked { reason: "CreateContainerError", message: error.to_string() }
    }
}

impl From<ResolveImageFailed> for StartFailed {
    fn from(error: ResolveImageFailed) -> Self {
        Self::Blocked { reason: error.reason(), message: error.to_string() }
    }
}

pub(super) async fn start_container(
    node: &Node,
    pod: &Pod,
    container: &Container,
    key: ContainerKey,
    grounded: &Grounded,
) -> Result<Started, StartFailed> {
    let id = key.id();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let source = ConfigSource::new(node.client.clone(), namespace);
    let place = PodPlace {
        node: &node.config.node_name,
        node_ips: node.config.node_ips,
        pod_ips: grounded.sandbox.addresses,
    };
    let ((image, rootfs), env) =
        tokio::try_join!(async { prepare_image(node, pod, container, &key).await }, async {
            let env = resolve_env(pod, container, place, &source).await;
            env.map_err(|error| StartFailed::config(&error))
        },)?;
    let user = resolve_user(pod, container, &image.config.user, &rootfs)
        .map_err(|error| StartFailed::config(&error))?;
    let mut mounts = container_mounts(container, &grounded.volumes)
        .map_err(|error| StartFailed::config(&error))?;
    // What the pod mounts over these files itself wins.
    let own: Vec<_> = grounded
        .files
        .iter()
        .filter(|file| !mounts.iter().any(|mount| mount.container == file.container))
        .cloned()
        .collect();
    mounts.extend(own);
    mounts.push(
        termination_file(node, container, &key).map_err(|error| StartFailed::create(&error))?,
    );
    let cgroup = node.cgroups.container_path(&key.pod_uid, &id);
    let spec = build_spec(&SpecParts {
        pod,
        container,
        image: &image.config,
        user,
        sandbox: &grounded.sandbox,
        env,
        mounts,
        limits: cgroup_limits(qos_class(pod), container, node.limits),
        cgroup: &cgroup,
    })
    .map_err(|error| StartFailed::create(&error))?;
    let log = node.logs.open(&key).map_err(|error| StartFailed::create(&error))?;
    let new = NewContainer {
        id: id.clone(),
        key,
        image: image.name.clone(),
        image_id: image.id.clone(),
        spec,
        log,
    };
    run(node, pod, container, &new, &rootfs, &image).await
}

async fn run(
    node: &Node,
    pod: &Pod,
    container: &Container,
    new: &NewContainer,
    rootfs: &Rootfs,
    image: &Image,
) -> Result<Started, StartFailed> {
    let name = &container.name;
    // The semaphore is never closed; without a permit the start is only less orderly.
    let _permit = node.starts.acquire().await;
    match node.runtime.start(new, rootfs).await {
        Ok(at) => {
            let events = &node.events;
            let created = format!("Created container: {name}");
            events.container(pod, name, Severity::Normal, "Created", created);
            let started = format!("Started container {name}");
            events.container(pod, name, Severity::Normal, "Started", started);
            Ok(Started { id: new.id.clone(), image_id: image.id.clone(), at })
        }
        Err(error) => {
            if let Err(error) = node.runtime.remove(&new.id).await {
                tracing::warn!(container = %name, %error, "remains of a failed start are left");
            }
            let message = error.to_string();
            node.events.container(
                pod,
                name,
                Severity::Warning,
                "Failed",
                format!("Error: {message}"),
            );
            match error {
                RuntimeCallFailed::Refused(_) => Err(StartFailed::Crashed {
                    id: new.id.clone(),
                    image_id: image.id.clone(),
                    message,
                }),
                RuntimeCallFailed::NotFound(_) => {
                    node.images.forget(image);
                    Err(StartFailed::create(&message))
                }
                RuntimeCallFailed::Unreachable(_) => Err(StartFailed::create(&message)),
            }
        }
    }
}

/// The image, and the container's root file system made from it.
async fn prepare_image(
    node: &Node,
    pod: &Pod,
    container: &Container,
    key: &ContainerKey,
) -> Result<(Arc<Image>, Rootfs), StartFailed> {
    let image = resolve(node, pod, container).await?;
    match node.runtime.prepare_rootfs(key, &image.id, &image.rootfs).await {
        Ok(rootfs) => Ok((image, rootfs)),
        Err(RuntimeCallFailed::NotFound(_)) => {
            // Somebody removed the image behind the agent's back.
            node.images.forget(&image);
            let image = resolve(node, pod, container).await?;
            let rootfs = node.runtime.prepare_rootfs(key, &image.id, &image.rootfs).await;
            Ok((image, rootfs.map_err(|error| StartFailed::create(&error))?))
        }
        Err(error) => Err(StartFailed::create(&error)),
    }
}

async fn resolve(node: &Node, pod: &Pod, container: &Container) -> Result<Arc<Image>, StartFailed> {
    let name = container.image.as_deref().unwrap_or_default();
    let event = |severity, reason, message| {
        node.events.container(pod, &container.name, severity, reason, message);
    };
    let pulling = || event(Severity::Normal, "Pulling", format!("Pulling image \"{name}\""));
    match node.images.resolve(name, PullPolicy::of(container), pulling).await {
        Ok((image, Arrival::WasPresent)) => {
            let message = format!("Container image \"{name}\" already present on machine");
            event(Severity::Normal, "Pulled", message);
            Ok(image)
        }
        Ok((image, Arrival::Pulled { took, bytes })) => {
            let message = format!(
                "Successfully pulled image \"{name}\" in {}ms. Image size: {bytes} bytes.",
                took.as_millis()
            );
            event(Severity::Normal, "Pulled", message);
            Ok(image)
        }
        Err(error) => {
            let reason = error.reason();
            let first = match &error {
                ResolveImageFailed::Pull { source, .. } => {
                    ("Failed", format!("Failed to pull image \"{name}\": {source}"))
                }
                ResolveImageFailed::InvalidName { .. } => ("InspectFailed", error.to_string()),
                ResolveImageFailed::NeverPull(_) => ("ErrImageNeverPull", error.to_string()),
            };
            event(Severity::Warning, first.0, first.1);
            event(Severity::Warning, "Failed", format!("Error: {reason}"));
            Err(error.into())
        }
    }
}

/// The file that a container may write its last words to.
pub(super) fn termination_path(node: &Node, key: &ContainerKey) -> PathBuf {
    node.pod_dir(&key.pod_uid).join("ends").join(format!("{}-{}", key.container, key.attempt))
}

fn termination_file(
    node: &Node,
    container: &Container,
    key: &ContainerKey,
) -> std::io::Result<BindMount> {
    let host = termination_path(node, key);
    if let Some(dir) = host.parent() {
        std::fs::create_dir_all(dir)?;
    }
    write_for_all(&host)?;
    let path = container.termination_message_path.as_deref().filter(|path| !path.is_empty());
    let container = path.unwrap_or(TERMINATION_LOG).to_owned();
    Ok(BindMount { host, container, read_only: false })
}

/// The container's user may be anyone.
fn write_for_all(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, [])?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}

/// Where probes of a pod on this ground are dialed.
pub(super) fn probe_address(sandbox: &Sandbox) -> IpAddr {
    IpAddr::V4(sandbox.addresses.v4)
}
