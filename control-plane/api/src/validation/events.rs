//! Events, of the core group and of `events.k8s.io`, which asks for more. Both are checked as they
//! are stored, and so the fields are called by the names of the core group.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::containers::text;
use super::equality::{same, says_nothing};
use super::metadata::{SUBDOMAIN, metadata};
use super::names::{path_segment, qualified_name};
use super::{Errors, FieldError, Path};
use crate::object;

/// The longest note.
const NOTE_LENGTH: usize = 1024;
/// The longest of the other texts.
const TEXT_LENGTH: usize = 128;
/// What an update through `events.k8s.io` may not change, beside the reporter and the time.
const FIXED: [&str; 11] = [
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "type",
    "action",
    "related",
    "reportingInstance",
];

pub(crate) fn event(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, path_segment);
    any_event(&mut errors, new, "reportingComponent");
    errors.into_vec()
}

/// An event of `events.k8s.io`.
pub(crate) fn reported_event(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    // One that was made through the core group may have another name.
    let name = if old.is_none() { SUBDOMAIN } else { path_segment };
    metadata(&mut errors, new, old, true, name);
    any_event(&mut errors, new, "reportingController");
    match old {
        None => new_event(&mut errors, new),
        Some(old) => changed_event(&mut errors, new, old),
    }
    errors.into_vec()
}

/// What holds of every event. Those with a time are of the newer kind, whoever writes them.
fn any_event(errors: &mut Errors, event: &Value, reporter: &str) {
    let involved = text(&event["involvedObject"], "namespace");
    let namespace = object::namespace(event);
    let newer = !event["eventTime"].is_null();
    // An event about an object without a namespace goes to "default".
    let matches = match (newer, involved.is_empty()) {
        (false, true) => namespace == "default",
        (false, false) => involved == namespace,
        (true, true) => matches!(namespace, "default" | "kube-system"),
        (true, false) => true,
    };
    if !matches {
        let path = Path::root("involvedObject").child("namespace");
        errors.invalid_text(&path, involved, "does not match event.namespace");
    }
    if !newer {
        return;
    }
    let controller = text(event, "reportingComponent");
    let path = Path::root(reporter);
    if controller.is_empty() {
        errors.required(&path, "");
    }
    errors.complain(&path, controller, qualified_name(controller));
    for field in ["reportingInstance", "action", "reason"] {
        if text(event, field).is_empty() {
            errors.required(&Path::root(field), "");
        }
        at_most(errors, event, field, TEXT_LENGTH);
    }
    at_most(errors, event, "message", NOTE_LENGTH);
}

fn at_most(errors: &mut Errors, event: &Value, field: &str, limit: usize) {
    if text(event, field).len() > limit {
        let why = format!("can have at most {limit} characters");
        errors.invalid_text(&Path::root(field), "", &why);
    }
}

fn new_event(errors: &mut Errors, event: &Value) {
    series(errors, event);
    if event["eventTime"].is_null() {
        errors.required(&Path::root("eventTime"), "");
    }
    let kind = text(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid_text(&Path::root("type"), "", &format!("has invalid value: {kind}"));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count"] {
        if !is_unset(&event[field]) {
            errors.invalid_text(&Path::root(field), "", "needs to be unset");
        }
    }
    let source = &event["source"];
    if !text(source, "component").is_empty() || !text(source, "host").is_empty() {
        errors.invalid_text(&Path::root("source"), "", "needs to be unset");
    }
}

fn series(errors: &mut Errors, event: &Value) {
    let series = &event["series"];
    if series.is_null() {
        return;
    }
    let path = Path::root("series");
    if series["count"].as_i64().unwrap_or(0) < 2 {
        errors.invalid_text(&path.child("count"), "", "should be at least 2");
    }
    if series["lastObservedTime"].is_null() {
        errors.required(&path.child("lastObservedTime"), "");
    }
}

fn changed_event(errors: &mut Errors, new: &Value, old: &Value) {
    if new["series"] != old["series"] {
        series(errors, new);
    }
    let fields = FIXED.iter().map(|field| (*field, *field));
    for (field, name) in fields.chain([("reportingComponent", "reportingController")]) {
        let (new, old) = (&new[field], &old[field]);
        let is_same = same(new, old) || is_unset(new) && is_unset(old);
        if !is_same {
            errors.immutable(&Path::root(name), new, old);
        }
    }
    let (new, old) = (&new["eventTime"], &old["eventTime"]);
    if microseconds(new) != microseconds(old) {
        errors.immutable(&Path::root("eventTime"), new, old);
    }
}

/// Whether typed clients could not tell it from what is not there.
fn is_unset(value: &Value) -> bool {
    says_nothing(value) || *value == 0 || value.as_object().is_some_and(Map::is_empty)
}

/// Clients may write more digits than are kept.
fn microseconds(time: &Value) -> Option<i64> {
    time.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
}
