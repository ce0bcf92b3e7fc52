//! Spoiled packets by the million: a bounded random driver for the parser and the selector.
//!
//! Seeds are good packets of every kind; each round spoils some bytes, cuts or lengthens the frame
//! and sends it through all three programs' logic, with flows left by the rounds before. It has no
//! coverage feedback: libFuzzer wants sanitizers of a nightly compiler, and this runs everywhere.
//! `BOWLINE_FUZZ_SECONDS` says for how long (default 2; `cargo xtask test --thorough` sets more).

extern crate std;

use crate::abi::{Route, protocol};
use crate::deliver::{Change, Verdict, Work, from_pod, from_uplink, to_pod};
use crate::fake::{FakeMaps, address, frame, ip_frame, key};
use crate::packet::{Bytes, ETHERNET, Extent, Family, parse};
use crate::quote::Quote;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use std::vec::Vec;

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

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let families = [
        ["10.240.0.5", "10.240.0.6", "10.240.1.9", "10.9.0.1", "192.0.2.1"],
        ["fd00:10:240::5", "fd00:10:240::6", "fd00:10:240:1::9", "fd00:10:9::1", "2001:db8::1"],
    ];
    for addresses in families {
        let addresses = addresses.map(|text| text.parse::<IpAddr>().unwrap());
        let icmp = if addresses[0].is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        for from in addresses {
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
        }
    }
    seeds
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
    }
    maps
}

/// What must hold for any bytes.
fn try_one(maps: &FakeMaps, bytes: &[u8], family: Family, hook: usize, work: &mut Work) {
    let frame = Bytes(bytes);
    let length = bytes.len() as u32;
    if parse(&frame, ETHERNET, family, Extent::Whole, &mut work.packet).is_err() {
        return;
    }
    let packet = work.packet;
    assert!(packet.network < packet.transport && packet.transport <= packet.end);
    assert!(packet.end <= length, "{packet:?} of {length} bytes");
    let verdict = match hook {
        0 => from_pod(maps, &frame, work, 5),
        1 => from_uplink(maps, &frame, work),
        _ => to_pod(maps, &frame, work),
    };
    if verdict == Verdict::Drop || work.rewrite.change == Change::Nothing {
        return;
    }
    let ends = work.rewrite.ends;
    let v4 = family == Family::V4;
    for end in [ends.source, ends.destination] {
        assert_eq!(end.address.as_v4().is_some(), v4, "{packet:?} becomes {ends:?}");
    }
    if work.rewrite.change == Change::Quoted {
        let inner = work.inner;
        assert!(inner.transport + 8 <= inner.end && inner.end <= length);
        let quote = Quote::of(&frame, &inner, &ends).unwrap();
        assert!(quote.checksum_at == 0 || quote.checksum_at + 2 <= length);
    } else {
        assert!(packet.has_ports() && packet.transport + 8 <= packet.end);
    }
}

#[test]
fn no_packet_leads_astray() {
    let seconds = std::env::var("BOWLINE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(2));
    let (seeds, mut maps) = (seeds(), node());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut work = Work::default();
    let mut rounds = 0u64;
    let mut rewritten = 0u64;
    while Instant::now() < until {
        for _ in 0..1_000 {
            let mut bytes = seeds[random.below(seeds.len())].clone();
            for _ in 0..random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            if random.below(8) == 0 {
                bytes.truncate(random.below(bytes.len() + 1));
            }
            let family = if random.below(2) == 0 { Family::V4 } else { Family::V6 };
            try_one(&maps, &bytes, family, random.below(3), &mut work);
            rewritten += u64::from(work.rewrite.change != Change::Nothing);
            rounds += 1;
        }
        if maps.flows.borrow().len() > 10_000 {
            maps = node();
        }
    }
    std::println!("{rounds} packets, {rewritten} rewritten");
    assert!(rewritten > rounds / 1_000, "the seeds reach the translations");
}
