//! Evictions: what disruption budgets allow, and what is said when they do not.

use super::*;

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const MERGE: &str = "application/merge-patch+json";
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

fn eviction(name: &str, options: Value) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": name },
        "deleteOptions": options,
    })
}

fn evict(name: &str, query: &str, body: &Value) -> Call {
    call("POST", &format!("{PODS}/{name}/eviction{query}")).json(body)
}

/// A pod that runs, with the labels that the budgets of these tests select.
async fn running(server: &Server, name: &str, ready: bool) -> Value {
    bound_pod(server, name, "n1").await;
    let labels = json!({ "metadata": { "labels": { "app": "web" } } });
    let path = format!("{PODS}/{name}");
    let patch =
        |path: &str, body: &Value| call("PATCH", path).header("content-type", MERGE).json(body);
    patch(&path, &labels).send(server).await.expect(200);
    let ready = if ready { "True" } else { "False" };
    let status = json!({ "status": {
        "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }],
    }});
    patch(&format!("{path}/status"), &status).send(server).await.expect(200)
}

/// A budget whose status says this beside that it was seen.
async fn budget(server: &Server, name: &str, spec: Value, status: Value) -> Value {
    let mut made = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": name },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "web" } } },
    });
    for (field, value) in spec.as_object().unwrap() {
        made["spec"][field] = value.clone();
    }
    call("POST", BUDGETS).json(&made).send(server).await.expect(201);
    let mut counted = json!({ "observedGeneration": 1 });
    for (field, value) in status.as_object().unwrap() {
        counted[field] = value.clone();
    }
    let path = format!("{BUDGETS}/{name}/status");
    let patch = call("PATCH", &path).header("content-type", MERGE);
    patch.json(&json!({ "status": counted })).send(server).await.expect(200)
}

async fn read(server: &Server, path: &str) -> Value {
    call("GET", path).send(server).await.expect(200)
}

async fn is_leaving(server: &Server, name: &str) -> bool {
    let pod = call("GET", &format!("{PODS}/{name}")).send(server).await;
    pod.code == 404 || pod.body["metadata"]["deletionTimestamp"].is_string()
}

#[tokio::test]
async fn an_eviction_spends_the_budget_and_says_why_the_pod_goes() {
    let server = server().await;
    for name in ["a", "b"] {
        running(&server, name, true).await;
    }
    let status = json!({ "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1 });
    budget(&server, "web", json!({}), status).await;
    let body = eviction("a", json!({ "gracePeriodSeconds": 7 }));
    for query in ["?dryRun=All", ""] {
        let done = evict("a", query, &body).send(&server).await.expect(201);
        let expected = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        });
        assert_eq!(done, expected);
        let spent = read(&server, &format!("{BUDGETS}/web")).await;
        let left = if query.is_empty() { 0 } else { 1 };
        assert_eq!(spent["status"]["disruptionsAllowed"], left, "{query}");
        assert_eq!(is_leaving(&server, "a").await, query.is_empty());
    }
    let spent = read(&server, &format!("{BUDGETS}/web")).await;
    assert!(spent["status"]["disruptedPods"]["a"].is_string(), "{spent}");
    let condition = &spent["status"]["conditions"][0];
    assert_eq!(
        (&condition["reason"], &condition["status"]),
        (&json!("InsufficientPods"), &json!("False"))
    );
    let managers = spent["metadata"]["managedFields"].as_array().unwrap();
    let server_wrote = managers
        .iter()
        .any(|entry| entry["manager"] == "kube-apiserver" && entry["subresource"] == "status");
    assert!(server_wrote, "{managers:?}");

    let pod = read(&server, &format!("{PODS}/a")).await;
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 7);
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|one| one["type"] == "DisruptionTarget").unwrap();
    assert_eq!(target["reason"], "EvictionByEvictionAPI");
    assert_eq!(target["message"], "Eviction API: evicting");
    assert!(target["lastTransitionTime"].is_string());

    let refused = evict("b", "", &eviction("b", json!({}))).send(&server).await;
    assert_eq!(refused.failure(), (429, "TooManyRequests"));
    assert_eq!(refused.body["message"], REFUSED);
    let cause = json!([{
        "reason": "DisruptionBudget",
        "message": "The disruption budget web does not allow evicting pods currently",
    }]);
    assert_eq!(refused.body["details"], json!({ "causes": cause }));
    assert!(!is_leaving(&server, "b").await);
}

