//! What the server itself does for jobs, sets, templates and budgets.

use super::*;

fn template(pod: &Value) -> Value {
    json!({ "metadata": { "labels": { "app": "a" } }, "spec": pod })
}

fn containers() -> Value {
    json!([{ "name": "c", "image": "registry/image:1" }])
}

fn job(name: &str) -> Value {
    let pod = json!({ "containers": containers(), "restartPolicy": "Never" });
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "template": { "spec": pod } } })
}

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

#[tokio::test]
async fn a_job_selects_its_pods_by_its_uid() {
    let server = server().await;
    let made = call("POST", JOBS).json(&job("one")).send(&server).await.expect(201);
    let uid = &made["metadata"]["uid"];
    let selector = json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": uid } });
    assert_eq!(made["spec"]["selector"], selector);
    let labels = &made["spec"]["template"]["metadata"]["labels"];
    assert_eq!((&labels["controller-uid"], &labels["job-name"]), (uid, &json!("one")));
    let selected = format!("{JOBS}?fieldSelector=status.successful%3D0");
    let list = call("GET", &selected).send(&server).await.expect(200);
    assert_eq!(list["items"][0]["metadata"]["name"], "one");

    let mut changed = made.clone();
    changed["spec"]["completions"] = json!(2);
    let refused = call("PUT", &format!("{JOBS}/one")).json(&changed).send(&server).await;
    assert_eq!(refused.failure(), (422, "Invalid"));
    assert_eq!(refused.body["details"]["causes"][0]["field"], "spec.completions");
}

#[tokio::test]
async fn a_deleted_job_leaves_its_pods_unless_told_otherwise() {
    let server = server().await;
    let table = [
        ("one", "", Some("orphan")),
        ("two", "?propagationPolicy=Background", None),
        ("three", "?propagationPolicy=Foreground", Some("foregroundDeletion")),
    ];
    for (name, query, finalizer) in table {
        call("POST", JOBS).json(&job(name)).send(&server).await.expect(201);
        let path = format!("{JOBS}/{name}");
        call("DELETE", &format!("{path}{query}")).send(&server).await.expect(200);
        let left = call("GET", &path).send(&server).await;
        match finalizer {
            None => assert_eq!(left.failure(), (404, "NotFound")),
            Some(finalizer) => {
                assert_eq!(left.expect(200)["metadata"]["finalizers"], json!([finalizer]));
            }
        }
    }
}

#[tokio::test]
async fn templates_are_warned_about_where_they_are() {
    let server = server().await;
    let spread = json!([{ "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {} }]);
    let pod = |restart: &str| {
        json!({ "containers": containers(), "restartPolicy": restart,
            "topologySpreadConstraints": spread })
    };
    let selector = json!({ "matchLabels": { "app": "a" } });
    let set = json!({ "selector": selector, "template": template(&pod("Always")) });
    let job = json!({ "template": template(&pod("Never")) });
    let cron = json!({ "schedule": "@daily", "jobTemplate": { "spec": job } });
    let in_spec = |spec: Value| json!({ "spec": spec });
    let table = [
        ("apis/apps/v1", "daemonsets", in_spec(set.clone()), "spec.template.spec"),
        ("apis/apps/v1", "statefulsets", in_spec(set), "spec.template.spec"),
        ("apis/batch/v1", "jobs", in_spec(job), "spec.template.spec"),
        ("apis/batch/v1", "cronjobs", in_spec(cron), "spec.jobTemplate.spec.template.spec"),
        (
            "api/v1",
            "podtemplates",
            json!({ "template": template(&pod("Always")) }),
            "template.spec",
        ),
    ];
    for (root, plural, mut object, at) in table {
        object["metadata"]["name"] = json!("warned");
        let path = format!("/{root}/namespaces/default/{plural}");
        let made = call("POST", &path).json(&object).send(&server).await;
        let told = made.headers.get("warning").map(|told| told.to_str().unwrap().to_owned());
        let expected = format!("299 - \"{at}.topologySpreadConstraints[0]: not read by");
        assert!(told.is_some_and(|told| told.starts_with(&expected)), "{plural}");
        made.expect(201);
    }
}

#[tokio::test]
async fn some_kinds_are_only_changed_by_who_read_them() {
    let server = server().await;
    let budget = json!({ "metadata": { "name": "b" }, "spec": { "minAvailable": 1 } });
    let class = json!({ "metadata": { "name": "r" }, "handler": "runc" });
    for (path, object) in [
        ("/apis/policy/v1/namespaces/default/poddisruptionbudgets", budget),
        ("/apis/node.k8s.io/v1/runtimeclasses", class),
    ] {
        let made = call("POST", path).json(&object).send(&server).await.expect(201);
        let own = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
        let blind = call("PUT", &own).json(&object).send(&server).await;
        assert_eq!(blind.failure(), (422, "Invalid"));
        assert_eq!(blind.body["details"]["causes"][0]["field"], "metadata.resourceVersion");
        call("PUT", &own).json(&made).send(&server).await.expect(200);
    }
}
