//! One cache for each kind, fed by one watch, read by every controller.
//!
//! Guarantees: a reader that wrote an object (`written`) sees that object or a newer one from then
//! on, so a lagging watch never makes a controller create something twice; handlers see changes of
//! one object in order; an object that was deleted does not come back through a late `written`.
//!
//! It does not guarantee that two kinds are seen at the same point of time.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::core::Resource;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Removed objects whose uids are remembered, so that a late write response cannot revive them.
const TOMBSTONES: usize = 4096;

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What happened to one object. `old` and `new`, where both are present, have the same uid.
pub(crate) struct Change<'a, K> {
    pub(crate) old: Option<&'a Arc<K>>,
    pub(crate) new: Option<&'a Arc<K>>,
}

impl<'a, K> Change<'a, K> {
    /// The object as it is now, or as it last was.
    pub(crate) fn latest(&self) -> Option<&'a Arc<K>> {
        self.new.or(self.old)
    }

    /// The states to look at when both the old and the new one lead to work.
    pub(crate) fn states(&self) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.old.into_iter().chain(self.new)
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

struct Objects<K> {
    by_namespace: HashMap<String, BTreeMap<String, Arc<K>>>,
}

/// What only writers need; its lock also orders the calls of the handlers.
struct Writer<K> {
    handlers: Vec<Handler<K>>,
    tombstones: VecDeque<String>,
    buried: HashSet<String>,
    /// Keys seen since a (re)list began; `None` while the watch is steady.
    listing: Option<HashSet<Key>>,
}

/// The cache of one kind.
pub(crate) struct Cache<K> {
    objects: RwLock<Objects<K>>,
    writer: Mutex<Writer<K>>,
    synced: watch::Sender<bool>,
}

/// What can be watched and kept.
pub(crate) trait Watched:
    Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static> Watched for K {}

impl<K: Watched> Cache<K> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            objects: RwLock::new(Objects { by_namespace: HashMap::new() }),
            writer: Mutex::new(Writer {
                handlers: Vec::new(),
                tombstones: VecDeque::new(),
                buried: HashSet::new(),
                listing: None,
            }),
            synced: watch::Sender::new(false),
        })
    }

    /// Adds a handler. It runs on the watch task: it may read caches and add to queues, no more.
    pub(crate) fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.writer().handlers.push(Box::new(handler));
    }

    /// Watches until the token is cancelled.
    pub(crate) async fn run(
        self: Arc<Self>,
        api: Api<K>,
        config: watcher::Config,
        token: CancellationToken,
    ) {
        let mut events = Box::pin(watcher::watcher(api, config).default_backoff());
        loop {
            let event = tokio::select! {
                () = token.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(event)) => self.take(event),
                Some(Err(error)) => tracing::warn!(%error, "a watch failed and is retried"),
                None => return,
            }
        }
    }

    /// Resolves when the first list is complete.
    pub(crate) async fn wait_synced(&self) {
        // The sender lives in self: the wait cannot fail.
        let _ = self.synced.subscribe().wait_for(|done| *done).await;
    }

    fn take(&self, event: Event<K>) {
        match event {
            Event::Init => self.writer().listing = Some(HashSet::new()),
            Event::InitApply(object) | Event::Apply(object) => self.observe(object),
            Event::Delete(object) => {
                self.remove(&Key::of(object.meta()), object.meta().uid.as_deref());
            }
            Event::InitDone => {
                self.drop_unlisted();
                self.synced.send_replace(true);
            }
        }
    }

    /// Takes the answer to a write into the cache at once, before the watch tells of it.
    pub(crate) fn written(&self, object: K) {
        self.observe(object);
    }

    fn observe(&self, mut object: K) {
        let meta = object.meta_mut();
        meta.managed_fields = None;
        let key = Key::of(meta);
        let mut writer = self.writer();
        if let Some(listed) = &mut writer.listing {
            listed.insert(key.clone());
        }
        if meta.uid.as_ref().is_some_and(|uid| writer.buried.contains(uid)) {
            return;
        }
        let new = Arc::new(object);
        let old = {
            let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
            let bucket = objects.by_namespace.entry(key.namespace).or_default();
            match bucket.get(&key.name) {
                Some(known) if !supersedes(new.meta(), known.meta()) => return,
                _ => bucket.insert(key.name, new.clone()),
            }
        };
        match &old {
            Some(old) if old.meta().uid != new.meta().uid => {
                writer.bury(old.meta().uid.as_deref());
                writer.tell(&Change { old: Some(old), new: None });
                writer.tell(&Change { old: None, new: Some(&new) });
            }
            _ => writer.tell(&Change { old: old.as_ref(), new: Some(&new) }),
        }
    }

    /// Removes an object; with a uid, only that very object.
    pub(crate) fn remove(&self, key: &Key, uid: Option<&str>) {
        let mut writer = self.writer();
        writer.bury(uid);
        let old = {
            let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
            let Some(bucket) = objects.by_namespace.get_mut(&key.namespace) else { return };
            match bucket.get(&key.name) {
                Some(known) if uid.is_none() || known.meta().uid.as_deref() == uid => {}
                _ => return,
            }
            let old = bucket.remove(&key.name);
            if bucket.is_empty() {
                objects.by_namespace.remove(&key.namespace);
            }
            old
        };
        if let Some(old) = &old {
            writer.tell(&Change { old: Some(old), new: None });
        }
    }

    fn drop_unlisted(&self) {
        let gone: Vec<_> = {
            // One step: what is written from here on was not listed, and is not gone.
            let mut writer = self.writer();
            let Some(listed) = writer.listing.take() else { return };
            let mut all = self.all();
            all.retain(|object| !listed.contains(&Key::of(object.meta())));
            all
        };
        for object in gone {
            self.remove(&Key::of(object.meta()), object.meta().uid.as_deref());
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().by_namespace.get(&key.namespace)?.get(&key.name).cloned()
    }

    /// The objects of one namespace (the empty one for cluster-scoped kinds), by name.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.read()
            .by_namespace
            .get(namespace)
            .map(|bucket| bucket.values().cloned().collect())
            .unwrap_or_default()
    }

    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.read().by_namespace.values().flat_map(BTreeMap::values).cloned().collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Objects<K>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer<K>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Writer<K> {
    fn tell(&self, change: &Change<'_, K>) {
        for handler in &self.handlers {
            handler(change);
        }
    }

    fn bury(&mut self, uid: Option<&str>) {
        let Some(uid) = uid else { return };
        if self.buried.insert(uid.to_owned()) {
            self.tombstones.push_back(uid.to_owned());
        }
        if self.tombstones.len() > TOMBSTONES
            && let Some(oldest) = self.tombstones.pop_front()
        {
            self.buried.remove(&oldest);
        }
    }
}

