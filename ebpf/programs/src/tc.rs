//! Packets at the host side of pods' veths, at the uplink and at the tunnel device.
//!
//! One view of the packet for both families is read, `bowline-ebpf-datapath` decides, and this
//! file writes: with the kernel's helpers where checksums or late segmentation hang on it, so that
//! what the card or the receiver has yet to do stays possible. What is a function of its own in the
//! object (`inline(never)`) is one to keep within the kernel's 512 bytes of stack.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT,
    TC_ACT_UNSPEC,
};
use aya_ebpf::helpers::{bpf_csum_update, bpf_redirect_peer, bpf_skb_load_bytes};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use bowline_ebpf_abi::{Address, Direction, Mac, Plain, Reason, U16Be, protocol};
use bowline_ebpf_datapath as datapath;
use bowline_ebpf_datapath::{
    Change, Delta, ETHERNET, Extent, Family, Fragment, Frame, IP_CHECKSUM, Ipv4Header, Packet,
    Ports, Quote, Verdict, Work, packet_flags, parse,
};

use crate::maps::{KernelMaps, count, count_code, count_service_packet, is_taking_over, work};
use crate::monitor::{Seen, listens, tell_packet, tell_unread};
use crate::way::{from_tunnel, redirect, to_node, to_tunnel};

/// Leave the packet to whatever comes after this program, in the end the node's stack.
const NEXT: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT as i32;

/// What the Ethernet header says follows.
mod ether {
    use bowline_ebpf_abi::U16Be;
    pub(super) const IPV4: u16 = U16Be::new(0x0800).bits();
    pub(super) const ARP: u16 = U16Be::new(0x0806).bits();
    pub(super) const IPV6: u16 = U16Be::new(0x86dd).bits();
    pub(super) const VLAN: u16 = U16Be::new(0x8100).bits();
    pub(super) const SERVICE_VLAN: u16 = U16Be::new(0x88a8).bits();
}

/// From the header that the name says on.
mod offset {
    pub(super) const TCP_CHECKSUM: u32 = 16;
    pub(super) const UDP_CHECKSUM: u32 = 6;
    pub(super) const ICMP_CHECKSUM: u32 = 2;
    pub(super) const HOP_LIMIT: u32 = 7;
}

/// `skb->pkt_type` of a frame that is addressed to another machine.
const OTHER_HOST: u32 = 3;

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    if is_taking_over() {
        return NEXT;
    }
    let direction = Direction::FromPod;
    let skb = Skb(ctx.skb.skb);
    let family = match skb.kind() {
        Kind::Ip(family) => family,
        Kind::Arp => return leave(&skb, direction),
        Kind::Vlan => return drop(&skb, Reason::Vlan, direction),
        Kind::Other => return drop(&skb, Reason::UnsupportedProtocol, direction),
    };
    // The stack would not check the source.
    let Some(work) = work() else {
        return drop(&skb, Reason::RewriteFailed, direction);
    };
    if let Err(reason) = view(&skb, family, work) {
        return drop(&skb, reason, direction);
    }
    let verdict = datapath::from_pod(&KernelMaps, &skb, work, skb.ifindex());
    carry_out(&skb, work, verdict, direction)
}

#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    if is_taking_over() {
        return NEXT;
    }
    let direction = Direction::FromUplink;
    let skb = Skb(ctx.skb.skb);
    let Kind::Ip(family) = skb.kind() else {
        return leave(&skb, direction);
    };
    // A bridge may flood frames for other machines; out of a tunnel every frame is for this one.
    if skb.packet_type() == OTHER_HOST && !from_tunnel(skb.0) {
        return leave(&skb, direction);
    }
    let Some(work) = work() else { return NEXT };
    if view(&skb, family, work).is_err() {
        return leave(&skb, direction);
    }
    let verdict = datapath::from_uplink(&KernelMaps, &skb, work);
    carry_out(&skb, work, verdict, direction)
}

#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    if is_taking_over() {
        return NEXT;
    }
    let direction = Direction::ToPod;
    let skb = Skb(ctx.skb.skb);
    let Kind::Ip(family) = skb.kind() else {
        return leave(&skb, direction);
    };
    let Some(work) = work() else { return NEXT };
    if view(&skb, family, work).is_err() {
        return leave(&skb, direction);
    }
    let verdict = datapath::to_pod(&KernelMaps, &skb, work);
    carry_out(&skb, work, verdict, direction)
}

/// What a frame carries.
enum Kind {
    Ip(Family),
    Arp,
    Vlan,
    Other,
}

/// The kernel's packet.
struct Skb(*mut __sk_buff);

impl Skb {
    #[inline(always)]
    fn context(&self) -> TcContext {
        TcContext::new(self.0)
    }

    #[inline(always)]
    fn kind(&self) -> Kind {
        // SAFETY: the context is the kernel's, here and in the other functions.
        let (kind, vlan) = unsafe { ((*self.0).protocol as u16, (*self.0).vlan_present) };
        match kind {
            _ if vlan != 0 => Kind::Vlan,
            ether::IPV4 => Kind::Ip(Family::V4),
            ether::IPV6 => Kind::Ip(Family::V6),
            ether::ARP => Kind::Arp,
            ether::VLAN | ether::SERVICE_VLAN => Kind::Vlan,
            _ => Kind::Other,
        }
    }

