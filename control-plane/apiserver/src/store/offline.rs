//! A store whose server does not run: checked, counted, written out and filled.
//!
//! Guarantees: what is looked at is never changed, and a store that a server has open is refused.
//! An export has every object as it is stored, with its revision; what is imported from one has the
//! same names, UIDs and revisions. Secrets are left out of an export unless they are asked for.

use super::overlay::Overlay;
use super::redb_file::{OpenFailed, StoreFile, guarded};
use super::redb_tables::{self as tables, Marks, Row, Sizes};
use super::{REGISTRY, Revision, STORE_FILE, StoreError};
use redb::backends::FileBackend;
use redb::{Builder, Database, ReadTransaction};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

/// Problems that are told; of the others there is a number.
const PROBLEMS: usize = 100;
/// Of the lines that [`Offline::export`] writes.
const EXPORT_FORMAT: u64 = 1;
/// Below these are what is left out of an export.
const SECRETS: &str = "/registry/core/secrets/";

/// The store could not be worked with.
#[derive(Debug, thiserror::Error)]
pub enum OfflineFailed {
    #[error(transparent)]
    Open(#[from] OpenFailed),
    #[error("there is no store at {path}: give the data directory of a server")]
    Absent { path: PathBuf },
    #[error("the store {path} has objects: import into a new data directory")]
    NotEmpty { path: PathBuf },
    #[error("line {line} is not what `bowline store export` writes: {reason}")]
    Line { line: usize, reason: String },
    #[error("the export ends after {found} of {expected} objects")]
    CutOff { found: u64, expected: u64 },
    #[error("cannot write the export: {0}")]
    Write(std::io::Error),
    #[error("the store cannot be read: {0}")]
    Read(String),
}

impl From<StoreError> for OfflineFailed {
    fn from(error: StoreError) -> Self {
        Self::Read(error.to_string())
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Checked {
    pub revision: Revision,
    pub objects: u64,
    pub changes: u64,
    /// The first of them.
    pub problems: Vec<String>,
    /// How many there are.
    pub found: usize,
}

impl Checked {
    fn problem(&mut self, text: String) {
        self.found += 1;
        if self.problems.len() < PROBLEMS {
            self.problems.push(text);
        }
    }
}

/// How much there is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stats {
    pub revision: Revision,
    /// The history begins after this one.
    pub compacted: Revision,
    pub objects: u64,
    pub object_bytes: u64,
    pub history_changes: u64,
    pub history_bytes: u64,
    pub file_bytes: u64,
    /// In the file and neither objects nor history: pages that are free or not full.
    pub other_bytes: u64,
    /// Objects and bytes of each kind.
    pub kinds: BTreeMap<String, (u64, u64)>,
}

/// What an export left out, and has.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Exported {
    pub objects: u64,
    pub secrets_left_out: u64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(rename = "bowlineStore")]
    format: u64,
    revision: Revision,
    objects: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    revision: Revision,
    object: Value,
}

/// A store that is open for looking.
pub struct Offline {
    database: Database,
    path: PathBuf,
}

impl Offline {
    /// Opens the store in a server's data directory and verifies the checksum of every page.
    pub fn open(data_dir: &Path) -> Result<Self, OfflineFailed> {
        let path = data_dir.join(STORE_FILE);
        if !path.is_file() {
            return Err(OfflineFailed::Absent { path });
        }
        let opened = guarded(|| open(&path));
        let database = opened
            .unwrap_or_else(|reason| Err(OpenFailed::Damaged { path: path.clone(), reason }))?;
        Ok(Self { database, path })
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, OfflineFailed>,
    ) -> Result<T, OfflineFailed> {
        let txn = tables::begin_read(&self.database)?;
        guarded(|| read(&txn)).unwrap_or_else(|panic| Err(OfflineFailed::Read(panic)))
    }

