//! Links, addresses, routes and neighbours of one network namespace, through rtnetlink.
//!
//! Guarantees: each operation says in its error what it was about; adding what is there and
//! removing what is not are no errors. Routes of ours carry a protocol number of our own, and only
//! those are listed or removed.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use futures::TryStreamExt;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo},
    link::{InfoData, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::NeighbourState,
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteIpTunnel, RouteIpTunnelFlags,
        RouteLwTunnelEncap, RouteMessage, RouteProtocol, RouteScope, RouteType,
    },
};
use nix::errno::Errno;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan, RouteMessageBuilder};

use bowline_api::cidr::Cidr;

use super::tunnel;

/// The protocol number that our routes carry: none of those in the kernel's `rtnetlink.h`.
pub(crate) const ROUTE_PROTOCOL: u8 = 177;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// The kernel refused a request about links, addresses or routes.
#[derive(Debug, thiserror::Error)]
#[error("{act}: {source}")]
pub struct NetlinkRequestFailed {
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
    /// Set if it is a VXLAN device.
    pub(crate) vxlan: Option<VxlanSeen>,
}

/// What makes one VXLAN device different from another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VxlanSeen {
    pub(crate) port: u16,
    /// Who sends through it says where each packet goes.
    pub(crate) collects_metadata: bool,
}

/// A neighbour that was entered for good: the link, its address, its hardware address.
pub(crate) type Neighbour = (u32, IpAddr, Mac);

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddressSeen {
    pub(crate) link: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    /// Usable as a source towards other machines, and for as long as the link is.
    pub(crate) global: bool,
}

