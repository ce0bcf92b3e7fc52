//! Deployments: one replica set for each template, and the way from one to the next.
//!
//! Guarantees: the limits of `rollout` hold at each step; a rollback finds its old replica set and
//! gives it a new revision; old, empty replica sets beyond the history limit go away. A paused
//! deployment is scaled but not rolled.

mod rollout;
mod sets;
mod status;
mod template;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use kube::{Api, Client};

pub(crate) use self::rollout::amount;
use self::rollout::{Size, Wanted};
use self::status::Found;
use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::ownership;
use crate::pods;
use crate::queue::{Next, WorkQueue, start_workers};
use crate::recorder::Recorder;

const NAME: &str = "deployment-controller";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MOST: &str = "deployment.kubernetes.io/max-replicas";

struct Deployments {
    client: Client,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    sets: Arc<Cache<ReplicaSet>>,
    deployments: Arc<Cache<Deployment>>,
}

pub(crate) fn start(world: &World) {
    let queue = WorkQueue::new();
    queue.follow(&world.deployments);
    let (on_set, deployments) = (queue.clone(), world.deployments.clone());
    world.replica_sets.on_change(move |change| {
        for set in change.states() {
            deployments_of(set, &deployments).into_iter().for_each(|key| on_set.add(key));
        }
    });
    let (on_pod, sets) = (queue.clone(), world.replica_sets.clone());
    world.pods.on_change(move |change| {
        // Only a recreation waits for pods as such, and only for their end.
        let Some(pod) = change.latest() else { return };
        if change.new.is_none() || pods::is_finished(pod) {
            let set = ownership::controller_key::<ReplicaSet>(&pod.metadata);
            let set = set.and_then(|key| sets.get(&key));
            let owner = set.and_then(|set| ownership::controller_key::<Deployment>(&set.metadata));
            owner.into_iter().for_each(|key| on_pod.add(key));
        }
    });
    let controller = Arc::new(Deployments {
        client: world.client.clone(),
        recorder: world.recorder.of(NAME),
        pods: world.pods.clone(),
        sets: world.replica_sets.clone(),
        deployments: world.deployments.clone(),
    });
    start_workers(world, (NAME, 4), &queue, move |key| {
        let controller = controller.clone();
        async move { controller.look(&key).await }
    });
}

fn deployments_of(set: &ReplicaSet, deployments: &Cache<Deployment>) -> Vec<Key> {
    if ownership::controller_of(&set.metadata).is_some() {
        return ownership::controller_key::<Deployment>(&set.metadata).into_iter().collect();
    }
    let Some(labels) = &set.metadata.labels else { return Vec::new() };
    deployments
        .in_namespace(set.metadata.namespace.as_deref().unwrap_or_default())
        .iter()
        .filter(|deployment| selector(deployment).is_some_and(|s| s.matches(labels)))
        .map(|deployment| Key::of(&deployment.metadata))
        .collect()
}

fn selector(deployment: &Deployment) -> Option<Selector> {
    let selector: Selector = deployment.spec.as_ref()?.selector.clone().try_into().ok()?;
    (!selector.selects_all()).then_some(selector)
}

fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn size(set: &ReplicaSet) -> Size {
    let available = set.status.as_ref().and_then(|status| status.available_replicas);
    Size { replicas: replicas(set), available: available.unwrap_or(0) }
}

