//! The writer against maps that are plain collections, read back as the programs read them.

use super::*;
use crate::plan::services::{ServiceChanges, ServiceTable, plan, plan_changes};
use bowline_ebpf_abi::{Address, U16Be};
use std::collections::BTreeSet;
use std::net::IpAddr;

struct FakeStore {
    services: BTreeMap<ServiceKey, Service>,
    addresses: BTreeSet<Address>,
    editions: u32,
    slots: BTreeMap<u32, Slot>,
    backends: BTreeMap<u32, Backend>,
    waited: Vec<Instant>,
    refuse_services: bool,
    refuse_addresses: bool,
    now: Instant,
    /// How long each write of a service takes.
    pace: Duration,
}

impl ServiceStore for FakeStore {
    fn put_service(&mut self, key: &ServiceKey, value: &Service) -> Result<(), WriteMapFailed> {
        if self.refuse_services {
            return Err(self.full(map::SERVICES));
        }
        self.services.insert(*key, *value);
        self.now += self.pace;
        Ok(())
    }
    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), WriteMapFailed> {
        self.services.remove(key);
        Ok(())
    }
    fn add_address(&mut self, address: &Address) -> Result<(), WriteMapFailed> {
        if self.refuse_addresses {
            return Err(self.full(map::ADDRESSES));
        }
        self.addresses.insert(*address);
        Ok(())
    }
    fn remove_address(&mut self, address: &Address) -> Result<(), WriteMapFailed> {
        self.addresses.remove(address);
        Ok(())
    }
    fn begin_edition(&mut self) -> Result<(), WriteMapFailed> {
        self.editions += 1;
        Ok(())
    }
    fn put_slots(&mut self, first: u32, slots: &[Slot]) -> Result<(), WriteMapFailed> {
        self.slots.extend((first..).zip(slots.iter().copied()));
        Ok(())
    }
    fn put_backends(&mut self, ids: &[u32], backends: &[Backend]) -> Result<(), WriteMapFailed> {
        self.backends.extend(ids.iter().copied().zip(backends.iter().copied()));
        Ok(())
    }
    fn clear_counters(&mut self, _service: u32) -> Result<(), WriteMapFailed> {
        Ok(())
    }
    fn full(&self, map: &'static str) -> WriteMapFailed {
        WriteMapFailed::Full { map, size: 4, flag: "--map-size SERVICES=" }
    }
    fn now(&self) -> Instant {
        self.now
    }
    fn wait_until(&mut self, moment: Instant) {
        self.now = self.now.max(moment);
        self.waited.push(moment);
    }
}

impl FakeStore {
    /// The backends that a program would find for a service.
    fn backends_of(&self, key: &ServiceKey) -> BTreeSet<String> {
        let service = self.services[key];
        let slots = service.first_slot..service.first_slot + service.slot_count;
        slots
            .map(|index| {
                let slot = self.slots[&index];
                assert_eq!(slot.tag, key.tag(), "a slot of another service");
                let backend = self.backends[&slot.backend];
                assert_eq!(backend.state, state::ACTIVE);
                IpAddr::from(backend.address).to_string()
            })
            .collect()
    }
}

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn key(text: &str) -> ServiceKey {
    ServiceKey::new(address(text), U16Be::new(80), protocol::TCP)
}

fn table(services: &[(&str, &[&str])]) -> ServiceTable {
    let mut table = ServiceTable::default();
    for (vip, backends) in services {
        let backend =
            |text: &&str| BackendAddress { address: address(text), port: U16Be::new(8080) };
        let wanted = WantedService {
            namespace: "default".into(),
            name: (*vip).into(),
            backends: backends.iter().map(|text| (backend(text), None)).collect(),
            affinity_seconds: 0,
            ..WantedService::default()
        };
        table.services.insert(key(vip), wanted);
    }
    table
}

const LIMITS: ServiceLimits = ServiceLimits { services: 4, slots: 8, backends: 8 };

struct World {
    writer: ServiceWriter,
    store: FakeStore,
}

impl World {
    fn new() -> Self {
        let writer = ServiceWriter::recover(LIMITS, Vec::new());
        let store = FakeStore {
            services: BTreeMap::new(),
            addresses: BTreeSet::new(),
            editions: 0,
            slots: BTreeMap::new(),
            backends: BTreeMap::new(),
            waited: Vec::new(),
            refuse_services: false,
            refuse_addresses: false,
            now: Instant::now(),
            pace: Duration::ZERO,
        };
        Self { writer, store }
    }

