//! How much the server takes on at a time, and for how long.

use super::*;
use axum::body::Bytes;
use futures::stream;
use std::convert::Infallible;
use tokio::task::JoinHandle;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
/// Waits for 3 seconds for a revision that does not come.
const SLOW_READ: &str = "/api/v1/namespaces/default/configmaps/a?resourceVersion=100000";

async fn bounded(limits: Limits) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { limits, ..config(dir.path()) };
    Server { api: ApiServer::start(config).await.unwrap(), dir }
}

/// One place for reads, and one for writes.
fn one_place() -> Limits {
    Limits { requests_inflight: 1, mutating_requests_inflight: 1, ..Limits::DEFAULT }
}

/// A request that has its place by the time this returns.
async fn begun(server: &Server, request: http::Request<Body>) -> JoinHandle<http::StatusCode> {
    let router = server.api.router();
    let answer = tokio::spawn(async move { router.oneshot(request).await.unwrap().status() });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!answer.is_finished());
    answer
}

async fn slow_read(server: &Server, user: User) -> JoinHandle<http::StatusCode> {
    let mut request = http::Request::get(SLOW_READ).body(Body::empty()).unwrap();
    request.extensions_mut().insert(user);
    begun(server, request).await
}

/// A body that never ends.
fn endless() -> Body {
    Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())
}

async fn slow_write(server: &Server) -> JoinHandle<http::StatusCode> {
    let mut request = http::Request::post(CONFIGMAPS).body(endless()).unwrap();
    request.extensions_mut().insert(admin());
    begun(server, request).await
}

fn scheduler() -> User {
    User::new("system:kube-scheduler", &[])
}

fn lease(name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name },
    })
}

async fn metric(server: &Server, name: &str) -> Option<f64> {
    // Through a share that has places.
    let text = call("GET", "/metrics").send(server).await.expect(200);
    let mut lines = text.as_str().unwrap().lines().map(str::to_owned);
    lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[tokio::test]
async fn one_read_too_many_is_told_to_come_back() {
    let server = bounded(one_place()).await;
    let slow = slow_read(&server, admin()).await;
    let refused = call("GET", CONFIGMAPS).send(&server).await;
    assert_eq!(refused.failure(), (429, "TooManyRequests"));
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.body["details"], json!({ "retryAfterSeconds": 1 }));
    assert_eq!(
        refused.body["message"],
        "Too many requests, please try again later: all 1 places are taken \
         (--max-requests-inflight)"
    );
    // Writes have places of their own.
    let map = configmap("a", json!({}));
    call("POST", CONFIGMAPS).json(&map).send(&server).await.expect(201);
    // So has what the cluster lives by; streams and health need none.
    for (path, user) in [
        ("/api/v1/services", Some(node("n1"))),
        ("/api/v1/pods", Some(scheduler())),
        (LEASES, Some(admin())),
        ("/readyz", Some(admin())),
        ("/livez", None),
        ("/version", None),
    ] {
        call("GET", path).by(user).send(&server).await.expect(200);
    }
    let mut events = call("GET", &format!("{CONFIGMAPS}?watch=1")).stream(&server).await;
    assert_eq!(events.brief().await, ("ADDED".to_owned(), "a".to_owned()));
    // A watch in name only is a read, and a write that says it watches is a write.
    let scale = "/apis/apps/v1/namespaces/default/deployments/d/scale?watch=1";
    assert_eq!(call("GET", scale).send(&server).await.code, 429);

    slow.abort();
    assert!(slow.await.unwrap_err().is_cancelled());
    call("GET", CONFIGMAPS).send(&server).await.expect(200);
    let dropped = "apiserver_dropped_requests_total{request_kind=\"readOnly\"}";
    assert_eq!(metric(&server, dropped).await, Some(2.0));
}

#[tokio::test]
async fn one_write_too_many_is_told_to_come_back() {
    let server = bounded(one_place()).await;
    let slow = slow_write(&server).await;
    let inflight = "apiserver_current_inflight_requests{request_kind=\"mutating\"}";
    assert_eq!(metric(&server, inflight).await, Some(1.0));
    for (method, path) in [
        ("POST", CONFIGMAPS.to_owned()),
        ("POST", format!("{CONFIGMAPS}?watch=1")),
        ("PUT", format!("{CONFIGMAPS}/a")),
        ("DELETE", format!("{CONFIGMAPS}/a")),
    ] {
        let refused = call(method, &path).json(&configmap("a", json!({}))).send(&server).await;
        assert_eq!(refused.failure(), (429, "TooManyRequests"), "{method} {path}");
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.ends_with("(--max-mutating-requests-inflight)"), "{message}");
    }
    call("GET", CONFIGMAPS).send(&server).await.expect(200);
    call("POST", LEASES).json(&lease("leader")).send(&server).await.expect(201);
    let n1 = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" } });
    let n1 = call("POST", "/api/v1/nodes").by(Some(node("n1"))).json(&n1);
    n1.send(&server).await.expect(201);
    slow.abort();
    assert!(slow.await.unwrap_err().is_cancelled());
    let map = configmap("a", json!({}));
    call("POST", CONFIGMAPS).json(&map).send(&server).await.expect(201);
    let dropped = "apiserver_dropped_requests_total{request_kind=\"mutating\"}";
    assert_eq!(metric(&server, dropped).await, Some(4.0));
    assert_eq!(metric(&server, inflight).await, Some(0.0));
}

