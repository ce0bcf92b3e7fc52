//! What the API refuses, with which status, and that nothing of it is stored.

use anyhow::{Result, ensure};
use bowline_tests::api::{Api, Found, wait};
use bowline_tests::command::finish;
use bowline_tests::{Cluster, Wishes};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{PostParams, Request};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn refusals_are_precise_and_store_nothing() -> Result<()> {
    let wishes = Wishes { nodes: 1, registry: false, ..Wishes::default() };
    let cluster = Cluster::up(&wishes)?;
    let api = cluster.api().await?;
    invalid_manifest(&api).await?;
    unknown_kind(&api).await?;
    stale_version(&api).await?;
    invalid_manifest_through_apply(&cluster)?;
    image_that_cannot_be_pulled(&api).await
}

/// The status that a request was answered with.
fn status(error: kube::Error) -> Result<kube::core::Status> {
    match error {
        kube::Error::Api(status) => Ok(*status),
        other => Err(other.into()),
    }
}

async fn invalid_manifest(api: &Api) -> Result<()> {
    let pods = api.of::<Pod>();
    let rows = [
        (json!([{ "image": "x" }]), "spec.containers[0].name"),
        (json!([{ "name": "Not_A_Label", "image": "x" }]), "spec.containers[0].name"),
        (
            json!([{ "name": "a", "image": "x", "ports": [{ "containerPort": 70000 }] }]),
            "spec.containers[0].ports[0].containerPort",
        ),
        (
            json!([{ "name": "a", "image": "x" }, { "name": "a", "image": "y" }]),
            "spec.containers[1].name",
        ),
    ];
    for (containers, path) in rows {
        let pod: Value = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "invalid" }, "spec": { "containers": containers },
        });
        let request = Request::new("/api/v1/namespaces/default/pods")
            .create(&PostParams::default(), serde_json::to_vec(&pod)?)?;
        let answer = api.client().request::<Value>(request).await;
        let Err(error) = answer else { anyhow::bail!("accepted: {pod}") };
        let status = status(error)?;
        ensure!((status.code, status.reason.as_str()) == (422, "Invalid"), "{status:?}");
        ensure!(status.message.contains(path), "{path} is not in: {}", status.message);
        let causes = status.details.map(|details| details.causes).unwrap_or_default();
        ensure!(causes.iter().any(|cause| cause.field == path), "{path} is no cause: {causes:?}");
        ensure!(pods.get_opt("invalid").await?.is_none(), "an invalid pod was stored");
    }
    Ok(())
}

async fn unknown_kind(api: &Api) -> Result<()> {
    for path in ["/api/v1/namespaces/default/gadgets", "/apis/example.test/v1/gadgets"] {
        let request = Request::new(path).get("x", &kube::api::GetParams::default())?;
        let Err(error) = api.client().request::<Value>(request).await else {
            anyhow::bail!("{path} was found");
        };
        let status = status(error)?;
        ensure!((status.code, status.reason.as_str()) == (404, "NotFound"), "{status:?}");
    }
    Ok(())
}

async fn stale_version(api: &Api) -> Result<()> {
    let maps = api.of::<ConfigMap>();
    let map: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "stale" } }))?;
    let mut first = maps.create(&PostParams::default(), &map).await?;
    let stale = first.clone();
    first.data = Some([("a".to_owned(), "1".to_owned())].into());
    maps.replace("stale", &PostParams::default(), &first).await?;
    let Err(error) = maps.replace("stale", &PostParams::default(), &stale).await else {
        anyhow::bail!("a stale version was accepted");
    };
    let status = status(error)?;
    ensure!((status.code, status.reason.as_str()) == (409, "Conflict"), "{status:?}");
    let kept = maps.get("stale").await?.data.unwrap_or_default();
    ensure!(kept.get("a").map(String::as_str) == Some("1"), "the refused write won: {kept:?}");
    Ok(())
}

fn invalid_manifest_through_apply(cluster: &Cluster) -> Result<()> {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    std::fs::write(
        &file,
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec:\n  clusterIP: 1.2.3.4\n  \
         ports: [{port: 80}]\n",
    )?;
    let output = finish(cluster.bowline(&["apply", "-f"])?.arg(file.path()))?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "an address outside of the range was accepted");
    ensure!(text.contains("spec.clusterIP"), "no path of the field: {text}");
    Ok(())
}

async fn image_that_cannot_be_pulled(api: &Api) -> Result<()> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "no-image" },
        "spec": { "containers": [{ "name": "a", "image": "172.30.0.1:5000/absent:v1" }] },
    }))?;
    let pods = api.of::<Pod>();
    pods.create(&PostParams::default(), &pod).await?;
    for expected in ["ErrImagePull", "ImagePullBackOff"] {
        wait(expected, Duration::from_secs(40), || async {
            let status = pods.get("no-image").await?.status.unwrap_or_default();
            let containers = status.container_statuses.unwrap_or_default();
            let waiting = containers.into_iter().find_map(|container| container.state?.waiting);
            let reason = waiting.and_then(|waiting| waiting.reason).unwrap_or_default();
            Ok(if reason == expected { Found::Yes(()) } else { Found::NotYet(reason) })
        })
        .await?;
    }
    let messages = api.events_about("no-image", "Failed").await?;
    ensure!(
        messages.iter().any(|message| message.contains("172.30.0.1:5000/absent:v1")),
        "no event names the image: {messages:?}"
    );
    Ok(())
}
