//! Defaults of quotas and limit ranges.

use serde_json::{Map, Value, json};

use super::{child, default, items};
use crate::object::{self, child_mut};

pub(crate) fn resource_quota(quota: &mut Value) {
    child_mut(quota, "spec");
    child_mut(quota, "status");
}

/// One without a name is called by its UID.
pub(crate) fn initialize_limit_range(range: &mut Value) {
    if object::name(range).is_empty() {
        let uid = object::uid(range).to_owned();
        object::set_metadata(range, "name", &uid);
    }
}

/// A container's limit is the maximum unless the range says otherwise, and its request the limit,
/// or where there is none the minimum.
pub(crate) fn limit_range(range: &mut Value) {
    let spec = child_mut(range, "spec");
    for item in items(spec, "limits").filter(|item| is_of_containers(item)) {
        fill(item, "default", "max");
        fill(item, "defaultRequest", "default");
        fill(item, "defaultRequest", "min");
    }
}

fn is_of_containers(item: &Map<String, Value>) -> bool {
    item.get("type").is_some_and(|kind| kind == "Container")
}

/// Takes the amounts that `to` does not name over from `from`.
fn fill(item: &mut Map<String, Value>, to: &str, from: &str) {
    let Some(Value::Object(amounts)) = item.get(from).cloned() else { return };
    if amounts.is_empty() {
        return;
    }
    default(item, to, json!({}));
    let Some(target) = child(item, to) else { return };
    for (name, amount) in amounts {
        default(target, &name, amount);
    }
}
