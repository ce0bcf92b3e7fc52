//! API objects that this node needs, held in memory and kept current by watches.
//!
//! Guarantees: a reader never sees half of a list: until the first list of a kind has come in
//! whole, `synced` does not return, and a later re-list replaces what was held in one step. A
//! change is announced as soon as it is stored; announcements coalesce, the store never lags
//! behind them. Not guaranteed: that every intermediate version of an object is seen.
//!
//! Memory is the agent's tightest bound, so objects are stripped of what no plan reads.

pub(crate) mod checkpoint;
mod service;
mod services;
mod slice;
mod table;

use std::{fmt::Debug, hash::Hash, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use checkpoint::Checkpoint;
pub(crate) use service::ServiceFacts;
pub(crate) use services::{Announced, ServiceKey, ServiceTable, owner_of};
pub(crate) use slice::{Endpoint, Port, Shared, Slice};
pub(crate) use table::Table;

/// A watch that says nothing for this long is made anew, so that a connection which died without
/// a sign is noticed.
const WATCH_SECONDS: u32 = 60;

/// The cluster as far as this node is concerned.
pub(crate) struct Watched {
    /// Pods bound to this node.
    pub(crate) pods: Table<Pod>,
    /// All nodes: names, labels, addresses, pod ranges and the condition `Ready` only.
    pub(crate) nodes: Table<Node>,
    /// All services, each with its endpoint slices.
    pub(crate) services: ServiceTable,
}

impl Watched {
    /// What is known before anything was listed.
    pub(crate) fn empty() -> Self {
        Self { pods: Table::new(), nodes: Table::new(), services: ServiceTable::new() }
    }

    /// Starts the watches. They run until `shutdown` and retry for ever.
    pub(crate) fn start(
        client: &Client,
        node_name: &str,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Arc<Self> {
        let watched = Arc::new(Self::empty());
        let on_this_node = watcher::Config::default().fields(&format!("spec.nodeName={node_name}"));
        let all = watcher::Config::default();

        let to = watched.clone();
        let pods = follow::<Pod>(client, on_this_node, strip_pod, move |e| to.pods.take(e));
        let to = watched.clone();
        let nodes = follow::<Node>(client, all.clone(), strip_node, move |e| to.nodes.take(e));
        let to = watched.clone();
        let services = follow::<Service>(client, all.clone(), keep_all, move |e| {
            to.services.take_service(e);
        });
        let to = watched.clone();
        let slices = follow::<EndpointSlice>(client, all, keep_all, move |e| {
            to.services.take_slice(e);
        });
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(pods));
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(nodes));
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(services));
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(slices));
        watched
    }

    /// Waits until each kind has been listed once.
    pub(crate) async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        self.services.synced().await;
    }
}

/// A counter that waiters follow: how a table says that it changed.
#[derive(Debug)]
pub(crate) struct Announcer(watch::Sender<u64>);

impl Announcer {
    fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    fn announce(&self) {
        self.0.send_modify(|version| *version += 1);
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// Follows one kind for ever and hands each stripped event on, in order.
fn follow<K>(
    client: &Client,
    config: watcher::Config,
    strip: fn(&mut K),
    mut take: impl FnMut(Event<K>) + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    let api = Api::<K>::all(client.clone());
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    async move {
        let mut events = watcher::watcher(api, config.timeout(WATCH_SECONDS))
            .backoff(Reconnect::default())
            .boxed();
        let mut failing = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    failing = false;
                    take(event.modify(|object| {
                        object.managed_fields_mut().clear();
                        strip(object);
                    }));
                }
                // One line when trouble starts; the rest of an outage is silent.
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(kind, %error, "watch failed, retrying");
                }
                Err(error) => tracing::debug!(kind, %error, "watch failed, retrying"),
            }
        }
    }
}

/// How long to wait before a watch is tried again: a node that was cut off must be back within
/// seconds, and a hundred nodes must not all knock in the same moment.
#[derive(Debug, Default)]
struct Reconnect {
    failures: u32,
}

impl Iterator for Reconnect {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let base = 100_u64 << self.failures.min(4);
        self.failures = self.failures.saturating_add(1);
        Some(Duration::from_millis(base + rand::random_range(0..=base / 2)))
    }
}

impl Backoff for Reconnect {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

/// kubectl keeps a whole copy of the object in this annotation.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn strip_pod(pod: &mut Pod) {
    pod.annotations_mut().remove(LAST_APPLIED);
}

fn strip_node(node: &mut Node) {
    node.annotations_mut().clear();
    let Some(status) = node.status.as_mut() else { return };
    let addresses = status.addresses.take();
    let mut conditions = status.conditions.take();
    conditions.iter_mut().for_each(|all| all.retain(|condition| condition.type_ == "Ready"));
    *status =
        k8s_openapi::api::core::v1::NodeStatus { addresses, conditions, ..Default::default() };
}

/// For kinds whose tables hold a form of their own.
fn keep_all<K>(_: &mut K) {}
