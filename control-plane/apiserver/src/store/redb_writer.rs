//! The one thread that writes.
//!
//! It takes what is waiting, applies it in one transaction, commits it durably, tells the watchers
//! and then answers the callers: many writers share one flush of the disk, and whoever reads its
//! acknowledgement finds the change in every watch that keeps up. The order of revisions is the
//! order of application, so a watcher can never see a gap. It also keeps the history and the file
//! short, and opens the file anew after the disk has failed.

use super::redb::Retention;
use super::redb_file::{Shrunk, StoreFile};
use super::redb_recovery::{Before, Recovery};
use super::redb_tables::{self as tables, Sizes};
use super::{Change, Changes, Revision, StoreError, Write, WriteFailed};
use redb::{Database, Durability};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
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

/// A file that could not be made as small as it should be is tried again when it has grown, or what
/// it holds has shrunk, by this part.
const GROWTH_PART: u64 = 8;

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
    file: Arc<StoreFile>,
    /// The last committed revision, for readers.
    committed: Arc<AtomicU64>,
    retention: Retention,
    subscribers: Vec<Subscriber>,
    since_compaction: u64,
    bytes_since_compaction: u64,
    sizes: Sizes,
    /// The bytes of the file after it was made smaller, and of what it held.
    shrunk_to: u64,
    shrunk_live: u64,
    recovery: Recovery,
}

impl Writer {
    pub(super) fn new(
        file: Arc<StoreFile>,
        committed: Arc<AtomicU64>,
        retention: Retention,
        sizes: Sizes,
    ) -> Self {
        // The first write after a start looks at the history, whatever its size was before.
        let since_compaction = COMPACTION_STRIDE;
        Self {
            file,
            committed,
            retention,
            subscribers: Vec::new(),
            since_compaction,
            bytes_since_compaction: 0,
            sizes,
            shrunk_to: 0,
            shrunk_live: 0,
            recovery: Recovery::default(),
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
                    let probed = self.ready().and_then(|()| self.probe());
                    let probed = self.noted(probed);
                    if probed.is_ok() {
                        self.recovery.succeeded(Instant::now());
                    }
                    let _ = reply.send(probed);
                }
                Command::Compact { through, reply } => {
                    let compacted = self.ready().and_then(|()| self.compact(through));
                    let compacted = self.noted(compacted);
                    let _ = reply.send(compacted);
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
        let written = match self.ready() {
            Ok(()) => self.commit(batch, &mut answers),
            Err(error) => {
                let refused = |one: Waiting| (one.reply, Err(again(&error).into()));
                answers.extend(batch.into_iter().map(refused));
                Err(error)
            }
        };
        match self.noted(written) {
            Ok(changes) => {
                if !changes.is_empty() {
                    self.recovery.succeeded(Instant::now());
                }
                self.show(changes);
                for (reply, answer) in answers {
                    let _ = reply.send(answer);
                }
            }
            Err(error) => {
                for (reply, answer) in answers {
                    let failed = answer.err().filter(|e| matches!(e, WriteFailed::Conflict { .. }));
                    let _ = reply.send(Err(failed.unwrap_or_else(|| again(&error).into())));
                }
            }
        }
        let history = self.retention.history(self.sizes.objects);
        let grown = self.bytes_since_compaction > history / COMPACTION_PART;
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
        let result =
            self.file.with(|database| self.commit_pending(database, &mut pending, answers));
        // After a failure in the middle the rest of the batch must be answered too.
        answers.extend(pending.map(|rest| (rest.reply, Err(StoreError::Closed.into()))));
        result
    }

    fn commit_pending(
        &self,
        database: &Database,
        batch: &mut dyn Iterator<Item = Waiting>,
        answers: &mut Vec<Answer>,
    ) -> Result<Vec<Change>, StoreError> {
        let mut txn = database.begin_write().map_err(tables::engine)?;
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
                    answers.push((reply, Err(again(&error).into())));
                    return Err(error);
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

    /// Makes sure that there is a file to write to, after an error in another one.
    fn ready(&mut self) -> Result<(), StoreError> {
        match self.recovery.before_write(Instant::now()) {
            Before::Nothing => Ok(()),
            Before::Refuse(reason) => Err(StoreError::Engine(reason)),
            Before::Reopen => {
                let reopened = self.reopen();
                self.noted(reopened)
            }
        }
    }

    /// An error of the engine, noted for the next write.
    fn noted<T>(&mut self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error @ StoreError::Engine(_)) = &done
            && !matches!(self.recovery.before_write(Instant::now()), Before::Refuse(_))
        {
            self.recovery.failed(error, Instant::now());
        }
        done
    }

    /// The file anew. What was written and not acknowledged may be in it: it counts from now on.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let known = self.committed.load(Ordering::Acquire);
        let marks = self.file.reopen(known).map_err(tables::engine)?;
        if marks.revision > known {
            let changes = self
                .file
                .with(|database| tables::changes(&tables::begin_read(database)?, "", known))?;
            self.committed.store(marks.revision, Ordering::Release);
            self.show(changes.into());
        }
        Ok(())
    }

