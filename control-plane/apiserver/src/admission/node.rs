//! Agents write for their own node only, also where the name is in the body and not in the path.

use crate::auth::User;
use crate::objects::Place;
use bowline_api::object;
use bowline_api::resource::Resource;
use bowline_api::status::Status;
use serde_json::Value;

/// The name of a new Node or Lease must be the node's own, and its part of the pod range is not its
/// to choose: what is routed there could be another's.
pub(super) fn check_new(
    user: &User,
    resource: &'static Resource,
    value: &Value,
) -> Result<(), Status> {
    let Some(node) = user.node() else { return Ok(()) };
    let name = object::name(value);
    if !matches!(resource.plural, "nodes" | "leases") {
        return Ok(());
    }
    if resource.plural == "nodes" && pod_ranges(value) != pod_ranges(&Value::Null) {
        let cause = format!("node \"{node}\" is not allowed to choose its pod range");
        return Err(Status::forbidden(resource, name, &cause));
    }
    if name == node {
        return Ok(());
    }
    let what = resource.singular;
    let cause = format!("node \"{node}\" is not allowed to create {what} \"{name}\"");
    Err(Status::forbidden(resource, name, &cause))
}

fn pod_ranges(node: &Value) -> [&Value; 2] {
    [&node["spec"]["podCIDR"], &node["spec"]["podCIDRs"]]
}

/// An agent may not change taints or pod ranges: they are the controllers' word about the node.
pub(super) fn check_update(
    user: &User,
    place: &Place,
    new: &Value,
    old: &Value,
) -> Result<(), Status> {
    let Some(node) = user.node() else { return Ok(()) };
    let taints = |value: &Value| value["spec"]["taints"].as_array().cloned().unwrap_or_default();
    if place.resource.plural != "nodes" {
        return Ok(());
    }
    let what = match (taints(new) == taints(old), pod_ranges(new) == pod_ranges(old)) {
        (true, true) => return Ok(()),
        (false, _) => "taints",
        (true, false) => "its pod range",
    };
    let cause = format!("node \"{node}\" is not allowed to modify {what}");
    Err(Status::forbidden(place.resource, &place.name, &cause))
}
