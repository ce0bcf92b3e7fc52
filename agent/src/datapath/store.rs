//! The service maps as the service writer sees them.

use std::time::Instant;

use bowline_ebpf_abi::{Backend, Service, ServiceKey, ServiceTraffic, Slot, map, state};

use super::mirror::Mirror;
use super::pins::Pins;
use super::table::{ReadMapsFailed, Table, WriteMapFailed, flag_of};
use crate::apply::services::{FoundService, ServiceLimits, ServiceStore, ServiceWriter};
use crate::plan::services::BackendAddress;

/// The pinned service maps.
#[derive(Debug)]
pub(super) struct MapStore {
    pub(super) services: Mirror<ServiceKey, Service>,
    pub(super) slots: Mirror<u32, Slot>,
    pub(super) backends: Mirror<u32, Backend>,
    counters: Table<u32, ServiceTraffic>,
}

impl MapStore {
    pub(super) fn open(pins: &Pins) -> Result<Self, ReadMapsFailed> {
        Ok(Self {
            services: Mirror::over(Table::open(&pins.maps, map::SERVICES)?),
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
            services: self.services.table().size().min(self.counters.size()),
            slots: self.slots.table().size(),
            backends: self.backends.table().size(),
        };
        Ok(ServiceWriter::recover(limits, found))
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

impl ServiceStore for MapStore {
    fn put_service(&mut self, key: &ServiceKey, value: &Service) -> Result<(), WriteMapFailed> {
        self.services.put(key, value)
    }

    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), WriteMapFailed> {
        self.services.delete(key).map(drop)
    }

    fn put_slots(&mut self, first: u32, slots: &[Slot]) -> Result<(), WriteMapFailed> {
        let indexes: Vec<u32> = (first..).take(slots.len()).collect();
        self.slots.put_all(&indexes, slots)
    }

    fn put_backends(&mut self, ids: &[u32], backends: &[Backend]) -> Result<(), WriteMapFailed> {
        self.backends.put_all(ids, backends)
    }

    fn clear_counters(&mut self, service: u32) -> Result<(), WriteMapFailed> {
        self.counters.put(&service, &ServiceTraffic::default())
    }

    fn full(&self, name: &'static str) -> WriteMapFailed {
        let size = match name {
            map::SLOTS => self.slots.table().size(),
            map::BACKENDS => self.backends.table().size(),
            _ => self.services.table().size(),
        };
        WriteMapFailed::Full { map: name, size, flag: flag_of(name) }
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait_until(&mut self, moment: Instant) {
        std::thread::sleep(moment.saturating_duration_since(Instant::now()));
    }
}
