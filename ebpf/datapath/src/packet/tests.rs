//! The parser on packets built piece by piece, on each beginning of them, and on any bytes.

extern crate std;

use super::*;
use crate::deliver::{Verdict, Work, from_pod};
use crate::fake::{FakeMaps, address, key};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use std::vec::Vec;

const VLAN: u32 = 4;
const CLIENT: [[u8; 4]; 2] = [[10, 240, 0, 5], [10, 9, 0, 7]];
/// Of pod `fd00:10:240::5` to service `fd00:10:9::7`.
const CLIENT6: [[u8; 16]; 2] = [
    [0xfd, 0, 0, 0x10, 2, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5],
    [0xfd, 0, 0, 0x10, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
];

/// What an IP header has beside the ends.
#[derive(Clone, Debug)]
enum Extra {
    /// IPv4 options, in words.
    Options(Vec<u8>),
    /// IPv6 extension headers: kind, and all of it but the first byte.
    Extensions(Vec<(u8, Vec<u8>)>),
}

/// A good packet and what is to be found out about it.
#[derive(Clone, Debug)]
struct Good {
    bytes: Vec<u8>,
    at: u32,
    family: Family,
    transport: u32,
    protocol: u8,
    fragment: Fragment,
    flags: u8,
}

impl Good {
    /// `before`: so many bytes of other headers. `piece`: the fragment's offset in units of eight
    /// bytes, and whether more follow.
    fn new(
        before: u32,
        extra: &Extra,
        piece: Option<(u16, bool)>,
        protocol: u8,
        body: &[u8],
    ) -> Self {
        let fragment = match piece {
            None | Some((0, false)) => Fragment::Whole,
            Some((0, true)) => Fragment::First,
            Some(_) => Fragment::Later,
        };
        let (family, flags, header) = match extra {
            Extra::Options(options) => {
                (Family::V4, v4_flags(options), { v4_header(options, piece, protocol, body.len()) })
            }
            Extra::Extensions(chain) => {
                (Family::V6, v6_flags(chain), { v6_header(chain, piece, protocol, body.len()) })
            }
        };
        let transport = before + header.len() as u32;
        let bytes = [&std::vec![0xee; before as usize][..], &header, body].concat();
        Self { bytes, at: before, family, transport, protocol, fragment, flags }
    }

    fn end(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn parse(&self, bytes: &[u8], extent: Extent) -> Result<Packet, Reason> {
        parse_any(bytes, self.at, self.family, extent)
    }

    /// The packet, if it is all there, with bytes behind it that are not its own.
    fn check(&self, padding: usize) {
        let padded = [&self.bytes[..], &std::vec![0xee; padding]].concat();
        let packet =
            self.parse(&padded, Extent::Whole).unwrap_or_else(|e| panic!("{e:?}: {self:?}"));
        let found = (packet.network, packet.transport, packet.end, packet.protocol);
        assert_eq!(found, (self.at, self.transport, self.end(), self.protocol), "{self:?}");
        let found = (packet.family, packet.fragment, packet.flags, packet.hop_limit);
        assert_eq!(found, (self.family, self.fragment, self.flags, HOPS), "{self:?}");
        let ends = match self.family {
            Family::V4 => {
                CLIENT.map(|octets| Address::from_v4(U32Be::new(u32::from_be_bytes(octets))))
            }
            Family::V6 => ["fd00:10:240::5", "fd00:10:9::7"].map(address),
        };
        assert_eq!([packet.source, packet.destination], ends);
    }

    /// The same, as long as the first `length` bytes, and saying so.
    fn truthful(&self, length: u32) -> Vec<u8> {
        let mut bytes = self.bytes[..length as usize].to_vec();
        let (place, said) = match self.family {
            Family::V4 => (2, length.saturating_sub(self.at)),
            Family::V6 => (4, length.saturating_sub(self.at + 40)),
        };
        let place = self.at as usize + place;
        if let Some(field) = bytes.get_mut(place..place + 2) {
            field.copy_from_slice(&(said as u16).to_be_bytes());
        }
        bytes
    }
}

const HOPS: u8 = 64;

fn v4_header(options: &[u8], piece: Option<(u16, bool)>, protocol: u8, body: usize) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4) && options.len() <= 40);
    let length = 20 + options.len();
    let (offset, more) = piece.unwrap_or_default();
    let fragment = (offset & 0x1fff) | if more { 0x2000 } else { 0 };
    let mut header = std::vec![0x40 | (length / 4) as u8, 0];
    for word in [(length + body) as u16, 0x1234, fragment] {
        header.extend(word.to_be_bytes());
    }
    header.extend([HOPS, protocol, 0, 0]);
    header.extend(CLIENT.concat());
    header.extend(options);
    header
}

