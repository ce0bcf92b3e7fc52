//! How many pods the owners of pods want.
//!
//! Guarantees: each owner counts once, whatever the number of its pods; a replica set that belongs
//! to a deployment counts as the deployment. What has a scale in the API counts, whatever its kind.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::DynamicObject;
use kube::{Api, Client};

use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::kinds::Kinds;
use crate::ownership::{controller_key, controller_of};

/// Why it is not known how many pods there should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum CountFailed {
    #[error("found no controllers for pod {0:?}")]
    NoOwner(String),
    #[error("{0} does not implement the scale subresource")]
    NoScale(String),
    #[error("no matches for kind {kind:?} in version {version:?}")]
    NoKind { kind: String, version: String },
    #[error(transparent)]
    Asking(#[from] SyncFailed),
}

/// What the owners of some pods want.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scales {
    pub(super) total: i32,
    /// Whether there are pods that nobody owns.
    pub(super) unmanaged: bool,
}

/// An owner's uid and how many pods it wants.
type Scale = (String, i32);

pub(super) struct Owners {
    client: Client,
    kinds: Arc<Kinds>,
    deployments: Arc<Cache<Deployment>>,
    replica_sets: Arc<Cache<ReplicaSet>>,
    replication_controllers: Arc<Cache<ReplicationController>>,
}

impl Owners {
    pub(super) fn new(world: &World) -> Self {
        Self {
            client: world.client.clone(),
            kinds: world.kinds.clone(),
            deployments: world.deployments.clone(),
            replica_sets: world.replica_sets.clone(),
            replication_controllers: world.replication_controllers.clone(),
        }
    }

    pub(super) async fn scales(&self, pods: &[Arc<Pod>]) -> Result<Scales, CountFailed> {
        let mut scales: HashMap<String, i32> = HashMap::new();
        let mut seen: Vec<&str> = Vec::new();
        let mut unmanaged = false;
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else {
                unmanaged = true;
                continue;
            };
            if seen.contains(&owner.uid.as_str()) {
                continue;
            }
            seen.push(&owner.uid);
            let known = self.known(pod, owner);
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let found = match known {
                Some(known) => Some(known),
                None => self.asked(owner, namespace).await?,
            };
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let (uid, scale) = found.ok_or_else(|| CountFailed::NoOwner(name.to_owned()))?;
            scales.insert(uid, scale);
        }
        let total = scales.into_values().fold(0, i32::saturating_add);
        Ok(Scales { total, unmanaged })
    }

    /// The scale of an owner that is in a cache.
    fn known(&self, pod: &Pod, owner: &OwnerReference) -> Option<Scale> {
        if let Some(key) = controller_key::<ReplicationController>(&pod.metadata) {
            let found = self.replication_controllers.get(&key)?;
            let replicas = found.spec.as_ref().and_then(|spec| spec.replicas);
            return same(owner, found.metadata.uid.as_deref(), replicas);
        }
        let key = controller_key::<ReplicaSet>(&pod.metadata)?;
        let set = self.replica_sets.get(&key)?;
        let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
        let own = same(owner, set.metadata.uid.as_deref(), replicas)?;
        Some(self.of_deployment(&set).unwrap_or(own))
    }

    fn of_deployment(&self, set: &ReplicaSet) -> Option<Scale> {
        let key: Key = controller_key::<Deployment>(&set.metadata)?;
        let deployment = self.deployments.get(&key)?;
        let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        same(controller_of(&set.metadata)?, deployment.metadata.uid.as_deref(), replicas)
    }

    /// The scale of an owner as the API tells it.
    async fn asked(
        &self,
        owner: &OwnerReference,
        namespace: &str,
    ) -> Result<Option<Scale>, CountFailed> {
        let OwnerReference { api_version, kind, name, .. } = owner;
        let found = self.kinds.find(api_version, kind).await.doing("looking up the kind", kind)?;
        let Some(found) = found else {
            return Err(CountFailed::NoKind { kind: kind.clone(), version: api_version.clone() });
        };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &found.resource);
        let scale = api.get_scale(name).await.if_found("reading the scale of", name)?;
        if let Some(scale) = scale {
            let replicas = scale.spec.and_then(|spec| spec.replicas);
            return Ok(same(owner, scale.metadata.uid.as_deref(), Some(replicas.unwrap_or(0))));
        }
        // Either it is not there, or its kind has no scale.
        match api.get(name).await.if_found("reading", name)? {
            None => Ok(None),
            Some(_) => {
                let resource = &found.resource;
                let qualified = format!("{}.{}", resource.plural, resource.group);
                Err(CountFailed::NoScale(qualified.trim_end_matches('.').to_owned()))
            }
        }
    }
}

