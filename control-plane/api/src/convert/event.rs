//! Events: `events.k8s.io/v1` and the core group have the same fields under other names.

use serde_json::Value;

/// Names of fields, as they are stored and in the newer version.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

pub(crate) fn from_stored(event: &mut Value) {
    for (stored, newer) in NAMES {
        rename(event, stored, newer);
    }
}

pub(crate) fn to_stored(event: &mut Value) {
    for (stored, newer) in NAMES {
        rename(event, newer, stored);
    }
}

fn rename(object: &mut Value, from: &str, to: &str) {
    let Some(map) = object.as_object_mut() else { return };
    if let Some(value) = map.remove(from) {
        map.insert(to.to_owned(), value);
    }
}
