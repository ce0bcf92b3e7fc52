//! Waiting for a cluster that is starting: its sockets, its API, its nodes.
//!
//! Guarantees: every wait is bounded, and ends at once when a process that it depends on ends.

use std::collections::BTreeMap;
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

/// How long all of it may take: `--timeout`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    seconds: u64,
    end: Instant,
}

impl Limit {
    /// From now on.
    pub(crate) fn new(seconds: u64) -> Self {
        Self { seconds, end: Instant::now() + Duration::from_secs(seconds) }
    }

    fn is_over(self) -> bool {
        Instant::now() > self.end
    }
}

/// Waits until somebody accepts connections on a unix socket.
pub(crate) async fn socket(path: &Path, process: &mut Started, limit: Limit) -> anyhow::Result<()> {
    while UnixStream::connect(path).await.is_err() {
        look_again(process, limit).await?;
    }
    Ok(())
}

/// Waits until the server has written its kubeconfig and token and answers requests.
pub(crate) async fn server(
    kubeconfig: &Path,
    token_file: &Path,
    process: &mut Started,
    limit: Limit,
) -> anyhow::Result<Client> {
    while !(kubeconfig.exists() && token_file.exists()) {
        look_again(process, limit).await?;
    }
    let connection = client::connect_file(kubeconfig).await?;
    loop {
        let request = http::Request::get("/readyz").body(Vec::new()).context("bad request")?;
        match connection.client.request_text(request).await {
            Ok(_) => return Ok(connection.client),
            Err(error) if limit.is_over() => {
                bail!("the server does not answer: {error}: see its log");
            }
            Err(_) => look_again(process, limit).await?,
        }
    }
}

async fn look_again(process: &mut Started, limit: Limit) -> anyhow::Result<()> {
    process.check()?;
    if limit.is_over() {
        let (name, seconds) = (process.name(), limit.seconds);
        let said = match process.last_words() {
            Some(words) => format!("it said: {words}"),
            None => "it said nothing".to_owned(),
        };
        bail!("{name} did not get ready in {seconds} s (--timeout); {said}");
    }
    tokio::time::sleep(LOOK).await;
    Ok(())
}

/// Waits until the nodes of these names are ready, watching all processes meanwhile; gives them as
/// they are then.
pub(crate) async fn nodes(
    client: Client,
    names: &[&str],
    processes: &mut [Started],
    progress: &Progress,
    limit: Limit,
) -> anyhow::Result<Vec<Node>> {
    let mut events = watcher(Api::<Node>::all(client), watcher::Config::default()).boxed();
    let mut look = tokio::time::interval(LOOK * 5);
    let mut ready = BTreeMap::new();
    let count = names.len();
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
                if is_ready(&node) { ready.insert(name, node) } else { ready.remove(&name) };
            }
            _ = look.tick() => {
                for process in &mut *processes {
                    process.check()?;
                }
                if limit.is_over() {
                    bail!("{}", too_late(names, &ready, processes, limit));
                }
            }
        }
    }
    Ok(ready.into_values().collect())
}

/// Which nodes are not ready, and what the first of them complained of last.
fn too_late(
    names: &[&str],
    ready: &BTreeMap<String, Node>,
    processes: &[Started],
    limit: Limit,
) -> String {
    let late: Vec<&str> = names.iter().copied().filter(|name| !ready.contains_key(*name)).collect();
    let all: Vec<String> = late.iter().map(|name| format!("`{name}`")).collect();
    let mut agents = processes.iter().filter(|it| late.contains(&it.name()));
    let complaint = agents.find_map(|it| Some((it.name(), it.last_complaint()?)));
    let said = match complaint {
        Some((name, line)) => format!("; the agent of {name} said: {line}"),
        None => String::new(),
    };
    format!("{} did not get ready in {} s (--timeout){said}", all.join(", "), limit.seconds)
}

/// Whether a node's Ready condition is True.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
