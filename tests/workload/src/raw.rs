//! A client that builds its own packets, which no socket hook sees: what answers it was balanced
//! by the programs on the pod's link.
//!
//! Guarantees: checksums are right, so that the receiving kernel checks what the path made of
//! them. The answer's source is reported as it arrived.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde_json::{Value, json};

use crate::options::Options;

const PATIENCE: Duration = Duration::from_secs(3);
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

/// Send one UDP datagram and one TCP SYN, and report what came back from where.
pub(crate) fn run(options: &Options) -> Result<Value, String> {
    let SocketAddr::V4(target) = options.target(0)? else {
        return Err("an IPv4 target is needed".to_owned());
    };
    let text = |error: io::Error| error.to_string();
    let tcp_port = options.or("tcp-port", target.port())?;
    let tcp_target = SocketAddrV4::new(*target.ip(), tcp_port);
    Ok(json!({ "udp": udp(target).map_err(text)?, "tcp": tcp(tcp_target).map_err(text)? }))
}

/// The address that this namespace uses towards `target`.
fn own_address(target: SocketAddrV4) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(target)?;
    match socket.local_addr()? {
        SocketAddr::V4(own) => Ok(*own.ip()),
        SocketAddr::V6(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn udp(target: SocketAddrV4) -> io::Result<Value> {
    let listener = UdpSocket::bind("0.0.0.0:0")?;
    listener.set_read_timeout(Some(PATIENCE))?;
    let port = listener.local_addr()?.port();
    let own = SocketAddrV4::new(own_address(target)?, port);
    let body = b"a raw datagram";
    let length = 8 + body.len() as u16;
    let mut segment =
        [port.to_be_bytes(), target.port().to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    segment.extend(body);
    let sum = transport_checksum(own, target, UDP, &segment);
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
    send(own, target, UDP, &segment)?;

    let mut buffer = [0; 2048];
    match listener.recv_from(&mut buffer) {
        Ok((length, source)) => {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let body: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
            Ok(json!({ "answered": true, "source": source, "body": body }))
        }
        Err(error) => Ok(json!({ "answered": false, "error": error.to_string() })),
    }
}

fn tcp(target: SocketAddrV4) -> io::Result<Value> {
    let listener = raw_socket(SockProtocol::Tcp)?;
    let patience = TimeVal::new(1, 0);
    setsockopt(&listener, sockopt::ReceiveTimeout, &patience)?;
    // Above the ephemeral range, so that no real connection uses it.
    let port = 61_000 + (std::process::id() % 4_000) as u16;
    let own = SocketAddrV4::new(own_address(target)?, port);
    let mut segment = [port.to_be_bytes(), target.port().to_be_bytes()].concat();
    segment.extend([0, 0, 0x12, 0x34, 0, 0, 0, 0]);
    segment.extend([5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = transport_checksum(own, target, TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    send(own, target, TCP, &segment)?;

    let end = Instant::now() + PATIENCE;
    let mut buffer = [0; 2048];
    while Instant::now() < end {
        let Ok(length) = recv(listener.as_raw_fd(), &mut buffer, MsgFlags::empty()) else {
            continue;
        };
        if let Some((source, flags)) = parse_tcp(&buffer[..length], port) {
            return Ok(json!({ "answered": true, "source": source, "synAck": flags == SYN_ACK }));
        }
    }
    Ok(json!({ "answered": false }))
}

fn raw_socket(protocol: SockProtocol) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?)
}

/// The source and the TCP flags of an IPv4 packet to our port.
fn parse_tcp(packet: &[u8], port: u16) -> Option<(SocketAddrV4, u8)> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let segment = packet.get(header..header + 20)?;
    let field = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    (field(2) == port).then(|| (SocketAddrV4::new(source.into(), field(0)), segment[13]))
}

fn send(own: SocketAddrV4, target: SocketAddrV4, protocol: u8, segment: &[u8]) -> io::Result<()> {
    let total = (20 + segment.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    // No identification, may not be fragmented, 64 hops; the kernel fills the checksum in.
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(own.ip().octets());
    packet.extend(target.ip().octets());
    packet.extend(segment);
    let sender = raw_socket(SockProtocol::Raw)?;
    let to = SockaddrIn::from(SocketAddrV4::new(*target.ip(), 0));
    sendto(sender.as_raw_fd(), &packet, &to, MsgFlags::empty())?;
    Ok(())
}

fn transport_checksum(from: SocketAddrV4, to: SocketAddrV4, protocol: u8, segment: &[u8]) -> u16 {
    let mut bytes = [from.ip().octets(), to.ip().octets()].concat();
    bytes.extend([0, protocol]);
    bytes.extend((segment.len() as u16).to_be_bytes());
    bytes.extend(segment);
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::{TCP, parse_tcp, transport_checksum};

    #[test]
    fn a_segment_with_its_checksum_sums_to_zero() {
        let (from, to) = ("10.0.0.1:1000".parse().unwrap(), "10.9.8.7:80".parse().unwrap());
        let mut segment = vec![3, 232, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 2, 255, 255, 0, 0, 0];
        let sum = transport_checksum(from, to, TCP, &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(transport_checksum(from, to, TCP, &segment), 0);
    }

    #[test]
    fn only_packets_to_our_port_count() {
        let mut packet = vec![0x45; 12];
        packet.extend([10, 9, 8, 7, 10, 0, 0, 1]);
        packet.extend([0, 80, 0xee, 0x48, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x12, 0, 0, 0, 0, 0, 0]);
        let (source, flags) = parse_tcp(&packet, 61_000).unwrap();
        assert_eq!((source.to_string().as_str(), flags), ("10.9.8.7:80", 0x12));
        assert!(parse_tcp(&packet, 61_001).is_none());
        assert!(parse_tcp(&packet[..30], 61_000).is_none());
    }
}
