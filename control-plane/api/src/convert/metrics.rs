//! What an autoscaler looks at, as the annotations of `autoscaling/v1` spell it.
//!
//! Guarantees: a metric that is valid in `autoscaling/v2` comes back as it went. Does not: check
//! types; who reads an annotation does.

use serde_json::{Map, Value, json};

/// For each type of metric the places of its fields, and their names in annotations.
pub(super) type Fields = [(&'static str, &'static [(&'static str, &'static str)]); 5];

/// What is to be reached.
pub(super) const SOURCES: &Fields = &[
    (
        "object",
        &[
            ("/describedObject", "target"),
            ("/metric/name", "metricName"),
            ("/metric/selector", "selector"),
            ("/target/value", "targetValue"),
            ("/target/averageValue", "averageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "selector"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
    (
        "resource",
        &[
            ("/name", "name"),
            ("/target/averageUtilization", "targetAverageUtilization"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            ("/name", "name"),
            ("/container", "container"),
            ("/target/averageUtilization", "targetAverageUtilization"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
    (
        "external",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "metricSelector"),
            ("/target/value", "targetValue"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
];

/// What was found.
pub(super) const STATUSES: &Fields = &[
    (
        "object",
        &[
            ("/describedObject", "target"),
            ("/metric/name", "metricName"),
            ("/metric/selector", "selector"),
            ("/current/value", "currentValue"),
            ("/current/averageValue", "averageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "selector"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    ),
    (
        "resource",
        &[
            ("/name", "name"),
            ("/current/averageUtilization", "currentAverageUtilization"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            ("/name", "name"),
            ("/container", "container"),
            ("/current/averageUtilization", "currentAverageUtilization"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    ),
    (
        "external",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "metricSelector"),
            ("/current/value", "currentValue"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    ),
];

/// A metric of the stored version as an annotation has it.
pub(super) fn to_annotation(fields: &Fields, metric: &Value) -> Value {
    let mut plain = json!({ "type": metric["type"] });
    for (kind, fields) in fields {
        if !metric[*kind].is_object() {
            continue;
        }
        let found = fields.iter().filter_map(|(place, name)| {
            let value = metric[*kind].pointer(place)?;
            Some(((*name).to_owned(), value.clone()))
        });
        plain[*kind] = Value::Object(found.collect());
    }
    plain
}

/// A metric of an annotation as it is stored.
pub(super) fn from_annotation(fields: &Fields, plain: &Value) -> Value {
    let mut metric = json!({ "type": plain["type"] });
    for (kind, fields) in fields {
        let Some(found) = plain[*kind].as_object() else { continue };
        let mut described = Value::Object(Map::new());
        for (place, name) in *fields {
            if let Some(value) = found.get(*name).filter(|value| !value.is_null()) {
                set(&mut described, place, value.clone());
            }
        }
        if described["target"].is_object() {
            aim(kind, &mut described["target"]);
        }
        metric[*kind] = described;
    }
    metric
}

/// Says of a target what is to be reached, which annotations leave to be guessed.
fn aim(kind: &str, target: &mut Value) {
    // Programs that cannot leave the value out write a zero.
    if kind == "object" && !target["averageValue"].is_null() && target["value"] == "0" {
        target["value"] = Value::Null;
    }
    let has = |field: &str| !target[field].is_null();
    let reached = match kind {
        "object" if !has("averageValue") => "Value",
        "external" if has("value") => "Value",
        "resource" | "containerResource" if has("averageUtilization") => "Utilization",
        _ => "AverageValue",
    };
    target["type"] = Value::from(reached);
}

/// Sets what a pointer names in an object that was made here.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut place = object;
    for step in pointer.split('/').skip(1) {
        place = &mut place[step];
    }
    *place = value;
}
