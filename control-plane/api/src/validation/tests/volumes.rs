//! Persistent volumes and claims.

use serde_json::{Value, json};

use super::changes::{creations, updates};

/// The tables, to be counted.
pub(super) const ALL: &[fn()] = &[
    claims,
    claims_of_what_is_there,
    claims_change_only_as_they_are_bound_and_grow,
    claims_move_their_class_from_the_annotation,
    volumes,
    volumes_on_some_nodes,
    volumes_of_every_kind,
    volumes_by_iscsi,
    volumes_stay_what_they_are,
];

fn claim() -> Value {
    json!({
        "metadata": {"name": "data", "namespace": "d"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    })
}

#[test]
fn claims() {
    let table = vec![
        (json!({}), vec![]),
        (json!({"metadata": {"name": "data.web-0"}}), vec![]),
        (
            json!({"metadata": {"name": "Data"}}),
            vec!["metadata.name: Invalid value: \"Data\": a lowercase RFC 1123 subdomain"],
        ),
        (
            json!({"spec": {"storageClassName": "", "volumeMode": "Block",
                "selector": {"matchLabels": {"disk": "fast"}}}}),
            vec![],
        ),
        (
            json!({"spec": {"accessModes": []}}),
            vec!["spec.accessModes: Required value: at least 1 access mode is required"],
        ),
        (
            json!({"spec": {"accessModes": ["ReadWriteTwice"]}}),
            vec![
                "spec.accessModes: Unsupported value: \"ReadWriteTwice\": supported values: \
                 \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            ],
        ),
        (json!({"spec": {"accessModes": ["ReadWriteOncePod"]}}), vec![]),
        (
            json!({"spec": {"accessModes": ["ReadWriteOncePod", "ReadOnlyMany"]}}),
            vec![
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
            ],
        ),
        (
            json!({"spec": {"resources": {"requests": null}}}),
            vec!["spec.resources[storage]: Required value"],
        ),
        (
            json!({"spec": {"resources": {"requests": {"storage": "-1Gi"}}}}),
            vec!["spec.resources[storage]: Invalid value: \"-1Gi\": must be greater than zero"],
        ),
        (
            json!({"spec": {"resources": {"requests": {"storage": "0"}}}}),
            vec!["spec.resources[storage]: Invalid value: \"0\": must be greater than zero"],
        ),
        (
            json!({"spec": {"storageClassName": "Fast", "volumeAttributesClassName": "Gold"}}),
            vec![
                "spec.storageClassName: Invalid value: \"Fast\": a lowercase RFC 1123 subdomain",
                "spec.volumeAttributesClassName: Invalid value: \"Gold\": a lowercase RFC 1123",
            ],
        ),
        (
            json!({"spec": {"volumeMode": "Tape"}}),
            vec![
                "spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \
                 \"Filesystem\"",
            ],
        ),
        (
            json!({"spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}}),
            vec!["spec.selector.matchExpressions[0].values: Required value: must be specified"],
        ),
    ];
    creations("", "persistentvolumeclaims", &claim(), table);
}

#[test]
fn claims_of_what_is_there() {
    let snapshot = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot",
        "name": "s"});
    let table = vec![
        (json!({"spec": {"dataSource": snapshot}}), vec![]),
        (json!({"spec": {"dataSource": snapshot, "dataSourceRef": snapshot}}), vec![]),
        (
            json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "p"},
                "dataSourceRef": snapshot}}),
            vec![
                "spec: Invalid value: {\"kind\":\"PersistentVolumeClaim\",\"name\":\"p\"}: must \
                 match dataSourceRef",
            ],
        ),
        (
            json!({"spec": {"dataSource": {"kind": "Pod", "name": "p"}}}),
            vec![
                "spec.dataSource: Invalid value: \"Pod\": must be 'PersistentVolumeClaim' when \
                 referencing the default apiGroup",
            ],
        ),
        (
            json!({"spec": {"dataSourceRef": {"apiGroup": "A_b"}}}),
            vec![
                "spec.dataSourceRef.name: Required value",
                "spec.dataSourceRef.kind: Required value",
                "spec.dataSourceRef.apiGroup: Invalid value: \"A_b\": a lowercase RFC 1123",
            ],
        ),
        (
            json!({"spec": {"dataSource": snapshot, "dataSourceRef": {"kind": "VolumeSnapshot",
                "apiGroup": "snapshot.storage.k8s.io", "name": "s", "namespace": "e"}}}),
            vec!["spec: Invalid value: {\"apiGroup\""],
        ),
        (
            json!({"spec": {"dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "p",
                "namespace": "A"}}}),
            vec!["spec.dataSourceRef.namespace: Invalid value: \"A\": a lowercase RFC 1123 label"],
        ),
    ];
    creations("", "persistentvolumeclaims", &claim(), table);
}

