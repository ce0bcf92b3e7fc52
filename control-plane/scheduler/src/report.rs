//! Says what became of a pod: the events `Scheduled` and `FailedScheduling`, and the condition
//! `PodScheduled`.
//!
//! Guarantees: reporting never delays a decision; a repeated refusal raises the count of one event
//! and does not write the condition again; a pod that was given a node meanwhile is not called
//! unschedulable any more. Reports are dropped when too many wait.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::facts::{PodFacts, SCHEDULER_NAME};

const WAITING: usize = 4096;
/// Refusals whose events are remembered for counting.
const REMEMBERED: usize = 2048;
/// How often a condition is written again when somebody else wrote the pod in between.
const CONFLICT_RETRIES: usize = 4;

enum Report {
    Placed { pod: Arc<PodFacts>, node: String },
    Refused { pod: Arc<PodFacts>, message: String },
}

#[derive(Clone)]
pub(crate) struct Reporter {
    reports: mpsc::Sender<Report>,
}

impl Reporter {
    /// Starts the task that writes the reports; it goes on as long as there is a reporter.
    pub(crate) fn start(client: Client) -> (Self, AbortOnDropHandle<()>) {
        let (reports, mut receiver) = mpsc::channel(WAITING);
        let task = tokio::spawn(async move {
            let mut told = Told { client, refusals: HashMap::new() };
            while let Some(report) = receiver.recv().await {
                told.tell(report).await;
            }
        });
        (Self { reports }, AbortOnDropHandle::new(task))
    }

    pub(crate) fn placed(&self, pod: Arc<PodFacts>, node: String) {
        self.send(Report::Placed { pod, node });
    }

    pub(crate) fn refused(&self, pod: Arc<PodFacts>, message: String) {
        self.send(Report::Refused { pod, message });
    }

    fn send(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            tracing::debug!("report dropped: too many wait");
        }
    }
}

struct Told {
    client: Client,
    /// By pod: the message, the event's name, its count.
    refusals: HashMap<String, (String, String, i32)>,
}

impl Told {
    async fn tell(&mut self, report: Report) {
        match report {
            Report::Placed { pod, node } => {
                self.refusals.remove(&pod.uid);
                let message =
                    format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
                self.store(&pod, ("Normal", "Scheduled", &message)).await;
            }
            Report::Refused { pod, message } => {
                if self.write_condition(&pod, &message).await {
                    self.tell_refused(&pod, message).await;
                }
            }
        }
    }

    async fn tell_refused(&mut self, pod: &PodFacts, message: String) {
        if let Some((known, name, count)) = self.refusals.get_mut(&pod.uid)
            && *known == message
        {
            *count += 1;
            let events: Api<Event> = Api::namespaced(self.client.clone(), &pod.namespace);
            let patch = serde_json::json!({
                "count": *count, "lastTimestamp": Time(Timestamp::now()),
            });
            if events.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.is_ok() {
                return;
            }
        }
        let stored = self.store(pod, ("Warning", "FailedScheduling", &message)).await;
        if self.refusals.len() >= REMEMBERED {
            self.refusals.clear();
        }
        if let Some(name) = stored {
            self.refusals.insert(pod.uid.clone(), (message, name, 1));
        }
    }

    async fn store(
        &self,
        pod: &PodFacts,
        (type_, reason, message): (&str, &str, &str),
    ) -> Option<String> {
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", pod.name, now.as_nanosecond())),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            },
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            type_: Some(type_.to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some(SCHEDULER_NAME.to_owned()), host: None }),
            reporting_component: Some(SCHEDULER_NAME.to_owned()),
            ..Event::default()
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), &pod.namespace);
        match events.create(&PostParams::default(), &event).await {
            Ok(stored) => stored.metadata.name,
            Err(error) => {
                tracing::debug!(%error, reason, "event not stored");
                None
            }
        }
    }

    /// Says whether the pod, as far as is known, still waits for a node.
    async fn write_condition(&self, pod: &PodFacts, message: &str) -> bool {
        if pod.refused.as_deref() == Some(message) {
            return true;
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let mut version = pod.version.clone();
        for _ in 0..=CONFLICT_RETRIES {
            let patch = serde_json::json!({
                "metadata": { "uid": pod.uid, "resourceVersion": version },
                "status": { "conditions": [{
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": message,
                    "lastTransitionTime": Time(Timestamp::now()),
                }]},
            });
            let patch = Patch::Strategic(&patch);
            match pods.patch_status(&pod.name, &PatchParams::default(), &patch).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => {
                    tracing::debug!(%error, pod = pod.name, "condition not written");
                    return true;
                }
                Ok(_) => return true,
            }
            // What came in between may have been the binding.
            match pods.get(&pod.name).await.map(|live| PodFacts::of(&live)) {
                Ok(live) if live.uid == pod.uid && live.waits => version = live.version,
                _ => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::client::Body;
    use serde_json::{Value, json};
    use std::sync::Mutex;

    /// Reports a refusal of a pod that was seen at version 1 to an API where it is as given.
    async fn report(live: &'static str, node: Option<&'static str>) -> Vec<String> {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        let api = tower::service_fn(move |request: http::Request<Body>| {
            let seen = seen.clone();
            async move {
                let (head, body) = request.into_parts();
                let sent: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap())
                    .unwrap_or_default();
                let version = sent["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                let last = head.uri.path().rsplit('/').next().unwrap_or_default();
                seen.lock().unwrap().push(format!("{} {last} {version}", head.method));
                let conflict = head.method == http::Method::PATCH && version != live;
                let (code, answer) = match last {
                    _ if conflict => (409, json!({ "kind": "Status", "code": 409 })),
                    "events" => (201, json!({ "metadata": { "name": "e" }, "involvedObject": {} })),
                    _ => (
                        200,
                        json!({
                            "metadata": { "name": "p", "uid": "u", "resourceVersion": live },
                            "spec": { "nodeName": node, "containers": [] },
                        }),
                    ),
                };
                let answer = Body::from(answer.to_string().into_bytes());
                let answer = http::Response::builder().status(code).body(answer).unwrap();
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let client = Client::new(api, "default");
        let mut told = Told { client, refusals: HashMap::new() };
        let pod = PodFacts {
            uid: "u".into(),
            name: "p".into(),
            namespace: "default".into(),
            version: Some("1".into()),
            ..PodFacts::default()
        };
        told.tell(Report::Refused { pod: Arc::new(pod), message: "no room".into() }).await;
        asked.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn a_pod_is_called_unschedulable_only_while_it_waits() {
        let told = ["PATCH status 1", "POST events "];
        assert_eq!(report("1", None).await, told, "unchanged");
        let told = ["PATCH status 1", "GET p ", "PATCH status 2", "POST events "];
        assert_eq!(report("2", None).await, told, "changed by somebody else");
        let told = ["PATCH status 1", "GET p "];
        assert_eq!(report("2", Some("node1")).await, told, "bound meanwhile");
    }
}
