//! Metadata of an object that is a `serde_json::Value`, and what the server does to it on a write.
//!
//! Guarantees: a missing or mistyped field reads as empty; nothing here panics on any value.
//! Does not: check anything; [`crate::validation`] does.

use serde_json::{Map, Value};

use crate::resource::Resource;

/// `metadata.name`, or "".
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.namespace`, or "".
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`, or "".
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`, or "".
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// `metadata.generation`, or 0.
pub fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

/// `metadata.labels`.
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object["metadata"]["labels"].as_object()
}

/// `metadata.annotations`.
pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    object["metadata"]["annotations"].as_object()
}

/// `metadata.deletionTimestamp`.
pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    object["metadata"]["deletionTimestamp"].as_str()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object["metadata"]["finalizers"].as_array();
    list.map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// `metadata.ownerReferences`.
pub fn owner_references(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"].as_array().map_or(&[], Vec::as_slice)
}

/// The owner reference with `controller: true`.
pub fn controller_of(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|owner| owner["controller"] == true)
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// Sets or, when `value` is empty, removes a text field of the metadata.
pub fn set_metadata(object: &mut Value, field: &str, value: &str) {
    let metadata = metadata_mut(object);
    if value.is_empty() {
        metadata.remove(field);
    } else {
        metadata.insert(field.to_owned(), Value::from(value));
    }
}

/// The metadata, made if it is missing.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// The object at `field`, made if it is missing or no object.
pub(crate) fn child_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let child = &mut object[field];
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    match child {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object above"),
    }
}

/// What the server decides about a new object.
pub struct Creation<'a> {
    pub uid: &'a str,
    /// RFC 3339 in whole seconds.
    pub timestamp: &'a str,
    /// Appended to `generateName` when there is no name: five random characters.
    pub name_suffix: &'a str,
}

/// Fills in the metadata of a new object; drops what a client may not set (status too, where the
/// kind has a status subresource). Sets `apiVersion` and `kind`. Does not set the namespace.
pub fn prepare_for_create(resource: &Resource, object: &mut Value, creation: &Creation<'_>) {
    let _ = (resource, object, creation);
}

/// Carries over from `old` what an update may not change; keeps `old`'s status where the kind has a
/// status subresource, and raises the generation when anything but metadata and status differs.
pub fn prepare_for_update(resource: &Resource, new: &mut Value, old: &Value) {
    let _ = (resource, new, old);
}

/// Makes `new` into `old` with `new`'s status (and, as Kubernetes does, its labels, annotations,
/// finalizers and owner references untouched from `old`).
pub fn prepare_for_status_update(resource: &Resource, new: &mut Value, old: &Value) {
    let _ = (resource, new, old);
}
