//! What parameters say, and how they are refused.

use super::*;

async fn with_configmap() -> Server {
    let server = server().await;
    call("POST", CONFIGMAPS).json(&configmap("a", json!({}))).send(&server).await.expect(201);
    server
}

#[tokio::test]
async fn options_that_mean_nothing_are_refused_in_the_words_of_their_kind() {
    let server = with_configmap().await;
    let forbidden = "resourceVersionMatch: Forbidden: resourceVersionMatch";
    let list = |text: &str| format!("ListOptions.meta.k8s.io \"\" is invalid: {text}");
    let one = format!("{CONFIGMAPS}/a");
    let unsupported = "Unsupported value: \"x\": supported values:";
    let validation =
        format!("fieldValidation: {unsupported} \"\", \"Ignore\", \"Strict\", \"Warn\"");
    let dry = "dryRun: Unsupported value: [\"x\"]: supported values: \"All\"";
    let policies = "\"Foreground\", \"Background\", \"Orphan\", \"nil\"";
    let cases = [
        (
            "GET",
            format!("{CONFIGMAPS}?resourceVersionMatch=Exact"),
            list(&format!("{forbidden} is forbidden unless resourceVersion is provided")),
        ),
        (
            "GET",
            format!("{CONFIGMAPS}?resourceVersionMatch=Exact&resourceVersion=0"),
            list(&format!("{forbidden} \"exact\" is forbidden for resourceVersion \"0\"")),
        ),
        (
            "GET",
            format!("{CONFIGMAPS}?resourceVersionMatch=NotOlderThan&resourceVersion=1&continue=x"),
            list(&format!("{forbidden} is forbidden when continue is provided")),
        ),
        (
            "GET",
            format!("{CONFIGMAPS}?resourceVersionMatch=x&resourceVersion=1"),
            list(&format!("resourceVersionMatch: {unsupported} \"Exact\", \"NotOlderThan\", \"\"")),
        ),
        (
            "GET",
            format!("{CONFIGMAPS}?sendInitialEvents=false"),
            list("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
        ),
        (
            "GET",
            format!("{CONFIGMAPS}?watch=1&sendInitialEvents=true"),
            list(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
                 resourceVersionMatch to NotOlderThan",
            ),
        ),
        (
            "GET",
            format!("{CONFIGMAPS}?watch=1&resourceVersionMatch=Exact&resourceVersion=1"),
            list(&format!(
                "[{forbidden} is forbidden for watch unless sendInitialEvents is provided, \
                 resourceVersionMatch: Unsupported value: \"Exact\": supported values: \
                 \"NotOlderThan\"]"
            )),
        ),
        (
            "POST",
            format!("{CONFIGMAPS}?dryRun=x&fieldValidation=x"),
            format!("CreateOptions.meta.k8s.io \"\" is invalid: [{dry}, {validation}]"),
        ),
        (
            "PUT",
            format!("{one}?fieldValidation=x"),
            format!("UpdateOptions.meta.k8s.io \"\" is invalid: {validation}"),
        ),
        (
            "PATCH",
            format!("{one}?dryRun=x"),
            format!("PatchOptions.meta.k8s.io \"\" is invalid: {dry}"),
        ),
        (
            "DELETE",
            format!("{one}?propagationPolicy=x&dryRun=x"),
            format!(
                "DeleteOptions.meta.k8s.io \"\" is invalid: [propagationPolicy: {unsupported} \
                 {policies}, {dry}]"
            ),
        ),
        (
            "DELETE",
            format!("{CONFIGMAPS}?orphanDependents=false&propagationPolicy=Orphan"),
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \
             \"Orphan\": orphanDependents and deletionPropagation cannot be both set"
                .to_owned(),
        ),
    ];
    for (method, path, message) in cases {
        let call = call(method, &path).header("content-type", "application/merge-patch+json");
        let refused = call.send(&server).await;
        assert_eq!(refused.failure(), (422, "Invalid"), "{path}");
        assert_eq!(refused.body["message"], message, "{path}");
        assert_eq!(refused.body["details"]["group"], "meta.k8s.io", "{path}");
        assert!(refused.body["details"]["causes"][0]["field"].is_string(), "{path}");
    }
    let body = json!({ "propagationPolicy": "x" });
    let body = call("DELETE", &one).json(&body).send(&server).await;
    assert_eq!(body.failure(), (422, "Invalid"));
    // Nothing of it was done.
    call("GET", &one).send(&server).await.expect(200);
}

#[tokio::test]
async fn options_that_cannot_be_read_are_bad_requests() {
    let server = with_configmap().await;
    let number = "strconv.ParseInt: parsing \"x\": invalid syntax";
    let version = "invalid resource version: resourceVersion: Invalid value: \"x\": \
                   strconv.ParseUint: parsing \"x\": invalid syntax";
    let cases = [
        ("GET", "?limit=x", number),
        ("GET", "?watch=1&timeoutSeconds=x", number),
        ("DELETE", "/a?gracePeriodSeconds=x", number),
        ("GET", "?resourceVersion=x", version),
        ("GET", "/a?resourceVersion=x", version),
        ("GET", "?watch=1&resourceVersion=x", version),
        ("GET", "?continue=x", "invalid continue token: continue key is not valid"),
        (
            "GET",
            "?continue=x&resourceVersion=1",
            "specifying resource version is not allowed when using continue",
        ),
        (
            "GET",
            "?fieldSelector=spec.x%3D1",
            r#""spec.x" is not a known field selector: only "metadata.name", "metadata.namespace""#,
        ),
    ];
    for (method, query, message) in cases {
        let refused = call(method, &format!("{CONFIGMAPS}{query}")).send(&server).await;
        assert_eq!(refused.failure(), (400, "BadRequest"), "{query}");
        assert_eq!(refused.body["message"], message, "{query}");
    }
}

#[tokio::test]
async fn options_are_accepted_as_clients_write_them() {
    let server = with_configmap().await;
    for (query, items) in [
        ("?limit=-1", 1),
        ("?limit=0&resourceVersion=0", 1),
        ("?resourceVersion=0&resourceVersionMatch=NotOlderThan", 1),
        ("?resourceVersion=1&resourceVersionMatch=NotOlderThan", 1),
        ("?watch=false", 1),
    ] {
        let list = call("GET", &format!("{CONFIGMAPS}{query}")).send(&server).await.expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), items, "{query}");
    }
    for query in ["?watch&timeoutSeconds=-1", "?watch=True&timeoutSeconds=1"] {
        let mut events = call("GET", &format!("{CONFIGMAPS}{query}")).stream(&server).await;
        while events.next().await.is_some() {}
    }
    // Who asks for no bookmarks gets the first state and not its end.
    let path = format!(
        "{CONFIGMAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
         &resourceVersion=0"
    );
    let mut events = call("GET", &path).stream(&server).await;
    assert_eq!(events.brief().await, ("ADDED".to_owned(), "a".to_owned()));
    assert!(events.is_quiet().await);
    let path = path.replace("sendInitialEvents=true", "sendInitialEvents=0");
    let mut events = call("GET", &path).stream(&server).await;
    assert!(events.is_quiet().await);
}

