//! Kinds that are served in two versions: one object, whichever way it is looked at.

use super::*;

const CORE: &str = "/api/v1/namespaces/default/events";
const NEWER: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const SCALER: &str = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
const SCALER2: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
const PREFIX: &str = "autoscaling.alpha.kubernetes.io/";
const TIME: &str = "2026-01-01T00:00:00.000000Z";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

fn core(name: &str, about: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": name },
        "involvedObject": { "kind": "Pod", "namespace": "default", "name": about },
        "reason": "Started", "message": "It runs.", "type": "Normal", "count": 2,
        "firstTimestamp": "2026-01-01T00:00:00Z", "source": { "component": "agent" },
    })
}

fn newer(name: &str, about: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "name": name },
        "regarding": { "kind": "Pod", "namespace": "default", "name": about },
        "eventTime": TIME, "reason": "Stopped", "action": "Stop", "note": "It ends.",
        "type": "Warning", "reportingController": "example.com/c", "reportingInstance": "c-1",
    })
}

/// An autoscaler with a spec beside what every one has.
fn scaler(version: &str, name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": name }, "spec": spec,
    });
    let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "d" });
    object["spec"]["scaleTargetRef"] = target;
    object["spec"]["maxReplicas"] = json!(3);
    object
}

fn cpu(percent: i64) -> Value {
    let target = json!({ "type": "Utilization", "averageUtilization": percent });
    json!({ "type": "Resource", "resource": { "name": "cpu", "target": target } })
}

fn pods() -> Value {
    let target = json!({ "type": "AverageValue", "averageValue": "10" });
    json!({ "type": "Pods", "pods": { "metric": { "name": "m" }, "target": target } })
}

async fn post(server: &Server, path: &str, object: &Value) -> Value {
    call("POST", path).json(object).send(server).await.expect(201)
}

async fn get(server: &Server, path: &str) -> Value {
    call("GET", path).send(server).await.expect(200)
}

fn patch(path: &str, kind: &str, patch: &Value) -> Call {
    let media_type = format!("application/{kind}");
    call("PATCH", path).header("content-type", &media_type).json(patch)
}

fn apply(path: &str, manager: &str, config: &Value) -> Call {
    patch(&format!("{path}?fieldManager={manager}"), "apply-patch+yaml", config)
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

/// `manager version` of the entries.
fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let tell = |entry: &Value| format!("{} {}", text(entry, "manager"), text(entry, "apiVersion"));
    let mut told: Vec<String> = entries.map(tell).collect();
    told.sort();
    told
}

#[tokio::test]
async fn an_event_is_one_object_in_both_versions() {
    let server = server().await;
    let old = post(&server, CORE, &core("old", "p")).await;
    let shown = get(&server, &format!("{NEWER}/old")).await;
    assert_eq!(shown["metadata"], old["metadata"]);
    let fields = ["apiVersion", "note", "deprecatedCount", "deprecatedSource", "regarding"];
    let expected = [
        json!("events.k8s.io/v1"),
        json!("It runs."),
        json!(2),
        json!({ "component": "agent" }),
        old["involvedObject"].clone(),
    ];
    assert_eq!(fields.map(|field| shown[field].clone()), expected);
    assert!(shown["message"].is_null() && shown["involvedObject"].is_null());

    let new = post(&server, NEWER, &newer("new", "q")).await;
    assert_eq!((&new["note"], &new["kind"]), (&json!("It ends."), &json!("Event")));
    let shown = get(&server, &format!("{CORE}/new")).await;
    assert_eq!((&shown["apiVersion"], &shown["message"]), (&json!("v1"), &json!("It ends.")));
    assert_eq!(shown["reportingComponent"], "example.com/c");
    let again = call("POST", CORE).json(&core("new", "q")).send(&server).await;
    assert_eq!(again.failure(), (409, "AlreadyExists"));

    let deleted = call("DELETE", &format!("{NEWER}/old")).send(&server).await.expect(200);
    assert_eq!(deleted["details"]["group"], "events.k8s.io");
    let gone = call("GET", &format!("{CORE}/old")).send(&server).await;
    assert_eq!(gone.failure(), (404, "NotFound"));
    let wrong = call("POST", NEWER).json(&core("wrong", "p")).send(&server).await;
    assert_eq!(wrong.failure(), (400, "BadRequest"));
    // A field of the other version is none of this one.
    let mut mixed = newer("mixed", "p");
    mixed["message"] = json!("no");
    let strict = format!("{NEWER}?fieldValidation=Strict");
    let refused = call("POST", &strict).json(&mixed).send(&server).await;
    assert_eq!(refused.failure(), (400, "BadRequest"));
    assert!(refused.body["message"].as_str().unwrap().contains("unknown field \"message\""));
}

