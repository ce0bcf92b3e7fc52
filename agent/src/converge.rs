//! The loops that keep the node in line with the API: network, services, pods, runtime.
//!
//! Each loop waits for its own kind of change, so that none holds up another. What fails is tried
//! again at the next change or tick; a failure that repeats is logged once.

mod services;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    apply,
    data_plane::DataPlane,
    datapath,
    metrics::{Loop, Meters},
    network::{Netlink, PodNetwork, Reach, TUNNEL_LINK, Uplink},
    observe,
    plan::network::{Step, Told, desired, own_ranges, plan, settings},
    pods::PodManager,
    report::Health,
    runtime::Runtime,
    watch::{Checkpoint, Watched},
};

pub(crate) use services::services;

/// How often the node is compared with what it should be although nothing was announced: what
/// somebody damaged by hand is mended within this time.
const RESYNC: Duration = Duration::from_secs(2);

/// How often memory that nobody needs goes back to the system: what is listed, planned and written
/// is let go of piece by piece, and nobody knows which was the last.
const GIVE_BACK: Duration = Duration::from_secs(10);

/// What is wrong with a node that is new: the node controller is about to change that.
const NO_RANGE: &str = "the node has no pod range yet";

/// How often one round compares: again after the tunnel device was made.
const PASSES: usize = 3;

/// How long the container runtime may take to say that it is there.
const RUNTIME_LIMIT: Duration = Duration::from_secs(3);

/// The node's network and what it depends on.
pub(crate) struct NodeNetwork {
    pub(crate) node_name: String,
    pub(crate) uplink: Uplink,
    pub(crate) reach: Reach,
    pub(crate) masquerade: bool,
    pub(crate) netlink: Netlink,
    pub(crate) sandboxes: PodNetwork,
    pub(crate) data_plane: DataPlane,
    pub(crate) watched: Arc<Watched>,
    pub(crate) health: watch::Sender<Health>,
    pub(crate) meters: Meters,
}

impl NodeNetwork {
    /// Keeps the node network in line until `shutdown`. `first` is told when it was once.
    pub(crate) async fn converge(self, first: watch::Sender<bool>, shutdown: CancellationToken) {
        let mut nodes = self.watched.nodes.changes();
        let mut tick = resync();
        let mut told = None;
        let mut announced = true;
        loop {
            nodes.mark_unchanged();
            let start = Instant::now();
            let state = self.round(&mut told, announced).await;
            let failure = state.clone().err().filter(|reason| reason != NO_RANGE);
            self.meters.round(Loop::Network, start.elapsed(), failure);
            self.health.send_if_modified(|health| {
                let changed = health.network != state;
                match &state {
                    Err(reason) if changed && reason == NO_RANGE => tracing::info!("{reason}"),
                    Err(reason) if changed => {
                        tracing::warn!(reason, "the node network is not as it should be");
                    }
                    _ => {}
                }
                health.network = state;
                changed
            });
            first.send_if_modified(|first| {
                let ready = !*first && self.health.borrow().network.is_ok();
                *first |= ready;
                ready
            });
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = nodes.changed() => announced = true,
                _ = tick.tick() => announced = nodes.has_changed().unwrap_or(true),
            }
        }
    }

    /// Compares, and mends. What differs although nothing was `announced` was damaged by somebody.
    async fn round(&self, told: &mut Option<Told>, announced: bool) -> Result<(), String> {
        for _ in 0..PASSES {
            if self.pass(told, announced).await? {
                return Ok(());
            }
        }
        Err("the tunnel device does not stay".to_owned())
    }

    /// Compares once. False: the tunnel device was made, and what needs its number is missing.
    async fn pass(&self, told: &mut Option<Told>, announced: bool) -> Result<bool, String> {
        let _settled = self.sandboxes.settle().await;
        let nodes = self.watched.nodes.all();
        let links = self.sandboxes.links();
        let (uplink, reach) = (&self.uplink, self.reach);
        let wanted = desired(&nodes, &self.node_name, uplink, reach, self.masquerade, links);
        if let Some(ranges) = wanted.own_ranges {
            self.sandboxes.set_ranges(ranges);
        }
        // Where no rule is wanted, one that an earlier agent left is looked for once.
        let rules = self.masquerade || told.is_none();
        let settings = settings(&uplink.name, wanted.has_ipv6());
        let (netlink, sandboxes) = (&self.netlink, &self.sandboxes);
        let observed = observe::network(netlink, sandboxes, &settings, rules, told.clone())
            .await
            .map_err(|error| error.to_string())?;
        let steps = plan(&wanted, &observed);
        if !announced && self.health.borrow().network.is_ok() {
            for step in &steps {
                tracing::warn!("the node network was damaged, mending it: {step}");
            }
        }
        let tells = steps.iter().any(|step| matches!(step, Step::SetDataPlaneRoutes(_)));
        let made_tunnel = steps.iter().any(|step| matches!(step, Step::MakeTunnel(_)));
        let failures = apply::network::apply(steps, netlink, sandboxes, &self.data_plane).await;
        let was_told =
            !failures.iter().any(|failure| matches!(failure.step, Step::SetDataPlaneRoutes(_)));
        if tells || made_tunnel {
            let link = netlink.link(TUNNEL_LINK).await.map_err(|error| error.to_string())?;
            let tunnel = reach.tunnel.and(link).map(|link| link.index);
            let routes = wanted.remote.clone();
            *told = (was_told && !made_tunnel).then_some(Told { routes, tunnel });
        }
        if let Some(first) = failures.first() {
            return Err(format!("{first} ({} failed)", failures.len()));
        }
        if made_tunnel {
            return Ok(false);
        }
        if let Some(node) = wanted.stranded.first() {
            return Err(format!(
                "node {node} is not on the link of {}: start every agent with --routing auto or \
                 tunnel",
                uplink.name
            ));
        }
        match wanted.own_ranges {
            Some(_) => Ok(true),
            None => Err(NO_RANGE.to_owned()),
        }
    }
}

