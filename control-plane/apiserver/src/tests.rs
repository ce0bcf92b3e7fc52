//! The server as its clients see it, over the in-process router.

mod access;
mod accounts;
mod applies;
mod bootstrap_tokens;
mod bounds;
mod certificates;
mod evictions;
mod faulty;
mod health;
mod kinds;
mod lifecycle;
mod limits;
mod metrics;
mod options;
mod patches;
mod pod_parts;
mod priorities;
mod protobuf;
mod quotas;
mod reads;
mod reviews;
mod services;
mod shutdown;
mod tokens;
mod unreadable;
mod versions;
mod watches;
mod workloads;
mod writes;

use crate::auth::{MASTERS, NODES, User};
use crate::store::Store;
use crate::{ApiServer, BOOKMARK_EVERY, CERTIFICATE_LIFE, Config, Limits, Retention};
use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tower::ServiceExt;

pub(super) struct Server {
    pub(super) api: ApiServer,
    pub(super) dir: tempfile::TempDir,
}

pub(super) fn config(dir: &Path) -> Config {
    Config {
        data_dir: dir.to_owned(),
        service_cidr: "10.9.0.0/16".parse().unwrap(),
        cluster_domain: "cluster.local".to_owned(),
        join_secret: None,
        advertise: "172.30.0.1:6443".parse().unwrap(),
        server_names: vec!["api.example".to_owned()],
        default_unreachable_toleration_seconds: 5,
        limits: Limits::DEFAULT,
        service_account_issuer: None,
        certificate_life: CERTIFICATE_LIFE,
        retention: Retention::DEFAULT,
    }
}

pub(super) async fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::start(config(dir.path())).await.unwrap();
    Server { api, dir }
}

/// A server over a store of the test's own.
pub(super) async fn server_over(engine: impl Store, dir: tempfile::TempDir) -> Server {
    let config = config(dir.path());
    let api = ApiServer::start_over(config, engine, BOOKMARK_EVERY).await.unwrap();
    Server { api, dir }
}

/// The deployment `d`, whose spec has these fields beside what it must have, or in its place.
pub(super) fn deployment(spec: Value) -> Value {
    let mut config = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" },
        "spec": {
            "selector": { "matchLabels": { "app": "d" } },
            "template": {
                "metadata": { "labels": { "app": "d" } },
                "spec": { "containers": [{ "name": "c", "image": "i:1" }] },
            },
        },
    });
    for (field, value) in spec.as_object().unwrap() {
        config["spec"][field] = value.clone();
    }
    config
}

pub(super) fn admin() -> User {
    User::new("admin", &[MASTERS])
}

pub(super) fn node(name: &str) -> User {
    User::new(format!("system:node:{name}"), &[NODES])
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Value,
}

impl Answer {
    #[track_caller]
    pub(super) fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.body);
        self.body
    }

    /// The code and the reason of a failure.
    pub(super) fn failure(&self) -> (u16, &str) {
        assert_eq!(self.body["kind"], "Status", "{}", self.body);
        (self.code, self.body["reason"].as_str().unwrap_or_default())
    }
}

pub(super) struct Call {
    request: http::request::Builder,
    user: Option<User>,
    body: Vec<u8>,
}

pub(super) fn call(method: &str, path: &str) -> Call {
    let request = http::Request::builder().method(method).uri(path);
    Call { request, user: Some(admin()), body: Vec::new() }
}

impl Call {
    pub(super) fn by(mut self, user: Option<User>) -> Self {
        self.user = user;
        self
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(super) fn json(mut self, value: &Value) -> Self {
        self.body = value.to_string().into_bytes();
        self
    }

    pub(super) fn raw(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(super) async fn send(self, server: &Server) -> Answer {
        let response = self.response(&server.api.router()).await;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { code: head.status.as_u16(), headers: head.headers, body }
    }

    async fn response(self, router: &Router) -> http::Response<Body> {
        let mut request = self.request.body(Body::from(self.body)).unwrap();
        if let Some(user) = self.user {
            request.extensions_mut().insert(user);
        }
        router.clone().oneshot(request).await.unwrap()
    }

    /// The events of a watch.
    pub(super) async fn stream(self, server: &Server) -> Events {
        let response = self.response(&server.api.router()).await;
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), lines: Vec::new() }
    }
}

pub(super) struct Events {
    body: Body,
    lines: Vec<Value>,
}

impl Events {
    /// The next event; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Option<Value> {
        while self.lines.is_empty() {
            let frame = tokio::time::timeout(Duration::from_secs(5), self.body.frame());
            let data = frame.await.expect("an event").transpose().unwrap()?.into_data().unwrap();
            let text = String::from_utf8(data.to_vec()).unwrap();
            assert!(text.ends_with('\n'), "whole lines only: {text}");
            self.lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        }
        Some(self.lines.remove(0))
    }

    /// The type and the object's name of the next event.
    pub(super) async fn brief(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        (event["type"].as_str().unwrap().to_owned(), name.to_owned())
    }

    pub(super) async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(30), self.body.frame()).await.is_err()
    }
}

pub(super) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(super) const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

pub(super) fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "containers": [{ "name": "c", "image": "registry/image:1" }] },
    })
}

pub(super) fn configmap(name: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "labels": labels },
        "data": { "key": "value" },
    })
}

/// A pod that the scheduler has put on a node.
pub(super) async fn bound_pod(server: &Server, name: &str, node: &str) -> Value {
    call("POST", PODS).json(&pod(name)).send(server).await.expect(201);
    let binding = json!({ "target": { "kind": "Node", "name": node } });
    let path = format!("{PODS}/{name}/binding");
    call("POST", &path).json(&binding).send(server).await.expect(201);
    call("GET", &format!("{PODS}/{name}")).send(server).await.expect(200)
}
