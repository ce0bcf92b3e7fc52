//! Tables of the filter.

use std::sync::Arc;

use super::*;
use crate::facts::HostPort;
use k8s_openapi::api::core::v1::{NodeAffinity, NodeSelector};

fn node(name: &str, cpu: i64, memory: i64) -> NodeFacts {
    NodeFacts {
        name: name.into(),
        labels: [("kubernetes.io/hostname".to_owned(), name.to_owned())].into(),
        allocatable: [("cpu", cpu), ("memory", memory), ("pods", 3)]
            .map(|(name, amount)| (name.to_owned(), amount))
            .into(),
        ..NodeFacts::default()
    }
}

fn cluster(nodes: Vec<NodeFacts>) -> Cluster {
    nodes.into_iter().collect()
}

fn wants(cpu: i64, memory: i64) -> PodFacts {
    PodFacts {
        uid: "new".into(),
        requests: [("cpu".to_owned(), cpu), ("memory".to_owned(), memory)].into(),
        ..PodFacts::default()
    }
}

fn said(pod: &PodFacts, cluster: &Cluster) -> String {
    filter(pod, cluster).map_or_else(
        |refusals| explain(&refusals),
        |nodes| nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>().join(","),
    )
}

fn taint(key: &str, effect: &str) -> Taint {
    Taint { key: key.into(), effect: effect.into(), ..Taint::default() }
}

#[test]
fn room() {
    let three = || vec![node("node1", 4000, 16), node("node2", 4000, 16), node("node3", 4000, 16)];
    let mut busy = cluster(three());
    let resident = PodFacts { uid: "old".into(), ..wants(2500, 4) };
    busy.place(&Arc::new(resident), "node1");
    let mut full = cluster(vec![node("node1", 4000, 16)]);
    for uid in ["a", "b", "c"] {
        full.place(&Arc::new(PodFacts { uid: uid.into(), ..PodFacts::default() }), "node1");
    }
    let table = [
        ("fits everywhere", cluster(three()), wants(2500, 4), "node1,node2,node3"),
        ("taken room counts", busy, wants(2500, 4), "node2,node3"),
        (
            "too large for all",
            cluster(three()),
            wants(100, 400),
            "0/3 nodes are available: 3 Insufficient memory (node1, node2, node3).",
        ),
        (
            "short of both",
            cluster(three()),
            wants(9000, 400),
            "0/3 nodes are available: 3 Insufficient cpu (node1, node2, node3), \
             3 Insufficient memory (node1, node2, node3).",
        ),
        (
            "nodes differ",
            cluster(vec![node("node1", 100, 16), node("node2", 4000, 1)]),
            wants(200, 4),
            "0/2 nodes are available: 1 Insufficient cpu (node1), \
             1 Insufficient memory (node2).",
        ),
        ("count of pods", full, wants(0, 0), "0/1 nodes are available: 1 Too many pods (node1)."),
        ("no nodes", cluster(vec![]), wants(0, 0), "no nodes available to schedule pods"),
        (
            "unknown resource",
            cluster(vec![node("node1", 100, 16)]),
            PodFacts {
                requests: [("example.org/gpu".to_owned(), 1)].into(),
                ..PodFacts::default()
            },
            "0/1 nodes are available: 1 Insufficient example.org/gpu (node1).",
        ),
    ];
    for (name, cluster, pod, expected) in table {
        assert_eq!(said(&pod, &cluster), expected, "{name}");
    }
}

#[test]
fn a_large_cluster_is_not_listed_node_by_node() {
    let nodes = (10..30).map(|number| node(&format!("node{number}"), 100, 16)).collect();
    assert_eq!(
        said(&wants(200, 4), &cluster(nodes)),
        "0/20 nodes are available: 20 Insufficient cpu (node10, node11, node12, node13, node14, \
         node15, node16, node17, node18, node19 and 10 more)."
    );
}

#[test]
fn taints_and_cordons() {
    let with = |taints: Vec<Taint>| cluster(vec![NodeFacts { taints, ..node("node1", 1, 1) }]);
    let tolerate = |key: &str, operator: &str| PodFacts {
        tolerations: vec![Toleration {
            key: Some(key.into()),
            operator: Some(operator.into()),
            ..Toleration::default()
        }],
        ..PodFacts::default()
    };
    let refused = "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: } (node1).";
    let cordoned = cluster(vec![NodeFacts { unschedulable: true, ..node("node1", 1, 1) }]);
    let table = [
        ("refused", with(vec![taint("gpu", "NoSchedule")]), PodFacts::default(), refused),
        ("tolerated", with(vec![taint("gpu", "NoSchedule")]), tolerate("gpu", "Exists"), "node1"),
        ("another", with(vec![taint("gpu", "NoExecute")]), tolerate("x", "Exists"), refused),
        ("any", with(vec![taint("gpu", "NoExecute")]), tolerate("", "Exists"), "node1"),
        ("equal", with(vec![taint("gpu", "NoSchedule")]), tolerate("gpu", "Equal"), "node1"),
        (
            "preference only",
            with(vec![taint("gpu", "PreferNoSchedule")]),
            PodFacts::default(),
            "node1",
        ),
        (
            "cordoned",
            cordoned,
            PodFacts::default(),
            "0/1 nodes are available: 1 node(s) were unschedulable (node1).",
        ),
    ];
    for (name, cluster, pod, expected) in table {
        assert_eq!(said(&pod, &cluster), expected, "{name}");
    }
}

#[test]
fn selectors_affinity_and_ports() {
    let nodes = || {
        let mut ssd = node("node1", 1, 1);
        ssd.labels.extend([("disk".to_owned(), "ssd".to_owned()), ("gen".into(), "7".into())]);
        cluster(vec![ssd, node("node2", 1, 1)])
    };
    let affinity = |key: &str, operator: &str, values: &[&str]| PodFacts {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: vec![NodeSelectorTerm {
                    match_expressions: Some(vec![NodeSelectorRequirement {
                        key: key.into(),
                        operator: operator.into(),
                        values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
                    }]),
                    ..NodeSelectorTerm::default()
                }],
            }),
            ..NodeAffinity::default()
        }),
        ..PodFacts::default()
    };
    let select = PodFacts {
        node_selector: [("disk".to_owned(), "ssd".to_owned())].into(),
        ..PodFacts::default()
    };
    let port = |address: &str| PodFacts {
        uid: format!("pod {address}"),
        host_ports: vec![HostPort { address: address.into(), protocol: "TCP".into(), port: 80 }],
        ..PodFacts::default()
    };
    let mut taken = nodes();
    taken.place(&Arc::new(port("")), "node1");
    let table = [
        ("selector", nodes(), select, "node1"),
        ("in", nodes(), affinity("disk", "In", &["ssd", "nvme"]), "node1"),
        ("not in", nodes(), affinity("disk", "NotIn", &["ssd"]), "node2"),
        ("exists", nodes(), affinity("disk", "Exists", &[]), "node1"),
        ("greater", nodes(), affinity("gen", "Gt", &["6"]), "node1"),
        (
            "nowhere",
            nodes(),
            affinity("gen", "Lt", &["7"]),
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector \
             (node1, node2).",
        ),
        ("port taken", taken, port("10.0.0.1"), "node2"),
    ];
    for (name, cluster, pod, expected) in table {
        assert_eq!(said(&pod, &cluster), expected, "{name}");
    }
}
