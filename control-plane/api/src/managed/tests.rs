//! Tables: what becomes of an object and its managers, step by step.

mod fields;
mod rules;
mod versions;

use serde_json::{Value, json};

use super::element::path_text;
use super::*;
use crate::resource::{Resource, find_kind};

/// A step of a row: who does what with which part of the object.
enum Step {
    /// What the manager applies, on top of what identifies the object.
    Apply(&'static str, Value),
    Force(&'static str, Value),
    ApplyStatus(&'static str, Value),
    /// A merge patch.
    Update(&'static str, Value),
    UpdateStatus(&'static str, Value),
    /// The whole object is replaced; its identity and its entries stay unless it says.
    Replace(&'static str, Value),
    /// Somebody who notes no manager.
    Unnoted(Value),
}

use Step::{Apply, ApplyStatus, Force, Replace, Unnoted, Update, UpdateStatus};

struct Row {
    name: &'static str,
    kind: (&'static str, &'static str),
    steps: Vec<Step>,
    /// Without type, name and managers.
    result: Value,
    /// `manager operation: path path`, in the order of the entries.
    managers: &'static [&'static str],
    /// What the last step fails with, if it does.
    error: &'static str,
}

const MAP: (&str, &str) = ("v1", "ConfigMap");
const SECRET: (&str, &str) = ("v1", "Secret");
const POD: (&str, &str) = ("v1", "Pod");
const SERVICE: (&str, &str) = ("v1", "Service");
const NODE: (&str, &str) = ("v1", "Node");
const DEPLOYMENT: (&str, &str) = ("apps/v1", "Deployment");

fn resource(kind: (&str, &str)) -> &'static Resource {
    find_kind(kind.0, kind.1).unwrap()
}

fn named(kind: (&str, &str), part: &Value) -> Value {
    let mut object = json!({"apiVersion": kind.0, "kind": kind.1, "metadata": {"name": "x"}});
    json_patch::merge(&mut object, part);
    // A merge patch leaves no nulls, an applied configuration may have some.
    restore_nulls(&mut object, part);
    object
}

fn restore_nulls(object: &mut Value, part: &Value) {
    for (key, value) in part.as_object().into_iter().flatten() {
        match value {
            Value::Null => object[key] = Value::Null,
            Value::Object(_) => restore_nulls(&mut object[key], value),
            _ => {}
        }
    }
}

/// Runs the steps, a minute apart.
fn run(kind: (&str, &str), steps: &[Step]) -> Result<Value, ApplyFailed> {
    let resource = resource(kind);
    let mut live: Option<Value> = None;
    for (minute, step) in steps.iter().enumerate() {
        let now = format!("2026-01-01T00:{minute:02}:00Z");
        let writer = |manager, subresource| Writer { manager, subresource, now: &now };
        let applied = |manager, subresource, part: &Value, force| {
            let config = named(kind, part);
            apply(resource, live.as_ref(), &config, &writer(manager, subresource), force)
        };
        let updated = |manager, subresource, mut new: Value| {
            update(resource, live.as_ref(), &mut new, &writer(manager, subresource));
            new
        };
        let patched = |part: &Value| {
            let mut new = live.clone().unwrap_or_else(|| named(kind, &json!({})));
            json_patch::merge(&mut new, part);
            new
        };
        let mut next = match step {
            Apply(manager, part) => applied(*manager, "", part, false)?,
            Force(manager, part) => applied(*manager, "", part, true)?,
            ApplyStatus(manager, part) => applied(*manager, "status", part, false)?,
            Update(manager, part) => updated(*manager, "", patched(part)),
            UpdateStatus(manager, part) => updated(*manager, "status", patched(part)),
            Replace(manager, part) => updated(*manager, "", named(kind, part)),
            Unnoted(part) => patched(part),
        };
        crate::openapi::normalize(resource, &mut next);
        if let Some(live) = &live {
            keep_times(&mut next, live);
        }
        live = Some(next);
    }
    Ok(live.unwrap_or_default())
}

/// The entries as rows spell them.
fn managers(object: &Value) -> Vec<String> {
    let entries = Entries::sent(&object["metadata"]["managedFields"]).unwrap();
    let describe = |entry: &Entry| {
        let identity = &entry.identity;
        let operation = if identity.operation == Operation::Apply { "Apply" } else { "Update" };
        let place = match identity.subresource.as_str() {
            "" => String::new(),
            subresource => format!("/{subresource}"),
        };
        let paths: Vec<String> = entry.set().paths().iter().map(|path| path_text(path)).collect();
        format!("{} {operation}{place}: {}", identity.manager, paths.join(" "))
    };
    entries.iter().map(describe).collect()
}

fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    let map = object.as_object_mut().unwrap();
    map.remove("apiVersion");
    map.remove("kind");
    let metadata = map["metadata"].as_object_mut().unwrap();
    metadata.remove("name");
    metadata.remove("managedFields");
    if metadata.is_empty() {
        map.remove("metadata");
    }
    object
}

fn check(rows: Vec<Row>) {
    for row in rows {
        let name = row.name;
        match run(row.kind, &row.steps) {
            Ok(object) => {
                assert_eq!(row.error, "", "{name}: no error, but {object}");
                assert_eq!(bare(&object), row.result, "{name}");
                assert_eq!(managers(&object), row.managers, "{name}");
            }
            Err(error) => assert_eq!(error.to_string(), row.error, "{name}"),
        }
    }
}

fn row(
    name: &'static str,
    kind: (&'static str, &'static str),
    steps: impl Into<Vec<Step>>,
    result: Value,
    managers: &'static [&'static str],
) -> Row {
    Row { name, kind, steps: steps.into(), result, managers, error: "" }
}

fn refused(
    name: &'static str,
    kind: (&'static str, &'static str),
    steps: impl Into<Vec<Step>>,
    error: &'static str,
) -> Row {
    Row { name, kind, steps: steps.into(), result: Value::Null, managers: &[], error }
}

fn data(pairs: &[(&str, &str)]) -> Value {
    let map: serde_json::Map<String, Value> =
        pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    json!({ "data": map })
}

/// A deployment with containers, where a pair is a name and an image.
fn containers(pairs: &[(&str, &str)]) -> Value {
    let list: Vec<Value> =
        pairs.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
    json!({"spec": {"template": {"spec": {"containers": list}}}})
}
