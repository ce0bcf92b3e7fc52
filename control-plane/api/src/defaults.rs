//! Defaulting, one function per kind, as the API documents it.
//!
//! Guarantees: idempotent. Does not: allocate (cluster IPs, node ports) or read other objects.

mod batch;
mod networking;
mod pod_resources;
mod pod_spec;
mod policies;
mod quota;
mod service;
mod sets;
mod storage;
mod workload;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::object::{self, child_mut};

pub(crate) use batch::{CONTROLLER_UID_LABELS, JOB_NAME_LABELS, cron_job, initialize_job, job};
pub(crate) use networking::{ingress, ingress_class, network_policy, service_cidr};
pub(crate) use pod_resources::quality_of_service;
pub(crate) use pod_spec::{carry_over_pod, initialize_pod, pod};
pub(crate) use policies::{
    cpu_autoscaler, horizontal_pod_autoscaler, initialize_priority_class, pod_disruption_budget,
    priority_class,
};
pub(crate) use quota::{initialize_limit_range, limit_range, resource_quota};
pub(crate) use service::{carry_over_service, service};
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
    let status = child_mut(node, "status");
    // A node that keeps nothing back for itself.
    if let Some(capacity) = status.get("capacity").filter(|amounts| amounts.is_object()).cloned() {
        default(status, "allocatable", capacity);
    }
}

/// Seconds that a token lives, unless it is asked for another time.
const TOKEN_LIFE: i64 = 3600;

pub(crate) fn token_request(request: &mut Value) {
    default(child_mut(request, "spec"), "expirationSeconds", TOKEN_LIFE);
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

fn child_mut_value<'a>(object: &'a mut Value, field: &str) -> &'a mut Value {
    child_mut(object, field);
    &mut object[field]
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