#[test]
fn claims_change_only_as_they_are_bound_and_grow() {
    let immutable = "spec: Forbidden: spec is immutable after creation except \
        resources.requests and volumeAttributesClassName for bound claims\nchanged: spec.";
    let unbound = vec![
        (json!({}), vec![]),
        (json!({"metadata": {"labels": {"a": "b"}}}), vec![]),
        (json!({"spec": {"volumeName": "pv", "storageClassName": "fast"}}), vec![]),
        (json!({"spec": {"volumeName": ""}}), vec![]),
        (json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}), vec![immutable]),
        (json!({"spec": {"accessModes": ["ReadWriteMany"]}}), vec![immutable]),
        (json!({"spec": {"volumeAttributesClassName": ""}}), vec![immutable]),
        (
            json!({"spec": {"volumeMode": "Block"}}),
            vec![immutable, "volumeMode: Invalid value: \"Block\": field is immutable"],
        ),
    ];
    updates("", "persistentvolumeclaims", &claim(), unbound);
    let mut bound = claim();
    bound["spec"]["volumeName"] = json!("pv");
    bound["spec"]["storageClassName"] = json!("fast");
    bound["spec"]["volumeAttributesClassName"] = json!("gold");
    bound["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
    let storage = |amount: &str| json!({"spec": {"resources": {"requests": {"storage": amount}}}});
    let path = "spec.resources.requests.storage: Forbidden: field can not be less than \
        status.capacity";
    let table = vec![
        (storage("2Gi"), vec![]),
        (storage("512Mi"), vec![path]),
        (json!({"spec": {"volumeName": "other"}}), vec![immutable]),
        (json!({"spec": {"storageClassName": "slow"}}), vec![immutable]),
        (json!({"spec": {"storageClassName": null}}), vec![immutable]),
        (
            json!({"spec": {"resources": {"requests": {"cpu": "1"}}}}),
            vec![
                "spec: Forbidden: spec is immutable after creation except resources.requests and \
                 volumeAttributesClassName for bound claims\nchanged: spec.resources",
            ],
        ),
        (json!({"spec": {"volumeAttributesClassName": "silver"}}), vec![]),
        (
            json!({"spec": {"volumeAttributesClassName": null}}),
            vec![
                immutable,
                "spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is",
            ],
        ),
        (
            json!({"spec": {"volumeAttributesClassName": ""}}),
            vec![
                "spec.volumeAttributesClassName: Forbidden: update from non-nil value to an empty",
            ],
        ),
        (
            json!({"status": {"capacity": {"storage": "-1"}}}),
            vec!["status.capacity[storage]: Invalid value: -1: must be a valid resource quantity"],
        ),
        (
            json!({"status": {"allocatedResourceStatuses": {"storage": "Soon", "cpu":
                "NodeResizePending"}}}),
            vec![
                "status.allocatedResourceStatus: Unsupported value: \"cpu\": supported values: \
                 \"storage\"",
                "status.allocatedResourceStatus: Unsupported value: \"storage\": supported \
                 values: \"ControllerResizeInProgress\"",
            ],
        ),
        (
            json!({"status": {"allocatedResources": {"storage": "-2", "memory": "1"}}}),
            vec![
                "status.allocatedResources: Unsupported value: \"memory\"",
                "status.allocatedResources[storage]: Invalid value: -2: must be a valid",
            ],
        ),
    ];
    updates("", "persistentvolumeclaims", &bound, table);
    // It asked for more than it got: it may ask for less, but not for less than it has.
    bound["spec"]["resources"]["requests"]["storage"] = json!("4Gi");
    let table = vec![(storage("2Gi"), vec![]), (storage("1Gi"), vec![path])];
    updates("", "persistentvolumeclaims", &bound, table);
}

