//! Pods, and the pod specs inside templates.

use serde_json::Value;

use super::containers::{containers, list, text};
use super::metadata::{SUBDOMAIN, labels, metadata};
use super::names::{label, label_value, qualified_name};
use super::volumes::volumes;
use super::{Errors, FieldError, Path};

const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const OPERATORS: &[&str] = &["Equal", "Exists", "Gt", "Lt"];
pub(super) const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

const UPDATE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions \
    to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
    was previously negative)";

pub(crate) fn pod(pod: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, pod, old, true, SUBDOMAIN);
    let path = Path::root("spec");
    match old {
        None => pod_spec(&mut errors, &pod["spec"], &path),
        Some(old) => update(&mut errors, &pod["spec"], &old["spec"], &path),
    }
    errors.into_vec()
}

/// Checks what pods and templates share.
pub(super) fn pod_spec(errors: &mut Errors, spec: &Value, path: &Path) {
    let names = volumes(errors, spec, path);
    containers(errors, spec, path, &names);
    required_choice(errors, spec, path, "restartPolicy", RESTART_POLICIES);
    required_choice(errors, spec, path, "dnsPolicy", DNS_POLICIES);
    labels(errors, &spec["nodeSelector"], &path.child("nodeSelector"));
    tolerations(errors, spec, path);
    let grace = &spec["terminationGracePeriodSeconds"];
    errors.non_negative(&path.child("terminationGracePeriodSeconds"), grace);
    let deadline = &spec["activeDeadlineSeconds"];
    if deadline.as_i64().is_some_and(|seconds| seconds < 1) {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.invalid(&path.child("activeDeadlineSeconds"), deadline, why);
    }
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            errors.complain(&path.child(field), name, label(name));
        }
    }
    for field in ["serviceAccountName", "nodeName"] {
        let name = text(spec, field);
        if !name.is_empty() {
            errors.complain(&path.child(field), name, SUBDOMAIN(name));
        }
    }
    dns(errors, spec, path);
}

fn required_choice(
    errors: &mut Errors,
    spec: &Value,
    path: &Path,
    field: &str,
    supported: &[&str],
) {
    if text(spec, field).is_empty() {
        errors.required(&path.child(field), "");
    } else {
        errors.one_of(&path.child(field), &spec[field], supported);
    }
}

fn dns(errors: &mut Errors, spec: &Value, path: &Path) {
    let config = &spec["dnsConfig"];
    let servers = list(config, "nameservers");
    let path = path.child("dnsConfig").child("nameservers");
    if spec["dnsPolicy"] == "None" && servers.is_empty() {
        errors.required(&path, "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    if servers.len() > 3 {
        errors.too_many(&path, servers.len(), 3);
    }
    for (index, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        errors.complain(&path.index(index), server, super::names::ip(server));
    }
}

pub(super) fn tolerations(errors: &mut Errors, spec: &Value, path: &Path) {
    for (index, one) in list(spec, "tolerations").iter().enumerate() {
        let path = path.child("tolerations").index(index);
        let (key, operator) = (text(one, "key"), text(one, "operator"));
        if !key.is_empty() {
            errors.complain(&path.child("key"), key, qualified_name(key));
        }
        if key.is_empty() && operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all \
                       values and all keys\"";
            errors.invalid_text(&path.child("operator"), operator, why);
        }
        if operator == "Exists" && !text(one, "value").is_empty() {
            let why = "value must be empty when `operator` is 'Exists'";
            errors.invalid(&path.child("operator"), &one["value"], why);
        } else if operator.is_empty() || operator == "Equal" {
            let value = text(one, "value");
            errors.complain(&path.child("operator"), value, label_value(value));
        }
        if !operator.is_empty() {
            errors.one_of(&path.child("operator"), &one["operator"], OPERATORS);
        }
        let effect = text(one, "effect");
        if !effect.is_empty() {
            errors.one_of(&path.child("effect"), &one["effect"], TAINT_EFFECTS);
        }
        if !one["tolerationSeconds"].is_null() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid_text(&path.child("effect"), effect, why);
        }
    }
}

/// A pod's spec is what runs: nearly all of it is fixed. Binding does not come through here.
fn update(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    let (before, after) = (list(old, "containers"), list(new, "containers"));
    if before.len() != after.len() {
        errors.forbidden(&path.child("containers"), "pod updates may not add or remove containers");
        return;
    }
    let mut masked = new.clone();
    for field in ["containers", "initContainers"] {
        for (index, container) in list(old, field).iter().enumerate() {
            let path = path.child(field).index(index).child("image");
            let target = masked.get_mut(field).and_then(|list| list.get_mut(index));
            let Some(target) = target.and_then(Value::as_object_mut) else { continue };
            if target.get("image").and_then(Value::as_str).unwrap_or_default().is_empty() {
                errors.required(&path, "");
            }
            target.insert("image".to_owned(), container["image"].clone());
        }
    }
    deadline(errors, new, old, path);
    let kept = list(old, "tolerations").iter().all(|one| list(new, "tolerations").contains(one));
    let gates = list(old, "schedulingGates");
    let opened = text(old, "nodeName").is_empty()
        && list(new, "schedulingGates").iter().all(|gate| gates.contains(gate));
    let grace = old["terminationGracePeriodSeconds"].as_i64().unwrap_or(0) < 0
        && new["terminationGracePeriodSeconds"] == 1;
    let fields = [
        ("activeDeadlineSeconds", true),
        ("tolerations", kept),
        ("schedulingGates", opened),
        ("terminationGracePeriodSeconds", grace),
    ];
    for (field, _) in fields.iter().filter(|(_, free)| *free) {
        crate::object::copy(&mut masked, old, field);
    }
    if masked != *old {
        let changed = changed_fields(&masked, old);
        errors.forbidden(path, &format!("{UPDATE}\nchanged: {}", changed.join(", ")));
    }
}

fn deadline(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    let path = path.child("activeDeadlineSeconds");
    let value = &new["activeDeadlineSeconds"];
    let Some(before) = old["activeDeadlineSeconds"].as_i64() else { return };
    match value.as_i64() {
        None => errors.invalid(&path, value, "must not be unset"),
        Some(after) if after > before => {
            errors.invalid(&path, value, "must be less than or equal to previous value");
        }
        Some(_) => {}
    }
}

pub(super) fn changed_fields(new: &Value, old: &Value) -> Vec<String> {
    let keys =
        |value: &Value| value.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect();
    let mut all: Vec<String> = keys(new);
    let before: Vec<String> = keys(old);
    all.extend(before);
    all.sort();
    all.dedup();
    all.retain(|key| new.get(key) != old.get(key));
    all.iter().map(|key| format!("spec.{key}")).collect()
}
