//! Socket load balancing: a service's address becomes a backend's when a socket connects or sends,
//! and becomes the service's again when the socket receives or asks for its peer. The packets of
//! such a socket never carry the service's address, so they need no translation.
//!
//! The IPv6 hooks see dual-stack sockets that use an IPv4 address in its mapped form.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::{
    bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_set_retval,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use bowline_ebpf_abi::{
    Address, Backend, Direction, Frontend, NO_SERVICE, Reason, SPREAD, ServiceKey, U16Be, U32Be,
    affinity_kind, protocol,
};
use bowline_ebpf_datapath as datapath;
use bowline_ebpf_datapath::{
    Choice, Client, Conversation, Converse, Near, ServiceMaps, choose, choose_near,
};

use crate::maps::{
    KernelMaps, count, count_connection, count_connection_at, count_refused, edition, in_span,
    line, place_of,
};
use crate::monitor::{tell_balanced, tell_refused};
use crate::settings::{can_set_retval, node_netns};

const REFUSE: i32 = 0;
const ALLOW: i32 = 1;
const ECONNREFUSED: i32 = 111;

/// How the socket's address is laid out in the context.
#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V4)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V6)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    send(&ctx, Family::V4)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send(&ctx, Family::V6)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    name_peer(&ctx, Family::V4, true)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    name_peer(&ctx, Family::V6, true)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    name_peer(&ctx, Family::V4, false)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    name_peer(&ctx, Family::V6, false)
}

/// A new connection goes to a backend chosen at random.
#[inline(always)]
fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    let Some(key) = destination(ctx, family) else {
        return ALLOW;
    };
    if !in_span(&key.address) {
        return ALLOW;
    }
    // SAFETY: the helper takes nothing.
    let pick = || unsafe { bpf_get_prandom_u32() };
    let client = || Some(client(ctx));
    let place = place_of(&key);
    let line = line(&key, place);
    let (near, service) = match line.and_then(|line| choose_near(&key, &line, pick)) {
        Some(near) => {
            count_connection_at(place);
            (near, line.map_or(NO_SERVICE, |line| line.service.id))
        }
        None => match choose(&KernelMaps, &key, line.map(|l| l.service), pick, client) {
            Choice::NotAService => return unless_service(ctx, &key),
            Choice::NoBackend { service } => return refuse_of(ctx, &key, service),
            Choice::Backend { service, backend: Backend { address, port, .. }, .. } => {
                count_connection(service);
                (Near { address, port }, service)
            }
        },
    };
    let Near { address, port } = near;
    let wanted = conversation(cookie(ctx), &key, &address, port, 0);
    // Of UDP, too, where nobody asks for it: the verifier would follow a branch both ways.
    let now = KernelMaps.now_ns();
    if !datapath::connect(&KernelMaps, &wanted, now) {
        return not_stored(ctx, &key, service);
    }
    tell_balanced(&key, &address, port, service, || netns(ctx));
    set_address(ctx, family, &address, port);
    ALLOW
}

/// How many backends are tried for one that the socket does not know by another name.
const NAMES: u32 = 4;

/// Datagrams of one socket go to one backend as long as the set stays as it is. Where two services
/// of the socket share a backend, each gets one of its own if there is any, so that an answer has
/// one name only; otherwise the answer has the name that was used last.
#[inline(always)]
fn send(ctx: &SockAddrContext, family: Family) -> i32 {
    let Some(key) = destination(ctx, family) else {
        return ALLOW;
    };
    if !in_span(&key.address) {
        return ALLOW;
    }
    // Before the choice: what changes after it makes another edition.
    let edition = edition();
    if let Some(peer) = datapath::recall(&KernelMaps, cookie(ctx), &name(&key), edition) {
        set_address(ctx, family, &peer.backend, peer.port);
        return ALLOW;
    }
    let first = hashed(cookie(ctx));
    for attempt in 1..=NAMES {
        // Asked for again: what a verifier has learned of the number, it would follow through all
        // attempts.
        let cookie = cookie(ctx);
        // Steps of a quarter of the set: two are enough to meet another backend.
        let pick = first.wrapping_add((attempt - 1).wrapping_mul(u32::MAX / NAMES));
        // With session affinity the first backend is insisted on: no later attempt needs a client,
        // and the verifier follows the way through affinity once.
        let client = || (attempt == 1).then(|| client(ctx));
        let chosen = choose(&KernelMaps, &key, None, || pick, client);
        let (service, backend, lasting) = match chosen {
            // A pod may answer one whose packet was translated: `from_pod` knows, and drops.
            Choice::NotAService if netns(ctx) != node_netns() => return ALLOW,
            Choice::NotAService => return unless_service(ctx, &key),
            Choice::NoBackend { service } => return refuse_of(ctx, &key, service),
            Choice::Backend { service, backend, lasting, .. } => (service, backend, lasting),
        };
        let wanted = conversation(cookie, &key, &backend.address, backend.port, edition & lasting);
        match converse(&wanted, attempt == NAMES || lasting == 0) {
            Converse::Known => {}
            Converse::Begun => {
                count_connection(service);
            }
            Converse::OtherName => continue,
            Converse::NotStored => return not_stored(ctx, &key, service),
        }
        set_address(ctx, family, &backend.address, backend.port);
        return ALLOW;
    }
    ALLOW
}

