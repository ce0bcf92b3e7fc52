//! The three-way merge behind `apply`: what was applied last, what is applied now, what is there.
//!
//! Guarantees: pure. A field that the manifest sets gets the manifest's value; a field that the
//! last manifest set and this one does not is removed; every other field stays as it is, also in
//! the items of lists that have a key. Lists without a key are replaced as a whole.

use serde_json::{Map, Value};

/// Lists whose items are told apart by a field, by the name of the list.
const LIST_KEYS: [(&str, &[&str]); 14] = [
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("env", &["name"]),
    ("volumes", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
    // A container port has one, a service port the other; each with its protocol.
    ("ports", &["containerPort", "port"]),
    ("imagePullSecrets", &["name"]),
    ("secrets", &["name"]),
    ("hostAliases", &["ip"]),
    ("topologySpreadConstraints", &["topologyKey"]),
    ("conditions", &["type"]),
    ("ownerReferences", &["uid"]),
];

/// What the object should be now.
pub(super) fn three_way(last: &Value, new: &Value, live: &Value) -> Value {
    merge("", last, new, live)
}

fn merge(field: &str, last: &Value, new: &Value, live: &Value) -> Value {
    match (new, live) {
        (Value::Object(new), Value::Object(live)) => Value::Object(merge_maps(last, new, live)),
        (Value::Array(new_items), Value::Array(live_items)) => {
            match list_key(field, new_items, live_items) {
                Some(key) => Value::Array(merge_lists(key, last, new_items, live_items)),
                None => new.clone(),
            }
        }
        _ => new.clone(),
    }
}

fn merge_maps(
    last: &Value,
    new: &Map<String, Value>,
    live: &Map<String, Value>,
) -> Map<String, Value> {
    let mut merged = live.clone();
    for field in last.as_object().into_iter().flat_map(Map::keys) {
        if !new.contains_key(field) {
            merged.remove(field);
        }
    }
    for (field, value) in new {
        if value.is_null() {
            // In a manifest, null means: not set.
            merged.remove(field);
            continue;
        }
        let below = |map: &Map<String, Value>| map.get(field).cloned().unwrap_or_default();
        let last = last.get(field).cloned().unwrap_or_default();
        merged.insert(field.clone(), merge(field, &last, value, &below(live)));
    }
    merged
}

/// The field that tells the items of a list apart, when every item has it.
fn list_key(field: &str, new: &[Value], live: &[Value]) -> Option<&'static str> {
    let (_, keys) = LIST_KEYS.iter().find(|(list, _)| *list == field)?;
    let keyed = |key: &str| new.iter().chain(live).all(|item| item.get(key).is_some());
    keys.iter().copied().find(|key| keyed(key))
}

/// Two items are the same when their keys are, and for ports the protocol too.
fn same(key: &str, left: &Value, right: &Value) -> bool {
    fn protocol(item: &Value) -> &str {
        item["protocol"].as_str().unwrap_or("TCP")
    }
    let is_port = key == "containerPort" || key == "port";
    left[key] == right[key] && (!is_port || protocol(left) == protocol(right))
}

/// The manifest's items in its order, then those that somebody else added.
fn merge_lists(key: &str, last: &Value, new: &[Value], live: &[Value]) -> Vec<Value> {
    let last = last.as_array().map(Vec::as_slice).unwrap_or_default();
    let find = |items: &[Value], item: &Value| {
        items.iter().find(|other| same(key, other, item)).cloned().unwrap_or_default()
    };
    let mut merged: Vec<Value> =
        new.iter().map(|item| merge("", &find(last, item), item, &find(live, item))).collect();
    let added_by_others = live.iter().filter(|item| {
        let listed = |items: &[Value]| items.iter().any(|other| same(key, other, item));
        !listed(new) && !listed(last)
    });
    merged.extend(added_by_others.cloned());
    merged
}

