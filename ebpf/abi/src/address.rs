//! Addresses and integers in network byte order, generic over IPv4 and IPv6.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A 16-bit integer in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct U16Be(u16);

impl U16Be {
    /// From a value in the machine's byte order.
    #[inline(always)]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be())
    }

    /// From bits that are in network byte order already.
    #[inline(always)]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The bits as they stand in the packet.
    #[inline(always)]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The value in the machine's byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// A 32-bit integer in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct U32Be(u32);

impl U32Be {
    /// From a value in the machine's byte order.
    #[inline(always)]
    pub const fn new(value: u32) -> Self {
        Self(value.to_be())
    }

    /// From bits that are in network byte order already.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits as they stand in the packet.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The value in the machine's byte order.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }
}

/// An IPv4 or IPv6 address. IPv4 is held in its IPv6-mapped form (`::ffff:a.b.c.d`), which is also
/// what the kernel shows a program for a dual-stack socket, so both families share every map.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address([U32Be; 4]);

const MAPPED: U32Be = U32Be::new(0xffff);
const ZERO: U32Be = U32Be::new(0);

impl Address {
    #[inline(always)]
    pub const fn from_v4(address: U32Be) -> Self {
        Self([ZERO, ZERO, MAPPED, address])
    }

    #[inline(always)]
    pub const fn from_words(words: [U32Be; 4]) -> Self {
        Self(words)
    }

    #[inline(always)]
    pub const fn words(&self) -> &[U32Be; 4] {
        &self.0
    }

    /// The IPv4 address, if this is one.
    #[inline(always)]
    pub const fn as_v4(&self) -> Option<U32Be> {
        let mapped = self.0[0].0 == 0 && self.0[1].0 == 0 && self.0[2].0 == MAPPED.0;
        if mapped { Some(self.0[3]) } else { None }
    }

    /// Equality without a call to `memcmp`, which the kernel does not have.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        (self.0[3].0 ^ other.0[3].0)
            | (self.0[2].0 ^ other.0[2].0)
            | (self.0[1].0 ^ other.0[1].0)
            | (self.0[0].0 ^ other.0[0].0)
            == 0
    }

    /// Whether this is a group's address: 224.0.0.0/4 or ff00::/8.
    #[inline(always)]
    pub const fn is_multicast(&self) -> bool {
        match self.as_v4() {
            Some(v4) => v4.get() >> 28 == 0xe,
            None => self.0[0].get() >> 24 == 0xff,
        }
    }

    /// Whether this is the limited broadcast address, 255.255.255.255.
    #[inline(always)]
    pub const fn is_broadcast(&self) -> bool {
        matches!(self.as_v4(), Some(v4) if v4.0 == u32::MAX)
    }

    /// Whether this is fe80::/10: an address that means something on one link only.
    #[inline(always)]
    pub const fn is_link_local_v6(&self) -> bool {
        self.0[0].get() >> 22 == 0x3fa
    }

    /// Whether this is ff02::/16: a group of one link only.
    #[inline(always)]
    pub const fn is_link_group_v6(&self) -> bool {
        self.0[0].get() >> 16 == 0xff02
    }

    /// The first 64 bits, in the machine's byte order.
    #[inline(always)]
    pub const fn first_half(&self) -> u64 {
        (self.0[0].get() as u64) << 32 | self.0[1].get() as u64
    }

    /// All bits folded into one word; equal addresses fold equally.
    #[inline(always)]
    pub const fn folded(&self) -> u32 {
        self.0[0].0 ^ self.0[1].0 ^ self.0[2].0 ^ self.0[3].0
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4(U32Be::new(u32::from(address)))
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => return v4.into(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let (words, _) = octets.as_chunks::<4>();
        Self([0, 1, 2, 3].map(|i| U32Be::from_bits(u32::from_ne_bytes(words[i]))))
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if let Some(v4) = address.as_v4() {
            return Self::V4(Ipv4Addr::from(v4.get()));
        }
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(address.0) {
            bytes.copy_from_slice(&word.bits().to_ne_bytes());
        }
        Self::V6(Ipv6Addr::from(octets))
    }
}

/// A hardware address as it stands in the packet, in words because programs move it in words.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u16; 3]);

impl Mac {
    pub const fn new(octets: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = octets;
        Self([u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])])
    }

    pub const fn octets(self) -> [u8; 6] {
        let [[a, b], [c, d], [e, f]] =
            [self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes(), self.0[2].to_ne_bytes()];
        [a, b, c, d, e, f]
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn addresses_survive_the_way_there_and_back() {
        for text in ["0.0.0.0", "10.9.8.7", "255.255.255.255", "fd00::1", "2001:db8::ffff:1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(address)).to_string(), text);
        }
    }

    #[test]
    fn bytes_stand_in_network_order() {
        let address = Address::from(Ipv4Addr::new(10, 9, 8, 7));
        assert_eq!(address.as_v4().unwrap().bits().to_ne_bytes(), [10, 9, 8, 7]);
        assert_eq!(U16Be::new(80).bits().to_ne_bytes(), [0, 80]);
        let v6 = Address::from("fd00::1".parse::<IpAddr>().unwrap());
        assert!(v6.as_v4().is_none());
    }

    #[test]
    fn hardware_addresses_keep_their_order() {
        let octets = [2, 0, 0x5e, 1, 2, 3];
        assert_eq!(Mac::new(octets).octets(), octets);
        assert_eq!(Mac::new(octets).0[0].to_ne_bytes(), [2, 0]);
    }

    #[test]
    fn groups_and_links_are_known_by_their_prefix() {
        let kinds = |text: &str| {
            let address = Address::from(text.parse::<IpAddr>().unwrap());
            (address.is_multicast(), address.is_broadcast(), address.is_link_local_v6())
        };
        for text in ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"] {
            assert_eq!(kinds(text), (true, false, false), "{text}");
        }
        for text in ["223.255.255.255", "240.0.0.1", "10.0.0.1", "fec0::1", "fd00::ff02", "::"] {
            assert_eq!(kinds(text), (false, false, false), "{text}");
        }
        assert_eq!(kinds("255.255.255.255"), (false, true, false));
        for text in ["fe80::1", "febf::1"] {
            assert_eq!(kinds(text), (false, false, true), "{text}");
        }
        let on_link =
            |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).is_link_group_v6();
        assert!(on_link("ff02::1") && on_link("ff02::1:ff00:5"));
        for text in ["ff01::1", "ff05::2", "ff12::1", "fe80::1", "2001:db8::ff02", "224.0.0.1"] {
            assert!(!on_link(text), "{text}");
        }
    }

    #[test]
    fn same_sees_every_word() {
        let base = Address::from_words([1, 2, 3, 4].map(U32Be::new));
        assert!(base.same(&base));
        for word in 0..4 {
            let mut words = *base.words();
            words[word] = U32Be::new(9);
            assert!(!base.same(&Address::from_words(words)));
        }
    }
}
