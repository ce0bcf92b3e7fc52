//! Each cluster address has an object that says whose it is.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::IPAddress;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::plane::{Plane, eventually, holds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_come_and_go_with_their_services() {
    let plane = Plane::start(1).await;
    let addresses: Api<IPAddress> = Api::all(plane.client.clone());
    let shows = async |address: &'static str, service: Option<&'static str>| {
        eventually(address, || async {
            let found = addresses.get_opt(address).await.unwrap();
            let parent = found.as_ref().map(|found| found.spec.parent_ref.name.clone());
            holds(parent.as_deref() == service, parent)
        })
        .await
    };
    shows("10.9.0.1", Some("kubernetes")).await;
    let service: fn(&str) -> Value = |name| {
        json!({ "metadata": { "name": name },
            "spec": { "clusterIP": "10.9.0.200", "ports": [{ "port": 80 }] } })
    };
    plane.create::<Service>(service("first")).await;
    shows("10.9.0.200", Some("first")).await;
    let object = serde_json::to_value(addresses.get("10.9.0.200").await.unwrap()).unwrap();
    let labels = json!({ "ipaddress.kubernetes.io/ip-family": "IPv4",
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io" });
    assert_eq!(object["metadata"]["labels"], labels);
    let parent = json!({ "name": "first", "namespace": "default", "resource": "services" });
    assert_eq!(object["spec"]["parentRef"], parent);

    let params = DeleteParams::default();
    addresses.delete("10.9.0.200", &params).await.unwrap();
    shows("10.9.0.200", Some("first")).await;
    plane.api::<Service>().delete("first", &params).await.unwrap();
    plane.create::<Service>(service("second")).await;
    shows("10.9.0.200", Some("second")).await;
    plane.api::<Service>().delete("second", &params).await.unwrap();
    shows("10.9.0.200", None).await;
    plane.stop().await;
}
