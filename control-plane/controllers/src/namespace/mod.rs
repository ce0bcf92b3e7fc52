//! Namespace deletion: empties a namespace that is being deleted, then lets it go.
//!
//! Guarantees: the finalizer goes only after a look at every kind that discovery knows found
//! nothing and failed nowhere; what still holds the namespace is said in its conditions. What fails
//! holds up nothing else.

mod conditions;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;

use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::kinds::{Kind, Kinds};
use crate::queue::{Next, WorkQueue, start_workers};
use conditions::{Round, conditions};

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const KINDS_MAX_AGE: Duration = Duration::from_secs(10);

struct Namespaces {
    client: Client,
    kinds: Arc<Kinds>,
    namespaces: Arc<Cache<Namespace>>,
}

pub(crate) fn start(world: &World) {
    let queue = WorkQueue::new();
    let on_namespace = queue.clone();
    world.namespaces.on_change(move |change| {
        if let Some(namespace) = change.new.filter(|n| n.metadata.deletion_timestamp.is_some()) {
            on_namespace.add(Key::of(&namespace.metadata));
        }
    });
    let (on_pod, namespaces) = (queue.clone(), world.namespaces.clone());
    world.pods.on_change(move |change| {
        // The last pod is what a namespace mostly waits for.
        let (Some(pod), None) = (change.old, change.new) else { return };
        let key = Key::new("", pod.metadata.namespace.as_deref().unwrap_or_default());
        if namespaces.get(&key).is_some_and(|n| n.metadata.deletion_timestamp.is_some()) {
            on_pod.add(key);
        }
    });
    let controller = Arc::new(Namespaces {
        client: world.client.clone(),
        kinds: world.kinds.clone(),
        namespaces: world.namespaces.clone(),
    });
    start_workers(world, (NAME, 2), &queue, move |key| {
        let controller = controller.clone();
        async move { controller.look(&key).await }
    });
}