#[tokio::test]
async fn a_budget_says_why_it_allows_nothing() {
    let server = server().await;
    running(&server, "a", true).await;
    let condition = |reason: &str, message: &str| {
        json!([{ "type": "DisruptionAllowed", "status": "False", "reason": reason,
            "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z" }])
    };
    let none = "does not allow evicting pods currently";
    let table = [
        (
            json!({ "currentHealthy": 1, "desiredHealthy": 2 }),
            Some("needs 2 healthy pods and has 1 currently".to_owned()),
            429,
        ),
        (json!({ "currentHealthy": 3, "desiredHealthy": 2 }), Some(none.to_owned()), 429),
        (
            json!({ "conditions": condition("SyncFailed", "no owner") }),
            Some(format!("{none} because it failed sync: no owner")),
            429,
        ),
        (
            json!({
                "currentHealthy": 3, "desiredHealthy": 2, "conditions": condition("Other", "why"),
            }),
            Some(format!("{none} (Other): why")),
            429,
        ),
        (
            json!({ "observedGeneration": 0 }),
            Some("is still being processed by the server.".to_owned()),
            429,
        ),
    ];
    for (index, (status, expected, code)) in table.into_iter().enumerate() {
        let name = format!("b{index}");
        budget(&server, &name, json!({}), status.clone()).await;
        let refused = evict("a", "", &eviction("a", json!({}))).send(&server).await;
        assert_eq!(refused.code, code, "{status}");
        assert_eq!(refused.body["message"], REFUSED);
        let cause = refused.body["details"]["causes"][0]["message"].as_str().unwrap_or_default();
        assert_eq!(
            Some(cause.trim_start_matches(&format!("The disruption budget {name} "))),
            expected.as_deref()
        );
        let retry = refused.headers.get("retry-after").and_then(|value| value.to_str().ok());
        assert_eq!(retry, cause.ends_with("server.").then_some("10"), "{status}");
        call("DELETE", &format!("{BUDGETS}/{name}")).send(&server).await.expect(200);
    }
    assert!(!is_leaving(&server, "a").await);
    evict("a", "", &eviction("a", json!({}))).send(&server).await.expect(201);
}

#[tokio::test]
async fn more_than_one_budget_is_an_error() {
    let server = server().await;
    running(&server, "a", true).await;
    for name in ["x", "y"] {
        budget(&server, name, json!({}), json!({ "disruptionsAllowed": 5 })).await;
    }
    let refused = evict("a", "", &eviction("a", json!({}))).send(&server).await;
    assert_eq!(refused.code, 500);
    let expected = "This pod has more than one PodDisruptionBudget, which the eviction \
                    subresource does not support.";
    assert_eq!(refused.body["message"], expected);
    assert!(!is_leaving(&server, "a").await);
    let left = read(&server, &format!("{BUDGETS}/x")).await;
    assert_eq!(left["status"]["disruptionsAllowed"], 5);
}

