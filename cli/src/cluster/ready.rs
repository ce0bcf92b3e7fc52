//! Waiting for a cluster that is starting: its sockets, its API, its nodes.
//!
//! Guarantees: every wait is bounded, and ends at once when a process that it depends on ends.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::process::Started;
use super::progress::Progress;
use crate::verbs::client;

/// Between two looks at something that cannot be waited for: a socket that is not there yet, a
/// child that may have ended.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until somebody accepts connections on a unix socket.
pub(crate) async fn socket(
    path: &Path,
    process: &mut Started,
    deadline: Instant,
) -> anyhow::Result<()> {
    while UnixStream::connect(path).await.is_err() {
        look_again(process, deadline).await?;
    }
    Ok(())
}

/// Waits until the server has written its kubeconfig and token and answers requests.
pub(crate) async fn server(
    kubeconfig: &Path,
    token_file: &Path,
    process: &mut Started,
    deadline: Instant,
) -> anyhow::Result<Client> {
    while !(kubeconfig.exists() && token_file.exists()) {
        look_again(process, deadline).await?;
    }
    let connection = client::connect_file(kubeconfig).await?;
    loop {
        let request = http::Request::get("/readyz").body(Vec::new()).context("bad request")?;
        match connection.client.request_text(request).await {
            Ok(_) => return Ok(connection.client),
            Err(error) if Instant::now() > deadline => {
                bail!("the server does not answer: {error}: see its log");
            }
            Err(_) => look_again(process, deadline).await?,
        }
    }
}

async fn look_again(process: &mut Started, deadline: Instant) -> anyhow::Result<()> {
    process.check()?;
    if Instant::now() > deadline {
        let (name, words) = (process.name(), process.last_words());
        bail!("{name} did not get ready in time: give it a longer --timeout; it said: {words}");
    }
    tokio::time::sleep(LOOK).await;
    Ok(())
}

/// Waits until `count` nodes are ready, watching agents and server meanwhile.
pub(crate) async fn nodes(
    client: Client,
    count: usize,
    processes: &mut [Started],
    progress: &Progress,
    deadline: Instant,
) -> anyhow::Result<()> {
    let mut events = watcher(Api::<Node>::all(client), watcher::Config::default()).boxed();
    let mut look = tokio::time::interval(LOOK * 5);
    let mut ready = std::collections::BTreeSet::new();
    while ready.len() < count {
        progress.doing(format!("waiting for nodes: {} of {count} ready", ready.len()));
        tokio::select! {
            event = events.next() => {
                let node = match event {
                    Some(Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => node,
                    Some(Ok(_) | Err(_)) => continue,
                    None => bail!("the server ended the watch for nodes: see its log"),
                };
                let name = node.metadata.name.clone().unwrap_or_default();
                if is_ready(&node) { ready.insert(name) } else { ready.remove(&name) };
            }
            _ = look.tick() => {
                for process in &mut *processes {
                    process.check()?;
                }
                if Instant::now() > deadline {
                    bail!("{}", too_late(&ready, processes));
                }
            }
        }
    }
    Ok(())
}

fn too_late(ready: &std::collections::BTreeSet<String>, processes: &[Started]) -> String {
    let late = processes.iter().find(|it| !ready.contains(it.name()) && it.name() != "server");
    late.map_or_else(
        || "not all nodes got ready in time: give them a longer --timeout".to_owned(),
        |late| {
            let (name, words) = (late.name(), late.last_words());
            format!("{name} did not get ready in time; its agent said: {words}")
        },
    )
}

/// Whether a node's Ready condition is True.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
