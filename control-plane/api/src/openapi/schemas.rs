//! The schemas of a document: those of the types, with what clients need to merge and to find them.

use serde_json::{Map, Value, json};

use crate::resource::Resource;
use crate::schema::patch_facts::{ListType, fact, is_atomic, is_atomic_map, key_default};
use crate::schema::{DEFINITIONS, definitions};

pub(super) const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// A reference to a schema of the document.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{DEFINITIONS}{name}") })
}

/// What a list of a kind is called.
pub(super) fn list_schema(resource: &Resource) -> String {
    format!("{}List", resource.schema)
}

/// The schemas that a group version's document needs.
pub(super) fn components<'a>(
    group: &str,
    version: &str,
    resources: impl Iterator<Item = &'static Resource> + 'a,
) -> Map<String, Value> {
    let mut schemas = definitions(|g, v| g == group && v == version);
    for (name, schema) in &mut schemas {
        refine(name, schema);
    }
    for resource in resources {
        let kinds = json!([{
            "group": resource.group, "kind": resource.kind, "version": resource.version,
        }]);
        if let Some(schema) = schemas.get_mut(resource.schema) {
            schema["x-kubernetes-group-version-kind"] = kinds;
            drop_required(schema);
        }
        if resource.stored {
            schemas.insert(list_schema(resource), list(resource));
        }
        for sub in resource.subresources.iter().filter(|sub| sub.kind != resource.kind) {
            let (group, version) = sub.group_version(resource);
            if let Some(schema) = schemas.get_mut(&sub.schema(resource)) {
                schema["x-kubernetes-group-version-kind"] =
                    json!([{ "group": group, "kind": sub.kind, "version": version }]);
                drop_required(schema);
            }
        }
    }
    schemas.insert(LIST_META.to_owned(), list_meta());
    schemas.insert(STATUS.to_owned(), status());
    schemas.insert(DELETE_OPTIONS.to_owned(), delete_options());
    schemas.insert(
        PATCH.to_owned(),
        json!({ "type": "object", "description": "The body of a PATCH request." }),
    );
    schemas
}

/// No field of a kind itself is required on the wire: the server fills in `metadata`.
fn drop_required(schema: &mut Value) {
    if let Some(map) = schema.as_object_mut() {
        map.remove("required");
    }
}

/// Adds the facts about a type, and puts references where clients expect them.
fn refine(name: &str, schema: &mut Value) {
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        *schema = int_or_string(schema);
        return;
    }
    if is_atomic(name) {
        schema["x-kubernetes-map-type"] = json!("atomic");
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (field, property) in properties {
        wrap_reference(property);
        if let Some(items) = property.get_mut("items") {
            wrap_reference(items);
        }
        if let Some(values) = property.get_mut("additionalProperties") {
            wrap_reference(values);
        }
        if is_atomic_map(name, field) {
            property["x-kubernetes-map-type"] = json!("atomic");
        }
        if let Some(default) = key_default(name, field) {
            property["default"] = json!(default);
        }
        let Some(fact) = fact(name, field) else { continue };
        if let Some(strategy) = fact.strategy.as_str() {
            property["x-kubernetes-patch-strategy"] = json!(strategy);
        }
        if !fact.merge_key.is_empty() {
            property["x-kubernetes-patch-merge-key"] = json!(fact.merge_key);
        }
        match fact.list {
            ListType::None => {}
            ListType::Atomic => property["x-kubernetes-list-type"] = json!("atomic"),
            ListType::Set => property["x-kubernetes-list-type"] = json!("set"),
            ListType::Map(keys) => {
                property["x-kubernetes-list-type"] = json!("map");
                property["x-kubernetes-list-map-keys"] = json!(keys);
            }
        }
    }
}

/// A reference with siblings is no valid OpenAPI 3.0: it goes into an `allOf`.
fn wrap_reference(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    if map.len() > 1
        && let Some(reference) = map.remove("$ref")
    {
        map.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
    }
}

fn int_or_string(schema: &Value) -> Value {
    json!({
        "description": schema["description"],
        "oneOf": [{ "type": "string" }, { "type": "number" }],
    })
}

fn list(resource: &Resource) -> Value {
    json!({
        "description": format!("{} is a list of {}.", resource.list_kind, resource.plural),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text("The versioned schema of this representation of an object."),
            "kind": text("The REST resource that this object represents."),
            "metadata": {
                "allOf": [reference(LIST_META)],
                "description": "Standard list metadata.",
            },
            "items": {
                "description": format!("The {} of the list.", resource.plural),
                "type": "array",
                "items": { "allOf": [reference(resource.schema)], "default": {} },
            },
        },
        "x-kubernetes-group-version-kind": [{
            "group": resource.group, "kind": resource.list_kind, "version": resource.version,
        }],
    })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn list_meta() -> Value {
    json!({
        "description": "ListMeta describes what a list holds.",
        "type": "object",
        "properties": {
            "continue": text("Set when there is more: pass it back to get the next part."),
            "remainingItemCount": {
                "type": "integer", "format": "int64",
                "description": "How many items are not in this part of the list.",
            },
            "resourceVersion": text("The version of the store that the list shows."),
            "selfLink": text("Not used."),
        },
    })
}

fn status() -> Value {
    json!({
        "description": "Status is what a call returns that returns no other object.",
        "type": "object",
        "properties": {
            "apiVersion": text("The versioned schema of this representation of an object."),
            "kind": text("The REST resource that this object represents."),
            "metadata": { "allOf": [reference(LIST_META)],
                "description": "Standard list metadata." },
            "status": text("Success or Failure."),
            "message": text("What happened, for people."),
            "reason": text("Why the operation failed, for machines."),
            "code": {
                "type": "integer", "format": "int32", "description": "The HTTP status code.",
            },
            "details": { "type": "object", "description": "What the status is about." },
        },
        "x-kubernetes-group-version-kind": [{ "group": "", "kind": "Status", "version": "v1" }],
    })
}

fn delete_options() -> Value {
    json!({
        "description": "DeleteOptions may be sent with a DELETE request.",
        "type": "object",
        "properties": {
            "apiVersion": text("The versioned schema of this representation of an object."),
            "kind": text("The REST resource that this object represents."),
            "dryRun": {
                "type": "array", "items": { "type": "string" }, "x-kubernetes-list-type": "atomic",
                "description": "All: the request is checked, but nothing is changed.",
            },
            "gracePeriodSeconds": {
                "type": "integer", "format": "int64",
                "description": "How long the object may take to end; zero: at once.",
            },
            "orphanDependents": {
                "type": "boolean", "description": "Deprecated; use propagationPolicy.",
            },
            "preconditions": {
                "type": "object",
                "description": "What must hold for the delete to happen.",
                "properties": {
                    "resourceVersion": text("The resource version that the object must have."),
                    "uid": text("The UID that the object must have."),
                },
            },
            "propagationPolicy": text("Orphan, Background or Foreground."),
        },
        "x-kubernetes-group-version-kind": [{ "group": "", "kind": "DeleteOptions",
            "version": "v1" }],
    })
}
