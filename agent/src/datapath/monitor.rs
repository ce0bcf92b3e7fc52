//! Listening to what the programs do with packets and calls, as it happens.
//!
//! Guarantees: one listens at a time; the filter is the kernel's, so that nothing else is told;
//! memory is bounded by the map EVENTS, and what found no room in it is counted. Nothing is told
//! any more when the listener is dropped, or soon after it was killed.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{Map, MapData, MapError, RingBuf};
use bowline_ebpf_abi::{
    Address, Direction, Event, MOST_SNAP, Reason, Told, U16Be, WINDOW_NS, Wanted, map, outcome,
};

use super::pins::Pins;
use super::snapshot::monotonic_ns;
use super::table::{ReadMapsFailed, Table, WriteMapFailed, bytes_mut, online_cpus, open_map};
use super::verify::VerifyFailed;

/// So long is told without [`Listener::renew`].
pub const LEASE: Duration = Duration::from_secs(3);

/// Nobody could be listened to.
#[derive(Debug, thiserror::Error)]
pub enum ListenFailed {
    #[error("somebody else listens on this node already: end that `bowline net` first")]
    Busy,
    #[error("{}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the data plane was replaced, by another build or with other map sizes: listen anew")]
    Replaced,
    #[error("who reads this was too slow, so that nothing was told for a while: listen anew")]
    Lapsed,
    #[error("map EVENTS cannot be read: {0}")]
    Events(#[from] MapError),
    #[error(transparent)]
    Read(#[from] ReadMapsFailed),
    #[error(transparent)]
    Write(#[from] WriteMapFailed),
}

/// What to be told. By default everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub only: Option<Became>,
    pub reason: Option<Reason>,
    /// Of either end, also of the backend behind a service: at most two, one a family.
    pub addresses: Vec<IpAddr>,
    /// Calls of this network namespace, by its cookie, in addition to what has these addresses.
    pub netns: Option<u64>,
    pub port: Option<u16>,
    /// The number of the protocol in the IP header.
    pub protocol: Option<u8>,
    /// The number of the service.
    pub service: Option<u32>,
    /// One event in so many.
    pub sample: u32,
    /// At most so many events a second; zero is no bound.
    pub rate: u32,
    /// At these hooks; empty is any.
    pub hooks: Vec<Direction>,
    /// So many bytes of each packet come with its event, at most [`MOST_SNAP`].
    pub snap: u32,
}

/// What became of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    Passed,
    Refused,
}

impl Filter {
    fn wanted(&self) -> Wanted {
        let outcomes = match self.only {
            None => outcome::PASSED | outcome::REFUSED,
            Some(Became::Passed) => outcome::PASSED,
            Some(Became::Refused) => outcome::REFUSED,
        };
        let mut addresses = self.addresses.iter().map(|address| Address::from(*address));
        let mut address = || addresses.next().unwrap_or_default();
        Wanted {
            until_ns: until(),
            netns: self.netns.unwrap_or(0),
            addresses: [address(), address()],
            outcomes,
            reason: self.reason.map_or(0, |reason| reason as u32 + 1),
            service: self.service.map_or(0, |service| service.saturating_add(1)),
            sample: self.sample,
            limit: limit(self.rate, online_cpus() as u64),
            port: U16Be::new(self.port.unwrap_or(0)),
            protocol: self.protocol.unwrap_or(0),
            hooks: self.hooks.iter().fold(0, |bits, hook| bits | 1 << *hook as u8),
            snap: self.snap.min(MOST_SNAP),
            pad: 0,
        }
    }
}

/// What each processor may tell within a window, so that all of them about keep to the rate. At
/// least one: who counts what he is told knows when that is more.
fn limit(rate: u32, processors: u64) -> u32 {
    if rate == 0 {
        return 0;
    }
    let windows = 1_000_000_000 / WINDOW_NS;
    let each = u64::from(rate) / windows / processors.max(1);
    u32::try_from(each.max(1)).unwrap_or(u32::MAX)
}

fn until() -> u64 {
    let lease = u64::try_from(LEASE.as_nanos()).unwrap_or(u64::MAX);
    monotonic_ns().saturating_add(lease)
}

/// Somebody who listens.
pub struct Listener {
    ring: RingBuf<MapData>,
    wanted: Wanted,
    monitor: Table<u32, Wanted>,
    told: Table<u32, Told>,
    /// How many were lost before.
    lost_before: u64,
    /// Where the ring is pinned, and which pin that was.
    pin: (PathBuf, u64),
    /// Held as long as it listens.
    _alone: File,
}

impl Listener {
    /// Begins to listen to the programs whose maps are pinned under this BPF file system.
    pub fn open(bpffs: &Path, filter: &Filter) -> Result<Self, ListenFailed> {
        let maps = Pins::to_read(bpffs).map_err(ReadMapsFailed::from)?.maps;
        let failed = |source| ListenFailed::Open { path: maps.clone(), source };
        let alone = File::open(&maps).map_err(failed)?;
        alone.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => ListenFailed::Busy,
            TryLockError::Error(source) => failed(source),
        })?;
        let path = maps.join(map::EVENTS);
        open_map(path.clone(), map::EVENTS, (0, 0))?;
        let ring = RingBuf::try_from(Map::from_map_data(MapData::from_pin(&path)?)?)?;
        let told = Table::open_per_cpu(&maps, map::TOLD)?;
        let mut listener = Self {
            ring,
            wanted: filter.wanted(),
            monitor: Table::open(&maps, map::MONITOR)?,
            lost_before: 0,
            told,
            pin: (path.clone(), identity(&path).map_err(failed)?),
            _alone: alone,
        };
        // What was told to somebody who did not read it any more.
        while listener.read().is_some() {}
        listener.lost_before = listener.lost_at_all()?;
        listener.renew()?;
        Ok(listener)
    }

    /// Goes on listening for the time of [`LEASE`].
    pub fn renew(&mut self) -> Result<(), ListenFailed> {
        let (path, pinned) = &self.pin;
        if identity(path).ok() != Some(*pinned) {
            return Err(ListenFailed::Replaced);
        }
        self.wanted.until_ns = until();
        Ok(self.monitor.put(&0, &self.wanted)?)
    }

    /// The next event, if one is there, and what of its packet was asked for.
    pub fn read(&mut self) -> Option<(Event, Vec<u8>)> {
        let item = self.ring.next()?;
        let mut event = Event::default();
        let into = bytes_mut(&mut event);
        // Another build's would have another map.
        let length = into.len().min(item.len());
        into[..length].copy_from_slice(&item[..length]);
        Some((event, item[length..].to_vec()))
    }

    /// How many events were wanted and not told, because of the rate or for want of room.
    pub fn lost(&self) -> Result<u64, ReadMapsFailed> {
        Ok(self.lost_at_all()?.saturating_sub(self.lost_before))
    }

    fn lost_at_all(&self) -> Result<u64, ReadMapsFailed> {
        Ok(self.told.get_per_cpu(&0)?.iter().map(|told| told.lost).sum())
    }
}

