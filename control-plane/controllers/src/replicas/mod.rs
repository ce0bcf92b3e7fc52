//! Keeps the wanted number of pods for one owner: the loop that the replica set and the
//! replication controller share.
//!
//! Guarantees: no pod is made twice because of a lagging cache (what was written is in the cache
//! before the next look, see `cache`); creations grow in batches and stop at the first refusal; a
//! refused creation or deletion, and nothing else, shows in the condition `ReplicaFailure` and is
//! retried with back-off; a pod that cannot be adopted or released holds up no other pod, but none
//! is made before all are adopted.

pub(crate) mod plan;
mod status;

use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{Resource, Selector, SelectorExt};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::ownership::{self, Claim};
use crate::pods;
use crate::queue::{Next, WorkQueue, start_workers};
use crate::recorder::Recorder;
pub(crate) use status::{Counts, Failure, ReplicaStatus};

/// Pods made or deleted in one look at most; the rest follows in the next.
const BURST: usize = 500;
const DELETES_AT_ONCE: usize = 16;
/// Reasons of events and of the condition `ReplicaFailure`.
const FAILED_CREATE: &str = "FailedCreate";
const FAILED_DELETE: &str = "FailedDelete";

/// A kind whose whole work is a number of pods.
pub(crate) trait ReplicaOwner:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    const CONTROLLER: &'static str;
    fn replicas(&self) -> i32;
    /// `None` when it selects nothing or cannot be read.
    fn selector(&self) -> Option<Selector>;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn min_ready_seconds(&self) -> i32;
    fn status(&self) -> ReplicaStatus;
    /// Whether the kind's status has `terminatingReplicas`.
    const COUNTS_TERMINATING: bool;
}

/// Wires the events and starts the workers for one kind of owner.
pub(crate) fn start<K: ReplicaOwner>(world: &World, owners: &Arc<Cache<K>>) {
    let queue = WorkQueue::new();
    queue.follow(owners);
    let (on_pod, known) = (queue.clone(), owners.clone());
    world.pods.on_change(move |change| {
        for pod in change.states() {
            for key in owners_of(pod, &known) {
                on_pod.add(key);
            }
        }
    });
    let controller = Arc::new(Replicas {
        client: world.client.clone(),
        recorder: world.recorder.of(K::CONTROLLER),
        pods: world.pods.clone(),
        owners: owners.clone(),
    });
    start_workers(world, (K::CONTROLLER, 4), &queue, move |key| {
        let controller = controller.clone();
        async move { controller.look(&key).await }
    });
}

/// The controller of the pod, or for an orphan everything that would adopt it.
fn owners_of<K: ReplicaOwner>(pod: &Pod, owners: &Cache<K>) -> Vec<Key> {
    if ownership::controller_of(&pod.metadata).is_some() {
        return ownership::controller_key::<K>(&pod.metadata).into_iter().collect();
    }
    let Some(labels) = &pod.metadata.labels else { return Vec::new() };
    owners
        .in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default())
        .iter()
        .filter(|owner| owner.selector().is_some_and(|selector| selector.matches(labels)))
        .map(|owner| Key::of(owner.meta()))
        .collect()
}

struct Replicas<K> {
    client: Client,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    owners: Arc<Cache<K>>,
}

