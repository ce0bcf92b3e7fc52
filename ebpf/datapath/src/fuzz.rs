//! What must hold of any packets whatever, for two drivers: a bounded random one in every test run,
//! and libFuzzer, which coverage leads, in `cargo xtask test --thorough` (`fuzz/` of this crate).
//!
//! An input is what is wrong with a node's maps, and a sequence of packets through its logic, so
//! that later ones meet the flows of earlier ones. First comes a byte with the number of damages,
//! each of them two bytes: which, and where. Each packet is a byte that says which program of which
//! family sees it and how the dice fall, two bytes of its length (low one first), and the frame.
//! `BOWLINE_FUZZ_SECONDS` says how long the bounded driver goes on (default 2).

extern crate std;

use crate::abi::{
    Address, Affinity, AffinityKey, Route, ServiceKey, Slot, affinity_kind, protocol, state,
};
use crate::affinity::Client;
use crate::balance::{Choice, ServiceMaps, choose};
use crate::deliver::{Change, Verdict, Work, from_pod, from_uplink, to_pod};
use crate::fake::{FakeMaps, address, frame, ip_frame, key};
use crate::packet::{Bytes, ETHERNET, Extent, Family, parse};
use crate::quote::Quote;
use std::net::IpAddr;
use std::vec::Vec;

/// Of one input: more than open, answer, close and say an error about a flow.
const MOST_PACKETS: usize = 12;

/// Of one input.
const MOST_DAMAGES: usize = 8;

/// The damages of an input, and its packets.
fn damaged(input: &[u8]) -> (impl Iterator<Item = (u8, u8)>, &[u8]) {
    let (count, rest) = input.split_first().map_or((0, input), |(count, rest)| (*count, rest));
    let count = (usize::from(count) % (MOST_DAMAGES + 1)).min(rest.len() / 2);
    let (damages, packets) = rest.split_at(2 * count);
    (damages.chunks_exact(2).map(|pair| (pair[0], pair[1])), packets)
}

/// One packet of an input. `head`: the lowest bit is the family, the rest the program and the dice.
fn packed(head: u8, frame: &[u8]) -> Vec<u8> {
    [&[head][..], &(frame.len() as u16).to_le_bytes(), frame].concat()
}

/// The packets of an input; a length that is too large is what is left.
fn unpacked(mut input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let next = move || {
        let ([head, low, high], rest) = input.split_first_chunk()?;
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        input = rest;
        Some((*head, frame))
    };
    core::iter::from_fn(next).take(MOST_PACKETS)
}

/// Good inputs to begin with: each a packet of another kind, seen by the program of pods.
pub fn seeds() -> Vec<Vec<u8>> {
    let healthy = |frame: &Vec<u8>| [&[0][..], &packed(family_of(frame), frame)].concat();
    frames().iter().flatten().map(healthy).collect()
}

fn family_of(frame: &[u8]) -> u8 {
    frame.get(14).map_or(0, |first| u8::from(first >> 4 == 6))
}