    fn apply(
        &mut self,
        services: &[(&str, &[&str])],
    ) -> Result<ServiceSummary, ApplyServicesFailed> {
        let wanted = table(services);
        let steps = plan(&wanted, self.writer.programmed());
        self.writer.apply(&mut self.store, &steps)
    }

    fn backends_of(&self, vip: &str) -> Vec<String> {
        self.store.backends_of(&key(vip)).into_iter().collect()
    }
}

#[test]
fn a_change_leaves_the_old_range_alone_until_the_grace_has_passed() {
    let mut world = World::new();
    world.apply(&[("10.9.0.1", &["10.240.0.1", "10.240.0.2"])]).unwrap();
    let old = world.store.services[&key("10.9.0.1")];
    let summary = world.apply(&[("10.9.0.1", &["10.240.0.2", "10.240.0.3"])]).unwrap();
    assert_eq!((summary.changed, summary.unchanged), (1, 0));
    let new = world.store.services[&key("10.9.0.1")];
    assert_eq!(new.id, old.id);
    assert_ne!(new.first_slot, old.first_slot);
    assert_eq!(world.backends_of("10.9.0.1"), ["10.240.0.2", "10.240.0.3"]);
    // Nothing of the old range was overwritten.
    for index in old.first_slot..old.first_slot + old.slot_count {
        assert_eq!(world.store.slots[&index].tag, key("10.9.0.1").tag());
    }
    world.store.now += GRACE;
    world.apply(&[("10.9.0.1", &["10.240.0.4"])]).unwrap();
    assert_eq!(world.store.services[&key("10.9.0.1")].first_slot, old.first_slot);
}

#[test]
fn a_backend_that_nobody_uses_takes_nothing_and_its_number_waits() {
    let mut world = World::new();
    world.apply(&[("10.9.0.1", &["10.240.0.1"]), ("10.9.0.2", &["10.240.0.1"])]).unwrap();
    assert_eq!(world.store.backends.len(), 1, "shared");
    world.apply(&[("10.9.0.2", &["10.240.0.1"])]).unwrap();
    assert_eq!(world.store.backends[&0].state, state::ACTIVE, "still used by the other");
    world.apply(&[("10.9.0.2", &["10.240.0.2"])]).unwrap();
    assert_eq!(world.store.backends[&0].state, state::FREE);
    assert_eq!(world.store.backends[&1].state, state::ACTIVE, "a number of its own");
}

#[test]
fn the_same_wish_writes_nothing() {
    let mut world = World::new();
    let wish: &[(&str, &[&str])] = &[("10.9.0.1", &["10.240.0.1"]), ("10.9.0.2", &[])];
    let first = world.apply(wish).unwrap();
    assert_eq!((first.added, first.unchanged), (2, 0));
    let again = world.apply(wish).unwrap();
    assert_eq!(again, ServiceSummary { unchanged: 2, ..ServiceSummary::default() });
    let none = world.apply(&[]).unwrap();
    assert_eq!(none, ServiceSummary { removed: 2, ..ServiceSummary::default() });
    assert!(world.store.services.is_empty());
}

#[test]
fn full_slots_name_the_map_and_leave_the_rest_working() {
    let mut world = World::new();
    let many = ["10.240.0.1", "10.240.0.2", "10.240.0.3", "10.240.0.4", "10.240.0.5"];
    world.apply(&[("10.9.0.1", &many)]).unwrap();
    let error = world
        .apply(&[("10.9.0.1", &many), ("10.9.0.2", &many), ("10.9.0.3", &["10.240.0.1"])])
        .unwrap_err();
    assert!(
        matches!(&error.failures[..], [NotProgrammed {
            service: name, error: WriteMapFailed::Full { map: map::SLOTS, .. }, ..
        }]
            if name == "default/10.9.0.2"),
        "{error}"
    );
    assert_eq!(world.backends_of("10.9.0.1"), many);
    assert_eq!(world.backends_of("10.9.0.3"), ["10.240.0.1"]);
}

#[test]
fn a_change_waits_for_slots_that_are_about_to_be_free() {
    let mut world = World::new();
    let five = ["10.240.0.1", "10.240.0.2", "10.240.0.3", "10.240.0.4", "10.240.0.5"];
    world.apply(&[("10.9.0.1", &five[..3])]).unwrap();
    world.apply(&[("10.9.0.1", &five[..4])]).unwrap();
    assert!(world.store.waited.is_empty());
    world.apply(&[("10.9.0.1", &five[..4]), ("10.9.0.2", &five[..4])]).unwrap_err();
    assert_eq!(world.store.waited.len(), 1, "the first range was waited for, and was too small");
}

