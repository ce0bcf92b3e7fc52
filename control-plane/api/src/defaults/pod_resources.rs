//! What a pod as a whole asks for where it says only a part of it, and the class that makes it.

use serde_json::{Map, Value, json};

use super::{child, default};
use crate::quantity::Quantity;
use crate::schema::parse_quantity;
use crate::validation::{aggregate, is_of_pods};

fn is_compute(name: &str) -> bool {
    matches!(name, "cpu" | "memory")
}

fn amounts<'a>(resources: &'a Map<String, Value>, field: &str) -> Option<&'a Map<String, Value>> {
    resources.get(field).and_then(Value::as_object).filter(|amounts| !amounts.is_empty())
}

/// Fills in the resources of a pod that has some of its own. Its containers' are filled in already.
pub(super) fn pod_resources(spec: &mut Map<String, Value>) {
    if !spec.get("resources").is_some_and(Value::is_object) {
        return;
    }
    let whole = Value::Object(spec.clone());
    let of_containers = |field: &str| -> Vec<(String, Value)> {
        let show =
            |(name, amount): (&str, Quantity)| (name.to_owned(), Value::from(amount.to_string()));
        aggregate(&whole, field).into_iter().map(show).collect()
    };
    let Some(resources) = child(spec, "resources") else { return };
    if amounts(resources, "limits").or(amounts(resources, "requests")).is_some() {
        let mut huge = of_containers("limits");
        let asked = amounts(resources, "requests").cloned().unwrap_or_default();
        huge.retain(|(name, _)| is_of_pods(name) && !is_compute(name) && !asked.contains_key(name));
        fill(resources, "limits", huge);
    }
    if let Some(limits) = amounts(resources, "limits").cloned() {
        let mut shared = of_containers("requests");
        shared.retain(|(name, _)| is_compute(name));
        fill(resources, "requests", shared);
        fill(resources, "requests", limits.into_iter().filter(|(name, _)| is_of_pods(name)));
    } else if amounts(resources, "requests").is_some() {
        let mut shared = of_containers("limits");
        shared.retain(|(name, _)| is_compute(name) && all_limit(&whole, name));
        fill(resources, "limits", shared);
    }
}

fn fill(
    resources: &mut Map<String, Value>,
    field: &str,
    amounts: impl IntoIterator<Item = (String, Value)>,
) {
    for (name, amount) in amounts {
        default(resources, field, json!({}));
        if let Some(held) = child(resources, field) {
            default(held, &name, amount);
        }
    }
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["containers", "initContainers"].into_iter();
    lists.filter_map(|list| spec[list].as_array()).flatten()
}

fn all_limit(spec: &Value, name: &str) -> bool {
    containers(spec).all(|container| container["resources"]["limits"].get(name).is_some())
}

/// `Guaranteed` when every container's CPU and memory limits equal its requests, `BestEffort` when
/// none asks for either, else `Burstable`. What the pod as a whole has counts before its
/// containers.
pub(crate) fn quality_of_service(spec: &Map<String, Value>) -> &'static str {
    let whole = spec.get("resources").and_then(Value::as_object).filter(|resources| {
        amounts(resources, "limits").or(amounts(resources, "requests")).is_some()
    });
    let lists = ["containers", "initContainers"].into_iter().filter_map(|list| spec.get(list));
    let holders: Vec<&Value> = match whole {
        Some(_) => spec.get("resources").into_iter().collect(),
        None => lists
            .filter_map(Value::as_array)
            .flatten()
            .map(|container| &container["resources"])
            .collect(),
    };
    let (mut best_effort, mut guaranteed) = (true, true);
    for resources in holders {
        for resource in ["cpu", "memory"] {
            let amount = |field: &str| {
                let value = resources[field].get(resource)?;
                parse_quantity(value).ok().filter(|amount| !amount.is_zero())
            };
            let (request, limit) = (amount("requests"), amount("limits"));
            best_effort &= request.is_none() && limit.is_none();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (best_effort, guaranteed) {
        (true, _) => "BestEffort",
        (_, true) => "Guaranteed",
        _ => "Burstable",
    }
}
