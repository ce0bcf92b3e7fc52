//! The link that leads to the other nodes, and this node's address on it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use super::links::{AddressSeen, LinkSeen, Netlink, NetlinkRequestFailed};

/// The link to the other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uplink {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    /// The node's own address.
    pub(crate) address: Ipv4Addr,
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
    AddressNotHere(Ipv4Addr),
    #[error("no way to the server {server}: {source}; name the link with --uplink")]
    NoWay { server: SocketAddr, source: std::io::Error },
}

/// Finds the uplink: by name, else by the node's address, else as the way to the server.
pub(crate) async fn find(
    netlink: &Netlink,
    name: Option<&str>,
    address: Option<Ipv4Addr>,
    server: SocketAddr,
) -> Result<Uplink, FindUplinkFailed> {
    let links = netlink.links().await?;
    let addresses = netlink.addresses().await?;
    let address = match (name, address) {
        (None, None) => Some(address_towards(server)?),
        (_, address) => address,
    };
    choose(&links, &addresses, name, address)
}

fn choose(
    links: &[LinkSeen],
    addresses: &[AddressSeen],
    name: Option<&str>,
    address: Option<Ipv4Addr>,
) -> Result<Uplink, FindUplinkFailed> {
    let link_named = |name: &str| links.iter().find(|link| link.name == name);
    let (link, address) = match (name, address) {
        (Some(name), address) => {
            let link =
                link_named(name).ok_or_else(|| FindUplinkFailed::NoSuchLink(name.to_owned()))?;
            let on_link = |seen: &&AddressSeen| seen.link == link.index && seen.global;
            let address = match address {
                Some(address) => addresses
                    .iter()
                    .find(|seen| seen.address == address)
                    .map(|seen| seen.address)
                    .ok_or(FindUplinkFailed::AddressNotHere(address))?,
                None => addresses
                    .iter()
                    .find(on_link)
                    .map(|seen| seen.address)
                    .ok_or_else(|| FindUplinkFailed::NoAddress { link: name.to_owned() })?,
            };
            (link, address)
        }
        (None, address) => {
            let address = address.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let seen = addresses.iter().find(|seen| seen.address == address);
            let link = seen.and_then(|seen| links.iter().find(|link| link.index == seen.link));
            (link.ok_or(FindUplinkFailed::AddressNotHere(address))?, address)
        }
    };
    Ok(Uplink { index: link.index, name: link.name.clone(), mtu: link.mtu, address })
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
        LinkSeen { index, name: name.to_owned(), mac: None, mtu: 1500, up: true }
    }

    fn seen(link: u32, address: [u8; 4], global: bool) -> AddressSeen {
        AddressSeen { link, address: address.into(), prefix: 24, global }
    }

    #[test]
    fn chooses_by_name_by_address_and_says_what_is_missing() {
        let links = [link(1, "lo"), link(2, "eth0"), link(3, "eth1")];
        let addresses = [
            seen(1, [127, 0, 0, 1], false),
            seen(2, [169, 254, 1, 1], false),
            seen(2, [172, 30, 0, 11], true),
        ];
        let node = Ipv4Addr::new(172, 30, 0, 11);
        let by = |name, address| choose(&links, &addresses, name, address);
        let eth0 = Uplink { index: 2, name: "eth0".to_owned(), mtu: 1500, address: node };
        assert_eq!(by(Some("eth0"), None).unwrap(), eth0);
        assert_eq!(by(None, Some(node)).unwrap(), eth0);
        let on_eth1 = by(Some("eth1"), Some(node)).unwrap();
        assert_eq!((on_eth1.index, on_eth1.address), (3, node));
        for (name, address, wanted) in [
            (Some("eth9"), None, "there is no link eth9"),
            (Some("eth1"), None, "link eth1 has no IPv4 address"),
            (None, Some(Ipv4Addr::new(1, 2, 3, 4)), "no link has the node address 1.2.3.4"),
            (Some("eth0"), Some(Ipv4Addr::new(1, 2, 3, 4)), "no link has the node address"),
        ] {
            let error = by(name, address).unwrap_err().to_string();
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
