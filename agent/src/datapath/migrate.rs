//! Takes over the data plane of a build with other map layouts, newer or older.
//!
//! The new set of maps is made beside the old one and filled from it. The socket hooks' links move
//! to the new set, where they are given this build's programs as at any start. Packets are seen by
//! this build's programs before the old ones at each interface, which leave them to those until all
//! are attached; then all begin at once, by one number in a map. What they do not know of
//! connections that are open, the old ones behind them do, until that is carried over too and the
//! old set goes.
//! Who dies after all began together left both sets at work, in a known order: whoever comes next
//! ends that takeover, and does his own, if there is one to do, from its beginning.
//! Guarantees: no program sees a map that is not filled; what the old programs remember while the
//! work goes on is carried over at its end. A crash at any point is recovered at the next start, of
//! this build or of the other: a set without the description of its layouts is not whole and is
//! made anew, one with it is whole.
//! What cannot be converted is lost, with a line. Counters start at zero.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_ebpf_abi::{Flow, FlowKey, map, takeover};
use nix::libc;

use super::copy::{Carried, Pinned, copy};
use super::layouts::Layouts;
use super::pins::Pins;
use super::programs::Programs;
use super::table::{ReadMapsFailed, Table, WriteMapFailed};
use super::{mark_pods, resize};

/// Maps that only the agent writes. What follows from SERVICES is made anew.
const WRITTEN: [&str; 6] =
    [map::EDITION, map::BACKENDS, map::SLOTS, map::SERVICES, map::PODS, map::ROUTES];

/// Maps that the programs write all the time, but for FLOWS.
const REMEMBERED: [&str; 3] = [map::PEERS, map::REVERSE, map::AFFINITY];

/// Maps that packet programs write.
const SEEN: [&str; 2] = [map::FLOWS, map::AFFINITY];

/// Longer than a program runs.
const PROGRAM_RUN: Duration = Duration::from_millis(2);

/// The maps of a build that are whole, with the description of their layouts.
struct MapSet<'a> {
    pins: &'a Pins,
    layouts: Layouts,
}

impl<'a> MapSet<'a> {
    fn pinned(pins: &'a Pins) -> Option<Self> {
        Some(Self { pins, layouts: Layouts::pinned(&pins.layouts)? })
    }

    /// The set, and what its TAKEOVER holds, if its packet programs ever began. Nobody knows when
    /// they did where somebody took that pin away.
    fn begun(pins: &'a Pins) -> Result<Option<(Option<u32>, Self)>, MigrateFailed> {
        let Some(set) = Self::pinned(pins) else { return Ok(None) };
        let value = match Table::<u32, u32>::open(&pins.maps, map::TAKEOVER) {
            Err(ReadMapsFailed::NotPinned { .. }) => None,
            takeover => takeover?.get(&0)?,
        };
        Ok((value != Some(takeover::WAITS)).then_some((value, set)))
    }

    /// The map that its programs use.
    fn in_use(&self, map: &str) -> Pinned<'_> {
        Pinned { path: resize::in_use(self.pins, map), layouts: &self.layouts }
    }
}

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
    /// Sets of other versions: at most one of them, or the own, has programs that began.
    others: Vec<Pins>,
    carried: Carried,
}

impl Migration {
    /// Looks for sets of other versions; ends a takeover that was broken off when its programs had
    /// begun; drops an own set that was never whole.
    pub(super) fn begin(bpffs: &Path, own: &Pins) -> Result<Self, MigrateFailed> {
        let others = Pins::of_other_versions(bpffs).map_err(at(bpffs))?;
        let mut migration = Self { own: own.clone(), others, carried: Carried::default() };
        migration.end_what_began()?;
        if migration.is_to_be_filled() {
            // Of a set that was removed half way, programs may still run, behind another's.
            for path in paths_in(&own.links)?.into_iter().chain(paths_in(&own.maps)?) {
                std::fs::remove_file(&path).map_err(at(&path))?;
            }
        }
        Ok(migration)
    }

    fn is_to_be_filled(&self) -> bool {
        !self.others.is_empty() && !self.own.layouts.exists()
    }

    /// Of several sets whose programs began, the others come behind the first one: what they alone
    /// know becomes the first one's, and they go. Nobody is left to whom the first one could leave
    /// packets.
    fn end_what_began(&mut self) -> Result<(), MigrateFailed> {
        let mut begun = Vec::new();
        for pins in self.others.iter().chain([&self.own]) {
            begun.extend(MapSet::begun(pins)?);
        }
        begun.sort_by_key(|(value, _)| value.map(takeover::generation));
        let Some((value, first)) = begun.pop() else { return Ok(()) };
        let value = value.unwrap_or(takeover::DONE);
        if takeover::stage(value) != takeover::DONE {
            // Those who use the first set see everything first: what it has is the truth.
            let carry_missing = || {
                begun.iter().try_for_each(|(_, from)| {
                    SEEN.iter()
                        .try_for_each(|map| carry(from, &first.in_use(map), map, None).map(drop))
                })
            };
            carry_missing()?;
            let takeover: Table<u32, u32> = Table::open(&first.pins.maps, map::TAKEOVER)?;
            let done = takeover::value(takeover::generation(value), takeover::DONE);
            takeover.put(&0, &done)?;
            std::thread::sleep(PROGRAM_RUN);
            carry_missing()?;
        }
        let behind: Vec<Pins> = begun.iter().map(|(_, set)| set.pins.clone()).collect();
        behind.iter().try_for_each(remove)?;
        let first = first.pins.directory.clone();
        self.others.retain(|other| behind.iter().all(|gone| gone.directory != other.directory));
        // Those who wait had the socket hooks last: what they remember counts before the first's.
        self.others.sort_by_key(|other| other.directory == first);
        self.own.make().map_err(at(&self.own.directory))
    }

