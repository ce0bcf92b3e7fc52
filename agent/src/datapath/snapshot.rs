//! What the pinned maps hold, for people.
//!
//! Guarantees: reads only; needs no agent, only the pins. It is not one moment's truth: entries
//! that change while it reads may be seen in either state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_api::cidr::Cidr;
use bowline_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, Direction, Flow, FlowKey, Frontend, Pod, Reason,
    ReverseKey, Route, RouteKey, Service, ServiceKey, ServiceLine, ServiceTraffic, Slot, Traffic,
    V4_PREFIX_OFFSET, map, pod_flags, protocol, route_flags, state,
};
use serde::{Serialize, Serializer};

use super::connections::Connections;
use super::dump::client_of;
use super::names::Names;
use super::pins::Pins;
use super::shape::MapShape;
use super::sizes::flag_of;
use super::store::slots_of;
use super::table::{ReadMapsFailed, Table};
use crate::network::hardware_address;

/// One virtual address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    pub id: u32,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub address: IpAddr,
    pub port: u16,
    pub protocol: &'static str,
    pub backends: usize,
    /// Connections and unconnected UDP sockets that were balanced.
    pub connections: u64,
    /// Connections and datagrams that were refused because no backend was ready.
    pub refused: u64,
    /// Packets and bytes that were translated one by one; others never touch a service.
    pub packets: u64,
    pub bytes: u64,
    /// Its slots: the first one, and how many follow from there.
    pub first_slot: u32,
    pub slots: u32,
    /// How long a client stays with its backend after its last connection; none: no affinity.
    pub affinity_seconds: Option<u32>,
    /// Its place in SERVICE_LINES. None if another service came there first, so that it is looked
    /// up in SERVICES.
    pub line: Option<u32>,
}

/// One backend of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRow {
    /// `namespace/name`.
    pub service: Option<String>,
    pub service_address: IpAddr,
    pub service_port: u16,
    pub protocol: &'static str,
    pub id: u32,
    pub address: IpAddr,
    pub port: u16,
    /// `namespace/name` of the pod.
    pub target: Option<String>,
    /// The service's slot that points here.
    pub slot: u32,
    /// `active`, or `free` where the entry belongs to nobody.
    pub state: &'static str,
}

/// One pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRow {
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub uid: Option<String>,
    pub address: IpAddr,
    /// The host side of its veth.
    pub ifindex: u32,
    pub mac: String,
    /// For `nsenter --net=PATH`.
    pub netns: Option<PathBuf>,
    /// Whether packets for it are looked up in FLOWS: some of its connections were balanced packet
    /// by packet.
    pub has_flows: bool,
}

/// A pod of this node by what the agent wrote, whose entry in PODS is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LostPod {
    pub namespace: String,
    pub name: String,
    pub address: IpAddr,
}

/// Another node's pod range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRow {
    #[serde(serialize_with = "as_text")]
    pub cidr: Cidr,
    pub node: IpAddr,
    pub ifindex: u32,
    /// Whether the link is a tunnel, which leads to the node.
    pub tunnel: bool,
}

fn as_text<S: Serializer>(cidr: &Cidr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(cidr)
}

/// A client that stays with a backend of a service with session affinity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AffinityRow {
    /// `namespace/name`.
    pub service: Option<String>,
    /// None if the service is gone.
    pub service_address: Option<IpAddr>,
    pub service_port: Option<u16>,
    /// `netns:COOKIE` of the client's network namespace where its socket was balanced, its address
    /// where its packets were.
    pub client: String,
    /// None if nobody has the number any more.
    pub backend: Option<SocketAddr>,
    /// `namespace/name` of the pod.
    pub target: Option<String>,
    /// Since it was last used, by the kernel's monotonic clock.
    pub idle_seconds: u64,
    /// Idle for so long, it is let go.
    pub affinity_seconds: Option<u32>,
}

/// How often something happened. Only what happened at all has a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CounterRow {
    pub reason: &'static str,
    pub direction: &'static str,
    pub dropped: bool,
    pub packets: u64,
    pub bytes: u64,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapRow {
    pub name: &'static str,
    pub used: u32,
    pub size: u32,
    /// From 80 % on, of maps that let go of nothing by themselves.
    pub pressure: bool,
    /// The agent's flag that sets the size, where there is one.
    pub flag: Option<&'static str>,
    #[serde(flatten)]
    pub shape: MapShape,
}

