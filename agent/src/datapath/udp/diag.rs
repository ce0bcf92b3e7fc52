//! The kernel's list of UDP sockets (sock_diag(7)), of the calling thread's network namespace.
//!
//! Guarantees: bounded; a message that is shorter than it says ends the list.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// A connected UDP socket is in this state, as in the kernel's `TCP_ESTABLISHED`.
const CONNECTED: u32 = 1 << 1;
const NETLINK_HEADER: usize = 16;
/// `inet_diag_msg` and, in both directions, `inet_diag_sockid` within it.
const ANSWER: usize = 72;
const ID: std::ops::Range<usize> = 4..52;
/// More messages than any list of sockets takes.
const MOST_MESSAGES: usize = 1 << 20;

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
        let channel = open()?;
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
        ask(&channel, SOCK_DIAG_BY_FAMILY, flags, family as u8, CONNECTED, &[0; 48])?;
        list(&channel, &mut found)?;
    }
    Ok(found)
}

/// Aborts the socket: its holder's next call fails.
pub(super) fn destroy(socket: &Found) -> io::Result<()> {
    let channel = open()?;
    let family = if socket.is_v6 { libc::AF_INET6 } else { libc::AF_INET };
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
    ask(&channel, SOCK_DESTROY, flags, family as u8, CONNECTED, &socket.id)?;
    list(&channel, &mut Vec::new())
}

fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkSockDiag;
    Ok(socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?)
}

/// Sends an `inet_diag_req_v2`.
fn ask(
    channel: &OwnedFd,
    kind: u16,
    flags: i32,
    family: u8,
    states: u32,
    id: &[u8; 48],
) -> io::Result<()> {
    let mut message = Vec::with_capacity(NETLINK_HEADER + 56);
    message.extend((NETLINK_HEADER as u32 + 56).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, libc::IPPROTO_UDP as u8, 0, 0]);
    message.extend(states.to_ne_bytes());
    message.extend(id);
    sendto(channel.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

/// Reads until the kernel says that it is done, or that it failed.
fn list(channel: &OwnedFd, found: &mut Vec<Found>) -> io::Result<()> {
    let mut buffer = vec![0; 32_768];
    for _ in 0..MOST_MESSAGES {
        let length = recv(channel.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((kind, body, next)) = message(rest) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => return outcome(body),
                _ => found.extend(parse(body)),
            }
            rest = next;
        }
    }
    Err(io::Error::other("the kernel's list of sockets does not end"))
}

/// The kind and body of the first netlink message, and what comes after it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(field(bytes, 0)?) as usize;
    let kind = u16::from_ne_bytes(field(bytes, 4)?);
    let body = bytes.get(NETLINK_HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn outcome(body: &[u8]) -> io::Result<()> {
    match field(body, 0).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
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

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
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
        assert!(message(&[1, 0, 0]).is_none());
        assert!(parse(&[0; ANSWER - 1]).is_none());
        assert!(outcome(&[]).is_err());
    }
}
