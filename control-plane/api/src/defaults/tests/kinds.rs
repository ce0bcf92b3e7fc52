//! Volumes, storage classes, quotas and networking.

use serde_json::{Value, json};

use super::defaulted;
use crate::defaults::{
    carry_over_persistent_volume_claim, initialize_limit_range, initialize_persistent_volume_claim,
};
use crate::resource::find;

/// Checks each object against what it becomes.
fn become_of(group: &str, plural: &str, table: Vec<(Value, Value)>) {
    for (object, expected) in table {
        assert_eq!(defaulted(group, plural, object.clone()), expected, "{plural}: {object}");
    }
}

#[test]
fn persistent_volumes() {
    let status = json!({"phase": "Pending"});
    let table = vec![
        (
            json!({"spec": {"hostPath": {"path": "/a"}}}),
            json!({"status": status, "spec": {"hostPath": {"path": "/a", "type": ""},
                "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"}}),
        ),
        (
            json!({"spec": {"persistentVolumeReclaimPolicy": "Delete", "volumeMode": "Block"},
                "status": {"phase": "Bound"}}),
            json!({"spec": {"persistentVolumeReclaimPolicy": "Delete", "volumeMode": "Block"},
                "status": {"phase": "Bound"}}),
        ),
    ];
    become_of("", "persistentvolumes", table);
    let sources = [
        ("iscsi", json!({}), json!({"iscsiInterface": "default"})),
        ("iscsi", json!({"iscsiInterface": "eth1"}), json!({"iscsiInterface": "eth1"})),
        (
            "rbd",
            json!({"user": "me"}),
            json!({"pool": "rbd", "user": "me", "keyring": "/etc/ceph/keyring"}),
        ),
        (
            "azureDisk",
            json!({"kind": "Managed"}),
            json!({"cachingMode": "ReadWrite", "kind": "Managed", "fsType": "ext4",
                "readOnly": false}),
        ),
        ("scaleIO", json!({}), json!({"storageMode": "ThinProvisioned", "fsType": "xfs"})),
        ("nfs", json!({"path": "/"}), json!({"path": "/"})),
    ];
    for (field, source, expected) in sources {
        let volume = defaulted("", "persistentvolumes", json!({"spec": {field: source}}));
        assert_eq!(volume["spec"][field], expected, "{field}");
        // It is the same storage in a volume attachment.
        let attachment = defaulted(
            "storage.k8s.io",
            "volumeattachments",
            json!({"spec": {"source": {"inlineVolumeSpec": {field: source}}}}),
        );
        let inline = &attachment["spec"]["source"]["inlineVolumeSpec"];
        assert_eq!(*inline, json!({field: expected}), "{field}");
        assert_eq!(attachment["status"], json!({"attached": false}));
    }
}

#[test]
fn persistent_volume_claims() {
    let table = vec![
        (json!({}), json!({"spec": {"volumeMode": "Filesystem"}, "status": {"phase": "Pending"}})),
        (
            json!({"spec": {"volumeMode": "Block"}, "status": {"phase": "Lost"}}),
            json!({"spec": {"volumeMode": "Block"}, "status": {"phase": "Lost"}}),
        ),
    ];
    become_of("", "persistentvolumeclaims", table);
}

