//! What an update may change of a pod.

use serde_json::{Value, json};

use super::super::kind::Kind;
use super::kind;

pub(super) const ALL: &[fn()] = &[
    what_is_fixed,
    deadlines,
    tolerations,
    gates,
    behind_gates,
    nodes_behind_gates,
    annotations,
    what_was_let_in,
];

const FIXED: &str = "spec: Forbidden: pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n\
    changed: spec.";

type Row = (Value, Value, Vec<&'static str>);

/// What the old spec has beside the base, what is changed of it, and what is said of that.
fn updates(rows: Vec<Row>) {
    let spec = |change: Value| json!({"spec": change});
    let rows: Vec<Row> =
        rows.into_iter().map(|(old, new, said)| (spec(old), spec(new), said)).collect();
    kind().updates(&rows);
}

#[test]
fn what_is_fixed() {
    let containers = |image: &str| json!([{"name": "c", "image": image}]);
    let init = |image: &str| json!({"initContainers": [{"name": "a", "image": image}]});
    updates(vec![
        (json!({}), json!({}), vec![]),
        (
            json!({}),
            json!({"containers": [{"name": "c", "image": "i:2", "resources": {},
            "imagePullPolicy": "IfNotPresent", "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File"}]}),
            vec![],
        ),
        (init("i:1"), init("i:2"), vec![]),
        (
            json!({}),
            json!({"containers": containers("")}),
            vec!["spec.containers[0].image: Required value", FIXED],
        ),
        (
            json!({}),
            json!({"containers": containers("i:2 ")}),
            vec!["spec.containers[0].image: Invalid value: \"i:2 \": must not have leading"],
        ),
        (json!({}), json!({"containers": [{"name": "d", "image": "i:1"}]}), vec![FIXED]),
        (
            json!({}),
            json!({"containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "i"}]}),
            vec!["spec.containers: Forbidden: pod updates may not add or remove containers"],
        ),
        (
            init("i:1"),
            json!({"initContainers": []}),
            vec!["spec.initContainers: Forbidden: pod updates may not add or remove containers"],
        ),
        (json!({}), json!({"restartPolicy": "Never"}), vec![FIXED]),
        (json!({}), json!({"nodeName": "n2"}), vec![FIXED]),
        (json!({"nodeName": "n1"}), json!({"nodeName": null}), vec![FIXED]),
        (json!({}), json!({"hostNetwork": true}), vec![FIXED]),
        (json!({}), json!({"volumes": [{"name": "v"}]}), vec![FIXED]),
        (json!({}), json!({"serviceAccountName": "a"}), vec![FIXED]),
        (json!({}), json!({"nodeSelector": {"a": "b"}}), vec![FIXED]),
        (json!({}), json!({"priority": 5}), vec![FIXED]),
        (json!({}), json!({"securityContext": {"runAsUser": 5}}), vec![FIXED]),
        (json!({}), json!({"ephemeralContainers": [{"name": "e", "image": "i"}]}), vec![FIXED]),
        (json!({}), json!({"terminationGracePeriodSeconds": 5}), vec![FIXED]),
        (
            json!({"terminationGracePeriodSeconds": -5}),
            json!({"terminationGracePeriodSeconds": 1}),
            vec![],
        ),
        (
            json!({"terminationGracePeriodSeconds": -5}),
            json!({"terminationGracePeriodSeconds": 2}),
            vec![FIXED],
        ),
        // What is empty is what is not there.
        (json!({}), json!({"imagePullSecrets": [], "hostname": "", "hostPID": false}), vec![]),
    ]);
}

#[test]
fn deadlines() {
    let deadline = |seconds: Value| json!({"activeDeadlineSeconds": seconds});
    updates(vec![
        (json!({}), deadline(json!(30)), vec![]),
        (deadline(json!(30)), deadline(json!(29)), vec![]),
        (
            deadline(json!(30)),
            deadline(json!(31)),
            vec![
                "spec.activeDeadlineSeconds: Invalid value: 31: must be less than or equal to \
                 previous value",
            ],
        ),
        (
            deadline(json!(30)),
            deadline(Value::Null),
            vec![
                "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive \
                 integer to nil value",
            ],
        ),
        (
            json!({}),
            deadline(json!(-1)),
            vec![
                "spec.activeDeadlineSeconds: Invalid value: -1: must be between 1 and 2147483647, \
                 inclusive",
            ],
        ),
    ]);
}

#[test]
fn tolerations() {
    let with = |list: Value| json!({"tolerations": list});
    let (a, b) = (json!({"key": "a", "operator": "Exists"}), json!({"key": "b", "value": "c"}));
    let lost = json!({"key": "a", "operator": "Exists", "effect": "NoExecute",
        "tolerationSeconds": 5});
    let mut longer = lost.clone();
    longer["tolerationSeconds"] = json!(50);
    let modified = "spec.tolerations: Forbidden: existing toleration can not be modified except \
        its tolerationSeconds";
    updates(vec![
        (with(json!([a])), with(json!([b, a])), vec![]),
        (json!({}), with(json!([a])), vec![]),
        (with(json!([lost])), with(json!([longer])), vec![]),
        (with(json!([a, b])), with(json!([a])), vec![modified]),
        (with(json!([a])), with(json!([])), vec![modified]),
        (with(json!([b])), with(json!([{"key": "b", "value": "d"}])), vec![modified]),
        (
            with(json!([a])),
            with(json!([a, {"key": "c", "operator": "Like"}])),
            vec!["spec.tolerations[1].operator: Unsupported value: \"Like\""],
        ),
    ]);
}

#[test]
fn gates() {
    let with = |gates: Value| json!({"schedulingGates": gates});
    let (a, b) = (json!({"name": "a"}), json!({"name": "b"}));
    updates(vec![
        (with(json!([a, b])), with(json!([b])), vec![]),
        (with(json!([a])), with(json!([])), vec![]),
        (with(json!([a])), with(Value::Null), vec![]),
        (
            with(json!([a])),
            with(json!([a, b])),
            vec![
                "spec.schedulingGates[1].name: Forbidden: only deletion is allowed, but found new \
                 scheduling gate 'b'",
            ],
        ),
        (
            with(json!([a])),
            with(json!([b])),
            vec!["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found"],
        ),
        (
            json!({}),
            with(json!([a])),
            vec!["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found"],
        ),
    ]);
}

fn gated(change: Value) -> Value {
    let mut spec = json!({"schedulingGates": [{"name": "a"}]});
    json_patch::merge(&mut spec, &change);
    spec
}

#[test]
fn behind_gates() {
    let only = "spec.nodeSelector: Invalid value: ";
    updates(vec![
        (gated(json!({})), json!({"nodeSelector": {"a": "b"}}), vec![]),
        (gated(json!({"nodeSelector": {"a": "b"}})), json!({"nodeSelector": {"c": "d"}}), vec![]),
        (
            gated(json!({"nodeSelector": {"a": "b"}})),
            json!({"nodeSelector": {"a": "c"}}),
            vec![
                "spec.nodeSelector: Invalid value: {\"a\":\"c\"}: only additions to \
                 spec.nodeSelector are allowed (no mutations or deletions)",
            ],
        ),
        (gated(json!({"nodeSelector": {"a": "b"}})), json!({"nodeSelector": null}), vec![only]),
        (gated(json!({})), json!({"hostNetwork": true}), vec![FIXED]),
        (gated(json!({})), json!({"affinity": {"podAffinity": {}}}), vec![FIXED]),
    ]);
}

#[test]
fn nodes_behind_gates() {
    let affinity = |terms: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": terms}}}})
    };
    let by = |keys: &[&str]| {
        let one = |key: &&str| json!({"key": *key, "operator": "Exists"});
        json!({"matchExpressions": keys.iter().map(one).collect::<Vec<_>>()})
    };
    let at = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.\
        nodeSelectorTerms: Invalid value: ";
    let of_first = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.\
        nodeSelectorTerms[0]: Invalid value: ";
    updates(vec![
        (gated(json!({})), affinity(json!([by(&["a"])])), vec![]),
        (gated(affinity(json!([by(&["a"])]))), affinity(json!([by(&["a", "b"])])), vec![]),
        (gated(affinity(json!([by(&["a"])]))), affinity(json!([by(&["a"]), by(&["b"])])), vec![at]),
        (gated(affinity(json!([by(&["a"])]))), json!({"affinity": null}), vec![at]),
        (gated(affinity(json!([by(&["a"])]))), affinity(json!([by(&["b"])])), vec![of_first]),
        (gated(affinity(json!([by(&["a", "b"])]))), affinity(json!([by(&["a"])])), vec![of_first]),
        (gated(affinity(json!([{}]))), affinity(json!([by(&["a"])])), vec![of_first]),
        (affinity(json!([by(&["a"])])), affinity(json!([by(&["a", "b"])])), vec![FIXED]),
    ]);
}

#[test]
fn annotations() {
    let with = |key: &str, value: Value| json!({"metadata": {"annotations": {key: value}}});
    let mirror = "kubernetes.io/config.mirror";
    let armor = "container.apparmor.security.beta.kubernetes.io/c";
    let base = json!({"metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i:1"}], "nodeName": "n1"}});
    Kind::new("v1", "Pod", base).updates(&[
        (json!({}), with("a", json!("b")), vec![]),
        (
            json!({}),
            with(mirror, json!("x")),
            vec![
                "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror \
                 pod annotation",
            ],
        ),
        (
            with(mirror, json!("x")),
            with(mirror, Value::Null),
            vec![
                "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not remove or \
                 update mirror pod annotation",
            ],
        ),
        (
            json!({}),
            with(armor, json!("unconfined")),
            vec![
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: \
                 Forbidden: may not add AppArmor annotations",
            ],
        ),
        (
            with(armor, json!("unconfined")),
            with(armor, json!("runtime/default")),
            vec![
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: \
                 Forbidden: may not remove or update AppArmor annotations",
            ],
        ),
        (
            json!({}),
            json!({"metadata": {"name": "q"}}),
            vec!["metadata.name: Invalid value: \"q\": field is immutable"],
        ),
    ]);
}

/// A status may change of a pod whose spec would be refused today.
#[test]
fn what_was_let_in() {
    let kind = kind();
    let old = kind.created(&json!({"spec": {"dnsPolicy": "Once"}}));
    let mut new = old.clone();
    new["status"]["phase"] = json!("Running");
    assert_eq!(kind.problems(&new, Some(&old)), [""; 0]);
    new["spec"]["hostname"] = json!("h");
    let got = kind.problems(&new, Some(&old));
    assert!(got[0].starts_with("spec.dnsPolicy: Unsupported value: \"Once\""), "{got:?}");
}