/// All rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    pub services: Vec<ServiceRow>,
    pub backends: Vec<BackendRow>,
    pub pods: Vec<PodRow>,
    /// Pods that the agent has on the node, and PODS has not.
    pub lost_pods: Vec<LostPod>,
    pub routes: Vec<RouteRow>,
    pub affinity: Vec<AffinityRow>,
    pub counters: Vec<CounterRow>,
    pub maps: Vec<MapRow>,
}

impl Snapshot {
    /// Reads the maps pinned under this BPF file system.
    pub fn read(bpffs: &Path) -> Result<Self, ReadMapsFailed> {
        let maps = Pins::to_read(bpffs).map_err(ReadMapsFailed::from)?.maps;
        let mut snapshot = Self::default();
        snapshot.read_services(&maps)?;
        snapshot.read_pods(&maps)?;
        snapshot.read_routes(&maps)?;
        snapshot.counters = read_counters(&maps)?;
        snapshot.maps.push(fill::<Address, u32>(&maps, map::ADDRESSES)?);
        snapshot.maps.push(fill::<ReverseKey, Frontend>(&maps, map::REVERSE)?);
        snapshot.read_affinity(&maps)?;
        snapshot.maps.push(fill::<FlowKey, Flow>(&maps, map::FLOWS)?);
        Ok(snapshot)
    }

    /// Fills in the names that the agent wrote beside the maps; without the file, rows stay
    /// numeric.
    #[must_use]
    pub fn with_names(mut self, names_file: &Path) -> Self {
        let names = Names::read(names_file);
        for row in &mut self.services {
            if let Some(name) = names.services.get(&row.address) {
                row.namespace = Some(name.namespace.to_string());
                row.name = Some(name.name.to_string());
            }
        }
        for row in &mut self.backends {
            let service = names.services.get(&row.service_address);
            row.service = service.map(|s| format!("{}/{}", s.namespace, s.name));
            row.target =
                names.targets.get(&SocketAddr::new(row.address, row.port)).map(ToString::to_string);
        }
        for row in &mut self.affinity {
            let service = row.service_address.and_then(|address| names.services.get(&address));
            row.service = service.map(|s| format!("{}/{}", s.namespace, s.name));
            let target = row.backend.and_then(|backend| names.targets.get(&backend));
            row.target = target.map(ToString::to_string);
        }
        let there: BTreeSet<IpAddr> = self.pods.iter().map(|row| row.address).collect();
        // The file may be behind: a pod that has gone has no network namespace.
        let lost = names
            .pods
            .iter()
            .filter(|(address, pod)| !there.contains(address) && pod.netns.exists());
        self.lost_pods = lost
            .map(|(address, pod)| LostPod {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                address: *address,
            })
            .collect();
        for row in &mut self.pods {
            if let Some(pod) = names.pods.get(&row.address) {
                row.namespace = Some(pod.namespace.clone());
                row.name = Some(pod.name.clone());
                row.uid = Some(pod.uid.clone());
                row.netns = Some(pod.netns.clone());
            }
        }
        self
    }

    /// The node whose ranges have this address: by the longest that does, as programs choose.
    pub fn node_of(&self, address: IpAddr) -> Option<IpAddr> {
        let routes = self.routes.iter().filter(|row| row.cidr.contains(address));
        routes.max_by_key(|row| row.cidr.prefix()).map(|row| row.node)
    }