impl<K: ReplicaOwner> Replicas<K> {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let Some(owner) = self.owners.get(key) else { return Ok(Next::Rest) };
        let Some(selector) = owner.selector() else { return Ok(Next::Rest) };
        let (pods, claimed) = self.claim_pods(&owner, &selector).await;
        let leaves = owner.meta().deletion_timestamp.is_some();
        let (reason, outcome) = match claimed {
            // Not knowing which pods are its own, it could make too many.
            Err(error) => (None, Err(error)),
            Ok(()) if leaves => (None, Ok(())),
            Ok(()) => self.converge(&owner, &pods).await,
        };
        let failure = match (&outcome, reason) {
            (Ok(()), _) => None,
            (Err(error), Some(reason)) if !error.is_stale() => Some(Failure {
                reason: reason.to_owned(),
                message: error.cause(),
                since: Timestamp::now(),
            }),
            // Whether pods can be made or deleted was not found out.
            (Err(_), _) => owner.status().failure,
        };
        let pods: Vec<_> =
            pods.iter().map(|pod| self.fresh(pod)).chain(self.made(&owner, &pods)).collect();
        let next = self.report(&owner, &pods, failure).await?;
        outcome.map(|()| next)
    }

    /// The pod as the cache has it now, after our own writes.
    fn fresh(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        self.pods
            .get(&Key::of(&pod.metadata))
            .filter(|now| now.metadata.uid == pod.metadata.uid)
            .unwrap_or_else(|| pod.clone())
    }

    /// Pods of the owner that came since the look began.
    fn made(&self, owner: &K, before: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let uid = owner.meta().uid.as_deref();
        self.pods
            .in_namespace(owner.meta().namespace.as_deref().unwrap_or_default())
            .into_iter()
            .filter(|pod| ownership::is_controlled_by(&pod.metadata, uid))
            .filter(|pod| !before.iter().any(|known| known.metadata.uid == pod.metadata.uid))
            .collect()
    }

    /// The pods that are the owner's, and the first failure to make one so or not so.
    async fn claim_pods(
        &self,
        owner: &K,
        selector: &Selector,
    ) -> (Vec<Arc<Pod>>, Result<(), SyncFailed>) {
        let meta = owner.meta();
        let uid = meta.uid.as_deref().unwrap_or_default();
        let leaves = meta.deletion_timestamp.is_some();
        let none = std::collections::BTreeMap::new();
        let mut claimed = Vec::new();
        let mut failure = Ok(());
        for pod in self.pods.in_namespace(meta.namespace.as_deref().unwrap_or_default()) {
            let selected = selector.matches(pod.metadata.labels.as_ref().unwrap_or(&none));
            match ownership::claim(&pod.metadata, uid, leaves, selected) {
                Claim::Keep => claimed.push(pod),
                Claim::Adopt if pods::is_active(&pod) => match self.adopt(owner, &pod).await {
                    Ok(adopted) => claimed.extend(adopted),
                    Err(error) => failure = failure.and(Err(error)),
                },
                Claim::Release => {
                    let owners = ownership::without_owner(&pod.metadata, uid);
                    let act = "releasing pod";
                    match ownership::write_owners(&self.client, &pod.metadata, act, &owners).await {
                        Ok(written) => {
                            written.into_iter().for_each(|pod| self.pods.written(pod));
                        }
                        Err(error) => failure = failure.and(Err(error)),
                    }
                }
                Claim::Adopt | Claim::Ignore => {}
            }
        }
        (claimed, failure)
    }

    async fn adopt(&self, owner: &K, pod: &Pod) -> Result<Option<Arc<Pod>>, SyncFailed> {
        let key = Key::of(owner.meta());
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        // The cached owner may be outdated; an owner on its way out must not adopt.
        let live = api.get(&key.name).await.if_found("reading", &key)?;
        let live = live.filter(|live| {
            live.meta().uid == owner.meta().uid && live.meta().deletion_timestamp.is_none()
        });
        let Some(reference) = live.as_ref().and_then(ownership::controller_reference) else {
            return Ok(None);
        };
        let owners = ownership::with_owner(&pod.metadata, reference);
        let adopted: Option<Pod> =
            ownership::write_owners(&self.client, &pod.metadata, "adopting pod", &owners).await?;
        Ok(adopted.map(|pod| {
            self.pods.written(pod.clone());
            Arc::new(pod)
        }))
    }

    /// Makes or deletes pods; what comes with the result is the reason for a failure of it.
    async fn converge(
        &self,
        owner: &K,
        pods: &[Arc<Pod>],
    ) -> (Option<&'static str>, Result<(), SyncFailed>) {
        let active: Vec<&Pod> =
            pods.iter().map(Arc::as_ref).filter(|pod| pods::is_active(pod)).collect();
        match plan::step(owner.replicas(), &active) {
            plan::Step::Enough => (None, Ok(())),
            plan::Step::Create(count) => {
                (Some(FAILED_CREATE), self.create(owner, count.min(BURST)).await)
            }
            plan::Step::Delete(mut surplus) => {
                surplus.truncate(BURST);
                (Some(FAILED_DELETE), self.delete(owner, surplus).await)
            }
        }
    }

    async fn create(&self, owner: &K, count: usize) -> Result<(), SyncFailed> {
        let Some(template) = owner.template() else { return Ok(()) };
        let pod = pod_of(owner, template);
        let mut left = count;
        // One first, then twice as many each time: a template that is refused costs one request.
        let mut batch = 1;
        while left > 0 {
            let size = batch.min(left);
            let results = join_all((0..size).map(|_| self.create_one(owner, &pod))).await;
            results.into_iter().collect::<Result<Vec<()>, _>>()?;
            left -= size;
            batch *= 2;
        }
        Ok(())
    }

    async fn create_one(&self, owner: &K, pod: &Pod) -> Result<(), SyncFailed> {
        let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let about = owner.object_ref(&());
        let made = api.create(&PostParams::default(), pod).await;
        match made.doing("creating a pod for", Key::of(owner.meta())) {
            Ok(pod) => {
                let name = pod.metadata.name.clone().unwrap_or_default();
                self.pods.written(pod);
                self.recorder.normal(about, "SuccessfulCreate", format!("Created pod: {name}"));
                Ok(())
            }
            // Nothing can be made in a namespace that goes away, and nobody needs to be told.
            Err(error) if namespace_goes(&error) => Ok(()),
            Err(error) => {
                let message = format!("Error creating: {}", error.cause());
                self.recorder.warning(about, FAILED_CREATE, message);
                Err(error)
            }
        }
    }

    async fn delete(&self, owner: &K, surplus: Vec<&Pod>) -> Result<(), SyncFailed> {
        for some in surplus.chunks(DELETES_AT_ONCE) {
            let results = join_all(some.iter().map(|pod| self.delete_one(owner, pod))).await;
            results.into_iter().collect::<Result<Vec<()>, _>>()?;
        }
        Ok(())
    }

    async fn delete_one(&self, owner: &K, pod: &Pod) -> Result<(), SyncFailed> {
        let key = Key::of(&pod.metadata);
        let deleted = delete_pod(&self.client, &self.pods, pod).await;
        let about = owner.object_ref(&());
        match deleted {
            Ok(()) => {
                let message = format!("Deleted pod: {}", key.name);
                self.recorder.normal(about, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) if error.is_stale() => Err(error),
            Err(error) => {
                let message = format!("Error deleting: {}", error.cause());
                self.recorder.warning(about, FAILED_DELETE, message);
                Err(error)
            }
        }
    }

    async fn report(
        &self,
        owner: &K,
        pods: &[Arc<Pod>],
        failure: Option<Failure>,
    ) -> Result<Next, SyncFailed> {
        let now = Timestamp::now();
        let (mut counts, next_available) =
            status::count(pods, owner.template(), owner.min_ready_seconds(), now);
        if !K::COUNTS_TERMINATING {
            counts.terminating = 0;
        }
        let old = owner.status();
        let new = old.next(counts, failure, owner.meta().generation);
        if new != old {
            let key = Key::of(owner.meta());
            let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
            let patch = Patch::Merge(new.patch(K::COUNTS_TERMINATING));
            let written = api.patch_status(&key.name, &PatchParams::default(), &patch).await;
            if let Some(written) = written.if_found("writing the status of", &key)? {
                self.owners.written(written);
            }
        }
        Ok(next_available.map_or(Next::Rest, Next::LookAgainIn))
    }
}

