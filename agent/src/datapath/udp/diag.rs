//! The kernel's list of UDP sockets (sock_diag(7)), of the calling thread's network namespace.
//!
//! Guarantees: those of [`netlink`](super::super::netlink).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::libc;
use nix::sys::socket::SockProtocol;

use super::super::netlink::{Question, field};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// A connected UDP socket is in this state, as in the kernel's `TCP_ESTABLISHED`.
const CONNECTED: u32 = 1 << 1;
/// `inet_diag_msg` and, in both directions, `inet_diag_sockid` within it.
const ANSWER: usize = 72;
const ID: std::ops::Range<usize> = 4..52;

/// A connected UDP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) is_v6: bool,
    /// IPv4 in its own form also for dual-stack sockets.
    pub(super) remote: SocketAddr,
    pub(super) cookie: u64,
    pub(super) inode: u32,
    /// As the kernel names it.
    id: [u8; 48],
}

/// All of this network namespace.
pub(super) fn connected_udp_sockets() -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let question = question(SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP, family as u8, &[0; 48]);
        question.ask(SockProtocol::NetlinkSockDiag, |_, body| found.extend(parse(body)))?;
    }
    Ok(found)
}

/// Aborts the socket: its holder's next call fails.
pub(super) fn destroy(socket: &Found) -> io::Result<()> {
    let family = if socket.is_v6 { libc::AF_INET6 } else { libc::AF_INET };
    let question = question(SOCK_DESTROY, libc::NLM_F_ACK, family as u8, &socket.id);
    question.ask(SockProtocol::NetlinkSockDiag, |_, _| {})
}

/// An `inet_diag_req_v2`.
fn question(kind: u16, flags: i32, family: u8, id: &[u8; 48]) -> Question {
    let mut body = vec![family, libc::IPPROTO_UDP as u8, 0, 0];
    body.extend(CONNECTED.to_ne_bytes());
    body.extend(id);
    Question { kind, flags, body }
}

fn parse(body: &[u8]) -> Option<Found> {
    if body.len() < ANSWER {
        return None;
    }
    let is_v6 = i32::from(body[0]) == libc::AF_INET6;
    let port = u16::from_be_bytes(field(body, 6)?);
    let address = if is_v6 {
        super::canonical(Ipv6Addr::from(field::<16>(body, 24)?))
    } else {
        IpAddr::V4(Ipv4Addr::from(field::<4>(body, 24)?))
    };
    let low = u32::from_ne_bytes(field(body, 44)?);
    let high = u32::from_ne_bytes(field(body, 48)?);
    Some(Found {
        is_v6,
        remote: SocketAddr::new(address, port),
        cookie: u64::from(high) << 32 | u64::from(low),
        inode: u32::from_ne_bytes(field(body, 68)?),
        id: body.get(ID)?.try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_connected_socket_is_found_and_an_unconnected_one_is_not() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mine = UdpSocket::bind("127.0.0.1:0").unwrap();
        let remote = peer.local_addr().unwrap();
        let listed = || {
            let all = connected_udp_sockets().unwrap();
            all.into_iter().find(|found| found.remote == remote)
        };
        assert_eq!(listed(), None);
        mine.connect(remote).unwrap();
        let found = listed().unwrap();
        let inode = nix::sys::stat::fstat(&mine).unwrap().st_ino;
        assert_eq!((u64::from(found.inode), found.is_v6), (inode, false));
        assert_ne!(found.cookie, 0);
    }

    #[test]
    fn short_messages_are_refused() {
        assert!(parse(&[0; ANSWER - 1]).is_none());
    }
}
