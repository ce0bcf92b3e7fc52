//! When two values say the same, though one spells out what the other leaves out.

use std::collections::BTreeSet;

use serde_json::Value;

/// Whether the two are equal; an empty list, an empty text and `false` are what is not there.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(left), Value::Object(right)) => {
            let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            keys.into_iter().all(|key| same(&one[key.as_str()], &other[key.as_str()]))
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| same(l, r))
        }
        _ => one == other || (says_nothing(one) && says_nothing(other)),
    }
}

/// Whether leaving the value out says as much.
pub(super) fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_left_out_is_what_is_empty() {
        let table = [
            (json!(null), json!([]), true),
            (json!({"a": ""}), json!({}), true),
            (json!({"a": {"b": false}}), json!({"a": {}}), true),
            (json!([{"a": []}]), json!([{}]), true),
            (json!({}), json!(null), false),
            (json!(0), json!(null), false),
            (json!([1, 2]), json!([2, 1]), false),
            (json!([1]), json!([1, 1]), false),
            (json!({"a": 1}), json!({"a": 1, "b": 1}), false),
            (json!({"a": true}), json!({}), false),
        ];
        for (one, other, expected) in table {
            assert_eq!(same(&one, &other), expected, "{one} {other}");
            assert_eq!(same(&other, &one), expected, "{other} {one}");
        }
    }
}
