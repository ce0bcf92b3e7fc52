//! Autoscalers: `autoscaling/v1` knows how much of the CPU is to be used, and nothing else. The
//! rest of what is stored, as `autoscaling/v2`, is in annotations there, and only there.
//!
//! Guarantees: an annotation whose content does not fit goes away without effect. Metrics come back
//! in an order of their own: the CPU's is the last.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::{Map, Value, json};

use super::metrics::{Fields, SOURCES, STATUSES, from_annotation, to_annotation};
use crate::object::{annotations, child_mut};
use crate::resource::decode::decode;
use crate::schema::graph;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// The stored type.
const SCHEMA: &str = "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler";
const TARGET: &str = "targetCPUUtilizationPercentage";
const CURRENT: &str = "currentCPUUtilizationPercentage";

/// Takes away the annotations that stand for fields, where the fields are there themselves.
pub(crate) fn drop_annotations(autoscaler: &mut Value) {
    let there = annotations(autoscaler).is_some_and(|all| {
        [METRICS, BEHAVIOR, CURRENT_METRICS, CONDITIONS].iter().any(|key| all.contains_key(*key))
    });
    if !there {
        return;
    }
    let metadata = child_mut(autoscaler, "metadata");
    if let Some(Value::Object(all)) = metadata.get_mut("annotations") {
        for key in [METRICS, BEHAVIOR, CURRENT_METRICS, CONDITIONS] {
            all.remove(key);
        }
        if all.is_empty() {
            metadata.remove("annotations");
        }
    }
}

/// Whether an autoscaler of `autoscaling/v1` has other metrics than the CPU's.
pub(crate) fn has_metrics(autoscaler: &Value) -> bool {
    metrics(autoscaler).is_some()
}

pub(crate) fn from_stored(autoscaler: &mut Value) {
    drop_annotations(autoscaler);
    let mut kept: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = part(autoscaler, "spec") {
        let mut metrics = take_list(spec, "metrics");
        let of_cpu = |metric: &Value| utilization(metric, "/target/averageUtilization");
        let place = metrics.iter().rposition(|metric| of_cpu(metric).is_some());
        if let Some(target) = place.and_then(|place| of_cpu(&metrics.remove(place))) {
            spec.insert(TARGET.to_owned(), target);
        }
        kept.push((METRICS, metrics.iter().map(|it| to_annotation(SOURCES, it)).collect()));
        let behavior = spec.remove("behavior").unwrap_or_default();
        kept.push((BEHAVIOR, with_keys(behavior, str::to_ascii_uppercase)));
    }
    if let Some(status) = part(autoscaler, "status") {
        // It is always written there.
        status.entry("currentReplicas").or_insert(Value::from(0));
        let metrics = take_list(status, "currentMetrics");
        let of_cpu = |metric: &Value| utilization(metric, "/current/averageUtilization");
        if let Some(current) = metrics.iter().filter_map(of_cpu).next_back() {
            status.insert(CURRENT.to_owned(), current);
        }
        let metrics = metrics.iter().map(|it| to_annotation(STATUSES, it)).collect();
        kept.push((CURRENT_METRICS, metrics));
        kept.push((CONDITIONS, Value::Array(take_list(status, "conditions"))));
    }
    kept.retain(|(_, value)| !value.is_null() && *value != json!([]));
    if kept.is_empty() {
        return;
    }
    child_mut(autoscaler, "metadata");
    let annotations = child_mut(&mut autoscaler["metadata"], "annotations");
    for (key, value) in kept {
        annotations.insert(key.to_owned(), Value::from(value.to_string()));
    }
}

