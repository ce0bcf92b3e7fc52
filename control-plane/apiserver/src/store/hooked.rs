//! A store for tests with something that happens before each write.

use super::*;
use futures::FutureExt;
use std::sync::Arc;

/// What happens before a write.
pub(crate) trait BeforeWrite: Send + Sync + 'static {
    /// With an error the write fails by that and is not done. The key of a probe is empty.
    fn before(&self, key: &str) -> BoxFuture<'static, Result<(), StoreError>>;
}

/// A real store behind a hook.
pub(crate) struct Hooked<H> {
    engine: Arc<RedbStore>,
    hook: Arc<H>,
}

impl<H> Hooked<H> {
    pub(crate) fn new(engine: Arc<RedbStore>, hook: Arc<H>) -> Self {
        Self { engine, hook }
    }
}

impl<H: BeforeWrite> Store for Hooked<H> {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        self.engine.get(key)
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.engine.range(range)
    }

    fn write(&self, key: String, write: Write) -> BoxFuture<'_, Result<Revision, WriteFailed>> {
        let before = self.hook.before(&key);
        async move {
            before.await?;
            self.engine.write(key, write).await
        }
        .boxed()
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
        let before = self.hook.before("");
        async move {
            before.await?;
            self.engine.probe().await
        }
        .boxed()
    }

    fn compact(&self, through: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.engine.compact(through)
    }
}
