//! The subresources that change a running pod: ephemeral containers, and resizing.

use super::*;

const STRATEGIC: &str = "application/strategic-merge-patch+json";

fn patch(path: &str, kind: &str, body: &Value) -> Call {
    call("PATCH", path).header("content-type", kind).json(body)
}

async fn sized(server: &Server, resources: Value) -> Value {
    let mut made = pod("p");
    made["spec"]["containers"][0]["resources"] = resources;
    call("POST", PODS).json(&made).send(server).await.expect(201)
}

#[tokio::test]
async fn a_debugger_is_added_as_kubectl_debug_does_it() {
    let server = server().await;
    let made = bound_pod(&server, "p", "n1").await;
    let path = format!("{PODS}/p/ephemeralcontainers");
    assert_eq!(call("GET", &path).send(&server).await.expect(200), made);
    let debugger = |name: &str| {
        json!({ "spec": { "ephemeralContainers": [{
            "name": name, "image": "tools", "stdin": true, "tty": true, "targetContainerName": "c",
        }]}})
    };
    let dry = patch(&format!("{path}?dryRun=All"), STRATEGIC, &debugger("one"));
    dry.send(&server).await.expect(200);
    assert_eq!(call("GET", &path).send(&server).await.expect(200), made);
    let agent = "kubectl/v1.36.0 (linux/amd64)";
    for (name, count) in [("one", 1), ("two", 2)] {
        let added = patch(&path, STRATEGIC, &debugger(name)).header("user-agent", agent);
        let added = added.send(&server).await.expect(200);
        let all = added["spec"]["ephemeralContainers"].as_array().unwrap();
        assert_eq!(all.len(), count, "{name}");
        let one = all.iter().find(|one| one["name"] == name).unwrap();
        assert_eq!(one["imagePullPolicy"], "Always");
        assert_eq!(one["terminationMessagePath"], "/dev/termination-log");
        assert_eq!(added["metadata"]["generation"], 1 + count);
        assert_eq!(added["spec"]["nodeName"], "n1");
    }
    let pod = call("GET", &format!("{PODS}/p")).send(&server).await.expect(200);
    let managers = pod["metadata"]["managedFields"].as_array().unwrap();
    let entry = managers.iter().find(|it| it["subresource"] == "ephemeralcontainers").unwrap();
    assert_eq!((&entry["manager"], &entry["operation"]), (&json!("kubectl"), &json!("Update")));
    let fields = entry["fieldsV1"]["f:spec"]["f:ephemeralContainers"].as_object().unwrap();
    assert!(fields.contains_key("k:{\"name\":\"two\"}"), "{fields:?}");
}

#[tokio::test]
async fn ephemeral_containers_are_only_added() {
    let server = server().await;
    bound_pod(&server, "p", "n1").await;
    let path = format!("{PODS}/p/ephemeralcontainers");
    let one = json!({ "name": "one", "image": "tools" });
    let mut pod = call("GET", &path).send(&server).await.expect(200);
    pod["spec"]["ephemeralContainers"] = json!([one]);
    pod["spec"]["containers"][0]["image"] = json!("other");
    pod["metadata"]["labels"] = json!({});
    let added = call("PUT", &path).json(&pod).send(&server).await.expect(200);
    assert_eq!(added["spec"]["containers"][0]["image"], "registry/image:1", "what else it says");
    assert_eq!(added["metadata"]["labels"], json!({ "app": "p" }));

    let with = |field: &str, value: Value| {
        let mut other = json!({ "name": "two", "image": "tools" });
        other[field] = value;
        json!([one, other])
    };
    let at = "spec.ephemeralContainers";
    let table = [
        (json!([]), "", "existing ephemeral containers \"one\" may not be removed"),
        (
            json!([{ "name": "one", "image": "others" }]),
            "",
            "existing ephemeral containers \"one\" may not be changed",
        ),
        (with("name", json!("c")), "[1].name", "Duplicate value"),
        (with("image", json!("")), "[1].image", "Required value"),
        (with("targetContainerName", json!("x")), "[1].targetContainerName", "Not found"),
        (
            with("ports", json!([{ "containerPort": 80 }])),
            "[1].ports",
            "cannot be set for an Ephemeral Container",
        ),
        (
            with("resources", json!({ "limits": { "cpu": "1" } })),
            "[1].resources",
            "cannot be set for an Ephemeral Container",
        ),
    ];
    for (containers, field, message) in table {
        let mut pod = added.clone();
        pod["spec"]["ephemeralContainers"] = containers.clone();
        let refused = call("PUT", &path).json(&pod).send(&server).await;
        assert_eq!(refused.failure(), (422, "Invalid"), "{containers}");
        let causes = refused.body["details"]["causes"].as_array().unwrap();
        let told = causes.iter().any(|cause| {
            cause["field"] == format!("{at}{field}")
                && cause["message"].as_str().unwrap().contains(message)
        });
        assert!(told, "{containers} {}", refused.body);
    }
    let main = call("PUT", &format!("{PODS}/p"));
    let mut pod = added.clone();
    pod["spec"]["ephemeralContainers"] = with("image", json!("tools"));
    assert_eq!(main.json(&pod).send(&server).await.failure(), (422, "Invalid"), "the main way");
    for (method, code) in [("POST", 405), ("DELETE", 405)] {
        assert_eq!(call(method, &path).json(&pod).send(&server).await.code, code, "{method}");
    }
}

