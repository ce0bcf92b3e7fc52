//! What `up` will make, as a list: decided before anything is touched, written to
//! `cluster.json`, then carried out.
//!
//! Guarantees: pure. Two calls with the same wishes give the same plan.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::place::Place;
use super::spec::Args;
use super::uplinks::{self, BRIDGE_ADDRESS, Layout, UplinkAddress};

/// Port of the API server inside the cluster.
const SERVER_PORT: u16 = 6443;

/// The service address of the cluster's DNS, counted from the start of the range.
const DNS_OFFSET: u64 = 10;

/// Everything a cluster consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Plan {
    /// In order of making; the cluster's own directory is not among them.
    pub(crate) directories: Vec<PathBuf>,
    /// Relative to the root of the cgroup2 hierarchy, parents first.
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) bridge_namespace: String,
    pub(crate) l2: Layout,
    pub(crate) nodes: Vec<Node>,
    pub(crate) containerd: Process,
    pub(crate) server: Process,
}

/// A node: a namespace with an uplink into the bridge, a bpffs and an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// Of its uplink, IPv4 first.
    pub(crate) addresses: Vec<UplinkAddress>,
    pub(crate) bpffs: PathBuf,
    pub(crate) agent: Process,
}

/// A process to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    pub(crate) name: String,
    /// Relative to the root of the cgroup2 hierarchy.
    pub(crate) cgroup: PathBuf,
    /// Name of the network namespace that it is started in; the host's when absent.
    pub(crate) namespace: Option<String>,
    pub(crate) log: PathBuf,
    /// `bowline` as the program stands for this very binary.
    pub(crate) command: Vec<String>,
}

/// The program that stands for this binary in [`Process::command`].
pub(crate) const SELF: &str = "bowline";

/// Makes the plan. `cgroup_root` is where the cgroup2 hierarchy is mounted.
pub(crate) fn plan(place: &Place, wishes: &Args, cgroup_root: &Path) -> Plan {
    let cgroup = place.cgroup();
    let containerd = place.containerd();
    let mut directories = vec![place.server_data(), containerd.clone(), place.dir.join("logs")];
    directories.extend([containerd.join("root"), containerd.join("state")]);
    let mut cgroups = vec![cgroup.clone(), cgroup.join("server"), cgroup.join("containerd")];
    let mut planned = Vec::new();
    for number in 1..=wishes.nodes {
        let name = format!("node{number}");
        let addresses = uplinks::addresses(wishes.l2, number, wishes.pod_cidr.v6.is_some());
        let node_dir = place.node_dir(&name);
        directories.extend(["data", "run", "bpf"].map(|part| node_dir.join(part)));
        cgroups.extend([cgroup.join(&name), cgroup.join(&name).join("agent")]);
        planned.push(Node {
            namespace: place.node_namespace(&name),
            bpffs: place.bpffs(&name),
            agent: agent(place, wishes, &name, &addresses, cgroup_root),
            name,
            addresses,
        });
    }
    Plan {
        directories,
        cgroups,
        bridge_namespace: place.bridge_namespace(),
        l2: wishes.l2,
        nodes: planned,
        containerd: Process {
            name: "containerd".to_owned(),
            cgroup: cgroup.join("containerd"),
            namespace: None,
            log: place.log("containerd"),
            command: ["containerd", "--config", &text(&containerd.join("config.toml"))]
                .map(str::to_owned)
                .to_vec(),
        },
        server: server(place, wishes),
    }
}

