//! Claims to persistent volumes.

use serde_json::Value;

use super::containers::text;
use super::equality::same;
use super::metadata::{SUBDOMAIN, label_selector, metadata};
use super::names::{label, qualified_name, subdomain};
use super::persistent_volumes::{VOLUME_MODES, access_modes};
use super::pod::changed_fields;
use super::resource_names::is_native;
use super::{Errors, FieldError, Path};
use crate::object::{self, STORAGE_CLASS_ANNOTATION};
use crate::quantity::Quantity;
use crate::schema::parse_quantity;

const CLAIM: &str = "PersistentVolumeClaim";
const RESIZE_STATES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];
const UPDATE: &str = "spec is immutable after creation except resources.requests and \
    volumeAttributesClassName for bound claims";

pub(crate) fn persistent_volume_claim(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let path = Path::root("spec");
    claim_spec(&mut errors, &new["spec"], &path);
    status(&mut errors, &new["status"], &Path::root("status"));
    if let Some(old) = old {
        update(&mut errors, new, old, &path);
        attributes_class_update(&mut errors, &new["spec"], &old["spec"], &path);
    }
    errors.into_vec()
}

pub(super) fn claim_spec(errors: &mut Errors, spec: &Value, path: &Path) {
    access_modes(errors, spec, path, "at least 1 access mode is required");
    if !spec["selector"].is_null() {
        label_selector(errors, &spec["selector"], &path.child("selector"));
    }
    storage_request(errors, spec, path);
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let class = text(spec, field);
        if !class.is_empty() {
            errors.complain(&path.child(field), class, subdomain(class));
        }
    }
    errors.one_of(&path.child("volumeMode"), &spec["volumeMode"], VOLUME_MODES);
    data_sources(errors, spec, path);
}

fn storage_request(errors: &mut Errors, spec: &Value, path: &Path) {
    let path = path.child("resources").key("storage");
    match spec["resources"]["requests"].get("storage").map(parse_quantity) {
        None => errors.required(&path, ""),
        Some(Ok(amount)) if amount.is_zero() || amount.is_negative() => {
            errors.invalid_text(&path, &amount.to_string(), "must be greater than zero");
        }
        Some(_) => {}
    }
}

fn data_sources(errors: &mut Errors, spec: &Value, path: &Path) {
    for field in ["dataSource", "dataSourceRef"] {
        if !spec[field].is_null() {
            data_source(errors, &spec[field], &path.child(field));
        }
    }
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    let namespace = text(reference, "namespace");
    if !namespace.is_empty() {
        errors.complain(
            &path.child("dataSourceRef").child("namespace"),
            namespace,
            label(namespace),
        );
    }
    if source.is_null() || reference.is_null() {
        return;
    }
    let differs = ["apiGroup", "kind", "name"].iter().any(|one| source[*one] != reference[*one]);
    if !namespace.is_empty() {
        let why = "may not be specified when dataSourceRef.namespace is specified";
        errors.invalid(path, source, why);
    } else if differs {
        errors.invalid(path, source, "must match dataSourceRef");
    }
}