#[test]
fn claims_move_their_class_from_the_annotation() {
    let annotation = "volume.beta.kubernetes.io/storage-class";
    let mut old = claim();
    old["metadata"]["annotations"] = json!({annotation: "fast"});
    let table = vec![
        (json!({"spec": {"storageClassName": "fast"}}), vec![]),
        (
            json!({"spec": {"storageClassName": "fast"},
                "metadata": {"annotations": {annotation: null}}}),
            vec![],
        ),
        (json!({"spec": {"storageClassName": "slow"}}), vec!["spec: Forbidden: spec is immutable"]),
        (
            json!({"metadata": {"annotations": {annotation: "slow"}}}),
            vec![
                "metadata.annotations.volume.beta.kubernetes.io/storage-class: Invalid value: \
                 \"slow\": field is immutable",
            ],
        ),
    ];
    updates("", "persistentvolumeclaims", &old, table);
}

fn volume(source: Value) -> Value {
    let mut volume = json!({
        "metadata": {"name": "pv"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]},
    });
    json_patch::merge(&mut volume["spec"], &source);
    volume
}

fn by_node() -> Value {
    json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}})
}

#[test]
fn volumes() {
    let base = volume(json!({"hostPath": {"path": "/data"}}));
    let table = vec![
        (json!({}), vec![]),
        (
            json!({"metadata": {"namespace": "d"}}),
            vec!["metadata.namespace: Forbidden: not allowed on this type"],
        ),
        (json!({"spec": {"accessModes": null}}), vec!["spec.accessModes: Required value"]),
        (
            json!({"spec": {"accessModes": ["Sometimes"]}}),
            vec!["spec.accessModes: Unsupported value: \"Sometimes\": supported values"],
        ),
        (
            json!({"spec": {"capacity": null}}),
            vec![
                "spec.capacity: Required value",
                "spec.capacity: Unsupported value: null: supported values: \"storage\"",
            ],
        ),
        (
            json!({"spec": {"capacity": {"cpu": "1"}}}),
            vec!["spec.capacity: Unsupported value: {\"cpu\":\"1\",\"storage\":\"1Gi\"}"],
        ),
        (
            json!({"spec": {"capacity": {"storage": "-1"}}}),
            vec![
                "spec.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
                "spec.capacity[storage]: Invalid value: \"-1\": must be greater than zero",
            ],
        ),
        (
            json!({"spec": {"capacity": {"storage": "0"}}}),
            vec!["spec.capacity[storage]: Invalid value: \"0\": must be greater than zero"],
        ),
        (
            json!({"spec": {"persistentVolumeReclaimPolicy": "Burn"}}),
            vec![
                "spec.persistentVolumeReclaimPolicy: Unsupported value: \"Burn\": supported \
                 values: \"Delete\", \"Recycle\", \"Retain\"",
            ],
        ),
        (
            json!({"spec": {"persistentVolumeReclaimPolicy": "Recycle",
                "hostPath": {"path": "//."}}}),
            vec![
                "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a \
                 hostPath mount of '/'",
            ],
        ),
        (json!({"spec": {"hostPath": null}}), vec!["spec: Required value: must specify a volume"]),
        (
            json!({"spec": {"nfs": {"server": "s", "path": "/"}}}),
            vec!["spec.nfs: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            json!({"spec": {"storageClassName": "Fast", "volumeMode": "Tape"}}),
            vec![
                "spec.storageClassName: Invalid value: \"Fast\"",
                "spec.volumeMode: Unsupported value: \"Tape\"",
            ],
        ),
        (
            json!({"spec": {"volumeAttributesClassName": ""}}),
            vec![
                "spec.volumeAttributesClassName: Required value: an empty string is disallowed",
                "spec.csi: Required value: has to be specified when using",
            ],
        ),
    ];
    creations("", "persistentvolumes", &base, table);
}

#[test]
fn volumes_on_some_nodes() {
    let base = volume(json!({"local": {"path": "/mnt/disk"}, "nodeAffinity": by_node()}));
    let term = |term: Value| {
        let required = json!({"nodeSelectorTerms": [term]});
        json!({"spec": {"nodeAffinity": {"required": required}}})
    };
    let table = vec![
        (json!({}), vec![]),
        (
            json!({"spec": {"nodeAffinity": null}}),
            vec!["spec.nodeAffinity: Required value: Local volume requires node affinity"],
        ),
        (
            json!({"spec": {"nodeAffinity": {"required": null}}}),
            vec!["spec.nodeAffinity.required: Required value: must specify required node"],
        ),
        (
            json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": []}}}}),
            vec![
                "spec.nodeAffinity.required.nodeSelectorTerms: Required value: must have at least",
            ],
        ),
        (
            term(json!({"matchExpressions": [
                {"key": "a", "operator": "In"},
                {"key": "a", "operator": "Exists", "values": ["b"]},
                {"key": "a", "operator": "Gt", "values": ["1", "2"]},
                {"key": "a", "operator": "Near"},
                {"key": "-", "operator": "Exists"},
                {"key": "a", "operator": "In", "values": ["b", "c d"]}]})),
            vec![
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values: \
                 Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[1].values: \
                 Forbidden: may not be specified when `operator` is 'Exists'",
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[2].values: \
                 Required value: must be specified single value",
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[3].operator: \
                 Invalid value: \"Near\": not a valid selector operator",
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[4].key: Invalid \
                 value: \"-\": name part must consist",
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[5].values[1]: \
                 Invalid value: \"c d\": a valid label must be",
            ],
        ),
        (
            term(json!({"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["n1"]},
                {"key": "metadata.name", "operator": "In", "values": ["n1", "n2"]},
                {"key": "metadata.name", "operator": "Exists"},
                {"key": "spec.unschedulable", "operator": "In", "values": ["true"]},
                {"key": "metadata.name", "operator": "NotIn", "values": ["N"]}]})),
            vec![
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchFields[1].values: Required \
                 value: must be only one value",
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchFields[2].operator: Invalid \
                 value: \"Exists\": not a valid selector operator",
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchFields[3].key: Invalid \
                 value: \"spec.unschedulable\": not a valid field selector key",
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchFields[4].values[0]: \
                 Invalid value: \"N\": a lowercase RFC 1123 subdomain",
            ],
        ),
    ];
    creations("", "persistentvolumes", &base, table);
}

