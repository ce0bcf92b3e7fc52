//! The way of others: pods on a Linux bridge, the kernel's routing between nodes, and an iptables
//! rule that gives what leaves a node the node's address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use bowline_lab::world::Namespace;

use super::BACKEND_PORT;
use crate::load::serve_at;

/// Two nodes without bowline: a client and a server on one, a server on the other.
pub(crate) struct Bridge {
    pub(crate) client: Namespace,
    pub(crate) near: SocketAddr,
    pub(crate) far: SocketAddr,
    /// Both servers, and then the nodes.
    others: Vec<Namespace>,
}

/// What the name says of the node with this number.
fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 30, 0, 10 + number)
}

fn pod_address(node: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 240, node, number)
}

fn tid(namespace: &Namespace) -> i32 {
    namespace.run(|| nix::unistd::gettid().as_raw())
}

/// A node of its own, with a bridge and the way to the other's pods.
fn equip(node: &Namespace, number: u8, other: u8) {
    node.set("/proc/sys/net/ipv4/ip_forward", "1");
    let (own, gateway) = (node_address(number), node_address(other));
    let (first, range) = (pod_address(number, 1), pod_address(other, 0));
    node.ip_batch(format!(
        "addr add {own}/24 dev eth0\nlink set eth0 up\n\
         link add br0 type bridge\naddr add {first}/24 dev br0\nlink set br0 up\n\
         route add {range}/24 via {gateway}\n"
    ));
    let own = format!("{}/24", pod_address(number, 0));
    node.run(move || {
        let rule = ["-t", "nat", "-A", "POSTROUTING", "-s", &own, "!", "-o", "br0"];
        let mut iptables = Command::new("iptables-legacy");
        let output = iptables.args(rule).args(["-j", "MASQUERADE"]).output();
        let output = output.unwrap_or_else(|error| panic!("iptables-legacy: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "iptables-legacy: {said}");
    });
}

/// A pod on a node's bridge.
fn plug(node: &Namespace, pod: &Namespace, address: Ipv4Addr) {
    let tid = tid(pod);
    let [_, _, network, last] = address.octets();
    node.ip_batch(format!(
        "link add pod{last} type veth peer name eth0 netns {tid}\n\
         link set pod{last} master br0 up\n"
    ));
    let gateway = pod_address(network, 1);
    pod.ip_batch(format!(
        "addr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {gateway}\n"
    ));
}

impl Bridge {
    pub(crate) fn new() -> Self {
        let [client, near, far, here, there] = [(); 5].map(|()| Namespace::new());
        let tid = tid(&there);
        here.ip_batch(format!("link add eth0 type veth peer name eth0 netns {tid}\n"));
        equip(&here, 1, 2);
        equip(&there, 2, 1);
        let [here_too, beyond] = [pod_address(1, 6), pod_address(2, 7)];
        plug(&here, &client, pod_address(1, 5));
        plug(&here, &near, here_too);
        plug(&there, &far, beyond);
        let ends = [here_too, beyond].map(|address| SocketAddr::from((address, BACKEND_PORT)));
        serve_at(&near, ends[0]);
        serve_at(&far, ends[1]);
        Self { client, near: ends[0], far: ends[1], others: vec![near, far, here, there] }
    }

    /// That on one node the server sees the client's own address, and on the other its node's.
    pub(crate) fn check(&self) {
        let expected = [pod_address(1, 5), node_address(1)];
        for ((server, at), seen) in self.others.iter().zip([self.near, self.far]).zip(expected) {
            let at = SocketAddr::from((at.ip(), 0));
            let listener = server.run(move || TcpListener::bind(at).unwrap());
            let at = listener.local_addr().unwrap();
            let _open = self.client.run(move || TcpStream::connect(at).unwrap());
            let (_, client) = listener.accept().unwrap();
            assert_eq!(client.ip(), IpAddr::from(seen), "who {at} sees");
        }
    }
}
