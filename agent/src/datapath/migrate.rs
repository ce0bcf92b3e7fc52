//! Takes over the data plane of a build with other map layouts, newer or older.
//!
//! The new set of maps is made beside the old one and filled from it. The socket hooks' links move
//! to the new set, where they are given this build's programs as at any start. Packets are seen by
//! this build's programs before the old ones at each interface, which leave them to those until all
//! are attached; then all begin at once, by one number in a map. What they do not know of
//! connections that are open, the old ones behind them do, until that is carried over too and the
//! old set goes.
//! Guarantees: no program sees a map that is not filled; what the old programs remember while the
//! work goes on is carried over at its end. A crash at any point is recovered at the next start, of
//! this build or of the other: a set without the description of its layouts was never whole and is
//! made anew, one with it is whole.
//! What cannot be converted starts empty, with one line. Counters start at zero.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_ebpf_abi::{Affinity, Flow, FlowKey, Peer, Plain, flow_ended, map, takeover};
use nix::libc;

use super::layouts::{Conversion, Layouts};
use super::pins::Pins;
use super::programs::Programs;
use super::table::{ReadMapsFailed, Table, WriteMapFailed, bytes_mut, is_unsupported};
use super::{mark_pods, resize, syscall};

/// Maps that only the agent writes. What follows from SERVICES is made anew.
const WRITTEN: [&str; 6] =
    [map::EDITION, map::BACKENDS, map::SLOTS, map::SERVICES, map::PODS, map::ROUTES];

/// Maps that the programs write all the time, but for FLOWS.
const REMEMBERED: [&str; 3] = [map::PEERS, map::REVERSE, map::AFFINITY];

/// Longer than a program runs.
const PROGRAM_RUN: Duration = Duration::from_millis(2);

/// So many entries are read at once.
const BATCH: u32 = 4096;