#[tokio::test]
async fn the_cluster_itself_waits_for_its_turn_and_gets_it() {
    let server = bounded(one_place()).await;
    let path = format!("{SLOW_READ}&timeout=1s");
    let mut request = http::Request::get(path).body(Body::empty()).unwrap();
    request.extensions_mut().insert(scheduler());
    let first = begun(&server, request).await;
    let read = || call("GET", "/api/v1/services").by(Some(node("n1"))).send(&server);
    let too_short = call("GET", "/api/v1/services?timeout=50ms").by(Some(node("n1")));
    assert_eq!(too_short.send(&server).await.failure(), (504, "Timeout"));
    let (one, other) = tokio::join!(read(), read());
    assert_eq!((one.code, other.code), (200, 200));
    assert_eq!(first.await.unwrap(), 504);
}

#[tokio::test]
async fn a_request_has_so_much_time_and_no_more() {
    let request_timeout = Duration::from_millis(200);
    let server = bounded(Limits { request_timeout, ..Limits::DEFAULT }).await;
    let post = |query: &str| {
        let path = format!("{CONFIGMAPS}{query}");
        let mut request = http::Request::post(path).body(endless()).unwrap();
        request.extensions_mut().insert(admin());
        server.api.router().oneshot(request)
    };
    for (query, expected) in [
        ("", "200ms (--request-timeout)"),
        ("?timeout=0s", "200ms (--request-timeout)"),
        ("?timeout=1h", "200ms (--request-timeout)"),
        ("?timeout=20ms", "20ms (timeout)"),
    ] {
        let response = post(query).await.unwrap();
        assert_eq!(response.status(), 504, "{query}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let status: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status["reason"], "Timeout");
        let message = "Timeout: request did not complete within the allotted timeout of";
        assert_eq!(status["message"], format!("{message} {expected}"), "{query}");
    }
    let wrong = call("GET", &format!("{CONFIGMAPS}?timeout=soon")).send(&server).await;
    assert_eq!(wrong.failure(), (400, "BadRequest"));
    assert_eq!(
        wrong.body["message"],
        "invalid timeout specified in the request URL - time: invalid duration \"soon\""
    );
}

#[tokio::test]
async fn a_watch_lasts_whatever_its_client_says_of_every_request() {
    let server = server().await;
    let path = format!("{CONFIGMAPS}?watch=1&timeout=20ms");
    let mut events = call("GET", &path).stream(&server).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    call("POST", CONFIGMAPS).json(&configmap("a", json!({}))).send(&server).await.expect(201);
    assert_eq!(events.brief().await, ("ADDED".to_owned(), "a".to_owned()));
}

#[tokio::test]
async fn a_user_has_so_many_watches() {
    let server = bounded(Limits { watches_per_user: 2, ..Limits::DEFAULT }).await;
    let path = format!("{CONFIGMAPS}?watch=1");
    let open = || call("GET", &path).stream(&server);
    let watches = (open().await, open().await);
    let refused = call("GET", &path).send(&server).await;
    assert_eq!(refused.failure(), (429, "TooManyRequests"));
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(
        refused.body["message"],
        "Too many requests, please try again later: \"admin\" has 2 watches open \
         (--max-watches-per-user)"
    );
    let other = User::new("other", &[MASTERS]);
    let other = call("GET", &path).by(Some(other)).stream(&server).await;
    let mut own = Vec::new();
    for _ in 0..3 {
        let path = "/api/v1/services?watch=1";
        own.push(call("GET", path).by(Some(node("n1"))).stream(&server).await);
    }
    drop(watches.0);
    let again = open().await;
    // One that cannot begin does not count.
    let (wrong, late) = (format!("{path}&labelSelector=(("), format!("{path}&resourceVersion=x"));
    drop(again);
    for _ in 0..2 {
        assert_eq!(call("GET", &wrong).send(&server).await.code, 400);
        assert_eq!(call("GET", &late).send(&server).await.code, 400);
    }
    let last = open().await;
    drop((watches.1, other, own, last));
}
