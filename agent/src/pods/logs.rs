//! Logs of containers: files that the runtime's shim appends to.
//!
//! Guarantees: output is kept while the agent is dead, and the log of the run before the current
//! one is kept; of a long log, the newest part; only root can read them. Times of lines come from
//! an index (`log_times`).
//! Not kept: which of the two streams a line came from.

use std::io::{self, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::time::sleep;

use super::log_times::{LogTimes, first_offset, index_path};
use crate::runtime::ContainerKey;

const READ_BYTES: usize = 64 << 10;
const FOLLOW_PAUSE_MIN: Duration = Duration::from_millis(20);
const FOLLOW_PAUSE_MAX: Duration = Duration::from_millis(250);

/// Where this node's logs are.
#[derive(Clone, Debug)]
pub(crate) struct LogFiles {
    root: PathBuf,
}

/// Which part of a log is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogRange {
    pub(crate) follow: bool,
    pub(crate) tail_lines: Option<u64>,
    pub(crate) limit_bytes: Option<u64>,
    /// Only what was written then or later.
    pub(crate) since: Option<Timestamp>,
    /// Each line begins with its time.
    pub(crate) timestamps: bool,
}

impl LogFiles {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn pod_dir(&self, namespace: &str, pod: &str, uid: &str) -> PathBuf {
        self.root.join(format!("{namespace}_{pod}_{uid}"))
    }

    pub(crate) fn path(&self, key: &ContainerKey) -> PathBuf {
        self.pod_dir(&key.namespace, &key.pod, &key.pod_uid)
            .join(&key.container)
            .join(format!("{}.log", key.attempt))
    }

