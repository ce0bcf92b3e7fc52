//! The tables of the redb engine and the reads and writes inside one transaction.
//!
//! Three tables: `objects` (the current state), `log` (what changed at each revision, with the
//! value before, so that past states can be rebuilt) and `meta` (counters and the format).
//! Everything one write touches is in one transaction, so the log and the state never disagree.

use super::{Change, Entry, Page, Range, Revision, StoreError, Write, WriteFailed};
use bytes::Bytes;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use std::collections::{BTreeMap, VecDeque};

/// key -> (modified, value)
const OBJECTS: TableDefinition<'static, &str, (u64, &[u8])> = TableDefinition::new("objects");
/// revision -> (key, seconds since the epoch, deleted, value, previous revision or 0, previous)
const LOG: TableDefinition<'static, u64, LogRow<'static>> = TableDefinition::new("log");
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

type LogRow<'a> = (&'a str, u64, bool, &'a [u8], u64, &'a [u8]);

const META_REVISION: &str = "revision";
const META_COMPACTED: &str = "compacted";
const META_FORMAT: &str = "format";
/// The layout of the tables. A file of another format is refused, never guessed at.
const FORMAT: u64 = 1;

pub(super) fn begin_read(database: &Database) -> Result<ReadTransaction, StoreError> {
    database.begin_read().map_err(engine)
}

pub(super) fn engine(error: impl std::fmt::Display) -> StoreError {
    StoreError::Engine(error.to_string())
}

/// The counters of `meta`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
}

/// Makes the tables of a new file and checks the format of an old one. `Err(Ok(n))` is a file of
/// the unknown format `n`.
pub(super) fn prepare(txn: &WriteTransaction) -> Result<Marks, Result<u64, StoreError>> {
    let fail = |error: redb::TableError| Err(engine(error));
    let mut meta = txn.open_table(META).map_err(fail)?;
    txn.open_table(OBJECTS).map_err(fail)?;
    txn.open_table(LOG).map_err(fail)?;
    let read = |meta: &redb::Table<'_, &str, u64>, name: &str| {
        meta.get(name).map(|row| row.map(|guard| guard.value())).map_err(|e| Err(engine(e)))
    };
    match read(&meta, META_FORMAT)? {
        None => {
            meta.insert(META_FORMAT, FORMAT).map_err(|e| Err(engine(e)))?;
        }
        Some(FORMAT) => {}
        Some(other) => return Err(Ok(other)),
    }
    let revision = read(&meta, META_REVISION)?.unwrap_or(0);
    let compacted = read(&meta, META_COMPACTED)?.unwrap_or(0);
    Ok(Marks { revision, compacted })
}

/// The counters of a file that has its tables; `None` of a new one. `Err(Ok(n))` is a file of the
/// unknown format `n`.
pub(super) fn prepared(txn: &ReadTransaction) -> Result<Option<Marks>, Result<u64, StoreError>> {
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(Err(engine(error))),
    };
    let format = meta.get(META_FORMAT).map_err(|error| Err(engine(error)))?;
    match format.map(|row| row.value()) {
        Some(FORMAT) => marks(txn).map(Some).map_err(Err),
        Some(other) => Err(Ok(other)),
        None => Ok(None),
    }
}

/// The bytes that the file keeps for its readers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Keys and values of the current state.
    pub(super) objects: u64,
    /// Values in the log.
    pub(super) log: u64,
}

/// Looks at everything.
pub(super) fn sizes(txn: &ReadTransaction) -> Result<Sizes, StoreError> {
    let mut sizes = Sizes::default();
    for row in txn.open_table(OBJECTS).map_err(engine)?.iter().map_err(engine)? {
        let (key, row) = row.map_err(engine)?;
        sizes.objects += (key.value().len() + row.value().1.len()) as u64;
    }
    for row in txn.open_table(LOG).map_err(engine)?.iter().map_err(engine)? {
        let (_, row) = row.map_err(engine)?;
        let (_, _, _, value, _, previous) = row.value();
        sizes.log += (value.len() + previous.len()) as u64;
    }
    Ok(sizes)
}

/// A change, without its values.
pub(super) struct Row<'a> {
    pub(super) key: &'a str,
    pub(super) deleted: bool,
    /// The revision of the state before, or 0.
    pub(super) previous: Revision,
}

