//! The data plane as the other rooms of the agent see it: one, shared, behind a lock.
//!
//! Guarantees: while the agent runs, whoever waits for it waits on a thread for blocking work:
//! programming services may take long, and everybody else would wait for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    apply::network::NodeRoutes,
    config::Config,
    datapath::{
        self, ApplyServicesFailed, Cidr, Datapath, Hop, OpenDatapathFailed, ServiceChanges,
        ServiceSummary, ServiceTable, Verified,
    },
    network::{PodLink, PodLinks, Reach, Refused, TUNNEL_LINK, Uplink},
};

/// File in the run directory with the names of what is programmed.
pub const NAMES_FILE: &str = "names.json";

/// File in the run directory with the features in use and what found no room.
pub const CONDITION_FILE: &str = "datapath.json";

/// The data plane of this node. A handle: clones share it.
#[derive(Debug, Clone)]
pub(crate) struct DataPlane(Arc<Mutex<Datapath>>);

/// Services could not be programmed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramServicesFailed {
    #[error(transparent)]
    Apply(#[from] ApplyServicesFailed),
    #[error("the task that programmed services ended without a result")]
    TaskDied,
}

pub(crate) type ServicesProgrammed = Result<ServiceSummary, ProgramServicesFailed>;

impl DataPlane {
    /// Loads it, or takes over what an earlier agent left pinned.
    pub(crate) fn open(
        config: &Config,
        uplink: &Uplink,
        reach: Reach,
    ) -> Result<Self, OpenDatapathFailed> {
        let opened = Datapath::open(datapath::Config {
            bpffs: config.bpffs.clone(),
            socket_cgroup: config.socket_cgroup.clone(),
            uplink: uplink.name.clone(),
            tunnel: reach.tunnel.map(|_| TUNNEL_LINK.to_owned()),
            names_file: config.run_dir.join(NAMES_FILE),
            condition_file: config.run_dir.join(CONDITION_FILE),
            sizes: config.map_sizes,
            disabled_features: config.disabled_features.clone(),
        })?;
        Ok(Self(Arc::new(Mutex::new(opened))))
    }

    /// Forgets the pods that have none of these addresses: they went while no agent was there.
    pub(crate) fn keep_pods(&self, addresses: &BTreeSet<IpAddr>) {
        let mut datapath = self.lock();
        let gone: Vec<IpAddr> = datapath
            .pods()
            .keys()
            .filter(|address| !addresses.contains(address))
            .copied()
            .collect();
        if let Err(error) = datapath.detach_pod(&gone) {
            tracing::warn!(%error, "remains of a pod in the data plane");
        }
    }

    /// Programs exactly these services.
    pub(crate) async fn set_services(&self, wanted: ServiceTable) -> ServicesProgrammed {
        self.program_services(move |this| this.lock().apply_services(&wanted)).await
    }

    /// Programs services that changed.
    pub(crate) async fn change_services(&self, changes: ServiceChanges) -> ServicesProgrammed {
        self.program_services(move |this| this.lock().change_services(&changes)).await
    }

    async fn program_services<F>(&self, work: F) -> ServicesProgrammed
    where
        F: FnOnce(&Self) -> Result<ServiceSummary, ApplyServicesFailed> + Send + 'static,
    {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&this));
        Ok(done.await.map_err(|_| ProgramServicesFailed::TaskDied)??)
    }

    /// Compares maps and programs with what was programmed, and mends what differs.
    pub(crate) async fn verify(&self) -> Verified {
        let this = self.clone();
        let work = tokio::task::spawn_blocking(move || this.lock().verify());
        // A panic in it is reported by the runtime; the next verification tries again.
        work.await.unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Datapath> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PodLinks for DataPlane {
    fn attach(&self, link: &PodLink) -> Result<(), Refused> {
        let pod = datapath::PodLink {
            uid: link.uid.clone(),
            namespace: link.namespace.clone(),
            name: link.pod.clone(),
            ifindex: link.index,
            addresses: link.addresses.iter().collect(),
            mac: link.pod_mac,
            netns: link.netns.clone(),
        };
        Ok(self.lock().attach_pod(&pod)?)
    }

    fn detach(&self, link: &PodLink) -> Result<(), Refused> {
        Ok(self.lock().detach_pod(&link.addresses.iter().collect::<Vec<_>>())?)
    }
}

impl NodeRoutes for DataPlane {
    async fn set_routes(&self, routes: &BTreeMap<Cidr, Hop>) -> Result<(), Refused> {
        let (this, routes) = (self.clone(), routes.clone());
        Ok(tokio::task::spawn_blocking(move || this.lock().set_routes(&routes)).await??)
    }
}
