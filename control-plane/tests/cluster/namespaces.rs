//! What every namespace has, and the administrator's kubeconfig.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::plane::{Plane, eventually, from, holds};

const ROOT: &str = "kube-root-ca.crt";

async fn has(maps: &Api<ConfigMap>, data: &BTreeMap<String, String>) {
    eventually("the root certificate", || async {
        let map = maps.get_opt(ROOT).await.unwrap();
        let found = map.map(|map| (map.data.unwrap_or_default(), map.binary_data));
        holds(found == Some((data.clone(), None)), found)
    })
    .await;
}

#[tokio::test]
async fn every_namespace_has_the_root_certificate() {
    let plane = Plane::start(0).await;
    let client = plane.client.clone();
    let system: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    eventually("the root certificate", || async {
        let map = system.get_opt(ROOT).await.unwrap();
        holds(map.is_some(), map)
    })
    .await;
    let data = system.get(ROOT).await.unwrap().data.unwrap();
    assert_eq!(data.len(), 1);
    assert!(data["ca.crt"].starts_with("-----BEGIN CERTIFICATE-----"), "{data:?}");

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let new = from(json!({ "metadata": { "name": "new" } }));
    namespaces.create(&PostParams::default(), &new).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "new");
    has(&maps, &data).await;
    for change in [
        json!({ "data": { "ca.crt": "mine" } }),
        json!({ "data": { "more": "x" } }),
        json!({ "binaryData": { "more": "eA==" } }),
        json!({ "data": null }),
    ] {
        maps.patch(ROOT, &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
        has(&maps, &data).await;
    }
    maps.delete(ROOT, &DeleteParams::default()).await.unwrap();
    has(&maps, &data).await;

    namespaces.delete("new", &DeleteParams::default()).await.unwrap();
    eventually("the namespace's end", || async {
        let namespace = namespaces.get_opt("new").await.unwrap();
        holds(namespace.is_none(), namespace)
    })
    .await;
}

#[tokio::test]
async fn pods_come_right_after_their_namespace() {
    let plane = Plane::start(0).await;
    let namespaces: Api<Namespace> = Api::all(plane.client.clone());
    for index in 0..10 {
        let name = format!("new-{index}");
        let new: Value = json!({ "metadata": { "name": name } });
        namespaces.create(&PostParams::default(), &from(new)).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(plane.client.clone(), &name);
        let pod = from(json!({
            "metadata": { "name": "p" },
            "spec": { "containers": [{ "name": "c", "image": "i:1" }] },
        }));
        pods.create(&PostParams::default(), &pod).await.unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(plane.client.clone(), &name);
        accounts.get("default").await.unwrap();
    }
}