    /// What every commit has for the others.
    fn show(&mut self, changes: Vec<Change>) {
        self.since_compaction += changes.len() as u64;
        for change in &changes {
            let before = self.sizes.log;
            self.sizes.account(change);
            self.bytes_since_compaction += self.sizes.log - before;
        }
        self.publish(changes);
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
        let backlog = self
            .file
            .with(|database| tables::changes(&tables::begin_read(database)?, &prefix, after))?;
        let (changes, live) = mpsc::channel(WATCHER_QUEUE);
        self.subscribers.retain(|subscriber| !subscriber.changes.is_closed());
        self.subscribers.push(Subscriber { prefix, changes });
        Ok(Changes::new(backlog, live))
    }

    /// Writes again what is there: the page that holds it has to go to the disk as any other.
    fn probe(&self) -> Result<(), StoreError> {
        self.file.with(|database| {
            let mut txn = database.begin_write().map_err(tables::engine)?;
            txn.set_durability(Durability::Immediate).map_err(tables::engine)?;
            tables::set_revision(&txn, self.committed.load(Ordering::Acquire))?;
            txn.commit().map_err(tables::engine)
        })
    }

    fn compact_surplus(&mut self) {
        self.since_compaction = 0;
        self.bytes_since_compaction = 0;
        if self.recovery.is_failing() {
            return;
        }
        let oldest = seconds_since_epoch().saturating_sub(self.retention.age.as_secs());
        let bytes = self.retention.history(self.sizes.objects);
        let surplus = self.file.with(|database| {
            let txn = tables::begin_read(database)?;
            tables::surplus(&txn, self.retention.events, bytes, oldest)
        });
        let compacted = surplus.and_then(|through| match through {
            Some(through) => self.compact(through),
            None => Ok(()),
        });
        let shrunk = self.noted(compacted).and_then(|()| self.shrink_surplus());
        if let Err(error) = self.noted(shrunk) {
            tracing::warn!(%error, "the store's history could not be compacted");
        }
    }

    fn compact(&mut self, through: Revision) -> Result<(), StoreError> {
        let dropped = self.file.with(|database| {
            let marks = tables::marks(&tables::begin_read(database)?)?;
            if through <= marks.compacted {
                return Ok(0);
            }
            tables::check_history(marks, through)?;
            let txn = database.begin_write().map_err(tables::engine)?;
            let dropped = tables::compact(&txn, through)?;
            txn.commit().map_err(tables::engine)?;
            Ok(dropped)
        })?;
        self.sizes.log = self.sizes.log.saturating_sub(dropped);
        Ok(())
    }

    /// Makes the file smaller when it is too large for what it holds.
    fn shrink_surplus(&mut self) -> Result<(), StoreError> {
        let (bytes, live) = (self.file.used()?, self.sizes.objects + self.sizes.log);
        let grown = bytes > self.shrunk_to + self.shrunk_to / GROWTH_PART;
        let emptied = live + self.shrunk_live / GROWTH_PART < self.shrunk_live;
        if bytes <= self.retention.largest_file(live) || !(grown || emptied) {
            return Ok(());
        }
        let Shrunk { before, after, pause } = self.file.shrink()?;
        (self.shrunk_to, self.shrunk_live) = (after, live);
        tracing::info!(before, after, live, ?pause, "made the store's file smaller");
        Ok(())
    }
}

/// The same failure for another caller.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Engine(reason) => StoreError::Engine(reason.clone()),
        other => StoreError::Engine(other.to_string()),
    }
}

fn seconds_since_epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