#[tokio::test]
async fn what_serves_nobody_goes_without_its_budget() {
    let server = server().await;
    let nothing = json!({ "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1 });
    let table = [
        ("Pending", json!({}), nothing.clone(), false, true),
        ("Succeeded", json!({}), nothing.clone(), false, true),
        ("Failed", json!({}), nothing.clone(), false, true),
        ("Running", json!({}), nothing.clone(), true, false),
        // As many are healthy as must be without it.
        ("Running", json!({}), nothing.clone(), false, true),
        (
            "Running",
            json!({ "unhealthyPodEvictionPolicy": "IfHealthyBudget" }),
            nothing,
            false,
            true,
        ),
        ("Running", json!({}), json!({ "currentHealthy": 0, "desiredHealthy": 1 }), false, false),
        ("Running", json!({}), json!({ "currentHealthy": 0, "desiredHealthy": 0 }), false, false),
        (
            "Running",
            json!({ "unhealthyPodEvictionPolicy": "AlwaysAllow" }),
            json!({ "currentHealthy": 0, "desiredHealthy": 1 }),
            false,
            true,
        ),
        (
            "Running",
            json!({ "unhealthyPodEvictionPolicy": "AlwaysAllow" }),
            json!({ "currentHealthy": 0, "desiredHealthy": 1 }),
            true,
            false,
        ),
    ];
    for (index, (phase, spec, status, ready, allowed)) in table.into_iter().enumerate() {
        let name = format!("p{index}");
        running(&server, &name, ready).await;
        let patch = call("PATCH", &format!("{PODS}/{name}/status")).header("content-type", MERGE);
        let phase = json!({ "status": { "phase": phase } });
        patch.json(&phase).send(&server).await.expect(200);
        budget(&server, &name, spec.clone(), status.clone()).await;
        let answer = evict(&name, "", &eviction(&name, json!({}))).send(&server).await;
        assert_eq!(answer.code, if allowed { 201 } else { 429 }, "{index} {phase} {spec} {status}");
        assert_eq!(is_leaving(&server, &name).await, allowed, "{index}");
        let kept = read(&server, &format!("{BUDGETS}/{name}")).await;
        assert_eq!(kept["status"]["disruptedPods"], Value::Null, "nothing is spent");
        call("DELETE", &format!("{BUDGETS}/{name}")).send(&server).await.expect(200);
        let now = format!("{PODS}/{name}?gracePeriodSeconds=0");
        call("DELETE", &now).send(&server).await;
    }
}

#[tokio::test]
async fn budgets_of_other_pods_do_not_count() {
    let server = server().await;
    running(&server, "a", true).await;
    let other = json!({ "selector": { "matchLabels": { "app": "db" } } });
    budget(&server, "other", other, json!({})).await;
    let none = json!({ "selector": null });
    budget(&server, "none", none, json!({})).await;
    evict("a", "", &eviction("a", json!({}))).send(&server).await.expect(201);
    running(&server, "b", true).await;
    budget(&server, "all", json!({ "selector": {} }), json!({})).await;
    let refused = evict("b", "", &eviction("b", json!({}))).send(&server).await;
    assert_eq!(refused.failure(), (429, "TooManyRequests"));
}

#[tokio::test]
async fn what_an_eviction_says_is_checked() {
    let server = server().await;
    let pod = running(&server, "a", true).await;
    let (uid, version) = (&pod["metadata"]["uid"], &pod["metadata"]["resourceVersion"]);
    let with = |field: &str, value: Value| {
        let mut body = eviction("a", json!({}));
        body[field] = value;
        body
    };
    let options = |options: Value| eviction("a", options);
    let table = [
        (eviction("b", json!({})), 400, "name in URL does not match name in Eviction object"),
        (eviction("", json!({})), 400, "name in URL does not match name in Eviction object"),
        (with("kind", json!("Pod")), 400, "the kind in the data (Pod) does not match"),
        (with("apiVersion", json!("v1")), 400, "the API version in the data (v1) does not match"),
        (with("deleteOptions", json!("now")), 400, "cannot be handled as a Eviction"),
        (
            with("metadata", json!({ "name": "a", "namespace": "other" })),
            400,
            "the namespace of the provided object does not match",
        ),
        (options(json!({ "preconditions": { "uid": "other" } })), 409, "Precondition failed: UID"),
        (
            options(json!({ "preconditions": { "resourceVersion": "1" } })),
            409,
            "Precondition failed: ResourceVersion",
        ),
        (options(json!({ "dryRun": ["Some"] })), 422, "dryRun"),
    ];
    for (body, code, message) in table {
        let refused = evict("a", "", &body).send(&server).await;
        assert_eq!(refused.code, code, "{body} {}", refused.body);
        assert!(refused.body["message"].as_str().unwrap().contains(message), "{}", refused.body);
        assert!(!is_leaving(&server, "a").await, "{body}");
    }
    assert_eq!(evict("x", "", &eviction("x", json!({}))).send(&server).await.code, 404);
    let named = json!({ "uid": uid, "resourceVersion": version });
    let dry = options(json!({ "preconditions": named, "dryRun": ["All"] }));
    evict("a", "", &dry).send(&server).await.expect(201);
    assert_eq!(&read(&server, &format!("{PODS}/a")).await, &pod, "a dry run");
    let old = json!({ "apiVersion": "policy/v1beta1", "kind": "Eviction",
        "metadata": { "name": "a" }, "deleteOptions": { "preconditions": named } });
    evict("a", "", &old).send(&server).await.expect(201);
    assert!(is_leaving(&server, "a").await);
}

/// However many drain at once, a budget is spent once for each pod that goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evictions_at_once_share_no_allowance() {
    let server = std::sync::Arc::new(server().await);
    let names: Vec<String> = (0..12).map(|number| format!("p{number}")).collect();
    for name in &names {
        running(&server, name, true).await;
    }
    let status = json!({ "disruptionsAllowed": 5, "currentHealthy": 12, "desiredHealthy": 12 });
    budget(&server, "web", json!({}), status).await;
    let tasks: Vec<_> = names
        .iter()
        .map(|name| {
            let (server, name) = (server.clone(), name.clone());
            tokio::spawn(async move {
                evict(&name, "", &eviction(&name, json!({}))).send(&server).await.code
            })
        })
        .collect();
    let mut codes = Vec::new();
    for task in tasks {
        codes.push(task.await.unwrap());
    }
    codes.sort_unstable();
    assert_eq!(codes, [[201].repeat(5), [429].repeat(7)].concat());
    let mut gone = 0;
    for name in &names {
        gone += usize::from(is_leaving(&server, name).await);
    }
    assert_eq!(gone, 5);
    let spent = read(&server, &format!("{BUDGETS}/web")).await;
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);
    assert_eq!(spent["status"]["disruptedPods"].as_object().unwrap().len(), 5);
}

