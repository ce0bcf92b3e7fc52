//! A range of IPv4 addresses.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// A range in CIDR notation, without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ipv4Range {
    network: Ipv4Addr,
    prefix: u8,
}

/// The text is not an IPv4 range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IPv4 range such as 10.240.1.0/24")]
pub(crate) struct ParseRangeFailed(String);

impl Ipv4Range {
    /// The range of one address.
    pub(crate) const fn host(address: Ipv4Addr) -> Self {
        Self { network: address, prefix: 32 }
    }

    /// A range from what a kernel route says; host bits are dropped.
    pub(crate) fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { network: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix }
    }

    pub(crate) const fn network(self) -> Ipv4Addr {
        self.network
    }

    pub(crate) const fn prefix(self) -> u8 {
        self.prefix
    }

    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network.to_bits()
    }

    /// The last address of the range.
    pub(crate) fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !mask(self.prefix))
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Ipv4Range {
    type Err = ParseRangeFailed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let failed = || ParseRangeFailed(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(failed)?;
        let address: Ipv4Addr = address.parse().map_err(|_| failed())?;
        let prefix: u8 = prefix.parse().map_err(|_| failed())?;
        let range = Self::new(address, prefix);
        if prefix > 32 || range.network != address {
            return Err(failed());
        }
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for text in ["10.240.1.0/24", "0.0.0.0/0", "10.9.0.1/32", "10.240.0.0/16"] {
            assert_eq!(text.parse::<Ipv4Range>().unwrap().to_string(), text);
        }
        for text in ["10.240.1.0", "10.240.1.1/24", "10.240.1.0/33", "x/8", "", "::/0", "1.2.3/8"] {
            assert!(text.parse::<Ipv4Range>().is_err(), "{text}");
        }
    }

    #[test]
    fn knows_what_it_contains() {
        let range: Ipv4Range = "10.240.1.0/24".parse().unwrap();
        assert!(range.contains(Ipv4Addr::new(10, 240, 1, 255)));
        assert!(!range.contains(Ipv4Addr::new(10, 240, 2, 0)));
        assert_eq!(range.last(), Ipv4Addr::new(10, 240, 1, 255));
        assert_eq!(Ipv4Range::new(Ipv4Addr::new(10, 240, 1, 7), 24), range);
        assert!("0.0.0.0/0".parse::<Ipv4Range>().unwrap().contains(Ipv4Addr::BROADCAST));
    }
}
