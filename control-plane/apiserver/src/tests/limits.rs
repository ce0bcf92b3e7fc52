//! Limit ranges: what they fill in, and what they refuse.

use super::*;

const RANGES: &str = "/api/v1/namespaces/default/limitranges";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

/// A server whose default namespace has limit ranges, each of one item.
async fn limited(items: &[Value]) -> Server {
    let server = server().await;
    for (index, item) in items.iter().enumerate() {
        let metadata = json!({ "name": format!("range-{index}") });
        let range = json!({ "metadata": metadata, "spec": { "limits": [item] } });
        call("POST", RANGES).json(&range).send(&server).await.expect(201);
    }
    server
}

fn container(name: &str, resources: Value) -> Value {
    json!({ "name": name, "image": "registry/image:1", "resources": resources })
}

fn with(name: &str, spec: Value) -> Value {
    json!({ "metadata": { "name": name }, "spec": spec })
}

/// As much of both.
fn both(resource: &str, amount: &str) -> Value {
    json!({ "requests": { resource: amount }, "limits": { resource: amount } })
}

/// Sends each object, and compares what the refusal says, or that there is none.
async fn refusals(server: &Server, path: &str, table: Vec<(Value, &str)>) {
    let plural = path.rsplit('/').next().unwrap();
    for (index, (spec, expected)) in table.into_iter().enumerate() {
        let name = format!("o{index}");
        let answer = call("POST", path).json(&with(&name, spec.clone())).send(server).await;
        if expected.is_empty() {
            answer.expect(201);
            continue;
        }
        assert_eq!(answer.failure(), (403, "Forbidden"), "{spec}: {}", answer.body);
        let message = format!("{plural} \"{name}\" is forbidden: {expected}");
        assert_eq!(answer.body["message"], message, "{spec}");
    }
}

#[tokio::test]
async fn containers_ask_for_what_they_leave_out() {
    let item = json!({ "type": "Container", "default": { "cpu": "500m", "memory": "256Mi" },
        "defaultRequest": { "cpu": "100m" } });
    let server = limited(&[item]).await;
    let all = json!({ "requests": { "cpu": "100m", "memory": "256Mi" },
        "limits": { "cpu": "500m", "memory": "256Mi" } });
    let own = json!({ "limits": { "cpu": "2" } });
    let completed = json!({ "requests": { "cpu": "2", "memory": "256Mi" },
        "limits": { "cpu": "2", "memory": "256Mi" } });
    let told = "LimitRanger plugin set: ";
    let whole = "cpu, memory request for container c; cpu, memory limit for container c";
    let rest = "memory request for container c; memory limit for container c";
    let first = "cpu, memory request for init container i; cpu, memory limit for init container i";
    for (name, spec, resources, class, annotation) in [
        ("none", json!({}), &all, "Burstable", format!("{told}{whole}")),
        ("some", own.clone(), &completed, "Guaranteed", format!("{told}{rest}")),
        ("all", all.clone(), &all, "Burstable", String::new()),
        ("first", all.clone(), &all, "Burstable", format!("{told}{first}")),
    ] {
        let mut pod = with(name, json!({ "containers": [container("c", spec)] }));
        if name == "first" {
            pod["spec"]["initContainers"] = json!([container("i", json!({}))]);
        }
        let made = call("POST", PODS).json(&pod).send(&server).await.expect(201);
        assert_eq!(made["spec"]["containers"][0]["resources"], *resources, "{name}");
        assert_eq!(made["status"]["qosClass"], class, "{name}");
        let said = &made["metadata"]["annotations"]["kubernetes.io/limit-ranger"];
        assert_eq!(said.as_str().unwrap_or_default(), annotation, "{name}");
    }
    // Nowhere else, and in no template.
    let elsewhere = PODS.replace("default", "kube-system");
    let made = call("POST", &elsewhere).json(&pod("p")).send(&server).await.expect(201);
    assert_eq!(made["spec"]["containers"][0]["resources"], json!({}));
    assert_eq!(made["status"]["qosClass"], "BestEffort");
    let template = json!({ "metadata": { "name": "t" }, "template": { "spec": pod("p")["spec"] } });
    let templates = "/api/v1/namespaces/default/podtemplates";
    let made = call("POST", templates).json(&template).send(&server).await.expect(201);
    assert_eq!(made["template"]["spec"]["containers"][0]["resources"], json!({}));
}

#[tokio::test]
async fn containers_keep_to_their_bounds() {
    let item = json!({ "type": "Container", "min": { "cpu": "100m" }, "max": { "cpu": "1" },
        "maxLimitRequestRatio": { "cpu": "2" } });
    let server = limited(&[item]).await;
    let cpu = |request: &str, limit: &str| {
        let resources = json!({ "requests": { "cpu": request }, "limits": { "cpu": limit } });
        json!({ "containers": [container("c", resources)] })
    };
    let mut first = cpu("1", "1");
    first["initContainers"] = json!([container("i", both("cpu", "1500m"))]);
    let table = vec![
        (json!({ "containers": [container("c", json!({}))] }), ""),
        (cpu("500m", "1"), ""),
        (cpu("2", "2"), "maximum cpu usage per Container is 1, but limit is 2"),
        (first, "maximum cpu usage per Container is 1, but limit is 1500m"),
        (
            cpu("100m", "250m"),
            "cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000",
        ),
        (cpu("50m", "50m"), "minimum cpu usage per Container is 100m, but request is 50m"),
        (
            cpu("0", "1"),
            "[minimum cpu usage per Container is 100m, but request is 0, cpu max limit to request \
             ratio per Container is 2, but no request is specified or request is 0]",
        ),
    ];
    refusals(&server, PODS, table).await;
}

