//! Taints of nodes, and the tolerations of pods for them.

use std::collections::HashSet;

use serde_json::Value;

use super::containers::{list, text};
use super::names::{label_value, qualified_name};
use super::{Errors, Path};

const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const OPERATORS: &[&str] = &["Equal", "Exists"];

/// Checks the `tolerations` of `holder`, which is at `path`.
pub(super) fn tolerations(errors: &mut Errors, holder: &Value, path: &Path) {
    for (index, one) in list(holder, "tolerations").iter().enumerate() {
        toleration(errors, one, &path.child("tolerations").index(index));
    }
}

fn toleration(errors: &mut Errors, one: &Value, path: &Path) {
    let (key, operator) = (text(one, "key"), text(one, "operator"));
    if !key.is_empty() {
        errors.complain(&path.child("key"), key, qualified_name(key));
    } else if operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values \
                   and all keys\"";
        errors.invalid_text(&path.child("operator"), operator, why);
    }
    let effect = text(one, "effect");
    if !one["tolerationSeconds"].is_null() && effect != "NoExecute" {
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid_text(&path.child("effect"), effect, why);
    }
    let value = text(one, "value");
    match operator {
        "" | "Equal" => {
            let complaints = label_value(value);
            if !complaints.is_empty() {
                errors.invalid_text(&path.child("operator"), value, &complaints.join(";"));
            }
        }
        "Exists" => {
            if !value.is_empty() {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.invalid_text(&path.child("operator"), value, why);
            }
        }
        // Comparing is for clusters that are told to (a feature gate of Kubernetes).
        "Lt" | "Gt" => {
            let supported = &["Equal", "Exists", "Lt", "Gt"];
            errors.unsupported(&path.child("operator"), &one["operator"], supported);
        }
        _ => errors.unsupported(&path.child("operator"), &one["operator"], OPERATORS),
    }
    if !effect.is_empty() {
        errors.one_of(&path.child("effect"), &one["effect"], TAINT_EFFECTS);
    }
}

/// Checks the taints of a node. Kubernetes calls the list one of the metadata's.
pub(super) fn taints(errors: &mut Errors, spec: &Value) {
    let mut seen = HashSet::new();
    for (index, taint) in list(spec, "taints").iter().enumerate() {
        let path = Path::root("metadata").child("taints").index(index);
        let (key, effect) = (text(taint, "key"), text(taint, "effect"));
        errors.complain(&path.child("key"), key, qualified_name(key));
        let value = text(taint, "value");
        let complaints = label_value(value);
        if !complaints.is_empty() {
            errors.invalid_text(&path.child("value"), value, &complaints.join(";"));
        }
        errors.required_one_of(&path.child("effect"), &taint["effect"], TAINT_EFFECTS);
        if !seen.insert((key, effect)) {
            let why = "taints must be unique by key and effect pair";
            errors.duplicate_of(&path, taint, why);
        }
    }
}
