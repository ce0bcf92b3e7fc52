//! The environment of containers.

use serde_json::{Value, json};

use super::{in_container, in_spec, tries};

pub(super) const ALL: &[fn()] =
    &[variables, fields, resources, keys, files_of_variables, whole_sets];

fn in_variable(rows: &[super::Row<'_>]) {
    let place = |from: &Value| {
        json!({"spec": {"containers": [{"name": "c", "image": "i",
        "env": [{"name": "V", "valueFrom": from}]}]}})
    };
    tries("spec.containers[0].env[0].valueFrom", place, rows);
}

#[test]
fn variables() {
    let from = json!({"fieldRef": {"fieldPath": "metadata.name"}});
    in_container(&[
        (json!({"env": [{"name": "A b.c-1", "value": "$(X)"}, {"name": "EMPTY"}]}), &[]),
        (json!({"env": [{"value": "x"}]}), &[".env[0].name: Required value"]),
        (
            json!({"env": [{"name": "A=B"}]}),
            &[".env[0].name: Invalid value: \"A=B\": a valid environment variable name must \
                 consist only of printable ASCII characters other than '='"],
        ),
        (
            json!({"env": [{"name": "\u{e4}"}]}),
            &[".env[0].name: Invalid value: \"\u{e4}\": a valid environment variable name must"],
        ),
        (
            json!({"env": [{"name": "A", "value": "x", "valueFrom": from}]}),
            &[".env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is \
                 not empty"],
        ),
    ]);
    in_variable(&[
        (from, &[]),
        (
            json!({}),
            &[": Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, \
                 `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"],
        ),
        (
            json!({"fieldRef": {"fieldPath": "metadata.name"}, "secretKeyRef": {"name": "s",
                "key": "k"}}),
            &[": Invalid value: \"\": may not have more than one field specified at a time"],
        ),
    ]);
}

#[test]
fn fields() {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let converting = "error converting fieldPath";
    in_variable(&[
        (field("status.podIPs"), &[]),
        (field("spec.host"), &[]),
        (field("metadata.labels['app.kubernetes.io/name']"), &[]),
        (field("metadata.annotations['A']"), &[]),
        (json!({"fieldRef": {}}), &[".fieldRef.fieldPath: Required value"]),
        (
            json!({"fieldRef": {"apiVersion": "v2", "fieldPath": "metadata.name"}}),
            &[&format!(
                ".fieldRef.fieldPath: Invalid value: \"metadata.name\": {converting}: \
                 unsupported pod version: v2"
            )],
        ),
        (
            field("spec.color"),
            &[&format!(
                ".fieldRef.fieldPath: Invalid value: \"spec.color\": {converting}: field label \
                 not supported: spec.color"
            )],
        ),
        (
            field("metadata.labels"),
            &[".fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \
                 \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \
                 \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \
                 \"status.podIP\", \"status.podIPs\""],
        ),
        (field("status.phase"), &[".fieldRef.fieldPath: Unsupported value: \"status.phase\""]),
        (
            field("metadata.name['a']"),
            &[&format!(
                ".fieldRef.fieldPath: Invalid value: \"metadata.name['a']\": {converting}: field \
                 label does not support subscript: metadata.name['a']"
            )],
        ),
        (
            field("metadata.labels['a b']"),
            &[".fieldRef: Invalid value: \"a b\": name part must consist of"],
        ),
        (
            field("metadata.annotations['A/B/C']"),
            &[".fieldRef: Invalid value: \"a/b/c\": a qualified name must consist of"],
        ),
    ]);
}

#[test]
fn resources() {
    let resource = |resource: &str, divisor: &str| {
        json!({"resourceFieldRef": {"resource": resource,
            "divisor": divisor}})
    };
    let bytes = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    in_variable(&[
        (resource("limits.cpu", "1m"), &[]),
        (resource("requests.memory", "1Mi"), &[]),
        (resource("limits.hugepages-2Mi", "0"), &[]),
        (json!({"resourceFieldRef": {}}), &[".resourceFieldRef.resource: Required value"]),
        (
            resource("limits.gpu", "0"),
            &[".resourceFieldRef.resource: Unsupported value: \"limits.gpu\": supported \
                 values: \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \
                 \"requests.cpu\", \"requests.ephemeral-storage\", \"requests.memory\""],
        ),
        (
            resource("limits.cpu", "1k"),
            &[".resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values \
                 1m and 1 are supported with the cpu resource"],
        ),
        (
            resource("requests.memory", "2Mi"),
            &[&format!(
                ".resourceFieldRef.divisor: Invalid value: \"requests.memory\": only divisor's \
                 values {bytes} are supported with the memory resource"
            )],
        ),
        (
            resource("limits.ephemeral-storage", "1m"),
            &[&format!(
                ".resourceFieldRef.divisor: Invalid value: \"limits.ephemeral-storage\": only \
                 divisor's values {bytes} are supported with the local ephemeral storage resource"
            )],
        ),
        (
            resource("requests.hugepages-2Mi", "3"),
            &[&format!(
                ".resourceFieldRef.divisor: Invalid value: \"requests.hugepages-2Mi\": only \
                 divisor's values {bytes} are supported with the hugepages resource"
            )],
        ),
    ]);
}

#[test]
fn keys() {
    in_variable(&[
        (json!({"configMapKeyRef": {"name": "c", "key": "a.b_C-1"}}), &[]),
        (json!({"secretKeyRef": {"name": "s", "key": "k", "optional": true}}), &[]),
        (
            json!({"configMapKeyRef": {"name": "C", "key": "k"}}),
            &[".configMapKeyRef.name: Invalid value: \"C\": a lowercase RFC 1123 subdomain"],
        ),
        (json!({"configMapKeyRef": {"name": "c"}}), &[".configMapKeyRef.key: Required value"]),
        (
            json!({"configMapKeyRef": {"key": "k"}}),
            &[".configMapKeyRef.name: Invalid value: \"\": a lowercase RFC 1123 subdomain"],
        ),
        (
            json!({"secretKeyRef": {"name": "s", "key": "a/b"}}),
            &[".secretKeyRef.key: Invalid value: \"a/b\": a valid config key must consist of"],
        ),
        (
            json!({"secretKeyRef": {"name": "s", "key": ".."}}),
            &[".secretKeyRef.key: Invalid value: \"..\": must not be '..'"],
        ),
        (json!({"secretKeyRef": {"name": "s", "key": ""}}), &[".secretKeyRef.key: Required value"]),
    ]);
}

#[test]
fn files_of_variables() {
    let row = |reference: Value| {
        let mut whole = json!({"volumeName": "v", "path": "a.env", "key": "A"});
        json_patch::merge(&mut whole, &reference);
        json!({"containers": [{"name": "c", "image": "i", "env": [{"name": "A",
            "valueFrom": {"fileKeyRef": whole}}]}],
            "volumes": [{"name": "v", "emptyDir": {}},
                {"name": "w", "configMap": {"name": "m"}}]})
    };
    let at = ".containers[0].env[0].valueFrom.fileKeyRef";
    in_spec(&[
        (row(json!({})), &[]),
        (row(json!({"key": ""})), &[&format!("{at}.key: Required value")]),
        (
            row(json!({"key": "A=B"})),
            &[&format!("{at}.key: Invalid value: \"A=B\": a valid environment variable name")],
        ),
        (row(json!({"path": null})), &[&format!("{at}.path: Required value")]),
        (
            row(json!({"path": "../a"})),
            &[&format!("{at}.path: Invalid value: \"../a\": must not contain '..'")],
        ),
        (
            row(json!({"volumeName": null})),
            &[
                &format!("{at}.volumeName: Required value"),
                &format!("{at}.volumeName: Not found: \"\""),
            ],
        ),
        (row(json!({"volumeName": "x"})), &[&format!("{at}.volumeName: Not found: \"x\"")]),
        (
            row(json!({"volumeName": "w"})),
            &[&format!(
                "{at}.volumeName: Invalid value: \"w\": referenced volume must be of type emptyDir"
            )],
        ),
    ]);
}

#[test]
fn whole_sets() {
    in_container(&[
        (
            json!({"envFrom": [{"prefix": "A_", "configMapRef": {"name": "c"}},
                {"secretRef": {"name": "s"}}]}),
            &[],
        ),
        (
            json!({"envFrom": [{"prefix": "A="}]}),
            &[
                ".envFrom[0].prefix: Invalid value: \"A=\": a valid environment variable name",
                ".envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
            ],
        ),
        (
            json!({"envFrom": [{}]}),
            &[".envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"],
        ),
        (
            json!({"envFrom": [{"configMapRef": {"name": "c"}, "secretRef": {"name": "s"}}]}),
            &[".envFrom: Invalid value: \"\": may not have more than one field specified at a \
                 time"],
        ),
        (
            json!({"envFrom": [{"configMapRef": {}}]}),
            &[".envFrom[0].configMapRef.name: Required value"],
        ),
        (
            json!({"envFrom": [{"secretRef": {"name": "S"}}]}),
            &[".envFrom[0].secretRef.name: Invalid value: \"S\": a lowercase RFC 1123 subdomain"],
        ),
    ]);
}
