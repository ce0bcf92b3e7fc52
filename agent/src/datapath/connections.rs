//! CONNECTIONS: how often each service was chosen.

use std::path::Path;

use bowline_ebpf_abi::map;

use super::table::{ReadMapsFailed, Table, WriteMapFailed, possible_cpus};

/// The map: a row a CPU, with the places of lines first and the services' numbers after them.
#[derive(Debug)]
pub(super) struct Connections {
    table: Table<u32, u64>,
    /// How long a row is.
    row: u32,
    /// How much of it is for lines.
    lines: u32,
}

impl Connections {
    /// `lines`: how many SERVICE_LINES has.
    pub(super) fn open(maps: &Path, lines: u32) -> Result<Self, ReadMapsFailed> {
        let table: Table<u32, u64> = Table::open(maps, map::CONNECTIONS)?;
        let row = table.size() / possible_cpus() as u32;
        Ok(Self { table, row, lines })
    }

    /// How many services have a number of their own.
    pub(super) fn services(&self) -> u32 {
        self.row.saturating_sub(self.lines)
    }

    /// The count of the service with this number, and with the line at `line` if it has one.
    pub(super) fn of(&self, service: u32, line: Option<u32>) -> Result<u64, ReadMapsFailed> {
        let places = std::iter::once(self.lines + service).chain(line);
        places.map(|place| self.sum(place)).sum()
    }

    /// Begins to count a new service.
    pub(super) fn clear_service(&self, service: u32) -> Result<(), WriteMapFailed> {
        self.clear(self.lines + service)
    }

    /// Begins to count the service that gets this line.
    pub(super) fn clear_line(&self, place: u32) -> Result<(), WriteMapFailed> {
        self.clear(place)
    }

    /// All CPUs together.
    fn sum(&self, place: u32) -> Result<u64, ReadMapsFailed> {
        self.indexes(place).map(|index| Ok(self.table.get(&index)?.unwrap_or(0))).sum()
    }

    fn clear(&self, place: u32) -> Result<(), WriteMapFailed> {
        let indexes: Vec<u32> = self.indexes(place).collect();
        self.table.put_all(&indexes, &vec![0; indexes.len()])
    }

    fn indexes(&self, place: u32) -> impl Iterator<Item = u32> {
        let cpus = 0..possible_cpus() as u32;
        cpus.map(move |cpu| cpu.saturating_mul(self.row).saturating_add(place))
    }
}
