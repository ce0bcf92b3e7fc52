//! Pods of the node whose network is broken: by PODS, by the node's end of their link, and by what
//! is in their own network namespace.
//!
//! Guarantees: reads only. A pod that comes or goes meanwhile is no fault: what is found is looked
//! at again a moment later, and named if it is still so.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::inside::{Inside, nobody};
use super::kernel::Seen;
use super::snapshot::{PodRow, Snapshot};
use super::status::ReadStatusFailed;
use crate::network::{LinkSeen, is_pod_link, parse_mac};

/// How long names and links may lag behind PODS.
const SETTLE: Duration = Duration::from_millis(500);

/// What is wrong with pods, in words.
pub(super) fn of(
    bpffs: &Path,
    names_file: &Path,
    snapshot: &Snapshot,
    netns: Option<&Path>,
) -> Result<Vec<String>, ReadStatusFailed> {
    let mut found = look(snapshot, netns)?;
    if !found.is_empty() {
        std::thread::sleep(SETTLE);
        let again = look(&Snapshot::read(bpffs)?.with_names(names_file), netns)?;
        found.retain(|fault| again.contains(fault));
    }
    Ok(found)
}

fn look(snapshot: &Snapshot, netns: Option<&Path>) -> Result<Vec<String>, ReadStatusFailed> {
    let lost = snapshot.lost_pods.iter().map(|pod| {
        let (namespace, name, address) = (&pod.namespace, &pod.name, pod.address);
        format!("pod {namespace}/{name} has no entry in PODS for {address}")
    });
    let mut found: Vec<String> = lost.collect();
    if snapshot.pods.is_empty() {
        return Ok(found);
    }
    // A pod has one link, whatever addresses it has.
    let mut by_link: BTreeMap<u32, Vec<&PodRow>> = BTreeMap::new();
    for row in &snapshot.pods {
        by_link.entry(row.ifindex).or_default().push(row);
    }
    let links = Seen::inside(netns, &[])?.links;
    let is_there = |index: &u32| links.get(index).is_some_and(|link| is_pod_link(&link.name));
    // Without its path the node's network namespace may be another one than this.
    let is_here = netns.is_some() || by_link.keys().any(is_there);
    for (index, rows) in by_link {
        let name = named(&rows);
        match links.get(&index).filter(|_| is_here) {
            None if is_here => found.push(format!("{name}: its link {index} is gone")),
            None => {}
            Some(link) => {
                if !link.up {
                    found.push(format!("{name}: its link {} on the node is down", link.name));
                }
                found.extend(inside(&rows, link).into_iter().map(|why| format!("{name}: {why}")));
            }
        }
    }
    Ok(found)
}

fn named(rows: &[&PodRow]) -> String {
    let names = rows.iter().find_map(|row| Some((row.namespace.as_ref()?, row.name.as_ref()?)));
    match (names, rows.first()) {
        (Some((namespace, name)), _) => format!("pod {namespace}/{name}"),
        (None, Some(row)) => format!("pod {}", row.address),
        (None, None) => String::new(),
    }
}

/// What is wrong in the pod's own network namespace, as far as that can be entered.
fn inside(rows: &[&PodRow], link: &LinkSeen) -> Vec<String> {
    let known = rows.iter().find_map(|row| Some((row.netns.as_ref()?, parse_mac(&row.mac)?)));
    let Some((netns, mac)) = known else { return Vec::new() };
    let addresses: Vec<IpAddr> = rows.iter().map(|row| row.address).collect();
    let ways: Vec<IpAddr> = addresses.iter().map(|address| nobody(*address)).collect();
    let inside = match Inside::look(netns, mac, &ways) {
        Ok(inside) => inside,
        Err(error) => return vec![format!("its network cannot be looked into: {error}")],
    };
    let faults = inside.faults(&addresses, link).into_iter();
    let mut found: Vec<String> = faults.map(|(what, why)| format!("{what}: {why}")).collect();
    if inside.is_up() {
        let lost = ways.iter().filter_map(|way| inside.way(*way, link).err());
        found.extend(lost.map(|why| format!("its default route: {why}")));
    }
    found
}