/// Another map gets another pin.
fn identity(pin: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(pin)?.ino())
}

/// Clears what somebody wanted to be told who does not listen any more: programs look no further
/// then.
pub(super) fn forget_expired(pins: &Pins) -> Result<(), VerifyFailed> {
    let monitor: Table<u32, Wanted> = Table::open(&pins.maps, map::MONITOR)?;
    let wanted = monitor.get(&0)?.unwrap_or_default();
    if wanted.outcomes != 0 && wanted.until_ns < monotonic_ns() {
        monitor.put(&0, &Wanted::default())?;
    }
    Ok(())
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // What fails here ends with the lease.
        let _ = self.monitor.put(&0, &Wanted::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_shared_by_processors_and_windows() {
        assert_eq!(limit(0, 2), 0);
        assert_eq!(limit(10_000, 2), 500);
        assert_eq!(limit(1, 64), 1);
    }

    #[test]
    fn what_is_not_named_is_any() {
        let wanted = Filter::default().wanted();
        let any = Wanted {
            until_ns: wanted.until_ns,
            outcomes: outcome::PASSED | outcome::REFUSED,
            ..Wanted::default()
        };
        assert_eq!(wanted, any);
        let named = Filter {
            only: Some(Became::Refused),
            reason: Some(Reason::LocalPod),
            service: Some(0),
            ..Filter::default()
        };
        let wanted = named.wanted();
        assert_eq!((wanted.outcomes, wanted.reason, wanted.service), (outcome::REFUSED, 1, 1));
    }
}
