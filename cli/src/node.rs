//! `bowline agent`: the node agent as a process.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_agent::datapath::{Feature, MapSizes};
use bowline_agent::{
    DEFAULT_METRICS_SERVICES, DEFAULT_NET_COMMANDS, DEFAULT_VXLAN_PORT, DnsOptions, DnsUpstream,
    Routing, Secret, StubDomain,
};
use tokio_util::sync::CancellationToken;

use crate::launch;

/// Run the agent of a node.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline agent --node-name worker1 --server https://10.0.0.1:6443 --token-file join-token
  bowline agent --node-name node1 --server https://172.30.0.1:6443 --netns /run/netns/node1 ...")]
pub(crate) struct Args {
    /// Name of the node
    #[arg(long)]
    node_name: String,
    /// Address of the node, one of each family at most [default: the one from which the server is
    /// reached, and an IPv6 address of the uplink]
    #[arg(long, value_name = "ADDRESS[,ADDRESS]", value_delimiter = ',')]
    node_address: Vec<IpAddr>,
    /// Link that leads to the other nodes [default: the one with the node's address]
    #[arg(long, value_name = "LINK")]
    uplink: Option<String>,
    /// How packets reach pods of other nodes: as they are (native), wrapped in VXLAN (tunnel), or
    /// wrapped only for nodes that are not on the link of the uplink (auto)
    #[arg(long, value_name = "native|tunnel|auto", default_value_t)]
    routing: Routing,
    /// UDP port of the tunnel, the same on every node
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_VXLAN_PORT)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    vxlan_port: u16,
    /// Give packets that leave the cluster the address of this node: one nftables rule
    #[arg(long)]
    masquerade: bool,
    /// API server
    #[arg(long, value_name = "URL")]
    server: String,
    /// File with the join token; not needed once the node has joined
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Network namespace to live in
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// What outlives a reboot: certificate and key
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bowline/agent")]
    data_dir: PathBuf,
    /// What lives as long as the node is up
    #[arg(long, value_name = "DIR", default_value = "/run/bowline")]
    run_dir: PathBuf,
    /// BPF file system to pin in
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    /// cgroup2 directory with everything that counts as being on this node
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/cgroup")]
    socket_cgroup: PathBuf,
    /// Parent of the containers' cgroups, as a path inside of the hierarchies
    #[arg(long, value_name = "PATH", default_value = "/bowline/pods")]
    cgroup_parent: String,
    /// containerd's socket
    #[arg(long, value_name = "SOCKET", default_value = "/run/containerd/containerd.sock")]
    containerd_socket: PathBuf,
    /// containerd's namespace of this node
    #[arg(long, value_name = "NAME", default_value = "bowline")]
    containerd_namespace: String,
    /// DNS domain of the cluster
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Address that pods ask for names: the service kube-dns
    #[arg(long, value_name = "ADDRESS", default_value = "10.9.0.10")]
    cluster_dns: Ipv4Addr,
    #[command(flatten)]
    dns: DnsArgs,
    /// CPUs to declare [default: what the machine has]
    #[arg(long, value_name = "QUANTITY")]
    node_cpu: Option<String>,
    /// Memory to declare [default: what the machine has]
    #[arg(long, value_name = "QUANTITY")]
    node_memory: Option<String>,
    /// Most pods on this node
    #[arg(long, value_name = "COUNT", default_value_t = 110)]
    max_pods: u32,
    /// Registry that is spoken to over plain HTTP; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    insecure_registry: Vec<String>,
    /// Room in a BPF map: SERVICES, SLOTS, BACKENDS, PEERS, REVERSE, AFFINITY, PODS, ROUTES or
    /// FLOWS; may be repeated
    #[arg(long, value_name = "NAME=ENTRIES")]
    map_size: Vec<String>,
    /// Services (an address and a port each) that have metrics of their own, the first by name
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_METRICS_SERVICES)]
    metrics_services: usize,
    /// `bowline net` commands that are answered through the API at one time
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_NET_COMMANDS)]
    net_commands: usize,
    /// Kernel feature to do without although it is there, to test the other way: tcx, set-retval
    #[arg(long, value_name = "FEATURE[,FEATURE]", value_delimiter = ',')]
    disable_feature: Vec<Feature>,
    /// Seconds between two heartbeats
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    node_lease_renew_interval: u64,
    /// Threads of the runtime
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    workers: usize,
}

