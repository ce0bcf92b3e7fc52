//! Storage classes, drivers and attachments.

use serde_json::{Map, Value, json};

use super::changes::{creations, updates};

/// The tables, to be counted.
pub(super) const ALL: &[fn()] =
    &[storage_classes, volume_attachments, csi_drivers, csi_nodes, csi_storage_capacities];

const STORAGE: &str = "storage.k8s.io";

#[test]
fn storage_classes() {
    let base = json!({
        "metadata": {"name": "fast"}, "provisioner": "Disk.example.com/v1",
        "parameters": {"type": "ssd"},
    });
    let many: Map<String, Value> = (0..513).map(|n| (n.to_string(), json!("x"))).collect();
    let topology = |terms: Value| json!({"allowedTopologies": terms});
    let zone =
        |values: Value| json!({"matchLabelExpressions": [{"key": "zone", "values": values}]});
    let table = vec![
        (json!({}), vec![]),
        (json!({"metadata": {"name": "F"}}), vec!["metadata.name: Invalid value: \"F\""]),
        (json!({"provisioner": ""}), vec!["provisioner: Required value"]),
        (
            json!({"provisioner": "a/b/c"}),
            vec!["provisioner: Invalid value: \"a/b/c\": a qualified name must consist"],
        ),
        (json!({"parameters": {"": "x"}}), vec!["parameters: Invalid value: \"\": field can not"]),
        (json!({"parameters": many}), vec!["parameters: Too long: may not be more than 512 bytes"]),
        (
            json!({"parameters": {"a": "x".repeat(256 * 1024)}}),
            vec!["parameters: Too long: may not be more than 262144 bytes"],
        ),
        (
            json!({"reclaimPolicy": "Recycle"}),
            vec![
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \
                 \"Retain\"",
            ],
        ),
        (
            json!({"volumeBindingMode": "Later"}),
            vec![
                "volumeBindingMode: Unsupported value: \"Later\": supported values: \
                 \"Immediate\", \"WaitForFirstConsumer\"",
            ],
        ),
        (topology(json!([zone(json!(["a", "b"])), zone(json!(["c"]))])), vec![]),
        (topology(json!([{}])), vec!["allowedTopologies[0].matchLabelExpressions: Required value"]),
        (
            topology(json!([zone(json!([])), zone(json!(["a", "a"]))])),
            vec![
                "allowedTopologies[0].matchLabelExpressions[0].values: Required value",
                "allowedTopologies[1].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
            ],
        ),
        (
            topology(json!([zone(json!(["a", "b"])), zone(json!(["b", "a"]))])),
            vec!["allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\""],
        ),
        (
            topology(json!([{"matchLabelExpressions": [{"key": "-", "values": ["a"]},
                {"key": "-", "values": ["b"]}]}])),
            vec![
                "allowedTopologies[0].matchLabelExpressions[0].key: Invalid value: \"-\"",
                "allowedTopologies[0].matchLabelExpressions[1].key: Invalid value: \"-\"",
                "allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: \"-\"",
            ],
        ),
    ];
    creations(STORAGE, "storageclasses", &base, table);
    let table = vec![
        (json!({"allowVolumeExpansion": true, "mountOptions": ["ro"]}), vec![]),
        (
            json!({"parameters": {"type": "hdd"}}),
            vec!["parameters: Forbidden: updates to parameters are forbidden."],
        ),
        (
            json!({"parameters": null}),
            vec!["parameters: Forbidden: updates to parameters are forbidden."],
        ),
        (
            json!({"provisioner": "other"}),
            vec!["provisioner: Forbidden: updates to provisioner are forbidden."],
        ),
        (
            json!({"reclaimPolicy": "Retain"}),
            vec!["reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden."],
        ),
        (
            json!({"volumeBindingMode": "WaitForFirstConsumer"}),
            vec!["volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable"],
        ),
    ];
    updates(STORAGE, "storageclasses", &base, table);
}

