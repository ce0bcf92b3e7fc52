//! Selectors of nodes by their labels and their name.

use serde_json::Value;

use super::containers::{list, text};
use super::names::{label_value, qualified_name, subdomain};
use super::{Errors, Path};

/// Checks a `v1.NodeSelector`.
pub(super) fn node_selector(errors: &mut Errors, selector: &Value, path: &Path) {
    let terms = list(selector, "nodeSelectorTerms");
    let path = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        node_selector_term(errors, term, true, &path.index(index));
    }
}

/// Checks one of the terms. What is only preferred may ask for values that no label can have: such
/// terms have always been let in.
pub(super) fn node_selector_term(errors: &mut Errors, term: &Value, strict: bool, path: &Path) {
    for (index, one) in list(term, "matchExpressions").iter().enumerate() {
        by_label(errors, one, strict, &path.child("matchExpressions").index(index));
    }
    for (index, one) in list(term, "matchFields").iter().enumerate() {
        by_field(errors, one, &path.child("matchFields").index(index));
    }
}

fn values(one: &Value) -> impl Iterator<Item = (usize, &str)> {
    list(one, "values").iter().filter_map(Value::as_str).enumerate()
}

fn by_label(errors: &mut Errors, one: &Value, strict: bool, path: &Path) {
    let (count, path_of_values) = (list(one, "values").len(), path.child("values"));
    match text(one, "operator") {
        "In" | "NotIn" if count == 0 => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.required(&path_of_values, why);
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&path_of_values, why);
        }
        "Gt" | "Lt" if count != 1 => {
            let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.required(&path_of_values, why);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => {
            errors.invalid_text(&path.child("operator"), other, "not a valid selector operator");
        }
    }
    let key = text(one, "key");
    errors.complain(&path.child("key"), key, qualified_name(key));
    for (index, value) in values(one).filter(|_| strict) {
        errors.complain(&path_of_values.index(index), value, label_value(value));
    }
}

fn by_field(errors: &mut Errors, one: &Value, path: &Path) {
    let path_of_values = path.child("values");
    match text(one, "operator") {
        "In" | "NotIn" if list(one, "values").len() != 1 => {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field \
                       selector";
            errors.required(&path_of_values, why);
        }
        "In" | "NotIn" => {}
        other => {
            errors.invalid_text(&path.child("operator"), other, "not a valid selector operator");
        }
    }
    let key = text(one, "key");
    if key != "metadata.name" {
        errors.invalid_text(&path.child("key"), key, "not a valid field selector key");
        return;
    }
    for (index, value) in values(one) {
        errors.complain(&path_of_values.index(index), value, subdomain(value));
    }
}
