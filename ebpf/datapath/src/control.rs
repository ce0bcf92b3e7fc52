//! ICMP for both families: what kind of message a packet is, and the packet that an error quotes.

use crate::abi::{Reason, protocol};
use crate::packet::{Extent, Family, Fragment, Frame, Packet, parse};

/// Bytes from the ICMP header to the packet that an error quotes.
const QUOTE: u32 = 8;

/// What a packet is as far as ICMP goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// No ICMP, or a message between two hosts: echo and the like.
    Other,
    /// An error about another packet (RFC 792, RFC 4443).
    Error,
    /// Neighbour or router solicitation, or neighbour advertisement, that has passed no router
    /// (RFC 4861).
    Neighbor,
    /// What only routers send: a redirect, a router advertisement.
    Router,
}

/// What this packet is.
#[inline(always)]
pub(crate) fn control<F: Frame>(frame: &F, packet: &Packet) -> Result<Control, Reason> {
    let number = match packet.family {
        Family::V4 => protocol::ICMP,
        Family::V6 => protocol::ICMPV6,
    };
    if packet.protocol != number || packet.fragment == Fragment::Later {
        return Ok(Control::Other);
    }
    if packet.transport + QUOTE > packet.end {
        return Err(Reason::Malformed);
    }
    let kind: u8 = frame.load(packet.transport).ok_or(Reason::Malformed)?;
    Ok(match packet.family {
        Family::V4 => match kind {
            3 | 4 | 11 | 12 => Control::Error,
            5 | 9 => Control::Router,
            _ => Control::Other,
        },
        Family::V6 => match kind {
            0..=127 => Control::Error,
            133 | 135 | 136 if packet.hop_limit == 255 => Control::Neighbor,
            134 | 137 => Control::Router,
            _ => Control::Other,
        },
    })
}

/// Reads the packet that an ICMP error quotes.
#[inline(always)]
pub(crate) fn quoted<F: Frame>(
    frame: &F,
    packet: &Packet,
    inner: &mut Packet,
) -> Result<(), Reason> {
    let at = packet.transport + QUOTE;
    parse(frame, at, packet.family, Extent::Quoted, inner)?;
    // The frame may be padded beyond the packet.
    if inner.transport > packet.end {
        return Err(Reason::Malformed);
    }
    inner.end = packet.end;
    Ok(())
}
