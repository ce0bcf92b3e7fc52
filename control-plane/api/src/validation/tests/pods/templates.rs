//! Templates of pods: what they are asked for less than pods, and what more.

use serde_json::{Value, json};

use super::super::kind::Kind;

pub(super) const ALL: &[fn()] = &[templates];

#[test]
fn templates() {
    let base = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let spec = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let on_host = |port: Value| {
        spec(json!({"hostNetwork": true,
            "containers": [{"name": "c", "image": "i", "ports": [port]}]}))
    };
    Kind::new("apps/v1", "Deployment", base).creates(&[
        // Tools may yet fill it in.
        (spec(json!({"containers": [{"name": "c", "image": " "}]})), vec![]),
        (on_host(json!({"containerPort": 80})), vec![]),
        (
            on_host(json!({"containerPort": 80, "hostPort": 81})),
            vec![
                "spec.template.spec.containers[0].ports[0].hostPort: Invalid value: 81: must \
                 match `containerPort` when `hostNetwork` is true",
            ],
        ),
        // Admission gives the pods an account.
        (
            spec(json!({"volumes": [{"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}}]}}]})),
            vec![],
        ),
        (
            spec(json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": ["a"],
                "labelSelector": {"matchLabels": {"a": "b"}}}]})),
            vec![],
        ),
        (
            spec(json!({"ephemeralContainers": [{"name": "e", "image": "i"}]})),
            vec![
                "spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not \
                 allowed in pod template",
            ],
        ),
        (
            spec(json!({"activeDeadlineSeconds": 5})),
            vec!["spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in"],
        ),
        (
            spec(json!({"restartPolicy": "OnFailure"})),
            vec!["spec.template.spec.restartPolicy: Unsupported value: \"OnFailure\""],
        ),
        (
            spec(json!({"dnsPolicy": "Once", "containers": [{"name": "C", "image": "i"}]})),
            vec![
                "spec.template.spec.containers[0].name: Invalid value: \"C\"",
                "spec.template.spec.dnsPolicy: Unsupported value: \"Once\"",
            ],
        ),
        (
            json!({"spec": {"template": {"spec": null}}}),
            vec!["spec.template.spec.containers: Required value"],
        ),
        (
            json!({"spec": {"template": {"metadata": {"annotations": {
                "controller.kubernetes.io/pod-deletion-cost": "low"}}}}}),
            vec![
                "spec.template.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid \
                 value: \"low\": must be a 32bit integer",
            ],
        ),
    ]);
}
