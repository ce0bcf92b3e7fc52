//! Reading what a client sends.

use super::document::{self, Document};
use super::protobuf;
use axum::body::Body;
use bowline_api::status::Status;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::time::Duration;

/// The largest body that is read: the largest object, with room for its patch.
const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// For a whole body to arrive.
const BODY_READ: Duration = Duration::from_secs(60);
/// The media types that are read as objects.
const READABLE: [&str; 3] = ["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// The media type without its parameters, `""` when absent.
pub(super) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or_default().trim()
}

pub(super) async fn read(body: Body) -> Result<Bytes, Status> {
    let whole = Limited::new(body, MAX_BODY_BYTES).collect();
    let Ok(read) = tokio::time::timeout(BODY_READ, whole).await else {
        return Err(Status::timeout("the body of the request did not arrive in time"));
    };
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Status::request_entity_too_large(
            format!("Request entity too large: limit is {MAX_BODY_BYTES}"),
        )),
        Err(error) => Err(Status::bad_request(format!("the body cannot be read: {error}"))),
    }
}

/// The object in a body, which is JSON, YAML or protobuf.
pub(super) fn object(headers: &HeaderMap, body: &[u8]) -> Result<Document, Status> {
    let document = match content_type(headers) {
        "application/json" | "" => json(body)?,
        "application/yaml" => document::from_yaml(body).map_err(|error| {
            Status::bad_request(format!("the body of the request is not valid YAML: {error}"))
        })?,
        protobuf::MEDIA_TYPE => Document { value: protobuf::read(body)?, ..Document::default() },
        _ => return Err(Status::unsupported_media_type(&READABLE)),
    };
    if document.value.is_object() {
        return Ok(document);
    }
    Err(Status::bad_request("the body of the request is not an object"))
}

/// The configuration in the body of an apply: YAML, of which JSON is a part.
pub(super) fn configuration(body: &[u8]) -> Result<Document, Status> {
    let failed = |error: &dyn std::fmt::Display| {
        Status::bad_request(format!("error decoding YAML: {error}"))
    };
    // YAML as it is read here does not take every JSON, and takes longer.
    let document = match body.trim_ascii_start().first() {
        Some(b'{') => document::from_json(body).or_else(|_| document::from_yaml(body)),
        _ => document::from_yaml(body),
    };
    let document = document.map_err(|error| failed(&error))?;
    if document.value.is_object() {
        return Ok(document);
    }
    Err(failed(&"a configuration must be an object"))
}

/// A body that is JSON in any case, of any shape.
pub(super) fn json(body: &[u8]) -> Result<Document, Status> {
    document::from_json(body).map_err(|error| not_json(&error))
}

fn not_json(error: &serde_json::Error) -> Status {
    Status::bad_request(format!("the body of the request is not valid JSON: {error}"))
}
