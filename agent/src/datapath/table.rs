//! Typed access to pinned maps.
//!
//! Guarantees: key and value types have the sizes of the map (checked when it is opened); an error
//! names the map, and a full map's error also its size and the flag that raises it. A write either
//! happens or leaves the map as it was.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bowline_ebpf_abi::Plain;
use nix::libc;

use super::object::{Object, object};
use super::pins::FindPinsFailed;
use super::shape::{MapShape, type_of};
use super::sizes::{fixed_size, flag_of};
use super::syscall::{self, MapInfo};

/// A map could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteMapFailed {
    /// The map has no room. What it holds keeps working.
    #[error("map {map} is full ({size} entries); give the agent a larger {flag} and restart it")]
    Full { map: &'static str, size: u32, flag: &'static str },
    #[error("writing map {map} failed: {source}")]
    Refused { map: &'static str, source: io::Error },
}

/// A pinned map could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum ReadMapsFailed {
    #[error(transparent)]
    Pins(#[from] FindPinsFailed),
    #[error("{} is gone: restart the agent, which makes it anew", path.display())]
    NotPinned { path: PathBuf },
    #[error(
        "{} is {found}, and not the map of that name: somebody put it there; remove it and restart \
         the agent",
        path.display()
    )]
    NotOurs { path: PathBuf, found: String },
    #[error("opening {} failed: {source}", path.display())]
    NotOpened { path: PathBuf, source: io::Error },
    #[error("reading map {map} failed: {source}")]
    NotRead { map: &'static str, source: io::Error },
}

/// A map with keys of type `K` and values of type `V`.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    fd: OwnedFd,
    name: &'static str,
    info: MapInfo,
    per_cpu: bool,
    /// Whether the kernel has not refused to write many entries at once.
    batches: AtomicBool,
    types: PhantomData<fn(K) -> V>,
}