/// The data plane of another build could not be taken over. It goes on as it was.
#[derive(Debug, thiserror::Error)]
pub enum MigrateFailed {
    #[error("{}: {source}", path.display())]
    Pins { path: PathBuf, source: io::Error },
    #[error("carrying map {map} over from {} failed: {source}", from.display())]
    Copy { map: &'static str, from: PathBuf, source: io::Error },
    #[error("map {map} does not hold what that in {} holds: give it a larger --map-size",
        from.display())]
    DoesNotFit { map: &'static str, from: PathBuf },
    #[error(transparent)]
    Read(#[from] ReadMapsFailed),
    #[error(transparent)]
    Write(#[from] WriteMapFailed),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> MigrateFailed {
    |source| MigrateFailed::Pins { path: path.to_path_buf(), source }
}

/// A takeover that has begun.
#[derive(Debug)]
pub(super) struct Migration {
    own: Pins,
    /// Sets of other versions.
    others: Vec<Pins>,
    /// See [`Peers`].
    peers: RefCell<HashMap<Vec<u8>, Vec<u8>>>,
}

impl Migration {
    /// Looks for sets of other versions; drops an own one that was never whole.
    pub(super) fn begin(bpffs: &Path, own: &Pins) -> Result<Self, MigrateFailed> {
        let others = Pins::of_other_versions(bpffs).map_err(at(bpffs))?;
        let migration = Self { own: own.clone(), others, peers: RefCell::default() };
        if migration.is_to_be_filled() {
            for path in paths_in(&own.maps)? {
                std::fs::remove_file(&path).map_err(at(&path))?;
            }
        }
        Ok(migration)
    }

    fn is_to_be_filled(&self) -> bool {
        !self.others.is_empty() && !self.own.layouts.exists()
    }

    /// Fills this build's maps, which exist, before any program uses them, and moves the links'
    /// pins to them. True if the set was filled now: its packet programs wait.
    pub(super) fn take_over(&self, programs: &Programs) -> Result<bool, MigrateFailed> {
        let anew = self.is_to_be_filled();
        if anew {
            for from in &self.others {
                let written = self.carry(from, &WRITTEN)?;
                let remembered = self.carry(from, &REMEMBERED)?;
                let from = from.directory.display();
                tracing::info!(written, remembered, "entries of {from} are carried over");
            }
            // The old programs mark pods in the old map to the last moment.
            mark_pods::<MigrateFailed>(&self.own.maps)?;
            Table::open(&self.own.maps, map::TAKEOVER)?.put(&0_u32, &takeover::WAITS)?;
        }
        Layouts::own().pin(&self.own.layouts).map_err(at(&self.own.layouts))?;
        for from in &self.others {
            for path in paths_in(&from.links)? {
                // `connect4`, or `from_pod-7` at interface 7. A program that this build does not
                // have goes with the other set.
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let program = name.split('-').next().unwrap_or_default();
                // Links of packet programs, which have an interface, stay until the end.
                let stays = program.len() < name.len();
                if programs.has(program) && !stays {
                    std::fs::rename(&path, self.own.links.join(&*name)).map_err(at(&path))?;
                }
            }
        }
        Ok(anew)
    }

    /// Ends the takeover: this build's programs run, and nothing uses the other sets any more.
    pub(super) fn finish(self) -> Result<(), MigrateFailed> {
        self.carry_all(&REMEMBERED)?;
        let takeover: Table<u32, u32> = Table::open(&self.own.maps, map::TAKEOVER)?;
        if takeover.get(&0)? == Some(takeover::WAITS) {
            // Nobody reads or writes ours yet. An agent that died here left some.
            let flows: Table<FlowKey, Flow> = Table::open(&self.own.maps, map::FLOWS)?;
            for key in flows.keys()? {
                flows.delete(&key)?;
            }
            self.carry_flows()?;
            takeover.put(&0, &takeover::FOLLOWED)?;
            // What the old programs were at when that was written.
            std::thread::sleep(PROGRAM_RUN);
        }
        self.carry_flows()?;
        self.carry_all(&REMEMBERED)?;
        takeover.put(&0, &takeover::DONE)?;
        for other in &self.others {
            std::fs::remove_dir_all(&other.directory).map_err(at(&other.directory))?;
            tracing::info!("the data plane at {} is gone", other.directory.display());
        }
        Ok(())
    }

    /// From those that ever saw a packet: who died while he waited has old copies of our own, in
    /// which what ended since is open.
    fn carry_flows(&self) -> Result<(), MigrateFailed> {
        for other in &self.others {
            // A set that was removed half way has none.
            let takeover = Table::<u32, u32>::open(&other.maps, map::TAKEOVER);
            let waits = takeover.is_ok_and(|map| matches!(map.get(&0), Ok(Some(takeover::WAITS))));
            if !waits {
                self.carry(other, &[map::FLOWS])?;
            }
        }
        Ok(())
    }

    fn carry_all(&self, maps: &[&'static str]) -> Result<(), MigrateFailed> {
        self.others.iter().try_for_each(|other| self.carry(other, maps).map(drop))
    }

    /// Carries entries over and says how many.
    fn carry(&self, from: &Pins, maps: &[&'static str]) -> Result<u32, MigrateFailed> {
        let Some(theirs) = Layouts::pinned(&from.layouts) else { return Ok(0) };
        let mut copied = 0;
        for map in maps {
            let done = self.plan(from, &theirs, map).and_then(|copy| match copy {
                Some(copy) => copy.run(),
                None => Ok(0),
            });
            let from = || from.directory.clone();
            copied += done.map_err(|source| match source.raw_os_error() {
                Some(libc::E2BIG | libc::ENOSPC) => MigrateFailed::DoesNotFit { map, from: from() },
                _ => MigrateFailed::Copy { map, from: from(), source },
            })?;
        }
        Ok(copied)
    }
    /// `None` if there is nothing to copy, or nobody knows how.
    fn plan(&self, from: &Pins, theirs: &Layouts, name: &str) -> io::Result<Option<Copy<'_>>> {
        let old = syscall::open_pin(&resize::in_use(from, name))?;
        let new = syscall::open_pin(&self.own.maps.join(name))?;
        let (Some(old), Some(new)) = (old, new) else { return Ok(None) };
        let (shape, ours) = (syscall::map_shape(old.as_fd())?, syscall::map_shape(new.as_fd())?);
        let own = Layouts::own();
        let key = theirs.conversion(&own, name, "key", (shape.0, ours.0));
        let value = theirs.conversion(&own, name, "value", (shape.1, ours.1));
        let Some((key, value)) = key.zip(value) else {
            let from = from.directory.display();
            tracing::warn!("map {name} of {from} cannot be converted: it starts empty");
            return Ok(None);
        };
        let is_array = [map::EDITION, map::BACKENDS, map::SLOTS, map::PEERS].contains(&name);
        let last = ours.2.saturating_sub(1);
        let peers = (name == map::PEERS).then_some(Peers { last, carried: &self.peers });
        Ok(Some(Copy { old, new, shape, key, value, is_array, wins: Wins::of(name), peers }))
    }
}

/// Nothing where a set was removed or made half way.
fn paths_in(directory: &Path) -> Result<Vec<PathBuf>, MigrateFailed> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(directory))?,
    };
    entries.map(|entry| Ok(entry.map_err(at(directory))?.path())).collect()
}