    fn read_services(&mut self, maps: &Path) -> Result<(), ReadMapsFailed> {
        let services: Table<ServiceKey, Service> = Table::open(maps, map::SERVICES)?;
        let slots: Table<u32, Slot> = Table::open(maps, map::SLOTS)?;
        let backends: Table<u32, Backend> = Table::open(maps, map::BACKENDS)?;
        let lines: Table<u32, ServiceLine> = Table::open(maps, map::SERVICE_LINES)?;
        let connections = Connections::open(maps, lines.size())?;
        let counters: Table<u32, ServiceTraffic> =
            Table::open_per_cpu(maps, map::SERVICE_COUNTERS)?;
        let mut entries = services.entries()?;
        entries.sort_unstable_by_key(|(key, _)| *key);
        let mut used_slots = 0;
        let mut used_backends = BTreeSet::new();
        for (key, service) in &entries {
            let found = slots_of(&slots, &backends, service)?;
            used_slots += service.slot_count;
            let traffic = counters.get_per_cpu(&service.id)?;
            let place = key.place(lines.size());
            let line = lines.get(&place)?.filter(|line| line.key == *key).map(|_| place);
            self.services.push(ServiceRow {
                id: service.id,
                namespace: None,
                name: None,
                address: key.address.into(),
                port: key.port.get(),
                protocol: protocol_name(key.protocol),
                backends: found.len(),
                connections: connections.of(service.id, line)?,
                refused: traffic.iter().map(|t| t.refused).sum(),
                packets: traffic.iter().map(|t| t.packets).sum(),
                bytes: traffic.iter().map(|t| t.bytes).sum(),
                first_slot: service.first_slot,
                slots: service.slot_count,
                affinity_seconds: Some(service.affinity_seconds).filter(|seconds| *seconds > 0),
                line,
            });
            for (index, slot, backend) in found {
                let id = slot.backend;
                used_backends.insert(id);
                self.backends.push(BackendRow {
                    service: None,
                    service_address: key.address.into(),
                    service_port: key.port.get(),
                    protocol: protocol_name(key.protocol),
                    id,
                    address: backend.address.into(),
                    port: backend.port.get(),
                    target: None,
                    slot: index,
                    state: if backend.state == state::FREE { "free" } else { "active" },
                });
            }
        }
        self.maps.push(row(&services, entries.len() as u32));
        self.maps.push(row(&slots, used_slots));
        self.maps.push(row(&backends, used_backends.len() as u32));
        Ok(())
    }

    fn read_affinity(&mut self, maps: &Path) -> Result<(), ReadMapsFailed> {
        let table: Table<AffinityKey, Affinity> = Table::open(maps, map::AFFINITY)?;
        let backend = |row: &BackendRow| (row.id, SocketAddr::new(row.address, row.port));
        let backends: BTreeMap<u32, SocketAddr> = self.backends.iter().map(backend).collect();
        let services: BTreeMap<u32, &ServiceRow> =
            self.services.iter().map(|row| (row.id, row)).collect();
        let entries = table.entries()?;
        let now = monotonic_ns();
        for (key, affinity) in &entries {
            let service = services.get(&key.service);
            self.affinity.push(AffinityRow {
                service: None,
                service_address: service.map(|row| row.address),
                service_port: service.map(|row| row.port),
                client: client_of(key),
                backend: backends.get(&affinity.backend).copied(),
                target: None,
                idle_seconds: now.saturating_sub(affinity.last_used_ns) / 1_000_000_000,
                affinity_seconds: service.and_then(|row| row.affinity_seconds),
            });
        }
        self.affinity.sort_by(|a, b| {
            let order = |row: &AffinityRow| (row.service_address, row.service_port);
            order(a).cmp(&order(b)).then_with(|| a.client.cmp(&b.client))
        });
        self.maps.push(row(&table, entries.len() as u32));
        Ok(())
    }

    fn read_pods(&mut self, maps: &Path) -> Result<(), ReadMapsFailed> {
        let table: Table<Address, Pod> = Table::open(maps, map::PODS)?;
        for (address, pod) in table.entries()? {
            self.pods.push(PodRow {
                namespace: None,
                name: None,
                uid: None,
                address: address.into(),
                ifindex: pod.ifindex,
                mac: hardware_address(&pod.mac.octets()),
                netns: None,
                has_flows: pod.flags & pod_flags::HAS_FLOWS != 0,
            });
        }
        self.pods.sort_by_key(|row| row.address);
        self.maps.push(row(&table, self.pods.len() as u32));
        Ok(())
    }

