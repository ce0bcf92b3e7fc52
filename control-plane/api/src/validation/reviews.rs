//! Reviews of what somebody may do, and requests for tokens.

use serde_json::{Map, Value, json};

use super::containers::{list, text};
use super::equality::says_nothing;
use super::metadata::{key_and_values, operands};
use super::{Errors, FieldError, Path};

const NEITHER: &str =
    "exactly one of nonResourceAttributes or resourceAttributes must be specified";

/// Seconds that a token lives at least and at most.
const TOKEN_LIFE: (i64, i64) = (600, 1 << 32);

pub(crate) fn token_request(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let asked = &new["spec"]["expirationSeconds"];
    let path = Path::root("spec").child("expirationSeconds");
    let seconds = asked.as_i64().unwrap_or_default();
    if seconds < TOKEN_LIFE.0 {
        errors.invalid(&path, asked, "may not specify a duration less than 10 minutes");
    }
    if seconds > TOKEN_LIFE.1 {
        errors.invalid(&path, asked, "may not specify a duration larger than 2^32 seconds");
    }
    errors.into_vec()
}

pub(crate) fn self_subject_access_review(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    attributes(&mut errors, &new["spec"]);
    selectors(&mut errors, &new["spec"]);
    empty_metadata(&mut errors, new, &["managedFields"], "must be empty");
    errors.into_vec()
}

pub(crate) fn subject_access_review(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    of_somebody(&mut errors, &new["spec"]);
    empty_metadata(&mut errors, new, &["managedFields"], "must be empty");
    errors.into_vec()
}

pub(crate) fn local_subject_access_review(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &new["spec"];
    of_somebody(&mut errors, spec);
    let filled = ["managedFields", "namespace"];
    empty_metadata(&mut errors, new, &filled, "must be empty except for namespace");
    let (asked, path) = (&spec["resourceAttributes"], Path::root("spec"));
    let namespace = text(asked, "namespace");
    if asked.is_object() && namespace != crate::object::namespace(new) {
        let path = path.child("resourceAttributes").child("namespace");
        errors.invalid_text(&path, namespace, "must match metadata.namespace");
    }
    let asked = &spec["nonResourceAttributes"];
    if asked.is_object() {
        let path = path.child("nonResourceAttributes");
        errors.invalid(&path, &shown(asked), "disallowed on this kind of request");
    }
    errors.into_vec()
}

/// What a review has that names the user it asks about.
fn of_somebody(errors: &mut Errors, spec: &Value) {
    attributes(errors, spec);
    if text(spec, "user").is_empty() && list(spec, "groups").is_empty() {
        let why = "at least one of user or group must be specified";
        errors.invalid_text(&Path::root("spec").child("user"), "", why);
    }
    selectors(errors, spec);
}

/// Exactly one of two questions.
fn attributes(errors: &mut Errors, spec: &Value) {
    let path = Path::root("spec");
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_object(), other.is_object()) {
        (true, true) => {
            let why = "cannot be specified in combination with resourceAttributes";
            errors.invalid(&path.child("nonResourceAttributes"), &shown(other), why);
        }
        (false, false) => errors.invalid(&path.child("resourceAttributes"), &Value::Null, NEITHER),
        _ => {}
    }
}

/// As Kubernetes shows it: by the names that the fields have inside.
fn shown(attributes: &Value) -> Value {
    json!({ "Path": text(attributes, "path"), "Verb": text(attributes, "verb") })
}

/// A selector is raw or a list of requirements, whose operators may be of a later version.
fn selectors(errors: &mut Errors, spec: &Value) {
    let path = Path::root("spec").child("resourceAttributes");
    for field in ["fieldSelector", "labelSelector"] {
        let (selector, path) = (&spec["resourceAttributes"][field], path.child(field));
        if !selector.is_object() {
            continue;
        }
        let (raw, requirements) = (text(selector, "rawSelector"), list(selector, "requirements"));
        match (raw.is_empty(), requirements.is_empty()) {
            (false, false) => {
                let why = "may not specified at the same time as requirements";
                errors.invalid_text(&path.child("rawSelector"), raw, why);
            }
            (true, true) => {
                let why = format!(
                    "when spec.resourceAttributes.{field} is specified, requirements or \
                     rawSelector is required"
                );
                errors.required(&path.child("requirements"), &why);
            }
            _ => {}
        }
        for (index, requirement) in requirements.iter().enumerate() {
            let path = path.child("requirements").index(index);
            if field == "fieldSelector" && text(requirement, "key").is_empty() {
                errors.required(&path.child("key"), "must be specified");
            }
            operands(errors, requirement, &path);
            if field == "labelSelector" {
                key_and_values(errors, requirement, &path);
            }
        }
    }
}

/// A review has no identity.
fn empty_metadata(errors: &mut Errors, review: &Value, filled: &[&str], why: &str) {
    let metadata = &review["metadata"];
    let is_empty = |value: &Value| {
        says_nothing(value) || *value == 0 || value.as_object().is_some_and(Map::is_empty)
    };
    let mut fields = metadata.as_object().into_iter().flatten();
    if fields.any(|(field, value)| !filled.contains(&field.as_str()) && !is_empty(value)) {
        errors.invalid(&Path::root("metadata"), metadata, why);
    }
}
