//! Defaults of pods and of the pod specs inside templates.

use serde_json::{Map, Value, json};

use super::{child, default, default_text, items};
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
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        host_ports(spec);
    }
    default(spec, "enableServiceLinks", true);
    pod_spec(spec);
    let class = quality_of_service(spec);
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
    let account = |field: &str| spec.get(field).and_then(Value::as_str).map(str::to_owned);
    let account = account("serviceAccountName").or_else(|| account("serviceAccount"));
    if let Some(account) = account.filter(|name| !name.is_empty()) {
        spec.insert("serviceAccount".to_owned(), Value::from(account.clone()));
        spec.insert("serviceAccountName".to_owned(), Value::from(account));
    }
}

fn container(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if pulls_always(image) { "Always" } else { "IfNotPresent" };
    default_text(container, "imagePullPolicy", policy);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    for port in items(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for variable in items(container, "env") {
        let reference = child(variable, "valueFrom").and_then(|from| child(from, "fieldRef"));
        if let Some(reference) = reference {
            default_text(reference, "apiVersion", "v1");
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

/// Whether the image's tag is `latest`, said or implied: it may move, so it is always pulled.
fn pulls_always(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_none(),
    }
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
    if let Some(path) = child(volume, "hostPath") {
        default(path, "type", "");
    }
}

fn downward_items(source: &mut Map<String, Value>) {
    for item in items(source, "items") {
        if let Some(reference) = child(item, "fieldRef") {
            default_text(reference, "apiVersion", "v1");
        }
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
                default(port, "hostPort", number);
            }
        }
    }
}

/// `Guaranteed` when every container's CPU and memory limits equal its requests, `BestEffort` when
/// none asks for either, else `Burstable`.
fn quality_of_service(spec: &Map<String, Value>) -> &'static str {
    let lists = ["containers", "initContainers"].into_iter().filter_map(|list| spec.get(list));
    let containers = lists.filter_map(Value::as_array).flatten();
    let (mut best_effort, mut guaranteed) = (true, true);
    for container in containers {
        for resource in ["cpu", "memory"] {
            let amount = |field: &str| {
                let value = container["resources"][field].get(resource)?;
                crate::schema::parse_quantity(value).ok().filter(|amount| !amount.is_zero())
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
