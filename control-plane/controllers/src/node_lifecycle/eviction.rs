//! Eviction from tainted nodes: deletes pods that do not tolerate a `NoExecute` taint, or not for
//! longer.
//!
//! Guarantees: the time counts from the moment the taint was added, also across a restart, or where
//! the taint does not say, from when it was first seen; when the taint goes, so does the plan to
//! evict, and one that comes again counts anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bowline_api::taints::tolerates;
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
    first_seen: Arc<FirstSeen>,
}

/// When each taint without a time of its own was first seen, by node and key. Bounded by the taints
/// that are there.
#[derive(Default)]
struct FirstSeen(Mutex<HashMap<String, HashMap<String, Timestamp>>>);

impl FirstSeen {
    /// Takes in a node as it is now; `None` when it is gone.
    fn note(&self, name: &str, node: Option<&Node>, now: Timestamp) {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = nodes.remove(name).unwrap_or_default();
        let timeless = node.into_iter().flat_map(no_execute).filter(|t| t.time_added.is_none());
        let seen: HashMap<_, _> = timeless
            .map(|taint| (taint.key.clone(), known.get(&taint.key).copied().unwrap_or(now)))
            .collect();
        if !seen.is_empty() {
            nodes.insert(name.to_owned(), seen);
        }
    }

    fn of(&self, name: &str, taint: &Taint) -> Option<Timestamp> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.get(name)?.get(&taint.key).copied()
    }
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
    let first_seen = Arc::new(FirstSeen::default());
    let (on_node, pods, seen) = (queue.clone(), world.pods.clone(), first_seen.clone());
    world.nodes.on_change(move |change| {
        let taints = |node: Option<&Arc<Node>>| {
            node.map(|node| no_execute(node).cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        if taints(change.old) == taints(change.new) {
            return;
        }
        let name = change.latest().and_then(|node| node.metadata.name.as_deref());
        seen.note(name.unwrap_or_default(), change.new.map(Arc::as_ref), Timestamp::now());
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
        first_seen,
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
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let added = taint.time_added.as_ref().map(|time| time.0);
        added.or_else(|| self.first_seen.of(name, taint)).unwrap_or(now)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::time;
    use k8s_openapi::api::core::v1::NodeSpec;

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

    #[test]
    fn a_taint_that_comes_again_counts_anew_and_nothing_is_kept_of_what_is_gone() {
        let node = |keys: &[&str]| {
            let taints = keys.iter().map(|key| taint(key)).collect();
            Node {
                spec: Some(NodeSpec { taints: Some(taints), ..NodeSpec::default() }),
                ..Node::default()
            }
        };
        let seen = FirstSeen::default();
        let note = |keys: Option<&[&str]>, second| {
            seen.note("n", keys.map(node).as_ref(), time(second));
            ["a", "b"].map(|key| seen.of("n", &taint(key)))
        };
        assert_eq!(note(Some(&["a"]), 0), [Some(time(0)), None]);
        assert_eq!(note(Some(&["a", "b"]), 5), [Some(time(0)), Some(time(5))], "it goes on");
        assert_eq!(note(Some(&["b"]), 6), [None, Some(time(5))]);
        assert_eq!(note(Some(&["a", "b"]), 60), [Some(time(60)), Some(time(5))], "anew");
        assert_eq!(note(None, 70), [None, None], "the node is gone");
        assert!(seen.0.lock().unwrap().is_empty());
    }
}
