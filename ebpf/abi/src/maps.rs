//! Keys and values of the maps. Padding is explicit and always zero: the kernel hashes all bytes.
//! It is made of plain integers because an array of zeros becomes a call in a program.

use crate::{Address, Mac, U16Be, U32Be};

/// IP protocol numbers.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
}

/// Map names: as in the object, under the pin directory and in error messages.
pub mod map {
    pub const SERVICES: &str = "SERVICES";
    /// SERVICES once more, a cache line each, as far as there is a place for them.
    pub const SERVICE_LINES: &str = "SERVICE_LINES";
    /// Each [`Address`](crate::Address) that a service has: what is not in SERVICES is refused
    /// there. The value is zero.
    pub const ADDRESSES: &str = "ADDRESSES";
    pub const EDITION: &str = "EDITION";
    pub const SLOTS: &str = "SLOTS";
    pub const BACKENDS: &str = "BACKENDS";
    pub const PEERS: &str = "PEERS";
    pub const REVERSE: &str = "REVERSE";
    pub const AFFINITY: &str = "AFFINITY";
    pub const PODS: &str = "PODS";
    pub const ROUTES: &str = "ROUTES";
    pub const FLOWS: &str = "FLOWS";
    pub const COUNTERS: &str = "COUNTERS";
    /// How often each service's backend was chosen for a connection or for an unconnected UDP
    /// socket: a row of numbers a CPU, one after the other. A row has a number for each place of
    /// SERVICE_LINES, which is known before the line is read, and then one for each
    /// [`Service::id`](crate::Service::id), for what was not chosen from a line.
    pub const CONNECTIONS: &str = "CONNECTIONS";
    pub const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";
    /// How long connections to services took to open, by [`ConnectTimes`](crate::ConnectTimes).
    pub const CONNECT_TIMES: &str = "CONNECT_TIMES";
    /// What somebody wants to be told, in EVENTS; TOLD counts what was lost of it.
    pub const MONITOR: &str = "MONITOR";
    pub const EVENTS: &str = "EVENTS";
    pub const TOLD: &str = "TOLD";
    /// One number, of [`takeover`](crate::takeover).
    pub const TAKEOVER: &str = "TAKEOVER";
}

/// Default sizes; the agent's flags override them.
pub mod size {
    pub const SERVICES: u32 = 65_536;
    /// Twice as many, so that few services share a place; a multiple of [`PAGE_LINES`].
    pub const SERVICE_LINES: u32 = 131_072;
    /// How many lines fit on a page of memory.
    pub const PAGE_LINES: u32 = 64;
    /// Of each CPU.
    pub const CONNECTIONS_ROW: u32 = SERVICE_LINES + SERVICES;
    pub const SLOTS: u32 = 1_048_576;
    pub const BACKENDS: u32 = 65_536;
    /// A power of two.
    pub const PEERS: u32 = 262_144;
    pub const REVERSE: u32 = 262_144;
    pub const AFFINITY: u32 = 65_536;
    pub const PODS: u32 = 4_096;
    pub const ROUTES: u32 = 16_384;
    pub const FLOWS: u32 = 65_536;
    /// Bytes of EVENTS: a power of two of whole pages.
    pub const EVENTS: u32 = 1 << 20;
}

/// 2^64 divided by the golden ratio: numbers in a row times this are far from each other in their
/// high bits (Knuth, The Art of Computer Programming, 6.4).
pub const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// SERVICES key: a service as clients name it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub address: Address,
    pub port: U16Be,
    pub protocol: u8,
    pub pad: u8,
}

impl ServiceKey {
    #[inline(always)]
    pub const fn new(address: Address, port: U16Be, protocol: u8) -> Self {
        Self { address, port, protocol, pad: 0 }
    }

    /// The same from whole words: the kernel hashes words, and a word that was just written in
    /// parts is slow to read.
    #[inline(always)]
    pub const fn from_words(address: [u32; 4], port: u16, protocol: u8) -> Self {
        let [a, b, c, d] = address;
        let last = u32::from_ne_bytes([port.to_ne_bytes()[0], port.to_ne_bytes()[1], protocol, 0]);
        // SAFETY: integers of the same size, without padding, valid for every bit pattern.
        unsafe { core::mem::transmute::<[u32; 5], Self>([a, b, c, d, last]) }
    }

