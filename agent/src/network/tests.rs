//! Sandboxes in the kernel. Each test makes a network namespace of its own and a run directory;
//! nothing is ever sent outside of them. Needs root; says so loudly where it is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use bowline_api::cidr::Cidr;

use super::*;
use crate::{
    apply::network::NodeRoutes,
    config::{DEFAULT_VXLAN_PORT, Routing},
    datapath::Hop,
    observe,
    plan::network::{Desired, Step, Told, plan, settings},
};

mod crash;

const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 0xb);
const NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 11);
const RANGE: &str = "10.240.1.0/29";
const RANGE_V6: &str = "fd00:10:240:1::/64";
const MTU: u32 = 1400;

/// Remembers which links it was told about; refuses some on demand.
#[derive(Debug, Default)]
struct Links {
    attached: Mutex<BTreeMap<String, PodLink>>,
    refuse: Mutex<bool>,
    busy: Mutex<Option<Busy>>,
}

/// A data plane that has other things to do first.
#[derive(Debug)]
struct Busy {
    asked: tokio::sync::oneshot::Sender<()>,
    free: std::sync::mpsc::Receiver<()>,
}

impl PodLinks for Links {
    fn attach(&self, link: &PodLink) -> Result<(), Refused> {
        if *self.refuse.lock().unwrap() {
            return Err("refused by the test".into());
        }
        if let Some(Busy { asked, free }) = self.busy.lock().unwrap().take() {
            asked.send(()).unwrap();
            free.recv_timeout(Duration::from_secs(5))?;
        }
        self.attached.lock().unwrap().insert(link.uid.clone(), link.clone());
        Ok(())
    }

    fn detach(&self, link: &PodLink) -> Result<(), Refused> {
        self.attached.lock().unwrap().remove(&link.uid);
        Ok(())
    }
}

impl NodeRoutes for Links {
    async fn set_routes(&self, _: &BTreeMap<Cidr, Hop>) -> Result<(), Refused> {
        Ok(())
    }
}

fn ranges() -> Ranges {
    Ranges { v4: RANGE.parse().unwrap(), v6: RANGE_V6.parse().ok() }
}

fn node_addresses() -> Addresses {
    Addresses { v4: NODE, v6: Some(NODE_V6) }
}

/// A node of its own: a network namespace with an uplink, and a run directory.
pub(crate) struct TestNode {
    pub(crate) run: tempfile::TempDir,
    links: Arc<Links>,
    pub(crate) netlink: Netlink,
    uplink: Uplink,
    reach: Reach,
    remote: BTreeMap<Cidr, Hop>,
    pub(crate) network: PodNetwork,
}

impl TestNode {
    fn reopen(&mut self) {
        let (netlink, uplink) = (self.netlink.clone(), self.uplink.clone());
        self.network =
            PodNetwork::open(self.run.path(), netlink, uplink, MTU, self.links.clone()).unwrap();
        self.network.set_ranges(ranges());
    }

    /// Brings the node network in line, as the agent does, and gives back what had to be done.
    pub(crate) async fn converge(&self) -> Vec<Step> {
        let _settled = self.network.settle().await;
        let tunnel = self.netlink.link(TUNNEL_LINK).await.unwrap().map(|link| link.index);
        let tunnel = self.reach.tunnel.and(tunnel);
        let told = Some(Told { routes: self.remote.clone(), tunnel });
        let settings = settings(&self.uplink.name, true);
        let observed =
            observe::network(&self.netlink, &self.network, &settings, false, told).await.unwrap();
        let desired = Desired {
            own_ranges: Some(ranges()),
            remote: self.remote.clone(),
            stranded: BTreeSet::new(),
            reach: self.reach,
            masquerade: None,
            uplink: self.uplink.clone(),
            links: self.network.links(),
        };
        let steps = plan(&desired, &observed);
        let failures =
            crate::apply::network::apply(steps.clone(), &self.netlink, &self.network, &*self.links)
                .await;
        assert!(failures.is_empty(), "{failures:?}");
        steps
    }

