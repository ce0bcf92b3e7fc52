//! Metadata of an object that is a `serde_json::Value`, and what the server does to it on a write.
//!
//! Guarantees: a missing or mistyped field reads as empty; nothing here panics on any value.
//! Does not: check anything; [`crate::validation`] does.

use serde_json::{Map, Value};

use crate::resource::Resource;

/// `metadata.name`, or "".
pub fn name(object: &Value) -> &str {
    text(&object["metadata"], "name")
}

/// `metadata.namespace`, or "".
pub fn namespace(object: &Value) -> &str {
    text(&object["metadata"], "namespace")
}

/// `metadata.uid`, or "".
pub fn uid(object: &Value) -> &str {
    text(&object["metadata"], "uid")
}

/// `metadata.resourceVersion`, or "".
pub fn resource_version(object: &Value) -> &str {
    text(&object["metadata"], "resourceVersion")
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

/// Whether a condition in the status is true.
pub fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter().any(|one| one["type"] == condition && one["status"] == "True")
    })
}

/// The annotation that named a claim's or volume's storage class before the field did.
pub(crate) const STORAGE_CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object["metadata"]["finalizers"].as_array();
    list.map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// A field that is text, or "".
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
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

/// How long a name may be, so that names made from it still fit a label.
const GENERATED_NAME_BASE: usize = 58;

/// Metadata that only the server sets. Who manages what, clients may write:
/// [`crate::managed::update`] decides.
const SERVER_METADATA: [&str; 6] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
];

/// Fills in the metadata of a new object; drops what a client may not set (status too, where the
/// kind has a status subresource). Sets `apiVersion` and `kind`. Does not set the namespace.
pub fn prepare_for_create(resource: &Resource, object: &mut Value, creation: &Creation<'_>) {
    let metadata = metadata_mut(object);
    metadata.remove("resourceVersion");
    for field in SERVER_METADATA {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), Value::from(creation.uid));
    metadata.insert("creationTimestamp".to_owned(), Value::from(creation.timestamp));
    if resource.generation {
        metadata.insert("generation".to_owned(), Value::from(1));
    }
    let prefix = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default();
    let unnamed = metadata.get("name").and_then(Value::as_str).unwrap_or_default().is_empty();
    if unnamed && !prefix.is_empty() {
        let mut end = prefix.len().min(GENERATED_NAME_BASE);
        while !prefix.is_char_boundary(end) {
            end -= 1;
        }
        let name = format!("{}{}", &prefix[..end], creation.name_suffix);
        metadata.insert("name".to_owned(), Value::from(name));
    }
    set_type(resource, object);
    if resource.status && !resource.status_on_create {
        remove(object, "status");
    }
    (resource.initialize)(object);
}

/// Carries over from `old` what an update may not change; keeps `old`'s status where the kind has a
/// status subresource, and raises the generation when anything but metadata and status differs.
/// Call it after defaulting, with the result defaulted again where a kind carries fields over.
pub fn prepare_for_update(resource: &Resource, new: &mut Value, old: &Value) {
    set_type(resource, new);
    let metadata = metadata_mut(new);
    for field in SERVER_METADATA {
        match old["metadata"].get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    for field in ["name", "namespace"] {
        let missing = metadata.get(field).and_then(Value::as_str).unwrap_or_default().is_empty();
        if let (true, Some(value)) = (missing, old["metadata"].get(field)) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    if resource.status {
        copy(new, old, "status");
    }
    (resource.carry_over)(new, old);
    (resource.apply_defaults)(new);
    if resource.generation && desired_differs(new, old) {
        let next = generation(old).saturating_add(1);
        metadata_mut(new).insert("generation".to_owned(), Value::from(next));
    }
}

/// Makes `new` into `old` with `new`'s status and resource version: a status update changes
/// nothing else.
pub fn prepare_for_status_update(resource: &Resource, new: &mut Value, old: &Value) {
    let status = new.get("status").cloned();
    let version = resource_version(new).to_owned();
    *new = old.clone();
    set_type(resource, new);
    set_metadata(new, "resourceVersion", &version);
    match status {
        Some(status) if !status.is_null() => new["status"] = status,
        _ => remove(new, "status"),
    }
}

/// Says of an object that it is of a kind.
pub(crate) fn set_type(resource: &Resource, object: &mut Value) {
    object["apiVersion"] = Value::from(resource.api_version());
    object["kind"] = Value::from(resource.kind);
}

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

/// Sets `field` of `new` to what it is in `old`.
pub(crate) fn copy(new: &mut Value, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => new[field] = value.clone(),
        None => remove(new, field),
    }
}

fn desired_differs(new: &Value, old: &Value) -> bool {
    let desired = |object: &Value| -> Map<String, Value> {
        let map = object.as_object().into_iter().flatten();
        let keep = |field: &str| !matches!(field, "metadata" | "status" | "apiVersion" | "kind");
        map.filter(|(field, _)| keep(field)).map(|(f, v)| (f.clone(), v.clone())).collect()
    };
    desired(new) != desired(old)
}

#[cfg(test)]
mod tests;
