//! What is on the machine: everything that a cluster could leave behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::command::{command, output};

/// A picture of the machine, to be compared with a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    things: BTreeSet<String>,
}

impl Machine {
    /// Namespaces, links, addresses, routes, packet rules, mounts, cgroups, and bowline's own
    /// directories.
    pub fn look() -> Result<Self> {
        let mut things = BTreeSet::new();
        things.extend(lines("link", &output(command("ip").args(["-o", "link"]))?, 2));
        things.extend(lines("address", &output(command("ip").args(["-o", "addr"]))?, 4));
        things.extend(lines(
            "route",
            &output(command("ip").args(["route", "show", "table", "all"]))?,
            9,
        ));
        things.extend(lines("rule", &output(command("nft").args(["list", "ruleset"]))?, 9));
        for directory in ["/run/netns", "/run/bowline", "/var/lib/bowline", "/run/bowline/clusters"]
        {
            things.extend(entries(Path::new(directory)));
        }
        things.extend(mounts()?);
        things.extend(cgroups()?);
        Ok(Self { things })
    }

    /// What is there now and was not, and what was there and is gone.
    pub fn difference(&self, later: &Self) -> Vec<String> {
        let added = later.things.difference(&self.things).map(|thing| format!("left: {thing}"));
        let gone = self.things.difference(&later.things).map(|thing| format!("removed: {thing}"));
        added.chain(gone).collect()
    }
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
