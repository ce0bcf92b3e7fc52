//! IPv4 ranges: the cluster's pod and service CIDRs.
//!
//! Guarantees: a [`Cidr`] is always in network form (no host bits set).
//! Does not: IPv6.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network, such as `10.240.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    network: u32,
    prefix: u8,
}

/// Why a text is no [`Cidr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseCidrFailed {
    #[error("invalid CIDR address: {0}")]
    Malformed(String),
    #[error("{text} has bits set after the prefix, did you mean {network}?")]
    HostBits { text: String, network: Cidr },
}

impl Cidr {
    /// The network of `prefix` bits that holds `address`; `None` if `prefix` exceeds 32.
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= 32).then(|| Self { network: address.to_bits() & mask(prefix), prefix })
    }

    /// The first address, the network itself.
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network)
    }

    /// The number of fixed bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// How many addresses it has, the network and broadcast address included.
    pub fn size(self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// Whether `address` belongs to it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Self) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.network & shorter == other.network & shorter
    }

    /// The `index`th address; 0 is the network address.
    pub fn address(self, index: u64) -> Option<Ipv4Addr> {
        let offset = u32::try_from(index).ok().filter(|_| index < self.size())?;
        Some(Ipv4Addr::from_bits(self.network | offset))
    }

    /// The position of `address` in the network, the inverse of [`Cidr::address`].
    pub fn index_of(self, address: Ipv4Addr) -> Option<u64> {
        self.contains(address).then(|| u64::from(address.to_bits() - self.network))
    }

    /// The `index`th subnet with `prefix` bits.
    pub fn subnet(self, prefix: u8, index: u64) -> Option<Self> {
        if prefix < self.prefix || prefix > 32 || index >= 1 << (prefix - self.prefix) {
            return None;
        }
        let network = u64::from(self.network) + (index << (32 - prefix));
        Some(Self { network: u32::try_from(network).ok()?, prefix })
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrFailed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseCidrFailed::Malformed(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let address: Ipv4Addr = address.parse().map_err(|_| malformed())?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        let cidr = Self::containing(address, prefix).ok_or_else(malformed)?;
        if cidr.network() != address {
            return Err(ParseCidrFailed::HostBits { text: text.to_owned(), network: cidr });
        }
        Ok(cidr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn parse_accepts_networks_only() {
        for text in ["10.240.0.0/16", "0.0.0.0/0", "10.9.8.7/32", "172.30.0.0/24"] {
            assert_eq!(cidr(text).to_string(), text);
        }
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0/8", "x/8", "::/0"] {
            let got = text.parse::<Cidr>();
            assert_eq!(got, Err(ParseCidrFailed::Malformed(text.to_owned())));
        }
        let got = "10.240.1.0/16".parse::<Cidr>().unwrap_err();
        assert_eq!(
            got.to_string(),
            "10.240.1.0/16 has bits set after the prefix, did you mean 10.240.0.0/16?"
        );
    }

    #[test]
    fn nth_address_and_back() {
        let services = cidr("10.9.0.0/16");
        let table = [(0, "10.9.0.0"), (1, "10.9.0.1"), (10, "10.9.0.10"), (65535, "10.9.255.255")];
        for (index, address) in table {
            let address: Ipv4Addr = address.parse().unwrap();
            assert_eq!(services.address(index), Some(address));
            assert_eq!(services.index_of(address), Some(index));
        }
        assert_eq!(services.address(65536), None);
        assert_eq!(services.index_of(Ipv4Addr::new(10, 10, 0, 0)), None);
        assert_eq!(cidr("0.0.0.0/0").address(1 << 31), Some(Ipv4Addr::new(128, 0, 0, 0)));
    }

    #[test]
    fn nth_subnet() {
        let pods = cidr("10.240.0.0/16");
        assert_eq!(pods.subnet(24, 0), Some(cidr("10.240.0.0/24")));
        assert_eq!(pods.subnet(24, 255), Some(cidr("10.240.255.0/24")));
        assert_eq!(pods.subnet(24, 256), None);
        assert_eq!(pods.subnet(8, 0), None);
        assert_eq!(
            cidr("0.0.0.0/0").subnet(32, u64::from(u32::MAX)),
            Some(cidr("255.255.255.255/32"))
        );
    }

    #[test]
    fn overlap_is_symmetric() {
        let table = [
            ("10.240.0.0/16", "10.240.3.0/24", true),
            ("10.240.0.0/16", "10.9.0.0/16", false),
            ("0.0.0.0/0", "10.9.0.0/16", true),
            ("10.9.8.7/32", "10.9.8.6/32", false),
        ];
        for (a, b, expected) in table {
            assert_eq!(cidr(a).overlaps(cidr(b)), expected, "{a} {b}");
            assert_eq!(cidr(b).overlaps(cidr(a)), expected, "{b} {a}");
        }
    }
}