/// A route of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) destination: Cidr,
    pub(crate) via: Via,
    /// The source address of packets that this node itself sends along the route.
    pub(crate) source: Option<IpAddr>,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Via {
    /// To another node.
    Node { address: IpAddr, link: u32 },
    /// To another node through the tunnel device.
    Tunnel { node: Ipv4Addr, link: u32 },
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
            Via::Tunnel { node, link } => {
                write!(f, "{} through the tunnel to {node} on link {link}", self.destination)
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
    pub(super) handle: Handle,
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

    /// Makes a VXLAN device in collect-metadata mode; it is down.
    pub(super) async fn add_vxlan(
        &self,
        name: &str,
        port: u16,
    ) -> Result<(), NetlinkRequestFailed> {
        let message = LinkMessageBuilder::<LinkVxlan>::new(name)
            .collect_metadata(true)
            .learning(false)
            .port(port)
            .build();
        let added = self.handle.link().add(message).execute().await;
        added.map_err(failed(|| format!("making the VXLAN device {name} on UDP port {port}")))
    }

    /// Gives a link its hardware address and MTU. What is right is left alone: with a new address
    /// a link loses its neighbours.
    pub(super) async fn configure_link(
        &self,
        link: &LinkSeen,
        mac: Mac,
        mtu: u32,
    ) -> Result<(), NetlinkRequestFailed> {
        let mut message = LinkUnspec::new_with_index(link.index);
        if link.mac != Some(mac) {
            message = message.address(mac.to_vec());
        }
        if link.mtu != mtu {
            message = message.mtu(mtu);
        }
        let set = self.handle.link().set(message.build()).execute().await;
        set.map_err(failed(|| format!("setting the address and MTU {mtu} of link {}", link.name)))
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

    /// All addresses.
    pub(crate) async fn addresses(&self) -> Result<Vec<AddressSeen>, NetlinkRequestFailed> {
        let addresses = self.handle.address().get().execute();
        let addresses: Vec<AddressMessage> =
            addresses.try_collect().await.map_err(failed(|| "listing addresses".to_owned()))?;
        Ok(addresses.iter().filter_map(address_seen).collect())
    }

    /// Adds an address of one host to a link; an IPv6 address is used at once. `host_scope`: not
    /// chosen as the source of packets that leave the node.
    pub(crate) async fn add_address(
        &self,
        link: u32,
        address: impl Into<IpAddr>,
        host_scope: bool,
    ) -> Result<(), NetlinkRequestFailed> {
        let range = Cidr::host(address);
        let address = range.network();
        let mut request = self.handle.address().add(link, address, range.prefix());
        let header = &mut request.message_mut().header;
        if host_scope {
            header.scope = AddressScope::Host;
        }
        if address.is_ipv6() {
            header.flags |= AddressHeaderFlags::Nodad;
        }
        if address.is_ipv6() && host_scope {
            // The kernel gives IPv6 addresses their scope itself: a deprecated one is passed over
            // (RFC 6724 section 5, rule 3).
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, u32::MAX);
            request.message_mut().attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        ignore(request.execute().await, &[Errno::EEXIST])
            .map_err(failed(|| format!("adding address {address} to link {link}")))
    }

    /// Removes an address of one host from a link.
    pub(crate) async fn remove_address(
        &self,
        link: u32,
        address: impl Into<IpAddr>,
    ) -> Result<(), NetlinkRequestFailed> {
        let range = Cidr::host(address);
        let address = range.network();
        let mut message = self.handle.address().add(link, address, range.prefix());
        let message = message.message_mut().clone();
        let removed = self.handle.address().del(message).execute().await;
        ignore(removed, &[Errno::EADDRNOTAVAIL, Errno::ENODEV])
            .map_err(failed(|| format!("removing address {address} from link {link}")))
    }

    /// The routes of ours in the main table, of both families.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>, NetlinkRequestFailed> {
        let all = RouteMessageBuilder::<IpAddr>::new().build();
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

    /// Makes a gateway on a link that has no subnet the way to everything of its family.
    pub(super) async fn put_default_route(
        &self,
        link: u32,
        gateway: IpAddr,
        source: IpAddr,
    ) -> Result<(), NetlinkRequestFailed> {
        let act = || format!("adding the default route via {gateway}");
        let add = async |message| {
            let added = self.handle.route().add(message).replace().execute().await;
            added.map_err(failed(act))
        };
        let to_gateway = Cidr::host(gateway);
        let everything = Cidr::containing(unspecified(gateway), 0).unwrap_or(to_gateway);
        let on_link = route_to(to_gateway, Some(source)).output_interface(link);
        let mut on_link = on_link.scope(RouteScope::Link).build();
        on_link.header.protocol = RouteProtocol::Static;
        let mut default =
            route_to(everything, Some(source)).output_interface(link).onlink().build();
        default.header.protocol = RouteProtocol::Static;
        default.attributes.push(RouteAttribute::Gateway(gateway.into()));
        add(on_link).await?;
        add(default).await
    }

    /// Enters a neighbour for good: nobody ever asks for it.
    pub(crate) async fn put_neighbour(
        &self,
        (link, address, mac): Neighbour,
    ) -> Result<(), NetlinkRequestFailed> {
        let request = self.handle.neighbours().add(link, address);
        let added = request.link_layer_address(&mac).replace().execute().await;
        added.map_err(failed(|| format!("entering neighbour {address} on link {link}")))
    }

    /// Removes a neighbour that was entered for good.
    pub(crate) async fn remove_neighbour(
        &self,
        (link, address, _): Neighbour,
    ) -> Result<(), NetlinkRequestFailed> {
        let mut request = self.handle.neighbours().add(link, address);
        let message = request.message_mut().clone();
        let removed = self.handle.neighbours().del(message).execute().await;
        ignore(removed, &[Errno::ENOENT, Errno::ENODEV])
            .map_err(failed(|| format!("removing neighbour {address} on link {link}")))
    }

    /// The neighbours that were entered for good.
    pub(crate) async fn neighbours(&self) -> Result<Vec<Neighbour>, NetlinkRequestFailed> {
        let all = self.neighbour_entries().await?.into_iter();
        let permanent = all.filter(|entry| entry.state == NeighbourState::Permanent);
        Ok(permanent.filter_map(|entry| Some((entry.link, entry.address, entry.mac?))).collect())
    }
}

pub(super) fn failed(
    act: impl FnOnce() -> String,
) -> impl FnOnce(rtnetlink::Error) -> NetlinkRequestFailed {
    move |error| NetlinkRequestFailed {
        act: act(),
        source: match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        },
    }
}

pub(super) fn is(error: &rtnetlink::Error, numbers: &[Errno]) -> bool {
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
        vxlan: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = Mac::try_from(mac.as_slice()).ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(parts) => link.vxlan = vxlan_seen(&parts),
            _ => {}
        }
    }
    link
}