    /// The place in SERVICE_LINES, which has `count` of them, a multiple of [`size::PAGE_LINES`].
    /// Neighbouring addresses are on one page of memory: pages are what a processor has few of at
    /// hand.
    #[inline(always)]
    pub const fn place(&self, count: u32) -> u32 {
        let [a, b, c, d] = *self.address.words();
        let name = (self.port.bits() as u64) << 8 | self.protocol as u64;
        let name = name.wrapping_mul(SPREAD);
        let high = (a.bits() as u64) << 32 | b.bits() as u64;
        let low = (c.get() as u64) << 32 | d.get() as u64;
        let block = low / size::PAGE_LINES as u64;
        let mixed = (block ^ high.rotate_left(17)).wrapping_add(name);
        let pages = (count / size::PAGE_LINES) as u64;
        let page = ((mixed.wrapping_mul(SPREAD) >> 32) * pages) >> 32;
        page as u32 * size::PAGE_LINES + (d.get() ^ (name >> 32) as u32) % size::PAGE_LINES
    }

    /// Equality without a call to `memcmp`, which the kernel does not have.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        // SAFETY: integers of the same size, without padding, valid for every bit pattern.
        let [mine, theirs] = unsafe {
            [
                core::mem::transmute::<Self, [u32; 5]>(*self),
                core::mem::transmute::<Self, [u32; 5]>(*other),
            ]
        };
        (mine[0] ^ theirs[0])
            | (mine[1] ^ theirs[1])
            | (mine[2] ^ theirs[2])
            | (mine[3] ^ theirs[3])
            | (mine[4] ^ theirs[4])
            == 0
    }

    /// Written into each slot of the service. A reader that finds another tag has read a range
    /// that was given to another service meanwhile, and reads again.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let name = (self.port.bits() as u32) << 8 | self.protocol as u32;
        self.address.folded() ^ name.rotate_left(7)
    }
}

/// SERVICES value. One update of it switches the whole backend set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    #[cfg(feature = "next-abi")]
    pub affinity_seconds: u32,
    /// Index into SERVICE_COUNTERS and into the second part of each row of CONNECTIONS.
    pub id: u32,
    pub first_slot: u32,
    pub slot_count: u32,
    pub flags: u32,
    #[cfg(not(feature = "next-abi"))]
    pub affinity_seconds: u32,
}

/// SLOTS value. The slots of a service are in the order of their backends' numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Index into BACKENDS.
    pub backend: u32,
    /// [`ServiceKey::tag`] of the owner.
    pub tag: u32,
}

/// Backend states.
pub mod state {
    /// The entry belongs to nobody.
    pub const FREE: u8 = 0;
    /// Takes new connections.
    pub const ACTIVE: u8 = 1;
}

/// BACKENDS value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    #[cfg(not(feature = "next-abi"))]
    pub address: Address,
    pub port: U16Be,
    pub state: u8,
    #[cfg(not(feature = "next-abi"))]
    pub pad: u8,
    #[cfg(feature = "next-abi")]
    pub pad: [u8; 5],
    #[cfg(feature = "next-abi")]
    pub address: Address,
}

/// PEERS value: whom a socket talks to, and under which name. The index is the socket's cookie
/// without its high bits: cookies count up, so two sockets share an entry only when a whole table
/// of newer ones was made between them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The socket's. Zero is nobody's.
    #[cfg(not(feature = "next-abi"))]
    pub cookie: u64,
    pub name: Frontend,
    pub backend: Address,
    pub port: U16Be,
    /// How often a datagram got its name from here, up to a bound.
    pub uses: u8,
    /// Not zero: REVERSE knows more of this socket, or of another one that had this entry.
    pub more: u8,
    #[cfg(feature = "next-abi")]
    pub cookie: u64,
    /// [`Edition::number`] in which the backend was chosen, if further datagrams may go to it
    /// unseen as long as that is the edition; zero if not.
    pub edition: u32,
    pub pad: u32,
    /// When connect() was called, by the kernel's monotonic clock; zero once the connection is
    /// open, and where datagrams are sent without one.
    pub connect_ns: u64,
}

impl Peer {
    /// The place of a socket in PEERS, whose last place this is: their number is a power of two.
    #[inline(always)]
    pub const fn place(cookie: u64, last: u32) -> u32 {
        cookie as u32 & last
    }

    /// Whether `backend` is the one that this entry names.
    #[inline(always)]
    pub const fn is(&self, backend: &Address, port: U16Be) -> bool {
        self.backend.same(backend) && self.port.bits() == port.bits()
    }
}

/// REVERSE key: one socket talking to one backend, for what has no place in PEERS.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReverseKey {
    pub cookie: u64,
    pub backend: Address,
    pub port: U16Be,
    pub pad: u16,
    pub pad_word: u32,
}

/// REVERSE value: the name that the socket's owner used.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frontend {
    pub address: Address,
    pub port: U16Be,
    pub pad: u16,
}

