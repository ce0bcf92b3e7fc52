//! Kubernetes' protobuf encoding, as typed clients speak it.
//!
//! A body is an envelope: four bytes that name the encoding, the API version and the kind, and the
//! object as the message of its kind. Inside the server objects are JSON; `schema.txt` says which
//! field of which message is which of theirs, and both directions go by it.
//!
//! Guarantees: what is written decodes in typed clients to what JSON gives them; every kind of the
//! resource table has its message; fields that are not known are skipped. The encoding writes empty
//! values for fields that were not set. Those are dropped when they are read, as they are in JSON,
//! unless the field is one whose emptiness means something. It does not say whether an object is
//! valid.

mod read;
mod schema;
mod write;

#[cfg(test)]
mod tests;

use bowline_api::status::Status;
use bytes::Bytes;
use schema::Schema;
use serde_json::Value;
use std::borrow::Cow;

/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// The media type of a watch.
pub(super) const STREAM_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// The version of what is made of metadata alone.
pub(super) const META: &str = schema::META;
/// What every body starts with.
const MAGIC: &[u8] = b"k8s\0";
/// The seconds of the time that Go takes for none, 0001-01-01T00:00:00Z.
const FIRST_TIME: i64 = -62_135_596_800;

/// The object in a body.
pub(super) fn read(body: &[u8]) -> Result<Value, Status> {
    read::object(body).map_err(|error| {
        Status::bad_request(format!("the body of the request cannot be decoded: {error}"))
    })
}

/// Whether a kind has a message.
pub(super) fn has(version: &str, kind: &str) -> bool {
    Schema::get().find(version, kind).is_some()
}

/// An object as one of this kind; `None` when that has no message.
pub(super) fn object(version: &str, kind: &str, object: &Value) -> Option<Bytes> {
    Some(write::object(Schema::get().find(version, kind)?, version, kind, object))
}

/// What a list is of, and how it is called.
pub(super) struct ListOf<'a> {
    pub(super) version: &'a str,
    pub(super) kind: &'a str,
    pub(super) list_kind: &'a str,
}

/// A list; `None` when its items have no message. All lists have one form.
pub(super) fn list<'a>(
    of: &ListOf<'_>,
    metadata: &Value,
    items: impl DoubleEndedIterator<Item = Cow<'a, Value>>,
    size: usize,
) -> Option<Bytes> {
    let schema = Schema::get();
    let item = schema.find(of.version, of.kind)?;
    let metadata = (schema.find(META, "ListMeta")?, metadata);
    Some(write::list(item, (of.version, of.list_kind), metadata, items, size))
}

/// One event of a watch, with an object that is encoded.
pub(super) fn frame(kind: &str, object: &[u8]) -> Bytes {
    write::frame(kind, object)
}
