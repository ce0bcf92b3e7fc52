//! The maps, all pinned by name. Written here: PEERS, REVERSE, AFFINITY, FLOWS, the counters,
//! CONNECT_TIMES, and the `HAS_FLOWS` flag in PODS; everything else is written by the agent.

use core::mem::transmute;

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use bowline_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, ConnectTimes, Direction, Edition, Flow, FlowKey,
    Frontend, Peer, Pod, Reason, ReverseKey, Route, Service, ServiceKey, ServiceLine,
    ServiceTraffic, Slot, Traffic, pod_flags, size, takeover,
};
use bowline_ebpf_datapath::{PacketMaps, PeerMaps, ReasonCode, ServiceMaps, Work};

use crate::settings::{connections_row, last_peer, lines};

/// Memory for a service is taken when there is one.
const NO_PREALLOC: u32 = 1;

/// The values begin on a page of their own, so that one of the size of a cache line is in one line
/// (Linux 5.5).
const MMAPABLE: u32 = 1 << 10;

#[map]
static SERVICES: HashMap<ServiceKey, Service> = HashMap::pinned(size::SERVICES, NO_PREALLOC);
#[map]
static SERVICE_LINES: Array<ServiceLine> = Array::pinned(size::SERVICE_LINES, MMAPABLE);
#[map]
static ADDRESSES: HashMap<Address, u32> = HashMap::pinned(size::SERVICES, NO_PREALLOC);
#[map]
static EDITION: Array<Edition> = Array::pinned(1, 0);
#[map]
static SLOTS: Array<Slot> = Array::pinned(size::SLOTS, 0);
#[map]
static BACKENDS: Array<Backend> = Array::pinned(size::BACKENDS, 0);
#[map]
static PEERS: Array<Peer> = Array::pinned(size::PEERS, 0);
#[map]
static REVERSE: LruHashMap<ReverseKey, Frontend> = LruHashMap::pinned(size::REVERSE, 0);
#[map]
static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::pinned(size::AFFINITY, 0);
#[map]
static PODS: HashMap<Address, Pod> = HashMap::pinned(size::PODS, 0);
#[map]
static ROUTES: LpmTrie<Address, Route> = LpmTrie::pinned(size::ROUTES, NO_PREALLOC);
#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::pinned(size::FLOWS, 0);
#[map]
static COUNTERS: PerCpuArray<Traffic> = PerCpuArray::pinned(Reason::COUNTERS, 0);
#[map]
static CONNECTIONS: Array<u64> = Array::pinned(size::CONNECTIONS_ROW, MMAPABLE);
#[map]
static SERVICE_COUNTERS: PerCpuArray<ServiceTraffic> = PerCpuArray::pinned(size::SERVICES, 0);
#[map]
static CONNECT_TIMES: PerCpuArray<ConnectTimes> = PerCpuArray::pinned(ConnectTimes::ENTRIES, 0);
#[map]
static TAKEOVER: Array<u32> = Array::pinned(1, 0);

/// Where a packet program keeps what it finds out. No other program of the same processor can come
/// in between: they run with soft interrupts off.
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// The processor's own.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    // SAFETY: see WORK. Its bytes were zero at first, which is a valid value, and are only written
    // as a `Work` since.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// Whether packets are still another build's, whose programs come after these.
#[inline(always)]
pub fn is_taking_over() -> bool {
    TAKEOVER.get(0) == Some(&takeover::WAITS)
}

/// The maps as the datapath crate sees them.
pub struct KernelMaps;

/// Whether a service may have this address. Most calls and packets that are for none are spared
/// the search.
#[inline(always)]
pub fn in_span(address: &Address) -> bool {
    EDITION.get(0).is_some_and(|edition| edition.spans(address))
}

/// The service's place among the lines, which may be another's.
#[inline(always)]
pub fn place_of(key: &ServiceKey) -> u32 {
    key.place(lines())
}

/// The service's line, if it has one and nobody writes it at the moment.
#[inline(always)]
pub fn line(key: &ServiceKey, place: u32) -> Option<ServiceLine> {
    let place = SERVICE_LINES.get_ptr(place)?;
    // SAFETY: array entries stay where they are and are integers. Volatile: what is checked is
    // what is used, whoever writes meanwhile.
    unsafe {
        if !(*place).key.same(key) {
            return None;
        }
        let from = place.cast::<[u64; 8]>();
        let word = |n: usize| (&raw const (*from)[n]).read_volatile();
        let words = [0, 0, word(2), word(3), word(4), word(5), word(6), word(7)];
        let line = ServiceLine { key: *key, ..transmute::<[u64; 8], ServiceLine>(words) };
        (line.check_of(key) == line.check).then_some(line)
    }
}

