//! From the store's changes to the caches.
//!
//! One task reads the store's changes and applies each to the cache of its resource, then says how
//! far it is. When the store lets go of it (it was too slow, or the engine's connection broke) it
//! resumes after the last change it applied; when that is compacted away it loads the state anew
//! and every watcher starts over.
//!
//! Guarantees: an object that cannot be decoded is never left out in silence: it is noted in its
//! cache, where reads and lists that would show it find it and fail.

use super::cache::{Cache, Filter, HISTORY_EVENTS, Unreadable};
use super::event::{Event, Object};
use crate::store::{Change, Changes, REGISTRY, Range, Revision, Store, StoreError};
use bowline_api::resource::{RESOURCES, Resource};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a reader waits for a revision.
const WAIT: Duration = Duration::from_secs(3);
/// Pause before the store is asked again after it failed.
const RETRY: Duration = Duration::from_millis(250);

/// The caches cannot be filled.
#[derive(Debug, thiserror::Error)]
#[error("the stored objects cannot be loaded: {0}")]
pub struct LoadFailed(String);

/// The caches did not reach a revision in time.
#[derive(Debug, thiserror::Error)]
#[error("Too large resource version: {requested}, current: {applied}")]
pub(crate) struct CacheBehind {
    pub(crate) requested: Revision,
    pub(crate) applied: Revision,
}

/// How much there is of a resource.
pub(crate) struct Held {
    pub(crate) resource: &'static Resource,
    pub(crate) objects: usize,
    /// Watches that are open.
    pub(crate) watchers: usize,
}

/// One cache for every resource of the table that is stored, whatever the versions that it is
/// served in.
pub(crate) struct Caches {
    /// By `<group>/<resource>` as in the store's keys.
    caches: HashMap<String, Cache>,
    applied: watch::Sender<Revision>,
    ended: CancellationToken,
}

impl Caches {
    /// Loads everything and starts the feed, which runs until `stop` or the end of the store.
    pub(crate) async fn start(
        store: Arc<dyn Store>,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, LoadFailed> {
        let caches = storages().map(|resource| (place(resource), Cache::default())).collect();
        let ended = CancellationToken::new();
        let this = Arc::new(Self { caches, applied: watch::Sender::new(0), ended: ended.clone() });
        let changes = this.load(&*store).await.map_err(|e| LoadFailed(e.to_string()))?;
        let feed = this.clone().run(store, changes, stop);
        tokio::spawn(async move {
            // A panic ends the feed, too.
            let _ended = ended.drop_guard();
            feed.await;
        });
        Ok(this)
    }

    /// Resolves when the feed has ended: from then on the caches do not change.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// The cache of a resource that is stored.
    pub(crate) fn of(&self, resource: &Resource) -> &Cache {
        &self.caches[&place(resource)]
    }

    /// How much there is of each resource, in the order of the table.
    pub(crate) fn held(&self) -> Vec<Held> {
        let held = storages().map(|resource| {
            let cache = self.of(resource);
            Held { resource, objects: cache.objects(), watchers: cache.watchers() }
        });
        held.collect()
    }

    /// How many stored objects cannot be read.
    pub(crate) fn unreadable(&self) -> usize {
        let all = Filter::default();
        self.caches.values().map(|cache| cache.unreadables(&all).len()).sum()
    }

    /// Every change up to this revision is visible.
    pub(crate) fn applied(&self) -> Revision {
        *self.applied.borrow()
    }

    /// The revision up to which every change is visible, as it grows.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.applied.subscribe()
    }

    /// Waits until every change up to `revision` is visible.
    pub(crate) async fn wait_for(&self, revision: Revision) -> Result<(), CacheBehind> {
        if self.applied() >= revision {
            return Ok(());
        }
        let mut applied = self.subscribe();
        let reached = applied.wait_for(|applied| *applied >= revision);
        match tokio::time::timeout(WAIT, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(CacheBehind { requested: revision, applied: self.applied() }),
        }
    }

    /// Fills the caches and the part of the history that fits, and watches from there.
    async fn load(&self, store: &dyn Store) -> Result<Changes, StoreError> {
        let page = store.range(Range { prefix: REGISTRY.to_owned(), ..Range::default() }).await?;
        let oldest = page.revision.saturating_sub(HISTORY_EVENTS as u64);
        let start = store.compacted().await?.max(oldest);
        let mut changes = store.watch(REGISTRY, start).await?;

        let mut objects: HashMap<&str, Vec<Result<Object, Unreadable>>> = HashMap::new();
        for entry in page.entries {
            let Some((place, key)) = split(&entry.key) else { continue };
            let Some((place, _)) = self.caches.get_key_value(place) else { continue };
            let object = decode(key, &entry.value, entry.modified);
            objects.entry(place).or_default().push(object);
        }
        let mut history: HashMap<&str, Vec<Event>> = HashMap::new();
        for _ in start..page.revision {
            // Every revision after `start` has a change below the one prefix that is in use.
            let Some(change) = changes.next().await else { break };
            if let Some((place, event)) = self.past(&change) {
                history.entry(place).or_default().push(event);
            }
            if change.revision >= page.revision {
                break;
            }
        }
        for (place, cache) in &self.caches {
            let objects = objects.remove(place.as_str()).unwrap_or_default();
            let history = history.remove(place.as_str()).unwrap_or_default();
            cache.fill(objects, history, start);
        }
        self.applied.send_replace(page.revision);
        Ok(changes)
    }

