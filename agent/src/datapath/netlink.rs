//! Netlink (RFC 3549, netlink(7)) as far as the data plane speaks it: questions without attributes
//! of their own, and lists of answers.
//!
//! Guarantees: bounded; a message that is shorter than it says ends the list.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const HEADER: usize = 16;

/// More messages than any list takes.
const MOST_MESSAGES: usize = 1 << 20;

/// A question to the kernel: the kind of message, and what comes after its header.
pub(super) struct Question {
    pub(super) kind: u16,
    /// In addition to `NLM_F_REQUEST`.
    pub(super) flags: i32,
    pub(super) body: Vec<u8>,
}

impl Question {
    /// Asks in the network namespace of the calling thread, and hands over the kind and the body
    /// of each answer until the kernel says that it is done, or that it failed.
    pub(super) fn ask(
        &self,
        protocol: SockProtocol,
        mut take: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let channel: OwnedFd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        let mut message = Vec::with_capacity(HEADER + self.body.len());
        message.extend(((HEADER + self.body.len()) as u32).to_ne_bytes());
        message.extend(self.kind.to_ne_bytes());
        message.extend(((self.flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(&self.body);
        sendto(channel.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut buffer = vec![0; 32_768];
        for _ in 0..MOST_MESSAGES {
            let length = recv(channel.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = message_of(rest) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => return outcome(body),
                    _ => take(kind, body),
                }
                rest = next;
            }
        }
        Err(io::Error::other("the kernel's list does not end"))
    }
}

/// The kind and body of the first message, and what comes after it.
fn message_of(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(field(bytes, 0)?) as usize;
    let kind = u16::from_ne_bytes(field(bytes, 4)?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn outcome(body: &[u8]) -> io::Result<()> {
    match field(body, 0).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The attribute of this kind among those that stand one after the other.
pub(super) fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// The upper bits say how the attribute is written.
    const KIND: u16 = 0x3fff;
    loop {
        let length = usize::from(u16::from_ne_bytes(field(bytes, 0)?));
        let kind = u16::from_ne_bytes(field(bytes, 2)?);
        let body = bytes.get(4..length)?;
        if kind & KIND == wanted {
            return Some(body);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// So many bytes from `at` on.
pub(super) fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_messages_are_refused() {
        assert!(message_of(&[1, 0, 0]).is_none());
        assert!(message_of(&[15; HEADER]).is_none());
        assert!(outcome(&[]).is_err());
    }

    #[test]
    fn attributes_are_found_by_their_kind() {
        let bytes = [
            [5_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat(),
            vec![7, 0, 0, 0],
            [8_u16.to_ne_bytes(), 0x8002_u16.to_ne_bytes()].concat(),
            vec![1, 2, 3, 4],
        ]
        .concat();
        assert_eq!(attribute(&bytes, 1), Some(&[7][..]));
        assert_eq!(attribute(&bytes, 2), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(&bytes, 3), None);
        assert_eq!(attribute(&bytes[..9], 2), None);
        assert_eq!(attribute(&[0; 4], 1), None, "one that is shorter than its header");
    }
}
