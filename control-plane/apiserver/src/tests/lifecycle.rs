//! Deleting: at once, gracefully, after finalizers; namespaces; restarts.

use super::*;

#[tokio::test]
async fn a_pod_on_a_node_waits_for_its_agent() {
    let server = server().await;
    let made = bound_pod(&server, "p", "n1").await;
    let path = format!("{PODS}/p");
    let marked = call("DELETE", &path).send(&server).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    // Again, longer: nothing changes. Shorter: it counts.
    let longer = call("DELETE", &format!("{path}?gracePeriodSeconds=60")).send(&server).await;
    assert_eq!(longer.expect(200)["metadata"], marked["metadata"]);
    let shorter = json!({ "gracePeriodSeconds": 5 });
    let shorter = call("DELETE", &path).json(&shorter).send(&server).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);

    let other = json!({ "gracePeriodSeconds": 0, "preconditions": { "uid": "other" } });
    let refused = call("DELETE", &path).by(Some(node("n1"))).json(&other).send(&server).await;
    assert_eq!(refused.failure(), (409, "Conflict"));
    let uid = &made["metadata"]["uid"];
    let last = json!({ "gracePeriodSeconds": 0, "preconditions": { "uid": uid } });
    call("DELETE", &path).by(Some(node("n1"))).json(&last).send(&server).await.expect(200);
    assert_eq!(call("GET", &path).send(&server).await.code, 404);
}

#[tokio::test]
async fn a_pod_that_no_agent_runs_is_gone_at_once() {
    let server = server().await;
    call("POST", PODS).json(&pod("p")).send(&server).await.expect(201);
    call("DELETE", &format!("{PODS}/p")).send(&server).await.expect(200);
    assert_eq!(call("GET", &format!("{PODS}/p")).send(&server).await.code, 404);
    bound_pod(&server, "q", "n1").await;
    let options = json!({ "gracePeriodSeconds": 0 });
    let evicted = json!({ "metadata": { "name": "q" }, "deleteOptions": options });
    let evict = call("POST", &format!("{PODS}/q/eviction")).json(&evicted);
    evict.send(&server).await.expect(201);
    assert_eq!(call("GET", &format!("{PODS}/q")).send(&server).await.code, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_removed() {
    let server = server().await;
    let mut held = configmap("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/a"]);
    call("POST", CONFIGMAPS).json(&held).send(&server).await.expect(201);
    let path = format!("{CONFIGMAPS}/held");
    let foreground = json!({ "propagationPolicy": "Foreground" });
    let marked = call("DELETE", &path).json(&foreground).send(&server).await.expect(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["example.com/a", "foregroundDeletion"]));
    let remove = |finalizers: Value| {
        let patch = json!({ "metadata": { "finalizers": finalizers } });
        call("PATCH", &path).header("content-type", "application/merge-patch+json").json(&patch)
    };
    remove(json!(["example.com/a"])).send(&server).await.expect(200);
    call("GET", &path).send(&server).await.expect(200);
    remove(json!(null)).send(&server).await.expect(200);
    assert_eq!(call("GET", &path).send(&server).await.code, 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = server().await;
    for (name, tier) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let made = configmap(name, json!({ "tier": tier }));
        call("POST", CONFIGMAPS).json(&made).send(&server).await.expect(201);
    }
    let deleted = call("DELETE", &format!("{CONFIGMAPS}?labelSelector=tier%3Dx"));
    let deleted = deleted.send(&server).await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = call("GET", CONFIGMAPS).send(&server).await.expect(200);
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
}

#[tokio::test]
async fn a_namespace_goes_after_its_content() {
    let server = server().await;
    let made = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "ns" } });
    let made = call("POST", "/api/v1/namespaces").json(&made).send(&server).await.expect(201);
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "ns");
    let path = "/api/v1/namespaces/ns";
    let marked = call("DELETE", path).send(&server).await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    let late = call("POST", &format!("{path}/configmaps")).json(&configmap("late", json!({})));
    let late = late.send(&server).await;
    assert_eq!(late.failure(), (403, "Forbidden"));
    assert_eq!(late.body["details"]["causes"][0]["reason"], "NamespaceTerminating");

    let mut done = marked.clone();
    done["spec"]["finalizers"] = json!([]);
    call("PUT", &format!("{path}/finalize")).json(&done).send(&server).await.expect(200);
    assert_eq!(call("GET", path).send(&server).await.code, 404);
    for name in ["default", "kube-system"] {
        let kept = call("DELETE", &format!("/api/v1/namespaces/{name}")).send(&server).await;
        assert_eq!(kept.failure(), (403, "Forbidden"));
    }
}

#[tokio::test]
async fn a_restart_keeps_objects_revisions_and_watches() {
    let dir = tempfile::tempdir().unwrap();
    let before = Server { api: ApiServer::start(config(dir.path())).await.unwrap(), dir };
    let first = call("POST", CONFIGMAPS).json(&configmap("a", json!({}))).send(&before).await;
    let first = first.expect(201);
    call("POST", CONFIGMAPS).json(&configmap("b", json!({}))).send(&before).await.expect(201);
    let token = before.api.join_token();
    let Server { api, dir } = before;
    drop(api);
    // The feed lets go of the store at its next turn.
    let api = loop {
        match ApiServer::start(config(dir.path())).await {
            Ok(api) => break api,
            Err(crate::StartFailed::Store(crate::OpenFailed::InUse { .. })) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(other) => panic!("{other}"),
        }
    };
    let after = Server { api, dir };
    assert_eq!(after.api.join_token(), token);
    let read = call("GET", &format!("{CONFIGMAPS}/a")).send(&after).await.expect(200);
    assert_eq!(read, first);
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{CONFIGMAPS}?watch=true&resourceVersion={version}");
    let mut events = call("GET", &path).stream(&after).await;
    assert_eq!(events.brief().await, ("ADDED".to_owned(), "b".to_owned()));
}

/// Its content is looked at after it is marked; what came later would outlive it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_put_into_a_namespace_that_ends() {
    let server = std::sync::Arc::new(server().await);
    let revision = |object: &Value| -> u64 {
        object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    for round in 0..5 {
        let name = format!("n{round}");
        let namespace =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        call("POST", "/api/v1/namespaces").json(&namespace).send(&server).await.expect(201);
        let creates: Vec<_> = (0..64)
            .map(|number| {
                let (server, name) = (server.clone(), name.clone());
                tokio::spawn(async move {
                    let map = json!({
                        "apiVersion": "v1", "kind": "ConfigMap",
                        "metadata": { "name": format!("m{number}"), "namespace": name },
                    });
                    let path = format!("/api/v1/namespaces/{name}/configmaps");
                    call("POST", &path).json(&map).send(&server).await
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let path = format!("/api/v1/namespaces/{name}");
        let marked = call("DELETE", &path).send(&server).await.expect(200);
        for create in creates {
            let created = create.await.unwrap();
            if created.code == 201 {
                assert!(revision(&created.body) < revision(&marked), "{}", created.body);
            }
        }
    }
}