fn v6_header(
    chain: &[(u8, Vec<u8>)],
    piece: Option<(u16, bool)>,
    protocol: u8,
    body: usize,
) -> Vec<u8> {
    let mut chain = chain.to_vec();
    if let Some((offset, more)) = piece {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        chain.push((next::FRAGMENT, std::vec![0, high, low, 0, 0, 0x12, 0x34]));
    }
    let kinds = chain.iter().map(|(kind, _)| *kind).chain([protocol]);
    let kinds: Vec<u8> = kinds.collect();
    let extensions: Vec<Vec<u8>> = chain
        .iter()
        .zip(&kinds[1..])
        .map(|((_, rest), next)| [&[*next], &rest[..]].concat())
        .collect();
    let extensions = extensions.concat();
    let mut header = std::vec![0x60, 0, 0, 0];
    header.extend(((extensions.len() + body) as u16).to_be_bytes());
    header.extend([kinds[0], HOPS]);
    header.extend(CLIENT6.concat());
    header.extend(extensions);
    header
}

fn v4_flags(options: &[u8]) -> u8 {
    let mut flags = if options.is_empty() { 0 } else { packet_flags::OPTIONS };
    let mut left = options;
    loop {
        left = match left {
            [] | [option::END, ..] => return flags,
            [option::NOTHING, rest @ ..] => rest,
            [option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE, ..] => {
                flags |= packet_flags::SOURCE_ROUTE;
                return flags;
            }
            [_, length, ..] => &left[usize::from(*length)..],
            [_] => panic!("an option without its length"),
        };
    }
}

fn v6_flags(chain: &[(u8, Vec<u8>)]) -> u8 {
    let routed = chain.iter().any(|(kind, rest)| *kind == next::ROUTING && rest[2] != 0);
    let mut flags = if chain.is_empty() { 0 } else { packet_flags::OPTIONS };
    flags |= if routed { packet_flags::SOURCE_ROUTE } else { 0 };
    flags
}

fn parse_any(bytes: &[u8], at: u32, family: Family, extent: Extent) -> Result<Packet, Reason> {
    let mut packet = Packet::default();
    parse(&Bytes(bytes), at, family, extent, &mut packet).map(|()| packet)
}

/// A transport header, all of it, and some data.
fn body(protocol: u8) -> Vec<u8> {
    let ports = [40_000u16, 80].map(u16::to_be_bytes).concat();
    let header: &[u8] = match protocol {
        protocol::TCP => &[0, 0, 0, 1, 0, 0, 0, 2, 0x50, 2, 0x10, 0, 0, 0, 0, 0],
        protocol::UDP => &[0, 15, 0, 0],
        protocol::ICMP => return [&[8, 0, 0, 0, 0, 1, 0, 1], &b"payload"[..]].concat(),
        _ => return [&[128, 0, 0, 0, 0, 1, 0, 1], &b"payload"[..]].concat(),
    };
    [&ports[..], header, b"payload"].concat()
}

/// Bytes of a transport's header that must be there.
const fn header_length(protocol: u8) -> u32 {
    if protocol == protocol::TCP { 20 } else { 8 }
}

