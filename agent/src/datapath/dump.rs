//! Any pinned map, entry by entry, decoded by its type of this ABI version.
//!
//! Guarantees: reads only; a map of another layout is an error, never misread. Entries of arrays
//! that nobody uses (all bytes zero) are left out. Values of each CPU are given one by one.
//! Not here: names of Kubernetes objects; see [`super::Snapshot`].

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use bowline_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, ConnectTimes, Direction, Edition, Flow, FlowKey,
    Frontend, Mac, NearBackends, Peer, Plain, Pod, Reason, ReverseKey, Route, RouteKey, Service,
    ServiceKey, ServiceLine, ServiceTraffic, Slot, Told, Traffic, U16Be, Wanted, affinity_kind,
    map,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::pins::Pins;
use super::snapshot::protocol_name;
use super::table::{ReadMapsFailed, Table, bytes};
use super::verify::Shown;
use crate::network::hardware_address;

/// One entry of a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DumpRow {
    /// The key in one word, as `maps get` takes it.
    pub key: String,
    /// The key's fields, where it has more than one.
    pub key_fields: Option<Value>,
    /// The value's fields; a list of them where each CPU has its own.
    pub value: Value,
    /// Bytes in hexadecimal digits, as they are in the map.
    pub raw_key: String,
    pub raw_value: String,
}

/// A map could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum DumpFailed {
    #[error("there is no map {0}")]
    NoSuchMap(String),
    #[error(transparent)]
    Read(#[from] ReadMapsFailed),
}

/// The names of all maps that can be shown.
pub const DUMPED: [&str; 19] = [
    map::ADDRESSES,
    map::AFFINITY,
    map::BACKENDS,
    map::CONNECTIONS,
    map::CONNECT_TIMES,
    map::COUNTERS,
    map::EDITION,
    map::FLOWS,
    map::MONITOR,
    map::PEERS,
    map::PODS,
    map::REVERSE,
    map::ROUTES,
    map::SERVICES,
    map::SERVICE_COUNTERS,
    map::SERVICE_LINES,
    map::SLOTS,
    map::TAKEOVER,
    map::TOLD,
];

/// All entries of the map with this name, in the order of their keys.
pub fn dump(bpffs: &Path, name: &str) -> Result<Vec<DumpRow>, DumpFailed> {
    let maps = &Pins::to_read(bpffs).map_err(ReadMapsFailed::from)?.maps;
    match name {
        map::ADDRESSES => hash::<Address, u32>(maps, map::ADDRESSES),
        map::AFFINITY => hash::<AffinityKey, Affinity>(maps, map::AFFINITY),
        map::BACKENDS => array::<Backend>(maps, map::BACKENDS),
        map::CONNECTIONS => array::<u64>(maps, map::CONNECTIONS),
        map::CONNECT_TIMES => {
            per_cpu::<ConnectTimes>(maps, map::CONNECT_TIMES, ConnectTimes::ENTRIES)
        }
        map::COUNTERS => per_cpu::<Traffic>(maps, map::COUNTERS, Reason::COUNTERS),
        map::EDITION => array::<Edition>(maps, map::EDITION),
        map::FLOWS => hash::<FlowKey, Flow>(maps, map::FLOWS),
        map::MONITOR => array::<Wanted>(maps, map::MONITOR),
        map::PEERS => array::<Peer>(maps, map::PEERS),
        map::PODS => hash::<Address, Pod>(maps, map::PODS),
        map::REVERSE => hash::<ReverseKey, Frontend>(maps, map::REVERSE),
        map::ROUTES => hash::<RouteKey, Route>(maps, map::ROUTES),
        map::SERVICES => hash::<ServiceKey, Service>(maps, map::SERVICES),
        map::SERVICE_COUNTERS => {
            let size = Table::<u32, ServiceTraffic>::open_per_cpu(maps, map::SERVICE_COUNTERS)?;
            per_cpu::<ServiceTraffic>(maps, map::SERVICE_COUNTERS, size.size())
        }
        map::SERVICE_LINES => array::<ServiceLine>(maps, map::SERVICE_LINES),
        map::SLOTS => array::<Slot>(maps, map::SLOTS),
        map::TAKEOVER => array::<u32>(maps, map::TAKEOVER),
        map::TOLD => per_cpu::<Told>(maps, map::TOLD, 1),
        other => Err(DumpFailed::NoSuchMap(other.to_owned())),
    }
}

