//! Node lifecycle: turns silence of a node into conditions, taints and unready pods.
//!
//! Guarantees: a node counts as silent only after a whole grace period measured on this server's
//! clock, so clock skew, a restart or a pause of the control plane never condemns a node; when no
//! node at all is heard, none is condemned to eviction, since then the fault is here. Its pods
//! leave the endpoints before anything else is written about the node.

pub(crate) mod eviction;
mod verdict;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bowline_api::NODE_LEASES;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::core::Resource;
use kube::{Api, Client};

use self::verdict::Ready;
use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::pods;
use crate::queue::{Next, WorkQueue, start_workers};
use crate::recorder::Recorder;

const NAME: &str = "node-controller";

/// When a node was last heard, by this server's clock.
struct Heartbeats {
    heard: Mutex<HashMap<String, (Option<Timestamp>, Instant)>>,
}

impl Heartbeats {
    /// A heartbeat counts when its time differs from the last one's.
    fn note(&self, node: &str, renewed: Option<Timestamp>) {
        let mut heard = self.lock();
        match heard.get_mut(node) {
            Some((known, _)) if *known == renewed => {}
            Some(entry) => *entry = (renewed, Instant::now()),
            None => {
                heard.insert(node.to_owned(), (renewed, Instant::now()));
            }
        }
    }

    fn age(&self, node: &str) -> Duration {
        let mut heard = self.lock();
        heard.entry(node.to_owned()).or_insert_with(|| (None, Instant::now())).1.elapsed()
    }

    /// After a pause of this process nobody was heard, through no fault of theirs.
    fn forgive(&self) {
        let now = Instant::now();
        self.lock().values_mut().for_each(|(_, heard)| *heard = now);
    }

    fn forget(&self, node: &str) {
        self.lock().remove(node);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Option<Timestamp>, Instant)>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Lifecycle {
    client: Client,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    heartbeats: Arc<Heartbeats>,
    grace: Duration,
}

pub(crate) fn start(world: &World, grace: Duration) {
    let queue = WorkQueue::new();
    let heartbeats = Arc::new(Heartbeats { heard: Mutex::new(HashMap::new()) });
    wire(world, &queue, &heartbeats);
    let watched = (heartbeats.clone(), world.token.clone());
    world.tasks.spawn(async move { forgive_pauses(&watched.0, grace, &watched.1).await });
    let controller = Arc::new(Lifecycle {
        client: world.client.clone(),
        recorder: world.recorder.of(NAME),
        pods: world.pods.clone(),
        nodes: world.nodes.clone(),
        heartbeats,
        grace,
    });
    start_workers(world, (NAME, 4), &queue, move |key| {
        let controller = controller.clone();
        async move { controller.look(&key).await }
    });
}

fn wire(world: &World, queue: &Arc<WorkQueue<Key>>, heartbeats: &Arc<Heartbeats>) {
    let (on_lease, heard) = (queue.clone(), heartbeats.clone());
    world.leases.on_change(move |change| {
        let Some(lease) = change.new.filter(|lease| is_node_lease(lease)) else { return };
        let name = lease.metadata.name.as_deref().unwrap_or_default();
        let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
        heard.note(name, renewed.map(|time| time.0));
        if change.old.is_none() {
            on_lease.add(Key::new("", name));
        }
    });
    let (on_node, heard, nodes) = (queue.clone(), heartbeats.clone(), world.nodes.clone());
    let recorder = world.recorder.of(NAME);
    world.nodes.on_change(move |change| {
        let Some(node) = change.latest() else { return };
        let key = Key::of(&node.metadata);
        if change.new.is_none() {
            heard.forget(&key.name);
        } else if change.old.is_none() {
            let message = format!("Node {0} event: Registered Node {0} in Controller", key.name);
            recorder.normal(node.object_ref(&()), "RegisteredNode", message);
        }
        let ready = |node: Option<&Arc<Node>>| node.map(|node| verdict::ready(node));
        if ready(change.old) != ready(change.new) {
            // Whether anybody is ready decides about the eviction on all the others.
            nodes.all().iter().for_each(|node| on_node.add(Key::of(&node.metadata)));
        }
        on_node.add(key);
    });
    // A pod that comes up on a node that is already silent.
    let (on_pod, nodes) = (queue.clone(), world.nodes.clone());
    world.pods.on_change(move |change| {
        let Some(pod) = change.new.filter(|pod| pods::is_ready(pod)) else { return };
        let Some(node) = pods::node_name(pod) else { return };
        let key = Key::new("", node);
        if nodes.get(&key).is_some_and(|node| verdict::ready(&node) == Ready::Unknown) {
            on_pod.add(key);
        }
    });
}

fn is_node_lease(lease: &Lease) -> bool {
    lease.metadata.namespace.as_deref() == Some(NODE_LEASES)
}

/// Notices when this process stood still (a stopped process, a suspended machine).
async fn forgive_pauses(
    heartbeats: &Heartbeats,
    grace: Duration,
    token: &tokio_util::sync::CancellationToken,
) {
    let tick = (grace / 10).clamp(Duration::from_millis(50), Duration::from_secs(1));
    let mut last = Instant::now();
    while token.run_until_cancelled(tokio::time::sleep(tick)).await.is_some() {
        if last.elapsed() > tick + grace / 2 {
            tracing::warn!(pause = ?last.elapsed(), "the control plane stood still");
            heartbeats.forgive();
        }
        last = Instant::now();
    }
}

impl Lifecycle {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let Some(node) = self.nodes.get(key) else { return Ok(Next::Rest) };
        let age = self.heartbeats.age(&key.name);
        let silent = age >= self.grace;
        let known = verdict::ready(&node);
        let node = if silent && known != Ready::Unknown {
            if known == Ready::Yes {
                let message = format!("Node {} status is now: NodeNotReady", key.name);
                self.recorder.normal(node.object_ref(&()), "NodeNotReady", message);
            }
            self.mark_pods_not_ready(&key.name).await?;
            self.mark_unknown(&node).await?
        } else {
            node
        };
        let ready = verdict::ready(&node);
        if ready == Ready::Unknown && silent {
            self.mark_pods_not_ready(&key.name).await?;
        }
        let anyone_ready = self.nodes.all().iter().any(|node| verdict::ready(node) == Ready::Yes);
        self.write_taints(&node, anyone_ready).await?;
        // A little later than due, so that the next look finds the grace period over.
        let rest = self.grace.saturating_sub(age) + Duration::from_millis(5);
        Ok(Next::LookAgainIn(if silent { self.grace } else { rest }))
    }

