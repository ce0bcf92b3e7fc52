//! How many pods to make, or which ones to give up. Pure.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::pods;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

#[derive(Debug)]
pub(crate) enum Step<'a> {
    Enough,
    Create(usize),
    /// First the ones that will be missed least.
    Delete(Vec<&'a Pod>),
}

/// Compares the wanted number with the active pods.
pub(crate) fn step<'a>(wanted: i32, active: &[&'a Pod]) -> Step<'a> {
    let wanted = usize::try_from(wanted).unwrap_or(0);
    match active.len() {
        have if have < wanted => Step::Create(wanted - have),
        have if have > wanted => {
            let mut ranked = rank(active);
            ranked.truncate(have - wanted);
            Step::Delete(ranked)
        }
        _ => Step::Enough,
    }
}

/// Sorts by how little a pod is missed. Smaller goes first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Worth<'a> {
    assigned: bool,
    phase: u8,
    ready: bool,
    deletion_cost: i32,
    /// Fewer siblings on the node: worth more.
    siblings: std::cmp::Reverse<usize>,
    /// Ready, and made, for longer: worth more.
    ready_since: std::cmp::Reverse<Option<Timestamp>>,
    restarts: std::cmp::Reverse<i32>,
    created: std::cmp::Reverse<Option<Timestamp>>,
    /// Makes the order a total one.
    name: &'a str,
}

fn rank<'a>(active: &[&'a Pod]) -> Vec<&'a Pod> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for node in active.iter().filter_map(|pod| pods::node_name(pod)) {
        *on_node.entry(node).or_default() += 1;
    }
    let mut ranked = active.to_vec();
    ranked.sort_by_cached_key(|pod| worth(pod, &on_node));
    ranked
}

fn worth<'a>(pod: &'a Pod, on_node: &HashMap<&str, usize>) -> Worth<'a> {
    let node = pods::node_name(pod);
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let restarts = statuses.into_iter().flatten().map(|container| container.restart_count).max();
    let cost = pod.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST));
    Worth {
        assigned: node.is_some(),
        phase: match pods::phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        },
        ready: pods::is_ready(pod),
        deletion_cost: cost.and_then(|cost| cost.parse().ok()).unwrap_or(0),
        siblings: std::cmp::Reverse(node.and_then(|node| on_node.get(node)).copied().unwrap_or(0)),
        ready_since: std::cmp::Reverse(pods::ready_since(pod)),
        restarts: std::cmp::Reverse(restarts.unwrap_or(0)),
        created: std::cmp::Reverse(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)),
        name: pod.metadata.name.as_deref().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::{on_node, pod, time, unready};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn aged(mut pod: Pod, second: i64) -> Pod {
        pod.metadata.creation_timestamp = Some(Time(time(second)));
        pod
    }

    fn phase(mut pod: Pod, phase: &str) -> Pod {
        pod.status.as_mut().unwrap().phase = Some(phase.into());
        pod
    }

    fn cost(mut pod: Pod, cost: &str) -> Pod {
        pod.metadata.annotations = Some([(DELETION_COST.to_owned(), cost.to_owned())].into());
        pod
    }

    fn first_to_go(pods: &[Pod]) -> String {
        let active: Vec<&Pod> = pods.iter().collect();
        match step(i32::try_from(pods.len()).unwrap() - 1, &active) {
            Step::Delete(surplus) => surplus[0].metadata.name.clone().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn counts() {
        let (a, b) = (pod("a"), pod("b"));
        assert!(matches!(step(2, &[&a, &b]), Step::Enough));
        assert!(matches!(step(5, &[&a, &b]), Step::Create(3)));
        assert!(matches!(step(0, &[&a, &b]), Step::Delete(all) if all.len() == 2));
        assert!(matches!(step(-1, &[&a]), Step::Delete(all) if all.len() == 1));
    }

    #[test]
    fn what_is_missed_least_goes_first() {
        let table = [
            ("unscheduled", vec![unready(pod("keep")), on_node(pod("go"), None)]),
            ("pending", vec![pod("keep"), phase(unready(pod("go")), "Pending")]),
            ("unready", vec![pod("keep"), unready(pod("go"))]),
            ("cheap", vec![cost(pod("keep"), "5"), cost(pod("go"), "-5")]),
            ("crowded node", vec![on_node(pod("keep"), Some("node2")), pod("go"), pod("other")]),
            ("newer", vec![aged(pod("keep"), 1), aged(pod("go"), 9)]),
        ];
        for (name, pods) in table {
            assert_eq!(first_to_go(&pods), "go", "{name}");
        }
    }
}