pub(crate) fn to_stored(autoscaler: &mut Value) {
    let others = metrics(autoscaler);
    let behavior = annotation(autoscaler, BEHAVIOR)
        .and_then(|text| checked("spec", "behavior", with_keys(text, str::to_ascii_lowercase)));
    let found = annotation(autoscaler, CURRENT_METRICS)
        .and_then(|found| checked("status", "currentMetrics", all_of(STATUSES, &found)?));
    let conditions = annotation(autoscaler, CONDITIONS)
        .and_then(|conditions| checked("status", "conditions", conditions));
    drop_annotations(autoscaler);
    let target = take(autoscaler, "spec", TARGET);
    let target = target.map(|target| {
        let target = json!({ "type": "Utilization", "averageUtilization": target });
        json!({ "type": "Resource", "resource": { "name": "cpu", "target": target } })
    });
    let metrics: Vec<Value> = others.into_iter().flatten().chain(target).collect();
    // The annotation knows more than the number.
    let current = take(autoscaler, "status", CURRENT);
    let of_cpu = current.map(|current| {
        let current = json!({ "averageUtilization": current });
        json!([{ "type": "Resource", "resource": { "name": "cpu", "current": current } }])
    });
    let metrics = Some(metrics).filter(|metrics| !metrics.is_empty()).map(Value::Array);
    let fields = [
        ("spec", "metrics", metrics),
        ("spec", "behavior", behavior),
        ("status", "currentMetrics", found.or(of_cpu)),
        ("status", "conditions", conditions),
    ];
    for (place, field, value) in fields {
        if let Some(value) = value {
            child_mut(autoscaler, place).insert(field.to_owned(), value);
        }
    }
    if let Some(status) = part(autoscaler, "status")
        && status.get("currentReplicas").is_some_and(|replicas| *replicas == 0)
    {
        status.remove("currentReplicas");
    }
}

/// The metrics that an annotation has, as they are stored.
fn metrics(autoscaler: &Value) -> Option<Vec<Value>> {
    let plain = annotation(autoscaler, METRICS)?;
    match checked("spec", "metrics", all_of(SOURCES, &plain)?)? {
        Value::Array(metrics) if !metrics.is_empty() => Some(metrics),
        _ => None,
    }
}

fn all_of(fields: &Fields, plain: &Value) -> Option<Value> {
    let metrics = plain.as_array()?.iter();
    let metrics = metrics.map(|it| it.is_object().then(|| from_annotation(fields, it)));
    metrics.collect::<Option<Vec<Value>>>().map(Value::Array)
}

fn annotation(autoscaler: &Value, key: &str) -> Option<Value> {
    let text = annotations(autoscaler)?.get(key)?.as_str()?;
    serde_json::from_str(text).ok().filter(|value: &Value| !value.is_null())
}

/// What is to be at a field of the stored version, as that spells it, if it is of its type.
fn checked(part: &str, field: &str, value: Value) -> Option<Value> {
    let mut object = json!({ "metadata": {} });
    object[part][field] = value;
    decode::<HorizontalPodAutoscaler>(&object).ok()?;
    graph().normalize(SCHEMA, &mut object);
    Some(object[part][field].take()).filter(|value| !value.is_null())
}

/// The utilization of the CPU that a metric is about.
fn utilization(metric: &Value, place: &str) -> Option<Value> {
    let resource = &metric["resource"];
    let is_it = metric["type"] == "Resource" && resource["name"] == "cpu";
    resource.pointer(place).filter(|value| is_it && !value.is_null()).cloned()
}

fn part<'a>(autoscaler: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    autoscaler.get_mut(name).and_then(Value::as_object_mut)
}

fn take(autoscaler: &mut Value, name: &str, field: &str) -> Option<Value> {
    part(autoscaler, name)?.remove(field).filter(|value| !value.is_null())
}

fn take_list(map: &mut Map<String, Value>, field: &str) -> Vec<Value> {
    match map.remove(field) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// With the first letter of every key changed: the annotation spells the fields of a behavior as
/// the program does that wrote the first one.
fn with_keys(value: Value, change: fn(&str) -> String) -> Value {
    match value {
        Value::Object(map) => {
            let renamed = map.into_iter().map(|(key, value)| {
                let rest = key.char_indices().nth(1).map_or(key.len(), |(place, _)| place);
                let (first, rest) = key.split_at(rest);
                (format!("{}{rest}", change(first)), with_keys(value, change))
            });
            Value::Object(renamed.collect())
        }
        Value::Array(list) => list.into_iter().map(|item| with_keys(item, change)).collect(),
        other => other,
    }
}
