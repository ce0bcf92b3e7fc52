//! Writing what a client gets, in the version it asks for. What is stored in that version has its
//! bytes already; in another one they are made here, object by object.

use super::negotiate::{Encoding, Form, Shape};
use super::protobuf::{self, ListOf};
use crate::objects::List;
use crate::watch::Object;
use axum::body::Body;
use axum::response::Response;
use bowline_api::resource::Resource;
use bowline_api::status::Status;
use bowline_api::table::{self, IncludeObject};
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// The kind of what is made of an object's metadata.
const PARTIAL: &str = "PartialObjectMetadata";
/// Warnings that one answer carries at most.
const WARNINGS: usize = 32;
/// The longest warning.
const WARNING_CHARS: usize = 256;

pub(super) fn bytes(code: StatusCode, media_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

pub(super) fn text(code: StatusCode, body: impl Into<Bytes>) -> Response {
    bytes(code, "text/plain; charset=utf-8", body.into())
}

pub(super) fn value(code: StatusCode, value: &Value) -> Response {
    bytes(code, Encoding::Json.media_type(), Bytes::from(value.to_string()))
}

/// A failure, or a success without an object.
pub(super) fn status(encoding: Encoding, status: &Status) -> Response {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let object = status.to_value();
    let mut response = other(code, encoding, &object).unwrap_or_else(|_| value(code, &object));
    if let Some(seconds) = status.details["retryAfterSeconds"].as_u64() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// An object of a kind that is not in the table, such as a scale.
pub(super) fn other(
    code: StatusCode,
    encoding: Encoding,
    object: &Value,
) -> Result<Response, Status> {
    let body = match encoding {
        Encoding::Protobuf => {
            let text = |key: &str| object[key].as_str().unwrap_or_default();
            let (version, kind) = (text("apiVersion"), text("kind"));
            protobuf::object(version, kind, object).ok_or_else(|| no_message(kind))?
        }
        _ => Bytes::from(object.to_string()),
    };
    encoded(code, encoding, body)
}

/// The offer had an encoding that the kind does not have.
fn no_message(kind: &str) -> Status {
    Status::internal_error(&format!("{kind} has no form in protobuf"))
}

/// A body of JSON that is to be YAML, or one that is ready.
fn encoded(code: StatusCode, encoding: Encoding, body: Bytes) -> Result<Response, Status> {
    let body = match encoding {
        Encoding::Json | Encoding::Protobuf => body,
        Encoding::Yaml => {
            let value: Value =
                serde_json::from_slice(&body).map_err(|error| Status::internal_error(&error))?;
            let yaml =
                serde_yaml_ng::to_string(&value).map_err(|error| Status::internal_error(&error))?;
            Bytes::from(yaml)
        }
    };
    Ok(bytes(code, encoding.media_type(), body))
}

/// One object.
pub(super) fn object(
    code: StatusCode,
    form: Form,
    resource: &Resource,
    object: &Object,
) -> Result<Response, Status> {
    encoded(code, form.encoding, shaped(form, resource, object, true)?)
}

/// An object of the store in a form; YAML as JSON. `columns` is for tables.
pub(super) fn shaped(
    form: Form,
    resource: &Resource,
    object: &Object,
    columns: bool,
) -> Result<Bytes, Status> {
    if form.encoding == Encoding::Protobuf {
        let shown = match form.shape {
            Shape::Metadata => Cow::Borrowed(&object.value),
            Shape::Full | Shape::Table(_) => resource.shown(&object.value),
        };
        return packed(form.shape, resource, &shown);
    }
    Ok(match form.shape {
        Shape::Full => full(resource, object),
        Shape::Metadata => Bytes::from(partial(&object.value).to_string()),
        Shape::Table(include) => {
            let row = table::row(resource, &object.value, Timestamp::now(), include);
            let revision = json!({ "resourceVersion": object.revision.to_string() });
            Bytes::from(table::table(resource, revision, vec![row], columns).to_string())
        }
    })
}

/// An object of the store as JSON.
fn full(resource: &Resource, object: &Object) -> Bytes {
    match resource.shown(&object.value) {
        Cow::Borrowed(_) => object.bytes.clone(),
        Cow::Owned(shown) => Bytes::from(shown.to_string()),
    }
}

/// An object as protobuf. Tables do not have that form, and are not offered in it.
pub(super) fn packed(shape: Shape, resource: &Resource, object: &Value) -> Result<Bytes, Status> {
    let (version, kind) = match shape {
        Shape::Metadata => (protobuf::META.to_owned(), PARTIAL),
        Shape::Full | Shape::Table(_) => (resource.api_version(), resource.kind),
    };
    protobuf::object(&version, kind, object).ok_or_else(|| no_message(kind))
}

/// An object's metadata alone.
pub(super) fn partial(object: &Value) -> Value {
    json!({ "kind": PARTIAL, "apiVersion": protobuf::META, "metadata": object["metadata"] })
}

/// The objects of a list. The full form copies each object's bytes and writes nothing anew, but in
/// protobuf and in a version that is not the stored one, which are kept nowhere.
pub(super) fn list(form: Form, resource: &Resource, list: &List) -> Result<Response, Status> {
    let version = resource.api_version();
    let whole = ListOf { version: &version, kind: resource.kind, list_kind: resource.list_kind };
    let metadata =
        ListOf { version: protobuf::META, kind: PARTIAL, list_kind: "PartialObjectMetadataList" };
    let body = match (form.encoding, form.shape) {
        (Encoding::Protobuf, Shape::Metadata) => {
            packed_list(&metadata, list, |object| Cow::Borrowed(&object.value))?
        }
        (Encoding::Protobuf, Shape::Full | Shape::Table(_)) => {
            packed_list(&whole, list, |object| resource.shown(&object.value))?
        }
        (_, Shape::Full) if resource.is_storage() => list_body(&whole, list, |body| {
            join(body, list.objects.iter().map(|object| &object.bytes));
        }),
        (_, Shape::Full) => list_body(&whole, list, |body| {
            join(body, list.objects.iter().map(|object| full(resource, object)));
        }),
        (_, Shape::Metadata) => {
            let items = list.objects.iter().map(|object| partial(&object.value).to_string());
            list_body(&metadata, list, |body| join(body, items))
        }
        (_, Shape::Table(include)) => table_body(resource, list, include),
    };
    encoded(StatusCode::OK, form.encoding, body)
}

fn packed_list<'a>(
    of: &ListOf<'_>,
    list: &'a List,
    show: impl Fn(&'a Object) -> Cow<'a, Value>,
) -> Result<Bytes, Status> {
    let items = list.objects.iter().map(|object| show(object));
    protobuf::list(of, &metadata(list), items, size(list)).ok_or_else(|| no_message(of.kind))
}

/// Of the objects, as JSON.
fn size(list: &List) -> usize {
    list.objects.iter().map(|object| object.bytes.len() + 1).sum()
}

fn list_body(of: &ListOf<'_>, list: &List, items: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut body = Vec::with_capacity(size(list) + 256);
    let metadata = metadata(list);
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        of.list_kind, of.version
    );
    body.extend_from_slice(head.as_bytes());
    items(&mut body);
    body.extend_from_slice(b"]}");
    Bytes::from(body)
}

fn join(body: &mut Vec<u8>, items: impl Iterator<Item = impl AsRef<[u8]>>) {
    for (index, item) in items.enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(item.as_ref());
    }
}