#[test]
fn a_refused_write_leaves_the_old_set() {
    let mut world = World::new();
    world.apply(&[("10.9.0.1", &["10.240.0.1"])]).unwrap();
    world.store.refuse_services = true;
    world.apply(&[("10.9.0.1", &["10.240.0.2"])]).unwrap_err();
    assert_eq!(world.backends_of("10.9.0.1"), ["10.240.0.1"]);
    world.store.refuse_services = false;
    assert_eq!(world.apply(&[("10.9.0.1", &["10.240.0.2"])]).unwrap().changed, 1);
    assert_eq!(world.backends_of("10.9.0.1"), ["10.240.0.2"]);
}

#[test]
fn those_that_find_no_room_keep_nobody_waiting() {
    let mut world = World::new();
    world.store.refuse_services = true;
    let backends: Vec<String> = (0..40).map(|number| format!("10.240.0.{number}")).collect();
    let each: Vec<[&str; 1]> = backends.iter().map(|backend| [backend.as_str()]).collect();
    let addresses: Vec<String> = (0..40).map(|number| format!("10.9.0.{number}")).collect();
    let wish: Vec<(&str, &[&str])> =
        addresses.iter().zip(&each).map(|(vip, backend)| (vip.as_str(), &backend[..])).collect();
    let error = world.apply(&wish).unwrap_err();
    assert_eq!(error.failures.len(), 40);
    assert!(world.store.waited.is_empty(), "for what nothing ever led to");
    world.store.refuse_services = false;
    assert_eq!(world.apply(&wish[..3]).unwrap().added, 3);
}

#[test]
fn a_service_whose_address_is_refused_is_not_programmed_and_tried_again() {
    let mut world = World::new();
    let wanted: &[(&str, &[&str])] = &[("10.9.0.1", &["10.240.0.1"])];
    world.store.refuse_addresses = true;
    world.apply(wanted).unwrap_err();
    assert!(world.store.services.is_empty());
    (world.store.refuse_addresses, world.store.refuse_services) = (false, true);
    world.apply(wanted).unwrap_err();
    assert!(world.store.addresses.is_empty(), "no service has it");
    world.store.refuse_services = false;
    assert_eq!(world.apply(wanted).unwrap().added, 1);
    assert_eq!(world.backends_of("10.9.0.1"), ["10.240.0.1"]);
    assert!(world.store.addresses.contains(&address("10.9.0.1")));
}

#[test]
fn slots_that_somebody_damaged_are_given_back_with_the_others() {
    let mut world = World::new();
    let backends: Vec<String> = (1..=8).map(|number| format!("10.240.0.{number}")).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    let value = Service { id: 0, slot_count: LIMITS.slots, ..Service::default() };
    let sound = BackendAddress { address: address("10.240.0.1"), port: U16Be::new(8080) };
    let found = FoundService { key: key("10.9.0.1"), value, backends: vec![(0, sound)] };
    world.writer = ServiceWriter::recover(LIMITS, vec![found]);
    world.apply(&[]).unwrap();
    world.store.now += GRACE;
    world.apply(&[("10.9.0.2", &backends)]).unwrap();
    assert_eq!(world.backends_of("10.9.0.2"), backends);
}

#[test]
fn a_service_that_reaches_into_another_s_slots_is_written_elsewhere() {
    let mut world = World::new();
    let wish: &[(&str, &[&str])] = &[("10.9.0.2", &["10.240.0.2"]), ("10.9.0.1", &["10.240.0.1"])];
    world.apply(wish).unwrap();
    let sound = world.store.services[&key("10.9.0.2")];
    let found = world.store.services.iter().map(|(key, value)| {
        let backend = world.store.slots[&value.first_slot].backend;
        let Backend { address, port, .. } = world.store.backends[&backend];
        let backends = vec![(backend, BackendAddress { address, port })];
        // One was made to begin where the other one is, with more slots than there are backends.
        let damaged = Service { first_slot: sound.first_slot, slot_count: 2, ..*value };
        FoundService { key: *key, value: if *value == sound { sound } else { damaged }, backends }
    });
    world.writer = ServiceWriter::recover(LIMITS, found.collect());
    assert_eq!(world.apply(wish).unwrap().unchanged, 1);
    assert_eq!(world.store.services[&key("10.9.0.2")], sound);
    world.store.now += GRACE;
    world.apply(&[wish[0], wish[1], ("10.9.0.3", &["10.240.0.3"])]).unwrap();
    for (address, backends) in wish {
        assert_eq!(world.backends_of(address), *backends);
    }
}