#[test]
fn volume_attachments() {
    let base = json!({
        "metadata": {"name": "csi-1"},
        "spec": {"attacher": "disk.example.com", "nodeName": "n1",
            "source": {"persistentVolumeName": "pv"}},
    });
    let inline = |change: Value| {
        let mut inline = json!({"accessModes": ["ReadWriteOnce"],
            "csi": {"driver": "d", "volumeHandle": "h"}});
        json_patch::merge(&mut inline, &change);
        json!({"spec": {"source": {"persistentVolumeName": null, "inlineVolumeSpec": inline}}})
    };
    let table = vec![
        (json!({}), vec![]),
        (inline(json!({})), vec![]),
        (json!({"spec": {"attacher": null}}), vec!["spec.attacher: Required value"]),
        (
            json!({"spec": {"attacher": "a_b"}}),
            vec!["spec.attacher: Invalid value: \"a_b\": a lowercase RFC 1123 subdomain"],
        ),
        (
            json!({"spec": {"nodeName": "N"}}),
            vec!["spec.nodeName: Invalid value: \"N\": a lowercase RFC 1123 subdomain"],
        ),
        (
            json!({"spec": {"source": null}}),
            vec!["spec.source: Required value: must specify exactly one of inlineVolumeSpec"],
        ),
        (
            json!({"spec": {"source": {"inlineVolumeSpec": {}}}}),
            vec!["spec.source: Forbidden: must specify exactly one of inlineVolumeSpec"],
        ),
        (
            json!({"spec": {"source": {"persistentVolumeName": ""}}}),
            vec!["spec.source.persistentVolumeName: Required value: must specify non empty"],
        ),
        (
            json!({"spec": {"source": {"persistentVolumeName": "P"}}}),
            vec!["spec.source.persistentVolumeName: Invalid value: \"P\""],
        ),
        (
            inline(json!({"csi": null, "nfs": {"server": "s", "path": "/"}})),
            vec!["spec.source.inlineVolumeSpec.csi: Required value: has to be specified in"],
        ),
        (
            inline(json!({"accessModes": [], "capacity": {"storage": "1"}, "claimRef": {},
                "persistentVolumeReclaimPolicy": "Delete", "volumeMode": "Block",
                "storageClassName": "fast", "nodeAffinity": {}})),
            vec![
                "spec.source.inlineVolumeSpec.capacity: Forbidden: may not be specified in the",
                "spec.source.inlineVolumeSpec.accessModes: Required value",
                "spec.source.inlineVolumeSpec.persistentVolumeReclaimPolicy: Forbidden: may only \
                 be Retain in the context of inline volumes",
                "spec.source.inlineVolumeSpec.nodeAffinity: Forbidden: may not be specified in",
                "spec.source.inlineVolumeSpec.storageClassName: Forbidden: may not be specified",
                "spec.source.inlineVolumeSpec.volumeMode: Forbidden: may not specify volumeMode",
            ],
        ),
        (
            json!({"status": {"attachmentMetadata": {"a": "x".repeat(256 * 1024)},
                "attachError": {"message": "x".repeat(1025)}, "detachError": {"errorCode": -1}}}),
            vec![
                "status.attachmentMetadata: Too long: may not be more than 262144 bytes",
                "status.attachError.message: Too long: may not be more than 1024 bytes",
                "status.detachError.errorCode: Invalid value: -1: must be between 0 and",
            ],
        ),
    ];
    creations(STORAGE, "volumeattachments", &base, table);
    let table = vec![
        (json!({"status": {"attached": true}, "metadata": {"labels": {"a": "b"}}}), vec![]),
        (
            json!({"spec": {"nodeName": "n2"}}),
            vec!["spec: Invalid value: {\"attacher\":\"disk.example.com\",\"nodeName\":\"n2\""],
        ),
        (
            json!({"spec": {"source": {"persistentVolumeName": "other"}}}),
            vec!["spec: Invalid value: {"],
        ),
    ];
    updates(STORAGE, "volumeattachments", &base, table);
}

