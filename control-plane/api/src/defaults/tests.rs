mod kinds;
mod workloads;

use serde_json::json;

use super::*;
use crate::resource::{RESOURCES, find};

fn defaulted(group: &str, plural: &str, mut object: Value) -> Value {
    let resource = find(group, "v1", plural).unwrap();
    (resource.apply_defaults)(&mut object);
    object
}

#[test]
fn defaulting_twice_changes_nothing() {
    let objects = [
        json!({"metadata": {"name": "x"}}),
        json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "a", "image": "b"}],
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"volumes": [{"name": "v"}]}},
            "ports": [{"port": 80}], "clusterIP": "10.9.0.7"}, "stringData": {"k": "v"}}),
    ];
    for resource in RESOURCES {
        for object in &objects {
            let mut once = object.clone();
            (resource.apply_defaults)(&mut once);
            let mut twice = once.clone();
            (resource.apply_defaults)(&mut twice);
            assert_eq!(once, twice, "{}", resource.kind);
        }
    }
}

#[test]
fn pull_policy_follows_the_tag() {
    let table = [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.27", "IfNotPresent"),
        ("registry:5000/nginx", "Always"),
        ("registry:5000/team/nginx:2", "IfNotPresent"),
        ("nginx@sha256:abc", "IfNotPresent"),
        ("nginx:1@sha256:abc", "IfNotPresent"),
    ];
    for (image, expected) in table {
        let spec = json!({"spec": {"containers": [{"name": "a", "image": image}]}});
        let pod = defaulted("", "pods", spec);
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], expected, "{image}");
    }
}

#[test]
fn pod() {
    let got = defaulted(
        "",
        "pods",
        json!({"spec": {
            "containers": [{
                "name": "a", "image": "i:1",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            }],
            "volumes": [{"name": "e"}, {"name": "c", "configMap": {"name": "c"}}],
        }}),
    );
    assert_eq!(
        got["spec"],
        json!({
            "containers": [{
                "name": "a", "image": "i:1", "imagePullPolicy": "IfNotPresent",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1Gi", "cpu": "1"}},
                "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "periodSeconds": 5, "timeoutSeconds": 1, "successThreshold": 1,
                        "failureThreshold": 3},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1",
                    "fieldPath": "status.podIP"}}}],
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
            "volumes": [{"name": "e", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c",
                "defaultMode": 420}}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
                "schedulerName": "default-scheduler",
            "securityContext": {}, "terminationGracePeriodSeconds": 30, "enableServiceLinks": true,
        })
    );
    assert_eq!(got["status"], json!({"phase": "Pending", "qosClass": "Burstable"}));
}

#[test]
fn quality_of_service() {
    let both = json!({"cpu": "1", "memory": "1Gi"});
    let table = [
        (json!({}), "BestEffort"),
        (json!({"limits": both}), "Guaranteed"),
        (json!({"limits": both, "requests": {"cpu": "1000m", "memory": "1024Mi"}}), "Guaranteed"),
        (json!({"requests": both}), "Burstable"),
        (json!({"limits": {"cpu": "1"}}), "Burstable"),
        (json!({"requests": {"cpu": "0"}}), "BestEffort"),
    ];
    for (resources, expected) in table {
        let pod = json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
        let got = defaulted("", "pods", pod);
        assert_eq!(got["status"]["qosClass"], expected, "{resources}");
    }
}

#[test]
fn service() {
    let got = defaulted("", "services", json!({"spec": {"ports": [{"port": 80}]}}));
    assert_eq!(
        got,
        json!({
            "spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
                "sessionAffinity": "None", "type": "ClusterIP", "internalTrafficPolicy": "Cluster"},
            "status": {"loadBalancer": {}},
        })
    );
    let headless = defaulted("", "services", json!({"spec": {"clusterIP": "None"}}));
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external = defaulted("", "services", json!({"spec": {"type": "ExternalName"}}));
    assert_eq!(external["spec"], json!({"type": "ExternalName", "sessionAffinity": "None"}));
    let sticky = defaulted("", "services", json!({"spec": {"sessionAffinity": "ClientIP"}}));
    assert_eq!(sticky["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
}

#[test]
fn service_update_keeps_its_address() {
    let old = defaulted(
        "",
        "services",
        json!({"spec": {"clusterIP": "10.9.0.9", "type": "NodePort",
        "ports": [{"port": 80, "nodePort": 30001}]}}),
    );
    let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}});
    carry_over_service(&mut new, &old);
    assert_eq!(new["spec"]["clusterIPs"], json!(["10.9.0.9"]));
    assert_eq!(new["spec"]["ports"], json!([{"port": 80, "nodePort": 30001}, {"port": 81}]));
    let mut moved = old.clone();
    moved["spec"]["clusterIP"] = json!("10.9.0.10");
    carry_over_service(&mut moved, &old);
    assert_eq!(moved["spec"]["clusterIPs"], json!(["10.9.0.10"]));
    let mut dual = old.clone();
    dual["spec"]["clusterIPs"] = json!(["10.9.0.9", "fd00::9"]);
    dual["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    dual["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
    let mut first_only = json!({"spec": {"clusterIP": "10.9.0.9", "clusterIPs": ["10.9.0.9"]}});
    carry_over_service(&mut first_only, &dual);
    assert_eq!(first_only["spec"]["clusterIPs"], json!(["10.9.0.9", "fd00::9"]));
    let mut single = dual.clone();
    single["spec"]["ipFamilyPolicy"] = json!("SingleStack");
    carry_over_service(&mut single, &dual);
    assert_eq!(single["spec"]["clusterIPs"], json!(["10.9.0.9"]));
    assert_eq!(single["spec"]["ipFamilies"], json!(["IPv4"]));
    let mut external = old.clone();
    external["spec"]["type"] = json!("ExternalName");
    carry_over_service(&mut external, &old);
    assert!(external["spec"].get("clusterIP").is_none());
}

#[test]
fn deployment() {
    let got = defaulted(
        "apps",
        "deployments",
        json!({"spec": {"template": {"spec": {"containers": []}}}}),
    );
    let spec = &got["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["revisionHistoryLimit"], 10);
    assert_eq!(spec["progressDeadlineSeconds"], 600);
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%",
            "maxUnavailable": "25%"}})
    );
    assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
    assert!(spec["template"]["spec"].get("enableServiceLinks").is_none());
    let recreate =
        defaulted("apps", "deployments", json!({"spec": {"strategy": {"type": "Recreate"}}}));
    assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
}

#[test]
fn replication_controller_selects_its_template() {
    let got = defaulted(
        "",
        "replicationcontrollers",
        json!({"spec": {"template": {"metadata": {"labels": {"App": "Nifty"}}}}}),
    );
    assert_eq!(got["spec"]["selector"], json!({"App": "Nifty"}));
    assert_eq!(got["metadata"]["labels"], json!({"App": "Nifty"}));
}

#[test]
fn secret_merges_plain_text() {
    let got = defaulted(
        "",
        "secrets",
        json!({"data": {"a": "eA=="}, "stringData": {"a": "y", "b": "z"}}),
    );
    assert_eq!(got, json!({"data": {"a": "eQ==", "b": "eg=="}, "type": "Opaque"}));
}

#[test]
fn namespace_is_labelled_with_its_name() {
    let got = defaulted("", "namespaces", json!({"metadata": {"name": "web"}}));
    assert_eq!(got["metadata"]["labels"]["kubernetes.io/metadata.name"], "web");
    assert_eq!(got["status"]["phase"], "Active");
}
