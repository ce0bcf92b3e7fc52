//! Namespaces, nodes, config maps, secrets, accounts and leases.

use std::collections::HashSet;

use serde_json::Value;

use super::containers::{list, text};
use super::metadata::{SUBDOMAIN, metadata};
use super::names::{config_key, label, label_value, qualified_name};
use super::pod::TAINT_EFFECTS;
use super::{Errors, FieldError, Path};
use crate::cidr::Cidr;
use crate::quantity::Quantity;
use crate::schema::parse_quantity;

/// All data of a config map or secret together.
const DATA_SIZE: usize = 1024 * 1024;

pub(crate) fn namespace(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, label);
    errors.into_vec()
}

pub(crate) fn service_account(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    errors.into_vec()
}

pub(crate) fn node(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    taints(&mut errors, spec, &path);
    pod_ranges(&mut errors, spec, old.map(|old| &old["spec"]), &path);
    for field in ["capacity", "allocatable"] {
        for (name, amount) in new["status"][field].as_object().into_iter().flatten() {
            let path = Path::root("status").child(field).key(name);
            if parse_quantity(amount).is_ok_and(Quantity::is_negative) {
                errors.invalid(&path, amount, "must be greater than or equal to 0");
            }
        }
    }
    errors.into_vec()
}

fn taints(errors: &mut Errors, spec: &Value, path: &Path) {
    let mut seen = HashSet::new();
    for (index, taint) in list(spec, "taints").iter().enumerate() {
        let path = path.child("taints").index(index);
        let (key, effect) = (text(taint, "key"), text(taint, "effect"));
        errors.complain(&path.child("key"), key, qualified_name(key));
        let value = text(taint, "value");
        errors.complain(&path.child("value"), value, label_value(value));
        if effect.is_empty() {
            errors.required(&path.child("effect"), "");
        } else {
            errors.one_of(&path.child("effect"), &taint["effect"], TAINT_EFFECTS);
        }
        if !seen.insert((key, effect)) {
            errors.duplicate(&path, taint);
        }
    }
}

fn pod_ranges(errors: &mut Errors, spec: &Value, old: Option<&Value>, path: &Path) {
    let path = path.child("podCIDRs");
    for (index, range) in list(spec, "podCIDRs").iter().filter_map(Value::as_str).enumerate() {
        if range.parse::<Cidr>().is_err() {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.invalid_text(&path.index(index), range, why);
        }
    }
    let first = list(spec, "podCIDRs").first().and_then(Value::as_str).unwrap_or_default();
    if !first.is_empty() && first != text(spec, "podCIDR") {
        errors.invalid(&path.index(0), &spec["podCIDRs"][0], "must match `podCIDR`");
    }
    let Some(old) = old else { return };
    if !text(old, "podCIDR").is_empty() && old["podCIDR"] != spec["podCIDR"] {
        let why = "node updates may not change podCIDR except from \"\" to valid";
        errors.forbidden(&path, why);
    }
    if !text(old, "providerID").is_empty() && old["providerID"] != spec["providerID"] {
        let why = "node updates may not change providerID except from \"\" to valid";
        errors.forbidden(&Path::root("spec").child("providerID"), why);
    }
}

pub(crate) fn config_map(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    data_keys(&mut errors, new, "data");
    data_keys(&mut errors, new, "binaryData");
    for (key, _) in new["binaryData"].as_object().into_iter().flatten() {
        if new["data"].get(key).is_some() {
            let why = "duplicate of key present in data";
            errors.invalid_text(&Path::root("binaryData").key(key), key, why);
        }
    }
    data_size(&mut errors, new, &["data", "binaryData"]);
    immutable_data(&mut errors, new, old, &["data", "binaryData"]);
    errors.into_vec()
}

pub(crate) fn secret(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    data_keys(&mut errors, new, "data");
    data_size(&mut errors, new, &["data"]);
    let required: &[&str] = match text(new, "type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in required.iter().filter(|key| new["data"].get(**key).is_none()) {
        errors.required(&Path::root("data").key(key), "");
    }
    if let Some(old) = old {
        errors.immutable(&Path::root("type"), &new["type"], &old["type"]);
    }
    immutable_data(&mut errors, new, old, &["data"]);
    errors.into_vec()
}

fn data_keys(errors: &mut Errors, object: &Value, field: &str) {
    for (key, _) in object[field].as_object().into_iter().flatten() {
        errors.complain(&Path::root(field).key(key), key, config_key(key));
    }
}

fn data_size(errors: &mut Errors, object: &Value, fields: &[&str]) {
    let values = fields.iter().filter_map(|field| object[*field].as_object()).flatten();
    let size: usize = values.map(|(_, value)| value.as_str().map_or(0, str::len)).sum();
    if size > DATA_SIZE {
        errors.too_long(&Path::root("data"), DATA_SIZE);
    }
}

fn immutable_data(errors: &mut Errors, new: &Value, old: Option<&Value>, fields: &[&str]) {
    let Some(old) = old.filter(|old| old["immutable"] == true) else { return };
    let why = "field is immutable when `immutable` is set";
    for field in fields.iter().chain(&["immutable"]) {
        if new[*field] != old[*field] {
            errors.forbidden(&Path::root(field), why);
        }
    }
}

pub(crate) fn lease(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    let duration = &spec["leaseDurationSeconds"];
    if duration.as_i64().is_some_and(|seconds| seconds <= 0) {
        errors.invalid(&path.child("leaseDurationSeconds"), duration, "must be greater than 0");
    }
    errors.non_negative(&path.child("leaseTransitions"), &spec["leaseTransitions"]);
    errors.into_vec()
}