/// Waits until the pods of this node have addresses of both families.
pub(crate) async fn dual_stack(watched: Arc<Watched>, node_name: String) {
    let mut nodes = watched.nodes.changes();
    let ranges = || watched.nodes.get("", &node_name).and_then(|node| own_ranges(&node));
    while ranges().is_none_or(|ranges| ranges.v6.is_none()) {
        if nodes.changed().await.is_err() {
            return;
        }
    }
}

/// Mends what others damage in the data plane, until `shutdown`.
pub(crate) async fn verify(data_plane: DataPlane, meters: Meters, shutdown: CancellationToken) {
    let mut tick = resync();
    let mut failing = false;
    let mut given_back = Instant::now();
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        let start = Instant::now();
        let verified = data_plane.verify().await;
        let took = start.elapsed();
        meters.round(Loop::Verify, took, verified.failures.first().map(ToString::to_string));
        meters.repaired(verified.repairs.len());
        tracing::trace!(elapsed = ?took, "verified the data plane");
        for repair in &verified.repairs {
            tracing::warn!("the data plane was damaged: {repair}");
        }
        if let Some(error) = verified.failures.first().filter(|_| !failing) {
            let failed = verified.failures.len();
            tracing::warn!(failed, %error, "the data plane is not verified, retrying");
        }
        failing = !verified.failures.is_empty();
        if given_back.elapsed() > GIVE_BACK {
            tokio::task::block_in_place(datapath::memory::give_back);
            given_back = Instant::now();
        }
    }
}

/// Hands the pods of this node to their manager until `shutdown`.
pub(crate) async fn pods(
    watched: Arc<Watched>,
    manager: Arc<PodManager>,
    checkpoint: Checkpoint,
    shutdown: CancellationToken,
) {
    let mut changes = watched.pods.changes();
    loop {
        changes.mark_unchanged();
        checkpoint.save_pods(&watched).await;
        manager.set_desired(watched.pods.all());
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = changes.changed() => {}
        }
    }
    manager.shutdown().await;
}

/// Asks the container runtime from time to time whether it is there, until `shutdown`.
pub(crate) async fn runtime(
    runtime: Arc<dyn Runtime>,
    health: watch::Sender<Health>,
    shutdown: CancellationToken,
) {
    let mut tick = resync();
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        let state = match timeout(RUNTIME_LIMIT, runtime.version()).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("the container runtime does not answer".to_owned()),
        };
        health.send_if_modified(|health| {
            let changed = health.runtime != state;
            if changed && let Err(reason) = &state {
                tracing::warn!(reason, "the container runtime is in trouble");
            }
            health.runtime = state;
            changed
        });
    }
}

fn resync() -> tokio::time::Interval {
    let mut tick = interval(RESYNC);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}
