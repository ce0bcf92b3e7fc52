//! The API server goes away, and agents die and start again meanwhile: services, names and pods
//! go on, and when it is back nothing is written that did not change.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_tests::api::{Found, node_of, uid, wait};
use bowline_tests::command::output;
use bowline_tests::load::{self, Load};
use bowline_tests::{EchoStage, Node, Wishes};
use k8s_openapi::api::core::v1::Pod;

const PATIENCE: Duration = Duration::from_secs(60);
/// How long agents run without the API after they started without it.
const AWAY: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn the_node_goes_on_without_the_api_and_agrees_with_it_later() -> Result<()> {
    let stage = EchoStage::up(&Wishes { nodes: 2, ..Wishes::default() }).await?;
    play(&stage).await.map_err(|error| stage.cluster.with_logs(error))
}

async fn play(stage: &EchoStage) -> Result<()> {
    let before = pods(stage).await?;
    let maps = dumps(stage)?;
    let open = Load::hold(&stage.place()?, EchoStage::service(), 10)?;
    let fresh = Load::start(&stage.place()?, EchoStage::service(), 2, 5000)?;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let away = Instant::now();
    stage.cluster.kill_server()?;
    for node in &stage.cluster.nodes {
        node.kill_agent()?;
        node.start_agent()?;
    }
    for node in &stage.cluster.nodes {
        says(node, "going on with what it said last").await?;
        answers_names(stage, node).await?;
    }
    tokio::time::sleep(AWAY).await;
    open.stop()?.expect_no_failure("on open connections")?;
    let fresh = fresh.stop()?;
    fresh.expect_no_failure("on fresh connections")?;
    ensure!(fresh.values("pod").len() == 2, "answers from {:?}", fresh.seen("pod"));
    ensure!(dumps(stage)? == maps, "the service maps changed while the API was away");
    restarts(stage).await.context("a container that ends")?;
    let away = away.elapsed();

    stage.cluster.start_server()?;
    let back = Instant::now();
    let api = stage.cluster.api().await?;
    for node in &stage.cluster.nodes {
        wait(&format!("{} to be Ready", node.name), PATIENCE, async || {
            let ready = api.node_ready(&node.name).await?;
            Ok(if ready == "True" { Found::Yes(()) } else { Found::NotYet(ready) })
        })
        .await?;
    }
    stage.cluster.agrees(PATIENCE).await?;
    api.ready_pods("app=echo", 2, PATIENCE).await?;
    api.ready_pods("app=client", 1, PATIENCE).await?;
    let back = back.elapsed();
    let after = pods(stage).await?;
    let restarted = |pods: &[Seen]| pods.iter().filter(|pod| pod.restarts > 0).count();
    ensure!(restarted(&before) == 0 && restarted(&after) == 1, "{before:?}, then {after:?}");
    let uids = |pods: &[Seen]| pods.iter().map(|pod| pod.uid.clone()).collect::<Vec<_>>();
    ensure!(uids(&before) == uids(&after), "{before:?}, then {after:?}");
    ensure!(dumps(stage)? == maps, "the service maps were written when the API came back");
    load::requests(&stage.place()?, EchoStage::service(), 100)?.expect_no_failure("at the end")?;
    println!(
        "the API was away for {:.1} s, both agents started without it: {} fresh connections, 0 \
         failed; service maps byte for byte the same; agreed {:.1} s after it was back",
        away.as_secs_f64(),
        fresh.ok,
        back.as_secs_f64()
    );
    Ok(())
}

/// A pod as far as it must not change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    uid: String,
    restarts: i32,
}

async fn pods(stage: &EchoStage) -> Result<Vec<Seen>> {
    let api = stage.cluster.api().await?;
    let mut all = api.pods("app=echo").await?;
    all.extend(api.pods("app=client").await?);
    let restarts = |pod: &Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        statuses.into_iter().flatten().map(|container| container.restart_count).sum()
    };
    let mut seen: Vec<Seen> =
        all.iter().map(|pod| Seen { uid: uid(pod), restarts: restarts(pod) }).collect();
    seen.sort();
    Ok(seen)
}

/// The service map of each node, as bytes: a service that was written anew has other slots.
fn dumps(stage: &EchoStage) -> Result<Vec<String>> {
    let nodes = stage.cluster.nodes.iter();
    nodes.map(|node| Ok(format!("{:?}", node.maps().services()?.dump()?))).collect()
}

async fn says(node: &Node, words: &str) -> Result<()> {
    wait(&format!("{} to say `{words}`", node.name), PATIENCE, async || {
        let log = std::fs::read_to_string(node.log())?;
        Ok(match log.contains(words) {
            true => Found::Yes(()),
            false => Found::NotYet(log.lines().last().unwrap_or_default().to_owned()),
        })
    })
    .await
}

/// The DNS server of a node answers from what the agent knew.
async fn answers_names(stage: &EchoStage, node: &Node) -> Result<()> {
    wait(&format!("DNS on {}", node.name), PATIENCE, async || {
        let mut query = node.place()?.command("busybox");
        query.args(["nslookup", "echo.default.svc.cluster.local", "169.254.20.10"]);
        let answer = output(&mut query)?;
        Ok(match answer.contains("10.9.8.9") {
            true => Found::Yes(()),
            false => Found::NotYet(answer),
        })
    })
    .await
    .with_context(|| format!("{} pods are on {}", stage.servers.len(), node.name))
}

/// A container that ends is started again although nobody can be asked.
async fn restarts(stage: &EchoStage) -> Result<()> {
    let node = stage.cluster.node(&node_of(&stage.client))?;
    let old = node.pod_pid(&uid(&stage.client))?;
    node.kill_pod_process(&uid(&stage.client))?;
    wait("the client's next process", PATIENCE, async || {
        let now = node.pod_pid(&uid(&stage.client))?;
        Ok(if now == old { Found::NotYet(format!("{old}")) } else { Found::Yes(()) })
    })
    .await
}
