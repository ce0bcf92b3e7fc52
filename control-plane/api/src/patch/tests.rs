mod kinds;

use serde_json::json;

use super::*;
use crate::resource::find;

fn strategic(plural: &str, document: Value, patch: Value) -> Result<Value, PatchFailed> {
    let group = if plural == "deployments" { "apps" } else { "" };
    apply(PatchKind::Strategic, find(group, "v1", plural).unwrap(), &document, &patch)
}

/// {what, document, patch, result}, all of a pod's spec.
fn pod_specs() -> Vec<(&'static str, Value, Value, Value)> {
    vec![
        (
            "containers merge by name",
            json!({"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]}),
            json!({"containers": [{"name": "b", "image": "b:2"}, {"name": "c", "image": "c:1"}]}),
            json!({"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:2"},
                                  {"name": "c", "image": "c:1"}]}),
        ),
        (
            "an item is deleted by its key",
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        ),
        (
            "a list is replaced as a whole",
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
            json!({"containers": [{"name": "c"}]}),
        ),
        (
            "an object is replaced as a whole",
            json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}}),
            json!({"securityContext": {"$patch": "replace", "runAsUser": 5}}),
            json!({"securityContext": {"runAsUser": 5}}),
        ),
        (
            "an object is emptied",
            json!({"nodeSelector": {"a": "b"}}),
            json!({"nodeSelector": {"$patch": "delete"}}),
            json!({"nodeSelector": {}}),
        ),
        (
            "atomic lists are replaced",
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        ),
        (
            "null removes, and leaves no trace where nothing was",
            json!({"nodeName": "n"}),
            json!({"nodeName": null, "hostname": null, "dnsConfig": {"options": null}}),
            json!({"dnsConfig": {}}),
        ),
        (
            "nested lists merge too",
            json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}],
                                   "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}],
                                   "ports": [{"containerPort": 80, "name": "web"}]}]}),
            json!({"containers": [{"name": "a",
                "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
                "ports": [{"containerPort": 80, "protocol": "TCP", "name": "web"}]}]}),
        ),
        (
            "the order is set; what only the server has stays between its neighbours",
            json!({"containers": [{"name": "x"}, {"name": "a"}, {"name": "y"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
                   "containers": [{"name": "c"}]}),
            json!({"containers": [{"name": "x"}, {"name": "y"}, {"name": "b"}, {"name": "c"},
                {"name": "a"}]}),
        ),
        (
            "a new item comes where the order says, before what only the server has",
            json!({"containers": [{"name": "a"}, {"name": "x"}]}),
            json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "c"}],
                   "containers": [{"name": "c"}]}),
            json!({"containers": [{"name": "a"}, {"name": "c"}, {"name": "x"}]}),
        ),
        (
            "an order without items only orders",
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b"}, {"name": "a"}]}),
        ),
        (
            "a volume's source changes its kind",
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"],
                "hostPath": {"path": "/x"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        ),
        (
            "directives never end up in the object",
            json!({}),
            json!({"containers": [{"name": "a", "$patch": "merge"}],
                   "securityContext": {"$retainKeys": ["fsGroup"], "fsGroup": 1}}),
            json!({"containers": [{"name": "a"}], "securityContext": {"fsGroup": 1}}),
        ),
    ]
}

#[test]
fn strategic_merge_of_pod_specs() {
    for (what, document, patch, expected) in pod_specs() {
        let got = strategic("pods", json!({"spec": document}), json!({"spec": patch}));
        assert_eq!(got.unwrap(), json!({"spec": expected}), "{what}");
    }
}

