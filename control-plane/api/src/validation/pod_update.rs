//! What an update may change of a pod.
//!
//! Guarantees: a pod's spec is what runs, so nearly all of it is fixed. While a pod waits behind
//! scheduling gates, where it may run can be narrowed, and never widened.
//! Does not: bind a pod to a node; that does not come through here.

use serde_json::{Value, json};

use super::containers::{list, text};
use super::equality::same;
use super::pod::changed_fields;
use super::{Errors, Path};
use crate::object;

const UPDATE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions \
    to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
    was previously negative)";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

pub(super) fn update(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    let mut masked = new.clone();
    if !masked.is_object() {
        return;
    }
    for field in ["containers", "initContainers"] {
        if list(new, field).len() != list(old, field).len() {
            let why = "pod updates may not add or remove containers";
            return errors.forbidden(&path.child(field), why);
        }
        for (index, container) in list(old, field).iter().enumerate() {
            let target = masked.get_mut(field).and_then(|list| list.get_mut(index));
            if let Some(target) = target.filter(|target| target.is_object()) {
                object::copy(target, container, "image");
            }
        }
    }
    if !deadline(errors, new, old, path) {
        return;
    }
    tolerations(errors, new, old, path);
    gates(errors, new, old, path);
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        object::copy(&mut masked, old, field);
    }
    let grace = "terminationGracePeriodSeconds";
    if old[grace].as_i64().is_some_and(|seconds| seconds < 0) && new[grace] == 1 {
        object::copy(&mut masked, old, grace);
    }
    if !list(old, "schedulingGates").is_empty() {
        narrowed(errors, &mut masked, old, path);
    }
    if !same(&masked, old) {
        let changed = changed_fields(&masked, old);
        errors.forbidden(path, &format!("{UPDATE}\nchanged: {}", changed.join(", ")));
    }
}

/// Whether the rest is worth looking at.
fn deadline(errors: &mut Errors, new: &Value, old: &Value, path: &Path) -> bool {
    let path = path.child("activeDeadlineSeconds");
    let value = &new["activeDeadlineSeconds"];
    match (old["activeDeadlineSeconds"].as_i64(), value.as_i64()) {
        (_, Some(now)) if now < 0 || now > i64::from(i32::MAX) => return false,
        (Some(before), Some(now)) if now > before => {
            errors.invalid(&path, value, "must be less than or equal to previous value");
            return false;
        }
        (Some(_), None) => {
            errors.invalid(&path, value, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
    true
}

fn tolerations(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    let without_seconds = |one: &Value| {
        let mut one = one.clone();
        if let Some(map) = one.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        one
    };
    let now: Vec<Value> = list(new, "tolerations").iter().map(without_seconds).collect();
    let mut before = list(old, "tolerations").iter().map(without_seconds);
    if before.any(|one| !now.iter().any(|other| same(&one, other))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(&path.child("tolerations"), why);
    }
}

fn gates(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    let before = list(old, "schedulingGates");
    for (index, gate) in list(new, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        if !before.iter().any(|one| text(one, "name") == name) {
            let path = path.child("schedulingGates").index(index).child("name");
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&path, &why);
        }
    }
}

/// A pod behind gates may ask for less of the nodes than before; what it asks is masked.
fn narrowed(errors: &mut Errors, masked: &mut Value, old: &Value, path: &Path) {
    let kept = |(key, value): (&String, &Value)| masked["nodeSelector"].get(key) == Some(value);
    if !old["nodeSelector"].as_object().into_iter().flatten().all(kept) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.invalid(&path.child("nodeSelector"), &masked["nodeSelector"], why);
    }
    object::copy(masked, old, "nodeSelector");
    let (before, now) = (&old["affinity"]["nodeAffinity"], &masked["affinity"]["nodeAffinity"]);
    if same(before, now) {
        return;
    }
    let path = path.child("affinity").child("nodeAffinity");
    node_terms(errors, &now[REQUIRED], &before[REQUIRED], &path.child(REQUIRED));
    let others = |affinity: &Value| {
        !affinity["podAffinity"].is_null() || !affinity["podAntiAffinity"].is_null()
    };
    if old["affinity"].is_null() && !others(&masked["affinity"]) {
        object::copy(masked, old, "affinity");
    } else if masked["affinity"].is_null() {
        masked["affinity"] = json!({ "nodeAffinity": before });
    } else if let Some(affinity) = masked.get_mut("affinity").filter(|one| one.is_object()) {
        object::copy(affinity, &old["affinity"], "nodeAffinity");
    }
}

fn node_terms(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    let (before, now) = (list(old, "nodeSelectorTerms"), list(new, "nodeSelectorTerms"));
    let path = path.child("nodeSelectorTerms");
    // Where there was no term, all may be set.
    if before.is_empty() {
        return;
    }
    if before.len() != now.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return errors.invalid(&path, &Value::from(now.to_vec()), why);
    }
    for (index, (before, now)) in before.iter().zip(now).enumerate() {
        if !only_adds(before, now) {
            let why = "only additions are allowed (no mutations or deletions)";
            errors.invalid(&path.index(index), now, why);
        }
    }
}

/// A term that asks for nothing selects nothing: adding to it would widen it.
fn only_adds(before: &Value, now: &Value) -> bool {
    let fields = ["matchExpressions", "matchFields"];
    let is_empty = |term: &Value| fields.iter().all(|field| list(term, field).is_empty());
    if is_empty(before) && !is_empty(now) {
        return false;
    }
    fields.iter().all(|field| list(now, field).starts_with(list(before, field)))
}
