//! The ways of others: pods behind the kernel's own routing, with the rules that kube-proxy writes.
//!
//! The rule sets (`rules.rs`) are kube-proxy's for cluster IPs, in its modes iptables and nftables;
//! and those of the proxy in user space that came first: a redirect to one process, which copies
//! bytes with splice(2). Each is checked before it is timed: all backends get their share, and only
//! they.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_lab::world::Namespace;
use nix::fcntl::{SpliceFFlags, splice};

use super::addresses::Addresses;
use super::{BACKEND_PORT, PORT};
use crate::interrupts;
use crate::load::serve_at;
use crate::rules::{Services, iptables, iptables_change, nftables, nftables_change, redirects};

/// Two nodes without bowline: a pod with the client on one, pods that answer on both.
pub(crate) struct Plain {
    pub(crate) client: Namespace,
    node: Namespace,
    /// Where the proxy in user space leads.
    proxied: Arc<Mutex<Vec<Ipv4Addr>>>,
    /// The first pod that answers, on the client's node.
    first: (Namespace, Ipv4Addr),
    /// The other node, and the other pods that answer.
    _others: Vec<Namespace>,
}

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 240, 1, 5);
const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 30, 0, 11), Ipv4Addr::new(172, 30, 0, 12)];
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the proxy in user space listens.
const PROXY_PORT: u16 = 40_000;
/// Bytes that a pipe holds.
const PIPE: usize = 64 << 10;

/// The last port that a client is given; those after it are the checks'.
const LAST_PORT: u16 = 59_999;

/// More connections than ports would hold for a minute.
pub(crate) fn many_ports(client: &Namespace) {
    client.set("/proc/sys/net/ipv4/ip_local_port_range", "1024 59999");
    client.set("/proc/sys/net/ipv4/tcp_tw_reuse", "1");
}

fn tid(namespace: &Namespace) -> i32 {
    namespace.run(|| nix::unistd::gettid().as_raw())
}

/// Joins a pod to its node by a veth pair, as container networks do.
fn wire(node: &Namespace, pod: &Namespace, address: Ipv4Addr, link: &str) {
    let tid = tid(pod);
    node.ip_batch(format!(
        "link add {link} type veth peer name eth0 netns {tid}\n\
         link set {link} address 02:00:00:00:ff:01 up\n\
         route add {address} dev {link}\n"
    ));
    pod.ip_batch(format!(
        "link set eth0 up\n\
         addr add {address}/32 dev eth0\n\
         route add 169.254.1.1 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0\n\
         neigh add 169.254.1.1 lladdr 02:00:00:00:ff:01 dev eth0 nud permanent\n"
    ));
}

impl Plain {
    /// Pods answer at these addresses, on the client's node and on the other.
    pub(crate) fn new(near: &[Ipv4Addr], far: &[Ipv4Addr]) -> Self {
        let [client, node, other] = [(); 3].map(|()| Namespace::new());
        let tid = tid(&other);
        node.ip_batch(format!("link add eth0 type veth peer name eth0 netns {tid}\n"));
        for (node, own, gateway, range) in [
            (&node, NODES[0], NODES[1], "10.240.2.0/24"),
            (&other, NODES[1], NODES[0], "10.240.1.0/24"),
        ] {
            node.set("/proc/sys/net/ipv4/ip_forward", "1");
            node.ip_batch(format!(
                "addr add {own}/24 dev eth0\nlink set eth0 up\nroute add {range} via {gateway}\n"
            ));
        }
        wire(&node, &client, CLIENT, "pod0");
        many_ports(&client);
        let mut others = Vec::new();
        for (node, backends) in [(&node, near), (&other, far)] {
            for (number, address) in backends.iter().enumerate() {
                let pod = Namespace::new();
                wire(node, &pod, *address, &format!("backend{number}"));
                serve_at(&pod, SocketAddr::from((*address, BACKEND_PORT)));
                others.push(pod);
            }
        }
        let first = (others.remove(0), near[0]);
        others.push(other);
        Self { client, node, proxied: Arc::default(), first, _others: others }
    }

    /// Runs a program in the client's node, with this input.
    fn load(&self, program: &'static str, arguments: &'static [&str], input: String) {
        self.node.run(move || {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|error| panic!("{program}: {error}"));
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let ended = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(ended.status.success(), "{program}: {said}");
        });
    }
}

/// Services that all lead to the same backends.
struct Alike<'a> {
    addresses: Addresses,
    backends: &'a [Ipv4Addr],
}

/// How `iptables-restore` leaves the rules that it is not given.
const KEEP: &[&str] = &["--noflush"];
/// Of so many services nft writes rules in one transaction. The kernel takes far longer for more.
const PART: u32 = 1_000;
const NFT: &[&str] = &["-f", "-"];

impl Services for Alike<'_> {
    const PORT: u16 = PORT;
    const BACKEND_PORT: u16 = BACKEND_PORT;

    /// Of UDP only the last: with half of the rules it is no slower, and is written in minutes.
    fn protocols(&self, number: u32) -> &'static [&'static str] {
        if number + 1 == self.addresses.count { &["tcp", "udp"] } else { &["tcp"] }
    }

    fn address(&self, number: u32) -> Ipv4Addr {
        self.addresses.of_number(number)
    }

    fn backends(&self, _number: u32) -> Vec<Ipv4Addr> {
        self.backends.to_vec()
    }
}

/// Who balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    Iptables,
    Nftables,
    Userspace,
}