fn namespace_goes(error: &SyncFailed) -> bool {
    error.status().is_some_and(|status| {
        let causes = status.details.iter().flat_map(|details| &details.causes);
        status.code == 403
            && (causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
                || status.message.contains("is being terminated"))
    })
}

/// Deletes this very pod, gracefully; the cache knows of it before the watch does.
pub(crate) async fn delete_pod(
    client: &Client,
    pods: &Cache<Pod>,
    pod: &Pod,
) -> Result<(), SyncFailed> {
    let key = Key::of(&pod.metadata);
    let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let preconditions = Preconditions { uid: pod.metadata.uid.clone(), ..Preconditions::default() };
    let params = DeleteParams::default().preconditions(preconditions);
    let answer = api.delete(&key.name, &params).await.if_found("deleting pod", &key)?;
    if let Some(answer) = answer
        && let Some(left) = answer.left()
        && left.metadata.deletion_timestamp.is_some()
    {
        pods.written(left);
    } else {
        pods.remove(&key, pod.metadata.uid.as_deref());
    }
    Ok(())
}

fn pod_of<K: ReplicaOwner>(owner: &K, template: &PodTemplateSpec) -> Pod {
    let from = template.metadata.clone().unwrap_or_default();
    let name = owner.meta().name.as_deref().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: owner.meta().namespace.clone(),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: ownership::controller_reference(owner).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples;
    use crate::tasks::Tasks;
    use http::{Method, Request, Response};
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use kube::client::Body;
    use serde_json::{Value, json};
    use std::sync::Mutex;
    use tokio_util::sync::CancellationToken;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": { "name": "set", "namespace": "default", "uid": "set" },
            "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "set" } },
                "template": { "metadata": { "labels": { "app": "set" } } } },
            "status": { "replicas": 9, "conditions": [{ "type": "ReplicaFailure",
                "status": "True", "reason": "Before", "message": "before" }] },
        }))
        .unwrap()
    }

    fn pod(name: &str, owned: bool) -> Pod {
        let mut pod = samples::pod(name);
        pod.metadata.labels = Some([("app".to_owned(), "set".to_owned())].into());
        let reference = ownership::controller_reference(&set(0)).unwrap();
        pod.metadata.owner_references = owned.then(|| vec![reference]);
        pod
    }

    /// The reason of the condition after a look of which `refused` pod writes fail with `code`.
    async fn reason(set: ReplicaSet, pods: Vec<Pod>, refused: Method, code: u16) -> Option<String> {
        let written = Arc::new(Mutex::new(None));
        let (seen, live) = (written.clone(), serde_json::to_value(&set).unwrap());
        let api = tower::service_fn(move |request: Request<Body>| {
            let (seen, live, refused) = (seen.clone(), live.clone(), refused.clone());
            async move {
                let (head, body) = request.into_parts();
                let path = head.uri.path();
                let (code, answer) = if path.contains("/pods") && head.method == refused {
                    (code, json!({ "kind": "Status", "code": code, "message": "no" }))
                } else {
                    (200, live)
                };
                if path.ends_with("/replicasets/set/status") {
                    let sent = body.collect_bytes().await.unwrap();
                    let sent: Value = serde_json::from_slice(&sent).unwrap();
                    *seen.lock().unwrap() = Some(sent["status"]["conditions"].clone());
                }
                let answer = Body::from(answer.to_string().into_bytes());
                let answer = Response::builder().status(code).body(answer).unwrap();
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let (client, token) = (Client::new(api, "default"), CancellationToken::new());
        let tasks = Tasks::new(token.clone());
        let controller = Replicas::<ReplicaSet> {
            recorder: Recorder::start(client.clone(), &tasks, token),
            client,
            pods: Cache::new(),
            owners: Cache::new(),
        };
        pods.into_iter().for_each(|pod| controller.pods.written(pod));
        controller.owners.written(set);
        controller.look(&Key::new("default", "set")).await.unwrap_err();
        let conditions = written.lock().unwrap().take().expect("a status");
        conditions[0]["reason"].as_str().map(str::to_owned)
    }

    #[tokio::test]
    async fn only_pods_that_cannot_be_made_or_deleted_show_in_the_condition() {
        let (mine, orphan) = (vec![pod("a", true)], vec![pod("a", false)]);
        let table = [
            ("cannot be made", set(1), vec![], Method::POST, 403, "FailedCreate"),
            ("cannot be deleted", set(0), mine.clone(), Method::DELETE, 500, "FailedDelete"),
            ("deleted by others", set(0), mine, Method::DELETE, 409, "Before"),
            ("cannot be adopted", set(1), orphan.clone(), Method::PATCH, 409, "Before"),
            ("cannot be adopted at all", set(1), orphan, Method::PATCH, 500, "Before"),
        ];
        for (name, set, pods, refused, code, expected) in table {
            let got = reason(set, pods, refused, code).await;
            assert_eq!(got.as_deref(), Some(expected), "{name}");
        }
    }
}