#[tokio::test]
async fn a_pod_is_resized_and_nothing_else() {
    let server = server().await;
    let resources = json!({ "requests": { "cpu": "100m" }, "limits": { "cpu": "200m" } });
    sized(&server, resources).await;
    let path = format!("{PODS}/p/resize");
    let body = json!({ "spec": { "nodeName": "n9", "containers": [{
        "name": "c", "image": "other", "resources": { "requests": { "cpu": "150m" } },
    }]}});
    let resized = patch(&path, STRATEGIC, &body).send(&server).await.expect(200);
    let container = &resized["spec"]["containers"][0];
    let expected = json!({ "requests": { "cpu": "150m" }, "limits": { "cpu": "200m" } });
    assert_eq!(
        (&container["resources"], &container["image"]),
        (&expected, &json!("registry/image:1"))
    );
    assert_eq!(resized["spec"]["nodeName"], Value::Null);
    assert_eq!(resized["metadata"]["generation"], 2);
    let managers = resized["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.iter().any(|it| it["subresource"] == "resize"), "{managers:?}");
    let again = patch(&path, STRATEGIC, &body).send(&server).await.expect(200);
    assert_eq!(again, resized, "nothing new");
    let applied = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "160m" } } }] },
    });
    let query = format!("{path}?fieldManager=sizer&force=true");
    let applied = patch(&query, "application/apply-patch+yaml", &applied).send(&server).await;
    let applied = applied.expect(200);
    assert_eq!(applied["spec"]["containers"][0]["resources"]["requests"]["cpu"], "160m");
    let managers = applied["metadata"]["managedFields"].as_array().unwrap();
    let entry = managers.iter().find(|it| it["manager"] == "sizer").unwrap();
    assert_eq!((&entry["operation"], &entry["subresource"]), (&json!("Apply"), &json!("resize")));
}

