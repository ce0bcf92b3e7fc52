//! Validation, one function per kind, in the wording that Kubernetes users know.

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
