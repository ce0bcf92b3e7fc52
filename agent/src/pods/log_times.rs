//! When the lines of a log were written, and how long a log may become.
//!
//! The runtime's shim writes raw output. Beside each log the agent keeps an index of (length of
//! the log, time of its last write), taken from the file's own modification time whenever the log
//! has grown. A line's time is that of the first entry that covers it: exact for lines that come
//! alone, and at most one look late for lines in a burst. What was written while no agent ran gets
//! the time of the last such write.
//!
//! An index that has become too long forgets the entries of what was given back, and then every
//! second entry of its older half: old lines get the time of a later one.
//!
//! A log's oldest part is given back to the file system in place: offsets never change, the shim
//! needs not know, and no line is lost between two files.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};
use tokio::time::sleep;

const LOOK_BUSY: Duration = Duration::from_millis(100);
const LOOK_IDLE: Duration = Duration::from_secs(1);
/// A log that holds more than this loses its oldest part, down to [`KEPT_BYTES`].
const HELD_BYTES_MAX: u64 = 32 << 20;
const KEPT_BYTES: u64 = 16 << 20;
const BLOCK_BYTES: u64 = 4096;
const ENTRY_BYTES: usize = 16;
/// An index that has more than this is thinned out, to at most three quarters of it.
const ENTRIES_MAX: usize = 64 << 10;

/// Up to which offset a log had been written at which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    offset: u64,
    at: Timestamp,
}

/// The index of one log, as far as it was written when it was read.
#[derive(Clone, Debug, Default)]
pub(super) struct LogTimes {
    entries: Vec<Entry>,
}

pub(super) fn index_path(log: &Path) -> PathBuf {
    log.with_extension("times")
}

impl LogTimes {
    pub(super) fn read(log: &Path) -> Self {
        let data = std::fs::read(index_path(log)).unwrap_or_default();
        let (entries, _) = data.as_chunks::<ENTRY_BYTES>();
        Self { entries: entries.iter().filter_map(decode).collect() }
    }

    /// The time of the line that ends before `offset`.
    pub(super) fn at(&self, offset: u64) -> Option<Timestamp> {
        let index = self.entries.partition_point(|entry| entry.offset < offset);
        self.entries.get(index).map(|entry| entry.at)
    }

    /// Where the part begins that was written at `since` or later.
    pub(super) fn offset_of(&self, since: Timestamp) -> u64 {
        let index = self.entries.partition_point(|entry| entry.at < since);
        index.checked_sub(1).map_or(0, |before| self.entries[before].offset)
    }
}

fn encode(entry: Entry) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    bytes[..8].copy_from_slice(&entry.offset.to_le_bytes());
    let nanos = i64::try_from(entry.at.as_nanosecond()).unwrap_or(i64::MAX);
    bytes[8..].copy_from_slice(&nanos.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; ENTRY_BYTES]) -> Option<Entry> {
    let (offset, nanos) = bytes.split_at(8);
    let offset = u64::from_le_bytes(offset.try_into().ok()?);
    let nanos = i64::from_le_bytes(nanos.try_into().ok()?);
    Some(Entry { offset, at: Timestamp::from_nanosecond(nanos.into()).ok()? })
}

/// Keeps index and size of a log. Lasts until it is dropped; dropping it before the last line only
/// makes that line's time less exact, [`note_growth`] completes it.
pub(super) async fn keep_log(log: PathBuf) {
    let mut seen = LogTimes::read(&log).entries.last().map_or(0, |entry| entry.offset);
    let mut pause = LOOK_BUSY;
    loop {
        match note_growth(&log, seen) {
            Ok(length) if length > seen => {
                seen = length;
                pause = LOOK_BUSY;
            }
            Ok(_) => pause = (pause * 2).min(LOOK_IDLE),
            Err(error) => {
                tracing::debug!(log = %log.display(), %error, "log times are not kept");
                pause = LOOK_IDLE;
            }
        }
        sleep(pause).await;
    }
}

/// Adds an entry when the log is longer than `seen`, and returns its length.
pub(super) fn note_growth(log: &Path, seen: u64) -> io::Result<u64> {
    let meta = std::fs::metadata(log)?;
    let length = meta.len();
    if length > seen {
        let nanos = i32::try_from(meta.mtime_nsec()).unwrap_or(0);
        let at = Timestamp::new(meta.mtime(), nanos).map_err(io::Error::other)?;
        let mut index =
            OpenOptions::new().create(true).append(true).mode(0o600).open(index_path(log))?;
        index.write_all(&encode(Entry { offset: length, at }))?;
        if index.metadata()?.len() > (ENTRIES_MAX * ENTRY_BYTES) as u64 {
            thin_out(log)?;
        }
        // A sparse file's blocks are what it really takes.
        if meta.blocks() * 512 > HELD_BYTES_MAX {
            give_back(log, length.saturating_sub(KEPT_BYTES))?;
        }
    }
    Ok(length)
}

