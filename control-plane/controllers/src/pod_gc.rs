//! Removes pods that nobody else can: those of a node that is gone, those that were deleted before
//! they got a node, and the oldest finished ones when there are too many.
//!
//! Guarantees: a pod is removed for its node only when the node has been missing for a while and is
//! missing in a fresh read, too; a pod or node that cannot be read or removed holds up no other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::pods;

const EVERY: Duration = Duration::from_secs(5);
const NODE_MISSING: Duration = Duration::from_secs(40);
const FINISHED_KEPT: usize = 12_500;

struct PodGc {
    client: Client,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
}

pub(crate) fn start(world: &World) {
    let collector = PodGc {
        client: world.client.clone(),
        pods: world.pods.clone(),
        nodes: world.nodes.clone(),
    };
    let token = world.token.clone();
    world.tasks.spawn(async move { collector.run(&token).await });
}

impl PodGc {
    async fn run(&self, token: &CancellationToken) {
        let mut missing: HashMap<String, Instant> = HashMap::new();
        while token.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            for error in self.round(&mut missing).await {
                tracing::warn!(%error, "pod clean-up is tried again");
            }
        }
    }

    /// Goes on past failures and returns them.
    async fn round(&self, missing: &mut HashMap<String, Instant>) -> Vec<SyncFailed> {
        let mut failures = Vec::new();
        let pods = self.pods.all();
        note_missing(missing, &pods, &self.nodes, Instant::now());
        let mut gone = HashSet::new();
        let nodes: Api<Node> = Api::all(self.client.clone());
        for (node, since) in missing.iter() {
            if since.elapsed() < NODE_MISSING {
                continue;
            }
            match nodes.get(node).await.if_found("reading node", node) {
                Ok(None) => drop(gone.insert(node.clone())),
                Ok(Some(_)) => {}
                Err(error) => failures.push(error),
            }
        }
        for pod in doomed(&pods, &gone, FINISHED_KEPT) {
            failures.extend(self.remove(pod).await.err());
        }
        failures
    }

    async fn remove(&self, pod: &Pod) -> Result<(), SyncFailed> {
        let key = Key::of(&pod.metadata);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let preconditions =
            Preconditions { uid: pod.metadata.uid.clone(), ..Preconditions::default() };
        let params = DeleteParams::default().grace_period(0).preconditions(preconditions);
        api.delete(&key.name, &params).await.if_found("removing pod", &key).map(|_| ())
    }
}

fn note_missing(
    missing: &mut HashMap<String, Instant>,
    pods: &[Arc<Pod>],
    nodes: &Cache<Node>,
    now: Instant,
) {
    let referred: HashSet<&str> = pods.iter().filter_map(|pod| pods::node_name(pod)).collect();
    let is_missing = |name: &str| nodes.get(&Key::new("", name)).is_none();
    missing.retain(|name, _| referred.contains(name.as_str()) && is_missing(name));
    for name in referred.into_iter().filter(|name| is_missing(name)) {
        missing.entry(name.to_owned()).or_insert(now);
    }
}

/// The pods to remove, given the nodes that are gone for good.
fn doomed<'a>(pods: &'a [Arc<Pod>], gone: &HashSet<String>, keep: usize) -> Vec<&'a Pod> {
    let mut finished: Vec<&Pod> = Vec::new();
    let mut doomed: Vec<&Pod> = Vec::new();
    for pod in pods.iter().map(Arc::as_ref) {
        match pods::node_name(pod) {
            Some(node) if gone.contains(node) => doomed.push(pod),
            None if pods::is_terminating(pod) => doomed.push(pod),
            _ if pods::is_finished(pod) && !pods::is_terminating(pod) => finished.push(pod),
            _ => {}
        }
    }
    finished.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let surplus = finished.len().saturating_sub(keep);
    doomed.extend(&finished[..surplus]);
    doomed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::{on_node, pod, terminating, time};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn who_goes() {
        let finished = |name: &str, second| {
            let mut pod = pod(name);
            pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
            pod.metadata.creation_timestamp = Some(Time(time(second)));
            pod
        };
        let pods: Vec<_> = [
            pod("alive"),
            on_node(pod("node gone"), Some("node9")),
            terminating(on_node(pod("never placed"), None)),
            terminating(pod("leaving")),
            finished("newer", 9),
            finished("older", 1),
        ]
        .into_iter()
        .map(Arc::new)
        .collect();
        let gone = HashSet::from(["node9".to_owned()]);
        let names: Vec<_> =
            doomed(&pods, &gone, 1).iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["node gone", "never placed", "older"]);
    }

    #[tokio::test]
    async fn one_pod_that_cannot_be_removed_holds_up_no_other() {
        let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = asked.clone();
        let api = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let path = request.uri().path().to_owned();
            let code = if path.ends_with("/first") { 500 } else { 200 };
            let body = match code {
                200 => r#"{"kind": "Status", "apiVersion": "v1", "status": "Success"}"#,
                _ => r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500}"#,
            };
            seen.lock().unwrap().push(path);
            let answer = http::Response::builder().status(code);
            let answer = answer.body(kube::client::Body::from(body.as_bytes().to_vec())).unwrap();
            async { Ok::<_, std::convert::Infallible>(answer) }
        });
        let collector =
            PodGc { client: Client::new(api, "default"), pods: Cache::new(), nodes: Cache::new() };
        for name in ["first", "second", "third"] {
            collector.pods.written(terminating(on_node(pod(name), None)));
        }
        let failures = collector.round(&mut HashMap::new()).await;
        assert_eq!(failures.len(), 1, "{failures:?}");
        let asked = asked.lock().unwrap().join(" ");
        for name in ["first", "second", "third"] {
            assert!(asked.contains(&format!("/{name}")), "{name}: {asked}");
        }
    }
}
