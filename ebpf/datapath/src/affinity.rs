//! Session affinity: a client of a service keeps its backend until it has been idle for the
//! service's time-out (`sessionAffinityConfig.clientIP.timeoutSeconds` of the Service API).
//!
//! Guarantees: a service without affinity pays one comparison. A backend that left the service, or
//! only serves its last connections while others are ready, is not gone back to: it has no slot any
//! more, which is looked up by halves because a service's slots are in the order of their backends.
//! A client whose entry was evicted from the full map is balanced anew.

use crate::abi::{Address, Affinity, AffinityKey, Backend, Service, Slot, state};
use crate::balance::ServiceMaps;

/// Who a service recognises as one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// One of `affinity_kind`: names of different kinds never meet.
    pub kind: u32,
    pub name: Address,
}

const NANOSECONDS: u64 = 1_000_000_000;
/// Enough halvings for 2^20 slots.
const HALVINGS: u32 = 20;
/// The time of last use is written anew when this part of the time-out has passed, so that a
/// stream of datagrams does not write an entry for each.
const REFRESH_SHIFT: u32 = 4;

/// The backend that `client` keeps to; that is `chosen` if it has none yet.
#[inline(always)]
pub(crate) fn stick<M: ServiceMaps>(
    maps: &M,
    service: &Service,
    tag: u32,
    client: Client,
    chosen: (u32, Backend),
) -> (u32, Backend) {
    let key = AffinityKey { service: service.id, kind: client.kind, client: client.name };
    let now = maps.now_ns();
    let timeout = service.affinity_seconds as u64 * NANOSECONDS;
    if let Some(kept) = maps.affinity(&key) {
        let idle = now.wrapping_sub(kept.last_used_ns);
        if idle < timeout
            && has_slot(maps, service, Slot { backend: kept.backend, tag })
            && let Some(backend) = maps.backend(kept.backend)
            && backend.state == state::ACTIVE
        {
            if idle >= timeout >> REFRESH_SHIFT {
                maps.store_affinity(&key, &Affinity { last_used_ns: now, ..kept });
            }
            return (kept.backend, backend);
        }
    }
    maps.store_affinity(&key, &Affinity { last_used_ns: now, backend: chosen.0, pad: 0 });
    chosen
}

/// Whether one of the service's slots is `wanted`. Slots that were given to another service
/// meanwhile have another tag and say no.
///
/// Each half is chosen by a mask: the verifier would follow both ways of a branch through all
/// halvings that come after.
#[inline(always)]
fn has_slot<M: ServiceMaps>(maps: &M, service: &Service, wanted: Slot) -> bool {
    let (mut first, mut count) = (service.first_slot, service.slot_count);
    for _ in 0..HALVINGS {
        if count <= 1 {
            break;
        }
        let half = count >> 1;
        let Some(slot) = maps.slot(first + half) else {
            return false;
        };
        if slot.tag != wanted.tag {
            return false;
        }
        first += half & at_most(slot.backend, wanted.backend);
        count -= half;
    }
    maps.slot(first) == Some(wanted)
}