/// Whether `new` is to replace `known`: resource versions grow over the life of a server.
fn supersedes(new: &ObjectMeta, known: &ObjectMeta) -> bool {
    let version = |meta: &ObjectMeta| meta.resource_version.as_ref()?.parse::<u64>().ok();
    match (version(new), version(known)) {
        (Some(new), Some(known)) => new > known,
        _ => new.resource_version != known.resource_version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, uid: &str, version: u64) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                namespace: Some("default".into()),
                name: Some(name.into()),
                uid: Some(uid.into()),
                resource_version: Some(version.to_string()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    fn log(cache: &Cache<ConfigMap>) -> Arc<Mutex<Vec<String>>> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        cache.on_change(move |change| {
            let show = |o: Option<&Arc<ConfigMap>>| {
                o.map_or("-".to_owned(), |o| {
                    format!(
                        "{}@{}",
                        o.metadata.uid.as_deref().unwrap(),
                        o.metadata.resource_version.as_deref().unwrap()
                    )
                })
            };
            log.lock().unwrap().push(format!("{}>{}", show(change.old), show(change.new)));
        });
        seen
    }

    #[test]
    fn a_late_watch_event_does_not_undo_a_write() {
        let cache = Cache::new();
        let seen = log(&cache);
        cache.take(Event::Apply(object("a", "u1", 5)));
        cache.written(object("a", "u1", 9));
        cache.take(Event::Apply(object("a", "u1", 7)));
        cache.take(Event::Apply(object("a", "u1", 9)));
        assert_eq!(*seen.lock().unwrap(), ["->u1@5", "u1@5>u1@9"]);
    }

    #[test]
    fn a_deleted_object_is_not_revived_by_a_late_write_response() {
        let cache = Cache::new();
        cache.take(Event::Delete(object("a", "u1", 6)));
        cache.written(object("a", "u1", 5));
        assert!(cache.get(&Key::new("default", "a")).is_none());
        cache.take(Event::Apply(object("a", "u2", 7)));
        assert!(cache.get(&Key::new("default", "a")).is_some());
    }

    #[test]
    fn a_replaced_object_is_told_as_delete_and_add() {
        let cache = Cache::new();
        let seen = log(&cache);
        cache.take(Event::Apply(object("a", "u1", 5)));
        cache.take(Event::Apply(object("a", "u2", 8)));
        assert_eq!(*seen.lock().unwrap(), ["->u1@5", "u1@5>-", "->u2@8"]);
    }

    #[test]
    fn a_relist_drops_what_is_gone_and_keeps_what_was_written_meanwhile() {
        let cache = Cache::new();
        cache.take(Event::Apply(object("gone", "u1", 5)));
        cache.take(Event::Apply(object("kept", "u2", 6)));
        cache.take(Event::Init);
        cache.written(object("new", "u3", 9));
        cache.take(Event::InitApply(object("kept", "u2", 6)));
        cache.take(Event::InitDone);
        let names: Vec<_> = cache
            .in_namespace("default")
            .iter()
            .map(|o| o.metadata.name.clone().unwrap())
            .collect();
        assert_eq!(names, ["kept", "new"]);
    }
}
