//! How large the maps are, and the agent's flags that say so.
//!
//! Guarantees: a map that can fill up has a name that the flag takes; the error for a size that is
//! none says what to write. Not here: what becomes of entries when a size changes (`resize`).

use bowline_ebpf_abi::{ConnectTimes, Reason, map, size};

use super::table::{online_cpus, possible_cpus};

/// How many entries each map has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    pub services: u32,
    pub slots: u32,
    pub backends: u32,
    /// A power of two.
    pub peers: u32,
    pub reverse: u32,
    pub affinity: u32,
    pub pods: u32,
    pub routes: u32,
    pub flows: u32,
    /// Bytes, unlike all others: a power of two of whole pages.
    pub events: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            services: size::SERVICES,
            slots: size::SLOTS,
            backends: size::BACKENDS,
            peers: peers(online_cpus()),
            reverse: size::REVERSE,
            affinity: size::AFFINITY,
            pods: size::PODS,
            routes: size::ROUTES,
            flows: size::FLOWS,
            events: size::EVENTS,
        }
    }
}

/// The kernel hands cookies to processors in blocks of so many (`lib/cookie.c`), so that sockets
/// made at one time on many processors are spread over as many blocks.
const COOKIES: usize = 4096;

/// Room for two such blocks of each processor, so that none takes the places of another's sockets.
fn peers(processors: usize) -> u32 {
    let blocks = u32::try_from(processors * COOKIES * 2).unwrap_or(1 << 30);
    blocks.next_power_of_two().clamp(size::PEERS, MOST_PEERS)
}

/// Sixty-four megabytes.
const MOST_PEERS: u32 = 1 << 20;

/// A text does not set a map's size.
#[derive(Debug, thiserror::Error)]
pub enum SetMapSizeFailed {
    #[error(
        "{0:?} sets no map's size; say NAME=ENTRIES, NAME being one of {names}",
        names = SIZED.map(|(name, _)| name).join(", ")
    )]
    Unknown(String),
    #[error("{assignment:?}: the size of this map is a power of two, as {default} is")]
    NotAPowerOfTwo { assignment: String, default: u32 },
    #[error("{0:?}: this map has at least a page of {PAGE} bytes")]
    LessThanAPage(String),
}

/// Of the ring buffer, as the kernel maps it.
const PAGE: u32 = 4096;

/// The maps whose sizes can be set, each with the agent's flag for it.
const SIZED: [(&str, &str); 10] = [
    (map::SERVICES, "--map-size SERVICES="),
    (map::SLOTS, "--map-size SLOTS="),
    (map::BACKENDS, "--map-size BACKENDS="),
    (map::PEERS, "--map-size PEERS="),
    (map::REVERSE, "--map-size REVERSE="),
    (map::AFFINITY, "--map-size AFFINITY="),
    (map::PODS, "--map-size PODS="),
    (map::ROUTES, "--map-size ROUTES="),
    (map::FLOWS, "--map-size FLOWS="),
    (map::EVENTS, "--map-size EVENTS="),
];

/// The agent's flag that sets a map's size. Some maps are as large as SERVICES is; those without a
/// flag have a place for each thing that they can hold.
pub(super) fn flag_of(name: &str) -> Option<&'static str> {
    let sets = match name {
        map::SERVICE_LINES | map::ADDRESSES | map::CONNECTIONS | map::SERVICE_COUNTERS => {
            map::SERVICES
        }
        name => name,
    };
    SIZED.iter().find(|(name, _)| *name == sets).map(|(_, flag)| *flag)
}

/// How many entries a map has whose places each stand for something.
pub(super) fn fixed_size(name: &str) -> Option<u32> {
    match name {
        map::COUNTERS => Some(Reason::COUNTERS),
        map::CONNECT_TIMES => Some(ConnectTimes::ENTRIES),
        map::EDITION | map::MONITOR | map::TAKEOVER | map::TOLD => Some(1),
        _ => None,
    }
}

