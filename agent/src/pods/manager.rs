//! All pods of the node: one worker each.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::state::LogView;
use super::worker::{Desired, Worker};
use super::{Node, PodsConfig, Sandboxes};
use crate::runtime::{FoundContainer, Runtime, RuntimeCallFailed};

/// Takes the node's desired pods and keeps a worker for each.
pub(crate) struct PodManager {
    node: Arc<Node>,
    pods: Arc<Mutex<Pods>>,
}

#[derive(Default)]
struct Pods {
    workers: HashMap<String, Handle>,
    /// What earlier agents left, by pod UID, until a worker takes it.
    found: HashMap<String, Vec<FoundContainer>>,
    /// UIDs that something on the node belongs to; emptied by the first full set of pods.
    remains: HashMap<String, Pod>,
    next_worker: u64,
}

struct Handle {
    /// Tells this worker from a later one for the same pod.
    number: u64,
    desired: watch::Sender<Desired>,
    logs: watch::Receiver<LogView>,
    task: JoinHandle<()>,
}

/// Where the log of a container is, and whether it is still written.
pub(super) struct LogSource {
    pub(super) pod: Arc<Pod>,
    pub(super) view: watch::Receiver<LogView>,
}

impl PodManager {
    /// Looks at what is on the node already. Nothing is changed before the first pods are given.
    pub(crate) async fn start(
        config: PodsConfig,
        runtime: Arc<dyn Runtime>,
        network: Arc<dyn Sandboxes>,
        client: kube::Client,
    ) -> Result<Arc<Self>, RuntimeCallFailed> {
        let node = Arc::new(Node::new(config, runtime, network, client));
        let mut pods = Pods::default();
        for container in node.runtime.containers().await? {
            let key = &container.key;
            pods.remains
                .entry(key.pod_uid.clone())
                .or_insert_with(|| nameless(&key.pod_uid, &key.namespace, &key.pod));
            pods.found.entry(key.pod_uid.clone()).or_default().push(container);
        }
        for (uid, namespace, name) in names_on_disk(&node) {
            pods.remains.entry(uid.clone()).or_insert_with(|| nameless(&uid, &namespace, &name));
        }
        for (uid, _) in node.network.list() {
            pods.remains.entry(uid.clone()).or_insert_with(|| nameless(&uid, "", ""));
        }
        Ok(Arc::new(Self { node, pods: Arc::new(Mutex::new(pods)) }))
    }

    /// The complete set of pods that the API has for this node. Others are removed.
    pub(crate) fn set_desired(&self, desired: Vec<Arc<Pod>>) {
        let wanted: HashSet<String> = desired.iter().filter_map(|pod| pod.uid()).collect();
        let mut pods = self.lock();
        let gone: Vec<String> =
            pods.workers.keys().filter(|uid| !wanted.contains(*uid)).cloned().collect();
        for uid in gone {
            pods.remove(&uid);
        }
        let remains = std::mem::take(&mut pods.remains);
        for (uid, pod) in remains {
            if !wanted.contains(&uid) && !pods.workers.contains_key(&uid) {
                let desired = Desired { pod: Arc::new(pod), removed: true };
                self.add(&mut pods, uid, desired);
            }
        }
        for pod in desired {
            self.apply(&mut pods, pod);
        }
    }

    /// Ends all workers. Containers go on running.
    pub(crate) async fn shutdown(&self) {
        self.node.shutdown.cancel();
        let workers: Vec<Handle> = self.lock().workers.drain().map(|(_, handle)| handle).collect();
        for worker in workers {
            let _ = worker.task.await;
        }
    }

    pub(super) fn log_source(&self, namespace: &str, name: &str) -> Option<LogSource> {
        let pods = self.lock();
        let found = pods.workers.values().filter_map(|handle| {
            let Desired { pod, removed } = handle.desired.borrow().clone();
            let fits = pod.name_any() == name && pod.namespace().as_deref() == Some(namespace);
            fits.then(|| (removed, LogSource { pod, view: handle.logs.clone() }))
        });
        // One that is gone from the API may still be stopping while the next has its name.
        found.min_by_key(|(removed, _)| *removed).map(|(_, source)| source)
    }

    pub(super) fn log_path(&self, key: &crate::runtime::ContainerKey) -> std::path::PathBuf {
        self.node.logs.path(key)
    }

    fn lock(&self) -> MutexGuard<'_, Pods> {
        // Each change is one operation, so the maps are whole after a panic.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, pods: &mut Pods, pod: Arc<Pod>) {
        let Some(uid) = pod.uid() else { return };
        let Some(handle) = pods.workers.get(&uid) else {
            return self.add(pods, uid, Desired { pod, removed: false });
        };
        // Most calls change one pod of many: the workers of the others are left alone.
        handle.desired.send_if_modified(|desired| {
            let changed = desired.removed || !Arc::ptr_eq(&desired.pod, &pod);
            *desired = Desired { pod, removed: false };
            changed
        });
    }

    fn add(&self, pods: &mut Pods, uid: String, desired: Desired) {
        let found = pods.found.remove(&uid).unwrap_or_default();
        let (sender, receiver) = watch::channel(desired);
        let (view, logs) = watch::channel(LogView::default());
        let number = pods.next_worker;
        pods.next_worker += 1;
        let worker = Worker::new(self.node.clone(), receiver, view, &found);
        let shared = self.pods.clone();
        let own_uid = uid.clone();
        let task = tokio::spawn(async move {
            worker.run().await;
            let mut pods = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if pods.workers.get(&own_uid).is_some_and(|handle| handle.number == number) {
                pods.workers.remove(&own_uid);
            }
        });
        pods.workers.insert(uid, Handle { number, desired: sender, logs, task });
    }
}

impl Pods {
    fn remove(&mut self, uid: &str) {
        if let Some(handle) = self.workers.get(uid) {
            handle
                .desired
                .send_if_modified(|desired| !std::mem::replace(&mut desired.removed, true));
        }
    }
}

/// A pod of which only the name is known, for taking its remains away.
fn nameless(uid: &str, namespace: &str, name: &str) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.uid = Some(uid.to_owned());
    pod.metadata.namespace = Some(namespace.to_owned());
    pod.metadata.name = Some(name.to_owned());
    pod
}

/// Pods with a directory of logs or volumes: UID, namespace, name.
fn names_on_disk(node: &Node) -> Vec<(String, String, String)> {
    let entries = |dir: &str| {
        let dir = std::fs::read_dir(node.config.data_dir.join(dir)).into_iter().flatten();
        dir.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let logs = entries("logs").into_iter().filter_map(|entry| {
        let mut parts = entry.splitn(3, '_');
        let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
        Some((uid.to_owned(), namespace.to_owned(), name.to_owned()))
    });
    let volumes = entries("pods").into_iter().map(|uid| (uid, String::new(), String::new()));
    logs.chain(volumes).collect()
}
