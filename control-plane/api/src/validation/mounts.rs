//! Where a container sees the pod's volumes: as directories, or as devices.
//!
//! Does not: look into the claims behind the volumes.

use std::collections::HashSet;

use serde_json::Value;

use super::containers::{Surroundings, list, text};
use super::paths::{descending, has_backsteps};
use super::{Errors, Path};

const PROPAGATIONS: &[&str] = &["Bidirectional", "HostToContainer", "None"];
const READ_ONLY: &[&str] = &["Disabled", "Enabled", "IfPossible"];

pub(super) fn mounts(
    errors: &mut Errors,
    container: &Value,
    around: &Surroundings<'_>,
    path: &Path,
) {
    let devices = list(container, "volumeDevices");
    let mut seen = HashSet::new();
    let path_of_list = path.child("volumeMounts");
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = path_of_list.index(index);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        let (path_of_name, path_of_target) = (path.child("name"), path.child("mountPath"));
        if name.is_empty() {
            errors.required(&path_of_name, "");
        }
        let volume = around.volumes.get(name);
        if volume.is_none() {
            errors.not_found(&path_of_name, name);
        }
        if target.is_empty() {
            errors.required(&path_of_target, "");
        }
        if !seen.insert(target) {
            errors.invalid_text(&path_of_target, target, "must be unique");
        }
        if devices.iter().any(|device| text(device, "name") == name) {
            errors.invalid_text(&path_of_name, name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| text(device, "devicePath") == target) {
            let why = "must not already exist as a path in volumeDevices";
            errors.invalid_text(&path_of_target, target, why);
        }
        below(errors, mount, &path, &path_of_list);
        propagation(errors, mount, container, &path_of_list);
        recursive_read_only(errors, mount, &path_of_list.child("recursiveReadOnly"));
    }
}

/// A mount of less than the whole volume. Kubernetes says of some fields only in which list the
/// mount is.
fn below(errors: &mut Errors, mount: &Value, path: &Path, path_of_list: &Path) {
    descending(errors, text(mount, "subPath"), &path_of_list.child("subPath"));
    let expression = text(mount, "subPathExpr");
    if !expression.is_empty() && !text(mount, "subPath").is_empty() {
        let why = "subPathExpr and subPath are mutually exclusive";
        errors.invalid_text(&path.child("subPathExpr"), expression, why);
    }
    descending(errors, expression, &path_of_list.child("subPathExpr"));
}

fn propagation(errors: &mut Errors, mount: &Value, container: &Value, path_of_list: &Path) {
    let (propagation, path) = (&mount["mountPropagation"], path_of_list.child("mountPropagation"));
    errors.one_of(&path, propagation, PROPAGATIONS);
    let privileged = container["securityContext"]["privileged"] == true;
    if propagation == "Bidirectional" && !privileged {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(&path, why);
    }
}

fn recursive_read_only(errors: &mut Errors, mount: &Value, path: &Path) {
    let mode = &mount["recursiveReadOnly"];
    errors.one_of(path, mode, READ_ONLY);
    if mode != "Enabled" && mode != "IfPossible" {
        return;
    }
    if mount["readOnly"] != true {
        errors.forbidden(path, "may only be specified when readOnly is true");
    }
    let propagation = &mount["mountPropagation"];
    if !propagation.is_null() && propagation != "None" {
        let why = "may only be specified when mountPropagation is None or not specified";
        errors.forbidden(path, why);
    }
}

pub(super) fn devices(
    errors: &mut Errors,
    container: &Value,
    around: &Surroundings<'_>,
    path: &Path,
) {
    let mounts = list(container, "volumeMounts");
    let (mut names, mut targets) = (HashSet::new(), HashSet::new());
    for (index, device) in list(container, "volumeDevices").iter().enumerate() {
        let path = path.child("volumeDevices").index(index);
        let (path_of_name, path_of_target) = (path.child("name"), path.child("devicePath"));
        let (name, target) = (text(device, "name"), text(device, "devicePath"));
        if name.is_empty() {
            errors.required(&path_of_name, "");
        } else if !names.insert(name) {
            errors.invalid_text(&path_of_name, name, "must be unique");
        }
        match around.volumes.get(name) {
            None => errors.not_found(&path_of_name, name),
            Some(volume)
                if volume["persistentVolumeClaim"].is_null() && volume["ephemeral"].is_null() =>
            {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral \
                           for block mode";
                errors.invalid_text(&path_of_name, name, why);
            }
            Some(_) => {}
        }
        if target.is_empty() {
            errors.required(&path_of_target, "");
        }
        if targets.contains(target) {
            errors.invalid_text(&path_of_target, target, "must be unique");
        }
        if has_backsteps(target) {
            errors.invalid_text(&path_of_target, target, "can not contain backsteps ('..')");
        } else {
            targets.insert(target);
        }
        if mounts.iter().any(|mount| text(mount, "name") == name) {
            errors.invalid_text(&path_of_name, name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| text(mount, "mountPath") == target) {
            let why = "must not already exist as a path in volumeMounts";
            errors.invalid_text(&path_of_target, target, why);
        }
    }
}
