//! Packets at the host side of pods' veths and at the uplink.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::bindings::{
    BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh,
    bpf_redir_neigh__bindgen_ty_1,
};
use aya_ebpf::helpers::{bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_load_bytes};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use bowline_ebpf_abi::{Address, Direction, Mac, Reason, U16Be, U32Be, protocol};
use bowline_ebpf_datapath as datapath;
use bowline_ebpf_datapath::{Decision, Ipv4Header, Ports, Rewrite, Side, Transport, Verdict};

use crate::maps::{KernelMaps, count, count_service_packet};

const ETHERNET: u32 = 14;
/// Both headers that every packet has.
const FRAME: usize = ETHERNET as usize + size_of::<Ipv4Header>();
const IPV4: U16Be = U16Be::new(0x0800);
const ARP: U16Be = U16Be::new(0x0806);
const AF_INET: u32 = 2;

/// Leave the packet to whatever comes after this program, in the end the node's stack.
const NEXT: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT as i32;

/// Where fields lie in the packet.
mod offset {
    use super::ETHERNET;
    pub const IP_CHECKSUM: u32 = ETHERNET + 10;
    pub const IP_SOURCE: u32 = ETHERNET + 12;
    pub const IP_DESTINATION: u32 = ETHERNET + 16;
    /// From the transport header on.
    pub const TCP_FLAGS: u32 = 13;
    pub const TCP_CHECKSUM: u32 = 16;
    pub const UDP_CHECKSUM: u32 = 6;
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let ip = match ipv4(&ctx) {
        Ok(ip) => ip,
        Err(NotIpv4::Arp) => return leave(&ctx, Direction::FromPod),
        Err(NotIpv4::Short) => return drop(&ctx, Reason::Malformed, Direction::FromPod),
        Err(NotIpv4::Other) => {
            return drop(&ctx, Reason::UnsupportedProtocol, Direction::FromPod);
        }
    };
    let segment = Segment::of(&ctx, &ip);
    // SAFETY: the context is the kernel's.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let decision = datapath::from_pod(&KernelMaps, &ip, &segment, ifindex);
    carry_out(&ctx, &ip, &decision, Direction::FromPod)
}

#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let Ok(ip) = ipv4(&ctx) else {
        return leave(&ctx, Direction::FromUplink);
    };
    let segment = Segment::of(&ctx, &ip);
    let decision = datapath::from_uplink(&KernelMaps, &ip, &segment);
    carry_out(&ctx, &ip, &decision, Direction::FromUplink)
}

#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let Ok(ip) = ipv4(&ctx) else {
        return leave(&ctx, Direction::ToPod);
    };
    let segment = Segment::of(&ctx, &ip);
    let decision = datapath::to_pod(&KernelMaps, &ip, &segment);
    carry_out(&ctx, &ip, &decision, Direction::ToPod)
}

/// Why there is no IPv4 header to look at.
enum NotIpv4 {
    Arp,
    Short,
    Other,
}

#[inline(always)]
fn ipv4(ctx: &TcContext) -> Result<Ipv4Header, NotIpv4> {
    // SAFETY: the context is the kernel's.
    let kind = U16Be::from_bits(unsafe { (*ctx.skb.skb).protocol } as u16);
    if kind.bits() != IPV4.bits() {
        return Err(if kind.bits() == ARP.bits() { NotIpv4::Arp } else { NotIpv4::Other });
    }
    if let Some(header) = header_at::<Ipv4Header>(ctx, ETHERNET) {
        // SAFETY: `header_at` checked the bounds; the target reads unaligned words.
        return Ok(unsafe { *header });
    }
    // The header is not in the linear part of the buffer.
    if ctx.pull_data(ETHERNET + size_of::<Ipv4Header>() as u32).is_err() {
        return Err(NotIpv4::Short);
    }
    match header_at::<Ipv4Header>(ctx, ETHERNET) {
        // SAFETY: as above.
        Some(header) => Ok(unsafe { *header }),
        None => Err(NotIpv4::Short),
    }
}

/// A pointer into the packet, if all of `T` lies in the linear part.
#[inline(always)]
fn header_at<T>(ctx: &TcContext, offset: u32) -> Option<*mut T> {
    let start = ctx.data() + offset as usize;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    Some(start as *mut T)
}

/// The transport header, read only when somebody asks.
struct Segment<'a> {
    ctx: &'a TcContext,
    offset: u32,
}

impl<'a> Segment<'a> {
    #[inline(always)]
    fn of(ctx: &'a TcContext, ip: &Ipv4Header) -> Self {
        Self { ctx, offset: ETHERNET + ip.header_length() }
    }

    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32, mut into: T) -> Option<T> {
        // SAFETY: the helper checks the packet's bounds and fills exactly `into`.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.ctx.skb.skb as *const c_void,
                self.offset + offset,
                (&raw mut into).cast(),
                size_of::<T>() as u32,
            )
        };
        if failed == 0 { Some(into) } else { None }
    }
}

impl Transport for Segment<'_> {
    #[inline(always)]
    fn ports(&self) -> Option<Ports> {
        self.load(0, Ports::default())
    }

    #[inline(always)]
    fn opens_connection(&self) -> bool {
        match self.load(offset::TCP_FLAGS, 0u8) {
            Some(flags) => flags & (SYN | ACK) == SYN,
            None => false,
        }
    }
}