    /// Whether each object can be read, revisions are in order, and the history leads to the state.
    pub fn check(&self) -> Result<Checked, OfflineFailed> {
        self.read(|txn| {
            let marks = tables::marks(txn)?;
            let mut checked = Checked { revision: marks.revision, ..Checked::default() };
            let last = check_history(txn, marks, &mut checked)?;
            let mut stored = HashMap::new();
            tables::each_object(txn, |key, modified, value| {
                checked.objects += 1;
                check_object(key, modified, value, marks, &mut checked);
                stored.insert(key.to_owned(), modified);
                Ok(())
            })?;
            for (key, change) in last {
                let found = stored.get(&key).copied();
                if found != change {
                    checked.problem(format!(
                        "{key}: the history leaves it at {change:?}, and it is at {found:?}"
                    ));
                }
            }
            Ok(checked)
        })
    }

    pub fn stats(&self) -> Result<Stats, OfflineFailed> {
        self.read(|txn| {
            let marks = tables::marks(txn)?;
            let Sizes { objects, log } = tables::sizes(txn)?;
            let length = std::fs::metadata(&self.path);
            let length = length.map_err(|error| OfflineFailed::Read(error.to_string()))?.len();
            let mut stats = Stats {
                revision: marks.revision,
                compacted: marks.compacted,
                object_bytes: objects,
                history_bytes: log,
                file_bytes: length,
                other_bytes: length.saturating_sub(objects + log),
                ..Stats::default()
            };
            tables::each_object(txn, |key, _, value| {
                stats.objects += 1;
                let kind = stats.kinds.entry(kind_of(key).to_owned()).or_default();
                *kind = (kind.0 + 1, kind.1 + (key.len() + value.len()) as u64);
                Ok(())
            })?;
            tables::each_change(txn, |_, _| {
                stats.history_changes += 1;
                Ok(())
            })?;
            Ok(stats)
        })
    }

    /// Writes a line of JSON for the store and one for each object.
    pub fn export(&self, to: &mut dyn Write, secrets: bool) -> Result<Exported, OfflineFailed> {
        self.read(|txn| {
            let mut exported = Exported::default();
            tables::each_object(txn, |key, _, _| {
                let left_out = !secrets && key.starts_with(SECRETS);
                exported.secrets_left_out += u64::from(left_out);
                exported.objects += u64::from(!left_out);
                Ok(())
            })?;
            let revision = tables::marks(txn)?.revision;
            let objects = exported.objects;
            line(to, &Head { format: EXPORT_FORMAT, revision, objects })?;
            let mut failed = None;
            tables::each_object(txn, |key, revision, value| {
                if (!secrets && key.starts_with(SECRETS)) || failed.is_some() {
                    return Ok(());
                }
                let object = serde_json::from_slice(value)
                    .map_err(|error| StoreError::Engine(format!("{key}: {error}")))?;
                failed = line(to, &Line { key: key.to_owned(), revision, object }).err();
                Ok(())
            })?;
            failed.map_or(Ok(exported), Err)
        })
    }
}

fn line(to: &mut dyn Write, value: &impl Serialize) -> Result<(), OfflineFailed> {
    serde_json::to_writer(&mut *to, value).map_err(|error| OfflineFailed::Write(error.into()))?;
    to.write_all(b"\n").map_err(OfflineFailed::Write)
}

/// Fills the new store of a data directory, which is made, with an export. All or nothing.
pub fn import(data_dir: &Path, from: &mut dyn BufRead) -> Result<u64, OfflineFailed> {
    let read = |error: std::io::Error| OfflineFailed::Read(error.to_string());
    std::fs::create_dir_all(data_dir).map_err(read)?;
    let path = data_dir.join(STORE_FILE);
    let (file, marks) = StoreFile::open(&path)?;
    let bytes = file.with(|database| tables::sizes(&tables::begin_read(database)?))?;
    if marks.revision > 0 || bytes != Sizes::default() {
        return Err(OfflineFailed::NotEmpty { path });
    }
    let mut lines = from.lines().enumerate().map(|(n, line)| (n + 1, line));
    let head: Head = match lines.next() {
        Some((number, line)) => parse(number, &line.map_err(read)?)?,
        None => return Err(OfflineFailed::Line { line: 1, reason: "there is none".to_owned() }),
    };
    if head.format != EXPORT_FORMAT {
        let reason = format!("its format {} is not known", head.format);
        return Err(OfflineFailed::Line { line: 1, reason });
    }
    let mut objects = Vec::new();
    for (number, text) in lines {
        let Line { key, revision, object } = parse(number, &text.map_err(read)?)?;
        if !key.starts_with(REGISTRY) || revision == 0 || revision > head.revision {
            let reason = format!("{key} at revision {revision} cannot be");
            return Err(OfflineFailed::Line { line: number, reason });
        }
        objects.push((key, revision, object.to_string()));
    }
    let found = objects.len() as u64;
    if found != head.objects {
        return Err(OfflineFailed::CutOff { found, expected: head.objects });
    }
    file.with(|database| tables::fill(database, head.revision, &objects))?;
    Ok(found)
}