#[test]
fn csi_drivers() {
    let base = json!({"metadata": {"name": "disk.example.com"}, "spec": {}});
    let spec = |spec: Value| json!({"spec": spec});
    let table = vec![
        (json!({}), vec![]),
        (json!({"metadata": {"name": "a_b"}}), vec!["metadata.name: Invalid value: \"a_b\""]),
        (
            spec(json!({"attachRequired": false, "podInfoOnMount": true, "fsGroupPolicy": "File",
                "volumeLifecycleModes": ["Ephemeral", "Persistent"]})),
            vec![],
        ),
        (
            spec(json!({"fsGroupPolicy": "Always"})),
            vec![
                "spec.fsGroupPolicy: Unsupported value: \"Always\": supported values: \"File\", \
                 \"None\", \"ReadWriteOnceWithFSType\"",
            ],
        ),
        (
            spec(json!({"volumeLifecycleModes": ["Eternal"]})),
            vec![
                "spec.volumeLifecycleModes: Unsupported value: \"Eternal\": supported values: \
                 \"Persistent\", \"Ephemeral\"",
            ],
        ),
        (
            spec(json!({"tokenRequests": [{"audience": "a"}, {"audience": "a"}]})),
            vec!["spec.tokenRequests[1].audience: Duplicate value: \"a\""],
        ),
        (spec(json!({"tokenRequests": [{"audience": "", "expirationSeconds": 600}]})), vec![]),
        (
            spec(json!({"tokenRequests": [{"audience": "", "expirationSeconds": 599}]})),
            vec![
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 599: may not specify a \
                 duration less than 10 minutes",
            ],
        ),
        (
            spec(json!({"tokenRequests": [{"audience": "", "expirationSeconds": 4294967297_i64}]})),
            vec![
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 4294967297: may not \
                 specify a duration larger than 2^32 seconds",
            ],
        ),
        (
            spec(json!({"nodeAllocatableUpdatePeriodSeconds": 9})),
            vec![
                "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than \
                 or equal to 10 seconds",
            ],
        ),
        (
            spec(json!({"serviceAccountTokenInSecrets": true})),
            vec![
                "spec.serviceAccountTokenInSecrets: Invalid value: true: \
                 serviceAccountTokenInSecrets is set but no tokenRequests are specified",
            ],
        ),
    ];
    creations(STORAGE, "csidrivers", &base, table);
    let table = vec![
        (
            spec(json!({"podInfoOnMount": true, "storageCapacity": true, "fsGroupPolicy": "None",
                "requiresRepublish": true, "seLinuxMount": true,
                "tokenRequests": [{"audience": "a"}]})),
            vec![],
        ),
        (
            spec(json!({"attachRequired": false})),
            vec!["spec.attachedRequired: Invalid value: false: field is immutable"],
        ),
        (
            spec(json!({"volumeLifecycleModes": ["Ephemeral"]})),
            vec!["spec.volumeLifecycleModes: Invalid value: [\"Ephemeral\"]: field is immutable"],
        ),
    ];
    updates(STORAGE, "csidrivers", &base, table);
}

