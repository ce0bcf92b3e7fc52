//! How the data plane is doing: features, programs, and how full and how large the maps are.
//!
//! Guarantees: reads only. Maps and programs are the kernel's own account; which features are used,
//! what found no room and how its loops went round is what the agent wrote down last.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use bowline_ebpf_abi::Reason;
use jiff::Timestamp;
use serde::Serialize;

use super::condition::{Condition, FullMap, LoadedProgram};
use super::features::FeatureRow;
use super::kernel::{Attached, ReadKernelFailed, packet_program, pinned_program};
use super::object::{Object, object};
use super::pins::Pins;
use super::pod_faults;
use super::shape::MapShape;
use super::sizes::flag_of;
use super::snapshot::{CounterRow, Snapshot, is_under_pressure};
use super::syscall;
use super::table::ReadMapsFailed;
use crate::NAMES_FILE;
use crate::metrics::{RECENT_FILE, Recent};

/// The state of the data plane could not be told.
#[derive(Debug, thiserror::Error)]
pub enum ReadStatusFailed {
    #[error(transparent)]
    Maps(#[from] ReadMapsFailed),
    #[error(transparent)]
    Kernel(#[from] ReadKernelFailed),
}

/// One map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapStatus {
    pub name: String,
    /// Entries in use, where they can be told from others.
    pub used: Option<u32>,
    /// Entries that there is room for.
    pub size: u32,
    /// From 80 % on, of maps that let go of nothing by themselves.
    pub pressure: bool,
    /// Kernel memory, as the kernel accounts it.
    pub bytes: u64,
    /// The agent's flag that sets the size, where there is one.
    pub flag: Option<&'static str>,
    /// What found no room the last time it was written.
    pub full: Option<FullMap>,
    #[serde(flatten)]
    pub shape: MapShape,
}

/// One program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramStatus {
    pub name: String,
    /// The kernel's number for it.
    pub id: u32,
    pub hook: String,
    /// Where it runs: the cgroup, or the interfaces by number.
    pub attached: Vec<String>,
    /// As the verifier left it; nothing when the program is gone.
    pub instructions: Option<u32>,
    /// Instructions that the verifier went through, from Linux 5.16 on.
    pub verified: Option<u32>,
    /// How often it ran while `kernel.bpf_stats_enabled` was on.
    pub runs: Option<u64>,
    /// What each of these runs took on average.
    pub nanoseconds_per_run: Option<u64>,
    /// A digest of its instructions, as `bpftool prog` shows it.
    pub tag: Option<String>,
    /// Of the machine's own code that was made of it; nothing if the kernel interprets it.
    pub machine_bytes: Option<u32>,
    pub loaded_seconds_ago: Option<u64>,
    /// The kernel's numbers for the maps that it uses.
    pub maps: Vec<u32>,
}

/// How a loop of the agent went round the last time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoopStatus {
    /// `services` (maps, when there was something to write), `network` (links, addresses, routes)
    /// or `verify` (the comparison of maps and programs with what was programmed).
    pub name: String,
    pub ended: Timestamp,
    pub seconds_ago: u64,
    pub microseconds: u64,
    /// Why something was left undone.
    pub failure: Option<String>,
    /// How many rounds in a row ended so.
    pub failures: u32,
}

/// What was dropped a moment ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentDrops {
    /// A minute, or as long as the agent knows.
    pub seconds: u64,
    pub rows: Vec<CounterRow>,
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
    /// Those that went round.
    pub loops: Vec<LoopStatus>,
    /// None when no agent wrote down what was dropped before.
    pub recent_drops: Option<RecentDrops>,
    /// What somebody should know though the node does what it should, in words.
    pub remarks: Vec<String>,
    /// What is wrong, in words; nothing when all is well.
    pub problems: Vec<String>,
}

/// An agent that wrote nothing for so long does not work.
const SILENCE: u64 = 30;

/// What fails once may do so because of what is being replaced just then.
const FAILING: u32 = 2;

