//! `bowline server`: the control plane as a process.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_api::cidr::DualStackCidr;
use bowline_control_plane::{CERTIFICATE_LIFE, Config, Limits, NodeMaskSize, Retention};
use tokio_util::sync::CancellationToken;

use crate::launch;

/// A year.
const CERTIFICATE_SECONDS: u32 = CERTIFICATE_LIFE.as_secs() as u32;

/// Run the server: API, controllers and scheduler.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline server --listen 10.0.0.1:6443 --listen 127.0.0.1:6443 --advertise 10.0.0.1:6443
  bowline server --listen 127.0.0.1:6443 --netns /run/netns/net --cluster-listen 172.30.0.1:6443")]
pub(crate) struct Args {
    /// What must outlive a restart: the store, certificates and keys
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bowline/server")]
    data_dir: PathBuf,
    /// Address to listen on, in the namespace that this is started in; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6443")]
    listen: Vec<SocketAddr>,
    /// Network namespace to enter once these listen
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// Address to listen on in that namespace, where the nodes are; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT")]
    cluster_listen: Vec<SocketAddr>,
    /// Address that pods and nodes reach the server at [default: the first of --cluster-listen,
    /// then of --listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    advertise: Option<SocketAddr>,
    /// More names for the server's certificate; may be repeated
    #[arg(long, value_name = "NAME")]
    server_name: Vec<String>,
    /// Where to write the administrator's kubeconfig [default: in the data directory]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where to write the token that agents join with [default: in the data directory]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Range of pod addresses; for dual stack an IPv4 and an IPv6 range
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "10.240.0.0/16")]
    pod_cidr: DualStackCidr,
    /// Prefix length of each node's part of the IPv4 range
    #[arg(long, value_name = "BITS", default_value_t = 24)]
    node_mask_size: u8,
    /// Prefix length of each node's part of the IPv6 range
    #[arg(long, value_name = "BITS", default_value_t = 64)]
    node_mask_size_ipv6: u8,
    /// Range of service addresses; for dual stack an IPv4 and an IPv6 range
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "10.9.0.0/16")]
    service_cidr: DualStackCidr,
    /// DNS domain of the cluster
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Seconds without a heartbeat after which a node is not ready
    #[arg(long, value_name = "SECONDS", default_value_t = 40)]
    node_monitor_grace_period: u64,
    /// Seconds that pods stay bound to a node that is not ready
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    default_unreachable_toleration_seconds: i64,
    /// Reads that are answered at a time; those of agents, control loops and leases have as many
    /// places of their own
    #[arg(long, value_name = "COUNT", default_value_t = Limits::DEFAULT.requests_inflight)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    max_requests_inflight: u32,
    /// Writes that are answered at a time, likewise
    #[arg(long, value_name = "COUNT", default_value_t = Limits::DEFAULT.mutating_requests_inflight)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    max_mutating_requests_inflight: u32,
    /// Watches that one user may have open
    #[arg(long, value_name = "COUNT", default_value_t = Limits::DEFAULT.watches_per_user)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    max_watches_per_user: u32,
    /// Seconds that a request may take, unless it is a stream
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    #[arg(default_value_t = Limits::DEFAULT.request_timeout.as_secs())]
    request_timeout: u64,
    /// Who issues tokens of service accounts [default: https://kubernetes.default.svc.DOMAIN]
    #[arg(long, value_name = "URL")]
    service_account_issuer: Option<String>,
    /// Seconds that the server's own certificates live, which are renewed after two thirds of it
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(default_value_t = CERTIFICATE_SECONDS)]
    certificate_lifetime: u32,
    /// Changes that are kept for watches that resume
    #[arg(long, value_name = "COUNT", default_value_t = Retention::DEFAULT.events)]
    store_history_events: u64,
    /// Seconds for which they are kept
    #[arg(long, value_name = "SECONDS", default_value_t = Retention::DEFAULT.age.as_secs())]
    store_history_seconds: u64,
    /// Bytes of values in them at most; less while the objects have not four times as many
    #[arg(long, value_name = "BYTES", default_value_t = Retention::DEFAULT.bytes)]
    store_history_bytes: u64,
    /// Bytes of values that they may have in any case
    #[arg(long, value_name = "BYTES", default_value_t = Retention::DEFAULT.least_bytes)]
    store_history_least_bytes: u64,
    /// A store's file that is larger is made smaller when it nears twice the bytes of objects and
    /// history
    #[arg(long, value_name = "BYTES", default_value_t = Retention::DEFAULT.small_file)]
    store_small_file: u64,
    /// Threads of the runtime
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    workers: usize,
}

