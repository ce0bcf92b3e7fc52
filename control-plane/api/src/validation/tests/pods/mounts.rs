//! Mounts and devices of containers.

use serde_json::{Value, json};

use super::tries;

pub(super) const ALL: &[fn()] = &[mounts, parts_of_volumes, propagation, devices];

/// The lists of a container of a pod with an empty volume `v`, a claim `w`, and a directory `x`.
fn place(container: &Value) -> Value {
    let mut whole = json!({"name": "c", "image": "i"});
    json_patch::merge(&mut whole, container);
    json!({"spec": {"containers": [whole], "volumes": [{"name": "v", "emptyDir": {}},
        {"name": "w", "persistentVolumeClaim": {"claimName": "w"}},
        {"name": "x", "hostPath": {"path": "/x"}}]}})
}

fn in_lists(rows: &[super::Row<'_>]) {
    tries("spec.containers[0]", place, rows);
}

fn mount(change: Value) -> Value {
    let mut mount = json!({"name": "v", "mountPath": "/v"});
    json_patch::merge(&mut mount, &change);
    json!({"volumeMounts": [mount]})
}

#[test]
fn mounts() {
    in_lists(&[
        (mount(json!({"readOnly": true})), &[]),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a"},
                {"name": "v", "mountPath": "/b"}]}),
            &[],
        ),
        (mount(json!({"name": "unknown"})), &[".volumeMounts[0].name: Not found: \"unknown\""]),
        (
            mount(json!({"name": null})),
            &[".volumeMounts[0].name: Required value", ".volumeMounts[0].name: Not found: \"\""],
        ),
        (mount(json!({"mountPath": ""})), &[".volumeMounts[0].mountPath: Required value"]),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a"},
                {"name": "x", "mountPath": "/a"}]}),
            &[".volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique"],
        ),
        (
            json!({"volumeMounts": [{"name": "w", "mountPath": "/a"}],
                "volumeDevices": [{"name": "w", "devicePath": "/dev/a"}]}),
            &[
                ".volumeMounts[0].name: Invalid value: \"w\": must not already exist in \
                 volumeDevices",
                ".volumeDevices[0].name: Invalid value: \"w\": must not already exist in \
                 volumeMounts",
            ],
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}],
                "volumeDevices": [{"name": "w", "devicePath": "/a"}]}),
            &[
                ".volumeMounts[0].mountPath: Invalid value: \"/a\": must not already exist as a \
                 path in volumeDevices",
                ".volumeDevices[0].devicePath: Invalid value: \"/a\": must not already exist as \
                 a path in volumeMounts",
            ],
        ),
    ]);
}

#[test]
fn parts_of_volumes() {
    in_lists(&[
        (mount(json!({"subPath": "a/..b"})), &[]),
        (mount(json!({"subPathExpr": "$(NAME)/a"})), &[]),
        (
            mount(json!({"subPath": "/a"})),
            &[".volumeMounts.subPath: Invalid value: \"/a\": must be a relative path"],
        ),
        (
            mount(json!({"subPath": "a/../b"})),
            &[".volumeMounts.subPath: Invalid value: \"a/../b\": must not contain '..'"],
        ),
        (
            mount(json!({"subPath": "/../.."})),
            &[
                ".volumeMounts.subPath: Invalid value: \"/../..\": must be a relative path",
                ".volumeMounts.subPath: Invalid value: \"/../..\": must not contain '..'",
            ],
        ),
        (
            mount(json!({"subPathExpr": "/$(A)"})),
            &[".volumeMounts.subPathExpr: Invalid value: \"/$(A)\": must be a relative path"],
        ),
        (
            mount(json!({"subPathExpr": ".."})),
            &[".volumeMounts.subPathExpr: Invalid value: \"..\": must not contain '..'"],
        ),
        (
            mount(json!({"subPath": "a", "subPathExpr": "b"})),
            &[".volumeMounts[0].subPathExpr: Invalid value: \"b\": subPathExpr and subPath are \
                 mutually exclusive"],
        ),
    ]);
}

#[test]
fn propagation() {
    let only = "Bidirectional mount propagation is available only to privileged containers";
    in_lists(&[
        (mount(json!({"mountPropagation": "HostToContainer"})), &[]),
        (
            json!({"volumeMounts": [{"name": "x", "mountPath": "/x",
                "mountPropagation": "Bidirectional"}], "securityContext": {"privileged": true}}),
            &[],
        ),
        (
            mount(json!({"mountPropagation": "Both"})),
            &[".volumeMounts.mountPropagation: Unsupported value: \"Both\": supported values: \
                 \"Bidirectional\", \"HostToContainer\", \"None\""],
        ),
        (
            mount(json!({"mountPropagation": "Bidirectional"})),
            &[&format!(".volumeMounts.mountPropagation: Forbidden: {only}")],
        ),
        (
            mount(json!({"readOnly": true, "recursiveReadOnly": "Enabled",
                "mountPropagation": "None"})),
            &[],
        ),
        (mount(json!({"recursiveReadOnly": "Disabled"})), &[]),
        (
            mount(json!({"recursiveReadOnly": "IfPossible"})),
            &[".volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly \
                 is true"],
        ),
        (
            mount(json!({"readOnly": true, "recursiveReadOnly": "Enabled",
                "mountPropagation": "HostToContainer"})),
            &[".volumeMounts.recursiveReadOnly: Forbidden: may only be specified when \
                 mountPropagation is None or not specified"],
        ),
        (
            mount(json!({"readOnly": true, "recursiveReadOnly": "Maybe"})),
            &[".volumeMounts.recursiveReadOnly: Unsupported value: \"Maybe\": supported values: \
                 \"Disabled\", \"Enabled\", \"IfPossible\""],
        ),
    ]);
}

#[test]
fn devices() {
    let device = |change: Value| {
        let mut device = json!({"name": "w", "devicePath": "/dev/w"});
        json_patch::merge(&mut device, &change);
        json!({"volumeDevices": [device]})
    };
    in_lists(&[
        (device(json!({})), &[]),
        (device(json!({"name": "y"})), &[".volumeDevices[0].name: Not found: \"y\""]),
        (
            device(json!({"name": ""})),
            &[".volumeDevices[0].name: Required value", ".volumeDevices[0].name: Not found: \"\""],
        ),
        (
            device(json!({"name": "v"})),
            &[".volumeDevices[0].name: Invalid value: \"v\": can only use volume source type of \
                 PersistentVolumeClaim or Ephemeral for block mode"],
        ),
        (device(json!({"devicePath": null})), &[".volumeDevices[0].devicePath: Required value"]),
        (
            device(json!({"devicePath": "/dev/../w"})),
            &[".volumeDevices[0].devicePath: Invalid value: \"/dev/../w\": can not contain \
                 backsteps ('..')"],
        ),
        (
            json!({"volumeDevices": [{"name": "w", "devicePath": "/dev/a"},
                {"name": "w", "devicePath": "/dev/a"}]}),
            &[
                ".volumeDevices[1].name: Invalid value: \"w\": must be unique",
                ".volumeDevices[1].devicePath: Invalid value: \"/dev/a\": must be unique",
            ],
        ),
    ]);
}
