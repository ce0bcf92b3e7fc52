//! Writes one pod's status to the API.
//!
//! Guarantees: statuses are written in order and the last one always arrives; equal ones are
//! written once; a failed write is tried again, with the newest status, until the pod is gone.
//! A status that says only that the pod is still being made waits a moment, so that a quick start
//! is one write and not three.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::status::condition_status;

const UNHURRIED: Duration = Duration::from_millis(80);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Where a pod's status goes.
pub(crate) struct StatusWriter {
    drafts: watch::Sender<Option<PodStatus>>,
    task: JoinHandle<()>,
    last: Option<PodStatus>,
}

impl StatusWriter {
    pub(crate) fn start(client: kube::Client, pod: &Pod) -> Self {
        let (drafts, receiver) = watch::channel(None);
        let target = Target::of(client, pod);
        Self { drafts, task: tokio::spawn(write_all(target, receiver)), last: None }
    }

    /// The status handed in last.
    pub(crate) fn last(&self) -> Option<&PodStatus> {
        self.last.as_ref()
    }

    pub(crate) fn set(&mut self, status: PodStatus) {
        if self.last.as_ref() != Some(&status) {
            self.last = Some(status.clone());
            self.drafts.send_replace(Some(status));
        }
    }

    /// Writes the last status again: somebody else has changed what the API holds.
    pub(crate) fn repeat(&self) {
        if self.last.is_some() {
            self.drafts.send_replace(self.last.clone());
        }
    }
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Target {
    api: Api<Pod>,
    name: String,
    uid: String,
}

impl Target {
    fn of(client: kube::Client, pod: &Pod) -> Self {
        let meta = &pod.metadata;
        Self {
            api: Api::namespaced(client, meta.namespace.as_deref().unwrap_or("default")),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }
}

async fn write_all(target: Target, mut drafts: watch::Receiver<Option<PodStatus>>) {
    let mut written: Option<PodStatus> = None;
    let mut pause = RETRY_FIRST;
    while drafts.changed().await.is_ok() {
        loop {
            let draft = drafts.borrow_and_update().clone();
            let Some(draft) = draft else { break };
            if !is_urgent(written.as_ref(), &draft) {
                let newer = tokio::time::timeout(UNHURRIED, drafts.changed()).await;
                if let Ok(Ok(())) = newer {
                    continue;
                }
            }
            match write(&target, &draft).await {
                Ok(()) => {
                    written = Some(draft);
                    pause = RETRY_FIRST;
                    break;
                }
                Err(error) if is_gone(&error) => return,
                Err(error) => {
                    tracing::warn!(pod = target.name, %error, "status is not written; retrying");
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }
}

/// Somebody may wait for it: readiness changed, the pod ended, or a container has trouble.
fn is_urgent(written: Option<&PodStatus>, draft: &PodStatus) -> bool {
    let ready = |status: &PodStatus| condition_status(status, "Ready") == Some("True");
    let was_ready = written.is_some_and(ready);
    let ended = matches!(draft.phase.as_deref(), Some("Succeeded" | "Failed"));
    ready(draft) != was_ready || ended
}

async fn write(target: &Target, status: &PodStatus) -> Result<(), kube::Error> {
    let patch = Patch::Strategic(patch(&target.uid, status).map_err(kube::Error::SerdeError)?);
    let params = PatchParams::default();
    target.api.patch_status(&target.name, &params, &patch).await.map(|_| ())
}

/// A strategic merge patch: conditions that others keep stay as they are.
fn patch(uid: &str, status: &PodStatus) -> serde_json::Result<Value> {
    let mut body = serde_json::to_value(status)?;
    // A patch keeps what it does not name, and of these lists what it does not list.
    for field in ["reason", "message", "podIP", "podIPs"] {
        if body.get(field).is_none() {
            body[field] = Value::Null;
        }
    }
    for condition in body["conditions"].as_array_mut().into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    for field in ["podIPs", "hostIPs"] {
        if let Some(list) = body[field].as_array_mut() {
            list.push(json!({"$patch": "replace"}));
        }
    }
    Ok(json!({"metadata": {"uid": uid}, "status": body}))
}

/// The pod is not there any more, or another one has its name.
fn is_gone(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    // A conflict that is not about the uid is one with another writer: the next attempt may win.
    status.code == 404 || status.code == 409 && status.message.contains("Precondition failed")
}

/// Removes the pod from the API for good, when nothing of it is left on the node.
pub(crate) async fn delete_from_api(client: kube::Client, pod: &Pod) {
    let target = Target::of(client, pod);
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: Some(target.uid.clone()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let mut pause = RETRY_FIRST;
    loop {
        match target.api.delete(&target.name, &params).await {
            Ok(_) => return,
            Err(error) if is_gone(&error) => return,
            Err(error) => {
                tracing::warn!(pod = target.name, %error, "pod is not deleted; retrying");
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_stays_and_what_the_agent_says_replaces() {
        let before = json!({"status": {
            "message": "old", "podIPs": [{"ip": "10.240.0.1"}], "hostIPs": [{"ip": "172.30.0.1"}],
            "conditions": [
                {"type": "x/y", "status": "True"},
                {"type": "Ready", "status": "False", "reason": "NotReady", "message": "old"},
            ],
        }});
        let draft = json!({
            "podIPs": [{"ip": "10.240.0.9"}], "hostIPs": [{"ip": "172.30.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        });
        let patch = patch("u", &serde_json::from_value(draft).unwrap()).unwrap();
        let kind = bowline_api::patch::PatchKind::Strategic;
        let pods = bowline_api::resource::find("", "v1", "pods").unwrap();
        let now = bowline_api::patch::apply(kind, pods, &before, &patch).unwrap();
        let status = json!({
            "podIPs": [{"ip": "10.240.0.9"}], "hostIPs": [{"ip": "172.30.0.1"}],
            "conditions": [{"type": "x/y", "status": "True"}, {"type": "Ready", "status": "True"}],
        });
        assert_eq!(now["status"], status);
    }

    #[test]
    fn only_the_pods_own_end_ends_the_writing() {
        for (code, message, gone) in [
            (404, "pods \"web\" not found", true),
            (409, "Precondition failed: UID in precondition: a, UID in object meta: b", true),
            (409, "the object has been modified; please apply your changes again", false),
            (500, "", false),
        ] {
            let status =
                kube::core::Status { code, message: message.to_owned(), ..Default::default() };
            assert_eq!(is_gone(&kube::Error::Api(Box::new(status))), gone, "{code} {message}");
        }
    }
}
