//! Service load balancing: SERVICES -> SLOTS -> BACKENDS, three map reads.
//!
//! Guarantees: the backend is of the service's old or its new set, never of another service, also
//! while the agent switches sets. A value read while the kernel recycles a map entry is noticed by
//! the slot's tag and read again; after the last attempt the call is refused rather than sent to
//! the wrong place.

use crate::abi::{
    Address, Affinity, AffinityKey, Backend, Service, ServiceKey, ServiceLine, Slot, U16Be, state,
};
use crate::affinity::{Client, stick};

/// The maps that balancing uses.
pub trait ServiceMaps {
    fn service(&self, key: &ServiceKey) -> Option<Service>;
    /// False for addresses that surely are no service's; cheaper than a search.
    fn may_have_address(&self, address: &Address) -> bool;
    /// Whether any service has this address.
    fn has_address(&self, address: &Address) -> bool;
    fn slot(&self, index: u32) -> Option<Slot>;
    fn backend(&self, id: u32) -> Option<Backend>;
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// What does not fit is forgotten.
    fn store_affinity(&self, key: &AffinityKey, affinity: &Affinity);
    /// A clock that only goes forward.
    fn now_ns(&self) -> u64;
}

/// What balancing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// No service has this address, or none this port of it.
    NotAService,
    /// A service with nobody to answer.
    NoBackend { service: u32 },
    /// Go there. `lasting` is all ones if the choice hangs on the backends alone, and zero if the
    /// service has session affinity: a mask, because the verifier would follow both ways of a
    /// branch through all that comes after.
    Backend { service: u32, id: u32, backend: Backend, lasting: u32 },
}

const ATTEMPTS: u32 = 3;

/// A backend that was found beside its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Near {
    pub address: Address,
    pub port: U16Be,
}

/// Chooses one of the backends in the service's line, as [`choose`] does, if they are there.
#[inline(always)]
pub fn choose_near(key: &ServiceKey, line: &ServiceLine, pick: impl Fn() -> u32) -> Option<Near> {
    let near = &line.near;
    if near.count == 0 {
        return None;
    }
    let index = if near.count == 1 { 0 } else { spread(pick(), near.count.into()) };
    let (address, port) = near.get(&key.address, index);
    Some(Near { address, port })
}

/// Chooses a backend for `key`, whose service may be `known` already. `pick` gives any number whose
/// high bits are evenly spread, and is asked only for services; `client` is asked only for those
/// with session affinity, and without one the choice is as for any other.
#[inline(always)]
pub fn choose<M: ServiceMaps>(
    maps: &M,
    key: &ServiceKey,
    known: Option<Service>,
    pick: impl Fn() -> u32,
    client: impl Fn() -> Option<Client>,
) -> Choice {
    let (service, id, backend) = match anew(maps, key, known, &pick) {
        Anew::NotAService => return Choice::NotAService,
        Anew::NoBackend { service } => return Choice::NoBackend { service },
        Anew::Backend { service, id, backend } => (service, id, backend),
    };
    let lasting = ((service.affinity_seconds as u64).wrapping_sub(1) >> 32) as u32;
    let client = if service.affinity_seconds == 0 { None } else { client() };
    let (id, backend) = match client {
        None => (id, backend),
        Some(client) => stick(maps, &service, key.tag(), client, (id, backend)),
    };
    Choice::Backend { service: service.id, id, backend, lasting }
}

/// What balancing comes to for a client that has no backend yet.
enum Anew {
    NotAService,
    NoBackend { service: u32 },
    Backend { service: Service, id: u32, backend: Backend },
}

#[inline(always)]
fn anew<M: ServiceMaps>(
    maps: &M,
    key: &ServiceKey,
    mut known: Option<Service>,
    pick: &impl Fn() -> u32,
) -> Anew {
    let mut refused = 0;
    for _ in 0..ATTEMPTS {
        let Some(service) = known.take().or_else(|| maps.service(key)) else {
            return Anew::NotAService;
        };
        refused = service.id;
        if service.slot_count == 0 {
            continue;
        }
        let Some(slot) = maps.slot(service.first_slot + spread(pick(), service.slot_count)) else {
            continue;
        };
        if slot.tag != key.tag() {
            continue;
        }
        let Some(backend) = maps.backend(slot.backend) else {
            continue;
        };
        if backend.state == state::ACTIVE {
            return Anew::Backend { service, id: slot.backend, backend };
        }
    }
    Anew::NoBackend { service: refused }
}

