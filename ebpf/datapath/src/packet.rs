//! The few header fields that decisions need.

use crate::abi::{Address, Reason, U16Be, U32Be, protocol};

/// An IPv4 header as it stands in the packet, without options.
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

const _: () = assert!(size_of::<Ipv4Header>() == 20);

/// More-fragments flag and offset, in network order.
const FRAGMENT_BITS: U16Be = U16Be::new(0x3fff);

impl Ipv4Header {
    #[inline(always)]
    pub fn source(&self) -> Address {
        Address::from_v4(self.source)
    }

    #[inline(always)]
    pub fn destination(&self) -> Address {
        Address::from_v4(self.destination)
    }

    /// Bytes from the start of this header to the transport header.
    #[inline(always)]
    pub fn header_length(&self) -> u32 {
        ((self.version_and_length & 0xf) as u32) << 2
    }

    /// Whether the header is one that can be trusted to be IPv4.
    #[inline(always)]
    pub fn check(&self) -> Result<(), Reason> {
        if self.version_and_length >> 4 != 4 || self.version_and_length & 0xf < 5 {
            return Err(Reason::Malformed);
        }
        Ok(())
    }

    /// Whether this is one piece of a larger packet: only the first has ports.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.fragment.bits() & FRAGMENT_BITS.bits() != 0
    }

    /// Whether the protocol has ports that services are named by.
    #[inline(always)]
    pub fn has_ports(&self) -> bool {
        self.protocol == protocol::TCP || self.protocol == protocol::UDP
    }
}

/// Source and destination port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    pub source: U16Be,
    pub destination: U16Be,
}

/// What lies after the IP header; read only by packets that need it.
pub trait Transport {
    /// Absent when the packet is too short.
    fn ports(&self) -> Option<Ports>;
    /// A TCP packet with SYN and without ACK.
    fn opens_connection(&self) -> bool;
}
