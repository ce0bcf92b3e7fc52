//! A store that gets into trouble when it is told to.

use crate::store::{
    Changes, Entry, Page, Range, RedbStore, Retention, Revision, Store, StoreError, Write,
    WriteFailed,
};
use futures::FutureExt;
use futures::future::{BoxFuture, pending, ready};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What becomes of a write.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    /// It fails for want of room.
    Full,
    /// It is one too many.
    Busy,
    /// It is never answered.
    Stuck,
}

/// A real store whose writes can be made to fail.
pub(super) struct Faulty {
    engine: RedbStore,
    trouble: Mutex<Option<Trouble>>,
}

impl Faulty {
    pub(super) fn open(dir: &Path) -> Arc<Self> {
        let engine = RedbStore::open(&dir.join("faulty.redb"), Retention::default()).unwrap();
        Arc::new(Self { engine, trouble: Mutex::default() })
    }

    pub(super) fn set(&self, trouble: Option<Trouble>) {
        *self.trouble.lock().unwrap() = trouble;
    }

    /// What happens to a write instead of its being written.
    fn instead(&self) -> Option<BoxFuture<'static, StoreError>> {
        let failed = match (*self.trouble.lock().unwrap())? {
            Trouble::Full => StoreError::Engine("No space left on device".to_owned()),
            Trouble::Busy => StoreError::Overloaded { waiting: 4096 },
            Trouble::Stuck => return Some(pending().boxed()),
        };
        Some(ready(failed).boxed())
    }
}

impl Store for Arc<Faulty> {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        self.engine.get(key)
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.engine.range(range)
    }

    fn write(&self, key: String, write: Write) -> BoxFuture<'_, Result<Revision, WriteFailed>> {
        match self.instead() {
            Some(failed) => failed.map(|error| Err(error.into())).boxed(),
            None => self.engine.write(key, write),
        }
    }

    fn watch(&self, prefix: &str, after: Revision) -> BoxFuture<'_, Result<Changes, StoreError>> {
        self.engine.watch(prefix, after)
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.engine.revision()
    }

    fn compacted(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.engine.compacted()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        match self.instead() {
            Some(failed) => failed.map(Err).boxed(),
            None => self.engine.probe(),
        }
    }

    fn compact(&self, through: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.engine.compact(through)
    }
}
