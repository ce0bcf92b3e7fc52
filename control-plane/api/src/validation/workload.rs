//! The kinds that make pods: replication controllers, replica sets, deployments.

use serde_json::Value;

use super::containers::{list, text};
use super::metadata::{SUBDOMAIN, annotations, is_empty, label_selector, labels, metadata};
use super::pod::pod_spec;
use super::{Errors, FieldError, Path, pod_annotations};
use crate::selector::LabelSelector;

pub(crate) fn replication_controller(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    counts(&mut errors, spec, &path, &["replicas", "minReadySeconds"]);
    labels(&mut errors, &spec["selector"], &path.child("selector"));
    if is_empty(&spec["selector"]) {
        errors.required(&path.child("selector"), "");
    }
    let selector = LabelSelector::from_map(&spec["selector"]);
    template(&mut errors, spec, &path, &selector);
    errors.into_vec()
}

pub(crate) fn replica_set(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    counts(&mut errors, spec, &path, &["replicas", "minReadySeconds"]);
    selected_template(&mut errors, spec, &path, "replica set");
    immutable_selector(&mut errors, spec, old, &path);
    errors.into_vec()
}

pub(crate) fn deployment(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    let fields = ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
    counts(&mut errors, spec, &path, &fields);
    selected_template(&mut errors, spec, &path, "deployment");
    immutable_selector(&mut errors, spec, old, &path);
    strategy(&mut errors, &spec["strategy"], &path.child("strategy"));
    let ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
    let deadline = &spec["progressDeadlineSeconds"];
    if deadline.as_i64().is_some_and(|seconds| seconds <= ready) {
        let why = "must be greater than minReadySeconds";
        errors.invalid(&path.child("progressDeadlineSeconds"), deadline, why);
    }
    errors.into_vec()
}

/// Numbers that must not be negative.
pub(super) fn counts(errors: &mut Errors, spec: &Value, path: &Path, fields: &[&str]) {
    for field in fields {
        errors.non_negative(&path.child(field), &spec[*field]);
    }
}

pub(super) fn immutable_selector(
    errors: &mut Errors,
    spec: &Value,
    old: Option<&Value>,
    path: &Path,
) {
    if let Some(old) = old {
        errors.immutable(&path.child("selector"), &spec["selector"], &old["spec"]["selector"]);
    }
}

fn selected_template(errors: &mut Errors, spec: &Value, path: &Path, kind: &str) {
    selector(errors, spec, path, kind);
    if let Ok(selector) = LabelSelector::from_label_selector(&spec["selector"]) {
        template(errors, spec, path, &selector);
    }
}

/// A selector that must be there and select something.
pub(super) fn selector(errors: &mut Errors, spec: &Value, path: &Path, kind: &str) {
    let selector = &spec["selector"];
    let path = path.child("selector");
    if selector.is_null() {
        errors.required(&path, "");
        return;
    }
    label_selector(errors, selector, &path);
    if is_empty(&selector["matchLabels"])
        && selector["matchExpressions"].as_array().is_none_or(Vec::is_empty)
    {
        let why = format!("empty selector is invalid for {kind}");
        errors.invalid(&path, selector, &why);
    }
}

fn template(errors: &mut Errors, spec: &Value, path: &Path, selector: &LabelSelector) {
    let template = &spec["template"];
    let path = path.child("template");
    if template.is_null() {
        errors.required(&path, "");
        return;
    }
    if !selector.is_empty() {
        selected_labels(errors, template, selector, &path);
    }
    pod_template(errors, template, &path);
    runs_always(errors, template, &path, "ReplicaSet");
}

/// Pods of the template must be found again.
pub(super) fn selected_labels(
    errors: &mut Errors,
    template: &Value,
    selector: &LabelSelector,
    path: &Path,
) {
    if !selector.matches_object(template) {
        let why = "`selector` does not match template `labels`";
        let path = path.child("metadata").child("labels");
        errors.invalid(&path, &template["metadata"]["labels"], why);
    }
}

/// What all kinds ask of their templates.
pub(super) fn pod_template(errors: &mut Errors, template: &Value, path: &Path) {
    labels(errors, &template["metadata"]["labels"], &path.child("labels"));
    annotations(errors, &template["metadata"]["annotations"], &path.child("annotations"));
    pod_annotations::annotations(errors, template, path);
    let (spec, path) = (&template["spec"], path.child("spec"));
    pod_spec(errors, spec, None, &path);
    if !list(spec, "ephemeralContainers").is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.forbidden(&path.child("ephemeralContainers"), why);
    }
}

/// Pods that are there to stay: nothing may end them.
pub(super) fn runs_always(errors: &mut Errors, template: &Value, path: &Path, kind: &str) {
    let path = path.child("spec");
    let restart = &template["spec"]["restartPolicy"];
    if restart.is_string() && restart != "Always" {
        errors.unsupported(&path.child("restartPolicy"), restart, &["Always"]);
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&path.child("activeDeadlineSeconds"), &why);
    }
}

fn strategy(errors: &mut Errors, strategy: &Value, path: &Path) {
    let rolling = &strategy["rollingUpdate"];
    let path_of_rolling = path.child("rollingUpdate");
    match text(strategy, "type") {
        "Recreate" => {
            if !rolling.is_null() {
                let why = "may not be specified when strategy `type` is 'Recreate'";
                errors.forbidden(&path_of_rolling, why);
            }
        }
        "RollingUpdate" => {
            for field in ["maxUnavailable", "maxSurge"] {
                amount(errors, &rolling[field], &path_of_rolling.child(field));
            }
            let unavailable = &path_of_rolling.child("maxUnavailable");
            if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
                let why = "may not be 0 when `maxSurge` is 0";
                errors.invalid(unavailable, &rolling["maxUnavailable"], why);
            }
            at_most_all(errors, &rolling["maxUnavailable"], unavailable);
        }
        _ => errors.unsupported(
            &path.child("type"),
            &strategy["type"],
            &["Recreate", "RollingUpdate"],
        ),
    }
}

fn percent(value: &Value) -> Option<u64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().unwrap_or(u64::MAX))
}

pub(super) fn is_zero(value: &Value) -> bool {
    value.as_i64() == Some(0) || percent(value) == Some(0)
}

/// A percentage that is not more than there are.
pub(super) fn at_most_all(errors: &mut Errors, value: &Value, path: &Path) {
    if percent(value).is_some_and(|percent| percent > 100) {
        errors.invalid(path, value, "must not be greater than 100%");
    }
}

/// A number of pods, or a percentage of them.
pub(super) fn amount(errors: &mut Errors, value: &Value, path: &Path) {
    if value.is_string() && percent(value).is_none() {
        let why = "a valid percent string must be a numeric string followed by an ending '%' \
                   (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
        errors.invalid(path, value, why);
    }
    errors.non_negative(path, value);
}
