//! Logs of a pod's container, which the agent of its node has.

use super::query::Query;
use super::{Api, relay};
use crate::objects::Place;
use axum::response::Response;
use bowline_api::object;
use bowline_api::status::Status;
use serde_json::Value;
use std::sync::Arc;

/// Parameters that the agent understands, with the query's own names.
const PASSED_ON: [&str; 7] =
    ["follow", "tailLines", "sinceSeconds", "sinceTime", "timestamps", "previous", "limitBytes"];
/// The annotation that names the container for clients that do not.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

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
    let path = format!("/containerLogs/{}/{}/{container}", place.namespace, place.name);
    relay::serve(api, node, &path, &PASSED_ON, query).await
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
