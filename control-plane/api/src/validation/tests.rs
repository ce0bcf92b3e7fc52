mod batch;
mod changes;
mod events;
mod kind;
mod networking;
mod policies;
mod quota;
mod reviews;
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

fn starts(got: &[String], expected: &[&str], what: &str) {
    let fits = got.len() == expected.len()
        && got.iter().zip(expected).all(|(got, expected)| got.starts_with(expected));
    assert!(fits, "{what}:\n{got:#?}\nexpected\n{expected:#?}");
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "default"}, "spec": spec})
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
            vec!["metadata.namespace: Invalid value: \"a.b\": a lowercase RFC 1123 label"],
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

#[test]
fn pods() {
    let container = json!({"name": "a", "image": "i"});
    let table = [
        (json!({"containers": [container]}), vec![]),
        (json!({}), vec!["spec.containers: Required value"]),
        (json!({"containers": [{"image": "i"}]}), vec!["spec.containers[0].name: Required value"]),
        (
            json!({"containers": [{"name": "A_b", "image": "i"}]}),
            vec!["spec.containers[0].name: Invalid value: \"A_b\": a lowercase RFC 1123 label"],
        ),
        (json!({"containers": [{"name": "a"}]}), vec!["spec.containers[0].image: Required value"]),
        (
            json!({"containers": [container, container]}),
            vec!["spec.containers[1].name: Duplicate value: \"a\""],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i",
                "ports": [{"containerPort": 70000}]}]}),
            vec![
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between \
                 1 and 65535, inclusive",
            ],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 1,
                "protocol": "ICMP"}]}]}),
            vec![
                "spec.containers[0].ports[0].protocol: Unsupported value: \"ICMP\": supported \
                 values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "imagePullPolicy": "Maybe"}]}),
            vec!["spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\""],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i",
                "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]}),
            vec![
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or \
                 equal to cpu limit of 1",
            ],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i",
                "resources": {"requests": {"memory": "-1"}}}]}),
            vec![
                "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be \
                 greater than or equal to 0",
            ],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "volumeMounts": [{"name": "v",
                "mountPath": "/v"}]}]}),
            vec!["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
        ),
        (
            json!({"containers": [container], "volumes": [{"name": "v"}, {"name": "v",
                "configMap": {}}]}),
            vec![
                "spec.volumes[1].name: Duplicate value",
                "spec.volumes[1].configMap.name: Required value",
            ],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "livenessProbe": {}}]}),
            vec!["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i",
                "livenessProbe": {"successThreshold": 2, "tcpSocket": {"port": "Web!"}}}]}),
            vec![
                "spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: \"Web!\": must \
                 contain only",
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            json!({"containers": [container], "restartPolicy": "Sometimes"}),
            vec![
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \
                 \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        (
            json!({"containers": [container], "tolerations": [{"operator": "Exists",
                "tolerationSeconds": 5}]}),
            vec!["spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute'"],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "env": [{"name": "A=B"}]}]}),
            vec![
                "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment \
                 variable name",
            ],
        ),
    ];
    for (spec, expected) in table {
        starts(&problems("", "pods", pod(spec.clone()), None), &expected, &spec.to_string());
    }
}

#[test]
fn pod_updates() {
    let mut old =
        pod(json!({"containers": [{"name": "a", "image": "i:1"}], "tolerations": [{"key": "x",
            "operator": "Exists"}]}));
    (find("", "v1", "pods").unwrap().apply_defaults)(&mut old);
    let table: [(&str, Value, &[&str]); 6] = [
        ("/spec/containers/0/image", json!("i:2"), &[]),
        (
            "/metadata/name",
            json!("q"),
            &["metadata.name: Invalid value: \"q\": field is immutable"],
        ),
        (
            "/spec/containers/0/name",
            json!("b"),
            &["spec: Forbidden: pod updates may not change fields other than"],
        ),
        (
            "/spec/restartPolicy",
            json!("Never"),
            &["spec: Forbidden: pod updates may not change fields other than"],
        ),
        (
            "/spec/tolerations",
            json!([{"key": "x", "operator": "Exists"}, {"key": "y", "operator": "Exists"}]),
            &[],
        ),
        ("/spec/tolerations", json!([]), &["spec: Forbidden"]),
    ];
    for (pointer, value, expected) in table {
        let mut new = old.clone();
        *new.pointer_mut(pointer).unwrap() = value;
        starts(&problems("", "pods", new, Some(&old)), expected, pointer);
    }
}

