//! Pods, and the pod specs inside templates.
//!
//! Guarantees: problems come in the order in which Kubernetes looks at the fields.
//! Does not: know other objects, so it does not say whether what a pod names is there.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Value, json};

use super::affinity::{affinity, spread};
use super::containers::{Surroundings, containers, image_of_pod, list, text};
use super::metadata::{SUBDOMAIN, labels, metadata};
use super::names::qualified_name;
use super::pod_resources::{pod_resources, resource_claims};
use super::tolerations::tolerations;
use super::volumes::volumes;
use super::{
    Errors, FieldError, Path, environment, pod_annotations, pod_names, pod_update, requirements,
    security, windows,
};

const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const PREEMPTION_POLICIES: &[&str] = &["PreemptLowerPriority", "Never"];

pub(crate) fn pod(pod: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, pod, old, true, SUBDOMAIN);
    let path = Path::root("spec");
    pod_annotations::annotations(&mut errors, pod, &Path::root("metadata"));
    let Some(old) = old else {
        whole(&mut errors, pod, &path);
        created(&mut errors, &pod["spec"], &path);
        return errors.into_vec();
    };
    pod_annotations::update(&mut errors, pod, old);
    // Nearly all writes to a pod are of its status.
    if pod["spec"] != old["spec"] {
        whole(&mut errors, pod, &path);
        pod_update::update(&mut errors, &pod["spec"], &old["spec"], &path);
    }
    errors.into_vec()
}

/// What only a new pod is asked for.
fn created(errors: &mut Errors, spec: &Value, path: &Path) {
    if !list(spec, "ephemeralContainers").is_empty() {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !text(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
        let why = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&path.child("nodeName"), why);
    }
}

/// The spec, and what templates are not asked for.
pub(super) fn whole(errors: &mut Errors, pod: &Value, path: &Path) {
    let spec = &pod["spec"];
    pod_spec(errors, spec, Some(pod), path);
    if text(spec, "serviceAccountName").is_empty() {
        tokens_of_nobody(errors, spec, path);
    }
    for field in ["containers", "initContainers"] {
        for (index, container) in list(spec, field).iter().enumerate() {
            image_of_pod(errors, container, &path.child(field).index(index));
        }
    }
}

fn tokens_of_nobody(errors: &mut Errors, spec: &Value, path: &Path) {
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let path = path.child("volumes").index(index).child("projected").child("sources");
        for (index, source) in list(&volume["projected"], "sources").iter().enumerate() {
            if !source["serviceAccountToken"].is_null() {
                let why = "must not be specified when serviceAccountName is not set";
                errors.forbidden(&path.index(index).child("serviceAccountToken"), why);
            }
        }
    }
}

/// Checks what pods and templates share; `pod` is the pod whose spec it is, if it is one's.
pub(super) fn pod_spec(errors: &mut Errors, spec: &Value, pod: Option<&Value>, path: &Path) {
    let of_pod = pod.is_some();
    if spec["terminationGracePeriodSeconds"].is_null() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volumes(errors, spec, pod, path);
    resource_claims(errors, spec, path);
    let claims = list(spec, "resourceClaims").iter().map(|claim| text(claim, "name"));
    let claims = claims.filter(|name| !name.is_empty()).collect();
    containers(errors, &Surroundings { spec, volumes, claims }, path);
    pod_resources(errors, spec, path);
    host_network(errors, spec, of_pod, path);
    let restart = path.child("restartPolicy");
    errors.required_one_of(&restart, &spec["restartPolicy"], RESTART_POLICIES);
    errors.required_one_of(&path.child("dnsPolicy"), &spec["dnsPolicy"], DNS_POLICIES);
    labels(errors, &spec["nodeSelector"], &path.child("nodeSelector"));
    security::of_pod(errors, spec, path);
    affinity(errors, spec, of_pod, path);
    pod_names::resolver(errors, spec, path);
    gates(errors, spec, path);
    spread(errors, spec, of_pod, path);
    windows::host_processes(errors, spec, path);
    security::host_users(errors, spec, path);
    pod_names::hostname_override(errors, spec, path);
    references(errors, spec, &["serviceAccountName", "nodeName"], path);
    let deadline = path.child("activeDeadlineSeconds");
    errors.within(&deadline, &spec["activeDeadlineSeconds"], 1, i64::from(i32::MAX));
    pod_names::hostname(errors, spec, path);
    tolerations(errors, spec, path);
    pod_names::host_aliases(errors, spec, path);
    references(errors, spec, &["priorityClassName", "runtimeClassName"], path);
    let preemption = &spec["preemptionPolicy"];
    if !preemption.is_null() {
        let path = path.child("preemptionPolicy");
        errors.required_one_of(&path, preemption, PREEMPTION_POLICIES);
    }
    overhead(errors, &spec["overhead"], &path.child("overhead"));
    windows::operating_system(errors, spec, path);
    if !spec["schedulingGroup"].is_null() {
        scheduling_group(errors, &spec["schedulingGroup"], &path.child("schedulingGroup"));
    }
    environment::file_volumes(errors, spec, path);
}

