//! Defaulting, one function per kind, as the API documents it.
//!
//! Guarantees: idempotent. Does not: allocate (cluster IPs, node ports) or read other objects.

mod batch;
mod networking;
mod pod_spec;
mod policies;
mod quota;
mod sets;
mod storage;
mod workload;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::object::{self, child_mut};

pub(crate) use batch::{CONTROLLER_UID_LABELS, JOB_NAME_LABELS, cron_job, initialize_job, job};
pub(crate) use networking::{ingress, ingress_class, network_policy, service_cidr};
pub(crate) use pod_spec::{carry_over_pod, pod};
pub(crate) use policies::{
    cpu_autoscaler, horizontal_pod_autoscaler, initialize_priority_class, pod_disruption_budget,
    priority_class,
};
pub(crate) use quota::{initialize_limit_range, limit_range, resource_quota};
pub(crate) use sets::{
    carry_over_daemon_set, controller_revision, daemon_set, initialize_daemon_set, pod_template,
    stateful_set,
};
pub(crate) use storage::{
    carry_over_persistent_volume_claim, csi_driver, initialize_persistent_volume_claim,
    persistent_volume, persistent_volume_claim, storage_class, volume_attachment,
};
pub(crate) use workload::{deployment, replica_set, replication_controller};

/// Sets a field that is missing or null.
fn default(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), value.into());
    }
}

/// Sets a text field that is missing, null or empty.
fn default_text(map: &mut Map<String, Value>, field: &str, value: &str) {
    if map.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
        map.insert(field.to_owned(), Value::from(value));
    }
}

/// The objects in the list at `field`.
fn items<'a>(
    map: &'a mut Map<String, Value>,
    field: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> + use<'a> {
    let list = map.get_mut(field).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The object at `field`, if there is one.
fn child<'a>(map: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(field).and_then(Value::as_object_mut)
}

/// The label that every namespace carries, so that selectors can name one namespace.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(crate) fn initialize_namespace(namespace: &mut Value) {
    child_mut(namespace, "spec").insert("finalizers".to_owned(), json!(["kubernetes"]));
}

/// A namespace's finalizers change through `/finalize` alone.
pub(crate) fn carry_over_namespace(new: &mut Value, old: &Value) {
    object::copy(new, old, "spec");
}

pub(crate) fn namespace(namespace: &mut Value) {
    let name = object::name(namespace).to_owned();
    if !name.is_empty() {
        let labels = child_mut(&mut namespace["metadata"], "labels");
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), Value::from(name));
    }
    child_mut(namespace, "spec");
    default_text(child_mut(namespace, "status"), "phase", "Active");
}

pub(crate) fn node(node: &mut Value) {
    child_mut(node, "spec");
    child_mut(node, "status");
}

/// Moves `stringData` into `data`.
pub(crate) fn secret(secret: &mut Value) {
    let Some(map) = secret.as_object_mut() else { return };
    default_text(map, "type", "Opaque");
    let Some(Value::Object(plain)) = map.remove("stringData") else { return };
    let data = child_mut(secret, "data");
    for (key, value) in plain {
        if let Value::String(text) = value {
            data.insert(key, Value::from(STANDARD.encode(text)));
        }
    }
}

const CLIENT_IP_TIMEOUT_SECONDS: i64 = 10_800;

pub(crate) fn service(service: &mut Value) {
    child_mut(child_mut_value(service, "status"), "loadBalancer");
    let spec = child_mut(service, "spec");
    default_text(spec, "sessionAffinity", "None");
    default_text(spec, "type", "ClusterIP");
    if spec["sessionAffinity"] == "None" {
        spec.remove("sessionAffinityConfig");
    } else if spec["sessionAffinity"] == "ClientIP" {
        default(spec, "sessionAffinityConfig", json!({}));
        let client = child_mut(&mut spec["sessionAffinityConfig"], "clientIP");
        default(client, "timeoutSeconds", CLIENT_IP_TIMEOUT_SECONDS);
    }
    for port in items(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let unset = match port.get("targetPort") {
            None | Some(Value::Null) => true,
            Some(target) => target == 0 || target == "",
        };
        if let (true, Some(number)) = (unset, port.get("port").cloned()) {
            port.insert("targetPort".to_owned(), number);
        }
    }
    match spec["type"].as_str().unwrap_or_default() {
        "ExternalName" => return,
        "NodePort" => default_text(spec, "externalTrafficPolicy", "Cluster"),
        "LoadBalancer" => {
            default_text(spec, "externalTrafficPolicy", "Cluster");
            default(spec, "allocateLoadBalancerNodePorts", true);
        }
        _ => {}
    }
    default_text(spec, "internalTrafficPolicy", "Cluster");
    let address = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().to_owned();
    let first = spec.get("clusterIPs").and_then(|list| list[0].as_str()).unwrap_or_default();
    if address.is_empty() && !first.is_empty() {
        spec.insert("clusterIP".to_owned(), Value::from(first));
    } else if first.is_empty() && !address.is_empty() {
        spec.insert("clusterIPs".to_owned(), json!([address]));
    }
}

