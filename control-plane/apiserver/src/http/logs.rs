//! Logs of a pod's container, read from the agent of its node and passed on as they come.

use super::query::Query;
use super::{Api, respond};
use crate::objects::Place;
use axum::body::Body;
use axum::response::Response;
use bowline_api::object;
use bowline_api::resource::find;
use bowline_api::status::Status;
use futures::StreamExt;
use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;

/// Parameters that the agent understands, with the query's own names.
const PASSED_ON: [&str; 7] =
    ["follow", "tailLines", "sinceSeconds", "sinceTime", "timestamps", "previous", "limitBytes"];
/// The annotation that names the container for clients that do not.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// The port of an agent that does not publish one.
const AGENT_PORT: u16 = 10250;
/// An agent's complaint is cut off after this.
const COMPLAINT_BYTES: usize = 4096;

pub(super) async fn serve(
    api: &Arc<Api>,
    place: &Place,
    query: &Query,
) -> Result<Response, Status> {
    let pod = api.objects.get(place).await?;
    let container = container(&pod.value, place, query.get("container"))?;
    let node = pod.value["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(Status::bad_request(format!(
            "pod {} does not have a host assigned",
            place.name
        )));
    }
    let address = agent_address(api, node).await?;
    let mut target = format!("/containerLogs/{}/{}/{container}", place.namespace, place.name);
    let mut separator = '?';
    for name in PASSED_ON {
        let value = query.get(name);
        if value.is_empty() {
            continue;
        }
        // Flags, numbers and times; anything else has no meaning to the agent.
        if !value.chars().all(|c| c.is_ascii_alphanumeric() || "-:.+".contains(c)) {
            return Err(Status::bad_request(format!("{name}: invalid value {value:?}")));
        }
        target.push(separator);
        target.push_str(&format!("{name}={}", value.replace('+', "%2B")));
        separator = '&';
    }
    let answer =
        api.agents.get(address, &target).await.map_err(|error| Status::internal_error(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(complaint(answer).await);
    }
    let stop = api.stop.clone();
    let stream = answer.into_body().into_data_stream();
    let lines = stream.take_until(async move { stop.cancelled().await });
    let mut response = respond::text(StatusCode::OK, "");
    *response.body_mut() = Body::from_stream(lines);
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
        _ => Status::internal_error(&message),
    }
}

/// The container that is meant: the named one, the default one, or the only one.
fn container(pod: &Value, place: &Place, asked: &str) -> Result<String, Status> {
    let names: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .filter_map(|field| pod["spec"][*field].as_array())
        .flatten()
        .filter_map(|container| container["name"].as_str())
        .collect();
    let default = object::annotations(pod).and_then(|map| map.get(DEFAULT_CONTAINER)?.as_str());
    let chosen = match (asked, default, names.as_slice()) {
        ("", Some(default), _) if names.contains(&default) => default,
        ("", _, [only]) => only,
        ("", _, _) => {
            return Err(Status::bad_request(format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                place.name,
                names.join(" ")
            )));
        }
        (asked, _, _) => asked,
    };
    if names.contains(&chosen) {
        return Ok(chosen.to_owned());
    }
    Err(Status::bad_request(format!("container {chosen} is not valid for pod {}", place.name)))
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