/// Every transport after every kind of IP header, behind an Ethernet header with and without a tag.
fn table() -> Vec<Good> {
    let rest = |kind: u8| (kind, std::vec![0, 1, 4, 0, 0, 0, 0]);
    let long = (next::DESTINATION, [&[1][..], &[0; 14]].concat());
    let route = |left: u8| (next::ROUTING, std::vec![0, 0, left, 0, 0, 0, 0]);
    let alert = std::vec![148, 4, 0, 0];
    let record = [&[1, 7, 11, 4][..], &[0; 8]].concat();
    let full = [&[7, 39, 4][..], &[0; 36], &[0]].concat();
    let loose = std::vec![131, 7, 4, 192, 0, 2, 1, 0];
    let mut extras: Vec<Extra> =
        [std::vec![], alert, record, full, loose].into_iter().map(Extra::Options).collect();
    extras.extend(
        [
            std::vec![],
            std::vec![rest(next::HOP_BY_HOP)],
            std::vec![rest(next::DESTINATION), route(0), long.clone()],
            std::vec![route(1)],
            std::vec![rest(next::HOP_BY_HOP), long, route(0), rest(next::DESTINATION),],
        ]
        .into_iter()
        .map(Extra::Extensions),
    );
    let mut all = Vec::new();
    for extra in &extras {
        let icmp = match extra {
            Extra::Options(_) => protocol::ICMP,
            Extra::Extensions(_) => protocol::ICMPV6,
        };
        for protocol in [protocol::TCP, protocol::UDP, icmp] {
            for piece in [None, Some((0, true)), Some((7, true)), Some((7, false))] {
                for before in [ETHERNET, ETHERNET + VLAN] {
                    all.push(Good::new(before, extra, piece, protocol, &body(protocol)));
                }
            }
        }
    }
    all
}

#[test]
fn good_packets_are_seen_as_they_are() {
    let table = table();
    assert_eq!(table.len(), 10 * 3 * 4 * 2);
    for good in table {
        for padding in [0, 1, 46] {
            good.check(padding);
        }
    }
}

#[test]
fn no_beginning_of_a_packet_passes_for_one() {
    for good in table() {
        for cut in 0..good.end() {
            let begun = good.parse(&good.bytes[..cut as usize], Extent::Whole);
            assert_eq!(begun, Err(Reason::Malformed), "{cut} bytes of {good:?}");
        }
    }
}

/// It says the length that it has, so only what it lacks shows.
#[test]
fn a_short_packet_that_does_not_lie_has_its_header_or_is_malformed() {
    for good in table() {
        for cut in 0..=good.end() {
            let bytes = good.truthful(cut);
            let found = good.parse(&bytes, Extent::Whole);
            if cut < good.transport {
                assert_eq!(found, Err(Reason::Malformed), "{cut} bytes of {good:?}");
                continue;
            }
            let packet = found.unwrap();
            assert_eq!((packet.transport, packet.end), (good.transport, cut));
            let ports = packet.ports(&Bytes(&bytes));
            assert_eq!(ports.is_some(), cut >= good.transport + 8, "{cut} bytes of {good:?}");
        }
    }
}

/// ICMP errors quote the headers and what follows as far as it goes.
#[test]
fn a_quoted_packet_needs_its_header_only() {
    for good in table() {
        for cut in 0..=good.end() {
            let found = good.parse(&good.bytes[..cut as usize], Extent::Quoted);
            if cut < good.transport {
                assert_eq!(found, Err(Reason::Malformed), "{cut} bytes of {good:?}");
            } else {
                let packet = found.unwrap();
                assert_eq!((packet.transport, packet.end), (good.transport, cut));
            }
        }
    }
}

