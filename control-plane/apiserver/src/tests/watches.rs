//! Watch streams.

use super::*;

fn labels(name: &str, tier: &str) -> Value {
    configmap(name, json!({ "tier": tier }))
}

async fn put(server: &Server, method: &str, name: &str, tier: &str) -> Value {
    let path = if method == "POST" { CONFIGMAPS.into() } else { format!("{CONFIGMAPS}/{name}") };
    let answer = call(method, &path).json(&labels(name, tier)).send(server).await;
    assert!(answer.code < 300, "{}", answer.body);
    answer.body
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn a_watch_starts_with_the_state_and_goes_on() {
    let server = server().await;
    put(&server, "POST", "a", "x").await;
    let mut events = call("GET", &format!("{CONFIGMAPS}?watch=true")).stream(&server).await;
    assert_eq!(events.brief().await, event("ADDED", "a"));
    put(&server, "POST", "b", "x").await;
    let changed = put(&server, "PUT", "a", "y").await;
    call("DELETE", &format!("{CONFIGMAPS}/b")).send(&server).await.expect(200);
    assert_eq!(events.brief().await, event("ADDED", "b"));
    let modified = events.next().await.unwrap();
    assert_eq!((&modified["type"], &modified["object"]), (&json!("MODIFIED"), &changed));
    let deleted = events.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    let version = |object: &Value| -> u64 {
        object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    assert!(version(&deleted["object"]) > version(&changed));
    assert!(events.is_quiet().await);
}

#[tokio::test]
async fn a_watch_resumes_where_it_was() {
    let server = server().await;
    let first = put(&server, "POST", "a", "x").await;
    put(&server, "POST", "b", "x").await;
    put(&server, "PUT", "b", "y").await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{CONFIGMAPS}?watch=true&resourceVersion={version}");
    let mut events = call("GET", &path).stream(&server).await;
    assert_eq!(events.brief().await, event("ADDED", "b"));
    assert_eq!(events.brief().await, event("MODIFIED", "b"));
    assert!(events.is_quiet().await);
}

#[tokio::test]
async fn a_history_that_is_gone_is_expired() {
    let server = server().await;
    let first = put(&server, "POST", "a", "0").await;
    let path = format!("{CONFIGMAPS}/a");
    // More than the cache keeps.
    for n in 1..=2200 {
        let patch = json!({ "data": { "n": n.to_string() } });
        let patch = call("PATCH", &path)
            .header("content-type", "application/merge-patch+json")
            .json(&patch);
        patch.send(&server).await.expect(200);
    }
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{CONFIGMAPS}?watch=true&resourceVersion={version}");
    let mut events = call("GET", &path).stream(&server).await;
    let error = events.next().await.unwrap();
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(error["object"]["reason"], "Expired");
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn an_object_that_leaves_the_selection_is_deleted_for_the_watcher() {
    let server = server().await;
    put(&server, "POST", "a", "x").await;
    let path = format!("{CONFIGMAPS}?watch=true&labelSelector=tier%3Dx");
    let mut events = call("GET", &path).stream(&server).await;
    assert_eq!(events.brief().await, event("ADDED", "a"));
    put(&server, "PUT", "a", "y").await;
    let left = events.next().await.unwrap();
    assert_eq!(
        (&left["type"], &left["object"]["metadata"]["labels"]["tier"]),
        (&json!("DELETED"), &json!("x"),)
    );
    put(&server, "POST", "b", "y").await;
    put(&server, "PUT", "a", "x").await;
    assert_eq!(events.brief().await, event("ADDED", "a"));
}

#[tokio::test]
async fn the_first_state_ends_with_a_bookmark() {
    let server = server().await;
    put(&server, "POST", "a", "x").await;
    let path = format!(
        "{CONFIGMAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true\
         &resourceVersionMatch=NotOlderThan"
    );
    let mut events = call("GET", &path).stream(&server).await;
    assert_eq!(events.brief().await, event("ADDED", "a"));
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    let metadata = &bookmark["object"]["metadata"];
    assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
    let version = metadata["resourceVersion"].as_str().unwrap();
    put(&server, "POST", "b", "x").await;
    assert_eq!(events.brief().await, event("ADDED", "b"));
    let path = format!("{CONFIGMAPS}?watch=true&resourceVersion={version}");
    let mut resumed = call("GET", &path).stream(&server).await;
    assert_eq!(resumed.brief().await, event("ADDED", "b"));
}

#[tokio::test]
async fn bookmarks_come_in_time_and_a_watch_ends_at_its_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let every = Duration::from_millis(400);
    let api = ApiServer::start_with(config(dir.path()), every).await.unwrap();
    let server = Server { api, dir };
    let path = format!("{CONFIGMAPS}?watch=true&allowWatchBookmarks=true&timeoutSeconds=1");
    let response = call("GET", &path).response(&server.api.router()).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let kinds: Vec<Value> = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice::<Value>(line).unwrap()["type"].clone())
        .collect();
    assert_eq!(kinds, ["BOOKMARK", "BOOKMARK"]);
}

#[tokio::test]
async fn a_slow_watcher_is_dropped_alone() {
    let server = server().await;
    put(&server, "POST", "a", "0").await;
    let path = format!("{CONFIGMAPS}?watch=true&resourceVersion=");
    let mut slow = call("GET", &path).stream(&server).await;
    let mut quick = call("GET", &path).stream(&server).await;
    assert_eq!(quick.brief().await, event("ADDED", "a"));
    for n in 0..1100 {
        let patch = json!({ "data": { "n": n.to_string() } });
        let patch = call("PATCH", &format!("{CONFIGMAPS}/a"))
            .header("content-type", "application/merge-patch+json")
            .json(&patch);
        patch.send(&server).await.expect(200);
        assert_eq!(quick.brief().await, event("MODIFIED", "a"));
    }
    let mut seen = 0;
    while slow.next().await.is_some() {
        seen += 1;
    }
    assert!(seen < 1100, "{seen}");
}

#[tokio::test]
async fn tables_are_watched_too() {
    let server = server().await;
    put(&server, "POST", "a", "x").await;
    let mut events = call("GET", &format!("{CONFIGMAPS}?watch=true"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .stream(&server)
        .await;
    let first = events.next().await.unwrap();
    assert_eq!((&first["type"], &first["object"]["kind"]), (&json!("ADDED"), &json!("Table")));
    assert!(first["object"]["columnDefinitions"].is_array());
    put(&server, "PUT", "a", "y").await;
    let second = events.next().await.unwrap();
    assert_eq!(second["object"]["rows"][0]["cells"][0], "a");
    let columns = second["object"]["columnDefinitions"].as_array();
    assert!(columns.is_none_or(Vec::is_empty), "{columns:?}");
}

#[tokio::test]
async fn in_process_clients_watch_and_write() {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};
    let server = server().await;
    let client = server.api.client_as("system:kube-controller-manager", &[]);
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    let list = api.list(&ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap();
    let watched = api.watch(&WatchParams::default(), &version).await.unwrap();
    let mut watched = std::pin::pin!(watched);
    let made: ConfigMap = serde_json::from_value(configmap("kube", json!({}))).unwrap();
    api.create(&PostParams::default(), &made).await.unwrap();
    let event = futures::StreamExt::next(&mut watched).await.unwrap().unwrap();
    assert!(matches!(&event, WatchEvent::Added(c) if c.metadata.name.as_deref() == Some("kube")));
    let twice = api.create(&PostParams::default(), &made).await.unwrap_err();
    assert!(matches!(twice, kube::Error::Api(status) if status.reason == "AlreadyExists"));
}

#[tokio::test]
async fn a_watch_ends_in_time_also_when_there_is_always_something_to_say() {
    let server = server().await;
    for name in ["a", "b", "c"] {
        put(&server, "POST", name, "x").await;
    }
    let path = format!("{CONFIGMAPS}?watch=true&timeoutSeconds=1");
    let mut events = call("GET", &path).stream(&server).await;
    assert_eq!(events.brief().await, event("ADDED", "a"));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // Two are waiting, as they always are on a busy stream.
    assert_eq!(events.next().await, None);
}
