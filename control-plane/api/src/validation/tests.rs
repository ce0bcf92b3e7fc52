mod batch;
mod changes;
mod core_kinds;
mod events;
mod kind;
mod networking;
mod pods;
mod policies;
mod quota;
mod reviews;
mod rows;
mod services;
mod sets;
mod storage;
mod volumes;

use serde_json::{Value, json};

use crate::resource::find;

/// Defaults, validates, and returns `field: detail` lines.
fn problems(group: &str, plural: &str, mut new: Value, old: Option<&Value>) -> Vec<String> {
    let resource = find(group, "v1", plural).unwrap();
    (resource.apply_defaults)(&mut new);
    (resource.validate)(&new, old).iter().map(ToString::to_string).collect()
}

/// The tables of this file, to be counted.
const ALL: &[fn()] =
    &[metadata, deployments, replication_controllers, configuration, endpoints_leases_and_events];

fn starts(got: &[String], expected: &[&str], what: &str) {
    rows::note(expected);
    let fits = got.len() == expected.len()
        && got.iter().zip(expected).all(|(got, expected)| got.starts_with(expected));
    assert!(fits, "{what}:\n{got:#?}\nexpected\n{expected:#?}");
}

#[test]
fn metadata() {
    let table = [
        (json!({"name": "a.b-c", "namespace": "default"}), vec![]),
        (
            json!({"namespace": "default"}),
            vec!["metadata.name: Required value: name or generateName is required"],
        ),
        (
            json!({"name": "A", "namespace": "default"}),
            vec!["metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain"],
        ),
        (json!({"name": "a"}), vec!["metadata.namespace: Required value"]),
        (
            json!({"name": "a", "namespace": "a.b"}),
            vec!["metadata.namespace: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            json!({"name": "a", "namespace": "d", "labels": {"-x": "y"}}),
            vec!["metadata.labels: Invalid value: \"-x\": name part must consist"],
        ),
        (
            json!({"name": "a", "namespace": "d", "labels": {"x": "y z"}}),
            vec!["metadata.labels: Invalid value: \"y z\": a valid label must be"],
        ),
        (json!({"name": "a", "namespace": "d", "labels": {"ex.com/x": "App_1.0"}}), vec![]),
        (
            json!({"name": "a", "namespace": "d", "annotations": {"a b": ""}}),
            vec!["metadata.annotations: Invalid value"],
        ),
        (
            json!({"name": "a", "namespace": "d", "ownerReferences": [{"apiVersion": "v1",
                "kind": "Pod", "name": "x"}]}),
            vec!["metadata.ownerReferences[0].uid: Required value: must not be empty"],
        ),
    ];
    for (metadata, expected) in table {
        let got = problems("", "configmaps", json!({"metadata": metadata}), None);
        starts(&got, &expected, &metadata.to_string());
    }
    let old = json!({"metadata": {"name": "a", "namespace": "d", "uid": "1",
        "deletionTimestamp": "x", "finalizers": ["a/b"]}});
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!(["a/b", "c/d"]);
    let got = problems("", "configmaps", new, Some(&old));
    starts(&got, &["metadata.finalizers: Forbidden: no new finalizers can be added"], "deleted");
}

fn deployment(spec: Value) -> Value {
    let mut whole = json!({
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a",
            "image": "i"}]}},
    });
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    json!({"metadata": {"name": "d", "namespace": "default"}, "spec": whole})
}

