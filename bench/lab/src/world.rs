//! A small world to test the data plane in: network namespaces that are threads, a node made of
//! them, and a cgroup. Nothing of it is visible outside, and all of it goes when it is dropped.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bowline_agent::datapath::{
    ApiObjects, Cidr, Config, Datapath, Difference, Feature, Hop, MapSizes, PodLink, Snapshot,
    Status, differences,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::cgroup::{self, Cgroup};

/// One test at a time: they share the process, and with it its cgroup.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static NEXT: AtomicU32 = AtomicU32::new(1);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace: a thread that lives in it and runs what it is given.
pub struct Namespace {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, queue) = channel::<Job>();
        let (ready, tid) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            ready.send(nix::unistd::gettid().as_raw()).unwrap();
            for job in queue {
                job();
            }
        });
        let tid = tid.recv().unwrap();
        let namespace = Self { jobs: Some(jobs), thread: Some(thread), tid };
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `job` in the namespace and gives back what it returns; its panic is the caller's.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let job = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            let _ = done.send(outcome);
        };
        self.jobs.as_ref().unwrap().send(Box::new(job)).unwrap();
        match result.recv().unwrap() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs `job` in the namespace on a thread of its own.
    pub fn spawn<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.run(move || std::thread::spawn(job))
    }

    pub fn ip(&self, arguments: &str) {
        self.ip_batch(arguments.to_owned());
    }

    /// One command of `ip` a line, in one process: processes are dear in an emulated machine.
    pub fn ip_batch(&self, lines: String) {
        self.batch("ip", lines);
    }

    pub fn tc(&self, arguments: &str) {
        self.batch("tc", arguments.to_owned());
    }

    fn batch(&self, name: &'static str, lines: String) {
        self.run(move || {
            let mut program = Command::new(name);
            program.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
            let mut program = program.stderr(Stdio::piped()).spawn().unwrap();
            program.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
            let output = program.wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {lines}: {errors}");
        });
    }

    /// The number of an interface.
    pub fn ifindex(&self, name: &str) -> u32 {
        let name = name.to_owned();
        self.run(move || nix::net::if_::if_nametoindex(name.as_str()).unwrap())
    }

    /// Links that are made from now on have no IPv6 addresses of the kernel's own making.
    pub fn plain_ipv6(&self) {
        self.set("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1");
    }

    pub fn set(&self, path: &str, value: &'static str) {
        let path = path.to_owned();
        self.run(move || fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}")));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A pod: a namespace behind a veth of its node.
pub struct Pod {
    pub namespace: Namespace,
    pub address: Ipv4Addr,
    pub address6: Ipv6Addr,
    pub link: PodLink,
}

impl Pod {
    /// The address of the other one's family.
    pub fn like(&self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.address.into() } else { self.address6.into() }
    }
}

/// A node: a namespace with an uplink, its pods, and its data plane's directories.
pub struct Node {
    pub namespace: Namespace,
    pub pods: Vec<Pod>,
    pub cgroup: Cgroup,
    directory: PathBuf,
    number: u8,
}

/// The name of the first one.
pub const NODE: &str = "node1";
pub const UPLINK: &str = "eth0";
pub const TUNNEL: &str = "vxlan0";