    #[inline(always)]
    fn packet_type(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).pkt_type }
    }

    #[inline(always)]
    fn store<T>(&self, offset: u32, value: &T) -> Option<()> {
        self.context().store(offset as usize, value, 0).ok()
    }

    /// An address in an IP header. IPv4 is the mapped form's last word.
    #[inline(always)]
    fn store_address(&self, offset: u32, family: Family, address: &Address) -> Option<()> {
        match family {
            Family::V4 => self.store(offset, &address.words()[3]),
            Family::V6 => self.store(offset, address.words()),
        }
    }
}

impl Frame for Skb {
    #[inline(always)]
    fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        let mut into = MaybeUninit::<T>::uninit();
        let at = into.as_mut_ptr().cast();
        // SAFETY: the helper checks the packet's bounds and fills exactly `into`, with zeros where
        // it fails; `T` is valid for every bit pattern.
        unsafe {
            let size = size_of::<T>() as u32;
            match bpf_skb_load_bytes(self.0.cast_const().cast(), offset, at, size) {
                0 => Some(into.assume_init()),
                _ => None,
            }
        }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).len }
    }
}

impl Seen for Skb {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    fn copy_to(&self, into: *mut u8, length: u32) -> bool {
        // SAFETY: the caller has room for as many bytes, and the helper checks the packet's bounds.
        unsafe { bpf_skb_load_bytes(self.0.cast_const().cast(), 0, into.cast(), length) == 0 }
    }
}

#[inline(never)]
fn view(skb: &Skb, family: Family, work: &mut Work) -> Result<(), Reason> {
    parse(skb, ETHERNET, family, Extent::Whole, &mut work.packet)
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

#[inline(always)]
fn leave(skb: &Skb, direction: Direction) -> i32 {
    count(Reason::Stack, direction, skb.length());
    NEXT
}

/// Drops what was not read, or could not be written.
#[inline(always)]
fn drop(skb: &Skb, reason: Reason, direction: Direction) -> i32 {
    count(reason, direction, skb.length());
    if listens(reason as u16)
        && let Some(work) = work()
    {
        tell_unread(skb, work, reason as u16, direction);
    }
    DROP
}

/// Does what was decided, and counts it.
#[inline(always)]
fn carry_out(skb: &Skb, work: &mut Work, verdict: Verdict, direction: Direction) -> i32 {
    // As it came in: the packet changes below.
    let reason = match verdict {
        Verdict::Drop => work.reason.number(),
        _ if work.rewrite.change != Change::Nothing => work.reason.number(),
        Verdict::Stack => Reason::Stack as u16,
        Verdict::Pod => Reason::LocalPod as u16,
        Verdict::Node | Verdict::Tunnel => Reason::RemoteNode as u16,
    };
    if listens(reason) {
        tell_packet(skb, work, reason, direction);
    }
    if verdict == Verdict::Drop {
        count_code(work.reason, direction, skb.length());
        return DROP;
    }
    if work.packet.fragment != Fragment::Whole {
        count(Reason::Fragment, direction, skb.length());
    }
    if work.packet.flags & packet_flags::OPTIONS != 0 {
        count(Reason::IpOptions, direction, skb.length());
    }
    if work.rewrite.change != Change::Nothing {
        let written = match work.rewrite.change {
            Change::Quoted => translate_quoted(skb, work),
            _ => translate(skb, work),
        };
        if written.is_none() {
            return drop(skb, Reason::RewriteFailed, direction);
        }
        count_code(work.reason, direction, skb.length());
        count_service_packet(work.rewrite.service, skb.length());
    }
    if verdict == Verdict::Stack {
        return leave(skb, direction);
    }
    if verdict == Verdict::Tunnel && !to_tunnel(skb.0, &work.way.node) || !hop(skb, work, verdict) {
        return drop(skb, Reason::RewriteFailed, direction);
    }
    if verdict == Verdict::Pod {
        count(Reason::LocalPod, direction, skb.length());
        // SAFETY: the helper checks the index.
        return unsafe { bpf_redirect_peer(work.way.ifindex, 0) as i32 };
    }
    count(Reason::RemoteNode, direction, skb.length());
    if verdict == Verdict::Tunnel {
        return redirect(work.way.ifindex);
    }
    to_node(work.way.ifindex, &work.way.node)
}

/// What a router does at each hop: one less to live, and the next hop's hardware address.
#[inline(always)]
fn hop(skb: &Skb, work: &Work, verdict: Verdict) -> bool {
    let packet = &work.packet;
    let ctx = skb.context();
    if packet.family == Family::V6 {
        let left = packet.hop_limit - 1;
        let at = (ETHERNET + offset::HOP_LIMIT) as usize;
        // No checksum in the header makes up for it, so the card's sum has to be told.
        if ctx.store(at, &left, u64::from(BPF_F_RECOMPUTE_CSUM)).is_err() {
            return false;
        }
    }
    const FRAME: usize = ETHERNET as usize + size_of::<Ipv4Header>();
    if header_at::<[u8; FRAME]>(&ctx, 0).is_none() && ctx.pull_data(FRAME as u32).is_err() {
        return false;
    }
    let Some(frame) = header_at::<[u8; FRAME]>(&ctx, 0) else {
        return false;
    };
    let ethernet = frame.cast::<Mac>();
    // SAFETY: `header_at` checked the bounds of both headers; the target writes unaligned words.
    unsafe {
        if packet.family == Family::V4 {
            let ip = frame.byte_add(ETHERNET as usize).cast::<Ipv4Header>();
            (*ip).time_to_live -= 1;
            // One less in the high byte of a word is one more in the complement's (RFC 1141).
            let sum = u32::from((*ip).checksum.bits()) + u32::from(U16Be::new(0x0100).bits());
            (*ip).checksum = U16Be::from_bits((sum + (sum >= 0xffff) as u32) as u16);
        }
        if verdict == Verdict::Pod {
            *ethernet.add(1) = *ethernet;
            *ethernet = work.way.mac;
        }
    }
    true
}

/// Where the two addresses lie in an IP header.
#[inline(always)]
const fn addresses_at(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (12, 16),
        Family::V6 => (8, 24),
    }
}

