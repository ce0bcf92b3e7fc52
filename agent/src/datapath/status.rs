//! How the data plane is doing: features, programs, and how full and how large the maps are.
//!
//! Guarantees: reads only. Maps and programs are the kernel's own account; which features are used
//! and what found no room is what the agent wrote down last.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use serde::Serialize;

use super::condition::{Condition, FullMap, LoadedProgram};
use super::features::FeatureRow;
use super::pins::Pins;
use super::sizes::flag_of;
use super::snapshot::Snapshot;
use super::syscall;
use super::table::ReadMapsFailed;

/// One map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapStatus {
    pub name: String,
    /// Entries in use, where they can be told from others.
    pub used: Option<u32>,
    /// Entries that there is room for.
    pub size: u32,
    /// Kernel memory, as the kernel accounts it.
    pub bytes: u64,
    /// The agent's flag that sets the size, where there is one.
    pub flag: Option<&'static str>,
    /// What found no room the last time it was written.
    pub full: Option<FullMap>,
}

/// One program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramStatus {
    pub name: String,
    /// The kernel's number for it.
    pub id: u32,
    pub hook: String,
    /// The cgroup, or the interfaces by number.
    pub attached: Vec<String>,
    /// As the verifier left it; nothing when the program is gone.
    pub instructions: Option<u32>,
    /// Instructions that the verifier went through, from Linux 5.16 on.
    pub verified: Option<u32>,
}

/// The whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Empty when no agent wrote them down.
    pub features: Vec<FeatureRow>,
    pub maps: Vec<MapStatus>,
    /// Kernel memory of all maps.
    pub map_bytes: u64,
    pub programs: Vec<ProgramStatus>,
}

impl Status {
    /// Reads what is pinned under this BPF file system, and what the agent wrote to its file.
    pub fn read(bpffs: &Path, condition_file: &Path) -> Result<Self, ReadMapsFailed> {
        let pins = Pins::under(bpffs);
        let snapshot = Snapshot::read(bpffs)?;
        let mut condition = Condition::read(condition_file);
        let used = snapshot.maps.iter().map(|row| (row.name, row.used)).collect();
        let maps = read_maps(&pins, &used, &mut condition.full)?;
        let pods: Vec<u32> = snapshot.pods.iter().map(|pod| pod.ifindex).collect();
        let program = |loaded| program_status(&pins, loaded, &pods);
        Ok(Self {
            features: condition.features,
            map_bytes: maps.iter().map(|map| map.bytes).sum(),
            maps,
            programs: condition.programs.into_iter().map(program).collect(),
        })
    }
}

fn read_maps(
    pins: &Pins,
    used: &BTreeMap<&'static str, u32>,
    full: &mut BTreeMap<String, FullMap>,
) -> Result<Vec<MapStatus>, ReadMapsFailed> {
    let not_opened = |path: &Path, source| {
        let path = path.to_path_buf();
        ReadMapsFailed::NotOpened { path, source }
    };
    let entries = std::fs::read_dir(&pins.maps).map_err(|e| not_opened(&pins.maps, e))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort_unstable();
    let mut maps = Vec::new();
    for path in paths {
        // A map that is just being replaced may be gone by now.
        let Some(fd) = syscall::open_pin(&path).map_err(|e| not_opened(&path, e))? else {
            continue;
        };
        let (_, _, size) = syscall::map_shape(fd.as_fd()).map_err(|e| not_opened(&path, e))?;
        let bytes = memory(fd.as_raw_fd()).map_err(|e| not_opened(&path, e))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let flag = flag_of(&name);
        let (used, full) = (used.get(name.as_str()).copied(), full.remove(&name));
        maps.push(MapStatus { used, size, bytes, flag, full, name });
    }
    Ok(maps)
}

/// Bytes that the kernel accounts to a map of ours (`/proc/PID/fdinfo`, field `memlock`).
fn memory(descriptor: i32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}"))?;
    let field = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(field.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0))
}

fn program_status(pins: &Pins, loaded: LoadedProgram, pods: &[u32]) -> ProgramStatus {
    let facts = syscall::program_facts(loaded.number).ok().flatten();
    let mut attached = loaded.places;
    if matches!(loaded.name.as_str(), "from_pod" | "to_pod") {
        let there = |ifindex: &&u32| {
            // Filters of clsact have no pin.
            !loaded.hook.starts_with("tcx")
                || pins.links.join(format!("{}-{ifindex}", loaded.name)).exists()
        };
        attached.extend(pods.iter().filter(there).map(|ifindex| format!("link {ifindex}")));
        attached.sort_unstable();
        attached.dedup();
    }
    ProgramStatus {
        name: loaded.name,
        id: loaded.number,
        hook: loaded.hook,
        attached,
        instructions: facts.map(|facts| facts.instructions),
        verified: facts.map(|facts| facts.verified).filter(|count| *count > 0),
    }
}
