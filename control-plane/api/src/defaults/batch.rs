//! Defaults of jobs and cron jobs.

use serde_json::{Map, Value, json};

use super::workload::own_template;
use super::{child, child_mut_value, default, default_text, items};
use crate::object::{self, child_mut};

/// On a job's pods: the names from before labels of the project had a prefix, and the new ones.
pub(crate) const JOB_NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
pub(crate) const CONTROLLER_UID_LABELS: [&str; 2] =
    ["controller-uid", "batch.kubernetes.io/controller-uid"];

/// Makes the selector, by the job's uid, unless the user brings one along. What the user has
/// set stays: validation refuses what does not fit.
pub(crate) fn initialize_job(job: &mut Value) {
    let spec = child_mut(job, "spec");
    if spec.get("manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let (name, uid) = (object::name(job).to_owned(), object::uid(job).to_owned());
    let template = child_mut_value(child_mut_value(job, "spec"), "template");
    let labels = child_mut(child_mut_value(template, "metadata"), "labels");
    for (keys, value) in [(JOB_NAME_LABELS, &name), (CONTROLLER_UID_LABELS, &uid)] {
        for key in keys {
            default(labels, key, value.as_str());
        }
    }
    let selector = child_mut_value(child_mut_value(job, "spec"), "selector");
    default(child_mut(selector, "matchLabels"), CONTROLLER_UID_LABELS[1], uid);
}

pub(crate) fn job(job: &mut Value) {
    let spec = child_mut(job, "spec");
    let unset = |field: &str| spec.get(field).is_none_or(Value::is_null);
    if unset("parallelism") && unset("completions") {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    // Where each index has its own limit, the common one does not stand in the way.
    let by_index = spec.get("backoffLimitPerIndex").is_some_and(Value::is_number);
    default(spec, "backoffLimit", if by_index { i32::MAX } else { 6 });
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    let mut replacement = "TerminatingOrFailed";
    if let Some(policy) = child(spec, "podFailurePolicy") {
        replacement = "Failed";
        for rule in items(policy, "rules") {
            for pattern in items(rule, "onPodConditions") {
                default_text(pattern, "status", "True");
            }
        }
    }
    default(spec, "podReplacementPolicy", replacement);
    own_template(spec);
    let labels = job["spec"]["template"]["metadata"]["labels"].clone();
    if labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        let metadata = child_mut(job, "metadata");
        if metadata.get("labels").and_then(Value::as_object).is_none_or(Map::is_empty) {
            metadata.insert("labels".to_owned(), labels);
        }
    }
    child_mut(job, "status");
}

pub(crate) fn cron_job(cron_job: &mut Value) {
    let spec = child_mut(cron_job, "spec");
    default_text(spec, "concurrencyPolicy", "Allow");
    default(spec, "suspend", false);
    default(spec, "successfulJobsHistoryLimit", 3);
    default(spec, "failedJobsHistoryLimit", 1);
    default(spec, "jobTemplate", json!({}));
    if let Some(job) = child(spec, "jobTemplate") {
        default(job, "spec", json!({}));
        // The rest of its fields get their defaults in each job.
        if let Some(spec) = child(job, "spec") {
            own_template(spec);
        }
    }
    child_mut(cron_job, "status");
}
