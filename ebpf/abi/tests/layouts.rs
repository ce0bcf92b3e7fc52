//! The layouts as a golden file: a change of a layout without a new `ABI_VERSION` fails here.
//! After raising the version, write the file anew with `UPDATE_GOLDEN=1`.

use bowline_ebpf_abi::{
    ABI_VERSION, Address, Affinity, AffinityKey, Backend, Flow, FlowKey, Frontend, Peer, Pod,
    ReverseKey, Route, RouteKey, Service, ServiceKey, ServiceTraffic, Slot, Traffic, map,
};
use std::fmt::Write;
use std::mem::{align_of, offset_of, size_of};

macro_rules! describe {
    ($out:ident, $($map:expr, $role:literal, $name:ident { $($field:ident),* })+) => {$(
        writeln!($out, "{} {} {} size={} align={}", $map, $role, stringify!($name),
            size_of::<$name>(), align_of::<$name>()).unwrap();
        $(writeln!($out, "    {} @{}", stringify!($field), offset_of!($name, $field)).unwrap();)*
    )+};
}

fn layouts() -> String {
    let mut out = format!("abi {ABI_VERSION}\nAddress size={}\n", size_of::<Address>());
    describe! { out,
        map::SERVICES, "key", ServiceKey { address, port, protocol, pad }
        map::SERVICES, "value", Service { id, first_slot, slot_count, flags, affinity_seconds }
        map::SLOTS, "value", Slot { backend, tag }
        map::BACKENDS, "value", Backend { address, port, state, pad }
        map::PEERS, "value", Peer { cookie, name, backend, port, uses, more }
        map::REVERSE, "key", ReverseKey { cookie, backend, port, pad, pad_word }
        map::REVERSE, "value", Frontend { address, port, pad }
        map::AFFINITY, "key", AffinityKey { service, kind, client }
        map::AFFINITY, "value", Affinity { last_used_ns, backend, pad }
        map::PODS, "value", Pod { ifindex, mac, flags }
        map::ROUTES, "key", RouteKey { prefix_len, address }
        map::ROUTES, "value", Route { node, ifindex, flags }
        map::FLOWS, "key", FlowKey {
            source, destination, source_port, destination_port, protocol, pad, pad_half }
        map::FLOWS, "value", Flow {
            address, port, kind, ended, backend, service, owner, last_used }
        map::COUNTERS, "value", Traffic { packets, bytes }
        map::SERVICE_COUNTERS, "value", ServiceTraffic { connections, refused, packets, bytes }
    }
    out
}

#[test]
fn layouts_are_those_of_this_abi_version() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/layouts.golden");
    let found = layouts();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &found).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert_eq!(found, golden, "a layout changed: raise ABI_VERSION, then UPDATE_GOLDEN=1");
}
