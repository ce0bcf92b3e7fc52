//! The replica sets of a deployment: finding, making, numbering and cleaning them up.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::SelectorExt;

use super::rollout::Wanted;
use super::status::Found;
use super::{DESIRED, Deployments, MOST, REVISION, Sets, replicas, selector, size, template};
use crate::cache::Key;
use crate::failure::{Doing, SyncFailed};
use crate::ownership::{self, Claim};

/// Annotations that belong to the deployment alone.
const OWN_ANNOTATIONS: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    DESIRED,
    MOST,
];

impl Deployments {
    /// The replica sets as the cache has them, claims settled.
    pub(super) async fn sets_of(&self, deployment: &Deployment) -> Result<Sets, SyncFailed> {
        let meta = &deployment.metadata;
        let uid = meta.uid.as_deref().unwrap_or_default();
        let none = BTreeMap::new();
        let selector = selector(deployment);
        for set in self.sets.in_namespace(meta.namespace.as_deref().unwrap_or_default()) {
            let labels = set.metadata.labels.as_ref().unwrap_or(&none);
            let selected = selector.as_ref().is_some_and(|selector| selector.matches(labels));
            let owners = match ownership::claim(&set.metadata, uid, false, selected) {
                Claim::Adopt => match ownership::controller_reference(deployment) {
                    Some(reference) => ownership::with_owner(&set.metadata, reference),
                    None => continue,
                },
                Claim::Release => ownership::without_owner(&set.metadata, uid),
                Claim::Keep | Claim::Ignore => continue,
            };
            let act = "changing the owner of replica set";
            let written: Option<ReplicaSet> =
                ownership::write_owners(&self.client, &set.metadata, act, &owners).await?;
            written.into_iter().for_each(|set| self.sets.written(set));
        }
        Ok(self.owned(deployment))
    }

    pub(super) fn owned(&self, deployment: &Deployment) -> Sets {
        let meta = &deployment.metadata;
        let mut all: Vec<Arc<ReplicaSet>> = self
            .sets
            .in_namespace(meta.namespace.as_deref().unwrap_or_default())
            .into_iter()
            .filter(|set| ownership::is_controlled_by(&set.metadata, meta.uid.as_deref()))
            .collect();
        all.sort_by_key(|set| {
            (set.metadata.creation_timestamp.as_ref().map(|time| time.0), revision(&set.metadata))
        });
        let new = deployment
            .spec
            .as_ref()
            .and_then(|spec| template::replica_set_of(&spec.template, &all))
            .cloned();
        all.retain(|set| new.as_ref().is_none_or(|new| !Arc::ptr_eq(new, set)));
        Sets { new, old: all }
    }