fn hash<K, V>(maps: &Path, name: &'static str) -> Result<Vec<DumpRow>, DumpFailed>
where
    K: Plain + Field + Shown,
    V: Plain + Field,
{
    let mut entries = Table::<K, V>::open(maps, name)?.entries()?;
    entries.sort_unstable_by(|(a, _), (b, _)| bytes(a).cmp(bytes(b)));
    Ok(entries.iter().map(|(key, value)| row(key, value.field(), hex(bytes(value)))).collect())
}

fn array<V: Plain + Field>(maps: &Path, name: &'static str) -> Result<Vec<DumpRow>, DumpFailed> {
    let mut rows = Vec::new();
    Table::<u32, V>::open(maps, name)?.visit(|place, value| {
        if bytes(&value).iter().any(|byte| *byte != 0) {
            rows.push(row(&place, value.field(), hex(bytes(&value))));
        }
    })?;
    Ok(rows)
}

fn per_cpu<V: Plain + Field>(
    maps: &Path,
    name: &'static str,
    count: u32,
) -> Result<Vec<DumpRow>, DumpFailed> {
    let table: Table<u32, V> = Table::open_per_cpu(maps, name)?;
    let mut rows = Vec::new();
    for place in 0..count {
        let values = table.get_per_cpu(&place)?;
        if values.iter().all(|value| bytes(value).iter().all(|byte| *byte == 0)) {
            continue;
        }
        let raw: Vec<String> = values.iter().map(|value| hex(bytes(value))).collect();
        let fields = values.iter().map(Field::field).collect();
        let mut found = row(&place, fields, raw.join(" "));
        if name == map::COUNTERS {
            found.key_fields = counter(place);
        }
        rows.push(found);
    }
    Ok(rows)
}

/// What the counter at this place counts.
fn counter(place: u32) -> Option<Value> {
    let directions = Direction::ALL.len();
    let reason = Reason::ALL.get(place as usize / directions)?.name();
    let direction = Direction::ALL[place as usize % directions].name();
    Some(serde_json::json!({ "reason": reason, "direction": direction }))
}

fn row<K: Plain + Field + Shown>(key: &K, value: Value, raw_value: String) -> DumpRow {
    let fields = key.field();
    DumpRow {
        key: key.shown(),
        key_fields: fields.is_object().then_some(fields),
        value,
        raw_key: hex(bytes(key)),
        raw_value,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Shown for FlowKey {
    fn shown(&self) -> String {
        let from = SocketAddr::new(self.source.into(), self.source_port.get());
        let to = SocketAddr::new(self.destination.into(), self.destination_port.get());
        format!("{from}>{to}/{}", protocol_name(self.protocol))
    }
}

impl Shown for ReverseKey {
    fn shown(&self) -> String {
        let backend = SocketAddr::new(self.backend.into(), self.port.get());
        format!("{}/{backend}", self.cookie)
    }
}

impl Shown for AffinityKey {
    fn shown(&self) -> String {
        format!("{}/{}", self.service, client_of(self))
    }
}

/// Who sticks to a backend: a network namespace by its cookie, or an address.
pub(super) fn client_of(key: &AffinityKey) -> String {
    match key.kind {
        affinity_kind::NETWORK_NAMESPACE => {
            let [a, b, ..] = *key.client.words();
            format!("netns:{}", u64::from(a.bits()) | u64::from(b.bits()) << 32)
        }
        _ => IpAddr::from(key.client).to_string(),
    }
}

/// A part of a key or a value.
trait Field {
    fn field(&self) -> Value;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Field for $number {
            fn field(&self) -> Value {
                (*self).into()
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64);

impl Field for U16Be {
    fn field(&self) -> Value {
        self.get().into()
    }
}

impl Field for Address {
    fn field(&self) -> Value {
        IpAddr::from(*self).to_string().into()
    }
}

impl Field for Mac {
    fn field(&self) -> Value {
        hardware_address(&self.octets()).into()
    }
}

impl<T: Field, const N: usize> Field for [T; N] {
    fn field(&self) -> Value {
        self.iter().map(Field::field).collect()
    }
}

/// Records: every field but padding.
macro_rules! records {
    ($($record:ident { $($field:ident),* })*) => {$(
        impl Field for $record {
            fn field(&self) -> Value {
                let mut fields = Map::new();
                $(fields.insert(stringify!($field).to_owned(), self.$field.field());)*
                Value::Object(fields)
            }
        }
    )*};
}
records! {
    ServiceKey { address, port, protocol }
    Service { id, first_slot, slot_count, flags, affinity_seconds }
    ServiceLine { key, service, check, near }
    NearBackends { words, port, count }
    Edition { number, lowest_v4, highest_v4, lowest_v6, highest_v6 }
    Slot { backend, tag }
    Backend { address, port, state }
    Peer { cookie, name, backend, port, uses, more, edition, connect_ns }
    ReverseKey { cookie, backend, port }
    Frontend { address, port }
    AffinityKey { service, kind, client }
    Affinity { last_used_ns, backend }
    Pod { ifindex, mac, flags }
    RouteKey { prefix_len, address }
    Route { node, ifindex, flags }
    FlowKey { source, destination, source_port, destination_port, protocol }
    Flow { address, port, kind, ended, backend, service, owner, last_used }
    Traffic { packets, bytes }
    ConnectTimes { count, total_ns }
    ServiceTraffic { refused, packets, bytes }
    Told { window_ns, lost, told }
    Wanted { until_ns, netns, addresses, outcomes, reason, service, sample, limit, port, protocol }
}