impl Node {
    fn new(number: u8, unique: &str) -> Self {
        let namespace = Namespace::new();
        // Nodes ask for each other from link-local addresses, at once.
        namespace.set("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
        namespace.set("/proc/sys/net/ipv4/ip_forward", "1");
        namespace.set("/proc/sys/net/ipv6/conf/all/forwarding", "1");
        let directory = std::env::temp_dir().join(format!("{unique}-{number}"));
        fs::create_dir_all(&directory).unwrap();
        let cgroup = Cgroup::new(&format!("{unique}-{number}"));
        Self { namespace, pods: Vec::new(), cgroup, directory, number }
    }

    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, 10 + self.number)
    }

    pub fn address6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 172, 30, 0, 0, 0, 0, u16::from(10 + self.number))
    }

    /// Of IPv4 and of IPv6.
    pub fn ranges(&self) -> [Cidr; 2] {
        let number = u16::from(self.number);
        [
            Cidr::containing(Ipv4Addr::new(10, 240, self.number, 0), 24).unwrap(),
            Cidr::containing(Ipv6Addr::new(0xfd00, 10, 240, number, 0, 0, 0, 0), 64).unwrap(),
        ]
    }

    pub fn bpffs(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    fn names_file(&self) -> PathBuf {
        self.directory.join("names.json")
    }

    fn condition_file(&self) -> PathBuf {
        self.directory.join("datapath.json")
    }

    pub fn status(&self) -> Status {
        let (bpffs, condition) = (self.bpffs(), self.condition_file());
        self.namespace.run(move || Status::read(&bpffs, &condition, None).unwrap())
    }

    pub fn open_with(&self, sizes: MapSizes) -> Datapath {
        self.open_without(sizes, &[])
    }

    /// Opens it without the features that have another way.
    pub fn open_without(&self, sizes: MapSizes, disabled: &[Feature]) -> Datapath {
        let disabled_features = disabled.iter().copied().collect();
        let config = Config {
            bpffs: self.bpffs(),
            socket_cgroup: self.cgroup.path.clone(),
            uplink: UPLINK.to_owned(),
            tunnel: Some(TUNNEL.to_owned()),
            names_file: self.names_file(),
            condition_file: self.condition_file(),
            sizes,
            disabled_features,
        };
        self.namespace.run(move || Datapath::open(config)).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Opens the data plane and tells it of the pods.
    pub fn open(&self) -> Datapath {
        let mut datapath = self.open_with(MapSizes::default());
        for pod in &self.pods {
            datapath = self.attach(datapath, pod);
        }
        datapath
    }

    /// Leads to the pods of another node this way, by family.
    pub fn lead(&self, mut datapath: Datapath, other: &Self, hops: [Hop; 2]) -> Datapath {
        let routes: BTreeMap<Cidr, Hop> = other.ranges().into_iter().zip(hops).collect();
        self.namespace.run(move || {
            datapath.set_routes(&routes).unwrap();
            datapath
        })
    }

    pub fn attach(&self, mut datapath: Datapath, pod: &Pod) -> Datapath {
        let link = pod.link.clone();
        self.namespace.run(move || {
            datapath.attach_pod(&link).unwrap();
            datapath
        })
    }

    pub fn snapshot(&self) -> Snapshot {
        let (bpffs, names) = (self.bpffs(), self.names_file());
        self.namespace.run(move || Snapshot::read(&bpffs).unwrap().with_names(&names))
    }

    /// What a verification mends, one line each.
    pub fn verify(&self, mut datapath: Datapath) -> (Datapath, Vec<String>) {
        self.namespace.run(move || {
            let verified = datapath.verify();
            assert!(verified.failures.is_empty(), "{:?}", verified.failures);
            (datapath, verified.repairs.iter().map(ToString::to_string).collect())
        })
    }

    /// What `bowline net diff` would say, `kind difference object` each.
    pub fn differences(&self, objects: ApiObjects) -> Vec<String> {
        let (bpffs, names, condition) = (self.bpffs(), self.names_file(), self.condition_file());
        let found = self
            .namespace
            .run(move || differences(&objects, NODE, &bpffs, &names, &condition).unwrap());
        let line = |it: Difference| format!("{} {} {}", it.kind, it.difference, it.object);
        found.into_iter().map(line).collect()
    }

    /// How often something happened, in all directions together.
    pub fn counted(&self, reason: &str) -> u64 {
        let rows = self.snapshot().counters;
        rows.iter().filter(|row| row.reason == reason).map(|row| row.packets).sum()
    }

    /// Waits until something happened so often, which must not take long.
    pub fn wait_for_count(&self, reason: &str, count: u64) {
        let start = std::time::Instant::now();
        while self.counted(reason) != count {
            let counted = self.counted(reason);
            assert!(start.elapsed().as_secs() < 5, "{reason}: {counted}, expected {count}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// With this last number of its addresses.
    pub fn add_pod(&mut self, number: u8) {
        let namespace = Namespace::new();
        namespace.plain_ipv6();
        let last = u16::from(number);
        let address6 = Ipv6Addr::new(0xfd00, 10, 240, self.number.into(), 0, 0, 0, last);
        let address = Ipv4Addr::new(10, 240, self.number, number);
        let [a, b, c, d] = address.octets();
        let link = PodLink {
            uid: format!("uid-{number}"),
            namespace: "default".to_owned(),
            ifindex: 0,
            name: format!("pod{number}"),
            addresses: vec![address.into(), address6.into()],
            mac: [0x0a, b'b', a, b, c, d],
            netns: PathBuf::from(format!("/proc/{}/ns/net", namespace.tid)),
        };
        self.pods.push(Pod { namespace, address, address6, link });
        let last = self.pods.len() - 1;
        self.wire_pod(last);
    }

    /// Removes a pod's link at the node's side and makes it anew, as somebody's `ip link del` and
    /// the agent's node network loop do.
    pub fn rewire_pod(&mut self, index: usize) {
        self.namespace.ip(&format!("link del {}", self.pods[index].link.name));
        self.wire_pod(index);
    }

    fn wire_pod(&mut self, index: usize) {
        let pod = &mut self.pods[index];
        let (address, address6, tid) = (pod.address, pod.address6, pod.namespace.tid);
        let (host, gateway) = (&pod.link.name, "02:00:00:00:ff:01");
        let mac = pod.link.mac.map(|byte| format!("{byte:02x}")).join(":");
        self.namespace.ip_batch(format!(
            "link add {host} type veth peer name eth0 netns {tid}\n\
             link set {host} address {gateway} up\n\
             route add {address} dev {host}\n\
             route add {address6} dev {host}\n\
             neigh add {address} lladdr {mac} dev {host} nud permanent\n\
             neigh add {address6} lladdr {mac} dev {host} nud permanent\n"
        ));
        pod.namespace.ip_batch(format!(
            "link set eth0 address {mac} up\n\
             addr add {address}/32 dev eth0\n\
             addr add {address6}/128 dev eth0 nodad\n\
             route add 169.254.1.1 dev eth0 scope link\n\
             route add default via 169.254.1.1 dev eth0\n\
             route add fe80::1 dev eth0\n\
             route add default via fe80::1 dev eth0\n\
             neigh add 169.254.1.1 lladdr {gateway} dev eth0 nud permanent\n\
             neigh add fe80::1 lladdr {gateway} dev eth0 nud permanent\n"
        ));
        pod.link.ifindex = self.namespace.ifindex(host);
    }

    fn tunnel_lines(&self) -> String {
        let [a, b, c, d] = self.address().octets();
        format!(
            "link add {TUNNEL} type vxlan external dstport 4789\n\
             link set {TUNNEL} address 06:62:{a:02x}:{b:02x}:{c:02x}:{d:02x} up\n"
        )
    }

    /// Removes the tunnel device and makes it anew.
    pub fn remake_tunnel(&self) {
        self.namespace.ip_batch(format!("link del {TUNNEL}\n{}", self.tunnel_lines()));
    }

    /// The names of what is pinned of its data plane's links.
    pub fn link_pins(&self) -> Vec<String> {
        let pins = self.bpffs().join(format!("bowline/v{}/links", bowline_ebpf_abi::ABI_VERSION));
        self.namespace.run(move || {
            let pins = fs::read_dir(pins).unwrap();
            pins.map(|pin| pin.unwrap().file_name().into_string().unwrap()).collect()
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let bpffs = self.bpffs();
        self.namespace.run(move || {
            let _ = nix::mount::umount2(&bpffs, nix::mount::MntFlags::MNT_DETACH);
        });
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Two nodes joined by their uplinks. `here` has two pods, `there` one.
pub struct World {
    pub here: Node,
    pub there: Node,
    /// Between the nodes, if they are apart.
    pub router: Option<Namespace>,
    _alone: MutexGuard<'static, ()>,
}

const PREFIX: &str = "bowline-test-";

/// Removes what tests left behind that were killed: nothing else of theirs outlives them.
fn sweep() {
    for parent in [cgroup::mount().unwrap(), std::env::temp_dir()] {
        for entry in fs::read_dir(parent).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let path = entry.path();
                let _ = cgroup::remove(&path).or_else(|_| fs::remove_dir_all(&path));
            }
        }
    }
}

impl World {
    pub fn new() -> Self {
        Self::joined(|here, there| {
            let tid = there.namespace.tid;
            let veth = format!("link add {UPLINK} type veth peer name {UPLINK} netns {tid}");
            here.namespace.ip(&veth);
            None
        })
    }

    /// The nodes are not on one link: a router answers for each of them to the other, as in
    /// networks that only look like one link. So many bytes fit through its link to `there`.
    pub fn apart(mtu: u32) -> Self {
        let world = Self::joined(|here, there| {
            let router = Namespace::new();
            router.plain_ipv6();
            router.set("/proc/sys/net/ipv4/ip_forward", "1");
            router.set("/proc/sys/net/ipv6/conf/all/forwarding", "1");
            for node in [here, there] {
                let (tid, n) = (router.tid, node.number);
                node.namespace.ip(&format!(
                    "link add {UPLINK} address 02:00:00:00:01:0{n} type veth \
                     peer name side{n} address 02:00:00:00:02:0{n} netns {tid}"
                ));
            }
            Some(router)
        });
        let router = world.router.as_ref().unwrap();
        for (node, other) in [(&world.here, &world.there), (&world.there, &world.here)] {
            let (n, [range, range6]) = (node.number, node.ranges());
            let (address, address6) = (node.address(), node.address6());
            router.ip_batch(format!(
                "addr add 192.0.2.{n}/32 dev side{n}\n\
                 addr add fd00:192::{n}/128 dev side{n} nodad\n\
                 link set side{n} up\n\
                 neigh add {address} lladdr 02:00:00:00:01:0{n} dev side{n} nud permanent\n\
                 neigh add {address6} lladdr 02:00:00:00:01:0{n} dev side{n} nud permanent\n\
                 route add {address} dev side{n}\n\
                 route add {address6} dev side{n}\n\
                 route add {range} via {address} dev side{n}\n\
                 route add {range6} via {address6} dev side{n}\n"
            ));
            let (address, address6) = (other.address(), other.address6());
            node.namespace.ip_batch(format!(
                "neigh add {address} lladdr 02:00:00:00:02:0{n} dev {UPLINK} nud permanent\n\
                 neigh add {address6} lladdr 02:00:00:00:02:0{n} dev {UPLINK} nud permanent\n"
            ));
        }
        router.ip(&format!("link set side{} mtu {mtu}", world.there.number));
        world
    }

    /// `join` makes the uplinks.
    fn joined(join: impl FnOnce(&Node, &Node) -> Option<Namespace>) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        sweep();
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{PREFIX}{}-{count}", std::process::id());
        let mut here = Node::new(1, &unique);
        let mut there = Node::new(2, &unique);
        let router = join(&here, &there);
        for (node, other) in [(&here, &there), (&there, &here)] {
            let (address, address6) = (node.address(), node.address6());
            let [range, range6] = other.ranges();
            let (gateway, gateway6) = (other.address(), other.address6());
            node.namespace.ip_batch(format!(
                "addr add {address}/24 dev {UPLINK}\n\
                 addr add {address6}/64 dev {UPLINK} nodad\n\
                 link set {UPLINK} up\n\
                 route add {range} via {gateway}\n\
                 route add {range6} via {gateway6}\n{}",
                node.tunnel_lines()
            ));
        }
        here.add_pod(5);
        here.add_pod(6);
        there.add_pod(7);
        Self { here, there, router, _alone: alone }
    }

    /// Opens both nodes' data planes, with routes to each other.
    pub fn open(&self) -> (Datapath, Datapath) {
        let open = |node: &Node, other: &Node| Self::route(node, node.open(), other);
        (open(&self.here, &self.there), open(&self.there, &self.here))
    }

    /// Opens the data plane of `here` anew, without these features.
    pub fn open_without(&self, disabled: &[Feature]) -> Datapath {
        let mut datapath = self.here.open_without(MapSizes::default(), disabled);
        for pod in &self.here.pods {
            datapath = self.here.attach(datapath, pod);
        }
        Self::route(&self.here, datapath, &self.there)
    }

    fn route(node: &Node, datapath: Datapath, other: &Node) -> Datapath {
        let (address, address6) = (other.address().into(), other.address6().into());
        node.lead(datapath, other, [Hop::Uplink(address), Hop::Uplink(address6)])
    }

    /// Both nodes reach each other's pods through the tunnel from now on.
    pub fn tunnel(&self, here: Datapath, there: Datapath) -> (Datapath, Datapath) {
        for pod in self.here.pods.iter().chain(&self.there.pods) {
            pod.namespace.ip("link set eth0 mtu 1450");
        }
        let lead = |node: &Node, datapath, other: &Node| {
            node.lead(datapath, other, [Hop::Tunnel(other.address().into()); 2])
        };
        (lead(&self.here, here, &self.there), lead(&self.there, there, &self.here))
    }

    /// The pod that the tests connect from.
    pub fn client(&self) -> &Pod {
        &self.here.pods[0]
    }

    /// How often each pod's and node's own stack told somebody by ICMPv6 that nobody is there, and
    /// was told so.
    pub fn unreachables(&self) -> String {
        let nodes = [&self.here, &self.there];
        let pods = nodes.iter().flat_map(|node| &node.pods);
        let all = nodes.iter().map(|node| (node.address(), &node.namespace));
        let all = all.chain(pods.map(|pod| (pod.address, &pod.namespace)));
        let said = all.map(|(address, namespace)| {
            let text = namespace.run(|| fs::read_to_string("/proc/thread-self/net/snmp6").unwrap());
            let told = text.lines().filter(|line| line.contains("DestUnreach"));
            let words = told.flat_map(str::split_whitespace).collect::<Vec<_>>();
            format!("{address}: {}", words.join(" "))
        });
        said.collect::<Vec<_>>().join("\n")
    }

    /// One backend on the client's node, one on the other.
    pub fn backends(&self) -> [&Pod; 2] {
        [&self.here.pods[1], &self.there.pods[0]]
    }
}
