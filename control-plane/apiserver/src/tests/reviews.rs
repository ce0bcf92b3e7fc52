//! Reviews: who somebody is, and what they may do.

use super::*;

const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const MAY_I: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const MY_RULES: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
const MAY_THEY: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
const MAY_THEY_THERE: &str =
    "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";

fn plain() -> User {
    User::new("somebody", &["friends"])
}

fn scheduler() -> User {
    User::new("system:kube-scheduler", &[])
}

fn controllers() -> User {
    User::new("system:kube-controller-manager", &[])
}

/// An act: its verb, group, resource with its subresource, namespace and name.
type Act<'a> = [&'a str; 5];

fn attributes([verb, group, what, namespace, name]: Act<'_>) -> Value {
    let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
    json!({ "verb": verb, "group": group, "resource": resource, "subresource": subresource,
        "namespace": namespace, "name": name })
}

async fn ask(server: &Server, user: User, path: &str, spec: Value) -> Value {
    let asked = call("POST", path).by(Some(user)).json(&json!({ "spec": spec }));
    asked.send(server).await.expect(201)["status"].clone()
}

async fn may_i(server: &Server, user: User, act: Act<'_>) -> Value {
    ask(server, user, MAY_I, json!({ "resourceAttributes": attributes(act) })).await
}

