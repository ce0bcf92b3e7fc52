//! Where a pod wants to run: near which nodes, near which other pods, and how evenly.
//!
//! Does not: say which of it the scheduler reads; admission warns about what it does not.

use std::collections::HashSet;

use serde_json::Value;

use super::containers::{list, text};
use super::metadata::label_selector;
use super::names::{label, qualified_name};
use super::node_selector::{node_selector, node_selector_term};
use super::{Errors, Path};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const HEAVIEST: i64 = 100;
const UNSATISFIABLE: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];
const INCLUSIONS: &[&str] = &["Honor", "Ignore"];
const POSITIVE: &str = "must be greater than zero";

/// Checks the affinity of a pod spec; `of_pod` says that it is no template.
pub(super) fn affinity(errors: &mut Errors, spec: &Value, of_pod: bool, path: &Path) {
    let (affinity, path) = (&spec["affinity"], path.child("affinity"));
    let (nodes, path_of_nodes) = (&affinity["nodeAffinity"], path.child("nodeAffinity"));
    if !nodes[REQUIRED].is_null() {
        node_selector(errors, &nodes[REQUIRED], &path_of_nodes.child(REQUIRED));
    }
    for (index, preferred) in list(nodes, PREFERRED).iter().enumerate() {
        let path = path_of_nodes.child(PREFERRED).index(index);
        weight(errors, preferred, &path);
        let path = path.child("preference");
        node_selector_term(errors, &preferred["preference"], false, &path);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (pods, path) = (&affinity[kind], path.child(kind));
        for (index, one) in list(pods, REQUIRED).iter().enumerate() {
            term(errors, one, of_pod, &path.child(REQUIRED).index(index));
        }
        for (index, preferred) in list(pods, PREFERRED).iter().enumerate() {
            let path = path.child(PREFERRED).index(index);
            weight(errors, preferred, &path);
            let path = path.child("podAffinityTerm");
            term(errors, &preferred["podAffinityTerm"], of_pod, &path);
        }
    }
}

fn weight(errors: &mut Errors, preferred: &Value, path: &Path) {
    let weight = preferred["weight"].as_i64().unwrap_or(0);
    if !(1..=HEAVIEST).contains(&weight) {
        errors.invalid(&path.child("weight"), &Value::from(weight), "must be in the range 1-100");
    }
}

fn term(errors: &mut Errors, term: &Value, of_pod: bool, path: &Path) {
    for field in ["labelSelector", "namespaceSelector"] {
        label_selector(errors, &term[field], &path.child(field));
    }
    for namespace in list(term, "namespaces").iter().filter_map(Value::as_str) {
        errors.complain(&path.child("namespace"), namespace, label(namespace));
    }
    label_keys(errors, term, of_pod, path);
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    errors.complain(&path.child("topologyKey"), key, qualified_name(key));
}

/// Labels whose values are the pod's own. A template's are looked at when pods are made of it.
fn label_keys(errors: &mut Errors, term: &Value, of_pod: bool, path: &Path) {
    let selector = &term["labelSelector"];
    let keys =
        |field: &str| -> Vec<&str> { list(term, field).iter().filter_map(Value::as_str).collect() };
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let (keys, path) = (keys(field), path.child(field));
        if !keys.is_empty() && selector.is_null() {
            errors.forbidden(&path, "must not be specified when labelSelector is not set");
            continue;
        }
        for (index, key) in keys.iter().enumerate() {
            errors.complain(&path.index(index), key, qualified_name(key));
        }
    }
    let mismatching = keys("mismatchLabelKeys");
    let expressions = list(selector, "matchExpressions").iter();
    let selected: HashSet<&str> = expressions.map(|one| text(one, "key")).collect();
    for (index, key) in keys("matchLabelKeys").into_iter().enumerate() {
        let in_selector = selector["matchLabels"].get(key).is_some() || selected.contains(key);
        if of_pod && in_selector {
            let why = "exists in both matchLabelKeys and labelSelector";
            errors.invalid_text(&path.index(index), key, why);
        }
        if mismatching.contains(&key) {
            let why = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.invalid_text(&path.child("matchLabelKeys").index(index), key, why);
        }
    }
}

/// Checks how evenly a pod's copies are to be spread; `of_pod` says that it is no template.
pub(super) fn spread(errors: &mut Errors, spec: &Value, of_pod: bool, path: &Path) {
    let constraints = list(spec, "topologySpreadConstraints");
    for (index, one) in constraints.iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(index);
        let (key, action) = (text(one, "topologyKey"), text(one, "whenUnsatisfiable"));
        let skew = one["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.invalid(&path.child("maxSkew"), &Value::from(skew), POSITIVE);
        }
        if key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        if !UNSATISFIABLE.contains(&action) {
            let path = path.child("whenUnsatisfiable");
            errors.unsupported(&path, &Value::from(action), UNSATISFIABLE);
        }
        let same = |other: &Value| {
            text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action
        };
        if constraints[index + 1..].iter().any(same) {
            let shown = format!("{{{key}, {action}}}");
            let path = path.child("{topologyKey, whenUnsatisfiable}");
            errors.duplicate(&path, &Value::from(shown));
        }
        domains(errors, &one["minDomains"], action, &path.child("minDomains"));
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            errors.one_of(&path.child(field), &one[field], INCLUSIONS);
        }
        label_keys(errors, one, of_pod, &path);
        label_selector(errors, &one["labelSelector"], &path.child("labelSelector"));
    }
}

fn domains(errors: &mut Errors, least: &Value, action: &str, path: &Path) {
    if least.as_i64().is_some_and(|least| least <= 0) {
        errors.invalid(path, least, POSITIVE);
    }
    if !least.is_null() && action != "DoNotSchedule" {
        let why =
            format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
        errors.invalid(path, least, &why);
    }
}