impl Namespaces {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Next::Rest) };
        let held = namespace
            .spec
            .as_ref()
            .is_some_and(|spec| spec.finalizers.iter().flatten().any(|f| f == FINALIZER));
        if namespace.metadata.deletion_timestamp.is_none() || !held {
            return Ok(Next::Rest);
        }
        let mut round = Round::default();
        let kinds = match self.kinds.all(KINDS_MAX_AGE).await {
            Ok(kinds) => kinds,
            Err(error) => {
                round.undiscovered(&error);
                let failed: Result<(), _> = Err(error);
                round.failed(failed.doing("discovering the content of", key));
                self.kinds.known().await
            }
        };
        let inside = |kind: &&Kind| kind.namespaced && kind.can_delete && !kind.is_twin;
        let mut content: Vec<&Kind> = kinds.iter().filter(inside).collect();
        // Pods first: what they use goes after they were told to stop.
        content.sort_by_key(|kind| kind.resource.plural != "pods");
        for kind in content {
            if let Err(error) = self.empty(&key.name, kind, &mut round).await {
                round.undeleted(error);
            }
        }
        if round.is_done() {
            self.finalize(&namespace, key).await?;
            return Ok(Next::Rest);
        }
        self.report(&namespace, key, &round).await?;
        match round.into_error() {
            Some(error) => Err(error),
            None => Ok(Next::LookAgainIn(LOOK_AGAIN)),
        }
    }

    /// Deletes all objects of one kind and notes what stays for now.
    async fn empty(
        &self,
        namespace: &str,
        kind: &Kind,
        round: &mut Round,
    ) -> Result<(), SyncFailed> {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::namespaced_with(self.client.clone(), namespace, &kind.resource);
        let plural = &kind.resource.plural;
        let all = ListParams::default();
        let listed = api.list(&all).await.if_found("listing", plural)?;
        let Some(listed) = listed.filter(|listed| !listed.items.is_empty()) else { return Ok(()) };
        let objects: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &kind.resource);
        let params = DeleteParams::background();
        if kind.can_delete_collection {
            let deleted = objects.delete_collection(&params, &all).await;
            if let Err(error) = deleted.doing("deleting all", plural) {
                round.undeleted(error);
            }
        } else {
            for object in listed.items {
                let name = object.metadata.name.unwrap_or_default();
                let deleted = objects.delete(&name, &params).await;
                if let Err(error) = deleted.if_found("deleting", &name) {
                    round.undeleted(error);
                }
            }
        }
        let left = api.list(&all).await.doing("listing", plural)?;
        let finalizers = left.items.iter().map(|item| item.metadata.finalizers.as_deref());
        round.count(&kind.resource, finalizers);
        Ok(())
    }

    async fn finalize(&self, namespace: &Namespace, key: &Key) -> Result<(), SyncFailed> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let mut done = namespace.clone();
        if let Some(finalizers) = done.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let params = PostParams::default();
        let answer = api.replace_subresource("finalize", &key.name, &params, &done).await;
        answer.if_found("finalizing namespace", key).map(|_| ())
    }

    async fn report(
        &self,
        namespace: &Namespace,
        key: &Key,
        round: &Round,
    ) -> Result<(), SyncFailed> {
        let old = namespace.status.as_ref().and_then(|status| status.conditions.clone());
        let new = conditions(old.as_deref().unwrap_or_default(), round, Timestamp::now());
        if old.as_ref() == Some(&new) {
            return Ok(());
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        let patch = serde_json::json!({ "status": { "conditions": new } });
        let written =
            api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if let Some(written) = written.if_found("writing the status of namespace", key)? {
            self.namespaces.written(written);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Request, Response};
    use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Secret};
    use kube::client::Body;
    use kube::core::Resource;
    use serde_json::{Value, json};
    use std::sync::Mutex;

    fn kind<K: Resource<DynamicType = ()>>(can_delete_collection: bool) -> Kind {
        Kind { can_delete_collection, ..Kind::sample::<K>() }
    }

    /// What was asked of the API, and the conditions that were written.
    #[derive(Default)]
    struct Seen {
        deleted: Vec<String>,
        finalized: bool,
        conditions: Vec<(String, String, String)>,
    }

    impl Seen {
        fn take_in(&mut self, method: &Method, path: &str, body: &Value) {
            if *method == Method::DELETE {
                self.deleted.push(path.rsplit('/').next().unwrap_or_default().to_owned());
            }
            self.finalized |= path.ends_with("/finalize");
            for condition in body["status"]["conditions"].as_array().into_iter().flatten() {
                let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
                self.conditions.push((text("type"), text("status"), text("message")));
            }
        }
    }

    /// A look at a namespace with two objects of each kind, of which some cannot be deleted.
    async fn look(refused: &'static [&'static str], discovers: bool) -> (Seen, bool) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": "n", "uid": "n", "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "finalizers": ["kubernetes"] },
        });
        let (noted, live) = (seen.clone(), namespace.clone());
        let api = tower::service_fn(move |request: Request<Body>| {
            let (noted, live) = (noted.clone(), live.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let path = head.uri.path();
                noted.lock().unwrap().take_in(&head.method, path, &body);
                let last = path.rsplit('/').next().unwrap_or_default();
                let one = |name: &str| json!({ "metadata": { "name": name } });
                let (code, answer) = match (head.method, path) {
                    (Method::DELETE, _) if refused.contains(&last) => {
                        let message = format!("{last} stay");
                        (500, json!({ "kind": "Status", "code": 500, "message": message }))
                    }
                    (Method::DELETE, _) => (200, json!({ "kind": "Status", "status": "Success" })),
                    (Method::GET, path) if path.starts_with("/api/v1/namespaces/n/") => {
                        let gone = !refused.contains(&last)
                            && noted.lock().unwrap().deleted.iter().any(|it| it == last);
                        let items = if gone { vec![] } else { vec![one("a"), one("b")] };
                        (200, json!({ "metadata": {}, "items": items }))
                    }
                    (Method::GET, _) => {
                        (503, json!({ "kind": "Status", "code": 503, "message": "not now" }))
                    }
                    _ => (200, live),
                };
                let answer = Body::from(answer.to_string().into_bytes());
                let answer = Response::builder().status(code).body(answer).unwrap();
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let client = Client::new(api, "default");
        let kinds = vec![kind::<ConfigMap>(true), kind::<Endpoints>(false), kind::<Secret>(true)];
        let kinds = Kinds::of(client.clone(), kinds);
        if !discovers {
            kinds.grow_old().await;
        }
        let controller = Namespaces { client, kinds, namespaces: Cache::new() };
        controller.namespaces.written(serde_json::from_value(namespace).unwrap());
        let done = controller.look(&Key::new("", "n")).await.is_ok();
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        (seen, done)
    }

    #[tokio::test]
    async fn what_fails_holds_up_nothing_else_and_is_said() {
        let failure = |seen: &Seen, wanted: &str| {
            let mut all = seen.conditions.iter();
            let found = all.find(|(name, ..)| name == wanted).expect("a condition");
            (found.1.clone(), found.2.clone())
        };
        let (seen, done) = look(&["configmaps", "a"], true).await;
        assert_eq!(seen.deleted, ["configmaps", "a", "b", "secrets"]);
        assert!(!done && !seen.finalized);
        let (status, message) = failure(&seen, "NamespaceDeletionContentFailure");
        let expected = "Failed to delete all resource types, 2 remaining: a stay, configmaps stay";
        assert_eq!((&*status, &*message), ("True", expected));
        let (status, message) = failure(&seen, "NamespaceContentRemaining");
        let remaining = "Some resources are remaining: configmaps. has 2 resource instances, \
                         endpoints. has 2 resource instances";
        assert_eq!((&*status, &*message), ("True", remaining));

        let (seen, done) = look(&[], false).await;
        assert_eq!(seen.deleted, ["configmaps", "a", "b", "secrets"], "what was known before");
        assert!(!done && !seen.finalized);
        let (status, message) = failure(&seen, "NamespaceDeletionDiscoveryFailure");
        assert_eq!(status, "True");
        assert!(message.contains("not now"), "{message}");
        let (status, _) = failure(&seen, "NamespaceDeletionContentFailure");
        assert_eq!(status, "False");
    }
}