fn server(place: &Place, wishes: &Args) -> Process {
    let inner = SocketAddrV4::new(BRIDGE_ADDRESS, SERVER_PORT);
    // The server binds its outer listener in the host's namespace and enters the other by itself.
    let namespace = super::namespaces::path(&place.bridge_namespace());
    let flags = [
        ("--data-dir", text(&place.server_data())),
        ("--listen", format!("127.0.0.1:{}", wishes.port)),
        ("--netns", text(&namespace)),
        ("--cluster-listen", inner.to_string()),
        ("--kubeconfig", text(&place.kubeconfig())),
        ("--token-file", text(&place.token_file())),
        ("--pod-cidr", wishes.pod_cidr.to_string()),
        ("--service-cidr", wishes.service_cidr.to_string()),
        ("--node-monitor-grace-period", wishes.node_monitor_grace_period.to_string()),
        (
            "--default-unreachable-toleration-seconds",
            wishes.default_unreachable_toleration_seconds.to_string(),
        ),
        ("--log-level", wishes.cluster_log_level.clone()),
    ];
    Process {
        name: "server".to_owned(),
        cgroup: place.cgroup().join("server"),
        namespace: None,
        log: place.log("server"),
        command: command("server", flags),
    }
}

fn agent(
    place: &Place,
    wishes: &Args,
    node: &str,
    addresses: &[UplinkAddress],
    root: &Path,
) -> Process {
    let dir = place.node_dir(node);
    let cgroup = place.cgroup().join(node);
    let services = wishes.service_cidr.v4;
    let addresses: Vec<String> = addresses.iter().map(|it| it.address.to_string()).collect();
    let dns = services.address(DNS_OFFSET).unwrap_or(services.network());
    let mut flags = vec![
        ("--node-name", node.to_owned()),
        ("--node-address", addresses.join(",")),
        ("--server", format!("https://{}", SocketAddrV4::new(BRIDGE_ADDRESS, SERVER_PORT))),
        ("--token-file", text(&place.token_file())),
        ("--data-dir", text(&dir.join("data"))),
        ("--run-dir", text(&dir.join("run"))),
        ("--bpffs", text(&place.bpffs(node))),
        ("--socket-cgroup", text(&root.join(&cgroup))),
        ("--cgroup-parent", text(&Path::new("/").join(&cgroup).join("pods"))),
        ("--containerd-socket", text(&place.containerd_socket())),
        ("--containerd-namespace", place.containerd_namespace(node)),
        ("--cluster-dns", dns.to_string()),
        ("--node-lease-renew-interval", wishes.node_lease_renew_interval.to_string()),
        ("--log-level", wishes.cluster_log_level.clone()),
    ];
    flags.push(("--routing", wishes.routing.to_string()));
    flags.push(("--vxlan-port", wishes.vxlan_port.to_string()));
    flags.extend(wishes.node_cpu.clone().map(|cpu| ("--node-cpu", cpu)));
    flags.extend(wishes.node_memory.clone().map(|memory| ("--node-memory", memory)));
    flags.extend(wishes.map_size.iter().map(|size| ("--map-size", size.clone())));
    let disabled = wishes.disable_feature.iter();
    flags.extend(disabled.map(|feature| ("--disable-feature", feature.to_string())));
    flags.extend(wishes.insecure_registry.iter().map(|it| ("--insecure-registry", it.clone())));
    flags.extend(wishes.dns_upstream.iter().map(|it| ("--dns-upstream", it.to_string())));
    flags.extend(wishes.dns_stub_domain.iter().map(|it| ("--dns-stub-domain", it.to_string())));
    let mut command = command("agent", flags);
    command.extend(wishes.masquerade.then(|| "--masquerade".to_owned()));
    Process {
        name: node.to_owned(),
        cgroup: cgroup.join("agent"),
        namespace: Some(place.node_namespace(node)),
        log: place.log(node),
        command,
    }
}

