//! What quotas cover and what objects are charged.

use super::*;
use crate::resource::find;
use jiff::Timestamp;
use serde_json::json;

fn kind(group: &str, plural: &str) -> &'static Resource {
    find(group, "v1", plural).unwrap()
}

fn quota(spec: Value) -> Quota {
    Quota::of(&json!({ "metadata": { "name": "q" }, "spec": spec }))
}

fn container(name: &str, resources: Value) -> Value {
    json!({ "name": name, "resources": resources })
}

fn pod(spec: Value) -> Value {
    json!({ "spec": spec, "status": { "qosClass": "Burstable" } })
}

#[test]
fn limits_are_on_the_kinds_that_they_name() {
    let table = [
        ("", "pods", "pods requests.cpu cpu limits.memory requests.ephemeral-storage", true),
        ("", "pods", "count/pods hugepages-2Mi requests.hugepages-2Mi", true),
        ("", "pods", "requests.example.com/gpu", true),
        ("", "pods", "example.com/gpu services requests.storage count/pods.apps storage", false),
        ("", "services", "services services.nodeports services.loadbalancers", true),
        ("", "services", "count/services.apps pods", false),
        ("", "persistentvolumeclaims", "requests.storage count/persistentvolumeclaims", true),
        ("", "persistentvolumeclaims", "gold.storageclass.storage.k8s.io/requests.storage", true),
        ("", "persistentvolumeclaims", "gold.storageclass.storage.k8s.io/pods", false),
        ("", "secrets", "secrets count/secrets", true),
        ("", "endpoints", "endpoints", false),
        ("", "endpoints", "count/endpoints", true),
        ("apps", "deployments", "count/deployments.apps", true),
        ("apps", "deployments", "count/deployments deployments deployments.apps", false),
    ];
    for (group, plural, names, expected) in table {
        for name in names.split(' ') {
            let quota = quota(json!({ "hard": { name: "1" } }));
            let on = quota.limits_on(kind(group, plural)).next().is_some();
            assert_eq!(on, expected, "{name} on {plural}.{group}");
            let named = quota.kinds().any(|one| one.is(group, plural));
            assert_eq!(named, expected, "kinds of {name}");
        }
    }
    assert!(quota(json!({ "hard": { "count/events": "1" } })).kinds().next().is_none());
}

#[test]
fn charges_of_pods() {
    let some = json!({ "requests": { "cpu": "100m", "memory": "1Gi", "example.com/gpu": "2",
        "hugepages-2Mi": "4Mi" }, "limits": { "cpu": "1", "ephemeral-storage": "1Gi" } });
    let more = json!({ "requests": { "cpu": "2" } });
    let whole = json!({ "requests": { "cpu": "3" } });
    let table = [
        (json!({}), json!({ "pods": "1" })),
        (
            json!({ "containers": [container("c", some.clone())] }),
            json!({ "pods": "1", "cpu": "100m", "requests.cpu": "100m", "limits.cpu": "1",
                "memory": "1Gi", "requests.memory": "1Gi", "requests.example.com/gpu": "2",
                "hugepages-2Mi": "4Mi", "requests.hugepages-2Mi": "4Mi",
                "limits.ephemeral-storage": "1Gi" }),
        ),
        (
            json!({ "containers": [container("c", some), container("d", more.clone())],
                "overhead": { "cpu": "50m", "memory": "1Gi" } }),
            json!({ "pods": "1", "cpu": "2150m", "requests.cpu": "2150m", "limits.cpu": "1050m",
                "memory": "2Gi", "requests.memory": "2Gi", "requests.example.com/gpu": "2",
                "hugepages-2Mi": "4Mi", "requests.hugepages-2Mi": "4Mi",
                "limits.ephemeral-storage": "1Gi" }),
        ),
        (
            json!({ "containers": [container("c", json!({}))],
                "initContainers": [container("i", more.clone())] }),
            json!({ "pods": "1", "cpu": "2", "requests.cpu": "2" }),
        ),
        (
            json!({ "containers": [container("c", more)], "resources": whole }),
            json!({ "pods": "1", "cpu": "3", "requests.cpu": "3" }),
        ),
    ];
    let pods = kind("", "pods");
    for (spec, mut expected) in table {
        expected["count/pods"] = json!("1");
        let mut pod = pod(spec);
        assert_eq!(amounts::shown(&charge(pods, &pod)), expected, "{pod}");
        for phase in ["Succeeded", "Failed"] {
            pod["status"]["phase"] = json!(phase);
            assert_eq!(amounts::shown(&charge(pods, &pod)), json!({ "count/pods": "1" }));
        }
    }
}

