//! Containers: their names, images, ports, environment, resources, mounts and probes.

use std::collections::HashSet;

use serde_json::Value;

use super::names::{environment_name, label, port, port_name};
use super::{Errors, Path};
use crate::schema::parse_quantity;

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub(super) fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Checks the containers and init containers of a pod spec. `volumes` are the names to mount.
pub(super) fn containers(errors: &mut Errors, spec: &Value, path: &Path, volumes: &HashSet<&str>) {
    if list(spec, "containers").is_empty() {
        errors.required(&path.child("containers"), "");
    }
    let mut names = HashSet::new();
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in list(spec, field).iter().enumerate() {
            let path = path.child(field).index(index);
            let name = text(container, "name");
            if name.is_empty() {
                errors.required(&path.child("name"), "");
            } else {
                errors.complain(&path.child("name"), name, label(name));
                if !names.insert(name) {
                    errors.duplicate(&path.child("name"), &container["name"]);
                }
            }
            self::container(errors, container, &path, volumes);
            let sidecar = container["restartPolicy"] == "Always";
            if field == "initContainers" && !sidecar {
                init_container(errors, container, &path);
            }
        }
    }
    host_ports(errors, spec, path);
}

fn init_container(errors: &mut Errors, container: &Value, path: &Path) {
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[probe].is_null() {
            let why = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(&path.child(probe), why);
        }
    }
}

fn container(errors: &mut Errors, container: &Value, path: &Path, volumes: &HashSet<&str>) {
    let image = text(container, "image");
    if image.is_empty() {
        errors.required(&path.child("image"), "");
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        errors.invalid(&path.child("image"), &container["image"], why);
    }
    let policy = &container["imagePullPolicy"];
    errors.one_of(&path.child("imagePullPolicy"), policy, PULL_POLICIES);
    let message = &container["terminationMessagePolicy"];
    errors.one_of(
        &path.child("terminationMessagePolicy"),
        message,
        &["File", "FallbackToLogsOnError"],
    );
    ports(errors, container, path);
    environment(errors, container, path);
    resources(errors, &container["resources"], &path.child("resources"));
    mounts(errors, container, path, volumes);
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[field].is_object() {
            probe(errors, &container[field], &path.child(field), field != "readinessProbe");
        }
    }
    for field in ["postStart", "preStop"] {
        let hook = &container["lifecycle"][field];
        if hook.is_object() {
            handler(errors, hook, &path.child("lifecycle").child(field), HOOKS);
        }
    }
}

fn ports(errors: &mut Errors, container: &Value, path: &Path) {
    let mut names = HashSet::new();
    for (index, one) in list(container, "ports").iter().enumerate() {
        let path = path.child("ports").index(index);
        let name = text(one, "name");
        if !name.is_empty() {
            errors.complain(&path.child("name"), name, port_name(name));
            if !names.insert(name) {
                errors.duplicate(&path.child("name"), &one["name"]);
            }
        }
        match one["containerPort"].as_i64() {
            None | Some(0) => errors.required(&path.child("containerPort"), ""),
            Some(number) => {
                for why in port(number) {
                    errors.invalid(&path.child("containerPort"), &one["containerPort"], &why);
                }
            }
        }
        for why in one["hostPort"].as_i64().filter(|&n| n != 0).map(port).unwrap_or_default() {
            errors.invalid(&path.child("hostPort"), &one["hostPort"], &why);
        }
        errors.one_of(&path.child("protocol"), &one["protocol"], PROTOCOLS);
    }
}

/// Two containers of a pod cannot have the same port of the host.
fn host_ports(errors: &mut Errors, spec: &Value, path: &Path) {
    let host = spec["hostNetwork"] == true;
    let mut taken = HashSet::new();
    for (index, container) in list(spec, "containers").iter().enumerate() {
        for (port_index, one) in list(container, "ports").iter().enumerate() {
            let number = one["hostPort"].as_i64().unwrap_or(0);
            let at = path.child("containers").index(index).child("ports").index(port_index);
            if host && one["hostPort"] != one["containerPort"] && number != 0 {
                let why = "must match `hostPort` when `hostNetwork` is true";
                errors.invalid(&at.child("containerPort"), &one["containerPort"], why);
            }
            let key = (text(one, "protocol"), text(one, "hostIP"), number);
            if number != 0 && !taken.insert(key) {
                errors.duplicate(&at.child("hostPort"), &one["hostPort"]);
            }
        }
    }
}