#[test]
fn csi_nodes() {
    let driver = json!({"name": "disk.example.com", "nodeID": "id-1", "topologyKeys": ["zone"],
        "allocatable": {"count": 8}});
    let with = |change: Value| {
        let mut driver = driver.clone();
        json_patch::merge(&mut driver, &change);
        json!({"spec": {"drivers": [driver]}})
    };
    let base = json!({"metadata": {"name": "n1"}, "spec": {"drivers": [driver]}});
    let table = vec![
        (json!({}), vec![]),
        (json!({"spec": {"drivers": []}}), vec![]),
        (json!({"metadata": {"name": "N"}}), vec!["metadata.name: Invalid value: \"N\""]),
        (
            with(json!({"name": null})),
            vec![
                "spec.drivers[0].name: Required value",
                "spec.drivers[0].name: Invalid value: \"\": a lowercase RFC 1123 subdomain",
            ],
        ),
        (
            with(json!({"name": "d".repeat(64)})),
            vec!["spec.drivers[0].name: Too long: may not be more than 63 bytes"],
        ),
        (with(json!({"nodeID": ""})), vec!["spec.drivers[0].nodeID: Required value"]),
        (with(json!({"nodeID": "i".repeat(256)})), vec![]),
        (
            with(json!({"nodeID": "i".repeat(257)})),
            vec!["spec.drivers[0].nodeID: Invalid value: \"iii"],
        ),
        (
            with(json!({"allocatable": {"count": -1}})),
            vec![
                "spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or \
                 equal to 0",
            ],
        ),
        (
            with(json!({"topologyKeys": ["a", "a"]})),
            vec!["spec.drivers[0]: Duplicate value: \"a\""],
        ),
        (
            with(json!({"topologyKeys": ["a b"]})),
            vec!["spec.drivers[0]: Invalid value: \"a b\": name part must consist"],
        ),
        (
            json!({"spec": {"drivers": [driver, driver]}}),
            vec!["spec.drivers[1].name: Duplicate value: \"disk.example.com\""],
        ),
    ];
    creations(STORAGE, "csinodes", &base, table);
    let table = vec![
        (with(json!({"allocatable": {"count": 9}})), vec![]),
        (with(json!({"name": "other.example.com", "nodeID": "id-2"})), vec![]),
        (json!({"spec": {"drivers": []}}), vec![]),
        (
            with(json!({"nodeID": "id-2"})),
            vec![
                "spec.drivers: Invalid value: {\"name\":\"disk.example.com\",\"nodeID\":\"id-2\",\
                 \"topologyKeys\":[\"zone\"]}: field is immutable",
            ],
        ),
        (with(json!({"topologyKeys": ["zone", "rack"]})), vec!["spec.drivers: Invalid value: {"]),
    ];
    updates(STORAGE, "csinodes", &base, table);
}

#[test]
fn csi_storage_capacities() {
    let base = json!({
        "metadata": {"name": "c", "namespace": "d"}, "storageClassName": "fast",
        "nodeTopology": {"matchLabels": {"zone": "a"}}, "capacity": "1Gi",
    });
    let table = vec![
        (json!({}), vec![]),
        (json!({"capacity": null, "nodeTopology": null}), vec![]),
        (json!({"capacity": "0"}), vec![]),
        (json!({"metadata": {"namespace": null}}), vec!["metadata.namespace: Required value"]),
        (json!({"metadata": {"name": "C"}}), vec!["metadata.name: Invalid value: \"C\""]),
        (
            json!({"capacity": "-1Gi"}),
            vec!["capacity: Invalid value: \"-1Gi\": must be greater than or equal to 0"],
        ),
        (
            json!({"storageClassName": null}),
            vec!["storageClassName: Invalid value: \"\": a lowercase RFC 1123 subdomain"],
        ),
        (json!({"storageClassName": "F"}), vec!["storageClassName: Invalid value: \"F\""]),
        (
            json!({"nodeTopology": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}),
            vec!["nodeTopology.matchExpressions[0].operator: Invalid value: \"Near\""],
        ),
        (
            json!({"nodeTopology": {"matchLabels": {"a": "b c"}}}),
            vec!["nodeTopology.matchLabels: Invalid value: \"b c\": a valid label must be"],
        ),
    ];
    creations(STORAGE, "csistoragecapacities", &base, table);
    let table = vec![
        (json!({"capacity": "2Gi", "maximumVolumeSize": "1Gi"}), vec![]),
        (
            json!({"storageClassName": "slow"}),
            vec!["storageClassName: Invalid value: \"slow\": field is immutable"],
        ),
        (
            json!({"nodeTopology": {"matchLabels": {"zone": "b"}}}),
            vec!["nodeTopology: Invalid value: {\"matchLabels\":{\"zone\":\"b\"}}: field is"],
        ),
        (json!({"nodeTopology": null}), vec!["nodeTopology: Invalid value: null: field is"]),
    ];
    updates(STORAGE, "csistoragecapacities", &base, table);
}
