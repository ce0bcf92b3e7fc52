//! All objects of one kind, by namespace and name.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use kube::{ResourceExt, runtime::watcher::Event};
use tokio::sync::watch;

use super::Announcer;

/// Namespace (empty for cluster objects) and name.
type Key = (String, String);

/// All objects of one kind.
#[derive(Debug)]
pub(crate) struct Table<K> {
    inner: RwLock<Inner<K>>,
    synced: watch::Sender<bool>,
    changed: Announcer,
}

#[derive(Debug)]
struct Inner<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// The list that is coming in, if one is.
    incoming: BTreeMap<Key, Arc<K>>,
}

impl<K: ResourceExt> Table<K> {
    pub(super) fn new() -> Self {
        Self {
            inner: RwLock::new(Inner { objects: BTreeMap::new(), incoming: BTreeMap::new() }),
            synced: watch::Sender::new(false),
            changed: Announcer::new(),
        }
    }

    pub(super) fn take(&self, event: Event<K>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => {
                inner.incoming.clear();
                return;
            }
            Event::InitApply(object) => {
                inner.incoming.insert(key(&object), Arc::new(object));
                return;
            }
            Event::InitDone => {
                inner.objects = std::mem::take(&mut inner.incoming);
            }
            Event::Apply(object) => {
                inner.objects.insert(key(&object), Arc::new(object));
            }
            Event::Delete(object) => {
                inner.objects.remove(&key(&object));
            }
        }
        // Under the lock: `restore` must not take this for a table that nothing came in for.
        self.synced.send_replace(true);
        drop(inner);
        self.changed.announce();
    }

    /// Holds these objects until the first list comes in; one that came in already stays.
    pub(super) fn restore(&self, objects: Vec<K>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if !*self.synced.borrow() {
            inner.objects = objects.into_iter().map(|o| (key(&o), Arc::new(o))).collect();
        }
        drop(inner);
        self.changed.announce();
    }

    /// Every object, in the order of namespace and name.
    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.objects.values().cloned().collect()
    }

    /// One object. Cluster objects have the empty namespace.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Changes whenever the table does.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits for the first whole list.
    pub(crate) async fn synced(&self) {
        // The sender lives as long as `self`: waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }
}

fn key<K: ResourceExt>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;
    use std::time::{Duration, Instant};

    #[test]
    fn nobody_sees_the_first_list_before_it_counts_as_one() {
        let table = Table::new();
        let mut node = Node::default();
        node.metadata.name = Some("fresh".to_owned());
        // Holds up whoever wants to say that the table is synced.
        let not_yet = table.synced.borrow();
        std::thread::scope(|scope| {
            scope.spawn(|| table.take(Event::Apply(node)));
            // As long as `restore` can get in, there is nothing for it to replace. In the end it
            // cannot, for as long as the other thread is held up.
            let mut since = Instant::now();
            while since.elapsed() < Duration::from_millis(50) {
                if let Ok(inner) = table.inner.try_read() {
                    assert!(inner.objects.is_empty());
                    since = Instant::now();
                }
                std::thread::yield_now();
            }
            drop(not_yet);
        });
        assert!(table.get("", "fresh").is_some() && *table.synced.borrow());
    }
}