#[tokio::test]
async fn pods_are_bound_through_the_collection_too() {
    let server = server().await;
    call("POST", PODS).json(&pod("p")).send(&server).await.expect(201);
    let path = "/api/v1/namespaces/default/bindings";
    let binding = |change: Value| {
        let mut binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "p" },
            "target": { "kind": "Node", "name": "n1" },
        });
        for (field, value) in change.as_object().unwrap() {
            binding[field] = value.clone();
        }
        binding
    };
    let table = [
        (json!({ "kind": "Pod" }), "the kind in the data (Pod) does not match"),
        (json!({ "apiVersion": "v2" }), "the API version in the data (v2) does not match"),
        (json!({ "metadata": {} }), "name is required"),
        (json!({ "metadata": { "name": "p", "namespace": "x" } }), "the namespace of the provided"),
        (json!({ "target": { "kind": "Pod", "name": "n" } }), "a target of kind Node"),
    ];
    for (change, message) in table {
        for path in [path.to_owned(), format!("{PODS}/p/binding")] {
            let named = change["metadata"] != json!({});
            if !named && path.ends_with("/binding") {
                continue;
            }
            let refused = call("POST", &path).json(&binding(change.clone())).send(&server).await;
            assert_eq!(refused.failure(), (400, "BadRequest"), "{change}");
            assert!(refused.body["message"].as_str().unwrap().contains(message), "{change}");
        }
    }
    let bound = call("POST", path).json(&binding(json!({}))).send(&server).await.expect(201);
    assert_eq!(bound["status"], "Success");
    assert_eq!(read(&server, &format!("{PODS}/p")).await["spec"]["nodeName"], "n1");
    let again = call("POST", path).json(&binding(json!({}))).send(&server).await;
    assert_eq!(again.failure(), (409, "Conflict"));
    for method in ["GET", "DELETE"] {
        assert_eq!(call(method, path).send(&server).await.code, 405, "{method}");
    }
}

/// What kubectl drain asks, in its order.
#[tokio::test]
async fn a_node_is_drained_as_kubectl_does_it() {
    let server = server().await;
    let node_object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" } });
    call("POST", "/api/v1/nodes").json(&node_object).send(&server).await.expect(201);
    for name in ["a", "b"] {
        running(&server, name, true).await;
    }
    let status = json!({ "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1 });
    budget(&server, "web", json!({}), status.clone()).await;

    let groups = read(&server, "/apis").await;
    let policy = groups["groups"].as_array().unwrap().iter().find(|it| it["name"] == "policy");
    assert_eq!(policy.unwrap()["preferredVersion"]["groupVersion"], "policy/v1");
    let core = read(&server, "/api/v1").await;
    let resources = core["resources"].as_array().unwrap();
    let found = resources.iter().find(|it| it["name"] == "pods/eviction").unwrap();
    let shown = [&found["kind"], &found["group"], &found["version"], &found["verbs"]];
    assert_eq!(shown, [&json!("Eviction"), &json!("policy"), &json!("v1"), &json!(["create"])]);

    let cordon = call("PATCH", "/api/v1/nodes/n1")
        .header("content-type", "application/strategic-merge-patch+json");
    let cordon = cordon.json(&json!({ "spec": { "unschedulable": true } }));
    cordon.send(&server).await.expect(200);
    let list = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&limit=500";
    let pods = read(&server, list).await["items"].as_array().unwrap().clone();
    assert_eq!(pods.len(), 2);

    let mut waits = 0;
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let mut body = eviction(name, json!({}));
        body["metadata"]["namespace"] = json!("default");
        while evict(name, "", &body).send(&server).await.code == 429 {
            waits += 1;
            assert_eq!(waits, 1, "the budget has room again");
            // What the disruption controller does when the first pod has a successor.
            let path = format!("{BUDGETS}/web/status");
            let counted = call("PATCH", &path).header("content-type", MERGE);
            let mut status = status.clone();
            status["disruptedPods"] = Value::Null;
            counted.json(&json!({ "status": status })).send(&server).await.expect(200);
        }
        let end = call("DELETE", &format!("{PODS}/{name}?gracePeriodSeconds=0"));
        end.by(Some(node("n1"))).send(&server).await.expect(200);
        let gone = call("GET", &format!("{PODS}/{name}")).send(&server).await;
        assert_eq!(gone.failure(), (404, "NotFound"));
    }
    assert_eq!(waits, 1);
    assert_eq!(read(&server, list).await["items"], json!([]));
}
