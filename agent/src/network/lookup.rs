//! What the kernel knows of neighbours, and where its routes lead.

use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAttribute, RouteType};
use nix::errno::Errno;

use bowline_api::cidr::Cidr;

use super::links::{Mac, Netlink, NetlinkRequestFailed, failed, ip, is, route_to, tunnel_end};

/// A neighbour as the kernel knows it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NeighbourEntry {
    pub(crate) link: u32,
    pub(crate) address: IpAddr,
    pub(crate) mac: Option<Mac>,
    pub(crate) state: NeighbourState,
    pub(crate) age: Option<NeighbourAge>,
}

/// Seconds since something happened to a neighbour's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NeighbourAge {
    /// It was heard that it is there.
    pub(crate) confirmed: u64,
    /// Something was sent to it.
    pub(crate) used: u64,
    /// Its address or state changed.
    pub(crate) updated: u64,
}

/// Where the kernel would send a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Out of a link, to a gateway or straight to the address; through a tunnel to this node.
    Out { link: u32, gateway: Option<IpAddr>, node: Option<Ipv4Addr> },
    /// It is one of its own.
    Own,
    /// Nowhere, by a route of this kind or for want of one.
    Nowhere(&'static str),
}

/// The errors with which the kernel says that a route leads nowhere (`fib_props` in its
/// `fib_semantics.c`), and the kinds of routes that they stand for.
const NOWHERE: [(Errno, &str); 4] = [
    (Errno::EINVAL, "blackhole"),
    (Errno::EHOSTUNREACH, "unreachable"),
    (Errno::EACCES, "prohibit"),
    (Errno::ENETUNREACH, "no route"),
];

impl Netlink {
    /// Where the kernel's routes lead a packet of this node itself.
    pub(crate) async fn lookup(&self, to: IpAddr) -> Result<Lookup, NetlinkRequestFailed> {
        let message = route_to(Cidr::host(to), None).build();
        let mut answers = self.handle.route().get(message).execute();
        let answer = match answers.try_next().await {
            Err(error) => {
                let kind = NOWHERE.iter().find(|(errno, _)| is(&error, &[*errno]));
                return match kind {
                    Some((_, kind)) => Ok(Lookup::Nowhere(kind)),
                    None => Err(failed(|| format!("asking for the route to {to}"))(error)),
                };
            }
            Ok(answer) => answer,
        };
        let Some(answer) = answer else { return Ok(Lookup::Nowhere("no route")) };
        let (mut link, mut gateway, mut node) = (0, None, None);
        for attribute in &answer.attributes {
            match attribute {
                RouteAttribute::Oif(index) => link = *index,
                RouteAttribute::Gateway(address) => gateway = ip(address),
                RouteAttribute::Encap(wrap) => node = tunnel_end(wrap),
                _ => {}
            }
        }
        Ok(match answer.header.kind {
            RouteType::Local => Lookup::Own,
            RouteType::BlackHole => Lookup::Nowhere("blackhole"),
            RouteType::Unreachable => Lookup::Nowhere("unreachable"),
            RouteType::Prohibit => Lookup::Nowhere("prohibit"),
            _ => Lookup::Out { link, gateway, node },
        })
    }

    /// Every neighbour, in whatever state.
    pub(crate) async fn neighbour_entries(
        &self,
    ) -> Result<Vec<NeighbourEntry>, NetlinkRequestFailed> {
        let all = self.handle.neighbours().get().execute();
        let all: Vec<NeighbourMessage> =
            all.try_collect().await.map_err(failed(|| "listing neighbours".to_owned()))?;
        Ok(all.iter().filter_map(neighbour_entry).collect())
    }
}

/// In how many parts of a second the kernel tells times, on every machine that we build for.
const USER_HZ: u64 = 100;

fn neighbour_entry(entry: &NeighbourMessage) -> Option<NeighbourEntry> {
    let (mut address, mut mac, mut age) = (None, None, None);
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                address = Some(IpAddr::V4(*found));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => {
                address = Some(IpAddr::V6(*found));
            }
            NeighbourAttribute::LinkLayerAddress(found) => {
                mac = Mac::try_from(found.as_slice()).ok();
            }
            NeighbourAttribute::CacheInfo(found) => {
                age = Some(NeighbourAge {
                    confirmed: u64::from(found.confirmed) / USER_HZ,
                    used: u64::from(found.used) / USER_HZ,
                    updated: u64::from(found.updated) / USER_HZ,
                });
            }
            _ => {}
        }
    }
    let (link, state) = (entry.header.ifindex, entry.header.state);
    Some(NeighbourEntry { link, address: address?, mac, state, age })
}

/// `02:00:00:00:00:01`.
pub(crate) fn hardware_address(mac: &Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The other way round.
pub(crate) fn parse_mac(text: &str) -> Option<Mac> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok());
    Mac::try_from(bytes.collect::<Option<Vec<u8>>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_written_and_read() {
        let mac = [2, 0, 0xab, 0, 0, 1];
        assert_eq!(parse_mac(&hardware_address(&mac)), Some(mac));
        assert_eq!((parse_mac("02:00"), parse_mac("")), (None, None));
    }
}
