//! What holds of every choice: models of who may be chosen, over any services, picks and times.

extern crate std;

use super::*;
use crate::abi::{NearBackends, affinity_kind};
use crate::fake::{FakeMaps, address, backend, key};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

/// Backends of all services together; services share them.
const BACKENDS: u32 = 30;
const SERVICES: usize = 3;
/// Seconds.
const TIMEOUT: u32 = 64;
const SECOND: u64 = 1_000_000_000;

/// The numbers of a service's backends.
type Set = BTreeSet<u32>;

fn set() -> impl Strategy<Value = Set> {
    proptest::collection::btree_set(0..BACKENDS, 0..12)
}

fn sets() -> impl Strategy<Value = Vec<Set>> {
    proptest::collection::vec(set(), SERVICES)
}

fn name(service: usize) -> ServiceKey {
    key(&std::format!("10.9.0.{}", service + 1), 80)
}

fn known_backend(number: u32) -> Backend {
    backend(&std::format!("10.240.0.{}", number + 1), 8080)
}

/// Services with these backends, each in a range of slots that others' ranges enclose.
fn node(sets: &[Set], affinity_seconds: u32) -> FakeMaps {
    let mut maps = FakeMaps::default();
    maps.backends.borrow_mut().extend((0..BACKENDS).map(|id| (id, known_backend(id))));
    for (number, set) in sets.iter().enumerate() {
        let entry = Service { id: number as u32, affinity_seconds, ..Service::default() };
        maps.services.insert(name(number), entry);
        give(&mut maps, number, set);
    }
    maps
}

/// Another set, as the agent does it: a fresh range in the order of the backends' numbers.
fn give(maps: &mut FakeMaps, number: usize, set: &Set) {
    let (key, first_slot) = (name(number), maps.slots.len() as u32);
    maps.slots.extend(set.iter().map(|id| Slot { backend: *id, tag: key.tag() }));
    let change = |entry: &mut Service| {
        entry.first_slot = first_slot;
        entry.slot_count = set.len() as u32;
    };
    maps.services.entry(key).and_modify(change);
}

fn free(maps: &FakeMaps, id: u32) {
    maps.backends.borrow_mut().entry(id).and_modify(|entry| entry.state = state::FREE);
}

/// A client of one of two kinds, whose names are the same.
fn client(number: u8) -> Client {
    let kind =
        if number & 1 == 0 { affinity_kind::ADDRESS } else { affinity_kind::NETWORK_NAMESPACE };
    Client { kind, name: address(&std::format!("10.240.1.{}", number / 2 + 1)) }
}

/// The place of a pick among so many, by division.
fn place(pick: u32, count: usize) -> usize {
    (u64::from(pick) * count as u64 / (1 << 32)) as usize
}

