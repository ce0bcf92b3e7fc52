//! What the subresources of a pod may change: its ephemeral containers, and its resources.
//!
//! Guarantees: a pod that comes out of such a write is in order as a whole.
//! Does not: look at what else differs from the old pod; [`crate::pod_parts`] has dropped that.

use serde_json::{Map, Value};

use super::containers::{is_sidecar, list, text};
use super::equality::same;
use super::metadata::{SUBDOMAIN, metadata};
use super::{Errors, FieldError, Path, pod, pod_annotations};
use crate::defaults::quality_of_service;

/// What an agent puts on the pods that it runs from files of its own.
const MIRROR: &str = "kubernetes.io/config.mirror";
const COMPUTE: [&str; 2] = ["cpu", "memory"];
const ONLY_COMPUTE: &str = "only cpu and memory resources are mutable";

pub(crate) fn ephemeral_containers(new: &Value, old: &Value) -> Vec<FieldError> {
    if is_mirror(old) {
        return refuse_whole("static pods do not support ephemeral containers");
    }
    let mut errors = whole(new, old);
    let path = Path::root("spec").child("ephemeralContainers");
    for before in list(&old["spec"], "ephemeralContainers") {
        let name = text(before, "name");
        let mut now = list(&new["spec"], "ephemeralContainers").iter();
        match now.find(|one| text(one, "name") == name) {
            None => {
                let why = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.forbidden(&path, &why);
            }
            Some(now) if !same(now, before) => {
                let why = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.forbidden(&path, &why);
            }
            Some(_) => {}
        }
    }
    errors.into_vec()
}

pub(crate) fn resize(new: &Value, old: &Value) -> Vec<FieldError> {
    if is_mirror(old) {
        return refuse_whole("static pods cannot be resized");
    }
    if old["spec"]["os"]["name"] == "windows" {
        return refuse_whole("windows pods cannot be resized");
    }
    let mut errors = whole(new, old);
    let (path, spec, before) = (Path::root("spec"), &new["spec"], &old["spec"]);
    if class(old, true) != class(new, false) {
        let why = "Pod QOS Class may not change as a result of resizing";
        errors.invalid(&path, &Value::from(class(old, true)), why);
    }
    if !node_resizes(old) {
        errors.forbidden(&path, "Pod running on node without support for resize");
    }
    of_pod(&mut errors, spec, before, &path);
    if !same_containers(&mut errors, spec, before, &path) {
        return errors.into_vec();
    }
    for field in ["initContainers", "containers"] {
        let pairs = list(spec, field).iter().zip(list(before, field));
        for (index, (now, before)) in pairs.enumerate() {
            let path = path.child(field).index(index).child("resources");
            kept(&mut errors, (&now["resources"], &before["resources"]), &path, "resource");
        }
    }
    for (now, before) in list(spec, "containers").iter().zip(list(before, "containers")) {
        if differs(now, before) {
            errors.forbidden(&path, ONLY_COMPUTE);
        }
    }
    let pairs = list(spec, "initContainers").iter().zip(list(before, "initContainers"));
    for (index, (now, before)) in pairs.enumerate() {
        initial(&mut errors, now, before, &path.child("initContainers").index(index));
    }
    errors.into_vec()
}

fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR].is_null()
}

fn refuse_whole(why: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    errors.forbidden(&Path::root(""), why);
    errors.into_vec()
}

/// The pod as it would be, without what an ordinary update may not change.
fn whole(new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::default();
    metadata(&mut errors, new, Some(old), true, SUBDOMAIN);
    pod_annotations::annotations(&mut errors, new, &Path::root("metadata"));
    if new["spec"] != old["spec"] {
        pod::whole(&mut errors, new, &Path::root("spec"));
    }
    errors
}

