//! Server-side apply, and who manages what.

use super::*;

const MAP: &str = "/api/v1/namespaces/default/configmaps/m";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/d";

fn apply(path: &str, parameters: &str, config: &Value) -> Call {
    call("PATCH", &format!("{path}?{parameters}"))
        .header("content-type", "application/apply-patch+yaml")
        .json(config)
}

fn map(data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": data })
}

/// `manager operation subresource` of the entries.
fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let mut managers: Vec<String> = entries
        .map(|entry| {
            let parts = ["manager", "operation", "subresource"].map(|field| text(entry, field));
            parts.join(" ").trim_end().to_owned()
        })
        .collect();
    // They are in the order of times, which these tests do not tell.
    managers.sort();
    managers
}

fn fields<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["manager"] == manager);
    &entry.unwrap_or_else(|| panic!("no entry of {manager}: {object}"))["fieldsV1"]
}

#[tokio::test]
async fn an_apply_creates_once_and_then_changes_what_differs() {
    let server = server().await;
    let config = map(json!({ "a": "1", "b": "1" }));
    let created = apply(MAP, "fieldManager=one", &config).send(&server).await.expect(201);
    assert_eq!(created["data"], json!({ "a": "1", "b": "1" }));
    assert_eq!(created["metadata"]["namespace"], "default");
    assert_eq!(managers(&created), ["one Apply"]);
    assert_eq!(*fields(&created, "one"), json!({ "f:data": { "f:a": {}, "f:b": {} } }));

    let again = apply(MAP, "fieldManager=one", &config).send(&server).await.expect(200);
    assert_eq!(again, created);
    let fewer = map(json!({ "a": "2" }));
    let changed = apply(MAP, "fieldManager=one", &fewer).send(&server).await.expect(200);
    assert_eq!(changed["data"], json!({ "a": "2" }));
    assert_ne!(changed["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    assert_eq!(changed["metadata"]["uid"], created["metadata"]["uid"]);
    let read = call("GET", MAP).send(&server).await.expect(200);
    assert_eq!(read, changed);

    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata: {a: '3'}\n";
    let applied = call("PATCH", &format!("{MAP}?fieldManager=one"))
        .header("content-type", "application/apply-patch+yaml; charset=utf-8")
        .raw(yaml);
    assert_eq!(applied.send(&server).await.expect(200)["data"], json!({ "a": "3" }));
}

#[tokio::test]
async fn conflicts_are_told_and_forced() {
    let server = server().await;
    let one = map(json!({ "a": "1", "b": "1" }));
    apply(MAP, "fieldManager=one", &one).send(&server).await.expect(201);
    let two = map(json!({ "a": "2" }));
    let refused = apply(MAP, "fieldManager=two", &two).send(&server).await;
    assert_eq!(refused.failure(), (409, "Conflict"));
    assert_eq!(
        refused.body["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .data.a"
    );
    assert_eq!(
        refused.body["details"],
        json!({ "causes": [{
            "reason": "FieldManagerConflict",
            "message": "conflict with \"one\"",
            "field": ".data.a",
        }] })
    );
    let forced = apply(MAP, "fieldManager=two&force=true", &two).send(&server).await.expect(200);
    assert_eq!(forced["data"], json!({ "a": "2", "b": "1" }));
    assert_eq!(*fields(&forced, "one"), json!({ "f:data": { "f:b": {} } }));
    // Who agrees shares.
    let three = apply(MAP, "fieldManager=three", &two).send(&server).await.expect(200);
    assert_eq!(managers(&three), ["one Apply", "three Apply", "two Apply"]);
}

#[tokio::test]
async fn an_update_takes_over_what_it_changes() {
    let server = server().await;
    let one = map(json!({ "a": "1", "b": "1" }));
    apply(MAP, "fieldManager=one", &one).send(&server).await.expect(201);
    let patch = json!({ "data": { "a": "2" } });
    let patched = call("PATCH", MAP)
        .header("content-type", "application/merge-patch+json")
        .header("user-agent", "kubectl/v1.36.0 (linux/amd64) kubernetes/1")
        .json(&patch)
        .send(&server)
        .await
        .expect(200);
    assert_eq!(managers(&patched), ["kubectl Update", "one Apply"]);
    assert_eq!(*fields(&patched, "kubectl"), json!({ "f:data": { "f:a": {} } }));
    let refused = apply(MAP, "fieldManager=one", &one).send(&server).await;
    assert_eq!(
        refused.body["message"],
        "Apply failed with 1 conflict: conflict with \"kubectl\" using v1: .data.a"
    );

    // Whoever writes the object back writes the entries back; who leaves them out loses none.
    let mut whole = patched.clone();
    whole["data"]["c"] = json!("1");
    let path = format!("{MAP}?fieldManager=editor");
    let put = call("PUT", &path).json(&whole).send(&server).await.expect(200);
    assert_eq!(managers(&put), ["editor Update", "kubectl Update", "one Apply"]);
    let mut bare = put.clone();
    bare["metadata"].as_object_mut().unwrap().remove("managedFields");
    let same = call("PUT", &path).json(&bare).send(&server).await.expect(200);
    assert_eq!(same, put);
    // And an empty list forgets them.
    bare["metadata"]["managedFields"] = json!([]);
    let reset = call("PUT", &path).json(&bare).send(&server).await.expect(200);
    assert_eq!(reset["metadata"].get("managedFields"), None);
    let first = map(json!({ "c": "2" }));
    let refused = apply(MAP, "fieldManager=one", &first).send(&server).await;
    assert_eq!(
        refused.body["message"],
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.c"
    );
}

#[tokio::test]
async fn defaults_are_nobodys_and_the_status_is_applied_apart() {
    let server = server().await;
    let config = deployment(json!({ "replicas": 2 }));
    let created = apply(DEPLOYMENT, "fieldManager=one", &config).send(&server).await.expect(201);
    assert_eq!(created["spec"]["revisionHistoryLimit"], 10);
    assert_eq!(
        *fields(&created, "one"),
        json!({ "f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:template": {
                "f:metadata": { "f:labels": { "f:app": {} } },
                "f:spec": { "f:containers": {
                    "k:{\"name\":\"c\"}": { ".": {}, "f:image": {}, "f:name": {} },
                } },
            },
        } })
    );
    let again = apply(DEPLOYMENT, "fieldManager=one", &config).send(&server).await.expect(200);
    assert_eq!(again, created);

    let mut status = deployment(json!({ "replicas": 7 }));
    status["status"] = json!({ "replicas": 2 });
    let path = format!("{DEPLOYMENT}/status");
    let written = apply(&path, "fieldManager=two", &status).send(&server).await.expect(200);
    assert_eq!((&written["spec"], &written["status"]["replicas"]), (&created["spec"], &json!(2)));
    assert_eq!(managers(&written), ["one Apply", "two Apply status"]);
    assert_eq!(*fields(&written, "two"), json!({ "f:status": { "f:replicas": {} } }));
    let missing = format!("{DEPLOYMENT}x/status");
    let refused = apply(&missing, "fieldManager=two", &status).send(&server).await;
    assert_eq!(refused.failure(), (404, "NotFound"));

    // Without the container's image: gone, and so refused.
    let bare = deployment(json!({ "template": {
        "metadata": { "labels": { "app": "d" } }, "spec": { "containers": [{ "name": "c" }] },
    } }));
    let refused = apply(DEPLOYMENT, "fieldManager=one", &bare).send(&server).await;
    assert_eq!(refused.failure(), (422, "Invalid"));
}

#[tokio::test]
async fn a_scale_is_written_and_applied_through_its_subresource() {
    let server = server().await;
    let config = deployment(json!({ "replicas": 2 }));
    apply(DEPLOYMENT, "fieldManager=one", &config).send(&server).await.expect(201);
    let path = format!("{DEPLOYMENT}/scale");
    let scale = |replicas: u32| {
        json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "d" },
            "spec": { "replicas": replicas } })
    };
    let refused = apply(&path, "fieldManager=hpa", &scale(3)).send(&server).await;
    assert_eq!(
        refused.body["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
    );
    let forced = apply(&path, "fieldManager=hpa&force=true", &scale(3)).send(&server).await;
    assert_eq!(forced.expect(200)["spec"]["replicas"], 3);
    let read = call("GET", DEPLOYMENT).send(&server).await.expect(200);
    assert_eq!(managers(&read), ["hpa Apply scale", "one Apply"]);
    let put = call("PUT", &format!("{path}?fieldManager=user")).json(&scale(4)).send(&server).await;
    put.expect(200);
    let read = call("GET", DEPLOYMENT).send(&server).await.expect(200);
    assert_eq!(managers(&read), ["one Apply", "user Update scale"]);
    assert_eq!(*fields(&read, "user"), json!({ "f:spec": { "f:replicas": {} } }));
    let wrong = apply(&path, "fieldManager=hpa", &config).send(&server).await;
    assert_eq!(wrong.failure(), (400, "BadRequest"));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let server = server().await;
    let config = map(json!({ "a": "1" }));
    let dry = apply(MAP, "fieldManager=one&dryRun=All", &config).send(&server).await.expect(201);
    assert_eq!(managers(&dry), ["one Apply"]);
    assert_eq!(call("GET", MAP).send(&server).await.code, 404);
    let created = apply(MAP, "fieldManager=one", &config).send(&server).await.expect(201);
    let other = map(json!({ "a": "2" }));
    let dry = apply(MAP, "fieldManager=one&dryRun=All", &other).send(&server).await.expect(200);
    assert_eq!(dry["data"], json!({ "a": "2" }));
    assert_eq!(call("GET", MAP).send(&server).await.expect(200), created);
}

