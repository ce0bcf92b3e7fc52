//! `kubectl drain` of both releases: pods leave a node as fast as their disruption budget allows,
//! and stay where it does not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::api::{Api, Found, node_of, wait};
use bowline_tests::kubectl::Kubectl;
use bowline_tests::{Cluster, Wishes, artifacts};

const PATIENCE: Duration = Duration::from_secs(60);
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn a_node_is_drained_within_the_budget() -> Result<()> {
    let wishes = Wishes { nodes: 2, ..Wishes::default() };
    let cluster = Cluster::up(&wishes)?;
    let api = cluster.api().await?;
    let manifest = artifacts::example("web.yaml");
    for version in ["1.32", "1.36"] {
        let kubectl = Kubectl::new(version, &cluster)?;
        kubectl.run(&format!("apply -f {}", manifest.display()))?;
        api.ready_pods("app=web", 3, PATIENCE).await?;
        drains(&api, &kubectl)
            .await
            .with_context(|| format!("kubectl {version}"))
            .map_err(|error| cluster.with_logs(error))?;
        kubectl.run(&format!("delete -f {}", manifest.display()))?;
        api.no_pods("app=web", PATIENCE).await?;
    }
    Ok(())
}

async fn drains(api: &Api, kubectl: &Kubectl) -> Result<()> {
    let create = "create poddisruptionbudget web --selector=app=web --min-available=";
    kubectl.run(&format!("{create}2"))?;
    allows(kubectl, "1").await?;
    let drained = kubectl.run("drain node1 --timeout=60s")?;
    for words in ["node/node1 cordoned", "evicting pod default/web-", "node/node1 drained"] {
        ensure!(drained.contains(words), "drain does not say `{words}`:\n{drained}");
    }
    let nodes = kubectl.run("get nodes")?;
    ensure!(nodes.contains("Ready,SchedulingDisabled"), "{nodes}");
    let pods = api.ready_pods("app=web", 3, PATIENCE).await?;
    ensure!(pods.iter().all(|pod| node_of(pod) == "node2"), "a pod is left on node1");
    kubectl.run("uncordon node1")?;

    kubectl.run("delete poddisruptionbudget web")?;
    kubectl.run(&format!("{create}3"))?;
    allows(kubectl, "0").await?;
    let refused = kubectl.try_run("drain node2 --timeout=3s")?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && said.contains(REFUSED), "drain says: {said}");
    let pods = api.ready_pods("app=web", 3, PATIENCE).await?;
    ensure!(pods.iter().all(|pod| node_of(pod) == "node2"), "a pod left against the budget");
    kubectl.run("uncordon node2")?;
    kubectl.run("delete poddisruptionbudget web")?;

    // Nobody runs it yet; the pod goes on.
    let name = pods.first().and_then(|pod| pod.metadata.name.clone()).context("no pod")?;
    kubectl
        .run(&format!("debug {name} --image=172.30.0.1:5000/workload:v1 --container=debugger"))?;
    let containers = "-o jsonpath={.spec.ephemeralContainers[*].name}";
    let debuggers = kubectl.run(&format!("get pod {name} {containers}"))?;
    ensure!(debuggers.contains("debugger"), "{debuggers}");
    api.ready_pods("app=web", 3, PATIENCE).await?;
    Ok(())
}

/// Waits until the budget was counted and says how many pods may go.
async fn allows(kubectl: &Kubectl, expected: &str) -> Result<()> {
    let line = "get poddisruptionbudget web -o jsonpath=\
                {.status.observedGeneration}/{.status.disruptionsAllowed}";
    let expected = format!("1/{expected}");
    wait("the budget to be counted", PATIENCE, async || {
        let said = kubectl.run(line)?;
        Ok(if said.trim() == expected { Found::Yes(()) } else { Found::NotYet(said) })
    })
    .await
}
