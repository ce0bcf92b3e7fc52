//! Defaults of the kinds that make pods.

use serde_json::{Map, Value, json};

use super::{child, default, default_text};
use crate::object::child_mut;

fn template(spec: &mut Map<String, Value>) {
    let Some(template) = child(spec, "template") else { return };
    default(template, "spec", json!({}));
    if let Some(spec) = child(template, "spec") {
        super::pod_spec::pod_spec(spec);
    }
}

/// Of a kind that has a template even when nobody wrote one.
pub(super) fn own_template(spec: &mut Map<String, Value>) {
    default(spec, "template", json!({}));
    template(spec);
}

pub(crate) fn replication_controller(controller: &mut Value) {
    let labels = controller["spec"]["template"]["metadata"]["labels"].clone();
    if labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        for (parent, field) in [("spec", "selector"), ("metadata", "labels")] {
            let parent = child_mut(controller, parent);
            if parent.get(field).and_then(Value::as_object).is_none_or(Map::is_empty) {
                parent.insert(field.to_owned(), labels.clone());
            }
        }
    }
    let spec = child_mut(controller, "spec");
    default(spec, "replicas", 1);
    template(spec);
    default(child_mut(controller, "status"), "replicas", 0);
}

pub(crate) fn replica_set(set: &mut Value) {
    let spec = child_mut(set, "spec");
    default(spec, "replicas", 1);
    template(spec);
    default(child_mut(set, "status"), "replicas", 0);
}

pub(crate) fn deployment(deployment: &mut Value) {
    let spec = child_mut(deployment, "spec");
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    default(spec, "strategy", json!({}));
    if let Some(strategy) = child(spec, "strategy") {
        default_text(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            default(strategy, "rollingUpdate", json!({}));
            if let Some(rolling) = child(strategy, "rollingUpdate") {
                default(rolling, "maxSurge", "25%");
                default(rolling, "maxUnavailable", "25%");
            }
        }
    }
    template(spec);
    child_mut(deployment, "status");
}
