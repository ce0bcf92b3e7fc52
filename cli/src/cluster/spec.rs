//! What the user asks `up` for, checked before anything is touched.

use std::path::PathBuf;

use bowline_agent::datapath::{Feature, MapSizes};
use bowline_agent::{DEFAULT_VXLAN_PORT, DnsUpstream, Routing, StubDomain};
use bowline_api::cidr::{Cidr, DualStackCidr};
use bowline_api::quantity::Quantity;
use thiserror::Error;

use super::place::{InvalidName, Place};
use super::uplinks::{self, Layout, MAX_NODES};

/// Prefix lengths of the pod ranges of one node.
const NODE_RANGE_PREFIX: u8 = 24;
const NODE_RANGE_PREFIX_V6: u8 = 64;

/// Start a local cluster: a server and nodes on this machine.
///
/// Each node is a network namespace `bl-<name>-<node>` with an agent of its own. Nothing is
/// changed in the host's network. Needs root, cgroup2, containerd and runc.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline up
  bowline up --name demo --nodes 3 --node-cpu 4 --node-memory 16Gi
  bowline up --pod-cidr 10.240.0.0/16,fd00:10:240::/48
  bowline up --l2 per-node --routing tunnel
  bowline up --name other --pod-cidr 10.96.0.0/16 --service-cidr 10.97.0.0/16 --dir /srv/other")]
pub(crate) struct Args {
    /// Name of the cluster
    #[arg(long, default_value = "demo")]
    pub(crate) name: String,
    /// Directory of the cluster [default: /var/lib/bowline/NAME]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Number of nodes
    #[arg(long, default_value_t = 3)]
    pub(crate) nodes: u16,
    /// Range of pod addresses, each node gets a /24 of it; for dual stack followed by an IPv6
    /// range, of which each node gets a /64
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "10.240.0.0/16")]
    pub(crate) pod_cidr: DualStackCidr,
    /// Range of service addresses; for dual stack followed by an IPv6 range
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "10.9.0.0/16")]
    pub(crate) service_cidr: DualStackCidr,
    /// How packets reach pods of other nodes
    #[arg(long, value_name = "native|tunnel|auto", default_value_t)]
    pub(crate) routing: Routing,
    /// UDP port of the tunnel
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_VXLAN_PORT)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) vxlan_port: u16,
    /// Give packets that leave the cluster the address of their node
    #[arg(long)]
    pub(crate) masquerade: bool,
    /// What lies between the nodes
    #[arg(long, value_enum, default_value_t)]
    pub(crate) l2: Layout,
    /// CPUs that each node declares [default: what the machine has]
    #[arg(long, value_name = "QUANTITY")]
    pub(crate) node_cpu: Option<String>,
    /// Memory that each node declares [default: what the machine has]
    #[arg(long, value_name = "QUANTITY")]
    pub(crate) node_memory: Option<String>,
    /// Port of the API server on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// Registry (host:port) that nodes pull from over plain HTTP; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) insecure_registry: Vec<String>,
    /// Room in the nodes' BPF maps, as `bowline agent --map-size` takes it; may be repeated
    #[arg(long, value_name = "NAME=ENTRIES")]
    pub(crate) map_size: Vec<String>,
    /// Kernel features that the nodes do without, as `bowline agent --disable-feature` takes them
    #[arg(long, value_name = "FEATURE[,FEATURE]", value_delimiter = ',')]
    pub(crate) disable_feature: Vec<Feature>,
    /// DNS server that nodes ask for names outside of the cluster; may be repeated
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub(crate) dns_upstream: Vec<DnsUpstream>,
    /// DNS server that nodes ask for the names of a domain; may be repeated
    #[arg(long, value_name = "DOMAIN=ADDRESS[:PORT]")]
    pub(crate) dns_stub_domain: Vec<StubDomain>,
    /// Seconds without a heartbeat after which a node is not ready
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub(crate) node_monitor_grace_period: u64,
    /// Seconds between two heartbeats of a node
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    pub(crate) node_lease_renew_interval: u64,
    /// Seconds that pods stay bound to a node that is not ready
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub(crate) default_unreachable_toleration_seconds: i64,
    /// Seconds to wait for all nodes to be ready
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// Log level of server and agents
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) cluster_log_level: String,
}

