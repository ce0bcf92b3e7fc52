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
        assert_eq!(resource.list_kind, format!("{}List", resource.kind));
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
fn every_selectable_field_has_a_label_without_an_object() {
    for resource in RESOURCES {
        let labels = |object: &Value| -> Vec<&str> {
            (resource.fields)(object).into_iter().map(|(label, _)| label).collect()
        };
        assert_eq!(labels(&Value::Null), labels(&json!({"spec": {"nodeName": "a"}})));
    }
}
