//! What a field selector may name, one function per kind that offers more than its metadata.

use serde_json::Value;

type Fields = Vec<(&'static str, String)>;

pub(super) fn none(_: &Value) -> Fields {
    Vec::new()
}

/// The text at a JSON pointer; booleans and numbers as they are written, a missing value empty.
fn text(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
        _ => String::new(),
    }
}

fn or(value: String, default: &str) -> String {
    if value.is_empty() { default.to_owned() } else { value }
}

pub(super) fn namespace(object: &Value) -> Fields {
    vec![("status.phase", text(object, "/status/phase"))]
}

pub(super) fn node(object: &Value) -> Fields {
    vec![("spec.unschedulable", or(text(object, "/spec/unschedulable"), "false"))]
}

pub(super) fn pod(object: &Value) -> Fields {
    vec![
        ("spec.nodeName", text(object, "/spec/nodeName")),
        // Its name before there was a version 1.
        ("spec.host", text(object, "/spec/nodeName")),
        ("spec.restartPolicy", text(object, "/spec/restartPolicy")),
        ("spec.schedulerName", text(object, "/spec/schedulerName")),
        ("spec.serviceAccountName", text(object, "/spec/serviceAccountName")),
        ("spec.hostNetwork", or(text(object, "/spec/hostNetwork"), "false")),
        ("status.phase", text(object, "/status/phase")),
        ("status.podIP", text(object, "/status/podIP")),
        // A label that is accepted and has no value.
        ("status.podIPs", String::new()),
        ("status.nominatedNodeName", text(object, "/status/nominatedNodeName")),
    ]
}

pub(super) fn replicas(object: &Value) -> Fields {
    vec![("status.replicas", or(text(object, "/status/replicas"), "0"))]
}

pub(super) fn job(object: &Value) -> Fields {
    vec![("status.successful", or(text(object, "/status/succeeded"), "0"))]
}

pub(super) fn secret(object: &Value) -> Fields {
    vec![("type", text(object, "/type"))]
}

pub(super) fn service(object: &Value) -> Fields {
    vec![
        ("spec.clusterIP", text(object, "/spec/clusterIP")),
        ("spec.type", text(object, "/spec/type")),
    ]
}

pub(super) fn event(object: &Value) -> Fields {
    let involved = |field: &str| text(object, &format!("/involvedObject/{field}"));
    let reporter = text(object, "/reportingComponent");
    vec![
        ("involvedObject.kind", involved("kind")),
        ("involvedObject.namespace", involved("namespace")),
        ("involvedObject.name", involved("name")),
        ("involvedObject.uid", involved("uid")),
        ("involvedObject.apiVersion", involved("apiVersion")),
        ("involvedObject.resourceVersion", involved("resourceVersion")),
        ("involvedObject.fieldPath", involved("fieldPath")),
        ("reason", text(object, "/reason")),
        ("source", or(text(object, "/source/component"), &reporter)),
        ("reportingComponent", reporter),
        ("type", text(object, "/type")),
    ]
}

/// What the newer version calls them.
pub(super) fn reported_event(object: &Value) -> Fields {
    let newer = |label| match label {
        "involvedObject.kind" => "regarding.kind",
        "involvedObject.namespace" => "regarding.namespace",
        "involvedObject.name" => "regarding.name",
        "involvedObject.uid" => "regarding.uid",
        "involvedObject.apiVersion" => "regarding.apiVersion",
        "involvedObject.resourceVersion" => "regarding.resourceVersion",
        "involvedObject.fieldPath" => "regarding.fieldPath",
        "reportingComponent" => "reportingController",
        other => other,
    };
    event(object).into_iter().map(|(label, value)| (newer(label), value)).collect()
}