fn number(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// The replica sets of a deployment: that of its template, and the others, oldest first.
struct Sets {
    new: Option<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    fn all(&self) -> Vec<Arc<ReplicaSet>> {
        self.old.iter().cloned().chain(self.new.clone()).collect()
    }
}

impl Deployments {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Next::Rest) };
        if selector(&deployment).is_none() {
            return Ok(Next::Rest);
        }
        let mut found = Found::default();
        let outcome = if deployment.metadata.deletion_timestamp.is_none() {
            self.converge(&deployment, &mut found).await
        } else {
            Ok(())
        };
        let next = self.report(&deployment, &found).await?;
        outcome.map(|()| next)
    }

    async fn converge(&self, deployment: &Deployment, found: &mut Found) -> Result<(), SyncFailed> {
        let mut sets = self.sets_of(deployment).await?;
        let wanted = Wanted::of(deployment);
        let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
        if paused || (!wanted.recreate && is_scaled(&sets, wanted)) {
            return self.scale_all(deployment, &sets, wanted).await;
        }
        if wanted.recreate && self.scale_old(deployment, &sets, wanted).await? {
            return Ok(());
        }
        if wanted.recreate && self.old_pods_run(&sets) {
            return Ok(());
        }
        let new = self.ensure_new(deployment, &mut sets, wanted, found).await?;
        let old: Vec<Size> = sets.old.iter().map(|set| size(set)).collect();
        let grown = wanted.new_size(replicas(&new), &old);
        if self.scale(deployment, &new, grown, wanted).await? {
            return Ok(());
        }
        if !wanted.recreate && self.scale_old(deployment, &sets, wanted).await? {
            return Ok(());
        }
        let (status, _) =
            status::next(deployment, sets.new.as_ref(), &sets.all(), found, Timestamp::now());
        if status::is_complete(deployment, &status) {
            self.clean_up(deployment, &sets).await?;
        }
        Ok(())
    }

    /// Shrinks the old replica sets as far as allowed; says whether it did anything.
    async fn scale_old(
        &self,
        deployment: &Deployment,
        sets: &Sets,
        wanted: Wanted,
    ) -> Result<bool, SyncFailed> {
        let none = Size { replicas: 0, available: 0 };
        let new = sets.new.as_ref().map_or(none, |set| size(set));
        let old: Vec<Size> = sets.old.iter().map(|set| size(set)).collect();
        let mut acted = false;
        for (set, to) in sets.old.iter().zip(wanted.old_sizes(new, &old)) {
            acted |= self.scale(deployment, set, to, wanted).await?;
        }
        Ok(acted)
    }

    /// The deployment was scaled: that comes before any rollout.
    async fn scale_all(
        &self,
        deployment: &Deployment,
        sets: &Sets,
        wanted: Wanted,
    ) -> Result<(), SyncFailed> {
        let mut active: Vec<Arc<ReplicaSet>> =
            sets.all().into_iter().filter(|set| replicas(set) > 0).collect();
        active.reverse();
        if active.len() <= 1 {
            let only =
                active.pop().or_else(|| sets.new.clone()).or_else(|| sets.old.last().cloned());
            if let Some(only) = only {
                self.scale(deployment, &only, wanted.replicas, wanted).await?;
            }
            return Ok(());
        }
        let sizes: Vec<i32> = match &sets.new {
            Some(new) if size(new) == full(wanted) => active
                .iter()
                .map(|s| if Arc::ptr_eq(s, new) { wanted.replicas } else { 0 })
                .collect(),
            _ if wanted.recreate => return Ok(()),
            _ => {
                let shares: Vec<(i32, i32)> = active
                    .iter()
                    .map(|set| (replicas(set), number(set, MOST).unwrap_or_else(|| wanted.most())))
                    .collect();
                wanted.proportional(&shares)
            }
        };
        for (set, to) in active.iter().zip(sizes) {
            self.scale(deployment, set, to, wanted).await?;
        }
        Ok(())
    }

    /// Writes the size of a replica set and what it was derived from; says whether it is new.
    async fn scale(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        to: i32,
        wanted: Wanted,
    ) -> Result<bool, SyncFailed> {
        let from = replicas(set);
        let noted = number(set, DESIRED) == Some(wanted.replicas)
            && number(set, MOST) == Some(wanted.most());
        if from == to && (noted || to == 0) {
            return Ok(false);
        }
        let key = Key::of(&set.metadata);
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = serde_json::json!({
            "metadata": {
                "resourceVersion": set.metadata.resource_version,
                "annotations": {
                    DESIRED: wanted.replicas.to_string(),
                    MOST: wanted.most().to_string(),
                },
            },
            "spec": { "replicas": to },
        });
        let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if let Some(written) = written.if_found("scaling replica set", &key)? {
            self.sets.written(written);
        }
        if from != to {
            self.tell_scaled(deployment, &key.name, from, to);
        }
        Ok(from != to)
    }

    fn tell_scaled(&self, deployment: &Deployment, set: &str, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        let about = kube::core::Resource::object_ref(deployment, &());
        let message = format!("Scaled {direction} replica set {set} from {from} to {to}");
        self.recorder.normal(about, "ScalingReplicaSet", message);
    }

    fn old_pods_run(&self, sets: &Sets) -> bool {
        let namespace = sets.old.first().and_then(|set| set.metadata.namespace.as_deref());
        self.pods.in_namespace(namespace.unwrap_or_default()).iter().any(|pod| {
            !pods::is_finished(pod)
                && sets.old.iter().any(|set| {
                    ownership::is_controlled_by(&pod.metadata, set.metadata.uid.as_deref())
                })
        })
    }

    async fn report(&self, deployment: &Deployment, found: &Found) -> Result<Next, SyncFailed> {
        let key = Key::of(&deployment.metadata);
        // What this look wrote is in the cache by now, also onto the deployment itself.
        let Some(deployment) = self.deployments.get(&key) else { return Ok(Next::Rest) };
        let sets = self.owned(&deployment);
        let (status, again) =
            status::next(&deployment, sets.new.as_ref(), &sets.all(), found, Timestamp::now());
        if deployment.status.as_ref() != Some(&status) {
            let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
            let patch = serde_json::json!({ "status": status });
            let written =
                api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
            if let Some(written) = written.if_found("writing the status of deployment", &key)? {
                self.deployments.written(written);
            }
        }
        Ok(again.map_or(Next::Rest, Next::LookAgainIn))
    }
}

fn full(wanted: Wanted) -> Size {
    Size { replicas: wanted.replicas, available: wanted.replicas }
}

/// Some replica set got its size for another number of replicas.
fn is_scaled(sets: &Sets, wanted: Wanted) -> bool {
    sets.all().iter().any(|set| {
        replicas(set) > 0 && number(set, DESIRED).is_some_and(|was| was != wanted.replicas)
    })
}
