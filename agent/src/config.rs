//! What an agent is told when it starts.
//!
//! Guarantees: a `Config` holds plain values; nothing in it was looked up or checked. Not here:
//! whether the machine can honour them (`preflight`).

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use crate::{
    datapath::{Feature, MapSizes},
    dns::DnsOptions,
};

/// The address on `lo` at which every agent answers DNS for its own node.
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);

/// The same for IPv6, where pods have such addresses: unique local (RFC 4193), because a link-local
/// one is of no use without the name of its link.
pub const DNS_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x6f77, 0x6c69, 0x6e65, 0, 0, 0, 0x10);

/// The port of the DNS server.
pub(crate) const DNS_PORT: u16 = 53;

/// The port of the agent's HTTPS server.
pub const AGENT_PORT: u16 = 10250;

/// The UDP port that Linux and other pod networks use for VXLAN. IANA's is 4789.
pub const DEFAULT_VXLAN_PORT: u16 = 8472;

/// How many services have metrics of their own: four series each, which Prometheus keeps for weeks.
pub const DEFAULT_METRICS_SERVICES: usize = 1000;

/// How many `bowline net` commands a node answers through the API at one time.
pub const DEFAULT_NET_COMMANDS: usize = 8;

/// How packets reach the pods of other nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Routing {
    /// As they are: every node is on the link of the uplink.
    #[default]
    Native,
    /// Wrapped in VXLAN (RFC 7348) for the other node.
    Tunnel,
    /// As they are to nodes on the link of the uplink, wrapped to all others.
    Auto,
}

/// A text names no way of routing.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no way of routing: use native, tunnel or auto")]
pub struct ParseRoutingFailed(String);

impl FromStr for Routing {
    type Err = ParseRoutingFailed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Native, Self::Tunnel, Self::Auto];
        let found = all.into_iter().find(|routing| routing.to_string() == text);
        found.ok_or_else(|| ParseRoutingFailed(text.to_owned()))
    }
}

impl fmt::Display for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Tunnel => "tunnel",
            Self::Auto => "auto",
        })
    }
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Everything an agent is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// Addresses of the node, one of each family at most; without an IPv4 address, the one that
    /// the way to the server starts from; without an IPv6 address, the uplink's.
    pub node_addresses: Vec<IpAddr>,
    /// Link that leads to the other nodes; without one, the link that has the node's address.
    pub uplink: Option<String>,
    /// `https://host:port` of the API server.
    pub server: String,
    /// Join token. Not needed once a certificate lies in `data_dir`.
    pub token: Option<Secret>,
    /// What must outlive a reboot: certificate and key.
    pub data_dir: PathBuf,
    /// What lives as long as the node is up: sandboxes and their records.
    pub run_dir: PathBuf,
    /// containerd's socket.
    pub containerd_socket: PathBuf,
    /// containerd's namespace of this node.
    pub containerd_namespace: String,
    /// A mounted bpffs. Pins are made under `bowline/v<ABI>` in it.
    pub bpffs: PathBuf,
    /// cgroup v2 directory (a full path) that the socket programs are attached to: it holds every
    /// process that counts as being on this node.
    pub socket_cgroup: PathBuf,
    /// cgroup, as a path inside the hierarchies (`/bowline/demo/node1/pods`), below which a cgroup
    /// `<pod uid>/<container id>` is made for each container.
    pub cgroup_parent: String,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The address in pods' resolv.conf: the cluster IP of `kube-system/kube-dns`.
    pub cluster_dns: Ipv4Addr,
    /// Capacity to declare as CPUs, a quantity; without one, the machine's.
    pub node_cpu: Option<String>,
    /// Capacity to declare as memory, a quantity; without one, the machine's.
    pub node_memory: Option<String>,
    /// The most pods that this node takes.
    pub max_pods: u32,
    /// Registries (`host:port`) that are spoken to over plain HTTP.
    pub insecure_registries: Vec<String>,
    /// How often the node's Lease is renewed.
    pub lease_renew_interval: Duration,
    /// Whom the DNS server asks, and its limits.
    pub dns: DnsOptions,
    /// How many entries the BPF maps have room for.
    pub map_sizes: MapSizes,
    /// How many services have metrics of their own.
    pub metrics_services: usize,
    /// How many `bowline net` commands are answered through the API at one time.
    pub net_commands: usize,
    /// Kernel features to do without although they are there.
    pub disabled_features: BTreeSet<Feature>,
    /// How packets reach the pods of other nodes.
    pub routing: Routing,
    /// UDP port of the tunnel, the same on every node.
    pub vxlan_port: u16,
    /// Packets that leave the cluster get the address of this node as their source.
    pub masquerade: bool,
}

impl Config {
    /// The defaults of an agent on a machine of its own.
    #[must_use]
    pub fn new(node_name: impl Into<String>, server: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            node_addresses: Vec::new(),
            uplink: None,
            server: server.into(),
            token: None,
            data_dir: PathBuf::from("/var/lib/bowline/agent"),
            run_dir: PathBuf::from("/run/bowline"),
            containerd_socket: PathBuf::from("/run/containerd/containerd.sock"),
            containerd_namespace: "bowline".to_owned(),
            bpffs: PathBuf::from("/sys/fs/bpf"),
            socket_cgroup: PathBuf::from("/sys/fs/cgroup"),
            cgroup_parent: "/bowline/pods".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: Ipv4Addr::new(10, 9, 0, 10),
            node_cpu: None,
            node_memory: None,
            max_pods: 110,
            insecure_registries: Vec::new(),
            lease_renew_interval: Duration::from_secs(10),
            dns: DnsOptions::default(),
            map_sizes: MapSizes::default(),
            metrics_services: DEFAULT_METRICS_SERVICES,
            net_commands: DEFAULT_NET_COMMANDS,
            disabled_features: BTreeSet::new(),
            routing: Routing::default(),
            vxlan_port: DEFAULT_VXLAN_PORT,
            masquerade: false,
        }
    }
}