impl ServiceMaps for KernelMaps {
    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        // SAFETY: the value is copied; `choose` notices one that was recycled meanwhile.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn may_have_address(&self, address: &Address) -> bool {
        in_span(address)
    }

    #[inline(always)]
    fn has_address(&self, address: &Address) -> bool {
        in_span(address) && ADDRESSES.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        SLOTS.get(index).copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend> {
        BACKENDS.get(id).copied()
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        // SAFETY: copied; a recycled entry names a backend that the slots are searched for.
        unsafe { AFFINITY.get(key) }.copied()
    }

    #[inline(always)]
    fn store_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        let _ = AFFINITY.insert(key, affinity, 0);
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_ktime_get_ns() }
    }
}

const _: () = assert!(size::PEERS.is_power_of_two());

#[inline(always)]
fn place(cookie: u64) -> u32 {
    Peer::place(cookie, last_peer())
}

impl PeerMaps for KernelMaps {
    #[inline(always)]
    fn peer(&self, cookie: u64) -> Option<Peer> {
        let entry = PEERS.get_ptr(place(cookie))?;
        // SAFETY: array entries stay where they are. One that a newer socket takes over while it
        // is read has its cookie taken away first.
        unsafe {
            let peer = entry.read();
            let now = (&raw const (*entry).cookie).read_volatile();
            // A mask, not a branch: the verifier would follow both ways.
            let differs = now ^ peer.cookie;
            let same = ((differs | differs.wrapping_neg()) >> 63).wrapping_sub(1);
            Some(Peer { cookie: now & same, ..peer })
        }
    }

    #[inline(always)]
    fn set_peer(&self, peer: &Peer) {
        let Some(entry) = PEERS.get_ptr_mut(place(peer.cookie)) else {
            return;
        };
        // SAFETY: array entries stay where they are. A reader on another CPU that meets the entry
        // half written finds it nobody's: the cookie goes first and comes last.
        unsafe {
            (&raw mut (*entry).cookie).write_volatile(0);
            (*entry).name = peer.name;
            (*entry).backend = peer.backend;
            (*entry).port = peer.port;
            (*entry).uses = peer.uses;
            (*entry).more = peer.more;
            (*entry).edition = peer.edition;
            (*entry).connect_ns = peer.connect_ns;
            (&raw mut (*entry).cookie).write_volatile(peer.cookie);
        }
    }

    #[inline(always)]
    fn renew_peer(&self, cookie: u64, edition: u32) {
        if let Some(entry) = PEERS.get_ptr_mut(place(cookie)) {
            // SAFETY: array entries stay where they are, and this is one aligned word. What a newer
            // socket chose is not renewed by an older one.
            unsafe {
                if (&raw const (*entry).cookie).read_volatile() == cookie {
                    (&raw mut (*entry).edition).write_volatile(edition);
                }
            }
        }
    }

    #[inline(always)]
    fn count_use(&self, cookie: u64, uses: u8) {
        if let Some(entry) = PEERS.get_ptr_mut(place(cookie)) {
            // SAFETY: as above, one byte. The worst of two writers at once is a use not counted.
            unsafe { (&raw mut (*entry).uses).write_volatile(uses) };
        }
    }

    #[inline(always)]
    fn clear_connect(&self, cookie: u64) {
        if let Some(entry) = PEERS.get_ptr_mut(place(cookie)) {
            // SAFETY: as in `renew_peer`.
            unsafe {
                if (&raw const (*entry).cookie).read_volatile() == cookie {
                    (&raw mut (*entry).connect_ns).write_volatile(0);
                }
            }
        }
    }

    #[inline(always)]
    fn add_more(&self, cookie: u64, more: u8) {
        if let Some(entry) = PEERS.get_ptr_mut(place(cookie)) {
            // SAFETY: as above. Linux 5.10 has no atomic OR for programs: of two that add bits in
            // the same nanoseconds one may lose its own until the socket's next datagram.
            unsafe {
                let at = &raw mut (*entry).more;
                at.write_volatile(at.read_volatile() | more);
            }
        }
    }

    #[inline(always)]
    fn other_name(&self, key: &ReverseKey) -> Option<Frontend> {
        // SAFETY: copied; the key holds the socket's own cookie, so a recycled entry is another
        // backend's name at worst for a socket whose entry was just evicted.
        unsafe { REVERSE.get(key) }.copied()
    }

    #[inline(always)]
    fn store_other_name(&self, key: &ReverseKey, name: &Frontend) -> bool {
        REVERSE.insert(key, name, 0).is_ok()
    }
}

