//! Ranges of IPv4 and IPv6 addresses: the pod, node and service CIDRs.
//!
//! Guarantees: a [`Cidr`] is always in network form (no host bits set); an IPv4-mapped IPv6
//! address is never taken for the IPv4 one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network, such as `10.240.0.0/16` or `fd00:10:240::/48`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
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

/// An IPv4 range, and beside it an IPv6 range where the cluster has both families; as text
/// `10.240.0.0/16` or `10.240.0.0/16,fd00:10:240::/48`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DualStackCidr {
    pub v4: Cidr,
    pub v6: Option<Cidr>,
}

/// Why a text is no [`DualStackCidr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDualStackCidrFailed {
    #[error(transparent)]
    Range(#[from] ParseCidrFailed),
    #[error("{0}: give an IPv4 range, or an IPv4 and an IPv6 range in this order")]
    Families(String),
}

impl DualStackCidr {
    /// The range of each family, IPv4 first.
    pub fn ranges(self) -> impl Iterator<Item = Cidr> {
        std::iter::once(self.v4).chain(self.v6)
    }
}

impl FromStr for DualStackCidr {
    type Err = ParseDualStackCidrFailed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ranges = text.split(',').map(str::parse).collect::<Result<Vec<Cidr>, _>>()?;
        match ranges[..] {
            [v4] if !v4.is_ipv6() => Ok(Self { v4, v6: None }),
            [v4, v6] if !v4.is_ipv6() && v6.is_ipv6() => Ok(Self { v4, v6: Some(v6) }),
            _ => Err(ParseDualStackCidrFailed::Families(text.to_owned())),
        }
    }
}

impl fmt::Display for DualStackCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.v4)?;
        self.v6.map_or(Ok(()), |v6| write!(f, ",{v6}"))
    }
}

impl Cidr {
    /// The network of `prefix` bits that holds `address`; `None` if the address has fewer bits.
    pub fn containing(address: impl Into<IpAddr>, prefix: u8) -> Option<Self> {
        let address = address.into();
        let host_bits = width(address).checked_sub(prefix)?;
        let network = with_bits(address, bits(address) & !low_ones(host_bits));
        Some(Self { network, prefix })
    }

    /// The range of one address.
    pub fn host(address: impl Into<IpAddr>) -> Self {
        let network = address.into();
        Self { network, prefix: width(network) }
    }

    /// The first address, the network itself.
    pub const fn network(self) -> IpAddr {
        self.network
    }

    /// The number of fixed bits.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether it is an IPv6 range.
    pub const fn is_ipv6(self) -> bool {
        self.network.is_ipv6()
    }

    /// How many addresses it has, the first and last included; `u64::MAX` if there are more.
    pub fn size(self) -> u64 {
        1_u64.checked_shl(u32::from(self.host_bits())).unwrap_or(u64::MAX)
    }

    /// Whether `address` belongs to it.
    pub fn contains(self, address: impl Into<IpAddr>) -> bool {
        Self::containing(address, self.prefix) == Some(self)
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Self) -> bool {
        let shorter = self.prefix.min(other.prefix);
        Self::containing(self.network, shorter) == Self::containing(other.network, shorter)
    }

    /// The `index`th address; 0 is the network address.
    pub fn address(self, index: u64) -> Option<IpAddr> {
        let inside = u128::from(index) <= low_ones(self.host_bits());
        inside.then(|| with_bits(self.network, bits(self.network) | u128::from(index)))
    }

    /// The position of `address` in the network, the inverse of [`Cidr::address`].
    pub fn index_of(self, address: impl Into<IpAddr>) -> Option<u64> {
        let address = address.into();
        let offset = self.contains(address).then(|| bits(address) - bits(self.network))?;
        u64::try_from(offset).ok()
    }

    /// The `index`th subnet with `prefix` bits.
    pub fn subnet(self, prefix: u8, index: u64) -> Option<Self> {
        let host_bits = width(self.network).checked_sub(prefix)?;
        let own_bits = prefix.checked_sub(self.prefix)?;
        if u128::from(index) > low_ones(own_bits) {
            return None;
        }
        // A subnet that is the whole address space has no bits to shift by.
        let offset = u128::from(index).checked_shl(u32::from(host_bits)).unwrap_or(0);
        Some(Self { network: with_bits(self.network, bits(self.network) | offset), prefix })
    }

