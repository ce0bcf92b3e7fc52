//! Pods at known places, and what is asked of the network between them: plain sockets and plain
//! tools (ping, traceroute, iperf3) in the pods' own network namespaces.
//!
//! Guarantees: a socket that [`Stage::inside`] makes belongs to the pod's namespace for good; the
//! calling thread stays where it is.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde_json::json;

use crate::api::{node_of, uid};
use crate::cluster::{Cluster, Wishes};
use crate::command::output;
use crate::node::netns_path;
use crate::place::Place;

const PATIENCE: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_secs(5);

/// A cluster with three pods: mostly of two nodes, with two pods on the first one and one on the
/// second.
pub struct Stage {
    pub cluster: Cluster,
    /// On node1.
    pub here: Pod,
    /// On node1, too.
    pub beside: Pod,
    /// On node2.
    pub there: Pod,
}

impl Stage {
    /// Make the cluster with these flags of `bowline up`, and the pods.
    pub async fn up(flags: &[&str]) -> Result<Self> {
        let mut wishes = Wishes { nodes: 2, ..Wishes::default() };
        wishes.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Self::over(Cluster::up(&wishes)?, ["node1", "node1", "node2"]).await
    }

    /// Make the pods in a cluster, on these nodes.
    pub async fn over(cluster: Cluster, nodes: [&str; 3]) -> Result<Self> {
        let pods = make_pods(&cluster, nodes).await.map_err(|error| cluster.with_logs(error))?;
        let [here, beside, there] = pods;
        Ok(Self { cluster, here, beside, there })
    }

    /// The pairs that packets go between: on one node, and across.
    pub fn ways(&self) -> [(&'static str, &Pod, &Pod); 2] {
        [("on one node", &self.here, &self.beside), ("across nodes", &self.here, &self.there)]
    }

    /// A pod's network with the machine's programs.
    pub fn network(&self, pod: &Pod) -> Result<Place> {
        self.cluster.node(&node_of(pod))?.pod_network(&uid(pod))
    }

    /// The pinned network namespace of a pod.
    pub fn netns(&self, pod: &Pod) -> PathBuf {
        let run = self.cluster.dir.join("nodes").join(node_of(pod)).join("run");
        run.join("sandboxes").join(uid(pod)).join("net")
    }

    /// Run a program in a pod's network and give what it prints; its failure is an error.
    pub fn run(&self, pod: &Pod, line: &str) -> Result<String> {
        run(&self.network(pod)?, line)
    }

    /// Ping from a pod; every packet must be answered.
    pub fn ping(&self, from: &Pod, to: IpAddr, flags: &str) -> Result<String> {
        self.run(from, &format!("ping -n -c 3 -i 0.2 -W 2 {flags} {to}"))
    }

    /// Send by TCP, UDP and ICMP from one pod to another; give the source that was seen of each.
    pub fn sources(&self, from: &Pod, to: &Pod, family: Family) -> Result<[IpAddr; 3]> {
        let target = family.of(to)?;
        let (sender, receiver) = (self.netns(from), self.netns(to));
        let tcp = seen_by_tcp(&sender, &receiver, target).context("TCP")?;
        let udp = seen_by_udp(&sender, &receiver, target).context("UDP")?;
        let raw = inside(&receiver, move || family.echo_socket())??;
        self.ping(from, target, "")?;
        raw.set_read_timeout(Some(ANSWER))?;
        let icmp = raw.recv_from(&mut [0; 256]).context("ICMP")?.1.ip();
        Ok([tcp, udp, icmp])
    }

    /// An error with the ends of the cluster's logs.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        self.cluster.with_logs(error)
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// A pod's address of this family.
    pub fn of(self, pod: &Pod) -> Result<IpAddr> {
        addresses(pod)?
            .into_iter()
            .find(|address| address.is_ipv6() == (self == Self::V6))
            .with_context(|| format!("pod {} has no {self:?} address", crate::api::name(pod)))
    }

    /// How much of a packet's length ping does not count: the IP header and the echo header.
    pub fn ping_headers(self) -> u32 {
        if self == Self::V4 { 28 } else { 48 }
    }

    /// A socket that sees each echo request that comes in.
    fn echo_socket(self) -> Result<UdpSocket> {
        let (family, protocol) = match self {
            Self::V4 => (AddressFamily::Inet, SockProtocol::Icmp),
            Self::V6 => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        // Receiving is the same for every datagram socket; this one has no ports.
        Ok(UdpSocket::from(raw))
    }
}

/// Run `line` at `place` and give what it prints; its failure is an error.
pub fn run(place: &Place, line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command line")?;
    output(place.command(program).args(words))
}

/// Run `work` in the network namespace at `path`, on a thread of its own.
pub fn inside<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let namespace = File::open(path).with_context(|| format!("no {}", path.display()))?;
    let thread = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).map(|()| work()).context("cannot enter it")
    });
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// All addresses of a pod.
pub fn addresses(pod: &Pod) -> Result<Vec<IpAddr>> {
    let status = pod.status.as_ref().context("a pod without status")?;
    let all = status.pod_ips.iter().flatten();
    all.map(|ip| ip.ip.parse().with_context(|| format!("{} is no address", ip.ip))).collect()
}

