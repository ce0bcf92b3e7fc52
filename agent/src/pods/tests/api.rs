//! As much of an API server as a node's pods talk to: statuses, deletions, events.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use tower::ServiceExt as _;

#[derive(Clone, Default)]
pub(super) struct Api(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    statuses: HashMap<String, Value>,
    deleted: HashSet<String>,
    events: Vec<(String, String)>,
}

impl Api {
    pub(super) fn client(&self) -> kube::Client {
        let router: Router = Router::new()
            .route("/api/v1/namespaces/{ns}/pods/{name}/status", patch(write_status))
            .route("/api/v1/namespaces/{ns}/pods/{name}", axum::routing::delete(delete_pod))
            .route("/api/v1/namespaces/{ns}/events", post(record_event))
            .route("/api/v1/namespaces/{ns}/events/{name}", patch(|| async { Json(json!({})) }))
            .route("/api/v1/namespaces/{ns}/configmaps/{name}", get(not_found))
            .with_state(self.clone());
        let service = router.map_request(|request: http::Request<kube::client::Body>| {
            request.map(axum::body::Body::new)
        });
        kube::Client::new(service, "default")
    }

    pub(super) fn status(&self, pod: &str) -> PodStatus {
        let seen = self.0.lock().unwrap();
        let status = seen.statuses.get(pod).cloned().unwrap_or_else(|| json!({}));
        serde_json::from_value(status).unwrap()
    }

    pub(super) fn with_status(&self, pod: &Pod) -> Pod {
        let status = self.status(pod.metadata.name.as_deref().unwrap());
        Pod { status: Some(status), ..pod.clone() }
    }

    pub(super) async fn wait(
        &self,
        pod: &str,
        limit: Duration,
        holds: impl Fn(&PodStatus) -> bool,
    ) -> PodStatus {
        let begun = Instant::now();
        loop {
            let status = self.status(pod);
            if holds(&status) {
                return status;
            }
            let text = serde_json::to_string_pretty(&status).unwrap();
            assert!(begun.elapsed() < limit, "{pod}: {text}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) async fn wait_deleted(&self, pod: &str, limit: Duration) {
        let begun = Instant::now();
        while !self.0.lock().unwrap().deleted.contains(pod) {
            assert!(begun.elapsed() < limit, "{pod} is not deleted");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) fn events(&self, pod: &str) -> Vec<String> {
        let seen = self.0.lock().unwrap();
        let own = seen.events.iter().filter(|(name, _)| name == pod);
        own.map(|(_, reason)| reason.clone()).collect()
    }
}

async fn write_status(
    State(api): State<Api>,
    Path((_, name)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Json<Value> {
    let status = body["status"].clone();
    api.0.lock().unwrap().statuses.insert(name.clone(), status.clone());
    Json(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "status": status}))
}

async fn delete_pod(
    State(api): State<Api>,
    Path((_, name)): Path<(String, String)>,
) -> Json<Value> {
    api.0.lock().unwrap().deleted.insert(name);
    Json(json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success"}))
}

async fn record_event(State(api): State<Api>, Json(event): Json<Value>) -> Json<Value> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entry = (text(&event["involvedObject"]["name"]), text(&event["reason"]));
    eprintln!("event {}: {} {}", entry.0, entry.1, text(&event["message"]));
    api.0.lock().unwrap().events.push(entry);
    Json(event)
}

async fn not_found() -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "not found", "reason": "NotFound", "code": 404});
    (StatusCode::NOT_FOUND, Json(status)).into_response()
}
