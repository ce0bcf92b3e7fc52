//! What is used of quotas shows in their status.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::plane::{Plane, eventually, holds, pod_spec};

async fn shows(plane: &Plane, quota: &str, hard: Value, used: Value) {
    let expected = json!({ "hard": hard, "used": used });
    eventually(quota, || async {
        let quota = plane.api::<ResourceQuota>().get(quota).await.unwrap();
        let status = serde_json::to_value(quota.status).unwrap();
        holds(status == expected, status)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_shows_what_is_used() {
    // Without nodes nobody but the test says what becomes of pods.
    let plane = Plane::start(0).await;
    let hard = json!({ "pods": "2", "requests.cpu": "1", "configmaps": "9", "services": "5",
        "count/nothing.example.com": "1", "requests.storage": "1Gi" });
    let quota = json!({ "metadata": { "name": "all" }, "spec": { "hard": hard } });
    plane.create::<ResourceQuota>(quota).await;
    let scoped = json!({ "pods": "1" });
    let quota = json!({ "metadata": { "name": "best" },
        "spec": { "hard": scoped, "scopes": ["BestEffort"] } });
    plane.create::<ResourceQuota>(quota).await;
    let used = |pods: &str, cpu: &str, configs: &str| {
        json!({ "pods": pods, "requests.cpu": cpu, "configmaps": configs, "services": "1",
            "requests.storage": "0" })
    };
    // Every namespace has a config map with the cluster's certificate.
    shows(&plane, "all", hard.clone(), used("0", "0", "1")).await;
    shows(&plane, "best", scoped.clone(), json!({ "pods": "0" })).await;

    for name in ["a", "b"] {
        let pod = json!({ "metadata": { "name": name }, "spec": pod_spec("250m", "64Mi") });
        plane.create::<Pod>(pod).await;
        plane.create::<ConfigMap>(json!({ "metadata": { "name": name } })).await;
    }
    shows(&plane, "all", hard.clone(), used("2", "500m", "3")).await;
    let ended = json!({ "status": { "phase": "Succeeded" } });
    let (pods, params) = (plane.api::<Pod>(), PatchParams::default());
    pods.patch_status("a", &params, &Patch::Merge(&ended)).await.unwrap();
    plane.api::<ConfigMap>().delete("a", &DeleteParams::default()).await.unwrap();
    shows(&plane, "all", hard.clone(), used("1", "250m", "2")).await;

    let quotas = plane.api::<ResourceQuota>();
    let less = json!({ "spec": { "hard": { "requests.storage": null, "pods": "7" } } });
    quotas.patch("all", &params, &Patch::Merge(&less)).await.unwrap();
    let (mut hard, mut used) = (hard, used("1", "250m", "2"));
    hard["pods"] = json!("7");
    for amounts in [&mut hard, &mut used] {
        amounts.as_object_mut().unwrap().remove("requests.storage");
    }
    shows(&plane, "all", hard, used).await;
    shows(&plane, "best", scoped, json!({ "pods": "0" })).await;
    plane.stop().await;
}
