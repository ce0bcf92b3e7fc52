//! Patch bodies: what they say, and what they say that they should not.
//!
//! Guarantees: a key that appears twice, and a key of a JSON patch's operation that means nothing,
//! is noted for whoever judges the patched object's fields, in the words of Kubernetes. The patch
//! itself is not judged here.

use super::body;
use super::document::Document;
use crate::objects::{Caller, Sent};
use bowline_api::patch::PatchKind;
use bowline_api::status::Status;
use serde_json::Value;
use std::sync::Arc;

/// What an operation of a JSON patch has.
const OPERATION: [&str; 4] = ["op", "path", "from", "value"];

/// The patch in a body. `caller` learns how it came.
pub(super) fn read(
    kind: PatchKind,
    body: &[u8],
    caller: &mut Caller,
) -> Result<Arc<Value>, Status> {
    let document = body::json(body)?;
    caller.complaints = match kind {
        PatchKind::Json => operations(&document),
        PatchKind::Merge | PatchKind::Strategic => document.complaints(),
    };
    let patch = Arc::new(document.value);
    caller.sent = match kind {
        PatchKind::Json | PatchKind::Merge => Sent::Patch,
        PatchKind::Strategic => Sent::Strategic(patch.clone()),
    };
    Ok(patch)
}

/// What there is to say about the operations of a JSON patch, in their order.
fn operations(document: &Document) -> Vec<String> {
    let mut complaints: Vec<(usize, String)> = Vec::new();
    for (index, operation) in document.value.as_array().into_iter().flatten().enumerate() {
        let keys = operation.as_object().into_iter().flatten().map(|(key, _)| key);
        for key in keys.filter(|key| !OPERATION.contains(&key.as_str())) {
            complaints.push((index, format!("json patch unknown field \"[{index}].{key}\"")));
        }
    }
    let index =
        |path: &str| -> Option<usize> { path.strip_prefix('[')?.split(']').next()?.parse().ok() };
    let twice = document.duplicates.iter().zip(document.complaints());
    complaints.extend(
        twice.map(|(path, text)| (index(path).unwrap_or_default(), format!("json patch {text}"))),
    );
    // Stable: what is said of one operation stays together.
    complaints.sort_by_key(|(index, _)| *index);
    complaints.truncate(super::document::MOST_DUPLICATES);
    complaints.into_iter().map(|(_, text)| text).collect()
}
