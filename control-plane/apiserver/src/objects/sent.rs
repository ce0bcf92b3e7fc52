//! In what form an object came, as the refusal of its fields shows it.

use bowline_api::resource::Resource;
use bowline_api::status::Status;
use serde_json::Value;
use std::sync::Arc;

/// How an object came to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    /// As itself, or as a configuration that is applied.
    Whole,
    /// As a JSON patch or a merge patch of the one that is stored.
    Patch,
    /// As this strategic merge patch.
    Strategic(Arc<Value>),
}

impl Sent {
    /// What a refusal shows; `object` is the one that the patch made.
    pub(super) fn shown(&self, object: &Value) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::Patch => Some(object.to_string()),
            Self::Strategic(patch) => Some(go_text(patch)),
        }
    }
}

/// The refusal of an object that does not decode as its kind. `shown` is what it came as, if that
/// was a patch.
pub(super) fn refusal(resource: &Resource, shown: Option<&str>, strict: bool, why: &str) -> Status {
    let (kind, version) = (resource.kind, resource.version);
    match (shown, strict) {
        (Some(shown), true) => {
            Status::invalid_patch(shown, &format!("strict decoding error: {why}"))
        }
        (Some(shown), false) => Status::invalid_patch(shown, why),
        (None, true) => Status::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: \
             strict decoding error: {why}"
        )),
        (None, false) => Status::bad_request(why),
    }
}

/// A value as Go prints one of an open type: clients know strategic patches in this form.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields = fields.iter().map(|(name, value)| format!("{name}:{}", go_text(value)));
            format!("map[{}]", fields.collect::<Vec<_>>().join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_as_go_prints_them() {
        let table = [
            (json!({}), "map[]"),
            (json!(null), "<nil>"),
            (
                json!({ "spec": { "b": true, "a": [1, "x", null], "c": {} } }),
                "map[spec:map[a:[1 x <nil>] b:true c:map[]]]",
            ),
        ];
        for (value, expected) in table {
            assert_eq!(go_text(&value), expected);
        }
    }
}
