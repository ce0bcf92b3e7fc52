//! The three kinds of patch: JSON patch, JSON merge patch, strategic merge patch.
//!
//! Guarantees: the document is not changed when a patch fails; no patch makes a document that is
//! much larger than both together, or nested more deeply than what is read as JSON.
//! Does not: server-side apply ([`crate::managed`]).

mod strategic;

use json_patch::PatchOperation;
use serde_json::Value;

use crate::resource::Resource;

/// How many operations a JSON patch may have.
const JSON_PATCH_OPERATIONS: usize = 10_000;
/// What the `copy` and `move` operations of a JSON patch may carry together, in bytes of JSON: a
/// copy of the whole into itself doubles it.
const JSON_PATCH_CARRIED: usize = 3 * 1024 * 1024;
/// How deeply a JSON patch may nest: as deep as a JSON text is read.
const JSON_PATCH_DEPTH: usize = 127;

/// How a patch body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/json-patch+json`, RFC 6902.
    Json,
    /// `application/merge-patch+json`, RFC 7386.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
}

impl PatchKind {
    /// The media types of all kinds.
    pub const MEDIA_TYPES: [&str; 3] = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ];

    /// Of a content type, its parameters ignored.
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let index = Self::MEDIA_TYPES.iter().position(|one| *one == media_type)?;
        Some([Self::Json, Self::Merge, Self::Strategic][index])
    }
}

/// Why a patch could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchFailed {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object, such as a failed `test`: 422.
    #[error("{0}")]
    Unprocessable(String),
}

/// The document with the patch applied.
pub fn apply(
    kind: PatchKind,
    resource: &Resource,
    document: &Value,
    patch: &Value,
) -> Result<Value, PatchFailed> {
    match kind {
        PatchKind::Json => json_patch(document, patch),
        PatchKind::Merge => {
            require_object(patch)?;
            let mut patched = document.clone();
            json_patch::merge(&mut patched, patch);
            Ok(patched)
        }
        PatchKind::Strategic => {
            require_object(patch)?;
            strategic::apply(resource.schema, document, patch)
        }
    }
}

fn require_object(patch: &Value) -> Result<(), PatchFailed> {
    if patch.is_object() {
        Ok(())
    } else {
        Err(PatchFailed::Malformed(
            "error decoding patch: a patch must be a JSON object".to_owned(),
        ))
    }
}

fn json_patch(document: &Value, patch: &Value) -> Result<Value, PatchFailed> {
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| PatchFailed::Malformed(format!("error decoding patch: {error}")))?;
    if operations.0.len() > JSON_PATCH_OPERATIONS {
        let count = operations.0.len();
        let message = format!(
            "the allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS}, got {count}"
        );
        return Err(PatchFailed::Unprocessable(message));
    }
    let mut patched = document.clone();
    let mut carried = 0;
    for operation in &operations.0 {
        bound(&patched, operation, &mut carried)?;
        if tests_absence(&patched, operation) {
            continue;
        }
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation))
            .map_err(|error| PatchFailed::Unprocessable(error.to_string()))?;
    }
    Ok(patched)
}

/// Whether it tests a field for null that its object does not have: clients ask so whether nobody
/// has set it yet, where RFC 6902 would have the test fail.
fn tests_absence(document: &Value, operation: &PatchOperation) -> bool {
    let PatchOperation::Test(test) = operation else { return false };
    let path = test.path.as_str();
    let parent = path.rsplit_once('/').and_then(|(parent, _)| document.pointer(parent));
    test.value.is_null() && document.pointer(path).is_none() && parent.is_some_and(Value::is_object)
}

/// Refuses an operation that nests too deeply or carries too much; `carried` counts over them all.
fn bound(
    document: &Value,
    operation: &PatchOperation,
    carried: &mut usize,
) -> Result<(), PatchFailed> {
    let (path, value) = match operation {
        PatchOperation::Add(add) => (&add.path, Some(&add.value)),
        PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value)),
        PatchOperation::Move(step) => (&step.path, document.pointer(step.from.as_str())),
        PatchOperation::Copy(copy) => (&copy.path, document.pointer(copy.from.as_str())),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
    };
    // What is not there is for the operation itself to say.
    let Some(value) = value else { return Ok(()) };
    if path.count() + depth(value) > JSON_PATCH_DEPTH {
        let message = format!("a JSON patch may not nest more than {JSON_PATCH_DEPTH} levels");
        return Err(PatchFailed::Unprocessable(message));
    }
    if matches!(operation, PatchOperation::Copy(_) | PatchOperation::Move(_)) {
        *carried += value.to_string().len();
        if *carried > JSON_PATCH_CARRIED {
            let message =
                format!("a JSON patch may not copy or move more than {JSON_PATCH_CARRIED} bytes");
            return Err(PatchFailed::Unprocessable(message));
        }
    }
    Ok(())
}

fn depth(value: &Value) -> usize {
    let deepest = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        _ => return 0,
    };
    1 + deepest.unwrap_or(0)
}

#[cfg(test)]
mod tests;
