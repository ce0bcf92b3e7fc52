//! The bowline node agent: watch, plan, apply.
//!
//! One agent runs on each node. It keeps the node in line with the API: the pods that are bound
//! to it, the ways to the pods of other nodes, the service maps of the data plane, the cluster's
//! DNS. It reports what it sees.
//!
//! Guarantees: the agent may die at any time, by any signal. Containers, sandboxes, routes and
//! programs stay and go on working; the next agent finds them and agrees with them. An orderly
//! end leaves them as well. What stands in the way of starting is one line, and then nothing was
//! made. [`remove_node_state`] removes what agents left.

mod apply;
mod config;
mod connect;
mod converge;
mod data_plane;
pub mod datapath;
mod dns;
mod join;
mod metrics;
mod net_commands;
mod network;
mod observe;
mod plan;
mod pods;
mod preflight;
mod remove;
mod report;
mod runtime;
mod server;
mod trace_events;
mod watch;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use axum::Router;
use tokio::{net::TcpListener, sync::watch as signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use config::DNS_PORT;
pub use config::{
    AGENT_PORT, Config, DEFAULT_METRICS_SERVICES, DEFAULT_NET_COMMANDS, DEFAULT_VXLAN_PORT,
    DNS_ADDRESS, DNS_ADDRESS_V6, Routing, Secret,
};
pub use data_plane::{CONDITION_FILE, NAMES_FILE};
pub use net_commands::{NetFrame, NetPlace, carry_out};
pub use remove::{RemoveStateFailed, remove_node_state};
pub use trace_events::{Echo, StreamMessage, Subscription, TraceEvent, TraceFilter, boot_id};

use converge::NodeNetwork;
use data_plane::DataPlane;
use datapath::NodePlace;
pub use dns::{DnsCount, DnsFigures, DnsOptions, DnsUpstream, InvalidDnsOption, StubDomain};

use dns::{Dns, DnsServer};
use join::Identity;
use metrics::Meters;
use network::{Netlink, PodNetwork, Reach, Uplink};
use pods::{ClusterDns, PodManager, PodsConfig, log_router};
use report::{Facts, Health, Reporter};
use runtime::{Containerd, ContainerdConfig, Runtime};
use watch::{Checkpoint, Watched, checkpoint};

/// The pause between attempts to open the DNS server's sockets.
const DNS_PAUSE: Duration = Duration::from_millis(100);

/// So many attempts may fail silently: the address comes with the node network.
const DNS_PATIENCE: u32 = 50;

/// How long the API may take to answer before the agent goes on without it.
const API_PATIENCE: Duration = Duration::from_secs(2);

/// How long tasks may take to end when the agent is told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Runs the agent of a node until `shutdown`. The process must be in the node's network namespace
/// and in containerd's mount namespace.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let until_stopped = shutdown.clone();
    match until_stopped.run_until_cancelled(Agent::start(Arc::new(config), shutdown)).await {
        Some(agent) => agent?.until_stopped().await,
        None => Ok(()),
    }
}

/// What the data plane tells through the agent.
fn data_plane_routes(config: &Config, of: metrics::Sources) -> anyhow::Result<Router> {
    let (bpffs, run_dir) = (config.bpffs.clone(), config.run_dir.clone());
    let events = trace_events::router(NodePlace {
        bpffs: bpffs.clone(),
        netns: None,
        names_file: run_dir.join(NAMES_FILE),
        condition_file: run_dir.join(CONDITION_FILE),
    });
    let kubeconfig = join::write_kubeconfig(config)?;
    let node_name = config.node_name.clone();
    let place = NetPlace { node_name, bpffs, run_dir, kubeconfig, netns: None };
    let commands = net_commands::router(place, config.net_commands);
    Ok(metrics::router(of).merge(events).merge(commands))
}

/// A running agent.
struct Agent {
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// What the tasks of an agent share.
struct Parts {
    config: Arc<Config>,
    uplink: Uplink,
    reach: Reach,
    identity: Identity,
    client: kube::Client,
    facts: Facts,
    netlink: Netlink,
    data_plane: DataPlane,
    sandboxes: PodNetwork,
    runtime: Arc<dyn Runtime>,
    listener: TcpListener,
}

impl Agent {
    async fn start(config: Arc<Config>, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let parts = Parts::gather(config).await?;
        let agent = Self { tasks: TaskTracker::new(), shutdown };
        let started = agent.run_tasks(parts).await;
        if started.is_err() {
            agent.stop().await;
        }
        started.map(|()| agent)
    }

