//! How long connections to services take to open: from connect() until the answer of the backend.
//!
//! The kernel calls this for every TCP socket, at several moments of its life; all but one cost a
//! comparison.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, bpf_sock_ops};
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use bowline_ebpf_abi::{
    Address, Direction, Event, Frontend, NO_SERVICE, Reason, ServiceKey, U16Be, U32Be, protocol,
};
use bowline_ebpf_datapath::{ServiceMaps, opened};

use crate::maps::{KernelMaps, count_connect_time};
use crate::monitor::{listens, tell_connected};

/// Has no opinion on what the kernel asks.
const NEXT: u32 = 1;
const AF_INET: u32 = 2;

#[sock_ops]
pub fn established(ctx: SockOpsContext) -> u32 {
    if ctx.op() == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        connected(&ctx);
    }
    NEXT
}

#[inline(always)]
fn connected(ctx: &SockOpsContext) {
    // SAFETY: the context is the one that the kernel gave.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let (address, port) = remote(ctx.ops);
    let Some((since, name)) = opened(&KernelMaps, cookie, &address, port) else {
        return;
    };
    let now = KernelMaps.now_ns();
    let took = now.saturating_sub(since);
    count_connect_time(took);
    if listens(Reason::Connected as u16) {
        let (source, source_port) = local(ctx.ops);
        tell_connected(&Event {
            time_ns: now,
            netns: 0,
            source,
            destination: name.address,
            becomes: address,
            source_port,
            destination_port: name.port,
            becomes_port: port,
            protocol: protocol::TCP,
            tcp_flags: 0,
            reason: Reason::Connected as u16,
            direction: Direction::Socket as u16,
            ifindex: 0,
            bytes: 0,
            service: service_of(&name),
            connect_ns: took,
        });
    }
}

/// The service that has this name now.
#[inline(always)]
fn service_of(name: &Frontend) -> u32 {
    let key = ServiceKey::new(name.address, name.port, protocol::TCP);
    KernelMaps.service(&key).map_or(NO_SERVICE, |service| service.id)
}

/// The other end.
#[inline(always)]
fn remote(ops: *mut bpf_sock_ops) -> (Address, U16Be) {
    // SAFETY: the kernel gives a valid context. Volatile keeps each read as wide as the field,
    // which is what the verifier allows, and where it is.
    unsafe {
        let v4 = (&raw const (*ops).remote_ip4).read_volatile();
        let v6 = [
            (&raw const (*ops).remote_ip6[0]).read_volatile(),
            (&raw const (*ops).remote_ip6[1]).read_volatile(),
            (&raw const (*ops).remote_ip6[2]).read_volatile(),
            (&raw const (*ops).remote_ip6[3]).read_volatile(),
        ];
        // As in the packet, in the upper half.
        let port = (&raw const (*ops).remote_port).read_volatile();
        (address(ops, v4, v6), U16Be::from_bits((port >> 16) as u16))
    }
}

/// The client's end.
#[inline(always)]
fn local(ops: *mut bpf_sock_ops) -> (Address, U16Be) {
    // SAFETY: as above.
    unsafe {
        let v4 = (&raw const (*ops).local_ip4).read_volatile();
        let v6 = [
            (&raw const (*ops).local_ip6[0]).read_volatile(),
            (&raw const (*ops).local_ip6[1]).read_volatile(),
            (&raw const (*ops).local_ip6[2]).read_volatile(),
            (&raw const (*ops).local_ip6[3]).read_volatile(),
        ];
        // A number, unlike the other end's.
        let port = (&raw const (*ops).local_port).read_volatile();
        (address(ops, v4, v6), U16Be::new(port as u16))
    }
}

/// The one of the socket's family. Both are read before: the verifier wants no address of a field
/// that is chosen.
#[inline(always)]
fn address(ops: *mut bpf_sock_ops, v4: u32, v6: [u32; 4]) -> Address {
    // SAFETY: as above.
    match unsafe { (&raw const (*ops).family).read_volatile() } {
        AF_INET => Address::from_v4(U32Be::from_bits(v4)),
        _ => Address::from_words(v6.map(U32Be::from_bits)),
    }
}
