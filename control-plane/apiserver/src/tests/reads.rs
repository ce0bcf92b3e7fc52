//! Lists, selectors, pages, tables, documents.

use super::faulty::Faulty;
use super::*;
use crate::store::{Hooked, RedbStore, Retention};
use std::sync::Arc;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

async fn with_configmaps() -> Server {
    let server = server().await;
    for (name, tier) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let made = configmap(name, json!({ "tier": tier }));
        call("POST", CONFIGMAPS).json(&made).send(&server).await.expect(201);
    }
    server
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn selectors_choose() {
    let server = with_configmaps().await;
    let cases = [
        ("labelSelector=tier%3Dx", vec!["a", "c"]),
        ("labelSelector=tier%20in%20(y)", vec!["b"]),
        ("labelSelector=!tier", vec![]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name%21%3Db", vec!["a", "c"]),
    ];
    for (query, expected) in cases {
        let list = call("GET", &format!("{CONFIGMAPS}?{query}")).send(&server).await.expect(200);
        assert_eq!(names(&list), expected, "{query}");
        assert_eq!(list["kind"], "ConfigMapList");
    }
    for query in ["labelSelector=((", "fieldSelector=spec.colour%3Db", "limit=x"] {
        let refused = call("GET", &format!("{CONFIGMAPS}?{query}")).send(&server).await;
        assert_eq!(refused.failure(), (400, "BadRequest"), "{query}");
    }
    bound_pod(&server, "p", "n1").await;
    let on_node = call("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").send(&server).await;
    assert_eq!(names(&on_node.expect(200)), ["p"]);
}

#[tokio::test]
async fn pages_show_one_revision() {
    let server = with_configmaps().await;
    let first = call("GET", &format!("{CONFIGMAPS}?limit=2")).send(&server).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let next = format!("{CONFIGMAPS}?limit=2&continue={token}");
    let before = call("GET", &next).send(&server).await.expect(200);
    assert_eq!(names(&before), ["c"]);
    // What happens in between is not in the second page.
    call("DELETE", &format!("{CONFIGMAPS}/c")).send(&server).await.expect(200);
    call("POST", CONFIGMAPS).json(&configmap("d", json!({}))).send(&server).await.expect(201);
    let after = call("GET", &next).send(&server).await.expect(200);
    assert_eq!(after, before);
    assert_eq!(after["metadata"]["continue"], Value::Null);
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = format!("{CONFIGMAPS}?resourceVersion={version}&resourceVersionMatch=Exact");
    let exact = call("GET", &exact).send(&server).await.expect(200);
    assert_eq!(names(&exact), ["a", "b", "c"]);
    let junk = call("GET", &format!("{CONFIGMAPS}?limit=2&continue=junk")).send(&server).await;
    assert_eq!(junk.failure(), (400, "BadRequest"));
}

#[tokio::test]
async fn a_list_whose_revision_is_forgotten_goes_on_with_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(&dir.path().join("read.redb"), Retention::default()).unwrap();
    let store = Arc::new(store);
    let server = server_over(Hooked::new(store.clone(), Arc::<Faulty>::default()), dir).await;
    for name in ["a", "b", "c"] {
        let made = configmap(name, json!({}));
        call("POST", CONFIGMAPS).json(&made).send(&server).await.expect(201);
    }
    let get = |query: String| call("GET", &format!("{CONFIGMAPS}?{query}")).send(&server);
    let first = get("limit=1".to_owned()).await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    call("DELETE", &format!("{CONFIGMAPS}/b")).send(&server).await.expect(200);
    call("POST", CONFIGMAPS).json(&configmap("d", json!({}))).send(&server).await.expect(201);
    let newest = store.revision().await.unwrap();
    store.compact(newest).await.unwrap();

    let gone = get(format!("limit=1&continue={token}")).await;
    assert_eq!(gone.failure(), (410, "Expired"));
    assert_eq!(
        gone.body["message"],
        "The provided continue parameter is too old to display a consistent list result. You can \
         start a new list without the continue parameter, or use the continue token in this \
         response to retrieve the remainder of the results. Continuing with the provided token \
         results in an inconsistent list - objects that were created, modified, or deleted \
         between the time the first chunk was returned and now may show up in the list."
    );
    let token = gone.body["metadata"]["continue"].as_str().unwrap();
    let second = get(format!("limit=1&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["c"]);
    assert_eq!(second["metadata"]["resourceVersion"], newest.to_string());
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = get(format!("limit=1&continue={token}")).await.expect(200);
    assert_eq!((names(&third), &third["metadata"]["continue"]), (vec!["d"], &Value::Null));

    // Who asks for a revision, and not for the rest of a list, has nothing to go on with.
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = get(format!("resourceVersion={version}&resourceVersionMatch=Exact")).await;
    assert_eq!(exact.failure(), (410, "Expired"));
    let message = "The resourceVersion for the provided list is too old.";
    assert_eq!(exact.body["message"], message);
    assert_eq!(exact.body["metadata"], json!({}));
}

#[tokio::test]
async fn tables_and_metadata_are_made_on_request() {
    let server = with_configmaps().await;
    let table = call("GET", CONFIGMAPS).header("accept", TABLE).send(&server).await.expect(200);
    assert_eq!(
        (&table["kind"], &table["apiVersion"]),
        (&json!("Table"), &json!("meta.k8s.io/v1"),)
    );
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][1]["cells"][0], "b");
    assert_eq!(table["rows"][1]["object"]["kind"], "PartialObjectMetadata");
    let one = call("GET", &format!("{CONFIGMAPS}/a")).header("accept", TABLE);
    assert_eq!(one.send(&server).await.expect(200)["rows"].as_array().unwrap().len(), 1);
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = call("GET", CONFIGMAPS).header("accept", partial).send(&server).await.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["data"], Value::Null);
    let other = call("GET", CONFIGMAPS).header("accept", "text/html").send(&server).await;
    assert_eq!(other.failure(), (406, "NotAcceptable"));
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_takes_gzip() {
    use std::io::Read;
    let server = server().await;
    let mut large = configmap("large", json!({}));
    large["data"]["key"] = json!("value ".repeat(50_000));
    call("POST", CONFIGMAPS).json(&large).send(&server).await.expect(201);
    call("POST", CONFIGMAPS).json(&configmap("small", json!({}))).send(&server).await.expect(201);
    let router = server.api.router();
    let (large, small) = (format!("{CONFIGMAPS}/large"), format!("{CONFIGMAPS}/small"));
    let absent = format!("{CONFIGMAPS}/absent");
    let watch = format!("{CONFIGMAPS}?watch=1&timeoutSeconds=1");
    for (method, path, accept, expected) in [
        ("GET", &large, "gzip", true),
        ("GET", &large, "gzip;q=0", false),
        ("GET", &large, "br", false),
        ("GET", &CONFIGMAPS.to_owned(), "deflate, gzip", true),
        ("GET", &small, "gzip", false),
        ("GET", &absent, "gzip", false),
        ("GET", &watch, "gzip", false),
        ("HEAD", &large, "gzip", false),
        ("GET", &"/openapi/v3/api/v1".to_owned(), "gzip", true),
    ] {
        let plain = call(method, path).response(&router).await.into_body();
        let plain = plain.collect().await.unwrap().to_bytes();
        let sent = call(method, path).header("accept-encoding", accept).response(&router).await;
        let (head, body) = sent.into_parts();
        let coding = head.headers.get("content-encoding").map(|it| it.to_str().unwrap());
        assert_eq!(coding, expected.then_some("gzip"), "{method} {path} {accept}");
        let body = body.collect().await.unwrap().to_bytes();
        if expected {
            let mut read = Vec::new();
            flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut read).unwrap();
            assert!(read == plain, "{path}");
            assert!(body.len() < plain.len() / 2, "{path}: {}", body.len());
            let vary: Vec<_> = head.headers.get_all("vary").iter().collect();
            assert!(vary.iter().any(|it| *it == "Accept-Encoding"), "{vary:?}");
        } else {
            assert!(body == plain, "{path}");
        }
    }
}

