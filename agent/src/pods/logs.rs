//! Logs of containers: files that the runtime's shim appends to.
//!
//! Guarantees: output is kept while the agent is dead, and the log of the run before the current
//! one is kept. Not kept: which stream a line came from, and the time of each line. The shim
//! writes raw output, so `timestamps` and `since` are refused instead of invented.

use std::io::{self, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::time::sleep;

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
            std::fs::create_dir_all(dir)?;
        }
        std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
        if let Some(attempt) = key.attempt.checked_sub(2) {
            let old = ContainerKey { attempt, ..key.clone() };
            match std::fs::remove_file(self.path(&old)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
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
    let start = match range.tail_lines {
        Some(lines) => tail_offset(&mut file, lines).await?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start)).await?;
    let reader =
        Reader { file, left: range.limit_bytes.unwrap_or(u64::MAX), follow: range.follow, is_over };
    Ok(futures::stream::try_unfold(reader, |mut reader| async move {
        Ok(reader.next().await?.map(|part| (part, reader)))
    }))
}

struct Reader<F> {
    file: File,
    left: u64,
    follow: bool,
    is_over: F,
}

impl<F: Fn() -> bool> Reader<F> {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut part = vec![0; READ_BYTES.min(usize::try_from(self.left).unwrap_or(READ_BYTES))];
        let mut pause = FOLLOW_PAUSE_MIN;
        loop {
            // Asked before reading: what was written up to the end is then read below.
            let over = (self.is_over)();
            let count = self.file.read(&mut part).await?;
            if count > 0 {
                self.left -= count as u64;
                part.truncate(count);
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

/// Where the last `lines` lines begin, found from the end so that a long log is not read.
async fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let length = file.metadata().await?.len();
    if lines == 0 {
        return Ok(length);
    }
    let mut end = length;
    let mut seen = 0;
    let mut block = vec![0; READ_BYTES];
    while end > 0 {
        let start = end.saturating_sub(READ_BYTES as u64);
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
    Ok(0)
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

    async fn read(path: &std::path::Path, range: LogRange) -> String {
        let parts = read_log(path.to_owned(), range, || true).await.unwrap();
        let parts: Vec<Bytes> = parts.try_collect().await.unwrap();
        String::from_utf8(parts.concat()).unwrap()
    }

    #[tokio::test]
    async fn ranges() {
        let path = scratch("ranges", b"one\ntwo\nthree\n");
        let range = |tail_lines, limit_bytes| LogRange { follow: false, tail_lines, limit_bytes };
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