    fn host_bits(self) -> u8 {
        width(self.network) - self.prefix
    }
}

/// How many bits an address of this family has.
const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of the family of `like` with these bits.
fn with_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        // The low half is all there is: every caller stays inside the family's width.
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

fn low_ones(count: u8) -> u128 {
    u128::MAX.checked_shr(128 - u32::from(count)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrFailed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseCidrFailed::Malformed(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        let cidr = Self::containing(address, prefix).ok_or_else(malformed)?;
        if cidr.network != address {
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
        for text in
            ["10.240.0.0/16", "0.0.0.0/0", "10.9.8.7/32", "fd00:10:240::/48", "::/0", "::1/128"]
        {
            assert_eq!(cidr(text).to_string(), text);
        }
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0/8", "x/8", "::/129"] {
            let got = text.parse::<Cidr>();
            assert_eq!(got, Err(ParseCidrFailed::Malformed(text.to_owned())));
        }
        assert!("fd00::1/64".parse::<Cidr>().unwrap_err().to_string().ends_with("fd00::/64?"));
        let got = "10.240.1.0/16".parse::<Cidr>().unwrap_err();
        assert_eq!(
            got.to_string(),
            "10.240.1.0/16 has bits set after the prefix, did you mean 10.240.0.0/16?"
        );
    }

    #[test]
    fn a_pair_has_ipv4_first() {
        for text in ["10.240.0.0/16", "10.240.0.0/16,fd00:10:240::/48"] {
            assert_eq!(text.parse::<DualStackCidr>().unwrap().to_string(), text);
        }
        for (text, why) in [
            ("fd00::/64", "give an IPv4 range"),
            ("fd00::/64,10.240.0.0/16", "in this order"),
            ("10.240.0.0/16,10.241.0.0/16", "in this order"),
            ("10.240.0.0/16,", "invalid CIDR address"),
            ("10.240.0.0/16,fd00::1/64", "did you mean fd00::/64"),
        ] {
            let error = text.parse::<DualStackCidr>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn nth_address_and_back() {
        let services = cidr("10.9.0.0/16");
        let table = [(0, "10.9.0.0"), (1, "10.9.0.1"), (10, "10.9.0.10"), (65535, "10.9.255.255")];
        for (index, address) in table {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(services.address(index), Some(address));
            assert_eq!(services.index_of(address), Some(index));
        }
        assert_eq!(services.address(65536), None);
        assert_eq!(services.index_of(Ipv4Addr::new(10, 10, 0, 0)), None);
        assert_eq!(cidr("0.0.0.0/0").address(1 << 31), Some(Ipv4Addr::new(128, 0, 0, 0).into()));
        let six = cidr("fd00:10:9::/112");
        let tenth: IpAddr = "fd00:10:9::a".parse().unwrap();
        assert_eq!(
            (six.size(), six.address(10), six.index_of(tenth)),
            (65536, Some(tenth), Some(10))
        );
        assert_eq!(six.address(65536), None);
        assert_eq!(cidr("fd00::/64").size(), u64::MAX);
    }

    #[test]
    fn nth_subnet() {
        let pods = cidr("10.240.0.0/16");
        assert_eq!(pods.subnet(24, 0), Some(cidr("10.240.0.0/24")));
        assert_eq!(pods.subnet(24, 255), Some(cidr("10.240.255.0/24")));
        assert_eq!(pods.subnet(24, 256), None);
        assert_eq!(pods.subnet(8, 0), None);
        let six = cidr("fd00:10:240::/48");
        assert_eq!(six.subnet(64, 1), Some(cidr("fd00:10:240:1::/64")));
        assert_eq!(six.subnet(64, 65536), None);
        assert_eq!(cidr("::/0").subnet(0, 0), Some(cidr("::/0")));
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
            ("fd00:10::/32", "fd00:10:240::/48", true),
            ("0.0.0.0/0", "::/0", false),
            ("::/0", "10.9.0.0/16", false),
        ];
        for (a, b, expected) in table {
            assert_eq!(cidr(a).overlaps(cidr(b)), expected, "{a} {b}");
            assert_eq!(cidr(b).overlaps(cidr(a)), expected, "{b} {a}");
        }
    }
}
