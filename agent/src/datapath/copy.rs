//! Copies a map's entries to another map of the same name: of another build, or of another size.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use bowline_ebpf_abi::{Affinity, Peer, Plain, map};
use nix::libc;

use super::layouts::{Conversion, Layouts};
use super::syscall::{self, MapInfo};
use super::table::{bytes_mut, is_unsupported};

/// So many entries are read at once.
const BATCH: u32 = 4096;

/// A pinned map.
pub(super) struct Pinned<'a> {
    pub(super) path: PathBuf,
    /// Of the build that made it.
    pub(super) layouts: &'a Layouts,
}

/// What was copied before, by fingerprints of maps, keys and values: who changed an entry since can
/// be told from it.
#[derive(Debug, Default)]
pub(super) struct Carried {
    state: RandomState,
    values: HashMap<u64, u64>,
    /// Maps that could not be converted.
    lost: HashSet<PathBuf>,
}

impl Carried {
    /// Whether nobody said yet that this map cannot be converted.
    pub(super) fn is_first_loss(&mut self, map: &Path) -> bool {
        self.lost.insert(map.to_path_buf())
    }

    /// Whether theirs is another than before, and ours is not.
    fn changed(&self, from: &Path, key: &[u8], ours: Option<&[u8]>, theirs: &[u8]) -> bool {
        let before = self.values.get(&self.state.hash_one((from, key))).copied();
        let fingerprint = |value| self.state.hash_one(value);
        before == ours.map(fingerprint) && before != Some(fingerprint(theirs))
    }

    fn remember(&mut self, from: &Path, key: &[u8], value: &[u8]) {
        let key = self.state.hash_one((from, key));
        self.values.insert(key, self.state.hash_one(value));
    }
}

/// Which of two entries with one key stays.
enum Wins<'a> {
    Ours,
    /// That of the client who was there later.
    LastUsed,
    /// Theirs if ours is still what was carried over before.
    Changed(&'a mut Carried),
    /// PEERS is an array, in which a socket's place hangs on the size: the last place of ours.
    Peers(&'a mut Carried, u32),
}

impl<'a> Wins<'a> {
    fn of(map: &str, carried: Option<&'a mut Carried>, last: u32) -> Self {
        match (map, carried) {
            (map::AFFINITY, Some(_)) => Self::LastUsed,
            (map::FLOWS, Some(carried)) => Self::Changed(carried),
            (map::PEERS, Some(carried)) => Self::Peers(carried, last),
            _ => Self::Ours,
        }
    }

    /// Whether theirs takes the place of ours, if there is one.
    fn is_theirs(&self, from: &Path, key: &[u8], ours: Option<&[u8]>, theirs: &[u8]) -> bool {
        let Some(found) = ours else {
            // Also where it was carried over before, and ours let go of it.
            return match self {
                Self::Changed(carried) => carried.changed(from, key, ours, theirs),
                _ => true,
            };
        };
        match self {
            Self::Ours => false,
            Self::LastUsed => {
                let [found, theirs] = [found, theirs].map(value_of::<Affinity>);
                theirs.last_used_ns > found.last_used_ns
            }
            Self::Changed(carried) => carried.changed(from, key, ours, theirs),
            // Cookies of sockets count up: of two that share a place the newer one has it.
            Self::Peers(carried, _) if cookie(theirs) == cookie(found) => {
                carried.changed(from, key, ours, theirs)
            }
            Self::Peers(..) => cookie(theirs) > cookie(found),
        }
    }
}

/// Copies a map's entries and says how many. Entries that come or go meanwhile may be missed.
/// Where both have one, that of `to` stays, or, if what was `carried` before is told, the one that
/// changed last. `None` if the map cannot be converted.
pub(super) fn copy(
    from: &Pinned<'_>,
    to: &Pinned<'_>,
    name: &str,
    carried: Option<&mut Carried>,
) -> io::Result<Option<u32>> {
    let (old, new) = (syscall::open_pin(&from.path)?, syscall::open_pin(&to.path)?);
    let (Some(old), Some(new)) = (old, new) else { return Ok(Some(0)) };
    let (shape, ours) = (syscall::map_info(old.as_fd())?, syscall::map_info(new.as_fd())?);
    let conversion = |role, sizes| from.layouts.conversion(to.layouts, name, role, sizes);
    let key = conversion("key", (shape.key_size, ours.key_size));
    let value = conversion("value", (shape.value_size, ours.value_size));
    let Some((key, value)) = key.zip(value) else { return Ok(None) };
    let is_array = [map::EDITION, map::BACKENDS, map::SLOTS, map::PEERS].contains(&name);
    let wins = Wins::of(name, carried, ours.max_entries.saturating_sub(1));
    Copy { from: &from.path, old, new, shape, key, value, is_array, wins }.run().map(Some)
}

/// One map and the way its entries go.
struct Copy<'a> {
    from: &'a Path,
    old: OwnedFd,
    new: OwnedFd,
    /// Of the old map.
    shape: MapInfo,
    key: Conversion,
    value: Conversion,
    /// An array has all its entries from the start.
    is_array: bool,
    wins: Wins<'a>,
}