    fn read_routes(&mut self, maps: &Path) -> Result<(), ReadMapsFailed> {
        let table: Table<RouteKey, Route> = Table::open(maps, map::ROUTES)?;
        let mut entries = table.entries()?;
        entries.sort_unstable_by_key(|(key, _)| (key.address, key.prefix_len));
        for (key, route) in &entries {
            let address = IpAddr::from(key.address);
            let prefix = match address {
                IpAddr::V4(_) => key.prefix_len.saturating_sub(V4_PREFIX_OFFSET),
                IpAddr::V6(_) => key.prefix_len,
            };
            let cidr = u8::try_from(prefix).ok().and_then(|it| Cidr::containing(address, it));
            self.routes.push(RouteRow {
                // The kernel keeps no longer prefix than an address has bits.
                cidr: cidr.unwrap_or_else(|| Cidr::host(address)),
                node: route.node.into(),
                ifindex: route.ifindex,
                tunnel: route.flags & route_flags::TUNNEL != 0,
            });
        }
        self.maps.push(row(&table, entries.len() as u32));
        Ok(())
    }
}

/// Nanoseconds of the clock that programs have (`bpf_ktime_get_ns`).
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let now = now.map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn read_counters(maps: &Path) -> Result<Vec<CounterRow>, ReadMapsFailed> {
    let table: Table<u32, Traffic> = Table::open_per_cpu(maps, map::COUNTERS)?;
    let mut rows = Vec::new();
    for reason in Reason::ALL {
        for direction in Direction::ALL {
            let all = table.get_per_cpu(&reason.index(direction))?;
            let packets = all.iter().map(|traffic| traffic.packets).sum();
            if packets == 0 {
                continue;
            }
            rows.push(CounterRow {
                reason: reason.name(),
                direction: direction.name(),
                dropped: reason.is_drop(),
                packets,
                bytes: all.iter().map(|traffic| traffic.bytes).sum(),
            });
        }
    }
    Ok(rows)
}

/// What was dropped or refused so far.
pub(crate) fn read_drops(bpffs: &Path) -> Result<Vec<CounterRow>, ReadMapsFailed> {
    let rows = read_counters(&Pins::under(bpffs).maps)?.into_iter();
    Ok(rows.filter(|row| row.dropped).collect())
}

fn fill<K: bowline_ebpf_abi::Plain, V: bowline_ebpf_abi::Plain>(
    maps: &Path,
    name: &'static str,
) -> Result<MapRow, ReadMapsFailed> {
    let table: Table<K, V> = Table::open(maps, name)?;
    let used = table.keys()?.len() as u32;
    Ok(row(&table, used))
}

/// From so many percent on a map is nearly full.
const PRESSURE: u64 = 80;

/// Whether it is nearly full, and keeps what it holds; others let go of their oldest entries.
pub(super) fn is_under_pressure(name: &str, used: u32, size: u32) -> bool {
    let keeps = !matches!(name, map::FLOWS | map::REVERSE | map::AFFINITY);
    keeps && u64::from(used) * 100 / u64::from(size.max(1)) >= PRESSURE
}

fn row<K: bowline_ebpf_abi::Plain, V: bowline_ebpf_abi::Plain>(
    table: &Table<K, V>,
    used: u32,
) -> MapRow {
    let (name, size) = (table.name(), table.size());
    let (pressure, flag) = (is_under_pressure(name, used, size), flag_of(name));
    MapRow { name, used, size, pressure, flag, shape: table.shape() }
}

pub(super) fn protocol_name(number: u8) -> &'static str {
    if number == protocol::UDP { "UDP" } else { "TCP" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_at_the_node_with_the_longest_range() {
        let route = |cidr: &str, node: &str| RouteRow {
            cidr: cidr.parse().unwrap(),
            node: node.parse().unwrap(),
            ifindex: 2,
            tunnel: false,
        };
        let routes = vec![
            route("10.240.0.0/16", "172.30.0.1"),
            route("10.240.1.9/32", "172.30.0.3"),
            route("10.240.1.0/24", "172.30.0.2"),
            route("fd00:10:240::/48", "172.30.0.4"),
        ];
        let snapshot = Snapshot { routes, ..Snapshot::default() };
        for (address, node) in [
            ("10.240.1.9", Some("172.30.0.3")),
            ("10.240.1.8", Some("172.30.0.2")),
            ("10.240.2.8", Some("172.30.0.1")),
            ("fd00:10:240::8", Some("172.30.0.4")),
            ("10.241.0.8", None),
        ] {
            let found = snapshot.node_of(address.parse().unwrap());
            assert_eq!(found, node.map(|node| node.parse().unwrap()), "{address}");
        }
        let row = serde_json::to_value(&snapshot.routes[0]).unwrap();
        assert_eq!(row["cidr"], "10.240.0.0/16");
    }
}
