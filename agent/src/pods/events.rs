//! Events about pods, as kubectl users know them.
//!
//! Guarantees: recording never waits. Equal events of a pod are counted in one object. When the API
//! cannot take them as fast as they come, the newest are dropped; they are hints, not records.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

const QUEUE: usize = 512;
/// How many distinct events are remembered for counting.
const REMEMBERED_MAX: usize = 2048;
const COMPONENT: &str = "bowline-agent";

/// Whether an event tells of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Subject {
    uid: String,
    namespace: String,
    name: String,
    /// `spec.containers{name}` when the event is about one container.
    field_path: Option<String>,
    severity: Severity,
    reason: &'static str,
    message: String,
}

struct Seen {
    name: String,
    count: i32,
}

/// Takes events and posts them in the background.
#[derive(Clone)]
pub(crate) struct EventRecorder {
    queue: mpsc::Sender<Subject>,
}

impl EventRecorder {
    /// Ends when the last recorder is dropped.
    pub(crate) fn start(client: kube::Client, node: String) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(post(client, node, receiver));
        Self { queue }
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
        let subject = Subject {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            field_path,
            severity,
            reason,
            message,
        };
        if let Err(mpsc::error::TrySendError::Full(subject)) = self.queue.try_send(subject) {
            tracing::warn!(reason = subject.reason, pod = subject.name, "an event is dropped");
        }
    }
}

async fn post(client: kube::Client, node: String, mut queue: mpsc::Receiver<Subject>) {
    let mut seen: HashMap<Subject, Seen> = HashMap::new();
    while let Some(subject) = queue.recv().await {
        let api: Api<Event> = Api::namespaced(client.clone(), &subject.namespace);
        if let Some(earlier) = seen.get_mut(&subject) {
            earlier.count += 1;
            let patch = serde_json::json!({
                "count": earlier.count,
                "lastTimestamp": Time(Timestamp::now()),
            });
            let patched =
                api.patch(&earlier.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            if patched.is_ok() {
                continue;
            }
            // The API forgets events after some time: it is told anew.
        }
        let event = event(&subject, &node);
        let name = event.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                if seen.len() >= REMEMBERED_MAX {
                    seen.clear();
                }
                seen.insert(subject, Seen { name, count: 1 });
            }
            Err(error) => tracing::debug!(%error, reason = subject.reason, "an event is lost"),
        }
    }
}

fn event(subject: &Subject, node: &str) -> Event {
    let now = Timestamp::now();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", subject.name, now.as_nanosecond())),
            namespace: Some(subject.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(subject.name.clone()),
            namespace: Some(subject.namespace.clone()),
            uid: Some(subject.uid.clone()),
            field_path: subject.field_path.clone(),
            ..ObjectReference::default()
        },
        type_: Some(match subject.severity {
            Severity::Normal => "Normal".to_owned(),
            Severity::Warning => "Warning".to_owned(),
        }),
        reason: Some(subject.reason.to_owned()),
        message: Some(subject.message.clone()),
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            host: Some(node.to_owned()),
        }),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}