/// Which of two entries with one key stays.
#[derive(Clone, Copy)]
enum Wins {
    Ours,
    /// The second if that is newer than the first.
    Newer(fn(&[u8], &[u8]) -> bool),
}

impl Wins {
    fn of(map: &str) -> Self {
        match map {
            map::AFFINITY => Self::Newer(|ours, theirs| {
                let last_used = |value| value_of::<Affinity>(value).last_used_ns;
                last_used(theirs) > last_used(ours)
            }),
            map::FLOWS => Self::Newer(|ours, theirs| is_newer(&value_of(theirs), &value_of(ours))),
            _ => Self::Ours,
        }
    }
}

/// One map and the way its entries go.
struct Copy<'a> {
    old: OwnedFd,
    new: OwnedFd,
    /// Of a key and a value of the old map in bytes, and how many entries it has room for.
    shape: (u32, u32, u32),
    key: Conversion,
    value: Conversion,
    /// An array has all its entries from the start.
    is_array: bool,
    wins: Wins,
    peers: Option<Peers<'a>>,
}

/// PEERS is an array, in which a socket's place hangs on the size.
struct Peers<'a> {
    /// The last place of ours.
    last: u32,
    /// What was carried over to each place.
    carried: &'a RefCell<HashMap<Vec<u8>, Vec<u8>>>,
}