/// All ones if `one` is at most `other`, otherwise zero.
#[inline(always)]
fn at_most(one: u32, other: u32) -> u32 {
    ((one as u64).wrapping_sub(other as u64 + 1) >> 32) as u32
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::abi::{ServiceKey, affinity_kind};
    use crate::balance::{Choice, choose};
    use crate::fake::{FakeMaps, address, key};
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    const HOUR: u32 = 3_600;

    fn client(number: u32) -> Client {
        Client { kind: affinity_kind::ADDRESS, name: address(&format!("10.240.3.{number}")) }
    }

    /// Where `client` goes with the `round`th random number.
    fn backend_of(maps: &FakeMaps, service: &ServiceKey, client: Client, round: u32) -> u32 {
        let pick = round.wrapping_mul(0x9e37_79b9);
        match choose(maps, service, None, || pick, || Some(client)) {
            Choice::Backend { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    fn sticky(count: u32) -> (FakeMaps, ServiceKey) {
        let mut maps = FakeMaps::default();
        let service = key("10.9.0.7", 80);
        let addresses: Vec<String> =
            (0..count).map(|n| format!("10.240.{}.{}", n / 250, n % 250 + 1)).collect();
        maps.program(service, &addresses.iter().map(String::as_str).collect::<Vec<_>>());
        maps.services.get_mut(&service).unwrap().affinity_seconds = HOUR;
        (maps, service)
    }

    #[test]
    fn a_client_keeps_its_backend_and_others_theirs() {
        for count in [1, 2, 3, 7, 64, 1_000] {
            let (maps, service) = sticky(count);
            for number in 0..20 {
                let first = backend_of(&maps, &service, client(number), number);
                for round in 0..20 {
                    assert_eq!(backend_of(&maps, &service, client(number), round), first);
                }
            }
        }
        let (maps, service) = sticky(8);
        let used: std::collections::BTreeSet<u32> =
            (0..100).map(|number| backend_of(&maps, &service, client(number), number)).collect();
        assert_eq!(used.len(), 8, "clients are spread");
    }

    #[test]
    fn idle_clients_are_balanced_anew_and_use_prolongs() {
        let (maps, service) = sticky(64);
        let first = backend_of(&maps, &service, client(1), 1);
        for _ in 0..5 {
            maps.pass(u64::from(HOUR) * NANOSECONDS - 1);
            assert_eq!(backend_of(&maps, &service, client(1), 40), first);
        }
        maps.pass(u64::from(HOUR) * NANOSECONDS);
        assert_ne!(backend_of(&maps, &service, client(1), 40), first);
    }

    #[test]
    fn an_entry_is_not_written_at_every_use() {
        let (maps, service) = sticky(4);
        backend_of(&maps, &service, client(1), 1);
        let written = maps.affinity_writes.get();
        for _ in 0..15 {
            backend_of(&maps, &service, client(1), 1);
        }
        assert_eq!(maps.affinity_writes.get(), written);
        maps.pass(u64::from(HOUR) * NANOSECONDS / 10);
        backend_of(&maps, &service, client(1), 1);
        assert_eq!(maps.affinity_writes.get(), written + 1);
    }

    #[test]
    fn a_backend_without_a_slot_is_left() {
        let (mut maps, service) = sticky(4);
        let first = backend_of(&maps, &service, client(1), 1);
        // The agent writes a fresh range without it; the backend itself still serves.
        let kept: Vec<Slot> =
            maps.slots.iter().copied().filter(|slot| slot.backend != first).collect();
        let entry = maps.services.get_mut(&service).unwrap();
        entry.first_slot = maps.slots.len() as u32;
        entry.slot_count = kept.len() as u32;
        maps.slots.extend(kept);
        let second = backend_of(&maps, &service, client(1), 1);
        assert_ne!(second, first);
        assert_eq!(backend_of(&maps, &service, client(1), 9), second);
    }

    #[test]
    fn another_services_slots_are_not_taken_for_ones_own() {
        let (mut maps, service) = sticky(2);
        let other = key("10.9.0.8", 80);
        maps.program(other, &["10.240.9.1", "10.240.9.2"]);
        let id = maps.services[&service].id;
        maps.services.get_mut(&other).unwrap().affinity_seconds = HOUR;
        let theirs = backend_of(&maps, &other, client(1), 1);
        let key = AffinityKey { service: id, kind: affinity_kind::ADDRESS, client: client(1).name };
        maps.store_affinity(&key, &Affinity { last_used_ns: 0, backend: theirs, pad: 0 });
        assert!(backend_of(&maps, &service, client(1), 1) < 2);
    }

    #[test]
    fn a_full_map_balances_all_the_same() {
        let (maps, service) = sticky(2);
        maps.affinities_full.set(true);
        backend_of(&maps, &service, client(1), 1);
    }

    #[test]
    fn a_service_without_affinity_asks_nobody_who_the_client_is() {
        let mut maps = FakeMaps::default();
        let service = key("10.9.0.7", 80);
        maps.program(service, &["10.240.0.1"]);
        let found = choose(&maps, &service, None, || 0, || panic!("asked for the client"));
        assert!(matches!(found, Choice::Backend { id: 0, .. }));
    }
}
