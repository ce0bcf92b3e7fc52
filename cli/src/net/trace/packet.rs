//! Packets that no socket of the kernel makes: what opens a TCP connection, a datagram and an ICMP
//! echo request, each without its IP header; and the answers to them.
//!
//! Guarantees: pure; checksums are right, so that nobody on the way has a reason to drop them.

use std::net::{IpAddr, SocketAddr};

use bowline_ebpf_abi::protocol;

use super::sender::Answer;
use crate::net::tcp;

/// The TCP header's length, and where in it what is (RFC 9293).
mod header {
    pub(super) const LENGTH: usize = 20;
    /// In words of four bytes, in the upper half of a byte.
    pub(super) const OWN_LENGTH: usize = 12;
    pub(super) const FLAGS: usize = 13;
    pub(super) const WINDOW: usize = 14;
    pub(super) const CHECKSUM: usize = 16;
}

/// What opens a connection.
pub(super) fn opening(source: SocketAddr, to: SocketAddr, sequence: u32) -> Vec<u8> {
    let mut segment = vec![0; header::LENGTH];
    segment[..2].copy_from_slice(&source.port().to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[header::OWN_LENGTH] = (header::LENGTH as u8 / 4) << 4;
    segment[header::FLAGS] = tcp::SYN;
    segment[header::WINDOW..header::CHECKSUM].copy_from_slice(&u16::MAX.to_be_bytes());
    let sum = checksum(Some((source.ip(), to.ip(), protocol::TCP)), &segment);
    segment[header::CHECKSUM..header::CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// A datagram.
pub(super) fn datagram(source: SocketAddr, to: SocketAddr, text: &[u8]) -> Vec<u8> {
    const HEADER: usize = 8;
    let mut all = vec![0; HEADER];
    all.extend(text);
    let length = u16::try_from(all.len()).unwrap_or(u16::MAX);
    all[..2].copy_from_slice(&source.port().to_be_bytes());
    all[2..4].copy_from_slice(&to.port().to_be_bytes());
    all[4..6].copy_from_slice(&length.to_be_bytes());
    let sum = match checksum(Some((source.ip(), to.ip(), protocol::UDP)), &all) {
        // Nothing would stand for none (RFC 768).
        0 => u16::MAX,
        sum => sum,
    };
    all[6..8].copy_from_slice(&sum.to_be_bytes());
    all
}

/// An echo request; the kernel fills in the checksum where it is over addresses, too, as ICMPv6 has
/// it.
pub(super) fn echo(to: IpAddr, identifier: u16, text: &[u8]) -> Vec<u8> {
    let [high, low] = identifier.to_be_bytes();
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut all = vec![kind, 0, 0, 0, high, low, 0, 1];
    all.extend(text);
    if to.is_ipv4() {
        let sum = checksum(None, &all);
        all[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    all
}

/// What a segment that came in answers to the one of this port that opened a connection.
pub(super) fn answer_to_opening(segment: &[u8], port: u16, to: SocketAddr) -> Option<Answer> {
    let flags = *segment.get(header::FLAGS)?;
    let ends = [to.port().to_be_bytes(), port.to_be_bytes()].concat();
    if segment.get(..4)? != ends {
        return None;
    }
    match flags {
        _ if flags & tcp::RST != 0 => Some(Answer::Reset),
        _ if flags & tcp::SYN_ACK == tcp::SYN_ACK => Some(Answer::SynAck),
        _ => None,
    }
}

/// What an ICMP message that came in answers to the echo request with this identifier.
pub(super) fn answer_to_echo(message: &[u8], identifier: u16, to: IpAddr) -> Option<Answer> {
    let kind = if to.is_ipv4() { 0 } else { 129 };
    let header = message.get(..8)?;
    let is_reply = header[0] == kind && header[4..6] == identifier.to_be_bytes();
    is_reply.then_some(Answer::Echo)
}

/// The message of a packet as a raw socket gives it: behind its IPv4 header, which raw sockets of
/// IPv6 leave out.
pub(super) fn without_header(packet: &[u8], family_of: IpAddr) -> &[u8] {
    let length = match (family_of, packet.first()) {
        (IpAddr::V4(_), Some(first)) => usize::from(first & 0xf) * 4,
        _ => 0,
    };
    packet.get(length..).unwrap_or_default()
}

/// The Internet checksum (RFC 1071), over the addresses too where there are any: those of one
/// family.
fn checksum(over: Option<(IpAddr, IpAddr, u8)>, message: &[u8]) -> u16 {
    let mut sum = words(message);
    if let Some((source, to, protocol)) = over {
        for address in [source, to] {
            sum += match address {
                IpAddr::V4(address) => words(&address.octets()),
                IpAddr::V6(address) => words(&address.octets()),
            };
        }
        sum += u64::from(protocol) + message.len() as u64;
    }
    while sum > u64::from(u16::MAX) {
        sum = (sum & u64::from(u16::MAX)) + (sum >> 16);
    }
    !(sum as u16)
}

fn words(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    bytes.chunks(2).map(word).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With its own checksum in it, a message sums up to nothing.
    #[test]
    fn checksums_are_right() {
        for (source, to) in
            [("10.240.0.5:40000", "10.9.8.7:80"), ("[fd00::5]:40000", "[fd00::7]:80")]
        {
            let (source, to): (SocketAddr, SocketAddr) =
                (source.parse().unwrap(), to.parse().unwrap());
            let over = |number| Some((source.ip(), to.ip(), number));
            let syn = opening(source, to, 0x1234_5678);
            assert_eq!(checksum(over(protocol::TCP), &syn), 0);
            // An odd length.
            let odd = datagram(source, to, b"trace");
            assert_eq!(checksum(over(protocol::UDP), &odd), 0);
            assert_eq!(odd[4..6], [0, 13]);
        }
        let ping = echo("10.9.8.7".parse().unwrap(), 7, b"trace");
        assert_eq!(checksum(None, &ping), 0);
        // RFC 1071's own example.
        let example = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(None, &example), !0xddf2);
    }

    #[test]
    fn answers_are_told_from_what_else_comes_in() {
        let to: SocketAddr = "10.9.8.7:80".parse().unwrap();
        let from: SocketAddr = "10.240.0.5:40000".parse().unwrap();
        let mut segment = opening(to, from, 1);
        assert_eq!(answer_to_opening(&segment, 40_000, to), None);
        segment[header::FLAGS] = tcp::SYN_ACK;
        assert_eq!(answer_to_opening(&segment, 40_000, to), Some(Answer::SynAck));
        assert_eq!(answer_to_opening(&segment, 40_001, to), None);
        segment[header::FLAGS] = 0x14;
        assert_eq!(answer_to_opening(&segment, 40_000, to), Some(Answer::Reset));
        assert_eq!(answer_to_opening(&segment[..12], 40_000, to), None);

        let mut message = echo(to.ip(), 7, b"");
        assert_eq!(answer_to_echo(&message, 7, to.ip()), None);
        message[0] = 0;
        assert_eq!(answer_to_echo(&message, 7, to.ip()), Some(Answer::Echo));
        assert_eq!(answer_to_echo(&message, 8, to.ip()), None);
        let packet = [&[0x46; 24][..], &message].concat();
        assert_eq!(without_header(&packet, to.ip()), message);
        assert_eq!(without_header(&message, "::1".parse().unwrap()), message);
    }
}