#[tokio::test]
async fn an_object_is_read_at_a_revision_or_later() {
    let server = with_configmap().await;
    let path = format!("{CONFIGMAPS}/a");
    let read = call("GET", &path).send(&server).await.expect(200);
    let version = read["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for asked in ["0", "1", &version] {
        let path = format!("{path}?resourceVersion={asked}");
        assert_eq!(call("GET", &path).send(&server).await.expect(200), read, "{asked}");
    }
    let early = call("GET", &format!("{path}?resourceVersion=100000")).send(&server).await;
    assert_eq!(early.failure(), (504, "Timeout"));
    let cause = &early.body["details"]["causes"][0];
    assert_eq!(cause["message"], "Too large resource version");
    let absent = call("GET", &format!("{CONFIGMAPS}/b?resourceVersion=1")).send(&server).await;
    assert_eq!(absent.failure(), (404, "NotFound"));
}

#[tokio::test]
async fn pods_are_selected_by_their_old_and_new_labels() {
    let server = server().await;
    bound_pod(&server, "p", "n1").await;
    for (selector, found) in [
        ("spec.host%3Dn1", 1),
        ("spec.host%3Dn2", 0),
        ("status.podIPs%3D", 1),
        ("status.podIPs%3D10.0.0.1", 0),
    ] {
        let path = format!("/api/v1/pods?fieldSelector={selector}");
        let list = call("GET", &path).send(&server).await.expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), found, "{selector}");
    }
}