#[test]
fn claims_name_their_data_source_twice() {
    let snapshot = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot",
        "name": "s"});
    let odd = json!({"apiGroup": "example.com", "kind": "Backup", "name": "b"});
    let far = json!({"kind": "PersistentVolumeClaim", "name": "p", "namespace": "e"});
    let table = [
        (json!({}), json!({})),
        (
            json!({"dataSource": snapshot}),
            json!({"dataSource": snapshot, "dataSourceRef": snapshot}),
        ),
        (json!({"dataSourceRef": odd}), json!({"dataSource": odd, "dataSourceRef": odd})),
        // The old field never took anything else.
        (json!({"dataSource": odd}), json!({})),
        (
            json!({"dataSource": odd, "dataSourceRef": odd}),
            json!({"dataSource": odd, "dataSourceRef": odd}),
        ),
        (json!({"dataSourceRef": far}), json!({})),
        (json!({"dataSource": null, "dataSourceRef": null}), json!({})),
    ];
    for (spec, expected) in table {
        let mut claim = json!({"spec": spec});
        initialize_persistent_volume_claim(&mut claim);
        assert_eq!(claim["spec"], expected, "{spec}");
    }
    let both = json!({"dataSource": odd, "dataSourceRef": odd});
    let table = [
        (json!({"dataSource": odd}), both.clone(), both.clone()),
        (json!({"dataSource": odd}), json!({}), json!({})),
        (json!({"dataSourceRef": odd}), json!({}), both),
        (
            json!({"dataSourceRef": far}),
            json!({"dataSourceRef": far}),
            json!({"dataSourceRef": far}),
        ),
        (json!({"dataSourceRef": far}), json!({}), json!({})),
    ];
    for (spec, old, expected) in table {
        let mut claim = json!({"spec": spec});
        carry_over_persistent_volume_claim(&mut claim, &json!({"spec": old}));
        assert_eq!(claim["spec"], expected, "{spec} after {old}");
    }
}

#[test]
fn storage_classes() {
    let table = vec![
        (
            json!({"provisioner": "p"}),
            json!({"provisioner": "p", "reclaimPolicy": "Delete",
                "volumeBindingMode": "Immediate"}),
        ),
        (
            json!({"reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer"}),
            json!({"reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer"}),
        ),
    ];
    become_of("storage.k8s.io", "storageclasses", table);
}

#[test]
fn csi_drivers() {
    let defaults = json!({"attachRequired": true, "podInfoOnMount": false,
        "storageCapacity": false, "requiresRepublish": false, "seLinuxMount": false,
        "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"]});
    let opposite = json!({"attachRequired": false, "podInfoOnMount": true,
        "storageCapacity": true, "requiresRepublish": true, "seLinuxMount": true,
        "fsGroupPolicy": "None", "volumeLifecycleModes": ["Ephemeral"]});
    let table = vec![
        (json!({}), json!({"spec": defaults})),
        (json!({"spec": {"volumeLifecycleModes": []}}), json!({"spec": defaults})),
        (json!({"spec": opposite}), json!({"spec": opposite})),
    ];
    become_of("storage.k8s.io", "csidrivers", table);
}

#[test]
fn limit_ranges() {
    let container = |mut item: Value| {
        item["type"] = json!("Container");
        json!({"spec": {"limits": [item]}})
    };
    let pod = json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}}]}});
    let table = vec![
        (
            container(json!({"max": {"cpu": "2"}})),
            container(json!({"max": {"cpu": "2"}, "default": {"cpu": "2"},
                "defaultRequest": {"cpu": "2"}})),
        ),
        (
            container(json!({"min": {"cpu": "1"}})),
            container(json!({"min": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}})),
        ),
        (
            container(json!({"max": {"cpu": "2", "memory": "1Gi"}, "min": {"cpu": "1"},
                "default": {"cpu": "1500m"}})),
            container(json!({"max": {"cpu": "2", "memory": "1Gi"}, "min": {"cpu": "1"},
                "default": {"cpu": "1500m", "memory": "1Gi"},
                "defaultRequest": {"cpu": "1500m", "memory": "1Gi"}})),
        ),
        (
            container(json!({"default": {"cpu": "2"}, "defaultRequest": {"cpu": "1"}})),
            container(json!({"default": {"cpu": "2"}, "defaultRequest": {"cpu": "1"}})),
        ),
        (container(json!({"max": {}})), container(json!({"max": {}}))),
        (pod.clone(), pod),
    ];
    become_of("", "limitranges", table);
    for (name, expected) in [("", "u1"), ("l", "l")] {
        let mut range = json!({"metadata": {"name": name, "uid": "u1"}});
        initialize_limit_range(&mut range);
        assert_eq!(range["metadata"]["name"], expected);
    }
    let quota = json!({"spec": {"hard": {"pods": "1"}}, "status": {}});
    become_of("", "resourcequotas", vec![(json!({"spec": {"hard": {"pods": "1"}}}), quota)]);
}