#[test]
fn volumes_of_every_kind() {
    let table = vec![
        (json!({"hostPath": {"path": ""}}), vec!["spec.hostPath.path: Required value"]),
        (
            json!({"hostPath": {"path": "/a/../b", "type": "Door"}}),
            vec![
                "spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.hostPath.type: Unsupported value: \"Door\": supported values: \"\", \
                 \"BlockDevice\"",
            ],
        ),
        (
            json!({"gcePersistentDisk": {"pdName": "", "partition": 256}}),
            vec![
                "spec.persistentDisk.pdName: Required value",
                "spec.persistentDisk.partition: Invalid value: 256: must be between 1 and 255",
            ],
        ),
        (json!({"awsElasticBlockStore": {"volumeID": "v", "partition": 0}}), vec![]),
        (
            json!({"glusterfs": {"endpoints": "", "path": "p", "endpointsNamespace": "A"}}),
            vec![
                "spec.glusterfs.endpoints: Required value",
                "spec.glusterfs.endpointsNamespace: Invalid value: \"A\"",
            ],
        ),
        (
            json!({"flocker": {}}),
            vec!["spec.flocker: Required value: one of datasetName and datasetUUID is required"],
        ),
        (
            json!({"flocker": {"datasetName": "a/b", "datasetUUID": "u"}}),
            vec![
                "spec.flocker: Invalid value: \"resource\": datasetName and datasetUUID can not",
                "spec.flocker.datasetName: Invalid value: \"a/b\": must not contain '/'",
            ],
        ),
        (
            json!({"nfs": {"server": "s", "path": "p"}}),
            vec!["spec.nfs.path: Invalid value: \"p\": must be an absolute path"],
        ),
        (
            json!({"rbd": {"monitors": [], "image": ""}}),
            vec!["spec.rbd.monitors: Required value", "spec.rbd.image: Required value"],
        ),
        (json!({"quobyte": {"registry": "a:1,[::1]:2", "volume": "v"}}), vec![]),
        (
            json!({"quobyte": {"registry": "a,::1:2", "volume": "v"}}),
            vec![
                "spec.quobyte.registry: Invalid value: \"a,::1:2\": must be a host:port pair",
                "spec.quobyte.registry: Invalid value: \"a,::1:2\": must be a host:port pair",
            ],
        ),
        (json!({"cephfs": {"monitors": []}}), vec!["spec.cephfs.monitors: Required value"]),
        (
            json!({"cinder": {"volumeID": "v", "secretRef": {"name": "s"}}}),
            vec!["spec.cinder.secretRef.namespace: Required value"],
        ),
        (
            json!({"fc": {"targetWWNs": ["a"], "wwids": ["b"]}}),
            vec![
                "spec.fc.targetWWNs: Invalid value: [\"a\"]: targetWWNs and wwids can not",
                "spec.fc.lun: Required value: lun is required if targetWWNs is specified",
            ],
        ),
        (
            json!({"fc": {"targetWWNs": ["a"], "lun": 256}}),
            vec!["spec.fc.lun: Invalid value: 256: must be between 0 and 255, inclusive"],
        ),
        (
            json!({"fc": {}}),
            vec!["spec.fc.targetWWNs: Required value: must specify either targetWWNs or wwids"],
        ),
        (
            json!({"flexVolume": {"driver": "d", "options": {"k8s.io/a": "", "b": ""}}}),
            vec![
                "spec.flexVolume.options[k8s.io/a]: Invalid value: \"k8s.io/a\": kubernetes.io and",
            ],
        ),
        (
            json!({"azureFile": {"secretName": "s", "shareName": "s", "secretNamespace": ""}}),
            vec!["spec.azureFile.secretNamespace: Required value"],
        ),
        (
            json!({"azureDisk": {"diskName": "d", "diskURI": "https://x", "kind": "Managed",
                "cachingMode": "Some"}}),
            vec![
                "spec.azureDisk.cachingMode: Unsupported value: \"Some\": supported values: \
                 \"None\", \"ReadOnly\", \"ReadWrite\"",
                "spec.azureDisk.diskURI: Unsupported value: \"https://x\": supported values: \
                 \"/subscriptions/{sub-id}",
            ],
        ),
        (
            json!({"storageos": {"volumeName": "A", "secretRef": {}}}),
            vec![
                "spec.storageos.volumeName: Invalid value: \"A\": a lowercase RFC 1123 label",
                "spec.storageos.secretRef.name: Required value",
                "spec.storageos.secretRef.namespace: Required value",
            ],
        ),
        (
            json!({"csi": {"driver": "", "volumeHandle": ""}}),
            vec![
                "spec.csi.driver: Required value",
                "spec.csi.volumeHandle: Required value",
                "spec.csi.driver: Invalid value: \"\": a lowercase RFC 1123 subdomain",
            ],
        ),
        (json!({"csi": {"driver": "Disk.Example.COM", "volumeHandle": "h"}}), vec![]),
        (
            json!({"csi": {"driver": "d".repeat(64), "volumeHandle": "h",
                "nodePublishSecretRef": {"name": "A"}}}),
            vec![
                "spec.csi.driver: Too long: may not be more than 63 bytes",
                "spec.csi.nodePublishSecretRef.namespace: Required value",
                "spec.csi.nodePublishSecretRef.name: Invalid value: \"A\"",
            ],
        ),
    ];
    for (source, expected) in table {
        let row = vec![(json!({}), expected)];
        creations("", "persistentvolumes", &volume(source), row);
    }
}