/// Writes both addresses of the packet, and its header's checksum.
#[inline(always)]
fn readdress(skb: &Skb, packet: &Packet, source: &Address, destination: &Address) -> Option<Delta> {
    let mut delta = Delta::default();
    delta.address(&packet.source, source);
    delta.address(&packet.destination, destination);
    let (source_at, destination_at) = addresses_at(packet.family);
    if packet.family == Family::V4 {
        let at = (packet.network + IP_CHECKSUM) as usize;
        skb.context().l3_csum_replace(at, 0, delta.sum().into(), 0).ok()?;
    }
    skb.store_address(packet.network + source_at, packet.family, source)?;
    skb.store_address(packet.network + destination_at, packet.family, destination)?;
    Some(delta)
}

/// Changes both ends' addresses and ports, and the checksums with them.
#[inline(never)]
fn translate(skb: &Skb, work: &Work) -> Option<()> {
    let (packet, ends) = (&work.packet, &work.rewrite.ends);
    let old: Ports = skb.load(packet.transport)?;
    let new = Ports { source: ends.source.port, destination: ends.destination.port };
    let (checksum, mangled) = match packet.protocol {
        protocol::TCP => (offset::TCP_CHECKSUM, 0),
        _ => (offset::UDP_CHECKSUM, u64::from(BPF_F_MARK_MANGLED_0)),
    };
    let checksum_at = (packet.transport + checksum) as usize;
    let addresses = readdress(skb, packet, &ends.source.address, &ends.destination.address)?;
    let mut ports = Delta::default();
    ports.word(old.source, new.source);
    ports.word(old.destination, new.destination);
    let ctx = skb.context();
    // Two steps: of a checksum that is yet to be computed only the addresses' part is there.
    let pseudo = u64::from(BPF_F_PSEUDO_HDR) | mangled;
    ctx.l4_csum_replace(checksum_at, 0, addresses.sum().into(), pseudo).ok()?;
    ctx.l4_csum_replace(checksum_at, 0, ports.sum().into(), mangled).ok()?;
    if packet.family == Family::V6 {
        // The helper reckons with a header checksum that makes up for the addresses, in the sum
        // that a card may have taken over the packet. IPv6 has none.
        // SAFETY: the context is the kernel's.
        unsafe { bpf_csum_update(skb.0, addresses.sum()) };
    }
    skb.store(packet.transport, &[new.source, new.destination])
}

/// Translates the packet that an ICMP error quotes, and the error's own addresses.
#[inline(never)]
fn translate_quoted(skb: &Skb, work: &Work) -> Option<()> {
    let (packet, inner, ends) = (&work.packet, &work.inner, &work.rewrite.ends);
    let quote = Quote::of(skb, inner, ends)?;
    let (source_at, destination_at) = addresses_at(inner.family);
    let family = inner.family;
    skb.store_address(inner.network + source_at, family, &ends.destination.address)?;
    skb.store_address(inner.network + destination_at, family, &ends.source.address)?;
    if family == Family::V4 {
        skb.store(inner.network + IP_CHECKSUM, &quote.ip_checksum)?;
    }
    skb.store(inner.transport, &[quote.ports.source, quote.ports.destination])?;
    if quote.checksum_at != 0 {
        skb.store(quote.checksum_at, &quote.checksum)?;
    }
    // Routers on the way speak for themselves; the other end does so under its service's name.
    let from_the_end = packet.source.same(&inner.destination);
    let source = if from_the_end { ends.source.address } else { packet.source };
    let own = readdress(skb, packet, &source, &ends.destination.address)?;
    let mut sum = quote.delta;
    if family == Family::V6 {
        sum.add(own);
    }
    let at = (packet.transport + offset::ICMP_CHECKSUM) as usize;
    skb.context().l4_csum_replace(at, 0, sum.sum().into(), 0).ok()
}