impl Status {
    /// Reads what is pinned under this BPF file system, and what the agent wrote to its files, of
    /// which this is one and the others are beside it; looks at links in the node's network
    /// namespace, or in the calling thread's.
    pub fn read(
        bpffs: &Path,
        condition_file: &Path,
        netns: Option<&Path>,
    ) -> Result<Self, ReadStatusFailed> {
        let pins = Pins::to_read(bpffs).map_err(ReadMapsFailed::from)?;
        let names_file = condition_file.with_file_name(NAMES_FILE);
        let snapshot = Snapshot::read(bpffs)?.with_names(&names_file);
        let mut condition = Condition::read(condition_file);
        let used = snapshot.maps.iter().map(|row| (row.name, row.used)).collect();
        let mut problems = Vec::new();
        let maps = read_maps(&pins, &used, &mut condition.full, &mut problems)?;
        let pods: Vec<u32> = snapshot.pods.iter().map(|pod| pod.ifindex).collect();
        if condition.programs.is_empty() {
            problems.push("no agent has said which programs it loaded".to_owned());
        }
        let mut programs = Vec::new();
        for loaded in &condition.programs {
            let places = places(&pins, &condition, loaded, &pods, netns)?;
            problems.extend(missing(&loaded.name, &places));
            programs.push(program_status(loaded.clone(), places));
        }
        problems.extend(maps.iter().filter_map(pressure));
        problems.extend(pod_faults::of(bpffs, &names_file, &snapshot, netns)?);
        let now = Timestamp::now();
        let recent = Recent::read(&condition_file.with_file_name(RECENT_FILE));
        let loops = recent.as_ref().map(|recent| loops(recent, now)).unwrap_or_default();
        problems.extend(recent.as_ref().and_then(|recent| silence(recent, now)));
        problems.extend(loops.iter().filter_map(failing));
        let recent_drops = recent.and_then(|recent| {
            let (since, rows) = recent.dropped(now, &snapshot.counters)?;
            Some(RecentDrops { seconds: since.as_secs().unsigned_abs(), rows })
        });
        let remarks = recent_drops.iter().filter_map(spoofed).collect();
        Ok(Self {
            remarks,
            features: condition.features,
            map_bytes: maps.iter().map(|map| map.bytes).sum(),
            maps,
            programs,
            loops,
            recent_drops,
            problems,
        })
    }
}

/// Packets with a source address that is not their pod's, in words. Nobody counts whose they were.
fn spoofed(recent: &RecentDrops) -> Option<String> {
    let name = Reason::SpoofedSource.name();
    let packets: u64 =
        recent.rows.iter().filter(|row| row.reason == name).map(|row| row.packets).sum();
    let seconds = recent.seconds;
    (packets > 0).then(|| {
        format!(
            "pods sent {packets} packets from addresses that are not theirs in the last \
             {seconds} s: refused [{name}]; `bowline net monitor --verdict refused` shows at which \
             links"
        )
    })
}

fn loops(recent: &Recent, now: Timestamp) -> Vec<LoopStatus> {
    let status = |round: &crate::metrics::Round| LoopStatus {
        name: round.name.clone(),
        ended: round.ended,
        seconds_ago: seconds(now, round.ended),
        microseconds: u64::try_from(round.took.as_micros()).unwrap_or(u64::MAX),
        failure: round.failure.clone(),
        failures: round.failures,
    };
    recent.rounds.iter().map(status).collect()
}

/// Zero after a clock was set back.
fn seconds(now: Timestamp, then: Timestamp) -> u64 {
    u64::try_from(now.duration_since(then).as_secs()).unwrap_or(0)
}

/// A loop that leaves something undone each time, in words.
fn failing(status: &LoopStatus) -> Option<String> {
    let LoopStatus { name, failures, seconds_ago, .. } = status;
    let failure = status.failure.as_ref().filter(|_| *failures >= FAILING)?;
    Some(format!("loop {name} failed {failures} times, last {seconds_ago} s ago: {failure}"))
}

/// An agent that says nothing any more, in words.
fn silence(recent: &Recent, now: Timestamp) -> Option<String> {
    let silent = seconds(now, recent.written);
    let says = "what is pinned goes on working, and nothing of it changes";
    (silent > SILENCE).then(|| format!("the agent has not worked for {silent} s: {says}"))
}

