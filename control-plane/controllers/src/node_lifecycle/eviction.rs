//! Eviction from tainted nodes: deletes pods that do not tolerate a `NoExecute` taint, or not for
//! longer.
//!
//! Guarantees: the time counts from the moment the taint was added, also across a restart; when the
//! taint goes, so does the plan to evict.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::Client;
use kube::core::Resource;

use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::SyncFailed;
use crate::pods;
use crate::queue::{Next, WorkQueue, start_workers};
use crate::recorder::Recorder;
use crate::replicas::delete_pod;

const NAME: &str = "taint-eviction-controller";

struct Evictions {
    client: Client,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    /// When a taint without a time of its own was first seen, by node and key.
    first_seen: Mutex<HashMap<(String, String), Timestamp>>,
}

/// When a pod has to leave its node.
#[derive(Debug, PartialEq, Eq)]
enum Leave {
    Never,
    At(Timestamp),
}

pub(crate) fn start(world: &World) {
    let queue = WorkQueue::new();
    let (on_pod, nodes) = (queue.clone(), world.nodes.clone());
    world.pods.on_change(move |change| {
        let Some(pod) = change.new else { return };
        let Some(node) = pods::node_name(pod) else { return };
        let is_news = change.old.is_none_or(|old| {
            pods::node_name(old).is_none() || tolerations(old) != tolerations(pod)
        });
        let tainted = || {
            nodes.get(&Key::new("", node)).is_some_and(|node| no_execute(&node).next().is_some())
        };
        if is_news && tainted() {
            on_pod.add(Key::of(&pod.metadata));
        }
    });
    let (on_node, pods) = (queue.clone(), world.pods.clone());
    world.nodes.on_change(move |change| {
        let taints = |node: Option<&Arc<Node>>| {
            node.map(|node| no_execute(node).cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        if taints(change.old) == taints(change.new) {
            return;
        }
        let name = change.latest().and_then(|node| node.metadata.name.as_deref());
        for pod in pods.all() {
            if pods::node_name(&pod) == name {
                on_node.add(Key::of(&pod.metadata));
            }
        }
    });
    let controller = Arc::new(Evictions {
        client: world.client.clone(),
        recorder: world.recorder.of(NAME),
        pods: world.pods.clone(),
        nodes: world.nodes.clone(),
        first_seen: Mutex::new(HashMap::new()),
    });
    start_workers(world, (NAME, 4), &queue, move |key| {
        let controller = controller.clone();
        async move { controller.look(&key).await }
    });
}

fn no_execute(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute")
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

impl Evictions {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let Some(pod) = self.pods.get(key).filter(|pod| pods::is_active(pod)) else {
            return Ok(Next::Rest);
        };
        let node = pods::node_name(&pod).and_then(|node| self.nodes.get(&Key::new("", node)));
        let Some(node) = node else { return Ok(Next::Rest) };
        let now = Timestamp::now();
        let taints: Vec<(&Taint, Timestamp)> =
            no_execute(&node).map(|taint| (taint, self.since(&node, taint, now))).collect();
        match leave(&taints, tolerations(&pod)) {
            Leave::Never => Ok(Next::Rest),
            Leave::At(time) if time > now => {
                let wait = time.duration_since(now).try_into().unwrap_or_default();
                Ok(Next::LookAgainIn(wait))
            }
            Leave::At(_) => {
                let message = format!("Marking for deletion Pod {key}");
                self.recorder.normal(pod.object_ref(&()), "TaintManagerEviction", message);
                delete_pod(&self.client, &self.pods, &pod).await?;
                Ok(Next::Rest)
            }
        }
    }

    fn since(&self, node: &Node, taint: &Taint, now: Timestamp) -> Timestamp {
        if let Some(time) = &taint.time_added {
            return time.0;
        }
        let name = node.metadata.name.clone().unwrap_or_default();
        let mut seen = self.first_seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Taints that went away leave nothing behind: the map is bounded by what is there.
        seen.retain(|(known, key), _| {
            *known != name || no_execute(node).any(|taint| taint.key == *key)
        });
        *seen.entry((name, taint.key.clone())).or_insert(now)
    }
}

/// The earliest time at which a taint is tolerated no longer.
fn leave(taints: &[(&Taint, Timestamp)], tolerations: &[Toleration]) -> Leave {
    let mut earliest: Option<Timestamp> = None;
    for (taint, since) in taints {
        let Some(toleration) = tolerations.iter().find(|t| tolerates(t, taint)) else {
            return Leave::At(*since);
        };
        let Some(seconds) = toleration.toleration_seconds else { continue };
        let until =
            since.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
        earliest = Some(earliest.map_or(until, |known| known.min(until)));
    }
    earliest.map_or(Leave::Never, Leave::At)
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let blank = |text: &Option<String>| text.as_deref().unwrap_or_default().to_owned();
    let (effect, key) = (blank(&toleration.effect), blank(&toleration.key));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            !key.is_empty() && blank(&toleration.value) == blank(&taint.value)
        }
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::time;

    fn taint(key: &str) -> Taint {
        Taint { key: key.into(), effect: "NoExecute".into(), ..Taint::default() }
    }

    fn tolerate(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            toleration_seconds: seconds,
            ..Toleration::default()
        }
    }

    #[test]
    fn when_pods_leave() {
        let (a, b) = (taint("a"), taint("b"));
        let both = [(&a, time(0)), (&b, time(10))];
        let everything = Toleration { operator: Some("Exists".into()), ..Toleration::default() };
        let table = [
            ("no taint", &both[..0], vec![], Leave::Never),
            ("not tolerated", &both[..1], vec![], Leave::At(time(0))),
            ("for a while", &both[..1], vec![tolerate("a", Some(5))], Leave::At(time(5))),
            ("for ever", &both[..1], vec![tolerate("a", None)], Leave::Never),
            ("negative", &both[..1], vec![tolerate("a", Some(-5))], Leave::At(time(0))),
            (
                "the shorter",
                &both[..],
                vec![tolerate("a", Some(60)), tolerate("b", Some(5))],
                Leave::At(time(15)),
            ),
            ("one of two", &both[..], vec![tolerate("a", None)], Leave::At(time(10))),
            ("everything", &both[..], vec![everything], Leave::Never),
        ];
        for (name, taints, tolerations, expected) in table {
            assert_eq!(leave(taints, &tolerations), expected, "{name}");
        }
    }
}