#[inline(always)]
fn leave(ctx: &TcContext, direction: Direction) -> i32 {
    count(Reason::Stack, direction, ctx.len());
    NEXT
}

#[inline(always)]
fn drop(ctx: &TcContext, reason: Reason, direction: Direction) -> i32 {
    count(reason, direction, ctx.len());
    DROP
}

/// Does what was decided, and counts it.
#[inline(always)]
fn carry_out(ctx: &TcContext, ip: &Ipv4Header, decision: &Decision, direction: Direction) -> i32 {
    if decision.verdict == Verdict::Drop {
        return drop(ctx, decision.reason, direction);
    }
    let rewrite = &decision.rewrite;
    if rewrite.side != Side::Neither {
        if translate(ctx, ip, rewrite).is_none() {
            return drop(ctx, Reason::RewriteFailed, direction);
        }
        let translated = match rewrite.side {
            Side::Destination => Reason::Balanced,
            _ => Reason::AnswerTranslated,
        };
        count(translated, direction, ctx.len());
        count_service_packet(rewrite.service, ctx.len());
    }
    match decision.verdict {
        Verdict::Pod if hop(ctx, Some(decision.mac)) => {
            count(Reason::LocalPod, direction, ctx.len());
            // SAFETY: the helper checks the index.
            unsafe { bpf_redirect_peer(decision.ifindex, 0) as i32 }
        }
        Verdict::Node if hop(ctx, None) => {
            count(Reason::RemoteNode, direction, ctx.len());
            to_node(decision.ifindex, &decision.node)
        }
        Verdict::Stack => leave(ctx, direction),
        _ => drop(ctx, Reason::RewriteFailed, direction),
    }
}

/// Hands the packet to the kernel's neighbour table for the other node.
#[inline(always)]
fn to_node(ifindex: u32, node: &Address) -> i32 {
    // The address in network order is the mapped form's last word. The kernel reads no further
    // for IPv4, but wants the rest to be set; zeros would become a call to memset.
    let [first, second, third, address] = node.words().map(U32Be::bits);
    let mut next = bpf_redir_neigh {
        nh_family: AF_INET,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
            ipv6_nh: [address, first, second, third],
        },
    };
    // SAFETY: the helper reads exactly `next`.
    unsafe {
        bpf_redirect_neigh(ifindex, &raw mut next, size_of::<bpf_redir_neigh>() as i32, 0) as i32
    }
}

/// What a router does at each hop: one less to live, and the next hop's hardware address.
#[inline(always)]
fn hop(ctx: &TcContext, mac: Option<Mac>) -> bool {
    let Some(frame) = header_at::<[u8; FRAME]>(ctx, 0) else {
        return false;
    };
    let ethernet = frame.cast::<Mac>();
    // SAFETY: `header_at` checked the bounds of both headers; the target writes unaligned words.
    unsafe {
        let ip = frame.byte_add(ETHERNET as usize).cast::<Ipv4Header>();
        (*ip).time_to_live -= 1;
        // One less in the high byte of a word is one more in the complement's (RFC 1141).
        let sum = u32::from((*ip).checksum.bits()) + u32::from(U16Be::new(0x0100).bits());
        (*ip).checksum = U16Be::from_bits((sum + (sum >= 0xffff) as u32) as u16);
        if let Some(mac) = mac {
            *ethernet.add(1) = *ethernet;
            *ethernet = mac;
        }
    }
    true
}

/// Changes one end's address and port, and both checksums with them.
#[inline(always)]
fn translate(ctx: &TcContext, ip: &Ipv4Header, rewrite: &Rewrite) -> Option<()> {
    let transport = ETHERNET + ip.header_length();
    let (address_at, port_at) = match rewrite.side {
        Side::Source => (offset::IP_SOURCE, transport),
        Side::Destination => (offset::IP_DESTINATION, transport + 2),
        Side::Neither => return Some(()),
    };
    let (checksum_at, mangled) = match ip.protocol {
        protocol::TCP => (transport + offset::TCP_CHECKSUM, 0),
        _ => (transport + offset::UDP_CHECKSUM, u64::from(BPF_F_MARK_MANGLED_0)),
    };
    let (old, new) = (rewrite.old_address.words()[3].bits(), rewrite.address.words()[3].bits());
    let (old_port, new_port) = (rewrite.old_port.bits(), rewrite.port.bits());
    let pseudo = u64::from(BPF_F_PSEUDO_HDR) | mangled;
    let skb = &ctx.skb;
    skb.l4_csum_replace(checksum_at as usize, old.into(), new.into(), pseudo | 4).ok()?;
    skb.l4_csum_replace(checksum_at as usize, old_port.into(), new_port.into(), mangled | 2)
        .ok()?;
    skb.l3_csum_replace(offset::IP_CHECKSUM as usize, old.into(), new.into(), 4).ok()?;
    skb.store(address_at as usize, &new, 0).ok()?;
    skb.store(port_at as usize, &new_port, 0).ok()
}