#[tokio::test]
async fn pods_keep_to_their_bounds_as_a_whole() {
    let item = json!({ "type": "Pod", "min": { "memory": "64Mi" }, "max": { "memory": "512Mi" },
        "maxLimitRequestRatio": { "memory": "2" } });
    let server = limited(&[item]).await;
    let memory = |amount: &str| both("memory", amount);
    let two = |amount: &str| {
        let [a, b] = ["a", "b"].map(|name| container(name, memory(amount)));
        json!({ "containers": [a, b] })
    };
    let started_by = |amount: &str, policy: Value| {
        let mut first = container("i", memory(amount));
        first["restartPolicy"] = policy;
        json!({ "containers": [container("c", memory("300Mi"))], "initContainers": [first] })
    };
    let too_much = "maximum memory usage per Pod is 512Mi, but limit is 600Mi";
    let apart = json!({ "requests": { "memory": "100Mi" }, "limits": { "memory": "300Mi" } });
    let table = vec![
        (two("200Mi"), ""),
        (two("300Mi"), too_much),
        (two("16Mi"), "minimum memory usage per Pod is 64Mi, but request is 32Mi"),
        (started_by("400Mi", json!(null)), ""),
        (started_by("600Mi", json!(null)), too_much),
        (started_by("300Mi", json!("Always")), too_much),
        (
            json!({ "containers": [container("c", apart)] }),
            "memory max limit to request ratio per Pod is 2, but provided ratio is 3.000000",
        ),
        (
            json!({ "containers": [container("c", json!({}))] }),
            "[minimum memory usage per Pod is 64Mi.  No request is specified, maximum memory usage \
             per Pod is 512Mi.  No limit is specified, memory max limit to request ratio per Pod \
             is 2, but no request is specified or request is 0]",
        ),
        (json!({ "containers": [container("c", json!({}))], "resources": memory("100Mi") }), ""),
    ];
    refusals(&server, PODS, table).await;
}

#[tokio::test]
async fn claims_keep_to_their_bounds() {
    let item = json!({ "type": "PersistentVolumeClaim", "min": { "storage": "1Gi" },
        "max": { "storage": "10Gi" } });
    let server = limited(&[item]).await;
    let claim = |amount: &str| {
        let resources = json!({ "requests": { "storage": amount } });
        json!({ "accessModes": ["ReadWriteOnce"], "resources": resources })
    };
    let table = vec![
        (claim("5Gi"), ""),
        (
            claim("500Mi"),
            "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi",
        ),
        (
            claim("20Gi"),
            "maximum storage usage per PersistentVolumeClaim is 10Gi, but request is 20Gi",
        ),
    ];
    refusals(&server, CLAIMS, table).await;

    // Updates are looked at, too, but not those of a claim that goes away.
    let patch = |path: String, patch: Value| {
        call("PATCH", &path)
            .header("content-type", "application/merge-patch+json")
            .json(&patch)
            .send(&server)
    };
    let smaller = json!({ "type": "PersistentVolumeClaim", "max": { "storage": "2Gi" } });
    let range = json!({ "spec": { "limits": [smaller] } });
    patch(format!("{RANGES}/range-0"), range).await.expect(200);
    let label = json!({ "metadata": { "labels": { "a": "b" }, "finalizers": ["example.com/x"] } });
    let refused = patch(format!("{CLAIMS}/o0"), label.clone()).await;
    assert_eq!(refused.failure(), (403, "Forbidden"));
    let lifted = patch(format!("{RANGES}/range-0"), json!({ "spec": { "limits": [] } }));
    lifted.await.expect(200);
    patch(format!("{CLAIMS}/o0"), label).await.expect(200);
    call("DELETE", &format!("{CLAIMS}/o0")).send(&server).await.expect(200);
    let smaller = json!({ "type": "PersistentVolumeClaim", "max": { "storage": "2Gi" } });
    patch(format!("{RANGES}/range-0"), json!({ "spec": { "limits": [smaller] } }))
        .await
        .expect(200);
    let done = json!({ "metadata": { "finalizers": null } });
    patch(format!("{CLAIMS}/o0"), done).await.expect(200);
}

#[tokio::test]
async fn a_problem_is_told_once_and_by_the_first_range() {
    let most = |amount: &str| json!({ "type": "Pod", "max": { "cpu": amount } });
    let containers = |amount: &str| {
        json!({ "type": "Container", "max": { "cpu": amount }, "default": { "cpu": "10m" },
            "defaultRequest": { "cpu": "10m" } })
    };
    let server = limited(&[containers("1"), most("3"), most("2")]).await;
    let two = |amount: &str| {
        json!({ "containers": [container("a", both("cpu", amount)),
            container("b", both("cpu", amount))] })
    };
    let table = vec![
        (two("1"), ""),
        (two("1500m"), "maximum cpu usage per Container is 1, but limit is 1500m"),
    ];
    refusals(&server, PODS, table).await;
    call("DELETE", &format!("{RANGES}/range-0")).send(&server).await.expect(200);
    let table = vec![
        (two("1250m"), "maximum cpu usage per Pod is 2, but limit is 2500m"),
        (two("2"), "maximum cpu usage per Pod is 3, but limit is 4"),
    ];
    refusals(&server, PODS, table).await;
}