/// The scale of the object that an owner reference names, if it is that one.
fn same(owner: &OwnerReference, uid: Option<&str>, replicas: Option<i32>) -> Option<Scale> {
    (uid == Some(owner.uid.as_str())).then(|| (owner.uid.clone(), replicas.unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples;
    use http::{Request, Response};
    use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
    use kube::client::Body;
    use serde_json::{Value, json};

    use crate::kinds::Kind;

    /// An API that has the scale of the stateful set `s`, and the daemon set `d`.
    fn owners() -> Owners {
        let api = tower::service_fn(|request: Request<Body>| async move {
            let path = request.uri().path();
            let (code, answer) = if path.ends_with("/statefulsets/s/scale") {
                let metadata = json!({ "name": "s", "namespace": "default", "uid": "uid-s" });
                let scale = json!({
                    "apiVersion": "autoscaling/v1", "kind": "Scale",
                    "metadata": metadata, "spec": { "replicas": 4 },
                });
                (200, scale)
            } else if path.ends_with("/daemonsets/d") {
                (200, json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {} }))
            } else {
                (404, json!({ "kind": "Status", "code": 404, "message": "not found" }))
            };
            let answer = Body::from(answer.to_string().into_bytes());
            let answer = Response::builder().status(code).body(answer).unwrap();
            Ok::<_, std::convert::Infallible>(answer)
        });
        let client = Client::new(api, "default");
        let kinds = vec![Kind::sample::<StatefulSet>(), Kind::sample::<DaemonSet>()];
        let owners = Owners {
            kinds: Kinds::of(client.clone(), kinds),
            client,
            deployments: Cache::new(),
            replica_sets: Cache::new(),
            replication_controllers: Cache::new(),
        };
        let deployment = json!({
            "metadata": { "name": "web", "namespace": "default", "uid": "uid-web" },
            "spec": { "replicas": 5, "selector": {}, "template": {} },
        });
        owners.deployments.written(serde_json::from_value(deployment).unwrap());
        for (name, replicas, parent) in [
            ("new", 3, Some("web")),
            ("old", 2, Some("web")),
            ("alone", 7, None),
            ("left", 6, Some("none")),
        ] {
            let mut set = json!({
                "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}") },
                "spec": { "replicas": replicas, "selector": {}, "template": {} },
            });
            if let Some(parent) = parent {
                set["metadata"]["ownerReferences"] = json!([reference("Deployment", parent)]);
            }
            owners.replica_sets.written(serde_json::from_value(set).unwrap());
        }
        owners
    }

    fn reference(kind: &str, name: &str) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": format!("uid-{name}"),
            "controller": true,
        })
    }

    fn owned(name: &str, kind: &str, owner: &str) -> Arc<Pod> {
        let mut pod = samples::pod(name);
        let references = json!([reference(kind, owner)]);
        pod.metadata.owner_references = serde_json::from_value(references).unwrap();
        Arc::new(pod)
    }

    #[tokio::test]
    async fn owners_count_once_and_deployments_for_their_sets() {
        let (set, alone) = ("ReplicaSet", Arc::new(samples::pod("alone")));
        let rolling = vec![owned("a", set, "new"), owned("b", set, "new"), owned("c", set, "old")];
        let both = vec![owned("a", set, "new"), owned("b", set, "alone")];
        let table = [
            ("a rollout", rolling, Ok((5, false))),
            ("two owners", both, Ok((12, false))),
            ("a set whose deployment is gone", vec![owned("a", set, "left")], Ok((6, false))),
            ("nobody's", vec![alone.clone(), owned("a", set, "alone")], Ok((7, true))),
            ("only nobody's", vec![alone], Ok((0, true))),
            ("asked for", vec![owned("a", "StatefulSet", "s")], Ok((4, false))),
            (
                "gone",
                vec![owned("a", "StatefulSet", "t")],
                Err("found no controllers for pod \"a\""),
            ),
            (
                "without a scale",
                vec![owned("a", "DaemonSet", "d")],
                Err("daemonsets.apps does not implement the scale subresource"),
            ),
        ];
        let owners = owners();
        for (name, pods, expected) in table {
            let got = owners.scales(&pods).await;
            let got = got.map(|scales| (scales.total, scales.unmanaged));
            let got = got.map_err(|error| error.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{name}");
        }
    }
}
