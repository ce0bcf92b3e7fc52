mod kinds;

use serde_json::json;

use super::*;

#[test]
fn rows_are_found_by_path_and_by_kind() {
    for resource in RESOURCES {
        let found = find(resource.group, resource.version, resource.plural).unwrap();
        assert_eq!(found.kind, resource.kind);
        let found = find_kind(&resource.api_version(), resource.kind).unwrap();
        assert_eq!(found.plural, resource.plural);
        let list = if resource.stored { format!("{}List", resource.kind) } else { String::new() };
        assert_eq!(resource.list_kind, list);
    }
    assert!(find("", "v1", "deployments").is_none());
    assert!(find_kind("apps/v2", "Deployment").is_none());
    assert_eq!(find("apps", "v1", "deployments").unwrap().qualified(), "deployments.apps");
}

#[test]
fn every_row_prints_as_many_cells_as_columns() {
    for resource in RESOURCES {
        let cells = (resource.cells)(&json!({}), Timestamp::UNIX_EPOCH);
        assert_eq!(cells.len(), resource.columns.len(), "{}", resource.kind);
    }
}

#[test]
fn decode_names_the_field() {
    let pod =
        |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": spec});
    let table = [
        (json!({"containers": []}), None),
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": "80"}]}]}),
            Some("spec.containers[0].ports[0].containerPort"),
        ),
        (json!({"containers": {}}), Some("spec.containers")),
        (json!({"nodeName": 1}), Some("spec.nodeName")),
        (
            json!({"containers": [{"resources": {"limits": {"cpu": "two"}}}]}),
            Some("spec.containers[0].resources.limits.cpu"),
        ),
        (json!({"containers": [{"resources": {"limits": {"cpu": 2.5}}}]}), None),
    ];
    let decode = find("", "v1", "pods").unwrap().decode;
    for (spec, expected) in table {
        let got = decode(&pod(spec.clone())).map_err(|error| error.path);
        assert_eq!(got.err().as_deref(), expected, "{spec}");
    }
}

#[test]
fn jobs_are_selected_by_how_often_they_succeeded() {
    let fields = find("batch", "v1", "jobs").unwrap().fields;
    let expected = |count: &str| vec![("status.successful", count.to_owned())];
    assert_eq!(fields(&json!({"status": {"succeeded": 3}})), expected("3"));
    assert_eq!(fields(&json!({})), expected("0"));
}

#[test]
fn decode_takes_what_is_free_and_checks_quantities() {
    let revisions = find("apps", "v1", "controllerrevisions").unwrap();
    let free = json!({"metadata": {}, "revision": 1, "data": {"any": [1, {"thing": null}]}});
    assert_eq!((revisions.decode)(&free), Ok(()));
    let autoscalers = find("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
    let mut object = json!({"metadata": {}, "spec": {"maxReplicas": 1, "scaleTargetRef": {
        "kind": "K", "name": "n"}, "behavior": {"scaleUp": {"tolerance": "0.05"}}}});
    assert_eq!((autoscalers.decode)(&object), Ok(()));
    object["spec"]["behavior"]["scaleUp"]["tolerance"] = json!("much");
    let error = (autoscalers.decode)(&object).unwrap_err();
    assert_eq!(error.path, "spec.behavior.scaleUp.tolerance");
}

#[test]
fn every_selectable_field_has_a_label_without_an_object() {
    for resource in RESOURCES {
        let labels = |object: &Value| -> Vec<&str> {
            (resource.fields)(object).into_iter().map(|(label, _)| label).collect()
        };
        assert_eq!(labels(&Value::Null), labels(&json!({"spec": {"nodeName": "a"}})));
    }
}

#[test]
fn events_are_selected_by_the_names_of_their_version() {
    let event = json!({"involvedObject": {"kind": "Pod", "name": "p"}, "reason": "R",
        "reportingComponent": "c"});
    let read = |group: &str, label: &str| {
        let fields = (find(group, "v1", "events").unwrap().fields)(&event);
        fields.into_iter().find(|(known, _)| *known == label).map(|(_, value)| value)
    };
    let newer = "events.k8s.io";
    let table = [
        ("", "involvedObject.name", Some("p")),
        ("", "regarding.name", None),
        (newer, "involvedObject.name", None),
        (newer, "regarding.name", Some("p")),
        (newer, "regarding.kind", Some("Pod")),
        (newer, "regarding.fieldPath", Some("")),
        (newer, "reportingController", Some("c")),
        (newer, "reportingComponent", None),
        (newer, "reason", Some("R")),
        (newer, "type", Some("")),
        (newer, "source", Some("c")),
    ];
    for (group, label, expected) in table {
        assert_eq!(read(group, label).as_deref(), expected, "{group} {label}");
    }
}
