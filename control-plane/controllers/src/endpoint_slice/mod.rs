//! Endpoint slices: what the data plane of every node follows.
//!
//! Guarantees: a change of a pod leads to one write without any batching delay; a pod that is being
//! deleted is `terminating` and not `ready` from the moment the API says so; an endpoint stays in
//! its slice; a slice that would not change is not written. Slices that somebody else manages, and
//! services without a selector, are left alone.

pub(crate) mod mirror;
mod reconcile;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};

use crate::World;
use crate::backends;
use crate::cache::{Cache, Change, Key};
use crate::failure::{Doing, SyncFailed};
use crate::queue::{Next, WorkQueue, start_workers};

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";

struct Slices {
    client: Client,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    services: Arc<Cache<Service>>,
    slices: Arc<Cache<EndpointSlice>>,
}

pub(crate) fn start(world: &World) {
    let queue = WorkQueue::new();
    wire(world, &queue);
    let controller = Arc::new(Slices {
        client: world.client.clone(),
        pods: world.pods.clone(),
        nodes: world.nodes.clone(),
        services: world.services.clone(),
        slices: world.slices.clone(),
    });
    let name = "endpointslice-controller";
    start_workers(world, (name, 4), &queue, move |key| {
        let controller = controller.clone();
        async move { controller.look(&key).await }
    });
}

fn wire(world: &World, queue: &Arc<WorkQueue<Key>>) {
    queue.follow(&world.services);
    let on_slice = queue.clone();
    world.slices.on_change(move |change| {
        // Somebody may have changed a slice of ours; our own writes end in an empty look.
        if let Some(slice) = change.latest().filter(|slice| is_ours(slice)) {
            service_of(slice).into_iter().for_each(|key| on_slice.add(key));
        }
    });
    let (on_pod, services) = (queue.clone(), world.services.clone());
    world.pods.on_change(move |change| {
        if matters(change) {
            services_of(change, &services).into_iter().for_each(|key| on_pod.add(key));
        }
    });
    let (on_node, services) = (queue.clone(), world.services.clone());
    world.nodes.on_change(move |change| {
        let old = change.old.and_then(|node| zone_of(node));
        if old != change.new.and_then(|node| zone_of(node)) {
            for service in services.all() {
                on_node.add(Key::of(&service.metadata));
            }
        }
    });
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

/// Whether a change of a pod can change an endpoint: most status updates cannot.
pub(crate) fn matters(change: &Change<'_, Pod>) -> bool {
    let (Some(old), Some(new)) = (change.old, change.new) else { return true };
    let status = |pod: &Pod| {
        (crate::pods::is_ready(pod), crate::pods::is_finished(pod), backends::addresses(pod))
    };
    old.metadata.labels != new.metadata.labels
        || old.metadata.deletion_timestamp.is_some() != new.metadata.deletion_timestamp.is_some()
        || crate::pods::node_name(old) != crate::pods::node_name(new)
        || status(old) != status(new)
}

pub(crate) fn services_of(change: &Change<'_, Pod>, services: &Cache<Service>) -> Vec<Key> {
    let Some(pod) = change.latest() else { return Vec::new() };
    services
        .in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default())
        .iter()
        .filter(|service| change.states().any(|pod| backends::selects(service, pod)))
        .map(|service| Key::of(&service.metadata))
        .collect()
}

fn zone_of(node: &Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get(ZONE).map(String::as_str)
}

fn is_ours(slice: &EndpointSlice) -> bool {
    managed_by(slice, MANAGER)
}

fn managed_by(slice: &EndpointSlice, manager: &str) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|found| found == manager)
}

impl Slices {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let existing: Vec<Arc<EndpointSlice>> = self
            .slices
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|slice| is_ours(slice))
            .filter(|slice| {
                let labels = slice.metadata.labels.as_ref();
                labels.and_then(|labels| labels.get(SERVICE_NAME)) == Some(&key.name)
            })
            .collect();
        let service = self.services.get(key).filter(|s| s.metadata.deletion_timestamp.is_none());
        let changes = match &service {
            Some(service) if backends::selector(service).is_some() => {
                let pods = self.pods.in_namespace(&key.namespace);
                let zone = |node: &str| {
                    zone_of(self.nodes.get(&Key::new("", node))?.as_ref()).map(str::to_owned)
                };
                reconcile::reconcile(service, &pods, &existing, &zone)
            }
            Some(_) => return Ok(Next::Rest),
            None => reconcile::Changes { delete: existing, ..reconcile::Changes::default() },
        };
        write(&self.client, &self.slices, &key.namespace, changes).await?;
        Ok(Next::Rest)
    }
}

/// Writes the changes of one service's slices.
async fn write(
    client: &Client,
    slices: &Cache<EndpointSlice>,
    namespace: &str,
    changes: reconcile::Changes,
) -> Result<(), SyncFailed> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    // New and changed slices first: an endpoint that moves is never missing.
    for slice in changes.create {
        let service = slice.metadata.generate_name.clone().unwrap_or_default();
        let made = api.create(&PostParams::default(), &slice).await;
        slices.written(made.doing("creating an endpoint slice for", service)?);
    }
    for slice in changes.update {
        let key = Key::of(&slice.metadata);
        let written = api.replace(&key.name, &PostParams::default(), &slice).await;
        match written.if_found("updating endpoint slice", &key)? {
            Some(slice) => slices.written(slice),
            None => slices.remove(&key, slice.metadata.uid.as_deref()),
        }
    }
    for slice in changes.delete {
        let key = Key::of(&slice.metadata);
        let preconditions =
            Preconditions { uid: slice.metadata.uid.clone(), ..Preconditions::default() };
        let params = DeleteParams::default().preconditions(preconditions);
        api.delete(&key.name, &params).await.if_found("deleting endpoint slice", &key)?;
        slices.remove(&key, slice.metadata.uid.as_deref());
    }
    Ok(())
}
