//! Services with their endpoint slices: what the service maps and the DNS server are made from.
//!
//! Guarantees: whatever differs from what the consumer last took is in the next `take_changed`,
//! also across a re-list; an object that comes again with the resource version that is held is
//! no change. Readers find a service by name or by cluster address without a scan.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{ResourceExt, runtime::watcher::Event};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    Announcer,
    slice::{Shared, Slice},
};

/// The label by which a slice names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace and name of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ServiceKey {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What the API says about one service name: the service, its slices, or both.
#[derive(Debug, Clone, Default)]
pub(crate) struct Announced {
    /// Absent while only slices are known.
    pub(crate) service: Option<Arc<Service>>,
    /// By name of the slice.
    pub(crate) slices: BTreeMap<String, Arc<Slice>>,
}

/// A slice with its own name and its service's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct HeldSlice {
    service: ServiceKey,
    name: String,
    slice: Arc<Slice>,
}

/// All services with their slices.
#[derive(Debug)]
pub(crate) struct ServiceTable {
    inner: RwLock<Inner>,
    synced: watch::Sender<(bool, bool)>,
    changed: Announcer,
}

#[derive(Debug, Default)]
struct Inner {
    announced: BTreeMap<ServiceKey, Announced>,
    by_address: HashMap<IpAddr, ServiceKey>,
    /// Services without a cluster address: their endpoints have names of their own.
    headless: BTreeSet<ServiceKey>,
    /// Which service each slice (namespace, name) was last counted under.
    slice_owner: HashMap<(String, String), ServiceKey>,
    incoming_services: BTreeMap<ServiceKey, Service>,
    /// The list that is coming in: each slice with the service it names.
    incoming_slices: BTreeMap<(String, String), (ServiceKey, Arc<Slice>)>,
    shared: Shared,
    dirty: BTreeSet<ServiceKey>,
}

impl ServiceTable {
    pub(crate) fn new() -> Self {
        Self {
            inner: RwLock::default(),
            synced: watch::Sender::new((false, false)),
            changed: Announcer::new(),
        }
    }

    pub(crate) fn take_service(&self, event: Event<Service>) {
        let mut inner = self.write();
        match event {
            Event::Init => return inner.incoming_services.clear(),
            Event::InitApply(service) => {
                inner.incoming_services.insert(name_of(&service), service);
                return;
            }
            Event::InitDone => inner.replace_services(),
            Event::Apply(service) => inner.put_service(service),
            Event::Delete(service) => inner.drop_service(&name_of(&service)),
        }
        // Under the lock: `restore` must not take this for a table that nothing came in for.
        self.synced.send_modify(|synced| synced.0 = true);
        drop(inner);
        self.changed.announce();
    }

    pub(crate) fn take_slice(&self, event: Event<EndpointSlice>) {
        let mut inner = self.write();
        match event {
            Event::Init => return inner.incoming_slices.clear(),
            Event::InitApply(slice) => return inner.receive_slice(&slice),
            Event::InitDone => inner.replace_slices(),
            Event::Apply(slice) => inner.take_slice(&slice),
            Event::Delete(slice) => inner.drop_slice(&slice_key(&slice)),
        }
        self.synced.send_modify(|synced| synced.1 = true);
        drop(inner);
        self.changed.announce();
    }

    /// Holds these until the first lists come in; what came in already stays. They are no change:
    /// what the maps hold is newer.
    pub(super) fn restore(&self, services: Vec<Service>, slices: Vec<HeldSlice>) {
        let mut inner = self.write();
        let synced = *self.synced.borrow();
        if !synced.0 {
            services.into_iter().for_each(|service| inner.put_service(service));
        }
        if !synced.1 {
            for HeldSlice { service, name, slice } in slices {
                inner.put_slice((service.namespace.clone(), name), service, slice);
            }
        }
        inner.dirty.clear();
        drop(inner);
        self.changed.announce();
    }

    /// All services and all slices that are held.
    pub(super) fn held(&self) -> (Vec<Arc<Service>>, Vec<HeldSlice>) {
        let inner = self.read();
        let services = inner.announced.values().filter_map(|entry| entry.service.clone());
        let slices = inner.announced.iter().flat_map(|(service, entry)| {
            entry.slices.iter().map(|(name, slice)| HeldSlice {
                service: service.clone(),
                name: name.clone(),
                slice: slice.clone(),
            })
        });
        (services.collect(), slices.collect())
    }

