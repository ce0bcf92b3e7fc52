//! What only the agent knows of its data plane, in a file for those who look at it: which features
//! it uses, which programs it loaded, and what it could not write.
//!
//! Guarantees: the file is replaced whole, and only when something changed. Losing it loses what
//! is shown, nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::agents_netns::Netns;
use super::features::FeatureRow;
use super::table::WriteMapFailed;

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Condition {
    pub(super) features: Vec<FeatureRow>,
    pub(super) programs: Vec<LoadedProgram>,
    /// By the map that had no room.
    pub(super) full: BTreeMap<String, FullMap>,
    /// Where the agent's network is; builds before did not say.
    #[serde(default)]
    pub(super) netns: Option<Netns>,
}

/// A program that the agent loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LoadedProgram {
    pub(super) name: String,
    /// The kernel's number for it.
    pub(super) number: u32,
    /// The kind of place where it runs.
    pub(super) hook: String,
    /// Its places that are the same for the agent's whole life: a cgroup, the uplink.
    pub(super) places: Vec<String>,
}

/// A map that could not take what it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullMap {
    /// What is full, and the flag that raises it.
    pub message: String,
    /// What found no room: services, pods or routes.
    pub refused: BTreeSet<String>,
}

impl Condition {
    /// What the file says; nothing if there is none or it is not readable.
    pub(super) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// The cgroup whose sockets the programs see.
    pub(super) fn socket_cgroup(&self) -> Option<PathBuf> {
        let mut places = self.programs.iter().flat_map(|program| &program.places);
        places.find_map(|place| place.strip_prefix("cgroup ")).map(PathBuf::from)
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("json.new");
        std::fs::write(&fresh, serde_json::to_vec(self)?)?;
        std::fs::rename(fresh, path)
    }
}

/// Keeps the file in line with what the agent reports.
#[derive(Debug)]
pub(super) struct ConditionFile {
    path: PathBuf,
    condition: Condition,
}

impl ConditionFile {
    /// Replaces what an earlier agent said.
    pub(super) fn start(path: PathBuf, features: Vec<FeatureRow>) -> Self {
        let condition = Condition { features, netns: Netns::own(), ..Condition::default() };
        let file = Self { path, condition };
        file.save();
        file
    }

    pub(super) fn set_programs(&mut self, programs: Vec<LoadedProgram>) {
        if self.condition.programs != programs {
            self.condition.programs = programs;
            self.save();
        }
    }

    /// Notes what found no room the last time that `maps` were written, which may be nothing.
    pub(super) fn note_full<'a>(
        &mut self,
        maps: &[&'static str],
        failures: impl Iterator<Item = (String, &'a WriteMapFailed)>,
    ) {
        let mut full = self.condition.full.clone();
        full.retain(|map, _| !maps.contains(&map.as_str()));
        for (refused, error) in failures {
            let WriteMapFailed::Full { map, .. } = error else { continue };
            let message = error.to_string();
            let entry = full.entry((*map).to_owned());
            let entry = entry.or_insert(FullMap { message, refused: BTreeSet::new() });
            entry.refused.insert(refused);
        }
        if full != self.condition.full {
            self.condition.full = full;
            self.save();
        }
    }

    /// Notes that this found room after all.
    pub(super) fn found_room(&mut self, map: &'static str, name: &str) {
        let Some(full) = self.condition.full.get_mut(map) else { return };
        full.refused.remove(name);
        if full.refused.is_empty() {
            self.condition.full.remove(map);
        }
        self.save();
    }

    /// Notes what found no room, beside what is noted already.
    pub(super) fn found_no_room(&mut self, name: String, error: &WriteMapFailed) {
        let WriteMapFailed::Full { map, .. } = error else { return };
        let before = self.condition.full.remove(*map).map(|full| full.refused);
        let refused = before.into_iter().flatten().chain([name]).collect();
        let full = FullMap { message: error.to_string(), refused };
        self.condition.full.insert((*map).to_owned(), full);
        self.save();
    }

    fn save(&self) {
        if let Err(error) = self.condition.write(&self.path) {
            tracing::warn!("writing {} failed: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use bowline_ebpf_abi::map;

    use super::*;

    #[test]
    fn full_maps_come_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("datapath.json");
        let mut file = ConditionFile::start(path.clone(), Vec::new());
        let full = |map| WriteMapFailed::Full { map, size: 4, flag: "--map-size X=" };
        let (slots, pods) = (full(map::SLOTS), full(map::PODS));
        let other = WriteMapFailed::Refused { map: map::SLOTS, source: io::Error::other("x") };
        let services = [map::SERVICES, map::SLOTS, map::BACKENDS];
        let failed = [("a/b", &slots), ("a/c", &slots), ("a/d", &other)];
        file.note_full(&services, failed.into_iter().map(|(name, e)| (name.to_owned(), e)));
        file.found_no_room("a/pod".to_owned(), &pods);
        file.found_no_room("a/other".to_owned(), &pods);
        file.found_room(map::PODS, "a/other");
        let read = Condition::read(&path).full;
        assert_eq!(read.keys().collect::<Vec<_>>(), ["PODS", "SLOTS"]);
        assert_eq!(read["SLOTS"].refused, ["a/b".to_owned(), "a/c".to_owned()].into());
        assert!(read["SLOTS"].message.contains("SLOTS is full (4 entries)"));

        file.note_full(&services, std::iter::empty());
        assert_eq!(Condition::read(&path).full.keys().collect::<Vec<_>>(), ["PODS"]);
        file.found_room(map::PODS, "a/pod");
        assert!(Condition::read(&path).full.is_empty());
        std::fs::write(&path, "not json").unwrap();
        assert_eq!(Condition::read(&path), Condition::default());
    }
}