fn table_body(resource: &Resource, list: &List, include: IncludeObject) -> Bytes {
    let now = Timestamp::now();
    let rows = list.objects.iter().map(|object| table::row(resource, &object.value, now, include));
    Bytes::from(table::table(resource, metadata(list), rows.collect(), true).to_string())
}

fn metadata(list: &List) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), Value::from(list.revision.to_string()));
    if let Some(token) = &list.next {
        metadata.insert("continue".to_owned(), Value::from(token.as_str()));
    }
    if let Some(remaining) = list.remaining {
        metadata.insert("remainingItemCount".to_owned(), Value::from(remaining));
    }
    Value::Object(metadata)
}

/// Adds the warnings that a write gave, as far as a header has room: a client decides how many
/// there are and how long.
pub(super) fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings.iter().take(WARNINGS) {
        let text: String = warning
            .chars()
            .take(WARNING_CHARS)
            .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
            .flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_fit_into_the_headers() {
        let mut response = text(StatusCode::OK, "");
        let long = "\"".repeat(300);
        let warnings: Vec<String> = (0..40_000).map(|_| long.clone()).collect();
        warn(&mut response, &warnings);
        let sent: Vec<&HeaderValue> = response.headers().get_all(WARNING).iter().collect();
        assert_eq!(sent.len(), WARNINGS);
        assert!(sent.iter().all(|value| value.len() < 2 * WARNING_CHARS + 16));
    }
}