#[tokio::test]
async fn lists_are_of_all_objects_in_the_version_that_is_asked_for() {
    let server = server().await;
    for (name, about) in [("a", "p"), ("b", "q")] {
        post(&server, CORE, &core(name, about)).await;
    }
    post(&server, NEWER, &newer("c", "p")).await;
    for (path, version) in [(CORE, "v1"), (NEWER, "events.k8s.io/v1")] {
        let list = get(&server, path).await;
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!(version)));
        assert_eq!(names(&list), ["a", "b", "c"]);
        let items = list["items"].as_array().unwrap();
        assert!(items.iter().all(|item| item["apiVersion"] == version), "{list}");
        assert_eq!(items[2], get(&server, &format!("{path}/c")).await);
        let first = get(&server, &format!("{path}?limit=2")).await;
        assert_eq!(names(&first), ["a", "b"]);
        // A page goes on in whatever version.
        let token = first["metadata"]["continue"].as_str().unwrap();
        for (path, version) in [(CORE, "v1"), (NEWER, "events.k8s.io/v1")] {
            let rest = get(&server, &format!("{path}?limit=2&continue={token}")).await;
            assert_eq!((names(&rest), &rest["apiVersion"]), (vec!["c"], &json!(version)));
        }
    }
    // The state of a moment that has passed is read from the store.
    let first = get(&server, &format!("{NEWER}?limit=1")).await;
    post(&server, CORE, &core("d", "p")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = get(&server, &format!("{NEWER}?continue={token}")).await;
    assert_eq!(names(&rest), ["b", "c"]);
    assert_eq!(rest["items"][0]["apiVersion"], "events.k8s.io/v1");
}

#[tokio::test]
async fn fields_are_selected_by_the_names_of_their_version() {
    let server = server().await;
    post(&server, CORE, &core("a", "p")).await;
    post(&server, CORE, &core("b", "q")).await;
    post(&server, NEWER, &newer("c", "p")).await;
    let cases = [
        (CORE, "involvedObject.name%3Dp", vec!["a", "c"]),
        (NEWER, "regarding.name%3Dp", vec!["a", "c"]),
        (NEWER, "regarding.kind%3DPod,regarding.name%21%3Dp", vec!["b"]),
        (NEWER, "reportingController%3Dexample.com/c", vec!["c"]),
        (NEWER, "reason%3DStarted,type%3DNormal", vec!["a", "b"]),
        (NEWER, "metadata.name%3Db,metadata.namespace%3Ddefault", vec!["b"]),
    ];
    for (path, selector, expected) in cases {
        let list = get(&server, &format!("{path}?fieldSelector={selector}")).await;
        assert_eq!(names(&list), expected, "{path} {selector}");
    }
    for (path, field) in [(CORE, "regarding.name"), (NEWER, "involvedObject.name")] {
        let path = format!("{path}?fieldSelector={field}%3Dp");
        assert_eq!(call("GET", &path).send(&server).await.failure(), (400, "BadRequest"));
    }
    let some = format!("{NEWER}?fieldSelector=regarding.name%3Dp");
    let deleted = call("DELETE", &some).send(&server).await.expect(200);
    assert_eq!((names(&deleted), &deleted["kind"]), (vec!["a", "c"], &json!("EventList")));
    assert_eq!(deleted["items"][0]["apiVersion"], "events.k8s.io/v1");
    assert_eq!(names(&get(&server, CORE).await), ["b"]);
}

