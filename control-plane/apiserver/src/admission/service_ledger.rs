//! Which service holds which cluster address and node port.
//!
//! Kept up by a watch of the stored services, which are the only truth: what is deleted is free
//! at once, and nothing can leak. Whoever lets the watch fall too far behind reads all anew.

use super::service_addresses::addresses_of;
use crate::objects::Place;
use crate::watch::{Caches, Filter, Object, Session, Start};
use bowline_api::status::Status;
use serde_json::Value;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

/// A protocol and a node port.
pub(super) type NodePort = (String, i64);

/// See the module's documentation. The values are keys of the services' cache.
#[derive(Default)]
pub(crate) struct Ledger {
    watch: Option<Session>,
    addresses: HashMap<IpAddr, String>,
    node_ports: HashMap<NodePort, String>,
}

/// What all services but one hold.
pub(super) struct Taken<'a> {
    ledger: &'a Ledger,
    own: String,
}

impl Ledger {
    /// Takes in every change that is visible in the caches, and says what others hold than the
    /// service at `place`.
    pub(super) fn others(&mut self, caches: &Caches, place: &Place) -> Result<Taken<'_>, Status> {
        if !self.catch_up() {
            let watch = caches.of(place.resource).watch(Filter::default(), Start::State).ok();
            *self = Self { watch, ..Self::default() };
            if !self.catch_up() {
                return Err(Status::service_unavailable("the services cannot be read: try again"));
            }
        }
        Ok(Taken { ledger: self, own: place.key() })
    }

    /// Whether the watch is still one.
    fn catch_up(&mut self) -> bool {
        let Some(mut watch) = self.watch.take() else { return false };
        let is_whole = watch.drain(|delivery| {
            let event = &delivery.event;
            event.previous.iter().for_each(|service| self.release(service));
            event.current.iter().for_each(|service| self.hold(service));
        });
        self.watch = is_whole.then_some(watch);
        is_whole
    }

    fn hold(&mut self, service: &Object) {
        let holder = || service.key.clone();
        self.addresses.extend(cluster_addresses(&service.value).map(|a| (a, holder())));
        self.node_ports.extend(node_ports(&service.value).map(|port| (port, holder())));
    }

    fn release(&mut self, service: &Object) {
        for address in cluster_addresses(&service.value) {
            release(&mut self.addresses, &address, &service.key);
        }
        for port in node_ports(&service.value) {
            release(&mut self.node_ports, &port, &service.key);
        }
    }
}

impl Taken<'_> {
    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        self.ledger.addresses.get(&address).is_some_and(|holder| *holder != self.own)
    }

    pub(super) fn has_port(&self, port: &NodePort) -> bool {
        self.ledger.node_ports.get(port).is_some_and(|holder| *holder != self.own)
    }

    /// At least as many addresses as others hold.
    pub(super) fn addresses(&self) -> u64 {
        self.ledger.addresses.len() as u64
    }
}

fn release<K: Eq + Hash>(held: &mut HashMap<K, String>, key: &K, holder: &str) {
    if held.get(key).is_some_and(|by| by == holder) {
        held.remove(key);
    }
}

fn cluster_addresses(service: &Value) -> impl Iterator<Item = IpAddr> {
    addresses_of(service).into_iter().filter_map(|text| text.parse().ok())
}

fn node_ports(service: &Value) -> impl Iterator<Item = NodePort> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports.filter_map(|port| Some((protocol(port), port["nodePort"].as_i64()?)))
}

pub(super) fn protocol(port: &Value) -> String {
    port["protocol"].as_str().unwrap_or("TCP").to_owned()
}
