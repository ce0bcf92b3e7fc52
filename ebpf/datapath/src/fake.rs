//! The maps as plain collections, for the tests of this crate and its fuzz target.

extern crate std;

use crate::abi::{
    Address, Affinity, AffinityKey, Backend, Flow, FlowKey, Mac, Pod, Route, RouteKey, Service,
    ServiceKey, Slot, U16Be, pod_flags, protocol, state,
};
use crate::balance::ServiceMaps;
use crate::deliver::PacketMaps;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub(crate) fn address(text: &str) -> Address {
    text.parse::<IpAddr>().expect("an address").into()
}

pub(crate) fn key(text: &str, port: u16) -> ServiceKey {
    ServiceKey::new(address(text), U16Be::new(port), protocol::TCP)
}

pub(crate) fn backend(text: &str, port: u16) -> Backend {
    Backend {
        address: address(text),
        port: U16Be::new(port),
        state: state::ACTIVE,
        ..Backend::default()
    }
}

/// The ones' complement sum of words in network order.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A frame with TCP or UDP, whose checksums nobody looks at here.
pub(crate) fn frame(protocol: u8, from: (IpAddr, u16), to: (IpAddr, u16), flags: u8) -> Vec<u8> {
    let mut segment = [from.1, to.1].map(u16::to_be_bytes).concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    ip_frame(protocol, from.0, to.0, &segment)
}

pub(crate) fn ip_frame(protocol: u8, from: IpAddr, to: IpAddr, segment: &[u8]) -> Vec<u8> {
    let mut bytes = std::vec![0; 14];
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend([0x45, 0]);
            bytes.extend((20 + segment.len() as u16).to_be_bytes());
            bytes.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
            bytes.extend([from.octets(), to.octets()].concat());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend((segment.len() as u16).to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend([from.octets(), to.octets()].concat());
        }
        _ => panic!("{from} and {to} are not of one family"),
    }
    bytes.extend(segment);
    bytes
}

#[derive(Default)]
pub(crate) struct FakeMaps {
    pub(crate) services: BTreeMap<ServiceKey, Service>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) backends: RefCell<BTreeMap<u32, Backend>>,
    pub(crate) pods: RefCell<BTreeMap<Address, Pod>>,
    pub(crate) routes: BTreeMap<Address, Route>,
    pub(crate) flows: RefCell<BTreeMap<FlowKey, Flow>>,
    pub(crate) flows_full: bool,
    pub(crate) others_follow: bool,
    pub(crate) random: Cell<u32>,
    pub(crate) connections: Cell<u32>,
    pub(crate) refused: Cell<u32>,
    pub(crate) affinities: RefCell<Vec<(AffinityKey, Affinity)>>,
    pub(crate) affinities_full: Cell<bool>,
    pub(crate) affinity_writes: Cell<u32>,
    pub(crate) now_ns: Cell<u64>,
}

use std::vec::Vec;

impl FakeMaps {
    /// A service with these backends, each on port 8080.
    pub(crate) fn program(&mut self, key: ServiceKey, addresses: &[&str]) {
        let mut backends = self.backends.borrow_mut();
        let service = Service {
            id: self.services.len() as u32,
            first_slot: self.slots.len() as u32,
            slot_count: addresses.len() as u32,
            ..Service::default()
        };
        for text in addresses {
            let id = backends.len() as u32;
            backends.insert(id, backend(text, 8080));
            self.slots.push(Slot { backend: id, tag: key.tag() });
        }
        self.services.insert(key, service);
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, nanoseconds: u64) {
        self.now_ns.set(self.now_ns.get() + nanoseconds);
    }

    pub(crate) fn add_pod(&self, text: &str, ifindex: u32) {
        let pod = Pod { ifindex, mac: Mac::new([2, 0, 0, 0, 0, ifindex as u8]), flags: 0 };
        self.pods.borrow_mut().insert(address(text), pod);
    }
}

impl ServiceMaps for FakeMaps {
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).copied()
    }
    fn may_have_address(&self, _: &Address) -> bool {
        !self.services.is_empty()
    }
    fn has_address(&self, address: &Address) -> bool {
        self.services.keys().any(|key| key.address == *address)
    }
    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(index as usize).copied()
    }
    fn backend(&self, id: u32) -> Option<Backend> {
        self.backends.borrow().get(&id).copied()
    }
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        let all = self.affinities.borrow();
        all.iter().find(|(known, _)| known == key).map(|(_, affinity)| *affinity)
    }
    fn store_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        if !self.affinities_full.get() {
            let mut all = self.affinities.borrow_mut();
            all.retain(|(known, _)| known != key);
            all.push((*key, *affinity));
            self.affinity_writes.set(self.affinity_writes.get() + 1);
        }
    }
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }
}

impl PacketMaps for FakeMaps {
    fn others_follow(&self) -> bool {
        self.others_follow
    }
    fn pod(&self, address: &Address) -> Option<Pod> {
        self.pods.borrow().get(address).copied()
    }
    /// Every route of the tests is a /24 or a /64.
    fn route(&self, address: &Address) -> Option<Route> {
        let prefix = if address.as_v4().is_some() { 24 } else { 64 };
        self.routes.get(&RouteKey::new(*address, prefix).address).copied()
    }
    fn flow(&self, key: &FlowKey, into: &mut Flow) -> bool {
        self.flows.borrow().get(key).map(|flow| *into = *flow).is_some()
    }
    fn use_flow(&self, key: &FlowKey, now: u32, set: u8, clear: u8) -> bool {
        let mut flows = self.flows.borrow_mut();
        let Some(flow) = flows.get_mut(key) else { return false };
        flow.last_used = now;
        flow.ended = (flow.ended | set) & !clear;
        true
    }
    fn delete_flow(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }
    fn store_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        if !self.flows_full {
            self.flows.borrow_mut().insert(*key, *flow);
        }
        !self.flows_full
    }
    fn mark_pod(&self, address: &Address) {
        if let Some(pod) = self.pods.borrow_mut().get_mut(address) {
            pod.flags |= pod_flags::HAS_FLOWS;
        }
    }
    fn random(&self) -> u32 {
        self.random.get()
    }
    fn count_connection(&self, _service: u32) {
        self.connections.set(self.connections.get() + 1);
    }
    fn count_refused(&self, _service: u32) {
        self.refused.set(self.refused.get() + 1);
    }
}