#[test]
fn a_new_agent_goes_on_from_the_maps() {
    let mut world = World::new();
    let wish: &[(&str, &[&str])] =
        &[("10.9.0.1", &["10.240.0.1", "10.240.0.2"]), ("10.9.0.2", &["10.240.0.2"])];
    world.apply(wish).unwrap();
    let found = world.store.services.iter().map(|(key, value)| {
        let slots = value.first_slot..value.first_slot + value.slot_count;
        let backends = slots.map(|index| {
            let id = world.store.slots[&index].backend;
            let Backend { address, port, .. } = world.store.backends[&id];
            (id, BackendAddress { address, port })
        });
        FoundService { key: *key, value: *value, backends: backends.collect() }
    });
    world.writer = ServiceWriter::recover(LIMITS, found.collect());
    assert_eq!(world.apply(wish).unwrap().unchanged, 2);
    world.apply(&[("10.9.0.1", &["10.240.0.3"]), ("10.9.0.2", &["10.240.0.2"])]).unwrap();
    assert_eq!(world.backends_of("10.9.0.1"), ["10.240.0.3"]);
    assert_eq!(world.backends_of("10.9.0.2"), ["10.240.0.2"]);
    assert_eq!(world.store.backends[&0].state, state::FREE, "10.240.0.1");
}

#[test]
fn the_grace_begins_when_a_range_is_left_not_when_the_apply_began() {
    let mut world = World::new();
    let (one, two): (&[&str], &[&str]) = (&["10.240.0.1"], &["10.240.0.2"]);
    world.apply(&[("10.9.0.1", one), ("10.9.0.2", one)]).unwrap();
    world.store.pace = GRACE * 2;
    world.apply(&[("10.9.0.1", two), ("10.9.0.2", two)]).unwrap();
    let left = world.store.services[&key("10.9.0.2")];
    world.apply(&[("10.9.0.1", two), ("10.9.0.2", two), ("10.9.0.3", one)]).unwrap();
    let young = world.store.services[&key("10.9.0.3")];
    assert_ne!(young.first_slot, left.first_slot);
    assert!(young.first_slot < 2, "the first one's range has rested: {young:?}");
}

#[test]
fn changes_touch_nothing_else() {
    let mut world = World::new();
    let one: &[&str] = &["10.240.0.1"];
    world.apply(&[("10.9.0.1", one), ("10.9.0.2", one), ("10.9.0.3", one)]).unwrap();
    let changes = ServiceChanges {
        put: table(&[("10.9.0.2", &["10.240.0.2"]), ("10.9.0.4", one), ("10.9.0.1", one)]),
        removed: [key("10.9.0.3"), key("10.9.0.9")].into(),
    };
    let steps = plan_changes(&changes, world.writer.programmed());
    let summary = world.writer.apply(&mut world.store, &steps).unwrap();
    assert_eq!(summary, ServiceSummary { added: 1, changed: 1, removed: 1, unchanged: 1 });
    assert_eq!(world.backends_of("10.9.0.2"), ["10.240.0.2"]);
    assert!(!world.writer.has_address(address("10.9.0.3")));
    assert!(world.writer.has_address(address("10.9.0.4")));
}

#[test]
fn an_address_is_refused_as_long_as_it_has_a_port() {
    let mut world = World::new();
    let mut apply = |ports: &[u16]| {
        let mut wanted = table(&[]);
        for port in ports {
            let key = ServiceKey { port: U16Be::new(*port), ..key("10.9.0.1") };
            wanted.services.insert(key, WantedService::default());
        }
        let steps = plan(&wanted, world.writer.programmed());
        world.writer.apply(&mut world.store, &steps).unwrap();
        world.store.addresses.contains(&address("10.9.0.1"))
    };
    assert_eq!([apply(&[80, 81]), apply(&[81]), apply(&[])], [true, true, false]);
}

#[test]
fn an_edition_ends_when_a_service_changes_and_not_when_one_comes() {
    let mut world = World::new();
    world.apply(&[("10.9.0.1", &["10.240.0.1"])]).unwrap();
    world.apply(&[("10.9.0.1", &["10.240.0.1"]), ("10.9.0.2", &[])]).unwrap();
    assert_eq!(world.store.editions, 0);
    world.apply(&[("10.9.0.1", &["10.240.0.2"]), ("10.9.0.2", &[])]).unwrap();
    assert_eq!(world.store.editions, 1);
    world.apply(&[("10.9.0.1", &["10.240.0.2"])]).unwrap();
    assert_eq!(world.store.editions, 2);
}