impl Copy<'_> {
    /// Entries that come or go meanwhile may be missed.
    fn run(&self) -> io::Result<u32> {
        match self.in_batches(BATCH) {
            // Unknown to this kernel, or to this kind of map.
            Err(error) if is_unsupported(&error) => self.one_by_one(),
            done => done,
        }
    }

    fn in_batches(&self, room: u32) -> io::Result<u32> {
        let (key, value) = (self.shape.0 as usize, self.shape.1 as usize);
        let (mut keys, mut values) = (vec![0; room as usize * key], vec![0; room as usize * value]);
        let mut cursor = syscall::Cursor::default();
        let (mut first, mut copied, mut seen) = (true, 0, 0);
        // A map that is written to meanwhile may have a few more than its size.
        while seen <= self.shape.2.saturating_mul(2) {
            let fd = self.old.as_fd();
            let batch = syscall::lookup_batch_bytes(fd, &mut cursor, first, &mut keys, &mut values);
            let batch = match batch {
                // One bucket alone holds more than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < self.shape.2 => {
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

    fn one_by_one(&self) -> io::Result<u32> {
        let (mut key, mut value) = (vec![0; self.shape.0 as usize], vec![0; self.shape.1 as usize]);
        let (mut copied, mut seen) = (0, 0);
        let mut more = syscall::next_key(self.old.as_fd(), None, &mut key)?;
        while more && seen <= self.shape.2.saturating_mul(2) {
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
    fn put(&self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        if self.is_array && value.iter().all(|byte| *byte == 0) {
            return Ok(false);
        }
        let (key, value) = (self.key.convert(key), self.value.convert(value));
        if let Some(peers) = &self.peers {
            return self.put_peer(peers, value);
        }
        if self.is_array {
            let ours = self.ours(&key)?;
            let is_free = ours.is_none_or(|ours| ours.iter().all(|byte| *byte == 0));
            return if is_free { self.update(&key, &value) } else { Ok(false) };
        }
        match syscall::insert(self.new.as_fd(), &key, &value) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => match self.wins {
                Wins::Newer(is_newer)
                    if self.ours(&key)?.is_some_and(|ours| is_newer(&ours, &value)) =>
                {
                    self.update(&key, &value)
                }
                _ => Ok(false),
            },
            done => done.map(|()| true),
        }
    }

    /// Cookies of sockets count up: of two that share a place the newer one has it. Of one socket's
    /// entries theirs stays only where ours is still what was carried over: theirs changed since.
    fn put_peer(&self, peers: &Peers<'_>, value: Vec<u8>) -> io::Result<bool> {
        let theirs: Peer = value_of(&value);
        let key = Peer::place(theirs.cookie, peers.last).to_ne_bytes().to_vec();
        let ours = self.ours(&key)?.unwrap_or_default();
        let our_cookie = if ours.is_empty() { 0 } else { value_of::<Peer>(&ours).cookie };
        let carried = || peers.carried.borrow().get(&key).is_some_and(|carried| *carried == ours);
        if theirs.cookie < our_cookie || (theirs.cookie == our_cookie && !carried()) {
            return Ok(false);
        }
        self.update(&key, &value)?;
        peers.carried.borrow_mut().insert(key, value);
        Ok(true)
    }

    fn ours(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut ours = vec![0; self.value.size()];
        Ok(syscall::lookup(self.new.as_fd(), key, &mut ours)?.then_some(ours))
    }

    fn update(&self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        syscall::update(self.new.as_fd(), key, value).map(|()| true)
    }
}

/// A value of one of this build's maps.
fn value_of<V: Plain>(bytes: &[u8]) -> V {
    let mut value = V::default();
    bytes_mut(&mut value).copy_from_slice(bytes);
    value
}

/// Whether a flow of the old programs began after the one that ours have under the same key: ports
/// are used again. Theirs alone may be over while ours know nothing of it; that is no reason.
fn is_newer(theirs: &Flow, ours: &Flow) -> bool {
    let is_over = |flow: &Flow| flow.ended & !flow_ended::OPENING != 0;
    let is_open = is_over(ours) && !is_over(theirs);
    theirs.last_used > ours.last_used || (theirs.last_used == ours.last_used && is_open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_that_began_after_the_carried_one_takes_its_place() {
        let flow = |last_used, ended| Flow { last_used, ended, ..Flow::default() };
        let closed = flow(7, 3);
        for (theirs, ours, newer) in [
            (flow(7, flow_ended::OPENING), closed, true),
            (flow(7, flow_ended::OPENING), flow(7, 0), false),
            (flow(9, 0), closed, true),
            (flow(7, 0), closed, true),
            (flow(9, 3), closed, true),
            (closed, closed, false),
            (closed, flow(7, 0), false),
            (flow(7, 0), flow(9, 0), false),
            (flow(7, 0), flow(9, 3), false),
        ] {
            assert_eq!(is_newer(&theirs, &ours), newer, "{theirs:?} {ours:?}");
        }
    }
}
