//! Packets as the rows of the tables write them, and what differs between two.

use std::fmt::Write;
use std::net::IpAddr;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// An address and a port.
pub type End = (IpAddr, u16);

/// What follows the IP header.
#[derive(Clone, Debug)]
pub enum Body {
    /// With these flags.
    Tcp(u8),
    Udp,
    /// A datagram without a checksum, which IPv4 allows.
    UdpUnchecked,
    /// An ICMP message about nothing else.
    Icmp(u8),
    /// An ICMP error that quotes so many bytes of a packet's transport header and data.
    Error {
        kind: u8,
        quoted: Box<Packet>,
        bytes: usize,
    },
    /// Anything else.
    Other(u8, Vec<u8>),
}

/// A packet, written out by [`Packet::bytes`] with all checksums right.
#[derive(Clone, Debug)]
pub struct Packet {
    pub to: [u8; 6],
    pub from: [u8; 6],
    /// Instead of the one that the family has.
    pub ether_type: Option<u16>,
    pub source: End,
    pub destination: End,
    pub hop_limit: u8,
    pub body: Body,
    /// IPv4 options, in words.
    pub options: Vec<u8>,
    /// IPv6 extension headers: kind, and all of it but the first byte.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Offset in bytes, and whether more follow. The body is what the fragment carries.
    pub fragment: Option<(u16, bool)>,
    /// Bytes written over others at last.
    pub patches: Vec<(usize, Vec<u8>)>,
    /// How long the frame is in the end.
    pub cut: Option<usize>,
}

pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0xff, 1];
/// The device of a test-run has this address.
pub const DEVICE_MAC: [u8; 6] = [0; 6];

impl Packet {
    pub fn new(source: End, destination: End, body: Body) -> Self {
        Self {
            to: DEVICE_MAC,
            from: [2, 0, 0, 0, 0, 5],
            ether_type: None,
            source,
            destination,
            hop_limit: 64,
            body,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            patches: Vec::new(),
            cut: None,
        }
    }

    pub fn from(self, source: End) -> Self {
        Self { source, ..self }
    }

    pub fn to(self, destination: End) -> Self {
        Self { destination, ..self }
    }

    pub fn hops(self, hop_limit: u8) -> Self {
        Self { hop_limit, ..self }
    }

    pub fn body(self, body: Body) -> Self {
        Self { body, ..self }
    }

