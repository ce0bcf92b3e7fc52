//! The one thread that writes.
//!
//! It takes what is waiting, applies it in one transaction, commits it durably, tells the watchers
//! and then answers the callers: many writers share one flush of the disk, and whoever reads its
//! acknowledgement finds the change in every watch that keeps up. The order of revisions is the
//! order of application, so a watcher can never see a gap.

use super::redb::Retention;
use super::redb_tables as tables;
use super::{Change, Changes, Revision, StoreError, Write, WriteFailed};
use redb::{Database, Durability, ReadableDatabase};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};

/// Writes that share one commit at most.
const BATCH: usize = 256;
/// Changes a watcher of the store may lag behind before it is let go.
const WATCHER_QUEUE: usize = 16 * 1024;
/// How often an idle writer looks for history that became too old.
const IDLE_COMPACTION: Duration = Duration::from_secs(60);
/// Writes between two looks at the size of the history.
const COMPACTION_STRIDE: u64 = 1024;
/// The part of the bytes that the history may hold after which it is looked at in any case.
const COMPACTION_PART: u64 = 4;

/// What the writer is asked to do.
pub(super) enum Command {
    Write { key: String, write: Write, reply: oneshot::Sender<Result<Revision, WriteFailed>> },
    Watch { prefix: String, after: Revision, reply: oneshot::Sender<Result<Changes, StoreError>> },
    Probe { reply: oneshot::Sender<Result<(), StoreError>> },
    Compact { through: Revision, reply: oneshot::Sender<Result<(), StoreError>> },
}

struct Subscriber {
    prefix: String,
    changes: mpsc::Sender<Change>,
}

/// A write that waits for its commit.
struct Waiting {
    key: String,
    write: Write,
    reply: oneshot::Sender<Result<Revision, WriteFailed>>,
}

type Answer = (oneshot::Sender<Result<Revision, WriteFailed>>, Result<Revision, WriteFailed>);

pub(super) struct Writer {
    database: Arc<Database>,
    /// The last committed revision, for readers.
    committed: Arc<AtomicU64>,
    retention: Retention,
    subscribers: Vec<Subscriber>,
    since_compaction: u64,
    bytes_since_compaction: u64,
}

impl Writer {
    pub(super) fn new(
        database: Arc<Database>,
        committed: Arc<AtomicU64>,
        retention: Retention,
    ) -> Self {
        // The first write after a start looks at the history, whatever its size was before.
        let since_compaction = COMPACTION_STRIDE;
        Self {
            database,
            committed,
            retention,
            subscribers: Vec::new(),
            since_compaction,
            bytes_since_compaction: 0,
        }
    }

