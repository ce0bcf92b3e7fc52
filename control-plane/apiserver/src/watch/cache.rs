//! The objects of one resource, its recent history, and its watchers.
//!
//! Guarantees: registering a watcher and taking the state or the history it starts from is one
//! step, so that nothing is lost or doubled between them. Memory is bounded: the history by count
//! and bytes, each watcher by its queue.

use super::event::{Delivery, Event, Object};
use super::session::Session;
use crate::store::Revision;
use bowline_api::selector::{FieldSelector, LabelSelector};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::mpsc;

/// Changes of one resource that are kept for watches that resume.
pub(super) const HISTORY_EVENTS: usize = 2048;
/// The bytes of the objects in that history; the older ones go first.
const HISTORY_BYTES: usize = 2 * 1024 * 1024;
/// Deliveries that may wait for one watcher.
const WATCHER_QUEUE: usize = 1024;

/// Which objects of a resource a reader wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// All namespaces when empty.
    pub(crate) namespace: String,
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

impl Filter {
    pub(crate) fn selects(&self, object: &Object) -> bool {
        let namespace = &self.namespace;
        let inside = namespace.is_empty()
            || object.key.strip_prefix(namespace.as_str()).is_some_and(|k| k.starts_with('/'));
        inside
            && (self.labels.is_empty() || self.labels.matches_object(&object.value))
            && (self.fields.is_empty() || self.fields.matches(&object.value))
    }

    /// The prefix of the keys that can be selected.
    fn prefix(&self) -> String {
        if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) }
    }
}

/// Where a watch starts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    /// With the current state, as additions.
    State,
    /// After this revision.
    After(Revision),
    /// With what happens from now on.
    Now,
}

/// The history that a watch wants to start from is gone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchRefused {
    #[error("too old resource version: {requested} ({oldest})")]
    Expired { requested: Revision, oldest: Revision },
    #[error("{} of the stored objects cannot be read", .0.len())]
    Unreadable(Vec<Unreadable>),
}

/// An object that is stored and of which nothing can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// As that of an object.
    pub(crate) key: String,
    pub(crate) revision: Revision,
    pub(crate) reason: String,
}

/// Objects at a revision.
pub(crate) struct Snapshot {
    pub(crate) objects: Vec<Arc<Object>>,
    /// How many selected objects a limit left out.
    pub(crate) remaining: usize,
    /// The last change of the resource that the snapshot shows.
    pub(crate) revision: Revision,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Arc<Object>>,
    /// None of these is in `objects`.
    unreadable: BTreeMap<String, Unreadable>,
    history: VecDeque<Arc<Event>>,
    history_bytes: usize,
    /// The history holds every change after this revision.
    history_start: Revision,
    /// The last change of this resource.
    last_change: Revision,
    /// Another number for each state.
    edition: u64,
    watchers: Vec<Watcher>,
}

struct Watcher {
    filter: Filter,
    deliveries: mpsc::Sender<Delivery>,
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Cache {
    state: RwLock<State>,
}

impl Cache {
    // A panic in a reader cannot leave the state half changed; writers only do whole steps.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.read().objects.get(key).cloned()
    }

    /// A number that changes with whatever there is.
    pub(crate) fn edition(&self) -> u64 {
        self.read().edition
    }

    /// What is wrong with one object that is stored.
    pub(crate) fn unreadable(&self, key: &str) -> Option<Unreadable> {
        self.read().unreadable.get(key).cloned()
    }

    /// The objects that a reader of a namespace, or of all, cannot be shown.
    pub(crate) fn unreadables(&self, filter: &Filter) -> Vec<Unreadable> {
        self.read().unreadable_below(&filter.prefix())
    }

    /// How many objects there are.
    pub(super) fn objects(&self) -> usize {
        self.read().objects.len()
    }

    /// How many watches are open.
    pub(super) fn watchers(&self) -> usize {
        let state = self.read();
        state.watchers.iter().filter(|watcher| !watcher.deliveries.is_closed()).count()
    }