impl PacketMaps for KernelMaps {
    #[inline(always)]
    fn others_follow(&self) -> bool {
        TAKEOVER.get(0).is_some_and(|value| takeover::stage(*value) == takeover::FOLLOWED)
    }

    #[inline(always)]
    fn pod(&self, address: &Address) -> Option<Pod> {
        // SAFETY: copied; an address is given to another pod only long after it was removed.
        unsafe { PODS.get(address) }.copied()
    }

    #[inline(always)]
    fn route(&self, address: &Address) -> Option<Route> {
        ROUTES.get(Key::new(128, *address)).copied()
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey, into: &mut Flow) -> bool {
        // SAFETY: copied; a recycled entry can only mistranslate a packet of a flow that was
        // itself just evicted.
        match unsafe { FLOWS.get(key) } {
            Some(flow) => {
                *into = *flow;
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn store_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        FLOWS.insert(key, flow, 0).is_ok()
    }

    #[inline(always)]
    fn use_flow(&self, key: &FlowKey, now: u32, set: u8, clear: u8) -> bool {
        let Some(flow) = FLOWS.get_ptr_mut(key) else {
            return false;
        };
        // SAFETY: the kernel keeps map memory valid while the program runs. Two processors may
        // write at once: either time will do, and a bit that gets lost costs patience.
        unsafe {
            (*flow).last_used = now;
            (*flow).ended = ((*flow).ended | set) & !clear;
        }
        true
    }

    #[inline(always)]
    fn delete_flow(&self, key: &FlowKey) {
        // Not there is what is wanted.
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn mark_pod(&self, address: &Address) {
        if let Some(pod) = PODS.get_ptr_mut(address) {
            // SAFETY: the kernel keeps map memory valid while the program runs.
            unsafe { (*pod).flags |= pod_flags::HAS_FLOWS };
        }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn count_connection(&self, service: u32) {
        count_connection(service);
    }

    #[inline(always)]
    fn count_refused(&self, service: u32) {
        count_refused(service);
    }
}

/// Counts one packet, or one system call of zero bytes.
#[inline(always)]
pub fn count(reason: Reason, direction: Direction, bytes: u32) {
    count_at(reason.index(direction), bytes);
}

/// The same for a reason that was noted before.
#[inline(always)]
pub fn count_code(reason: ReasonCode, direction: Direction, bytes: u32) {
    count_at(reason.index(direction), bytes);
}

#[inline(always)]
fn count_at(index: u32, bytes: u32) {
    if let Some(traffic) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: per-CPU memory that stays valid while the program runs.
        unsafe {
            (*traffic).packets += 1;
            (*traffic).bytes += u64::from(bytes);
        }
    }
}

/// The service maps' [`Edition::number`]; zero before they are written.
#[inline(always)]
pub fn edition() -> u32 {
    EDITION.get(0).map_or(0, |edition| edition.number)
}

/// Counts a connection whose backend was chosen without the service's line.
#[inline(always)]
pub fn count_connection(service: u32) {
    count_connection_at(lines().wrapping_add(service));
}

/// Counts one for the service whose line has this place. That is known before the line is read, so
/// that neither memory waits for the other; and a map of the per-CPU kind has its numbers at twice
/// as many places.
#[inline(always)]
pub fn count_connection_at(place: u32) {
    // SAFETY: the helper takes nothing.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let index = cpu.wrapping_mul(connections_row()).wrapping_add(place);
    if let Some(count) = CONNECTIONS.get_ptr_mut(index) {
        // SAFETY: array entries stay where they are, and no other CPU writes to this row.
        unsafe { *count += 1 };
    }
}

#[inline(always)]
pub fn count_refused(service: u32) {
    if let Some(traffic) = SERVICE_COUNTERS.get_ptr_mut(service) {
        // SAFETY: as in `count`.
        unsafe { (*traffic).refused += 1 };
    }
}

/// Counts a connection to a service that took so long to open.
#[inline(always)]
pub fn count_connect_time(took_ns: u64) {
    if let Some(times) = CONNECT_TIMES.get_ptr_mut(ConnectTimes::place(took_ns)) {
        // SAFETY: as in `count`.
        unsafe {
            (*times).count += 1;
            (*times).total_ns += took_ns;
        }
    }
}

#[inline(always)]
pub fn count_service_packet(service: u32, bytes: u32) {
    if let Some(traffic) = SERVICE_COUNTERS.get_ptr_mut(service) {
        // SAFETY: as in `count`.
        unsafe {
            (*traffic).packets += 1;
            (*traffic).bytes += u64::from(bytes);
        }
    }
}
