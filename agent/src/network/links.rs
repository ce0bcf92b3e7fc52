//! Links, addresses, routes and neighbours of one network namespace, through rtnetlink.
//!
//! Guarantees: each operation says in its error what it was about; adding what is there and
//! removing what is not are no errors. Routes of ours carry a protocol number of our own, and only
//! those are listed or removed.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use futures::TryStreamExt;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use nix::errno::Errno;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::Ipv4Range;

/// The protocol number that our routes carry: none of those in the kernel's `rtnetlink.h`.
pub(crate) const ROUTE_PROTOCOL: u8 = 177;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// The kernel refused a request about links, addresses or routes.
#[derive(Debug, thiserror::Error)]
#[error("{act}: {source}")]
pub(crate) struct NetlinkRequestFailed {
    act: String,
    source: io::Error,
}

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkSeen {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
}

/// An IPv4 address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddressSeen {
    pub(crate) link: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    /// Usable as a source towards other machines.
    pub(crate) global: bool,
}

/// A route of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Range,
    pub(crate) via: Via,
    /// The source address of packets that this node itself sends along the route.
    pub(crate) source: Option<Ipv4Addr>,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Via {
    /// To another node.
    Node { address: Ipv4Addr, link: u32 },
    /// Straight out of a link: to a pod.
    Link { link: u32 },
    /// Nowhere: an address of this node's range that no pod has.
    Unreachable,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.via {
            Via::Node { address, link } => {
                write!(f, "{} via {address} on link {link}", self.destination)
            }
            Via::Link { link } => write!(f, "{} on link {link}", self.destination),
            Via::Unreachable => write!(f, "unreachable {}", self.destination),
        }
    }
}

/// A veth pair to be made: one end in the namespace of the [`Netlink`], one in another.
pub(super) struct VethPair<'a> {
    pub(super) name: &'a str,
    pub(super) mac: Mac,
    pub(super) peer_name: &'a str,
    pub(super) peer_mac: Mac,
    pub(super) peer_netns: BorrowedFd<'a>,
    pub(super) mtu: u32,
}

/// A connection to the kernel, bound to the network namespace in which it was opened.
#[derive(Clone)]
pub(crate) struct Netlink {
    handle: Handle,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlink").finish_non_exhaustive()
    }
}

