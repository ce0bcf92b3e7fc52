//! The contract between the eBPF programs and the agent: map keys and values, map names, limits,
//! and the names of everything a packet can meet.
//!
//! Guarantees: every layout is `repr(C)`, has no implicit padding, names its byte order in its
//! types, and has its size asserted below. `layouts.golden` fails the tests when a layout changes
//! while [`ABI_VERSION`] does not: the version is part of the pin path, so two agents that disagree
//! never share a map.
//!
//! It does not say who may write which map; that is in `maps.rs` of the programs and in the
//! agent's `datapath` module.

#![no_std]
#![expect(unsafe_code, reason = "marks the layouts that may cross the boundary as bytes")]

mod address;
mod counters;
mod layouts;
mod lines;
mod maps;
mod monitor;

pub use address::{Address, Mac, U16Be, U32Be};
pub use counters::{ConnectTimes, Direction, Reason, Traffic};
pub use layouts::{LAYOUTS, Layout};
pub use lines::{Edition, NearBackends, ServiceLine};
pub use maps::{
    Affinity, AffinityKey, Backend, Flow, FlowKey, Frontend, Peer, Pod, ReverseKey, Route,
    RouteKey, SPREAD, Service, ServiceKey, ServiceTraffic, Slot, TUNNEL_ID, V4_PREFIX_OFFSET,
    affinity_kind, flow_ended, flow_idle, flow_kind, map, pod_flags, protocol, route_flags, size,
    state, takeover,
};
pub use monitor::{Event, MOST_SNAP, NO_SERVICE, Told, WINDOW_NS, Wanted, outcome};

/// Part of the pin path. Raised by every change of a layout, a map's meaning or a map's type.
pub const ABI_VERSION: u32 = if cfg!(feature = "next-abi") { 7 } else { 6 };

/// A type whose every bit pattern is a valid value and which has no padding, so that it may cross
/// the boundary to the kernel as bytes.
///
/// # Safety
/// The type must be `repr(C)` or `repr(transparent)`, `Copy`, free of padding and of references,
/// and valid for every bit pattern.
pub unsafe trait Plain: Copy + Default + 'static {}

/// Marks types as [`Plain`], with their sizes in bytes: structures that are `repr(C)`, of integers
/// only, and without padding, which their sizes prove.
#[macro_export]
macro_rules! plain {
    ($($name:ty = $size:expr),+ $(,)?) => {$(
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: repr(C) of integers only; the size above leaves no room for padding.
        unsafe impl $crate::Plain for $name {}
    )+};
}

plain! {
    Address = 16,
    Affinity = 16,
    AffinityKey = 24,
    Backend = if cfg!(feature = "next-abi") { 24 } else { 20 },
    ConnectTimes = 16,
    Edition = 32,
    Event = 96,
    Flow = 36,
    FlowKey = 40,
    Frontend = 20,
    Mac = 6,
    NearBackends = 20,
    Peer = 64,
    Pod = 12,
    ReverseKey = 32,
    Route = 24,
    RouteKey = 20,
    Service = 20,
    ServiceLine = 64,
    ServiceKey = 20,
    ServiceTraffic = 24,
    Slot = 8,
    Told = 24,
    Traffic = 16,
    U16Be = 2,
    U32Be = 4,
    u32 = 4,
    u64 = 8,
    Wanted = 80,
    u8 = 1,
}
