//! Namespace deletion: empties a namespace that is being deleted, then lets it go.
//!
//! Guarantees: the finalizer goes only after a look at every kind that discovery knows found
//! nothing; what still holds the namespace is said in its conditions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;

use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::kinds::{Kind, Kinds};
use crate::queue::{Next, WorkQueue, start_workers};

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const KINDS_MAX_AGE: Duration = Duration::from_secs(10);

struct Namespaces {
    client: Client,
    kinds: Arc<Kinds>,
    namespaces: Arc<Cache<Namespace>>,
}

/// What is left in a namespace after everything was told to go.
#[derive(Debug, Default, PartialEq, Eq)]
struct Remaining {
    /// How many objects of each resource.
    objects: BTreeMap<String, usize>,
    /// How many objects each finalizer holds.
    finalizers: BTreeMap<String, usize>,
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
        let kinds = self.kinds.all(KINDS_MAX_AGE).await.doing("discovering the content of", key)?;
        let inside = |kind: &&Kind| kind.namespaced && kind.can_delete && !kind.is_twin;
        let mut content: Vec<&Kind> = kinds.iter().filter(inside).collect();
        // Pods first: what they use goes after they were told to stop.
        content.sort_by_key(|kind| kind.resource.plural != "pods");
        let mut remaining = Remaining::default();
        for kind in content {
            self.empty(&key.name, kind, &mut remaining).await?;
        }
        if remaining.objects.is_empty() {
            self.finalize(&namespace, key).await?;
            return Ok(Next::Rest);
        }
        self.report(&namespace, key, &remaining).await?;
        Ok(Next::LookAgainIn(LOOK_AGAIN))
    }

    /// Deletes all objects of one kind and notes what stays for now.
    async fn empty(
        &self,
        namespace: &str,
        kind: &Kind,
        remaining: &mut Remaining,
    ) -> Result<(), SyncFailed> {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::namespaced_with(self.client.clone(), namespace, &kind.resource);
        let plural = &kind.resource.plural;
        let all = ListParams::default();
        let listed = api.list(&all).await.if_found("listing", plural)?;
        if listed.is_none_or(|listed| listed.items.is_empty()) {
            return Ok(());
        }
        let objects: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &kind.resource);
        let params = DeleteParams::background();
        if kind.can_delete_collection {
            objects.delete_collection(&params, &all).await.doing("deleting all", plural)?;
        } else {
            for object in api.list(&all).await.doing("listing", plural)?.items {
                let name = object.metadata.name.unwrap_or_default();
                objects.delete(&name, &params).await.if_found("deleting", &name)?;
            }
        }
        let left = api.list(&all).await.doing("listing", plural)?;
        if !left.items.is_empty() {
            remaining.objects.insert(qualified(kind), left.items.len());
        }
        for finalizer in
            left.items.iter().flat_map(|item| item.metadata.finalizers.iter().flatten())
        {
            *remaining.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
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
        remaining: &Remaining,
    ) -> Result<(), SyncFailed> {
        let old = namespace.status.as_ref().and_then(|status| status.conditions.clone());
        let new = conditions(old.as_deref().unwrap_or_default(), remaining, Timestamp::now());
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

fn qualified(kind: &Kind) -> String {
    let resource = &kind.resource;
    if resource.group.is_empty() {
        resource.plural.clone()
    } else {
        format!("{}.{}", resource.plural, resource.group)
    }
}

fn conditions(
    old: &[NamespaceCondition],
    remaining: &Remaining,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let list = |counts: &BTreeMap<String, usize>, what: &str| {
        let parts: Vec<_> =
            counts.iter().map(|(name, count)| format!("{name} {what} {count}")).collect();
        parts.join(", ")
    };
    let objects = list(&remaining.objects, "has");
    let finalizers = list(&remaining.finalizers, "in");
    let content = match remaining.objects.is_empty() {
        true => ("False", "ContentRemoved", "All content successfully removed".to_owned()),
        false => (
            "True",
            "SomeResourcesRemain",
            format!("Some resources are remaining: {objects} resource instances"),
        ),
    };
    let held = match remaining.finalizers.is_empty() {
        true => (
            "False",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished".to_owned(),
        ),
        false => (
            "True",
            "SomeFinalizersRemain",
            format!(
                "Some content in the namespace has finalizers remaining: {finalizers} \
                 resource instances"
            ),
        ),
    };
    [("NamespaceContentRemaining", content), ("NamespaceFinalizersRemaining", held)]
        .into_iter()
        .map(|(type_, (status, reason, message))| {
            let known = old.iter().find(|condition| condition.type_ == type_);
            let since = known.filter(|known| known.status == status);
            NamespaceCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: since
                    .map_or(Some(Time(now)), |known| known.last_transition_time.clone()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::time;

    #[test]
    fn conditions_say_what_holds_the_namespace() {
        let remaining = Remaining {
            objects: [("pods".to_owned(), 2)].into(),
            finalizers: [("example.org/wait".to_owned(), 1)].into(),
        };
        let first = conditions(&[], &remaining, time(0));
        assert_eq!(
            first[0].message.as_deref().unwrap(),
            "Some resources are remaining: pods has 2 resource instances"
        );
        assert!(first[1].message.as_deref().unwrap().contains("example.org/wait in 1"));
        assert_eq!(conditions(&first, &remaining, time(9)), first, "nothing new to write");
    }
}
