//! Defaults of daemon sets, stateful sets, their revisions, and pod templates.

use serde_json::{Map, Value, json};

use super::workload::own_template;
use super::{child, default, default_text, items};
use crate::object::child_mut;

/// Counts the changes of a daemon set's template; a field of the spec in versions long gone.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(set: &Value) -> i64 {
    let text = set["metadata"]["annotations"][TEMPLATE_GENERATION].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn set_template_generation(set: &mut Value, generation: i64) {
    let annotations = child_mut(super::child_mut_value(set, "metadata"), "annotations");
    annotations.insert(TEMPLATE_GENERATION.to_owned(), Value::from(generation.to_string()));
}

pub(crate) fn initialize_daemon_set(set: &mut Value) {
    let generation = template_generation(set).max(1);
    set_template_generation(set, generation);
}

/// The count is the server's: what a client writes is ignored.
pub(crate) fn carry_over_daemon_set(new: &mut Value, old: &Value) {
    let changed = new["spec"]["template"] != old["spec"]["template"];
    set_template_generation(new, template_generation(old).saturating_add(i64::from(changed)));
}

pub(crate) fn daemon_set(set: &mut Value) {
    let spec = child_mut(set, "spec");
    default(spec, "updateStrategy", json!({}));
    if let Some(strategy) = child(spec, "updateStrategy") {
        default_text(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            default(strategy, "rollingUpdate", json!({}));
            if let Some(rolling) = child(strategy, "rollingUpdate") {
                default(rolling, "maxUnavailable", 1);
                default(rolling, "maxSurge", 0);
            }
        }
    }
    default(spec, "revisionHistoryLimit", 10);
    own_template(spec);
    let status = child_mut(set, "status");
    for field in
        ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"]
    {
        default(status, field, 0);
    }
}

pub(crate) fn stateful_set(set: &mut Value) {
    let spec = child_mut(set, "spec");
    default_text(spec, "podManagementPolicy", "OrderedReady");
    default(spec, "updateStrategy", json!({}));
    if let Some(strategy) = child(spec, "updateStrategy") {
        if strategy.get("type").and_then(Value::as_str).unwrap_or_default().is_empty() {
            default_text(strategy, "type", "RollingUpdate");
            default(strategy, "rollingUpdate", json!({}));
        }
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = child(strategy, "rollingUpdate")
        {
            default(rolling, "partition", 0);
            default(rolling, "maxUnavailable", 1);
        }
    }
    default(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
    if let Some(retention) = child(spec, "persistentVolumeClaimRetentionPolicy") {
        default_text(retention, "whenDeleted", "Retain");
        default_text(retention, "whenScaled", "Retain");
    }
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    own_template(spec);
    for claim in items(spec, "volumeClaimTemplates") {
        claim_template(claim);
    }
    let status = child_mut(set, "status");
    default(status, "replicas", 0);
    default(status, "availableReplicas", 0);
}

/// A claim inside a set is shown with its kind, though it is no object of its own.
fn claim_template(claim: &mut Map<String, Value>) {
    claim.insert("apiVersion".to_owned(), Value::from("v1"));
    claim.insert("kind".to_owned(), Value::from("PersistentVolumeClaim"));
    default(claim, "spec", json!({}));
    if let Some(spec) = child(claim, "spec") {
        default(spec, "volumeMode", "Filesystem");
    }
    default(claim, "status", json!({}));
    if let Some(status) = child(claim, "status") {
        default_text(status, "phase", "Pending");
    }
}

pub(crate) fn controller_revision(revision: &mut Value) {
    if let Some(map) = revision.as_object_mut() {
        default(map, "revision", 0);
    }
}

pub(crate) fn pod_template(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        own_template(map);
    }
}
