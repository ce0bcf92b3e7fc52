//! The environment of a container, and what the pod tells it about itself.

use serde_json::Value;

use super::containers::{each, list, text};
use super::names::{config_key, environment_name, label, qualified_name, subdomain};
use super::paths::without_backsteps;
use super::{Errors, Path};
use crate::schema::parse_quantity;

/// What a variable can be set to.
const VARIABLE_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// What a file of a volume can show.
const FILE_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// What a pod has beside those, and shows to nobody.
const OTHER_FIELDS: &[&str] = &["spec.restartPolicy", "spec.schedulerName", "status.phase"];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const HUGE_PAGES: [&str; 2] = ["limits.hugepages-", "requests.hugepages-"];
const BYTES: &[&str] =
    &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
const SEVERAL: &str = "may not have more than one field specified at a time";
const NO_SOURCE: &str = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
    `secretKeyRef` or `fileKeyRef`";
const VALUE_TOO: &str = "may not be specified when `value` is not empty";

/// Where the value is shown that a pod says about itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    InVariable,
    InFile,
}

pub(super) fn variables(errors: &mut Errors, container: &Value, path: &Path) {
    for (index, variable) in list(container, "env").iter().enumerate() {
        let path = path.child("env").index(index);
        let name = text(variable, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.complain(&path.child("name"), name, environment_name(name));
        }
        if !variable["valueFrom"].is_null() {
            value_from(errors, variable, &path.child("valueFrom"));
        }
    }
}

fn value_from(errors: &mut Errors, variable: &Value, path: &Path) {
    let source = &variable["valueFrom"];
    let mut count = 0;
    for kind in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let (reference, path) = (&source[kind], path.child(kind));
        if reference.is_null() {
            continue;
        }
        count += 1;
        match kind {
            "fieldRef" => field_reference(errors, reference, Shown::InVariable, &path),
            "resourceFieldRef" => resource_reference(errors, reference, Shown::InVariable, &path),
            "fileKeyRef" => file_key(errors, reference, &path),
            _ => key(errors, reference, &path),
        }
    }
    match count {
        0 => errors.invalid_text(path, "", NO_SOURCE),
        _ if !text(variable, "value").is_empty() => errors.invalid_text(path, "", VALUE_TOO),
        1 => {}
        _ => errors.invalid_text(path, "", SEVERAL),
    }
}

/// A key of a config map or secret.
fn key(errors: &mut Errors, reference: &Value, path: &Path) {
    let name = text(reference, "name");
    errors.complain(&path.child("name"), name, subdomain(name));
    let key = text(reference, "key");
    if key.is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        errors.complain(&path.child("key"), key, config_key(key));
    }
}

/// A variable in a file of a volume.
fn file_key(errors: &mut Errors, reference: &Value, path: &Path) {
    for (field, rule) in [("key", environment_name as fn(&str) -> _), ("volumeName", label)] {
        let value = text(reference, field);
        if value.is_empty() {
            errors.required(&path.child(field), "");
        } else {
            errors.complain(&path.child(field), value, rule(value));
        }
    }
    if text(reference, "path").is_empty() {
        errors.required(&path.child("path"), "");
    }
    without_backsteps(errors, text(reference, "path"), &path.child("path"));
}

/// Files of variables are written by other containers of the pod: into a directory of its own.
pub(super) fn file_volumes(errors: &mut Errors, spec: &Value, path: &Path) {
    each(spec, path, |container, path| {
        for (index, variable) in list(container, "env").iter().enumerate() {
            let reference = &variable["valueFrom"]["fileKeyRef"];
            if reference.is_null() {
                continue;
            }
            let path = path.child("env").index(index).child("valueFrom").child("fileKeyRef");
            let name = text(reference, "volumeName");
            let mut volumes = list(spec, "volumes").iter();
            match volumes.find(|volume| text(volume, "name") == name) {
                None => errors.not_found(&path.child("volumeName"), name),
                Some(volume) if volume["emptyDir"].is_null() => {
                    let why = "referenced volume must be of type emptyDir";
                    errors.invalid_text(&path.child("volumeName"), name, why);
                }
                Some(_) => {}
            }
        }
    });
}

