//! Volumes of pods, but those of files that the cluster writes.

use serde_json::{Value, json};

use super::{in_spec, in_volume};

pub(super) const ALL: &[fn()] = &[
    lists,
    local,
    config_maps_and_secrets,
    network,
    disks,
    by_iscsi,
    storage_drivers,
    claims_of_the_pod,
    images,
];

#[test]
fn lists() {
    in_spec(&[
        (json!({"volumes": [{"name": "a"}, {"name": "b", "hostPath": {"path": "/"}}]}), &[]),
        (json!({"volumes": [{}]}), &[".volumes[0].name: Required value"]),
        (
            json!({"volumes": [{"name": "a.b"}]}),
            &[".volumes[0].name: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            json!({"volumes": [{"name": "a"}, {"name": "a", "configMap": {}}]}),
            &[
                ".volumes[1].configMap.name: Required value",
                ".volumes[1].name: Duplicate value: \"a\"",
            ],
        ),
        (
            json!({"volumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}]}),
            &[".volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        // What is wrong cannot be mounted.
        (
            json!({"volumes": [{"name": "a", "secret": {}}], "containers": [{"name": "c",
                "image": "i", "volumeMounts": [{"name": "a", "mountPath": "/a"}]}]}),
            &[
                ".volumes[0].secret.secretName: Required value",
                ".containers[0].volumeMounts[0].name: Not found: \"a\"",
            ],
        ),
    ]);
}

#[test]
fn local() {
    in_volume(&[
        (json!({"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}), &[]),
        (
            json!({"emptyDir": {"sizeLimit": "-1"}}),
            &[".emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource \
                 quantity"],
        ),
        (json!({"hostPath": {"path": "/var", "type": "DirectoryOrCreate"}}), &[]),
        (json!({"hostPath": {}}), &[".hostPath.path: Required value"]),
        (
            json!({"hostPath": {"path": "/a/../b"}}),
            &[".hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"],
        ),
        (
            json!({"hostPath": {"path": "/a", "type": "Folder"}}),
            &[".hostPath.type: Unsupported value: \"Folder\": supported values: \"\", \
                 \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \
                 \"FileOrCreate\", \"Socket\""],
        ),
        (json!({"gitRepo": {"repository": "r", "directory": "a"}}), &[]),
        (json!({"gitRepo": {}}), &[".gitRepo.repository: Required value"]),
        (
            json!({"gitRepo": {"repository": "r", "directory": "/a"}}),
            &[".gitRepo.directory: Invalid value: \"/a\": must be a relative path"],
        ),
        (
            json!({"persistentVolumeClaim": {}}),
            &[".persistentVolumeClaim.claimName: Required value"],
        ),
    ]);
}

#[test]
fn config_maps_and_secrets() {
    let mode = "must be a number between 0 and 0777 (octal), both inclusive";
    for (kind, name) in [("configMap", "name"), ("secret", "secretName")] {
        let with = |change: Value| {
            let mut source = json!({name: "a"});
            json_patch::merge(&mut source, &change);
            json!({kind: source})
        };
        let item = |change: Value| {
            let mut item = json!({"key": "k", "path": "p"});
            json_patch::merge(&mut item, &change);
            with(json!({"items": [item]}))
        };
        in_volume(&[
            (item(json!({"mode": 0o777})), &[]),
            (with(json!({name: null})), &[&format!(".{kind}.{name}: Required value")]),
            (
                with(json!({"defaultMode": 512})),
                &[&format!(".{kind}.defaultMode: Invalid value: 512: {mode}")],
            ),
            (
                with(json!({"defaultMode": -1})),
                &[&format!(".{kind}.defaultMode: Invalid value: -1: {mode}")],
            ),
            (
                item(json!({"mode": 1000})),
                &[&format!(".{kind}.items[0].mode: Invalid value: 1000: {mode}")],
            ),
            (item(json!({"key": null})), &[&format!(".{kind}.items[0].key: Required value")]),
            (item(json!({"path": ""})), &[&format!(".{kind}.items[0].path: Required value")]),
            (
                item(json!({"path": "/a"})),
                &[&format!(
                    ".{kind}.items[0].path: Invalid value: \"/a\": must be a relative path"
                )],
            ),
            (
                item(json!({"path": "a/../b"})),
                &[&format!(
                    ".{kind}.items[0].path: Invalid value: \"a/../b\": must not contain '..'"
                )],
            ),
            (
                item(json!({"path": "..data"})),
                &[&format!(
                    ".{kind}.items[0].path: Invalid value: \"..data\": must not start with '..'"
                )],
            ),
        ]);
    }
}

#[test]
fn network() {
    in_volume(&[
        (json!({"nfs": {"server": "s", "path": "/p"}}), &[]),
        (
            json!({"nfs": {"server": "", "path": "p"}}),
            &[
                ".nfs.server: Required value",
                ".nfs.path: Invalid value: \"p\": must be an absolute path",
            ],
        ),
        (
            json!({"glusterfs": {"endpoints": "", "path": ""}}),
            &[".glusterfs.endpoints: Required value", ".glusterfs.path: Required value"],
        ),
        (
            json!({"flocker": {}}),
            &[".flocker: Required value: one of datasetName and datasetUUID is required"],
        ),
        (
            json!({"flocker": {"datasetName": "a/b"}}),
            &[".flocker.datasetName: Invalid value: \"a/b\": must not contain '/'"],
        ),
        (
            json!({"rbd": {"monitors": [], "image": ""}}),
            &[".rbd.monitors: Required value", ".rbd.image: Required value"],
        ),
        (json!({"cephfs": {"monitors": []}}), &[".cephfs.monitors: Required value"]),
        (
            json!({"quobyte": {"registry": "", "volume": "v"}}),
            &[".quobyte.registry: Required value: must be a host:port pair or multiple pairs"],
        ),
        (
            json!({"quobyte": {"registry": "a", "volume": ""}}),
            &[
                ".quobyte.volume: Required value",
                ".quobyte.registry: Invalid value: \"a\": must be a host:port pair",
            ],
        ),
        (
            json!({"fc": {}}),
            &[".fc.targetWWNs: Required value: must specify either targetWWNs or wwids, but not \
                 both"],
        ),
        (
            json!({"fc": {"targetWWNs": ["a"]}}),
            &[".fc.lun: Required value: lun is required if targetWWNs is specified"],
        ),
        (json!({"cinder": {"volumeID": "v", "secretRef": {"name": "s"}}}), &[]),
        (
            json!({"cinder": {"volumeID": "v", "secretRef": {}}}),
            &[".cinder.secretRef.name: Required value"],
        ),
        (
            json!({"storageos": {"volumeName": "A"}}),
            &[".storageos.volumeName: Invalid value: \"A\": a lowercase RFC 1123 label"],
        ),
        (
            json!({"scaleIO": {"gateway": "", "system": "", "volumeName": "v",
                "secretRef": {"name": "s"}}}),
            &[".scaleIO.gateway: Required value", ".scaleIO.system: Required value"],
        ),
    ]);
}

#[test]
fn disks() {
    in_volume(&[
        (json!({"gcePersistentDisk": {"pdName": "d", "partition": 0}}), &[]),
        (
            json!({"gcePersistentDisk": {"pdName": "", "partition": 256}}),
            &[
                ".persistentDisk.pdName: Required value",
                ".persistentDisk.partition: Invalid value: 256: must be between 1 and 255, \
                 inclusive",
            ],
        ),
        (
            json!({"awsElasticBlockStore": {"volumeID": ""}}),
            &[".awsElasticBlockStore.volumeID: Required value"],
        ),
        (
            json!({"azureFile": {"secretName": "", "shareName": ""}}),
            &[".azureFile.secretName: Required value", ".azureFile.shareName: Required value"],
        ),
        (
            json!({"azureDisk": {"diskName": "d", "diskURI": "x", "kind": "Managed"}}),
            &[".azureDisk.diskURI: Unsupported value: \"x\": supported values: \
                 \"/subscriptions/{sub-id}/resourcegroups"],
        ),
        (
            json!({"azureDisk": {"diskName": "d", "diskURI": "https://x", "cachingMode": "All"}}),
            &[".azureDisk.cachingMode: Unsupported value: \"All\": supported values: \"None\", \
                 \"ReadOnly\", \"ReadWrite\""],
        ),
        (
            json!({"vsphereVolume": {"volumePath": ""}}),
            &[".vsphereVolume.volumePath: Required value"],
        ),
        (
            json!({"photonPersistentDisk": {"pdID": ""}}),
            &[".photonPersistentDisk.pdID: Required value"],
        ),
        (
            json!({"portworxVolume": {"volumeID": ""}}),
            &[".portworxVolume.volumeID: Required value"],
        ),
        (
            json!({"flexVolume": {"driver": "", "options": {"k8s.io/a": ""}}}),
            &[
                ".flexVolume.driver: Required value",
                ".flexVolume.options[k8s.io/a]: Invalid value: \"k8s.io/a\": kubernetes.io and \
                 k8s.io namespaces are reserved",
            ],
        ),
    ]);
}

#[test]
fn by_iscsi() {
    let with = |change: Value| {
        let mut source = json!({"targetPortal": "10.0.0.1:3260", "lun": 0,
            "iqn": "iqn.2001-04.com.example:a"});
        json_patch::merge(&mut source, &change);
        json!({"iscsi": source})
    };
    let starting = "must be valid format starting with iqn, eui, or naa";
    in_volume(&[
        (with(json!({"initiatorName": "eui.0123456789ABCDEF"})), &[]),
        (with(json!({"targetPortal": ""})), &[".iscsi.targetPortal: Required value"]),
        (with(json!({"iqn": ""})), &[".iscsi.iqn: Required value"]),
        (
            with(json!({"iqn": "abc"})),
            &[&format!(".iscsi.iqn: Invalid value: \"abc\": {starting}")],
        ),
        (
            with(json!({"iqn": "eui.0"})),
            &[".iscsi.iqn: Invalid value: \"eui.0\": must be valid format"],
        ),
        (
            with(json!({"initiatorName": "me"})),
            &[&format!(".iscsi.initiatorname: Invalid value: \"me\": {starting}")],
        ),
        (
            with(json!({"lun": 256})),
            &[".iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive"],
        ),
        (with(json!({"chapAuthSession": true})), &[".iscsi.secretRef: Required value"]),
        (
            with(json!({"initiatorName": "iqn.2001-04.com.example:a",
                "targetPortal": "p".repeat(63)})),
            &[".name: Invalid value: \"v\": Total length of <volume name>:<iscsi.targetPortal> \
                 must be under 64 characters if iscsi.initiatorName is specified."],
        ),
    ]);
}

#[test]
fn storage_drivers() {
    in_volume(&[
        (
            json!({"csi": {"driver": "disk.example.com", "nodePublishSecretRef": {"name": "s"}}}),
            &[],
        ),
        (
            json!({"csi": {"driver": ""}}),
            &[
                ".csi.driver: Required value",
                ".csi.driver: Invalid value: \"\": a lowercase RFC 1123 subdomain",
            ],
        ),
        (
            json!({"csi": {"driver": "d".repeat(64)}}),
            &[".csi.driver: Too long: may not be more than 63 bytes"],
        ),
        (
            json!({"csi": {"driver": "d", "nodePublishSecretRef": {}}}),
            &[".csi.nodePublishSecretRef.name: Required value"],
        ),
        (
            json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "S"}}}),
            &[".csi.name: Invalid value: \"S\": a lowercase RFC 1123 subdomain"],
        ),
    ]);
}

#[test]
fn claims_of_the_pod() {
    let with = |change: Value| {
        let mut template = json!({"spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
        json_patch::merge(&mut template, &change);
        json!({"ephemeral": {"volumeClaimTemplate": template}})
    };
    let at = ".ephemeral.volumeClaimTemplate";
    in_volume(&[
        (with(json!({"metadata": {"labels": {"a": "b"}}})), &[]),
        (json!({"ephemeral": {}}), &[&format!("{at}: Required value")]),
        (
            with(json!({"spec": {"accessModes": []}})),
            &[&format!(
                "{at}.spec.accessModes: Required value: at least 1 access mode is required"
            )],
        ),
        (
            with(json!({"spec": {"resources": null}})),
            &[&format!("{at}.spec.resources[storage]: Required value")],
        ),
        (
            with(json!({"metadata": {"name": "a"}})),
            &[&format!("{at}.metadata.name: Forbidden: cannot be set")],
        ),
        (
            with(json!({"metadata": {"labels": {"a": "b c"}}})),
            &[&format!("{at}.metadata.labels: Invalid value: \"b c\": a valid label must be")],
        ),
    ]);
    let claim = with(json!({}));
    let long = "x".repeat(63);
    let spec = |volume: &str, claim_name: &str| {
        let mut ephemeral = json!({"name": volume});
        json_patch::merge(&mut ephemeral, &claim);
        json!({"volumes": [ephemeral, {"name": "other",
            "persistentVolumeClaim": {"claimName": claim_name}}]})
    };
    in_spec(&[
        (spec(&long, "mine"), &[]),
        (
            spec("v", "p-v"),
            &[".volumes[1].persistentVolumeClaim.claimName: Invalid value: \"p-v\": must not \
                 reference a PVC that gets created for an ephemeral volume"],
        ),
    ]);
}

#[test]
fn images() {
    in_volume(&[
        (json!({"image": {"reference": "registry.example.com/i:1"}}), &[]),
        (json!({"image": {}}), &[".image.reference: Required value"]),
        (
            json!({"image": {"reference": "i", "pullPolicy": "Often"}}),
            &[".image.pullPolicy: Unsupported value: \"Often\": supported values: \"Always\", \
                 \"IfNotPresent\", \"Never\""],
        ),
    ]);
}
