//! Objects that are stored and cannot be read: named by what would show them, never left out.

use super::*;
use crate::store::{RedbStore, Retention, Write};

const OPTION: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
const KEY: &str = "/registry/core/configmaps/default/torn";

/// A server with a config map of which half is stored.
async fn torn() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(&dir.path().join("torn.redb"), Retention::default()).unwrap();
    let half = Write::Create(bytes::Bytes::from_static(b"{\"metadata\":{\"name\":\"to"));
    store.write(KEY.to_owned(), half).await.unwrap();
    server_over(store, dir).await
}

#[tokio::test]
async fn what_would_show_it_fails_and_names_it() {
    let server = torn().await;
    let whole = configmap("whole", json!({}));
    call("POST", CONFIGMAPS).json(&whole).send(&server).await.expect(201);
    for path in [
        format!("{CONFIGMAPS}/torn"),
        format!("{CONFIGMAPS}/torn?resourceVersion=0"),
        CONFIGMAPS.to_owned(),
        format!("{CONFIGMAPS}?limit=1"),
        format!("{CONFIGMAPS}?resourceVersion=0"),
        format!("{CONFIGMAPS}?watch=1"),
        "/api/v1/configmaps".to_owned(),
    ] {
        let answer = call("GET", &path).send(&server).await;
        assert_eq!(answer.failure(), (500, "StorageReadError"), "{path}");
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.contains(KEY) && message.contains(OPTION), "{path}: {message}");
        assert_eq!(answer.body["details"]["causes"][0]["field"], KEY, "{path}");
    }
    // Others are served.
    call("GET", &format!("{CONFIGMAPS}/whole")).send(&server).await.expect(200);
    call("GET", "/api/v1/namespaces/kube-system/configmaps").send(&server).await.expect(200);
    let taken = call("POST", CONFIGMAPS).json(&configmap("torn", json!({}))).send(&server).await;
    assert_eq!(taken.failure(), (409, "AlreadyExists"));
    let ready = call("GET", "/readyz?verbose").by(None).send(&server).await;
    let text = ready.body.as_str().unwrap();
    assert!(text.contains("warn: stored objects that cannot be read: 1"), "{text}");
}

#[tokio::test]
async fn only_masters_who_say_so_delete_it() {
    let server = torn().await;
    let path = format!("{CONFIGMAPS}/torn");
    let plain = call("DELETE", &path).send(&server).await;
    assert_eq!(plain.failure(), (500, "StorageReadError"));
    let collection = call("DELETE", CONFIGMAPS).send(&server).await;
    assert_eq!(collection.failure(), (500, "StorageReadError"));
    let both = json!({ OPTION: true, "gracePeriodSeconds": 0 });
    let both = call("DELETE", &path).json(&both).send(&server).await;
    assert_eq!(both.failure(), (422, "Invalid"));
    let message = both.body["message"].as_str().unwrap();
    assert!(message.contains("cannot be set together with .gracePeriodSeconds"), "{message}");

    let said = json!({ OPTION: true });
    call("DELETE", &path).json(&said).send(&server).await.expect(200);
    let gone = call("GET", &path).send(&server).await;
    assert_eq!(gone.failure(), (404, "NotFound"));
    let list = call("GET", CONFIGMAPS).send(&server).await.expect(200);
    let items = list["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["metadata"]["name"] != "torn"), "{list}");
    // What can be read is deleted as ever.
    call("POST", CONFIGMAPS).json(&configmap("torn", json!({}))).send(&server).await.expect(201);
    call("DELETE", &path).json(&said).send(&server).await.expect(200);
}
