//! The packet that an ICMP error quotes, translated back: what has to be written where.
//!
//! Guarantees: all checksums that are quoted stay as right (or as wrong) as they were. Eight bytes
//! of a transport header are enough (RFC 792); a checksum that was cut off is left out.

use crate::abi::{U16Be, protocol};
use crate::checksum::Delta;
use crate::flows::Ends;
use crate::packet::{Family, Frame, Packet, Ports};

/// Where the checksum of an IPv4 header lies in it.
pub const IP_CHECKSUM: u32 = 10;

/// What changes in a quoted packet, beside its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    pub ports: Ports,
    /// Of an IPv4 header.
    pub ip_checksum: U16Be,
    pub checksum: U16Be,
    /// Where the transport's checksum lies; zero when it is not there to be changed.
    pub checksum_at: u32,
    /// Of everything that an ICMP checksum covers, the error's own addresses left out.
    pub delta: Delta,
}

impl Quote {
    /// `ends` are those of the error: the quoted packet went the other way.
    #[inline(always)]
    pub fn of<F: Frame>(frame: &F, inner: &Packet, ends: &Ends) -> Option<Self> {
        let ports = Ports { source: ends.destination.port, destination: ends.source.port };
        let mut delta = Delta::default();
        delta.address(&inner.source, &ends.destination.address);
        delta.address(&inner.destination, &ends.source.address);
        let mut ip_checksum = U16Be::new(0);
        let mut total = delta;
        if inner.family == Family::V4 {
            let old: U16Be = frame.load(inner.network + IP_CHECKSUM)?;
            ip_checksum = delta.adjusted(old);
            total.word(old, ip_checksum);
        }
        let old_ports: Ports = frame.load(inner.transport)?;
        for changed in [&mut delta, &mut total] {
            changed.word(old_ports.source, ports.source);
            changed.word(old_ports.destination, ports.destination);
        }
        let udp = inner.protocol == protocol::UDP;
        let mut checksum_at = inner.transport + if udp { 6 } else { 16 };
        let mut checksum = U16Be::new(0);
        if checksum_at + 2 > inner.end {
            checksum_at = 0;
        } else {
            let old: U16Be = frame.load(checksum_at)?;
            if udp && old.bits() == 0 {
                checksum_at = 0;
            } else {
                checksum = delta.adjusted(old);
                if udp && checksum.bits() == 0 {
                    checksum = U16Be::from_bits(0xffff);
                }
                total.word(old, checksum);
            }
        }
        Some(Self { ports, ip_checksum, checksum, checksum_at, delta: total })
    }
}