/// The unspecified address of the same family.
pub fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Connect from one namespace to another; give the address that the listener saw.
pub fn seen_by_tcp(sender: &Path, receiver: &Path, target: IpAddr) -> Result<IpAddr> {
    let listener = inside(receiver, move || TcpListener::bind((any(target), 0)))??;
    let target = SocketAddr::new(target, listener.local_addr()?.port());
    let stream = inside(sender, move || TcpStream::connect_timeout(&target, ANSWER))??;
    ensure!(stream.peer_addr()? == target, "the peer is {}", stream.peer_addr()?);
    Ok(listener.accept()?.1.ip())
}

/// Send a datagram from one namespace to another; give the address that the receiver saw.
pub fn seen_by_udp(sender: &Path, receiver: &Path, target: IpAddr) -> Result<IpAddr> {
    let socket = inside(receiver, move || UdpSocket::bind((any(target), 0)))??;
    socket.set_read_timeout(Some(ANSWER))?;
    let target = SocketAddr::new(target, socket.local_addr()?.port());
    let own = inside(sender, move || UdpSocket::bind((any(target.ip()), 0)))??;
    own.send_to(b"hello", target)?;
    Ok(socket.recv_from(&mut [0; 16])?.1.ip())
}

async fn make_pods(cluster: &Cluster, nodes: [&str; 3]) -> Result<[Pod; 3]> {
    let api = cluster.api().await?;
    for (name, node) in ["here", "beside", "there"].into_iter().zip(nodes) {
        let pod = json!({
            "metadata": { "name": name, "labels": { "app": "stage", "pod": name } },
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "stage",
                    "image": format!("{}/workload:v1", crate::registry::ADDRESS),
                    "args": ["serve", "--listen", "::", "--http", "9376"],
                }],
            },
        });
        api.of::<Pod>().create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    }
    let mut pods = api.ready_pods("app=stage", 3, PATIENCE).await?;
    let mut take = |name: &str| {
        let at = pods.iter().position(|pod| crate::api::name(pod) == name);
        at.map(|at| pods.swap_remove(at)).with_context(|| format!("pod {name} is gone"))
    };
    Ok([take("here")?, take("beside")?, take("there")?])
}

/// A host beside the nodes, on their bridge. It goes when this value is dropped.
pub struct Outsider {
    name: String,
}

impl Outsider {
    /// Make it: a namespace with a link to the bridge.
    pub fn beside(cluster: &Cluster) -> Result<Self> {
        let outsider = Self { name: format!("{}-out", cluster.name) };
        output(crate::command::command("ip").args(["netns", "add", &outsider.name]))?;
        let bridge = cluster.bridge_place()?;
        let peer = format!("ip link add out type veth peer name eth0 netns {}", outsider.name);
        run(&bridge, &peer)?;
        run(&bridge, "ip link set out master br0 up")?;
        let own = outsider.place();
        run(&own, "ip link set lo up")?;
        run(&own, "ip link set eth0 up")?;
        run(&own, &format!("ip addr add {}/24 dev eth0", Self::address(Family::V4)))?;
        run(&own, &format!("ip addr add {}/64 dev eth0 nodad", Self::address(Family::V6)))?;
        Ok(outsider)
    }

    /// Its address, in the network of the nodes.
    pub fn address(family: Family) -> IpAddr {
        match family {
            Family::V4 => [172, 30, 0, 254].into(),
            Family::V6 => [0xfd00, 0x172, 0x30, 0, 0, 0, 0, 0xfe].into(),
        }
    }

    /// Inside of it.
    pub fn place(&self) -> Place {
        Place::network(&self.netns())
    }

    /// Its network namespace.
    pub fn netns(&self) -> PathBuf {
        netns_path(&self.name)
    }
}

impl Drop for Outsider {
    fn drop(&mut self) {
        // Its links go with it. A destructor cannot fail.
        drop(output(crate::command::command("ip").args(["netns", "del", &self.name])));
    }
}
