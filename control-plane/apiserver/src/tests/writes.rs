//! Create, update, patch, and what is refused.

use super::*;

#[tokio::test]
async fn objects_are_created_read_updated_and_deleted() {
    let server = server().await;
    let created =
        call("POST", CONFIGMAPS).json(&configmap("one", json!({}))).send(&server).await.expect(201);
    assert_eq!(created["metadata"]["namespace"], "default");
    assert_eq!(created["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert!(created["metadata"]["creationTimestamp"].as_str().unwrap().ends_with('Z'));

    let path = format!("{CONFIGMAPS}/one");
    let read = call("GET", &path).send(&server).await.expect(200);
    assert_eq!(read, created);
    let mut changed = read.clone();
    changed["data"]["key"] = json!("other");
    let updated = call("PUT", &path).json(&changed).send(&server).await.expect(200);
    assert_ne!(updated["metadata"]["resourceVersion"], read["metadata"]["resourceVersion"]);
    // The same again writes nothing.
    let same = call("PUT", &path).json(&updated).send(&server).await.expect(200);
    assert_eq!(same, updated);

    let stale = call("PUT", &path).json(&changed).send(&server).await;
    assert_eq!(stale.failure(), (409, "Conflict"));
    let again = call("POST", CONFIGMAPS).json(&configmap("one", json!({}))).send(&server).await;
    assert_eq!(again.failure(), (409, "AlreadyExists"));

    let gone = call("DELETE", &path).send(&server).await.expect(200);
    assert_eq!(
        (&gone["status"], &gone["details"]["uid"]),
        (&json!("Success"), &created["metadata"]["uid"],)
    );
    let missing = call("GET", &path).send(&server).await;
    assert_eq!(missing.failure(), (404, "NotFound"));
    assert_eq!(missing.body["message"], "configmaps \"one\" not found");
}

#[tokio::test]
async fn nothing_that_is_refused_is_stored() {
    let server = server().await;
    let mut invalid = pod("Bad_Name");
    invalid["spec"]["containers"][0]["name"] = json!("UPPER");
    let refused = call("POST", PODS).json(&invalid).send(&server).await;
    assert_eq!(refused.failure(), (422, "Invalid"));
    let fields: Vec<_> = refused.body["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| cause["field"].as_str().unwrap())
        .collect();
    assert!(fields.contains(&"metadata.name"), "{fields:?}");
    assert!(fields.contains(&"spec.containers[0].name"), "{fields:?}");

    let mut mistyped = pod("mistyped");
    mistyped["spec"]["containers"] = json!("none");
    let refused = call("POST", PODS).json(&mistyped).send(&server).await;
    assert_eq!(refused.failure(), (400, "BadRequest"));

    let mut misplaced = pod("misplaced");
    misplaced["metadata"]["namespace"] = json!("elsewhere");
    let refused = call("POST", PODS).json(&misplaced).send(&server).await;
    assert_eq!(refused.failure(), (400, "BadRequest"));

    let homeless = call("POST", "/api/v1/namespaces/nowhere/pods").json(&pod("p"));
    let refused = homeless.send(&server).await;
    assert_eq!(refused.failure(), (404, "NotFound"));
    assert_eq!(refused.body["message"], "namespaces \"nowhere\" not found");

    let dry = call("POST", &format!("{PODS}?dryRun=All")).json(&pod("dry"));
    dry.send(&server).await.expect(201);
    let pods = call("GET", PODS).send(&server).await.expect(200);
    assert_eq!(pods["items"], json!([]));
}

#[tokio::test]
async fn unknown_kinds_paths_and_methods_have_a_status() {
    let server = server().await;
    for path in ["/api/v1/unicorns", "/apis/none/v1/x", "/api/v1/namespaces/default/pods/p/x"] {
        let answer = call("GET", path).send(&server).await;
        assert_eq!(answer.failure(), (404, "NotFound"), "{path}");
    }
    let answer = call("PUT", PODS).json(&pod("p")).send(&server).await;
    assert_eq!(answer.failure(), (405, "MethodNotAllowed"));
    let answer = call("POST", "/api/v1/pods").json(&pod("p")).send(&server).await;
    assert_eq!(answer.failure(), (405, "MethodNotAllowed"));
    let answer = call("POST", PODS).raw("not json").send(&server).await;
    assert_eq!(answer.failure(), (400, "BadRequest"));
    let answer = call("POST", PODS).header("content-type", "text/html").raw("x");
    assert_eq!(answer.send(&server).await.failure(), (415, "UnsupportedMediaType"));
    let answer = call("POST", PODS).raw(vec![b' '; 4 * 1024 * 1024]).send(&server).await;
    assert_eq!(answer.failure(), (413, "RequestEntityTooLarge"));
}

#[tokio::test]
async fn unknown_fields_are_refused_told_or_dropped() {
    let server = server().await;
    let mut odd = pod("odd");
    odd["spec"]["colour"] = json!("blue");
    let strict = call("POST", &format!("{PODS}?fieldValidation=Strict")).json(&odd);
    let strict = strict.send(&server).await;
    assert_eq!(strict.failure(), (400, "BadRequest"));
    let message = strict.body["message"].as_str().unwrap();
    assert!(message.ends_with("strict decoding error: unknown field \"spec.colour\""), "{message}");

    let warned = call("POST", PODS).json(&odd).send(&server).await;
    let warning = warned.headers["warning"].to_str().unwrap();
    assert_eq!(warning, r#"299 - "unknown field \"spec.colour\"""#);
    assert_eq!(warned.expect(201)["spec"]["colour"], Value::Null);
}

#[tokio::test]
async fn a_yaml_body_is_read_and_a_yaml_answer_is_written() {
    let server = server().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\ndata:\n  a: b\n";
    let answer = call("POST", CONFIGMAPS)
        .header("content-type", "application/yaml")
        .header("accept", "application/yaml")
        .raw(yaml)
        .send(&server)
        .await;
    assert_eq!(
        (answer.code, &answer.headers["content-type"]),
        (201, &"application/yaml".parse().unwrap(),)
    );
    assert!(answer.body.as_str().unwrap().contains("data:\n  a: b\n"), "{}", answer.body);
}

#[tokio::test]
async fn patches_of_every_kind() {
    let server = server().await;
    call("POST", CONFIGMAPS).json(&configmap("p", json!({ "a": "1" }))).send(&server).await;
    let path = format!("{CONFIGMAPS}/p");
    let patch = |kind: &str, body: Value| {
        let content_type = format!("application/{kind}");
        call("PATCH", &path).header("content-type", &content_type).json(&body)
    };
    let merged = patch("merge-patch+json", json!({ "data": { "key": null, "new": "1" } }));
    assert_eq!(merged.send(&server).await.expect(200)["data"], json!({ "new": "1" }));
    let added = json!([{ "op": "add", "path": "/data/x", "value": "y" }]);
    let added = patch("json-patch+json", added).send(&server).await.expect(200);
    assert_eq!(added["data"], json!({ "new": "1", "x": "y" }));
    let failed = json!([{ "op": "test", "path": "/data/x", "value": "z" }]);
    assert_eq!(patch("json-patch+json", failed).send(&server).await.code, 422);
    let label = json!({ "metadata": { "labels": { "b": "2" } } });
    let labelled = patch("strategic-merge-patch+json", label).send(&server).await.expect(200);
    assert_eq!(labelled["metadata"]["labels"], json!({ "a": "1", "b": "2" }));
    let stale = json!({ "metadata": { "resourceVersion": "1" } });
    let stale = patch("merge-patch+json", stale).send(&server).await;
    assert_eq!(stale.failure(), (409, "Conflict"));
    let renamed = json!({ "metadata": { "name": "q" } });
    assert_eq!(patch("merge-patch+json", renamed).send(&server).await.code, 400);
    let unknown = patch("apply-patch+cbor", json!({})).send(&server).await;
    assert_eq!(unknown.failure(), (415, "UnsupportedMediaType"));
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let server = server().await;
    call("POST", CONFIGMAPS).json(&configmap("race", json!({}))).send(&server).await.expect(201);
    let path = format!("{CONFIGMAPS}/race");
    let patches = (0..6).map(|n| {
        let body = json!({ "data": { format!("k{n}"): "v" } });
        call("PATCH", &path)
            .header("content-type", "application/merge-patch+json")
            .json(&body)
            .send(&server)
    });
    for answer in futures::future::join_all(patches).await {
        answer.expect(200);
    }
    let data = call("GET", &path).send(&server).await.expect(200)["data"].clone();
    assert_eq!(data.as_object().unwrap().len(), 7, "{data}");
}

#[tokio::test]
async fn names_are_generated() {
    let server = server().await;
    let mut unnamed = pod("x");
    unnamed["metadata"] = json!({ "generateName": "web-" });
    let mut names = std::collections::HashSet::new();
    for _ in 0..5 {
        let made = call("POST", PODS).json(&unnamed).send(&server).await.expect(201);
        let name = made["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        names.insert(name);
    }
    assert_eq!(names.len(), 5);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let server = server().await;
    let made = bound_pod(&server, "p", "n1").await;
    assert_eq!(made["status"]["phase"], "Pending");
    let path = format!("{PODS}/p");
    let mut both = made.clone();
    both["status"]["phase"] = json!("Running");
    both["metadata"]["labels"]["new"] = json!("label");
    let main = call("PUT", &path).json(&both).send(&server).await.expect(200);
    assert_eq!(main["status"]["phase"], "Pending");
    assert_eq!(main["metadata"]["labels"]["new"], "label");
    both["metadata"]["labels"]["other"] = json!("label");
    both["metadata"]["resourceVersion"] = json!("");
    let status = call("PUT", &format!("{path}/status")).json(&both).send(&server).await.expect(200);
    assert_eq!(status["status"]["phase"], "Running");
    assert_eq!(status["metadata"]["labels"]["other"], Value::Null);
}

#[tokio::test]
async fn scales_are_read_and_written() {
    let server = server().await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": "i" }] },
            },
        },
    });
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let made = call("POST", path).json(&deployment).send(&server).await.expect(201);
    assert_eq!(made["metadata"]["generation"], 1);
    let scale = format!("{path}/web/scale");
    let read = call("GET", &scale).send(&server).await.expect(200);
    assert_eq!((&read["kind"], &read["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(read["status"]["selector"], "app=web");
    let patch = call("PATCH", &scale)
        .header("content-type", "application/merge-patch+json")
        .json(&json!({ "spec": { "replicas": 5 } }));
    assert_eq!(patch.send(&server).await.expect(200)["spec"]["replicas"], 5);
    let stale = call("PUT", &scale).json(&read).send(&server).await;
    assert_eq!(stale.failure(), (409, "Conflict"));
    let mut negative = read.clone();
    negative["metadata"]["resourceVersion"] = Value::Null;
    negative["spec"]["replicas"] = json!(-1);
    let refused = call("PUT", &scale).json(&negative).send(&server).await;
    assert_eq!(refused.failure(), (422, "Invalid"));
    let now = call("GET", &format!("{path}/web")).send(&server).await.expect(200);
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&json!(5), &json!(2)));
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let server = server().await;
    let bound = bound_pod(&server, "p", "n1").await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let condition = &bound["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"]),
        (&json!("PodScheduled"), &json!("True"))
    );
    let binding = json!({ "target": { "kind": "Node", "name": "n2" } });
    let again = call("POST", &format!("{PODS}/p/binding")).json(&binding).send(&server).await;
    assert_eq!(again.failure(), (409, "Conflict"));
}