/// By sender; the first of each family is the pod that the program of pods watches.
fn frames() -> Vec<Vec<Vec<u8>>> {
    let mut senders = Vec::new();
    let families = [
        ["10.240.0.5", "10.240.0.6", "10.240.1.9", "10.9.0.1", "192.0.2.1"],
        ["fd00:10:240::5", "fd00:10:240::6", "fd00:10:240:1::9", "fd00:10:9::1", "2001:db8::1"],
    ];
    for addresses in families {
        let addresses = addresses.map(|text| text.parse::<IpAddr>().expect("an address"));
        let icmp = if addresses[0].is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        for from in addresses {
            let mut seeds = Vec::new();
            for to in addresses {
                for number in [protocol::TCP, protocol::UDP] {
                    seeds.push(frame(number, (from, 40_000), (to, 80), 2));
                    seeds.push(frame(number, (from, 8080), (to, 40_000), 16));
                    let quoted = &frame(number, (to, 80), (from, 40_000), 2)[14..];
                    let kind = if icmp == protocol::ICMP { 3 } else { 1 };
                    let error = [&[kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat();
                    seeds.push(ip_frame(icmp, from, to, &error));
                }
                // Extension headers, or so much payload.
                for first in [0, 43, 44, 60] {
                    let chain = [60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 1];
                    let segment = [&chain[..], &[0; 24]].concat();
                    seeds.push(ip_frame(first, from, to, &segment));
                }
            }
            senders.push(seeds);
        }
    }
    senders
}

fn node() -> FakeMaps {
    let mut maps = FakeMaps::default();
    for (pods, range, vip) in [
        (["10.240.0.5", "10.240.0.6"], "10.240.1.0", "10.9.0.1"),
        (["fd00:10:240::5", "fd00:10:240::6"], "fd00:10:240:1::", "fd00:10:9::1"),
    ] {
        for (text, ifindex) in pods.into_iter().zip([5, 6]) {
            maps.add_pod(text, ifindex);
        }
        let route = Route { node: address("172.30.0.12"), ifindex: 2, flags: 0 };
        maps.routes.insert(address(range), route);
        maps.program(key(vip, 80), &pods);
        maps.program(key(vip, 8080), &pods);
        maps.services.entry(key(vip, 8080)).and_modify(|sticky| sticky.affinity_seconds = 60);
    }
    maps
}

/// What readers find while entries are recycled under them, and what an affinity may remember.
fn damage(maps: &mut FakeMaps, which: u8, place: u8) {
    let place = usize::from(place);
    let slots = maps.slots.len();
    let keys: Vec<ServiceKey> = maps.services.keys().copied().collect();
    let key = keys[place % keys.len()];
    let more = place / keys.len();
    match which % 6 {
        // Also none, and more than it has.
        0 => drop(maps.services.entry(key).and_modify(|service| service.slot_count = more as u32)),
        1 => {
            let first = (more % (slots + 2)) as u32;
            maps.services.entry(key).and_modify(|service| service.first_slot = first);
        }
        // Of a service of the same family: one of the other has this tag by chance alone.
        2 => {
            let slot = &mut maps.slots[place % slots];
            let is_v4 = |address: &Address| address.as_v4().is_some();
            let backend = maps.backends.borrow().get(&slot.backend).map(|it| is_v4(&it.address));
            let mut alike = keys.iter().filter(|key| backend == Some(is_v4(&key.address))).cycle();
            slot.tag = alike.nth(more % keys.len()).map_or(slot.tag, ServiceKey::tag);
        }
        3 => maps.slots[place % slots].tag ^= 1 << (more % 32),
        4 => {
            let mut backends = maps.backends.borrow_mut();
            let id = (place % backends.len()) as u32;
            backends.entry(id).and_modify(|backend| backend.state = state::FREE);
        }
        _ => {
            let client = CLIENTS[more % CLIENTS.len()];
            let key = AffinityKey {
                service: maps.services[&key].id,
                kind: affinity_kind::ADDRESS,
                client: address(client),
            };
            // Some of them of no backend.
            let backend = (more / CLIENTS.len() % (slots + 2)) as u32;
            maps.store_affinity(&key, &Affinity { last_used_ns: 0, backend, pad: 0 });
        }
    }
}

/// Pods that connect to services.
const CLIENTS: [&str; 2] = ["10.240.0.5", "fd00:10:240::5"];

/// Whatever the maps hold, a chosen backend takes connections and has a slot of the service.
fn choices_hold(maps: &FakeMaps) {
    for (key, service) in &maps.services {
        for (turn, name) in CLIENTS.into_iter().cycle().take(2 * CLIENTS.len()).enumerate() {
            let pick = (turn as u32).wrapping_mul(u32::MAX / 3);
            let client = || Some(Client { kind: affinity_kind::ADDRESS, name: address(name) });
            let Choice::Backend { id, backend, .. } = choose(maps, key, None, || pick, client)
            else {
                continue;
            };
            assert_eq!(backend.state, state::ACTIVE, "{key:?} leads to {backend:?}");
            assert_eq!(maps.backends.borrow().get(&id), Some(&backend));
            let first = service.first_slot as usize;
            let own = maps.slots.iter().skip(first).take(service.slot_count as usize);
            let wanted = Slot { backend: id, tag: key.tag() };
            assert!(own.into_iter().any(|slot| *slot == wanted), "{key:?} has no slot of {id}");
        }
    }
}

/// Sends an input's packets through a node, and says how many of them were rewritten. It panics
/// where something does not hold.
pub fn run(input: &[u8]) -> usize {
    let mut maps = node();
    let (damages, packets) = damaged(input);
    damages.for_each(|(which, place)| damage(&mut maps, which, place));
    choices_hold(&maps);
    let mut work = Work::default();
    let mut rewritten = 0;
    for (head, frame) in unpacked(packets) {
        let family = if head & 1 == 0 { Family::V4 } else { Family::V6 };
        maps.random.set(u32::from(head).wrapping_mul(0x9e37_79b9));
        maps.pass(1_000_000_000);
        rewritten += usize::from(try_one(&maps, frame, family, head >> 1, &mut work));
    }
    // Affinities have come.
    choices_hold(&maps);
    rewritten
}

/// Whether the packet was rewritten.
fn try_one(maps: &FakeMaps, bytes: &[u8], family: Family, program: u8, work: &mut Work) -> bool {
    let frame = Bytes(bytes);
    let length = bytes.len() as u32;
    if parse(&frame, ETHERNET, family, Extent::Whole, &mut work.packet).is_err() {
        return false;
    }
    let packet = work.packet;
    assert!(packet.network < packet.transport && packet.transport <= packet.end);
    assert!(packet.end <= length, "{packet:?} of {length} bytes");
    let v4 = family == Family::V4;
    for address in [packet.source, packet.destination] {
        assert_eq!(address.as_v4().is_some(), v4, "{packet:?} passes for the other family");
    }
    let program = program % 3;
    let verdict = match program {
        0 => from_pod(maps, &frame, work, SENDER),
        1 => from_uplink(maps, &frame, work),
        _ => to_pod(maps, &frame, work),
    };
    if program == 0 && !matches!(verdict, Verdict::Drop | Verdict::Stack) {
        let sender = maps.pods.borrow().get(&packet.source).map(|pod| pod.ifindex);
        assert_eq!(sender, Some(SENDER), "{packet:?} leaves a pod that it is not of");
    }
    if verdict == Verdict::Drop || work.rewrite.change == Change::Nothing {
        return false;
    }
    let ends = work.rewrite.ends;
    for end in [ends.source, ends.destination] {
        assert_eq!(end.address.as_v4().is_some(), v4, "{packet:?} becomes {ends:?}");
    }
    if work.rewrite.change == Change::Quoted {
        let inner = work.inner;
        assert!(inner.transport + 8 <= inner.end && inner.end <= length);
        let quote = Quote::of(&frame, &inner, &ends).expect("what is quoted has ports");
        assert!(quote.checksum_at == 0 || quote.checksum_at + 2 <= length);
    } else {
        assert!(packet.has_ports() && packet.transport + 8 <= packet.end);
        // Who is chosen, once or again, is one of the backends, all of which are pods.
        let known = |address| maps.pods.borrow().contains_key(address);
        let answer = maps.services.keys().any(|key| key.address.same(&ends.source.address));
        assert!(answer || known(&ends.destination.address), "{packet:?} goes to {ends:?}");
    }
    true
}

/// The interface that the program of pods sees its packets on.
const SENDER: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// Deterministic, so that a failure comes back.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, bound: usize) -> usize {
            (self.next() % bound as u64) as usize
        }
    }

    /// A good packet, most often with some bytes spoiled, and sometimes cut.
    fn spoiled(random: &mut Random, senders: &[Vec<Vec<u8>>]) -> Vec<u8> {
        let any = random.below(senders.len());
        let watched = random.below(2) * senders.len() / 2;
        let frames = &senders[if random.below(2) == 0 { any } else { watched }];
        let mut bytes = frames[random.below(frames.len())].clone();
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        if random.below(8) == 0 {
            bytes.truncate(random.below(bytes.len() + 1));
        }
        // Of the family that its program is for, but for a few.
        let family = if random.below(16) == 0 { 0 } else { family_of(&bytes) };
        packed(random.next() as u8 & !1 | family, &bytes)
    }

    #[test]
    fn no_packet_leads_astray() {
        let seconds = std::env::var("BOWLINE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
        let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(2));
        let (frames, mut random) = (frames(), Random(0x9e37_79b9_7f4a_7c15));
        let (mut packets, mut rewritten) = (0, 0);
        while Instant::now() < until {
            for _ in 0..100 {
                let input: Vec<Vec<u8>> =
                    (0..MOST_PACKETS).map(|_| spoiled(&mut random, &frames)).collect();
                let count = random.below(2 * MOST_DAMAGES).saturating_sub(MOST_DAMAGES);
                let damages = (0..2 * count).map(|_| random.next() as u8);
                let damages: Vec<u8> = [count as u8].into_iter().chain(damages).collect();
                packets += input.len();
                rewritten += run(&[damages, input.concat()].concat());
            }
        }
        std::println!("{packets} packets, {rewritten} rewritten");
        assert!(rewritten > packets / 1_000, "the seeds reach the translations");
    }

    #[test]
    fn an_input_is_read_as_it_was_packed() {
        let input = [packed(7, b"one"), packed(0, b""), packed(1, b"three")].concat();
        let expected: [(u8, &[u8]); 3] = [(7, b"one"), (0, b""), (1, b"three")];
        assert_eq!(unpacked(&input).collect::<Vec<_>>(), expected);
        assert_eq!(unpacked(&input[..input.len() - 2]).last(), Some((1, &b"thr"[..])));
        assert_eq!(unpacked(&[1, 2]).count(), 0);
        let (damages, packets) = damaged(&[2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(damages.collect::<Vec<_>>(), [(3, 4), (5, 6)]);
        assert_eq!(packets, [7, 8]);
        for short in [&[][..], &[0], &[9], &[3, 1]] {
            assert_eq!(damaged(short).0.count(), 0, "{short:?}");
        }
    }
}
