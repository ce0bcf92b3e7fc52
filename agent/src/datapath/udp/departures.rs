//! Which backends left which UDP services for good.
//!
//! Guarantees: pure. A backend that takes no new connections but still serves has not left.

use std::collections::{BTreeMap, BTreeSet};

use bowline_ebpf_abi::{ServiceKey, protocol};

use crate::plan::services::{BackendAddress, ProgrammedService, ServiceTable, WantedService};

/// A backend that is no longer one of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Departed {
    pub(super) service: ServiceKey,
    pub(super) backend: BackendAddress,
}

/// The backends of each UDP service, those that only serve on included.
#[derive(Debug, Default)]
pub(in super::super) struct Departures(BTreeMap<ServiceKey, BTreeSet<BackendAddress>>);

impl Departures {
    /// From what an earlier agent left in the maps: what went while there was none is noticed.
    pub(in super::super) fn recover(programmed: &BTreeMap<ServiceKey, ProgrammedService>) -> Self {
        let udp = programmed.iter().filter(|(key, _)| key.protocol == protocol::UDP);
        Self(udp.map(|(key, now)| (*key, now.backends.iter().copied().collect())).collect())
    }

    /// These services have these backends from now on, but for those that are `unwritten`: their
    /// old backends are still in the maps. Gives the backends that left.
    pub(in super::super) fn follow(
        &mut self,
        put: &ServiceTable,
        unwritten: &BTreeSet<ServiceKey>,
    ) -> Vec<Departed> {
        let written = put.services.iter().filter(|(key, _)| !unwritten.contains(key));
        written.flat_map(|(key, wanted)| self.put(key, wanted)).collect()
    }

    fn put(&mut self, key: &ServiceKey, wanted: &WantedService) -> Vec<Departed> {
        if key.protocol != protocol::UDP {
            return Vec::new();
        }
        let serving = wanted.backends.keys().chain(&wanted.lingering).copied();
        let before = self.0.insert(*key, serving.collect()).unwrap_or_default();
        let now = &self.0[key];
        let left = before.difference(now);
        left.map(|backend| Departed { service: *key, backend: *backend }).collect()
    }

    /// The service is gone. Its sockets have nowhere to go and stay as they are.
    pub(in super::super) fn remove(&mut self, key: &ServiceKey) {
        self.0.remove(key);
    }

    /// Forgets all services but these.
    pub(in super::super) fn keep(&mut self, wanted: &BTreeMap<ServiceKey, WantedService>) {
        self.0.retain(|key, _| wanted.contains_key(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_ebpf_abi::U16Be;
    use std::net::IpAddr;

    fn key(protocol: u8) -> ServiceKey {
        let address = "10.9.0.1".parse::<IpAddr>().unwrap();
        ServiceKey::new(address.into(), U16Be::new(53), protocol)
    }

    fn backend(number: u8) -> BackendAddress {
        let address = IpAddr::from([10, 240, 0, number]);
        BackendAddress { address: address.into(), port: U16Be::new(53) }
    }

    fn wanted(backends: &[u8], lingering: &[u8]) -> WantedService {
        WantedService {
            backends: backends.iter().map(|number| (backend(*number), None)).collect(),
            lingering: lingering.iter().map(|number| backend(*number)).collect(),
            ..WantedService::default()
        }
    }

    #[test]
    fn who_serves_on_has_not_left() {
        let mut departures = Departures::default();
        let udp = key(protocol::UDP);
        let mut put = |backends: &[u8], lingering: &[u8]| {
            let left = departures.put(&udp, &wanted(backends, lingering));
            left.into_iter().map(|gone| gone.backend).collect::<Vec<_>>()
        };
        assert_eq!(put(&[1, 2], &[]), []);
        assert_eq!(put(&[1], &[2]), [], "it terminates");
        assert_eq!(put(&[1], &[]), [backend(2)], "it is gone");
        assert_eq!(put(&[], &[]), [backend(1)]);
    }

    #[test]
    fn who_is_still_in_the_maps_has_not_left() {
        let mut departures = Departures::default();
        let udp = key(protocol::UDP);
        let mut follow = |backends: &[u8], unwritten: &[ServiceKey]| {
            let put = ServiceTable { services: [(udp, wanted(backends, &[]))].into() };
            let left = departures.follow(&put, &unwritten.iter().copied().collect());
            left.into_iter().map(|gone| gone.backend).collect::<Vec<_>>()
        };
        assert_eq!(follow(&[1, 2], &[]), []);
        assert_eq!(follow(&[1, 3], &[udp]), [], "there was no room for the change");
        assert_eq!(follow(&[1, 3], &[]), [backend(2)]);
    }

    #[test]
    fn tcp_notices_by_itself() {
        let mut departures = Departures::default();
        let tcp = key(protocol::TCP);
        departures.put(&tcp, &wanted(&[1], &[]));
        assert_eq!(departures.put(&tcp, &wanted(&[], &[])), []);
    }

    #[test]
    fn what_went_while_no_agent_was_there_is_noticed() {
        let now = ProgrammedService {
            id: 1,
            first_slot: 0,
            slot_count: 2,
            affinity_seconds: 0,
            backends: vec![backend(1), backend(2)],
        };
        let udp = key(protocol::UDP);
        let mut departures = Departures::recover(&BTreeMap::from([(udp, now)]));
        let left = departures.put(&udp, &wanted(&[2], &[]));
        assert_eq!(left, [Departed { service: udp, backend: backend(1) }]);
    }
}