    async fn mark_unknown(&self, node: &Arc<Node>) -> Result<Arc<Node>, SyncFailed> {
        let key = Key::of(&node.metadata);
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "status": { "conditions": verdict::unknown_conditions(node, Timestamp::now()) },
        });
        let written =
            api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        let Some(written) = written.if_found("marking as silent node", &key)? else {
            return Ok(node.clone());
        };
        self.nodes.written(written.clone());
        Ok(Arc::new(written))
    }

    async fn write_taints(&self, node: &Node, anyone_ready: bool) -> Result<(), SyncFailed> {
        let Some(taints) = verdict::taints(node, anyone_ready, Timestamp::now()) else {
            return Ok(());
        };
        let key = Key::of(&node.metadata);
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": taints },
        });
        let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if let Some(written) = written.if_found("tainting node", &key)? {
            self.nodes.written(written);
        }
        Ok(())
    }

    /// The pods of a silent node leave the endpoints: nobody knows whether they answer.
    async fn mark_pods_not_ready(&self, node: &str) -> Result<(), SyncFailed> {
        let ready = self
            .pods
            .all()
            .into_iter()
            .filter(|pod| pods::node_name(pod) == Some(node) && pods::is_ready(pod));
        let marks = futures::future::join_all(ready.map(|pod| self.mark_pod(pod))).await;
        marks.into_iter().collect()
    }

    async fn mark_pod(&self, pod: Arc<Pod>) -> Result<(), SyncFailed> {
        let key = Key::of(&pod.metadata);
        let status = pod.status.as_ref();
        let mut conditions = status.and_then(|s| s.conditions.clone()).unwrap_or_default();
        for condition in conditions.iter_mut().filter(|c| c.type_ == "Ready") {
            condition.status = "False".to_owned();
            condition.last_transition_time = Some(Time(Timestamp::now()));
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": pod.metadata.resource_version },
            "status": { "conditions": conditions },
        });
        let written =
            api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if let Some(written) = written.if_found("marking as not ready pod", &key)? {
            self.pods.written(written);
            let message = "Node is not ready".to_owned();
            self.recorder.warning(pod.object_ref(&()), "NodeNotReady", message);
        }
        Ok(())
    }
}