    /// Makes the file of a new run, and forgets the run before the last.
    pub(crate) fn open(&self, key: &ContainerKey) -> io::Result<PathBuf> {
        let path = self.path(key);
        if let Some(dir) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        // The shim opens what is there. What a program prints may be a secret.
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        if let Some(attempt) = key.attempt.checked_sub(2) {
            let old = self.path(&ContainerKey { attempt, ..key.clone() });
            for file in [index_path(&old), old] {
                match std::fs::remove_file(file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(path)
    }

    /// The last bytes of a log, for the status of a container that failed.
    pub(crate) fn tail(
        &self,
        key: &ContainerKey,
        lines: u64,
        bytes_max: u64,
    ) -> io::Result<String> {
        use std::io::{Read as _, Seek as _};
        let mut file = std::fs::File::open(self.path(key))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
        let mut text = Vec::new();
        file.take(bytes_max).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let skip =
            text.lines().count().saturating_sub(usize::try_from(lines).unwrap_or(usize::MAX));
        Ok(text.lines().skip(skip).collect::<Vec<_>>().join("\n"))
    }

    /// The removed pod's logs go with it.
    pub(crate) fn remove_pod(&self, namespace: &str, pod: &str, uid: &str) -> io::Result<()> {
        match std::fs::remove_dir_all(self.pod_dir(namespace, pod, uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Reads a log. `is_over` says whether the container has ended; following ends with it.
pub(crate) async fn read_log(
    path: PathBuf,
    range: LogRange,
    is_over: impl Fn() -> bool + Send + 'static,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send> {
    let mut file = File::open(&path).await?;
    let times = LogTimes::read(&path);
    let first = first_offset(&path)?;
    let tail = match range.tail_lines {
        Some(lines) => tail_offset(&mut file, lines, first).await?,
        None => first,
    };
    let start = tail.max(range.since.map_or(0, |since| times.offset_of(since)));
    file.seek(SeekFrom::Start(start)).await?;
    let reader = Reader {
        file,
        path,
        offset: start,
        left: range.limit_bytes.unwrap_or(u64::MAX),
        follow: range.follow,
        stamps: range.timestamps.then_some(Stamps { times, line_begins: true }),
        is_over,
    };
    Ok(futures::stream::try_unfold(reader, |mut reader| async move {
        Ok(reader.next().await?.map(|part| (part, reader)))
    }))
}

struct Reader<F> {
    file: File,
    path: PathBuf,
    /// Where in the file the next part begins.
    offset: u64,
    left: u64,
    follow: bool,
    stamps: Option<Stamps>,
    is_over: F,
}

impl<F: Fn() -> bool> Reader<F> {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut part = vec![0; READ_BYTES];
        let mut pause = FOLLOW_PAUSE_MIN;
        loop {
            // Asked before reading: what was written up to the end is then read below.
            let over = (self.is_over)();
            let count = self.file.read(&mut part).await?;
            if count > 0 {
                // Of what was given back meanwhile only zeros can be read. A log that is gone has
                // no beginning, but what is left of it can be read to its end.
                let first = first_offset(&self.path).unwrap_or(0);
                if first > self.offset {
                    self.offset = first;
                    self.file.seek(SeekFrom::Start(first)).await?;
                    continue;
                }
                part.truncate(count);
                let mut part = match &mut self.stamps {
                    Some(stamps) => stamps.apply(&self.path, &part, self.offset),
                    None => part,
                };
                self.offset += count as u64;
                part.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= part.len() as u64;
                return Ok(Some(part.into()));
            }
            if !self.follow || over {
                return Ok(None);
            }
            sleep(pause).await;
            pause = (pause * 2).min(FOLLOW_PAUSE_MAX);
        }
    }
}

/// Puts times before lines.
struct Stamps {
    times: LogTimes,
    line_begins: bool,
}

impl Stamps {
    fn apply(&mut self, log: &Path, part: &[u8], offset: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(part.len() * 2);
        let mut at = offset;
        for line in part.split_inclusive(|byte| *byte == b'\n') {
            at += line.len() as u64;
            if self.line_begins {
                if self.times.at(at).is_none() {
                    self.times = LogTimes::read(log);
                }
                // A line that the index does not cover yet was written just now.
                let time = self.times.at(at).unwrap_or_else(Timestamp::now);
                out.extend_from_slice(
                    time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ ").to_string().as_bytes(),
                );
            }
            out.extend_from_slice(line);
            self.line_begins = line.ends_with(b"\n");
        }
        out
    }
}

/// Where the last `lines` lines begin, found from the end so that a long log is not read.
async fn tail_offset(file: &mut File, lines: u64, first: u64) -> io::Result<u64> {
    let length = file.metadata().await?.len();
    if lines == 0 {
        return Ok(length);
    }
    let mut end = length;
    let mut seen = 0;
    let mut block = vec![0; READ_BYTES];
    while end > first {
        let start = end.saturating_sub(READ_BYTES as u64).max(first);
        let size = usize::try_from(end - start).unwrap_or(READ_BYTES);
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut block[..size]).await?;
        for at in (0..size).rev() {
            let position = start + at as u64;
            // A newline at the very end closes the last line and begins none.
            if block[at] == b'\n' && position + 1 < length {
                seen += 1;
                if seen == lines {
                    return Ok(position + 1);
                }
            }
        }
        end = start;
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::TryStreamExt as _;

    use super::*;

    fn scratch(name: &str, text: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("bowline-log-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn read(path: &Path, range: LogRange) -> String {
        let parts = read_log(path.to_owned(), range, || true).await.unwrap();
        let parts: Vec<Bytes> = parts.try_collect().await.unwrap();
        String::from_utf8(parts.concat()).unwrap()
    }

    #[test]
    fn only_root_reads_logs() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let files = LogFiles::new(dir.path().join("logs"));
        let key = ContainerKey {
            pod_uid: "uid".into(),
            namespace: "ns".into(),
            pod: "pod".into(),
            container: "c".into(),
            attempt: 0,
        };
        let log = files.open(&key).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&log), 0o600);
        for ancestor in log.ancestors().skip(1).take(3) {
            assert_eq!(mode(ancestor), 0o700, "{}", ancestor.display());
        }
    }

    #[tokio::test]
    async fn ranges() {
        let path = scratch("ranges", b"one\ntwo\nthree\n");
        let range =
            |tail_lines, limit_bytes| LogRange { tail_lines, limit_bytes, ..LogRange::default() };
        for (tail, limit, expected) in [
            (None, None, "one\ntwo\nthree\n"),
            (Some(0), None, ""),
            (Some(1), None, "three\n"),
            (Some(2), None, "two\nthree\n"),
            (Some(9), None, "one\ntwo\nthree\n"),
            (None, Some(5), "one\nt"),
            (Some(2), Some(3), "two"),
        ] {
            assert_eq!(read(&path, range(tail, limit)).await, expected, "{tail:?} {limit:?}");
        }
        std::fs::write(&path, b"one\nhalf").unwrap();
        assert_eq!(read(&path, range(Some(1), None)).await, "half");
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn the_tail_of_a_long_log() {
        let line = "x".repeat(999) + "\n";
        let path = scratch("long", line.repeat(500).as_bytes());
        let range = LogRange { tail_lines: Some(300), ..LogRange::default() };
        assert_eq!(read(&path, range).await.len(), 300_000);
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_is_overtaken_goes_on_with_what_is_left() {
        use super::super::log_times::give_back;
        let line = "x".repeat(1023) + "\n";
        let path = scratch("overtaken", line.repeat(512).as_bytes());
        let mut parts =
            Box::pin(read_log(path.clone(), LogRange::default(), || true).await.unwrap());
        let mut text = parts.try_next().await.unwrap().unwrap().to_vec();
        give_back(&path, 256 << 10).unwrap();
        while let Some(part) = parts.try_next().await.unwrap() {
            text.extend_from_slice(&part);
        }
        let left = READ_BYTES + (255 << 10);
        assert!(text.iter().all(|byte| *byte != 0) && text.len() == left, "{}", text.len());
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn times_of_lines() {
        use super::super::log_times::note_growth;
        let path = scratch("times.log", b"one\n");
        let set_time = |second: u64| {
            let file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
            let time = std::time::UNIX_EPOCH + Duration::from_secs(second);
            file.set_modified(time).unwrap();
        };
        set_time(100);
        let length = note_growth(&path, 0).unwrap();
        std::fs::write(&path, b"one\ntwo\n").unwrap();
        set_time(200);
        note_growth(&path, length).unwrap();
        let range = LogRange { timestamps: true, ..LogRange::default() };
        assert_eq!(
            read(&path, range).await,
            "1970-01-01T00:01:40.000000000Z one\n1970-01-01T00:03:20.000000000Z two\n"
        );
        let since = Some(Timestamp::from_second(150).unwrap());
        let range = LogRange { since, ..LogRange::default() };
        assert_eq!(read(&path, range).await, "two\n");
        std::fs::remove_file(index_path(&path)).unwrap();
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn following_ends_with_the_container() {
        use std::io::Write as _;
        let path = scratch("follow", b"one\n");
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let range = LogRange { follow: true, ..LogRange::default() };
        let parts = read_log(path.clone(), range, move || seen.load(Ordering::Relaxed));
        let parts = parts.await.unwrap();
        let writer = async {
            sleep(Duration::from_millis(60)).await;
            let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(b"two\n").unwrap();
            over.store(true, Ordering::Relaxed);
        };
        let (all, ()) = tokio::join!(parts.try_collect::<Vec<Bytes>>(), writer);
        assert_eq!(all.unwrap().concat(), b"one\ntwo\n");
        std::fs::remove_file(&path).unwrap();
    }
}