impl Frontend {
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        self.address.same(&other.address) && self.port.bits() == other.port.bits()
    }
}

/// Values of [`AffinityKey::kind`].
pub mod affinity_kind {
    /// At socket hooks: the cookie of the socket's network namespace, in the first two words. It
    /// is the pod's, or the node's for all that runs in the node's own.
    pub const NETWORK_NAMESPACE: u32 = 1;
    /// Where packets are balanced: the source address.
    pub const ADDRESS: u32 = 2;
}

/// AFFINITY key: one client of one service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AffinityKey {
    /// [`Service::id`].
    pub service: u32,
    /// One of [`affinity_kind`].
    pub kind: u32,
    pub client: Address,
}

/// AFFINITY value. The clock is the kernel's monotonic one; `backend` is an index into BACKENDS.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    pub last_used_ns: u64,
    pub backend: u32,
    pub pad: u32,
}

/// Bits of [`Pod::flags`].
pub mod pod_flags {
    /// Set by the programs: this pod has flows that were balanced at tc, so packets for it are
    /// looked up in FLOWS. A pod without pays nothing.
    pub const HAS_FLOWS: u16 = 1;
}

/// PODS value: a pod of this node, by address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// The host side of the pod's veth.
    #[cfg(not(feature = "next-abi"))]
    pub ifindex: u32,
    /// The pod's own hardware address.
    pub mac: Mac,
    pub flags: u16,
    #[cfg(feature = "next-abi")]
    pub ifindex: u32,
}

/// ROUTES key: longest prefix wins. IPv4 prefixes count from the mapped form: a /24 is 120.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    pub prefix_len: u32,
    pub address: Address,
}

/// The network identifier of every tunnelled packet (VXLAN's VNI): one network, one identifier.
pub const TUNNEL_ID: u32 = 1;

/// Bits of [`Route::flags`].
pub mod route_flags {
    /// The device is a tunnel in collect-metadata mode: the program names the node as the tunnel's
    /// remote end instead of asking for a neighbour.
    pub const TUNNEL: u32 = 1;
}

/// ROUTES value: the node that holds the range, and the device that leads there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    pub node: Address,
    /// The uplink, or the tunnel device where [`route_flags::TUNNEL`] is set.
    pub ifindex: u32,
    /// Bits of [`route_flags`].
    pub flags: u32,
}

/// FLOWS key: the packet as it comes in.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    pub source: Address,
    pub destination: Address,
    pub source_port: U16Be,
    pub destination_port: U16Be,
    pub protocol: u8,
    pub pad: u8,
    pub pad_half: u16,
}

/// Values of [`Flow::kind`].
pub mod flow_kind {
    /// Client to service: the destination becomes the backend.
    pub const TO_BACKEND: u8 = 1;
    /// Backend to client: the source becomes the service.
    pub const TO_CLIENT: u8 = 2;
    /// A pod that is its own backend answers itself. Such a pod sees the service's address as its
    /// client's: the source becomes the service again, and the destination the pod.
    pub const TO_SELF: u8 = 3;
}

/// Bits of [`Flow::ended`]: what TCP said of the connection's end and beginning, noted in both
/// directions.
pub mod flow_ended {
    /// The client sent FIN.
    pub const BY_CLIENT: u8 = 1;
    /// The backend sent FIN.
    pub const BY_BACKEND: u8 = 2;
    /// Somebody sent RST.
    pub const RESET: u8 = 4;
    /// The backend has not said anything yet.
    pub const OPENING: u8 = 8;
}

/// How far the packet programs are with taking over from another build's, which come after them
/// at each interface. TAKEOVER has the stage in its low bits, and the generation above them: of two
/// builds whose programs began, the one with the higher generation comes first.
pub mod takeover {
    /// There are no others.
    pub const DONE: u32 = 0;
    /// Every packet is left to them. Without a generation.
    pub const WAITS: u32 = 1;
    /// Packets of open connections that are unknown here are left to them.
    pub const FOLLOWED: u32 = 2;

    const BITS: u32 = 2;

    /// The stage.
    #[inline(always)]
    pub const fn stage(value: u32) -> u32 {
        value & ((1 << BITS) - 1)
    }

    /// How often a build took over before.
    pub const fn generation(value: u32) -> u32 {
        value >> BITS
    }

    /// What TAKEOVER holds.
    pub const fn value(generation: u32, stage: u32) -> u32 {
        generation << BITS | stage
    }
}