#[test]
fn scheduling_gates_are_opened_one_by_one_and_never_closed() {
    let with = |gates: Value, node: Option<&str>| {
        let mut pod = pod(json!({"containers": [{"name": "a", "image": "i:1"}],
            "schedulingGates": gates, "nodeName": node}));
        (find("", "v1", "pods").unwrap().apply_defaults)(&mut pod);
        pod
    };
    let (a, b) = (json!({"name": "a"}), json!({"name": "b"}));
    let no: &[&str] = &["spec: Forbidden: pod updates may not change fields other than"];
    let table = [
        (json!([a, b]), json!([b]), None, &[][..]),
        (json!([a]), json!([]), None, &[]),
        (json!([a]), Value::Null, None, &[]),
        (json!([a]), json!([a, b]), None, no),
        (json!([a]), json!([b]), None, no),
        (Value::Null, json!([a]), None, no),
        (json!([a]), json!([]), Some("node1"), no),
    ];
    for (before, after, node, expected) in table {
        let name = format!("{before} to {after} on {node:?}");
        let (old, new) = (with(before, node), with(after, node));
        starts(&problems("", "pods", new, Some(&old)), expected, &name);
    }
}

#[test]
fn services() {
    let table = [
        (json!({"ports": [{"port": 80}]}), vec![]),
        (json!({}), vec!["spec.ports: Required value"]),
        (json!({"clusterIP": "None"}), vec![]),
        (json!({"type": "ExternalName", "externalName": "a.example"}), vec![]),
        (json!({"type": "ExternalName"}), vec!["spec.externalName: Required value"]),
        (
            json!({"type": "Magic", "ports": [{"port": 80}]}),
            vec!["spec.type: Unsupported value: \"Magic\""],
        ),
        (
            json!({"ports": [{"port": 0}]}),
            vec![
                "spec.ports[0].port: Invalid value: 0: must be between",
                "spec.ports[0].targetPort: Invalid value: 0",
            ],
        ),
        (
            json!({"ports": [{"port": 80}, {"port": 81}]}),
            vec!["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
            vec!["spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}"],
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30000}]}),
            vec!["spec.ports[0].nodePort: Forbidden"],
        ),
        (
            json!({"ports": [{"port": 80}], "clusterIP": "10.9"}),
            vec!["spec.clusterIPs[0]: Invalid value: \"10.9\": must be a valid IP address"],
        ),
        (
            json!({"ports": [{"port": 80}], "trafficDistribution": "PreferFar"}),
            vec![
                "spec.trafficDistribution: Unsupported value: \"PreferFar\": supported values: \
                 \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            vec![
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must \
                 be greater than 0 and less than 86400",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "ipFamilyPolicy": "Both",
                "ipFamilies": ["IPv5", "IPv6", "IPv6"]}),
            vec![
                "spec.ipFamilyPolicy: Unsupported value: \"Both\"",
                "spec.ipFamilies[0]: Unsupported value: \"IPv5\"",
                "spec.ipFamilies[2]: Duplicate value: \"IPv6\"",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "ipFamilies": ["IPv4", "IPv6"]}),
            vec!["spec.ipFamilyPolicy: Required value: must be RequireDualStack"],
        ),
        (
            json!({"ports": [{"port": 80}], "ipFamilies": ["IPv6"], "clusterIP": "10.9.8.7"}),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"10.9.8.7\": expected an IPv6 value as \
                 indicated by `ipFamilies[0]`",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack",
                "clusterIPs": ["10.9.8.7", "10.9.8.8"]}),
            vec![
                "spec.clusterIPs: Invalid value: [\"10.9.8.7\",\"10.9.8.8\"]: may specify no more",
            ],
        ),
        (
            json!({"type": "ExternalName", "externalName": "a.example",
                "clusterIPs": ["10.9.8.7"], "ipFamilyPolicy": "SingleStack"}),
            vec!["spec.clusterIPs: Forbidden", "spec.ipFamilyPolicy: Forbidden"],
        ),
    ];
    for (spec, expected) in table {
        let service = json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec});
        starts(&problems("", "services", service, None), &expected, &spec.to_string());
    }
    let named =
        json!({"metadata": {"name": "1s", "namespace": "d"}, "spec": {"ports": [{"port": 80}]}});
    starts(
        &problems("", "services", named, None),
        &["metadata.name: Invalid value: \"1s\": a DNS-1035 label"],
        "name",
    );
    let mut old = json!({"metadata": {"name": "s", "namespace": "d"},
        "spec": {"clusterIP": "10.9.8.7", "ports": [{"port": 80}]}});
    (find("", "v1", "services").unwrap().apply_defaults)(&mut old);
    let mut new = old.clone();
    new["spec"]["clusterIP"] = json!("10.9.8.8");
    new["spec"]["clusterIPs"] = json!(["10.9.8.8"]);
    let expected = "spec.clusterIPs[0]: Invalid value: [\"10.9.8.8\"]: may not change once set";
    assert_eq!(problems("", "services", new, Some(&old)), [expected]);
    let dual = json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"],
        "clusterIP": "10.9.8.7", "clusterIPs": ["10.9.8.7", "fd00::7"]});
    for (field, value) in dual.as_object().unwrap() {
        old["spec"][field] = value.clone();
    }
    let table = [
        (
            json!({"ipFamilies": ["IPv6", "IPv4"]}),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"10.9.8.7\": expected an IPv6",
                "spec.clusterIPs[1]: Invalid value: \"fd00::7\": expected an IPv4",
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": may not change once set",
                "spec.ipFamilies[1]: Invalid value: \"IPv4\": may not change once set",
            ],
        ),
        (
            json!({"clusterIPs": ["10.9.8.7", "fd00::8"]}),
            vec!["spec.clusterIPs[1]: Invalid value: \"fd00::8\": may not change once set"],
        ),
        (
            json!({"ipFamilies": ["IPv4"], "clusterIPs": ["10.9.8.7"]}),
            vec!["spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to"],
        ),
        (
            json!({"ipFamilies": ["IPv4"], "clusterIPs": ["10.9.8.7"],
            "ipFamilyPolicy": "SingleStack"}),
            vec![],
        ),
    ];
    for (change, expected) in table {
        let mut new = old.clone();
        for (field, value) in change.as_object().unwrap() {
            new["spec"][field] = value.clone();
        }
        starts(&problems("", "services", new, Some(&old)), &expected, &change.to_string());
    }
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
            vec!["binaryData[a]: Invalid value: \"a\": duplicate"],
        ),
        (
            "configmaps",
            json!({"data": {"a": "x".repeat(1 << 21)}}),
            vec!["data: Too long: may not be more than 1048576 bytes"],
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
fn nodes() {
    let node = |spec: Value| json!({"metadata": {"name": "n"}, "spec": spec});
    let table = [
        (json!({"podCIDR": "10.240.1.0/24", "podCIDRs": ["10.240.1.0/24"]}), vec![]),
        (
            json!({"podCIDR": "x", "podCIDRs": ["x"]}),
            vec!["spec.podCIDRs[0]: Invalid value: \"x\""],
        ),
        (
            json!({"taints": [{"key": "a", "effect": "Never"}]}),
            vec!["spec.taints[0].effect: Unsupported value: \"Never\""],
        ),
        (
            json!({"taints": [{"key": "a", "effect": "NoExecute"}, {"key": "a",
                "effect": "NoExecute"}]}),
            vec!["spec.taints[1]: Duplicate value"],
        ),
    ];
    for (spec, expected) in table {
        starts(&problems("", "nodes", node(spec.clone()), None), &expected, &spec.to_string());
    }
    let old = node(json!({"podCIDR": "10.240.1.0/24", "podCIDRs": ["10.240.1.0/24"]}));
    let new = node(json!({"podCIDR": "10.240.2.0/24", "podCIDRs": ["10.240.2.0/24"]}));
    starts(&problems("", "nodes", new, Some(&old)), &["spec.podCIDRs: Forbidden"], "change");
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