fn read_maps(
    pins: &Pins,
    used: &BTreeMap<&'static str, u32>,
    full: &mut BTreeMap<String, FullMap>,
    problems: &mut Vec<String>,
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
        let mut stranger = |what: &str| {
            problems.push(format!("{} is {what}, nothing of bowline's", path.display()));
        };
        if path.is_dir() {
            stranger("a directory");
            continue;
        }
        // A map that is just being replaced may be gone by now.
        let Some(fd) = syscall::open_pin(&path).map_err(|e| not_opened(&path, e))? else {
            continue;
        };
        match object(fd.as_fd()).map_err(|e| not_opened(&path, e))? {
            Object::Map => {}
            other => {
                stranger(other.name());
                continue;
            }
        }
        let info = syscall::map_info(fd.as_fd()).map_err(|e| not_opened(&path, e))?;
        let (size, shape) = (info.max_entries, MapShape::of(&info));
        let bytes = memory(fd.as_raw_fd()).map_err(|e| not_opened(&path, e))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let flag = flag_of(&name);
        let (used, full) = (used.get(name.as_str()).copied(), full.remove(&name));
        let pressure = used.is_some_and(|used| is_under_pressure(&name, used, size));
        maps.push(MapStatus { used, size, pressure, bytes, flag, full, name, shape });
    }
    Ok(maps)
}

/// Bytes that the kernel accounts to a map of ours (`/proc/PID/fdinfo`, field `memlock`).
fn memory(descriptor: i32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}"))?;
    let field = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(field.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0))
}

/// A map that is full or nearly so, in words.
fn pressure(map: &MapStatus) -> Option<String> {
    if let Some(full) = &map.full {
        return Some(full.message.clone());
    }
    let used = u64::from(map.used?) * 100 / u64::from(map.size.max(1));
    let raise = map.flag.map(|flag| format!(": raise it with {flag}")).unwrap_or_default();
    let name = &map.name;
    map.pressure.then(|| format!("map {name} is {used} % full{raise}"))
}

/// Where a program should run, and what runs there.
fn places(
    pins: &Pins,
    condition: &Condition,
    loaded: &LoadedProgram,
    pods: &[u32],
    netns: Option<&Path>,
) -> Result<BTreeMap<String, Attached>, ReadKernelFailed> {
    let number = |place: &String| place.strip_prefix("link ").and_then(|it| it.parse().ok());
    let links: BTreeSet<u32> = match loaded.name.as_str() {
        "from_pod" | "to_pod" => pods.iter().copied().collect(),
        "from_uplink" => loaded.places.iter().filter_map(number).collect(),
        name => {
            let runs = pinned_program(&pins.links.join(name))?;
            return Ok(loaded.places.iter().map(|place| (place.clone(), runs.clone())).collect());
        }
    };
    let place = |ifindex| {
        let runs = packet_program(netns, pins, condition, &loaded.name, ifindex)?;
        Ok((format!("link {ifindex}"), runs))
    };
    links.into_iter().map(place).collect()
}

/// The places where it does not run, in words.
fn missing<'a>(
    program: &'a str,
    places: &'a BTreeMap<String, Attached>,
) -> impl Iterator<Item = String> + 'a {
    places.iter().filter_map(move |(place, runs)| match runs {
        Attached::Not(why) => Some(format!("program {program} does not run at {place}: {why}")),
        Attached::Runs(_) => None,
    })
}

fn program_status(loaded: LoadedProgram, places: BTreeMap<String, Attached>) -> ProgramStatus {
    let facts = syscall::program_facts(loaded.number).ok().flatten();
    let facts = facts.as_ref();
    let runs = |(place, runs)| matches!(runs, Attached::Runs(_)).then_some(place);
    let attached = places.into_iter().filter_map(runs).collect();
    ProgramStatus {
        name: loaded.name,
        id: loaded.number,
        hook: loaded.hook,
        attached,
        instructions: facts.map(|facts| facts.instructions),
        verified: facts.map(|facts| facts.verified).filter(|count| *count > 0),
        runs: facts.map(|facts| facts.runs).filter(|count| *count > 0),
        nanoseconds_per_run: facts.and_then(|facts| facts.run_time_ns.checked_div(facts.runs)),
        tag: facts.map(|facts| format!("{:016x}", u64::from_be_bytes(facts.tag))),
        machine_bytes: facts.map(|facts| facts.machine_bytes).filter(|count| *count > 0),
        loaded_seconds_ago: facts.map(|facts| seconds_since(facts.load_time_ns)),
        maps: facts.map(|facts| facts.maps.clone()).unwrap_or_default(),
    }
}

/// Seconds since this moment of the clock that goes on while the machine sleeps.
fn seconds_since(then_ns: u64) -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    let now = now.map(Duration::from).unwrap_or_default();
    now.saturating_sub(Duration::from_nanos(then_ns)).as_secs()
}