#[test]
fn a_pod_that_should_be_gone_is_charged_no_more() {
    let mut pod = pod(json!({}));
    pod["metadata"] = json!({ "deletionTimestamp": "2026-01-01T00:01:00Z",
        "deletionGracePeriodSeconds": 30 });
    for (now, charged) in [("2026-01-01T00:01:30Z", true), ("2026-01-01T00:01:31Z", false)] {
        let now: Timestamp = now.parse().unwrap();
        let charge = charge_at(kind("", "pods"), &pod, now);
        assert_eq!(charge.contains_key("pods"), charged, "{now}");
        assert!(charge.contains_key("count/pods"));
    }
}

#[test]
fn charges_of_services_and_claims() {
    let service = |spec: Value| json!({ "spec": spec });
    let ports = json!([{ "port": 1 }, { "port": 2, "nodePort": 30_000 }]);
    let table = [
        (json!({ "type": "ClusterIP", "ports": ports }), 0, 0),
        (json!({ "type": "NodePort", "ports": ports }), 2, 0),
        (json!({ "type": "LoadBalancer", "ports": ports }), 2, 1),
        (
            json!({ "type": "LoadBalancer", "ports": ports,
                "allocateLoadBalancerNodePorts": false }),
            1,
            1,
        ),
    ];
    for (spec, node_ports, balancers) in table {
        let expected = json!({ "count/services": "1", "services": "1",
            "services.nodeports": node_ports.to_string(),
            "services.loadbalancers": balancers.to_string() });
        let got = charge(kind("", "services"), &service(spec.clone()));
        assert_eq!(amounts::shown(&got), expected, "{spec}");
    }
    let asked = json!({ "requests": { "storage": "1500m" } });
    let plain = json!({ "count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1",
        "requests.storage": "2" });
    let mut gold = plain.clone();
    gold["gold.storageclass.storage.k8s.io/persistentvolumeclaims"] = json!("1");
    gold["gold.storageclass.storage.k8s.io/requests.storage"] = json!("2");
    let mut grown = plain.clone();
    grown["requests.storage"] = json!("5");
    let annotation = "volume.beta.kubernetes.io/storage-class";
    let table = [
        (json!({ "spec": { "resources": asked } }), &plain),
        (json!({ "spec": { "resources": asked, "storageClassName": "gold" } }), &gold),
        (
            json!({ "spec": { "resources": asked },
                "metadata": { "annotations": { annotation: "gold" } } }),
            &gold,
        ),
        (
            json!({ "spec": { "resources": asked },
                "status": { "allocatedResources": { "storage": "5" } } }),
            &grown,
        ),
    ];
    for (claim, expected) in table {
        let got = charge(kind("", "persistentvolumeclaims"), &claim);
        assert_eq!(amounts::shown(&got), *expected, "{claim}");
    }
    let got = charge(kind("apps", "deployments"), &json!({}));
    assert_eq!(amounts::shown(&got), json!({ "count/deployments.apps": "1" }));
}

