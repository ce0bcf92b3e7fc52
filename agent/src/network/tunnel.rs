//! The VXLAN device (RFC 7348) that leads to nodes which are not on the uplink's link.
//!
//! One device a node, in collect-metadata mode: who sends through it names the other node with
//! each packet. The data plane's programs do, and for packets of the node itself the kernel's
//! routes do. Hardware addresses are made from the nodes' addresses, so each node knows those of
//! the others without asking.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bowline_api::cidr::Cidr;
use bowline_ebpf_abi::TUNNEL_ID;

use super::{
    Uplink,
    links::{LinkSeen, Mac, Netlink, NetlinkRequestFailed, VxlanSeen},
    sysctl::{self, SetSysctlFailed},
};
use crate::config::Routing;

/// The device's name.
pub(crate) const TUNNEL_LINK: &str = "bl-vxlan";

/// What VXLAN over IPv4 adds to a packet: the inner Ethernet header (14), VXLAN (8), UDP (8) and
/// IPv4 (20). Nodes reach each other by IPv4, which each of them has.
const OVERHEAD: u32 = 50;

/// The network identifier of all packets; devices in collect-metadata mode take any.
pub(crate) const NETWORK: u64 = TUNNEL_ID as u64;

/// The tunnel device as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub(crate) port: u16,
    pub(crate) mtu: u32,
    pub(crate) mac: Mac,
}

/// How this node reaches the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) routing: Routing,
    /// There is one unless packets go as they are.
    pub(crate) tunnel: Option<Tunnel>,
    /// What fits into a packet of a pod, whichever node it goes to.
    pub(crate) pod_mtu: u32,
}

impl Reach {
    pub(crate) fn new(routing: Routing, port: u16, uplink: &Uplink) -> Self {
        let wraps = routing != Routing::Native;
        let tunnel = wraps.then(|| Tunnel::new(port, uplink.mtu, uplink.addresses.v4));
        Self { routing, tunnel, pod_mtu: tunnel.map_or(uplink.mtu, |tunnel| tunnel.mtu) }
    }
}

/// The tunnel device could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MakeTunnelFailed {
    #[error(transparent)]
    Netlink(#[from] NetlinkRequestFailed),
    #[error(transparent)]
    Sysctl(#[from] SetSysctlFailed),
    #[error("link {TUNNEL_LINK} is gone right after it was made")]
    Vanished,
}

impl Tunnel {
    /// The device of the node that has this address and an uplink of this MTU.
    pub(crate) fn new(port: u16, uplink_mtu: u32, node: Ipv4Addr) -> Self {
        Self { port, mtu: uplink_mtu.saturating_sub(OVERHEAD), mac: mac(node) }
    }

    /// Whether a link is this device, ready for use.
    pub(crate) fn is(&self, link: &LinkSeen) -> bool {
        self.could_be(link) && link.up && link.mtu == self.mtu && link.mac == Some(self.mac)
    }

    /// Whether a link can be made this device; the port and the mode are for ever.
    fn could_be(&self, link: &LinkSeen) -> bool {
        link.vxlan == Some(VxlanSeen { port: self.port, collects_metadata: true })
    }

    /// Makes the device, or makes what has its name the device.
    pub(crate) async fn make(&self, netlink: &Netlink) -> Result<(), MakeTunnelFailed> {
        if let Some(other) = netlink.link(TUNNEL_LINK).await?.filter(|link| !self.could_be(link)) {
            netlink.remove_link(&other).await?;
        }
        if netlink.link(TUNNEL_LINK).await?.is_none() {
            netlink.add_vxlan(TUNNEL_LINK, self.port).await?;
        }
        let link = netlink.link(TUNNEL_LINK).await?.ok_or(MakeTunnelFailed::Vanished)?;
        // No address of the device's own: nothing of it ever needs one.
        let generate = format!("net/ipv6/conf/{TUNNEL_LINK}/addr_gen_mode");
        sysctl::write_if_present(&generate, "1")?;
        netlink.configure_link(&link, self.mac, self.mtu).await?;
        netlink.bring_up(link.index).await?;
        Ok(())
    }
}

/// The hardware address of a node's tunnel device.
pub(crate) fn mac(node: Ipv4Addr) -> Mac {
    let [a, b, c, d] = node.octets();
    [0x06, b'b', a, b, c, d]
}

/// How the routes to a range on another node name that node: by its own address, or for IPv6 by a
/// link-local one that holds it.
pub(crate) fn gateway(range: Cidr, node: Ipv4Addr) -> IpAddr {
    if range.is_ipv6() {
        let [a, b, c, d] = node.octets().map(u16::from);
        IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, a << 8 | b, c << 8 | d))
    } else {
        IpAddr::V4(node)
    }
}
