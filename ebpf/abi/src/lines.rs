//! What is told of services without searching for them: a cache line each, and the edition of all.

use crate::maps::SPREAD;
use crate::{Address, Service, ServiceKey, U16Be, U32Be};

/// SERVICE_LINES value: an entry of SERVICES and, if there are few, its backends, so that finding
/// one takes one look at memory. The index is [`ServiceKey::place`]; where two services have one
/// place, the other is in SERVICES only.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceLine {
    pub key: ServiceKey,
    pub service: Service,
    /// [`ServiceLine::check_of`] all else. A line that is read while it is written has another.
    pub check: u32,
    pub near: NearBackends,
}

/// The backends of a service of which each client may get each, if so few fit here: three of IPv4,
/// one of IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NearBackends {
    /// The three IPv4 addresses, then the ports of the first two; or the IPv6 address.
    pub words: [u32; 4],
    /// That of the third IPv4 backend, or of the IPv6 one.
    pub port: U16Be,
    /// Zero: they are not here, or there are none.
    pub count: u16,
}

impl NearBackends {
    /// No more than this many ever fit.
    pub const MOST: usize = 3;

    /// These backends of a service with an address of the same family, if they fit.
    pub fn of(family_of: &Address, backends: &[(Address, U16Be)]) -> Option<Self> {
        let is_v4 = family_of.as_v4().is_some();
        let same = backends.iter().all(|(address, _)| address.as_v4().is_some() == is_v4);
        if !same || backends.is_empty() || backends.len() > if is_v4 { Self::MOST } else { 1 } {
            return None;
        }
        let mut near = Self { count: backends.len() as u16, ..Self::default() };
        if !is_v4 {
            let (address, port) = backends[0];
            return Some(Self { words: address.words().map(U32Be::bits), port, ..near });
        }
        let mut ports = [0; 3];
        for (index, (address, port)) in backends.iter().enumerate() {
            near.words[index] = address.words()[3].bits();
            ports[index] = port.bits();
        }
        near.words[3] = u32::from(ports[0]) | u32::from(ports[1]) << 16;
        Some(Self { port: U16Be::from_bits(ports[2]), ..near })
    }

    /// Backend `index`, which is less than the count, of a service with an address of this family.
    #[inline(always)]
    pub const fn get(&self, family_of: &Address, index: u32) -> (Address, U16Be) {
        let [first, second, third, fourth] = self.words;
        if family_of.as_v4().is_none() {
            let words = [
                U32Be::from_bits(first),
                U32Be::from_bits(second),
                U32Be::from_bits(third),
                U32Be::from_bits(fourth),
            ];
            return (Address::from_words(words), self.port);
        }
        let (word, port) = match index {
            0 => (first, fourth as u16),
            1 => (second, (fourth >> 16) as u16),
            _ => (third, self.port.bits()),
        };
        (Address::from_v4(U32Be::from_bits(word)), U16Be::from_bits(port))
    }
}

impl ServiceLine {
    #[inline(always)]
    pub const fn new(key: ServiceKey, service: Service, near: NearBackends) -> Self {
        let line = Self { key, service, check: 0, near };
        Self { check: line.check_of(&key), ..line }
    }

    /// Changes with each word of the line, and differs from one key to another.
    #[inline(always)]
    pub const fn check_of(&self, key: &ServiceKey) -> u32 {
        let Self { service, near, .. } = self;
        let last = near.port.bits() as u32 | (near.count as u32) << 16;
        key.tag()
            ^ service.id.rotate_left(3)
            ^ service.first_slot.rotate_left(6)
            ^ service.slot_count.rotate_left(9)
            ^ service.flags.rotate_left(12)
            ^ service.affinity_seconds.rotate_left(15)
            ^ near.words[0].rotate_left(18)
            ^ near.words[1].rotate_left(21)
            ^ near.words[2].rotate_left(24)
            ^ near.words[3].rotate_left(27)
            ^ last.rotate_left(30)
            ^ SPREAD as u32
    }
}

/// The only value of EDITION: what can be told of the service maps without searching them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edition {
    /// Never zero in maps that were written. It becomes another one after each change of a service
    /// that was there before: what was chosen in this edition may be used without choosing again.
    pub number: u32,
    pub pad: u32,
    /// The lowest and the highest IPv4 address in ADDRESSES, in the machine's byte order.
    pub lowest_v4: u32,
    pub highest_v4: u32,
    /// The same of the first half of IPv6 addresses.
    pub lowest_v6: u64,
    pub highest_v6: u64,
}

impl Edition {
    /// That of maps without services.
    pub const EMPTY: Self = Self {
        number: 1,
        pad: 0,
        lowest_v4: u32::MAX,
        highest_v4: 0,
        lowest_v6: u64::MAX,
        highest_v6: 0,
    };

    /// Whether a service may have this address; if not, none has.
    #[inline(always)]
    pub const fn spans(&self, address: &Address) -> bool {
        match address.as_v4() {
            Some(v4) => self.lowest_v4 <= v4.get() && v4.get() <= self.highest_v4,
            None => {
                let half = address.first_half();
                self.lowest_v6 <= half && half <= self.highest_v6
            }
        }
    }