fn child_mut_value<'a>(object: &'a mut Value, field: &str) -> &'a mut Value {
    child_mut(object, field);
    &mut object[field]
}

/// An update may leave out what was allocated; it stays while the service needs it.
pub(crate) fn carry_over_service(new: &mut Value, old: &Value) {
    let external = |service: &Value| service["spec"]["type"] == "ExternalName";
    if external(old) {
        return;
    }
    let becomes_external = external(new);
    let spec = child_mut(new, "spec");
    if becomes_external {
        // Kept addresses would be given out twice, and are of no use to a DNS alias.
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec.get(field) == old["spec"].get(field) {
                spec.remove(field);
            }
        }
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let unset = match spec.get(field) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if let (true, Some(value)) = (unset, old["spec"].get(field)) {
            spec.insert(field.to_owned(), value.clone());
        }
    }
    release_second_family(spec, &old["spec"]);
    // A client that writes the one address means the list's first, too.
    let before = &old["spec"];
    if spec.get("clusterIP") != before.get("clusterIP")
        && spec.get("clusterIPs") == before.get("clusterIPs")
        && let Some(address) = spec.get("clusterIP").cloned()
    {
        spec.insert("clusterIPs".to_owned(), json!([address]));
    }
    carry_over_node_ports(spec, before);
}

/// `SingleStack` alone is enough to give up the second family; whoever leaves out its address and
/// says nothing else keeps it.
fn release_second_family(spec: &mut Map<String, Value>, old: &Value) {
    let single = spec.get("ipFamilyPolicy").is_some_and(|policy| policy == "SingleStack");
    for field in ["clusterIPs", "ipFamilies"] {
        let before = old[field].as_array().filter(|before| before.len() == 2);
        let (Some(before), Some(now)) = (before, spec.get_mut(field)) else { continue };
        if single && old["ipFamilyPolicy"] != "SingleStack" && now.as_array() == Some(before) {
            *now = json!([before[0]]);
        }
        if !single && field == "clusterIPs" && *now == json!([before[0]]) {
            *now = old[field].clone();
        }
    }
}

fn carry_over_node_ports(spec: &mut Map<String, Value>, old: &Value) {
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP");
    if !matches!(kind, "NodePort" | "LoadBalancer") {
        for port in items(spec, "ports") {
            let kept = old["ports"].as_array().into_iter().flatten();
            if kept.clone().any(|old| old.get("nodePort") == port.get("nodePort")) {
                port.remove("nodePort");
            }
        }
        return;
    }
    for port in items(spec, "ports").filter(|port| !port.contains_key("nodePort")) {
        let mut candidates = old["ports"].as_array().into_iter().flatten();
        let same = |old: &&Value| {
            old["port"] == port["port"]
                && old["protocol"].as_str().unwrap_or("TCP")
                    == port.get("protocol").and_then(Value::as_str).unwrap_or("TCP")
        };
        let node_port = candidates.find(same).and_then(|old| old.get("nodePort")).cloned();
        if let Some(node_port) = node_port {
            port.insert("nodePort".to_owned(), node_port);
        }
    }
}

pub(crate) fn endpoints(endpoints: &mut Value) {
    let Some(map) = endpoints.as_object_mut() else { return };
    for subset in items(map, "subsets") {
        for port in items(subset, "ports") {
            default_text(port, "protocol", "TCP");
        }
    }
}

pub(crate) fn endpoint_slice(slice: &mut Value) {
    let Some(map) = slice.as_object_mut() else { return };
    default(map, "endpoints", json!([]));
    for port in items(map, "ports") {
        default(port, "name", "");
        default_text(port, "protocol", "TCP");
    }
}

#[cfg(test)]
mod tests;
