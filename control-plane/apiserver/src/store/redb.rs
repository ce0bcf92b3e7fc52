//! The embedded engine: one redb file, one writer thread, readers on snapshots.
//!
//! Guarantees what [`Store`] asks for. The file is exclusive to one process; a second open fails at
//! once. It does not replicate: for more than one server use another engine.

use super::redb_tables as tables;
use super::redb_writer::{Command, Writer};
use super::{Changes, Entry, Page, Range, Revision, Store, StoreError, Write, WriteFailed};
use futures::FutureExt;
use futures::future::BoxFuture;
use redb::backends::FileBackend;
use redb::{Builder, Database, ReadTransaction, ReadableDatabase};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Pages that redb may keep in memory. Objects are cached decoded elsewhere; this is for the tree.
const PAGE_CACHE_BYTES: usize = 6 * 1024 * 1024;
/// Commands that may wait for the writer. More means that the disk does not keep up.
const COMMAND_QUEUE: usize = 4096;

/// How much history is kept for watches that resume and for reads of the past.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    /// Changes that are kept at most.
    pub(crate) events: u64,
    /// Bytes of the values in them that are kept at most.
    pub(crate) bytes: u64,
    /// No change older than this is kept.
    pub(crate) age: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { events: 10_000, bytes: 64 << 20, age: Duration::from_secs(3600) }
    }
}

/// The store's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenFailed {
    #[error("the store {path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("the store {path} has format {found}, which this version does not know")]
    Format { path: PathBuf, found: u64 },
    #[error("the store {path} cannot be opened: {reason}")]
    File { path: PathBuf, reason: String },
}

/// The redb engine.
pub(crate) struct RedbStore {
    database: Arc<Database>,
    committed: Arc<AtomicU64>,
    commands: Option<SyncSender<Command>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl RedbStore {
    /// Opens the file, which it makes when absent (mode 0600: it holds secrets), and repairs it
    /// when the last process died in the middle of a commit.
    pub(crate) fn open(path: &Path, retention: Retention) -> Result<Self, OpenFailed> {
        let failed = |reason: String| OpenFailed::File { path: path.to_owned(), reason };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| failed(error.to_string()))?;
        let backend = FileBackend::new(file).map_err(|error| failed(error.to_string()))?;
        let database = Builder::new()
            .set_cache_size(PAGE_CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => {
                    OpenFailed::InUse { path: path.to_owned() }
                }
                other => failed(other.to_string()),
            })?;
        let txn = database.begin_write().map_err(|error| failed(error.to_string()))?;
        let marks = tables::prepare(&txn).map_err(|problem| match problem {
            Ok(found) => OpenFailed::Format { path: path.to_owned(), found },
            Err(error) => failed(error.to_string()),
        })?;
        txn.commit().map_err(|error| failed(error.to_string()))?;

        let database = Arc::new(database);
        let committed = Arc::new(AtomicU64::new(marks.revision));
        let (commands, queue) = sync_channel(COMMAND_QUEUE);
        let writer = Writer::new(database.clone(), committed.clone(), retention);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { database, committed, commands: Some(commands), writer: Mutex::new(Some(thread)) })
    }

    async fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or(StoreError::Closed)?;
        commands.try_send(command(reply)).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Overloaded { waiting: COMMAND_QUEUE },
            TrySendError::Disconnected(_) => StoreError::Closed,
        })?;
        answer.await.map_err(|_| StoreError::Closed)
    }

    /// Reads a snapshot on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = self.database.clone();
        let task = tokio::task::spawn_blocking(move || {
            let txn = database.begin_read().map_err(tables::engine)?;
            read(&txn)
        });
        task.await.map_err(tables::engine)?
    }
}

impl Drop for RedbStore {
    /// Waits for the writer, so that whoever opens the file next finds it free and complete.
    fn drop(&mut self) {
        self.commands = None;
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's writer had panicked");
        }
    }
}

impl Store for RedbStore {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        let key = key.to_owned();
        self.read(move |txn| tables::get(txn, &key)).boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.read(move |txn| tables::range(txn, &range)).boxed()
    }

    fn write(&self, key: String, write: Write) -> BoxFuture<'_, Result<Revision, WriteFailed>> {
        async move { self.ask(|reply| Command::Write { key, write, reply }).await? }.boxed()
    }

    fn watch(&self, prefix: &str, after: Revision) -> BoxFuture<'_, Result<Changes, StoreError>> {
        let prefix = prefix.to_owned();
        async move { self.ask(|reply| Command::Watch { prefix, after, reply }).await? }.boxed()
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        futures::future::ready(Ok(self.committed.load(Ordering::Acquire))).boxed()
    }

    fn compacted(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.read(|txn| Ok(tables::marks(txn)?.compacted)).boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { self.ask(|reply| Command::Probe { reply }).await? }.boxed()
    }

    fn compact(&self, through: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { self.ask(|reply| Command::Compact { through, reply }).await? }.boxed()
    }
}
