//! Resource quotas: what they refuse, and that nobody gets past them.

use super::*;
use futures::future::join_all;
use std::sync::Arc;

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

async fn quota(server: &Server, name: &str, spec: Value) {
    let quota = json!({ "metadata": { "name": name }, "spec": spec });
    call("POST", QUOTAS).json(&quota).send(server).await.expect(201);
}

/// A server whose default namespace has the quota `q` with these limits.
async fn limited(hard: Value) -> Server {
    let server = server().await;
    quota(&server, "q", json!({ "hard": hard })).await;
    server
}

fn asking(name: &str, resources: Value) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = resources;
    pod
}

fn claim(name: &str, class: &str, storage: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": class,
        "resources": { "requests": { "storage": storage } },
    } })
}

#[track_caller]
fn refused(answer: &Answer, expected: &str) {
    assert_eq!(answer.failure(), (403, "Forbidden"), "{}", answer.body);
    assert_eq!(answer.body["message"], expected);
}

/// Creates as many objects at once, and says how many were made.
async fn race(server: &Arc<Server>, path: &str, objects: Vec<Value>) -> usize {
    let create = |object: Value| {
        let (server, path) = (server.clone(), path.to_owned());
        tokio::spawn(async move { call("POST", &path).json(&object).send(&server).await })
    };
    let mut made = 0;
    for answer in join_all(objects.into_iter().map(create)).await {
        let answer = answer.unwrap();
        if answer.code == 201 {
            made += 1;
        } else {
            let message = answer.body["message"].as_str().unwrap();
            assert!(message.contains("exceeded quota: q, "), "{message}");
        }
    }
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_at_the_same_time_do_not_overrun_a_quota() {
    let server = limited(json!({ "pods": "10", "requests.cpu": "100", "services": "3" })).await;
    let server = Arc::new(server);
    let cpu = json!({ "requests": { "cpu": "100m" } });
    for round in 0..3 {
        let pods = (0..32).map(|index| asking(&format!("p{round}-{index}"), cpu.clone()));
        assert_eq!(race(&server, PODS, pods.collect()).await, 10, "round {round}");
        let list = call("GET", PODS).send(&server).await.expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), 10);
        // What goes is free at once.
        let gone = call("DELETE", PODS).send(&server).await.expect(200);
        assert_eq!(gone["items"].as_array().unwrap().len(), 10);
    }
    let services = (0..32).map(|index| {
        json!({ "metadata": { "name": format!("s{index}") }, "spec": { "ports": [{ "port": 1 }] } })
    });
    // `kubernetes` is the first of three.
    assert_eq!(race(&server, SERVICES, services.collect()).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_the_same_time_do_not_overrun_a_quota() {
    let server = Arc::new(limited(json!({ "requests.storage": "42" })).await);
    call("POST", "/apis/storage.k8s.io/v1/storageclasses")
        .json(&json!({ "metadata": { "name": "gold" }, "provisioner": "p.example",
            "allowVolumeExpansion": true }))
        .send(&server)
        .await
        .expect(201);
    for index in 0..32 {
        let claim = claim(&format!("c{index}"), "gold", "1");
        let made = call("POST", CLAIMS).json(&claim).send(&server).await.expect(201);
        let path = format!("{CLAIMS}/c{index}/status");
        let mut bound = made;
        bound["status"]["phase"] = json!("Bound");
        call("PUT", &path).json(&bound).send(&server).await.expect(200);
    }
    let grow = |index: usize| {
        let server = server.clone();
        tokio::spawn(async move {
            let patch = json!({ "spec": { "resources": { "requests": { "storage": "2" } } } });
            call("PATCH", &format!("{CLAIMS}/c{index}"))
                .header("content-type", "application/merge-patch+json")
                .json(&patch)
                .send(&server)
                .await
        })
    };
    let answers = join_all((0..32).map(grow)).await;
    let codes: Vec<u16> = answers.into_iter().map(|answer| answer.unwrap().code).collect();
    let grown = codes.iter().filter(|code| **code == 200).count();
    assert_eq!((grown, codes.len()), (10, 32), "{codes:?}");
}

#[tokio::test]
async fn refusals_say_what_is_exceeded() {
    let hard = json!({ "requests.cpu": "1", "limits.memory": "1Gi", "pods": "3",
        "requests.example.com/gpu": "1", "requests.ephemeral-storage": "1Gi" });
    let server = limited(hard).await;
    let pods = |name: &str, cause: &str| format!("pods \"{name}\" is forbidden: {cause}");
    let answer = call("POST", PODS).json(&pod("none")).send(&server).await;
    let cause = "failed quota: q: must specify limits.memory for: c; requests.cpu for: c";
    refused(&answer, &pods("none", cause));

    let half = json!({ "requests": { "cpu": "600m" }, "limits": { "memory": "512Mi" } });
    call("POST", PODS).json(&asking("first", half)).send(&server).await.expect(201);
    let more = json!({ "requests": { "cpu": "500m" }, "limits": { "memory": "600Mi" } });
    let answer = call("POST", PODS).json(&asking("second", more)).send(&server).await;
    let cause = "exceeded quota: q, requested: limits.memory=600Mi,requests.cpu=500m, used: \
                 limits.memory=512Mi,requests.cpu=600m, limited: limits.memory=1Gi,requests.cpu=1";
    refused(&answer, &pods("second", cause));
    let gpu = json!({ "requests": { "cpu": "0", "example.com/gpu": "2" },
        "limits": { "memory": "0", "example.com/gpu": "2" } });
    let answer = call("POST", PODS).json(&asking("gpu", gpu)).send(&server).await;
    let cause = "exceeded quota: q, requested: requests.example.com/gpu=2, used: \
                 requests.example.com/gpu=0, limited: requests.example.com/gpu=1";
    refused(&answer, &pods("gpu", cause));
    let disk = json!({ "requests": { "cpu": "0", "ephemeral-storage": "2Gi" },
        "limits": { "memory": "0" } });
    let answer = call("POST", PODS).json(&asking("disk", disk)).send(&server).await;
    let cause = "exceeded quota: q, requested: requests.ephemeral-storage=2Gi, used: \
                 requests.ephemeral-storage=0, limited: requests.ephemeral-storage=1Gi";
    refused(&answer, &pods("disk", cause));
    // Elsewhere nothing is limited.
    let elsewhere = PODS.replace("default", "kube-system");
    call("POST", &elsewhere).json(&pod("none")).send(&server).await.expect(201);
}

#[tokio::test]
async fn objects_of_any_kind_are_counted() {
    let claims = "gold.storageclass.storage.k8s.io/persistentvolumeclaims";
    let storage = "gold.storageclass.storage.k8s.io/requests.storage";
    let table = [
        ("configmaps", CONFIGMAPS, configmap("one", json!({}))),
        ("count/secrets", "/api/v1/namespaces/default/secrets", json!({})),
        ("count/deployments.apps", "/apis/apps/v1/namespaces/default/deployments", {
            deployment(json!({}))
        }),
        ("resourcequotas", QUOTAS, json!({ "spec": {} })),
        (claims, CLAIMS, claim("one", "gold", "1")),
        ("requests.storage", CLAIMS, claim("one", "any", "1")),
        (storage, CLAIMS, claim("one", "gold", "1")),
        ("services.nodeports", SERVICES, {
            json!({ "spec": { "type": "NodePort", "ports": [{ "port": 1 }] } })
        }),
        ("services.loadbalancers", SERVICES, {
            json!({ "spec": { "type": "LoadBalancer", "ports": [{ "port": 1 }] } })
        }),
    ];
    for (limit, path, mut object) in table {
        let hard = if limit == "resourcequotas" { "2" } else { "1" };
        let server = limited(json!({ limit: hard })).await;
        let mut named = |name: &str| {
            object["metadata"]["name"] = json!(name);
            object.clone()
        };
        // A dry run takes nothing.
        let dry = format!("{path}?dryRun=All");
        call("POST", &dry).json(&named("dry")).send(&server).await.expect(201);
        call("POST", path).json(&named("one")).send(&server).await.expect(201);
        for path in [path, &dry] {
            let answer = call("POST", path).json(&named("two")).send(&server).await;
            assert_eq!(answer.failure(), (403, "Forbidden"), "{limit}: {}", answer.body);
            let message = answer.body["message"].as_str().unwrap();
            let end =
                format!("requested: {limit}=1, used: {limit}={hard}, limited: {limit}={hard}");
            assert!(message.ends_with(&end), "{message}");
        }
        call("DELETE", &format!("{path}/one")).send(&server).await;
        let answer = call("POST", path).json(&named("two")).send(&server).await;
        // A claim that is protected stays until its finalizer is gone.
        assert!(answer.code == 201 || path == CLAIMS, "{limit}: {}", answer.body);
    }
}

#[tokio::test]
async fn updates_charge_what_grows() {
    let server = limited(json!({ "services.nodeports": "2", "services": "9" })).await;
    let service = |kind: &str, ports: usize| {
        let ports: Vec<Value> =
            (1..=ports).map(|port| json!({ "name": format!("p{port}"), "port": port })).collect();
        json!({ "metadata": { "name": "s" }, "spec": { "type": kind, "ports": ports } })
    };
    call("POST", SERVICES).json(&service("ClusterIP", 3)).send(&server).await.expect(201);
    let path = format!("{SERVICES}/s");
    for (kind, ports, expected) in [
        ("NodePort", 2, ""),
        ("NodePort", 3, "requested: services.nodeports=1, used: services.nodeports=2"),
        ("NodePort", 1, ""),
        ("LoadBalancer", 2, ""),
        ("ClusterIP", 5, ""),
        ("NodePort", 3, "requested: services.nodeports=3, used: services.nodeports=0"),
    ] {
        let answer = call("PUT", &path).json(&service(kind, ports)).send(&server).await;
        if expected.is_empty() {
            answer.expect(200);
            continue;
        }
        refused(
            &answer,
            &format!(
                "services \"s\" is forbidden: exceeded quota: q, {expected}, limited: \
                 services.nodeports=2"
            ),
        );
    }
}

#[tokio::test]
async fn a_quota_covers_what_its_scopes_select() {
    let server = server().await;
    let hard = json!({ "pods": "1" });
    quota(&server, "deadline", json!({ "hard": hard, "scopes": ["Terminating"] })).await;
    let selector = json!({ "matchExpressions": [{ "scopeName": "PriorityClass", "operator": "In",
        "values": ["system-node-critical"] }] });
    quota(&server, "critical", json!({ "hard": hard, "scopeSelector": selector })).await;
    let mut number = 0;
    for (spec, refused_by) in [
        (json!({ "activeDeadlineSeconds": 9 }), ""),
        (json!({ "activeDeadlineSeconds": 9 }), "deadline"),
        (json!({ "priorityClassName": "system-node-critical" }), ""),
        (json!({ "priorityClassName": "system-node-critical" }), "critical"),
        (json!({}), ""),
        (json!({}), ""),
    ] {
        number += 1;
        let mut pod = pod(&format!("p{number}"));
        json_patch::merge(&mut pod["spec"], &spec);
        let answer = call("POST", PODS).json(&pod).send(&server).await;
        if refused_by.is_empty() {
            answer.expect(201);
        } else {
            let message = answer.body["message"].as_str().unwrap();
            assert!(message.contains(&format!("exceeded quota: {refused_by}, ")), "{message}");
        }
    }
}

#[tokio::test]
async fn what_has_ended_does_not_count() {
    let server = limited(json!({ "pods": "1", "count/pods": "2" })).await;
    call("POST", PODS).json(&pod("a")).send(&server).await.expect(201);
    let exceeded = |name: &str, what: &str, limit: u32| {
        format!(
            "pods \"{name}\" is forbidden: exceeded quota: q, requested: {what}=1, used: \
             {what}={limit}, limited: {what}={limit}"
        )
    };
    let answer = call("POST", PODS).json(&pod("b")).send(&server).await;
    refused(&answer, &exceeded("b", "pods", 1));
    let ended = json!({ "status": { "phase": "Succeeded" } });
    let end = |name: &str| {
        call("PATCH", &format!("{PODS}/{name}/status"))
            .header("content-type", "application/merge-patch+json")
            .json(&ended)
    };
    end("a").send(&server).await.expect(200);
    call("POST", PODS).json(&pod("b")).send(&server).await.expect(201);
    end("b").send(&server).await.expect(200);
    let answer = call("POST", PODS).json(&pod("c")).send(&server).await;
    refused(&answer, &exceeded("c", "count/pods", 2));
}

#[tokio::test]
async fn a_quota_that_changes_holds_at_once() {
    let server = limited(json!({ "configmaps": "0" })).await;
    let make = |name: &str| call("POST", CONFIGMAPS).json(&configmap(name, json!({})));
    assert_eq!(make("a").send(&server).await.code, 403);
    let path = format!("{QUOTAS}/q");
    let limit = |count: &str| {
        call("PATCH", &path)
            .header("content-type", "application/merge-patch+json")
            .json(&json!({ "spec": { "hard": { "configmaps": count } } }))
    };
    limit("2").send(&server).await.expect(200);
    make("a").send(&server).await.expect(201);
    make("b").send(&server).await.expect(201);
    limit("1").send(&server).await.expect(200);
    let answer = make("c").send(&server).await;
    let message = answer.body["message"].as_str().unwrap();
    assert!(message.contains("used: configmaps=2, limited: configmaps=1"), "{message}");
    // A name that is taken, and what is refused for another reason, use nothing.
    limit("3").send(&server).await.expect(200);
    assert_eq!(make("a").send(&server).await.code, 409);
    let wrong = configmap("Not_A_Name", json!({}));
    assert_eq!(call("POST", CONFIGMAPS).json(&wrong).send(&server).await.code, 422);
    make("c").send(&server).await.expect(201);
    call("DELETE", &path).send(&server).await.expect(200);
    make("d").send(&server).await.expect(201);
}

#[tokio::test]
async fn what_is_used_is_known_after_a_restart() {
    let server = limited(json!({ "configmaps": "1" })).await;
    call("POST", CONFIGMAPS).json(&configmap("a", json!({}))).send(&server).await.expect(201);
    let Server { api, dir } = server;
    drop(api);
    let api = loop {
        // The last tasks of the old one let go of the file.
        match ApiServer::start(config(dir.path())).await {
            Ok(api) => break api,
            Err(crate::StartFailed::Store(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let server = Server { api, dir };
    let answer = call("POST", CONFIGMAPS).json(&configmap("b", json!({}))).send(&server).await;
    assert_eq!(answer.code, 403, "{}", answer.body);
}

#[tokio::test]
async fn a_pod_that_does_not_stop_in_time_counts_no_more() {
    let server = limited(json!({ "pods": "1" })).await;
    bound_pod(&server, "stuck", "node1").await;
    let path = format!("{PODS}/stuck?gracePeriodSeconds=1");
    call("DELETE", &path).send(&server).await.expect(200);
    let started = std::time::Instant::now();
    loop {
        let answer = call("POST", PODS).json(&pod("next")).send(&server).await;
        if answer.code == 201 {
            break;
        }
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.contains("exceeded quota: q, "), "{message}");
        assert!(started.elapsed() < Duration::from_secs(20), "it still counts");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // One second to stop, and as long again.
    assert!(started.elapsed() > Duration::from_millis(1000), "{:?}", started.elapsed());
    call("GET", &format!("{PODS}/stuck")).send(&server).await.expect(200);
}
