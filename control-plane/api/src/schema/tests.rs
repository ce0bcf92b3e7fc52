use serde_json::json;

use super::*;

const POD: &str = "io.k8s.api.core.v1.Pod";

#[test]
fn graph_knows_every_served_kind() {
    for resource in RESOURCES {
        let fields = graph().fields(resource.schema);
        assert!(fields.is_some_and(|f| f.contains_key("metadata")), "{}", resource.schema);
    }
}

#[test]
fn normalize_drops_what_the_type_does_not_have() {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "extra": 1,
        "metadata": {"name": "a", "labels": {"free": "key"}, "annotations": null},
        "spec": {
            "foo": {"bar": 1},
            "containers": [{"name": "a", "imag": "x", "ports": [{"containerPort": 1, "proto": "x"}],
                "resources": {"limits": {"cpu": 2.5, "memory": "4096Mi", "example.com/gpu": "1"}}}],
        },
    });
    let unknown = graph().normalize(POD, &mut pod);
    assert_eq!(
        unknown,
        ["extra", "spec.containers[0].imag", "spec.containers[0].ports[0].proto", "spec.foo"]
    );
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "labels": {"free": "key"}},
            "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 1}],
                "resources": {"limits": {"cpu": "2500m", "memory": "4Gi",
                    "example.com/gpu": "1"}}}]},
        })
    );
}

#[test]
fn free_form_values_are_left_alone() {
    let mut map =
        json!({"data": {"a": "1"}, "metadata": {"managedFields": [{"fieldsV1": {"f:x": {}}}]}});
    let expected = map.clone();
    assert!(graph().normalize("io.k8s.api.core.v1.ConfigMap", &mut map).is_empty());
    assert_eq!(map, expected);
}
