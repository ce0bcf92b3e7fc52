//! What the scheduler says about pods that fit nowhere, and when it tries them again.

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::plane::{Plane, eventually, holds, pod_spec};

fn pod(name: &str, cpu: &str, memory: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name },
        "spec": pod_spec(cpu, memory),
    })
}

async fn node_of(plane: &Plane, name: &str) -> Option<String> {
    plane.api::<Pod>().get(name).await.unwrap().spec.unwrap().node_name
}

async fn placed(plane: &Plane, name: &str) -> String {
    eventually(&format!("a node for {name}"), || async {
        node_of(plane, name).await.ok_or_else(|| "no node".to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why() {
    let plane = Plane::start(3).await;
    plane.create::<Pod>(pod("huge", "1", "400Gi")).await;
    let expected = "0/3 nodes are available: 3 Insufficient memory (node1, node2, node3).";
    eventually("the event", || async {
        let said = plane.events("FailedScheduling").await;
        holds(said.iter().any(|message| message == expected), said)
    })
    .await;
    eventually("the condition", || async {
        let status = plane.api::<Pod>().get("huge").await.unwrap().status.unwrap();
        let conditions = status.conditions.unwrap_or_default();
        let said = conditions.iter().any(|c| {
            c.type_ == "PodScheduled"
                && c.status == "False"
                && c.reason.as_deref() == Some("Unschedulable")
                && c.message.as_deref() == Some(expected)
        });
        holds(said, conditions)
    })
    .await;
    assert_eq!(node_of(&plane, "huge").await, None);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_that_comes_free_and_nodes_that_come_are_used() {
    let mut plane = Plane::start(1).await;
    plane.create::<Pod>(pod("first", "3", "1Gi")).await;
    assert_eq!(placed(&plane, "first").await, "node1");
    plane.create::<Pod>(pod("second", "3", "1Gi")).await;
    eventually("a refusal", || async {
        let said = plane.events("FailedScheduling").await;
        holds(said.iter().any(|m| m.ends_with("1 Insufficient cpu (node1).")), said)
    })
    .await;
    plane.api::<Pod>().delete("first", &DeleteParams::default()).await.unwrap();
    assert_eq!(placed(&plane, "second").await, "node1");
    plane.create::<Pod>(pod("third", "3", "1Gi")).await;
    plane.add_node("node2", "8", "16Gi").await;
    assert_eq!(placed(&plane, "third").await, "node2");
    plane.stop().await;
}