impl Copy<'_> {
    fn run(&mut self) -> io::Result<u32> {
        match self.in_batches(BATCH) {
            // Unknown to this kernel, or to this kind of map.
            Err(error) if is_unsupported(&error) => self.one_by_one(),
            done => done,
        }
    }

    fn in_batches(&mut self, room: u32) -> io::Result<u32> {
        let (key, value) = (self.shape.key_size as usize, self.shape.value_size as usize);
        let (mut keys, mut values) = (vec![0; room as usize * key], vec![0; room as usize * value]);
        let mut cursor = syscall::Cursor::default();
        let (mut first, mut copied, mut seen) = (true, 0, 0);
        // A map that is written to meanwhile may have a few more than its size.
        while seen <= self.shape.max_entries.saturating_mul(2) {
            let fd = self.old.as_fd();
            let batch = syscall::lookup_batch_bytes(fd, &mut cursor, first, &mut keys, &mut values);
            let batch = match batch {
                // One bucket alone holds more than there is room for.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOSPC)
                        && room < self.shape.max_entries =>
                {
                    return self.in_batches(room.saturating_mul(4));
                }
                batch => batch?,
            };
            first = false;
            let found = keys.chunks_exact(key).zip(values.chunks_exact(value));
            for (key, value) in found.take(batch.count as usize) {
                copied += u32::from(self.put(key, value)?);
            }
            seen += batch.count;
            if batch.last || batch.count == 0 {
                break;
            }
        }
        Ok(copied)
    }

    fn one_by_one(&mut self) -> io::Result<u32> {
        let (mut key, mut value) =
            (vec![0; self.shape.key_size as usize], vec![0; self.shape.value_size as usize]);
        let (mut copied, mut seen) = (0, 0);
        let mut more = syscall::next_key(self.old.as_fd(), None, &mut key)?;
        while more && seen <= self.shape.max_entries.saturating_mul(2) {
            if syscall::lookup(self.old.as_fd(), &key, &mut value)? {
                copied += u32::from(self.put(&key, &value)?);
            }
            let last = key.clone();
            more = syscall::next_key(self.old.as_fd(), Some(&last), &mut key)?;
            seen += 1;
        }
        Ok(copied)
    }

    /// Whether it was written: not if ours has one that wins, and not an array's that nobody uses.
    fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        if self.is_array && is_free(value) {
            return Ok(false);
        }
        let value = self.value.convert(value);
        let key = match self.wins {
            Wins::Peers(_, last) => Peer::place(cookie(&value), last).to_ne_bytes().to_vec(),
            _ => self.key.convert(key),
        };
        let ours = self.ours(&key)?;
        if !self.wins.is_theirs(self.from, &key, ours.as_deref(), &value) {
            return Ok(false);
        }
        if self.is_array || ours.is_some() {
            syscall::update(self.new.as_fd(), &key, &value)?;
        } else if let Err(error) = syscall::insert(self.new.as_fd(), &key, &value) {
            // One came meanwhile.
            return if error.raw_os_error() == Some(libc::EEXIST) { Ok(false) } else { Err(error) };
        }
        if let Wins::Changed(carried) | Wins::Peers(carried, _) = &mut self.wins {
            carried.remember(self.from, &key, &value);
        }
        Ok(true)
    }

    /// `None` also for an array's that nobody uses.
    fn ours(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut ours = vec![0; self.value.size()];
        let found = syscall::lookup(self.new.as_fd(), key, &mut ours)?;
        Ok((found && !(self.is_array && is_free(&ours))).then_some(ours))
    }
}

fn is_free(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte == 0)
}

fn cookie(peer: &[u8]) -> u64 {
    value_of::<Peer>(peer).cookie
}

/// A value of one of this build's maps.
fn value_of<V: Plain>(bytes: &[u8]) -> V {
    let mut value = V::default();
    bytes_mut(&mut value).copy_from_slice(bytes);
    value
}

#[cfg(test)]
mod tests {
    use bowline_ebpf_abi::{Flow, flow_ended};

    use super::super::table::bytes;
    use super::*;

    #[test]
    fn of_two_flows_the_one_that_changed_since_it_was_carried_stays() {
        let flow = |last_used, ended| Flow { last_used, ended, ..Flow::default() };
        let from = Path::new("theirs");
        let (opening, open, closed) = (flow(7, flow_ended::OPENING), flow(7, 0), flow(7, 3));
        for (before, ours, theirs, is_theirs, what) in [
            (None, None, Some(open), true, "it began since"),
            (Some(open), Some(open), Some(open), false, "nothing happened"),
            (Some(open), Some(open), Some(closed), true, "theirs closed before ours began"),
            (Some(open), Some(closed), Some(open), false, "ours closed"),
            (Some(closed), Some(closed), Some(opening), true, "the port was used again by theirs"),
            (Some(closed), Some(opening), Some(closed), false, "and by ours"),
            (Some(open), None, Some(open), false, "ours forgot it"),
            (None, Some(open), Some(closed), false, "ours began it"),
        ] {
            let mut carried = Carried::default();
            if let Some(before) = before {
                carried.remember(from, b"key", bytes(&before));
            }
            let wins = Wins::Changed(&mut carried);
            let (ours, theirs) = (ours.as_ref().map(bytes), theirs.as_ref().map(bytes).unwrap());
            assert_eq!(wins.is_theirs(from, b"key", ours, theirs), is_theirs, "{what}");
        }
    }
}
