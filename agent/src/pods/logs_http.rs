//! `GET /containerLogs/{namespace}/{pod}/{container}` of the agent's HTTPS server.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use serde::Deserialize;

use super::PodManager;
use super::logs::{LogRange, read_log};
use super::state::LogState;
use crate::runtime::ContainerKey;

/// The query of kubectl's logs, as the API server passes it on.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LogQuery {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail_lines: Option<u64>,
    since_seconds: Option<u64>,
    since_time: Option<String>,
    limit_bytes: Option<u64>,
}

/// Serves logs of the manager's pods.
pub(crate) fn log_router(manager: Arc<PodManager>) -> Router {
    Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_log))
        .with_state(manager)
}

fn refuse(status: StatusCode, message: String) -> Response {
    (status, message).into_response()
}

async fn container_log(
    State(manager): State<Arc<PodManager>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
) -> Response {
    let since = match since(&query, Timestamp::now()) {
        Ok(since) => since,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, message),
    };
    let Some(source) = manager.log_source(&namespace, &pod) else {
        let message = format!("pods \"{pod}\" not found on this node");
        return refuse(StatusCode::NOT_FOUND, message);
    };
    let state = source.view.borrow().get(&container).copied();
    let Some(state) = state else {
        let message = format!("container \"{container}\" in pod \"{pod}\" is waiting to start");
        return refuse(StatusCode::BAD_REQUEST, message);
    };
    let Some(attempt) = chosen_attempt(state, query.previous) else {
        let message = if query.previous {
            format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
        } else {
            format!("container \"{container}\" in pod \"{pod}\" is waiting to start")
        };
        return refuse(StatusCode::BAD_REQUEST, message);
    };
    let key = ContainerKey {
        pod_uid: source.pod.metadata.uid.clone().unwrap_or_default(),
        namespace,
        pod,
        container: container.clone(),
        attempt,
    };
    let range = LogRange {
        follow: query.follow,
        tail_lines: query.tail_lines,
        limit_bytes: query.limit_bytes,
        since,
        timestamps: query.timestamps,
    };
    let view = source.view;
    let is_over = move || {
        let current = view.borrow().get(&container).copied();
        view.has_changed().is_err()
            || current.is_none_or(|state| state.attempt != attempt || !state.running)
    };
    match read_log(manager.log_path(&key), range, is_over).await {
        Ok(parts) => {
            ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(parts)).into_response()
        }
        Err(error) => refuse(StatusCode::NOT_FOUND, format!("the log is not there: {error}")),
    }
}

fn since(query: &LogQuery, now: Timestamp) -> Result<Option<Timestamp>, String> {
    if let Some(seconds) = query.since_seconds {
        return Ok(now.checked_sub(Duration::from_secs(seconds)).ok());
    }
    let parse = |text: &String| {
        text.parse().map_err(|error| format!("sinceTime {text:?} is not a time: {error}"))
    };
    query.since_time.as_ref().map(parse).transpose()
}

/// The newest run that has a log, or the one before it.
fn chosen_attempt(state: LogState, previous: bool) -> Option<u32> {
    let newest = if state.begun { Some(state.attempt) } else { state.attempt.checked_sub(1) };
    if previous && state.begun { newest?.checked_sub(1) } else { newest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts() {
        let state = |attempt, begun| LogState { attempt, begun, running: begun };
        for (state, previous, expected) in [
            (state(0, true), false, Some(0)),
            (state(0, true), true, None),
            (state(0, false), false, None),
            (state(2, true), true, Some(1)),
            (state(2, false), false, Some(1)),
            (state(2, false), true, Some(1)),
        ] {
            assert_eq!(chosen_attempt(state, previous), expected, "{state:?} {previous}");
        }
    }
}
