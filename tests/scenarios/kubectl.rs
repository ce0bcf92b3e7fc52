//! Unmodified kubectl, the oldest and the newest release that is supported, with the verbs that
//! people use first.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::kubectl::Kubectl;
use bowline_tests::{Cluster, Wishes, artifacts};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn the_everyday_verbs_of_both_releases() -> Result<()> {
    let wishes = Wishes { nodes: 2, ..Wishes::default() };
    let cluster = Cluster::up(&wishes)?;
    for version in ["1.32", "1.36"] {
        let kubectl = Kubectl::new(version, &cluster)?;
        play(&cluster, &kubectl)
            .await
            .with_context(|| format!("kubectl {version}"))
            .map_err(|error| cluster.with_logs(error))?;
    }
    Ok(())
}

async fn play(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let api = cluster.api().await?;
    let manifest = artifacts::example("web.yaml");
    let manifest = manifest.display();
    says(kubectl, "get nodes", &["node1", "node2", "Ready"])?;
    says(kubectl, "api-resources", &["deployments", "replicationcontrollers", "po"])?;
    says(
        kubectl,
        &format!("apply -f {manifest}"),
        &["deployment.apps/web created", "service/web created"],
    )?;
    says(kubectl, &format!("apply -f {manifest}"), &["deployment.apps/web unchanged"])?;
    api.ready_pods("app=web", 3, PATIENCE).await?;
    says(kubectl, "get pods", &["NAME", "READY", "STATUS", "1/1", "Running"])?;
    says(kubectl, "get pods -o wide", &["10.240.", "node1"])?;
    says(kubectl, "get deployment web", &["3/3"])?;
    says(kubectl, "get services", &["CLUSTER-IP", "10.9.8.8", "80/TCP"])?;
    says(kubectl, "get service web -o yaml", &["clusterIP: 10.9.8.8", "apiVersion: v1"])?;
    says(kubectl, "describe deployment web", &["StrategyType", "RollingUpdate", "3 available"])?;
    says(kubectl, "describe service web", &["10.9.8.8", "Endpoints"])?;
    says(kubectl, "describe node node1", &["Capacity", "cpu", "Taints"])?;
    json_and_describe(kubectl)?;
    watch_sees_a_scale(kubectl)?;
    says(kubectl, "label pods -l app=web tier=front", &["labeled"])?;
    says(kubectl, "get pods -l tier=front --no-headers", &["web-"])?;
    create_and_delete(kubectl)?;
    says(kubectl, &format!("delete -f {manifest}"), &["deleted"])?;
    api.no_pods("app=web", PATIENCE).await
}

fn says(kubectl: &Kubectl, line: &str, expected: &[&str]) -> Result<()> {
    let said = kubectl.run(line)?;
    for word in expected {
        ensure!(said.contains(word), "`kubectl {line}` does not say `{word}`:\n{said}");
    }
    Ok(())
}

fn json_and_describe(kubectl: &Kubectl) -> Result<()> {
    let list: Value = serde_json::from_str(&kubectl.run("get pods -l app=web -o json")?)?;
    let items = list["items"].as_array().context("no items")?;
    ensure!(items.len() == 3, "{} pods", items.len());
    let name = items[0]["metadata"]["name"].as_str().context("a pod without a name")?;
    says(kubectl, &format!("describe pod {name}"), &["Status", "Running", "Image", "Events"])?;
    says(kubectl, &format!("get pod {name} -o jsonpath={{.status.podIP}}"), &["10.240."])
}

/// `get -w` prints the change that `scale` makes.
fn watch_sees_a_scale(kubectl: &Kubectl) -> Result<()> {
    let mut watch = kubectl
        .command("get replicasets -l app=web -w --no-headers --request-timeout=60s")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
    let first = lines.next().context("the watch printed nothing")??;
    ensure!(first.split_whitespace().nth(1) == Some("3"), "not three: {first}");
    says(kubectl, "scale deployment web --replicas=2", &["scaled"])?;
    let second = lines.next().context("the watch ended")??;
    watch.kill()?;
    watch.wait()?;
    ensure!(second.split_whitespace().nth(1) == Some("2"), "not two: {second}");
    Ok(())
}

fn create_and_delete(kubectl: &Kubectl) -> Result<()> {
    says(kubectl, "create namespace side", &["namespace/side created"])?;
    let create = "create configmap settings -n side --from-literal=a=1";
    says(kubectl, create, &["configmap/settings created"])?;
    let again = kubectl.try_run(create)?;
    let error = String::from_utf8_lossy(&again.stderr);
    ensure!(
        !again.status.success() && error.contains("already exists"),
        "a second create: {error}"
    );
    says(kubectl, "get configmap settings -n side -o jsonpath={.data.a}", &["1"])?;
    says(kubectl, "delete configmap settings -n side", &["deleted"])?;
    says(kubectl, "delete namespace side", &["deleted"])
}
