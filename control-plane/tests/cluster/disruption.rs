//! Disruption budgets: how they are counted, and how a node is drained by them.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use kube::api::{EvictParams, ListParams, Patch, PatchParams};
use kube::{Api, Error};
use serde_json::{Value, json};

use crate::plane::{Plane, STUCK, eventually, holds, pod_spec};

fn budget(name: &str, spec: Value) -> Value {
    let mut budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": name },
        "spec": { "selector": { "matchLabels": { "app": "web" } } },
    });
    for (field, value) in spec.as_object().unwrap() {
        budget["spec"][field] = value.clone();
    }
    budget
}

fn deployment(replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": pod_spec("100m", "64Mi"),
            },
        },
    })
}

/// Current, desired and expected pods, and how many may go.
fn counts(status: &PodDisruptionBudgetStatus) -> [i32; 4] {
    [
        status.current_healthy,
        status.desired_healthy,
        status.expected_pods,
        status.disruptions_allowed,
    ]
    .map(Option::unwrap_or_default)
}

async fn counted(plane: &Plane, name: &str, expected: [i32; 4]) -> PodDisruptionBudgetStatus {
    let budgets: Api<PodDisruptionBudget> = Api::default_namespaced(plane.client.clone());
    eventually("the budget is counted", || async {
        let budget = budgets.get(name).await.map_err(|error| error.to_string())?;
        let generation = budget.metadata.generation;
        let status = budget.status.unwrap_or_default();
        let seen = status.observed_generation == generation && counts(&status) == expected;
        holds(seen, status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budgets_follow_their_pods_and_the_scale_of_their_owners() {
    let plane = Plane::start(2).await;
    for (name, spec) in [
        ("least", json!({ "minAvailable": 2 })),
        ("percent", json!({ "minAvailable": "50%" })),
        ("most", json!({ "maxUnavailable": 1 })),
        ("nobody", json!({ "minAvailable": 1, "selector": { "matchLabels": { "app": "x" } } })),
    ] {
        plane.create::<PodDisruptionBudget>(budget(name, spec)).await;
    }
    plane.create::<Deployment>(deployment(5)).await;
    counted(&plane, "least", [5, 2, 5, 3]).await;
    counted(&plane, "percent", [5, 3, 5, 2]).await;
    counted(&plane, "most", [5, 4, 5, 1]).await;
    let none = counted(&plane, "nobody", [0, 1, 0, 0]).await;
    let condition = &none.conditions.unwrap_or_default()[0];
    assert_eq!((&*condition.status, &*condition.reason), ("False", "InsufficientPods"));

    let deployments: Api<Deployment> = Api::default_namespaced(plane.client.clone());
    let scale = Patch::Merge(json!({ "spec": { "replicas": 3 } }));
    deployments.patch("web", &PatchParams::default(), &scale).await.unwrap();
    counted(&plane, "percent", [3, 2, 3, 1]).await;
    counted(&plane, "most", [3, 2, 3, 1]).await;

    let changed = Patch::Merge(json!({ "spec": { "maxUnavailable": "100%" } }));
    let budgets: Api<PodDisruptionBudget> = Api::default_namespaced(plane.client.clone());
    budgets.patch("most", &PatchParams::default(), &changed).await.unwrap();
    counted(&plane, "most", [3, 0, 3, 3]).await;

    let never_ready = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": "stuck" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "x" } },
            "template": {
                "metadata": { "labels": { "app": "x", STUCK: "" } },
                "spec": pod_spec("100m", "64Mi"),
            },
        },
    });
    plane.create::<ReplicaSet>(never_ready).await;
    counted(&plane, "nobody", [0, 1, 2, 0]).await;
    plane.stop().await;
}

/// What `kubectl drain` does: cordon, then evict what is on the node, and wait where a budget says
/// so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_drained_within_the_budget() {
    let plane = Plane::start(2).await;
    plane.create::<Deployment>(deployment(4)).await;
    plane.create::<PodDisruptionBudget>(budget("web", json!({ "minAvailable": 3 }))).await;
    counted(&plane, "web", [4, 3, 4, 1]).await;

    let nodes: Api<Node> = Api::all(plane.client.clone());
    let cordon = Patch::Strategic(json!({ "spec": { "unschedulable": true } }));
    nodes.patch("node1", &PatchParams::default(), &cordon).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(plane.client.clone());
    let here = ListParams::default().fields("spec.nodeName=node1");
    let leaving = pods.list(&here).await.unwrap().items;
    assert!(!leaving.is_empty(), "the scheduler uses both nodes");

    let watched = tokio::spawn(fewest_ready(plane.client.clone()));
    let mut refusals = 0;
    for pod in &leaving {
        let name = pod.metadata.name.as_deref().unwrap();
        loop {
            match pods.evict(name, &EvictParams::default()).await {
                Ok(_) => break,
                Err(Error::Api(status)) if status.code == 429 => {
                    assert!(status.message.contains("disruption budget"), "{}", status.message);
                    refusals += 1;
                    assert!(refusals < 1000, "the budget never allows it");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    eventually("the node is empty", || async {
        let left = pods.list(&here).await.unwrap().items.len();
        holds(left == 0, left)
    })
    .await;
    counted(&plane, "web", [4, 3, 4, 1]).await;
    assert!(!watched.is_finished(), "the budget was not kept");
    watched.abort();
    plane.stop().await;
}

/// Looks all the time whether the budget is kept.
async fn fewest_ready(client: kube::Client) {
    let pods: Api<Pod> = Api::default_namespaced(client);
    loop {
        let Ok(listed) = pods.list(&ListParams::default()).await else { return };
        let ready = listed.items.iter().filter(|pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            let is_ready = conditions
                .into_iter()
                .flatten()
                .any(|one| one.type_ == "Ready" && one.status == "True");
            is_ready && pod.metadata.deletion_timestamp.is_none()
        });
        assert!(ready.count() >= 3, "fewer pods than the budget wants");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
