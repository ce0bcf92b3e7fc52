//! One view of a packet for both families, read once.
//!
//! # What is read
//! The IP header, IPv6 five extension headers at most, IPv4 options. The transport
//! header is read by those who need it.
//! # What is refused
//! A header that contradicts itself or the frame's length, an IPv6 packet with an IPv4-mapped
//! address (it would pass for an IPv4 pod's), more extension headers than RFC 8200 has a use for.
//!
//! Guarantees: nothing is read past the end of the frame, and nothing past the end that the IP
//! header gives ([`Packet::end`]); every loop is bounded. Not here: what becomes of the packet.

#![expect(unsafe_code, reason = "reads headers as plain bytes; each block says why it is sound")]

use crate::abi::{Address, Plain, Reason, U16Be, U32Be, protocol};

/// The bytes of a frame, from the Ethernet header on.
pub trait Frame {
    /// The bytes at `offset`; absent when the frame ends before.
    fn load<T: Plain>(&self, offset: u32) -> Option<T>;
    /// In bytes.
    fn length(&self) -> u32;
}

/// A frame in memory.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Frame for Bytes<'_> {
    fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        let bytes = self.0.get(offset as usize..)?.get(..size_of::<T>())?;
        // SAFETY: the slice is as long as `T`, and `Plain` is valid for every bit pattern.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn length(&self) -> u32 {
        self.0.len() as u32
    }
}

/// Length of an Ethernet header without a VLAN tag.
pub const ETHERNET: u32 = 14;

#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    #[default]
    V4,
    V6,
}

/// Whether the packet is one piece of a larger one.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// It is not.
    #[default]
    Whole,
    /// The first piece: it starts with the transport header.
    First,
    /// Any other piece: it has no transport header.
    Later,
}

/// How much of the packet there should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it: lengths are checked.
    Whole,
    /// As much as an ICMP error quotes (RFC 792, RFC 4443).
    Quoted,
}

/// Bits of [`Packet::flags`].
pub mod packet_flags {
    /// IPv4 options or IPv6 extension headers other than the fragment header.
    pub const OPTIONS: u8 = 1;
    /// A source route that still has a hop to go.
    pub const SOURCE_ROUTE: u8 = 2;
}

/// What is known of a packet. Offsets count from the first byte of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    pub source: Address,
    pub destination: Address,
    /// Where the IP header starts.
    pub network: u32,
    /// Where the transport header starts, or the data of a later fragment.
    pub transport: u32,
    /// The first byte after the packet.
    pub end: u32,
    pub family: Family,
    pub fragment: Fragment,
    /// Of the transport.
    pub protocol: u8,
    pub hop_limit: u8,
    /// Bits of [`packet_flags`].
    pub flags: u8,
    cursor: Cursor,
}

/// An IPv4 header as it stands in the packet, without options (RFC 791).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Ipv4Header {
    pub version_and_length: u8,
    pub service_class: u8,
    pub total_length: U16Be,
    pub identification: U16Be,
    pub fragment: U16Be,
    pub time_to_live: u8,
    pub protocol: u8,
    pub checksum: U16Be,
    pub source: U32Be,
    pub destination: U32Be,
}

/// An IPv6 header as it stands in the packet (RFC 8200).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ipv6Header {
    pub version_class_flow: U32Be,
    pub payload_length: U16Be,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: Address,
    pub destination: Address,
}

/// The first bytes of any extension header that this module walks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Extension {
    next_header: u8,
    /// In units of eight bytes, not counting the first; reserved in a fragment header.
    length: u8,
    /// Fragment offset and more-fragments flag; in a routing header type and segments left.
    detail: U16Be,
    identification: U32Be,
}

/// Source and destination port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    pub source: U16Be,
    pub destination: U16Be,
}

const _: () = assert!(size_of::<Ipv4Header>() == 20 && size_of::<Ipv6Header>() == 40);
const _: () = assert!(size_of::<Extension>() == 8 && size_of::<Ports>() == 4);
// SAFETY: repr(C) of integers whose sizes add up to the ones asserted above.
unsafe impl Plain for Ipv4Header {}
// SAFETY: as above.
unsafe impl Plain for Ipv6Header {}
// SAFETY: as above.
unsafe impl Plain for Extension {}
// SAFETY: as above.
unsafe impl Plain for Ports {}

/// Extension headers that are walked: RFC 8200 recommends an order of five, without security.
const MAX_EXTENSIONS: u32 = 5;
const MAX_OPTION_BYTES: u32 = 40;

/// IPv6 extension headers.
mod next {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const DESTINATION: u8 = 60;
}

/// IPv4 options (RFC 791).
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NOTHING: u8 = 1;
    pub(super) const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub(super) const STRICT_SOURCE_ROUTE: u8 = 137;
}

/// Reads the packet whose IP header starts at `at`. On an error `packet` holds nothing of use.
#[inline(always)]
pub fn parse<F: Frame>(
    frame: &F,
    at: u32,
    family: Family,
    extent: Extent,
    packet: &mut Packet,
) -> Result<(), Reason> {
    packet.network = at;
    packet.family = family;
    packet.fragment = Fragment::Whole;
    packet.flags = 0;
    match family {
        Family::V4 => parse_v4(frame, at, extent, packet),
        Family::V6 => parse_v6(frame, at, extent, packet),
    }
}

/// Where a packet ends that says it is `length` bytes long. Packets that the kernel has yet to cut
/// may be too long to say so, and give zero.
#[inline(always)]
fn end<F: Frame>(frame: &F, at: u32, length: u32, extent: Extent) -> Result<u32, Reason> {
    let frame_end = frame.length();
    let uncut = length == 0 && frame_end > at + 0xffff;
    if extent == Extent::Quoted || uncut {
        return Ok(frame_end);
    }
    if at + length > frame_end {
        return Err(Reason::Malformed);
    }
    Ok(at + length)
}