#[test]
fn strategic_merge_of_sets_and_strategies() {
    let got = strategic(
        "pods",
        json!({"metadata": {"finalizers": ["a", "b"]}}),
        json!({"metadata": {"finalizers": ["c", "a"],
            "$deleteFromPrimitiveList/finalizers": ["b"]}}),
    );
    assert_eq!(got.unwrap(), json!({"metadata": {"finalizers": ["a", "c"]}}));
    let rolling =
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let recreate = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let got = strategic("deployments", rolling, recreate);
    assert_eq!(got.unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
    let ports = json!({"spec": {"ports": [{"port": 80, "targetPort": 1}, {"port": 81}]}});
    let got =
        strategic("services", ports, json!({"spec": {"ports": [{"port": 80, "targetPort": 2}]}}));
    assert_eq!(
        got.unwrap(),
        json!({"spec": {"ports": [{"port": 80, "targetPort": 2}, {"port": 81}]}})
    );
    let labels = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
    let got =
        strategic("configmaps", labels, json!({"metadata": {"labels": {"a": null, "c": "3"}}}));
    assert_eq!(got.unwrap(), json!({"metadata": {"labels": {"b": "2", "c": "3"}}}));
    let conditions =
        json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X"}]}});
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let got = strategic("nodes", conditions, patch).unwrap();
    assert_eq!(
        got["status"]["conditions"],
        json!([{"type": "Ready", "status": "False"}, {"type": "X"}])
    );
    // Dual stack: two addresses of one type, which is the merge key.
    let both = json!([{"type": "InternalIP", "address": "172.30.0.11"},
        {"type": "InternalIP", "address": "fd00::11"}]);
    let mut patch = both.clone();
    patch.as_array_mut().unwrap().push(json!({"$patch": "replace"}));
    for before in [json!([]), both.clone()] {
        let before = json!({"status": {"addresses": before}});
        let got = strategic("nodes", before, json!({"status": {"addresses": patch}})).unwrap();
        assert_eq!(got["status"]["addresses"], both);
    }
}

#[test]
fn malformed_strategic_patches_are_refused() {
    let table = [
        json!({"spec": {"$patch": "explode"}}),
        json!({"spec": {"containers": [{"image": "x"}]}}),
        json!({"spec": {"containers": ["x"]}}),
        json!({"spec": {"$retainKeys": ["a"], "nodeName": "n"}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}],
            "containers": [{"name": "b"}]}}),
        json!([1]),
    ];
    for patch in table {
        let document = json!({"spec": {"containers": [{"name": "a"}]}});
        let got = strategic("pods", document, patch.clone());
        assert!(matches!(got, Err(PatchFailed::Malformed(_))), "{patch}: {got:?}");
    }
}

#[test]
fn merge_patch() {
    let maps = find("", "v1", "configmaps").unwrap();
    let document = json!({"data": {"a": "1", "b": "2"}, "list": [1, 2]});
    let patch = json!({"data": {"a": null, "c": "3"}, "list": [3]});
    let got = apply(PatchKind::Merge, maps, &document, &patch).unwrap();
    assert_eq!(got, json!({"data": {"b": "2", "c": "3"}, "list": [3]}));
    assert!(apply(PatchKind::Merge, maps, &document, &json!("x")).is_err());
}

#[test]
fn json_patch() {
    let maps = find("", "v1", "configmaps").unwrap();
    let document = json!({"metadata": {"labels": {"a/b": "1"}}, "list": [1]});
    let good = json!([
        {"op": "test", "path": "/metadata/labels/a~1b", "value": "1"},
        {"op": "replace", "path": "/metadata/labels/a~1b", "value": "2"},
        {"op": "add", "path": "/list/-", "value": 2},
    ]);
    let got = apply(PatchKind::Json, maps, &document, &good).unwrap();
    assert_eq!(got, json!({"metadata": {"labels": {"a/b": "2"}}, "list": [1, 2]}));
    for (path, value, holds) in [
        ("/list/0", json!(7), false),
        ("/list/0", json!(null), false),
        // What is not there is null, where it could be.
        ("/metadata/finalizers", json!(null), true),
        ("/metadata/finalizers", json!([]), false),
        ("/metadata/none/deeper", json!(null), false),
        ("/list/1", json!(null), false),
    ] {
        let test = json!([{"op": "test", "path": path, "value": value}]);
        let got = apply(PatchKind::Json, maps, &document, &test);
        assert_eq!(got.is_ok(), holds, "{path} {value}: {got:?}");
        assert!(holds || matches!(got, Err(PatchFailed::Unprocessable(_))), "{got:?}");
    }
    let missing = json!([{"op": "remove", "path": "/none"}]);
    let got = apply(PatchKind::Json, maps, &document, &missing);
    assert!(matches!(got, Err(PatchFailed::Unprocessable(_))));
    let got = apply(PatchKind::Json, maps, &document, &json!([{"op": "hop"}]));
    assert!(matches!(got, Err(PatchFailed::Malformed(_))));
}