#[test]
fn what_a_pod_sends_of_a_transport_header_is_all_of_it_or_malformed() {
    let mut maps = FakeMaps::default();
    for (pod, service) in [("10.240.0.5", "10.9.0.7"), ("fd00:10:240::5", "fd00:10:9::7")] {
        maps.add_pod(pod, 5);
        for number in [protocol::TCP, protocol::UDP] {
            let key = crate::abi::ServiceKey { protocol: number, ..key(service, 80) };
            maps.program(key, &[pod]);
        }
    }
    let malformed = {
        let mut work = Work::default();
        let empty = Good::new(ETHERNET, &Extra::Options(Vec::new()), None, protocol::ICMP, &[]);
        work.packet = empty.parse(&empty.bytes, Extent::Whole).unwrap();
        assert_eq!(from_pod(&maps, &Bytes(&empty.bytes), &mut work, 5), Verdict::Drop);
        work.reason
    };
    assert_eq!(malformed.number(), Reason::Malformed as u16);
    let whole = |good: &Good| good.at == ETHERNET && good.fragment == Fragment::Whole;
    let routed = |good: &Good| good.flags & packet_flags::SOURCE_ROUTE != 0;
    let mut seen = [0; 2];
    for good in table().iter().filter(|good| whole(good) && !routed(good)) {
        for cut in good.transport..=good.end() {
            let (bytes, mut work) = (good.truthful(cut), Work::default());
            work.packet = good.parse(&bytes, Extent::Whole).unwrap();
            let verdict = from_pod(&maps, &Bytes(&bytes), &mut work, 5);
            let is_malformed = verdict == Verdict::Drop && work.reason == malformed;
            let short = cut < good.transport + header_length(good.protocol);
            assert_eq!(is_malformed, short, "{cut} bytes of {good:?}: {verdict:?}");
            seen[usize::from(short)] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
}

fn options() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        Just(std::vec![option::NOTHING]),
        (2..12u8, select(&[7u8, 68, 148, 94, 131, 137][..])).prop_map(|(length, kind)| [
            &[kind, length][..],
            &std::vec![0; usize::from(length) - 2]
        ]
        .concat()),
    ];
    proptest::collection::vec(one, 0..5).prop_map(|all| {
        let mut bytes = all.concat();
        bytes.truncate(40);
        // What no longer fits is left out with all that follows.
        while !is_whole(&bytes) {
            bytes.pop();
        }
        bytes.resize(bytes.len().next_multiple_of(4), option::END);
        bytes
    })
}

/// Whether the last option ends where the bytes do.
fn is_whole(mut bytes: &[u8]) -> bool {
    while let [kind, rest @ ..] = bytes {
        bytes = match (*kind, rest) {
            (option::NOTHING, _) => rest,
            (_, [length, ..]) if usize::from(*length) <= bytes.len() => {
                &bytes[usize::from(*length)..]
            }
            _ => return false,
        };
    }
    true
}

fn extensions() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let kind = select(&[next::ROUTING, next::DESTINATION][..]);
    let one = (kind, 0..4u8, 0..3u8).prop_map(|(kind, more, left)| {
        (kind, [&[more, 0, left][..], &std::vec![0; 4 + 8 * usize::from(more)]].concat())
    });
    // With a fragment header as many as are walked.
    (any::<bool>(), proptest::collection::vec(one, 0..4)).prop_map(|(first, mut chain)| {
        if first {
            chain.insert(0, (next::HOP_BY_HOP, std::vec![0, 1, 4, 0, 0, 0, 0]));
        }
        chain.truncate(MAX_EXTENSIONS as usize - 1);
        chain
    })
}

fn good() -> impl Strategy<Value = Good> {
    let extra =
        prop_oneof![options().prop_map(Extra::Options), extensions().prop_map(Extra::Extensions),];
    let body = proptest::collection::vec(any::<u8>(), 0..80);
    let piece = proptest::option::of((0..8_000u16, any::<bool>()));
    let number = any::<u8>().prop_filter("walked", |number| ![0, 43, 44, 60].contains(number));
    (0..40u32, extra, piece, number, body).prop_map(|(before, extra, piece, number, body)| {
        Good::new(before, &extra, piece, number, &body)
    })
}

fn family() -> impl Strategy<Value = Family> {
    select(&[Family::V4, Family::V6][..])
}

