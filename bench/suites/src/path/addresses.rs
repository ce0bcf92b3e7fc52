//! Which addresses services have: one after the other, and the last one's in the worst place.
//!
//! For rules that are gone through one by one, that is the last place. For bowline it is one that
//! another service has: the address is then looked for in SERVICES, after its place in
//! SERVICE_LINES.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bowline_ebpf_abi::{ServiceKey, U16Be, protocol};
use bowline_lab::world::Node;

use super::PORT;

const FIRST: u32 = u32::from_be_bytes([10, 9, 0, 1]);
/// So many addresses after the last one are looked at.
const CANDIDATES: u32 = 1 << 20;

/// This many services.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) count: u32,
    last: Ipv4Addr,
}

impl Addresses {
    /// Without a look at bowline's maps.
    pub(crate) fn new(count: u32) -> Self {
        Self { count, last: Ipv4Addr::from(FIRST + count - 1) }
    }

    /// The last one's place is that of another one, if there is another.
    pub(crate) fn of(count: u32, node: &Node) -> Self {
        let plain = Self::new(count);
        let maps = node.status().maps;
        let lines = maps.iter().find(|map| map.name == "SERVICE_LINES").unwrap().size;
        let place = |address: Ipv4Addr, protocol| {
            ServiceKey::new(IpAddr::V4(address).into(), U16Be::new(PORT), protocol).place(lines)
        };
        let both = [protocol::TCP, protocol::UDP];
        let others = (0..count - 1).map(|number| plain.of_number(number));
        let taken: HashSet<u32> =
            others.flat_map(|address| both.map(|protocol| place(address, protocol))).collect();
        let last = u32::from(plain.last);
        let mut candidates = (last..last + CANDIDATES).map(Ipv4Addr::from);
        let worst = candidates.find(|it| taken.contains(&place(*it, protocol::TCP)));
        Self { last: worst.unwrap_or(plain.last), ..plain }
    }

    /// That of service `number`.
    pub(crate) fn of_number(&self, number: u32) -> Ipv4Addr {
        if number + 1 == self.count { self.last } else { Ipv4Addr::from(FIRST + number) }
    }

    /// Where the last one is.
    pub(crate) fn target(&self) -> SocketAddr {
        SocketAddr::from((self.last, PORT))
    }
}