#[tokio::test]
async fn wrong_applies_are_refused() {
    let server = server().await;
    let good = map(json!({ "a": "1" }));
    let with = |field: &str, value: Value| {
        let mut config = good.clone();
        config["metadata"][field] = value;
        config
    };
    let cases = [
        (
            "",
            good.clone(),
            (422, "Invalid"),
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required \
             for apply patch",
        ),
        (
            "fieldManager=a%0Ab",
            good.clone(),
            (422, "Invalid"),
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\nb\": \
             invalid character U+000A (at position 1)",
        ),
        (
            "fieldManager=a",
            with("managedFields", json!([])),
            (400, "BadRequest"),
            "metadata.managedFields must be nil",
        ),
        (
            "fieldManager=a",
            with("name", json!("n")),
            (400, "BadRequest"),
            "the name of the object (n) does not match the name on the URL (m)",
        ),
        (
            "fieldManager=a",
            with("name", json!("")),
            (400, "BadRequest"),
            "the name of the object (m based on URL) was undeterminable: name must be provided",
        ),
        (
            "fieldManager=a",
            with("namespace", json!("other")),
            (400, "BadRequest"),
            "the namespace of the provided object does not match",
        ),
        (
            "fieldManager=a",
            with("uid", json!("u")),
            (409, "Conflict"),
            "Operation cannot be fulfilled on configmaps \"m\": uid mismatch: the provided object \
             specified uid u, and no existing object was found",
        ),
        (
            "fieldManager=a",
            json!({ "kind": "ConfigMap" }),
            (400, "BadRequest"),
            "invalid object type: /, Kind=ConfigMap",
        ),
        (
            "fieldManager=a",
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" },
                "date": {} }),
            (500, ""),
            "failed to create typed patch object (/m; /v1, Kind=ConfigMap): .date: field not \
             declared in schema",
        ),
        ("fieldManager=a", json!([]), (400, "BadRequest"), "error decoding YAML: "),
    ];
    for (parameters, config, failure, message) in cases {
        let answer = apply(MAP, parameters, &config).send(&server).await;
        assert_eq!(answer.failure(), failure, "{message}: {}", answer.body);
        let said = answer.body["message"].as_str().unwrap();
        assert!(said.starts_with(message), "{said}\n{message}");
    }
    assert_eq!(call("GET", MAP).send(&server).await.code, 404);

    let forced = call("PATCH", &format!("{MAP}?force=true"))
        .header("content-type", "application/merge-patch+json")
        .json(&json!({}))
        .send(&server)
        .await;
    assert_eq!(forced.failure(), (422, "Invalid"));
    let long = format!("{CONFIGMAPS}?fieldManager={}", "x".repeat(129));
    let refused = call("POST", &long).json(&good).send(&server).await;
    assert_eq!(refused.failure(), (422, "Invalid"));
    assert_eq!(
        refused.body["message"],
        "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than \
         128 bytes"
    );
}

