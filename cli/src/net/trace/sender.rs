//! The sender of a trace: one real packet, from where the client is, and what came back.
//!
//! Guarantees: a process of its own in the client's network namespace, which ends by itself. It
//! holds its port before anything is sent, so that the port is this trace's alone there, and says
//! it first; it sends when it is told to. Through the hooks of sockets it connects as any program
//! does, and breaks off what it opened; past them it uses a raw socket.
//! Does not say what happened on the way: see `story`.

use std::io::{self, ErrorKind, IoSliceMut, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use bowline_agent::datapath::monotonic_ns;
use bowline_ebpf_abi::protocol;
use clap::ValueEnum;
use nix::libc;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::packet;
use crate::net::probe;
use crate::output;

/// What is in a datagram and in an echo request.
const TEXT: &[u8] = b"bowline net trace";

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

impl Protocol {
    /// Its number in the IP header of a packet to this address.
    pub(super) fn number(self, to: IpAddr) -> u8 {
        match (self, to) {
            (Self::Tcp, _) => protocol::TCP,
            (Self::Udp, _) => protocol::UDP,
            (Self::Icmp, IpAddr::V4(_)) => protocol::ICMP,
            (Self::Icmp, IpAddr::V6(_)) => protocol::ICMPV6,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
        }
    }
}

/// Who is started where the client is.
#[derive(Clone, Debug, clap::Args)]
pub(in crate::net) struct Args {
    to: SocketAddr,
    #[arg(long, value_enum)]
    protocol: Protocol,
    #[arg(long)]
    past_hooks: bool,
    #[arg(long)]
    source: Option<IpAddr>,
    #[arg(long)]
    wait: u64,
}

/// The first line: by which source port, or identifier of an echo request, the packet is known.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Ready {
    pub(super) identifier: u16,
}

/// The second line: what was sent, and what came of it as far as the sender knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sent {
    /// By the kernel's monotonic clock, just before.
    pub(super) sent_ns: u64,
    /// The sender's own end, once it was chosen.
    pub(super) source: Option<SocketAddr>,
    /// Where the kernel sends to, of what went through a socket's hooks.
    pub(super) far_end: Option<SocketAddr>,
    pub(super) answer: Option<Answer>,
    /// When the answer, or an error, was there.
    pub(super) answered_ns: u64,
    /// Why the kernel let it not be sent, or ended it.
    pub(super) error: Option<Failure>,
    /// What a machine on the way said instead of the other end.
    pub(super) control: Option<ControlError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    SynAck,
    Reset,
    Datagram,
    Echo,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) text: String,
    /// Connections are refused: by a reset, by a hook or by an ICMP error.
    pub(super) refused: bool,
}

/// An ICMP error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ControlError {
    pub(super) from: Option<IpAddr>,
    pub(super) says: String,
    /// It got to its machine, where nobody has this port.
    pub(super) is_port: bool,
}

/// Sends, and prints what came of it.
pub(in crate::net) fn send(args: &Args) -> anyhow::Result<()> {
    let probe = Probe::open(args).context("cannot make a socket")?;
    output::line(&serde_json::to_string(&Ready { identifier: probe.identifier })?)?;
    let mut go = String::new();
    if io::stdin().read_line(&mut go)? == 0 {
        return Ok(());
    }
    Ok(output::line(&serde_json::to_string(&probe.send())?)?)
}

/// The sockets of a sender.
struct Probe<'a> {
    args: &'a Args,
    identifier: u16,
    /// Holds the port, and sends unless there is a raw one.
    holder: Option<Socket>,
    raw: Option<Socket>,
}

/// A socket whose ICMP errors are kept for who asks, with this source.
fn socket(args: &Args, kind: Type, number: u8, source: Option<IpAddr>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(args.to), kind, Some(i32::from(number).into()))?;
    let any: IpAddr = match args.to {
        SocketAddr::V4(_) => {
            setsockopt(&socket, Ipv4RecvErr, &true)?;
            Ipv4Addr::UNSPECIFIED.into()
        }
        SocketAddr::V6(_) => {
            setsockopt(&socket, Ipv6RecvErr, &true)?;
            Ipv6Addr::UNSPECIFIED.into()
        }
    };
    match source {
        // An address that nobody here has is one's own business, too.
        Some(IpAddr::V4(_)) => socket.set_ip_transparent_v4(true)?,
        Some(IpAddr::V6(_)) => socket.set_ip_transparent_v6(true)?,
        None => {}
    }
    if source.is_some() || kind != Type::RAW {
        socket.bind(&SocketAddr::new(source.unwrap_or(any), 0).into())?;
    }
    Ok(socket)
}

