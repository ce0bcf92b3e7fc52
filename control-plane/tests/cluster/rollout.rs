//! Deployments.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Service;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::plane::{Plane, STUCK, eventually, holds, pod_spec};

fn deployment(strategy: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 3,
            "strategy": strategy,
            "progressDeadlineSeconds": 2,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": pod_spec("100m", "64Mi"),
            },
        },
    })
}

fn image(image: &str) -> Patch<Value> {
    Patch::Strategic(json!({ "spec": { "template": { "spec": { "containers": [
        { "name": "c", "image": image },
    ]}}}}))
}

fn condition(deployment: &Deployment, type_: &str) -> Option<(String, String)> {
    let status = deployment.status.as_ref()?;
    let found = status.conditions.iter().flatten().find(|c| c.type_ == type_)?;
    Some((found.status.clone(), found.reason.clone().unwrap_or_default()))
}

async fn rolled_out(plane: &Plane, revision: &str) -> Deployment {
    eventually(&format!("rollout of revision {revision}"), || async {
        let deployment = plane.api::<Deployment>().get("web").await.unwrap();
        let status = deployment.status.clone().unwrap_or_default();
        let noted = deployment.metadata.annotations.clone().unwrap_or_default();
        let done = status.observed_generation == deployment.metadata.generation
            && noted.get("deployment.kubernetes.io/revision").map(String::as_str) == Some(revision)
            && condition(&deployment, "Progressing")
                == Some(("True".to_owned(), "NewReplicaSetAvailable".to_owned()))
            && (status.replicas, status.updated_replicas, status.available_replicas)
                == (Some(3), Some(3), Some(3));
        if done { Ok(deployment) } else { Err(format!("{noted:?} {status:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_never_lacks_endpoints_and_can_be_undone() {
    let plane = Plane::start(3).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
    });
    plane.create::<Service>(service).await;
    let rolling = json!({ "type": "RollingUpdate",
        "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } });
    plane.create::<Deployment>(deployment(&rolling)).await;
    rolled_out(&plane, "1").await;
    eventually("endpoints", || async {
        let ready = plane.ready_addresses("web").await;
        holds(ready.len() == 3, ready)
    })
    .await;

    let deployments = plane.api::<Deployment>();
    let update = image("registry.test/x:2");
    deployments.patch("web", &PatchParams::default(), &update).await.unwrap();
    let watch = async {
        loop {
            let ready = plane.ready_addresses("web").await.len();
            assert!(ready >= 2, "{ready} ready endpoints during the update");
            assert!(plane.pods("app=web").await.len() <= 4, "more pods than the surge allows");
        }
    };
    tokio::select! {
        _ = rolled_out(&plane, "2") => {}
        () = watch => {}
    }
    let images: Vec<_> = plane
        .pods("app=web")
        .await
        .iter()
        .map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap())
        .collect();
    assert_eq!(images, ["registry.test/x:2"; 3]);

    let back = image("registry.test/x:1");
    deployments.patch("web", &PatchParams::default(), &back).await.unwrap();
    rolled_out(&plane, "3").await;
    let sets = plane.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap();
    assert_eq!(sets.items.len(), 2, "the old replica set is used again");
    let scaled = plane.events("ScalingReplicaSet").await;
    assert!(scaled.iter().any(|m| m.ends_with("from 0 to 3")), "{scaled:?}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreation_lets_the_old_pods_go_first_and_old_sets_are_cleaned_up() {
    let plane = Plane::start(1).await;
    let mut wanted = deployment(&json!({ "type": "Recreate" }));
    wanted["spec"]["revisionHistoryLimit"] = 1.into();
    plane.create::<Deployment>(wanted).await;
    rolled_out(&plane, "1").await;
    for revision in ["2", "3", "4"] {
        let update = image(&format!("registry.test/x:{revision}"));
        let deployments = plane.api::<Deployment>();
        deployments.patch("web", &PatchParams::default(), &update).await.unwrap();
        let watch = async {
            loop {
                let images: std::collections::BTreeSet<_> = plane
                    .pods("app=web")
                    .await
                    .iter()
                    .map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap())
                    .collect();
                assert!(images.len() <= 1, "two versions at a time: {images:?}");
            }
        };
        tokio::select! {
            _ = rolled_out(&plane, revision) => {}
            () = watch => {}
        }
    }
    eventually("clean-up", || async {
        let sets = plane.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap();
        holds(sets.items.len() == 2, sets.items.len())
    })
    .await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_hangs_says_so_and_keeps_what_works() {
    let plane = Plane::start(1).await;
    plane.create::<Deployment>(deployment(&Value::Null)).await;
    rolled_out(&plane, "1").await;
    let stuck = Patch::Merge(json!({ "spec": { "template": { "metadata": {
        "labels": { STUCK: "yes" },
    }}}}));
    let deployments = plane.api::<Deployment>();
    deployments.patch("web", &PatchParams::default(), &stuck).await.unwrap();
    eventually("the deadline", || async {
        let deployment = deployments.get("web").await.unwrap();
        let progressing = condition(&deployment, "Progressing");
        let exceeded = Some(("False".to_owned(), "ProgressDeadlineExceeded".to_owned()));
        holds(progressing == exceeded, progressing)
    })
    .await;
    let deployment = deployments.get("web").await.unwrap();
    let available = Some(("True".to_owned(), "MinimumReplicasAvailable".to_owned()));
    assert_eq!(condition(&deployment, "Available"), available);
    assert_eq!(plane.pods("app=web").await.len(), 4);
    plane.stop().await;
}