#[tokio::test]
async fn preconditions_of_an_apply() {
    let server = server().await;
    let config = map(json!({ "a": "1" }));
    let created = apply(MAP, "fieldManager=one", &config).send(&server).await.expect(201);
    let mut versioned = map(json!({ "a": "2" }));
    versioned["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"].clone();
    versioned["metadata"]["uid"] = created["metadata"]["uid"].clone();
    let changed = apply(MAP, "fieldManager=one", &versioned).send(&server).await.expect(200);
    assert_eq!(changed["data"], json!({ "a": "2" }));
    versioned["data"]["a"] = json!("3");
    let stale = apply(MAP, "fieldManager=one", &versioned).send(&server).await;
    assert_eq!(stale.failure(), (409, "Conflict"));
    let mut other = config.clone();
    other["metadata"]["uid"] = json!("u");
    let stale = apply(MAP, "fieldManager=one", &other).send(&server).await;
    assert_eq!(stale.failure(), (409, "Conflict"));
}

#[tokio::test]
async fn who_may_not_create_cannot_by_an_apply() {
    let server = server().await;
    let agent = || Some(node("n1"));
    let config = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n2" } });
    let refused = apply("/api/v1/nodes/n2", "fieldManager=a", &config).by(agent());
    assert_eq!(refused.send(&server).await.failure(), (403, "Forbidden"));
}

