//! Daemon sets, stateful sets, their revisions, and pod templates.

use serde_json::{Value, json};

use super::kind::{Kind, containers, spec};

/// The tables, to be counted.
pub(super) const ALL: &[fn()] =
    &[daemon_sets, stateful_sets, stateful_set_updates, controller_revisions, pod_templates];

fn set(kind: &str) -> Kind {
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers()}});
    let selector = json!({"matchLabels": {"a": "b"}});
    Kind::new("apps/v1", kind, json!({"spec": {"selector": selector, "template": template}}))
}

#[test]
fn daemon_sets() {
    let strategy = |strategy: Value| spec(json!({ "updateStrategy": strategy }));
    let rolling = |rolling: Value| strategy(json!({ "rollingUpdate": rolling }));
    set("DaemonSet").creates(&[
        (strategy(json!({"type": "OnDelete"})), vec![]),
        (rolling(json!({"maxSurge": "30%", "maxUnavailable": 0})), vec![]),
        (
            spec(json!({"selector": null})),
            vec![
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not \
                 match template `labels`",
            ],
        ),
        (
            spec(json!({"selector": {"matchLabels": null}})),
            vec!["spec.selector: Invalid value: {}: empty selector is invalid for daemonset"],
        ),
        (
            spec(json!({"selector": {"matchLabels": {"a": "c"}}})),
            vec![
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not",
            ],
        ),
        (
            strategy(json!({"type": "Random"})),
            vec![
                "spec.updateStrategy: Unsupported value: {\"type\":\"Random\"}: supported values: \
                 \"RollingUpdate\", \"OnDelete\"",
            ],
        ),
        (
            rolling(json!({"maxSurge": 1})),
            vec![
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set \
                 when maxUnavailable is non-zero",
            ],
        ),
        (
            rolling(json!({"maxSurge": "0%", "maxUnavailable": 0})),
            vec![
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 \
                 when maxSurge is 0",
            ],
        ),
        (
            rolling(json!({"maxUnavailable": "200%"})),
            vec![
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"200%\": must \
                 not be greater than 100%",
            ],
        ),
        (
            rolling(json!({"maxUnavailable": "many"})),
            vec![
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"many\": a \
                 valid percent string",
            ],
        ),
        (
            spec(json!({"minReadySeconds": -1, "revisionHistoryLimit": -1})),
            vec![
                "spec.minReadySeconds: Invalid value: -1: must be greater",
                "spec.revisionHistoryLimit: Invalid value: -1: must be greater",
            ],
        ),
        (
            spec(json!({"template": {"spec": {"restartPolicy": "Never",
                "activeDeadlineSeconds": 5}}})),
            vec![
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \
                 \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in \
                 DaemonSet is not Supported",
            ],
        ),
        (
            json!({"spec": null}),
            vec![
                "spec.template.metadata.labels: Invalid value: null: `selector` does not match",
                "spec.template.spec.containers: Required value",
            ],
        ),
    ]);
    let counted = json!({"status": {"collisionCount": 2}});
    set("DaemonSet").updates(&[
        (json!({}), spec(json!({"template": {"spec": {"hostname": "h"}}})), vec![]),
        (json!({}), strategy(json!({"type": "OnDelete", "rollingUpdate": null})), vec![]),
        (
            json!({}),
            spec(json!({"selector": {"matchLabels": {"c": "d"}},
                "template": {"metadata": {"labels": {"c": "d"}}}})),
            vec![
                "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"c\":\"d\"}}: field \
                is immutable",
            ],
        ),
        (counted.clone(), json!({"status": {"numberReady": 1, "collisionCount": 3}}), vec![]),
        (
            counted,
            json!({"status": {"numberReady": -1, "collisionCount": 1}}),
            vec![
                "status.numberReady: Invalid value: -1: must be greater",
                "status.collisionCount: Invalid value: 1: cannot be decremented",
            ],
        ),
    ]);
}