/// Runs the server until it is told to stop. Call it while the process has one thread.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let mut listeners = bind(&args.listen)?;
    if let Some(netns) = &args.netns {
        launch::enter_netns(netns)?;
    }
    listeners.extend(bind(&args.cluster_listen)?);
    let workers = args.workers.max(1);
    let config = config(args, &listeners)?;
    launch::run_until_stopped(workers, async move |stop: CancellationToken| {
        bowline_control_plane::run(config, listeners, stop).await
    })
}

fn bind(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let bound = addresses.iter().map(|address| {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {address}: choose another address"))?;
        listener.set_nonblocking(true).context("cannot set up a listener")?;
        Ok(listener)
    });
    bound.collect()
}

fn config(args: Args, listeners: &[TcpListener]) -> anyhow::Result<Config> {
    // What was asked for may have been port 0; what listens has a port.
    let local = |listener: &TcpListener| listener.local_addr().context("a listener has no address");
    let outer = listeners.first().map(local).transpose()?;
    let outer = outer.context("give one --listen at least")?;
    let cluster = args.cluster_listen.first().map(|_| listeners.get(args.listen.len()));
    let cluster = cluster.flatten().map(local).transpose()?;
    let advertise = args.advertise.or(cluster).unwrap_or(outer);
    if advertise.ip().is_loopback() || advertise.ip().is_unspecified() {
        bail!(
            "no node can reach the server at {advertise}: give --advertise an address of this \
             machine that nodes reach"
        );
    }
    let names = listeners.iter().map(|listener| Ok(local(listener)?.ip().to_string()));
    let names: Vec<String> = names.collect::<anyhow::Result<_>>()?;
    let data_dir = args.data_dir;
    Ok(Config {
        kubeconfig: args.kubeconfig.unwrap_or_else(|| data_dir.join("admin.kubeconfig")),
        token_file: args.token_file.unwrap_or_else(|| data_dir.join("join-token")),
        data_dir,
        server_url: format!("https://{outer}"),
        advertise,
        server_names: args.server_name.into_iter().chain(names).collect(),
        pod_cidr: args.pod_cidr,
        node_mask_size: NodeMaskSize { v4: args.node_mask_size, v6: args.node_mask_size_ipv6 },
        service_cidr: args.service_cidr,
        cluster_domain: args.cluster_domain,
        join_secret: None,
        node_monitor_grace_period: Duration::from_secs(args.node_monitor_grace_period),
        default_unreachable_toleration_seconds: args.default_unreachable_toleration_seconds,
        retention: Retention {
            events: args.store_history_events,
            age: Duration::from_secs(args.store_history_seconds),
            bytes: args.store_history_bytes,
            least_bytes: args.store_history_least_bytes,
            small_file: args.store_small_file,
        },
        limits: Limits {
            requests_inflight: args.max_requests_inflight,
            mutating_requests_inflight: args.max_mutating_requests_inflight,
            watches_per_user: args.max_watches_per_user,
            request_timeout: Duration::from_secs(args.request_timeout),
        },
        service_account_issuer: args.service_account_issuer,
        certificate_life: Duration::from_secs(args.certificate_lifetime.into()),
    })
}
