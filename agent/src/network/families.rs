//! The addresses of one pod or node, in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// One IPv4 address, and beside it an IPv6 address where the cluster has both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    #[serde(rename = "address")]
    pub(crate) v4: Ipv4Addr,
    #[serde(rename = "address6", default, skip_serializing_if = "Option::is_none")]
    pub(crate) v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// IPv4 first, as the API lists them.
    pub(crate) fn iter(self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(IpAddr::V4(self.v4)).chain(self.v6.map(IpAddr::V6))
    }

    /// The one of the same family as `like`.
    pub(crate) fn like(self, like: IpAddr) -> Option<IpAddr> {
        self.iter().find(|address| address.is_ipv6() == like.is_ipv6())
    }

    /// As the downward API shows all of them.
    pub(crate) fn joined(self) -> String {
        self.iter().map(|address| address.to_string()).collect::<Vec<_>>().join(",")
    }
}

/// The first address of each family.
pub(crate) fn first_of_each(
    addresses: impl IntoIterator<Item = IpAddr>,
) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let (mut first_v4, mut first_v6) = (None, None);
    for address in addresses {
        match address {
            IpAddr::V4(v4) => drop(first_v4.get_or_insert(v4)),
            IpAddr::V6(v6) => drop(first_v6.get_or_insert(v6)),
        }
    }
    (first_v4, first_v6)
}

impl From<Ipv4Addr> for Addresses {
    fn from(v4: Ipv4Addr) -> Self {
        Self { v4, v6: None }
    }
}
