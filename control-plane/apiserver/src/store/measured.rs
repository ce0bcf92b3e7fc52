//! A store that says how long it took.
//!
//! Guarantees: it answers what the engine below answers. How long a write took includes the wait
//! for those before it and for the disk.

use super::{Changes, Entry, Page, Range, Revision, Store, StoreError, Write, WriteFailed};
use crate::metrics::Meters;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::time::Instant;

/// An engine with its meters.
pub(crate) struct Measured<S> {
    engine: S,
    meters: Meters,
}

impl<S: Store> Measured<S> {
    pub(crate) fn new(engine: S, meters: Meters) -> Self {
        Self { engine, meters }
    }

    fn measure<'a, T: Send + 'a, E: Failure + Send + 'a>(
        &'a self,
        operation: &'static str,
        call: BoxFuture<'a, Result<T, E>>,
    ) -> BoxFuture<'a, Result<T, E>> {
        let start = Instant::now();
        let measured = async move {
            let done = call.await;
            let result = done.as_ref().err().map_or("ok", Failure::name);
            self.meters.store_answered(operation, result, start.elapsed());
            done
        };
        measured.boxed()
    }
}

/// What a failure is called in a label.
trait Failure {
    fn name(&self) -> &'static str;
}

impl Failure for StoreError {
    fn name(&self) -> &'static str {
        match self {
            Self::Compacted { .. } | Self::Future { .. } => "revision",
            Self::Overloaded { .. } => "overloaded",
            Self::Engine(_) | Self::Closed => "error",
        }
    }
}

impl Failure for WriteFailed {
    fn name(&self) -> &'static str {
        match self {
            // Part of how writers agree: no trouble.
            Self::Conflict { .. } => "conflict",
            Self::Store(error) => error.name(),
        }
    }
}

impl<S: Store> Store for Measured<S> {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        self.measure("get", self.engine.get(key))
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.measure("range", self.engine.range(range))
    }

    fn write(&self, key: String, write: Write) -> BoxFuture<'_, Result<Revision, WriteFailed>> {
        let operation = match write {
            Write::Create(_) => "create",
            Write::Update { .. } => "update",
            Write::Delete { .. } => "delete",
        };
        self.measure(operation, self.engine.write(key, write))
    }

    fn watch(&self, prefix: &str, after: Revision) -> BoxFuture<'_, Result<Changes, StoreError>> {
        self.measure("watch", self.engine.watch(prefix, after))
    }

    // The next two read a number.

    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.engine.revision()
    }

    fn compacted(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.engine.compacted()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.measure("probe", self.engine.probe())
    }

    fn compact(&self, through: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.measure("compact", self.engine.compact(through))
    }
}
