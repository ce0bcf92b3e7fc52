//! The controllers of bowline's control plane, each a client of the API and of nothing else.
//!
//! Guarantees: every kind is watched once, whatever the number of controllers that follow it, and
//! config maps once more for those of one name; a controller works only after all caches are
//! complete; decisions are pure functions of what the caches hold, and each write carries the
//! version or uid it was decided on where it matters.
//!
//! It does not elect a leader: exactly one process of a cluster runs this.

mod backends;
mod cache;
mod deployment;
mod disruption;
mod endpoint_slice;
mod endpoints;
mod event_gc;
mod failure;
mod garbage_collector;
mod ip_address;
mod kinds;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod ownership;
mod pod_gc;
mod pods;
mod queue;
mod recorder;
mod replica_set;
mod replicas;
mod replication_controller;
mod resource_quota;
mod root_ca;
mod service_account;
mod tasks;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bowline_api::cidr::{Cidr, DualStackCidr};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, Pod, ReplicationController, ResourceQuota, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::IPAddress;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::Resource;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Watched};
use crate::kinds::Kinds;
use crate::recorder::Recorder;
use crate::tasks::Tasks;

/// What the controllers need to know about the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The ranges that nodes get their parts of.
    pub pod_cidr: DualStackCidr,
    /// The prefix length of a node's part of each.
    pub node_mask_size: NodeMaskSize,
    /// How long a node may be silent before it counts as unreachable.
    pub node_monitor_grace_period: Duration,
    /// How long an event is kept after it happened last.
    pub event_ttl: Duration,
    /// The certificate of the cluster's authority, PEM, which every namespace gets.
    pub root_certificate: String,
}

/// The prefix lengths of a node's parts of the pod ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeMaskSize {
    pub v4: u8,
    pub v6: u8,
}

impl NodeMaskSize {
    /// The longest prefixes that leave a node room for pods.
    const LONGEST: Self = Self { v4: 30, v6: 112 };
    /// Parts are counted in 64 bits.
    pub(crate) const MOST_BITS: u8 = 63;

    /// The prefix length that is asked for parts of `range`.
    pub fn asked(self, range: Cidr) -> u8 {
        if range.is_ipv6() { self.v6 } else { self.v4 }
    }

    /// The prefix lengths that parts of `range` can have.
    pub fn choices(range: Cidr) -> RangeInclusive<u8> {
        let most = range.prefix().saturating_add(Self::MOST_BITS);
        range.prefix()..=Self::LONGEST.asked(range).min(most)
    }

    /// The prefix length for parts of `range`, if they fit into it and leave room for pods.
    pub fn of(self, range: Cidr) -> Option<u8> {
        let size = self.asked(range);
        Self::choices(range).contains(&size).then_some(size)
    }
}

/// What all controllers share.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) kinds: Arc<Kinds>,
    pub(crate) tasks: Tasks,
    pub(crate) token: CancellationToken,
    /// Turns true when every cache is complete.
    pub(crate) gate: watch::Sender<bool>,
    pub(crate) budgets: Arc<Cache<PodDisruptionBudget>>,
    pub(crate) deployments: Arc<Cache<Deployment>>,
    pub(crate) endpoints: Arc<Cache<Endpoints>>,
    pub(crate) ip_addresses: Arc<Cache<IPAddress>>,
    pub(crate) leases: Arc<Cache<Lease>>,
    pub(crate) namespaces: Arc<Cache<Namespace>>,
    pub(crate) nodes: Arc<Cache<Node>>,
    pub(crate) pods: Arc<Cache<Pod>>,
    pub(crate) quotas: Arc<Cache<ResourceQuota>>,
    pub(crate) replica_sets: Arc<Cache<ReplicaSet>>,
    pub(crate) replication_controllers: Arc<Cache<ReplicationController>>,
    pub(crate) root_maps: Arc<Cache<ConfigMap>>,
    pub(crate) service_accounts: Arc<Cache<ServiceAccount>>,
    pub(crate) services: Arc<Cache<Service>>,
    pub(crate) slices: Arc<Cache<EndpointSlice>>,
}

