//! What a resource quota holds its namespace to: which objects it covers, and what each is charged.
//!
//! Guarantees: an object's charge follows from the object alone, and for a pod that is lost from
//! the time; the sum of the charges of what a quota covers is what is used of it. Events are never
//! charged: whoever reports trouble must not be silenced by it.

mod charge;
mod scope;

use serde_json::Value;

use crate::amounts::{self, Amounts};
use crate::object;
use crate::resource::{RESOURCES, Resource};
use crate::validation::{is_huge_pages, is_native};
use scope::Scope;

pub use charge::{charge, charge_at, is_lost};

const COUNT: &str = "count/";
const REQUESTS: &str = "requests.";
const OF_STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const OF_CLAIMS: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
const OF_SERVICES: [&str; 3] = ["services", "services.loadbalancers", "services.nodeports"];
/// Those that a container must name where a quota is on them.
const MUST_BE_NAMED: [&str; 6] =
    ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
const OF_PODS: [&str; 4] =
    ["ephemeral-storage", "limits.ephemeral-storage", "pods", "requests.ephemeral-storage"];
/// Kinds whose objects are counted under the plural alone, too.
const COUNTED_BY_PLURAL: [&str; 4] =
    ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

/// A quota as it is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    pub name: String,
    /// What there may be at most.
    pub hard: Amounts,
    scopes: Vec<Scope>,
}

impl Quota {
    pub fn of(quota: &Value) -> Self {
        let spec = &quota["spec"];
        Self {
            name: object::name(quota).to_owned(),
            hard: amounts::read(&spec["hard"]),
            scopes: scope::all(spec),
        }
    }

    /// The limits that objects of a kind are charged to.
    pub fn limits_on(&self, resource: &Resource) -> impl Iterator<Item = &str> {
        self.hard.keys().map(String::as_str).filter(|name| is_of(resource, name))
    }

    /// The kinds whose objects are charged to it.
    pub fn kinds(&self) -> impl Iterator<Item = &'static Resource> {
        let mut charged: Vec<_> = RESOURCES.iter().filter(|kind| is_charged(kind)).collect();
        charged.retain(|kind| self.limits_on(kind).next().is_some());
        charged.into_iter()
    }

    /// Whether an object is charged to it.
    pub fn covers(&self, resource: &Resource, object: &Value) -> bool {
        self.limits_on(resource).next().is_some()
            && self.scopes.iter().all(|scope| scope.has(resource, object))
    }

    /// What the containers of a pod leave out and must say, in words.
    pub fn missing(&self, resource: &Resource, pod: &Value) -> Option<String> {
        if !resource.is("", "pods") {
            return None;
        }
        let spec = &pod["spec"];
        let lists = [&spec["containers"], &spec["initContainers"]];
        let containers = || lists.into_iter().filter_map(Value::as_array).flatten();
        let said = |owner: &Value, name: &str| {
            let (field, resource) = match name.strip_prefix("limits.") {
                Some(resource) => ("limits", resource),
                None => ("requests", name.strip_prefix(REQUESTS).unwrap_or(name)),
            };
            !owner["resources"][field][resource].is_null()
        };
        let mut missing = Vec::new();
        let named = |name: &&&str| self.hard.contains_key(**name) && !said(spec, name);
        for name in MUST_BE_NAMED.iter().filter(named) {
            let silent = containers().filter(|container| !said(container, name));
            let mut silent: Vec<&str> =
                silent.map(|container| container["name"].as_str().unwrap_or_default()).collect();
            silent.sort_unstable();
            silent.dedup();
            if !silent.is_empty() {
                missing.push(format!("{name} for: {}", silent.join(",")));
            }
        }
        (!missing.is_empty()).then(|| format!("must specify {}", missing.join("; ")))
    }
}

/// Whether objects of a kind can be charged.
pub fn is_charged(resource: &Resource) -> bool {
    resource.is_storage() && resource.namespaced && resource.plural != "events"
}

/// Whether a change of an object can change its charge in a way that a quota must allow: a pod's by
/// a resize.
pub fn is_charged_again(resource: &Resource) -> bool {
    ["pods", "services", "persistentvolumeclaims"].iter().any(|plural| resource.is("", plural))
}

/// Whether objects of a kind are charged to a limit of this name.
pub fn is_of(resource: &Resource, name: &str) -> bool {
    if let Some(counted) = name.strip_prefix(COUNT) {
        return is_called(resource, counted);
    }
    if !resource.group.is_empty() {
        return false;
    }
    match resource.plural {
        "pods" => {
            MUST_BE_NAMED.contains(&name)
                || OF_PODS.contains(&name)
                || is_huge_pages(name.strip_prefix(REQUESTS).unwrap_or(name))
                || (!is_native(name) && name.starts_with(REQUESTS))
        }
        "services" => OF_SERVICES.contains(&name),
        "persistentvolumeclaims" => {
            let name = name.split_once(OF_STORAGE_CLASS).map_or(name, |(_, of)| of);
            OF_CLAIMS.contains(&name)
        }
        plural => plural == name && COUNTED_BY_PLURAL.contains(&name),
    }
}

/// Whether `plural.group`, or in the core group the plural, is the kind.
fn is_called(resource: &Resource, called: &str) -> bool {
    let rest = called.strip_prefix(resource.plural);
    rest.is_some_and(|rest| rest.strip_prefix('.').unwrap_or(rest) == resource.group)
}

#[cfg(test)]
mod tests;
