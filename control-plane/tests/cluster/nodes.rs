//! Nodes: their ranges, their silence and what follows from it.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::plane::{Plane, eventually, holds, pod_spec};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_gets_a_range_of_its_own() {
    let plane = Plane::start(3).await;
    let nodes: Api<Node> = Api::all(plane.client.clone());
    let ranges = eventually("ranges", || async {
        let listed = nodes.list(&ListParams::default()).await.unwrap();
        let specs = listed.items.into_iter().filter_map(|node| node.spec);
        let ranges: BTreeSet<(String, Vec<String>)> =
            specs.filter_map(|spec| Some((spec.pod_cidr?, spec.pod_cidrs?))).collect();
        holds(ranges.len() == 3, ranges)
    })
    .await;
    let expected = [0, 1, 2].map(|number| {
        let v4 = format!("10.240.{number}.0/24");
        let v6 = format!("fd00:10:240:{number}::/64").replace(":0::", "::");
        (v4.clone(), vec![v4, v6])
    });
    assert_eq!(ranges, expected.into());
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_loses_its_endpoints_and_then_its_pods() {
    let plane = Plane::start(2).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "set" },
        "spec": { "selector": { "app": "set" }, "ports": [{ "port": 80 }] },
    });
    plane.create::<Service>(service).await;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": "set" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "set" } },
            "template": {
                "metadata": { "labels": { "app": "set" } },
                "spec": pod_spec("100m", "64Mi"),
            },
        },
    });
    plane.create::<ReplicaSet>(set).await;
    eventually("two endpoints", || async {
        let ready = plane.ready_addresses("set").await;
        holds(ready.len() == 2, ready)
    })
    .await;

    plane.silence("node2");
    eventually("only the endpoint of node1", || async {
        let ready = plane.ready_addresses("set").await;
        holds(ready.len() == 1, ready)
    })
    .await;
    let nodes: Api<Node> = Api::all(plane.client.clone());
    eventually("conditions and taints", || async {
        let node = nodes.get("node2").await.unwrap();
        let conditions = node.status.unwrap().conditions.unwrap();
        let unknown = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "Unknown");
        let taints = node.spec.unwrap_or_default().taints.unwrap_or_default();
        let tainted = taints.iter().filter(|t| t.key == "node.kubernetes.io/unreachable").count();
        holds(unknown && tainted == 2, (conditions, taints))
    })
    .await;
    eventually("both replicas on node1", || async {
        let pods = plane.pods("app=set").await;
        let here = pods
            .iter()
            .filter(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some("node1"))
            .count();
        holds(here == 2, pods.len())
    })
    .await;
    eventually("two endpoints again", || async {
        let ready = plane.ready_addresses("set").await;
        holds(ready.len() == 2, ready)
    })
    .await;
    assert!(!plane.events("TaintManagerEviction").await.is_empty());

    plane.report_node("node2", &json!({ "cpu": "4", "memory": "16Gi", "pods": "110" })).await;
    plane.stop().await;
}
