//! The annotations of pods that mean something to the cluster.

use serde_json::{Map, Value};

use super::containers::{each, text};
use super::paths::descending;
use super::{Errors, Path};
use crate::object;

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

fn texts(object: &Value) -> impl Iterator<Item = (&String, &str)> {
    let all = object::annotations(object).into_iter().flat_map(Map::iter);
    all.filter_map(|(key, value)| Some((key, value.as_str()?)))
}

/// Checks the annotations of a pod, or of a template whose metadata is at `path`.
pub(super) fn annotations(errors: &mut Errors, pod: &Value, path: &Path) {
    let path = path.child("annotations");
    for (key, value) in texts(pod) {
        let path_of_one = path.key(key);
        match key.as_str() {
            MIRROR if text(&pod["spec"], "nodeName").is_empty() => {
                let why = "must set spec.nodeName if mirror pod annotation is set";
                errors.invalid_text(&path_of_one, value, why);
            }
            DELETION_COST if !is_cost(value) => {
                errors.invalid_text(&path_of_one, value, "must be a 32bit integer");
            }
            SECCOMP_POD => seccomp(errors, value, &path.child(key)),
            _ => {}
        }
        if key.starts_with(SECCOMP_CONTAINER) {
            seccomp(errors, value, &path.child(key));
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            app_armor(errors, &pod["spec"], container, value, &path_of_one);
        }
    }
}

/// Checks that an update leaves alone what was decided when the pod was made.
pub(super) fn update(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::root("metadata").child("annotations");
    let fixed = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        key if key.starts_with(APP_ARMOR) => Some("AppArmor annotations"),
        _ => None,
    };
    let value = |object: &Value, key: &str| {
        object::annotations(object).and_then(|all| all.get(key)).cloned()
    };
    for (key, before) in texts(old) {
        let changed = value(new, key).is_none_or(|now| now != before);
        if let (Some(what), true) = (fixed(key), changed) {
            errors.forbidden(&path.key(key), &format!("may not remove or update {what}"));
        }
    }
    for (key, _) in texts(new).filter(|(key, _)| value(old, key).is_none()) {
        if let Some(what) = fixed(key) {
            errors.forbidden(&path.key(key), &format!("may not add {what}"));
        }
    }
}

/// A number as it is printed: neither a plus sign nor zeros before it.
fn is_cost(value: &str) -> bool {
    value.parse::<i32>().is_ok_and(|number| number.to_string() == value)
}

fn seccomp(errors: &mut Errors, profile: &str, path: &Path) {
    match profile.strip_prefix("localhost/") {
        Some(file) => descending(errors, file, path),
        None if matches!(profile, "runtime/default" | "docker/default" | "unconfined") => {}
        None => errors.invalid_text(path, profile, "must be a valid seccomp profile"),
    }
}

fn app_armor(errors: &mut Errors, spec: &Value, container: &str, profile: &str, path: &Path) {
    let mut found = false;
    each(spec, path, |one, _| found |= text(one, "name") == container);
    if !found {
        errors.invalid_text(path, container, "container not found");
    }
    let known = matches!(profile, "" | "runtime/default" | "unconfined");
    if !known && !profile.starts_with("localhost/") {
        let why = format!("invalid AppArmor profile name: {profile:?}");
        errors.invalid_text(path, profile, &why);
    }
}