#[test]
fn stateful_sets() {
    let strategy = |strategy: Value| spec(json!({ "updateStrategy": strategy }));
    let rolling =
        |rolling: Value| strategy(json!({"type": "RollingUpdate", "rollingUpdate": rolling}));
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    let mounted = json!([{"name": "c", "image": "i", "volumeMounts": [{"name": "data",
        "mountPath": "/data"}]}]);
    let with_claim = spec(json!({"volumeClaimTemplates": [claim],
        "template": {"spec": {"containers": mounted}}}));
    set("StatefulSet").creates(&[
        (with_claim, vec![]),
        (spec(json!({"serviceName": "s", "podManagementPolicy": "Parallel"})), vec![]),
        (rolling(json!({"maxUnavailable": "50%", "partition": 3})), vec![]),
        (strategy(json!({"type": "OnDelete"})), vec![]),
        (
            spec(json!({"template": {"spec": {"containers": mounted}}})),
            vec!["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\""],
        ),
        (
            json!({"metadata": {"name": "a.b"}}),
            vec!["metadata.name: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            spec(json!({"podManagementPolicy": "Random"})),
            vec![
                "spec.podManagementPolicy: Invalid value: \"Random\": must be 'OrderedReady' or \
                 'Parallel'",
            ],
        ),
        (
            strategy(json!({"type": "Random"})),
            vec![
                "spec.updateStrategy: Invalid value: {\"type\":\"Random\"}: must be \
                 'RollingUpdate' or 'OnDelete'",
            ],
        ),
        (
            strategy(json!({"type": "OnDelete", "rollingUpdate": {"partition": 1}})),
            vec![
                "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed \
                 for updateStrategy 'RollingUpdate'",
            ],
        ),
        (
            rolling(json!({"maxUnavailable": 0, "partition": -1})),
            vec![
                "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater",
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0",
            ],
        ),
        (
            spec(json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Forget"}})),
            vec![
                "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \
                 \"Forget\": supported values: \"Retain\", \"Delete\"",
            ],
        ),
        (
            spec(json!({"replicas": -1, "minReadySeconds": -1, "ordinals": {"start": -1}})),
            vec![
                "spec.replicas: Invalid value: -1: must be greater",
                "spec.minReadySeconds: Invalid value: -1: must be greater",
                "spec.ordinals.start: Invalid value: -1: must be greater",
            ],
        ),
        (
            spec(json!({"serviceName": "a.b"})),
            vec!["spec.serviceName: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            spec(json!({"selector": null})),
            vec![
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not",
            ],
        ),
        (
            spec(json!({"selector": {"matchLabels": null}})),
            vec!["spec.selector: Invalid value: {}: empty selector is invalid for statefulset"],
        ),
        (
            spec(json!({"template": {"spec": {"restartPolicy": "Never",
                "activeDeadlineSeconds": 5}}})),
            vec![
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in \
                 StatefulSet is not Supported",
            ],
        ),
        (
            spec(json!({"volumeClaimTemplates": [{"metadata": {"name": "a"}}]})),
            vec![
                "spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access",
                "spec.volumeClaimTemplates[0].spec.resources[storage]: Required value",
            ],
        ),
        (
            spec(json!({"volumeClaimTemplates": [{"metadata": {"name": "a"}, "spec": {
                "accessModes": ["Write"], "resources": {"requests": {"storage": "0"}}}}]})),
            vec![
                "spec.volumeClaimTemplates[0].spec.accessModes: Unsupported value: \"Write\": \
                 supported values: \"ReadWriteOnce\"",
                "spec.volumeClaimTemplates[0].spec.resources[storage]: Invalid value: \"0\": must \
                 be greater than zero",
            ],
        ),
    ]);
}

#[test]
fn stateful_set_updates() {
    const REFUSED: &str = "spec: Forbidden: updates to statefulset spec for fields other than \
        'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', \
        'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    let status = |status: Value| json!({ "status": status });
    let none = json!({});
    set("StatefulSet").updates(&[
        (
            none.clone(),
            spec(json!({"replicas": 5, "ordinals": {"start": 2}, "minReadySeconds": 3,
                "revisionHistoryLimit": 2, "updateStrategy": {"rollingUpdate": {"partition": 1}},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"},
                "template": {"spec": {"hostname": "h"}}})),
            vec![],
        ),
        (none.clone(), spec(json!({"serviceName": "s"})), vec![REFUSED]),
        (none.clone(), spec(json!({"podManagementPolicy": "Parallel"})), vec![REFUSED]),
        (
            none.clone(),
            spec(json!({"volumeClaimTemplates": [{"metadata": {"name": "a"}}]})),
            vec![REFUSED],
        ),
        (
            none.clone(),
            spec(json!({"selector": {"matchLabels": {"c": "d"}},
                "template": {"metadata": {"labels": {"c": "d"}}}})),
            vec![REFUSED],
        ),
        // Names that would be refused today may stay.
        (
            json!({"metadata": {"name": "a.b"}, "spec": {"serviceName": "a.b"}}),
            spec(json!({"replicas": 2})),
            vec![],
        ),
        (
            none.clone(),
            status(json!({"replicas": 3, "readyReplicas": 2, "availableReplicas": 2,
                "currentReplicas": 3, "updatedReplicas": 3, "observedGeneration": 1})),
            vec![],
        ),
        (
            none,
            status(json!({"replicas": 1, "readyReplicas": 1, "availableReplicas": 2,
                "currentReplicas": -1, "observedGeneration": -1})),
            vec![
                "status.observedGeneration: Invalid value: -1: must be greater",
                "status.currentReplicas: Invalid value: -1: must be greater",
                "status.availableReplicas: Invalid value: 2: cannot be greater than \
                 status.replicas",
                "status.availableReplicas: Invalid value: 2: cannot be greater than \
                 status.readyReplicas",
            ],
        ),
        (
            status(json!({"collisionCount": 2})),
            status(json!({"collisionCount": 1})),
            vec!["status.collisionCount: Invalid value: 1: cannot be decremented"],
        ),
    ]);
}

#[test]
fn controller_revisions() {
    let kind = Kind::new(
        "apps/v1",
        "ControllerRevision",
        json!({"data": {"spec": {"template": {}}}, "revision": 1}),
    );
    kind.creates(&[
        (json!({"revision": null}), vec![]),
        (json!({"data": {"spec": null}}), vec![]),
        (json!({"data": null}), vec!["data: Required value: data is mandatory"]),
        (json!({"data": 5}), vec!["data: Required value: data must be a valid JSON object"]),
        (json!({"data": []}), vec!["data: Required value: data must be a valid JSON object"]),
        (json!({"data": "{}"}), vec!["data: Required value: data must be a valid JSON object"]),
        (
            json!({"revision": -1}),
            vec!["revision: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            json!({"metadata": {"name": "A"}}),
            vec!["metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain"],
        ),
    ]);
    kind.updates(&[
        (json!({}), json!({"revision": 2, "metadata": {"labels": {"a": "b"}}}), vec![]),
        (json!({}), json!({"revision": -2}), vec!["revision: Invalid value: -2"]),
        (
            json!({}),
            json!({"data": {"spec": {"replicas": 1}}}),
            vec![
                "data: Invalid value: {\"spec\":{\"replicas\":1,\"template\":{}}}: field is \
                immutable",
            ],
        ),
    ]);
}

#[test]
fn pod_templates() {
    let template = |template: Value| json!({ "template": template });
    let kind = Kind::new(
        "v1",
        "PodTemplate",
        template(json!({"spec": {
        "containers": containers()}})),
    );
    kind.creates(&[
        (template(json!({"metadata": {"labels": {"a": "b"}}})), vec![]),
        (template(json!({"spec": {"restartPolicy": "Never"}})), vec![]),
        (template(Value::Null), vec!["template.spec.containers: Required value"]),
        (
            template(json!({"spec": {"containers": [{"name": "c"}]}})),
            vec!["template.spec.containers[0].image: Required value"],
        ),
        (
            template(json!({"spec": {"restartPolicy": "Sometimes"}})),
            vec!["template.spec.restartPolicy: Unsupported value: \"Sometimes\""],
        ),
        (
            template(json!({"metadata": {"labels": {"a b": "c"}}})),
            vec!["template.labels: Invalid value: \"a b\": name part must consist"],
        ),
        (
            template(json!({"metadata": {"annotations": {"a b": "c"}}})),
            vec!["template.annotations: Invalid value: \"a b\": name part must consist"],
        ),
        (
            template(json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}})),
            vec!["template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed"],
        ),
    ]);
    kind.updates(&[
        (json!({}), template(json!({"spec": {"hostname": "h"}})), vec![]),
        (
            json!({}),
            template(json!({"spec": {"hostname": "a.b"}})),
            vec!["template.spec.hostname: Invalid value: \"a.b\""],
        ),
    ]);
}
