//! Daemon sets, stateful sets, their revisions, and pod templates.

use serde_json::{Value, json};

use super::containers::{list, text};
use super::metadata::{SUBDOMAIN, label_selector, metadata};
use super::names::label;
use super::workload::{
    amount, at_most_all, counts, immutable_selector, is_zero, runs_always, selected_labels,
    selector,
};
use super::{Errors, FieldError, Path, workload};
use crate::object;
use crate::schema::parse_quantity;
use crate::selector::LabelSelector;

const ACCESS_MODES: &[&str] =
    &["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

/// The fields of a stateful set's spec that may change.
const STATEFUL_SET_UPDATE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(crate) fn daemon_set(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    counts(&mut errors, spec, &path, &["minReadySeconds", "revisionHistoryLimit"]);
    // A missing selector is not complained about by itself: it selects nothing.
    if !spec["selector"].is_null() {
        selector(&mut errors, spec, &path, "daemonset");
    }
    let (template, template_path) = (&spec["template"], path.child("template"));
    if let Ok(selector) = LabelSelector::from_label_selector(&spec["selector"]) {
        selected_labels(&mut errors, template, &selector, &template_path);
    }
    workload::pod_template(&mut errors, template, &template_path);
    runs_always(&mut errors, template, &template_path, "DaemonSet");
    daemon_set_strategy(&mut errors, &spec["updateStrategy"], &path.child("updateStrategy"));
    immutable_selector(&mut errors, spec, old, &path);
    if let Some(old) = old {
        let fields = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        counts(&mut errors, &new["status"], &Path::root("status"), &fields);
        collisions(&mut errors, new, old);
    }
    errors.into_vec()
}

/// Revisions with a name that is taken are counted, so that the count never goes back.
fn collisions(errors: &mut Errors, new: &Value, old: &Value) {
    let count = |set: &Value| set["status"]["collisionCount"].as_i64().unwrap_or(0);
    if count(new) < count(old) {
        let path = Path::root("status").child("collisionCount");
        errors.invalid(&path, &Value::from(count(new)), "cannot be decremented");
    }
}

fn daemon_set_strategy(errors: &mut Errors, strategy: &Value, path: &Path) {
    match text(strategy, "type") {
        "OnDelete" => return,
        "RollingUpdate" => {}
        _ => return errors.unsupported(path, strategy, &["RollingUpdate", "OnDelete"]),
    }
    let (rolling, path) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    if rolling.is_null() {
        return errors.required(&path, "");
    }
    for field in ["maxUnavailable", "maxSurge"] {
        amount(errors, &rolling[field], &path.child(field));
        at_most_all(errors, &rolling[field], &path.child(field));
    }
    match (is_zero(&rolling["maxUnavailable"]), is_zero(&rolling["maxSurge"])) {
        (false, false) => {
            let why = "may not be set when maxUnavailable is non-zero";
            errors.invalid(&path.child("maxSurge"), &rolling["maxSurge"], why);
        }
        (true, true) => {
            errors.required(&path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0");
        }
        _ => {}
    }
}

pub(crate) fn stateful_set(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    // Hosts are called after the set; sets from when that was not checked may still change.
    metadata(&mut errors, new, old, true, if old.is_none() { label } else { SUBDOMAIN });
    let (spec, path) = (&new["spec"], Path::root("spec"));
    pod_management(&mut errors, spec, &path);
    stateful_set_strategy(&mut errors, spec, &path);
    let retention = &spec["persistentVolumeClaimRetentionPolicy"];
    for field in ["whenDeleted", "whenScaled"] {
        let path = path.child("persistentVolumeClaimRetentionPolicy").child(field);
        errors.one_of(&path, &retention[field], &["Retain", "Delete"]);
    }
    counts(&mut errors, spec, &path, &["replicas", "minReadySeconds"]);
    let start = &spec["ordinals"]["start"];
    errors.non_negative(&path.child("ordinals").child("start"), start);
    if old.is_none() {
        let service = text(spec, "serviceName");
        if !service.is_empty() {
            errors.complain(&path.child("serviceName"), service, label(service));
        }
        claim_templates(&mut errors, spec, &path.child("volumeClaimTemplates"));
    }
    selector(&mut errors, spec, &path, "statefulset");
    let template_path = path.child("template");
    if let Ok(selector) = LabelSelector::from_label_selector(&spec["selector"])
        && !selector.is_empty()
    {
        selected_labels(&mut errors, &spec["template"], &selector, &template_path);
    }
    workload::pod_template(&mut errors, &with_claims(spec), &template_path);
    runs_always(&mut errors, &spec["template"], &template_path, "StatefulSet");
    if let Some(old) = old {
        stateful_set_update(&mut errors, spec, &old["spec"], &path);
        stateful_set_status(&mut errors, &new["status"]);
        collisions(&mut errors, new, old);
    }
    errors.into_vec()
}

fn pod_management(errors: &mut Errors, spec: &Value, path: &Path) {
    let (policy, path) = (&spec["podManagementPolicy"], path.child("podManagementPolicy"));
    match policy.as_str().unwrap_or_default() {
        "" => errors.required(&path, ""),
        "OrderedReady" | "Parallel" => {}
        _ => errors.invalid(&path, policy, "must be 'OrderedReady' or 'Parallel'"),
    }
}

fn stateful_set_strategy(errors: &mut Errors, spec: &Value, path: &Path) {
    let (strategy, path) = (&spec["updateStrategy"], path.child("updateStrategy"));
    let (rolling, rolling_path) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match text(strategy, "type") {
        "" => errors.required(&path, ""),
        "OnDelete" => {
            if !rolling.is_null() {
                let why = "only allowed for updateStrategy 'RollingUpdate'";
                errors.invalid(&rolling_path, rolling, why);
            }
        }
        "RollingUpdate" => {
            errors.non_negative(&rolling_path.child("partition"), &rolling["partition"]);
            let (unavailable, path) =
                (&rolling["maxUnavailable"], rolling_path.child("maxUnavailable"));
            amount(errors, unavailable, &path);
            if is_zero(unavailable) {
                errors.invalid(&path, unavailable, "cannot be 0");
            }
            at_most_all(errors, unavailable, &path);
        }
        _ => errors.invalid(&path, strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

/// The template with the volumes that its pods get from the claims.
fn with_claims(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    let claims: Vec<&str> = list(spec, "volumeClaimTemplates").iter().map(object::name).collect();
    if claims.is_empty() || !template["spec"].is_object() {
        return template;
    }
    let mut volumes = list(&template["spec"], "volumes").to_vec();
    volumes.retain(|volume| !claims.contains(&text(volume, "name")));
    volumes.extend(
        claims
            .iter()
            .map(|name| json!({ "name": name, "persistentVolumeClaim": { "claimName": name } })),
    );
    template["spec"]["volumes"] = Value::Array(volumes);
    template
}

fn claim_templates(errors: &mut Errors, spec: &Value, path: &Path) {
    for (index, claim) in list(spec, "volumeClaimTemplates").iter().enumerate() {
        let (spec, path) = (&claim["spec"], path.index(index).child("spec"));
        let modes = list(spec, "accessModes");
        let modes_path = path.child("accessModes");
        if modes.is_empty() {
            errors.required(&modes_path, "at least 1 access mode is required");
        }
        for mode in modes {
            errors.one_of(&modes_path, mode, ACCESS_MODES);
        }
        if !spec["selector"].is_null() {
            label_selector(errors, &spec["selector"], &path.child("selector"));
        }
        let (storage, path) =
            (&spec["resources"]["requests"]["storage"], path.child("resources").key("storage"));
        match parse_quantity(storage) {
            _ if storage.is_null() => errors.required(&path, ""),
            Ok(amount) if amount.is_negative() || amount.is_zero() => {
                errors.invalid(&path, storage, "must be greater than zero");
            }
            _ => {}
        }
    }
}

fn stateful_set_update(errors: &mut Errors, spec: &Value, old: &Value, path: &Path) {
    let fixed = |spec: &Value| -> Vec<(String, Value)> {
        let fields = spec.as_object().into_iter().flatten();
        let fixed = fields.filter(|(field, _)| !STATEFUL_SET_UPDATE.contains(&field.as_str()));
        fixed.map(|(field, value)| (field.clone(), value.clone())).collect()
    };
    if fixed(spec) != fixed(old) {
        let (last, others) = STATEFUL_SET_UPDATE.split_last().unwrap_or((&"", &[]));
        let others: Vec<String> = others.iter().map(|field| format!("'{field}'")).collect();
        let why = format!(
            "updates to statefulset spec for fields other than {} and '{last}' are forbidden",
            others.join(", ")
        );
        errors.forbidden(path, &why);
    }
}

fn stateful_set_status(errors: &mut Errors, status: &Value) {
    let path = Path::root("status");
    let parts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    counts(errors, status, &path, &["replicas", "observedGeneration", "collisionCount"]);
    counts(errors, status, &path, &parts);
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    for field in parts {
        if count(field) > count("replicas") {
            let why = "cannot be greater than status.replicas";
            errors.invalid(&path.child(field), &status[field], why);
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let why = "cannot be greater than status.readyReplicas";
        errors.invalid(&path.child("availableReplicas"), &status["availableReplicas"], why);
    }
}

pub(crate) fn controller_revision(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    errors.non_negative(&Path::root("revision"), &new["revision"]);
    let (data, path) = (&new["data"], Path::root("data"));
    match old {
        Some(old) => errors.immutable(&path, data, &old["data"]),
        None if data.is_null() => errors.required(&path, "data is mandatory"),
        None if !data.is_object() => {
            errors.required(&path, "data must be a valid JSON object");
        }
        None => {}
    }
    errors.into_vec()
}

pub(crate) fn pod_template(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    workload::pod_template(&mut errors, &new["template"], &Path::root("template"));
    errors.into_vec()
}
