//! The network between the nodes of a local cluster: who has which address, and what lies between.
//!
//! Guarantees: pure. The server's address is the same in every layout.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bowline_api::cidr::Cidr;
use serde::{Deserialize, Serialize};

/// Where the server listens for nodes: the bridge's own address.
pub(crate) const BRIDGE_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

/// Most nodes of a local cluster: what a shared network has addresses for.
pub(crate) const MAX_NODES: u16 = 240;

const FIRST_NODE: u16 = 11;
const V4_PREFIX: u8 = 24;
const V6_PREFIX: u8 = 64;

/// What lies between the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Layout {
    /// One bridge: every node is on the link of every other one
    #[default]
    Shared,
    /// A router: every node has a network of its own, and needs a tunnel to the others
    PerNode,
}

/// An address of a node's uplink, and the gateway in the same network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UplinkAddress {
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) gateway: IpAddr,
}

/// The uplink addresses of the `number`th node, counted from 1; IPv4 first.
pub(crate) fn addresses(layout: Layout, number: u16, dual_stack: bool) -> Vec<UplinkAddress> {
    let network = if layout == Layout::Shared { 0 } else { number };
    let host = FIRST_NODE + number - 1;
    let v4 = UplinkAddress {
        address: v4(network, host).into(),
        prefix: V4_PREFIX,
        gateway: v4(network, 1).into(),
    };
    let v6 = UplinkAddress {
        address: v6(network, host).into(),
        prefix: V6_PREFIX,
        gateway: v6(network, 1).into(),
    };
    if dual_stack { vec![v4, v6] } else { vec![v4] }
}

/// All that the network between the nodes uses, for checks against other ranges.
pub(crate) fn ranges(layout: Layout) -> impl Iterator<Item = Cidr> {
    let (v4_prefix, v6_prefix) = match layout {
        Layout::Shared => (V4_PREFIX, V6_PREFIX),
        Layout::PerNode => (16, 48),
    };
    Cidr::containing(v4(0, 0), v4_prefix).into_iter().chain(Cidr::containing(v6(0, 0), v6_prefix))
}

fn v4(network: u16, host: u16) -> Ipv4Addr {
    let octet = |number: u16| u8::try_from(number).unwrap_or(u8::MAX);
    Ipv4Addr::new(172, 30, octet(network), octet(host))
}

fn v6(network: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x172, 0x30, network, 0, 0, 0, host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(layout: Layout, number: u16) -> Vec<String> {
        let all = addresses(layout, number, true).into_iter();
        all.map(|it| format!("{}/{} via {}", it.address, it.prefix, it.gateway)).collect()
    }

    #[test]
    fn nodes_share_a_network_or_have_one_each() {
        let shared = ["172.30.0.11/24 via 172.30.0.1", "fd00:172:30::b/64 via fd00:172:30::1"];
        assert_eq!(texts(Layout::Shared, 1), shared);
        let last = ["172.30.0.250/24 via 172.30.0.1", "fd00:172:30::fa/64 via fd00:172:30::1"];
        assert_eq!(texts(Layout::Shared, MAX_NODES), last);
        let own = ["172.30.2.12/24 via 172.30.2.1", "fd00:172:30:2::c/64 via fd00:172:30:2::1"];
        assert_eq!(texts(Layout::PerNode, 2), own);
        assert_eq!(addresses(Layout::Shared, 1, false).len(), 1);
    }

    #[test]
    fn every_address_is_inside_the_ranges() {
        for layout in [Layout::Shared, Layout::PerNode] {
            for number in [1, MAX_NODES] {
                for uplink in addresses(layout, number, true) {
                    assert!(ranges(layout).any(|range| range.contains(uplink.address)));
                    assert!(ranges(layout).any(|range| range.contains(uplink.gateway)));
                }
            }
        }
    }
}