    /// A change from before the state that is loaded, with the place of its cache.
    fn past(&self, change: &Change) -> Option<(&str, Event)> {
        let (place, key) = split(&change.key)?;
        let (place, _) = self.caches.get_key_value(place)?;
        let read = |value: &Bytes, at| Object::read(key.to_owned(), value, at).ok();
        let current = change.value.as_ref().and_then(|value| read(value, change.revision));
        let previous = change.previous.as_ref().and_then(|(at, value)| read(value, *at));
        let event = Event::new(change.revision, current.map(Arc::new), previous.map(Arc::new));
        Some((place, event))
    }

    async fn run(
        self: Arc<Self>,
        store: Arc<dyn Store>,
        mut changes: Changes,
        stop: CancellationToken,
    ) {
        loop {
            let change = tokio::select! {
                () = stop.cancelled() => break,
                change = changes.next() => change,
            };
            match change {
                Some(change) => self.apply(&change),
                None => {
                    let again = tokio::select! {
                        () = stop.cancelled() => break,
                        again = self.resume(&*store) => again,
                    };
                    let Some(again) = again else { break };
                    changes = again;
                }
            }
        }
        for cache in self.caches.values() {
            cache.close();
        }
    }

    fn apply(&self, change: &Change) {
        if let Some((place, key)) = split(&change.key)
            && let Some(cache) = self.caches.get(place)
        {
            match &change.value {
                None => cache.apply(key, change.revision, None),
                Some(value) => match decode(key, value, change.revision) {
                    Ok(object) => cache.apply(key, change.revision, Some(Arc::new(object))),
                    Err(unreadable) => cache.lose(unreadable),
                },
            }
        }
        self.applied.send_replace(change.revision);
    }

    /// `None` when the store is closed and gives nothing any more.
    async fn resume(&self, store: &dyn Store) -> Option<Changes> {
        loop {
            let again = match store.watch(REGISTRY, self.applied()).await {
                // The old state is shown until the new one is complete.
                Err(StoreError::Compacted { .. }) => self.load(store).await,
                other => other,
            };
            match again {
                Ok(changes) => return Some(changes),
                Err(StoreError::Closed) => {
                    tracing::error!("the store closed while it was in use");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(%error, "the store cannot be watched; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// The kinds that are stored, each in its version.
fn storages() -> impl Iterator<Item = &'static Resource> {
    RESOURCES.iter().filter(|resource| resource.is_storage())
}

fn place(resource: &Resource) -> String {
    let (group, _) = resource.stored_as();
    let key = crate::store::key(group, resource.plural, "", "");
    key.trim_start_matches(REGISTRY).trim_end_matches('/').to_owned()
}

/// `<group>/<resource>` and the rest of a store key.
fn split(key: &str) -> Option<(&str, &str)> {
    let path = key.strip_prefix(REGISTRY)?;
    let group = path.find('/')?;
    let resource = group + 1 + path[group + 1..].find('/')?;
    Some((&path[..resource], &path[resource + 1..]))
}

fn decode(key: &str, value: &[u8], revision: Revision) -> Result<Object, Unreadable> {
    let read = Object::read(key.to_owned(), value, revision);
    if let Err(Unreadable { reason, .. }) = &read {
        tracing::error!(key, revision, reason, "a stored object is not readable");
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Entry, Page, Write, WriteFailed};
    use futures::FutureExt;
    use futures::future::{BoxFuture, ready};
    use std::collections::VecDeque;
    use std::sync::Mutex;

    /// A store whose writer dies after it was opened.
    struct Dying(Mutex<Option<Changes>>);

    impl Store for Dying {
        fn get(&self, _: &str) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
            ready(Err(StoreError::Closed)).boxed()
        }

        fn range(&self, _: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
            ready(Ok(Page { entries: Vec::new(), revision: 0, remaining: 0 })).boxed()
        }

        fn write(&self, _: String, _: Write) -> BoxFuture<'_, Result<Revision, WriteFailed>> {
            ready(Err(StoreError::Closed.into())).boxed()
        }

        fn watch(&self, _: &str, _: Revision) -> BoxFuture<'_, Result<Changes, StoreError>> {
            ready(self.0.lock().unwrap().take().ok_or(StoreError::Closed)).boxed()
        }

        fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
            ready(Ok(0)).boxed()
        }

        fn compacted(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
            ready(Ok(0)).boxed()
        }

        fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
            ready(Err(StoreError::Closed)).boxed()
        }

        fn compact(&self, _: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
            ready(Err(StoreError::Closed)).boxed()
        }
    }

    #[tokio::test]
    async fn the_feed_ends_with_its_store() {
        let (_, live) = tokio::sync::mpsc::channel(1);
        let store = Arc::new(Dying(Mutex::new(Some(Changes::new(VecDeque::new(), live)))));
        let caches = Caches::start(store, CancellationToken::new()).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), caches.ended()).await.unwrap();
    }
}
