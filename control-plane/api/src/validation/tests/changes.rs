//! Tables of changes to an object that is valid.

use serde_json::Value;

use super::{problems, starts};
use crate::resource::find;

/// A change, merged as RFC 7386 says (null takes out), and how each of the problems starts.
pub(super) type Row = (Value, Vec<&'static str>);

fn changed(base: &Value, change: &Value) -> Value {
    let mut object = base.clone();
    json_patch::merge(&mut object, change);
    object
}

/// Checks new objects.
pub(super) fn creations(group: &str, plural: &str, base: &Value, table: Vec<Row>) {
    for (change, expected) in table {
        let got = problems(group, plural, changed(base, &change), None);
        starts(&got, &expected, &format!("new {plural}: {change}"));
    }
}

/// Checks changes of the object.
pub(super) fn updates(group: &str, plural: &str, base: &Value, table: Vec<Row>) {
    let mut old = base.clone();
    (find(group, "v1", plural).unwrap().apply_defaults)(&mut old);
    for (change, expected) in table {
        let got = problems(group, plural, changed(&old, &change), Some(&old));
        starts(&got, &expected, &format!("changed {plural}: {change}"));
    }
}