/// Runs all controllers until the token is cancelled; a panic in any of them ends all.
pub async fn run(client: Client, config: Config, token: CancellationToken) -> anyhow::Result<()> {
    let mut pools = Vec::new();
    for range in config.pod_cidr.ranges() {
        let size = config.node_mask_size.of(range);
        let size = size.with_context(|| format!("no part for a node fits into {range}"))?;
        pools.push((range, size));
    }
    // Whatever ends this function ends its tasks.
    let token = token.child_token();
    let _stop = token.clone().drop_guard();
    let world = World::new(client, token.clone());
    replicas::start(&world, &world.replica_sets);
    replicas::start(&world, &world.replication_controllers);
    deployment::start(&world);
    disruption::start(&world);
    endpoint_slice::start(&world);
    endpoint_slice::mirror::start(&world);
    endpoints::start(&world);
    node_lifecycle::start(&world, config.node_monitor_grace_period);
    node_lifecycle::eviction::start(&world);
    node_ipam::start(&world, pools);
    let usage = resource_quota::start(&world);
    garbage_collector::start(&world, usage);
    ip_address::start(&world);
    pod_gc::start(&world);
    event_gc::start(&world, config.event_ttl);
    namespace::start(&world);
    root_ca::start(&world, config.root_certificate);
    service_account::start(&world);
    world.watch();
    if token.run_until_cancelled(world.wait_synced()).await.is_some() {
        tracing::info!("controllers run");
        world.gate.send_replace(true);
        token.cancelled().await;
    }
    Ok(world.tasks.wait().await?)
}

impl World {
    fn new(client: Client, token: CancellationToken) -> Self {
        let tasks = Tasks::new(token.clone());
        Self {
            recorder: Recorder::start(client.clone(), &tasks, token.clone()),
            kinds: Kinds::new(client.clone()),
            client,
            tasks,
            token,
            gate: watch::Sender::new(false),
            budgets: Cache::new(),
            deployments: Cache::new(),
            endpoints: Cache::new(),
            ip_addresses: Cache::new(),
            leases: Cache::new(),
            namespaces: Cache::new(),
            nodes: Cache::new(),
            pods: Cache::new(),
            quotas: Cache::new(),
            replica_sets: Cache::new(),
            replication_controllers: Cache::new(),
            root_maps: Cache::new(),
            service_accounts: Cache::new(),
            services: Cache::new(),
            slices: Cache::new(),
        }
    }

    /// Starts the watches; the handlers are in place by now.
    fn watch(&self) {
        self.follow(&self.budgets);
        self.follow(&self.deployments);
        self.follow(&self.endpoints);
        self.follow(&self.ip_addresses);
        self.follow(&self.leases);
        self.follow(&self.namespaces);
        self.follow(&self.nodes);
        self.follow(&self.pods);
        self.follow(&self.quotas);
        self.follow(&self.replica_sets);
        self.follow(&self.replication_controllers);
        self.follow_chosen(&self.root_maps, root_ca::chosen());
        self.follow(&self.service_accounts);
        self.follow(&self.services);
        self.follow(&self.slices);
    }

    fn follow<K>(&self, cache: &Arc<Cache<K>>)
    where
        K: Watched + Resource<DynamicType = ()>,
    {
        self.follow_chosen(cache, watcher::Config::default());
    }

    fn follow_chosen<K>(&self, cache: &Arc<Cache<K>>, chosen: watcher::Config)
    where
        K: Watched + Resource<DynamicType = ()>,
    {
        let api = Api::all(self.client.clone());
        let token = self.token.clone();
        self.tasks.spawn(cache.clone().run(api, chosen, token));
    }

    async fn wait_synced(&self) {
        self.budgets.wait_synced().await;
        self.deployments.wait_synced().await;
        self.endpoints.wait_synced().await;
        self.ip_addresses.wait_synced().await;
        self.leases.wait_synced().await;
        self.namespaces.wait_synced().await;
        self.nodes.wait_synced().await;
        self.pods.wait_synced().await;
        self.quotas.wait_synced().await;
        self.replica_sets.wait_synced().await;
        self.replication_controllers.wait_synced().await;
        self.root_maps.wait_synced().await;
        self.service_accounts.wait_synced().await;
        self.services.wait_synced().await;
        self.slices.wait_synced().await;
    }
}