/// The quality of service that a pod has, as it says if it is asked for what is `said`.
fn class(pod: &Value, said: bool) -> &str {
    match pod["status"]["qosClass"].as_str() {
        Some(class) if said && !class.is_empty() => class,
        _ => quality_of_service(pod["spec"].as_object().unwrap_or(&Map::new())),
    }
}

/// Whether the node says what running containers have, as it does if it can change that.
fn node_resizes(pod: &Value) -> bool {
    if pod["status"]["phase"] != "Running" {
        return true;
    }
    let mut statuses = list(&pod["status"], "containerStatuses").iter();
    let running = statuses.find(|status| !status["state"]["running"].is_null());
    running.is_none_or(|status| !status["resources"].is_null())
}

/// The resources that the containers share.
fn of_pod(errors: &mut Errors, spec: &Value, before: &Value, path: &Path) {
    let (now, old) = (&spec["resources"], &before["resources"]);
    let path_of_resources = path.child("resources");
    if now.is_null() && old.is_null() {
        return;
    }
    if now.is_null() {
        return errors.forbidden(&path_of_resources, "pod-level resources cannot be removed");
    }
    kept(errors, (now, old), &path_of_resources, "pod-level resource");
    if !same(&masked(now), &masked(old)) {
        errors.forbidden(path, &format!("{ONLY_COMPUTE} at pod-level"));
    }
}

/// Whether the containers are those of before, in their order.
fn same_containers(errors: &mut Errors, spec: &Value, before: &Value, path: &Path) -> bool {
    let known = errors.len();
    for field in ["containers", "initContainers"] {
        let (now, before, path) = (list(spec, field), list(before, field), path.child(field));
        if now.len() != before.len() {
            errors.forbidden(&path, &format!("{field} may not be added or removed on resize"));
            continue;
        }
        for (index, (now, before)) in now.iter().zip(before).enumerate() {
            if text(now, "name") != text(before, "name") {
                let why = format!("{field} may not be renamed or reordered on resize");
                errors.forbidden(&path.index(index).child("name"), &why);
            }
        }
    }
    errors.len() == known
}

/// What was asked for once must go on to be asked for, in whatever amount.
fn kept(errors: &mut Errors, (now, before): (&Value, &Value), path: &Path, what: &str) {
    for field in ["requests", "limits"] {
        let mut names = before[field].as_object().into_iter().flat_map(Map::keys);
        if names.any(|name| now[field].get(name).is_none()) {
            errors.forbidden(&path.child(field), &format!("{what} {field} cannot be removed"));
        }
    }
}

fn initial(errors: &mut Errors, now: &Value, before: &Value, path: &Path) {
    if differs(now, before) {
        let why = "only cpu and memory resources for init or sidecar containers are mutable";
        errors.forbidden(path, why);
    }
    let mut policies = list(now, "resizePolicy").iter();
    let restarts = policies.any(|policy| policy["restartPolicy"] == "RestartContainer");
    if restarts && !is_sidecar(now) && !same(now, before) {
        let why = "non-sidecar init containers with a resize policy of RestartContainer cannot be \
                   resized";
        errors.forbidden(path, why);
    }
}

/// Whether two containers differ in more than how much CPU and memory they have.
fn differs(now: &Value, before: &Value) -> bool {
    let without = |container: &Value| {
        let mut container = container.clone();
        let resources = masked(&container["resources"]);
        if let Some(map) = container.as_object_mut() {
            map.insert("resources".to_owned(), resources);
        }
        container
    };
    !same(&without(now), &without(before))
}

/// Resources without what a resize may change.
fn masked(resources: &Value) -> Value {
    let mut resources = resources.as_object().cloned().unwrap_or_default();
    for field in ["requests", "limits"] {
        let Some(Value::Object(amounts)) = resources.get_mut(field) else { continue };
        amounts.retain(|name, _| !COMPUTE.contains(&name.as_str()));
        if amounts.is_empty() {
            resources.remove(field);
        }
    }
    Value::Object(resources)
}