    /// Runs until every sender of commands is gone. What was sent before is still done.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let mut held = None;
        loop {
            let first = match held.take() {
                Some(command) => command,
                None => match commands.recv_timeout(IDLE_COMPACTION) {
                    Ok(command) => command,
                    Err(RecvTimeoutError::Timeout) => {
                        self.compact_surplus();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            match first {
                Command::Write { key, write, reply } => {
                    held = self.write_batch(Waiting { key, write, reply }, commands);
                }
                // A caller that went away needs no answer.
                Command::Watch { prefix, after, reply } => {
                    let _ = reply.send(self.watch(prefix, after));
                }
                Command::Probe { reply } => {
                    let _ = reply.send(self.probe());
                }
                Command::Compact { through, reply } => {
                    let _ = reply.send(self.compact(through));
                }
            }
        }
    }

    /// Commits `first` together with the writes that wait behind it. Returns a command of another
    /// kind that was met on the way: it comes after these writes.
    fn write_batch(&mut self, first: Waiting, commands: &Receiver<Command>) -> Option<Command> {
        let mut batch = vec![first];
        let mut held = None;
        while batch.len() < BATCH {
            match commands.try_recv() {
                Ok(Command::Write { key, write, reply }) => {
                    batch.push(Waiting { key, write, reply });
                }
                Ok(other) => {
                    held = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let mut answers = Vec::with_capacity(batch.len());
        match self.commit(batch, &mut answers) {
            Ok(changes) => {
                self.since_compaction += changes.len() as u64;
                self.bytes_since_compaction +=
                    changes.iter().map(tables::logged_bytes).sum::<u64>();
                self.publish(changes);
                for (reply, answer) in answers {
                    let _ = reply.send(answer);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the store could not commit");
                for (reply, answer) in answers {
                    let failed = answer.err().filter(|e| matches!(e, WriteFailed::Conflict { .. }));
                    let error = StoreError::Engine(error.to_string());
                    let _ = reply.send(Err(failed.unwrap_or(WriteFailed::Store(error))));
                }
            }
        }
        let grown = self.bytes_since_compaction > self.retention.bytes / COMPACTION_PART;
        if grown || self.since_compaction >= COMPACTION_STRIDE {
            self.compact_surplus();
        }
        held
    }

    fn commit(
        &self,
        batch: Vec<Waiting>,
        answers: &mut Vec<Answer>,
    ) -> Result<Vec<Change>, StoreError> {
        let mut pending = batch.into_iter();
        let result = self.commit_pending(&mut pending, answers);
        // After a failure in the middle the rest of the batch must be answered too.
        answers.extend(pending.map(|rest| (rest.reply, Err(StoreError::Closed.into()))));
        result
    }

    fn commit_pending(
        &self,
        batch: &mut dyn Iterator<Item = Waiting>,
        answers: &mut Vec<Answer>,
    ) -> Result<Vec<Change>, StoreError> {
        let mut txn = self.database.begin_write().map_err(tables::engine)?;
        txn.set_durability(Durability::Immediate).map_err(tables::engine)?;
        let mut revision = self.committed.load(Ordering::Acquire);
        let now = seconds_since_epoch();
        let mut changes = Vec::new();
        for Waiting { key, write, reply } in batch {
            match tables::apply(&txn, &key, write, revision + 1, now) {
                Ok(change) => {
                    revision += 1;
                    changes.push(change);
                    answers.push((reply, Ok(revision)));
                }
                Err(conflict @ WriteFailed::Conflict { .. }) => {
                    answers.push((reply, Err(conflict)));
                }
                Err(WriteFailed::Store(error)) => {
                    let message = error.to_string();
                    answers.push((reply, Err(error.into())));
                    return Err(StoreError::Engine(message));
                }
            }
        }
        if changes.is_empty() {
            txn.abort().map_err(tables::engine)?;
            return Ok(changes);
        }
        tables::set_revision(&txn, revision)?;
        txn.commit().map_err(tables::engine)?;
        self.committed.store(revision, Ordering::Release);
        Ok(changes)
    }

    fn publish(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.subscribers.retain(|subscriber| {
                !change.key.starts_with(&subscriber.prefix)
                    || subscriber.changes.try_send(change.clone()).is_ok()
            });
        }
    }

    /// Runs between two commits, so the backlog and what follows meet without a gap.
    fn watch(&mut self, prefix: String, after: Revision) -> Result<Changes, StoreError> {
        let txn = self.database.begin_read().map_err(tables::engine)?;
        let backlog = tables::changes(&txn, &prefix, after)?;
        let (changes, live) = mpsc::channel(WATCHER_QUEUE);
        self.subscribers.retain(|subscriber| !subscriber.changes.is_closed());
        self.subscribers.push(Subscriber { prefix, changes });
        Ok(Changes::new(backlog, live))
    }

    /// Writes again what is there: the page that holds it has to go to the disk as any other.
    fn probe(&self) -> Result<(), StoreError> {
        let mut txn = self.database.begin_write().map_err(tables::engine)?;
        txn.set_durability(Durability::Immediate).map_err(tables::engine)?;
        tables::set_revision(&txn, self.committed.load(Ordering::Acquire))?;
        txn.commit().map_err(tables::engine)
    }

    fn compact_surplus(&mut self) {
        self.since_compaction = 0;
        self.bytes_since_compaction = 0;
        let oldest = seconds_since_epoch().saturating_sub(self.retention.age.as_secs());
        let compacted = (|| -> Result<(), StoreError> {
            let txn = self.database.begin_read().map_err(tables::engine)?;
            match tables::surplus(&txn, self.retention.events, self.retention.bytes, oldest)? {
                Some(through) => self.compact(through),
                None => Ok(()),
            }
        })();
        if let Err(error) = compacted {
            tracing::warn!(%error, "the store's history could not be compacted");
        }
    }

    fn compact(&mut self, through: Revision) -> Result<(), StoreError> {
        let marks = {
            let txn = self.database.begin_read().map_err(tables::engine)?;
            tables::marks(&txn)?
        };
        if through <= marks.compacted {
            return Ok(());
        }
        tables::check_history(marks, through)?;
        let txn = self.database.begin_write().map_err(tables::engine)?;
        tables::compact(&txn, through)?;
        txn.commit().map_err(tables::engine)
    }
}

fn seconds_since_epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