fn command(verb: &str, flags: impl IntoIterator<Item = (&'static str, String)>) -> Vec<String> {
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    [SELF.to_owned(), verb.to_owned()].into_iter().chain(flags).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
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

    fn planned(words: &[&str]) -> Plan {
        let line = Line::parse_from([&["up"], words].concat());
        let place = line.up.check().unwrap();
        plan(&place, &line.up, Path::new("/sys/fs/cgroup"))
    }

    fn strings(paths: &[PathBuf]) -> Vec<String> {
        paths.iter().map(|path| text(path)).collect()
    }

    #[test]
    fn a_cluster_of_one_node() {
        let plan = planned(&["--name", "x", "--dir", "/d", "--nodes", "1"]);
        assert_eq!(
            strings(&plan.directories),
            [
                "/d/server",
                "/d/containerd",
                "/d/logs",
                "/d/containerd/root",
                "/d/containerd/state",
                "/d/nodes/node1/data",
                "/d/nodes/node1/run",
                "/d/nodes/node1/bpf",
            ]
        );
        assert_eq!(
            strings(&plan.cgroups),
            [
                "bowline/x",
                "bowline/x/server",
                "bowline/x/containerd",
                "bowline/x/node1",
                "bowline/x/node1/agent",
            ]
        );
        assert_eq!(plan.bridge_namespace, "bl-x-net");
        let node = &plan.nodes[0];
        assert_eq!(node.namespace, "bl-x-node1");
        assert_eq!(node.addresses, uplinks::addresses(Layout::Shared, 1, false));
        assert_eq!(node.agent.namespace.as_deref(), Some("bl-x-node1"));
        assert_eq!(node.agent.cgroup, Path::new("bowline/x/node1/agent"));
    }

    #[test]
    fn every_node_has_names_of_its_own() {
        let plan = planned(&["--nodes", "3"]);
        let names: Vec<_> = plan.nodes.iter().map(|node| node.namespace.as_str()).collect();
        assert_eq!(names, ["bl-demo-node1", "bl-demo-node2", "bl-demo-node3"]);
        let mut logs: Vec<_> = plan.nodes.iter().map(|node| &node.agent.log).collect();
        logs.dedup();
        assert_eq!(logs.len(), 3);
    }

    #[test]
    fn the_server_starts_outside_and_enters_the_bridge_namespace_itself() {
        let plan = planned(&["--port", "7443"]);
        assert_eq!(plan.server.namespace, None);
        let command = plan.server.command.join(" ");
        assert!(command.contains("--listen 127.0.0.1:7443"), "{command}");
        assert!(command.contains("--netns /run/netns/bl-demo-net"), "{command}");
        assert!(command.contains("--cluster-listen 172.30.0.1:6443"), "{command}");
    }

    #[test]
    fn capacity_and_registries_reach_the_agents() {
        let plan = planned(&[
            "--node-cpu",
            "4",
            "--node-memory",
            "16Gi",
            "--map-size",
            "SLOTS=4096",
            "--disable-feature",
            "tcx,set-retval",
            "--insecure-registry",
            "172.30.0.2:5000",
            "--dns-upstream",
            "172.30.0.1",
            "--dns-stub-domain",
            "Example.internal=172.30.0.1:5353",
        ]);
        for node in plan.nodes {
            let command = node.agent.command.join(" ");
            assert!(
                command.ends_with(
                    "--node-cpu 4 --node-memory 16Gi --map-size SLOTS=4096 --disable-feature tcx \
                     --disable-feature set-retval --insecure-registry 172.30.0.2:5000 \
                     --dns-upstream 172.30.0.1:53 \
                     --dns-stub-domain example.internal.=172.30.0.1:5353"
                ),
                "{command}"
            );
        }
    }

    #[test]
    fn network_wishes_reach_server_and_agents() {
        let ranges = "10.240.0.0/16,fd00:10:240::/48";
        let plan = planned(&[
            "--pod-cidr",
            ranges,
            "--l2",
            "per-node",
            "--routing",
            "auto",
            "--masquerade",
        ]);
        let server = plan.server.command.join(" ");
        assert!(server.contains(&format!("--pod-cidr {ranges}")), "{server}");
        let agent = plan.nodes[1].agent.command.join(" ");
        for flag in
            ["--node-address 172.30.2.12,fd00:172:30:2::c", "--routing auto", "--masquerade"]
        {
            assert!(agent.contains(flag), "{agent}");
        }
    }

    #[test]
    fn a_plan_survives_being_written_down() {
        let plan = planned(&[]);
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}
