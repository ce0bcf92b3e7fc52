//! Priority classes, and what they make of pods.

use super::*;

const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

fn class(name: &str, value: i64, more: Value) -> Value {
    let mut class = json!({ "metadata": { "name": name }, "value": value });
    for (field, value) in more.as_object().unwrap() {
        class[field] = value.clone();
    }
    class
}

async fn make(server: &Server, class: Value) -> Answer {
    call("POST", CLASSES).json(&class).send(server).await
}

fn with(name: &str, spec: &Value) -> Value {
    let mut pod = pod(name);
    for (field, value) in spec.as_object().unwrap() {
        pod["spec"][field] = value.clone();
    }
    pod
}

#[tokio::test]
async fn the_system_has_two_classes() {
    let server = server().await;
    let list = call("GET", CLASSES).send(&server).await.expect(200);
    let values: Vec<_> = list["items"].as_array().unwrap().iter().collect();
    let expected =
        [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
    assert_eq!(values.len(), expected.len());
    for (class, (name, value)) in values.iter().zip(expected) {
        assert_eq!((&class["metadata"]["name"], &class["value"]), (&json!(name), &json!(value)));
        assert_eq!(class["preemptionPolicy"], "PreemptLowerPriority");
    }
    let other = make(&server, class("system-mine", 5, json!({}))).await;
    assert_eq!(other.failure(), (422, "Invalid"));
}

#[tokio::test]
async fn a_pod_has_the_priority_of_its_class() {
    let server = server().await;
    make(&server, class("high", 1000, json!({ "preemptionPolicy": "Never" }))).await.expect(201);
    let node_critical = json!({ "priorityClassName": "system-node-critical" });
    let high = |more: Value| {
        let mut spec = json!({ "priorityClassName": "high" });
        json_patch::merge(&mut spec, &more);
        spec
    };
    let resolved = |class: Value, priority: i64, policy: &str| {
        let mut fields = json!({ "priorityClassName": class, "preemptionPolicy": policy });
        fields["priority"] = json!(priority);
        fields
    };
    let plain = resolved(json!(null), 0, "PreemptLowerPriority");
    let table = [
        (json!({}), Ok(plain.clone())),
        (json!({ "priority": 0, "preemptionPolicy": "PreemptLowerPriority" }), Ok(plain)),
        (high(json!({})), Ok(resolved(json!("high"), 1000, "Never"))),
        (high(json!({ "priority": 1000 })), Ok(resolved(json!("high"), 1000, "Never"))),
        (
            node_critical,
            Ok(resolved(json!("system-node-critical"), 2_000_001_000, "PreemptLowerPriority")),
        ),
        (
            json!({ "priorityClassName": "absent" }),
            Err("no PriorityClass with name absent was found"),
        ),
        (
            high(json!({ "priority": 5 })),
            Err("the integer value of priority (5) must not be provided in pod spec; priority \
                 admission controller computed 1000 from the given PriorityClass name"),
        ),
        (
            json!({ "priority": 5 }),
            Err("the integer value of priority (5) must not be provided in pod spec; priority \
                 admission controller computed 0 from the given PriorityClass name"),
        ),
        (
            high(json!({ "preemptionPolicy": "PreemptLowerPriority" })),
            Err(
                "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided \
                 in pod spec; priority admission controller computed Never from the given \
                 PriorityClass name",
            ),
        ),
    ];
    for (index, (spec, expected)) in table.into_iter().enumerate() {
        let name = format!("p{index}");
        let answer = call("POST", PODS).json(&with(&name, &spec)).send(&server).await;
        match expected {
            Ok(fields) => {
                let made = answer.expect(201);
                for (field, value) in fields.as_object().unwrap() {
                    assert_eq!(made["spec"][field], *value, "{spec}");
                }
            }
            Err(cause) => {
                assert_eq!(answer.failure(), (403, "Forbidden"), "{spec}");
                let message = format!("pods \"{name}\" is forbidden: {cause}");
                assert_eq!(answer.body["message"], message);
            }
        }
    }
}

#[tokio::test]
async fn an_update_keeps_what_the_class_gave() {
    let server = server().await;
    make(&server, class("high", 1000, json!({}))).await.expect(201);
    let spec = json!({ "priorityClassName": "high" });
    let mut made = call("POST", PODS).json(&with("p", &spec)).send(&server).await.expect(201);
    made["metadata"]["labels"]["changed"] = json!("1");
    for field in ["priority", "preemptionPolicy"] {
        made["spec"].as_object_mut().unwrap().remove(field);
    }
    let path = format!("{PODS}/p");
    let updated = call("PUT", &path).json(&made).send(&server).await.expect(200);
    assert_eq!(updated["spec"]["priority"], 1000);
    assert_eq!(updated["spec"]["preemptionPolicy"], "PreemptLowerPriority");
    made["spec"]["priority"] = json!(7);
    made["metadata"]["resourceVersion"] = updated["metadata"]["resourceVersion"].clone();
    let refused = call("PUT", &path).json(&made).send(&server).await;
    assert_eq!(refused.failure(), (422, "Invalid"));
}

#[tokio::test]
async fn one_class_at_most_is_the_default() {
    let server = server().await;
    let default = json!({ "globalDefault": true });
    make(&server, class("usual", 7, default.clone())).await.expect(201);
    let made = call("POST", PODS).json(&pod("p")).send(&server).await.expect(201);
    assert_eq!(made["spec"]["priorityClassName"], "usual");
    assert_eq!(made["spec"]["priority"], 7);

    let second = make(&server, class("other", 8, default.clone())).await;
    assert_eq!(second.failure(), (403, "Forbidden"));
    assert_eq!(
        second.body["message"],
        "priorityclasses.scheduling.k8s.io \"other\" is forbidden: PriorityClass usual is already \
         marked as default. Only one default can exist"
    );
    make(&server, class("other", 8, json!({}))).await.expect(201);
    let patch = |name: &str, patch: Value| {
        call("PATCH", &format!("{CLASSES}/{name}"))
            .header("content-type", "application/merge-patch+json")
            .json(&patch)
            .send(&server)
    };
    assert_eq!(patch("other", default.clone()).await.failure(), (403, "Forbidden"));
    // The default itself may change, and give way.
    patch("usual", json!({ "description": "for all" })).await.expect(200);
    patch("usual", json!({ "globalDefault": false })).await.expect(200);
    let plain = call("POST", PODS).json(&pod("plain")).send(&server).await.expect(201);
    assert_eq!(plain["spec"]["priorityClassName"], Value::Null);
    patch("other", default).await.expect(200);
    let made = call("POST", PODS).json(&pod("q")).send(&server).await.expect(201);
    assert_eq!(made["spec"]["priorityClassName"], "other");
    assert_eq!(made["spec"]["priority"], 8);
    call("DELETE", &format!("{CLASSES}/other")).send(&server).await.expect(200);
    let made = call("POST", PODS).json(&pod("r")).send(&server).await.expect(201);
    assert_eq!(made["spec"]["priority"], 0);
}

#[tokio::test]
async fn of_many_defaults_at_once_one_is_made() {
    let server = server().await;
    let made = (0..8)
        .map(|n| make(&server, class(&format!("class-{n}"), n, json!({ "globalDefault": true }))));
    let mut codes: Vec<u16> =
        futures::future::join_all(made).await.iter().map(|answer| answer.code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [vec![201], vec![403; 7]].concat());
}
