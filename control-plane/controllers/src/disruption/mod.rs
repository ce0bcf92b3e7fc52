//! Disruption budgets: how many of the pods that a budget selects may be evicted now.
//!
//! Guarantees: a budget allows nothing until its pods were counted, and nothing when they cannot be
//! counted; a pod that is on its way out counts as gone. A status is written only over the one that
//! it was made from, so that no eviction that was granted meanwhile is forgotten.
//! Does not: look at a budget when a stateful set is scaled, before its pods come or go.

mod scale;
mod stale;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use kube::api::PostParams;
use kube::core::{Resource, Selector, SelectorExt};
use kube::{Api, Client};

use crate::World;
use crate::cache::{Cache, Change, Key, Watched};
use crate::failure::{Doing, SyncFailed};
use crate::ownership::controller_of;
use crate::pods;
use crate::queue::{Next, WorkQueue, start_workers};
use crate::recorder::Recorder;
use scale::{Owners, Scales};
use status::{Counted, DELETION_TIMEOUT};

const NAME: &str = "disruption-controller";
/// The owner of a pod may be seen later than the pod.
const COUNT_AGAIN: Duration = Duration::from_secs(5);

struct Budgets {
    client: Client,
    recorder: Recorder,
    budgets: Arc<Cache<PodDisruptionBudget>>,
    pods: Arc<Cache<Pod>>,
    owners: Owners,
}

pub(crate) fn start(world: &World) {
    let queue = WorkQueue::new();
    queue.follow(&world.budgets);
    let (on_pod, budgets) = (queue.clone(), world.budgets.clone());
    world.pods.on_change(move |change| {
        if !matters(change) {
            return;
        }
        for pod in change.states() {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for budget in budgets.in_namespace(namespace) {
                if selected_by(&budget)(pod) {
                    on_pod.add(Key::of(&budget.metadata));
                }
            }
        }
    });
    let replicas = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.replicas);
    follow_scales(world, &queue, &world.replica_sets, replicas);
    let replicas = |deployment: &Deployment| deployment.spec.as_ref().and_then(|s| s.replicas);
    follow_scales(world, &queue, &world.deployments, replicas);
    let replicas = |owner: &ReplicationController| owner.spec.as_ref().and_then(|s| s.replicas);
    follow_scales(world, &queue, &world.replication_controllers, replicas);
    let controller = Arc::new(Budgets {
        client: world.client.clone(),
        recorder: world.recorder.of(NAME),
        budgets: world.budgets.clone(),
        pods: world.pods.clone(),
        owners: Owners::new(world),
    });
    start_workers(world, (NAME, 2), &queue, move |key| {
        let controller = controller.clone();
        async move { controller.look(&key).await }
    });
    stale::start(world);
}

/// Looks at the budgets of a namespace when an owner of pods in it is scaled.
fn follow_scales<K: Watched>(
    world: &World,
    queue: &Arc<WorkQueue<Key>>,
    owners: &Cache<K>,
    replicas: impl Fn(&K) -> Option<i32> + Send + Sync + 'static,
) {
    let (queue, budgets) = (queue.clone(), world.budgets.clone());
    owners.on_change(move |change| {
        let asked = |owner: Option<&Arc<K>>| owner.map(|owner| replicas(owner));
        let Some(owner) = change.latest().filter(|_| asked(change.old) != asked(change.new)) else {
            return;
        };
        for budget in budgets.in_namespace(owner.meta().namespace.as_deref().unwrap_or_default()) {
            queue.add(Key::of(&budget.metadata));
        }
    });
}

/// Whether a change of a pod can change what a budget allows.
fn matters(change: &Change<'_, Pod>) -> bool {
    let (Some(old), Some(new)) = (change.old, change.new) else { return true };
    old.metadata.labels != new.metadata.labels
        || pods::is_ready(old) != pods::is_ready(new)
        || pods::is_terminating(old) != pods::is_terminating(new)
        || controller_of(&old.metadata) != controller_of(&new.metadata)
}

/// A budget without a selector selects nothing, an empty one all pods of its namespace.
fn selected_by(budget: &PodDisruptionBudget) -> impl Fn(&Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone());
    let selector = selector.and_then(|selector| Selector::try_from(selector).ok());
    move |pod| {
        let labels = pod.metadata.labels.as_ref();
        selector.as_ref().is_some_and(|one| one.matches(labels.unwrap_or(&BTreeMap::new())))
    }
}

