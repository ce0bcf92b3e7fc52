//! Resource quotas.

use std::collections::BTreeSet;

use serde_json::Value;

use super::containers::{list, text};
use super::metadata::{SUBDOMAIN, metadata};
use super::resource_names::{is_standard_for_quota, is_whole, quota_resource_name};
use super::{Errors, FieldError, Path};
use crate::schema::parse_quantity;

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
/// Those that no object is in at once.
const OPPOSITES: [[&str; 2]; 2] =
    [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
const POD_COMPUTE: &[&str] =
    &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const NOT_APPLICABLE: &str = "unsupported scope applied to resource";

pub(crate) fn resource_quota(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    amounts(&mut errors, &spec["hard"], &path.child("hard"));
    scopes(&mut errors, spec, &path.child("scopes"));
    if !spec["scopeSelector"].is_null() {
        scope_selector(&mut errors, spec, &path.child("scopeSelector").child("matchExpressions"));
    }
    for field in ["hard", "used"] {
        amounts(&mut errors, &new["status"][field], &Path::root("status").child(field));
    }
    if let Some(old) = old {
        let set = |spec: &Value| -> BTreeSet<String> {
            let all = list(spec, "scopes").iter().filter_map(Value::as_str);
            all.map(str::to_owned).collect()
        };
        if set(spec) != set(&old["spec"]) {
            errors.invalid(&path.child("scopes"), &spec["scopes"], "field is immutable");
        }
    }
    errors.into_vec()
}

fn amounts(errors: &mut Errors, amounts: &Value, path: &Path) {
    for (name, amount) in amounts.as_object().into_iter().flatten() {
        let path = path.key(name);
        quota_resource_name(errors, name, &path);
        let Ok(amount) = parse_quantity(amount) else { continue };
        let shown = amount.to_string();
        if amount.is_negative() {
            errors.invalid_text(&path, &shown, "must be greater than or equal to 0");
        }
        if is_whole(name) && !amount.is_whole() {
            errors.invalid_text(&path, &shown, "must be an integer");
        }
    }
}

/// The limited resources that objects of the scope do not have.
fn misplaced<'a>(spec: &'a Value, scope: &str) -> impl Iterator<Item = &'a str> {
    let fits: fn(&str) -> bool = match scope {
        "BestEffort" => |name| name == "pods",
        "VolumeAttributesClass" => {
            |name| matches!(name, "persistentvolumeclaims" | "requests.storage")
        }
        scope if SCOPES.contains(&scope) => |name| name == "pods" || POD_COMPUTE.contains(&name),
        _ => |_| true,
    };
    let hard = spec["hard"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    hard.filter(move |name| is_standard_for_quota(name) && !fits(name))
}

fn opposites(errors: &mut Errors, scopes: &[&str], value: &Value, path: &Path) {
    for pair in OPPOSITES {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.invalid(path, value, "conflicting scopes");
        }
    }
}

fn scopes(errors: &mut Errors, spec: &Value, path: &Path) {
    let value = &spec["scopes"];
    let scopes = list(spec, "scopes").iter().filter_map(Value::as_str);
    let scopes: Vec<&str> = scopes.collect();
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errors.invalid(path, value, "unsupported scope");
        }
        for _ in misplaced(spec, scope) {
            errors.invalid(path, value, NOT_APPLICABLE);
        }
    }
    opposites(errors, &scopes, value, path);
}

fn scope_selector(errors: &mut Errors, spec: &Value, path: &Path) {
    let expressions = list(&spec["scopeSelector"], "matchExpressions");
    for expression in expressions {
        let (scope, operator) = (text(expression, "scopeName"), text(expression, "operator"));
        if !SCOPES.contains(&scope) {
            errors.invalid_text(&path.child("scopeName"), scope, "unsupported scope");
        }
        for _ in misplaced(spec, scope) {
            errors.invalid(path, &spec["scopeSelector"], NOT_APPLICABLE);
        }
        let has_values = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if SCOPES.contains(&scope) && !has_values && operator != "Exists" {
            let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                       ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                       ResourceQuotaScopeNotBestEffort or \
                       ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.invalid_text(&path.child("operator"), operator, why);
        }
        selected_values(errors, expression, path);
    }
    let scopes: Vec<&str> = expressions.iter().map(|one| text(one, "scopeName")).collect();
    opposites(errors, &scopes, &spec["scopes"], path);
}

fn selected_values(errors: &mut Errors, expression: &Value, path: &Path) {
    let none = list(expression, "values").is_empty();
    match text(expression, "operator") {
        "In" | "NotIn" if none => {
            let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope \
                       selector";
            errors.required(&path.child("values"), why);
        }
        "Exists" | "DoesNotExist" if !none => {
            let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope \
                       selector";
            errors.invalid(&path.child("values"), &expression["values"], why);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => {
            errors.invalid_text(&path.child("operator"), other, "not a valid selector operator");
        }
    }
}