    /// The same with this address spanned.
    #[must_use]
    pub fn with(self, address: &Address) -> Self {
        match address.as_v4() {
            Some(v4) => Self {
                lowest_v4: self.lowest_v4.min(v4.get()),
                highest_v4: self.highest_v4.max(v4.get()),
                ..self
            },
            None => Self {
                lowest_v6: self.lowest_v6.min(address.first_half()),
                highest_v6: self.highest_v6.max(address.first_half()),
                ..self
            },
        }
    }

    /// The edition after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        let number = self.number.wrapping_add(1);
        Self { number: if number == 0 { 1 } else { number }, ..self }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::protocol;
    use std::net::IpAddr;

    #[test]
    fn an_edition_spans_what_it_was_given_and_what_lies_between() {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        let all = ["10.9.0.1", "10.9.7.0", "fd00:10:9::1", "0.0.0.0", "::", "::1"];
        assert!(all.iter().all(|text| !Edition::EMPTY.spans(&address(text))));
        let services = ["10.9.0.1", "10.9.7.0", "fd00:10:9::1", "fd00:10:9:7::1"];
        let edition =
            services.iter().fold(Edition::EMPTY, |edition, text| edition.with(&address(text)));
        for (text, spanned) in [
            ("10.9.0.0", false),
            ("10.9.0.1", true),
            ("10.9.3.200", true),
            ("10.9.7.1", false),
            ("127.0.0.1", false),
            ("fd00:10:8:ffff::1", false),
            ("fd00:10:9:3::1", true),
            ("fd00:10:9:8::", false),
            ("::1", false),
        ] {
            assert_eq!(edition.spans(&address(text)), spanned, "{text}");
        }
    }

    fn ends(all: &[&str]) -> std::vec::Vec<(Address, U16Be)> {
        let end = |text: &&str| {
            let end: std::net::SocketAddr = text.parse().unwrap();
            (end.ip().into(), U16Be::new(end.port()))
        };
        all.iter().map(end).collect()
    }

    #[test]
    fn few_backends_are_near_and_others_are_not() {
        let [v4, v6] = ["10.9.0.1", "fd00:10:9::1"].map(|t| t.parse::<IpAddr>().unwrap().into());
        let three = ends(&["10.240.0.1:80", "10.240.1.2:8081", "10.240.2.3:65535"]);
        for count in 1..=3 {
            let near = NearBackends::of(&v4, &three[..count]).unwrap();
            assert_eq!(near.count as usize, count);
            for (index, backend) in three[..count].iter().enumerate() {
                assert_eq!(near.get(&v4, index as u32), *backend);
            }
        }
        let six = ends(&["[fd00:10:240::5]:8080"]);
        assert_eq!(NearBackends::of(&v6, &six).unwrap().get(&v6, 0), six[0]);
        let four = [&three[..], &three[..1]].concat();
        let (twice, mixed) = ([&six[..], &six[..]].concat(), [&three[..1], &six[..]].concat());
        for (address, backends) in
            [(&v4, &[][..]), (&v4, &four), (&v6, &twice), (&v4, &mixed), (&v4, &six), (&v6, &three)]
        {
            assert_eq!(NearBackends::of(address, backends), None);
        }
    }

    #[test]
    fn a_line_that_is_half_written_shows() {
        let key = |port| ServiceKey::new(Address::default(), U16Be::new(port), protocol::TCP);
        let vip = "10.9.0.1".parse::<IpAddr>().unwrap().into();
        let line = |first_slot, backends: &[&str]| {
            let slot_count = backends.len() as u32;
            let service = Service { id: 7, first_slot, slot_count, ..Service::default() };
            let near = NearBackends::of(&vip, &ends(backends)).unwrap();
            ServiceLine::new(key(80), service, near)
        };
        let old = line(1_000, &["10.240.0.1:80", "10.240.0.2:80"]);
        let new = line(1_003, &["10.240.0.1:80", "10.240.0.3:80", "10.240.0.4:81"]);
        let words = |line: &ServiceLine| -> [u32; 16] {
            // SAFETY: integers of the same size, without padding.
            unsafe { core::mem::transmute::<ServiceLine, [u32; 16]>(*line) }
        };
        let (before, after) = (words(&old), words(&new));
        let differ: std::vec::Vec<usize> = (0..16).filter(|n| before[*n] != after[*n]).collect();
        // Any part of the words that change, but for all and none.
        for part in 1..(1_u32 << differ.len()) - 1 {
            let mut torn = before;
            for (bit, word) in differ.iter().enumerate() {
                if part & 1 << bit != 0 {
                    torn[*word] = after[*word];
                }
            }
            // SAFETY: as above.
            let torn = unsafe { core::mem::transmute::<[u32; 16], ServiceLine>(torn) };
            assert_ne!(torn.check_of(&key(80)), torn.check, "{part:b}");
        }
        assert_ne!(old.check_of(&key(81)), old.check);
    }

    #[test]
    fn no_edition_is_zero() {
        assert_eq!(Edition { number: u32::MAX, ..Edition::EMPTY }.next().number, 1);
    }
}