    pub fn options(self, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4));
        Self { options: options.to_vec(), ..self }
    }

    pub fn extension(mut self, kind: u8, rest: &[u8]) -> Self {
        assert!((rest.len() + 1).is_multiple_of(8));
        self.extensions.push((kind, rest.to_vec()));
        self
    }

    pub fn fragment(self, offset: u16, more: bool) -> Self {
        Self { fragment: Some((offset, more)), ..self }
    }

    pub fn patch(mut self, at: usize, bytes: &[u8]) -> Self {
        self.patches.push((at, bytes.to_vec()));
        self
    }

    pub fn cut(self, length: usize) -> Self {
        Self { cut: Some(length), ..self }
    }

    /// With the checksum at this offset one too large, and nothing else written over.
    pub fn off_by_one(&self, at: usize) -> Self {
        let clean = Self { patches: Vec::new(), ..self.clone() };
        let bytes = clean.bytes();
        let sum = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert!(sum < 0xfff0, "wraps");
        clean.patch(at, &(sum + 1).to_be_bytes())
    }

    fn is_v4(&self) -> bool {
        self.source.0.is_ipv4()
    }

    /// Where the body starts.
    pub fn body_at(&self) -> usize {
        if self.is_v4() {
            return 34 + self.options.len();
        }
        let extensions: usize = self.extensions.iter().map(|(_, rest)| 1 + rest.len()).sum();
        54 + extensions + if self.fragment.is_some() { 8 } else { 0 }
    }

    fn protocol(&self) -> u8 {
        match &self.body {
            Body::Tcp(_) => TCP,
            Body::Udp | Body::UdpUnchecked => UDP,
            Body::Icmp(_) | Body::Error { .. } => {
                if self.is_v4() {
                    1
                } else {
                    58
                }
            }
            Body::Other(number, _) => *number,
        }
    }

    /// The pseudo header that the checksum of a body of this length covers.
    fn pseudo(&self, length: usize) -> Vec<u8> {
        let mut all = octets(self.source.0);
        all.extend(octets(self.destination.0));
        all.extend((length as u32).to_be_bytes());
        all.extend([0, 0, 0, self.protocol()]);
        all
    }

    fn segment(&self) -> Vec<u8> {
        let ports = [self.source.1, self.destination.1].map(u16::to_be_bytes).concat();
        let payload = b"seventeen bytes!!";
        let (mut bytes, checksum_at) = match &self.body {
            Body::Tcp(flags) => {
                let fixed = [0, 0, 0, 1, 0, 0, 0, 2, 0x50, *flags, 0x10, 0, 0, 0, 0, 0];
                ([&ports[..], &fixed, payload].concat(), 16)
            }
            Body::Udp | Body::UdpUnchecked => {
                let length = (8 + payload.len() as u16).to_be_bytes();
                ([&ports[..], &length, &[0, 0], payload].concat(), 6)
            }
            Body::Icmp(kind) => ([&[*kind, 0, 0, 0, 0x12, 0x34, 0, 1], &payload[..]].concat(), 2),
            Body::Error { kind, quoted, bytes } => {
                let whole = quoted.bytes();
                let end = (quoted.body_at() + bytes).min(whole.len());
                ([&[*kind, 1, 0, 0, 0, 0, 0, 0], &whole[14..end]].concat(), 2)
            }
            Body::Other(_, bytes) => return bytes.clone(),
        };
        let covered = match &self.body {
            Body::UdpUnchecked => return bytes,
            Body::Icmp(_) | Body::Error { .. } if self.is_v4() => bytes.clone(),
            _ => [&self.pseudo(bytes.len())[..], &bytes].concat(),
        };
        bytes[checksum_at..checksum_at + 2].copy_from_slice(&(!sum(&covered)).to_be_bytes());
        bytes
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let segment = self.segment();
        let family = if self.is_v4() { 0x0800 } else { 0x86dd };
        let ether_type = self.ether_type.unwrap_or(family).to_be_bytes();
        let header = if self.is_v4() { self.header_v4(&segment) } else { self.header_v6(&segment) };
        let mut all = [&self.to[..], &self.from, &ether_type, &header, &segment].concat();
        for (at, bytes) in &self.patches {
            all[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        if let Some(length) = self.cut {
            all.resize(length, 0);
        }
        all
    }

    fn header_v4(&self, segment: &[u8]) -> Vec<u8> {
        let length = 20 + self.options.len();
        let (offset, more) = self.fragment.unwrap_or_default();
        let fragment = (offset / 8) | if more { 0x2000 } else { 0 };
        let mut header = vec![0x40 | (length / 4) as u8, 0];
        header.extend(((length + segment.len()) as u16).to_be_bytes());
        header.extend([0x12, 0x34]);
        header.extend(fragment.to_be_bytes());
        header.extend([self.hop_limit, self.protocol(), 0, 0]);
        header.extend(octets(self.source.0));
        header.extend(octets(self.destination.0));
        header.extend(&self.options);
        let sum = !sum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn header_v6(&self, segment: &[u8]) -> Vec<u8> {
        let mut chain = self.extensions.clone();
        if let Some((offset, more)) = self.fragment {
            let [high, low] = (offset | u16::from(more)).to_be_bytes();
            chain.push((44, vec![0, high, low, 0, 0, 0x12, 0x34]));
        }
        let mut kinds: Vec<u8> = chain.iter().map(|(kind, _)| *kind).collect();
        kinds.push(self.protocol());
        let mut extensions = Vec::new();
        for ((_, rest), next) in chain.iter().zip(&kinds[1..]) {
            extensions.push(*next);
            extensions.extend(rest);
        }
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(((extensions.len() + segment.len()) as u16).to_be_bytes());
        header.extend([kinds[0], self.hop_limit]);
        header.extend(octets(self.source.0));
        header.extend(octets(self.destination.0));
        header.extend(extensions);
        header
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The ones' complement sum of words (RFC 1071).
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

type Field = (&'static str, usize);

const ETHERNET: [Field; 3] = [("to", 6), ("from", 6), ("type", 2)];
const V4: [Field; 10] = [
    ("version/length", 1),
    ("class", 1),
    ("total length", 2),
    ("id", 2),
    ("fragment", 2),
    ("ttl", 1),
    ("protocol", 1),
    ("checksum", 2),
    ("source", 4),
    ("destination", 4),
];
const V6: [Field; 6] = [
    ("version/class/flow", 4),
    ("payload length", 2),
    ("next header", 1),
    ("hop limit", 1),
    ("source", 16),
    ("destination", 16),
];
const TCP_FIELDS: [Field; 8] = [
    ("source port", 2),
    ("destination port", 2),
    ("sequence", 4),
    ("acknowledgement", 4),
    ("offset/flags", 2),
    ("window", 2),
    ("checksum", 2),
    ("urgent", 2),
];
const UDP_FIELDS: [Field; 4] =
    [("source port", 2), ("destination port", 2), ("length", 2), ("checksum", 2)];
const ICMP_FIELDS: [Field; 4] = [("type", 1), ("code", 1), ("checksum", 2), ("rest", 4)];

/// The named parts of a frame, as far as it goes.
fn fields(bytes: &[u8]) -> Vec<(String, std::ops::Range<usize>)> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut take = |header: &str, fields: &[Field], at: &mut usize| {
        for (name, length) in fields {
            found.push((format!("{header} {name}"), *at..(*at + length).min(bytes.len())));
            *at += length;
        }
    };
    take("ethernet", &ETHERNET, &mut at);
    for header in ["", "quoted "] {
        let start = at;
        let Some(version) = bytes.get(at).map(|first| first >> 4) else { break };
        let protocol = if version == 4 {
            take(&format!("{header}ipv4"), &V4, &mut at);
            at = start + usize::from(bytes[start] & 0xf) * 4;
            bytes.get(start + 9)
        } else {
            take(&format!("{header}ipv6"), &V6, &mut at);
            bytes.get(start + 6)
        };
        match protocol {
            Some(6) => take(&format!("{header}tcp"), &TCP_FIELDS, &mut at),
            Some(17) => take(&format!("{header}udp"), &UDP_FIELDS, &mut at),
            Some(1 | 58) => {
                take(&format!("{header}icmp"), &ICMP_FIELDS, &mut at);
                continue;
            }
            _ => {}
        }
        break;
    }
    found.push(("rest".to_owned(), at.min(bytes.len())..bytes.len()));
    found.retain(|(_, range)| range.start < range.end);
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What is not as expected, one line a field; empty when nothing differs.
pub fn difference(expected: &[u8], found: &[u8]) -> String {
    let mut text = String::new();
    if expected.len() != found.len() {
        let _ = writeln!(text, "  length: expected {}, found {}", expected.len(), found.len());
    }
    for (name, range) in fields(expected) {
        let wanted = &expected[range.clone()];
        let there = found.get(range.clone()).unwrap_or_default();
        if wanted != there {
            let (wanted, there) = (hex(wanted), hex(there));
            let _ = writeln!(text, "  {name} @{}: expected {wanted}, found {there}", range.start);
        }
    }
    text
}

#[test]
fn a_difference_names_the_fields() {
    let ends = (("10.0.0.1".parse().unwrap(), 1), ("10.0.0.2".parse().unwrap(), 2));
    let packet = Packet::new(ends.0, ends.1, Body::Udp);
    assert_eq!(difference(&packet.bytes(), &packet.bytes()), "");
    let other = packet.clone().hops(63);
    let expected = "  ipv4 ttl @22: expected 40, found 3f\n  ipv4 checksum @24: expected ";
    let found = difference(&packet.bytes(), &other.bytes());
    assert!(found.starts_with(expected), "{found}");
}