fn vxlan_seen(parts: &[LinkInfo]) -> Option<VxlanSeen> {
    let settings = parts.iter().find_map(|part| match part {
        LinkInfo::Data(InfoData::Vxlan(settings)) => Some(settings),
        _ => None,
    })?;
    let mut seen = VxlanSeen::default();
    for setting in settings {
        match setting {
            InfoVxlan::Port(port) => seen.port = *port,
            InfoVxlan::CollectMetadata(collects) => seen.collects_metadata = *collects,
            _ => {}
        }
    }
    Some(seen)
}

fn address_seen(message: &AddressMessage) -> Option<AddressSeen> {
    // On a point-to-point link of IPv4 `Address` is the peer's; `Local` is always our own, and
    // missing for most IPv6 addresses.
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    let address = find(true).or_else(|| find(false))?;
    // For IPv4 the first of these bits says that the address is not the first of its network.
    let passing = AddressHeaderFlags::Secondary | AddressHeaderFlags::Deprecated;
    let flags = message.header.flags;
    Some(AddressSeen {
        link: message.header.index,
        address,
        prefix: message.header.prefix_len,
        global: message.header.scope == AddressScope::Universe
            && !(address.is_ipv6() && flags.intersects(passing)),
    })
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The beginning of a route message, of the destination's family.
pub(super) fn route_to(destination: Cidr, source: Option<IpAddr>) -> RouteMessageBuilder<IpAddr> {
    let mut message = RouteMessageBuilder::<IpAddr>::new();
    let inner = message.get_mut();
    inner.header.address_family =
        if destination.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    inner.header.destination_prefix_length = destination.prefix();
    inner.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    inner.attributes.push(RouteAttribute::Destination(destination.network().into()));
    inner.attributes.extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

fn route_message(route: &Route) -> RouteMessage {
    let message = route_to(route.destination, route.source);
    match route.via {
        Via::Node { address, link } => with_gateway(message.output_interface(link), address),
        Via::Tunnel { node, link } => {
            let wrap = vec![
                RouteIpTunnel::Id(tunnel::NETWORK),
                RouteIpTunnel::Destination(node),
                RouteIpTunnel::Flags(RouteIpTunnelFlags::Key),
            ];
            let message = message.encap_ip(wrap).output_interface(link).onlink();
            with_gateway(message, tunnel::gateway(route.destination, node))
        }
        Via::Link { link } => message.output_interface(link).scope(RouteScope::Link).build(),
        Via::Unreachable => message.kind(RouteType::Unreachable).build(),
    }
}

fn with_gateway(message: RouteMessageBuilder<IpAddr>, gateway: IpAddr) -> RouteMessage {
    let mut message = message.build();
    message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    message
}

/// The far end that a tunnelled route names.
pub(super) fn tunnel_end(wrap: &[RouteLwTunnelEncap]) -> Option<Ipv4Addr> {
    wrap.iter().find_map(|part| match part {
        RouteLwTunnelEncap::Ip(RouteIpTunnel::Destination(node)) => Some(*node),
        _ => None,
    })
}

fn route_seen(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.protocol != RouteProtocol::Other(ROUTE_PROTOCOL)
        || header.table != RouteHeader::RT_TABLE_MAIN
    {
        return None;
    }
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut gateway, mut link, mut source, mut node) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Encap(wrap) => node = tunnel_end(wrap),
            _ => {}
        }
    }
    let via = match (header.kind, gateway, link) {
        (RouteType::Unicast, Some(address), Some(link)) => match node {
            Some(node) => Via::Tunnel { node, link },
            None => Via::Node { address, link },
        },
        (RouteType::Unicast, None, Some(link)) => Via::Link { link },
        (RouteType::Unreachable, ..) => Via::Unreachable,
        // Not of a shape that we make, yet under our number: what leads nowhere is replaced.
        _ => return None,
    };
    let destination = Cidr::containing(destination, header.destination_prefix_length)?;
    Some(Route { destination, via, source })
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
