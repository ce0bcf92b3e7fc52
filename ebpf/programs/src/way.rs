//! The ways out to another node, and the way in from one through the tunnel.

use core::mem::offset_of;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_TUNINFO_IPV6, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
};
use aya_ebpf::helpers::{
    bpf_redirect, bpf_redirect_neigh, bpf_skb_change_type, bpf_skb_get_tunnel_key,
    bpf_skb_set_tunnel_key,
};
use bowline_ebpf_abi::{Address, TUNNEL_ID, U32Be};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// `skb->pkt_type` of a frame that is addressed to this machine.
const THIS_HOST: u32 = 0;
/// What a router gives a packet of its own to live.
const HOPS: u8 = 64;

/// The kernel's `bpf_tunnel_key` as far as Linux 5.10 knows it; later ones take this size, too.
#[repr(C)]
struct TunnelKey {
    id: u32,
    /// IPv4 in the machine's byte order in the first word, or IPv6 as it stands in a packet.
    remote: [u32; 4],
    service_class: u8,
    hop_limit: u8,
    extension: u16,
    label: u32,
}

const _: () = assert!(size_of::<TunnelKey>() == 28 && offset_of!(TunnelKey, label) == 24);

/// Hands the packet to the kernel's neighbour table for the other node.
#[inline(always)]
pub fn to_node(ifindex: u32, node: &Address) -> i32 {
    // An IPv4 address is the mapped form's last word. The kernel reads no further for it, but
    // wants the rest to be set; zeros would become a call to memset.
    let words = node.words().map(U32Be::bits);
    let [first, second, third, last] = words;
    let (family, next) = match node.as_v4() {
        Some(_) => (AF_INET, [last, first, second, third]),
        None => (AF_INET6, words),
    };
    let mut next = bpf_redir_neigh {
        nh_family: family,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: next },
    };
    // SAFETY: the helper reads exactly `next`.
    unsafe {
        bpf_redirect_neigh(ifindex, &raw mut next, size_of::<bpf_redir_neigh>() as i32, 0) as i32
    }
}

/// Names the other node as the remote end for the tunnel device that the packet goes to next.
#[inline(always)]
pub fn to_tunnel(skb: *mut __sk_buff, node: &Address) -> bool {
    let words = node.words().map(U32Be::bits);
    let [first, second, third, _] = words;
    let (remote, flags) = match node.as_v4() {
        Some(v4) => ([v4.get(), first, second, third], 0),
        None => (words, u64::from(BPF_F_TUNINFO_IPV6)),
    };
    let mut key = TunnelKey {
        id: TUNNEL_ID,
        remote,
        service_class: 0,
        hop_limit: HOPS,
        extension: 0,
        label: 0,
    };
    // SAFETY: the helper reads exactly `key`.
    let failed = unsafe {
        bpf_skb_set_tunnel_key(skb, (&raw mut key).cast(), size_of::<TunnelKey>() as u32, flags)
    };
    failed == 0
}

/// Whether the packet came out of a tunnel; if so it is marked as one for this machine, because
/// the inner frame's hardware address means nothing here.
#[inline(always)]
pub fn from_tunnel(skb: *mut __sk_buff) -> bool {
    let mut key = TunnelKey {
        id: 0,
        remote: [0, 1, 2, 3],
        service_class: 0,
        hop_limit: 0,
        extension: 0,
        label: 0,
    };
    let (at, size) = ((&raw mut key).cast(), size_of::<TunnelKey>() as u32);
    // SAFETY: the helper fills exactly `key`, and the context is the kernel's.
    unsafe {
        let known = bpf_skb_get_tunnel_key(skb, at, size, 0) == 0
            || bpf_skb_get_tunnel_key(skb, at, size, u64::from(BPF_F_TUNINFO_IPV6)) == 0;
        known && bpf_skb_change_type(skb, THIS_HOST) == 0
    }
}

/// Out of this device, as the packet is.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i32 {
    // SAFETY: the helper checks the index.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}