    async fn run_tasks(&self, parts: Parts) -> anyhow::Result<()> {
        let config = &parts.config;
        let watched = Watched::start(&parts.client, &config.node_name, &self.tasks, &self.shutdown);
        let (health, healthy) = signal::channel(Health::unknown());
        let addresses = parts.uplink.addresses;
        let reporter = Arc::new(Reporter::new(
            config,
            parts.client.clone(),
            addresses,
            parts.facts.clone(),
            watched.clone(),
            healthy,
        ));
        let runtime = parts.runtime.clone();
        self.spawn(|stop| converge::runtime(runtime, health.clone(), stop));
        let reports = reporter.clone();
        let listed = watched.clone();
        self.spawn(|stop| async move {
            // The labels are for good: they are not tried while the API is away.
            if stop.run_until_cancelled(listed.nodes.synced()).await.is_none() {
                return;
            }
            if let Err(error) = reports.label().await {
                tracing::warn!(%error, "the node's labels are not written");
            }
            reports.report(stop).await;
        });
        self.spawn(|stop| async move { reporter.heartbeat(stop).await });
        let (config, identity) = (parts.config.clone(), parts.identity.clone());
        self.spawn(|stop| join::renew(config, addresses.v4, identity, stop));
        let dns = self.start_dns(&parts.config, &watched)?;
        let meters = Meters::default();
        let (data_plane, own) = (parts.data_plane.clone(), meters.clone());
        self.spawn(|stop| converge::verify(data_plane, own, stop));
        let checkpoint = Checkpoint::below(&parts.config.run_dir);
        self.spawn(|stop| checkpoint::keep(watched.clone(), checkpoint.clone(), stop));
        known(&watched, &checkpoint).await;

        let name = parts.config.node_name.clone();
        let (services, data_plane) = (watched.clone(), parts.data_plane.clone());
        let own = meters.clone();
        self.spawn(|stop| converge::services(services, data_plane, name, own, stop));
        let (first, ready) = signal::channel(false);
        let network = NodeNetwork {
            node_name: parts.config.node_name.clone(),
            uplink: parts.uplink.clone(),
            reach: parts.reach,
            masquerade: parts.config.masquerade,
            netlink: parts.netlink.clone(),
            sandboxes: parts.sandboxes.clone(),
            data_plane: parts.data_plane.clone(),
            watched: watched.clone(),
            health,
            meters: meters.clone(),
        };
        self.spawn(|stop| network.converge(first, stop));
        let (run_dir, bpffs) = (parts.config.run_dir.clone(), parts.config.bpffs.clone());
        let own = meters.clone();
        self.spawn(|stop| metrics::keep_recent(run_dir, bpffs, own, stop));
        let metrics = metrics::Sources {
            bpffs: parts.config.bpffs.clone(),
            most_services: parts.config.metrics_services,
            watched: watched.clone(),
            dns,
            meters,
        };
        let others = data_plane_routes(&parts.config, metrics)?;
        self.start_pods(parts, watched, checkpoint, ready, others).await
    }

    /// Answers DNS on the addresses of this node.
    fn start_dns(&self, config: &Config, watched: &Arc<Watched>) -> anyhow::Result<Dns> {
        let dns = Dns::new(&config.cluster_domain, watched.clone(), &config.dns)?;
        self.spawn_dns(&dns, DNS_ADDRESS.into(), async {});
        let dual_stack = converge::dual_stack(watched.clone(), config.node_name.clone());
        self.spawn_dns(&dns, DNS_ADDRESS_V6.into(), dual_stack);
        let (run_dir, figures) = (config.run_dir.clone(), dns.clone());
        self.spawn(|stop| async move { figures.keep_figures(&run_dir, stop).await });
        Ok(dns)
    }

    /// Starts the pods' manager, and the HTTPS server that reads their logs and serves `others`.
    /// Pods come once the node network is there.
    async fn start_pods(
        &self,
        parts: Parts,
        watched: Arc<Watched>,
        checkpoint: Checkpoint,
        mut network: signal::Receiver<bool>,
        others: Router,
    ) -> anyhow::Result<()> {
        let config = &parts.config;
        let pods = PodsConfig {
            node_name: config.node_name.clone(),
            node_ips: parts.uplink.addresses,
            node_memory: parts.facts.memory_bytes,
            data_dir: config.data_dir.clone(),
            cgroup_parent: config.cgroup_parent.clone().into(),
            dns: ClusterDns { address: config.cluster_dns, domain: config.cluster_domain.clone() },
            insecure_registries: config.insecure_registries.clone(),
        };
        let sandboxes = Arc::new(parts.sandboxes);
        let manager = PodManager::start(pods, parts.runtime, sandboxes, parts.client).await?;
        let tls = server::tls(&parts.identity)?;
        let routes = log_router(manager.clone()).merge(others);
        let listener = parts.listener;
        self.spawn(|stop| server::serve(listener, tls, routes, stop));
        self.spawn(|stop| async move {
            let ready = async { network.wait_for(|ready| *ready).await.is_ok() };
            if stop.run_until_cancelled(ready).await == Some(true) {
                converge::pods(watched, manager, checkpoint, stop).await;
            }
        });
        Ok(())
    }

