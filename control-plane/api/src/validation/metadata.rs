//! The metadata that all objects share, labels, and label selectors.

use serde_json::{Map, Value};

use super::names::{label_value, qualified_name, subdomain};
use super::{Errors, Path};

/// All annotations of an object together.
pub(crate) const ANNOTATIONS_SIZE: usize = 256 * 1024;

const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "foregroundDeletion", "orphan"];

/// What a kind's names must look like.
pub(super) type NameRule = fn(&str) -> Vec<String>;

/// Checks the metadata of a new or updated object.
pub(super) fn metadata(
    errors: &mut Errors,
    object: &Value,
    old: Option<&Value>,
    namespaced: bool,
    rule: NameRule,
) {
    let path = Path::root("metadata");
    let metadata = &object["metadata"];
    name(errors, metadata, &path, rule);
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    if namespaced && namespace.is_empty() {
        errors.required(&path.child("namespace"), "");
    } else if namespaced {
        let complaints = super::names::label(namespace);
        errors.complain(&path.child("namespace"), namespace, complaints);
    } else if !namespace.is_empty() {
        errors.forbidden(&path.child("namespace"), "not allowed on this type");
    }
    labels(errors, &metadata["labels"], &path.child("labels"));
    annotations(errors, &metadata["annotations"], &path.child("annotations"));
    finalizers(errors, &metadata["finalizers"], &path.child("finalizers"));
    owners(errors, &metadata["ownerReferences"], &path.child("ownerReferences"));
    if let Some(old) = old {
        update(errors, metadata, &old["metadata"], &path);
    }
}

fn name(errors: &mut Errors, metadata: &Value, path: &Path, rule: NameRule) {
    let name = metadata["name"].as_str().unwrap_or_default();
    let prefix = metadata["generateName"].as_str().unwrap_or_default();
    if !prefix.is_empty() {
        // A generated name ends with a suffix: the prefix may end with a hyphen.
        let trimmed = prefix.strip_suffix('-').unwrap_or(prefix);
        errors.complain(&path.child("generateName"), prefix, rule(trimmed));
    }
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        errors.complain(&path.child("name"), name, rule(name));
    }
}

/// What an update may not change.
fn update(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        errors.immutable(&path.child(field), &new[field], &old[field]);
    }
    if old["deletionTimestamp"].is_null() {
        return;
    }
    let before = old["finalizers"].as_array().map_or(&[][..], Vec::as_slice);
    let after = new["finalizers"].as_array().map_or(&[][..], Vec::as_slice);
    let added: Vec<&str> =
        after.iter().filter(|one| !before.contains(one)).filter_map(Value::as_str).collect();
    if !added.is_empty() {
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers \
             {added:?}"
        );
        errors.forbidden(&path.child("finalizers"), &why);
    }
}

/// Checks a map of labels.
pub(super) fn labels(errors: &mut Errors, labels: &Value, path: &Path) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.complain(path, key, qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        errors.complain(path, value, label_value(value));
    }
}

pub(super) fn annotations(errors: &mut Errors, annotations: &Value, path: &Path) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        errors.complain(path, key, qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_SIZE {
        errors.too_long(path, ANNOTATIONS_SIZE);
    }
}

fn finalizers(errors: &mut Errors, finalizers: &Value, path: &Path) {
    let all: Vec<&str> =
        finalizers.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for name in &all {
        errors.complain(path, name, qualified_name(name));
    }
    let [foreground, orphan] = ["foregroundDeletion", "orphan"];
    if all.contains(&foreground) && all.contains(&orphan) {
        let why = format!("finalizer {foreground} and {orphan} cannot be both set");
        errors.invalid(path, finalizers, &why);
    }
    for (index, name) in all.iter().enumerate() {
        known_finalizer(errors, name, &path.index(index));
    }
}

/// Checks the name of a finalizer.
pub(super) fn finalizer(errors: &mut Errors, name: &str, path: &Path) {
    errors.complain(path, name, qualified_name(name));
    known_finalizer(errors, name, path);
}

/// Only the cluster's own finalizers have no domain.
fn known_finalizer(errors: &mut Errors, name: &str, path: &Path) {
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        let why = "name is neither a standard finalizer name nor is it fully qualified";
        errors.invalid_text(path, name, why);
    }
}

fn owners(errors: &mut Errors, owners: &Value, path: &Path) {
    let mut controllers = 0;
    for (index, owner) in owners.as_array().into_iter().flatten().enumerate() {
        let path = path.index(index);
        for (field, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                errors.required(&path.child(field), why);
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        let why = "Only one reference can have Controller set to true";
        errors.invalid(path, owners, why);
    }
}

/// Checks a `metav1.LabelSelector`.
pub(super) fn label_selector(errors: &mut Errors, selector: &Value, path: &Path) {
    labels(errors, &selector["matchLabels"], &path.child("matchLabels"));
    let path = path.child("matchExpressions");
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    for (index, expression) in expressions.enumerate() {
        let path = path.index(index);
        if !operands(errors, expression, &path) {
            let why = "not a valid selector operator";
            errors.invalid(&path.child("operator"), &expression["operator"], why);
        }
        key_and_values(errors, expression, &path);
    }
}

/// Checks that a requirement has values where its operator takes them. The answer is whether the
/// operator is known.
pub(super) fn operands(errors: &mut Errors, requirement: &Value, path: &Path) -> bool {
    let values = requirement["values"].as_array().map_or(0, Vec::len);
    match requirement["operator"].as_str().unwrap_or_default() {
        "In" | "NotIn" if values == 0 => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.required(&path.child("values"), why);
        }
        "Exists" | "DoesNotExist" if values > 0 => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&path.child("values"), why);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => return false,
    }
    true
}

/// Checks the key and the values of a requirement on labels.
pub(super) fn key_and_values(errors: &mut Errors, requirement: &Value, path: &Path) {
    let key = requirement["key"].as_str().unwrap_or_default();
    errors.complain(&path.child("key"), key, qualified_name(key));
    let values = requirement["values"].as_array().into_iter().flatten();
    for (index, value) in values.filter_map(Value::as_str).enumerate() {
        errors.complain(&path.child("values").index(index), value, label_value(value));
    }
}

/// Whether a map has no entries.
pub(super) fn is_empty(value: &Value) -> bool {
    value.as_object().is_none_or(Map::is_empty)
}

/// The rule for most kinds.
pub(super) const SUBDOMAIN: NameRule = subdomain;