    /// Fills this build's maps, which exist, before any program uses them, and moves the links'
    /// pins to them. True if its packet programs wait.
    pub(super) fn take_over(&mut self, programs: &Programs) -> Result<bool, MigrateFailed> {
        let takeover: Table<u32, u32> = Table::open(&self.own.maps, map::TAKEOVER)?;
        if self.is_to_be_filled() {
            let written = self.carry_all(&WRITTEN)?;
            let remembered = self.carry_all(&REMEMBERED)?;
            let from: Vec<&Path> = self.others.iter().map(|set| &*set.directory).collect();
            tracing::info!(?from, written, remembered, "entries of other builds are carried over");
            // The old programs mark pods in the old map to the last moment.
            mark_pods::<MigrateFailed>(&self.own.maps)?;
            takeover.put(&0, &takeover::WAITS)?;
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
        Ok(takeover.get(&0)? == Some(takeover::WAITS))
    }

    /// Ends the takeover: this build's programs run, and nothing uses the other sets any more.
    pub(super) fn finish(mut self) -> Result<(), MigrateFailed> {
        self.carry_all(&REMEMBERED)?;
        let takeover: Table<u32, u32> = Table::open(&self.own.maps, map::TAKEOVER)?;
        if takeover.get(&0)? == Some(takeover::WAITS) {
            // Nobody reads or writes ours yet. An agent that died here left some.
            let flows: Table<FlowKey, Flow> = Table::open(&self.own.maps, map::FLOWS)?;
            for key in flows.keys()? {
                flows.delete(&key)?;
            }
            self.carry_flows()?;
            let mut generation = 0;
            for other in &self.others {
                if let Some((value, _)) = MapSet::begun(other)? {
                    generation = generation.max(value.map_or(0, takeover::generation) + 1);
                }
            }
            takeover.put(&0, &takeover::value(generation, takeover::FOLLOWED))?;
            // What the old programs were at when that was written.
            std::thread::sleep(PROGRAM_RUN);
            self.carry_flows()?;
            self.carry_all(&REMEMBERED)?;
            takeover.put(&0, &takeover::value(generation, takeover::DONE))?;
        }
        self.others.iter().try_for_each(remove)
    }

    /// From those that ever saw a packet: who died while he waited has old copies of our own, in
    /// which what ended since is open.
    fn carry_flows(&mut self) -> Result<(), MigrateFailed> {
        let Self { own, others, carried } = self;
        for other in others {
            if let Some((_, from)) = MapSet::begun(other)? {
                carry_latest(&from, own, map::FLOWS, carried)?;
            }
        }
        Ok(())
    }

    /// Says how many entries are carried over.
    fn carry_all(&mut self, maps: &[&'static str]) -> Result<u32, MigrateFailed> {
        let Self { own, others, carried } = self;
        let mut copied = 0;
        for from in others.iter().filter_map(MapSet::pinned) {
            for map in maps {
                copied += carry_latest(&from, own, map, carried)?;
            }
        }
        Ok(copied)
    }
}

/// To this build's map, which nobody uses yet, or which packet programs of two builds use in turn.
fn carry_latest(
    from: &MapSet<'_>,
    own: &Pins,
    map: &'static str,
    carried: &mut Carried,
) -> Result<u32, MigrateFailed> {
    // Not the one that is set aside where it gets another size.
    let to = Pinned { path: own.maps.join(map), layouts: &Layouts::own() };
    carry(from, &to, map, Some(carried))
}

fn carry(
    from: &MapSet<'_>,
    to: &Pinned<'_>,
    map: &'static str,
    mut carried: Option<&mut Carried>,
) -> Result<u32, MigrateFailed> {
    let directory = || from.pins.directory.clone();
    let from_map = from.in_use(map);
    let copied = copy(&from_map, to, map, carried.as_deref_mut()).map_err(|source| match source
        .raw_os_error()
    {
        Some(libc::E2BIG | libc::ENOSPC) => MigrateFailed::DoesNotFit { map, from: directory() },
        _ => MigrateFailed::Copy { map, from: directory(), source },
    })?;
    if copied.is_none() && carried.is_none_or(|carried| carried.is_first_loss(&from_map.path)) {
        let from = from.pins.directory.display();
        tracing::warn!("map {map} of {from} cannot be converted: its entries are lost");
    }
    Ok(copied.unwrap_or(0))
}

/// The description goes first: without it nobody takes the set for whole.
fn remove(set: &Pins) -> Result<(), MigrateFailed> {
    match std::fs::remove_file(&set.layouts) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::fs::remove_dir_all(&set.directory),
    }
    .map_err(at(&set.directory))?;
    tracing::info!("the data plane at {} is gone", set.directory.display());
    Ok(())
}

/// Nothing where a set was removed or made half way.
fn paths_in(directory: &Path) -> Result<Vec<PathBuf>, MigrateFailed> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(directory))?,
    };
    entries.map(|entry| Ok(entry.map_err(at(directory))?.path())).collect()
}