/// The JSON merge patch that turns one value into the other; `None` when they are equal.
pub(super) fn difference(from: &Value, to: &Value) -> Option<Value> {
    let (Value::Object(from), Value::Object(to)) = (from, to) else {
        return (from != to).then(|| to.clone());
    };
    let mut patch = Map::new();
    for field in from.keys().filter(|field| !to.contains_key(*field)) {
        patch.insert(field.clone(), Value::Null);
    }
    for (field, value) in to {
        match from.get(field) {
            Some(old) => {
                patch.extend(difference(old, value).map(|it| (field.clone(), it)));
            }
            None => {
                patch.insert(field.clone(), value.clone());
            }
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields() {
        let cases = [
            ("set", json!({}), json!({"a": 1}), json!({"b": 2}), json!({"a": 1, "b": 2})),
            ("changed", json!({"a": 1}), json!({"a": 3}), json!({"a": 1}), json!({"a": 3})),
            (
                "others'",
                json!({"a": 1}),
                json!({"a": 1}),
                json!({"a": 1, "b": 2}),
                json!({"a": 1, "b": 2}),
            ),
            (
                "removed",
                json!({"a": 1, "b": 2}),
                json!({"a": 1}),
                json!({"a": 1, "b": 2}),
                json!({"a": 1}),
            ),
            ("null", json!({}), json!({"a": null}), json!({"a": 1}), json!({})),
            (
                "nested",
                json!({"m": {"x": 1, "y": 1}}),
                json!({"m": {"x": 2}}),
                json!({"m": {"x": 1, "y": 1, "z": 1}}),
                json!({"m": {"x": 2, "z": 1}}),
            ),
            (
                "list without a key",
                json!({"args": ["a"]}),
                json!({"args": ["b"]}),
                json!({"args": ["a", "c"]}),
                json!({"args": ["b"]}),
            ),
        ];
        for (name, last, new, live, expected) in cases {
            assert_eq!(three_way(&last, &new, &live), expected, "{name}");
        }
    }

    #[test]
    fn items_keep_what_the_server_filled_in() {
        let last = json!({"containers": [{"name": "a", "image": "x:1"}]});
        let new = json!({"containers": [{"name": "a", "image": "x:2"}]});
        let live = json!({"containers": [
            {"name": "a", "image": "x:1", "imagePullPolicy": "IfNotPresent"},
            {"name": "injected", "image": "y"},
        ]});
        let expected = json!({"containers": [
            {"name": "a", "image": "x:2", "imagePullPolicy": "IfNotPresent"},
            {"name": "injected", "image": "y"},
        ]});
        assert_eq!(three_way(&last, &new, &live), expected);
    }

    #[test]
    fn items_that_the_manifest_dropped_go() {
        let last = json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]});
        let new = json!({"env": [{"name": "B", "value": "2"}]});
        assert_eq!(three_way(&last, &new, &last), new);
    }

    #[test]
    fn ports_differ_by_protocol() {
        let new = json!({"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]});
        let live = json!({"ports": [
            {"port": 53, "protocol": "TCP", "nodePort": 30001},
            {"port": 53, "protocol": "UDP", "nodePort": 30002},
        ]});
        let expected = json!({"ports": [
            {"port": 53, "protocol": "UDP", "nodePort": 30002},
            {"port": 53, "protocol": "TCP", "nodePort": 30001},
        ]});
        assert_eq!(three_way(&json!({}), &new, &live), expected);
    }

    #[test]
    fn difference_is_a_merge_patch() {
        let from = json!({"a": 1, "m": {"x": 1, "y": 1}, "l": [1, 2]});
        let to = json!({"m": {"x": 2, "y": 1}, "l": [1], "n": 1});
        let expected = json!({"a": null, "m": {"x": 2}, "l": [1], "n": 1});
        assert_eq!(difference(&from, &to), Some(expected));
        assert_eq!(difference(&from, &from), None);
    }
}