fn parse<T: for<'a> Deserialize<'a>>(line: usize, text: &str) -> Result<T, OfflineFailed> {
    serde_json::from_str(text)
        .map_err(|error| OfflineFailed::Line { line, reason: error.to_string() })
}

fn open(path: &Path) -> Result<Database, OpenFailed> {
    let failed = |reason: String| OpenFailed::File { path: path.to_owned(), reason };
    let io = |error: std::io::Error| failed(error.to_string());
    // A lock needs a file that could be written to; the overlay never does.
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
    let file = FileBackend::new(file).map_err(|error| failed(error.to_string()))?;
    let database = Builder::new()
        .set_check_integrity_on_open(true)
        .create_with_backend(Overlay::new(file).map_err(io)?)
        .map_err(|error| OpenFailed::of(path, error))?;
    let txn = tables::begin_read(&database).map_err(|error| failed(error.to_string()))?;
    match tables::prepared(&txn) {
        Ok(Some(_)) => Ok(database),
        Ok(None) => Err(failed("it has no tables of bowline".to_owned())),
        Err(Ok(found)) => Err(OpenFailed::Format { path: path.to_owned(), found }),
        Err(Err(error)) => Err(failed(error.to_string())),
    }
}

/// What each key is at after its last change that is kept: `None` when that deleted it.
fn check_history(
    txn: &ReadTransaction,
    marks: Marks,
    checked: &mut Checked,
) -> Result<HashMap<String, Option<Revision>>, OfflineFailed> {
    let mut last: HashMap<String, Option<Revision>> = HashMap::new();
    let mut expected = marks.compacted + 1;
    tables::each_change(txn, |revision, Row { key, deleted, previous }| {
        checked.changes += 1;
        if revision != expected {
            checked.problem(format!("the history has revision {revision}, not {expected}"));
        }
        expected = revision + 1;
        let before = last.get(key).copied();
        let says = (previous != 0).then_some(previous);
        if before.is_some_and(|before| before != says) {
            checked.problem(format!(
                "{key}: revision {revision} follows {says:?}, and the one before was {before:?}"
            ));
        }
        last.insert(key.to_owned(), (!deleted).then_some(revision));
        Ok(())
    })?;
    if expected != marks.revision + 1 {
        checked.problem(format!(
            "the history ends before revision {expected}, and the store is at {}",
            marks.revision
        ));
    }
    Ok(last)
}

fn check_object(key: &str, modified: Revision, value: &[u8], marks: Marks, checked: &mut Checked) {
    if !key.starts_with(REGISTRY) {
        checked.problem(format!("{key}: the key is not below {REGISTRY}"));
    }
    if modified == 0 || modified > marks.revision {
        checked.problem(format!("{key}: at revision {modified} of {}", marks.revision));
    }
    let name = key.rsplit('/').next().unwrap_or_default();
    match serde_json::from_slice::<Value>(value) {
        Err(error) => checked.problem(format!("{key}: cannot be read: {error}")),
        Ok(object) if bowline_api::object::name(&object) != name => {
            checked.problem(format!("{key}: the object has another name"));
        }
        Ok(_) => {}
    }
}