#[test]
fn volumes_by_iscsi() {
    let target = "iqn.2001-04.com.example:storage.disk1";
    let base = volume(json!({"iscsi": {"targetPortal": "10.0.0.1:3260", "iqn": target, "lun": 0}}));
    let table = vec![
        (json!({}), vec![]),
        (json!({"spec": {"iscsi": {"iqn": "eui.0123456789ABCDEF"}}}), vec![]),
        (json!({"spec": {"iscsi": {"iqn": format!("naa.{}", "a".repeat(32))}}}), vec![]),
        (json!({"spec": {"iscsi": {"iqn": "eui.012"}}}), vec!["spec.iscsi.iqn: Invalid value"]),
        (json!({"spec": {"iscsi": {"iqn": "naa.zz"}}}), vec!["spec.iscsi.iqn: Invalid value"]),
        (
            json!({"spec": {"iscsi": {"iqn": "iqn.20-04.com.example:a"}}}),
            vec!["spec.iscsi.iqn: Invalid value: \"iqn.20-04.com.example:a\": must be valid"],
        ),
        (
            json!({"spec": {"iscsi": {"iqn": "iqn.2001-04.com.example"}}}),
            vec!["spec.iscsi.iqn: Invalid value"],
        ),
        (
            json!({"spec": {"iscsi": {"iqn": "iqn.2001-04.com.example:a b"}}}),
            vec!["spec.iscsi.iqn: Invalid value"],
        ),
        (json!({"spec": {"iscsi": {"iqn": null}}}), vec!["spec.iscsi.iqn: Required value"]),
        (
            json!({"spec": {"iscsi": {"lun": -1}}}),
            vec!["spec.iscsi.lun: Invalid value: -1: must be between 0 and 255, inclusive"],
        ),
        (
            json!({"spec": {"iscsi": {"chapAuthSession": true}}}),
            vec!["spec.iscsi.secretRef: Required value"],
        ),
        (
            json!({"spec": {"iscsi": {"chapAuthSession": true, "secretRef": {}}}}),
            vec!["spec.iscsi.secretRef.name: Required value"],
        ),
        (
            json!({"spec": {"iscsi": {"initiatorName": "me"}}}),
            vec!["spec.iscsi.initiatorname: Invalid value: \"me\": must be valid format starting"],
        ),
        (
            json!({"metadata": {"name": "v".repeat(60)}, "spec": {"iscsi": {"initiatorName":
                target}}}),
            vec!["spec.iscsi.targetportal: Invalid value: \"10.0.0.1:3260\": Total length of"],
        ),
    ];
    creations("", "persistentvolumes", &base, table);
}

