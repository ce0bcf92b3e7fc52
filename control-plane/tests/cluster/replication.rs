//! Replication controllers and the endpoints of services.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Endpoints, Pod, ReplicationController, Service};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::plane::{Plane, eventually, holds, pod_spec};

fn controller(replicas: i32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ReplicationController",
        "metadata": { "name": "nifty" },
        "spec": {
            "replicas": replicas,
            "selector": { "App": "Nifty" },
            "template": {
                "metadata": { "labels": { "App": "Nifty" } },
                "spec": pod_spec("500m", "64Mi"),
            },
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "nifty-svc" },
        "spec": {
            "selector": { "App": "Nifty" },
            "clusterIP": "10.9.8.7",
            "ports": [{ "port": 80, "targetPort": "web" }],
        },
    })
}

async fn ready(plane: &Plane, count: usize) -> Vec<String> {
    eventually(&format!("{count} ready endpoints"), || async {
        let addresses = plane.ready_addresses("nifty-svc").await;
        holds(addresses.len() == count, addresses)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_made_placed_published_scaled_and_replaced() {
    let plane = Plane::start(3).await;
    plane.create::<Service>(service()).await;
    plane.create::<ReplicationController>(controller(3)).await;
    ready(&plane, 3).await;

    let nodes: BTreeSet<_> = plane
        .pods("App=Nifty")
        .await
        .into_iter()
        .map(|pod| pod.spec.unwrap().node_name.unwrap())
        .collect();
    assert_eq!(nodes.len(), 3, "one pod on each node");
    let legacy = eventually("endpoints", || async {
        let endpoints =
            plane.api::<Endpoints>().get("nifty-svc").await.map_err(|e| e.to_string())?;
        let subsets = endpoints.subsets.unwrap_or_default();
        let addresses = subsets.iter().flat_map(|s| s.addresses.iter().flatten()).count();
        holds(addresses == 3, subsets)
    })
    .await;
    assert_eq!(legacy[0].ports.as_ref().unwrap()[0].port, 9376);
    assert_eq!(plane.events("SuccessfulCreate").await.len(), 3);
    assert_eq!(plane.events("Scheduled").await.len(), 3);

    let controllers = plane.api::<ReplicationController>();
    let scale = Patch::Merge(json!({ "spec": { "replicas": 6 } }));
    controllers.patch_scale("nifty", &PatchParams::default(), &scale).await.unwrap();
    ready(&plane, 6).await;
    let victim = plane.pods("App=Nifty").await.remove(0);
    let name = victim.metadata.name.unwrap();
    plane.api::<Pod>().delete(&name, &DeleteParams::default()).await.unwrap();
    eventually("a replacement", || async {
        let pods = plane.pods("App=Nifty").await;
        let gone = pods.iter().all(|pod| pod.metadata.name.as_ref() != Some(&name));
        holds(gone && pods.len() == 6, pods.len())
    })
    .await;
    ready(&plane, 6).await;

    let scale = Patch::Merge(json!({ "spec": { "replicas": 1 } }));
    controllers.patch_scale("nifty", &PatchParams::default(), &scale).await.unwrap();
    ready(&plane, 1).await;
    eventually("the status", || async {
        let status = controllers.get("nifty").await.unwrap().status.unwrap();
        let counts = (status.replicas, status.ready_replicas, status.available_replicas);
        holds(counts == (1, Some(1), Some(1)), counts)
    })
    .await;
    assert_eq!(plane.pods("App=Nifty").await.len(), 1, "never more than asked for");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_is_adopted_and_a_relabelled_pod_released() {
    let plane = Plane::start(1).await;
    let orphan = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "orphan", "labels": { "App": "Nifty" } },
        "spec": pod_spec("100m", "64Mi"),
    });
    plane.create::<Pod>(orphan).await;
    plane.create::<ReplicationController>(controller(2)).await;
    let owned = |pod: &Pod| pod.metadata.owner_references.is_some();
    eventually("adoption", || async {
        let pods = plane.pods("App=Nifty").await;
        holds(pods.len() == 2 && pods.iter().all(owned), pods.len())
    })
    .await;
    let relabel = Patch::Merge(json!({ "metadata": { "labels": { "App": "Other" } } }));
    plane.api::<Pod>().patch("orphan", &PatchParams::default(), &relabel).await.unwrap();
    eventually("release and replacement", || async {
        let (kept, released) = (plane.pods("App=Nifty").await, plane.pods("App=Other").await);
        holds(kept.len() == 2 && !owned(&released[0]), kept.len())
    })
    .await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_leaves_the_ready_endpoints_at_once() {
    let plane = Plane::start(1).await;
    plane.create::<Service>(service()).await;
    plane.create::<ReplicationController>(controller(4)).await;
    ready(&plane, 4).await;
    // The played agent lets the pod be: what is measured is the way from the API to the slice.
    plane.silence("node1");
    let mut delays = Vec::new();
    for pod in plane.pods("App=Nifty").await {
        let (name, uid) = (pod.metadata.name.unwrap(), pod.metadata.uid);
        plane.api::<Pod>().delete(&name, &DeleteParams::default()).await.unwrap();
        let deleted = Instant::now();
        loop {
            let endpoints = plane.endpoints("nifty-svc").await;
            let ours = endpoints
                .iter()
                .find(|e| e.target_ref.as_ref().is_some_and(|target| target.uid == uid))
                .and_then(|endpoint| endpoint.conditions.clone())
                .expect("a terminating endpoint stays in its slice");
            if ours.terminating == Some(true) {
                assert_eq!((ours.ready, ours.serving), (Some(false), Some(true)));
                break;
            }
            assert!(deleted.elapsed() < Duration::from_secs(5), "still ready");
        }
        delays.push(deleted.elapsed());
    }
    delays.sort();
    println!("delete to slice: {delays:?}");
    assert!(delays[1] < Duration::from_millis(50), "{delays:?}");
    plane.stop().await;
}