#[test]
fn scopes_select_pods() {
    let elsewhere = |kind: &str, term: Value| {
        let mut affinity = json!({});
        affinity[kind]["requiredDuringSchedulingIgnoredDuringExecution"] = json!([term]);
        pod(json!({ "affinity": affinity }))
    };
    let preferred = json!({ "affinity": { "podAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            { "weight": 1, "podAffinityTerm": { "namespaceSelector": {} } }] } } });
    let mut best = pod(json!({}));
    best["status"]["qosClass"] = json!("BestEffort");
    let of_class = |name: &str| pod(json!({ "priorityClassName": name }));
    let select = |operator: &str, values: Value| {
        let one = json!({ "scopeName": "PriorityClass", "operator": operator, "values": values });
        json!({ "scopeSelector": { "matchExpressions": [one] } })
    };
    let scope = |name: &str| json!({ "scopes": [name] });
    let deadline = pod(json!({ "activeDeadlineSeconds": 0 }));
    let plain = pod(json!({}));
    let table = [
        (json!({}), &plain, true),
        (scope("Terminating"), &deadline, true),
        (scope("Terminating"), &plain, false),
        (scope("NotTerminating"), &deadline, false),
        (scope("NotTerminating"), &plain, true),
        (scope("BestEffort"), &best, true),
        (scope("BestEffort"), &plain, false),
        (scope("NotBestEffort"), &best, false),
        (scope("NotBestEffort"), &plain, true),
        (scope("PriorityClass"), &of_class("high"), true),
        (scope("PriorityClass"), &plain, false),
        (select("In", json!(["high", "low"])), &of_class("low"), true),
        (select("In", json!(["high"])), &of_class("low"), false),
        (select("In", json!(["high"])), &plain, false),
        (select("NotIn", json!(["high"])), &of_class("low"), true),
        (select("NotIn", json!(["high"])), &of_class("high"), false),
        (select("NotIn", json!(["high"])), &plain, true),
        (select("DoesNotExist", json!([])), &plain, true),
        (select("DoesNotExist", json!([])), &of_class("high"), false),
        (scope("CrossNamespacePodAffinity"), &plain, false),
        (scope("CrossNamespacePodAffinity"), &elsewhere("podAffinity", json!({})), false),
        (
            scope("CrossNamespacePodAffinity"),
            &elsewhere("podAntiAffinity", json!({ "namespaces": ["other"] })),
            true,
        ),
        (scope("CrossNamespacePodAffinity"), &pod(preferred), true),
        (json!({ "scopes": ["Terminating", "BestEffort"] }), &best, false),
        (scope("VolumeAttributesClass"), &plain, false),
    ];
    for (mut spec, pod, expected) in table {
        spec["hard"] = json!({ "pods": "1", "services": "1" });
        let quota = quota(spec.clone());
        assert_eq!(quota.covers(kind("", "pods"), pod), expected, "{spec} of {pod}");
        let scoped = spec.get("scopes").or(spec.get("scopeSelector")).is_some();
        assert_eq!(quota.covers(kind("", "services"), &json!({})), !scoped, "{spec}");
    }
}

#[test]
fn what_containers_must_say() {
    let cpu = json!({ "requests": { "cpu": "1" } });
    let both = json!({ "requests": { "cpu": "1" }, "limits": { "memory": "1Gi" } });
    let hard = json!({ "hard": { "requests.cpu": "9", "limits.memory": "9Gi", "pods": "9" } });
    let table = [
        (json!({ "containers": [container("c", both.clone())] }), ""),
        (
            json!({ "containers": [container("c", cpu.clone())] }),
            "must specify limits.memory for: c",
        ),
        (
            json!({ "containers": [container("d", json!({})), container("c", cpu)],
                "initContainers": [container("a", json!({}))] }),
            "must specify limits.memory for: a,c,d; requests.cpu for: a,d",
        ),
        (json!({ "containers": [container("c", json!({}))], "resources": both }), ""),
    ];
    let quota = quota(hard);
    for (spec, expected) in table {
        let missing = quota.missing(kind("", "pods"), &pod(spec.clone()));
        assert_eq!(missing.unwrap_or_default(), expected, "{spec}");
    }
    assert_eq!(quota.missing(kind("", "services"), &json!({})), None);
}
