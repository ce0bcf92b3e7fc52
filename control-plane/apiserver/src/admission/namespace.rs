//! Namespaces: objects live in one that exists and is not on its way out.

use crate::objects::Place;
use crate::watch::Caches;
use bowline_api::NODE_LEASES;
use bowline_api::object;
use bowline_api::resource::find;
use bowline_api::status::Status;
use serde_json::{Value, json};

/// Made at the start of every server.
pub(crate) const SYSTEM_NAMESPACES: [&str; 4] =
    ["default", "kube-system", "kube-public", NODE_LEASES];
/// Cannot be deleted.
const PROTECTED: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn check_target(caches: &Caches, place: &Place, value: &Value) -> Result<(), Status> {
    if !place.resource.namespaced {
        return Ok(());
    }
    let Some(namespaces) = find("", "v1", "namespaces") else { return Ok(()) };
    let name = &place.namespace;
    let Some(namespace) = caches.of(namespaces).get(name) else {
        return Err(Status::not_found(namespaces, name));
    };
    if object::deletion_timestamp(&namespace.value).is_none() {
        return Ok(());
    }
    let cause =
        format!("unable to create new content in namespace {name} because it is being terminated");
    let mut status = Status::forbidden(place.resource, object::name(value), &cause);
    status.details["causes"] = json!([{
        "reason": "NamespaceTerminating",
        "message": format!("namespace {name} is being terminated"),
        "field": "metadata.namespace",
    }]);
    Err(status)
}

/// What every namespace has from its first moment on.
pub(super) fn fill(value: &mut Value) {
    let name = Value::from(object::name(value));
    value["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    let finalizers = &mut value["spec"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|finalizer| finalizer == "kubernetes") => {}
        Some(list) => list.push(json!("kubernetes")),
        None => *finalizers = json!(["kubernetes"]),
    }
    value["status"] = json!({ "phase": "Active" });
}

pub(super) fn check_delete(place: &Place) -> Result<(), Status> {
    let protected = place.resource.plural == "namespaces" && PROTECTED.contains(&&*place.name);
    if protected {
        let cause = "this namespace may not be deleted";
        return Err(Status::forbidden(place.resource, &place.name, cause));
    }
    Ok(())
}