#[test]
fn deployments() {
    let table = [
        (json!({}), vec![]),
        (
            json!({"replicas": -1}),
            vec!["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            json!({"selector": null}),
            vec!["spec.selector: Required value", "spec.template.metadata.labels: Invalid value"],
        ),
        (
            json!({"selector": {}}),
            vec!["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
        ),
        (
            json!({"selector": {"matchLabels": {"app": "db"}}}),
            vec![
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does \
                 not match template `labels`",
            ],
        ),
        (
            json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0,
                "maxUnavailable": "0%"}}}),
            vec![
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 \
                 when `maxSurge` is 0",
            ],
        ),
        (
            json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "many"}}}),
            vec![
                "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"many\": a valid percent \
                 string",
            ],
        ),
        (
            json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}}),
            vec![
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` \
                 is 'Recreate'",
            ],
        ),
        (
            json!({"progressDeadlineSeconds": 5, "minReadySeconds": 5}),
            vec![
                "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than \
                 minReadySeconds",
            ],
        ),
    ];
    for (spec, expected) in table {
        let got = problems("apps", "deployments", deployment(spec.clone()), None);
        starts(&got, &expected, &spec.to_string());
    }
    let mut never = deployment(json!({}));
    never["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    let expected = "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported \
     values: \"Always\"";
    assert_eq!(problems("apps", "deployments", never, None), [expected]);
    let old = deployment(json!({}));
    let new = deployment(
        json!({"selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}),
    );
    let got = problems("apps", "deployments", new, Some(&old));
    assert!(
        got[0].starts_with("spec.selector: Invalid value: ")
            && got[0].ends_with("field is immutable")
    );
}

#[test]
fn replication_controllers() {
    let template = json!({"metadata": {"labels": {"App": "Nifty"}},
        "spec": {"containers": [{"name": "a", "image": "i"}]}});
    let table = [
        (json!({"template": template}), vec![]),
        (json!({}), vec!["spec.selector: Required value", "spec.template: Required value"]),
        (
            json!({"selector": {"a": "b"}, "template": template}),
            vec!["spec.template.metadata.labels: Invalid value"],
        ),
    ];
    for (spec, expected) in table {
        let object = json!({"metadata": {"name": "r", "namespace": "d"}, "spec": spec});
        starts(&problems("", "replicationcontrollers", object, None), &expected, &spec.to_string());
    }
}

#[test]
fn configuration() {
    let object = |extra: Value| {
        let mut object = json!({"metadata": {"name": "c", "namespace": "d"}});
        object.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        object
    };
    let table = [
        ("configmaps", json!({"data": {"a.b_C-1": "x"}}), vec![]),
        (
            "configmaps",
            json!({"data": {"a/b": "x"}}),
            vec!["data[a/b]: Invalid value: \"a/b\": a valid config key"],
        ),
        (
            "configmaps",
            json!({"data": {"a": "x"}, "binaryData": {"a": ""}}),
            vec!["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
        ),
        (
            "configmaps",
            json!({"data": {"a": "x".repeat(1 << 21)}}),
            vec!["[]: Too long: may not be more than 1048576 bytes"],
        ),
        (
            "secrets",
            json!({"type": "kubernetes.io/tls", "stringData": {"tls.crt": "x"}}),
            vec!["data[tls.key]: Required value"],
        ),
    ];
    for (plural, extra, expected) in table {
        starts(&problems("", plural, object(extra), None), &expected, plural);
    }
    let old = object(json!({"immutable": true, "data": {"a": "1"}}));
    let new = object(json!({"immutable": true, "data": {"a": "2"}}));
    assert_eq!(
        problems("", "configmaps", new, Some(&old)),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
}

#[test]
fn endpoints_leases_and_events() {
    let object = |extra: Value| {
        let mut object = json!({"metadata": {"name": "c", "namespace": "d"}});
        object.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        object
    };
    let table = [
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}],
                "ports": [{"port": 80}]}),
            vec![],
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"endpoints": []}),
            vec!["addressType: Required value"],
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}]}),
            vec![
                "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the \
                 loopback range",
            ],
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"addressType": "IPv4", "ports": [{"port": 1}, {"port": 2}]}),
            vec!["ports[1].name: Duplicate value: \"\""],
        ),
        (
            "",
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "x"}]}]}),
            vec!["subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address"],
        ),
        (
            "coordination.k8s.io",
            "leases",
            json!({"spec": {"leaseDurationSeconds": 0}}),
            vec!["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
        ),
        ("", "events", json!({"involvedObject": {"namespace": "d"}}), vec![]),
        (
            "",
            "events",
            json!({"involvedObject": {"namespace": "e"}}),
            vec!["involvedObject.namespace: Invalid value: \"e\": does not match event.namespace"],
        ),
    ];
    for (group, plural, extra, expected) in table {
        starts(
            &problems(group, plural, object(extra.clone()), None),
            &expected,
            &extra.to_string(),
        );
    }
}

#[test]
fn no_shape_panics() {
    let shapes = [
        json!(null),
        json!(1),
        json!([]),
        json!({"metadata": [], "spec": 5}),
        json!({"spec": {"containers": [1, null, "x"]}}),
    ];
    for resource in crate::resource::RESOURCES {
        for shape in &shapes {
            let mut object = shape.clone();
            let refused = !(resource.validate)(&object, None).is_empty();
            // A review may be without anything.
            assert!(refused || !resource.stored, "{}", resource.kind);
            (resource.apply_defaults)(&mut object);
            let _ = (resource.validate)(&object, Some(shape));
        }
    }
}