#[tokio::test]
async fn internal_writers_have_names() {
    let server = server().await;
    let service = "/api/v1/namespaces/default/services/kubernetes";
    let service = call("GET", service).send(&server).await.expect(200);
    assert_eq!(managers(&service), ["kube-apiserver Update"]);

    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(server.api.client_as("system:kube-scheduler", &[MASTERS]), "default");
    let pod = serde_json::from_value(pod("p")).unwrap();
    let made = pods.create(&kube::api::PostParams::default(), &pod).await.unwrap();
    let entry = &made.metadata.managed_fields.unwrap()[0];
    assert_eq!(entry.manager.as_deref(), Some("kube-scheduler"));
    // A binding is noted nowhere, as in Kubernetes.
    let binding = json!({ "target": { "kind": "Node", "name": "n1" } });
    call("POST", &format!("{PODS}/p/binding")).json(&binding).send(&server).await.expect(201);
    let status = json!({ "status": { "phase": "Running" } });
    let patched = call("PATCH", &format!("{PODS}/p/status"))
        .by(Some(node("n1")))
        .header("content-type", "application/merge-patch+json")
        .header("user-agent", "bowline-agent/0.1.0")
        .json(&status)
        .send(&server)
        .await
        .expect(200);
    assert_eq!(managers(&patched), ["bowline-agent Update status", "kube-scheduler Update"]);
    assert_eq!(*fields(&patched, "bowline-agent"), json!({ "f:status": { "f:phase": {} } }));
}

#[tokio::test]
async fn kubectl_takes_over_what_it_applied_itself() {
    let server = server().await;
    let last = map(json!({ "a": "1" })).to_string();
    let mut made = map(json!({ "a": "1" }));
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    made["metadata"]["annotations"] = json!({ annotation: last });
    let path = format!("{CONFIGMAPS}?fieldManager=kubectl-client-side-apply");
    call("POST", &path).json(&made).send(&server).await.expect(201);
    let config = map(json!({ "a": "2" }));
    let other = apply(MAP, "fieldManager=other", &config).send(&server).await;
    assert_eq!(other.failure(), (409, "Conflict"));
    let applied = apply(MAP, "fieldManager=kubectl", &config).send(&server).await.expect(200);
    assert_eq!(applied["data"], json!({ "a": "2" }));
    let note = applied["metadata"]["annotations"][annotation].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(note).unwrap(), config);
}

#[tokio::test]
async fn concurrent_applies_all_arrive() {
    let server = server().await;
    let configs: Vec<Value> = (0..6).map(|n| map(json!({ format!("k{n}"): "v" }))).collect();
    let applies = configs
        .iter()
        .enumerate()
        .map(|(n, config)| apply(MAP, &format!("fieldManager=m{n}"), config).send(&server));
    let answers = futures::future::join_all(applies).await;
    assert_eq!(answers.iter().filter(|answer| answer.code == 201).count(), 1);
    let read = call("GET", MAP).send(&server).await.expect(200);
    assert_eq!(read["data"].as_object().unwrap().len(), 6);
    assert_eq!(managers(&read).len(), 6);
}
