//! What a container asks for and is limited to.
//!
//! Guarantees: what cannot be promised twice (devices, huge pages) is asked for in whole and
//! limited to the same.

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;

use super::containers::{list, text};
use super::names::label;
use super::resource_names::{container_resource_name, is_huge_pages, is_whole, may_overcommit};
use super::{Errors, Path};
use crate::quantity::Quantity;
use crate::schema::parse_quantity;

const RESIZABLE: &[&str] = &["cpu", "memory"];
const RESIZE_POLICIES: &[&str] = &["NotRequired", "RestartContainer"];

/// Checks the name of a resource.
pub(super) type NameRule = fn(&mut Errors, &str, &Path);

/// Checks what a container asks for; `claims` are the names of the pod's resource claims.
pub(super) fn requirements(
    errors: &mut Errors,
    resources: &Value,
    claims: &BTreeSet<&str>,
    path: &Path,
) {
    amounts(errors, resources, container_resource_name, path);
    claim_names(errors, resources, claims, &path.child("claims"));
}

/// Checks requests and limits, each by itself and against the other.
pub(super) fn amounts(errors: &mut Errors, resources: &Value, name_rule: NameRule, path: &Path) {
    let (mut computes, mut has_huge_pages) = (false, false);
    for field in ["limits", "requests"] {
        for (name, amount) in resources[field].as_object().into_iter().flatten() {
            let path_of_amount = path.child(field).key(name);
            name_rule(errors, name, &path_of_amount);
            computes |= RESIZABLE.contains(&name.as_str());
            has_huge_pages |= is_huge_pages(name);
            let Ok(amount) = parse_quantity(amount) else {
                errors.invalid(&path_of_amount, amount, "must be a quantity");
                continue;
            };
            quantity(errors, name, amount, &path_of_amount);
            if field == "requests" {
                request(errors, name, amount, &resources["limits"], path);
            }
            if is_huge_pages(name) && !is_multiple_of_pages(name, amount) {
                let why = format!("{amount} is not positive integer multiple of {name}");
                errors.invalid_text(&path_of_amount, &amount.to_string(), &why);
            }
        }
    }
    if has_huge_pages && !computes {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// Checks an amount of a resource.
pub(super) fn quantity(errors: &mut Errors, name: &str, amount: Quantity, path: &Path) {
    let shown = amount.to_string();
    if amount.is_negative() {
        errors.invalid_text(path, &shown, "must be greater than or equal to 0");
    }
    if is_whole(name) && !amount.is_whole() {
        errors.invalid_text(path, &shown, "must be an integer");
    }
}

fn request(errors: &mut Errors, name: &str, amount: Quantity, limits: &Value, path: &Path) {
    let limit = limits.get(name).and_then(|limit| parse_quantity(limit).ok());
    let shown = amount.to_string();
    match limit {
        Some(limit) if amount != limit && !may_overcommit(name) => {
            let why = format!("must be equal to {name} limit of {limit}");
            errors.invalid_text(&path.child("requests"), &shown, &why);
        }
        Some(limit) if amount > limit => {
            let why = format!("must be less than or equal to {name} limit of {limit}");
            errors.invalid_text(&path.child("requests"), &shown, &why);
        }
        None if !may_overcommit(name) => {
            let why = "Limit must be set for non overcommitable resources";
            errors.required(&path.child("limits"), why);
        }
        _ => {}
    }
}

fn is_multiple_of_pages(name: &str, amount: Quantity) -> bool {
    let size = name.strip_prefix("hugepages-").and_then(|size| size.parse::<Quantity>().ok());
    size.is_some_and(|size| {
        size.units() > 0 && size.is_whole() && amount.units() % size.units() == 0
    })
}

fn claim_names(errors: &mut Errors, resources: &Value, known: &BTreeSet<&str>, path: &Path) {
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    for (index, claim) in list(resources, "claims").iter().enumerate() {
        let path = path.index(index);
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            errors.required(&path, "");
            continue;
        }
        if !request.is_empty() {
            errors.complain(&path.child("request"), request, label(request));
        }
        // A claim without a request is all of its requests.
        let overlaps = if request.is_empty() {
            seen.iter().any(|(other, _)| *other == name)
        } else {
            seen.contains(&(name, "")) || seen.contains(&(name, request))
        };
        if overlaps {
            let whole = request.is_empty() || seen.contains(&(name, ""));
            let shown = if whole { name.to_owned() } else { format!("{name}/{request}") };
            errors.duplicate(&path, &Value::from(shown));
        }
        seen.insert((name, request));
        if !known.contains(name) {
            let mut why = "must be one of the names in pod.spec.resourceClaims".to_owned();
            if known.is_empty() {
                why.push_str(" which is empty");
            } else {
                let names: Vec<&str> = known.iter().copied().collect();
                why.push_str(": ");
                why.push_str(&names.join(", "));
            }
            errors.not_found_among(&path, name, &why);
        }
    }
}

/// Checks what happens to a container of the pod `spec` whose resources change.
pub(super) fn resize_policy(errors: &mut Errors, container: &Value, spec: &Value, path: &Path) {
    let path = path.child("resizePolicy");
    let mut seen = HashSet::new();
    for (index, policy) in list(container, "resizePolicy").iter().enumerate() {
        let name = text(policy, "resourceName");
        if !seen.insert(name) {
            errors.duplicate(&path.index(index), &Value::from(name));
        }
        errors.required_one_of(&path, &policy["resourceName"], RESIZABLE);
        errors.required_one_of(&path, &policy["restartPolicy"], RESIZE_POLICIES);
        if spec["restartPolicy"] == "Never" && policy["restartPolicy"] != "NotRequired" {
            let why = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid_text(&path, text(policy, "restartPolicy"), why);
        }
    }
}
