//! Why a field was refused, and how such reasons are collected.

use std::fmt;

use serde_json::{Value, json};

/// Why one field was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Such as `spec.containers[0].name`.
    pub field: String,
    /// Such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// Such as `Invalid value: "A": must be ...`.
    pub detail: String,
}

impl FieldError {
    /// The entry of `details.causes`.
    pub fn cause(&self) -> Value {
        json!({ "reason": self.reason, "message": self.detail, "field": self.field })
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.detail)
    }
}

/// Where in an object a value is.
#[derive(Clone, Debug)]
pub(super) struct Path(String);

impl Path {
    pub(super) fn root(field: &str) -> Self {
        Self(field.to_owned())
    }

    pub(super) fn child(&self, field: &str) -> Self {
        Self(format!("{}.{field}", self.0))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    pub(super) fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(super) struct Errors(Vec<FieldError>);

impl Errors {
    pub(super) fn into_vec(self) -> Vec<FieldError> {
        self.0
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn push(&mut self, path: &Path, reason: &'static str, detail: String) {
        self.0.push(FieldError { field: path.0.clone(), reason, detail });
    }

    pub(super) fn required(&mut self, path: &Path, why: &str) {
        let detail = if why.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {why}")
        };
        self.push(path, "FieldValueRequired", detail);
    }

    pub(super) fn invalid(&mut self, path: &Path, value: &Value, why: &str) {
        self.push(path, "FieldValueInvalid", format!("Invalid value: {value}: {why}"));
    }

    pub(super) fn invalid_text(&mut self, path: &Path, value: &str, why: &str) {
        self.invalid(path, &Value::from(value), why);
    }

    /// An object that is wrong as a whole: it is not shown.
    pub(super) fn invalid_whole(&mut self, path: &Path, why: &str) {
        self.push(path, "FieldValueInvalid", format!("Invalid value: {why}"));
    }

    pub(super) fn unsupported(&mut self, path: &Path, value: &Value, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        let detail = format!("Unsupported value: {value}: supported values: {}", list.join(", "));
        self.push(path, "FieldValueNotSupported", detail);
    }

    pub(super) fn forbidden(&mut self, path: &Path, why: &str) {
        self.push(path, "FieldValueForbidden", format!("Forbidden: {why}"));
    }

    pub(super) fn duplicate(&mut self, path: &Path, value: &Value) {
        self.push(path, "FieldValueDuplicate", format!("Duplicate value: {value}"));
    }

    pub(super) fn duplicate_of(&mut self, path: &Path, value: &Value, why: &str) {
        self.push(path, "FieldValueDuplicate", format!("Duplicate value: {value}: {why}"));
    }

    pub(super) fn not_found(&mut self, path: &Path, value: &str) {
        self.push(path, "FieldValueNotFound", format!("Not found: {value:?}"));
    }

    pub(super) fn not_found_among(&mut self, path: &Path, value: &str, why: &str) {
        self.push(path, "FieldValueNotFound", format!("Not found: {value:?}: {why}"));
    }

    pub(super) fn too_long(&mut self, path: &Path, limit: usize) {
        let detail = format!("Too long: may not be more than {limit} bytes");
        self.push(path, "FieldValueTooLong", detail);
    }

    pub(super) fn too_many(&mut self, path: &Path, count: usize, limit: usize) {
        let detail = format!("Too many: {count}: must have at most {limit} items");
        self.push(path, "FieldValueTooMany", detail);
    }

    /// Adds one "invalid" per complaint about a text.
    pub(super) fn complain(&mut self, path: &Path, value: &str, complaints: Vec<String>) {
        for complaint in complaints {
            self.invalid_text(path, value, &complaint);
        }
    }

    /// Adds one "invalid" per complaint about a number.
    pub(super) fn complain_number(&mut self, path: &Path, value: i64, complaints: Vec<String>) {
        for complaint in complaints {
            self.invalid(path, &Value::from(value), &complaint);
        }
    }

    /// A number that must not be negative.
    pub(super) fn non_negative(&mut self, path: &Path, value: &Value) {
        if value.as_i64().is_some_and(|number| number < 0) {
            self.invalid(path, value, "must be greater than or equal to 0");
        }
    }

    /// A number that must be in a range; what is no number passes.
    pub(super) fn within(&mut self, path: &Path, value: &Value, first: i64, last: i64) {
        if value.as_i64().is_some_and(|number| !(first..=last).contains(&number)) {
            self.invalid(path, value, &format!("must be between {first} and {last}, inclusive"));
        }
    }

    /// A text that must be there and be one of a few.
    pub(super) fn required_one_of(&mut self, path: &Path, value: &Value, supported: &[&str]) {
        if value.as_str().unwrap_or_default().is_empty() {
            self.required(path, "");
        } else {
            self.one_of(path, value, supported);
        }
    }

    /// A text that must be one of a few; `Null` passes.
    pub(super) fn one_of(&mut self, path: &Path, value: &Value, supported: &[&str]) {
        let fits = value.is_null() || value.as_str().is_some_and(|text| supported.contains(&text));
        if !fits {
            self.unsupported(path, value, supported);
        }
    }

    /// A field that an update may not change.
    pub(super) fn immutable(&mut self, path: &Path, new: &Value, old: &Value) {
        if new != old {
            self.invalid(path, new, "field is immutable");
        }
    }
}
