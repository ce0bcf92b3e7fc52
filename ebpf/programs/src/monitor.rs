//! Telling who listens what becomes of packets and calls. While nobody does it costs one look at
//! MONITOR.

use core::hint::black_box;

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray, RingBuf};
use bowline_ebpf_abi::{
    Address, Direction, Event, MOST_SNAP, NO_SERVICE, Reason, ServiceKey, Told, U16Be, U32Be,
    Wanted, size,
};
use bowline_ebpf_datapath::{
    Change, Fragment, Frame, Work, is_wanted, is_within_limit, outcome_of,
};

#[map]
static MONITOR: Array<Wanted> = Array::pinned(1, 0);
#[map]
static EVENTS: RingBuf = RingBuf::pinned(size::EVENTS, 0);
#[map]
static TOLD: PerCpuArray<Told> = PerCpuArray::pinned(1, 0);

/// Where an event and its packet are put together, see `maps::WORK`.
#[map]
static CAUGHT: PerCpuArray<Caught> = PerCpuArray::with_max_entries(1, 0);

#[repr(C)]
struct Caught {
    event: Event,
    bytes: [u8; MOST_SNAP as usize + 1],
}

/// Not on the stack: socket programs have none to spare.
const NOBODY: Address = Address::from_words([U32Be::new(0); 4]);

/// A packet at a hook.
pub trait Seen: Frame {
    fn ifindex(&self) -> u32;
    /// Copies the first bytes, of which there are as many; false if that fails.
    fn copy_to(&self, into: *mut u8, length: u32) -> bool;
}

/// Who listens looks by himself (`BPF_RB_NO_WAKEUP`).
const NO_WAKEUP: u64 = 1;