#[test]
fn volumes_stay_what_they_are() {
    let csi = json!({"csi": {"driver": "disk.example.com", "volumeHandle": "h"}});
    let mut base = volume(csi);
    base["spec"]["volumeAttributesClassName"] = json!("gold");
    let secret = json!({"name": "s", "namespace": "d"});
    let immutable = "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is \
        immutable after creation";
    let table = vec![
        (json!({}), vec![]),
        (json!({"spec": {"capacity": {"storage": "2Gi"}, "claimRef": {"name": "c"}}}), vec![]),
        (json!({"spec": {"csi": {"fsType": ""}}}), vec![]),
        (json!({"spec": {"csi": {"volumeHandle": "other"}}}), vec![immutable]),
        (
            json!({"spec": {"csi": null, "hostPath": {"path": "/"}}}),
            vec!["spec.csi: Required value: has to be specified", immutable],
        ),
        (json!({"spec": {"csi": {"controllerExpandSecretRef": secret}}}), vec![]),
        (json!({"spec": {"csi": {"nodePublishSecretRef": secret}}}), vec![immutable]),
        (
            json!({"spec": {"volumeMode": "Block"}}),
            vec!["volumeMode: Invalid value: \"Block\": field is immutable"],
        ),
        (json!({"spec": {"nodeAffinity": by_node()}}), vec![]),
        (json!({"spec": {"volumeAttributesClassName": "silver"}}), vec![]),
        (
            json!({"spec": {"volumeAttributesClassName": null}}),
            vec!["spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil"],
        ),
    ];
    updates("", "persistentvolumes", &base, table);
    base["spec"]["nodeAffinity"] = by_node();
    base["spec"]["csi"]["controllerExpandSecretRef"] = secret;
    let table = vec![
        (
            json!({"spec": {"nodeAffinity": null}}),
            vec!["nodeAffinity: Invalid value: null: field is immutable"],
        ),
        (json!({"spec": {"csi": {"controllerExpandSecretRef": {"name": "t"}}}}), vec![immutable]),
    ];
    updates("", "persistentvolumes", &base, table);
}
