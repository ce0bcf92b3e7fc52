use serde_json::json;

use super::*;
use crate::resource::find;

const CREATION: Creation<'static> =
    Creation { uid: "u1", timestamp: "2026-01-01T00:00:00Z", name_suffix: "x7k2p" };

#[test]
fn accessors_survive_any_value() {
    for object in
        [json!(null), json!([1]), json!({"metadata": 3}), json!({"metadata": {"name": 1}})]
    {
        assert_eq!(name(&object), "");
        assert_eq!(generation(&object), 0);
        assert!(labels(&object).is_none());
        assert!(finalizers(&object).is_empty());
    }
}

#[test]
fn create_sets_what_the_server_decides() {
    let pods = find("", "v1", "pods").unwrap();
    let mut pod = json!({
        "metadata": {"generateName": "web-", "uid": "mine", "resourceVersion": "7",
                     "deletionTimestamp": "2020-01-01T00:00:00Z"},
        "spec": {}, "status": {"phase": "Running"},
    });
    prepare_for_create(pods, &mut pod, &CREATION);
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"generateName": "web-", "name": "web-x7k2p", "uid": "u1", "generation": 1,
                         "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {},
        })
    );
}

#[test]
fn generated_names_fit_a_label() {
    let maps = find("", "v1", "configmaps").unwrap();
    let mut object = json!({"metadata": {"generateName": "a".repeat(70)}});
    prepare_for_create(maps, &mut object, &CREATION);
    assert_eq!(name(&object).len(), 63);
}

#[test]
fn nodes_register_with_their_status() {
    let nodes = find("", "v1", "nodes").unwrap();
    let mut node = json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "4"}}});
    prepare_for_create(nodes, &mut node, &CREATION);
    assert_eq!(node["status"]["capacity"]["cpu"], "4");
}

#[test]
fn update_keeps_status_and_counts_generations() {
    let resource = find("apps", "v1", "deployments").unwrap();
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c",
        "image": "i:1"}]}});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    let mut old = json!({"metadata": {"name": "d", "namespace": "default"}, "spec": spec});
    prepare_for_create(resource, &mut old, &CREATION);
    (resource.apply_defaults)(&mut old);
    old["status"] = json!({"replicas": 3});

    let mut same = json!({"metadata": {"name": "d", "labels": {"x": "y"}}, "spec": spec,
        "status": {"replicas": 9}});
    prepare_for_update(resource, &mut same, &old);
    assert_eq!(generation(&same), 1);
    assert_eq!(same["status"], old["status"]);
    assert_eq!(uid(&same), "u1");
    assert_eq!(namespace(&same), "default");

    let mut scaled = same.clone();
    scaled["spec"]["replicas"] = json!(5);
    prepare_for_update(resource, &mut scaled, &old);
    assert_eq!(generation(&scaled), 2);

    let mut status =
        json!({"metadata": {"resourceVersion": "9"}, "spec": {}, "status": {"replicas": 5}});
    prepare_for_status_update(resource, &mut status, &old);
    assert_eq!(status["spec"], old["spec"]);
    assert_eq!(status["status"], json!({"replicas": 5}));
    assert_eq!(resource_version(&status), "9");
}
