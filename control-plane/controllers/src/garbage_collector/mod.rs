//! Garbage collection by owner references, over every kind that discovery lists.
//!
//! Guarantees: an object is deleted only when each of its owners is known to be gone, or waits in a
//! foreground deletion; an owner that the graph does not know is read from the API before it counts
//! as gone; what is left behind on purpose is listed anew before its owner goes; the deletion
//! carries the uid and version that the decision was made on.
//!
//! The typed caches feed the graph; only kinds that no controller watches get a watch of their own,
//! of metadata alone. No object is looked at before all of these are complete, too: what is not
//! known yet must not count as not there. Events are left out: they have no dependents, and
//! `event_gc` removes them.

mod graph;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
};
use kube::core::{PartialObjectMeta, Resource};
use kube::runtime::watcher;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::graph::{FOREGROUND, Fate, Graph, ORPHAN, Object, Owner, Policy, Uid};
use crate::World;
use crate::cache::{Cache, Watched};
use crate::failure::{Doing, SyncFailed};
use crate::kinds::{Kind, Kinds};
use crate::queue::{Next, WorkQueue, start_workers};
use crate::resource_quota::Usage;
use crate::tasks::Tasks;

const NAME: &str = "garbage-collector";
const NEW_KINDS: Duration = Duration::from_secs(30);

struct Collector {
    client: Client,
    kinds: Arc<Kinds>,
    graph: Arc<Shared>,
    queue: Arc<WorkQueue<Uid>>,
    /// Turns true when the graph has every kind.
    complete: watch::Receiver<bool>,
}