impl<'a> Probe<'a> {
    fn open(args: &'a Args) -> io::Result<Self> {
        let number = args.protocol.number(args.to.ip());
        let is_raw = args.past_hooks || args.protocol == Protocol::Icmp;
        let source = args.source.filter(|_| !is_raw);
        let holder = match args.protocol {
            Protocol::Tcp => Some(socket(args, Type::STREAM, number, source)?),
            Protocol::Udp => Some(socket(args, Type::DGRAM, number, source)?),
            Protocol::Icmp => None,
        };
        let port = match &holder {
            Some(holder) => holder.local_addr()?.as_socket().map(|end| end.port()),
            None => None,
        };
        let raw = match is_raw {
            true => Some(socket(args, Type::RAW, number, args.source)?),
            false => None,
        };
        Ok(Self { args, identifier: port.unwrap_or_else(some_number), holder, raw })
    }

    fn send(&self) -> Sent {
        let mut sent = Sent { sent_ns: monotonic_ns(), ..Sent::default() };
        let wait = Duration::from_secs(self.args.wait);
        let tried = match (&self.raw, &self.holder, self.args.protocol) {
            (Some(raw), holder, _) => self.by_hand(raw, holder.as_ref(), wait, &mut sent),
            (None, Some(socket), Protocol::Tcp) => self.connect(socket, wait, &mut sent),
            (None, Some(socket), _) => self.datagram(socket, wait, &mut sent),
            (None, None, _) => Err(ErrorKind::Unsupported.into()),
        };
        match tried {
            Ok(answer) => sent.answer = Some(answer),
            Err(error) if is_late(&error) => {}
            Err(error) => {
                let refused = error.kind() == ErrorKind::ConnectionRefused;
                sent.error = Some(Failure { text: error.to_string(), refused });
            }
        }
        if sent.answered_ns == 0 {
            sent.answered_ns = monotonic_ns();
        }
        sent.control = self.raw.iter().chain(&self.holder).find_map(control_error);
        sent
    }

    fn connect(&self, socket: &Socket, wait: Duration, sent: &mut Sent) -> io::Result<Answer> {
        // What was opened is broken off, which the other end is told at once.
        socket.set_linger(Some(Duration::ZERO))?;
        sent.sent_ns = monotonic_ns();
        let connected = socket.connect_timeout(&self.args.to.into(), wait);
        sent.answered_ns = monotonic_ns();
        self.note_ends(socket, "tcp", sent);
        connected.map(|()| Answer::SynAck)
    }

    fn datagram(&self, socket: &Socket, wait: Duration, sent: &mut Sent) -> io::Result<Answer> {
        socket.set_read_timeout(Some(wait))?;
        sent.sent_ns = monotonic_ns();
        socket.connect(&self.args.to.into())?;
        let answer = socket.send(TEXT).and_then(|_| (&*socket).read(&mut [0; 1]));
        sent.answered_ns = monotonic_ns();
        self.note_ends(socket, "udp", sent);
        answer.map(|_| Answer::Datagram)
    }

    /// The socket's ends, as far as it still has them.
    fn note_ends(&self, socket: &Socket, table: &str, sent: &mut Sent) {
        let near = socket.local_addr().ok().and_then(|end| end.as_socket());
        let Some(near) = near.filter(|near| !near.ip().is_unspecified()) else { return };
        let suffix = if near.is_ipv4() { "" } else { "6" };
        let table = std::fs::read_to_string(format!("/proc/self/net/{table}{suffix}"));
        sent.source = Some(near);
        sent.far_end = probe::far_end(&table.unwrap_or_default(), near);
    }