/// `<group>/<resource>` of a key.
fn kind_of(key: &str) -> &str {
    let rest = key.strip_prefix(REGISTRY).unwrap_or(key);
    let end = rest.match_indices('/').nth(1).map_or(rest.len(), |(at, _)| at);
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RedbStore, Retention, Store as _, Write};

    /// A data directory with a few objects and a history.
    async fn filled() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&dir.path().join(STORE_FILE), Retention::default()).unwrap();
        for (key, value) in [
            ("/registry/core/configmaps/a/one", r#"{"metadata":{"name":"one","uid":"u1"}}"#),
            ("/registry/core/secrets/a/two", r#"{"metadata":{"name":"two","uid":"u2"}}"#),
            ("/registry/apps/deployments/a/gone", r#"{"metadata":{"name":"gone"}}"#),
        ] {
            store.write(key.to_owned(), Write::Create(value.into())).await.unwrap();
        }
        let gone = "/registry/apps/deployments/a/gone".to_owned();
        store.write(gone, Write::Delete { at: 3 }).await.unwrap();
        dir
    }

    #[tokio::test]
    async fn a_sound_store_is_counted_and_stays_as_it_is() {
        let dir = filled().await;
        let path = dir.path().join(STORE_FILE);
        let before = std::fs::read(&path).unwrap();
        let store = Offline::open(dir.path()).unwrap();
        let checked = store.check().unwrap();
        assert_eq!((checked.found, checked.objects, checked.changes), (0, 2, 4), "{checked:?}");
        let stats = store.stats().unwrap();
        assert_eq!((stats.revision, stats.objects, stats.history_changes), (4, 2, 4));
        assert_eq!(stats.kinds["core/secrets"].0, 1);
        drop(store);
        assert!(std::fs::read(&path).unwrap() == before, "the file was changed");
    }

    #[tokio::test]
    async fn what_is_exported_can_be_imported_once() {
        let dir = filled().await;
        let store = Offline::open(dir.path()).unwrap();
        let (mut few, mut all) = (Vec::new(), Vec::new());
        let exported = store.export(&mut few, false).unwrap();
        assert_eq!((exported.objects, exported.secrets_left_out), (1, 1));
        assert!(!String::from_utf8(few).unwrap().contains("secrets"));
        store.export(&mut all, true).unwrap();

        let other = tempfile::tempdir().unwrap();
        let cut = &all[..all.len() / 2];
        let refused = import(other.path(), &mut &cut[..]).unwrap_err();
        assert!(matches!(refused, OfflineFailed::Line { .. } | OfflineFailed::CutOff { .. }));
        assert_eq!(import(other.path(), &mut all.as_slice()).unwrap(), 2);
        let again = import(other.path(), &mut all.as_slice()).unwrap_err();
        assert!(matches!(again, OfflineFailed::NotEmpty { .. }), "{again}");
        let copy = Offline::open(other.path()).unwrap();
        assert_eq!(copy.check().unwrap().found, 0);
        let mut back = Vec::new();
        copy.export(&mut back, true).unwrap();
        assert_eq!(String::from_utf8(back), String::from_utf8(all));
    }

    #[tokio::test]
    async fn a_store_in_use_none_and_a_damaged_one_are_refused() {
        let dir = filled().await;
        let path = dir.path().join(STORE_FILE);
        {
            let _server = RedbStore::open(&path, Retention::default()).unwrap();
            let refused = Offline::open(dir.path()).err().unwrap();
            assert!(refused.to_string().contains("in use by another process"), "{refused}");
            let refused = import(dir.path(), &mut &b""[..]).unwrap_err();
            assert!(refused.to_string().contains("in use by another process"), "{refused}");
        }
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[4096..].iter_mut().for_each(|byte| *byte ^= 1);
        std::fs::write(&path, bytes).unwrap();
        assert!(Offline::open(dir.path()).is_err());
        let none = tempfile::tempdir().unwrap();
        assert!(matches!(Offline::open(none.path()), Err(OfflineFailed::Absent { .. })));
    }

    #[tokio::test]
    async fn what_does_not_agree_is_found() {
        let dir = filled().await;
        {
            let (file, _) = StoreFile::open(&dir.path().join(STORE_FILE)).unwrap();
            let torn = ("/registry/core/configmaps/a/torn".to_owned(), 9, "{".to_owned());
            file.with(|database| tables::fill(database, 4, &[torn])).unwrap();
        }
        let checked = Offline::open(dir.path()).unwrap().check().unwrap();
        let problems = checked.problems.join("\n");
        assert!(problems.contains("torn: at revision 9 of 4"), "{problems}");
        assert!(problems.contains("torn: cannot be read"), "{problems}");
    }
}