#[tokio::test]
async fn the_server_describes_itself() {
    let server = server().await;
    let version = call("GET", "/version").by(None).send(&server).await.expect(200);
    assert_eq!(version["gitVersion"], "v1.36.0+bowline");
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(call("GET", path).by(None).send(&server).await.expect(200), "ok");
    }
    let resources = call("GET", "/apis/apps/v1").send(&server).await.expect(200);
    assert_eq!(resources["kind"], "APIResourceList");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = call("GET", "/apis").header("accept", accept).send(&server).await;
    assert_eq!(all.headers["content-type"], accept);
    assert_eq!(all.expect(200)["kind"], "APIGroupDiscoveryList");
    let v2 = call("GET", "/openapi/v2").send(&server).await.expect(200);
    assert_eq!((&v2["swagger"], &v2["definitions"]), (&json!("2.0"), &json!({})));
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let v2 = call("GET", "/openapi/v2").header("accept", protobuf).send(&server).await;
    assert_eq!(v2.expect(200), "\n\u{3}2.0\u{12}\u{f}\n\u{7}bowline\u{12}\u{4}1.36");
    let index = call("GET", "/openapi/v3").send(&server).await.expect(200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = call("GET", url).send(&server).await;
    assert_eq!(document.body["openapi"], "3.0.0");
    let tag = document.headers["etag"].to_str().unwrap();
    let known = call("GET", url).header("if-none-match", tag).send(&server).await;
    assert_eq!(known.code, 304);
}