impl Netlink {
    /// Opens a connection in the calling thread's network namespace, served by the calling
    /// thread's runtime.
    pub(crate) fn open() -> Result<Self, NetlinkRequestFailed> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| {
            NetlinkRequestFailed { act: "opening a netlink socket".to_owned(), source }
        })?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// All links.
    pub(crate) async fn links(&self) -> Result<Vec<LinkSeen>, NetlinkRequestFailed> {
        let links = self.handle.link().get().execute();
        let links: Vec<LinkMessage> =
            links.try_collect().await.map_err(failed(|| "listing links".to_owned()))?;
        Ok(links.into_iter().map(link_seen).collect())
    }

    /// One link.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<LinkSeen>, NetlinkRequestFailed> {
        let link = self.handle.link().get().match_name(name).execute();
        let link = std::pin::pin!(link).try_next().await;
        match link {
            Ok(link) => Ok(link.map(link_seen)),
            Err(error) if is(&error, &[Errno::ENODEV]) => Ok(None),
            Err(error) => Err(failed(|| format!("looking for link {name}"))(error)),
        }
    }

    /// Makes a veth pair; both ends are down.
    pub(super) async fn add_veth(&self, pair: &VethPair<'_>) -> Result<(), NetlinkRequestFailed> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(pair.peer_name)
            .address(pair.peer_mac.to_vec())
            .mtu(pair.mtu)
            .setns_by_fd(pair.peer_netns.as_raw_fd())
            .build();
        let message = LinkVeth::new(pair.name, pair.peer_name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(pair.mac.to_vec())
            .mtu(pair.mtu)
            .build();
        let added = self.handle.link().add(message).execute().await;
        added.map_err(failed(|| {
            format!("making the veth pair {} and {}", pair.name, pair.peer_name)
        }))
    }

    /// Brings a link up.
    pub(super) async fn bring_up(&self, index: u32) -> Result<(), NetlinkRequestFailed> {
        let message = LinkUnspec::new_with_index(index).up().build();
        let set = self.handle.link().set(message).execute().await;
        set.map_err(failed(|| format!("bringing link {index} up")))
    }

    /// Removes a link, and with one end of a veth pair the other.
    pub(crate) async fn remove_link(&self, link: &LinkSeen) -> Result<(), NetlinkRequestFailed> {
        let removed = self.handle.link().del(link.index).execute().await;
        ignore(removed, &[Errno::ENODEV]).map_err(failed(|| format!("removing link {}", link.name)))
    }

    /// All IPv4 addresses.
    pub(crate) async fn addresses(&self) -> Result<Vec<AddressSeen>, NetlinkRequestFailed> {
        let addresses = self.handle.address().get().execute();
        let addresses: Vec<AddressMessage> =
            addresses.try_collect().await.map_err(failed(|| "listing addresses".to_owned()))?;
        Ok(addresses.iter().filter_map(address_seen).collect())
    }

    /// Adds an address of one host to a link. `host_scope`: never chosen as the source of packets
    /// that leave the node.
    pub(crate) async fn add_address(
        &self,
        link: u32,
        address: Ipv4Addr,
        host_scope: bool,
    ) -> Result<(), NetlinkRequestFailed> {
        let mut request = self.handle.address().add(link, IpAddr::V4(address), 32);
        if host_scope {
            request.message_mut().header.scope = AddressScope::Host;
        }
        ignore(request.execute().await, &[Errno::EEXIST])
            .map_err(failed(|| format!("adding address {address} to link {link}")))
    }

    /// Removes an address of one host from a link.
    pub(crate) async fn remove_address(
        &self,
        link: u32,
        address: Ipv4Addr,
    ) -> Result<(), NetlinkRequestFailed> {
        let mut message = self.handle.address().add(link, IpAddr::V4(address), 32);
        let message = message.message_mut().clone();
        let removed = self.handle.address().del(message).execute().await;
        ignore(removed, &[Errno::EADDRNOTAVAIL, Errno::ENODEV])
            .map_err(failed(|| format!("removing address {address} from link {link}")))
    }

    /// The routes of ours in the main table.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>, NetlinkRequestFailed> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes = self.handle.route().get(all).execute();
        let routes: Vec<RouteMessage> =
            routes.try_collect().await.map_err(failed(|| "listing routes".to_owned()))?;
        Ok(routes.iter().filter_map(route_seen).collect())
    }

    /// Adds a route of ours, in the place of another one to the same destination.
    pub(crate) async fn put_route(&self, route: &Route) -> Result<(), NetlinkRequestFailed> {
        let added = self.handle.route().add(route_message(route)).replace().execute().await;
        added.map_err(failed(|| format!("adding route {route}")))
    }

    /// Removes a route of ours.
    pub(crate) async fn remove_route(&self, route: &Route) -> Result<(), NetlinkRequestFailed> {
        let removed = self.handle.route().del(route_message(route)).execute().await;
        ignore(removed, &[Errno::ESRCH, Errno::ENODEV])
            .map_err(failed(|| format!("removing route {route}")))
    }

    /// Makes a gateway on a link that has no subnet the way to everything.
    pub(super) async fn put_default_route(
        &self,
        link: u32,
        gateway: Ipv4Addr,
        source: Ipv4Addr,
    ) -> Result<(), NetlinkRequestFailed> {
        let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(gateway, 32)
            .output_interface(link)
            .scope(RouteScope::Link)
            .pref_source(source)
            .build();
        let default = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(link)
            .pref_source(source)
            .onlink()
            .build();
        for message in [to_gateway, default] {
            let added = self.handle.route().add(message).replace().execute().await;
            added.map_err(failed(|| format!("adding the default route via {gateway}")))?;
        }
        Ok(())
    }

    /// Enters a neighbour for good: nobody ever asks for it by ARP.
    pub(crate) async fn put_neighbour(
        &self,
        link: u32,
        address: Ipv4Addr,
        mac: Mac,
    ) -> Result<(), NetlinkRequestFailed> {
        let request = self.handle.neighbours().add(link, IpAddr::V4(address));
        let added = request.link_layer_address(&mac).replace().execute().await;
        added.map_err(failed(|| format!("entering neighbour {address} on link {link}")))
    }

    /// The neighbours that were entered for good.
    pub(crate) async fn neighbours(
        &self,
    ) -> Result<Vec<(u32, Ipv4Addr, Mac)>, NetlinkRequestFailed> {
        let request = self.handle.neighbours().get().set_address_family(AddressFamily::Inet);
        let all: Vec<_> = request
            .execute()
            .try_collect()
            .await
            .map_err(failed(|| "listing neighbours".to_owned()))?;
        Ok(all
            .iter()
            .filter(|entry| entry.header.state == NeighbourState::Permanent)
            .filter_map(|entry| {
                let mut address = None;
                let mut mac = None;
                for attribute in &entry.attributes {
                    match attribute {
                        NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                            address = Some(*found);
                        }
                        NeighbourAttribute::LinkLayerAddress(found) => {
                            mac = Mac::try_from(found.as_slice()).ok();
                        }
                        _ => {}
                    }
                }
                Some((entry.header.ifindex, address?, mac?))
            })
            .collect())
    }
}

