//! Where objects are kept.
//!
//! [`Store`] is the only door to durable state. An engine guarantees:
//!
//! * one global, strictly growing revision; every write gets its own;
//! * compare-and-swap: a write names the revision it expects and fails with
//!   [`WriteFailed::Conflict`] when the key is at another one;
//! * an acknowledged write survives the death of the process at any moment;
//! * [`Store::watch`] delivers every change after a revision, in order and without gaps, over
//!   restarts too, until that revision is compacted;
//! * [`Store::range`] reads one consistent snapshot, also of a past revision that is not compacted.
//!
//! It does not know what a value is: objects are bytes here, and revisions are not part of them.

mod measured;
pub mod offline;
mod overlay;
mod redb;
mod redb_file;
mod redb_recovery;
mod redb_tables;
mod redb_writer;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod hooked;

use bytes::Bytes;
use futures::future::BoxFuture;
use std::collections::VecDeque;
use tokio::sync::mpsc;

#[cfg(test)]
pub(crate) use hooked::{BeforeWrite, Hooked};
pub(crate) use measured::Measured;
pub(crate) use redb::RedbStore;
pub use redb::{OpenFailed, Retention};

/// The file in the data directory.
pub(crate) const STORE_FILE: &str = "store.redb";
/// Everything the API server stores lives below this prefix.
pub(crate) const REGISTRY: &str = "/registry/";

/// A point in the history of the store. The first write is revision 1.
pub(crate) type Revision = u64;

/// One stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: Bytes,
    /// The revision of the last write.
    pub(crate) modified: Revision,
}

/// What a write does, and what it expects to find.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    /// The key must be absent.
    Create(Bytes),
    /// The key must be at `at`.
    Update { at: Revision, value: Bytes },
    /// The key must be at `at`.
    Delete { at: Revision },
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    pub(crate) key: String,
    /// The new value; `None` when the key was deleted.
    pub(crate) value: Option<Bytes>,
    /// The value before, with the revision it had; `None` when the key was created.
    pub(crate) previous: Option<(Revision, Bytes)>,
}

/// Which entries a [`Store::range`] wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Range {
    pub(crate) prefix: String,
    /// Only keys that sort after this one.
    pub(crate) after: Option<String>,
    /// At most this many entries.
    pub(crate) limit: Option<usize>,
    /// The state at this revision; the current one without it.
    pub(crate) at: Option<Revision>,
}

/// The answer to a [`Range`].
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// The revision of the snapshot.
    pub(crate) revision: Revision,
    /// How many entries of the range were left out because of the limit.
    pub(crate) remaining: usize,
}

/// The engine cannot answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("revision {requested} is compacted; the oldest that can be read is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    #[error("revision {requested} is in the future; the store is at {current}")]
    Future { requested: Revision, current: Revision },
    #[error("{waiting} writes already wait for the disk; try again later")]
    Overloaded { waiting: usize },
    #[error("the store's engine failed: {0}")]
    Engine(String),
    #[error("the store is closed")]
    Closed,
}

/// A write was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteFailed {
    /// The key is not at the expected revision; `current` is where it is, `None` when absent.
    #[error("the key is at revision {current:?}, not at the expected one")]
    Conflict { current: Option<Revision> },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The changes after a revision: first the ones already there, then new ones as they happen.
pub(crate) struct Changes {
    backlog: VecDeque<Change>,
    live: mpsc::Receiver<Change>,
}

impl Changes {
    pub(crate) fn new(backlog: VecDeque<Change>, live: mpsc::Receiver<Change>) -> Self {
        Self { backlog, live }
    }

    /// The next change. `None` when the engine let go of this reader, because it was too slow or
    /// because the store closed: watch again from the last revision seen.
    pub(crate) async fn next(&mut self) -> Option<Change> {
        match self.backlog.pop_front() {
            Some(change) => Some(change),
            None => self.live.recv().await,
        }
    }
}

/// The store. See the module's documentation for what an engine guarantees.
pub(crate) trait Store: Send + Sync + 'static {
    /// The entry at `key` now.
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, StoreError>>;

    /// The entries of a range, ordered by key.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>>;

    /// Writes one key and returns the revision the write got.
    fn write(&self, key: String, write: Write) -> BoxFuture<'_, Result<Revision, WriteFailed>>;

    /// All changes with a revision greater than `after` of keys below `prefix`.
    fn watch(&self, prefix: &str, after: Revision) -> BoxFuture<'_, Result<Changes, StoreError>>;

    /// The revision of the last acknowledged write.
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// The last revision that was compacted away: [`Store::watch`] and [`Store::range`] work from
    /// here on.
    fn compacted(&self) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// Whether a write would last now: goes the way of a write to the disk and changes nothing.
    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Forgets the history up to and including `through`. The current state is untouched.
    // Not `expect`: that a wrapper passes it on already fulfils that, and calls it from nowhere.
    #[cfg_attr(
        not(test),
        allow(dead_code, reason = "the one engine so far keeps its history short by itself")
    )]
    fn compact(&self, through: Revision) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// The key of one object, or with an empty `name` the prefix of all in the namespace, or with
/// both empty the prefix of the whole resource. The core group is spelled `core`.
pub(crate) fn key(group: &str, resource: &str, namespace: &str, name: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    match (namespace.is_empty(), name.is_empty()) {
        (true, true) => format!("{REGISTRY}{group}/{resource}/"),
        (true, false) => format!("{REGISTRY}{group}/{resource}/{name}"),
        (false, true) => format!("{REGISTRY}{group}/{resource}/{namespace}/"),
        (false, false) => format!("{REGISTRY}{group}/{resource}/{namespace}/{name}"),
    }
}