#[tokio::test]
async fn a_watch_sees_what_is_written_through_the_other_version() {
    let server = server().await;
    post(&server, CORE, &core("a", "p")).await;
    let initial = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true\
                   &resourceVersionMatch=NotOlderThan";
    let versions = [(CORE, "v1"), (NEWER, "events.k8s.io/v1")];
    for ((path, version), (other, _)) in [(versions[0], versions[1]), (versions[1], versions[0])] {
        let mut events = call("GET", &format!("{path}?{initial}")).stream(&server).await;
        let mut next = async |kind: &str| {
            let event = events.next().await.unwrap();
            let object = &event["object"];
            assert_eq!((&event["type"], &object["apiVersion"]), (&json!(kind), &json!(version)));
            assert_eq!(object["kind"], "Event");
            object.clone()
        };
        let first = next("ADDED").await;
        assert_eq!(first, get(&server, &format!("{path}/a")).await);
        let bookmark = next("BOOKMARK").await;
        assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        let new = match other {
            NEWER => newer("b", "q"),
            _ => core("b", "q"),
        };
        post(&server, other, &new).await;
        let added = next("ADDED").await;
        assert_eq!(added, get(&server, &format!("{path}/b")).await);
        let label = json!({ "metadata": { "labels": { "l": "1" } } });
        let label = patch(&format!("{other}/b"), "merge-patch+json", &label);
        label.send(&server).await.expect(200);
        assert_eq!(next("MODIFIED").await["metadata"]["labels"]["l"], "1");
        call("DELETE", &format!("{other}/b")).send(&server).await.expect(200);
        let gone = next("DELETED").await;
        assert_eq!((&gone["metadata"]["name"], &gone["reason"]), (&json!("b"), &added["reason"]));

        let since = format!(
            "{path}?watch=true&resourceVersion={}",
            added["metadata"]["resourceVersion"].as_str().unwrap()
        );
        let mut resumed = call("GET", &since).stream(&server).await;
        assert_eq!(resumed.brief().await, ("MODIFIED".to_owned(), "b".to_owned()));
        let deleted = resumed.next().await.unwrap();
        assert_eq!(deleted["object"], gone);
    }
}

#[tokio::test]
async fn tables_are_the_same_and_their_objects_are_not() {
    let server = server().await;
    post(&server, CORE, &core("a", "p")).await;
    post(&server, SCALER2, &scaler("v2", "h", json!({ "metrics": [pods(), cpu(50)] }))).await;
    for (paths, name) in [([CORE, NEWER], "a"), ([SCALER2, SCALER], "h")] {
        let mut tables = Vec::new();
        for path in paths {
            let table = |include: &str| {
                call("GET", &format!("{path}/{name}?includeObject={include}"))
                    .header("accept", TABLE)
            };
            let whole = table("Object").send(&server).await.expect(200);
            let object = get(&server, &format!("{path}/{name}")).await;
            assert_eq!(whole["rows"][0]["object"], object);
            tables.push(table("Metadata").send(&server).await.expect(200));
        }
        assert!(tables[0]["rows"][0]["cells"].as_array().unwrap().len() > 5);
        assert_eq!(tables[0], tables[1]);
    }
}

