//! Events about pods, as kubectl users know them.
//!
//! Guarantees: recording never waits. Equal events of a pod are counted in one object, similar ones
//! are combined, and what is told of one pod is limited. When the API cannot take them as fast as
//! they come, the newest are dropped; they are hints, not records.

use bowline_api::happening::{Correlator, Happening};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, ObjectReference, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

const QUEUE: usize = 512;
const COMPONENT: &str = "bowline-agent";

/// Whether an event tells of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// Takes events and posts them in the background.
#[derive(Clone)]
pub(crate) struct EventRecorder {
    node: String,
    queue: mpsc::Sender<Happening>,
}

impl EventRecorder {
    /// Ends when the last recorder is dropped.
    pub(crate) fn start(client: kube::Client, node: String) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(post(client, receiver));
        Self { node, queue }
    }

    pub(crate) fn pod(&self, pod: &Pod, severity: Severity, reason: &'static str, message: String) {
        self.record(pod, None, severity, reason, message);
    }

    pub(crate) fn container(
        &self,
        pod: &Pod,
        container: &str,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let list = if inits.into_iter().any(|init| init.name == container) {
            "initContainers"
        } else {
            "containers"
        };
        let path = format!("spec.{list}{{{container}}}");
        self.record(pod, Some(path), severity, reason, message);
    }

    fn record(
        &self,
        pod: &Pod,
        field_path: Option<String>,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let happening = Happening {
            component: COMPONENT,
            host: Some(self.node.clone()),
            about: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                namespace: pod.metadata.namespace.clone(),
                uid: pod.metadata.uid.clone(),
                field_path,
                ..ObjectReference::default()
            },
            warning: severity == Severity::Warning,
            reason,
            message,
        };
        if let Err(mpsc::error::TrySendError::Full(happening)) = self.queue.try_send(happening) {
            let pod = happening.about.name.unwrap_or_default();
            tracing::warn!(reason = happening.reason, pod, "an event is dropped");
        }
    }
}

async fn post(client: kube::Client, mut queue: mpsc::Receiver<Happening>) {
    let mut correlator = Correlator::default();
    while let Some(what) = queue.recv().await {
        let Some(telling) = correlator.tell(&what, Timestamp::now()) else { continue };
        let api: Api<Event> = Api::namespaced(client.clone(), &telling.namespace);
        if !telling.is_new {
            let patch = Patch::Merge(telling.patch());
            if api.patch(&telling.name, &PatchParams::default(), &patch).await.is_ok() {
                continue;
            }
            // The API forgets events after some time: it is told anew.
        }
        if let Err(error) = api.create(&PostParams::default(), &telling.event(&what)).await {
            tracing::debug!(%error, reason = what.reason, "an event is lost");
        }
    }
}
