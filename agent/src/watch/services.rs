//! Services with their endpoint slices: what the service maps and the DNS server are made from.
//!
//! Guarantees: whatever differs from what the consumer last took is in the next `take_changed`,
//! also across a re-list; an object that comes again with the resource version that is held is
//! no change. Readers find a service by name or by cluster address without a scan.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{ResourceExt, runtime::watcher::Event};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    Announcer,
    service::{ServiceFacts, name_of},
    slice::{Shared, Slice},
};

/// The label by which a slice names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace and name of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ServiceKey {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// What the API says about one service name: the service, its slices, or both.
#[derive(Debug, Clone, Default)]
pub(crate) struct Announced {
    /// Absent while only slices are known.
    pub(crate) service: Option<Arc<ServiceFacts>>,
    /// In the order of their names.
    pub(crate) slices: Vec<Arc<Slice>>,
}

impl Announced {
    fn slice(&self, name: &str) -> Option<&Arc<Slice>> {
        self.place_of(name).ok().map(|place| &self.slices[place])
    }

    fn put_slice(&mut self, slice: Arc<Slice>) {
        match self.place_of(&slice.name) {
            Ok(place) => self.slices[place] = slice,
            Err(place) => {
                // Most services have one slice for ever.
                self.slices.reserve_exact(1);
                self.slices.insert(place, slice);
            }
        }
    }

    fn drop_slice(&mut self, name: &str) {
        if let Ok(place) = self.place_of(name) {
            self.slices.remove(place);
        }
    }

    fn place_of(&self, name: &str) -> Result<usize, usize> {
        self.slices.binary_search_by(|slice| slice.name.as_ref().cmp(name))
    }
}

/// A slice with its service's name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct HeldSlice {
    service: ServiceKey,
    slice: Arc<Slice>,
}