impl Rules {
    pub(crate) const ALL: [Self; 3] = [Self::Iptables, Self::Nftables, Self::Userspace];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Iptables => "kube-proxy's rules, iptables",
            Self::Nftables => "kube-proxy's rules, nftables",
            Self::Userspace => "proxy in user space",
        }
    }

    /// Makes these services with these backends, in place of those that were there.
    pub(crate) fn write(self, plain: &Plain, addresses: Addresses, backends: &[Ipv4Addr]) {
        let (all, count) = (Alike { addresses, backends }, addresses.count);
        match self {
            Self::Iptables => plain.load("iptables-legacy-restore", &[], iptables(&all, count)),
            Self::Nftables => {
                for part in nftables(&all, count, PART) {
                    interrupts::check();
                    plain.load("nft", NFT, part);
                }
            }
            Self::Userspace => {
                let rules = redirects(&all, count, (NODES[0], PROXY_PORT));
                plain.load("iptables-legacy-restore", &[], rules);
                *plain.proxied.lock().unwrap() = backends.to_vec();
                proxy(plain);
            }
        }
    }

    /// The last of these services leads to these backends from now on.
    pub(crate) fn lead_last(self, plain: &Plain, addresses: Addresses, backends: &[Ipv4Addr]) {
        let (all, count) = (Alike { addresses, backends }, addresses.count);
        let last = count - 1;
        match self {
            Self::Iptables => {
                plain.load("iptables-legacy-restore", KEEP, iptables_change(&all, count, last));
            }
            Self::Nftables => plain.load("nft", NFT, nftables_change(&all, last)),
            Self::Userspace => *plain.proxied.lock().unwrap() = backends.to_vec(),
        }
    }

    /// That the service reaches all these backends about evenly, and nobody else.
    pub(crate) fn check(self, plain: &Plain, service: SocketAddr, backends: &[Ipv4Addr]) {
        const ASKED: usize = 200;
        let own: Vec<u8> = backends.iter().map(|address| address.octets()[3]).collect();
        let udp = (self != Self::Userspace).then_some(who_by_udp as fn(SocketAddr) -> Option<u8>);
        for ask in [Some(who_by_tcp as fn(SocketAddr) -> Option<u8>), udp].into_iter().flatten() {
            let answers: Vec<Option<u8>> =
                plain.client.run(move || (0..ASKED).map(|_| ask(service)).collect());
            let mut shares: BTreeMap<Option<u8>, usize> = BTreeMap::new();
            answers.into_iter().for_each(|who| *shares.entry(who).or_default() += 1);
            // Five times the deviation below what chance gives each.
            let fair = ASKED / own.len() / 3;
            let even = own.iter().all(|who| shares.get(&Some(*who)).is_some_and(|it| *it >= fair));
            assert!(even && shares.len() == own.len(), "{self:?}: {shares:?} of {own:?}");
        }
    }

    /// That a backend reaches itself through the service: its packets are marked, and come back to
    /// it under the node's address.
    pub(crate) fn check_hairpin(self, plain: &Plain, service: SocketAddr) {
        const ASKED: usize = 60;
        let (pod, address) = &plain.first;
        let all: Vec<Option<u8>> =
            pod.run(move || (0..ASKED).map(|_| who_by_tcp(service)).collect());
        let itself = Some(address.octets()[3]);
        assert!(all.iter().all(Option::is_some), "{self:?}: {all:?}");
        assert!(all.contains(&itself), "{self:?}: never itself: {all:?}");
    }
}

/// The last number of the address of who answers, if somebody does.
fn who_by_tcp(service: SocketAddr) -> Option<u8> {
    let mut stream = TcpStream::connect_timeout(&service, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut last = [0];
    stream.write_all(b"who").and_then(|()| stream.read_exact(&mut last)).ok()?;
    Some(last[0])
}

fn who_by_udp(service: SocketAddr) -> Option<u8> {
    // A port that was used before leads where it led then, as long as conntrack remembers it.
    static NEXT: AtomicU16 = AtomicU16::new(LAST_PORT + 1);
    let port = NEXT.fetch_add(1, Ordering::Relaxed).max(LAST_PORT + 1);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.connect(service).ok()?;
    let mut last = [0];
    socket.send(b"who").and_then(|_| socket.recv(&mut last)).ok()?;
    Some(last[0])
}

/// Copies between clients and backends, which take turns. One that runs already stays.
fn proxy(plain: &Plain) {
    let listener = plain.node.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PROXY_PORT)));
    let (Ok(listener), proxied) = (listener, plain.proxied.clone()) else { return };
    plain.node.spawn(move || {
        for (turn, client) in listener.incoming().flatten().enumerate() {
            let backend = {
                let all = proxied.lock().unwrap();
                all[turn % all.len()]
            };
            let Ok(backend) = TcpStream::connect((backend, BACKEND_PORT)) else { continue };
            for stream in [&client, &backend] {
                stream.set_nodelay(true).unwrap();
            }
            let [from, to] = [&client, &backend].map(|stream| stream.try_clone().unwrap());
            std::thread::spawn(move || copy(from, backend));
            std::thread::spawn(move || copy(to, client));
        }
    });
}

/// By splice(2), by way of a pipe.
fn copy(from: TcpStream, to: TcpStream) {
    let Ok((out, into)) = nix::unistd::pipe() else { return };
    let flags = SpliceFFlags::SPLICE_F_MOVE;
    while let Ok(mut length @ 1..) = splice(&from, None, &into, None, PIPE, flags) {
        while length > 0 {
            let Ok(written @ 1..) = splice(&out, None, &to, None, length, flags) else { return };
            length -= written;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