struct Shared(Mutex<Graph>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Graph> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Feeds the graph from caches, and tells the quotas, which count objects of many kinds, too.
#[derive(Clone)]
struct Feed {
    graph: Arc<Shared>,
    queue: Arc<WorkQueue<Uid>>,
    usage: Usage,
}

impl Feed {
    fn typed<K>(&self, cache: &Cache<K>) -> (String, String)
    where
        K: Watched + Resource<DynamicType = ()>,
    {
        let resource = ApiResource::erase::<K>(&());
        let name = (resource.group.clone(), resource.plural.clone());
        self.from(cache, resource);
        name
    }

    fn from<K>(&self, cache: &Cache<K>, resource: ApiResource)
    where
        K: Watched,
    {
        let (feed, resource) = (self.clone(), Arc::new(resource));
        let told = self.usage.of(&resource);
        cache.on_change(move |change| {
            change.latest().into_iter().for_each(|object| told(object.meta()));
            let work = match (change.new, change.old) {
                (Some(new), _) => feed.graph.lock().observe(new.meta(), &resource),
                (None, Some(old)) => {
                    feed.graph.lock().forget(old.meta().uid.as_deref().unwrap_or_default())
                }
                (None, None) => Vec::new(),
            };
            work.into_iter().for_each(|uid| feed.queue.add(uid));
        });
    }
}

pub(crate) fn start(world: &World, usage: Usage) {
    let queue = WorkQueue::new();
    let graph = Arc::new(Shared(Mutex::new(Graph::default())));
    let feed = Feed { graph, queue: queue.clone(), usage };
    let watched = HashSet::from([
        feed.typed(&world.pods),
        feed.typed(&world.replica_sets),
        feed.typed(&world.replication_controllers),
        feed.typed(&world.budgets),
        feed.typed(&world.deployments),
        feed.typed(&world.services),
        feed.typed(&world.slices),
        feed.typed(&world.endpoints),
        feed.typed(&world.nodes),
        feed.typed(&world.leases),
        feed.typed(&world.namespaces),
        feed.typed(&world.service_accounts),
        feed.typed(&world.quotas),
        feed.typed(&world.ip_addresses),
        (String::new(), "events".to_owned()),
        ("events.k8s.io".to_owned(), "events".to_owned()),
    ]);
    let rest = Rest {
        client: world.client.clone(),
        kinds: world.kinds.clone(),
        feed: feed.clone(),
        watched,
        caches: Vec::new(),
    };
    let (is_complete, complete) = watch::channel(false);
    let (tasks, token) = (world.tasks.clone(), world.token.clone());
    world.tasks.spawn(async move { rest.follow(&tasks, &token, is_complete).await });
    let collector = Arc::new(Collector {
        client: world.client.clone(),
        kinds: world.kinds.clone(),
        graph: feed.graph,
        queue: queue.clone(),
        complete,
    });
    start_workers(world, (NAME, 4), &queue, move |uid: Uid| {
        let collector = collector.clone();
        async move { collector.look(&uid).await }
    });
}

/// Watches the kinds that no controller watches, also those that come later.
struct Rest {
    client: Client,
    kinds: Arc<Kinds>,
    feed: Feed,
    watched: HashSet<(String, String)>,
    caches: Vec<Arc<Cache<PartialObjectMeta<DynamicObject>>>>,
}

impl Rest {
    async fn follow(
        mut self,
        tasks: &Tasks,
        token: &CancellationToken,
        is_complete: watch::Sender<bool>,
    ) {
        loop {
            let pause = match self.kinds.all(Duration::from_secs(1)).await {
                Ok(kinds) => {
                    kinds.iter().for_each(|kind| self.watch(kind, tasks, token));
                    if token.run_until_cancelled(self.wait_synced()).await.is_none() {
                        return;
                    }
                    is_complete.send_replace(true);
                    NEW_KINDS
                }
                Err(error) => {
                    tracing::warn!(%error, "discovery failed and is retried");
                    Duration::from_secs(1)
                }
            };
            if token.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    fn watch(&mut self, kind: &Kind, tasks: &Tasks, token: &CancellationToken) {
        let name = (kind.resource.group.clone(), kind.resource.plural.clone());
        if !kind.can_watch || !kind.can_delete || !self.watched.insert(name) {
            return;
        }
        let cache: Arc<Cache<PartialObjectMeta<DynamicObject>>> = Cache::new();
        self.feed.from(&cache, kind.resource.clone());
        let api = Api::all_with(self.client.clone(), &kind.resource);
        tasks.spawn(cache.clone().run(api, watcher::Config::default(), token.clone()));
        self.caches.push(cache);
    }

    async fn wait_synced(&self) {
        for cache in &self.caches {
            cache.wait_synced().await;
        }
    }
}

impl Collector {
    async fn look(&self, uid: &Uid) -> Result<Next, SyncFailed> {
        // It fails at the end of all tasks.
        if self.complete.clone().wait_for(|complete| *complete).await.is_err() {
            return Ok(Next::Rest);
        }
        let Some(object) = self.graph.lock().get(uid).cloned() else { return Ok(Next::Rest) };
        if object.is_orphaning() {
            return self.orphan_dependents(uid, &object).await;
        }
        if object.is_foreground() {
            return self.finish_foreground(uid, &object).await;
        }
        if object.deleting || object.owners.is_empty() {
            return Ok(Next::Rest);
        }
        let mut owners = Vec::new();
        for owner in &object.owners {
            owners.push((owner.uid.clone(), self.state_of(&object, owner).await?));
        }
        let has_dependents = !self.graph.lock().dependents(uid).is_empty();
        match graph::fate(&object, &owners, has_dependents) {
            Fate::Keep => {}
            Fate::DropOwners(gone) => {
                let kept = |owner: &&OwnerReference| !gone.contains(&owner.uid);
                let owners: Vec<_> = object.owners.iter().filter(kept).cloned().collect();
                self.patch(uid, &object, serde_json::json!({ "ownerReferences": owners })).await?;
            }
            Fate::Delete(policy) => self.delete(uid, &object, policy).await?,
        }
        Ok(Next::Rest)
    }

    async fn state_of(&self, object: &Object, owner: &OwnerReference) -> Result<Owner, SyncFailed> {
        let known = self.graph.lock().get(&owner.uid).map(|known| {
            let reachable = known.namespace.is_none() || known.namespace == object.namespace;
            (reachable, known.is_foreground())
        });
        match known {
            Some((true, true)) => return Ok(Owner::Waiting),
            Some((true, false)) => return Ok(Owner::Solid),
            // An object of the cluster outlives every namespace: such a reference means nothing.
            Some((false, _)) if object.namespace.is_none() => return Ok(Owner::Solid),
            // References do not cross namespaces: such an owner is as good as none.
            Some((false, _)) => return Ok(Owner::Gone),
            None => {}
        }
        let kind = self.kinds.find(&owner.api_version, &owner.kind).await;
        let Some(kind) = kind.doing("discovering the kind of owner", &owner.name)? else {
            // Nobody can tell whether it is there; deleting would be a guess.
            return Ok(Owner::Solid);
        };
        if kind.namespaced && object.namespace.is_none() {
            return Ok(Owner::Solid);
        }
        let api = self.api(&kind.resource, object.namespace.as_deref().filter(|_| kind.namespaced));
        let live = api.get(&owner.name).await.if_found("reading owner", &owner.name)?;
        match live {
            Some(live) if live.metadata.uid.as_ref() == Some(&owner.uid) => Ok(Owner::Solid),
            _ => Ok(Owner::Gone),
        }
    }

    /// Lets the object go when no dependent blocks it any more, else hurries them.
    async fn finish_foreground(&self, uid: &Uid, object: &Object) -> Result<Next, SyncFailed> {
        let (blocked, waiting) = {
            let graph = self.graph.lock();
            let dependents = graph.dependents(uid);
            let blocked = dependents.iter().any(|(_, dependent)| dependent.blocks(uid));
            let waiting: Vec<Uid> = dependents
                .into_iter()
                .filter(|(_, dependent)| !dependent.deleting)
                .map(|(uid, _)| uid)
                .collect();
            (blocked, waiting)
        };
        waiting.into_iter().for_each(|uid| self.queue.add(uid));
        if !blocked {
            self.drop_finalizer(uid, object, FOREGROUND).await?;
        }
        Ok(Next::Rest)
    }

    async fn orphan_dependents(&self, uid: &Uid, object: &Object) -> Result<Next, SyncFailed> {
        for (dependent_uid, dependent) in self.live_dependents(uid, object).await? {
            let owners: Vec<_> =
                dependent.owners.iter().filter(|owner| owner.uid != *uid).cloned().collect();
            let patch = serde_json::json!({ "ownerReferences": owners });
            self.patch(&dependent_uid, &dependent, patch).await?;
        }
        self.drop_finalizer(uid, object, ORPHAN).await?;
        Ok(Next::Rest)
    }

    /// What the API has now: a dependent that was made a moment ago may be in no watch yet, and
    /// would be collected once its owner is gone.
    async fn live_dependents(
        &self,
        uid: &Uid,
        owner: &Object,
    ) -> Result<Vec<(Uid, Object)>, SyncFailed> {
        let kinds = self.kinds.all(NEW_KINDS).await.doing("reading the kinds for", &owner.name)?;
        let mut found = Vec::new();
        // An object in a namespace owns nothing outside of it.
        let possible = |kind: &&Kind| owner.namespace.is_none() || kind.namespaced;
        let candidates = kinds.iter().filter(|kind| kind.can_delete && !kind.is_twin);
        for kind in candidates.filter(possible) {
            let resource = Arc::new(kind.resource.clone());
            let api = self.api(&resource, owner.namespace.as_deref());
            let list = api.list_metadata(&ListParams::default()).await;
            let list = list.doing("listing dependents among", &resource.plural)?;
            let own = list.items.into_iter().map(|item| item.metadata).filter(|meta| {
                meta.owner_references.iter().flatten().any(|owner| owner.uid == *uid)
            });
            found.extend(own.map(|meta| {
                (meta.uid.clone().unwrap_or_default(), Object::of(&meta, resource.clone()))
            }));
        }
        Ok(found)
    }

    async fn drop_finalizer(
        &self,
        uid: &Uid,
        object: &Object,
        finalizer: &str,
    ) -> Result<(), SyncFailed> {
        let rest: Vec<_> = object.finalizers.iter().filter(|held| *held != finalizer).collect();
        self.patch(uid, object, serde_json::json!({ "finalizers": rest })).await
    }

    /// Changes metadata of the object as it was seen.
    async fn patch(
        &self,
        uid: &Uid,
        object: &Object,
        mut metadata: serde_json::Value,
    ) -> Result<(), SyncFailed> {
        // An empty list would stay as one; null takes the field away.
        for list in metadata.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()) {
            if list.as_array().is_some_and(Vec::is_empty) {
                *list = serde_json::Value::Null;
            }
        }
        metadata["uid"] = uid.as_str().into();
        metadata["resourceVersion"] = object.version.clone().into();
        let api = self.api(&object.resource, object.namespace.as_deref());
        let patch = Patch::Merge(serde_json::json!({ "metadata": metadata }));
        let written = api.patch(&object.name, &PatchParams::default(), &patch).await;
        written.if_found("collecting", &object.name)?;
        Ok(())
    }

    async fn delete(&self, uid: &Uid, object: &Object, policy: Policy) -> Result<(), SyncFailed> {
        let params = match policy {
            Policy::Background => DeleteParams::background(),
            Policy::Foreground => DeleteParams::foreground(),
            Policy::Orphan => DeleteParams::orphan(),
        };
        let params = params.preconditions(Preconditions {
            uid: Some(uid.clone()),
            resource_version: object.version.clone(),
        });
        let api = self.api(&object.resource, object.namespace.as_deref());
        api.delete(&object.name, &params).await.if_found("collecting", &object.name)?;
        Ok(())
    }

    fn api(
        &self,
        resource: &ApiResource,
        namespace: Option<&str>,
    ) -> Api<PartialObjectMeta<DynamicObject>> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
    use kube::client::Body;
    use serde_json::json;
    use tokio::sync::Semaphore;

    /// The graph has not heard of the pod: no watch has told of it yet.
    #[tokio::test]
    async fn a_dependent_that_was_made_a_moment_ago_is_left_behind_too() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let seen = written.clone();
        let api = tower::service_fn(move |request: http::Request<Body>| {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let seen = seen.clone();
            async move {
                let body = if method == http::Method::GET {
                    json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                        "metadata": {}, "items": [{
                            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                            "metadata": { "name": "young", "namespace": "default", "uid": "p",
                                "ownerReferences": [{ "apiVersion": "apps/v1", "uid": "set",
                                    "kind": "ReplicaSet", "name": "web" }] } }] })
                } else {
                    let patch = request.into_body().collect_bytes().await.unwrap();
                    let patch: serde_json::Value = serde_json::from_slice(&patch).unwrap();
                    seen.lock().unwrap().push((path, patch["metadata"].clone()));
                    json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "x" } })
                };
                let body = Body::from(body.to_string().into_bytes());
                Ok::<_, std::convert::Infallible>(http::Response::new(body))
            }
        });
        let client = Client::new(api, "default");
        let collector = Collector {
            client: client.clone(),
            kinds: Kinds::of(client, vec![Kind::sample::<Pod>()]),
            graph: Arc::new(Shared(Mutex::new(Graph::default()))),
            queue: WorkQueue::new(),
            complete: watch::channel(true).1,
        };
        let set = Object {
            resource: Arc::new(ApiResource::erase::<k8s_openapi::api::apps::v1::ReplicaSet>(&())),
            namespace: Some("default".into()),
            name: "web".into(),
            version: Some("7".into()),
            owners: Vec::new(),
            finalizers: vec![ORPHAN.into()],
            deleting: true,
        };
        collector.orphan_dependents(&"set".to_owned(), &set).await.unwrap();
        let written = written.lock().unwrap();
        let [(pod, left), (owner, freed)] = written.as_slice() else { panic!("{written:?}") };
        assert!(pod.ends_with("/pods/young") && owner.ends_with("/replicasets/web"), "{written:?}");
        assert!(left["ownerReferences"].is_null() && left["uid"] == "p", "{left}");
        assert!(freed["finalizers"].is_null(), "{freed}");
    }

    /// After a start the watch of config maps is the last to have its list.
    #[tokio::test]
    async fn an_owner_does_not_go_before_dependents_that_are_not_known_yet() {
        let (listed, writes) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (gate, seen) = (listed.clone(), writes.clone());
        let api = tower::service_fn(move |request: http::Request<Body>| {
            let (gate, seen) = (gate.clone(), seen.clone());
            async move {
                if request.method() != http::Method::GET {
                    seen.lock().unwrap().push(request.uri().path().to_owned());
                } else if request.uri().query().is_some_and(|query| query.contains("watch=")) {
                    std::future::pending::<()>().await;
                } else {
                    gate.acquire().await.unwrap().forget();
                }
                let list = json!({ "kind": "ConfigMapList", "apiVersion": "v1",
                    "metadata": { "resourceVersion": "9" }, "items": [{ "metadata": {
                        "name": "held", "namespace": "default", "uid": "c",
                        "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet",
                            "name": "web", "uid": "set", "blockOwnerDeletion": true }] } }] });
                let body = Body::from(list.to_string().into_bytes());
                Ok::<_, std::convert::Infallible>(http::Response::new(body))
            }
        });
        let (client, token) = (Client::new(api, "default"), CancellationToken::new());
        let kinds = Kinds::of(client.clone(), vec![Kind::sample::<ConfigMap>()]);
        let (graph, queue) = (Arc::new(Shared(Mutex::new(Graph::default()))), WorkQueue::new());
        let (is_complete, complete) = watch::channel(false);
        let rest = Rest {
            client: client.clone(),
            kinds: kinds.clone(),
            feed: Feed { graph: graph.clone(), queue: queue.clone(), usage: Usage::none() },
            watched: HashSet::new(),
            caches: Vec::new(),
        };
        let meta = ObjectMeta {
            uid: Some("set".into()),
            name: Some("web".into()),
            namespace: Some("default".into()),
            deletion_timestamp: Some(Time(crate::pods::samples::time(0))),
            finalizers: Some(vec![FOREGROUND.into()]),
            ..ObjectMeta::default()
        };
        let set = Arc::new(ApiResource::erase::<k8s_openapi::api::apps::v1::ReplicaSet>(&()));
        graph.lock().observe(&meta, &set);
        let collector = Collector { client, kinds, graph, queue, complete };
        let tasks = Tasks::new(token.clone());
        let ((), look) = tokio::join!(rest.follow(&tasks, &token, is_complete), async {
            let owner = "set".to_owned();
            let look = collector.look(&owner);
            let list = async {
                tokio::task::yield_now().await;
                listed.add_permits(1);
            };
            let (look, ()) = tokio::join!(look, list);
            token.cancel();
            look
        });
        assert_eq!(look.unwrap(), Next::Rest);
        assert!(writes.lock().unwrap().is_empty(), "{writes:?}");
    }
}