    fn by_hand(
        &self,
        raw: &Socket,
        holder: Option<&Socket>,
        wait: Duration,
        sent: &mut Sent,
    ) -> io::Result<Answer> {
        let (to, identifier) = (self.args.to, self.identifier);
        raw.connect(&SocketAddr::new(to.ip(), 0).into())?;
        let own = raw.local_addr()?.as_socket().map_or(to.ip(), |end| end.ip());
        let source = SocketAddr::new(own, if holder.is_some() { identifier } else { 0 });
        sent.source = Some(source);
        let message = match self.args.protocol {
            Protocol::Tcp => packet::opening(source, to, monotonic_ns() as u32),
            Protocol::Udp => packet::datagram(source, to, TEXT),
            Protocol::Icmp => packet::echo(to.ip(), identifier, TEXT),
        };
        let end = Instant::now() + wait;
        sent.sent_ns = monotonic_ns();
        raw.send(&message)?;
        // The kernel gives datagrams to who holds the port.
        let listener = match (self.args.protocol, holder) {
            (Protocol::Udp, Some(holder)) => holder,
            _ => raw,
        };
        let mut buffer = [0; 256];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Nothing would stand for no limit.
            listener.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let count = (&*listener).read(&mut buffer)?;
            let message = packet::without_header(&buffer[..count], to.ip());
            let answer = match self.args.protocol {
                Protocol::Tcp => packet::answer_to_opening(message, identifier, to),
                Protocol::Udp => Some(Answer::Datagram),
                Protocol::Icmp => packet::answer_to_echo(message, identifier, to.ip()),
            };
            match answer {
                Some(answer) => return Ok(answer),
                None if left.is_zero() => return Err(ErrorKind::TimedOut.into()),
                None => {}
            }
        }
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

/// An identifier that hardly anybody else uses.
fn some_number() -> u16 {
    (monotonic_ns() >> 10) as u16 ^ (std::process::id() as u16).rotate_left(7)
}

/// The ICMP error that a socket was told of, if any (ip(7), `IP_RECVERR`).
fn control_error(socket: &Socket) -> Option<ControlError> {
    /// `SO_EE_ORIGIN_LOCAL` and below: no message of anybody's.
    const LOCAL: u8 = 1;
    let (mut text, mut room) =
        ([0; 256], nix::cmsg_space!(libc::sock_extended_err, SockaddrStorage));
    let mut slices = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let got = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut room), flags);
    let got = got.ok()?;
    let (error, from): (libc::sock_extended_err, Option<IpAddr>) =
        got.cmsgs().ok()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4RecvErr(error, from) => Some((
                error,
                from.map(|end| Ipv4Addr::from(u32::from_be(end.sin_addr.s_addr)).into()),
            )),
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                Some((error, from.map(|end| Ipv6Addr::from(end.sin6_addr.s6_addr).into())))
            }
            _ => None,
        })?;
    if error.ee_origin <= LOCAL {
        return None;
    }
    let is_v4 = from.is_none_or(|from| from.is_ipv4());
    let says = control_name(is_v4, error.ee_type, error.ee_code);
    let is_port = says == PORT_UNREACHABLE;
    Some(ControlError { from, says: says.to_owned(), is_port })
}

const PORT_UNREACHABLE: &str = "port unreachable";

/// RFC 792 and RFC 1812; RFC 4443.
fn control_name(is_v4: bool, kind: u8, code: u8) -> &'static str {
    match (is_v4, kind, code) {
        (true, 3, 0) | (false, 1, 0) => "network unreachable",
        (true, 3, 1) | (false, 1, 3) => "host unreachable",
        (true, 3, 2) => "protocol unreachable",
        (true, 3, 3) | (false, 1, 4) => PORT_UNREACHABLE,
        (true, 3, 4) | (false, 2, _) => "too large for the next link",
        (true, 3, 9 | 10 | 13) | (false, 1, 1 | 5 | 6) => "prohibited",
        (true, 11, _) | (false, 3, _) => "time to live exceeded",
        _ => "an ICMP error",
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn args(protocol: Protocol, to: SocketAddr) -> Args {
        Args { to, protocol, past_hooks: false, source: None, wait: 1 }
    }

    #[test]
    fn a_sender_knows_how_its_packet_was_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let wanted = args(Protocol::Tcp, to);
        let probe = Probe::open(&wanted).unwrap();
        let sent = probe.send();
        assert_eq!((sent.answer, sent.far_end), (Some(Answer::SynAck), Some(to)));
        assert_eq!(sent.source, Some(SocketAddr::new(to.ip(), probe.identifier)));
        assert!(sent.answered_ns >= sent.sent_ns && sent.sent_ns > 0);
        drop(listener);
        let wanted = args(Protocol::Tcp, to);
        let sent = Probe::open(&wanted).unwrap().send();
        assert!(sent.answer.is_none() && sent.error.unwrap().refused);
    }

    #[test]
    fn who_refuses_a_datagram_is_known() {
        let to = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // Its port was given back.
        let wanted = args(Protocol::Udp, to);
        let sent = Probe::open(&wanted).unwrap().send();
        let control = sent.control.unwrap();
        assert_eq!((control.from, control.is_port), (Some(to.ip()), true));
        let there = UdpSocket::bind("127.0.0.1:0").unwrap();
        let wanted = args(Protocol::Udp, there.local_addr().unwrap());
        let sent = Probe::open(&wanted).unwrap().send();
        assert!(sent.answer.is_none() && sent.error.is_none() && sent.control.is_none());
        let mut text = [0; 64];
        assert_eq!(there.recv(&mut text).unwrap(), TEXT.len());
    }
}