#[tokio::test]
async fn everybody_learns_who_they_are() {
    let server = server().await;
    let certified = {
        let mut user = plain();
        user.uid = "u-1".to_owned();
        user.extra.insert("example.com/key".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        user
    };
    for (user, groups) in [
        (admin(), vec!["system:masters", "system:authenticated"]),
        (node("n1"), vec!["system:nodes", "system:authenticated"]),
        (plain(), vec!["friends", "system:authenticated"]),
        (plain().authenticated(), vec!["friends", "system:authenticated"]),
        (certified, vec!["friends", "system:authenticated"]),
    ] {
        let asked = call("POST", WHO).by(Some(user.clone())).json(&json!({}));
        let answer = asked.send(&server).await.expect(201);
        assert!(answer["metadata"]["creationTimestamp"].is_string(), "{answer}");
        let mut expected = json!({ "username": user.name, "groups": groups });
        if !user.uid.is_empty() {
            expected["uid"] = json!("u-1");
            expected["extra"] = json!({ "example.com/key": ["a", "b"] });
        }
        assert_eq!(answer["status"]["userInfo"], expected);
    }
    for path in [WHO, MAY_I, MY_RULES, MAY_THEY, MAY_THEY_THERE] {
        let stranger = call("POST", path).by(None).json(&json!({})).send(&server).await;
        assert_eq!(stranger.failure(), (401, "Unauthorized"), "{path}");
    }
}

#[tokio::test]
async fn acts_are_judged_beforehand() {
    let server = server().await;
    bound_pod(&server, "mine", "n1").await;
    bound_pod(&server, "theirs", "n2").await;
    let widgets = "the server has no resource \"widgets\" in API group \"example.com\"";
    let unnamed = "can only act on pods that are bound to node \"n1\"";
    let all_pods = "can only read pods with the field selector spec.nodeName=n1";
    let anything: [Act<'_>; 5] = [
        ["create", "", "pods", "default", ""],
        ["*", "*", "*", "", ""],
        ["use", "example.com", "widgets", "default", "w"],
        ["create", "authorization.k8s.io", "subjectaccessreviews", "", ""],
        ["get", "", "pods/log", "default", "theirs"],
    ];
    for user in [admin(), controllers()] {
        for act in anything {
            assert_eq!(may_i(&server, user.clone(), act).await, json!({ "allowed": true }));
        }
    }
    // The user, the act, whether it is allowed, and the reason.
    let table: [(User, Act<'_>, bool, &str); 22] = [
        (node("n1"), ["get", "", "nodes", "", "n2"], true, ""),
        (node("n1"), ["patch", "", "nodes/status", "", "n1"], true, ""),
        (
            node("n1"),
            ["patch", "", "nodes/status", "", "n2"],
            false,
            "node \"n1\" is not allowed to modify node \"n2\"",
        ),
        (node("n1"), ["delete", "", "pods", "default", "mine"], true, ""),
        (
            node("n1"),
            ["delete", "", "pods", "default", "theirs"],
            false,
            "pod \"theirs\" is not bound to node \"n1\"",
        ),
        (node("n1"), ["delete", "", "pods", "default", ""], false, unnamed),
        (node("n1"), ["delete", "", "pods", "", "mine"], false, unnamed),
        (node("n1"), ["list", "", "pods", "", ""], false, all_pods),
        (node("n1"), ["create", "", "pods", "default", ""], false, ""),
        (node("n1"), ["get", "metrics.k8s.io", "nodes", "", "n1"], false, "the server has no"),
        (node("n1"), ["create", "authorization.k8s.io", "subjectaccessreviews", "", ""], false, ""),
        (scheduler(), ["create", "", "pods/binding", "default", "mine"], true, ""),
        (scheduler(), ["list", "apps", "replicasets", "", ""], true, ""),
        (scheduler(), ["list", "", "secrets", "", ""], false, ""),
        (scheduler(), ["get", "", "*", "", ""], false, ""),
        (scheduler(), ["list", "example.com", "widgets", "", ""], false, widgets),
        (scheduler(), ["create", "authorization.k8s.io", "subjectaccessreviews", "", ""], true, ""),
        (plain(), ["create", "authorization.k8s.io", "selfsubjectrulesreviews", "", ""], true, ""),
        (plain(), ["create", "authorization.k8s.io", "subjectaccessreviews", "", ""], false, ""),
        (plain(), ["get", "", "pods", "default", "mine"], false, ""),
        (plain(), ["*", "*", "*", "", ""], false, ""),
        (plain(), ["get", "example.com", "widgets", "default", "w"], false, widgets),
    ];
    for (user, act, allowed, reason) in table {
        let status = may_i(&server, user.clone(), act).await;
        assert_eq!(status["allowed"], allowed, "{} {act:?}: {status}", user.name);
        let said = status["reason"].as_str().unwrap_or_default();
        assert!(said.starts_with(reason) && said.is_empty() == reason.is_empty(), "{status}");
    }
}

#[tokio::test]
async fn a_field_selector_is_a_part_of_the_act() {
    let server = server().await;
    let selected = |selector: Value| {
        let mut attributes = attributes(["list", "", "pods", "", ""]);
        attributes["fieldSelector"] = selector;
        ask(&server, node("n1"), MAY_I, json!({ "resourceAttributes": attributes }))
    };
    let requirement = |operator: &str, values: Value| {
        json!({ "requirements": [
            { "key": "spec.nodeName", "operator": operator, "values": values },
        ] })
    };
    for (selector, allowed) in [
        (json!({ "rawSelector": "spec.nodeName=n1" }), true),
        (json!({ "rawSelector": "spec.nodeName=n2" }), false),
        (json!({ "rawSelector": "spec.nodeName!=n1" }), false),
        (json!({ "rawSelector": "spec.colour=n1" }), false),
        (requirement("In", json!(["n1"])), true),
        (requirement("In", json!(["n1", "n2"])), false),
        (requirement("NotIn", json!(["n1"])), false),
    ] {
        assert_eq!(selected(selector.clone()).await["allowed"], allowed, "{selector}");
    }
}

#[tokio::test]
async fn paths_are_judged_as_they_are_served() {
    let server = server().await;
    let paths = [
        "/",
        "/api",
        "/apis/apps/v1",
        "/openapi/v3",
        "/healthz",
        "/livez",
        "/version",
        "/metrics",
        "/bowline/v1/ca",
        "/bowline/v1/nodes/n1/events",
    ];
    for user in [admin(), node("n1"), plain(), controllers()] {
        for path in paths {
            let asked = json!({ "nonResourceAttributes": { "verb": "get", "path": path } });
            let status = ask(&server, user.clone(), MAY_I, asked).await;
            let served = call("GET", path).by(Some(user.clone())).send(&server).await.code;
            assert_eq!(status["allowed"], served != 403, "{} {path}: {served}", user.name);
        }
        let asked = json!({ "nonResourceAttributes": { "verb": "post", "path": "/version" } });
        let master = user.name == "admin";
        assert_eq!(ask(&server, user, MAY_I, asked).await, json!({ "allowed": master }));
    }
}

#[tokio::test]
async fn masters_ask_about_others() {
    let server = server().await;
    let get = attributes(["get", "", "nodes", "", "n1"]);
    let whoami = attributes(["create", "authentication.k8s.io", "selfsubjectreviews", "", ""]);
    let nodes = json!(["system:nodes"]);
    let known = json!(["system:authenticated"]);
    for (spec, allowed) in [
        (json!({ "user": "system:node:n1", "groups": nodes, "resourceAttributes": get }), true),
        (json!({ "user": "system:node:n1", "resourceAttributes": get }), false),
        (json!({ "groups": ["system:masters"], "resourceAttributes": get }), true),
        (json!({ "user": "a", "resourceAttributes": whoami }), false),
        (json!({ "user": "a", "groups": known, "resourceAttributes": whoami }), true),
    ] {
        for user in [admin(), controllers(), scheduler()] {
            let status = ask(&server, user, MAY_THEY, spec.clone()).await;
            assert_eq!(status["allowed"], allowed, "{spec}");
        }
        for user in [node("n1"), plain()] {
            for path in [MAY_THEY, MAY_THEY_THERE] {
                let asked =
                    call("POST", path).by(Some(user.clone())).json(&json!({ "spec": spec }));
                let refused = asked.send(&server).await;
                assert_eq!(refused.failure(), (403, "Forbidden"), "{path}");
            }
        }
    }
    // In a namespace, whose name is that of the path.
    let asked = |namespace: &str| {
        let pods = attributes(["get", "", "pods", namespace, ""]);
        json!({ "spec": { "user": "a", "resourceAttributes": pods } })
    };
    let there = call("POST", MAY_THEY_THERE).json(&asked("default")).send(&server).await;
    let there = there.expect(201);
    assert_eq!(there["metadata"]["namespace"], "default");
    assert_eq!(there["status"], json!({ "allowed": false }));
    let elsewhere = call("POST", MAY_THEY_THERE).json(&asked("other")).send(&server).await;
    assert_eq!(elsewhere.failure(), (422, "Invalid"));
    let nowhere = MAY_THEY_THERE.replace("namespaces/default/", "");
    assert_eq!(call("POST", &nowhere).json(&asked("")).send(&server).await.code, 405);
}

/// What is listed is allowed; who may do anything is told so.
#[tokio::test]
async fn rules_are_listed_as_they_hold() {
    let server = server().await;
    let not_all = "node authorizer does not support user rule resolution";
    for (user, namespace, error) in [
        (admin(), "default", None),
        (controllers(), "default", None),
        (scheduler(), "default", None),
        (node("n1"), "default", Some(not_all)),
        (node("n1"), "kube-node-lease", Some(not_all)),
        (plain(), "default", None),
    ] {
        let spec = json!({ "namespace": namespace });
        let status = ask(&server, user.clone(), MY_RULES, spec).await;
        assert_eq!(status["incomplete"], error.is_some(), "{}", user.name);
        assert_eq!(status["evaluationError"].as_str(), error);
        let everything = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] });
        let is_all = matches!(user.name.as_str(), "admin" | "system:kube-controller-manager");
        let rules = status["resourceRules"].as_array().unwrap();
        assert_eq!(rules[0] == everything, is_all, "{}", user.name);
        let every_path = json!({ "verbs": ["*"], "nonResourceURLs": ["*"] });
        assert_eq!(status["nonResourceRules"][0] == every_path, user.name == "admin");
        let mut tried = 0;
        for rule in rules {
            for act in acts(rule, namespace) {
                let act = [&act[0], &act[1], &act[2], &act[3], &act[4]].map(String::as_str);
                let verdict = may_i(&server, user.clone(), act).await;
                assert_eq!(verdict["allowed"], true, "{} {act:?}: {verdict}", user.name);
                tried += 1;
            }
        }
        println!("{} in {namespace}: {tried} acts", user.name);
        assert!(tried >= 3, "{rules:?}");
    }
    let answer = call("POST", MY_RULES).json(&json!({ "spec": {} })).send(&server).await;
    assert_eq!(answer.failure(), (400, "BadRequest"));
    assert_eq!(answer.body["message"], "no namespace on request");
}