    /// The replica set of the current template, made if there is none, with its revision.
    pub(super) async fn ensure_new(
        &self,
        deployment: &Deployment,
        sets: &mut Sets,
        wanted: Wanted,
        found: &mut Found,
    ) -> Result<Arc<ReplicaSet>, SyncFailed> {
        let newest_old = sets.old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0);
        let set = match sets.new.take() {
            Some(set) => self.refresh(deployment, set, newest_old).await?,
            None => Arc::new(
                self.make(deployment, sets, wanted, found, newest_old.saturating_add(1)).await?,
            ),
        };
        self.note_revision(deployment, revision(&set.metadata)).await?;
        sets.new = Some(set.clone());
        Ok(set)
    }

    /// Brings revision, copied annotations and readiness delay of the new replica set up to date.
    async fn refresh(
        &self,
        deployment: &Deployment,
        set: Arc<ReplicaSet>,
        newest_old: i64,
    ) -> Result<Arc<ReplicaSet>, SyncFailed> {
        let mut annotations = copied_annotations(deployment);
        let number = revision(&set.metadata);
        // A rollback: the old template is the newest again.
        let number = if number <= newest_old { newest_old.saturating_add(1) } else { number };
        annotations.insert(REVISION.to_owned(), number.to_string());
        let delay = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let same_delay =
            set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0) == delay;
        let have = set.metadata.annotations.as_ref();
        let noted =
            annotations.iter().all(|(key, value)| have.and_then(|a| a.get(key)) == Some(value));
        if noted && same_delay {
            return Ok(set);
        }
        let key = Key::of(&set.metadata);
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = serde_json::json!({
            "metadata": { "annotations": annotations },
            "spec": { "minReadySeconds": delay },
        });
        let written = api
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .doing("updating replica set", &key)?;
        self.sets.written(written.clone());
        Ok(Arc::new(written))
    }

    async fn make(
        &self,
        deployment: &Deployment,
        sets: &Sets,
        wanted: Wanted,
        found: &mut Found,
        revision: i64,
    ) -> Result<ReplicaSet, SyncFailed> {
        let old: Vec<_> = sets.old.iter().map(|set| size(set)).collect();
        let count = wanted.new_size(0, &old);
        let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
        let collisions = collisions.unwrap_or(0);
        let set = new_set(deployment, (count, wanted), collisions, revision);
        let key = Key::of(&set.metadata);
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let made =
            api.create(&PostParams::default(), &set).await.doing("creating replica set", &key);
        match made {
            Ok(set) => {
                self.sets.written(set.clone());
                found.made_new = true;
                if count > 0 {
                    self.tell_scaled(deployment, &key.name, 0, count);
                }
                Ok(set)
            }
            Err(error) => {
                let exists = error.status().is_some_and(|s| s.reason == "AlreadyExists");
                if exists && self.is_taken(deployment, &api, &key).await? {
                    found.collisions = Some(collisions.saturating_add(1));
                } else if !exists {
                    found.create_error = Some(error.cause());
                }
                Err(error)
            }
        }
    }

    /// The name is in use by something that is not this deployment's set of this template.
    async fn is_taken(
        &self,
        deployment: &Deployment,
        api: &Api<ReplicaSet>,
        key: &Key,
    ) -> Result<bool, SyncFailed> {
        let Some(set) = api.get(&key.name).await.if_found("reading replica set", key)? else {
            return Ok(false);
        };
        let ours = ownership::is_controlled_by(&set.metadata, deployment.metadata.uid.as_deref());
        let same = set.spec.as_ref().and_then(|spec| spec.template.as_ref()).is_some_and(|have| {
            deployment.spec.as_ref().is_some_and(|spec| template::is_same(have, &spec.template))
        });
        self.sets.written(set);
        Ok(!(ours && same))
    }

    async fn note_revision(&self, deployment: &Deployment, number: i64) -> Result<(), SyncFailed> {
        let key = Key::of(&deployment.metadata);
        if number == 0 || revision(&deployment.metadata) == number {
            return Ok(());
        }
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch =
            serde_json::json!({ "metadata": { "annotations": { REVISION: number.to_string() } } });
        let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if let Some(written) = written.if_found("noting the revision of deployment", &key)? {
            self.deployments.written(written);
        }
        Ok(())
    }

    /// Deletes the oldest empty replica sets beyond the history limit.
    pub(super) async fn clean_up(
        &self,
        deployment: &Deployment,
        sets: &Sets,
    ) -> Result<(), SyncFailed> {
        let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
        let mut removable: Vec<&Arc<ReplicaSet>> =
            sets.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        removable.sort_by_key(|set| revision(&set.metadata));
        let surplus = removable.len().saturating_sub(limit);
        for set in removable.into_iter().take(surplus) {
            let busy = set.status.as_ref().is_some_and(|status| status.replicas != 0)
                || replicas(set) != 0
                || set.metadata.generation
                    > set.status.as_ref().and_then(|s| s.observed_generation);
            if busy {
                continue;
            }
            let key = Key::of(&set.metadata);
            let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
            let preconditions = Preconditions {
                uid: set.metadata.uid.clone(),
                resource_version: set.metadata.resource_version.clone(),
            };
            let params = DeleteParams::background().preconditions(preconditions);
            api.delete(&key.name, &params).await.if_found("deleting replica set", &key)?;
        }
        Ok(())
    }
}

fn revision(meta: &ObjectMeta) -> i64 {
    let text = meta.annotations.as_ref().and_then(|annotations| annotations.get(REVISION));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn copied_annotations(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !OWN_ANNOTATIONS.contains(&key.as_str()));
    annotations
}

fn new_set(
    deployment: &Deployment,
    (count, wanted): (i32, Wanted),
    collisions: i32,
    revision: i64,
) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let hash = template::hash(&spec.template, collisions);
    let label = (template::HASH_LABEL.to_owned(), hash.clone());
    let from = spec.template.metadata.unwrap_or_default();
    let mut labels = from.labels.clone().unwrap_or_default();
    labels.extend([label.clone()]);
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().extend([label]);
    let mut annotations = copied_annotations(deployment);
    annotations.extend([
        (REVISION.to_owned(), revision.to_string()),
        (DESIRED.to_owned(), wanted.replicas.to_string()),
        (MOST.to_owned(), wanted.most().to_string()),
    ]);
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels.clone()),
            annotations: Some(annotations),
            owner_references: ownership::controller_reference(deployment).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(count),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..from }),
                spec: spec.template.spec,
            }),
        }),
        status: None,
    }
}