/// What cannot be asked for.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum InvalidSpec {
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error("--nodes {0}: a local cluster has 1 to {MAX_NODES} nodes")]
    NodeCount(u16),
    #[error("{flag} {range} is too small: {why}")]
    TooSmall { flag: &'static str, range: Cidr, why: String },
    #[error("{left_flag} {left} overlaps {right_flag} {right}: choose ranges that do not overlap")]
    Overlap { left_flag: &'static str, left: Cidr, right_flag: &'static str, right: Cidr },
    #[error(
        "--l2 per-node needs --routing tunnel or auto: the router between the nodes knows no pods"
    )]
    NoTunnel,
    #[error("{flag} {value}: not a quantity above zero, such as 4, 500m or 16Gi")]
    Quantity { flag: &'static str, value: String },
    #[error("--map-size: {0}")]
    MapSize(String),
    #[error("--dir {}: give an absolute path", .0.display())]
    RelativeDir(PathBuf),
}

impl Args {
    /// Checks the wishes against each other; touches nothing.
    pub(crate) fn check(&self) -> Result<Place, InvalidSpec> {
        let place = Place::new(&self.name, self.dir.as_deref())?;
        if !place.dir.is_absolute() {
            return Err(InvalidSpec::RelativeDir(place.dir));
        }
        if self.nodes == 0 || self.nodes > MAX_NODES {
            return Err(InvalidSpec::NodeCount(self.nodes));
        }
        self.check_ranges()?;
        for assignment in &self.map_size {
            let checked = MapSizes::default().set(assignment);
            checked.map_err(|error| InvalidSpec::MapSize(error.to_string()))?;
        }
        if self.l2 == Layout::PerNode && self.routing == Routing::Native {
            return Err(InvalidSpec::NoTunnel);
        }
        for (flag, value) in [("--node-cpu", &self.node_cpu), ("--node-memory", &self.node_memory)]
        {
            if let Some(value) = value {
                check_quantity(flag, value)?;
            }
        }
        Ok(place)
    }

    fn check_ranges(&self) -> Result<(), InvalidSpec> {
        for range in self.pod_cidr.ranges() {
            let prefix = if range.is_ipv6() { NODE_RANGE_PREFIX_V6 } else { NODE_RANGE_PREFIX };
            if range.subnet(prefix, u64::from(self.nodes) - 1).is_none() {
                let why = format!("{} nodes need {} ranges of /{prefix}", self.nodes, self.nodes);
                return Err(InvalidSpec::TooSmall { flag: "--pod-cidr", range, why });
            }
        }
        let small = self.service_cidr.ranges().find(|range| range.size() < 16);
        if let Some(range) = small {
            let least = if range.is_ipv6() { 124 } else { 28 };
            let why = format!("the fixed service addresses need at least a /{least}");
            return Err(InvalidSpec::TooSmall { flag: "--service-cidr", range, why });
        }
        let ranges = self.reserved();
        for (index, &(left_flag, left)) in ranges.iter().enumerate() {
            for &(right_flag, right) in &ranges[index + 1..] {
                if left.overlaps(right) {
                    return Err(InvalidSpec::Overlap { left_flag, left, right_flag, right });
                }
            }
        }
        Ok(())
    }

    /// Ranges that must not overlap, and what each of them is for.
    fn reserved(&self) -> Vec<(&'static str, Cidr)> {
        let pods = self.pod_cidr.ranges().map(|range| ("--pod-cidr", range));
        let services = self.service_cidr.ranges().map(|range| ("--service-cidr", range));
        let nodes = uplinks::ranges(self.l2).map(|range| ("the node network", range));
        let fixed = [
            ("loopback", "127.0.0.0/8"),
            ("loopback", "::1/128"),
            ("link-local addresses", "169.254.0.0/16"),
            ("link-local addresses", "fe80::/10"),
            ("multicast addresses", "224.0.0.0/4"),
            ("multicast addresses", "ff00::/8"),
        ];
        let fixed = fixed.into_iter().filter_map(|(what, text)| Some((what, text.parse().ok()?)));
        pods.chain(services).chain(nodes).chain(fixed).collect()
    }
}

