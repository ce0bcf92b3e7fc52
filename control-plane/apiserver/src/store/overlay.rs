//! A store's file that is read and never written.
//!
//! Guarantees: what redb writes, such as a repair, stays in memory and goes with the overlay; the
//! lock on the file is the one that a server takes, so that no server can be at work in it.

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

const BLOCK: u64 = 4096;

#[derive(Debug)]
struct Written {
    length: u64,
    /// The end of what is taken from the file.
    from_file: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct Overlay {
    file: FileBackend,
    written: Mutex<Written>,
}

impl Overlay {
    pub(super) fn new(file: FileBackend) -> io::Result<Self> {
        let length = file.len()?;
        let written = Written { length, from_file: length, blocks: BTreeMap::new() };
        Ok(Self { file, written: Mutex::new(written) })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of the file, with zeroes where that has none.
    fn block(&self, number: u64, from_file: u64) -> io::Result<Vec<u8>> {
        let mut block = vec![0; usize::try_from(BLOCK).unwrap_or_default()];
        let start = number * BLOCK;
        let there = from_file.saturating_sub(start).min(BLOCK);
        if let Some(part) = block.get_mut(..usize::try_from(there).unwrap_or_default())
            && !part.is_empty()
        {
            self.file.read(start, part)?;
        }
        Ok(block)
    }
}

/// The parts of `length` bytes at `offset`: block, offset in it, range of the bytes.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= length {
            return None;
        }
        let at = offset + done as u64;
        let inside = usize::try_from(at % BLOCK).ok()?;
        let count = (length - done).min(usize::try_from(BLOCK).ok()? - inside);
        let part = (at / BLOCK, inside, done..done + count);
        done += count;
        Some(part)
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset + out.len() as u64 > written.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if written.blocks.is_empty() && offset + out.len() as u64 <= written.from_file {
            return self.file.read(offset, out);
        }
        for (number, inside, range) in parts(offset, out.len()) {
            let part = &mut out[range];
            let end = inside + part.len();
            match written.blocks.get(&number) {
                Some(block) => part.copy_from_slice(&block[inside..end]),
                None => part.copy_from_slice(&self.block(number, written.from_file)?[inside..end]),
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = self.written();
        if length < written.length {
            let last = length / BLOCK;
            let mut kept = match written.blocks.remove(&last) {
                Some(block) => block,
                None => self.block(last, written.from_file)?,
            };
            written.from_file = written.from_file.min(length);
            let inside = usize::try_from(length % BLOCK).unwrap_or_default();
            kept[inside..].fill(0);
            written.blocks.split_off(&last);
            written.blocks.insert(last, kept);
        }
        written.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        for (number, inside, range) in parts(offset, data.len()) {
            let from_file = written.from_file;
            let mut block = match written.blocks.remove(&number) {
                Some(block) => block,
                None => self.block(number, from_file)?,
            };
            block[inside..inside + range.len()].copy_from_slice(&data[range]);
            written.blocks.insert(number, block);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