/// How long a flow without packets is remembered, in seconds. After it the entry matches nothing
/// and is the first to be recycled.
pub mod flow_idle {
    pub const UDP: u32 = 120;
    pub const TCP: u32 = 86_400;
    /// Nobody has answered: longer than between any two attempts of a client.
    pub const TCP_OPENING: u32 = 120;
    /// One side sent FIN.
    pub const TCP_CLOSING: u32 = 120;
    /// Both sides sent FIN, or one RST.
    pub const TCP_CLOSED: u32 = 10;
    /// The last use is written down when the one on record is older than this.
    pub const GRAIN: u32 = 5;
}

/// FLOWS value: what one end of the packet is rewritten to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    #[cfg(not(feature = "next-abi"))]
    pub address: Address,
    pub port: U16Be,
    /// One of [`flow_kind`].
    pub kind: u8,
    /// Bits of [`flow_ended`].
    pub ended: u8,
    /// Index into BACKENDS.
    pub backend: u32,
    /// Index into SERVICE_COUNTERS.
    pub service: u32,
    /// [`Pod::ifindex`] of the client. A later pod with the same address has another one, so it
    /// never meets its predecessor's flows.
    pub owner: u32,
    /// Seconds of the kernel's monotonic clock, to within [`flow_idle::GRAIN`].
    pub last_used: u32,
    #[cfg(feature = "next-abi")]
    pub address: Address,
}

/// SERVICE_COUNTERS value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceTraffic {
    /// Connections and datagrams that were refused because no backend was ready.
    pub refused: u64,
    pub packets: u64,
    pub bytes: u64,
}

/// How many bits stand before an IPv4 prefix in a [`RouteKey`].
pub const V4_PREFIX_OFFSET: u32 = 96;

impl RouteKey {
    /// A whole address, for a look-up.
    #[inline(always)]
    pub const fn of(address: Address) -> Self {
        Self { prefix_len: 128, address }
    }

    /// A range of either family: `prefix` counts from the family's own first bit (0 to 32, 0 to
    /// 128; more is taken as all). Bits after the prefix are cleared.
    pub const fn new(network: Address, prefix: u32) -> Self {
        let offset = if network.as_v4().is_some() { V4_PREFIX_OFFSET } else { 0 };
        let prefix_len = if prefix > 128 - offset { 128 } else { offset + prefix };
        let mut words = *network.words();
        let mut i = 0;
        while i < words.len() {
            let before = 32 * i as u32;
            let kept = prefix_len.saturating_sub(before);
            let mask = if kept >= 32 { u32::MAX } else { !(u32::MAX >> kept) };
            words[i] = U32Be::new(words[i].get() & mask);
            i += 1;
        }
        Self { prefix_len, address: Address::from_words(words) }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn services_in_a_row_have_places_of_their_own() {
        let places = |name: &str, count: u32| {
            let first = name.parse::<std::net::Ipv4Addr>().unwrap();
            let keys = (0..count).map(|number| {
                let address = std::net::Ipv4Addr::from(u32::from(first) + number);
                ServiceKey::new(address.into(), U16Be::new(80), protocol::TCP)
            });
            let places = keys.map(|key| key.place(131_072));
            places.collect::<std::collections::BTreeSet<u32>>().len()
        };
        assert!(places("10.9.0.1", 1_000) > 990);
        assert!(places("10.9.0.1", 30_000) > 26_000, "as good as chance");
        let ports: std::collections::BTreeSet<u32> = (1..=1_000)
            .map(|port| {
                let address = "fd00:10:9::7".parse::<IpAddr>().unwrap().into();
                ServiceKey::new(address, U16Be::new(port), protocol::UDP).place(131_072)
            })
            .collect();
        assert!(ports.len() > 950, "{}", ports.len());
    }

    #[test]
    fn a_range_keeps_only_the_bits_of_its_prefix() {
        let table = [
            ("10.240.1.77", 24, 120, "10.240.1.0"),
            ("10.240.1.77", 32, 128, "10.240.1.77"),
            ("10.240.1.77", 99, 128, "10.240.1.77"),
            ("10.240.1.77", 0, 96, "0.0.0.0"),
            ("fd00:10:240:1:2:3:4:5", 64, 64, "fd00:10:240:1::"),
            ("fd00:10:240:1:2:3:4:5", 44, 44, "fd00:10:240::"),
            ("fd00:10:240:1:2:3:4:5", 128, 128, "fd00:10:240:1:2:3:4:5"),
            ("fd00:10:240:1:2:3:4:5", 0, 0, "::"),
        ];
        for (text, prefix, length, network) in table {
            let key = RouteKey::new(text.parse::<IpAddr>().unwrap().into(), prefix);
            let expected = network.parse::<IpAddr>().unwrap();
            assert_eq!((key.prefix_len, IpAddr::from(key.address)), (length, expected), "{text}");
        }
    }
}
