//! What the server counts, and who may read it.

use super::*;
use futures::StreamExt;

/// A series and its value.
async fn series(server: &Server) -> Vec<(String, f64)> {
    let answer = call("GET", "/metrics").send(server).await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.expect(200);
    let lines = text.as_str().unwrap().lines().filter(|line| !line.starts_with('#'));
    let split = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(split).collect()
}

/// The value of the series with this name and all these labels.
fn value(series: &[(String, f64)], name: &str, labels: &[&str]) -> Option<f64> {
    let is = |full: &str| {
        full.split('{').next() == Some(name) && labels.iter().all(|label| full.contains(label))
    };
    series.iter().find(|(full, _)| is(full)).map(|(_, value)| *value)
}

#[tokio::test]
async fn metrics_are_for_masters() {
    let server = server().await;
    let stranger = call("GET", "/metrics").by(None).send(&server).await;
    assert_eq!(stranger.failure(), (401, "Unauthorized"));
    let node = call("GET", "/metrics").by(Some(node("n1"))).send(&server).await;
    assert_eq!(node.failure(), (403, "Forbidden"));
    assert_eq!(call("POST", "/metrics").send(&server).await.failure().0, 405);
    let open = call("GET", "/metrics").header("accept", "application/openmetrics-text");
    let open = open.send(&server).await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(open.headers["content-type"], kind);
    assert!(open.expect(200).as_str().unwrap().ends_with("# EOF\n"));
}

#[tokio::test]
async fn requests_are_counted_by_what_they_ask_and_how_it_ends() {
    let server = server().await;
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" } });
    let maps = "/api/v1/namespaces/default/configmaps";
    call("POST", maps).json(&map).send(&server).await.expect(201);
    call("POST", maps).json(&map).send(&server).await.expect(409);
    call("GET", &format!("{maps}/a")).send(&server).await.expect(200);
    call("GET", &format!("{maps}/b")).send(&server).await.expect(404);
    call("GET", maps).send(&server).await.expect(200);
    call("GET", maps).by(None).send(&server).await.expect(401);
    call("GET", &format!("{maps}/a/unicorns")).send(&server).await.expect(404);
    call("BREW", "/teapot").by(None).send(&server).await.expect(401);

    let series = series(&server).await;
    let requests = |verb: &str, code: u16| {
        let (verb, code) = (format!("verb=\"{verb}\""), format!("code=\"{code}\""));
        let labels = [verb.as_str(), &code, "resource=\"configmaps\""];
        value(&series, "apiserver_request_total", &labels)
    };
    let counted = [("POST", 201), ("POST", 409), ("GET", 200), ("GET", 404), ("LIST", 200)];
    for (verb, code) in counted.into_iter().chain([("LIST", 401)]) {
        assert_eq!(requests(verb, code), Some(1.0), "{verb} {code}");
    }
    // What is not in the table is one series, whatever its name is.
    let other = ["verb=\"OTHER\"", "resource=\"\"", "code=\"401\""];
    assert_eq!(value(&series, "apiserver_request_total", &other), Some(1.0));
    let named = |word: &str| series.iter().any(|(name, _)| name.contains(word));
    assert!(!named("unicorns") && !named("teapot") && !named("BREW"));

    let get = ["verb=\"GET\"", "resource=\"configmaps\""];
    assert_eq!(value(&series, "apiserver_request_duration_seconds_count", &get), Some(2.0));
    let reading = ["request_kind=\"readOnly\""];
    assert_eq!(value(&series, "apiserver_current_inflight_requests", &reading), Some(1.0));
    let held = value(&series, "apiserver_storage_objects", &["resource=\"configmaps\""]);
    assert_eq!(held, Some(1.0));
    let writes = value(
        &series,
        "bowline_store_request_duration_seconds_count",
        &["operation=\"create\"", "result=\"ok\""],
    );
    assert!(writes.unwrap() >= 1.0);
    assert!(value(&series, "bowline_store_revisions_total", &[]).unwrap() >= 1.0);
}

#[tokio::test]
async fn watches_are_counted_while_they_are_open() {
    let server = server().await;
    let open = |series: &[(String, f64)]| {
        let labels = ["verb=\"WATCH\"", "resource=\"secrets\""];
        value(series, "apiserver_longrunning_requests", &labels)
    };
    assert_eq!(open(&series(&server).await), Some(0.0));
    let path = "/api/v1/secrets?watch=true&sendInitialEvents=true&allowWatchBookmarks=true\
                &resourceVersionMatch=NotOlderThan";
    let watch = call("GET", path).response(&server.api.router()).await;
    let mut events = watch.into_body().into_data_stream();
    events.next().await.unwrap().unwrap();
    let during = series(&server).await;
    assert_eq!(open(&during), Some(1.0));
    let began = ["verb=\"WATCH\"", "resource=\"secrets\"", "code=\"200\""];
    assert_eq!(value(&during, "apiserver_request_total", &began), Some(1.0));
    // Its answer has no end, so it is no answer time.
    let timed = value(&during, "apiserver_request_duration_seconds_count", &began[..2]);
    assert_eq!(timed, None);
    drop(events);
    assert_eq!(open(&series(&server).await), Some(0.0));
}
