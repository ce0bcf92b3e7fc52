//! How a kind's tables are tried: an object that is accepted as it is, and what is changed of it.

use serde_json::{Value, json};

use super::rows;
use crate::resource::{Resource, find_kind};

/// A kind with an object that is accepted as it is.
pub(super) struct Kind {
    resource: &'static Resource,
    base: Value,
}

/// What is changed, and the beginnings of the complaints.
pub(super) type Row = (Value, Vec<&'static str>);

impl Kind {
    pub(super) fn new(api_version: &str, kind: &str, base: Value) -> Self {
        let resource = find_kind(api_version, kind).unwrap();
        let mut whole = json!({"metadata": {"name": "x", "uid": "u1"}});
        if resource.namespaced {
            whole["metadata"]["namespace"] = json!("d");
        }
        json_patch::merge(&mut whole, &base);
        Self { resource, base: whole }
    }

    /// As the server makes it of the base with a change.
    pub(super) fn created(&self, change: &Value) -> Value {
        let mut object = self.base.clone();
        json_patch::merge(&mut object, change);
        (self.resource.initialize)(&mut object);
        (self.resource.apply_defaults)(&mut object);
        self.resource.make_stored(&mut object);
        object
    }

    pub(super) fn problems(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        (self.resource.validate)(new, old).iter().map(ToString::to_string).collect()
    }

    /// As the server makes it of what an update leaves out.
    pub(super) fn carry_over(&self, new: &mut Value, old: &Value) {
        (self.resource.carry_over)(new, old);
        (self.resource.apply_defaults)(new);
    }

    pub(super) fn creates(&self, table: &[Row]) {
        assert_eq!(self.problems(&self.created(&json!({})), None), [""; 0]);
        for (change, expected) in table {
            starts(&self.problems(&self.created(change), None), expected, change);
        }
    }

    /// Rows of what the old object has beside the base, and of what the update changes.
    pub(super) fn updates(&self, table: &[(Value, Value, Vec<&'static str>)]) {
        for (before, change, expected) in table {
            let old = self.created(before);
            let mut new = self.resource.shown(&old).into_owned();
            json_patch::merge(&mut new, change);
            (self.resource.apply_defaults)(&mut new);
            self.resource.make_stored(&mut new);
            starts(&self.problems(&new, Some(&old)), expected, change);
        }
    }
}

pub(super) fn starts(got: &[String], expected: &[&str], what: &Value) {
    rows::note(expected);
    let fits = got.len() == expected.len()
        && got.iter().zip(expected).all(|(got, expected)| got.starts_with(expected));
    assert!(fits, "{what}:\n{got:#?}\nexpected\n{expected:#?}");
}

pub(super) fn containers() -> Value {
    json!([{"name": "c", "image": "i"}])
}

pub(super) fn spec(spec: Value) -> Value {
    json!({ "spec": spec })
}