/// Names of other objects. No runtime class is not the one without a name.
fn references(errors: &mut Errors, spec: &Value, fields: &[&str], path: &Path) {
    for field in fields {
        let name = text(spec, field);
        if !name.is_empty() || (*field == "runtimeClassName" && !spec[*field].is_null()) {
            errors.complain(&path.child(field), name, SUBDOMAIN(name));
        }
    }
}

/// Checks what runs beside a pod's containers. Its problems are those of limits.
pub(super) fn overhead(errors: &mut Errors, amounts: &Value, path: &Path) {
    let limits = json!({ "limits": amounts });
    requirements::requirements(errors, &limits, &BTreeSet::new(), path);
}

/// In the host's network a port is the host's: of a template it may be left open.
fn host_network(errors: &mut Errors, spec: &Value, of_pod: bool, path: &Path) {
    if spec["hostNetwork"] != true {
        return;
    }
    for (index, container) in list(spec, "containers").iter().enumerate() {
        let path = path.child("containers").index(index).child("ports");
        for (index, port) in list(container, "ports").iter().enumerate() {
            let number = |field: &str| port[field].as_i64().unwrap_or(0);
            let host = number("hostPort");
            if (of_pod || host != 0) && host != number("containerPort") {
                let why = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&path.index(index).child("hostPort"), &Value::from(host), why);
            }
        }
    }
}

/// What a pod waits for before it is ready, and before it is scheduled.
fn gates(errors: &mut Errors, spec: &Value, path: &Path) {
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        let path = path.child("readinessGates").index(index).child("conditionType");
        let kind = text(gate, "conditionType");
        errors.complain(&path, kind, qualified_name(kind));
    }
    let mut seen = HashSet::new();
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let path = path.child("schedulingGates").index(index);
        let name = text(gate, "name");
        errors.complain(&path, name, qualified_name(name));
        if !seen.insert(name) {
            errors.duplicate(&path, &Value::from(name));
        }
    }
}

fn scheduling_group(errors: &mut Errors, group: &Value, path: &Path) {
    let path = path.child("podGroupName");
    match group["podGroupName"].as_str() {
        None => errors.invalid(&path, &Value::Null, "must specify one of: `podGroupName`"),
        Some(name) => errors.complain(&path, name, SUBDOMAIN(name)),
    }
}

pub(super) fn changed_fields(new: &Value, old: &Value) -> Vec<String> {
    let keys =
        |value: &Value| value.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect();
    let mut all: Vec<String> = keys(new);
    let before: Vec<String> = keys(old);
    all.extend(before);
    all.sort();
    all.dedup();
    all.retain(|key| new.get(key) != old.get(key));
    all.iter().map(|key| format!("spec.{key}")).collect()
}