/// Any bytes that begin as a packet of this family does, and say about the length that they have.
fn anything(family: Family) -> impl Strategy<Value = Vec<u8>> {
    let (first, length_at, header) = match family {
        Family::V4 => (0x44..0x50u8, 2, 0),
        Family::V6 => (0x60..0x61, 4, 40),
    };
    // Of IPv6 the first extension header; of IPv4 it is part of the identification.
    let next = select(&[0u8, 43, 44, 60, 6, 17][..]);
    let less = prop_oneof![Just(0u8), 0..20u8];
    // Small numbers are options that end, and lengths.
    let byte = prop_oneof![2 => 0..4u8, 1 => any::<u8>()];
    (first, next, less, proptest::collection::vec(byte, 0..160)).prop_map(
        move |(first, next, less, mut bytes)| {
            let said = (bytes.len() as u16).saturating_sub(header + u16::from(less));
            let [high, low] = said.to_be_bytes();
            for (place, byte) in
                [(0, first), (length_at, high), (length_at + 1, low), (length_at + 2, next)]
            {
                if let Some(place) = bytes.get_mut(place) {
                    *place = byte;
                }
            }
            bytes
        },
    )
}

#[test]
fn enough_of_the_arbitrary_bytes_pass() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for family in [Family::V4, Family::V6] {
        let passes = |_: &u32| {
            let bytes = anything(family).new_tree(&mut runner).unwrap().current();
            parse_any(&bytes, 0, family, Extent::Whole).is_ok()
        };
        let count = (0..1_000).filter(passes).count();
        assert!((100..900).contains(&count), "{count} of 1,000, {family:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_good_packet_is_seen_as_it_is_and_no_beginning_of_it(
        good in good(),
        padding in 0..64usize,
        cut in any::<proptest::sample::Index>(),
    ) {
        good.check(padding);
        let cut = cut.index(good.bytes.len());
        let begun = good.parse(&good.bytes[..cut], Extent::Whole);
        prop_assert_eq!(begun, Err(Reason::Malformed), "{} bytes", cut);
    }

    /// Whatever passes lies within the frame, passes without what follows its end, and does not
    /// when a byte before its end is missing.
    #[test]
    fn any_bytes_that_pass_are_a_whole_packet(
        (family, bytes) in family().prop_flat_map(|family| (Just(family), anything(family))),
        before in 0..20usize,
    ) {
        let (at, bytes) = (before as u32, [&std::vec![0xee; before][..], &bytes].concat());
        let found = parse_any(&bytes, at, family, Extent::Whole);
        let Ok(packet) = found else {
            let reasons = [Err(Reason::Malformed), Err(Reason::TooManyHeaders)];
            prop_assert!(reasons.contains(&found));
            return Ok(());
        };
        let least = if family == Family::V4 { 20 } else { 40 };
        prop_assert!(at + least <= packet.transport && packet.transport <= packet.end);
        prop_assert!(packet.end as usize <= bytes.len());
        for address in [packet.source, packet.destination] {
            prop_assert_eq!(address.as_v4().is_some(), family == Family::V4);
        }
        let alone = parse_any(&bytes[..packet.end as usize], at, family, Extent::Whole);
        prop_assert_eq!(alone, Ok(packet));
        for cut in at..packet.end {
            let begun = parse_any(&bytes[..cut as usize], at, family, Extent::Whole);
            prop_assert_eq!(begun, Err(Reason::Malformed), "{} bytes", cut);
        }
        let quoted = parse_any(&bytes[..packet.transport as usize], at, family, Extent::Quoted);
        prop_assert!(quoted.is_ok_and(|quoted| quoted.transport == packet.transport));
    }

    /// A transport header that is said to be there lies within the packet.
    #[test]
    fn ports_are_of_the_packet(good in good(), length in any::<proptest::sample::Index>()) {
        let more = good.bytes.len() - good.transport as usize;
        let length = good.transport + length.index(more + 1) as u32;
        let bytes = good.truthful(length);
        // What follows the packet's end is not read.
        let padded = [&bytes[..], &[0xee; 40]].concat();
        let packet = good.parse(&padded, Extent::Whole).unwrap();
        let expected = good.bytes.get(good.transport as usize..).and_then(|body| {
            let word = |at: usize| U16Be::new(u16::from_be_bytes([body[at], body[at + 1]]));
            (length >= good.transport + 8).then(|| Ports { source: word(0), destination: word(2) })
        });
        prop_assert_eq!(packet.ports(&Bytes(&padded)), expected);
    }
}