#[tokio::test]
async fn what_a_resize_may_not_do() {
    let server = server().await;
    let resources = json!({
        "requests": { "cpu": "100m", "memory": "64Mi" }, "limits": { "cpu": "200m" },
    });
    let made = sized(&server, resources.clone()).await;
    let path = format!("{PODS}/p/resize");
    let with = |name: &str, resources: &Value| {
        let image = "registry/image:1";
        json!({ "name": name, "image": image, "resources": resources })
    };
    let of = |requests: Value, limits: Value| {
        json!([with("c", &json!({ "requests": requests, "limits": limits }))])
    };
    let all = json!({ "cpu": "1", "memory": "1Gi" });
    let storage = json!({ "cpu": "100m", "memory": "64Mi", "ephemeral-storage": "1Gi" });
    let (memory, limits) = (json!({ "cpu": "100m", "memory": "64Mi" }), json!({ "cpu": "200m" }));
    let of_c = "spec.containers[0].resources";
    let (requests, of_limits) = (format!("{of_c}.requests"), format!("{of_c}.limits"));
    let of_name = "spec.containers[0].name";
    let (c, d) = (with("c", &resources), with("d", &resources));
    let table = [
        (
            of(all.clone(), all),
            "spec",
            "Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
        ),
        (
            of(json!({ "cpu": "100m" }), limits.clone()),
            &requests,
            "Forbidden: resource requests cannot be removed",
        ),
        (of(memory, json!({})), &of_limits, "Forbidden: resource limits cannot be removed"),
        (
            of(storage, limits.clone()),
            "spec",
            "Forbidden: only cpu and memory resources are mutable",
        ),
        (
            of(json!({ "cpu": "300m", "memory": "64Mi" }), limits),
            &requests,
            "must be less than or equal to cpu limit",
        ),
        (
            json!([c, d]),
            "spec.containers",
            "Forbidden: containers may not be added or removed on resize",
        ),
        (json!([d]), of_name, "Forbidden: containers may not be renamed or reordered on resize"),
    ];
    for (containers, field, message) in table {
        let mut pod = made.clone();
        pod["spec"]["containers"] = containers.clone();
        let refused = call("PUT", &path).json(&pod).send(&server).await;
        assert_eq!(refused.failure(), (422, "Invalid"), "{containers}");
        let causes = refused.body["details"]["causes"].as_array().unwrap();
        let told = causes.iter().any(|cause| {
            cause["field"] == field && cause["message"].as_str().unwrap().contains(message)
        });
        assert!(told, "{containers} {}", refused.body);
    }
    assert_eq!(call("GET", &path).send(&server).await.expect(200), made, "nothing was stored");
    let mut policy = made.clone();
    policy["spec"]["containers"][0]["resizePolicy"] =
        json!([{ "resourceName": "cpu", "restartPolicy": "NotRequired" }]);
    let refused = call("PUT", &path).json(&policy).send(&server).await;
    assert_eq!(refused.failure(), (422, "Invalid"));
}

/// An agent that cannot resize does not say what its containers have.
#[tokio::test]
async fn a_node_that_cannot_resize_is_not_asked_to() {
    let server = server().await;
    sized(&server, json!({ "requests": { "cpu": "100m" } })).await;
    let path = format!("{PODS}/p/resize");
    let body = |cpu: &str| {
        json!({ "spec": { "containers": [{
            "name": "c", "resources": { "requests": { "cpu": cpu } },
        }]}})
    };
    let running = |resources: Value| {
        json!({ "status": {
            "phase": "Running",
            "containerStatuses": [{
                "name": "c", "ready": true, "restartCount": 0, "image": "i", "imageID": "",
                "state": { "running": {} }, "resources": resources,
            }],
        }})
    };
    let status = format!("{PODS}/p/status");
    let merge = "application/merge-patch+json";
    patch(&status, merge, &running(Value::Null)).send(&server).await.expect(200);
    let refused = patch(&path, STRATEGIC, &body("200m")).send(&server).await;
    assert_eq!(refused.failure(), (422, "Invalid"));
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.contains("spec: Forbidden: Pod running on node without support"), "{message}");
    let told = running(json!({ "requests": { "cpu": "100m" } }));
    patch(&status, merge, &told).send(&server).await.expect(200);
    patch(&path, STRATEGIC, &body("200m")).send(&server).await.expect(200);
}

#[tokio::test]
async fn clients_learn_of_both() {
    let server = server().await;
    let core = call("GET", "/api/v1").send(&server).await.expect(200);
    for name in ["pods/ephemeralcontainers", "pods/resize"] {
        let resources = core["resources"].as_array().unwrap();
        let found = resources.iter().find(|it| it["name"] == name).unwrap();
        assert_eq!(found["kind"], "Pod");
        assert_eq!(found["verbs"], json!(["get", "patch", "update"]));
    }
}