/// A function of its own in the object, for the kernel's 512 bytes of stack.
#[inline(never)]
fn converse(wanted: &Conversation, insist: bool) -> Converse {
    datapath::converse(&KernelMaps, wanted, insist)
}

/// The service's name instead of the backend's. These hooks may only allow.
#[inline(always)]
fn name_peer(ctx: &SockAddrContext, family: Family, datagram: bool) -> i32 {
    let Some(key) = destination(ctx, family) else {
        return ALLOW;
    };
    let name = datapath::name_of(&KernelMaps, cookie(ctx), &key.address, key.port, datagram);
    if let Some(name) = name {
        set_address(ctx, family, &name.address, name.port);
    }
    ALLOW
}

#[inline(always)]
fn name(key: &ServiceKey) -> Frontend {
    Frontend { address: key.address, port: key.port, pad: 0 }
}

#[inline(always)]
fn conversation(
    cookie: u64,
    key: &ServiceKey,
    backend: &Address,
    port: U16Be,
    edition: u32,
) -> Conversation {
    Conversation { cookie, name: name(key), backend: *backend, port, edition }
}

#[inline(always)]
fn not_stored(ctx: &SockAddrContext, key: &ServiceKey, service: u32) -> i32 {
    let reason = Reason::FlowNotStored;
    count(reason, Direction::Socket, 0);
    tell_refused(key, reason, service, || netns(ctx));
    REFUSE
}

/// Allows a call that is for no port of a service, unless its address is a service's.
#[inline(always)]
fn unless_service(ctx: &SockAddrContext, key: &ServiceKey) -> i32 {
    match KernelMaps.has_address(&key.address) {
        true => refuse(ctx, key, Reason::UnknownPort, NO_SERVICE),
        false => ALLOW,
    }
}

/// Refuses a call to a service without backends.
#[inline(always)]
fn refuse_of(ctx: &SockAddrContext, key: &ServiceKey, service: u32) -> i32 {
    count_refused(service);
    refuse(ctx, key, Reason::NoBackend, service)
}

/// Refuses the call, with ECONNREFUSED where the kernel lets a program say so.
#[inline(always)]
fn refuse(ctx: &SockAddrContext, key: &ServiceKey, reason: Reason, service: u32) -> i32 {
    count(reason, Direction::Socket, 0);
    tell_refused(key, reason, service, || netns(ctx));
    if can_set_retval() {
        // SAFETY: the helper takes any error number; this branch exists only where it does.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    REFUSE
}

/// What the socket's owner named, if it is of a protocol that services have.
#[inline(always)]
fn destination(ctx: &SockAddrContext, family: Family) -> Option<ServiceKey> {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel gives a valid context. Volatile keeps each read as wide as the field,
    // which is what the verifier allows.
    unsafe {
        let number = (&raw const (*addr).protocol).read_volatile();
        if number != protocol::TCP as u32 && number != protocol::UDP as u32 {
            return None;
        }
        let address = match family {
            Family::V4 => {
                let word = U32Be::from_bits((&raw const (*addr).user_ip4).read_volatile());
                Address::from_v4(word).words().map(U32Be::bits)
            }
            Family::V6 => [
                (&raw const (*addr).user_ip6[0]).read_volatile(),
                (&raw const (*addr).user_ip6[1]).read_volatile(),
                (&raw const (*addr).user_ip6[2]).read_volatile(),
                (&raw const (*addr).user_ip6[3]).read_volatile(),
            ],
        };
        let port = (&raw const (*addr).user_port).read_volatile();
        Some(ServiceKey::from_words(address, port as u16, number as u8))
    }
}

#[inline(always)]
fn set_address(ctx: &SockAddrContext, family: Family, address: &Address, port: U16Be) {
    let addr: *mut bpf_sock_addr = ctx.sock_addr;
    let words = address.words();
    // SAFETY: as in `destination`; the kernel allows writes of exactly these fields.
    unsafe {
        match family {
            Family::V4 => (&raw mut (*addr).user_ip4).write_volatile(words[3].bits()),
            Family::V6 => {
                (&raw mut (*addr).user_ip6[0]).write_volatile(words[0].bits());
                (&raw mut (*addr).user_ip6[1]).write_volatile(words[1].bits());
                (&raw mut (*addr).user_ip6[2]).write_volatile(words[2].bits());
                (&raw mut (*addr).user_ip6[3]).write_volatile(words[3].bits());
            }
        }
        (&raw mut (*addr).user_port).write_volatile(u32::from(port.bits()));
    }
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the one that the kernel gave.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The cookie of the socket's network namespace (the helper is in these hooks since Linux 5.7).
#[inline(always)]
fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the one that the kernel gave.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// For session affinity: the pod, known by its network namespace.
#[inline(always)]
fn client(ctx: &SockAddrContext) -> Client {
    let cookie = netns(ctx);
    let words = [(cookie >> 32) as u32, cookie as u32, 0, 0];
    Client {
        kind: affinity_kind::NETWORK_NAMESPACE,
        name: Address::from_words(words.map(U32Be::from_bits)),
    }
}

/// Cookies count up; this spreads them over the high bits.
#[inline(always)]
fn hashed(cookie: u64) -> u32 {
    (cookie.wrapping_mul(SPREAD) >> 32) as u32
}
