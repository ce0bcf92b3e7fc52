//! The pods of this node: from what the API wants to running containers, and back as status.
//!
//! [`PodManager`] is given the pods of the node; each gets a worker of its own that plans
//! (`plan::pods`), acts, and writes the pod's status. Workers wait for nothing but events: exits
//! come from the runtime, readiness from probes, changes from the API.
//!
//! Guarantees: a pod's containers, network and volumes are made once, also across the agent's
//! death; what a pod leaves on the node is removed before the API forgets the pod; a pod that
//! the API forgot while the agent was away is removed too. The agent's end stops no container.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::network::Addresses;
use crate::runtime::Runtime;

mod adopt;
mod cgroups;
mod env;
mod events;
mod expand;
mod files;
mod images;
mod jobs;
mod log_times;
mod logs;
mod logs_http;
mod manager;
mod oci;
mod probes;
mod resources;
mod sandboxes;
mod start;
pub(crate) mod state;
mod status;
mod stop;
mod users;
mod volumes;
mod worker;
mod writer;

pub(crate) use files::ClusterDns;
pub(crate) use logs_http::log_router;
pub(crate) use manager::PodManager;
pub(crate) use sandboxes::Sandboxes;

use cgroups::Cgroups;
use events::EventRecorder;
use images::{Images, Registries};
use logs::LogFiles;
use resources::NodeLimits;

/// How many containers are started at the same time; more only makes each of them slower.
const STARTS_AT_ONCE: usize = 8;

/// What the pods of a node need to know of it.
#[derive(Clone, Debug)]
pub(crate) struct PodsConfig {
    pub(crate) node_name: String,
    pub(crate) node_ips: Addresses,
    /// Bytes; scales out-of-memory scores.
    pub(crate) node_memory: u64,
    /// Holds `pods/` and `logs/`.
    pub(crate) data_dir: PathBuf,
    /// Absolute within the cgroup hierarchies, as `/bowline/demo/node1/pods`.
    pub(crate) cgroup_parent: PathBuf,
    pub(crate) dns: ClusterDns,
    /// Registries that are asked over plain HTTP, as image names spell them.
    pub(crate) insecure_registries: Vec<String>,
}

/// What all pods of the node share.
pub(crate) struct Node {
    config: PodsConfig,
    runtime: Arc<dyn Runtime>,
    network: Arc<dyn Sandboxes>,
    client: kube::Client,
    images: Images,
    events: EventRecorder,
    cgroups: Cgroups,
    limits: NodeLimits,
    logs: LogFiles,
    starts: Semaphore,
    shutdown: CancellationToken,
}

impl Node {
    fn new(
        config: PodsConfig,
        runtime: Arc<dyn Runtime>,
        network: Arc<dyn Sandboxes>,
        client: kube::Client,
    ) -> Self {
        let registries = Registries::new(config.insecure_registries.clone());
        Self {
            images: Images::new(runtime.clone(), registries),
            events: EventRecorder::start(client.clone(), config.node_name.clone()),
            cgroups: Cgroups::discover(config.cgroup_parent.clone()),
            limits: NodeLimits::discover(config.node_memory),
            logs: LogFiles::new(config.data_dir.join("logs")),
            starts: Semaphore::new(STARTS_AT_ONCE),
            shutdown: CancellationToken::new(),
            config,
            runtime,
            network,
            client,
        }
    }

    /// Volumes and files of one pod.
    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.data_dir.join("pods").join(uid)
    }
}

#[cfg(test)]
mod tests;
