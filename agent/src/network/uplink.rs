//! The link that leads to the other nodes, and this node's address on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use bowline_api::cidr::Cidr;

use super::{
    Addresses, first_of_each,
    links::{AddressSeen, LinkSeen, Netlink, NetlinkRequestFailed},
};

/// The link to the other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uplink {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    /// The node's own addresses.
    pub(crate) addresses: Addresses,
    /// The networks on the link: who has an address in one of them is reached without a router.
    pub(crate) networks: Vec<Cidr>,
}

/// It could not be told which link leads to the other nodes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindUplinkFailed {
    #[error(transparent)]
    Netlink(#[from] NetlinkRequestFailed),
    #[error("there is no link {0}; name one of `ip link` with --uplink")]
    NoSuchLink(String),
    #[error("link {link} has no IPv4 address; give it one or name another link with --uplink")]
    NoAddress { link: String },
    #[error("no link has the node address {0}; name one that does with --node-address")]
    AddressNotHere(IpAddr),
    #[error("--node-address {0} given twice: one address of each family at most")]
    TwoOfOneFamily(IpAddr),
    #[error("no way to the server {server}: {source}; name the link with --uplink")]
    NoWay { server: SocketAddr, source: std::io::Error },
}

/// Finds the uplink: by name, else by the node's address, else as the way to the server.
/// `addresses` are those that the node was told to have, if any.
pub(crate) async fn find(
    netlink: &Netlink,
    name: Option<&str>,
    addresses: &[IpAddr],
    server: SocketAddr,
) -> Result<Uplink, FindUplinkFailed> {
    let links = netlink.links().await?;
    let seen = netlink.addresses().await?;
    let (mut v4, mut v6) = (None, None);
    for address in addresses {
        let first = match address {
            IpAddr::V4(address) => v4.replace(*address).is_none(),
            IpAddr::V6(address) => v6.replace(*address).is_none(),
        };
        if !first {
            return Err(FindUplinkFailed::TwoOfOneFamily(*address));
        }
    }
    let v4 = match (name, v4) {
        (None, None) => Some(address_towards(server)?),
        (_, address) => address,
    };
    choose(&links, &seen, name, v4, v6)
}

fn choose(
    links: &[LinkSeen],
    addresses: &[AddressSeen],
    name: Option<&str>,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
) -> Result<Uplink, FindUplinkFailed> {
    let holder = |address: IpAddr| {
        let seen = addresses.iter().find(|seen| seen.address == address);
        let link = seen.and_then(|seen| links.iter().find(|link| link.index == seen.link));
        link.ok_or(FindUplinkFailed::AddressNotHere(address))
    };
    let link = match name {
        Some(name) => links
            .iter()
            .find(|link| link.name == name)
            .ok_or_else(|| FindUplinkFailed::NoSuchLink(name.to_owned()))?,
        None => holder(v4.unwrap_or(Ipv4Addr::UNSPECIFIED).into())?,
    };
    for address in v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)) {
        holder(address)?;
    }
    let on_link = || addresses.iter().filter(|seen| seen.link == link.index && seen.global);
    let (first_v4, first_v6) = first_of_each(on_link().map(|seen| seen.address));
    let no_address = || FindUplinkFailed::NoAddress { link: link.name.clone() };
    let v4 = v4.or(first_v4).ok_or_else(no_address)?;
    let networks = on_link().filter_map(|seen| Cidr::containing(seen.address, seen.prefix));
    Ok(Uplink {
        index: link.index,
        name: link.name.clone(),
        mtu: link.mtu,
        addresses: Addresses { v4, v6: v6.or(first_v6) },
        networks: networks.collect(),
    })
}

/// The address from which this node would speak to the server. Connecting a UDP socket asks the
/// routing table and sends nothing.
fn address_towards(server: SocketAddr) -> Result<Ipv4Addr, FindUplinkFailed> {
    let ask = || -> std::io::Result<SocketAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(server)?;
        socket.local_addr()
    };
    match ask() {
        Ok(SocketAddr::V4(local)) => Ok(*local.ip()),
        Ok(SocketAddr::V6(_)) => Err(FindUplinkFailed::NoWay {
            server,
            source: std::io::Error::from(std::io::ErrorKind::AddrNotAvailable),
        }),
        Err(source) => Err(FindUplinkFailed::NoWay { server, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> LinkSeen {
        LinkSeen { index, name: name.to_owned(), mac: None, mtu: 1500, up: true, vxlan: None }
    }

    fn seen(link: u32, address: &str, global: bool) -> AddressSeen {
        let (address, prefix) = address.split_once('/').unwrap();
        let (address, prefix) = (address.parse().unwrap(), prefix.parse().unwrap());
        AddressSeen { link, address, prefix, global }
    }

    #[test]
    fn chooses_by_name_by_address_and_says_what_is_missing() {
        let links = [link(1, "lo"), link(2, "eth0"), link(3, "eth1")];
        let addresses = [
            seen(1, "127.0.0.1/8", false),
            seen(2, "169.254.1.1/16", false),
            seen(2, "172.30.0.11/24", true),
            seen(2, "fe80::1/64", false),
            seen(2, "fd00:172:30::b/64", true),
        ];
        let node = Ipv4Addr::new(172, 30, 0, 11);
        let node6: Ipv6Addr = "fd00:172:30::b".parse().unwrap();
        let by = |name, v4, v6| choose(&links, &addresses, name, v4, v6);
        let eth0 = Uplink {
            index: 2,
            name: "eth0".to_owned(),
            mtu: 1500,
            addresses: Addresses { v4: node, v6: Some(node6) },
            networks: ["172.30.0.0/24", "fd00:172:30::/64"].map(|it| it.parse().unwrap()).into(),
        };
        assert_eq!(by(Some("eth0"), None, None).unwrap(), eth0);
        assert_eq!(by(None, Some(node), None).unwrap(), eth0);
        assert_eq!(by(None, Some(node), Some(node6)).unwrap(), eth0);
        let on_eth1 = by(Some("eth1"), Some(node), None).unwrap();
        assert_eq!((on_eth1.index, on_eth1.addresses), (3, node.into()));
        let elsewhere = Some(Ipv4Addr::new(1, 2, 3, 4));
        for (name, v4, v6, wanted) in [
            (Some("eth9"), None, None, "there is no link eth9"),
            (Some("eth1"), None, None, "link eth1 has no IPv4 address"),
            (None, elsewhere, None, "no link has the node address 1.2.3.4"),
            (Some("eth0"), elsewhere, None, "no link has the node address"),
            (Some("eth0"), None, "fd00::9".parse().ok(), "no link has the node address fd00::9"),
        ] {
            let error = by(name, v4, v6).unwrap_err().to_string();
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
