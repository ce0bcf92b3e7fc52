//! Which address a new sandbox gets.
//!
//! Guarantees: an address is given out only while nobody holds it; one that was never used comes
//! before one that was, and of those the one that was given back longest ago comes first, so that
//! a late packet for a pod that is gone seldom meets a new one. The first address of the range
//! (`.1`), the network's and the last one are never given out. Pure: who makes it durable is
//! `records`.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
};

use bowline_api::cidr::Cidr;

/// How many given-back addresses are remembered in order. Only ranges larger than this can see
/// an address again a little earlier than the rule above says.
const REMEMBERED: usize = 4096;

/// Every address of the node's pod range is taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no free address in {range}, the pod range of this node: all {taken} are taken")]
pub(crate) struct RangeExhausted {
    pub(crate) range: Cidr,
    pub(crate) taken: usize,
}

/// The addresses of a range: those held, and those given back, oldest first.
#[derive(Debug, Default)]
pub(super) struct AddressPool {
    held: BTreeSet<Ipv4Addr>,
    given_back: VecDeque<Ipv4Addr>,
}

impl AddressPool {
    pub(super) fn new(
        held: impl IntoIterator<Item = Ipv4Addr>,
        given_back: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Self {
        let held: BTreeSet<_> = held.into_iter().collect();
        let mut seen = BTreeSet::new();
        let given_back = given_back
            .into_iter()
            .filter(|address| !held.contains(address) && seen.insert(*address))
            .collect();
        Self { held, given_back }
    }

    /// Takes an address of `range` that `fits`.
    pub(super) fn take(
        &mut self,
        range: Cidr,
        fits: impl Fn(Ipv4Addr) -> bool,
    ) -> Result<Ipv4Addr, RangeExhausted> {
        let last = range.size().saturating_sub(1);
        let used: BTreeSet<Ipv4Addr> = self.given_back.iter().copied().collect();
        let all = (2..last).filter_map(|index| match range.address(index) {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        });
        let never_used = all
            .filter(|address| !self.held.contains(address) && !used.contains(address))
            .find(|address| fits(*address));
        let address = match never_used {
            Some(address) => address,
            None => {
                let usable = |address: &Ipv4Addr| {
                    let index = range.index_of(*address);
                    index.is_some_and(|index| (2..last).contains(&index)) && fits(*address)
                };
                let oldest = self.given_back.iter().position(usable);
                oldest.and_then(|index| self.given_back.remove(index)).ok_or(RangeExhausted {
                    range,
                    taken: self.held.iter().filter(|held| range.contains(**held)).count(),
                })?
            }
        };
        self.held.insert(address);
        Ok(address)
    }

    /// Gives an address back. One that was not held is left alone.
    pub(super) fn give_back(&mut self, address: Ipv4Addr) {
        if self.held.remove(&address) {
            self.given_back.push_back(address);
            if self.given_back.len() > REMEMBERED {
                self.given_back.pop_front();
            }
        }
    }

    /// The addresses that were given back, oldest first.
    pub(super) fn given_back(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.given_back.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 240, 1, last)
    }

    fn range(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn gives_unused_addresses_first_and_then_the_one_given_back_longest_ago() {
        let range = range("10.240.1.0/29"); // .2 to .6 can be given out
        let mut pool = AddressPool::default();
        let first: Vec<_> = (0..3).map(|_| pool.take(range, |_| true).unwrap()).collect();
        assert_eq!(first, [ip(2), ip(3), ip(4)]);
        pool.give_back(ip(3));
        pool.give_back(ip(2));
        assert_eq!(pool.take(range, |_| true), Ok(ip(5)));
        assert_eq!(pool.take(range, |_| true), Ok(ip(6)));
        assert_eq!(pool.take(range, |_| true), Ok(ip(3)));
        assert_eq!(pool.take(range, |_| true), Ok(ip(2)));
        let refused = pool.take(range, |_| true).unwrap_err();
        assert_eq!(refused, RangeExhausted { range, taken: 5 });
        assert!(refused.to_string().contains("10.240.1.0/29"), "{refused}");
    }

    #[test]
    fn what_is_held_is_not_given_out_after_a_restart() {
        let pod_range = range("10.240.1.0/29");
        let mut pool = AddressPool::new([ip(2), ip(4)], [ip(5), ip(4), ip(5), ip(3)]);
        assert_eq!(pool.given_back().collect::<Vec<_>>(), [ip(5), ip(3)]);
        assert_eq!(pool.take(pod_range, |_| true), Ok(ip(6)));
        assert_eq!(pool.take(pod_range, |_| true), Ok(ip(5)));
        assert_eq!(pool.take(pod_range, |_| true), Ok(ip(3)));
        assert!(pool.take(pod_range, |_| true).is_err());
    }

    #[test]
    fn addresses_of_a_former_range_are_neither_given_out_nor_counted() {
        let mut pool = AddressPool::new([ip(2)], [ip(3)]);
        let new = range("10.240.9.0/30");
        assert_eq!(pool.take(new, |_| true), Ok(Ipv4Addr::new(10, 240, 9, 2)));
        assert_eq!(pool.take(new, |_| true), Err(RangeExhausted { range: new, taken: 1 }));
    }

    #[test]
    fn an_address_that_does_not_fit_is_left() {
        let mut pool = AddressPool::new([], [ip(4)]);
        let range = range("10.240.1.0/29");
        let fits = |address: Ipv4Addr| address != ip(2) && address != ip(4);
        let taken: Vec<_> = (0..3).map(|_| pool.take(range, fits).unwrap()).collect();
        assert_eq!(taken, [ip(3), ip(5), ip(6)]);
        assert_eq!(pool.take(range, fits), Err(RangeExhausted { range, taken: 3 }));
    }

    #[test]
    fn giving_back_twice_is_harmless() {
        let mut pool = AddressPool::default();
        let address = pool.take(range("10.240.1.0/24"), |_| true).unwrap();
        pool.give_back(address);
        pool.give_back(address);
        assert_eq!(pool.given_back().count(), 1);
    }
}