#[derive(Clone, Debug)]
enum Step {
    /// A client opens a connection.
    Ask {
        service: usize,
        client: u8,
        pick: u32,
    },
    /// Time passes, in 64ths of the time-out, less a nanosecond or not.
    Pass {
        part: u32,
        less: bool,
    },
    Give {
        service: usize,
        set: Set,
    },
    /// A backend goes before its services have other sets, as a reader may see it.
    Free(u32),
    Restore,
    /// The map of affinities forgets a client.
    Evict {
        service: usize,
        client: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (service, client) = (0..SERVICES, 0..4u8);
    let part = proptest::sample::select(&[0u32, 2, 4, 5, 32, 59, 60, 63, 64, 65, 128][..]);
    let step = prop_oneof![
        8 => (service.clone(), client.clone(), any::<u32>())
            .prop_map(|(service, client, pick)| Step::Ask { service, client, pick }),
        3 => (part, any::<bool>()).prop_map(|(part, less)| Step::Pass { part, less }),
        1 => (service.clone(), set()).prop_map(|(service, set)| Step::Give { service, set }),
        1 => (0..BACKENDS).prop_map(Step::Free),
        1 => Just(Step::Restore),
        1 => (service, client).prop_map(|(service, client)| Step::Evict { service, client }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Who serves whom, and since when it was not asked.
struct Model {
    sets: Vec<Set>,
    free: Set,
    kept: BTreeMap<(usize, u8), (u32, u64)>,
    now: u64,
    /// How often a client kept what the pick would not have given.
    held: u32,
}

impl Model {
    fn takes(&self, service: usize, id: u32) -> bool {
        self.sets[service].contains(&id) && !self.free.contains(&id)
    }

    fn take(&mut self, maps: &mut FakeMaps, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Ask { service, client, pick } => self.ask(maps, *service, *client, *pick)?,
            Step::Pass { part, less } => {
                let time = u64::from(TIMEOUT / 64 * part) * SECOND;
                let time = time.saturating_sub(u64::from(*less));
                maps.pass(time);
                self.now += time;
            }
            Step::Give { service, set } => {
                self.sets[*service] = set.clone();
                give(maps, *service, set);
            }
            Step::Free(id) => {
                self.free.insert(*id);
                free(maps, *id);
            }
            Step::Restore => {
                self.free.clear();
                maps.backends.borrow_mut().extend((0..BACKENDS).map(|id| (id, known_backend(id))));
            }
            Step::Evict { service, client: number } => {
                self.kept.remove(&(*service, *number));
                let Client { kind, name } = client(*number);
                let gone = AffinityKey { service: *service as u32, kind, client: name };
                maps.affinities.borrow_mut().retain(|(known, _)| *known != gone);
            }
        }
        Ok(())
    }

    fn ask(
        &mut self,
        maps: &FakeMaps,
        service: usize,
        number: u8,
        pick: u32,
    ) -> Result<(), TestCaseError> {
        let set: Vec<u32> = self.sets[service].iter().copied().collect();
        let fresh = set.get(place(pick, set.len())).copied();
        let fresh = fresh.filter(|id| self.takes(service, *id));
        let found = choose(maps, &name(service), None, || pick, || Some(client(number)));
        let Choice::Backend { service: of, id, backend, lasting } = found else {
            prop_assert_eq!(found, Choice::NoBackend { service: service as u32 });
            prop_assert_eq!(fresh, None);
            return Ok(());
        };
        prop_assert_eq!((of, lasting), (service as u32, 0));
        prop_assert!(self.takes(service, id), "{} of {:?}", id, set);
        prop_assert_eq!(backend, known_backend(id));
        let kept = self.kept.insert((service, number), (id, self.now));
        let kept = kept.filter(|(kept, _)| self.takes(service, *kept));
        let timeout = u64::from(TIMEOUT) * SECOND;
        match kept.map(|(kept, last)| (kept, self.now - last)) {
            // The time of last use may be a sixteenth old.
            Some((kept, idle)) if idle < timeout - timeout / 16 => {
                prop_assert_eq!(id, kept);
                self.held += u32::from(fresh != Some(kept));
            }
            Some((kept, idle)) if idle < timeout => {
                prop_assert!(id == kept || Some(id) == fresh);
            }
            _ => prop_assert_eq!(Some(id), fresh),
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// The first of three picks that hits a backend which takes connections decides; who has only
    /// such backends is never refused, who has none always is.
    #[test]
    fn the_backend_is_an_active_one_of_the_service(
        sets in sets(),
        freed in set(),
        service in 0..SERVICES,
        picks in any::<[u32; 3]>(),
    ) {
        let maps = node(&sets, 0);
        freed.iter().for_each(|id| free(&maps, *id));
        let set: Vec<u32> = sets[service].iter().copied().collect();
        let asked = Cell::new(0);
        let pick = || picks[asked.replace(asked.get() + 1)];
        let found = choose(&maps, &name(service), None, pick, || panic!("no affinity"));
        let hits = picks.iter().filter_map(|pick| set.get(place(*pick, set.len())));
        let expected = hits.copied().find(|id| !freed.contains(id));
        let number = service as u32;
        let expected = match expected {
            None => Choice::NoBackend { service: number },
            Some(id) => {
                let backend = known_backend(id);
                Choice::Backend { service: number, id, backend, lasting: u32::MAX }
            }
        };
        prop_assert_eq!(found, expected);
        let is_refused = matches!(found, Choice::NoBackend { .. });
        let active = set.iter().filter(|id| !freed.contains(id)).count();
        prop_assert!(active != set.len() || active == 0 || !is_refused);
        prop_assert!(active != 0 || is_refused);
    }

    /// Picks that are spread evenly give each backend the same share.
    #[test]
    fn shares_are_even(count in 1..2_000u32, each in 1..20u32, first in any::<u32>()) {
        let mut hits = std::vec![0; count as usize];
        let picks = count * each;
        for number in 0..picks {
            let step = ((u64::from(number) << 32) / u64::from(picks)) as u32;
            hits[spread(first.wrapping_add(step), count) as usize] += 1;
        }
        let fair = |hits: &u32| hits.abs_diff(each) <= 1;
        prop_assert!(hits.iter().all(fair), "{:?}", hits.iter().find(|hits| !fair(hits)));
    }

    /// What lies beside the service is what the maps say.
    #[test]
    fn the_near_choice_is_the_same(
        set in proptest::collection::btree_set(0..BACKENDS, 1..=NearBackends::MOST),
        pick in any::<u32>(),
    ) {
        let maps = node(std::slice::from_ref(&set), 0);
        let ends: Vec<(Address, U16Be)> =
            set.iter().map(|id| known_backend(*id)).map(|b| (b.address, b.port)).collect();
        let near = NearBackends::of(&name(0).address, &ends).unwrap();
        let line = ServiceLine::new(name(0), maps.services[&name(0)], near);
        let near = choose_near(&name(0), &line, || pick).unwrap();
        let found = choose(&maps, &name(0), None, || pick, || Some(client(0)));
        let Choice::Backend { backend, .. } = found else { panic!("{found:?}") };
        prop_assert_eq!((near.address, near.port), (backend.address, backend.port));
    }

    /// A client keeps its backend until it was idle for the time-out or the backend goes, whatever
    /// other clients do, and is balanced by the pick then.
    #[test]
    fn affinity_is_kept_and_ends(sets in sets(), steps in steps()) {
        let mut maps = node(&sets, TIMEOUT);
        let (free, kept) = (Set::new(), BTreeMap::new());
        let mut model = Model { sets, free, kept, now: 0, held: 0 };
        for step in &steps {
            model.take(&mut maps, step)?;
        }
    }
}

#[test]
fn the_steps_meet_clients_that_are_held() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut held = 0;
    for _ in 0..100 {
        let (sets, steps) = (sets(), steps()).new_tree(&mut runner).unwrap().current();
        let mut maps = node(&sets, TIMEOUT);
        let (free, kept) = (Set::new(), BTreeMap::new());
        let mut model = Model { sets, free, kept, now: 0, held: 0 };
        steps.iter().for_each(|step| model.take(&mut maps, step).unwrap());
        held += model.held;
    }
    assert!(held > 100, "{held}");
}
