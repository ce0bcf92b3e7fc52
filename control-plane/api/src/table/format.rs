//! How cells write durations, maps and lists.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// A duration as `kubectl` prints it: two units at most, fewer the longer it is.
pub(super) fn human_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        ..-1 => return "<invalid>".to_owned(),
        -1..0 => return "0s".to_owned(),
        0..120 => return format!("{seconds}s"),
        _ => {}
    }
    let minutes = seconds / 60;
    if minutes < 10 {
        return pair(minutes, "m", seconds % 60, "s");
    }
    if minutes < 3 * 60 {
        return format!("{minutes}m");
    }
    let hours = minutes / 60;
    if hours < 8 {
        return pair(hours, "h", minutes % 60, "m");
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    let days = hours / 24;
    if hours < 192 {
        return pair(days, "d", hours % 24, "h");
    }
    if days < 2 * 365 {
        return format!("{days}d");
    }
    let years = days / 365;
    if days < 8 * 365 {
        return pair(years, "y", days % 365, "d");
    }
    format!("{years}y")
}

fn pair(big: i64, big_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        format!("{big}{big_unit}")
    } else {
        format!("{big}{big_unit}{small}{small_unit}")
    }
}

pub(super) fn timestamp(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// The time since a timestamp.
pub(super) fn since(value: &Value, now: Timestamp) -> String {
    match timestamp(value) {
        Some(then) => human_duration(now.duration_since(then)),
        None => "<unknown>".to_owned(),
    }
}

pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    Value::from(since(&object["metadata"]["creationTimestamp"], now))
}

pub(super) fn name(object: &Value) -> Value {
    Value::from(crate::object::name(object))
}

/// The value of an annotation.
pub(super) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    crate::object::annotations(object)?.get(key)?.as_str()
}

/// The name; it says so when one of the annotations marks the object as the default of its kind.
pub(super) fn name_of_default(object: &Value, marks: &[&str]) -> Value {
    let default = marks.iter().any(|key| annotation(object, key) == Some("true"));
    Value::from(format!(
        "{}{}",
        crate::object::name(object),
        if default { " (default)" } else { "" }
    ))
}

/// The text at a pointer, or what stands for a missing one.
pub(super) fn text_or<'a>(object: &'a Value, pointer: &str, missing: &'a str) -> &'a str {
    let text = object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text.is_empty() { missing } else { text }
}

/// The number at a pointer, or 0.
pub(super) fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// A map of labels as `a=b,c=d`.
pub(super) fn labels(value: &Value) -> String {
    let map = value.as_object().into_iter().flatten();
    let mut pairs: Vec<String> =
        map.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.sort();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The values of one field of a template's containers.
pub(super) fn containers(object: &Value, field: &str) -> Value {
    containers_at(object, "/spec/template/spec/containers", field)
}

/// The values of one field of the containers at a pointer.
pub(super) fn containers_at(object: &Value, pointer: &str, field: &str) -> Value {
    let containers = list(object, pointer).iter();
    let values: Vec<&str> = containers.filter_map(|one| one[field].as_str()).collect();
    Value::from(values.join(","))
}
