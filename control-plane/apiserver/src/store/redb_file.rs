//! The file of the redb engine: opened with a check of every page, opened again after an error of
//! the disk, and made smaller.
//!
//! Guarantees: a file whose checksums do not agree is refused and never read; redb may panic over
//! what a disk gives back, and that is a failure like any other here. While the file is opened
//! again or made smaller, readers wait. A file that is opened again holds every write that was
//! acknowledged, or it stays closed.

use super::redb_tables::{self as tables, Marks};
use super::{Revision, StoreError};
use redb::backends::FileBackend;
use redb::{Builder, Database, ReadableDatabase};
use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Pages that redb may keep in memory. Objects are cached decoded elsewhere; this is for the tree.
const PAGE_CACHE_BYTES: usize = 6 * 1024 * 1024;
/// What `stat` counts in.
const STAT_BLOCK: u64 = 512;

/// The store's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenFailed {
    #[error("the store {path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("the store {path} has format {found}, which this version does not know")]
    Format { path: PathBuf, found: u64 },
    #[error(
        "the store {path} is damaged and is not used: {reason}; move it away and bring back a copy"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "the store {path} is at revision {found}, and revision {acknowledged} was acknowledged: \
         it is not used"
    )]
    Lost { path: PathBuf, found: Revision, acknowledged: Revision },
    #[error("the store {path} cannot be opened: {reason}")]
    File { path: PathBuf, reason: String },
}

impl OpenFailed {
    pub(super) fn of(path: &Path, error: redb::DatabaseError) -> Self {
        let path = path.to_owned();
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Self::InUse { path },
            redb::DatabaseError::Storage(redb::StorageError::Corrupted(reason)) => {
                Self::Damaged { path, reason }
            }
            other => Self::File { path, reason: other.to_string() },
        }
    }
}

/// What making a file smaller came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shrunk {
    pub(super) before: u64,
    pub(super) after: u64,
    /// How long nobody could read or write.
    pub(super) pause: Duration,
}

enum Access {
    Open(Database),
    /// Why it is closed.
    Closed(String),
}

/// See the module's documentation.
pub(super) struct StoreFile {
    path: PathBuf,
    access: RwLock<Access>,
}

impl StoreFile {
    /// Opens the file, which it makes when absent (mode 0600: it holds secrets), and repairs it
    /// when the last process died in the middle of a commit.
    pub(super) fn open(path: &Path) -> Result<(Self, Marks), OpenFailed> {
        let (database, marks) = open(path)?;
        let access = RwLock::new(Access::Open(database));
        Ok((Self { path: path.to_owned(), access }, marks))
    }

    /// Does something with the database, while others may, too.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
        match &*access {
            Access::Open(database) => guarded(|| work(database)).unwrap_or_else(|panic| {
                Err(StoreError::Engine(format!("the store's file is damaged: {panic}")))
            }),
            Access::Closed(reason) => Err(StoreError::Engine(reason.clone())),
        }
    }

    /// Closes the file and opens it anew, which ends redb's refusal to go on after an error. It
    /// stays closed when that fails, or when it has lost a write up to `acknowledged`.
    pub(super) fn reopen(&self, acknowledged: Revision) -> Result<Marks, OpenFailed> {
        let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
        // The lock on the file goes with the old database, which may find its disk in no better
        // state when it ends.
        let old = std::mem::replace(&mut *access, Access::Closed("the store is closed".to_owned()));
        if let Err(panic) = guarded(|| drop(old)) {
            tracing::warn!(panic, "the store's file could not be closed in order");
        }
        let opened = open(&self.path).and_then(|(database, marks)| {
            let (path, found) = (self.path.clone(), marks.revision);
            if found < acknowledged {
                return Err(OpenFailed::Lost { path, found, acknowledged });
            }
            Ok((database, marks))
        });
        match opened {
            Ok((database, marks)) => {
                *access = Access::Open(database);
                Ok(marks)
            }
            Err(error) => {
                *access = Access::Closed(error.to_string());
                Err(error)
            }
        }
    }

    /// Moves what the file holds to its beginning and gives the rest back to the disk.
    pub(super) fn shrink(&self) -> Result<Shrunk, StoreError> {
        let before = self.used()?;
        let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        match &mut *access {
            Access::Open(database) => {
                let compacted = guarded(|| database.compact().map_err(tables::engine));
                compacted.unwrap_or_else(|panic| Err(StoreError::Engine(panic)))?;
            }
            Access::Closed(reason) => return Err(StoreError::Engine(reason.clone())),
        }
        let pause = start.elapsed();
        drop(access);
        Ok(Shrunk { before, after: self.used()?, pause })
    }

    /// The bytes that the file takes of its disk. redb doubles the length of a file that grows, and
    /// what it has not used of that takes nothing.
    pub(super) fn used(&self) -> Result<u64, StoreError> {
        let metadata = std::fs::metadata(&self.path).map_err(tables::engine)?;
        Ok((metadata.blocks() * STAT_BLOCK).min(metadata.len()))
    }
}

fn open(path: &Path) -> Result<(Database, Marks), OpenFailed> {
    let opened = guarded(|| {
        let database = open_checked(path)?;
        let marks = prepare(path, &database)?;
        Ok((database, marks))
    });
    opened.unwrap_or_else(|reason| Err(OpenFailed::Damaged { path: path.to_owned(), reason }))
}

fn open_checked(path: &Path) -> Result<Database, OpenFailed> {
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
    Builder::new()
        .set_cache_size(PAGE_CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create_with_backend(backend)
        .map_err(|error| OpenFailed::of(path, error))
}

fn prepare(path: &Path, database: &Database) -> Result<Marks, OpenFailed> {
    let failed = |reason: String| OpenFailed::File { path: path.to_owned(), reason };
    let ready = {
        let txn = database.begin_read().map_err(|error| failed(error.to_string()))?;
        tables::prepared(&txn)
    };
    let format = |found| OpenFailed::Format { path: path.to_owned(), found };
    match ready {
        Ok(Some(marks)) => return Ok(marks),
        Ok(None) => {}
        Err(Ok(found)) => return Err(format(found)),
        Err(Err(error)) => return Err(failed(error.to_string())),
    }
    let txn = database.begin_write().map_err(|error| failed(error.to_string()))?;
    let marks = tables::prepare(&txn).map_err(|problem| match problem {
        Ok(found) => format(found),
        Err(error) => failed(error.to_string()),
    })?;
    txn.commit().map_err(|error| failed(error.to_string()))?;
    Ok(marks)
}

/// What a panic said, if there was one.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("the engine panicked").to_owned()
    })
}
