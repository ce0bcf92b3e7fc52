//! Which events somebody is told who listens.

use crate::abi::{Address, Event, Reason, Told, U16Be, WINDOW_NS, Wanted, outcome};

/// The bit of [`outcome`] that stands for what became of a packet or a call.
#[inline(always)]
pub const fn outcome_of(reason: u16) -> u32 {
    if reason as u32 >= Reason::SpoofedSource as u32 { outcome::REFUSED } else { outcome::PASSED }
}

/// Whether somebody wants to be told this. `random` is asked only where not each is told.
#[inline(always)]
pub fn is_wanted(wanted: &Wanted, event: &Event, random: impl Fn() -> u32) -> bool {
    if wanted.outcomes & outcome_of(event.reason) == 0
        || event.time_ns > wanted.until_ns
        || wanted.protocol != 0 && wanted.protocol != event.protocol
        || wanted.reason != 0 && wanted.reason - 1 != event.reason as u32
        || wanted.service != 0 && wanted.service - 1 != event.service
        || wanted.hooks != 0 && wanted.hooks as u32 & 1 << (event.direction & 7) == 0
    {
        return false;
    }
    let port = wanted.port.bits();
    let has_port = |other: U16Be| other.bits() == port;
    if port != 0
        && !has_port(event.source_port)
        && !has_port(event.destination_port)
        && !has_port(event.becomes_port)
    {
        return false;
    }
    let [one, other] = &wanted.addresses;
    let is_any = wanted.netns == 0 && is_none(one) && is_none(other);
    let is_called = wanted.netns != 0 && wanted.netns == event.netns;
    if !is_any && !is_called && !is_end(event, one) && !is_end(event, other) {
        return false;
    }
    wanted.sample <= 1 || random().is_multiple_of(wanted.sample)
}

#[inline(always)]
fn is_none(address: &Address) -> bool {
    address.same(&Address::default())
}

#[inline(always)]
fn is_end(event: &Event, address: &Address) -> bool {
    !is_none(address)
        && (address.same(&event.source)
            || address.same(&event.destination)
            || address.same(&event.becomes))
}

/// Counts an event that is about to be told; false if it is one too many.
#[inline(always)]
pub const fn is_within_limit(wanted: &Wanted, told: &mut Told, now: u64) -> bool {
    if wanted.limit == 0 {
        return true;
    }
    if now.wrapping_sub(told.window_ns) >= WINDOW_NS {
        told.window_ns = now;
        told.told = 0;
    }
    if told.told >= wanted.limit {
        return false;
    }
    told.told += 1;
    true
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::abi::Direction;
    use crate::fake::address;
    use std::vec::Vec;

    fn event() -> Event {
        Event {
            time_ns: 5,
            source: address("10.240.0.5"),
            destination: address("10.9.8.7"),
            becomes: address("10.240.1.9"),
            source_port: U16Be::new(40_000),
            destination_port: U16Be::new(80),
            becomes_port: U16Be::new(8080),
            protocol: 6,
            reason: Reason::Balanced as u16,
            service: 3,
            netns: 77,
            ..Event::default()
        }
    }

    #[test]
    fn each_filter_lets_through_what_it_names() {
        let all = Wanted { until_ns: 9, outcomes: outcome::PASSED, ..Wanted::default() };
        let port = |port| Wanted { port: U16Be::new(port), ..all };
        let at = |text: &str| Wanted { addresses: [Address::default(), address(text)], ..all };
        let of = |netns| Wanted { netns, addresses: [address("10.1.1.1"); 2], ..all };
        let table = [
            ("everything", all, true),
            ("nothing", Wanted::default(), false),
            ("refused ones", Wanted { outcomes: outcome::REFUSED, ..all }, false),
            ("until before", Wanted { until_ns: 4, ..all }, false),
            ("TCP", Wanted { protocol: 6, ..all }, true),
            ("UDP", Wanted { protocol: 17, ..all }, false),
            ("balanced", Wanted { reason: Reason::Balanced as u32 + 1, ..all }, true),
            ("local", Wanted { reason: Reason::LocalPod as u32 + 1, ..all }, false),
            ("service 3", Wanted { service: 4, ..all }, true),
            ("service 0", Wanted { service: 1, ..all }, false),
            ("source port", port(40_000), true),
            ("destination port", port(80), true),
            ("the backend's port", port(8080), true),
            ("another port", port(81), false),
            ("source", at("10.240.0.5"), true),
            ("destination", at("10.9.8.7"), true),
            ("the backend", at("10.240.1.9"), true),
            ("another address", at("10.240.1.8"), false),
            ("the caller", of(77), true),
            ("another caller", of(78), false),
            ("at its hook", Wanted { hooks: 1 << Direction::FromPod as u8, ..all }, true),
            ("at another hook", Wanted { hooks: 1 << Direction::ToPod as u8, ..all }, false),
        ];
        for (what, wanted, told) in table {
            assert_eq!(is_wanted(&wanted, &event(), || 0), told, "{what}");
        }
        let sampled = Wanted { sample: 10, ..all };
        let told: Vec<u32> = (0..100).filter(|n| is_wanted(&sampled, &event(), || *n)).collect();
        assert_eq!(told.len(), 10);
    }

    #[test]
    fn a_limit_counts_anew_in_each_window() {
        let wanted = Wanted { limit: 3, ..Wanted::default() };
        let mut told = Told::default();
        let mut count = |from: u64| {
            (from..from + 10).filter(|now| is_within_limit(&wanted, &mut told, *now)).count()
        };
        assert_eq!(count(WINDOW_NS), 3);
        assert_eq!(count(WINDOW_NS + 10), 0);
        assert_eq!(count(2 * WINDOW_NS), 3);
        let unbounded = Wanted::default();
        assert!((0..100).all(|now| is_within_limit(&unbounded, &mut Told::default(), now)));
    }
}
