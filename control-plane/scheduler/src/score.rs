//! Which of the fitting nodes is best. Pure.
//!
//! Each view of a node gives 0 to 100 points, weighted: copies of one thing spread over the nodes,
//! taints that ask to stay away count, preferences of the pod count, and the emptier node wins.

use crate::cluster::{Cluster, weight};
use crate::facts::{NodeFacts, PodFacts};
use crate::filter::{is_tolerated, term};

const SPREAD: i64 = 3;
const TAINTS: i64 = 3;
const PREFERENCE: i64 = 2;
const ROOM: i64 = 1;

/// The best node; among equals the one with fewer pods, then the `turn`-th.
pub(crate) fn best<'a>(
    pod: &PodFacts,
    cluster: &Cluster,
    fitting: &[&'a NodeFacts],
    turn: usize,
) -> Option<&'a NodeFacts> {
    let totals = totals(pod, cluster, fitting);
    let count = |node: &NodeFacts| cluster.usage(&node.name).map_or(0, |usage| usage.pods.len());
    let rank = |index: usize| (totals[index], std::cmp::Reverse(count(fitting[index])));
    let top = (0..fitting.len()).map(rank).max()?;
    let equals: Vec<usize> = (0..fitting.len()).filter(|index| rank(*index) == top).collect();
    Some(fitting[equals[turn % equals.len()]])
}

fn totals(pod: &PodFacts, cluster: &Cluster, fitting: &[&NodeFacts]) -> Vec<i64> {
    let copies = fewer_is_better(fitting.iter().map(|node| copies(pod, cluster, node)).collect());
    let taints = fewer_is_better(fitting.iter().map(|node| unwelcome(pod, node)).collect());
    let preferences: Vec<i64> = fitting.iter().map(|node| preference(pod, node)).collect();
    let most = preferences.iter().copied().max().unwrap_or(0).max(1);
    (0..fitting.len())
        .map(|index| {
            SPREAD * copies[index]
                + TAINTS * taints[index]
                + PREFERENCE * (100 * preferences[index] / most)
                + ROOM * room(pod, cluster, fitting[index])
        })
        .collect()
}

fn fewer_is_better(counts: Vec<i64>) -> Vec<i64> {
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    counts.into_iter().map(|count| 100 * (most - count) / most).collect()
}

fn copies(pod: &PodFacts, cluster: &Cluster, node: &NodeFacts) -> i64 {
    let services = cluster.services_of(pod);
    let Some(usage) = cluster.usage(&node.name) else { return 0 };
    let alike = usage.pods.values().filter(|other| pod.is_like(other, &services)).count();
    i64::try_from(alike).unwrap_or(i64::MAX / 100)
}

fn unwelcome(pod: &PodFacts, node: &NodeFacts) -> i64 {
    let asks = node.taints.iter().filter(|taint| {
        taint.effect == "PreferNoSchedule" && !is_tolerated(taint, &pod.tolerations)
    });
    i64::try_from(asks.count()).unwrap_or(i64::MAX / 100)
}

fn preference(pod: &PodFacts, node: &NodeFacts) -> i64 {
    let Some(affinity) = &pod.node_affinity else { return 0 };
    affinity
        .preferred_during_scheduling_ignored_during_execution
        .iter()
        .flatten()
        .filter(|preferred| term(&preferred.preference, node))
        .map(|preferred| i64::from(preferred.weight))
        .sum()
}

/// How much of CPU and memory stays free, on average, in percent.
fn room(pod: &PodFacts, cluster: &Cluster, node: &NodeFacts) -> i64 {
    let own = weight(&pod.requests);
    let usage = cluster.usage(&node.name);
    let free = |resource: &str| {
        let has = node.allocatable.get(resource).copied().unwrap_or(0);
        let taken = usage.and_then(|usage| usage.weighed.get(resource)).copied().unwrap_or(0);
        let left = has - taken - own.get(resource).copied().unwrap_or(0);
        if has <= 0 || left <= 0 {
            return 0;
        }
        i64::try_from(100 * i128::from(left) / i128::from(has)).unwrap_or(0)
    };
    (free("cpu") + free("memory")) / 2
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::facts::ServiceFacts;
    use crate::filter::filter;
    use k8s_openapi::api::core::v1::Taint;

    fn cluster(cpus: &[i64]) -> Cluster {
        let nodes = cpus.iter().enumerate().map(|(index, cpu)| NodeFacts {
            name: format!("node{}", index + 1),
            allocatable: [("cpu".to_owned(), *cpu), ("memory".to_owned(), 16 << 30)].into(),
            ..NodeFacts::default()
        });
        nodes.collect()
    }

    fn pod(uid: &str, app: &str) -> Arc<PodFacts> {
        Arc::new(PodFacts {
            uid: uid.into(),
            namespace: "default".into(),
            labels: [("App".to_owned(), app.to_owned())].into(),
            ..PodFacts::default()
        })
    }

    fn put(cluster: &mut Cluster, pod: &Arc<PodFacts>, turn: usize) -> String {
        let fitting = filter(pod, cluster).unwrap();
        let node = best(pod, cluster, &fitting, turn).unwrap().name.clone();
        cluster.place(pod, &node);
        node
    }

    #[test]
    fn alike_pods_land_one_on_each_node() {
        for turn in 0..3 {
            let mut cluster = cluster(&[4000, 4000, 4000]);
            let mut nodes: Vec<_> = ["a", "b", "c"]
                .iter()
                .map(|uid| put(&mut cluster, &pod(uid, "Nifty"), turn))
                .collect();
            nodes.sort();
            assert_eq!(nodes, ["node1", "node2", "node3"], "turn {turn}");
        }
    }

    #[test]
    fn spreading_beats_free_room_and_sees_services_and_owners() {
        let mut by_service = cluster(&[8000, 2000]);
        by_service.services.insert(
            ("default".into(), "svc".into()),
            ServiceFacts {
                namespace: "default".into(),
                selector: [("App".to_owned(), "Nifty".to_owned())].into(),
            },
        );
        let mut labelled = (*pod("a", "Nifty")).clone();
        labelled.labels.insert("version".into(), "1".into());
        by_service.place(&Arc::new(labelled), "node1");
        assert_eq!(put(&mut by_service, &pod("b", "Nifty"), 0), "node2", "same service");

        let mut by_owner = cluster(&[8000, 2000]);
        let owned = |uid: &str, label: &str| {
            Arc::new(PodFacts { owner: Some("set".into()), ..(*pod(uid, label)).clone() })
        };
        by_owner.place(&owned("a", "x"), "node1");
        assert_eq!(put(&mut by_owner, &owned("b", "y"), 0), "node2", "same owner");
    }

    #[test]
    fn the_emptier_node_wins_and_unwelcoming_ones_lose() {
        let mut cluster = cluster(&[4000, 4000]);
        let heavy = PodFacts {
            uid: "heavy".into(),
            requests: [("cpu".to_owned(), 3000)].into(),
            ..PodFacts::default()
        };
        cluster.place(&Arc::new(heavy), "node1");
        assert_eq!(put(&mut cluster, &pod("a", "x"), 0), "node2");
        cluster.nodes.get_mut("node2").unwrap().taints.push(Taint {
            key: "busy".into(),
            effect: "PreferNoSchedule".into(),
            ..Taint::default()
        });
        assert_eq!(put(&mut cluster, &pod("b", "y"), 0), "node1");
    }
}
