//! The service maps as the service writer sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bowline_ebpf_abi::{
    Address, Backend, Edition, NearBackends, Service, ServiceKey, ServiceLine, ServiceTraffic,
    Slot, map, state,
};

use super::OpenDatapathFailed;
use super::connections::Connections;
use super::mirror::Mirror;
use super::pins::Pins;
use super::sizes::flag_of;
use super::table::{ReadMapsFailed, Table, WriteMapFailed};
use crate::apply::services::{FoundService, ServiceLimits, ServiceStore, ServiceWriter};
use crate::plan::services::BackendAddress;

/// The pinned service maps.
#[derive(Debug)]
pub(super) struct MapStore {
    pub(super) services: Mirror<ServiceKey, Service>,
    /// Each service in its place, if it came there first.
    pub(super) lines: Mirror<u32, ServiceLine>,
    pub(super) addresses: Mirror<Address, u32>,
    pub(super) edition: Mirror<u32, Edition>,
    pub(super) slots: Mirror<u32, Slot>,
    pub(super) backends: Mirror<u32, Backend>,
    connections: Connections,
    counters: Table<u32, ServiceTraffic>,
}

impl MapStore {
    pub(super) fn open(pins: &Pins) -> Result<Self, ReadMapsFailed> {
        let lines: Table<u32, ServiceLine> = Table::open(&pins.maps, map::SERVICE_LINES)?;
        Ok(Self {
            connections: Connections::open(&pins.maps, lines.size())?,
            services: Mirror::over(Table::open(&pins.maps, map::SERVICES)?),
            lines: Mirror::over(lines),
            addresses: Mirror::over(Table::open(&pins.maps, map::ADDRESSES)?),
            edition: Mirror::over(Table::open(&pins.maps, map::EDITION)?),
            slots: Mirror::over(Table::open(&pins.maps, map::SLOTS)?),
            backends: Mirror::over(Table::open(&pins.maps, map::BACKENDS)?),
            counters: Table::open_per_cpu(&pins.maps, map::SERVICE_COUNTERS)?,
        })
    }

    /// A writer that goes on from what the maps hold. What was damaged while no agent looked is
    /// left out, so that the writer finds it wanting.
    pub(super) fn recover(&mut self) -> Result<ServiceWriter, ReadMapsFailed> {
        let mut found = Vec::new();
        for (key, value) in self.services.adopt_all()? {
            let mut backends = Vec::new();
            for (index, slot, backend) in self.slots_of(&value)? {
                if slot.tag != key.tag() || backend.state == state::FREE {
                    continue;
                }
                self.slots.adopt(index, slot);
                self.backends.adopt(slot.backend, backend);
                let Backend { address, port, .. } = backend;
                backends.push((slot.backend, BackendAddress { address, port }));
            }
            found.push(FoundService { key, value, backends });
        }
        let limits = ServiceLimits {
            services: self.services.table().size().min(self.connections.services()),
            slots: self.slots.table().size(),
            backends: self.backends.table().size(),
        };
        Ok(ServiceWriter::recover(limits, found))
    }

    /// Writes what follows from the services: their lines and addresses, and an edition that no
    /// socket knows.
    pub(super) fn take_over(&mut self) -> Result<(), OpenDatapathFailed> {
        let services = self.services.adopt_all()?;
        let number = self.edition.get(&0)?.unwrap_or_default().number;
        let edition = Edition { number, ..Edition::EMPTY }.next();
        let span = |edition: Edition, (key, _): &(ServiceKey, Service)| edition.with(&key.address);
        self.edition.put(&0, &services.iter().fold(edition, span))?;

        let addresses: BTreeSet<Address> = services.iter().map(|(key, _)| key.address).collect();
        for (address, _) in self.addresses.adopt_all()? {
            if !addresses.contains(&address) {
                self.addresses.delete(&address)?;
            }
        }
        for address in &addresses {
            self.add_address(address)?;
        }

        let (wanted, wrong) = self.wanted_lines(&services)?;
        for (place, had) in wrong {
            let line = wanted.get(&place).copied().unwrap_or_default();
            if had != line.key {
                self.connections.clear_line(place)?;
            }
            self.lines.put(&place, &line)?;
        }
        wanted.into_iter().for_each(|(place, line)| self.lines.adopt(place, line));
        Ok(())
    }

    /// The lines of these services, of which the slots and backends are known, by place; and the
    /// places that hold something else, with whose it is. Where services share a place, the one
    /// that has it keeps it.
    pub(super) fn wanted_lines(&self, services: &[(ServiceKey, Service)]) -> LinesResult {
        let mut wanted: BTreeMap<u32, ServiceLine> = BTreeMap::new();
        let mut shared: BTreeMap<u32, Vec<ServiceLine>> = BTreeMap::new();
        for (key, service) in services {
            let line = ServiceLine::new(*key, *service, self.near(key, service));
            if let Some(first) = wanted.insert(self.place(key), line) {
                shared.entry(self.place(key)).or_default().push(first);
            }
        }
        let mut wrong = Vec::new();
        self.lines.table().visit(|place, found: ServiceLine| {
            let others = shared.get(&place).into_iter().flatten();
            if let Some(holder) = others.copied().find(|line| line.key == found.key) {
                wanted.insert(place, holder);
            }
            if found != wanted.get(&place).copied().unwrap_or_default() {
                wrong.push((place, found.key));
            }
        })?;
        Ok((wanted, wrong))
    }

