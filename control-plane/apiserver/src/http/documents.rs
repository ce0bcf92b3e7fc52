//! The documents that describe the server: version, metrics, discovery, OpenAPI.

use super::negotiate::Offer;
use super::path::Route;
use super::query::Query;
use super::{Api, negotiate, respond};
use axum::response::Response;
use bowline_api::status::Status;
use bowline_api::{discovery, openapi};
use bowline_metrics::Format;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

/// The version of the API that is served, as clients compare it with their own.
const API_MAJOR: &str = "1";
const API_MINOR: &str = "36";

/// The form in which clients ask for OpenAPI version 2.
const OPENAPI_V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The same form as an answer must spell it: `@` has no place in a media type.
const OPENAPI_V2_SENT: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

pub(super) fn version() -> Response {
    respond::value(
        StatusCode::OK,
        &json!({
            "major": API_MAJOR,
            "minor": API_MINOR,
            "gitVersion": format!("v{API_MAJOR}.{API_MINOR}.0+bowline"),
            "gitCommit": "",
            "gitTreeState": "",
            "buildDate": "",
            "goVersion": "",
            "compiler": "rustc",
            "platform": format!("{}/{}", std::env::consts::OS, go_arch()),
        }),
    )
}

pub(super) fn metrics(api: &Api, headers: &HeaderMap) -> Result<Response, Status> {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept);
    let body = api.meters.write(format, &api.caches).map_err(|e| Status::internal_error(&e))?;
    Ok(respond::bytes(StatusCode::OK, format.content_type(), body.into()))
}

/// The architecture as container tools spell it.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) fn serve(api: &Api, route: &Route, headers: &HeaderMap) -> Result<Response, Status> {
    let found = match route {
        Route::Root => Some(root()),
        Route::Groups { core } => return Ok(groups(api, *core, headers)),
        Route::Group(group) => discovery::group(group),
        Route::GroupVersion { group, version } => discovery::resource_list(group, version),
        Route::OpenApiV2 => return Ok(openapi_v2(headers)),
        Route::OpenApiIndex => Some(openapi::index()),
        Route::OpenApi(path) => return document(path, headers),
        _ => None,
    };
    let value = found.ok_or_else(Status::unknown_path)?;
    Ok(respond::value(StatusCode::OK, &value))
}

fn root() -> Value {
    let paths = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    json!({ "paths": paths })
}

fn groups(api: &Api, core: bool, headers: &HeaderMap) -> Response {
    let mut response = if negotiate::wants_aggregated_discovery(headers) {
        let json = Bytes::from(discovery::aggregated(core).to_string());
        respond::bytes(StatusCode::OK, negotiate::AGGREGATED_DISCOVERY, json)
    } else if core {
        let address = api.advertise.to_string();
        respond::value(StatusCode::OK, &discovery::api_versions(&address))
    } else {
        respond::value(StatusCode::OK, &discovery::group_list())
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// A document without definitions. The schemas are published as version 3; but kubectl asks for
/// this one before it reads a `List`, and takes its absence for a failure and its emptiness for
/// "the server checks".
fn openapi_v2(headers: &HeaderMap) -> Response {
    let version = format!("{API_MAJOR}.{API_MINOR}");
    if negotiate::accepts(headers, OPENAPI_V2_PROTOBUF) {
        let info = [field(1, b"bowline"), field(2, version.as_bytes())].concat();
        let document = [field(1, b"2.0"), field(2, &info)].concat();
        return respond::bytes(StatusCode::OK, OPENAPI_V2_SENT, document.into());
    }
    respond::value(
        StatusCode::OK,
        &json!({
            "swagger": "2.0",
            "info": { "title": "bowline", "version": version },
            "paths": {},
            "definitions": {},
        }),
    )
}

/// A field of a protobuf message; the length of these is always one byte.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2, content.len() as u8];
    field.extend_from_slice(content);
    field
}

fn document(path: &str, headers: &HeaderMap) -> Result<Response, Status> {
    negotiate::form(headers, &Query::default(), &Offer::TEXT)?;
    let document = openapi::document(path).ok_or_else(Status::unknown_path)?;
    let tag = format!("\"{}\"", document.hash);
    let known =
        headers.get(IF_NONE_MATCH).is_some_and(|offered| offered.as_bytes() == tag.as_bytes());
    let mut response = if known {
        let mut response = respond::text(StatusCode::OK, "");
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let json = Bytes::from_static(document.json.as_bytes());
        respond::bytes(StatusCode::OK, "application/json", json)
    };
    // The URL that clients are given carries the hash of the content.
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    Ok(response)
}