#[tokio::test]
async fn an_update_creates_only_what_its_writers_expect() {
    let server = server().await;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "n1", "namespace": "kube-node-lease" },
        "spec": { "holderIdentity": "n1" },
    });
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
    call("PUT", path).json(&lease).send(&server).await.expect(201);
    let unversioned = call("PUT", path).json(&lease).send(&server).await;
    assert_eq!(unversioned.failure(), (422, "Invalid"));
    let missing = call("PUT", &format!("{PODS}/p")).json(&pod("p")).send(&server).await;
    assert_eq!(missing.failure(), (404, "NotFound"));
}

#[tokio::test]
async fn fields_that_appear_twice_are_told_or_refused() {
    let server = server().await;
    let twice = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
                    "data": {"k": "old", "k": "new"}}"#;
    let send = |query: &str, body: &str, kind: &str| {
        let call = call("POST", &format!("{CONFIGMAPS}{query}")).header("content-type", kind);
        call.raw(body).send(&server)
    };
    let strict = send("?fieldValidation=Strict", twice, "application/json").await;
    assert_eq!(strict.failure(), (400, "BadRequest"));
    let message = strict.body["message"].as_str().unwrap();
    assert!(message.ends_with("strict decoding error: duplicate field \"data.k\""), "{message}");
    let told = send("", twice, "application/json").await;
    let warning = told.headers["warning"].to_str().unwrap().to_owned();
    assert_eq!(warning, r#"299 - "duplicate field \"data.k\"""#);
    assert_eq!(told.expect(201)["data"], json!({ "k": "new" }));
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\nmetadata: {name: c}\n";
    let strict = send("?fieldValidation=Strict", yaml, "application/yaml").await;
    assert_eq!(strict.failure(), (400, "BadRequest"));
    let ignored = send("?fieldValidation=Ignore", yaml, "application/yaml").await;
    assert!(!ignored.headers.contains_key("warning"));
    assert_eq!(ignored.expect(201)["metadata"]["name"], "c");
}

