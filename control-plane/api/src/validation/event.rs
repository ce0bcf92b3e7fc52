//! Events.
//!
//! Guarantees: an event of the new form, which has an `eventTime`, says who reports it and why.

use serde_json::Value;

use super::containers::text;
use super::metadata::metadata;
use super::names::{path_segment, qualified_name};
use super::{Errors, FieldError, Path};
use crate::object;

const LENGTH: usize = 128;
const MESSAGE_LENGTH: usize = 1024;

pub(crate) fn event(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, path_segment);
    let involved = text(&new["involvedObject"], "namespace");
    let namespace = object::namespace(new);
    let is_new = !new["eventTime"].is_null();
    // An event about an object without a namespace goes to "default".
    let matches = match (is_new, involved) {
        (false, "") => namespace == "default",
        (false, involved) => involved == namespace,
        (true, "") => matches!(namespace, "default" | "kube-system"),
        (true, _) => true,
    };
    if !matches {
        let path = Path::root("involvedObject").child("namespace");
        errors.invalid_text(&path, involved, "does not match event.namespace");
    }
    if is_new {
        told(&mut errors, new);
    }
    errors.into_vec()
}

fn told(errors: &mut Errors, event: &Value) {
    let (path, reporter) = (Path::root("reportingController"), text(event, "reportingComponent"));
    if reporter.is_empty() {
        errors.required(&path, "");
    }
    errors.complain(&path, reporter, qualified_name(reporter));
    for field in ["reportingInstance", "action", "reason"] {
        let (path, value) = (Path::root(field), text(event, field));
        if value.is_empty() {
            errors.required(&path, "");
        }
        at_most(errors, value, LENGTH, &path);
    }
    at_most(errors, text(event, "message"), MESSAGE_LENGTH, &Path::root("message"));
}

fn at_most(errors: &mut Errors, value: &str, length: usize, path: &Path) {
    if value.len() > length {
        errors.invalid_text(path, "", &format!("can have at most {length} characters"));
    }
}