/// The acts that a listed rule names.
fn acts(rule: &Value, namespace: &str) -> Vec<[String; 5]> {
    let texts = |field: &str| -> Vec<String> {
        let list = rule[field].as_array().into_iter().flatten();
        list.map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let name = texts("resourceNames").pop().unwrap_or_default();
    let mut acts = Vec::new();
    for verb in texts("verbs") {
        for group in texts("apiGroups") {
            for resource in texts("resources") {
                let (verb, group, namespace) = (verb.clone(), group.clone(), namespace.to_owned());
                acts.push([verb, group, resource, namespace, name.clone()]);
            }
        }
    }
    acts
}

#[tokio::test]
async fn reviews_that_ask_nothing_are_refused() {
    let server = server().await;
    let pods = attributes(["get", "", "pods", "", ""]);
    let path = json!({ "verb": "get", "path": "/version" });
    let both = json!({ "resourceAttributes": pods, "nonResourceAttributes": path });
    let named = json!({ "metadata": { "name": "n" }, "spec": { "resourceAttributes": pods } });
    for (to, review, field, message) in [
        (MAY_I, json!({}), "spec.resourceAttributes", "exactly one of nonResourceAttributes or"),
        (MAY_I, json!({ "spec": both }), "spec.nonResourceAttributes", "cannot be specified in"),
        (MAY_I, named, "metadata", "must be empty"),
        (
            MAY_THEY,
            json!({ "spec": { "resourceAttributes": pods } }),
            "spec.user",
            "at least one of user or group must be specified",
        ),
    ] {
        let refused = call("POST", to).json(&review).send(&server).await;
        assert_eq!(refused.failure(), (422, "Invalid"), "{review}");
        let cause = &refused.body["details"]["causes"][0];
        assert_eq!(cause["field"], field, "{}", refused.body);
        assert!(cause["message"].as_str().unwrap().contains(message), "{cause}");
    }
    let odd = json!({ "spec": { "resourceAttributes": { "verb": 1 } } });
    assert_eq!(call("POST", MAY_I).json(&odd).send(&server).await.failure(), (400, "BadRequest"));
    let other = json!({ "kind": "SubjectAccessReview", "spec": {} });
    assert_eq!(call("POST", MAY_I).json(&other).send(&server).await.failure(), (400, "BadRequest"));
}

#[tokio::test]
async fn reviews_are_read_and_answered_in_every_form() {
    let server = server().await;
    let yaml = "spec:\n  resourceAttributes: {verb: get, resource: pods}\n";
    let asked = call("POST", MAY_I).header("content-type", "application/yaml").raw(yaml);
    let answer = asked.header("accept", "application/yaml").send(&server).await;
    assert!(answer.expect(201).as_str().unwrap().contains("allowed: true"));

    // As client-go sends it: a `SelfSubjectReview` with empty metadata and an empty status.
    let head = b"k8s\0\x0a\x2d\x0a\x18authentication.k8s.io/v1\x12\x11SelfSubjectReview".to_vec();
    let asked = call("POST", WHO)
        .header("content-type", "application/vnd.kubernetes.protobuf")
        .header("accept", "application/vnd.kubernetes.protobuf")
        .raw(head.clone());
    let answer = asked.send(&server).await;
    assert_eq!(answer.headers["content-type"], "application/vnd.kubernetes.protobuf");
    let body = answer.expect(201);
    let text = body.as_str().unwrap();
    for word in ["k8s\0", "SelfSubjectReview", "admin", "system:authenticated"] {
        assert!(text.contains(word), "{word}: {text:?}");
    }

    let with_more = json!({ "spec": { "colour": "red", "nonResourceAttributes": {} } });
    for (validation, code, warned) in
        [("Strict", 400, false), ("Warn", 201, true), ("Ignore", 201, false)]
    {
        let path = format!("{MAY_I}?fieldValidation={validation}");
        let answer = call("POST", &path).json(&with_more).send(&server).await;
        assert_eq!(answer.code, code, "{validation}");
        assert_eq!(answer.headers.contains_key("warning"), warned, "{validation}");
    }
    let wrong = call("POST", &format!("{MAY_I}?dryRun=Some")).json(&with_more).send(&server).await;
    assert!(matches!(wrong.code, 400 | 422), "{}", wrong.body);
}
