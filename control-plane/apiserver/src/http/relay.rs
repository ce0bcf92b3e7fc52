//! Passing on what the agent of a node answers, as it comes.
//!
//! Guarantees: what an agent complains about is the client's answer; a stream ends when the server
//! does. `serve` gives the agent the parameters that it knows, with plain values. Not here: who may
//! ask.

use super::Api;
use super::query::Query;
use crate::objects::Place;
use axum::body::Body;
use axum::response::Response;
use bowline_api::resource::find;
use bowline_api::status::Status;
use futures::StreamExt;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;

/// The port of an agent that does not publish one.
const AGENT_PORT: u16 = 10250;
/// An agent's complaint is cut off after this.
const COMPLAINT_BYTES: usize = 4096;

/// What the agent of `node` has at `path`, asked with those parameters of the query that are
/// `known` to it.
pub(super) async fn serve(
    api: &Arc<Api>,
    node: &str,
    path: &str,
    known: &[&str],
    query: &Query,
) -> Result<Response, Status> {
    let mut target = path.to_owned();
    let mut separator = '?';
    for name in known {
        let value = query.get(name);
        if value.is_empty() {
            continue;
        }
        // Flags, numbers, times and addresses; anything else has no meaning to the agent.
        if !value.chars().all(|c| c.is_ascii_alphanumeric() || "-:.+".contains(c)) {
            return Err(Status::bad_request(format!("{name}: invalid value {value:?}")));
        }
        target.push(separator);
        target.push_str(&format!("{name}={}", value.replace('+', "%2B")));
        separator = '&';
    }
    pass_on(api, node, Method::GET, &target, Body::empty()).await
}

/// What the agent of `node` answers to this.
pub(super) async fn pass_on(
    api: &Arc<Api>,
    node: &str,
    method: Method,
    target: &str,
    body: Body,
) -> Result<Response, Status> {
    let address = agent_address(api, node).await?;
    let answer = api.agents.ask(address, method, target, body).await;
    let answer = answer.map_err(|error| Status::internal_error(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(complaint(answer).await);
    }
    let stop = api.stop.clone();
    let (head, body) = answer.into_parts();
    let parts = body.into_data_stream().take_until(async move { stop.cancelled().await });
    let mut response = Response::new(Body::from_stream(parts));
    let media_type = head.headers.get(CONTENT_TYPE);
    response.headers_mut().extend(media_type.map(|it| (CONTENT_TYPE, it.clone())));
    Ok(response)
}

async fn complaint(answer: http::Response<hyper::body::Incoming>) -> Status {
    let code = answer.status().as_u16();
    let body = http_body_util::Limited::new(answer.into_body(), COMPLAINT_BYTES).collect().await;
    let text = body
        .ok()
        .and_then(|body| String::from_utf8(body.to_bytes().to_vec()).ok())
        .unwrap_or_default();
    // An agent may answer with a status of its own, or with a line of text.
    let message = serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|value| value["message"].as_str().map(str::to_owned))
        .unwrap_or_else(|| text.trim().to_owned());
    match code {
        400 => Status::bad_request(message),
        404 => Status { code, reason: "NotFound", ..Status::bad_request(message) },
        429 => Status::too_many_requests(message),
        409 => Status { code, reason: "Conflict", ..Status::bad_request(message) },
        _ => Status::internal_error(&message),
    }
}

async fn agent_address(api: &Api, name: &str) -> Result<SocketAddr, Status> {
    let resource = find("", "v1", "nodes").ok_or_else(Status::unknown_path)?;
    let place = Place { resource, namespace: String::new(), name: name.to_owned() };
    let node = api.objects.get(&place).await?;
    let status = &node.value["status"];
    let address = status["addresses"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|address| address["type"] == "InternalIP")
        .and_then(|address| address["address"].as_str()?.parse().ok());
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(AGENT_PORT);
    let address = address.ok_or_else(|| {
        Status::internal_error(&format!("node {name} has not said its address yet"))
    })?;
    Ok(SocketAddr::new(address, port))
}
