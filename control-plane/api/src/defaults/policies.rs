//! Defaults of disruption budgets, autoscalers and priority classes.

use serde_json::{Map, Value, json};

use super::{child, default};
use crate::convert::autoscaler::{drop_annotations, has_metrics};
use crate::object::child_mut;

/// What an autoscaler aims at that was not told: this much of the CPU that pods ask for.
const CPU_UTILIZATION: i64 = 80;

pub(crate) fn pod_disruption_budget(budget: &mut Value) {
    child_mut(budget, "spec");
    let status = child_mut(budget, "status");
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        default(status, field, 0);
    }
}

pub(crate) fn horizontal_pod_autoscaler(autoscaler: &mut Value) {
    // They stand for fields in other versions only.
    drop_annotations(autoscaler);
    let spec = child_mut(autoscaler, "spec");
    default(spec, "minReplicas", 1);
    default(spec, "maxReplicas", 0);
    if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let target = json!({ "type": "Utilization", "averageUtilization": CPU_UTILIZATION });
        let metric = json!({ "type": "Resource", "resource": { "name": "cpu", "target": target } });
        spec.insert("metrics".to_owned(), json!([metric]));
    }
    if let Some(behavior) = child(spec, "behavior") {
        let percent = json!({ "type": "Percent", "value": 100, "periodSeconds": 15 });
        let pods = json!({ "type": "Pods", "value": 4, "periodSeconds": 15 });
        let mut up = json!({ "selectPolicy": "Max", "policies": [pods, percent] });
        let down = json!({ "selectPolicy": "Max", "policies": [percent] });
        // How long to wait before there are fewer pods is an option of the controller.
        up["stabilizationWindowSeconds"] = Value::from(0);
        scaling_rules(behavior, "scaleUp", up);
        scaling_rules(behavior, "scaleDown", down);
    }
    default(child_mut(autoscaler, "status"), "desiredReplicas", 0);
}

/// One of `autoscaling/v1`, which aims at the CPU unless an annotation has other metrics.
pub(crate) fn cpu_autoscaler(autoscaler: &mut Value) {
    let has_metrics = has_metrics(autoscaler);
    let spec = child_mut(autoscaler, "spec");
    default(spec, "minReplicas", 1);
    default(spec, "maxReplicas", 0);
    if !has_metrics {
        default(spec, "targetCPUUtilizationPercentage", CPU_UTILIZATION);
    }
}

fn scaling_rules(behavior: &mut Map<String, Value>, field: &str, standard: Value) {
    default(behavior, field, json!({}));
    let (Some(rules), Value::Object(standard)) = (child(behavior, field), standard) else { return };
    for (field, value) in standard {
        default(rules, &field, value);
    }
}

/// A priority class has a generation, which nothing raises.
pub(crate) fn initialize_priority_class(class: &mut Value) {
    child_mut(class, "metadata").insert("generation".to_owned(), Value::from(1));
}

pub(crate) fn priority_class(class: &mut Value) {
    if let Some(map) = class.as_object_mut() {
        default(map, "value", 0);
        default(map, "preemptionPolicy", "PreemptLowerPriority");
    }
}
