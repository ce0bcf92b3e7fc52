//! Path elements, sets, and schemas of another make.

use super::*;
use crate::managed::view::{Form, Key, View};
use crate::managed::walks::{fields_of, merge, without};

fn set(value: Value) -> Set {
    Set::parse(&value).unwrap()
}

#[test]
fn elements_are_read_written_and_told() {
    let table = [
        ("f:name", "f:name", ".name"),
        ("f:a:b", "f:a:b", ".a:b"),
        ("f:", "f:", "."),
        ("v:\"x\"", "v:\"x\"", "[=\"x\"]"),
        ("v: 1", "v:1", "[=1]"),
        ("i:03", "i:3", "[3]"),
        ("k:{\"name\":\"c\"}", "k:{\"name\":\"c\"}", "[name=\"c\"]"),
        (
            "k:{\"protocol\": \"TCP\", \"port\": 80}",
            "k:{\"port\":80,\"protocol\":\"TCP\"}",
            "[port=80,protocol=\"TCP\"]",
        ),
    ];
    for (text, canonical, told) in table {
        let element = Element::parse(text).unwrap().unwrap();
        assert_eq!((element.as_str(), element.to_string()), (canonical, told.to_owned()));
    }
    assert_eq!(Element::parse("z:later"), Ok(None));
    for wrong in ["", "f", "name", "k:1", "k:{", "v:", "v:x", "i:x", "ff:x"] {
        assert!(Element::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn sets_are_read_and_written() {
    let same = [
        json!({}),
        json!({"f:a": {}}),
        json!({"f:a": {"f:b": {}}}),
        json!({"f:a": {".": {}, "f:b": {}}}),
        json!({"f:a": {"k:{\"n\":1}": {".": {}, "f:n": {}}}, "f:b": {"v:1": {}}}),
    ];
    for value in same {
        assert_eq!(set(value.clone()).to_value(), value);
    }
    let other = [
        (json!({"f:a": {".": {}}}), json!({"f:a": {}})),
        (json!({"f:a": null}), json!({"f:a": {}})),
        (json!({"f:a": {"z:later": {}, "f:b": {}}}), json!({"f:a": {"f:b": {}}})),
        (json!({"z:later": {"f:a": {}}}), json!({})),
    ];
    for (value, expected) in other {
        assert_eq!(set(value).to_value(), expected);
    }
    assert!(Set::parse(&json!({"f:a": 1})).is_err());
    assert!(Set::parse(&json!([])).is_err());
}

#[test]
fn sets_are_combined() {
    let a = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
    let b = set(json!({"f:a": {"f:b": {}, "f:d": {}}, "f:e": {"f:f": {}}}));
    let (union, both, left) = (a.union(&b), a.intersection(&b), a.difference(&b));
    assert_eq!(
        union.to_value(),
        json!({"f:a": {".": {}, "f:b": {}, "f:d": {}}, "f:c": {}, "f:e": {"f:f": {}}})
    );
    assert_eq!(both.to_value(), json!({"f:a": {"f:b": {}}}));
    assert_eq!(left.to_value(), json!({"f:a": {}, "f:c": {}}));
    assert!(a.difference(&a).is_empty() && a.intersection(&Set::default()).is_empty());
    // A parent is not its child.
    assert_eq!(
        set(json!({"f:a": {"f:b": {}}})).difference(&set(json!({"f:a": {}}))).to_value(),
        json!({"f:a": {"f:b": {}}})
    );
    for (one, other) in [(&a, &b), (&b, &a), (&a, &both), (&left, &b), (&both, &a)] {
        let stored = other.to_value();
        assert_eq!(one.touches(&stored), !one.intersection(other).is_empty());
        assert_eq!(one.is_within(&stored), one.difference(other).is_empty());
    }
}

/// A schema as custom kinds have it.
#[derive(Clone)]
struct Custom(Value);

impl View for Custom {
    fn form(&self) -> Form {
        let text = |field: &str| self.0[field].as_str().unwrap_or_default();
        match (text("type"), text("x-kubernetes-list-type"), text("x-kubernetes-map-type")) {
            ("object", _, "atomic") => Form::Atomic,
            ("object", ..) if self.0.get("properties").is_some() => Form::Map,
            ("array", "map", _) => Form::Keyed,
            ("array", "set", _) => Form::Set,
            ("array", ..) => Form::Atomic,
            _ => Form::Free,
        }
    }

    fn field(&self, name: &str) -> Option<(Self, bool)> {
        match self.0["properties"].get(name) {
            Some(schema) => Some((Self(schema.clone()), true)),
            None if self.form() == Form::Free => Some((Self(Value::Null), false)),
            None => None,
        }
    }

    fn item(&self) -> Self {
        Self(self.0["items"].clone())
    }

    fn keys(&self) -> Vec<Key<'_>> {
        let names = self.0["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
        names.filter_map(Value::as_str).map(|name| Key { name, default: None }).collect()
    }
}

#[test]
fn schemas_of_custom_kinds_follow_the_same_rules() {
    let schema = Custom(json!({"type": "object", "properties": {
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "items": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["id"],
            "items": {"type": "object", "properties": {"id": {}, "v": {}}}},
    }}));
    let object = json!({"whole": {"a": 1}, "free": {"a": {"b": [1]}, "c": 1},
        "items": [{"id": 1, "v": 1}]});
    let fields = fields_of(&schema, &object).unwrap();
    assert_eq!(
        fields.to_value(),
        json!({
            "f:whole": {},
            "f:free": {"f:a": {".": {}, "f:b": {}}, "f:c": {}},
            "f:items": {"k:{\"id\":1}": {".": {}, "f:id": {}, "f:v": {}}},
        })
    );
    let config = json!({"whole": {"b": 2}, "free": {"a": 1},
        "items": [{"id": 2}, {"id": 1, "v": 2}]});
    let merged = merge(&schema, &object, &config);
    assert_eq!(
        merged,
        json!({"whole": {"b": 2}, "free": {"a": 1, "c": 1},
            "items": [{"id": 2}, {"id": 1, "v": 2}]})
    );
    let found = difference(&schema, &object, &merged, |_| true);
    assert_eq!(
        found.changed.to_value(),
        json!({"f:whole": {}, "f:free": {"f:a": {}},
            "f:items": {"k:{\"id\":1}": {"f:v": {}},
                "k:{\"id\":2}": {".": {}, "f:id": {}}}})
    );
    assert_eq!(found.removed.to_value(), json!({"f:free": {"f:a": {"f:b": {}}}}));
    let left = without(
        &schema,
        &object,
        &set(json!({"f:free": {"f:a": {"f:b": {}}},
        "f:items": {"k:{\"id\":1}": {}}, "f:whole": {}})),
    );
    assert_eq!(left, Some(json!({"free": {"c": 1}})));
    assert_eq!(
        fields_of(&schema, &json!({"other": 1})).unwrap_err(),
        [".other: field not declared in schema"]
    );
}
