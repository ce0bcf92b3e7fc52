//! The embedded engine: one redb file, one writer thread, readers on snapshots.
//!
//! Guarantees what [`Store`] asks for. The file is exclusive to one process; a second open fails at
//! once. A disk that fails is tried again (`redb_recovery`), and a file that has grown beyond what
//! it holds is made smaller, both by the writer alone. It does not replicate: for more than one
//! server use another engine.

pub use super::redb_file::OpenFailed;
use super::redb_file::StoreFile;
use super::redb_tables as tables;
use super::redb_writer::{Command, Writer};
use super::{Changes, Entry, Page, Range, Revision, Store, StoreError, Write, WriteFailed};
use futures::FutureExt;
use futures::future::BoxFuture;
use redb::ReadTransaction;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Commands that may wait for the writer. More means that the disk does not keep up.
const COMMAND_QUEUE: usize = 4096;
/// The part of the objects' bytes that the history may have.
const HISTORY_PART: u64 = 4;

/// How much history is kept for watches that resume and for reads of the past, and how large the
/// file becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Changes that are kept at most.
    pub events: u64,
    /// Bytes of the values in them that are kept at most. With less than four times as many bytes
    /// of objects the history has a quarter of theirs.
    pub bytes: u64,
    /// So many bytes it may have all the same.
    pub least_bytes: u64,
    /// No change older than this is kept.
    pub age: Duration,
    /// A file that is larger is made smaller before it takes twice the bytes of objects and
    /// history.
    pub small_file: u64,
}

impl Retention {
    /// What a server has that is not told otherwise.
    pub const DEFAULT: Self = Self {
        events: 10_000,
        bytes: 64 << 20,
        least_bytes: 4 << 20,
        age: Duration::from_secs(3600),
        small_file: 32 << 20,
    };

    /// The bytes of history that may be kept beside so many bytes of objects.
    pub(super) fn history(&self, objects: u64) -> u64 {
        (objects / HISTORY_PART).max(self.least_bytes).min(self.bytes)
    }

    /// The bytes that a file with so many bytes of objects and history may take before it is made
    /// smaller: less than twice as many, because it grows while it waits for that.
    pub(super) fn largest_file(&self, live: u64) -> u64 {
        (live + live / 4 * 3).max(self.small_file)
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The redb engine.
pub(crate) struct RedbStore {
    file: Arc<StoreFile>,
    committed: Arc<AtomicU64>,
    commands: Option<SyncSender<Command>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl RedbStore {
    /// Opens the file. See [`StoreFile::open`].
    pub(crate) fn open(path: &Path, retention: Retention) -> Result<Self, OpenFailed> {
        let failed = |reason: String| OpenFailed::File { path: path.to_owned(), reason };
        let (file, marks) = StoreFile::open(path)?;
        let sizes = file.with(|database| tables::sizes(&tables::begin_read(database)?));
        let sizes = sizes.map_err(|error| failed(error.to_string()))?;
        let file = Arc::new(file);
        let committed = Arc::new(AtomicU64::new(marks.revision));
        let (commands, queue) = sync_channel(COMMAND_QUEUE);
        let writer = Writer::new(file.clone(), committed.clone(), retention, sizes);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { file, committed, commands: Some(commands), writer: Mutex::new(Some(thread)) })
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
        let file = self.file.clone();
        let task = tokio::task::spawn_blocking(move || {
            file.with(|database| read(&tables::begin_read(database)?))
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