/// Whether anybody wants to be told of things that end so.
#[inline(always)]
pub fn listens(reason: u16) -> bool {
    MONITOR.get(0).is_some_and(|wanted| wanted.outcomes & outcome_of(reason) != 0)
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn tell<F: Seen>(frame: &F, event: &Event) {
    tell_by(event, |snap| match snap {
        0 => EVENTS.output::<Event>(event, NO_WAKEUP).is_ok(),
        snap => catch(frame, event, snap),
    });
}

/// Tells an event that is wanted; `send` gets how much of a packet is, and says whether there was
/// room.
#[inline(always)]
fn tell_by(event: &Event, send: impl Fn(u32) -> bool) {
    let (Some(wanted), Some(told)) = (MONITOR.get(0), TOLD.get_ptr_mut(0)) else {
        return;
    };
    // SAFETY: the helper takes nothing.
    if !is_wanted(wanted, event, || unsafe { bpf_get_prandom_u32() }) {
        return;
    }
    // SAFETY: per-CPU memory that stays valid while the program runs. A call on a socket may be
    // interrupted by a packet's program: then one event is not counted.
    let told = unsafe { &mut *told };
    if !is_within_limit(wanted, told, event.time_ns) || !send(wanted.snap) {
        told.lost += 1;
    }
}

/// Tells an event with the beginning of its packet.
#[inline(never)]
fn catch<F: Seen>(frame: &F, event: &Event, snap: u32) -> bool {
    let Some(caught) = CAUGHT.get_ptr_mut(0) else { return false };
    let wanted = snap.min(frame.length()).min(MOST_SNAP);
    // Verifiers of old kernels want to see that a length is neither nothing nor too much, and the
    // compiler must not know better. Nothing becomes more than there is, which is not copied.
    let length = (black_box(wanted.wrapping_sub(1)) & MOST_SNAP) + 1;
    // SAFETY: per-CPU memory that stays valid while the program runs; `length` bytes of it are
    // written before they are read.
    unsafe {
        (*caught).event = *event;
        let bytes = (&raw mut (*caught).bytes).cast();
        if !frame.copy_to(bytes, length) {
            return EVENTS.output::<Event>(event, NO_WAKEUP).is_ok();
        }
        let size = size_of::<Event>() + length as usize;
        let whole = core::slice::from_raw_parts(caught.cast::<u8>(), size);
        EVENTS.output::<[u8]>(whole, NO_WAKEUP).is_ok()
    }
}

/// A packet that was read and decided about, as it came in.
#[inline(never)]
pub fn tell_packet<F: Seen>(frame: &F, work: &mut Work, reason: u16, direction: Direction) {
    let packet = &work.packet;
    let event = &mut work.event;
    event.time_ns = now();
    event.netns = 0;
    event.source = packet.source;
    event.destination = packet.destination;
    event.becomes = packet.destination;
    event.protocol = packet.protocol;
    event.tcp_flags = 0;
    event.reason = reason;
    event.direction = direction as u16;
    event.ifindex = frame.ifindex();
    event.bytes = frame.length();
    event.service = work.rewrite.service;
    event.connect_ns = 0;
    let has_ports = packet.has_ports() && packet.fragment != Fragment::Later;
    let ports = if has_ports { packet.ports(frame) } else { None }.unwrap_or_default();
    event.source_port = ports.source;
    event.destination_port = ports.destination;
    event.becomes_port = ports.destination;
    if has_ports && packet.protocol == bowline_ebpf_abi::protocol::TCP {
        const FLAGS: u32 = 13;
        event.tcp_flags = frame.load(packet.transport + FLAGS).unwrap_or(0);
    }
    if work.rewrite.change == Change::Ends {
        let is_answer = reason == Reason::AnswerTranslated as u16;
        let ends = &work.rewrite.ends;
        let end = if is_answer { &ends.source } else { &ends.destination };
        event.becomes = end.address;
        event.becomes_port = end.port;
    }
    tell(frame, event);
}

/// A packet that was refused unread.
#[inline(never)]
pub fn tell_unread<F: Seen>(frame: &F, work: &mut Work, reason: u16, direction: Direction) {
    // Not put together on the stack and copied: these programs have none to spare.
    let event = &mut work.event;
    event.time_ns = now();
    event.netns = 0;
    event.source = NOBODY;
    event.destination = NOBODY;
    event.becomes = NOBODY;
    event.source_port = U16Be::new(0);
    event.destination_port = U16Be::new(0);
    event.becomes_port = U16Be::new(0);
    event.protocol = 0;
    event.tcp_flags = 0;
    event.reason = reason;
    event.direction = direction as u16;
    event.ifindex = frame.ifindex();
    event.bytes = frame.length();
    event.service = NO_SERVICE;
    event.connect_ns = 0;
    tell(frame, event);
}

/// A connection that is open now.
#[inline(always)]
pub fn tell_connected(event: &Event) {
    tell_by(event, |_| EVENTS.output::<Event>(event, NO_WAKEUP).is_ok());
}

/// What has no room of its own among the five that a function of the kernel takes.
#[derive(Clone, Copy)]
struct End(u32);

impl End {
    const fn new(port: U16Be, reason: Reason) -> Self {
        Self((port.bits() as u32) << 16 | reason as u32)
    }

    const fn port(self) -> U16Be {
        U16Be::from_bits((self.0 >> 16) as u16)
    }

    const fn reason(self) -> u16 {
        self.0 as u16
    }
}

/// A call on a socket of this network namespace that got this backend.
#[inline(always)]
pub fn tell_balanced(
    key: &ServiceKey,
    backend: &Address,
    port: U16Be,
    service: u32,
    netns: impl Fn() -> u64,
) {
    if listens(Reason::Balanced as u16) {
        tell_call(key, backend, End::new(port, Reason::Balanced), service, netns());
    }
}

/// One that was refused.
#[inline(always)]
pub fn tell_refused(key: &ServiceKey, reason: Reason, service: u32, netns: impl Fn() -> u64) {
    if listens(reason as u16) {
        tell_call(key, &NOBODY, End::new(U16Be::new(0), reason), service, netns());
    }
}

/// A call on a socket: to a service's name, and to which backend. It is
/// written where it is read from: these programs have no stack to spare, and may be interrupted.
#[inline(never)]
fn tell_call(key: &ServiceKey, becomes: &Address, end: End, service: u32, netns: u64) {
    let (Some(wanted), Some(told)) = (MONITOR.get(0), TOLD.get_ptr_mut(0)) else {
        return;
    };
    let now = now();
    // What is surely not wanted takes no room: it is looked at whole only there.
    if now > wanted.until_ns
        || wanted.protocol != 0 && wanted.protocol != key.protocol
        || wanted.reason != 0 && wanted.reason - 1 != end.reason() as u32
        || wanted.service != 0 && wanted.service - 1 != service
    {
        return;
    }
    // SAFETY: as in `tell`.
    let told = unsafe { &mut *told };
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        told.lost += 1;
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the kernel gave room for an event; every field is written before any is read.
    let event = unsafe {
        (*event).time_ns = now;
        (*event).netns = netns;
        (*event).source = Address::default();
        (*event).destination = key.address;
        (*event).becomes = *becomes;
        (*event).source_port = U16Be::default();
        (*event).destination_port = key.port;
        (*event).becomes_port = end.port();
        (*event).protocol = key.protocol;
        (*event).tcp_flags = 0;
        (*event).reason = end.reason();
        (*event).direction = Direction::Socket as u16;
        (*event).ifindex = 0;
        (*event).bytes = 0;
        (*event).service = service;
        (*event).connect_ns = 0;
        &*event
    };
    // SAFETY: the helper takes nothing.
    if !is_wanted(wanted, event, || unsafe { bpf_get_prandom_u32() }) {
        entry.discard(NO_WAKEUP);
    } else if is_within_limit(wanted, told, now) {
        entry.submit(NO_WAKEUP);
    } else {
        told.lost += 1;
        entry.discard(NO_WAKEUP);
    }
}
