//! As whom a pod and its containers run, and what the kernel lets them do.
//!
//! Does not: decide who may ask for privileges; admission does.

use std::collections::HashSet;

use serde_json::Value;

use super::containers::{each, list, text};
use super::names::sysctl;
use super::paths::descending;
use super::windows::windows_options;
use super::{Errors, Path};

const HIGHEST_ID: i64 = i32::MAX as i64;
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
/// The longest path but its end.
const APP_ARMOR_LENGTH: usize = 4095;
const PROC_MOUNTS: &[&str] = &["Default", "Unmasked"];
const GROUP_CHANGES: &[&str] = &["Always", "OnRootMismatch"];
const GROUP_POLICIES: &[&str] = &["Merge", "Strict"];
const LABEL_CHANGES: &[&str] = &["MountOption", "Recursive"];

fn is_true(value: &Value) -> bool {
    *value == true
}

/// Checks the security context that a pod's containers share.
pub(super) fn of_pod(errors: &mut Errors, spec: &Value, path: &Path) {
    let (context, path) = (&spec["securityContext"], path.child("securityContext"));
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        errors.within(&path.child(field), &context[field], 0, HIGHEST_ID);
    }
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        errors.within(&path.child("supplementalGroups").index(index), group, 0, HIGHEST_ID);
    }
    if is_true(&spec["shareProcessNamespace"]) && is_true(&spec["hostPID"]) {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        let path = path.child("shareProcessNamespace");
        errors.invalid(&path, &spec["shareProcessNamespace"], why);
    }
    sysctls(errors, spec, &path.child("sysctls"));
    let change = "fsGroupChangePolicy";
    errors.one_of(&path.child(change), &context[change], GROUP_CHANGES);
    profiles(errors, context, &path);
    for (field, supported) in
        [("supplementalGroupsPolicy", GROUP_POLICIES), ("seLinuxChangePolicy", LABEL_CHANGES)]
    {
        errors.one_of(&path.child(field), &context[field], supported);
    }
}

/// Checks the security context of a container of the pod `spec`.
pub(super) fn of_container(errors: &mut Errors, container: &Value, spec: &Value, path: &Path) {
    let (context, path) = (&container["securityContext"], path.child("securityContext"));
    for field in ["runAsUser", "runAsGroup"] {
        errors.within(&path.child(field), &context[field], 0, HIGHEST_ID);
    }
    let mount = &context["procMount"];
    errors.one_of(&path.child("procMount"), mount, PROC_MOUNTS);
    if mount == "Unmasked" && spec["hostUsers"] != false {
        let why = "`hostUsers` must be false to use `Unmasked`";
        errors.invalid(&path.child("procMount"), mount, why);
    }
    seccomp(errors, &context["seccompProfile"], &path.child("seccompProfile"));
    if context["allowPrivilegeEscalation"] == false {
        if is_true(&context["privileged"]) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(&path, context, why);
        }
        let added = list(&context["capabilities"], "add").iter();
        for _ in added.filter(|capability| **capability == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` \
                       CAP_SYS_ADMIN";
            errors.invalid(&path, context, why);
        }
    }
    windows_options(errors, &context["windowsOptions"], &path.child("windowsOptions"));
    app_armor(errors, &context["appArmorProfile"], &path.child("appArmorProfile"));
}

fn profiles(errors: &mut Errors, context: &Value, path: &Path) {
    seccomp(errors, &context["seccompProfile"], &path.child("seccompProfile"));
    windows_options(errors, &context["windowsOptions"], &path.child("windowsOptions"));
    app_armor(errors, &context["appArmorProfile"], &path.child("appArmorProfile"));
}

fn profile_type(errors: &mut Errors, profile: &Value, name: &str, path: &Path) {
    if text(profile, "type").is_empty() {
        errors.required(path, &format!("type is required when {name} is set"));
    } else {
        errors.one_of(path, &profile["type"], PROFILES);
    }
}

fn seccomp(errors: &mut Errors, profile: &Value, path: &Path) {
    if profile.is_null() {
        return;
    }
    profile_type(errors, profile, "seccompProfile", &path.child("type"));
    let (file, path) = (profile["localhostProfile"].as_str(), path.child("localhostProfile"));
    match (profile["type"] == "Localhost", file) {
        (true, None) => errors.required(&path, "must be set when seccomp type is Localhost"),
        (true, Some(file)) => descending(errors, file, &path),
        (false, Some(_)) => {
            errors.invalid(&path, profile, "can only be set when seccomp type is Localhost");
        }
        (false, None) => {}
    }
}

fn app_armor(errors: &mut Errors, profile: &Value, path: &Path) {
    if profile.is_null() {
        return;
    }
    profile_type(errors, profile, "appArmorProfile", &path.child("type"));
    let (name, path) = (profile["localhostProfile"].as_str(), path.child("localhostProfile"));
    match (text(profile, "type"), name) {
        ("Localhost", None | Some("")) => {
            errors.required(&path, "must be set when AppArmor type is Localhost");
        }
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.invalid_text(&path, name, "must not be padded with whitespace");
            }
            if name.len() > APP_ARMOR_LENGTH {
                errors.too_long(&path, APP_ARMOR_LENGTH);
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.invalid_text(&path, name, "can only be set when AppArmor type is Localhost");
        }
        _ => {}
    }
}

fn sysctls(errors: &mut Errors, spec: &Value, path: &Path) {
    let mut seen = HashSet::new();
    for (index, one) in list(&spec["securityContext"], "sysctls").iter().enumerate() {
        let path = path.index(index).child("name");
        let name = text(one, "name");
        let complaints = if name.is_empty() { Vec::new() } else { sysctl(name) };
        if name.is_empty() {
            errors.required(&path, "");
        } else if complaints.is_empty() && !seen.insert(name) {
            errors.duplicate(&path, &one["name"]);
        }
        errors.complain(&path, name, complaints);
        // What belongs to a namespace that the pod shares with the host would change the host.
        let name_with_dots = name.replace('/', ".");
        let begins = |starts: &[&str]| starts.iter().any(|one| name_with_dots.starts_with(one));
        if is_true(&spec["hostNetwork"]) && begins(&["net."]) {
            errors.invalid_text(&path, name, "may not be specified when 'hostNetwork' is true");
        } else if is_true(&spec["hostIPC"])
            && begins(&["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."])
        {
            errors.invalid_text(&path, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

/// Users of their own need namespaces of their own, and files whose owners can be mapped.
pub(super) fn host_users(errors: &mut Errors, spec: &Value, path: &Path) {
    if spec["hostUsers"] != false {
        return;
    }
    let why = "when `hostUsers` is false";
    for (field, shown) in
        [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
    {
        if is_true(&spec[field]) {
            errors.forbidden(&path.child(shown), why);
        }
    }
    each(spec, path, |container, path| {
        if !list(container, "volumeDevices").is_empty() {
            errors.forbidden(&path.child("volumeDevices"), why);
        }
    });
}