    /// What is known about a service name.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Announced> {
        let key = ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() };
        self.read().announced.get(&key).cloned()
    }

    /// Whether any service lives in this namespace.
    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        let first = ServiceKey { namespace: namespace.to_owned(), name: String::new() };
        let inner = self.read();
        inner.announced.range(first..).next().is_some_and(|(key, _)| key.namespace == namespace)
    }

    /// The service that has this cluster address.
    pub(crate) fn at_address(&self, address: IpAddr) -> Option<ServiceKey> {
        self.read().by_address.get(&address).cloned()
    }

    /// What is known about each of these names; nothing about those that are gone.
    pub(crate) fn get_all(&self, names: BTreeSet<ServiceKey>) -> Vec<(ServiceKey, Announced)> {
        let inner = self.read();
        let known = |name: &ServiceKey| inner.announced.get(name).cloned().unwrap_or_default();
        names.into_iter().map(|name| (known(&name), name)).map(|(now, name)| (name, now)).collect()
    }

    /// The headless services that have an endpoint at this address, ready or not.
    pub(crate) fn headless_at(&self, address: IpAddr) -> Vec<(ServiceKey, Announced)> {
        let has = |known: &Announced| {
            let mut endpoints = known.slices.values().flat_map(|slice| &slice.endpoints);
            endpoints.any(|endpoint| endpoint.address == address)
        };
        let inner = self.read();
        let all = inner.headless.iter().filter_map(|key| Some((key, inner.announced.get(key)?)));
        all.filter(|(_, known)| has(known)).map(|(key, it)| (key.clone(), it.clone())).collect()
    }

    /// Whether the first whole lists have come in: until then, what is not here may still exist.
    pub(crate) fn is_synced(&self) -> bool {
        *self.synced.borrow() == (true, true)
    }

    /// Every name that is known.
    pub(crate) fn names(&self) -> BTreeSet<ServiceKey> {
        self.read().announced.keys().cloned().collect()
    }

    /// The services that changed since this was last called. There is one consumer: the task that
    /// programs the service maps.
    pub(crate) fn take_changed(&self) -> BTreeSet<ServiceKey> {
        std::mem::take(&mut self.write().dirty)
    }

    /// Changes whenever a service or a slice does.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits for the first whole lists of services and of slices.
    pub(crate) async fn synced(&self) {
        // The sender lives as long as `self`: waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced == (true, true)).await;
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn put_service(&mut self, service: Service) {
        let key = name_of(&service);
        let entry = self.announced.entry(key.clone()).or_default();
        if entry.service.as_ref().is_some_and(|held| same_version(held.as_ref(), &service)) {
            return;
        }
        let old = entry.service.replace(Arc::new(service));
        self.reindex(&key, old.as_deref());
        self.dirty.insert(key);
    }

    fn drop_service(&mut self, key: &ServiceKey) {
        let Some(entry) = self.announced.get_mut(key) else { return };
        let Some(old) = entry.service.take() else { return };
        if entry.slices.is_empty() {
            self.announced.remove(key);
        }
        self.reindex(key, Some(&old));
        self.dirty.insert(key.clone());
    }

    fn replace_services(&mut self) {
        let incoming = std::mem::take(&mut self.incoming_services);
        let gone: Vec<ServiceKey> = self
            .announced
            .iter()
            .filter(|(key, held)| held.service.is_some() && !incoming.contains_key(*key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &gone {
            self.drop_service(key);
        }
        for service in incoming.into_values() {
            self.put_service(service);
        }
    }

    fn take_slice(&mut self, object: &EndpointSlice) {
        let own_key = slice_key(object);
        let Some(owner) = owner_of(object) else { return self.drop_slice(&own_key) };
        if self.held_slice(&owner, &own_key.1).is_some_and(|held| held.is(object)) {
            return;
        }
        let slice = Arc::new(Slice::new(object, &mut self.shared));
        self.put_slice(own_key, owner, slice);
    }

    /// Keeps a slice of the list that is coming in. One that is held already is not made again.
    fn receive_slice(&mut self, object: &EndpointSlice) {
        let Some(owner) = owner_of(object) else { return };
        let own_key = slice_key(object);
        let held = self.held_slice(&owner, &own_key.1).filter(|held| held.is(object)).cloned();
        let slice = held.unwrap_or_else(|| Arc::new(Slice::new(object, &mut self.shared)));
        self.incoming_slices.insert(own_key, (owner, slice));
    }

    fn held_slice(&self, owner: &ServiceKey, name: &str) -> Option<&Arc<Slice>> {
        self.announced.get(owner)?.slices.get(name)
    }

    fn put_slice(&mut self, own_key: (String, String), owner: ServiceKey, slice: Arc<Slice>) {
        if self.slice_owner.get(&own_key).is_some_and(|former| *former != owner) {
            self.drop_slice(&own_key);
        }
        let entry = self.announced.entry(owner.clone()).or_default();
        entry.slices.insert(own_key.1.clone(), slice);
        self.slice_owner.insert(own_key, owner.clone());
        self.dirty.insert(owner);
    }

    fn drop_slice(&mut self, own_key: &(String, String)) {
        let Some(owner) = self.slice_owner.remove(own_key) else { return };
        if let Some(entry) = self.announced.get_mut(&owner) {
            entry.slices.remove(&own_key.1);
            if entry.slices.is_empty() && entry.service.is_none() {
                self.announced.remove(&owner);
            }
        }
        self.dirty.insert(owner);
    }

    fn replace_slices(&mut self) {
        let incoming = std::mem::take(&mut self.incoming_slices);
        let gone: Vec<(String, String)> =
            self.slice_owner.keys().filter(|key| !incoming.contains_key(*key)).cloned().collect();
        for key in &gone {
            self.drop_slice(key);
        }
        for (own_key, (owner, slice)) in incoming {
            let held = self.held_slice(&owner, &own_key.1);
            if !held.is_some_and(|held| Arc::ptr_eq(held, &slice)) {
                self.put_slice(own_key, owner, slice);
            }
        }
        self.shared.forget_unused();
    }

    /// Brings the address index in line after the service at `key` was replaced or removed.
    fn reindex(&mut self, key: &ServiceKey, old: Option<&Service>) {
        for address in old.into_iter().flat_map(cluster_addresses) {
            if self.by_address.get(&address) == Some(key) {
                self.by_address.remove(&address);
            }
        }
        let now = self.announced.get(key).and_then(|held| held.service.clone());
        if now.as_deref().is_some_and(is_headless) {
            self.headless.insert(key.clone());
        } else {
            self.headless.remove(key);
        }
        for address in now.iter().flat_map(|service| cluster_addresses(service)) {
            self.by_address.insert(address, key.clone());
        }
    }
}

/// The cluster addresses of a service; none for a headless one.
pub(crate) fn cluster_addresses(service: &Service) -> BTreeSet<IpAddr> {
    let Some(spec) = service.spec.as_ref() else { return BTreeSet::new() };
    let many = spec.cluster_ips.iter().flatten();
    many.chain(spec.cluster_ip.as_ref()).filter_map(|text| text.parse().ok()).collect()
}

fn is_headless(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    address == Some("None")
}

fn same_version<K: ResourceExt>(held: &K, new: &K) -> bool {
    held.uid() == new.uid()
        && held.resource_version().is_some()
        && held.resource_version() == new.resource_version()
}

pub(crate) fn name_of(service: &Service) -> ServiceKey {
    ServiceKey { namespace: service.namespace().unwrap_or_default(), name: service.name_any() }
}

/// The service that a slice names.
pub(crate) fn owner_of(slice: &EndpointSlice) -> Option<ServiceKey> {
    let name = slice.labels().get(SERVICE_NAME)?.clone();
    Some(ServiceKey { namespace: slice.namespace().unwrap_or_default(), name })
}

fn slice_key(slice: &EndpointSlice) -> (String, String) {
    (slice.namespace().unwrap_or_default(), slice.name_any())
}

#[cfg(test)]
mod tests;
