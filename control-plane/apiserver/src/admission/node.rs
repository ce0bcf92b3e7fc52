//! Agents write for their own node only, also where the name is in the body and not in the path.

use crate::auth::User;
use crate::objects::Place;
use bowline_api::object;
use bowline_api::resource::Resource;
use bowline_api::status::Status;
use serde_json::Value;

/// The name of a new Node or Lease must be the node's own.
pub(super) fn check_name(
    user: &User,
    resource: &'static Resource,
    value: &Value,
) -> Result<(), Status> {
    let Some(node) = user.node() else { return Ok(()) };
    let name = object::name(value);
    if !matches!(resource.plural, "nodes" | "leases") || name == node {
        return Ok(());
    }
    let what = resource.singular;
    let cause = format!("node \"{node}\" is not allowed to create {what} \"{name}\"");
    Err(Status::forbidden(resource, name, &cause))
}

/// An agent may not take away or add taints: they are the controllers' word about the node.
pub(super) fn check_update(
    user: &User,
    place: &Place,
    new: &Value,
    old: &Value,
) -> Result<(), Status> {
    let Some(node) = user.node() else { return Ok(()) };
    let taints = |value: &Value| value["spec"]["taints"].as_array().cloned().unwrap_or_default();
    if place.resource.plural != "nodes" || taints(new) == taints(old) {
        return Ok(());
    }
    let cause = format!("node \"{node}\" is not allowed to modify taints");
    Err(Status::forbidden(place.resource, &place.name, &cause))
}
