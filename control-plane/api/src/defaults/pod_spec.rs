//! Defaults of pods and of the pod specs inside templates.

use serde_json::{Map, Value, json};

use super::{child, default, default_text, items, pod_resources, storage};
use crate::object::child_mut;

/// 0644.
const FILE_MODE: i64 = 0o644;

pub(crate) fn pod(pod: &mut Value) {
    let spec = child_mut(pod, "spec");
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            requests_from_limits(container);
        }
    }
    pod_resources::pod_resources(spec);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        host_ports(spec);
    }
    default(spec, "enableServiceLinks", true);
    pod_spec(spec);
    let class = pod_resources::quality_of_service(spec);
    let status = child_mut(pod, "status");
    default_text(status, "phase", "Pending");
    default_text(status, "qosClass", class);
}

/// What admission gave a new pod, an update may leave out.
pub(crate) fn carry_over_pod(new: &mut Value, old: &Value) {
    let spec = child_mut(new, "spec");
    for field in ["priority", "preemptionPolicy"] {
        if let Some(value) = old["spec"].get(field) {
            default(spec, field, value.clone());
        }
    }
}

/// Says of a new pod that waits behind gates why nobody schedules it.
pub(crate) fn initialize_pod(pod: &mut Value) {
    if pod["spec"]["schedulingGates"].as_array().is_none_or(Vec::is_empty) {
        return;
    }
    let condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": "SchedulingGated",
        "message": "Scheduling is blocked due to non-empty scheduling gates",
    });
    child_mut(pod, "status").insert("conditions".to_owned(), json!([condition]));
}

/// What pods and templates share.
pub(super) fn pod_spec(spec: &mut Map<String, Value>) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "schedulerName", "default-scheduler");
    default(spec, "securityContext", json!({}));
    default(spec, "terminationGracePeriodSeconds", 30);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for one in items(spec, list) {
            container(one);
        }
    }
    for one in items(spec, "volumes") {
        volume(one);
    }
    // The old and the new name of one field.
    let account = |field: &str| {
        spec.get(field).and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned)
    };
    if let Some(account) = account("serviceAccountName").or_else(|| account("serviceAccount")) {
        spec.insert("serviceAccount".to_owned(), Value::from(account.clone()));
        spec.insert("serviceAccountName".to_owned(), Value::from(account));
    }
}

fn container(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = pull_policy(image);
    default_text(container, "imagePullPolicy", policy);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    for port in items(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for variable in items(container, "env") {
        let Some(from) = child(variable, "valueFrom") else { continue };
        references(from);
        if let Some(reference) = child(from, "fileKeyRef") {
            default(reference, "optional", false);
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(one) = child(container, field) {
            probe(one);
        }
    }
    if let Some(lifecycle) = child(container, "lifecycle") {
        for field in ["postStart", "preStop"] {
            if let Some(get) = child(lifecycle, field).and_then(|hook| child(hook, "httpGet")) {
                http_get(get);
            }
        }
    }
}

/// An image whose tag is `latest`, said or implied, may move, so it is always pulled.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let last = name.rsplit('/').next().unwrap_or_default();
    let moves = match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_none(),
    };
    if moves { "Always" } else { "IfNotPresent" }
}

fn probe(probe: &mut Map<String, Value>) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        // Zero is what a client sends that does not know the default.
        if probe.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
            probe.insert(field.to_owned(), Value::from(value));
        }
    }
    if let Some(get) = child(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = child(probe, "grpc") {
        default(grpc, "service", "");
    }
}

fn http_get(get: &mut Map<String, Value>) {
    default_text(get, "path", "/");
    default_text(get, "scheme", "HTTP");
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.iter().all(|(field, value)| field == "name" || value.is_null()) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        let Some(source) = child(volume, source) else { continue };
        default(source, "defaultMode", FILE_MODE);
        downward_items(source);
        for projection in items(source, "sources") {
            if let Some(token) = child(projection, "serviceAccountToken") {
                default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = child(projection, "downwardAPI") {
                downward_items(downward);
            }
        }
    }
    storage::source(volume);
    if let Some(image) = child(volume, "image") {
        let reference = image.get("reference").and_then(Value::as_str).unwrap_or_default();
        let policy = pull_policy(reference);
        default_text(image, "pullPolicy", policy);
    }
    let claim = child(volume, "ephemeral").and_then(|one| child(one, "volumeClaimTemplate"));
    if let Some(spec) = claim.and_then(|template| child(template, "spec")) {
        default(spec, "volumeMode", "Filesystem");
    }
}

fn downward_items(source: &mut Map<String, Value>) {
    for item in items(source, "items") {
        references(item);
    }
}

/// What the pod says about itself.
fn references(holder: &mut Map<String, Value>) {
    if let Some(reference) = child(holder, "fieldRef") {
        default_text(reference, "apiVersion", "v1");
    }
    if let Some(reference) = child(holder, "resourceFieldRef") {
        default(reference, "divisor", "0");
    }
}

fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(resources) = child(container, "resources") else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    if limits.is_empty() {
        return;
    }
    default(resources, "requests", json!({}));
    if let Some(requests) = child(resources, "requests") {
        for (name, amount) in limits {
            default(requests, &name, amount);
        }
    }
}

/// In the host's network a container's port is the host's.
fn host_ports(spec: &mut Map<String, Value>) {
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            for port in items(container, "ports") {
                let number = port.get("containerPort").cloned().unwrap_or_default();
                if port.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0 {
                    port.insert("hostPort".to_owned(), number);
                }
            }
        }
    }
}