#[test]
fn network_policies() {
    let table = vec![
        (json!({}), json!({"spec": {"policyTypes": ["Ingress"]}})),
        (
            json!({"spec": {"policyTypes": [], "egress": [{"ports": [{"port": 53}]}]}}),
            json!({"spec": {"policyTypes": ["Ingress", "Egress"],
                "egress": [{"ports": [{"port": 53, "protocol": "TCP"}]}]}}),
        ),
        (
            json!({"spec": {"egress": [], "ingress": [{"ports": [{"protocol": "UDP"}, {}]}]}}),
            json!({"spec": {"egress": [], "policyTypes": ["Ingress"],
                "ingress": [{"ports": [{"protocol": "UDP"}, {"protocol": "TCP"}]}]}}),
        ),
        (
            json!({"spec": {"policyTypes": ["Egress"]}}),
            json!({"spec": {"policyTypes": ["Egress"]}}),
        ),
    ];
    become_of("networking.k8s.io", "networkpolicies", table);
}

#[test]
fn ingresses_and_ranges() {
    let table = vec![(
        json!({"spec": {"rules": [{"http": {"paths": [{"path": "/"}]}}]}}),
        json!({"spec": {"rules": [{"http": {"paths": [{"path": "/"}]}}]},
            "status": {"loadBalancer": {}}}),
    )];
    become_of("networking.k8s.io", "ingresses", table);
    let table = vec![
        (json!({}), json!({"spec": {}})),
        (
            json!({"spec": {"parameters": {"kind": "P"}}}),
            json!({"spec": {"parameters": {"kind": "P", "scope": "Cluster"}}}),
        ),
        (
            json!({"spec": {"parameters": {"scope": "Namespace"}}}),
            json!({"spec": {"parameters": {"scope": "Namespace"}}}),
        ),
    ];
    become_of("networking.k8s.io", "ingressclasses", table);
    let table = vec![(json!({}), json!({"spec": {}, "status": {}}))];
    become_of("networking.k8s.io", "servicecidrs", table);
}

#[test]
fn autoscalers_aim_at_the_cpu_unless_they_say() {
    let metrics = "autoscaling.alpha.kubernetes.io/metrics";
    let with = |annotation: &str| json!({ "annotations": { metrics: annotation } });
    let pods = "[{\"type\":\"Pods\",\"pods\":{\"metricName\":\"m\"}}]";
    let spec = |target: Value| {
        let mut spec = json!({"minReplicas": 1, "maxReplicas": 0});
        if !target.is_null() {
            spec["targetCPUUtilizationPercentage"] = target;
        }
        spec
    };
    let table = vec![
        (json!({}), json!({"spec": spec(json!(80))})),
        (json!({"spec": {"targetCPUUtilizationPercentage": 5}}), json!({"spec": spec(json!(5))})),
        (
            json!({"metadata": with(pods)}),
            json!({"metadata": with(pods), "spec": spec(json!(null))}),
        ),
        (json!({"metadata": with("[]")}), json!({"metadata": with("[]"), "spec": spec(json!(80))})),
    ];
    become_of("autoscaling", "horizontalpodautoscalers", table);
    let v2 = find("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
    let mut object = json!({"metadata": with(pods)});
    (v2.apply_defaults)(&mut object);
    assert!(object["metadata"]["annotations"].is_null(), "{object}");
    let target = &object["spec"]["metrics"][0]["resource"]["target"];
    assert_eq!(target["averageUtilization"], 80);
}
