//! Defaults of the networking kinds.

use serde_json::{Value, json};

use super::{child, default, items};
use crate::object::child_mut;

/// Only the status: what an ingress leaves open is its controller's to choose.
pub(crate) fn ingress(ingress: &mut Value) {
    child_mut(ingress, "spec");
    default(child_mut(ingress, "status"), "loadBalancer", json!({}));
}

pub(crate) fn ingress_class(class: &mut Value) {
    if let Some(parameters) = child(child_mut(class, "spec"), "parameters") {
        default(parameters, "scope", "Cluster");
    }
}

pub(crate) fn network_policy(policy: &mut Value) {
    let spec = child_mut(policy, "spec");
    for direction in ["ingress", "egress"] {
        for rule in items(spec, direction) {
            for port in items(rule, "ports") {
                default(port, "protocol", "TCP");
            }
        }
    }
    let empty = |field: &str| spec.get(field).and_then(Value::as_array).is_none_or(Vec::is_empty);
    if empty("policyTypes") {
        let types = if empty("egress") { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
        spec.insert("policyTypes".to_owned(), types);
    }
}

pub(crate) fn service_cidr(range: &mut Value) {
    child_mut(range, "spec");
    child_mut(range, "status");
}