#[tokio::test]
async fn a_scale_is_written_under_its_own_name() {
    let server = server().await;
    let path = "/apis/apps/v1/namespaces/default/replicasets";
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": "web" },
        "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": {
            "metadata": { "labels": { "a": "b" } },
            "spec": { "containers": [{ "name": "c", "image": "i" }] },
        } },
    });
    call("POST", path).json(&set).send(&server).await.expect(201);
    let put = |name: &str| {
        let scale = json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": { "name": name, "namespace": "default" }, "spec": { "replicas": 3 },
        });
        call("PUT", &format!("{path}/web/scale")).json(&scale).send(&server)
    };
    assert_eq!(put("other").await.failure(), (400, "BadRequest"));
    let stored = call("GET", &format!("{path}/web")).send(&server).await.expect(200);
    assert_eq!(stored["spec"]["replicas"], 1);
    assert_eq!(put("web").await.expect(200)["spec"]["replicas"], 3);
}

#[tokio::test]
async fn rules_that_the_scheduler_does_not_read_are_accepted_with_a_warning() {
    let server = server().await;
    let terms = json!([{ "topologyKey": "kubernetes.io/hostname", "labelSelector": {} }]);
    let required = json!({ "requiredDuringSchedulingIgnoredDuringExecution": terms });
    let preferred = json!({ "preferredDuringSchedulingIgnoredDuringExecution":
        [{ "weight": 1, "podAffinityTerm": terms[0] }] });
    let spread = |what: &str| {
        json!([{ "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": what,
            "labelSelector": {} }])
    };
    let affinity = "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution";
    let anti = "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution";
    let table = [
        ("affinity", json!({ "podAffinity": required }), vec![affinity]),
        ("affinity", json!({ "podAntiAffinity": required }), vec![anti]),
        ("affinity", json!({ "podAntiAffinity": preferred }), vec![]),
        (
            "topologySpreadConstraints",
            spread("DoNotSchedule"),
            vec!["topologySpreadConstraints[0]"],
        ),
        ("topologySpreadConstraints", spread("ScheduleAnyway"), vec![]),
    ];
    for (index, (field, rule, expected)) in table.into_iter().enumerate() {
        let name = format!("p{index}");
        let mut pod = pod(&name);
        pod["spec"][field] = rule;
        let template = json!({ "metadata": { "labels": { "app": name } }, "spec": pod["spec"] });
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
            "spec": { "selector": { "matchLabels": { "app": name } }, "template": template },
        });
        let deployments = "/apis/apps/v1/namespaces/default/deployments";
        for (path, object, at) in
            [(PODS, &pod, "spec"), (deployments, &deployment, "spec.template.spec")]
        {
            let made = call("POST", path).json(object).send(&server).await;
            let told: Vec<_> = made.headers.get_all("warning").iter().collect();
            assert_eq!(told.len(), expected.len(), "{told:?}");
            for (told, expected) in told.iter().zip(&expected) {
                let starts =
                    format!("299 - \"{at}.{expected}: not read by this cluster's scheduler");
                assert!(told.to_str().unwrap().starts_with(&starts), "{told:?}");
            }
            made.expect(201);
        }
    }
}
