//! What an object is charged.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::{COUNT, COUNTED_BY_PLURAL, OF_STORAGE_CLASS, REQUESTS};
use crate::amounts::{self, Amounts};
use crate::object::{self, STORAGE_CLASS_ANNOTATION};
use crate::quantity::Quantity;
use crate::resource::Resource;
use crate::schema::parse_quantity;
use crate::validation::{is_extended, is_huge_pages};

const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// What an object is charged, whatever the time.
pub fn charge(resource: &Resource, object: &Value) -> Amounts {
    charged(resource, object, false)
}

/// What an object is charged now.
pub fn charge_at(resource: &Resource, object: &Value, now: Timestamp) -> Amounts {
    charged(resource, object, is_lost(resource, object, now))
}

/// Whether it is a pod that should have been gone for as long as it was given to stop.
pub fn is_lost(resource: &Resource, object: &Value, now: Timestamp) -> bool {
    let due = object::deletion_timestamp(object).and_then(|at| at.parse::<Timestamp>().ok());
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_u64();
    let (Some(due), Some(grace)) = (due, grace) else { return false };
    resource.is("", "pods")
        && due.checked_add(Duration::from_secs(grace)).is_ok_and(|late| now > late)
}

fn charged(resource: &Resource, object: &Value, lost: bool) -> Amounts {
    let mut charge = Amounts::new();
    charge.insert(format!("{COUNT}{}", resource.qualified()), whole(1));
    if !resource.group.is_empty() {
        return charge;
    }
    match resource.plural {
        "pods" if lost || has_ended(object) => {}
        "pods" => pod(&mut charge, object),
        "services" => service(&mut charge, object),
        "persistentvolumeclaims" => claim(&mut charge, object),
        plural if COUNTED_BY_PLURAL.contains(&plural) => {
            charge.insert(plural.to_owned(), whole(1));
        }
        _ => {}
    }
    charge
}

fn whole(count: usize) -> Quantity {
    Quantity::from(count)
}

fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn pod(charge: &mut Amounts, pod: &Value) {
    let spec = &pod["spec"];
    let overhead = amounts::read(&spec["overhead"]);
    let mut requests = amounts::of_pod(spec, "requests");
    amounts::add(&mut requests, &overhead);
    let mut limits = amounts::of_pod(spec, "limits");
    for (name, limit) in &mut limits {
        if let Some(more) = overhead.get(name).filter(|_| !limit.is_zero()) {
            *limit = *limit + *more;
        }
    }
    charge.insert("pods".to_owned(), whole(1));
    for (name, request) in requests {
        let is_compute = COMPUTE.contains(&name.as_str());
        if is_compute || is_huge_pages(&name) || is_extended(&name) {
            charge.insert(format!("{REQUESTS}{name}"), request);
        }
        if is_compute || is_huge_pages(&name) {
            charge.insert(name, request);
        }
    }
    let compute = limits.into_iter().filter(|(name, _)| COMPUTE.contains(&name.as_str()));
    charge.extend(compute.map(|(name, limit)| (format!("limits.{name}"), limit)));
}

/// Node ports are charged by what is asked for, before they are given.
fn service(charge: &mut Amounts, service: &Value) {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let said = ports.iter().filter(|port| port["nodePort"].as_i64().is_some_and(|one| one != 0));
    let balanced = spec["type"] == "LoadBalancer";
    let node_ports = match spec["type"].as_str() {
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => said.count(),
        Some("NodePort" | "LoadBalancer") => ports.len(),
        _ => 0,
    };
    let counts = [
        ("services", 1),
        ("services.nodeports", node_ports),
        ("services.loadbalancers", usize::from(balanced)),
    ];
    charge.extend(counts.map(|(name, count)| (name.to_owned(), whole(count))));
}

fn claim(charge: &mut Amounts, claim: &Value) {
    let named = object::annotations(claim).and_then(|all| all.get(STORAGE_CLASS_ANNOTATION));
    let class = named.unwrap_or(&claim["spec"]["storageClassName"]).as_str().unwrap_or_default();
    let mut add = |name: &str, amount: Quantity| {
        if !class.is_empty() {
            charge.insert(format!("{class}{OF_STORAGE_CLASS}{name}"), amount);
        }
        charge.insert(name.to_owned(), amount);
    };
    add("persistentvolumeclaims", whole(1));
    let Ok(asked) = parse_quantity(&claim["spec"]["resources"]["requests"]["storage"]) else {
        return;
    };
    let given = parse_quantity(&claim["status"]["allocatedResources"]["storage"]);
    add("requests.storage", given.unwrap_or(asked).max(asked).rounded_up());
}