    /// Answers DNS for as long as the agent runs, once it is `wanted` and the node network has the
    /// address for it.
    fn spawn_dns(
        &self,
        dns: &Dns,
        address: IpAddr,
        wanted: impl Future<Output = ()> + Send + 'static,
    ) {
        let dns = dns.clone();
        self.spawn(|stop| async move {
            if stop.run_until_cancelled(wanted).await.is_none() {
                return;
            }
            for attempt in 0_u32.. {
                match DnsServer::bind(dns.clone(), address, DNS_PORT).await {
                    Ok(server) => return server.serve(stop).await,
                    Err(error) if attempt == DNS_PATIENCE => {
                        tracing::warn!(%error, "this node answers no DNS, retrying");
                    }
                    Err(error) => tracing::debug!(%error, "no DNS yet"),
                }
                if stop.run_until_cancelled(tokio::time::sleep(DNS_PAUSE)).await.is_none() {
                    return;
                }
            }
        });
    }

    fn spawn<F>(&self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task(self.shutdown.clone()));
    }

    async fn until_stopped(self) -> anyhow::Result<()> {
        self.shutdown.cancelled().await;
        self.stop().await;
        tracing::info!("stopped; pods and network stay as they are");
        Ok(())
    }

    async fn stop(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_LIMIT, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "some tasks did not end in time");
        }
    }
}

impl Parts {
    /// Everything that must succeed before an agent runs. Until the tunnel device is made and the
    /// data plane is opened, nothing is changed on the node but the data directory.
    async fn gather(config: Arc<Config>) -> anyhow::Result<Self> {
        preflight::check(&config)?;
        let server = join::server_url(&config)?;
        let netlink = Netlink::open()?;
        let server_address = resolve(&server).await?;
        let (name, addresses) = (config.uplink.as_deref(), &config.node_addresses);
        let uplink = network::uplink::find(&netlink, name, addresses, server_address).await?;
        let reach = Reach::new(config.routing, config.vxlan_port, &uplink);
        let listener = server::listen((uplink.addresses.v4, AGENT_PORT).into()).await?;
        let facts = Facts::read(&config)?;
        let runtime = Containerd::connect(&ContainerdConfig {
            socket: config.containerd_socket.clone(),
            namespace: config.containerd_namespace.clone(),
            runc_root: None,
        })
        .await?;
        let identity = join::identity(&config, uplink.addresses.v4).await?;
        let tls = connect::verified(&identity.ca, Some(identity.keys.clone()))
            .context("setting up TLS towards the server")?;
        let client = connect::api(server, tls);

        if let Some(tunnel) = &reach.tunnel {
            tunnel.make(&netlink).await?;
        }
        let data_plane = DataPlane::open(&config, &uplink, reach)?;
        tracing::info!("the data plane is open");
        let links = Arc::new(data_plane.clone());
        let sandboxes = PodNetwork::open(
            &config.run_dir,
            netlink.clone(),
            uplink.clone(),
            reach.pod_mtu,
            links,
        )?;
        let known = sandboxes.sandboxes().into_iter();
        let known: BTreeSet<_> = known.flat_map(|(_, sandbox)| sandbox.addresses.iter()).collect();
        data_plane.keep_pods(&known);
        for error in sandboxes.reattach().await {
            tracing::warn!(%error, "a pod of an earlier agent");
        }
        let runtime = Arc::new(runtime);
        Ok(Self {
            config,
            uplink,
            reach,
            identity,
            client,
            facts,
            netlink,
            data_plane,
            sandboxes,
            runtime,
            listener,
        })
    }
}

/// Waits until the API has said what there is. When it is away, what it said to an earlier agent
/// will do; a node that never heard of anything has nothing to go on with, and waits.
async fn known(watched: &Watched, checkpoint: &Checkpoint) {
    // Before the API has answered, because names are asked for already.
    let restored = watched.restore(checkpoint);
    let synced = tokio::time::timeout(API_PATIENCE, watched.synced()).await;
    if synced.is_ok() {
        return;
    }
    if restored {
        tracing::info!("the API is away: going on with what it said last");
    } else {
        tracing::warn!("the API is away and nothing is known from before: waiting for it");
        watched.synced().await;
    }
}

/// The address of the server.
async fn resolve(server: &http::Uri) -> anyhow::Result<SocketAddr> {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = server.port_u16().unwrap_or(443);
    let mut found = tokio::net::lookup_host((host, port))
        .await
        .with_context(|| format!("looking for the address of the server {server}"))?;
    found.next().ok_or_else(|| anyhow!("the server {server} has no address"))
}
