//! The link between a pod and its node.
//!
//! Hardware addresses are made from the pod's address, so each side can enter the other as a
//! permanent neighbour without asking: neither ARP nor neighbour discovery is ever spoken on these
//! links, and a pod's default gateways need no addresses on the node. No link-local address of
//! IPv6 is made at either end, and no router is listened to: a pod has the addresses that the node
//! gave it, at once.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
};

use bowline_api::cidr::Cidr;

use sha2::{Digest, Sha256};

use super::{
    Addresses, Netlink, Route, SetUpSandboxFailed, Via,
    links::{LinkSeen, Mac, Neighbour, VethPair},
    sysctl::{self, SetSysctlFailed},
};

/// What every pod has as its gateways. Link-local, so they can never be a pod or a node.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The pod's end of the link.
pub(crate) const POD_LINK: &str = "eth0";

/// In every network namespace `lo` is the first link.
pub(crate) const LOOPBACK: u32 = 1;

/// Everything that the pod's side must know to make the link.
pub(super) struct Ends {
    pub(super) node_link: String,
    pub(super) node_netns: File,
    pub(super) addresses: Addresses,
    pub(super) mtu: u32,
}

/// The node's end of a pod's link: `bl` and 11 hex digits of the uid.
pub(super) fn link_name(uid: &str) -> String {
    let digits: String = uid.chars().filter(char::is_ascii_hexdigit).take(11).collect();
    let regular = uid.len() == 36 && uid.chars().all(|c| c == '-' || c.is_ascii_hexdigit());
    if regular && digits.len() == 11 {
        return format!("bl{}", digits.to_ascii_lowercase());
    }
    let hash = Sha256::digest(uid);
    let digits: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("bl{}", &digits[..11])
}

/// Whether a link has a name that `link_name` makes.
pub(crate) fn is_pod_link(name: &str) -> bool {
    name.strip_prefix("bl").is_some_and(|digits| {
        digits.len() == 11
            && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// The hardware address of the node's end.
pub(super) fn node_mac(pod: Addresses) -> Mac {
    local_mac(0x0e, pod.v4)
}

/// The hardware address of the pod's end.
pub(crate) fn pod_mac(pod: Addresses) -> Mac {
    local_mac(0x0a, pod.v4)
}

fn local_mac(first: u8, pod: Ipv4Addr) -> Mac {
    let [a, b, c, d] = pod.octets();
    [first, b'b', a, b, c, d]
}

/// Makes the link and the pod's side of it. The calling thread is in the pod's network namespace
/// and in no other use. What is there already stays.
pub(super) fn wire_pod_side(ends: &Ends) -> Result<(), SetUpSandboxFailed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(SetUpSandboxFailed::Runtime)?;
    runtime.block_on(async {
        let netlink = Netlink::open()?;
        netlink.bring_up(LOOPBACK).await?;
        // As containers expect it: ports below 1024 and ping need no privilege in a namespace
        // that has no one else in it.
        sysctl::write("net/ipv4/ip_unprivileged_port_start", "0")?;
        sysctl::write("net/ipv4/ping_group_range", "0 2147483647")?;
        let link = match netlink.link(POD_LINK).await? {
            Some(link) => link,
            None => make_pair(&netlink, ends).await?,
        };
        prepare_ipv6(POD_LINK, ends.addresses.v6.is_some())?;
        netlink.configure_link(&link, pod_mac(ends.addresses), ends.mtu).await?;
        netlink.bring_up(link.index).await?;
        for address in ends.addresses.iter() {
            let gateway = match address {
                IpAddr::V4(_) => IpAddr::V4(GATEWAY_V4),
                IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
            };
            netlink.add_address(link.index, address, false).await?;
            netlink.put_neighbour((link.index, gateway, node_mac(ends.addresses))).await?;
            netlink.put_default_route(link.index, gateway, address).await?;
        }
        Ok(())
    })
}

async fn make_pair(netlink: &Netlink, ends: &Ends) -> Result<LinkSeen, SetUpSandboxFailed> {
    let pair = VethPair {
        name: POD_LINK,
        mac: pod_mac(ends.addresses),
        peer_name: &ends.node_link,
        peer_mac: node_mac(ends.addresses),
        peer_netns: ends.node_netns.as_fd(),
        mtu: ends.mtu,
    };
    netlink.add_veth(&pair).await?;
    let made = netlink.link(POD_LINK).await?;
    made.ok_or_else(|| SetUpSandboxFailed::LinkVanished(POD_LINK.to_owned()))
}

/// Before the link is up: with an IPv6 address, none but that one; without, no IPv6 at all.
fn prepare_ipv6(link: &str, wanted: bool) -> Result<(), SetSysctlFailed> {
    let set = |name: &str, value| {
        sysctl::write_if_present(&format!("net/ipv6/conf/{link}/{name}"), value)
    };
    if !wanted {
        return set("disable_ipv6", "1");
    }
    set("accept_ra", "0")?;
    set("autoconf", "0")?;
    set("accept_dad", "0")?;
    set("addr_gen_mode", "1")?;
    sysctl::write(&format!("net/ipv6/conf/{link}/disable_ipv6"), "0")
}

/// Makes the node's side of the link and gives back its index. The calling thread is in the
/// node's network namespace.
pub(super) async fn wire_node_side(
    netlink: &Netlink,
    name: &str,
    pod: Addresses,
    node: Addresses,
    mtu: u32,
) -> Result<u32, SetUpSandboxFailed> {
    let link = netlink.link(name).await?;
    let link = link.ok_or_else(|| SetUpSandboxFailed::LinkVanished(name.to_owned()))?;
    prepare_ipv6(name, pod.v6.is_some())?;
    sysctl::write(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
    netlink.configure_link(&link, node_mac(pod), mtu).await?;
    netlink.bring_up(link.index).await?;
    for neighbour in pod_neighbours(link.index, pod) {
        netlink.put_neighbour(neighbour).await?;
    }
    for route in pod_routes(link.index, pod, node) {
        netlink.put_route(&route).await?;
    }
    Ok(link.index)
}

/// The node's routes to one of its pods. Their source is the node's address of the same family.
pub(crate) fn pod_routes(
    link: u32,
    pod: Addresses,
    node: Addresses,
) -> impl Iterator<Item = Route> {
    pod.iter().map(move |address| Route {
        destination: Cidr::host(address),
        via: Via::Link { link },
        source: node.like(address),
    })
}

/// The node's neighbour entries for one of its pods.
pub(crate) fn pod_neighbours(link: u32, pod: Addresses) -> impl Iterator<Item = Neighbour> {
    pod.iter().map(move |address| (link, address, pod_mac(pod)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_and_are_recognised() {
        let regular = link_name("3F2504E0-4f89-11d3-9a0c-0305e82c3301");
        assert_eq!(regular, "bl3f2504e04f8");
        let other = link_name("static-web");
        for name in [regular, other] {
            assert!(name.len() <= 15 && is_pod_link(&name), "{name}");
        }
        for name in ["bl", "blue0", "eth0", "bl3f2504e04f", "bl3f2504e04f89", "blXf2504e04f8"] {
            assert!(!is_pod_link(name), "{name}");
        }
    }

    #[test]
    fn hardware_addresses_are_unicast_and_local() {
        let pod = Addresses::from(Ipv4Addr::new(10, 240, 1, 2));
        for mac in [node_mac(pod), pod_mac(pod)] {
            assert_eq!(mac[0] & 0b11, 0b10);
        }
        assert_ne!(node_mac(pod), pod_mac(pod));
    }
}