/// What the DNS server of a node is told.
#[derive(Debug, clap::Args)]
struct DnsArgs {
    /// DNS server for other names; may be repeated [default: such names are refused]
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    dns_upstream: Vec<DnsUpstream>,
    /// DNS server for the names of a domain; may be repeated
    #[arg(long, value_name = "DOMAIN=ADDRESS[:PORT]")]
    dns_stub_domain: Vec<StubDomain>,
    /// Answers of other DNS servers that are kept; 0 keeps none
    #[arg(long, value_name = "COUNT", default_value_t = DnsOptions::default().cache_size)]
    dns_cache_size: u64,
    /// DNS questions that wait for other servers at one time
    #[arg(long, value_name = "COUNT", default_value_t = DnsOptions::default().forwards)]
    dns_forwards: usize,
    /// DNS connections over TCP at one time
    #[arg(long, value_name = "COUNT", default_value_t = DnsOptions::default().tcp_clients)]
    dns_tcp_clients: usize,
    /// DNS questions of one client in a second; more are dropped
    #[arg(long, value_name = "COUNT", default_value_t = DnsOptions::default().client_rate)]
    dns_client_rate: usize,
    /// DNS connections over TCP, and questions that wait for other servers, of one client at one
    /// time
    #[arg(long, value_name = "COUNT", default_value_t = DnsOptions::default().client_places)]
    dns_client_places: usize,
    /// Seconds after which a silent DNS connection is closed
    #[arg(long, value_name = "SECONDS", default_value_t = DnsOptions::default().tcp_idle.as_secs())]
    dns_tcp_idle: u64,
}

impl DnsArgs {
    fn options(self) -> DnsOptions {
        DnsOptions {
            upstream: self.dns_upstream,
            stub_domains: self.dns_stub_domain,
            cache_size: self.dns_cache_size,
            forwards: self.dns_forwards,
            tcp_clients: self.dns_tcp_clients,
            client_rate: self.dns_client_rate,
            client_places: self.dns_client_places,
            tcp_idle: Duration::from_secs(self.dns_tcp_idle.max(1)),
        }
    }
}

/// Runs the agent until it is told to stop. Call it while the process has one thread.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    if let Some(netns) = &args.netns {
        launch::enter_netns(netns)?;
    }
    let workers = args.workers.max(1);
    let config = config(args)?;
    launch::run_until_stopped(workers, async move |stop: CancellationToken| {
        bowline_agent::run(config, stop).await
    })
}

/// Remove from this node what `bowline agent` left in the kernel and in its run directory.
///
/// The agent and the containers of its pods must have ended. What outlives a reboot (certificate,
/// images) stays.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline clean-node
  bowline clean-node --netns /run/netns/node1 --run-dir /run/node1 --bpffs /run/node1/bpf")]
pub(crate) struct CleanArgs {
    /// The agent's --netns
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// The agent's --run-dir
    #[arg(long, value_name = "DIR", default_value = "/run/bowline")]
    run_dir: PathBuf,
    /// The agent's --bpffs
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
}

/// Cleans the node. Call it while the process has one thread.
pub(crate) fn clean(args: CleanArgs) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("cleaning a node needs root: run it with sudo");
    }
    if let Some(netns) = &args.netns {
        launch::enter_netns(netns)?;
    }
    let left = bowline_agent::remove_node_state(&args.run_dir, &args.bpffs);
    crate::wait(async {
        let failures = left.await.err().unwrap_or_default();
        let Some(first) = failures.first() else { return Ok(()) };
        let (all, first) = (failures.len(), first.to_string());
        bail!("the node is not clean: {first} ({all} in all): run `clean-node` again")
    })
}

/// The join token of a file. One that is not there is of no matter once the node has joined.
fn token(file: &Path) -> anyhow::Result<Option<Secret>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.trim().to_owned().into())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            tracing::warn!(file = %file.display(), "there is no join token");
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read token {}", file.display())),
    }
}

fn config(args: Args) -> anyhow::Result<bowline_agent::Config> {
    let token = args.token_file.as_deref().map(token).transpose()?.flatten();
    let mut map_sizes = MapSizes::default();
    for assignment in &args.map_size {
        map_sizes.set(assignment).context("--map-size")?;
    }
    Ok(bowline_agent::Config {
        node_name: args.node_name,
        node_addresses: args.node_address,
        uplink: args.uplink,
        server: args.server,
        token,
        data_dir: args.data_dir,
        run_dir: args.run_dir,
        containerd_socket: args.containerd_socket,
        containerd_namespace: args.containerd_namespace,
        bpffs: args.bpffs,
        socket_cgroup: args.socket_cgroup,
        cgroup_parent: args.cgroup_parent,
        cluster_domain: args.cluster_domain,
        cluster_dns: args.cluster_dns,
        node_cpu: args.node_cpu,
        node_memory: args.node_memory,
        max_pods: args.max_pods,
        insecure_registries: args.insecure_registry,
        lease_renew_interval: Duration::from_secs(args.node_lease_renew_interval.max(1)),
        dns: args.dns.options(),
        map_sizes,
        metrics_services: args.metrics_services,
        net_commands: args.net_commands.min(tokio::sync::Semaphore::MAX_PERMITS),
        disabled_features: args.disable_feature.into_iter().collect(),
        routing: args.routing,
        vxlan_port: args.vxlan_port,
        masquerade: args.masquerade,
    })
}

#[cfg(test)]
mod tests {
    use super::token;

    #[test]
    fn a_join_token_may_be_gone_and_must_be_readable_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("join-token");
        assert!(token(&file).unwrap().is_none());
        std::fs::write(&file, "bl1.ab.cd\n").unwrap();
        assert!(token(&file).unwrap().is_some());
        let error = token(directory.path()).unwrap_err().to_string();
        assert_eq!(error, format!("cannot read token {}", directory.path().display()));
    }
}
