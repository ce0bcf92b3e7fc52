//! The administrator's kubeconfig is renewed while the server runs.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::ListParams;

use super::plane::{Plane, client, eventually, holds};

const LIFE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn the_kubeconfig_is_renewed_in_its_place() {
    let plane = Plane::start_with_certificates_of(LIFE, 0).await;
    let read = || std::fs::read_to_string(&plane.kubeconfig).unwrap();
    let first = read();
    eventually("another kubeconfig", || async { holds(read() != first, ()) }).await;
    // What was there first ends, and what is there then is new.
    tokio::time::sleep(LIFE).await;
    let second = read();
    eventually("a third kubeconfig", || async { holds(read() != second, ()) }).await;
    let namespaces: Api<Namespace> = Api::all(client(&plane.kubeconfig).await);
    namespaces.list(&ListParams::default()).await.unwrap();
    let old = plane.kubeconfig.with_extension("old");
    std::fs::write(&old, first).unwrap();
    let namespaces: Api<Namespace> = Api::all(client(&old).await);
    namespaces.list(&ListParams::default()).await.unwrap_err();
    plane.stop().await;
}
