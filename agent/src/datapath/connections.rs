//! CONNECTIONS: how often each service was chosen, a row of numbers a CPU.

use std::path::Path;

use bowline_ebpf_abi::map;

use super::table::{ReadMapsFailed, Table, WriteMapFailed, possible_cpus};

/// The map, by service.
#[derive(Debug)]
pub(super) struct Connections {
    table: Table<u32, u64>,
    /// How long a row is.
    services: u32,
}

impl Connections {
    pub(super) fn open(maps: &Path) -> Result<Self, ReadMapsFailed> {
        let table: Table<u32, u64> = Table::open(maps, map::CONNECTIONS)?;
        let services = table.size() / possible_cpus() as u32;
        Ok(Self { table, services })
    }

    /// How many services have a place.
    pub(super) fn services(&self) -> u32 {
        self.services
    }

    /// The count of the service with this number, all CPUs together.
    pub(super) fn of(&self, service: u32) -> Result<u64, ReadMapsFailed> {
        let counts = self.places(service).map(|place| Ok(self.table.get(&place)?.unwrap_or(0)));
        counts.sum()
    }

    pub(super) fn clear(&self, service: u32) -> Result<(), WriteMapFailed> {
        let places: Vec<u32> = self.places(service).collect();
        self.table.put_all(&places, &vec![0; places.len()])
    }

    fn places(&self, service: u32) -> impl Iterator<Item = u32> {
        let cpus = 0..possible_cpus() as u32;
        cpus.map(move |cpu| cpu.saturating_mul(self.services).saturating_add(service))
    }
}