#[tokio::test]
async fn a_service_is_made_by_an_update() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/services/web";
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "ports": [{ "port": 80 }] },
    });
    let made = call("PUT", path).json(&service).send(&server).await.expect(201);
    assert!(made["spec"]["clusterIP"].as_str().unwrap().starts_with("10.9."), "{made}");
    let again = call("PUT", path).json(&service).send(&server).await.expect(200);
    assert_eq!(again["metadata"]["uid"], made["metadata"]["uid"]);
    let status = "/api/v1/namespaces/default/services/absent/status";
    let mut absent = service.clone();
    absent["metadata"]["name"] = json!("absent");
    let absent = call("PUT", status).json(&absent).send(&server).await;
    assert_eq!(absent.failure(), (404, "NotFound"));
}

#[tokio::test]
async fn a_gated_pod_is_not_bound() {
    let server = server().await;
    let mut gated = pod("p");
    gated["spec"]["schedulingGates"] = json!([{ "name": "example.com/wait" }]);
    call("POST", PODS).json(&gated).send(&server).await.expect(201);
    let bind = |name: &str, node: &str| {
        let binding = json!({
            "metadata": { "name": name }, "target": { "kind": "Node", "name": node },
        });
        call("POST", &format!("{PODS}/p/binding")).json(&binding).send(&server)
    };
    let refused = bind("p", "n1").await;
    assert_eq!(refused.failure(), (409, "Conflict"));
    assert_eq!(
        refused.body["message"],
        "Operation cannot be fulfilled on pods/binding \"p\": pod p has non-empty \
         .spec.schedulingGates"
    );
    assert_eq!(refused.body["details"], json!({ "name": "p", "kind": "pods/binding" }));
    let other = bind("q", "n1").await;
    assert_eq!(other.failure(), (400, "BadRequest"));
    assert_eq!(other.body["message"], "name in URL does not match name in Binding object");

    let open = json!({ "spec": { "schedulingGates": null } });
    let open = call("PATCH", &format!("{PODS}/p"))
        .header("content-type", "application/merge-patch+json")
        .json(&open);
    open.send(&server).await.expect(200);
    bind("p", "n1").await.expect(201);
    let again = bind("p", "n2").await;
    assert_eq!(
        again.body["message"],
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \
         \"n1\""
    );
}

#[tokio::test]
async fn a_grace_below_zero_is_a_second() {
    let server = server().await;
    bound_pod(&server, "p", "n1").await;
    let marked = call("DELETE", &format!("{PODS}/p?gracePeriodSeconds=-5")).send(&server).await;
    assert_eq!(marked.expect(200)["metadata"]["deletionGracePeriodSeconds"], 1);
}

#[tokio::test]
async fn an_applied_scale_is_answered_in_the_form_that_is_asked_for() {
    let server = server().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    call("POST", path).json(&deployment(json!({}))).send(&server).await.expect(201);
    let scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "d" },
        "spec": { "replicas": 3 },
    });
    let protobuf = "application/vnd.kubernetes.protobuf";
    for accept in ["application/json", "application/yaml", protobuf] {
        let applied = call("PATCH", &format!("{path}/d/scale?fieldManager=hpa&force=1"))
            .header("content-type", "application/apply-patch+yaml")
            .header("accept", accept)
            .json(&scale)
            .send(&server)
            .await;
        assert_eq!(applied.code, 200, "{}", applied.body);
        assert_eq!(applied.headers["content-type"], accept);
    }
}