fn environment(errors: &mut Errors, container: &Value, path: &Path) {
    for (index, variable) in list(container, "env").iter().enumerate() {
        let path = path.child("env").index(index);
        let name = text(variable, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.complain(&path.child("name"), name, environment_name(name));
        }
        let Some(source) = variable["valueFrom"].as_object() else { continue };
        let path = path.child("valueFrom");
        if !text(variable, "value").is_empty() && !source.is_empty() {
            let why = "may not be specified when `value` is not empty";
            errors.invalid_text(&path, "", why);
        }
        match source.values().filter(|value| !value.is_null()).count() {
            0 => errors.invalid_text(
                &path,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                 `fileKeyRef` or `secretKeyRef`",
            ),
            1 => {}
            _ => errors.invalid_text(
                &path,
                "",
                "may not have more than one field specified at a time",
            ),
        }
    }
}

pub(super) fn resources(errors: &mut Errors, resources: &Value, path: &Path) {
    for field in ["limits", "requests"] {
        for (name, amount) in resources[field].as_object().into_iter().flatten() {
            let path = path.child(field).key(name);
            resource_name(errors, name, &path);
            let Ok(amount) = parse_quantity(amount) else {
                errors.invalid(&path, amount, "must be a quantity");
                continue;
            };
            let shown = Value::from(amount.to_string());
            if amount.is_negative() {
                errors.invalid(&path, &shown, "must be greater than or equal to 0");
            } else if name != "cpu" && !amount.is_whole() {
                let why = format!("fractional {name} value is invalid, must be an integer");
                errors.invalid(&path, &shown, &why);
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = resources["limits"].get(name).map(parse_quantity);
        if let (Ok(request), Some(Ok(limit))) = (parse_quantity(request), limit)
            && request > limit
        {
            let why = format!("must be less than or equal to {name} limit of {limit}");
            errors.invalid_text(&path.child("requests"), &request.to_string(), &why);
        }
    }
}

/// The name of a resource that a container may ask for.
pub(super) fn resource_name(errors: &mut Errors, name: &str, path: &Path) {
    if !name.contains('/') && !is_standard_resource(name) {
        let why = "must be a standard resource type or fully qualified";
        errors.invalid_text(path, name, why);
        errors.invalid_text(path, name, "must be a standard resource for containers");
    }
}

fn is_standard_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

fn mounts(errors: &mut Errors, container: &Value, path: &Path, volumes: &HashSet<&str>) {
    let mut paths = HashSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = path.child("volumeMounts").index(index);
        let name = text(mount, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(&path.child("name"), name);
        }
        let target = text(mount, "mountPath");
        if target.is_empty() {
            errors.required(&path.child("mountPath"), "");
        } else if !paths.insert(target) {
            errors.invalid(&path.child("mountPath"), &mount["mountPath"], "must be unique");
        }
        let sub = text(mount, "subPath");
        if sub.starts_with('/') {
            errors.invalid_text(&path.child("subPath"), sub, "must be a relative path");
        } else if sub.split('/').any(|part| part == "..") {
            errors.invalid_text(&path.child("subPath"), sub, "must not contain '..'");
        }
    }
}

const PROBES: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc"];
const HOOKS: &[&str] = &["exec", "httpGet", "tcpSocket", "sleep"];

fn probe(errors: &mut Errors, probe: &Value, path: &Path, one_success: bool) {
    handler(errors, probe, path, PROBES);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        errors.non_negative(&path.child(field), &probe[field]);
    }
    let threshold = &probe["successThreshold"];
    if one_success && threshold.as_i64().is_some_and(|number| number != 1) {
        errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

fn handler(errors: &mut Errors, handler: &Value, path: &Path, kinds: &[&str]) {
    let mut count = 0;
    for kind in kinds.iter().filter(|kind| handler[**kind].is_object()) {
        count += 1;
        let (action, path) = (&handler[*kind], path.child(kind));
        if count > 1 {
            errors.forbidden(&path, "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" if list(action, "command").is_empty() => {
                errors.required(&path.child("command"), "");
            }
            "httpGet" => {
                if text(action, "path").is_empty() {
                    errors.required(&path.child("path"), "");
                }
                errors.one_of(&path.child("scheme"), &action["scheme"], &["HTTP", "HTTPS"]);
                port_or_name(errors, &action["port"], &path.child("port"));
            }
            "tcpSocket" | "grpc" => port_or_name(errors, &action["port"], &path.child("port")),
            _ => {}
        }
    }
    if count == 0 {
        errors.required(path, "must specify a handler type");
    }
}

/// A port's number, or the name of one.
pub(super) fn port_or_name(errors: &mut Errors, value: &Value, path: &Path) {
    let complaints = match value {
        Value::String(name) => port_name(name),
        value => port(value.as_i64().unwrap_or(0)),
    };
    for why in complaints {
        errors.invalid(path, value, &why);
    }
}
