//! Volumes, storage drivers, quotas and networking.

use serde_json::{Value, json};

use super::cells;
use crate::resource::find;

const CREATED: &str = "2026-01-01T23:55:00Z";

/// Checks the rows of a kind against the names of its columns, and its objects against their cells.
fn rows(group: &str, plural: &str, columns: &[&str], table: Vec<(Value, Vec<&str>)>) {
    let resource = find(group, "v1", plural).unwrap();
    let shown = resource.columns.iter().map(|column| {
        let wide = if column.priority > 0 { "*" } else { "" };
        format!("{}{wide}", column.name)
    });
    assert_eq!(shown.collect::<Vec<_>>(), columns, "{plural}");
    for (mut object, expected) in table {
        object["metadata"]["name"] = json!("x");
        object["metadata"]["creationTimestamp"] = json!(CREATED);
        assert_eq!(cells(group, plural, &object), expected, "{plural}: {object}");
    }
}

#[test]
fn persistent_volumes() {
    let columns = [
        "Name",
        "Capacity",
        "Access Modes",
        "Reclaim Policy",
        "Status",
        "Claim",
        "StorageClass",
        "VolumeAttributesClass",
        "Reason",
        "Age",
        "VolumeMode*",
    ];
    let volume = json!({
        "spec": {"capacity": {"storage": "1Gi"}, "storageClassName": "fast",
            "accessModes": ["ReadWriteOncePod", "ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany",
                "ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Block",
            "claimRef": {"namespace": "d", "name": "c"}, "volumeAttributesClassName": "gold"},
        "status": {"phase": "Failed", "reason": "Broken"},
    });
    let mut deleted = volume.clone();
    deleted["metadata"] = json!({"deletionTimestamp": CREATED,
        "annotations": {"volume.beta.kubernetes.io/storage-class": "old"}});
    let table = vec![
        (
            volume,
            vec![
                "x",
                "1Gi",
                "RWO,ROX,RWX,RWOP",
                "Retain",
                "Failed",
                "d/c",
                "fast",
                "gold",
                "Broken",
                "5m",
                "Block",
            ],
        ),
        (
            deleted,
            vec![
                "x",
                "1Gi",
                "RWO,ROX,RWX,RWOP",
                "Retain",
                "Terminating",
                "d/c",
                "old",
                "gold",
                "Broken",
                "5m",
                "Block",
            ],
        ),
        (
            json!({"status": {"phase": "Available"}}),
            vec!["x", "0", "", "", "Available", "", "", "<unset>", "", "5m", "<unset>"],
        ),
    ];
    rows("", "persistentvolumes", &columns, table);
}

#[test]
fn persistent_volume_claims() {
    let columns = [
        "Name",
        "Status",
        "Volume",
        "Capacity",
        "Access Modes",
        "StorageClass",
        "VolumeAttributesClass",
        "Age",
        "VolumeMode*",
    ];
    let status = json!({"phase": "Bound", "capacity": {"storage": "2Gi"},
        "accessModes": ["ReadWriteOnce"]});
    let table = vec![
        (
            json!({"spec": {"volumeName": "pv", "storageClassName": "fast",
                "volumeMode": "Filesystem"}, "status": status}),
            vec!["x", "Bound", "pv", "2Gi", "RWO", "fast", "<unset>", "5m", "Filesystem"],
        ),
        // What it asks for is not what it has.
        (
            json!({"spec": {"resources": {"requests": {"storage": "1Gi"}},
                "accessModes": ["ReadWriteOnce"], "volumeAttributesClassName": ""},
                "status": {"phase": "Pending"}}),
            vec!["x", "Pending", "", "", "", "", "", "5m", "<unset>"],
        ),
        (
            json!({"metadata": {"deletionTimestamp": CREATED}, "spec": {"volumeName": "pv"},
                "status": status}),
            vec!["x", "Terminating", "pv", "2Gi", "RWO", "", "<unset>", "5m", "<unset>"],
        ),
    ];
    rows("", "persistentvolumeclaims", &columns, table);
}

#[test]
fn storage_classes_and_attachments() {
    let columns = [
        "Name",
        "Provisioner",
        "ReclaimPolicy",
        "VolumeBindingMode",
        "AllowVolumeExpansion",
        "Age",
    ];
    let default = |key: &str, value: &str| {
        json!({"metadata": {"annotations": {key: value}}, "provisioner": "p",
            "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer",
            "allowVolumeExpansion": true})
    };
    let marked = vec!["x (default)", "p", "Retain", "WaitForFirstConsumer", "true", "5m"];
    let table = vec![
        (default("storageclass.kubernetes.io/is-default-class", "true"), marked.clone()),
        (default("storageclass.beta.kubernetes.io/is-default-class", "true"), marked),
        (
            default("storageclass.kubernetes.io/is-default-class", "false"),
            vec!["x", "p", "Retain", "WaitForFirstConsumer", "true", "5m"],
        ),
        (json!({"provisioner": "p"}), vec!["x", "p", "Delete", "Immediate", "false", "5m"]),
    ];
    rows("storage.k8s.io", "storageclasses", &columns, table);
    let columns = ["Name", "Attacher", "PV", "Node", "Attached", "Age"];
    let table = vec![
        (
            json!({"spec": {"attacher": "a", "nodeName": "n",
                "source": {"persistentVolumeName": "pv"}}, "status": {"attached": true}}),
            vec!["x", "a", "pv", "n", "true", "5m"],
        ),
        (
            json!({"spec": {"attacher": "a", "nodeName": "n",
                "source": {"inlineVolumeSpec": {}}}}),
            vec!["x", "a", "", "n", "false", "5m"],
        ),
    ];
    rows("storage.k8s.io", "volumeattachments", &columns, table);
}

#[test]
fn storage_drivers() {
    let columns = [
        "Name",
        "AttachRequired",
        "PodInfoOnMount",
        "StorageCapacity",
        "TokenRequests",
        "RequiresRepublish",
        "Modes",
        "Age",
    ];
    let table = vec![
        (
            json!({"spec": {}}),
            vec!["x", "true", "false", "false", "<unset>", "false", "<none>", "5m"],
        ),
        (
            json!({"spec": {"attachRequired": false, "podInfoOnMount": true,
                "storageCapacity": true, "requiresRepublish": true,
                "tokenRequests": [{"audience": "a"}, {"audience": "b"}],
                "volumeLifecycleModes": ["Persistent", "Ephemeral"]}}),
            vec!["x", "false", "true", "true", "a,b", "true", "Persistent,Ephemeral", "5m"],
        ),
    ];
    rows("storage.k8s.io", "csidrivers", &columns, table);
    let table = vec![
        (json!({"spec": {"drivers": [{"name": "a"}, {"name": "b"}]}}), vec!["x", "2", "5m"]),
        (json!({}), vec!["x", "0", "5m"]),
    ];
    rows("storage.k8s.io", "csinodes", &["Name", "Drivers", "Age"], table);
    let table = vec![
        (json!({"storageClassName": "fast", "capacity": "1Gi"}), vec!["x", "fast", "1Gi"]),
        (json!({"storageClassName": "fast"}), vec!["x", "fast", "<unset>"]),
    ];
    let columns = ["Name", "StorageClassName", "Capacity"];
    rows("storage.k8s.io", "csistoragecapacities", &columns, table);
}

#[test]
fn quotas_and_limits() {
    let table = vec![
        (
            json!({"status": {
                "hard": {"pods": "10", "limits.cpu": "2", "requests.cpu": "1", "limits.memory":
                    "1Gi"},
                "used": {"pods": "3", "limits.cpu": "500m"}}}),
            vec![
                "x",
                "pods: 3/10, requests.cpu: 0/1",
                "limits.cpu: 500m/2, limits.memory: 0/1Gi",
                "5m",
            ],
        ),
        (json!({"spec": {"hard": {"pods": "10"}}}), vec!["x", "", "", "5m"]),
    ];
    rows("", "resourcequotas", &["Name", "Request", "Limit", "Age"], table);
    rows("", "limitranges", &["Name", "Created At"], vec![(json!({}), vec!["x", CREATED])]);
}

#[test]
fn ingresses() {
    let columns = ["Name", "Class", "Hosts", "Address", "Ports", "Age"];
    let hosts = |hosts: &[&str]| -> Value {
        hosts.iter().map(|host| json!({"host": host})).collect::<Vec<_>>().into()
    };
    let table = vec![
        (json!({"spec": {}}), vec!["x", "<none>", "*", "", "80", "5m"]),
        (
            json!({"spec": {"ingressClassName": "c", "rules": hosts(&["a", "b", "c"]),
                "tls": [{}]},
                "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.2"}, {"hostname": "lb"},
                    {"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}, {}]}}}),
            vec!["x", "c", "a,b,c", "10.0.0.1,10.0.0.2,lb", "80, 443", "5m"],
        ),
        (
            json!({"spec": {"rules": hosts(&["a", "b", "c", "d", "e"])}}),
            vec!["x", "<none>", "a,b,c + 2 more...", "", "80", "5m"],
        ),
        (
            json!({"spec": {"rules": hosts(&["", "a", ""])}}),
            vec!["x", "<none>", "a", "", "80", "5m"],
        ),
    ];
    rows("networking.k8s.io", "ingresses", &columns, table);
    let columns = ["Name", "Controller", "Parameters", "Age"];
    let table = vec![
        (json!({"spec": {"controller": "a/b"}}), vec!["x", "a/b", "<none>", "5m"]),
        (
            json!({"metadata": {"annotations":
                {"ingressclass.kubernetes.io/is-default-class": "true"}},
                "spec": {"controller": "a/b", "parameters": {"kind": "K", "name": "n",
                "apiGroup": "g.example"}}}),
            vec!["x (default)", "a/b", "K.g.example/n", "5m"],
        ),
        (
            json!({"spec": {"controller": "a/b", "parameters": {"kind": "K", "name": "n"}}}),
            vec!["x", "a/b", "K/n", "5m"],
        ),
    ];
    rows("networking.k8s.io", "ingressclasses", &columns, table);
}

#[test]
fn policies_and_addresses() {
    let select = |selector: Value| json!({"spec": {"podSelector": selector}});
    let table = vec![
        (select(json!({})), vec!["x", "<none>", "5m"]),
        (
            select(json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c",
                "operator": "In", "values": ["d", "e"]}]})),
            vec!["x", "a=b,c in (d,e)", "5m"],
        ),
    ];
    rows("networking.k8s.io", "networkpolicies", &["Name", "Pod-Selector", "Age"], table);
    let parent = |parent: Value| json!({"spec": {"parentRef": parent}});
    let table = vec![
        (json!({}), vec!["x", "<none>"]),
        (
            parent(json!({"resource": "services", "namespace": "d", "name": "web"})),
            vec!["x", "services/d/web"],
        ),
        (
            parent(json!({"group": "G.example", "resource": "gateways", "name": "web"})),
            vec!["x", "gateways.g.example/web"],
        ),
    ];
    rows("networking.k8s.io", "ipaddresses", &["Name", "ParentRef"], table);
    let table = vec![(
        json!({"spec": {"cidrs": ["10.9.0.0/16", "fd00::/112"]}}),
        vec!["x", "10.9.0.0/16,fd00::/112", "5m"],
    )];
    rows("networking.k8s.io", "servicecidrs", &["Name", "CIDRs", "Age"], table);
}
