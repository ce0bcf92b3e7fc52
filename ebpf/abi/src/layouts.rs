//! What the keys and values of maps look like, in words: for the golden file, and for builds with
//! other layouts, which move fields by their names. A field whose meaning changes gets a new name.

use core::mem::offset_of;

use crate::{
    Affinity, AffinityKey, Backend, ConnectTimes, Edition, Event, Flow, FlowKey, Frontend,
    NearBackends, Peer, Pod, ReverseKey, Route, RouteKey, Service, ServiceKey, ServiceLine,
    ServiceTraffic, Slot, Told, Traffic, Wanted, map,
};

/// A key or a value of a map. Plain numbers and addresses are not described.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub map: &'static str,
    /// `key` or `value`, or what a part of the value is.
    pub role: &'static str,
    /// Of the type.
    pub name: &'static str,
    /// In bytes.
    pub size: usize,
    /// In bytes.
    pub align: usize,
    /// Each field's name and offset in bytes. There is no padding but what has a name.
    pub fields: &'static [(&'static str, usize)],
}

macro_rules! layouts {
    ($($map:expr, $role:literal, $name:ident { $($field:ident),* })+) => {
        &[$(Layout {
            map: $map,
            role: $role,
            name: stringify!($name),
            size: size_of::<$name>(),
            align: align_of::<$name>(),
            fields: {
                // Without one of the fields this does not compile.
                const _: fn($name) = |$name { $($field: _),* }| ();
                &[$((stringify!($field), offset_of!($name, $field))),*]
            },
        }),+]
    };
}

/// Those of this build, at this [`crate::ABI_VERSION`].
pub const LAYOUTS: &[Layout] = layouts! {
    map::SERVICES, "key", ServiceKey { address, port, protocol, pad }
    map::SERVICES, "value", Service { id, first_slot, slot_count, flags, affinity_seconds }
    map::SERVICE_LINES, "value", ServiceLine { key, service, check, near }
    map::SERVICE_LINES, "backends", NearBackends { words, port, count }
    map::EDITION, "value", Edition { number, pad, lowest_v4, highest_v4, lowest_v6, highest_v6 }
    map::SLOTS, "value", Slot { backend, tag }
    map::BACKENDS, "value", Backend { address, port, state, pad }
    map::PEERS, "value", Peer { cookie, name, backend, port, uses, more, edition, pad, connect_ns }
    map::REVERSE, "key", ReverseKey { cookie, backend, port, pad, pad_word }
    map::REVERSE, "value", Frontend { address, port, pad }
    map::AFFINITY, "key", AffinityKey { service, kind, client }
    map::AFFINITY, "value", Affinity { last_used_ns, backend, pad }
    map::PODS, "value", Pod { ifindex, mac, flags }
    map::ROUTES, "key", RouteKey { prefix_len, address }
    map::ROUTES, "value", Route { node, ifindex, flags }
    map::FLOWS, "key", FlowKey {
        source, destination, source_port, destination_port, protocol, pad, pad_half }
    map::FLOWS, "value", Flow { address, port, kind, ended, backend, service, owner, last_used }
    map::COUNTERS, "value", Traffic { packets, bytes }
    map::SERVICE_COUNTERS, "value", ServiceTraffic { refused, packets, bytes }
    map::CONNECT_TIMES, "value", ConnectTimes { count, total_ns }
    map::MONITOR, "value", Wanted {
        until_ns, netns, addresses, outcomes, reason, service, sample, limit, port, protocol,
        hooks, snap, pad }
    map::EVENTS, "value", Event {
        time_ns, netns, source, destination, becomes, source_port, destination_port,
        becomes_port, protocol, tcp_flags, reason, direction, ifindex, bytes, service, connect_ns }
    map::TOLD, "value", Told { window_ns, lost, told, pad }
};