fn data_source(errors: &mut Errors, source: &Value, path: &Path) {
    for field in ["name", "kind"] {
        if text(source, field).is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    let group = text(source, "apiGroup");
    if !group.is_empty() {
        errors.complain(&path.child("apiGroup"), group, subdomain(group));
    } else if text(source, "kind") != CLAIM {
        let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.invalid_text(path, text(source, "kind"), why);
    }
}

fn status(errors: &mut Errors, status: &Value, path: &Path) {
    amounts(errors, &status["capacity"], &path.child("capacity"));
    let states = path.child("allocatedResourceStatus");
    for (name, state) in status["allocatedResourceStatuses"].as_object().into_iter().flatten() {
        resource_name(errors, name, &states);
        if !state.as_str().is_some_and(|state| RESIZE_STATES.contains(&state)) {
            errors.unsupported(&states, &Value::from(name.as_str()), RESIZE_STATES);
        }
    }
    let allocated = path.child("allocatedResources");
    for (name, _) in status["allocatedResources"].as_object().into_iter().flatten() {
        resource_name(errors, name, &allocated);
    }
    amounts(errors, &status["allocatedResources"], &allocated);
}

fn amounts(errors: &mut Errors, amounts: &Value, path: &Path) {
    for (name, amount) in amounts.as_object().into_iter().flatten() {
        if let Some(amount) = parse_quantity(amount).ok().filter(|amount| amount.is_negative()) {
            let why = "must be a valid resource quantity";
            errors.invalid(&path.key(name), &Value::from(amount.units()), why);
        }
    }
}

/// Storage is the only native resource of a claim.
fn resource_name(errors: &mut Errors, name: &str, path: &Path) {
    let complaints = qualified_name(name);
    if complaints.is_empty() && is_native(name) && name != "storage" {
        errors.unsupported(path, &Value::from(name), &["storage"]);
    }
    errors.complain(path, name, complaints);
}

/// A claim is what was agreed on: it may be bound once, and grow while it is.
fn update(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    let mut masked = spec.clone();
    if !masked.is_object() {
        return;
    }
    if text(before, "volumeName").is_empty() {
        object::copy(&mut masked, before, "volumeName");
    }
    class_update(errors, new, old, &mut masked);
    if new["status"]["phase"] == "Bound" {
        let requested = before["resources"]["requests"].get("storage");
        let requests = masked.pointer_mut("/resources/requests").and_then(Value::as_object_mut);
        if let (Some(requests), Some(requested)) = (requests, requested) {
            requests.insert("storage".to_owned(), requested.clone());
        }
        if !masked["volumeAttributesClassName"].is_null() {
            object::copy(&mut masked, before, "volumeAttributesClassName");
        }
    }
    // No class and the class without a name are not the same.
    let unset = |spec: &Value| {
        (spec["storageClassName"].is_null(), spec["volumeAttributesClassName"].is_null())
    };
    if !same(&masked, before) || unset(&masked) != unset(before) {
        let changed = changed_fields(&masked, before);
        errors.forbidden(path, &format!("{UPDATE}\nchanged: {}", changed.join(", ")));
    }
    let amount = |amounts: &Value| {
        amounts.get("storage").and_then(|amount| parse_quantity(amount).ok()).unwrap_or_default()
    };
    let size: Quantity = amount(&spec["resources"]["requests"]);
    let held = amount(&old["status"]["capacity"]);
    // A claim that could not grow may ask for less again, but for more than it has.
    if size < amount(&before["resources"]["requests"]) && size <= held {
        let path = path.child("resources").child("requests").child("storage");
        errors.forbidden(&path, "field can not be less than status.capacity");
    }
    errors.immutable(&Path::root("volumeMode"), &spec["volumeMode"], &before["volumeMode"]);
}

/// The class may be set where there was none, and move from the annotation to the field.
fn class_update(errors: &mut Errors, new: &Value, old: &Value, masked: &mut Value) {
    let annotation =
        |claim: &Value| claim["metadata"]["annotations"][STORAGE_CLASS_ANNOTATION].clone();
    let (now, before) = (annotation(new), annotation(old));
    let class = &new["spec"]["storageClassName"];
    let first = old["spec"]["storageClassName"].is_null() && !class.is_null();
    if first && (before.is_null() || *class == before) {
        object::copy(masked, &old["spec"], "storageClassName");
    }
    let moved = first && *class == before && now.is_null();
    if now != before && !moved {
        let path = Path::root("metadata").child("annotations").child(STORAGE_CLASS_ANNOTATION);
        errors.immutable(&path, &now, &before);
    }
}

fn attributes_class_update(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    let field = "volumeAttributesClassName";
    if old[field].is_null() || old[field] == new[field] {
        return;
    }
    if new[field].is_null() {
        errors.forbidden(&path.child(field), "update from non-nil value to nil is forbidden");
    } else if text(new, field).is_empty() {
        let why = "update from non-nil value to an empty string is forbidden";
        errors.forbidden(&path.child(field), why);
    }
}