    fn place(&self, key: &ServiceKey) -> u32 {
        key.place(self.lines.table().size())
    }

    /// The service's backends, if they fit into its line; its slots are written already.
    fn near(&self, key: &ServiceKey, service: &Service) -> NearBackends {
        let slots = service.first_slot..service.first_slot.saturating_add(service.slot_count);
        if service.affinity_seconds != 0 || slots.len() > NearBackends::MOST {
            return NearBackends::default();
        }
        let backends: Option<Vec<_>> = slots
            .map(|index| {
                let slot = self.slots.written(&index).filter(|slot| slot.tag == key.tag())?;
                let backend = self.backends.written(&slot.backend)?;
                (backend.state == state::ACTIVE).then_some((backend.address, backend.port))
            })
            .collect();
        let near = backends.and_then(|backends| NearBackends::of(&key.address, &backends));
        near.unwrap_or_default()
    }

    /// Whether the service's place is its own, or nobody's.
    fn may_have_line(&self, key: &ServiceKey) -> bool {
        let there = self.lines.written(&self.place(key)).unwrap_or_default();
        there == ServiceLine::default() || there.key == *key
    }

    /// Gives a service that may have it its line, or writes it again.
    fn put_line(&mut self, key: &ServiceKey, service: &Service) -> WriteResult {
        let place = self.place(key);
        if self.lines.written(&place).is_none_or(|line| line.key != *key) {
            self.connections.clear_line(place)?;
        }
        self.lines.put(&place, &ServiceLine::new(*key, *service, self.near(key, service)))
    }

    fn change_edition(&mut self, change: impl FnOnce(Edition) -> Edition) -> WriteResult {
        let now = self.edition.written(&0).unwrap_or(Edition::EMPTY);
        let next = change(now);
        if next == now { Ok(()) } else { self.edition.put(&0, &next) }
    }

    fn slots_of(&self, service: &Service) -> Result<Vec<(u32, Slot, Backend)>, ReadMapsFailed> {
        slots_of(self.slots.table(), self.backends.table(), service)
    }
}

/// The slots of a service, each with its place and the backend that it points to.
pub(super) fn slots_of(
    slots: &Table<u32, Slot>,
    backends: &Table<u32, Backend>,
    service: &Service,
) -> Result<Vec<(u32, Slot, Backend)>, ReadMapsFailed> {
    let end = service.first_slot.saturating_add(service.slot_count).min(slots.size());
    let mut found = Vec::new();
    for index in service.first_slot..end {
        if let Some(slot) = slots.get(&index)?
            && let Some(backend) = backends.get(&slot.backend)?
        {
            found.push((index, slot, backend));
        }
    }
    Ok(found)
}

type WriteResult = Result<(), WriteMapFailed>;

/// Lines by place, and the places where another one is with that one's service.
type LinesResult = Result<(BTreeMap<u32, ServiceLine>, Vec<(u32, ServiceKey)>), ReadMapsFailed>;

impl ServiceStore for MapStore {
    fn put_service(&mut self, key: &ServiceKey, value: &Service) -> Result<(), WriteMapFailed> {
        // Before the service: nobody looks for one outside the span.
        self.change_edition(|edition| edition.with(&key.address))?;
        self.services.put(key, value)?;
        // After it: a reader that meets a line half written reads SERVICES.
        match self.may_have_line(key) {
            true => self.put_line(key, value),
            false => Ok(()),
        }
    }

    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), WriteMapFailed> {
        let place = self.place(key);
        if self.lines.written(&place).is_some_and(|line| line.key == *key) {
            self.lines.put(&place, &ServiceLine::default())?;
        }
        self.services.delete(key).map(drop)
    }

    fn add_address(&mut self, address: &Address) -> Result<(), WriteMapFailed> {
        match self.addresses.written(address) {
            Some(_) => Ok(()),
            None => self.addresses.put(address, &0),
        }
    }

    fn remove_address(&mut self, address: &Address) -> Result<(), WriteMapFailed> {
        self.addresses.delete(address).map(drop)
    }

    fn begin_edition(&mut self) -> Result<(), WriteMapFailed> {
        self.change_edition(Edition::next)
    }

    fn put_slots(&mut self, first: u32, slots: &[Slot]) -> Result<(), WriteMapFailed> {
        let indexes: Vec<u32> = (first..).take(slots.len()).collect();
        self.slots.put_all(&indexes, slots)
    }

    fn put_backends(&mut self, ids: &[u32], backends: &[Backend]) -> Result<(), WriteMapFailed> {
        self.backends.put_all(ids, backends)
    }

    fn clear_counters(&mut self, service: u32) -> Result<(), WriteMapFailed> {
        self.connections.clear_service(service)?;
        self.counters.put(&service, &ServiceTraffic::default())
    }

    fn full(&self, name: &'static str) -> WriteMapFailed {
        let size = match name {
            map::SLOTS => self.slots.table().size(),
            map::BACKENDS => self.backends.table().size(),
            _ => self.services.table().size(),
        };
        WriteMapFailed::Full { map: name, size, flag: flag_of(name).unwrap_or_default() }
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait_until(&mut self, moment: Instant) {
        std::thread::sleep(moment.saturating_duration_since(Instant::now()));
    }
}
