//! Pods that were told that they go, and did not.
//!
//! Guarantees: the condition `DisruptionTarget` of a pod that runs on is taken back after two
//! minutes, unless it is its agent's word.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};

use super::DELETION_TIMEOUT;
use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::pods;
use crate::queue::{Next, WorkQueue, start_workers};

const NAME: &str = "disruption-target-controller";
const TARGET: &str = "DisruptionTarget";
/// An agent that ends a pod may take any time until the pod is marked.
const BY_AGENT: &str = "TerminationByKubelet";

struct Targets {
    client: Client,
    pods: Arc<Cache<Pod>>,
}

pub(super) fn start(world: &World) {
    let queue = WorkQueue::new();
    let on_pod = queue.clone();
    world.pods.on_change(move |change| {
        if let Some(pod) = change.new.filter(|pod| since(pod).is_some()) {
            on_pod.add(Key::of(&pod.metadata));
        }
    });
    let controller = Arc::new(Targets { client: world.client.clone(), pods: world.pods.clone() });
    start_workers(world, (NAME, 1), &queue, move |key| {
        let controller = controller.clone();
        async move { controller.look(&key).await }
    });
}

/// Since when a pod that runs on says that it goes.
fn since(pod: &Pod) -> Option<Timestamp> {
    let condition = pods::condition(pod, TARGET)?;
    let goes = condition.status == "True" && condition.reason.as_deref() != Some(BY_AGENT);
    let time = condition.last_transition_time.as_ref().map(|time| time.0).unwrap_or_default();
    (goes && pods::is_active(pod)).then_some(time)
}

impl Targets {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Rest) };
        let Some(since) = since(&pod) else { return Ok(Next::Rest) };
        let now = Timestamp::now();
        let until = since.checked_add(DELETION_TIMEOUT).unwrap_or(Timestamp::MAX);
        if until > now {
            let wait = Duration::try_from(until.duration_since(now)).unwrap_or_default();
            return Ok(Next::LookAgainIn(wait));
        }
        let seen = &pod.metadata;
        let patch = serde_json::json!({
            "metadata": { "uid": seen.uid, "resourceVersion": seen.resource_version },
            "status": { "conditions": [{
                "type": TARGET, "status": "False",
                "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                "reason": null, "message": null,
            }]},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = Patch::Strategic(&patch);
        let written = api.patch_status(&key.name, &PatchParams::default(), &patch).await;
        let written = written.if_found("taking back the disruption of pod", key)?;
        written.into_iter().for_each(|written| self.pods.written(written));
        Ok(Next::Rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::{pod, terminating, time};
    use k8s_openapi::api::core::v1::PodCondition;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn told(status: &str, reason: &str) -> Pod {
        let mut pod = pod("a");
        let conditions = pod.status.as_mut().and_then(|s| s.conditions.as_mut()).unwrap();
        conditions.push(PodCondition {
            type_: TARGET.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            last_transition_time: Some(Time(time(7))),
            ..PodCondition::default()
        });
        pod
    }

    #[test]
    fn only_what_runs_on_is_stale() {
        let mut ended = told("True", "EvictionByEvictionAPI");
        ended.status.as_mut().unwrap().phase = Some("Failed".to_owned());
        let table = [
            ("evicted", told("True", "EvictionByEvictionAPI"), Some(time(7))),
            ("taken back", told("False", "EvictionByEvictionAPI"), None),
            ("by its agent", told("True", BY_AGENT), None),
            ("on its way", terminating(told("True", "EvictionByEvictionAPI")), None),
            ("ended", ended, None),
            ("never told", pod("a"), None),
        ];
        for (name, pod, expected) in table {
            assert_eq!(since(&pod), expected, "{name}");
        }
    }
}