/// Namespace and name of a slice.
type SliceKey = (Arc<str>, Box<str>);

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
    /// Which service each slice was last counted under.
    slice_owner: HashMap<SliceKey, ServiceKey>,
    /// The lists that are coming in; each slice with the service it names.
    incoming_services: BTreeMap<ServiceKey, Arc<ServiceFacts>>,
    incoming_slices: BTreeMap<SliceKey, (ServiceKey, Arc<Slice>)>,
    shared: Shared,
    dirty: BTreeSet<ServiceKey>,
    /// When the first of them changed.
    dirty_since: Option<Instant>,
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
            Event::InitApply(service) => return inner.receive_service(&service),
            Event::InitDone => inner.replace_services(),
            Event::Apply(service) => inner.take_service(&service),
            Event::Delete(service) => inner.drop_service(&name_of(&service)),
        }
        inner.note_change();
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
        inner.note_change();
        self.synced.send_modify(|synced| synced.1 = true);
        drop(inner);
        self.changed.announce();
    }

    /// Holds these until the first lists come in; what came in already stays. They are no change:
    /// what the maps hold is newer.
    pub(super) fn restore(&self, services: Vec<ServiceFacts>, slices: Vec<HeldSlice>) {
        let mut inner = self.write();
        let synced = *self.synced.borrow();
        if !synced.0 {
            services.into_iter().for_each(|service| inner.put_service(Arc::new(service)));
        }
        if !synced.1 {
            for HeldSlice { service, slice } in slices {
                inner.put_slice((service.namespace.clone(), slice.name.clone()), service, slice);
            }
        }
        inner.dirty.clear();
        inner.dirty_since = None;
        drop(inner);
        self.changed.announce();
    }

    /// All services and all slices that are held.
    pub(super) fn held(&self) -> (Vec<Arc<ServiceFacts>>, Vec<HeldSlice>) {
        let inner = self.read();
        let services = inner.announced.values().filter_map(|entry| entry.service.clone());
        let slices = inner.announced.iter().flat_map(|(service, entry)| {
            let held =
                |slice: &Arc<Slice>| HeldSlice { service: service.clone(), slice: slice.clone() };
            entry.slices.iter().map(held)
        });
        (services.collect(), slices.collect())
    }

    /// What is known about a service name.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Announced> {
        let key = ServiceKey { namespace: namespace.into(), name: name.into() };
        self.read().announced.get(&key).cloned()
    }

    /// Whether any service lives in this namespace.
    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        let first = ServiceKey { namespace: namespace.into(), name: "".into() };
        let inner = self.read();
        inner.announced.range(first..).next().is_some_and(|(key, _)| &*key.namespace == namespace)
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
            let mut endpoints = known.slices.iter().flat_map(|slice| &slice.endpoints);
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

    /// The services that changed since this was last called, and when the first of them did. There
    /// is one consumer: the task that programs the service maps.
    pub(crate) fn take_changed(&self) -> (BTreeSet<ServiceKey>, Option<Instant>) {
        let mut inner = self.write();
        (std::mem::take(&mut inner.dirty), inner.dirty_since.take())
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
    /// An event was taken, which may have changed something.
    fn note_change(&mut self) {
        if !self.dirty.is_empty() {
            self.dirty_since.get_or_insert_with(Instant::now);
        }
    }

    fn take_service(&mut self, object: &Service) {
        let facts = self.facts_of(object);
        self.put_service(facts);
    }

    /// Keeps a service of the list that is coming in.
    fn receive_service(&mut self, object: &Service) {
        let facts = self.facts_of(object);
        self.incoming_services.insert(facts.key.clone(), facts);
    }

    /// The object's facts. Those that are held already are not made again.
    fn facts_of(&mut self, object: &Service) -> Arc<ServiceFacts> {
        let held = self.announced.get(&name_of(object)).and_then(|entry| entry.service.clone());
        let same = held.filter(|held| held.is(object));
        same.unwrap_or_else(|| Arc::new(ServiceFacts::new(object, &mut self.shared)))
    }

    fn put_service(&mut self, service: Arc<ServiceFacts>) {
        let key = service.key.clone();
        let entry = self.announced.entry(key.clone()).or_default();
        if entry.service.as_ref().is_some_and(|held| Arc::ptr_eq(held, &service)) {
            return;
        }
        let old = entry.service.replace(service);
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
        self.shared.forget_unused();
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
        self.announced.get(owner)?.slice(name)
    }

    fn put_slice(&mut self, own_key: SliceKey, owner: ServiceKey, slice: Arc<Slice>) {
        if self.slice_owner.get(&own_key).is_some_and(|former| *former != owner) {
            self.drop_slice(&own_key);
        }
        let entry = self.announced.entry(owner.clone()).or_default();
        entry.put_slice(slice);
        self.slice_owner.insert(own_key, owner.clone());
        self.dirty.insert(owner);
    }

    fn drop_slice(&mut self, own_key: &SliceKey) {
        let Some(owner) = self.slice_owner.remove(own_key) else { return };
        if let Some(entry) = self.announced.get_mut(&owner) {
            entry.drop_slice(&own_key.1);
            if entry.slices.is_empty() && entry.service.is_none() {
                self.announced.remove(&owner);
            }
        }
        self.dirty.insert(owner);
    }

    fn replace_slices(&mut self) {
        let incoming = std::mem::take(&mut self.incoming_slices);
        let gone: Vec<SliceKey> =
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
    fn reindex(&mut self, key: &ServiceKey, old: Option<&ServiceFacts>) {
        for address in old.iter().flat_map(|service| &service.addresses) {
            if self.by_address.get(address) == Some(key) {
                self.by_address.remove(address);
            }
        }
        let now = self.announced.get(key).and_then(|held| held.service.clone());
        if now.as_ref().is_some_and(|service| service.is_headless) {
            self.headless.insert(key.clone());
        } else {
            self.headless.remove(key);
        }
        for address in now.iter().flat_map(|service| &service.addresses) {
            self.by_address.insert(*address, key.clone());
        }
    }
}

/// The service that a slice names.
pub(crate) fn owner_of(slice: &EndpointSlice) -> Option<ServiceKey> {
    let name = slice.labels().get(SERVICE_NAME)?.as_str().into();
    Some(ServiceKey { namespace: slice_key(slice).0, name })
}

fn slice_key(slice: &EndpointSlice) -> SliceKey {
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    (namespace.into(), slice.name_any().into())
}

#[cfg(test)]
mod tests;