impl Budgets {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Next::Rest) };
        let mut pods = self.pods.in_namespace(&key.namespace);
        let is_selected = selected_by(&budget);
        pods.retain(|pod| is_selected(pod));
        let now = Timestamp::now();
        let counted = match self.count(&budget, &pods).await {
            Ok(counted) => counted,
            Err(error) => {
                let next = status::failed(&budget, &error.to_string(), now);
                if self.write(&budget, key, next).await? {
                    let message =
                        format!("Failed to calculate the number of expected pods: {error}");
                    let about = budget.object_ref(&());
                    self.recorder.warning(about, "CalculateExpectedPodCountFailed", message);
                }
                return Ok(Next::LookAgainIn(COUNT_AGAIN));
            }
        };
        let status::Disrupted { pods: disrupted, left, recheck } =
            status::disrupted(&budget, &pods, now);
        for pod in left {
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.recorder.warning(pod.object_ref(&()), "NotDeleted", message);
        }
        let next = status::next(&budget, &pods, (counted, disrupted), now);
        let has_news = self.write(&budget, key, next).await?;
        if has_news && pods.is_empty() {
            let message = "No matching pods found".to_owned();
            self.recorder.normal(budget.object_ref(&()), "NoPods", message);
        }
        Ok(recheck.map_or(Next::Rest, Next::LookAgainIn))
    }

    /// How many pods there should be, and how many of them must be healthy.
    async fn count(
        &self,
        budget: &PodDisruptionBudget,
        pods: &[Arc<Pod>],
    ) -> Result<Counted, scale::CountFailed> {
        if let Some(counted) = status::of_pods(budget, pods.len()) {
            return Ok(counted);
        }
        let Scales { total, unmanaged } = self.owners.scales(pods).await?;
        if unmanaged {
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let selector = serde_json::to_string(&selector).unwrap_or_default();
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be \
                 unmanaged. As a result, the status of the PDB cannot be calculated correctly, \
                 which may result in undefined behavior. To account for these pods please set \
                 \".spec.minAvailable\" field of the PDB to an integer value."
            );
            self.recorder.warning(budget.object_ref(&()), "UnmanagedPods", message);
        }
        Ok(status::of_scale(budget, total))
    }

    /// Whether there was something to write.
    async fn write(
        &self,
        budget: &PodDisruptionBudget,
        key: &Key,
        status: PodDisruptionBudgetStatus,
    ) -> Result<bool, SyncFailed> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(false);
        }
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), &key.namespace);
        let new = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        let written = api.replace_status(&key.name, &PostParams::default(), &new).await;
        let written = written.if_found("writing the status of disruption budget", key)?;
        written.into_iter().for_each(|written| self.budgets.written(written));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::{pod, terminating, unready};
    use serde_json::json;

    #[test]
    fn pods_are_selected_as_the_selector_says() {
        let labelled = |labels: serde_json::Value| -> Pod {
            serde_json::from_value(json!({ "metadata": { "labels": labels } })).unwrap()
        };
        let web = labelled(json!({ "app": "web" }));
        let table = [
            ("no selector", json!(null), false),
            ("an empty one", json!({}), true),
            ("the label", json!({ "matchLabels": { "app": "web" } }), true),
            ("another value", json!({ "matchLabels": { "app": "db" } }), false),
            (
                "an expression",
                json!({ "matchExpressions": [{ "key": "app", "operator": "DoesNotExist" }] }),
                false,
            ),
        ];
        for (name, selector, expected) in table {
            let spec = json!({ "spec": { "selector": selector } });
            let budget: PodDisruptionBudget = serde_json::from_value(spec).unwrap();
            assert_eq!(selected_by(&budget)(&web), expected, "{name}");
        }
    }

    #[test]
    fn what_changes_no_count_is_not_looked_at() {
        let (old, other) = (Arc::new(pod("a")), Arc::new(unready(pod("a"))));
        let gone = Arc::new(terminating(pod("a")));
        let mut renamed = pod("a");
        renamed.status.as_mut().unwrap().pod_ip = Some("10.240.0.2".to_owned());
        let same = Arc::new(renamed);
        for (new, expected) in [(None, true), (Some(&other), true), (Some(&gone), true)] {
            assert_eq!(matters(&Change { old: Some(&old), new }), expected);
        }
        assert!(matters(&Change { old: None, new: Some(&old) }));
        assert!(!matters(&Change { old: Some(&old), new: Some(&same) }));
    }
}