impl MapSizes {
    /// Takes `NAME=ENTRIES`, as in the agent's flag `--map-size`.
    pub fn set(&mut self, assignment: &str) -> Result<(), SetMapSizeFailed> {
        let failed = || SetMapSizeFailed::Unknown(assignment.to_owned());
        let (name, entries) = assignment.split_once('=').ok_or_else(failed)?;
        let size = match name {
            map::SERVICES => &mut self.services,
            map::SLOTS => &mut self.slots,
            map::BACKENDS => &mut self.backends,
            map::PEERS => &mut self.peers,
            map::REVERSE => &mut self.reverse,
            map::AFFINITY => &mut self.affinity,
            map::PODS => &mut self.pods,
            map::ROUTES => &mut self.routes,
            map::FLOWS => &mut self.flows,
            map::EVENTS => &mut self.events,
            _ => return Err(failed()),
        };
        let entries: u32 = entries.parse().ok().filter(|count| *count > 0).ok_or_else(failed)?;
        let default = match name {
            map::PEERS => Some(size::PEERS),
            map::EVENTS => Some(size::EVENTS),
            _ => None,
        };
        if let Some(default) = default.filter(|_| !entries.is_power_of_two()) {
            let assignment = assignment.to_owned();
            return Err(SetMapSizeFailed::NotAPowerOfTwo { assignment, default });
        }
        if name == map::EVENTS && entries < PAGE {
            return Err(SetMapSizeFailed::LessThanAPage(assignment.to_owned()));
        }
        *size = entries;
        Ok(())
    }
}

impl MapSizes {
    /// Twice as many as there are services, so that few of them share a place, in whole pages.
    pub(super) const fn service_lines(&self) -> u32 {
        let pages = self.services.saturating_mul(2) / size::PAGE_LINES;
        if pages == 0 { size::PAGE_LINES } else { pages * size::PAGE_LINES }
    }

    /// How long a row of CONNECTIONS is.
    pub(super) const fn connections_row(&self) -> u32 {
        self.service_lines().saturating_add(self.services)
    }

    /// The size of each map that has one.
    pub(super) fn by_map(&self) -> [(&'static str, u32); 14] {
        [
            (map::SERVICES, self.services),
            (map::SERVICE_LINES, self.service_lines()),
            (map::ADDRESSES, self.services),
            (map::CONNECTIONS, self.connections_row().saturating_mul(possible_cpus() as u32)),
            (map::SERVICE_COUNTERS, self.services),
            (map::SLOTS, self.slots),
            (map::BACKENDS, self.backends),
            (map::PEERS, self.peers),
            (map::REVERSE, self.reverse),
            (map::AFFINITY, self.affinity),
            (map::PODS, self.pods),
            (map::ROUTES, self.routes),
            (map::FLOWS, self.flows),
            (map::EVENTS, self.events),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_with_a_size_has_a_flag_that_sets_it() {
        for (name, flag) in SIZED {
            let mut sizes = MapSizes::default();
            sizes.set(&format!("{name}=8192")).unwrap();
            assert_ne!(sizes, MapSizes::default(), "{name}");
            assert_eq!(flag, format!("--map-size {name}="));
        }
        for (name, _) in MapSizes::default().by_map() {
            assert!(flag_of(name).is_some(), "{name}");
        }
        assert_eq!((flag_of(map::COUNTERS), flag_of("NO_SUCH_MAP")), (None, None));
    }

    #[test]
    fn many_processors_get_more_places_for_sockets() {
        let found = [1, 2, 32, 33, 128, 512].map(peers);
        assert_eq!(found, [1 << 18, 1 << 18, 1 << 18, 1 << 19, 1 << 20, 1 << 20]);
    }

    #[test]
    fn a_wrong_size_is_named_with_what_to_write() {
        let mut sizes = MapSizes::default();
        for (wrong, says) in [
            ("SLOTS", "NAME=ENTRIES, NAME being one of SERVICES, SLOTS, BACKENDS, PEERS"),
            ("SLOTS=0", "\"SLOTS=0\" sets no map's size"),
            ("ADDRESSES=5", "\"ADDRESSES=5\" sets no map's size"),
            ("EVENTS=512", "\"EVENTS=512\": this map has at least a page of 4096 bytes"),
            ("PEERS=1000", "\"PEERS=1000\": the size of this map is a power of two, as 262144 is"),
        ] {
            let error = sizes.set(wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(sizes, MapSizes::default());
    }
}
