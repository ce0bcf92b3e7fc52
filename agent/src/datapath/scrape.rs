//! What the pinned maps say for a scrape of metrics.
//!
//! Guarantees: reads only, and waits for nobody who programs. What grows with traffic or with the
//! cluster is read some thousands of entries at a time and not kept; only the services that are
//! asked for are read one by one.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bowline_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, ConnectTimes, Direction, Flow, FlowKey, Frontend,
    Plain, Pod, Reason, ReverseKey, Route, RouteKey, Service, ServiceKey, ServiceLine,
    ServiceTraffic, Slot, Traffic, map, state,
};

use super::connections::Connections;
use super::pins::Pins;
use super::snapshot::protocol_name;
use super::table::{ReadMapsFailed, Table};

/// Opened maps.
pub(crate) struct Scrape {
    maps: PathBuf,
    table: Table<ServiceKey, Service>,
    lines: Table<u32, ServiceLine>,
    connections: Connections,
    traffic: Table<u32, ServiceTraffic>,
}

/// A service that is programmed: one address, one port.
#[derive(Clone, Copy)]
pub(crate) struct Programmed {
    key: ServiceKey,
    service: Service,
}

impl Programmed {
    pub(crate) fn address(&self) -> IpAddr {
        self.key.address.into()
    }

    pub(crate) fn port(&self) -> u16 {
        self.key.port.get()
    }

    pub(crate) fn protocol(&self) -> &'static str {
        protocol_name(self.key.protocol)
    }
}

/// What was counted of a service.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServiceFigures {
    pub(crate) connections: u64,
    pub(crate) refused: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// How often something happened, zero included.
pub(crate) struct Occurred {
    pub(crate) reason: Reason,
    pub(crate) direction: Direction,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// How full a map is.
pub(crate) struct Fill {
    pub(crate) map: &'static str,
    pub(crate) used: u32,
    pub(crate) size: u32,
}

impl Scrape {
    /// Opens the maps pinned under this BPF file system.
    pub(crate) fn open(bpffs: &Path) -> Result<Self, ReadMapsFailed> {
        let maps = Pins::to_read(bpffs)?.maps;
        let lines: Table<u32, ServiceLine> = Table::open(&maps, map::SERVICE_LINES)?;
        Ok(Self {
            table: Table::open(&maps, map::SERVICES)?,
            connections: Connections::open(&maps, lines.size())?,
            lines,
            traffic: Table::open_per_cpu(&maps, map::SERVICE_COUNTERS)?,
            maps,
        })
    }

    /// All services, in no order.
    pub(crate) fn services(&self) -> Result<Vec<Programmed>, ReadMapsFailed> {
        let entries = self.table.entries()?.into_iter();
        Ok(entries.map(|(key, service)| Programmed { key, service }).collect())
    }

    /// What was counted of one of them.
    pub(crate) fn figures(&self, of: &Programmed) -> Result<ServiceFigures, ReadMapsFailed> {
        let place = of.key.place(self.lines.size());
        let line = self.lines.get(&place)?.filter(|line| line.key == of.key).map(|_| place);
        let mut figures = ServiceFigures {
            connections: self.connections.of(of.service.id, line)?,
            ..ServiceFigures::default()
        };
        for traffic in self.traffic.get_per_cpu(&of.service.id)? {
            figures.refused += traffic.refused;
            figures.packets += traffic.packets;
            figures.bytes += traffic.bytes;
        }
        Ok(figures)
    }

    /// Every reason in every direction, so that the first packet of one is a change.
    pub(crate) fn reasons(&self) -> Result<Vec<Occurred>, ReadMapsFailed> {
        let table: Table<u32, Traffic> = Table::open_per_cpu(&self.maps, map::COUNTERS)?;
        let all = Reason::ALL.into_iter();
        let places = all.flat_map(|reason| Direction::ALL.map(|direction| (reason, direction)));
        let read = places.map(|(reason, direction)| {
            let cpus = table.get_per_cpu(&reason.index(direction))?;
            let packets = cpus.iter().map(|traffic| traffic.packets).sum();
            let bytes = cpus.iter().map(|traffic| traffic.bytes).sum();
            Ok(Occurred { reason, direction, packets, bytes })
        });
        read.collect()
    }

    /// How long connections to services took to open, by the places of CONNECT_TIMES.
    pub(crate) fn connect_times(&self) -> Result<Vec<ConnectTimes>, ReadMapsFailed> {
        let table: Table<u32, ConnectTimes> = Table::open_per_cpu(&self.maps, map::CONNECT_TIMES)?;
        let read = (0..ConnectTimes::ENTRIES).map(|place| {
            let cpus = table.get_per_cpu(&place)?;
            Ok(cpus.iter().fold(ConnectTimes::default(), |sum, cpu| ConnectTimes {
                count: sum.count + cpu.count,
                total_ns: sum.total_ns + cpu.total_ns,
            }))
        });
        read.collect()
    }

    /// How full the maps are that can fill up, of which `services` are programmed.
    pub(crate) fn fills(&self, services: &[Programmed]) -> Result<Vec<Fill>, ReadMapsFailed> {
        let slots: Table<u32, Slot> = Table::open(&self.maps, map::SLOTS)?;
        let used_slots = services.iter().map(|programmed| programmed.service.slot_count).sum();
        let backends: Table<u32, Backend> = Table::open(&self.maps, map::BACKENDS)?;
        let mut used_backends = 0;
        backends.visit(|_, backend| used_backends += u32::from(backend.state != state::FREE))?;
        Ok(vec![
            fill(&self.table, services.len() as u32),
            fill(&slots, used_slots),
            fill(&backends, used_backends),
            self.count::<Address, u32>(map::ADDRESSES)?,
            self.count::<Address, Pod>(map::PODS)?,
            self.count::<RouteKey, Route>(map::ROUTES)?,
            self.count::<AffinityKey, Affinity>(map::AFFINITY)?,
            self.count::<ReverseKey, Frontend>(map::REVERSE)?,
            self.count::<FlowKey, Flow>(map::FLOWS)?,
        ])
    }

    fn count<K: Plain, V: Plain>(&self, name: &'static str) -> Result<Fill, ReadMapsFailed> {
        let table: Table<K, V> = Table::open(&self.maps, name)?;
        Ok(fill(&table, table.count()?))
    }
}

fn fill<K: Plain, V: Plain>(table: &Table<K, V>, used: u32) -> Fill {
    Fill { map: table.name(), used, size: table.size() }
}