/// A field of the pod.
pub(super) fn field_reference(errors: &mut Errors, reference: &Value, shown: Shown, path: &Path) {
    let (version, field) = (text(reference, "apiVersion"), text(reference, "fieldPath"));
    for (name, value) in [("apiVersion", version), ("fieldPath", field)] {
        if value.is_empty() {
            return errors.required(&path.child(name), "");
        }
    }
    let path_of_field = path.child("fieldPath");
    let mut unreadable = |why: String| {
        errors.invalid_text(&path_of_field, field, &format!("error converting fieldPath: {why}"));
    };
    if version != "v1" {
        return unreadable(format!("unsupported pod version: {version}"));
    }
    match subscript(field) {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            errors.complain(path, &key, qualified_name(&key));
        }
        Some(("metadata.labels", key)) => errors.complain(path, key, qualified_name(key)),
        Some(_) => unreadable(format!("field label does not support subscript: {field}")),
        None => {
            let known = [VARIABLE_FIELDS, FILE_FIELDS, OTHER_FIELDS];
            // Clients of the first days know the node by another name.
            let field = if field == "spec.host" { "spec.nodeName" } else { field };
            let supported = match shown {
                Shown::InVariable => VARIABLE_FIELDS,
                Shown::InFile => FILE_FIELDS,
            };
            if !known.iter().any(|fields| fields.contains(&field)) {
                unreadable(format!("field label not supported: {field}"));
            } else if !supported.contains(&field) {
                errors.unsupported(&path_of_field, &Value::from(field), supported);
            }
        }
    }
}

/// `metadata.labels['key']` is the field and the key.
fn subscript(field: &str) -> Option<(&str, &str)> {
    field.strip_suffix("']")?.split_once("['").filter(|(field, _)| !field.is_empty())
}

/// What a container asks for or is limited to.
pub(super) fn resource_reference(
    errors: &mut Errors,
    reference: &Value,
    shown: Shown,
    path: &Path,
) {
    let resource = text(reference, "resource");
    let huge = HUGE_PAGES.iter().any(|prefix| resource.starts_with(prefix));
    if shown == Shown::InFile && text(reference, "containerName").is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.unsupported(&path.child("resource"), &reference["resource"], RESOURCES);
    }
    let Ok(divisor) = parse_quantity(&reference["divisor"]) else { return };
    let (divisor, unset) = (divisor.to_string(), divisor.is_zero());
    let (kind, supported) = match resource.split_once('.').map_or("", |(_, kind)| kind) {
        "cpu" => ("cpu", &["1m", "1"][..]),
        "memory" => ("memory", BYTES),
        "ephemeral-storage" => ("local ephemeral storage", BYTES),
        _ if huge => ("hugepages", BYTES),
        _ => return,
    };
    if !unset && !supported.contains(&divisor.as_str()) {
        let listed = match kind {
            "cpu" => "1m and 1".to_owned(),
            _ => BYTES.join(", "),
        };
        let why = format!("only divisor's values {listed} are supported with the {kind} resource");
        errors.invalid_text(&path.child("divisor"), resource, &why);
    }
}

/// Checks where whole sets of variables come from.
pub(super) fn sources(errors: &mut Errors, container: &Value, path: &Path) {
    let path_of_list = path.child("envFrom");
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        let path = path_of_list.index(index);
        let prefix = text(source, "prefix");
        errors.complain(&path.child("prefix"), prefix, environment_name(prefix));
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            if source[kind].is_null() {
                continue;
            }
            count += 1;
            let (name, path) = (text(&source[kind], "name"), path.child(kind).child("name"));
            if name.is_empty() {
                errors.required(&path, "");
            } else {
                // Kubernetes takes it for the beginning of a name.
                let complaints = subdomain(name.strip_suffix('-').unwrap_or(name));
                errors.complain(&path, name, complaints);
            }
        }
        match count {
            0 => {
                let why = "must specify one of: `configMapRef` or `secretRef`";
                errors.invalid_text(&path_of_list, "", why);
            }
            1 => {}
            _ => errors.invalid_text(&path_of_list, "", SEVERAL),
        }
    }
}
