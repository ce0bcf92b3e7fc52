//! Namespace deletion and garbage collection.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::plane::{Plane, eventually, from, holds, pod_spec};

fn replica_set(namespace: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": "set", "namespace": namespace },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "set" } },
            "template": {
                "metadata": { "labels": { "app": "set" } },
                "spec": pod_spec("100m", "64Mi"),
            },
        },
    })
}

async fn with_pods(plane: &Plane) {
    plane.create::<ReplicaSet>(replica_set("default")).await;
    eventually("two pods", || async {
        let pods = plane.pods("app=set").await;
        holds(pods.len() == 2, pods.len())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_with_all_it_holds() {
    let plane = Plane::start(1).await;
    let namespaces: Api<Namespace> = Api::all(plane.client.clone());
    let namespace: Namespace = from(json!({ "metadata": { "name": "short" } }));
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(plane.client.clone(), "short");
    eventually("the default service account", || async {
        accounts.get("default").await.map_err(|error| error.to_string())
    })
    .await;
    plane.create::<ReplicaSet>(replica_set("short")).await;
    let held = json!({
        "metadata": { "name": "held", "namespace": "short", "finalizers": ["example.org/wait"] },
    });
    plane.create::<ConfigMap>(held).await;
    let pods: Api<Pod> = Api::namespaced(plane.client.clone(), "short");
    eventually("two pods", || async {
        let count = pods.list(&ListParams::default()).await.unwrap().items.len();
        holds(count == 2, count)
    })
    .await;

    namespaces.delete("short", &DeleteParams::default()).await.unwrap();
    eventually("what holds the namespace is said", || async {
        let namespace = namespaces.get("short").await.map_err(|error| error.to_string())?;
        let conditions = namespace.status.unwrap_or_default().conditions.unwrap_or_default();
        let said = conditions.iter().any(|c| {
            c.message.as_deref().is_some_and(|message| message.contains("example.org/wait in 1"))
        });
        holds(said, conditions)
    })
    .await;
    let configs: Api<ConfigMap> = Api::namespaced(plane.client.clone(), "short");
    let free: ConfigMap = {
        let mut held = configs.get("held").await.unwrap();
        held.metadata.finalizers = None;
        held
    };
    configs.replace("held", &PostParams::default(), &free).await.unwrap();
    eventually("the namespace is gone", || async {
        let left = namespaces.get_opt("short").await.unwrap();
        holds(left.is_none(), left.map(|namespace| namespace.status))
    })
    .await;
    assert!(pods.list(&ListParams::default()).await.unwrap().items.is_empty());
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_in_the_background() {
    let plane = Plane::start(1).await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": pod_spec("100m", "64Mi"),
            },
        },
    });
    plane.create::<Deployment>(deployment).await;
    eventually("two pods", || async {
        let pods = plane.pods("app=web").await;
        holds(pods.len() == 2, pods.len())
    })
    .await;
    let background = DeleteParams::background();
    plane.api::<Deployment>().delete("web", &background).await.unwrap();
    eventually("nothing left", || async {
        let sets = plane.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap();
        let pods = plane.api::<Pod>().list(&ListParams::default()).await.unwrap();
        let left = (sets.items.len(), pods.items.len());
        holds(left == (0, 0), left)
    })
    .await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_foreground_the_owner_goes_last() {
    let plane = Plane::start(1).await;
    with_pods(&plane).await;
    let sets = plane.api::<ReplicaSet>();
    sets.delete("set", &DeleteParams::foreground()).await.unwrap();
    eventually("the end", || async {
        // In this order: had the set gone first, the second answer would show pods.
        let set = sets.get_opt("set").await.unwrap();
        let pods = plane.api::<Pod>().list(&ListParams::default()).await.unwrap().items.len();
        assert!(set.is_some() || pods == 0, "the set went before its pods");
        holds(set.is_none(), pods)
    })
    .await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_stay() {
    let plane = Plane::start(1).await;
    with_pods(&plane).await;
    let sets = plane.api::<ReplicaSet>();
    sets.delete("set", &DeleteParams::orphan()).await.unwrap();
    eventually("the set is gone", || async {
        let set = sets.get_opt("set").await.unwrap();
        holds(set.is_none(), ())
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let pods = plane.pods("app=set").await;
    assert_eq!(pods.len(), 2);
    let owners: Vec<_> =
        pods.iter().flat_map(|pod| pod.metadata.owner_references.iter().flatten()).collect();
    assert!(owners.is_empty(), "{owners:?}");
    plane.stop().await;
}
