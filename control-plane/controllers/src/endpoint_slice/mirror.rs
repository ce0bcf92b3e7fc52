//! Slices for endpoints that were written by hand.
//!
//! Who writes an Endpoints object for a service without a selector gets it mirrored into slices,
//! which is all that nodes read: one slice for each address family and set of ports. Endpoints
//! with the label `endpointslice.kubernetes.io/skip-mirror: "true"` or the annotation of leader
//! election are left alone. It follows the rules of the Kubernetes mirroring controller (KEP-752).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;

use super::reconcile::{Changes, Group, group_of, slice_ports};
use super::{MANAGED_BY, SERVICE_NAME, managed_by, service_of, write};
use crate::World;
use crate::backends::{self, BackendPort};
use crate::cache::{Cache, Key};
use crate::failure::SyncFailed;
use crate::ownership;
use crate::queue::{Next, WorkQueue, start_workers};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses of one subset that are mirrored; the API takes no larger slice.
const MAX_ENDPOINTS: usize = 1000;

struct Mirror {
    client: Client,
    services: Arc<Cache<Service>>,
    endpoints: Arc<Cache<Endpoints>>,
    slices: Arc<Cache<EndpointSlice>>,
}

pub(crate) fn start(world: &World) {
    let queue = WorkQueue::new();
    queue.follow(&world.endpoints);
    queue.follow(&world.services);
    let on_slice = queue.clone();
    world.slices.on_change(move |change| {
        if let Some(slice) = change.latest().filter(|slice| managed_by(slice, MANAGER)) {
            service_of(slice).into_iter().for_each(|key| on_slice.add(key));
        }
    });
    let controller = Arc::new(Mirror {
        client: world.client.clone(),
        services: world.services.clone(),
        endpoints: world.endpoints.clone(),
        slices: world.slices.clone(),
    });
    let name = "endpointslice-mirroring-controller";
    start_workers(world, (name, 1), &queue, move |key| {
        let controller = controller.clone();
        async move { controller.look(&key).await }
    });
}

impl Mirror {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let mirrored = self.slices.in_namespace(&key.namespace).into_iter();
        let existing: Vec<Arc<EndpointSlice>> = mirrored
            .filter(|slice| managed_by(slice, MANAGER))
            .filter(|slice| service_of(slice).is_some_and(|service| service.name == key.name))
            .collect();
        let service = self.services.get(key).filter(|service| {
            backends::selector(service).is_none() && service.metadata.deletion_timestamp.is_none()
        });
        let endpoints = self.endpoints.get(key).filter(|endpoints| is_mirrored(endpoints));
        let changes = match (service, endpoints) {
            (Some(_), Some(endpoints)) => reconcile(&endpoints, &existing),
            _ => Changes { delete: existing, ..Changes::default() },
        };
        write(&self.client, &self.slices, &key.namespace, changes).await?;
        Ok(Next::Rest)
    }
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skipped = meta.labels.as_ref().and_then(|labels| labels.get(SKIP));
    let elects = meta.annotations.as_ref().is_some_and(|all| all.contains_key(LEADER));
    meta.deletion_timestamp.is_none() && !elects && skipped.is_none_or(|skip| skip != "true")
}

fn reconcile(endpoints: &Endpoints, existing: &[Arc<EndpointSlice>]) -> Changes {
    let mut wanted = desired(endpoints);
    let mut changes = Changes::default();
    for slice in existing.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()) {
        let Some(found) = wanted.remove(&group_of(slice)) else {
            changes.delete.push(slice.clone());
            continue;
        };
        let metadata = ObjectMeta { labels: Some(labels(endpoints)), ..slice.metadata.clone() };
        let new = EndpointSlice { metadata, endpoints: Some(found), ..(**slice).clone() };
        if new != **slice {
            changes.update.push(new);
        }
    }
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    changes.create.extend(wanted.into_iter().map(|(group, found)| EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels(endpoints)),
            owner_references: ownership::controller_reference(endpoints).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: group.address_type.to_owned(),
        ports: Some(slice_ports(&group)),
        endpoints: Some(found),
    }));
    changes
}

fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn desired(endpoints: &Endpoints) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut wanted: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let rest = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(rest).take(MAX_ENDPOINTS) {
            let address_type = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            let group = Group { address_type, ports: ports.clone() };
            let found = wanted.entry(group).or_default();
            if found.len() < MAX_ENDPOINTS {
                found.push(endpoint(address, ready));
            }
        }
    }
    wanted
}

fn ports(subset: &EndpointSubset) -> Vec<BackendPort> {
    let ports = subset.ports.iter().flatten().map(|port| BackendPort {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        port: port.port,
        app_protocol: port.app_protocol.clone(),
    });
    let mut ports: Vec<BackendPort> = ports.collect();
    ports.sort();
    ports
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn endpoints(addresses: &[&str], not_ready: &[&str]) -> Endpoints {
        let listed = |all: &[&str]| -> Vec<_> { all.iter().map(|ip| json!({"ip": ip})).collect() };
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "default", "uid": "e"},
            "subsets": [{"addresses": listed(addresses), "notReadyAddresses": listed(not_ready),
                         "ports": [{"port": 5432}]}]
        }))
        .unwrap()
    }

    /// Each slice's family, port, and addresses (in brackets those that are not ready).
    fn shape(slices: &[EndpointSlice]) -> Vec<String> {
        let one = |slice: &EndpointSlice| {
            let port = slice.ports.as_ref().unwrap()[0].port.unwrap();
            let found = slice.endpoints.iter().flatten().map(|endpoint| {
                let ready = endpoint.conditions.as_ref().unwrap().ready.unwrap();
                let address = &endpoint.addresses[0];
                if ready { address.clone() } else { format!("({address})") }
            });
            format!("{} {port} {}", slice.address_type, found.collect::<Vec<_>>().join(" "))
        };
        slices.iter().map(one).collect()
    }

    #[test]
    fn a_slice_for_each_family_and_no_write_when_nothing_changed() {
        let made = reconcile(&endpoints(&["10.0.0.1", "fd00::1"], &["10.0.0.2"]), &[]).create;
        assert_eq!(shape(&made), ["IPv4 5432 10.0.0.1 (10.0.0.2)", "IPv6 5432 fd00::1"]);
        let stored: Vec<Arc<EndpointSlice>> = made.into_iter().map(Arc::new).collect();
        let same = reconcile(&endpoints(&["10.0.0.1", "fd00::1"], &["10.0.0.2"]), &stored);
        assert!(same.create.is_empty() && same.update.is_empty() && same.delete.is_empty());
        let fewer = reconcile(&endpoints(&["10.0.0.2"], &[]), &stored);
        assert_eq!(shape(&fewer.update), ["IPv4 5432 10.0.0.2"]);
        assert_eq!((fewer.create.len(), fewer.delete.len()), (0, 1));
    }

    #[test]
    fn some_are_left_alone() {
        let mut skipped = endpoints(&["10.0.0.1"], &[]);
        assert!(is_mirrored(&skipped));
        skipped.metadata.labels = Some([(SKIP.to_owned(), "true".to_owned())].into());
        assert!(!is_mirrored(&skipped));
        let mut elects = endpoints(&["10.0.0.1"], &[]);
        elects.metadata.annotations = Some([(LEADER.to_owned(), "{}".to_owned())].into());
        assert!(!is_mirrored(&elects));
    }
}
