//! What is on the machine: everything that a cluster could leave behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use aya::programs::{loaded_links, loaded_programs};

use crate::command::{command, output};

/// What shims and runc keep outside of a cluster's own directories.
const RUNTIME: [&str; 3] = ["/run/containerd", "/run/containerd/s", "/run/containerd/runc"];

/// Names of the agent's BPF programs; `every_command_on_one_cluster` holds them against what an
/// agent has loaded.
pub const PROGRAMS: [&str; 12] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "established",
    "from_pod",
    "from_uplink",
    "to_pod",
];

/// A picture of the machine, to be compared with a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    things: BTreeSet<String>,
}

impl Machine {
    /// Namespaces, links, addresses, routes, packet rules, mounts, cgroups, bowline's own
    /// directories, what containers' runtimes keep, and BPF programs with names of ours and their
    /// links, wherever they are pinned or attached.
    pub fn look() -> Result<Self> {
        let mut things = BTreeSet::new();
        things.extend(lines("link", &output(command("ip").args(["-o", "link"]))?, 2));
        things.extend(lines("address", &output(command("ip").args(["-o", "addr"]))?, 4));
        for family in ["-4", "-6"] {
            let ip = |what: &[&str]| output(command("ip").arg(family).args(what));
            things.extend(lines("route", &ip(&["route", "show", "table", "all"])?, 9));
            things.extend(lines("policy", &ip(&["rule"])?, 9));
        }
        things.extend(lines("rule", &output(command("nft").args(["list", "ruleset"]))?, 9));
        let own = ["/run/netns", "/run/bowline", "/var/lib/bowline", "/run/bowline/clusters"];
        for directory in own.into_iter().chain(RUNTIME) {
            things.extend(entries(Path::new(directory)));
        }
        things.extend(mounts()?);
        things.extend(cgroups()?);
        things.extend(bpf_at_rest()?);
        Ok(Self { things })
    }

    /// What is there now and was not, and what was there and is gone.
    pub fn difference(&self, later: &Self) -> Vec<String> {
        let added = later.things.difference(&self.things).map(|thing| format!("left: {thing}"));
        let gone = self.things.difference(&later.things).map(|thing| format!("removed: {thing}"));
        added.chain(gone).collect()
    }
}

/// The numbers of the kernel's programs with names of ours, each with how many links it has.
pub fn programs() -> Result<BTreeMap<u64, usize>> {
    let programs = whole(loaded_programs)?.into_iter();
    let ours = programs.filter(|it| it.name_as_str().is_some_and(|name| PROGRAMS.contains(&name)));
    let mut found: BTreeMap<u64, usize> = ours.map(|it| (it.id().into(), 0)).collect();
    for link in whole(loaded_links)? {
        if let Some(links) = found.get_mut(&link.program_id().into()) {
            *links += 1;
        }
    }
    Ok(found)
}

/// What nobody holds any more goes a while later, and would seem to have been removed by whoever
/// comes next: the list is taken once it has stayed the same for AT_REST.
fn bpf_at_rest() -> Result<Vec<String>> {
    const AT_REST: Duration = Duration::from_millis(200);
    let mut before = bpf()?;
    for _ in 0..50 {
        std::thread::sleep(AT_REST);
        let now = bpf()?;
        if now == before {
            break;
        }
        before = now;
    }
    Ok(before)
}

/// Programs with names of ours, and links to them.
fn bpf() -> Result<Vec<String>> {
    let programs: BTreeMap<u32, String> = whole(loaded_programs)?
        .iter()
        .filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned())))
        .filter(|(_, name)| PROGRAMS.contains(&name.as_str()))
        .collect();
    let links = whole(loaded_links)?.into_iter().filter_map(|link| {
        let name = programs.get(&link.program_id())?;
        Some(format!("bpf link {} of {name}", link.id()))
    });
    let links: Vec<String> = links.collect();
    let named = programs.iter().map(|(id, name)| format!("bpf program {id} {name}"));
    Ok(links.into_iter().chain(named).collect())
}

/// A list that ends early when something of it goes meanwhile is begun anew.
fn whole<T, E, I>(list: impl Fn() -> I) -> Result<Vec<T>>
where
    I: Iterator<Item = Result<T, E>>,
    E: std::error::Error + Send + Sync + 'static,
{
    for _ in 0..100 {
        if let Ok(all) = list().collect::<Result<Vec<T>, E>>() {
            return Ok(all);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(list().collect::<Result<Vec<T>, E>>()?)
}

fn lines(kind: &str, text: &str, words: usize) -> Vec<String> {
    text.lines()
        .map(|line| line.split_whitespace().take(words).collect::<Vec<_>>().join(" "))
        .map(|line| format!("{kind} {line}"))
        .collect()
}

fn entries(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path().display().to_string()).collect()
}

fn mounts() -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let point = |line: &str| line.split_whitespace().nth(4).map(|path| format!("mount {path}"));
    Ok(table.lines().filter_map(point).collect())
}

/// The first two levels of every hierarchy, and everything of bowline's.
fn cgroups() -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found = Vec::new();
    for line in table.lines().filter(|line| line.contains(" - cgroup")) {
        let Some(root) = line.split_whitespace().nth(4) else { continue };
        below(&Path::new(root).join("bowline"), &mut found);
        let roots = fs::read_dir(root).into_iter().flatten().flatten();
        found.extend(
            roots
                .filter(|entry| entry.path().is_dir())
                .map(|entry| format!("cgroup {}", entry.path().display())),
        );
    }
    Ok(found)
}

fn below(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.push(format!("cgroup {}", entry.path().display()));
            below(&entry.path(), found);
        }
    }
}