#[tokio::test]
async fn events_of_the_newer_group_are_held_to_more() {
    let server = server().await;
    let refused = call("POST", NEWER).json(&json!({ "metadata": { "name": "a" } }));
    let refused = refused.send(&server).await;
    assert_eq!(refused.failure(), (422, "Invalid"));
    let causes = refused.body["details"]["causes"].as_array().unwrap().iter();
    let fields: Vec<&str> = causes.map(|cause| cause["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["eventTime", "type"]);

    post(&server, CORE, &core("a", "p")).await;
    let path = format!("{NEWER}/a");
    let note = json!({ "note": "other" });
    let refused = patch(&path, "merge-patch+json", &note).send(&server).await;
    assert_eq!(refused.failure(), (422, "Invalid"));
    assert_eq!(refused.body["details"]["causes"][0]["field"], "message");
    let message = json!({ "message": "other" });
    let changed = patch(&format!("{CORE}/a"), "merge-patch+json", &message).send(&server).await;
    assert_eq!(changed.expect(200)["message"], "other");
    let series = json!({ "series": { "count": 2, "lastObservedTime": TIME } });
    let seen = patch(&path, "strategic-merge-patch+json", &series).send(&server).await;
    assert_eq!(seen.expect(200)["series"], series["series"]);
    let operations = json!([
        { "op": "test", "path": "/regarding/name", "value": "p" },
        { "op": "replace", "path": "/series/count", "value": 3 },
    ]);
    let seen = patch(&path, "json-patch+json", &operations).send(&server).await.expect(200);
    assert_eq!((&seen["series"]["count"], &seen["note"]), (&json!(3), &json!("other")));
    // Made by an update, as events are.
    let made = call("PUT", &format!("{NEWER}/b")).json(&newer("b", "p")).send(&server).await;
    let mut made = made.expect(201);
    made["metadata"]["labels"] = json!({ "l": "1" });
    let path = format!("{NEWER}/b");
    let put = call("PUT", &path).json(&made).send(&server).await.expect(200);
    assert_eq!(get(&server, &format!("{CORE}/b")).await["metadata"], put["metadata"]);
    assert_eq!(call("PUT", &path).json(&made).send(&server).await.failure(), (409, "Conflict"));
}

#[tokio::test]
async fn an_autoscaler_keeps_what_one_version_cannot_say() {
    let server = server().await;
    let plain = post(&server, SCALER, &scaler("v1", "plain", json!({}))).await;
    assert_eq!(plain["spec"]["targetCPUUtilizationPercentage"], 80);
    assert_eq!(plain["spec"]["minReplicas"], 1);
    let shown = get(&server, &format!("{SCALER2}/plain")).await;
    assert_eq!(shown["spec"]["metrics"], json!([cpu(80)]));

    let behavior = json!({ "scaleDown": { "stabilizationWindowSeconds": 60 } });
    let spec = json!({ "metrics": [pods(), cpu(50)], "behavior": behavior });
    let made = post(&server, SCALER2, &scaler("v2", "h", spec)).await;
    let (one, two) = (format!("{SCALER}/h"), format!("{SCALER2}/h"));
    let shown = get(&server, &one).await;
    assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 50);
    let annotations = shown["metadata"]["annotations"].as_object().unwrap();
    let keys: Vec<&String> = annotations.keys().collect();
    assert_eq!(keys, [&format!("{PREFIX}behavior"), &format!("{PREFIX}metrics")]);
    // What was read is written: nothing happens.
    let same = call("PUT", &one).json(&shown).send(&server).await.expect(200);
    assert_eq!(same, shown);
    let target = json!({ "spec": { "targetCPUUtilizationPercentage": 60 } });
    let patched = patch(&one, "merge-patch+json", &target).send(&server).await.expect(200);
    assert_eq!(patched["metadata"]["annotations"], shown["metadata"]["annotations"]);
    let read = get(&server, &two).await;
    assert_eq!(read["spec"]["metrics"], json!([pods(), cpu(60)]));
    assert_eq!(read["spec"]["behavior"], made["spec"]["behavior"]);
    assert!(read["metadata"]["annotations"].is_null());
    // Partial metadata is that of the object, whatever the version.
    let partial = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let partial = call("GET", &one).header("accept", partial).send(&server).await.expect(200);
    assert_eq!(partial["metadata"], read["metadata"]);

    let invalid = json!({ "spec": { "targetCPUUtilizationPercentage": 0 } });
    let refused = patch(&one, "merge-patch+json", &invalid).send(&server).await;
    assert_eq!(refused.failure(), (422, "Invalid"));
    let field = "spec.metrics[1].resource.target.averageUtilization";
    assert_eq!(refused.body["details"]["causes"][0]["field"], field);
    let untyped = json!({ "spec": { "targetCPUUtilizationPercentage": "much" } });
    let refused = patch(&one, "merge-patch+json", &untyped).send(&server).await;
    assert_eq!(refused.failure(), (422, "Invalid"));
}

#[tokio::test]
async fn the_status_is_written_through_both_versions() {
    let server = server().await;
    post(&server, SCALER2, &scaler("v2", "h", json!({ "metrics": [cpu(50)] }))).await;
    let (one, two) = (format!("{SCALER}/h/status"), format!("{SCALER2}/h/status"));
    let condition = json!({ "type": "AbleToScale", "status": "True", "reason": "Ready" });
    let current = json!({ "averageUtilization": 30, "averageValue": "3" });
    let metric = json!({ "type": "Resource", "resource": { "name": "cpu", "current": current } });
    let status = json!({ "status": {
        "currentReplicas": 2, "conditions": [condition], "currentMetrics": [metric],
    } });
    let written = patch(&two, "merge-patch+json", &status).send(&server).await.expect(200);
    let shown = get(&server, &one).await;
    assert_eq!(shown["status"]["currentCPUUtilizationPercentage"], 30);
    let conditions = &shown["metadata"]["annotations"][format!("{PREFIX}conditions")];
    assert_eq!(serde_json::from_str::<Value>(conditions.as_str().unwrap()).unwrap()[0], condition);
    let more = json!({ "status": { "desiredReplicas": 3 }, "spec": { "maxReplicas": 9 } });
    let patched = patch(&one, "merge-patch+json", &more).send(&server).await.expect(200);
    assert_eq!(patched["status"]["desiredReplicas"], 3);
    let read = get(&server, &two).await;
    let mut expected = written["status"].clone();
    expected["desiredReplicas"] = json!(3);
    assert_eq!((&read["status"], &read["spec"]), (&expected, &written["spec"]));
    // What is no status is not written there, and the status nowhere else.
    let main = json!({ "status": { "currentReplicas": 7 }, "spec": { "maxReplicas": 4 } });
    let main = patch(&format!("{SCALER}/h"), "merge-patch+json", &main).send(&server).await;
    assert_eq!(main.expect(200)["status"]["currentReplicas"], 2);
    assert_eq!(get(&server, &two).await["status"], expected);
}

#[tokio::test]
async fn managers_write_through_the_version_that_they_know() {
    let server = server().await;
    let (one, two) = (format!("{SCALER}/h"), format!("{SCALER2}/h"));
    let config = scaler("v2", "h", json!({ "metrics": [cpu(50)] }));
    let made = apply(&two, "two", &config).send(&server).await.expect(201);
    assert_eq!(managers(&made), ["two autoscaling/v2"]);
    let config = scaler("v1", "h", json!({ "targetCPUUtilizationPercentage": 60 }));
    let refused = apply(&one, "one", &config).send(&server).await;
    assert_eq!(refused.failure(), (409, "Conflict"));
    let cause = &refused.body["details"]["causes"][0];
    let found = (&cause["field"], &cause["message"]);
    assert_eq!(found, (&json!(".spec.metrics"), &json!("conflict with \"two\"")));
    let forced = apply(&one, "one&force=true", &config).send(&server).await.expect(200);
    assert_eq!(forced["spec"]["targetCPUUtilizationPercentage"], 60);
    let both = ["one autoscaling/v1", "two autoscaling/v2"];
    assert_eq!(managers(&forced), both);
    let again = apply(&one, "one", &config).send(&server).await.expect(200);
    assert_eq!(again, forced);
    // An update through either leaves the others' entries, but for what it changes.
    let label = json!({ "metadata": { "labels": { "l": "1" } } });
    let labelled = patch(&format!("{one}?fieldManager=x"), "merge-patch+json", &label);
    let labelled = labelled.send(&server).await.expect(200);
    assert_eq!(managers(&labelled), [both[0], both[1], "x autoscaling/v1"]);
    let metrics = json!({ "spec": { "metrics": [cpu(70)] } });
    let changed = patch(&format!("{two}?fieldManager=x"), "merge-patch+json", &metrics);
    let changed = changed.send(&server).await.expect(200);
    let expected = [both[0], both[1], "x autoscaling/v1", "x autoscaling/v2"];
    assert_eq!(managers(&changed), expected);
    let entries = changed["metadata"]["managedFields"].as_array().unwrap();
    let of_one = entries.iter().find(|entry| entry["manager"] == "one").unwrap();
    assert!(of_one["fieldsV1"]["f:spec"]["f:targetCPUUtilizationPercentage"].is_null());
    // Who applied through one may go on through the other, and leaves nothing behind.
    let config = scaler("v2", "h", json!({}));
    let moved = apply(&two, "one", &config).send(&server).await.expect(200);
    let expected = ["one autoscaling/v2", both[1], "x autoscaling/v1", "x autoscaling/v2"];
    assert_eq!(managers(&moved), expected);
    assert_eq!(moved["spec"]["metrics"], json!([cpu(70)]), "another manager's");
}

#[tokio::test]
async fn typed_clients_of_both_versions() {
    use k8s_openapi::api::autoscaling::{v1, v2};
    use k8s_openapi::api::{core, events};
    use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
    let server = server().await;
    let client = server.api.client_as("system:kube-controller-manager", &[]);
    let new: Api<events::v1::Event> = Api::namespaced(client.clone(), "default");
    let old: Api<core::v1::Event> = Api::namespaced(client.clone(), "default");
    let event: events::v1::Event = serde_json::from_value(newer("e", "p")).unwrap();
    let made = new.create(&PostParams::default(), &event).await.unwrap();
    assert_eq!(made.regarding, event.regarding);
    let read = old.get("e").await.unwrap();
    assert_eq!((read.message, Some(read.involved_object)), (event.note, event.regarding));
    let selected = ListParams::default().fields("regarding.name=p");
    assert_eq!(new.list(&selected).await.unwrap().items, [made]);

    let one: Api<v1::HorizontalPodAutoscaler> = Api::namespaced(client.clone(), "default");
    let two: Api<v2::HorizontalPodAutoscaler> = Api::namespaced(client, "default");
    let config = scaler("v1", "h", json!({ "targetCPUUtilizationPercentage": 60 }));
    let params = PatchParams::apply("typed");
    one.patch("h", &params, &Patch::Apply(&config)).await.unwrap();
    let mut scaler = two.get("h").await.unwrap();
    scaler.spec.metrics.as_mut().unwrap().push(serde_json::from_value(pods()).unwrap());
    two.replace("h", &PostParams::default(), &scaler).await.unwrap();
    let read = one.get("h").await.unwrap();
    assert_eq!(read.spec.target_cpu_utilization_percentage, Some(60));
    assert!(read.metadata.annotations.unwrap().contains_key(&format!("{PREFIX}metrics")));
    let listed = one.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(listed[0].metadata.resource_version, read.metadata.resource_version);
}

#[tokio::test]
async fn both_versions_are_announced() {
    let server = server().await;
    let group = get(&server, "/apis/autoscaling").await;
    assert_eq!(group["preferredVersion"]["groupVersion"], "autoscaling/v2");
    assert_eq!(group["versions"].as_array().unwrap().len(), 2);
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = call("GET", "/apis").header("accept", accept).send(&server).await.expect(200);
    let find = |list: &Value, field: &str, name: &str| -> Value {
        let mut items = list.as_array().unwrap().iter();
        items.find(|item| *item.pointer(field).unwrap() == name).unwrap().clone()
    };
    let group = find(&all["items"], "/metadata/name", "autoscaling");
    let versions = group["versions"].as_array().unwrap();
    assert_eq!((&versions[0]["version"], &versions[1]["version"]), (&json!("v2"), &json!("v1")));
    for version in versions {
        let resources = version["resources"].as_array().unwrap();
        assert_eq!(resources.len(), 1);
        assert_eq!(resources[0]["subresources"][0]["subresource"], "status");
        assert_eq!(resources[0]["responseKind"]["version"], version["version"]);
    }
    for (path, schema) in [
        ("apis/autoscaling/v1", "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler"),
        ("apis/events.k8s.io/v1", "io.k8s.api.events.v1.Event"),
    ] {
        let document = get(&server, &format!("/openapi/v3/{path}")).await;
        let schema = &document["components"]["schemas"][schema];
        assert!(schema["properties"]["metadata"].is_object(), "{path}");
    }
    // One store, and so one series.
    let metrics = get(&server, "/metrics").await;
    let lines = metrics.as_str().unwrap().lines();
    let stored = |resource: &str| {
        let series = format!("apiserver_storage_objects{{resource=\"{resource}\"");
        lines.clone().filter(|line| line.starts_with(&series)).count()
    };
    let found = ["events", "events.events.k8s.io", "horizontalpodautoscalers.autoscaling"];
    assert_eq!(found.map(stored), [1, 0, 1]);
}