/// Replaces the index by a shorter one, in one step: readers see the old one or the new one.
fn thin_out(log: &Path) -> io::Result<()> {
    let gone = first_offset(log)?;
    let mut entries = LogTimes::read(log).entries;
    entries.retain(|entry| entry.offset > gone);
    let half = entries.len() / 2;
    if entries.len() > ENTRIES_MAX / 2 {
        let mut number = 0;
        entries.retain(|_| {
            number += 1;
            number > half || number % 2 == 0
        });
    }
    let new = log.with_extension("times.new");
    let bytes: Vec<u8> = entries.into_iter().flat_map(encode).collect();
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?.write_all(&bytes)?;
    std::fs::rename(new, index_path(log))
}

pub(super) fn give_back(log: &Path, up_to: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(log)?;
    let length = up_to / BLOCK_BYTES * BLOCK_BYTES;
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, flags, 0, length.cast_signed())?;
    Ok(())
}

/// Where what is left of a log begins: the first whole line that was not given back.
pub(super) fn first_offset(log: &Path) -> io::Result<u64> {
    use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
    let mut file = File::open(log)?;
    let start = match lseek(&file, 0, Whence::SeekData) {
        Ok(start) => start.cast_unsigned(),
        // An empty file has no data, and some file systems cannot tell.
        Err(_) => return Ok(0),
    };
    if start == 0 {
        return Ok(0);
    }
    file.seek(SeekFrom::Start(start))?;
    let cut = BufReader::new(file).skip_until(b'\n')?;
    Ok(start + cut as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn lines_have_the_time_of_the_entry_that_covers_them() {
        let times = LogTimes {
            entries: vec![Entry { offset: 10, at: at(100) }, Entry { offset: 30, at: at(200) }],
        };
        assert_eq!(times.at(5), Some(at(100)));
        assert_eq!(times.at(10), Some(at(100)));
        assert_eq!(times.at(11), Some(at(200)));
        assert_eq!(times.at(31), None);
        assert_eq!(times.offset_of(at(50)), 0);
        assert_eq!(times.offset_of(at(100)), 0);
        assert_eq!(times.offset_of(at(101)), 10);
        assert_eq!(times.offset_of(at(201)), 30);
    }

    #[test]
    fn entries_survive_their_encoding() {
        let entry = Entry { offset: u64::MAX / 3, at: "2026-01-02T03:04:05.678Z".parse().unwrap() };
        assert_eq!(decode(&encode(entry)), Some(entry));
    }

    #[test]
    fn an_index_stays_short_and_forgets_old_times_first() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let entry = |number: u64| Entry { offset: number, at: at(number.cast_signed()) };
        let length = ENTRIES_MAX as u64 + 1;
        std::fs::write(&log, vec![b'x'; ENTRIES_MAX + 1]).unwrap();
        let all: Vec<u8> = (1..length).map(entry).flat_map(encode).collect();
        std::fs::write(index_path(&log), all).unwrap();
        note_growth(&log, length - 1).unwrap();
        let left = LogTimes::read(&log);
        assert!(left.entries.len() <= ENTRIES_MAX / 4 * 3 + 1, "{}", left.entries.len());
        assert!(left.entries.is_sorted_by_key(|entry| entry.offset));
        assert_eq!(left.entries.last().unwrap().offset, length);
        // The newest lines keep their time, the oldest get that of the one after them.
        assert_eq!(left.at(length - 5), Some(at(length.cast_signed() - 5)));
        assert_eq!(left.at(1), Some(at(2)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_long_log_gives_back_its_beginning() {
        let dir = std::env::temp_dir().join(format!("bowline-times-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let log = dir.join("0.log");
        let line = "x".repeat(1023) + "\n";
        std::fs::write(&log, line.repeat(40 << 10)).unwrap();
        let length = note_growth(&log, 0).unwrap();
        assert_eq!(length, 40 << 20);
        let left = std::fs::metadata(&log).unwrap();
        assert_eq!(left.len(), length);
        assert!(left.blocks() * 512 <= HELD_BYTES_MAX, "{} bytes", left.blocks() * 512);
        let first = first_offset(&log).unwrap();
        assert!(first > 0 && first.is_multiple_of(1024), "{first}");
        assert_eq!(note_growth(&log, length).unwrap(), length);
        assert_eq!(LogTimes::read(&log).entries.len(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