    /// Everything that sandboxes may leave behind, in one comparable picture.
    pub(crate) async fn picture(&self) -> Picture {
        let links = self.netlink.links().await.unwrap();
        let run = self.run.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut files: Vec<PathBuf> = fs::read_dir(self.run.path().join("sandboxes"))
            .map(|dir| dir.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default();
        files.sort();
        Picture {
            links: links.into_iter().map(|link| link.name).collect(),
            routes: self.netlink.routes().await.unwrap(),
            neighbours: self.netlink.neighbours().await.unwrap(),
            mounts: mounts.lines().filter(|line| line.contains(&run)).count(),
            files,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) links: Vec<String>,
    pub(crate) routes: Vec<Route>,
    pub(crate) neighbours: Vec<Neighbour>,
    pub(crate) mounts: usize,
    pub(crate) files: Vec<PathBuf>,
}

pub(crate) fn pod(number: u32) -> PodIdentity {
    PodIdentity {
        uid: format!("{number:08x}-4f89-11d3-9a0c-0305e82c3301"),
        namespace: "default".to_owned(),
        name: format!("web-{number}"),
        hostname: format!("web-{number}"),
        host_network: false,
    }
}

/// Runs `test` on a node of its own, in a thread that is in the node's network namespace.
pub(crate) fn on_a_node<F>(test: impl FnOnce(TestNode) -> F + Send + 'static)
where
    F: Future<Output = TestNode>,
{
    let work = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let netlink = Netlink::open().unwrap();
            netlink.bring_up(LOOPBACK).await.unwrap();
            // The uplink's other end stays in this namespace too: it leads nowhere.
            let own = fs::File::open("/proc/thread-self/ns/net").unwrap();
            let pair = links::VethPair {
                name: "up0",
                mac: [2, 0, 0, 0, 0, 1],
                peer_name: "up0peer",
                peer_mac: [2, 0, 0, 0, 0, 2],
                peer_netns: std::os::fd::AsFd::as_fd(&own),
                mtu: MTU,
            };
            netlink.add_veth(&pair).await.unwrap();
            let up = netlink.link("up0").await.unwrap().unwrap();
            netlink.bring_up(up.index).await.unwrap();
            netlink.add_address(up.index, NODE, false).await.unwrap();
            let server = SocketAddr::from((NODE, 6443));
            netlink.add_address(up.index, NODE_V6, false).await.unwrap();
            let uplink = uplink::find(&netlink, Some("up0"), &[], server).await.unwrap();
            assert_eq!((uplink.addresses, uplink.mtu), (node_addresses(), MTU));
            let run = tempfile::tempdir().unwrap();
            let links = Arc::new(Links::default());
            let network =
                PodNetwork::open(run.path(), netlink.clone(), uplink.clone(), MTU, links.clone());
            let network = network.unwrap();
            network.set_ranges(ranges());
            let reach = Reach::new(Routing::Native, DEFAULT_VXLAN_PORT, &uplink);
            let remote = BTreeMap::new();
            let node = TestNode { run, links, netlink, uplink, reach, remote, network };
            let node = test(node).await;
            let causes = node.network.remove_all().await;
            assert!(causes.is_empty(), "{causes:?}");
            assert_eq!(node.picture().await.mounts, 0);
        });
    };
    thread::spawn(work).join().unwrap();
}

/// Runs `work` inside a sandbox's network namespace.
fn inside<T: Send + 'static>(sandbox: &Sandbox, work: impl FnOnce() -> T + Send + 'static) -> T {
    let path = sandbox.netns.clone();
    let inside = move || {
        namespaces::enter_network(&path).unwrap();
        work()
    };
    thread::spawn(inside).join().unwrap()
}

/// Sends a datagram from one sandbox to another over the kernel's routes, in each family; whether
/// they arrived, with the sender's own address.
fn datagrams_arrive(from: &Sandbox, to: &Sandbox) -> bool {
    from.addresses.iter().zip(to.addresses.iter()).all(|(source, target)| {
        let target = SocketAddr::from((target, 9376));
        let receiver = inside(to, move || UdpSocket::bind(target).unwrap());
        receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let sender = inside(from, move || {
            let socket = UdpSocket::bind((any(source), 0)).unwrap();
            socket.connect(target).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip(), source);
            socket
        });
        // The kernel takes a moment to see that a link that was just made is up.
        (0..20).any(|_| {
            let _ = sender.send(b"hello");
            receiver.recv_from(&mut [0; 16]).is_ok_and(|(_, seen)| seen.ip() == source)
        })
    })
}

fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_busy_data_plane_keeps_nobody_else_waiting() {
    on_a_node(async |node| {
        node.converge().await;
        let (asked, was_asked) = tokio::sync::oneshot::channel();
        let (free, becomes_free) = std::sync::mpsc::channel();
        *node.links.busy.lock().unwrap() = Some(Busy { asked, free: becomes_free });
        // Both on the one thread of this runtime.
        let pod = pod(1);
        let others = async {
            was_asked.await.unwrap();
            free.send(())
        };
        let (set_up, served) = tokio::join!(node.network.set_up(&pod), others);
        served.unwrap();
        set_up.unwrap();
        node
    });
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn fifty_sandboxes_leave_nothing() {
    on_a_node(async |node| {
        node.converge().await;
        let before = node.picture().await;
        for number in 0..50 {
            let pod = pod(number);
            let sandbox = node.network.set_up(&pod).await.unwrap();
            assert_eq!(node.network.set_up(&pod).await.unwrap(), sandbox, "idempotent");
            assert_eq!(node.converge().await, [], "a fresh sandbox needs no repair");
            let attached = node.links.attached.lock().unwrap().len();
            assert_eq!((attached, node.network.sandboxes().len()), (1, 1));
            node.network.tear_down(&pod.uid).await.unwrap();
            node.network.tear_down(&pod.uid).await.unwrap();
            assert_eq!(node.links.attached.lock().unwrap().len(), 0);
        }
        assert_eq!(node.picture().await, before);
        node
    });
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn shared_memory_lives_as_long_as_its_sandbox() {
    on_a_node(async |mut node| {
        node.converge().await;
        let before = node.picture().await;
        let one = node.network.set_up(&pod(1)).await.unwrap();
        let two = node.network.set_up(&pod(2)).await.unwrap();
        let word = one.shm.join("x");
        fs::write(&word, "shared").unwrap();
        assert!(!two.shm.join("x").exists());
        node.reopen();
        assert_eq!(node.network.set_up(&pod(1)).await.unwrap(), one);
        assert_eq!(fs::read_to_string(&word).unwrap(), "shared");
        // The sandbox of an agent that made none, and one with two on top of each other.
        unmount_shm(&two.shm).unwrap();
        node.reopen();
        assert_eq!(node.network.set_up(&pod(2)).await.unwrap(), two);
        let device = |path: &std::path::Path| fs::metadata(path).unwrap().dev();
        assert_ne!(device(&two.shm), device(two.shm.parent().unwrap()));
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("shm"), &two.shm, Some("tmpfs"), flags, None::<&str>).unwrap();
        // In use, as by a process that holds on to a file: it goes all the same.
        let held = fs::File::open(&word).unwrap();
        for number in [1, 2] {
            node.network.tear_down(&pod(number).uid).await.unwrap();
        }
        assert_eq!(node.picture().await, before);
        drop(held);
        node
    });
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn sandboxes_reach_each_other_over_kernel_routes() {
    on_a_node(async |node| {
        node.converge().await;
        let one = node.network.set_up(&pod(1)).await.unwrap();
        let two = node.network.set_up(&pod(2)).await.unwrap();
        let second = |addresses: Addresses| addresses.v6.map(|v6| v6.to_string());
        assert_eq!(one.addresses.v4.to_string(), "10.240.1.2");
        assert_eq!(second(one.addresses).as_deref(), Some("fd00:10:240:1::2"));
        assert_eq!(second(two.addresses).as_deref(), Some("fd00:10:240:1::3"));
        assert!(datagrams_arrive(&one, &two) && datagrams_arrive(&two, &one));
        let hostname = fs::File::open(&two.uts).unwrap();
        let name = thread::spawn(move || {
            nix::sched::setns(hostname, nix::sched::CloneFlags::CLONE_NEWUTS).unwrap();
            nix::unistd::gethostname().unwrap()
        });
        assert_eq!(name.join().unwrap(), "web-2");
        // From the node itself, with the node's address as the source.
        for (address, own) in two.addresses.iter().zip(node_addresses().iter()) {
            let target = SocketAddr::from((address, 9377));
            let receiver = inside(&two, move || UdpSocket::bind(target).unwrap());
            receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            UdpSocket::bind((any(own), 0)).unwrap().send_to(b"x", target).unwrap();
            let (_, source) = receiver.recv_from(&mut [0; 4]).unwrap();
            assert_eq!(source.ip(), own);
        }
        node
    });
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn the_tunnel_device_is_made_repaired_and_removed() {
    on_a_node(async |mut node| {
        let reach = Reach::new(Routing::Tunnel, 8479, &node.uplink);
        let far = Ipv4Addr::new(172, 31, 0, 12);
        let ways = ["10.240.2.0/24", "fd00:10:240:2::/64"];
        let ways = ways.map(|range| (range.parse().unwrap(), Hop::Tunnel(far.into())));
        node.reach = reach;
        node.remote = ways.into();
        let tunnel = reach.tunnel.unwrap();
        assert!(node.converge().await.contains(&Step::MakeTunnel(tunnel)));
        let second = node.converge().await;
        assert!(second.iter().any(|step| matches!(step, Step::PutRoute(_))), "{second:?}");
        assert_eq!(node.converge().await, []);
        let seen = node.netlink.link(TUNNEL_LINK).await.unwrap().unwrap();
        assert!(tunnel.is(&seen), "{seen:?}");
        assert_eq!(seen.mtu, MTU - 50);

        // Damage: another MTU, a neighbour entry, a route; then the whole device.
        node.netlink.configure_link(&seen, tunnel.mac, 1300).await.unwrap();
        let entry = node.netlink.neighbours().await.unwrap();
        let entry = entry.into_iter().find(|(link, ..)| *link == seen.index).unwrap();
        node.netlink.remove_neighbour(entry).await.unwrap();
        let route = node.netlink.routes().await.unwrap();
        let route = route.into_iter().find(|it| matches!(it.via, Via::Tunnel { .. })).unwrap();
        node.netlink.remove_route(&route).await.unwrap();
        let repairs = [Step::MakeTunnel(tunnel), Step::PutNeighbour(entry), Step::PutRoute(route)];
        assert_eq!(node.converge().await, repairs);
        node.netlink.remove_link(&seen).await.unwrap();
        assert!(node.converge().await.contains(&Step::MakeTunnel(tunnel)));
        node.converge().await;
        assert_eq!(node.converge().await, []);

        let other = Reach::new(Routing::Tunnel, 8480, &node.uplink);
        node.reach = other;
        node.converge().await;
        let seen = node.netlink.link(TUNNEL_LINK).await.unwrap().unwrap();
        assert!(other.tunnel.unwrap().is(&seen), "another port makes it anew: {seen:?}");
        node.reach = Reach::new(Routing::Native, 8479, &node.uplink);
        node.remote.clear();
        node.converge().await;
        assert_eq!(node.netlink.link(TUNNEL_LINK).await.unwrap(), None);
        node
    });
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn what_somebody_removed_by_hand_is_repaired() {
    on_a_node(async |node| {
        node.converge().await;
        let one = node.network.set_up(&pod(1)).await.unwrap();
        let two = node.network.set_up(&pod(2)).await.unwrap();
        let restored = [Step::RestoreLink { uid: pod(1).uid }];
        let link = node.network.links()[0].link.clone();

        let seen = node.netlink.link(&link).await.unwrap().unwrap();
        node.netlink.remove_link(&seen).await.unwrap();
        assert!(datagram_is_lost(&two, &one));
        assert_eq!(node.converge().await, restored);
        assert!(datagrams_arrive(&two, &one));

        let index = node.netlink.link(&link).await.unwrap().unwrap().index;
        for route in pod_routes(index, one.addresses, node_addresses()) {
            node.netlink.remove_route(&route).await.unwrap();
            assert_eq!(node.converge().await, restored);
        }
        for neighbour in pod_neighbours(index, one.addresses) {
            node.netlink.remove_neighbour(neighbour).await.unwrap();
            assert_eq!(node.converge().await, restored);
        }
        assert!(datagrams_arrive(&one, &two));
        node.netlink.remove_address(LOOPBACK, crate::DNS_ADDRESS).await.unwrap();
        assert_eq!(node.converge().await, [Step::AddDnsAddress(crate::DNS_ADDRESS.into())]);
        assert_eq!(node.converge().await, []);
        node
    });
}

fn datagram_is_lost(from: &Sandbox, to: &Sandbox) -> bool {
    let target = SocketAddr::from((to.addresses.v4, 9376));
    inside(from, move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        // The node says that the address is unreachable, at once: the error comes back by ICMP.
        socket.connect(target).is_err()
            || socket.send(b"x").is_err()
            || socket.recv(&mut [0; 4]).is_err()
    })
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_crash_in_the_middle_is_cleaned_up_and_keeps_what_was_ready() {
    on_a_node(async |mut node| {
        node.converge().await;
        let ready = node.network.set_up(&pod(1)).await.unwrap();
        let before = node.picture().await;
        // A set-up that dies right before its end has made everything there is to make. The
        // data plane refuses and the process dies before it can clean up: as if by SIGKILL.
        let half = node.network.set_up(&pod(2)).await.unwrap();
        let record = node.run.path().join("sandboxes").join(pod(2).uid).join("sandbox.json");
        let text = fs::read_to_string(&record).unwrap().replace("Ready", "Making");
        fs::write(&record, text).unwrap();
        // Another one dies before its record is whole.
        let torn = node.run.path().join("sandboxes").join(pod(3).uid);
        fs::create_dir_all(&torn).unwrap();
        fs::write(torn.join("sandbox.json"), "{\"uid\":").unwrap();

        node.reopen();
        assert_eq!(node.network.sandboxes(), [(pod(1).uid, ready.clone())]);
        let removed = [2, 3].map(|number| Step::RemoveSandbox { uid: pod(number).uid });
        let steps = node.converge().await;
        assert_eq!(steps[..2], removed, "{steps:?}");
        assert_eq!(node.converge().await, []);
        assert_eq!(node.picture().await, before);
        assert!(datagram_is_lost(&ready, &half));

        // The address of the half sandbox was given back, not leaked: all five can be had.
        for number in 10..14 {
            node.network.set_up(&pod(number)).await.unwrap();
        }
        let refused = node.network.set_up(&pod(14)).await.unwrap_err().to_string();
        assert!(refused.contains(RANGE), "{refused}");
        assert_eq!(node.network.sandboxes().len(), 5);
        node
    });
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_failed_set_up_leaves_nothing_and_can_be_tried_again() {
    on_a_node(async |node| {
        node.converge().await;
        let before = node.picture().await;
        *node.links.refuse.lock().unwrap() = true;
        let error = node.network.set_up(&pod(1)).await.unwrap_err().to_string();
        assert!(error.contains("refused by the test"), "{error}");
        assert_eq!(node.picture().await, before);
        *node.links.refuse.lock().unwrap() = false;
        node.network.set_up(&pod(1)).await.unwrap();
        let bad = PodIdentity { uid: "../../etc".to_owned(), ..pod(1) };
        assert!(matches!(node.network.set_up(&bad).await, Err(SetUpSandboxFailed::BadUid(_))));
        node
    });
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_pod_on_the_host_network_shares_the_nodes_namespace() {
    on_a_node(async |node| {
        node.converge().await;
        let pod = PodIdentity { host_network: true, ..pod(1) };
        let sandbox = node.network.set_up(&pod).await.unwrap();
        assert_eq!(sandbox.addresses, node_addresses());
        let same =
            |path: &std::path::Path| nix::sys::stat::stat(path).map(|stat| stat.st_ino).unwrap();
        assert_eq!(same(&sandbox.netns), same("/proc/thread-self/ns/net".as_ref()));
        assert_ne!(same(&sandbox.uts), same("/proc/thread-self/ns/uts".as_ref()));
        assert_eq!(node.converge().await, []);
        node.network.tear_down(&pod.uid).await.unwrap();
        assert!(node.netlink.link("up0").await.unwrap().is_some());
        node
    });
}