fn failed(act: impl FnOnce() -> String) -> impl FnOnce(rtnetlink::Error) -> NetlinkRequestFailed {
    move |error| NetlinkRequestFailed {
        act: act(),
        source: match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        },
    }
}

fn is(error: &rtnetlink::Error, numbers: &[Errno]) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if numbers.iter().any(|errno| message.raw_code() == -(*errno as i32)))
}

fn ignore(result: Result<(), rtnetlink::Error>, numbers: &[Errno]) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if is(&error, numbers) => Ok(()),
        other => other,
    }
}

fn link_seen(message: LinkMessage) -> LinkSeen {
    let mut link = LinkSeen {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = Mac::try_from(mac.as_slice()).ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            _ => {}
        }
    }
    link
}

fn address_seen(message: &AddressMessage) -> Option<AddressSeen> {
    // On a point-to-point link `Address` is the peer's; `Local` is always our own.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    Some(AddressSeen {
        link: message.header.index,
        address: local,
        prefix: message.header.prefix_len,
        global: message.header.scope == AddressScope::Universe,
    })
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination.network(), route.destination.prefix())
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
    message = match route.via {
        Via::Node { address, link } => message.gateway(address).output_interface(link),
        Via::Link { link } => message.output_interface(link).scope(RouteScope::Link),
        Via::Unreachable => message.kind(RouteType::Unreachable),
    };
    if let Some(source) = route.source {
        message = message.pref_source(source);
    }
    message.build()
}

fn route_seen(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.protocol != RouteProtocol::Other(ROUTE_PROTOCOL)
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.address_family != AddressFamily::Inet
    {
        return None;
    }
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let (mut gateway, mut link, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    let via = match (header.kind, gateway, link) {
        (RouteType::Unicast, Some(address), Some(link)) => Via::Node { address, link },
        (RouteType::Unicast, None, Some(link)) => Via::Link { link },
        (RouteType::Unreachable, ..) => Via::Unreachable,
        // Not of a shape that we make, yet under our number: what leads nowhere is replaced.
        _ => return None,
    };
    let destination = Ipv4Range::new(destination, header.destination_prefix_length);
    Some(Route { destination, via, source })
}