#[test]
fn json_patches_do_not_explode() {
    let maps = find("", "v1", "configmaps").unwrap();
    let text = "x".repeat(1000);
    let document = json!({"a": {"b": text}, "c": {}});
    let operations = |count: usize, make: &dyn Fn(usize) -> Value| (0..count).map(make).collect();
    let table: [(&str, bool, Value); 5] = [
        (
            "a few copies",
            true,
            operations(10, &|i| json!({"op": "copy", "from": "/a", "path": format!("/c/{i}")})),
        ),
        (
            "the whole into itself",
            false,
            operations(40, &|i| json!({"op": "copy", "from": "", "path": format!("/c/{i}")})),
        ),
        (
            "something small into itself",
            false,
            operations(200, &|_| json!({"op": "copy", "from": "/c", "path": "/c/x"})),
        ),
        (
            "step by step",
            false,
            operations(
                200,
                &|i| json!({"op": "add", "path": format!("/c{}", "/x".repeat(i + 1)), "value": {}}),
            ),
        ),
        (
            "much to and fro",
            false,
            operations(5000, &|i| {
                let (from, path) = if i % 2 == 0 { ("/a", "/d") } else { ("/d", "/a") };
                json!({"op": "move", "from": from, "path": path})
            }),
        ),
    ];
    for (what, fits, patch) in table {
        let got = apply(PatchKind::Json, maps, &document, &patch);
        match got {
            Ok(_) => assert!(fits, "{what}"),
            Err(error) => {
                assert!(!fits && matches!(error, PatchFailed::Unprocessable(_)), "{what}: {error}");
            }
        }
    }
}

#[test]
fn the_new_kinds_merge_as_their_lists_do() {
    let merged = |api_version: &str, kind: &str, document: Value, patch: Value| {
        let resource = crate::resource::find_kind(api_version, kind).unwrap();
        apply(PatchKind::Strategic, resource, &document, &patch).unwrap()
    };
    let got = merged(
        "policy/v1",
        "PodDisruptionBudget",
        json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "minAvailable": 1}}),
        json!({"spec": {"selector": {"matchLabels": {"c": "d"}}}}),
    );
    let expected = json!({"spec": {"selector": {"matchLabels": {"c": "d"}}, "minAvailable": 1}});
    assert_eq!(got, expected, "a budget's selector is replaced");
    let (old, new) = (json!({"type": "Complete"}), json!({"type": "Failed"}));
    let conditions = |list: Value| json!({"status": {"conditions": list}});
    let got = merged("batch/v1", "Job", conditions(json!([old])), conditions(json!([new])));
    assert_eq!(got, conditions(json!([old, new])), "conditions merge by type");
    let claims = |name: &str| {
        json!({"spec": {"volumeClaimTemplates": [{"metadata": {
        "name": name}}]}})
    };
    let got = merged("apps/v1", "StatefulSet", claims("a"), claims("b"));
    assert_eq!(got, claims("b"), "claims are replaced");
    let pods = |uid: &str| json!({"status": {"uncountedTerminatedPods": {"failed": [uid]}}});
    assert_eq!(merged("batch/v1", "Job", pods("a"), pods("b")), pods("b"), "so are uids");
}

#[test]
fn content_types() {
    let kind = PatchKind::from_content_type;
    assert_eq!(kind("application/merge-patch+json; charset=utf-8"), Some(PatchKind::Merge));
    assert_eq!(kind("application/json"), None);
    assert_eq!(kind("application/apply-patch+yaml"), None);
}
