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
fn pod_of_every_volume() {
    let got = defaulted(
        "",
        "pods",
        json!({"spec": {"volumes": [
            {"name": "image", "image": {"reference": "i"}},
            {"name": "tagged", "image": {"reference": "i:1"}},
            {"name": "claim", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
            {"name": "down", "downwardAPI": {"items": [{"path": "a",
                "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}}]}},
            {"name": "iscsi", "iscsi": {"iqn": "i"}},
            {"name": "disk", "azureDisk": {"diskName": "d"}},
            {"name": "host", "hostPath": {"path": "/"}},
        ]}}),
    );
    let volumes = &got["spec"]["volumes"];
    assert_eq!(volumes[0]["image"]["pullPolicy"], "Always");
    assert_eq!(volumes[1]["image"]["pullPolicy"], "IfNotPresent");
    assert_eq!(volumes[2]["ephemeral"]["volumeClaimTemplate"]["spec"]["volumeMode"], "Filesystem");
    assert_eq!(volumes[3]["downwardAPI"]["items"][0]["resourceFieldRef"]["divisor"], "0");
    assert_eq!(volumes[3]["downwardAPI"]["defaultMode"], 420);
    assert_eq!(volumes[4]["iscsi"]["iscsiInterface"], "default");
    assert_eq!(volumes[5]["azureDisk"]["kind"], "Shared");
    assert_eq!(volumes[6]["hostPath"]["type"], "");
}

#[test]
fn pod_in_the_network_of_its_host() {
    let got = defaulted(
        "",
        "pods",
        json!({"spec": {"hostNetwork": true, "serviceAccountName": "", "serviceAccount": "a",
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80},
                {"containerPort": 81, "hostPort": 0}, {"containerPort": 82, "hostPort": 83}]}]}}),
    );
    let ports = &got["spec"]["containers"][0]["ports"];
    assert_eq!([&ports[0]["hostPort"], &ports[1]["hostPort"], &ports[2]["hostPort"]], [80, 81, 83]);
    assert_eq!(got["spec"]["serviceAccountName"], "a");
}

#[test]
fn pod_behind_gates_says_so() {
    let conditions = |spec: Value| {
        let mut pod = json!({"spec": spec});
        (find("", "v1", "pods").unwrap().initialize)(&mut pod);
        pod["status"]["conditions"].clone()
    };
    let gated = conditions(json!({"schedulingGates": [{"name": "a"}]}));
    assert_eq!(
        gated,
        json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates"}])
    );
    assert_eq!(conditions(json!({"schedulingGates": []})), json!(null));
    assert_eq!(conditions(json!({})), json!(null));
}

#[test]
fn pod_that_asks_as_a_whole() {
    let of_containers = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}});
    let table = [
        (json!({}), json!({}), "Burstable"),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
            json!({"limits": {"cpu": "1", "memory": "1Gi"},
                "requests": {"cpu": "200m", "memory": "1Gi"}}),
            "Burstable",
        ),
        (
            json!({"requests": {"cpu": "1"}}),
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "400m"}}),
            "Burstable",
        ),
        (
            json!({"requests": {"cpu": "1", "memory": "1Gi"},
                "limits": {"cpu": "1", "memory": "1Gi"}}),
            json!({"requests": {"cpu": "1", "memory": "1Gi"},
                "limits": {"cpu": "1", "memory": "1Gi"}}),
            "Guaranteed",
        ),
    ];
    for (own, expected, class) in table {
        let container = |name: &str| json!({"name": name, "resources": of_containers});
        let pod = json!({"spec": {"resources": own,
            "containers": [container("a"), container("b")]}});
        let got = defaulted("", "pods", pod);
        assert_eq!(got["spec"]["resources"], expected, "{own}");
        assert_eq!(got["status"]["qosClass"], class, "{own}");
    }
}

/// What runs before the others counts with the sidecars that run by then.
#[test]
fn pod_asks_for_what_most_of_it_needs() {
    let asks = |name: &str, cpu: &str, restart: Option<&str>| {
        json!({"name": name,
        "restartPolicy": restart, "resources": {"requests": {"cpu": cpu}}})
    };
    let table = [
        (json!([asks("i", "5", None)]), "5"),
        (json!([asks("i", "1", None)]), "2"),
        (json!([asks("s", "1", Some("Always"))]), "3"),
        (json!([asks("s", "1", Some("Always")), asks("i", "5", None)]), "6"),
        (json!([asks("i", "5", None), asks("s", "1", Some("Always"))]), "5"),
    ];
    for (before, expected) in table {
        let pod = json!({"spec": {"resources": {"limits": {"cpu": "9"}},
            "containers": [asks("c", "2", None)], "initContainers": before}});
        let got = defaulted("", "pods", pod);
        assert_eq!(got["spec"]["resources"]["requests"]["cpu"], expected, "{before}");
    }
}

#[test]
fn templates_have_a_spec() {
    let got = defaulted("apps", "deployments", json!({"spec": {"template": {"metadata": {}}}}));
    assert_eq!(got["spec"]["template"]["spec"]["restartPolicy"], "Always");
}

#[test]
fn node_keeps_nothing_back() {
    let got = defaulted("", "nodes", json!({"status": {"capacity": {"cpu": "4"}}}));
    assert_eq!(got["status"]["allocatable"], json!({"cpu": "4"}));
    let own = json!({"status": {"capacity": {"cpu": "4"}, "allocatable": {"cpu": "3"}}});
    assert_eq!(defaulted("", "nodes", own)["status"]["allocatable"], json!({"cpu": "3"}));
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
fn service_for_clients_outside() {
    let table = [
        (json!({"type": "ClusterIP"}), json!(null), json!(null)),
        (json!({"externalIPs": ["192.0.2.1"]}), json!("Cluster"), json!(null)),
        (json!({"type": "NodePort"}), json!("Cluster"), json!(null)),
        (json!({"type": "LoadBalancer"}), json!("Cluster"), json!(true)),
        (json!({"type": "ExternalName", "externalIPs": ["192.0.2.1"]}), json!(null), json!(null)),
    ];
    for (spec, policy, node_ports) in table {
        let got = defaulted("", "services", json!({"spec": spec}));
        assert_eq!(got["spec"]["externalTrafficPolicy"], policy, "{spec}");
        assert_eq!(got["spec"]["allocateLoadBalancerNodePorts"], node_ports, "{spec}");
    }
    let balanced = json!({"spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "a"}]}}});
    let got = defaulted("", "services", balanced);
    let expected = json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "a"}]);
    assert_eq!(got["status"]["loadBalancer"]["ingress"], expected);
}

#[test]
fn service_update_keeps_its_health_check() {
    let balanced = || json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}});
    let mut old = balanced();
    old["spec"]["healthCheckNodePort"] = json!(30_001);
    let mut new = balanced();
    carry_over_service(&mut new, &old);
    assert_eq!(new["spec"]["healthCheckNodePort"], 30_001);
    let mut cluster = old.clone();
    cluster["spec"]["externalTrafficPolicy"] = json!("Cluster");
    carry_over_service(&mut cluster, &old);
    assert_eq!(cluster["spec"].get("healthCheckNodePort"), None);
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