pub(super) fn bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` promises that the type is nothing but its bytes, without padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// How kernels before 5.6 and maps without batches refuse one: `EINVAL`, `ENOTSUPP`, `EOPNOTSUPP`.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(libc::EINVAL | ENOTSUPP | libc::EOPNOTSUPP))
}

pub(super) fn bytes_mut<T: Plain>(value: &mut T) -> &mut [u8] {
    // SAFETY: as above; any bytes written make a valid value.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(value).cast(), size_of::<T>()) }
}

/// Opens what is pinned at a path if that is the map with this name, whose keys and values have
/// these sizes.
pub(super) fn open_map(
    path: PathBuf,
    name: &'static str,
    sizes: (usize, usize),
) -> Result<(OwnedFd, MapInfo), ReadMapsFailed> {
    let not_ours = |path, found: &str| ReadMapsFailed::NotOurs { path, found: found.to_owned() };
    let fd = match syscall::open_pin(&path) {
        Ok(Some(fd)) => fd,
        Ok(None) => return Err(ReadMapsFailed::NotPinned { path }),
        Err(_) if path.is_dir() => return Err(not_ours(path, "a directory")),
        Err(source) => return Err(ReadMapsFailed::NotOpened { path, source }),
    };
    let not_read = |source| ReadMapsFailed::NotRead { map: name, source };
    match object(fd.as_fd()).map_err(not_read)? {
        Object::Map => {}
        other => return Err(not_ours(path, other.name())),
    }
    let info = syscall::map_info(fd.as_fd()).map_err(not_read)?;
    let (key, value, entries) = (info.key_size, info.value_size, info.max_entries);
    if (key as usize, value as usize) != sizes {
        let found = format!("a map with keys of {key} and values of {value} bytes");
        return Err(not_ours(path, &found));
    }
    if type_of(name).is_some_and(|kind| kind != info.kind) {
        let kind = MapShape::of(&info).r#type;
        return Err(not_ours(path, &format!("a map of the type {kind}")));
    }
    if fixed_size(name).is_some_and(|size| size != entries) {
        return Err(not_ours(path, &format!("a map with {entries} entries")));
    }
    Ok((fd, info))
}

/// So many entries are read at once.
const BATCH: u32 = 4096;

/// A hash map gives whole buckets; less room than this is never asked for.
const BUCKET: u32 = 64;

impl<K: Plain, V: Plain> Table<K, V> {
    /// Opens `<dir>/<name>`.
    pub(super) fn open(dir: &Path, name: &'static str) -> Result<Self, ReadMapsFailed> {
        Self::open_kind(dir.join(name), name, false)
    }

    /// Opens a map that has a value for each CPU.
    pub(super) fn open_per_cpu(dir: &Path, name: &'static str) -> Result<Self, ReadMapsFailed> {
        Self::open_kind(dir.join(name), name, true)
    }

    fn open_kind(path: PathBuf, name: &'static str, per_cpu: bool) -> Result<Self, ReadMapsFailed> {
        let (fd, info) = open_map(path, name, (size_of::<K>(), size_of::<V>()))?;
        let batches = AtomicBool::new(true);
        Ok(Self { fd, name, info, per_cpu, batches, types: PhantomData })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn size(&self) -> u32 {
        self.info.max_entries
    }

    pub(super) fn shape(&self) -> MapShape {
        MapShape::of(&self.info)
    }

    fn not_read(&self, source: io::Error) -> ReadMapsFailed {
        ReadMapsFailed::NotRead { map: self.name, source }
    }

    fn not_written(&self, source: io::Error) -> WriteMapFailed {
        match (source.raw_os_error(), flag_of(self.name)) {
            (Some(libc::E2BIG | libc::ENOSPC), Some(flag)) => {
                WriteMapFailed::Full { map: self.name, size: self.size(), flag }
            }
            _ => WriteMapFailed::Refused { map: self.name, source },
        }
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, ReadMapsFailed> {
        let mut value = V::default();
        let found = syscall::lookup(self.fd.as_fd(), bytes(key), bytes_mut(&mut value));
        Ok(found.map_err(|source| self.not_read(source))?.then_some(value))
    }

    pub(super) fn put(&self, key: &K, value: &V) -> Result<(), WriteMapFailed> {
        if self.per_cpu {
            return self.put_per_cpu(key, &vec![*value; possible_cpus()]);
        }
        let written = syscall::update(self.fd.as_fd(), bytes(key), bytes(value));
        written.map_err(|source| self.not_written(source))
    }

    /// Writes many entries of a map that is not per CPU, with one call where the kernel takes them
    /// so (5.6). After a failure some are written.
    pub(super) fn put_all(&self, keys: &[K], values: &[V]) -> Result<(), WriteMapFailed> {
        debug_assert!(keys.len() == values.len() && !self.per_cpu);
        if keys.len() > 1 && self.batches.load(Ordering::Relaxed) {
            match syscall::update_batch(self.fd.as_fd(), keys, values) {
                // The map or the kernel knows no batches.
                Err(error) if is_unsupported(&error) => {
                    self.batches.store(false, Ordering::Relaxed);
                }
                written => return written.map_err(|source| self.not_written(source)),
            }
        }
        keys.iter().zip(values).try_for_each(|(key, value)| self.put(key, value))
    }

    /// Whether the key was there.
    pub(super) fn delete(&self, key: &K) -> Result<bool, WriteMapFailed> {
        syscall::delete(self.fd.as_fd(), bytes(key)).map_err(|source| self.not_written(source))
    }

    /// All keys. Entries that come or go meanwhile may be missed or seen.
    pub(super) fn keys(&self) -> Result<Vec<K>, ReadMapsFailed> {
        let mut keys = Vec::new();
        let mut key = K::default();
        let mut more = syscall::next_key(self.fd.as_fd(), None, bytes_mut(&mut key));
        while more.map_err(|source| self.not_read(source))? {
            keys.push(key);
            // A map whose keys are removed while they are read may start over: never without end.
            if keys.len() > self.size() as usize {
                break;
            }
            let last = key;
            more = syscall::next_key(self.fd.as_fd(), Some(bytes(&last)), bytes_mut(&mut key));
        }
        Ok(keys)
    }

    /// All entries. Those that come or go meanwhile may be missed or seen.
    pub(super) fn entries(&self) -> Result<Vec<(K, V)>, ReadMapsFailed> {
        match self.batches(BATCH) {
            Ok(entries) => Ok(entries),
            // Unknown to this kernel, or to this kind of map.
            Err(_) => self.entries_one_by_one(),
        }
    }

    /// How many entries there are. None is kept: there may be very many.
    pub(super) fn count(&self) -> Result<u32, ReadMapsFailed> {
        match self.fold_batches(BATCH, &|count: &mut u32, keys, _| *count += keys.len() as u32) {
            Ok(count) => Ok(count),
            Err(_) => Ok(self.keys()?.len() as u32),
        }
    }

    fn entries_one_by_one(&self) -> Result<Vec<(K, V)>, ReadMapsFailed> {
        let mut entries = Vec::new();
        for key in self.keys()? {
            if let Some(value) = self.get(&key)? {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }

    fn batches(&self, room: u32) -> io::Result<Vec<(K, V)>> {
        self.fold_batches(room, &|entries: &mut Vec<(K, V)>, keys, values| {
            entries.extend(keys.iter().copied().zip(values.iter().copied()));
        })
    }

    /// Reads some entries after the other, and lets `take` make something of them.
    fn fold_batches<T: Default>(
        &self,
        room: u32,
        take: &impl Fn(&mut T, &[K], &[V]),
    ) -> io::Result<T> {
        let (mut keys, mut values) =
            (vec![K::default(); room as usize], vec![V::default(); room as usize]);
        let mut taken = T::default();
        let mut cursor = syscall::Cursor::default();
        let (mut left, mut first) = (self.size(), true);
        while left > 0 {
            let wanted_now = room.min(left.max(BUCKET)) as usize;
            let batch = syscall::lookup_batch(
                self.fd.as_fd(),
                &mut cursor,
                std::mem::take(&mut first),
                &mut keys[..wanted_now],
                &mut values[..wanted_now],
            );
            let batch = match batch {
                // One bucket alone holds more than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < self.size() => {
                    return self.fold_batches(room.saturating_mul(4), take);
                }
                batch => batch?,
            };
            let count = batch.count as usize;
            take(&mut taken, &keys[..count], &values[..count]);
            left = left.saturating_sub(batch.count);
            if batch.last || batch.count == 0 {
                break;
            }
        }
        Ok(taken)
    }

    /// Writes the values of each CPU.
    pub(super) fn put_per_cpu(&self, key: &K, values: &[V]) -> Result<(), WriteMapFailed> {
        let stride = size_of::<V>().next_multiple_of(8);
        let mut all = vec![0; stride * possible_cpus()];
        for (one, value) in all.chunks_exact_mut(stride).zip(values) {
            one[..size_of::<V>()].copy_from_slice(bytes(value));
        }
        let written = syscall::update(self.fd.as_fd(), bytes(key), &all);
        written.map_err(|source| self.not_written(source))
    }

    /// The values of each CPU.
    pub(super) fn get_per_cpu(&self, key: &K) -> Result<Vec<V>, ReadMapsFailed> {
        let stride = size_of::<V>().next_multiple_of(8);
        let mut all = vec![0; stride * possible_cpus()];
        syscall::lookup(self.fd.as_fd(), bytes(key), &mut all)
            .map_err(|source| self.not_read(source))?;
        let values = all.chunks_exact(stride).map(|one| {
            let mut value = V::default();
            bytes_mut(&mut value).copy_from_slice(&one[..size_of::<V>()]);
            value
        });
        Ok(values.collect())
    }
}

impl<V: Plain> Table<u32, V> {
    /// Shows `each` all values of an array with their places, some thousands at a time.
    pub(super) fn visit(&self, mut each: impl FnMut(u32, V)) -> Result<(), ReadMapsFailed> {
        self.visit_first(self.size(), &mut each)
    }

    /// The same of the first `count`.
    pub(super) fn visit_first(
        &self,
        count: u32,
        each: &mut impl FnMut(u32, V),
    ) -> Result<(), ReadMapsFailed> {
        let room = BATCH.min(count.max(1)) as usize;
        let (mut keys, mut values) = (vec![0_u32; room], vec![V::default(); room]);
        let mut cursor = syscall::Cursor::default();
        let mut done = 0;
        while done < count {
            let (fd, room) = (self.fd.as_fd(), room.min((count - done) as usize));
            let (keys_to, values_to) = (&mut keys[..room], &mut values[..room]);
            let batch = syscall::lookup_batch(fd, &mut cursor, done == 0, keys_to, values_to);
            match batch {
                Ok(batch) => {
                    let found = batch.count as usize;
                    keys.iter().zip(&values).take(found).for_each(|(k, v)| each(*k, *v));
                    done += batch.count;
                    if batch.last || batch.count == 0 {
                        break;
                    }
                }
                // Unknown to this kernel.
                Err(error) if done == 0 && is_unsupported(&error) => {
                    for index in 0..count {
                        each(index, self.get(&index)?.unwrap_or_default());
                    }
                    break;
                }
                Err(error) => return Err(self.not_read(error)),
            }
        }
        Ok(())
    }
}

/// How many CPUs are at work. Many more may be possible, as on guests that could be given some.
pub(super) fn online_cpus() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    listed(&text).max(1)
}

/// How many numbers there are in a list of ranges as `0-3,8`.
fn listed(text: &str) -> usize {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((number(last)? + 1).saturating_sub(number(first)?))
    };
    text.split(',').filter_map(count).sum()
}

/// How many CPUs the kernel keeps per-CPU values for: the highest possible one and all below it.
pub(super) fn possible_cpus() -> usize {
    static COUNT: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *COUNT.get_or_init(|| {
        let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
        let last = text.trim().rsplit([',', '-']).next().and_then(|n| n.parse::<usize>().ok());
        last.map_or(1, |last| last + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_in_ranges() {
        assert_eq!(["0", "0-1\n", "0-3,8,10-11", "", "x"].map(listed), [1, 2, 7, 0, 0]);
    }
}
