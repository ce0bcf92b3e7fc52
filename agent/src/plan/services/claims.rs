//! Which service holds which virtual address, so that a change costs by what changed.
//!
//! Guarantees: an address that two services claim stays with the one that had it first, and goes
//! over when that one lets go; of several that come at once the first by name has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bowline_ebpf_abi::ServiceKey;

use super::{ServiceTable, WantedService};
use crate::watch::ServiceKey as ServiceName;

/// What one service wants of the maps.
pub(crate) type Wanted = Vec<(ServiceKey, WantedService)>;

/// Who holds what.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    of: HashMap<ServiceName, Box<[ServiceKey]>>,
    holder: HashMap<ServiceKey, ServiceName>,
    /// Services that want what another one holds.
    waiting: BTreeMap<ServiceKey, BTreeSet<ServiceName>>,
}

/// What of the service maps differs from before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceChanges {
    pub(crate) put: ServiceTable,
    pub(crate) removed: BTreeSet<ServiceKey>,
}

impl ServiceChanges {
    pub fn is_empty(&self) -> bool {
        self.put.services.is_empty() && self.removed.is_empty()
    }

    /// Those of them that concern these addresses, which are removed if nobody wants them.
    pub(crate) fn about(mut self, keys: &BTreeSet<ServiceKey>) -> Self {
        self.put.services.retain(|key, _| keys.contains(key));
        let removed = keys.iter().filter(|key| !self.put.services.contains_key(key));
        let removed = removed.copied().collect();
        Self { put: self.put, removed }
    }

    /// Takes in what changed after these.
    pub(crate) fn add(&mut self, later: Self) {
        self.put.services.retain(|key, _| !later.removed.contains(key));
        self.removed.retain(|key| !later.put.services.contains_key(key));
        self.put.services.extend(later.put.services);
        self.removed.extend(later.removed);
    }
}

impl Claims {
    /// Takes what some services want now; a service that is gone wants nothing. Also gives the
    /// services to ask again, because something that they want became free.
    pub(crate) fn update(
        &mut self,
        services: Vec<(ServiceName, Wanted)>,
    ) -> (ServiceChanges, BTreeSet<ServiceName>) {
        let mut changes = ServiceChanges::default();
        for (name, wanted) in &services {
            self.let_go(name, wanted, &mut changes.removed);
        }
        for (name, wanted) in services {
            self.claim(name, wanted, &mut changes);
        }
        let free = changes.removed.iter().filter_map(|key| self.waiting.remove(key));
        let again = free.flatten().collect();
        (changes, again)
    }

    /// Gives up what the service has and wants no longer.
    fn let_go(&mut self, name: &ServiceName, wanted: &Wanted, removed: &mut BTreeSet<ServiceKey>) {
        for key in self.of.remove(name).unwrap_or_default() {
            if wanted.iter().any(|(other, _)| *other == key) {
                continue;
            }
            if self.holder.get(&key) == Some(name) {
                self.holder.remove(&key);
                removed.insert(key);
            } else if let Some(waiting) = self.waiting.get_mut(&key) {
                waiting.remove(name);
                if waiting.is_empty() {
                    self.waiting.remove(&key);
                }
            }
        }
    }

    fn claim(&mut self, name: ServiceName, wanted: Wanted, changes: &mut ServiceChanges) {
        let mut keys = Vec::with_capacity(wanted.len());
        for (key, service) in wanted {
            keys.push(key);
            let holder = self.holder.entry(key).or_insert_with(|| name.clone());
            if *holder == name {
                changes.removed.remove(&key);
                changes.put.services.entry(key).or_insert(service);
            } else {
                self.waiting.entry(key).or_default().insert(name.clone());
            }
        }
        if !keys.is_empty() {
            self.of.insert(name, keys.into_boxed_slice());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_ebpf_abi::{U16Be, protocol};
    use std::net::IpAddr;

    fn key(port: u16) -> ServiceKey {
        let address = "10.9.8.7".parse::<IpAddr>().unwrap();
        ServiceKey::new(address.into(), U16Be::new(port), protocol::TCP)
    }

    fn name(text: &str) -> ServiceName {
        ServiceName { namespace: "default".into(), name: text.into() }
    }

    fn wants(service: &str, ports: &[u16]) -> (ServiceName, Wanted) {
        let wanted = |port: &u16| {
            let wanted = WantedService { name: service.into(), ..WantedService::default() };
            (key(*port), wanted)
        };
        (name(service), ports.iter().map(wanted).collect())
    }

    /// Ports put (with the service's name), ports removed, services to ask again.
    fn told(claims: &mut Claims, services: Vec<(ServiceName, Wanted)>) -> String {
        let (changes, again) = claims.update(services);
        let put = changes.put.services.iter().map(|(k, w)| format!("+{}{}", w.name, k.port.get()));
        let removed = changes.removed.iter().map(|k| format!("-{}", k.port.get()));
        let again = again.iter().map(|name| format!("?{}", name.name));
        put.chain(removed).chain(again).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_differences_are_told() {
        let mut claims = Claims::default();
        assert_eq!(
            told(&mut claims, vec![wants("a", &[80, 81]), wants("b", &[82])]),
            "+a80 +a81 +b82"
        );
        assert_eq!(told(&mut claims, vec![wants("a", &[81, 83])]), "+a81 +a83 -80");
        assert_eq!(told(&mut claims, vec![wants("b", &[])]), "-82");
        assert_eq!(told(&mut claims, vec![wants("b", &[])]), "");
        // An address that changes hands within one batch is not removed in between.
        assert_eq!(told(&mut claims, vec![wants("a", &[]), wants("c", &[81])]), "+c81 -83");
    }

    #[test]
    fn a_second_claim_waits_for_the_first_to_end() {
        let mut claims = Claims::default();
        assert_eq!(told(&mut claims, vec![wants("b", &[80])]), "+b80");
        assert_eq!(told(&mut claims, vec![wants("a", &[80]), wants("c", &[80])]), "");
        assert_eq!(told(&mut claims, vec![wants("c", &[])]), "");
        assert_eq!(told(&mut claims, vec![wants("b", &[])]), "-80 ?a");
        assert_eq!(told(&mut claims, vec![wants("a", &[80])]), "+a80");
        assert!(claims.waiting.is_empty());
    }
}