    /// The selected objects, ordered by key, after a key and up to a limit.
    pub(crate) fn list(
        &self,
        filter: &Filter,
        after: Option<&str>,
        limit: Option<usize>,
    ) -> Snapshot {
        let prefix = filter.prefix();
        let start = match after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix.as_str()),
        };
        let state = self.read();
        let revision = state.last_change;
        let mut snapshot = Snapshot { objects: Vec::new(), remaining: 0, revision };
        for (key, object) in state.objects.range::<str, _>((start, Bound::Unbounded)) {
            if !key.starts_with(&prefix) {
                break;
            }
            if !filter.selects(object) {
                continue;
            }
            if limit.is_some_and(|limit| snapshot.objects.len() >= limit) {
                snapshot.remaining += 1;
            } else {
                snapshot.objects.push(object.clone());
            }
        }
        snapshot
    }

    /// Starts a watch.
    pub(crate) fn watch(&self, filter: Filter, start: Start) -> Result<Session, WatchRefused> {
        let mut state = self.write();
        let mut backlog = VecDeque::new();
        match start {
            Start::Now => {}
            Start::State => {
                let unreadable = state.unreadable_below(&filter.prefix());
                if !unreadable.is_empty() {
                    return Err(WatchRefused::Unreadable(unreadable));
                }
                for object in state.objects.values() {
                    if filter.selects(object) {
                        let added = Event::new(object.revision, Some(object.clone()), None);
                        backlog.extend(delivery(&filter, &Arc::new(added)));
                    }
                }
            }
            Start::After(requested) => {
                let oldest = state.history_start;
                if requested < oldest {
                    return Err(WatchRefused::Expired { requested, oldest });
                }
                let first = state.history.partition_point(|event| event.revision <= requested);
                for event in state.history.range(first..) {
                    backlog.extend(delivery(&filter, event));
                }
            }
        }
        let (deliveries, receiver) = mpsc::channel(WATCHER_QUEUE);
        // Watchers that hung up are also found here: a quiet resource has no changes to find them.
        state.watchers.retain(|watcher| !watcher.deliveries.is_closed());
        state.watchers.push(Watcher { filter, deliveries });
        Ok(Session::new(backlog, receiver))
    }

    /// The whole state anew, with the history after `history_start` that leads to it. In one step:
    /// no reader sees less than all. Who watched must list again.
    pub(super) fn fill(
        &self,
        objects: Vec<Result<Object, Unreadable>>,
        history: Vec<Event>,
        history_start: Revision,
    ) {
        let mut state = State { history_start, ..State::default() };
        for object in objects {
            match object {
                Ok(object) => {
                    state.last_change = state.last_change.max(object.revision);
                    state.objects.insert(object.key.clone(), Arc::new(object));
                }
                Err(unreadable) => state.lose(unreadable),
            }
        }
        history.into_iter().for_each(|event| state.push(Arc::new(event)));
        let mut current = self.write();
        state.edition = current.edition + 1;
        *current = state;
    }

    /// A new change.
    pub(super) fn apply(&self, key: &str, revision: Revision, current: Option<Arc<Object>>) {
        let mut state = self.write();
        state.edition += 1;
        state.unreadable.remove(key);
        let previous = match &current {
            Some(object) => state.objects.insert(key.to_owned(), object.clone()),
            None => state.objects.remove(key),
        };
        if current.is_none() && previous.is_none() {
            return;
        }
        let event = Arc::new(Event::new(revision, current, previous));
        state.watchers.retain(|watcher| match delivery(&watcher.filter, &event) {
            Some(delivery) => watcher.deliveries.try_send(delivery).is_ok(),
            None => true,
        });
        state.push(event);
    }

    /// A change to something that cannot be read. Who watches cannot be shown it: their streams
    /// end, and what they ask for next says why.
    pub(super) fn lose(&self, unreadable: Unreadable) {
        let mut state = self.write();
        state.watchers.clear();
        state.history.clear();
        state.history_bytes = 0;
        state.history_start = unreadable.revision;
        state.lose(unreadable);
    }

    /// Lets every watcher go; their streams end.
    pub(super) fn close(&self) {
        self.write().watchers.clear();
    }
}

fn delivery(filter: &Filter, event: &Arc<Event>) -> Option<Delivery> {
    let verdict = event.verdict(|object| filter.selects(object))?;
    Some(Delivery { verdict, event: event.clone() })
}

impl State {
    fn lose(&mut self, unreadable: Unreadable) {
        self.last_change = self.last_change.max(unreadable.revision);
        self.objects.remove(&unreadable.key);
        self.unreadable.insert(unreadable.key.clone(), unreadable);
    }

    fn unreadable_below(&self, prefix: &str) -> Vec<Unreadable> {
        let below = self.unreadable.iter().filter(|(key, _)| key.starts_with(prefix));
        below.map(|(_, unreadable)| unreadable.clone()).collect()
    }

    fn push(&mut self, event: Arc<Event>) {
        self.last_change = self.last_change.max(event.revision);
        self.history_bytes += event.size();
        self.history.push_back(event);
        while self.history.len() > HISTORY_EVENTS || self.history_bytes > HISTORY_BYTES {
            let Some(dropped) = self.history.pop_front() else { break };
            self.history_bytes -= dropped.size();
            self.history_start = dropped.revision;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(name: &str, revision: Revision) -> Object {
        let value = json!({ "metadata": { "name": name, "namespace": "a" } });
        Object::new(format!("a/{name}"), value, revision)
    }

    #[tokio::test]
    async fn a_new_state_takes_the_place_of_the_old_one() {
        let cache = Cache::default();
        cache.fill(vec![Ok(object("old", 1)), Ok(object("kept", 2))], Vec::new(), 2);
        let mut session = cache.watch(Filter::default(), Start::After(2)).unwrap();
        let made = Event::new(9, Some(Arc::new(object("new", 9))), None);
        cache.fill(vec![Ok(object("kept", 2)), Ok(object("new", 9))], vec![made], 8);

        assert!(session.next().await.is_none(), "whoever watched has missed something");
        let listed = cache.list(&Filter::default(), None, None).objects;
        let keys: Vec<&str> = listed.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(keys, ["a/kept", "a/new"]);
        let early = cache.watch(Filter::default(), Start::After(7)).err();
        assert!(matches!(early, Some(WatchRefused::Expired { oldest: 8, .. })));
        let mut resumed = cache.watch(Filter::default(), Start::After(8)).unwrap();
        assert_eq!(resumed.next().await.unwrap().event.revision, 9);
    }
}