/// Shows every object, by key.
pub(super) fn each_object(
    txn: &ReadTransaction,
    mut show: impl FnMut(&str, Revision, &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for row in txn.open_table(OBJECTS).map_err(engine)?.iter().map_err(engine)? {
        let (key, row) = row.map_err(engine)?;
        let (modified, value) = row.value();
        show(key.value(), modified, value)?;
    }
    Ok(())
}

/// Shows every change that is kept, by revision.
pub(super) fn each_change(
    txn: &ReadTransaction,
    mut show: impl FnMut(Revision, Row<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for row in txn.open_table(LOG).map_err(engine)?.iter().map_err(engine)? {
        let (revision, row) = row.map_err(engine)?;
        let (key, _, deleted, _, previous, _) = row.value();
        show(revision.value(), Row { key, deleted, previous })?;
    }
    Ok(())
}

/// Puts objects with their revisions into a store that has none, which then is at `revision` and
/// has no history.
pub(super) fn fill(
    database: &Database,
    revision: Revision,
    objects: &[(String, Revision, String)],
) -> Result<(), StoreError> {
    let txn = database.begin_write().map_err(engine)?;
    {
        let mut table = txn.open_table(OBJECTS).map_err(engine)?;
        for (key, modified, value) in objects {
            let row = (*modified, value.as_bytes());
            table.insert(key.as_str(), row).map_err(engine)?;
        }
        let mut meta = txn.open_table(META).map_err(engine)?;
        meta.insert(META_REVISION, revision).map_err(engine)?;
        meta.insert(META_COMPACTED, revision).map_err(engine)?;
    }
    txn.commit().map_err(engine)
}

impl Sizes {
    pub(super) fn account(&mut self, change: &Change) {
        let key = change.key.len() as u64;
        let held = |value: Option<&Bytes>| value.map_or(0, |value| key + value.len() as u64);
        let previous = change.previous.as_ref().map(|(_, value)| value);
        self.objects += held(change.value.as_ref());
        self.objects = self.objects.saturating_sub(held(previous));
        self.log += logged_bytes(change);
    }
}

/// Applies one write inside `txn` at `revision` (which the caller has reserved).
pub(super) fn apply(
    txn: &WriteTransaction,
    key: &str,
    write: Write,
    revision: Revision,
    now: u64,
) -> Result<Change, WriteFailed> {
    let mut objects = txn.open_table(OBJECTS).map_err(engine)?;
    let previous = objects.get(key).map_err(engine)?.map(|row| {
        let (modified, value) = row.value();
        (modified, Bytes::copy_from_slice(value))
    });
    let current = previous.as_ref().map(|(modified, _)| *modified);
    let value = match write {
        Write::Create(value) if current.is_none() => Some(value),
        Write::Update { at, value } if current == Some(at) => Some(value),
        Write::Delete { at } if current == Some(at) => None,
        _ => return Err(WriteFailed::Conflict { current }),
    };
    match &value {
        Some(value) => objects.insert(key, (revision, value.as_ref())).map_err(engine)?,
        None => objects.remove(key).map_err(engine)?,
    };
    let mut log = txn.open_table(LOG).map_err(engine)?;
    let (previous_revision, previous_value) =
        previous.as_ref().map_or((0, &[][..]), |(revision, value)| (*revision, value.as_ref()));
    let row = (
        key,
        now,
        value.is_none(),
        value.as_ref().map_or(&[][..], |value| value.as_ref()),
        previous_revision,
        previous_value,
    );
    log.insert(revision, row).map_err(engine)?;
    Ok(Change { revision, key: key.to_owned(), value, previous })
}

pub(super) fn set_revision(txn: &WriteTransaction, revision: Revision) -> Result<(), StoreError> {
    let mut meta = txn.open_table(META).map_err(engine)?;
    meta.insert(META_REVISION, revision).map_err(engine)?;
    Ok(())
}

/// Removes the log up to and including `through`, and says how many bytes of values that were.
pub(super) fn compact(txn: &WriteTransaction, through: Revision) -> Result<u64, StoreError> {
    let mut log = txn.open_table(LOG).map_err(engine)?;
    let mut dropped = 0;
    let drop = |_: u64, (_, _, _, value, _, previous): LogRow<'_>| {
        dropped += (value.len() + previous.len()) as u64;
        false
    };
    log.retain_in(..=through, drop).map_err(engine)?;
    let mut meta = txn.open_table(META).map_err(engine)?;
    meta.insert(META_COMPACTED, through).map_err(engine)?;
    Ok(dropped)
}

/// The revision through which the log can be dropped so that at most `keep` events with `bytes` of
/// values stay and none is older than `oldest` (seconds since the epoch). `None` when nothing is to
/// be dropped.
pub(super) fn surplus(
    txn: &ReadTransaction,
    keep: u64,
    bytes: u64,
    oldest: u64,
) -> Result<Option<Revision>, StoreError> {
    let log = txn.open_table(LOG).map_err(engine)?;
    let (mut events, mut held) = (0, 0);
    for row in log.iter().map_err(engine)?.rev() {
        let (revision, event) = row.map_err(engine)?;
        let (_, at, _, value, _, previous) = event.value();
        events += 1;
        held += (value.len() + previous.len()) as u64;
        if events > keep || held > bytes || at < oldest {
            return Ok(Some(revision.value()));
        }
    }
    Ok(None)
}

/// The bytes of values that a change adds to the log.
fn logged_bytes(change: &Change) -> u64 {
    let (value, previous) = (change.value.as_ref(), change.previous.as_ref());
    (value.map_or(0, Bytes::len) + previous.map_or(0, |(_, value)| value.len())) as u64
}

pub(super) fn get(txn: &ReadTransaction, key: &str) -> Result<Option<Entry>, StoreError> {
    let objects = txn.open_table(OBJECTS).map_err(engine)?;
    let row = objects.get(key).map_err(engine)?;
    Ok(row.map(|row| entry(key, row.value())))
}

fn entry(key: &str, (modified, value): (u64, &[u8])) -> Entry {
    Entry { key: key.to_owned(), value: Bytes::copy_from_slice(value), modified }
}

pub(super) fn marks(txn: &ReadTransaction) -> Result<Marks, StoreError> {
    let meta = txn.open_table(META).map_err(engine)?;
    let read = |name: &str| -> Result<u64, StoreError> {
        Ok(meta.get(name).map_err(engine)?.map_or(0, |row| row.value()))
    };
    Ok(Marks { revision: read(META_REVISION)?, compacted: read(META_COMPACTED)? })
}

/// Fails unless the history after `revision` is complete.
pub(super) fn check_history(marks: Marks, revision: Revision) -> Result<(), StoreError> {
    if revision > marks.revision {
        return Err(StoreError::Future { requested: revision, current: marks.revision });
    }
    if revision < marks.compacted {
        return Err(StoreError::Compacted { requested: revision, oldest: marks.compacted });
    }
    Ok(())
}

pub(super) fn range(txn: &ReadTransaction, range: &Range) -> Result<Page, StoreError> {
    let marks = marks(txn)?;
    let revision = range.at.unwrap_or(marks.revision);
    check_history(marks, revision)?;
    let undone = undone(txn, &range.prefix, revision, marks.revision)?;
    let start = range.after.as_deref().unwrap_or(&range.prefix);
    let wanted = |key: &str| range.after.as_deref().is_none_or(|after| key > after);
    let mut past = undone
        .iter()
        .filter(|(key, _)| wanted(key))
        .filter_map(|(_, entry)| entry.clone())
        .peekable();

    let limit = range.limit.unwrap_or(usize::MAX);
    let mut page = Page { entries: Vec::new(), revision, remaining: 0 };
    let push = |page: &mut Page, entry: Entry| {
        if page.entries.len() < limit {
            page.entries.push(entry);
        } else {
            page.remaining += 1;
        }
    };
    let objects = txn.open_table(OBJECTS).map_err(engine)?;
    for row in objects.range(start..).map_err(engine)? {
        let (key, value) = row.map_err(engine)?;
        let key = key.value();
        if !key.starts_with(&range.prefix) {
            break;
        }
        while let Some(old) = past.next_if(|old| old.key.as_str() <= key) {
            push(&mut page, old);
        }
        if wanted(key) && !undone.contains_key(key) {
            push(&mut page, entry(key, value.value()));
        }
    }
    for old in past {
        push(&mut page, old);
    }
    Ok(page)
}

/// What each key below `prefix` that changed after `revision` was at that revision.
fn undone(
    txn: &ReadTransaction,
    prefix: &str,
    revision: Revision,
    current: Revision,
) -> Result<BTreeMap<String, Option<Entry>>, StoreError> {
    let mut undone = BTreeMap::new();
    if revision == current {
        return Ok(undone);
    }
    let log = txn.open_table(LOG).map_err(engine)?;
    for row in log.range(revision + 1..).map_err(engine)? {
        let (_, event) = row.map_err(engine)?;
        let (key, _, _, _, modified, value) = event.value();
        if key.starts_with(prefix) && !undone.contains_key(key) {
            let before = (modified != 0).then(|| entry(key, (modified, value)));
            undone.insert(key.to_owned(), before);
        }
    }
    Ok(undone)
}

/// The logged changes after `after` of keys below `prefix`.
pub(super) fn changes(
    txn: &ReadTransaction,
    prefix: &str,
    after: Revision,
) -> Result<VecDeque<Change>, StoreError> {
    check_history(marks(txn)?, after)?;
    let log = txn.open_table(LOG).map_err(engine)?;
    let mut changes = VecDeque::new();
    for row in log.range(after + 1..).map_err(engine)? {
        let (revision, event) = row.map_err(engine)?;
        let (key, _, deleted, value, previous_revision, previous) = event.value();
        if key.starts_with(prefix) {
            changes.push_back(Change {
                revision: revision.value(),
                key: key.to_owned(),
                value: (!deleted).then(|| Bytes::copy_from_slice(value)),
                previous: (previous_revision != 0)
                    .then(|| (previous_revision, Bytes::copy_from_slice(previous))),
            });
        }
    }
    Ok(changes)
}