fn check_quantity(flag: &'static str, value: &str) -> Result<(), InvalidSpec> {
    match value.parse::<Quantity>() {
        Ok(quantity) if !quantity.is_zero() && !quantity.is_negative() => Ok(()),
        _ => Err(InvalidSpec::Quantity { flag, value: value.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        up: Args,
    }

    fn check(line: &str) -> Result<(), String> {
        let words = std::iter::once("up").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.up.check().map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn wishes_that_hold() {
        for line in [
            "",
            "--nodes 1 --pod-cidr 10.1.2.0/24",
            "--node-cpu 2.5 --node-memory 16Gi",
            "--node-cpu 2500m",
            "--pod-cidr 10.96.0.0/16 --service-cidr 10.97.0.0/16 --dir /tmp/x",
            "--pod-cidr 10.240.0.0/16,fd00:10:240::/48 --service-cidr 10.9.0.0/16,fd00:10:9::/112",
            "--l2 per-node --routing tunnel --vxlan-port 4789",
            "--l2 per-node --routing auto --masquerade",
        ] {
            assert_eq!(check(line), Ok(()), "{line}");
        }
    }

    #[test]
    fn wishes_that_do_not_hold_say_which_and_why() {
        for (line, expected) in [
            ("--name Demo", "cluster name `Demo` is not valid"),
            ("--nodes 0", "--nodes 0: a local cluster has 1 to 240 nodes"),
            ("--nodes 241", "--nodes 241"),
            ("--pod-cidr 10.1.2.0/24", "--pod-cidr 10.1.2.0/24 is too small: 3 nodes need"),
            ("--pod-cidr 10.1.2.0/25 --nodes 1", "is too small"),
            ("--service-cidr 10.9.0.0/29", "--service-cidr 10.9.0.0/29 is too small"),
            ("--pod-cidr 10.9.0.0/16", "--pod-cidr 10.9.0.0/16 overlaps --service-cidr"),
            ("--pod-cidr 10.0.0.0/8", "overlaps --service-cidr 10.9.0.0/16"),
            ("--pod-cidr 172.30.0.0/16", "overlaps the node network 172.30.0.0/24"),
            ("--service-cidr 127.1.0.0/16", "overlaps loopback"),
            ("--pod-cidr 10.240.0.1/16", "did you mean 10.240.0.0/16"),
            ("--pod-cidr 10.240.0.0", "invalid CIDR address"),
            ("--pod-cidr fd00:10::/32", "give an IPv4 range"),
            ("--pod-cidr 10.240.0.0/16,fd00:10:240::/63", "3 nodes need 3 ranges of /64"),
            ("--pod-cidr 10.240.0.0/16,fd00:172:30::/48", "overlaps the node network"),
            ("--pod-cidr 10.240.0.0/16,fe80::/48", "overlaps link-local"),
            ("--service-cidr 10.9.0.0/16,fd00:10:9::/125", "need at least a /124"),
            ("--routing magic", "use native, tunnel or auto"),
            ("--l2 per-node", "--l2 per-node needs --routing tunnel or auto"),
            ("--l2 per-node --routing auto --pod-cidr 172.30.8.0/22", "overlaps the node network"),
            ("--pod-cidr 10.240.0.0/33", "invalid CIDR address"),
            ("--map-size SLOTS=0", "--map-size: \"SLOTS=0\" sets no map's size"),
            ("--disable-feature redirect-peer", "those are set-retval, tcx"),
            ("--node-cpu four", "--node-cpu four: not a quantity"),
            ("--node-memory 0", "--node-memory 0: not a quantity above zero"),
            ("--vxlan-port 0", "0 is not in 1..=65535"),
            ("--timeout 0", "0 is not in 1..=86400"),
            ("--timeout 18446744073709551615", "is not in 1..=86400"),
            ("--dir x", "--dir x: give an absolute path"),
        ] {
            let error = check(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
