//! From a service, its pods and its slices to the fewest writes. Pure.
//!
//! Rules: one group of slices for each address family and set of ports (named ports may differ
//! between pods); an endpoint stays in the slice that has it; new endpoints go where a write is
//! needed anyway, then into the fullest slice with room, then into a new slice of at most 100; a
//! service without endpoints keeps one empty slice, so that its readers know it was looked at.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::Resource;

use super::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::backends::{self, BackendPort};
use crate::{ownership, pods};

const MAX_ENDPOINTS: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

/// What the endpoints of one slice share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) address_type: &'static str,
    pub(super) ports: Vec<BackendPort>,
}

/// The pod an endpoint stands for; the address is part of it, as it may change.
type Identity = (String, String);

pub(super) fn reconcile(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: &[Arc<EndpointSlice>],
    zone: &dyn Fn(&str) -> Option<String>,
) -> Changes {
    let mut wanted = desired(service, pods, zone);
    let mut changes = Changes::default();
    let mut groups: BTreeMap<Group, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()) {
        groups.entry(group_of(slice)).or_default().push(slice);
    }
    let families: Vec<&str> = families(service);
    for family in &families {
        if wanted.keys().all(|group| group.address_type != *family) {
            // The empty slice takes the place of one that is there, whatever its ports.
            let kept = groups.keys().find(|group| group.address_type == *family).cloned();
            let none = Group { address_type: family, ports: Vec::new() };
            wanted.insert(kept.unwrap_or(none), Vec::new());
        }
    }
    for (group, endpoints) in wanted {
        let slices = groups.remove(&group).unwrap_or_default();
        fill(service, &group, endpoints, &slices, &mut changes);
    }
    changes.delete.extend(groups.into_values().flatten().cloned());
    changes
}

fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let listed: Vec<_> = spec
        .and_then(|spec| spec.ip_families.as_ref())
        .into_iter()
        .flatten()
        .map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" })
        .collect();
    if !listed.is_empty() {
        return listed;
    }
    let cluster_ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    vec![if cluster_ip.contains(':') { "IPv6" } else { "IPv4" }]
}

fn desired(
    service: &Service,
    pods: &[Arc<Pod>],
    zone: &dyn Fn(&str) -> Option<String>,
) -> BTreeMap<Group, Vec<Endpoint>> {
    let families = families(service);
    let mut wanted: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| backends::selects(service, pod) && backends::has_place(pod))
    {
        for address in backends::addresses(pod) {
            let address_type = if address.is_ipv6() { "IPv6" } else { "IPv4" };
            if families.contains(&address_type) {
                let group = Group { address_type, ports: backends::ports(service, pod) };
                let endpoint = endpoint(service, pod, address.to_string(), zone);
                wanted.entry(group).or_default().push(endpoint);
            }
        }
    }
    wanted
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    address: String,
    zone: &dyn Fn(&str) -> Option<String>,
) -> Endpoint {
    let terminating = pods::is_terminating(pod);
    let published = backends::publishes_not_ready(service);
    let serving = pods::is_ready(pod);
    let node = pods::node_name(pod);
    let zone = node.and_then(zone);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(published || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: backends::hostname(service, pod),
        node_name: node.map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        hints: hints(service, node, zone.as_deref()),
        zone,
        ..Endpoint::default()
    }
}

/// Who is to use an endpoint, where the service wants that to be said (KEP-4444, KEP-3015). Zones
/// are named for `PreferSameNode` too: for nodes that have no endpoint of their own.
fn hints(service: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let by_node = distribution == "PreferSameNode";
    if !by_node && !matches!(distribution, "PreferClose" | "PreferSameZone") {
        return None;
    }
    let for_nodes = node.filter(|_| by_node).map(|name| vec![ForNode { name: name.to_owned() }]);
    let for_zones = zone.map(|name| vec![ForZone { name: name.to_owned() }]);
    let said = for_nodes.is_some() || for_zones.is_some();
    said.then_some(EndpointHints { for_nodes, for_zones })
}

pub(super) fn group_of(slice: &EndpointSlice) -> Group {
    let mut ports: Vec<BackendPort> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| BackendPort {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.port.unwrap_or(0),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    Group { address_type: if slice.address_type == "IPv6" { "IPv6" } else { "IPv4" }, ports }
}

fn identity(endpoint: &Endpoint) -> Identity {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    (uid.unwrap_or_default(), endpoint.addresses.first().cloned().unwrap_or_default())
}

/// Distributes the endpoints of one group over its slices.
fn fill(
    service: &Service,
    group: &Group,
    endpoints: Vec<Endpoint>,
    slices: &[&Arc<EndpointSlice>],
    changes: &mut Changes,
) {
    let order: Vec<Identity> = endpoints.iter().map(identity).collect();
    let mut missing: HashMap<Identity, Endpoint> = order.iter().cloned().zip(endpoints).collect();
    // (the slice, its endpoints from now on, whether they differ)
    let mut plans: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>, bool)> = Vec::new();
    for slice in slices {
        let old = slice.endpoints.as_deref().unwrap_or_default();
        let new: Vec<Endpoint> =
            old.iter().filter_map(|known| missing.remove(&identity(known))).collect();
        let changed = new != old || slice.metadata.labels != Some(labels(service));
        plans.push((slice, new, changed));
    }
    let mut rest: Vec<Endpoint> = order.iter().filter_map(|id| missing.remove(id)).collect();
    rest.reverse();
    // Slices that are written anyway come first, then the fullest.
    plans.sort_by_key(|(_, endpoints, changed)| (!changed, std::cmp::Reverse(endpoints.len())));
    for (_, endpoints, changed) in &mut plans {
        while endpoints.len() < MAX_ENDPOINTS
            && let Some(endpoint) = rest.pop()
        {
            endpoints.push(endpoint);
            *changed = true;
        }
    }
    while !rest.is_empty() || (plans.is_empty() && changes_nothing(group, changes)) {
        let part: Vec<Endpoint> = (0..MAX_ENDPOINTS).map_while(|_| rest.pop()).collect();
        changes.create.push(new_slice(service, group, part));
    }
    let nothing_left = plans.iter().all(|(_, endpoints, _)| endpoints.is_empty());
    for (index, (slice, endpoints, changed)) in plans.into_iter().enumerate() {
        if endpoints.is_empty() && !(nothing_left && index == 0) {
            changes.delete.push(slice.clone());
        } else if changed {
            changes.update.push(updated(service, slice, endpoints));
        }
    }
}

/// No slice of the group is being made yet.
fn changes_nothing(group: &Group, changes: &Changes) -> bool {
    !changes.create.iter().any(|slice| group_of(slice) == *group)
}

fn updated(service: &Service, slice: &EndpointSlice, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut new = slice.clone();
    new.endpoints = Some(endpoints);
    new.metadata.labels = Some(labels(service));
    new
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(backends::HEADLESS_LABEL);
    if backends::is_headless(service) {
        labels.insert(backends::HEADLESS_LABEL.to_owned(), String::new());
    }
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn new_slice(service: &Service, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let name = service.meta().name.as_deref().unwrap_or_default();
    EndpointSlice {
        address_type: group.address_type.to_owned(),
        endpoints: Some(endpoints),
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: ownership::controller_reference(service).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        ports: Some(slice_ports(group)),
    }
}

pub(super) fn slice_ports(group: &Group) -> Vec<EndpointPort> {
    let ports = group.ports.iter().map(|port| EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(port.protocol.clone()),
        port: Some(port.port),
        app_protocol: port.app_protocol.clone(),
    });
    ports.collect()
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