/// Maps `pick` evenly onto `0..count`, without a division.
#[inline(always)]
pub(crate) fn spread(pick: u32, count: u32) -> u32 {
    ((pick as u64 * count as u64) >> 32) as u32
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::abi::{NearBackends, affinity_kind};
    use crate::fake::{FakeMaps, backend, key};
    use std::cell::Cell;

    fn pick(maps: &impl ServiceMaps, key: &ServiceKey, pick: u32) -> Choice {
        let client = Client { kind: affinity_kind::ADDRESS, name: Address::default() };
        choose(maps, key, None, || pick, || Some(client))
    }

    #[test]
    fn every_backend_gets_its_share() {
        let mut maps = FakeMaps::default();
        let service = key("10.9.0.7", 80);
        maps.program(service, &["10.240.0.1", "10.240.1.1", "10.240.2.1"]);
        let mut seen = std::collections::BTreeMap::new();
        for i in 0..3_000u32 {
            match pick(&maps, &service, i.wrapping_mul(1_431_655)) {
                Choice::Backend { backend, .. } => *seen.entry(backend).or_insert(0) += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen.len(), 3);
        assert!(seen.values().all(|n| (900..1_100).contains(n)), "{seen:?}");
    }

    #[test]
    fn other_addresses_and_ports_are_left_alone() {
        let mut maps = FakeMaps::default();
        maps.program(key("10.9.0.7", 80), &["10.240.0.1"]);
        assert_eq!(pick(&maps, &key("10.9.0.7", 81), 0), Choice::NotAService);
        assert_eq!(pick(&maps, &key("10.9.0.8", 80), 0), Choice::NotAService);
    }

    #[test]
    fn near_backends_get_their_shares_too() {
        let mut maps = FakeMaps::default();
        let service = key("10.9.0.7", 80);
        let addresses = ["10.240.0.1", "10.240.1.1", "10.240.2.1"];
        maps.program(service, &addresses);
        let backends = addresses.map(|text| (backend(text, 8080).address, U16Be::new(8080)));
        for count in 1..=3 {
            let near = NearBackends::of(&service.address, &backends[..count]).unwrap();
            let line = ServiceLine::new(service, maps.services[&service], near);
            let mut seen = std::collections::BTreeMap::new();
            for i in 0..3_000u32 {
                let pick = || i.wrapping_mul(1_431_655);
                let found = choose_near(&service, &line, pick).unwrap();
                assert_eq!(found.port, U16Be::new(8080));
                *seen.entry(found.address).or_insert(0) += 1;
            }
            assert_eq!(seen.len(), count);
            let share = 3_000 / count;
            assert!(seen.values().all(|n| (share - 100..=share + 100).contains(n)), "{seen:?}");
        }
        // Far away, or with affinity.
        let line = ServiceLine::new(service, maps.services[&service], NearBackends::default());
        assert_eq!(choose_near(&service, &line, || 0), None);
    }

    #[test]
    fn an_empty_service_is_refused() {
        let mut maps = FakeMaps::default();
        maps.program(key("10.9.0.7", 80), &[]);
        assert_eq!(pick(&maps, &key("10.9.0.7", 80), 7), Choice::NoBackend { service: 0 });
    }

    /// Shows another service's entry at the first read, as a recycled map entry would.
    struct Recycled<'a> {
        maps: &'a FakeMaps,
        wrong: ServiceKey,
        reads: Cell<u32>,
    }

    impl ServiceMaps for Recycled<'_> {
        fn service(&self, key: &ServiceKey) -> Option<Service> {
            self.reads.set(self.reads.get() + 1);
            self.maps.service(if self.reads.get() == 1 { &self.wrong } else { key })
        }
        fn may_have_address(&self, address: &Address) -> bool {
            self.maps.may_have_address(address)
        }
        fn has_address(&self, address: &Address) -> bool {
            self.maps.has_address(address)
        }
        fn slot(&self, index: u32) -> Option<Slot> {
            self.maps.slot(index)
        }
        fn backend(&self, id: u32) -> Option<Backend> {
            self.maps.backend(id)
        }
        fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
            self.maps.affinity(key)
        }
        fn store_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
            self.maps.store_affinity(key, affinity);
        }
        fn now_ns(&self) -> u64 {
            self.maps.now_ns()
        }
    }

    #[test]
    fn an_entry_recycled_under_the_reader_is_read_again() {
        let (mine, other) = (key("10.9.0.7", 80), key("10.9.0.8", 80));
        let mut maps = FakeMaps::default();
        maps.program(mine, &["10.240.0.1"]);
        maps.program(other, &["10.240.0.2"]);
        let recycled = Recycled { maps: &maps, wrong: other, reads: Cell::new(0) };
        let Choice::Backend { backend: found, .. } = pick(&recycled, &mine, 0) else {
            panic!("not balanced");
        };
        assert_eq!(found, backend("10.240.0.1", 8080));
        assert_eq!(recycled.reads.get(), 2);
    }

    #[test]
    fn a_service_that_is_known_is_not_looked_up_unless_it_is_stale() {
        let (mine, other) = (key("10.9.0.7", 80), key("10.9.0.8", 80));
        let mut maps = FakeMaps::default();
        maps.program(mine, &["10.240.0.1"]);
        maps.program(other, &["10.240.0.2"]);
        let client = Client { kind: affinity_kind::ADDRESS, name: Address::default() };
        for (known, reads) in [(mine, 0), (other, 1)] {
            let counted = Recycled { maps: &maps, wrong: mine, reads: Cell::new(0) };
            let known = Some(maps.services[&known]);
            let Choice::Backend { backend: found, .. } =
                choose(&counted, &mine, known, || 0, || Some(client))
            else {
                panic!("not balanced");
            };
            assert_eq!((found, counted.reads.get()), (backend("10.240.0.1", 8080), reads));
        }
    }

    #[test]
    fn a_freed_backend_takes_nothing() {
        let mut maps = FakeMaps::default();
        maps.program(key("10.9.0.7", 80), &["10.240.0.1"]);
        maps.backends.borrow_mut().get_mut(&0).unwrap().state = state::FREE;
        assert!(matches!(pick(&maps, &key("10.9.0.7", 80), 0), Choice::NoBackend { .. }));
    }

    #[test]
    fn spread_stays_inside() {
        for count in [1, 2, 3, 255, 65_536] {
            for pick in [0, 1, u32::MAX / 2, u32::MAX] {
                assert!(spread(pick, count) < count);
            }
        }
    }
}