#[inline(always)]
fn parse_v4<F: Frame>(
    frame: &F,
    at: u32,
    extent: Extent,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let header: Ipv4Header = frame.load(at).ok_or(Reason::Malformed)?;
    let length = header.header_length();
    if header.version_and_length >> 4 != 4 || length < 20 {
        return Err(Reason::Malformed);
    }
    packet.end = end(frame, at, header.total_length.get().into(), extent)?;
    packet.transport = at + length;
    packet.source = Address::from_v4(header.source);
    packet.destination = Address::from_v4(header.destination);
    packet.protocol = header.protocol;
    packet.hop_limit = header.time_to_live;
    if packet.transport > packet.end {
        return Err(Reason::Malformed);
    }
    let offset = u32::from(header.fragment.get() & 0x1fff) << 3;
    packet.fragment = fragment(offset, header.fragment.get() & 0x2000 != 0);
    if offset + (packet.end - packet.transport) > 0xffff && offset != 0 {
        return Err(Reason::Malformed);
    }
    if length > 20 {
        packet.flags |= packet_flags::OPTIONS;
        if extent == Extent::Whole && source_routed(frame, packet)? {
            packet.flags |= packet_flags::SOURCE_ROUTE;
        }
    }
    Ok(())
}

#[inline(always)]
const fn fragment(offset: u32, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

/// Whether the IPv4 options hold a source route.
#[inline(always)]
fn source_routed<F: Frame>(frame: &F, packet: &mut Packet) -> Result<bool, Reason> {
    packet.cursor.set(packet.network + 20);
    for _ in 0..MAX_OPTION_BYTES {
        let at = packet.cursor.get();
        if at >= packet.transport {
            break;
        }
        let kind: u8 = frame.load(at).ok_or(Reason::Malformed)?;
        let mut length = 1;
        match kind {
            option::END => break,
            option::NOTHING => {}
            option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE => return Ok(true),
            _ => {
                let said: u8 = frame.load(at + 1).ok_or(Reason::Malformed)?;
                length = u32::from(said);
                if length < 2 || at + length > packet.transport {
                    return Err(Reason::Malformed);
                }
            }
        }
        packet.cursor.set(at + length);
    }
    Ok(false)
}

/// How far a walk has come. It is kept in memory on purpose: the verifier follows a number in a
/// register along every way through the loop, and what it reads from a map along one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor(u32);

impl Cursor {
    #[inline(always)]
    fn get(&mut self) -> u32 {
        // SAFETY: a reference is valid and aligned.
        unsafe { (&raw const self.0).read_volatile() }
    }

    #[inline(always)]
    fn set(&mut self, at: u32) {
        // SAFETY: as above.
        unsafe { (&raw mut self.0).write_volatile(at) }
    }
}

#[inline(always)]
fn parse_v6<F: Frame>(
    frame: &F,
    at: u32,
    extent: Extent,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let header: Ipv6Header = frame.load(at).ok_or(Reason::Malformed)?;
    if header.version_class_flow.get() >> 28 != 6 {
        return Err(Reason::Malformed);
    }
    let first = at + size_of::<Ipv6Header>() as u32;
    packet.end = end(frame, first, header.payload_length.get().into(), extent)?;
    packet.source = header.source;
    packet.destination = header.destination;
    packet.hop_limit = header.hop_limit;
    if packet.source.as_v4().is_some() || packet.destination.as_v4().is_some() {
        return Err(Reason::Malformed);
    }
    let mut next = header.next_header;
    let mut offset = first;
    for walked in 0..=MAX_EXTENSIONS {
        let known = next == next::HOP_BY_HOP
            || next == next::ROUTING
            || next == next::FRAGMENT
            || next == next::DESTINATION;
        if !known {
            break;
        }
        if walked == MAX_EXTENSIONS {
            return Err(Reason::TooManyHeaders);
        }
        let extension: Extension = frame.load(offset).ok_or(Reason::Malformed)?;
        let mut length = 8;
        if next == next::FRAGMENT {
            let detail = extension.detail.get();
            packet.fragment = fragment(u32::from(detail & 0xfff8), detail & 1 != 0);
        } else {
            packet.flags |= packet_flags::OPTIONS;
            length += u32::from(extension.length) << 3;
            if next == next::ROUTING && extension.detail.get() & 0xff != 0 {
                packet.flags |= packet_flags::SOURCE_ROUTE;
            }
            if next == next::HOP_BY_HOP && walked != 0 {
                return Err(Reason::Malformed);
            }
        }
        offset += length;
        next = extension.next_header;
        if offset > packet.end {
            return Err(Reason::Malformed);
        }
        // What follows is in the middle of something.
        if packet.fragment == Fragment::Later {
            break;
        }
    }
    packet.transport = offset;
    packet.protocol = next;
    Ok(())
}

impl Ipv4Header {
    /// Bytes from the start of this header to the transport header.
    #[inline(always)]
    pub const fn header_length(&self) -> u32 {
        ((self.version_and_length & 0xf) as u32) << 2
    }
}

impl Packet {
    /// Whether the protocol has ports that services are named by.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        self.protocol == protocol::TCP || self.protocol == protocol::UDP
    }

    /// The ports, where at least as much is there as an ICMP error has to quote.
    #[inline(always)]
    pub fn ports<F: Frame>(&self, frame: &F) -> Option<Ports> {
        if self.transport + 8 > self.end {
            return None;
        }
        frame.load(self.transport)
    }
}

#[cfg(test)]
mod tests;
