//! Disruption budgets, priority and runtime classes, and autoscalers.

use serde_json::{Value, json};

use super::kind::{Kind, spec};

/// The tables, to be counted.
pub(super) const ALL: &[fn()] = &[
    disruption_budgets,
    priority_classes,
    runtime_classes,
    autoscalers,
    autoscaler_metrics,
    autoscaler_behavior,
];

#[test]
fn disruption_budgets() {
    let kind = Kind::new(
        "policy/v1",
        "PodDisruptionBudget",
        spec(json!({"selector": {"matchLabels": {"a": "b"}}})),
    );
    kind.creates(&[
        (spec(json!({"minAvailable": "50%", "selector": null})), vec![]),
        (spec(json!({"maxUnavailable": 0, "unhealthyPodEvictionPolicy": "AlwaysAllow"})), vec![]),
        (json!({"metadata": {"name": "A_b"}}), vec![]),
        (
            json!({"metadata": {"name": "a/b"}}),
            vec!["metadata.name: Invalid value: \"a/b\": may not contain '/'"],
        ),
        (
            json!({"metadata": {"name": ".."}}),
            vec!["metadata.name: Invalid value: \"..\": may not"],
        ),
        (
            json!({"spec": {"selector": null, "minAvailable": 1, "maxUnavailable": 1}}),
            vec![
                "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and \
                 maxUnavailable cannot be both set",
            ],
        ),
        (
            spec(json!({"minAvailable": -1})),
            vec!["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            spec(json!({"maxUnavailable": "101%"})),
            vec!["spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"],
        ),
        (
            spec(json!({"minAvailable": "half"})),
            vec!["spec.minAvailable: Invalid value: \"half\": a valid percent string must be"],
        ),
        (
            spec(json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}})),
            vec![
                "spec.selector.matchExpressions[0].operator: Invalid value: \"Like\": not a valid",
            ],
        ),
        (
            spec(json!({"unhealthyPodEvictionPolicy": "Never"})),
            vec![
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \
                 \"AlwaysAllow\", \"IfHealthyBudget\"",
            ],
        ),
    ]);
    kind.updates(&[
        (
            spec(json!({"minAvailable": 1})),
            spec(json!({"minAvailable": null, "maxUnavailable": 1, "selector": {"matchLabels": {
                "a": "c"}}})),
            vec![],
        ),
        (
            spec(json!({"minAvailable": 1})),
            spec(json!({"maxUnavailable": 1})),
            vec!["spec: Invalid value: {"],
        ),
        (
            json!({}),
            json!({"status": {"disruptionsAllowed": -1, "expectedPods": -2}}),
            vec![
                "status.disruptionsAllowed: Invalid value: -1: must be greater",
                "status.expectedPods: Invalid value: -2: must be greater",
            ],
        ),
    ]);
}

#[test]
fn priority_classes() {
    let kind = Kind::new("scheduling.k8s.io/v1", "PriorityClass", json!({"value": 1000}));
    let named = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
    kind.creates(&[
        (json!({"value": -5, "globalDefault": true, "description": "low"}), vec![]),
        (json!({"value": 1_000_000_000, "preemptionPolicy": "Never"}), vec![]),
        (named("system-node-critical", 2_000_001_000), vec![]),
        (named("system-cluster-critical", 2_000_000_000), vec![]),
        (
            json!({"value": 1_000_000_001}),
            vec![
                "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
            ],
        ),
        (
            named("system-mine", 1),
            vec![
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved \
                 for system use only. error: system-mine is not a known system priority class",
            ],
        ),
        (
            named("system-node-critical", 5),
            vec![
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved \
                 for system use only. error: value of system-node-critical PriorityClass must be \
                 2000001000",
            ],
        ),
        (
            json!({"metadata": {"name": "system-cluster-critical"}, "value": 2_000_000_000,
                "globalDefault": true}),
            vec![
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved \
                 for system use only. error: globalDefault of system-cluster-critical \
                 PriorityClass must be false",
            ],
        ),
        (
            json!({"preemptionPolicy": "Often"}),
            vec![
                "preemptionPolicy: Unsupported value: \"Often\": supported values: \
                 \"PreemptLowerPriority\", \"Never\"",
            ],
        ),
        (json!({"preemptionPolicy": ""}), vec!["preemptionPolicy: Required value"]),
        (
            json!({"metadata": {"namespace": "d"}}),
            vec!["metadata.namespace: Forbidden: not allowed on this type"],
        ),
    ]);
    kind.updates(&[
        (json!({}), json!({"description": "d", "globalDefault": true}), vec![]),
        (
            json!({}),
            json!({"value": 5}),
            vec!["value: Forbidden: may not be changed in an update."],
        ),
        (
            json!({}),
            json!({"preemptionPolicy": "Never"}),
            vec!["preemptionPolicy: Invalid value: \"Never\": field is immutable"],
        ),
        // A value that would be refused today may stay.
        (json!({"value": 1_500_000_000}), json!({"description": "d"}), vec![]),
    ]);
}

#[test]
fn runtime_classes() {
    let kind = Kind::new("node.k8s.io/v1", "RuntimeClass", json!({"handler": "runc"}));
    let tolerations = |list: Value| json!({"scheduling": {"tolerations": list}});
    kind.creates(&[
        (
            json!({"overhead": {"podFixed": {"cpu": "250m", "memory": "120Mi"}},
                "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [
                    {"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}]}}),
            vec![],
        ),
        (json!({"handler": ""}), vec!["handler: Invalid value: \"\": a lowercase RFC 1123 label"]),
        (
            json!({"handler": "My.Handler"}),
            vec!["handler: Invalid value: \"My.Handler\": a lowercase RFC 1123 label"],
        ),
        (
            json!({"overhead": {"podFixed": {"cpu": "-1"}}}),
            vec!["overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
        ),
        (
            json!({"overhead": {"podFixed": {"gpu": "1"}}}),
            vec![
                "overhead.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or",
                "overhead.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for",
            ],
        ),
        (
            json!({"scheduling": {"nodeSelector": {"a b": "c"}}}),
            vec!["scheduling.nodeSelector: Invalid value: \"a b\": name part must consist"],
        ),
        (
            tolerations(json!([{"key": "a", "operator": "Like"}])),
            vec![
                "scheduling.tolerations.tolerations[0].operator: Unsupported value: \"Like\": \
                 supported values",
            ],
        ),
        (
            tolerations(json!([{"key": "a", "operator": "Exists"},
                {"key": "a", "operator": "Exists"}])),
            vec!["scheduling.tolerations[1]: Duplicate value: {\"key\":\"a\","],
        ),
        (
            json!({"metadata": {"name": "A"}}),
            vec!["metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain"],
        ),
    ]);
    kind.updates(&[
        (json!({}), json!({"overhead": {"podFixed": {"cpu": "1"}}}), vec![]),
        (
            json!({}),
            json!({"handler": "kata"}),
            vec!["handler: Invalid value: \"kata\": field is immutable"],
        ),
    ]);
}

fn autoscaler() -> Kind {
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    Kind::new(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        spec(json!({"scaleTargetRef": target, "maxReplicas": 5})),
    )
}

#[test]
fn autoscalers() {
    let target = |target: Value| spec(json!({ "scaleTargetRef": target }));
    autoscaler().creates(&[
        (spec(json!({"minReplicas": 5})), vec![]),
        (target(json!({"apiVersion": "v1", "kind": "ReplicationController"})), vec![]),
        (
            spec(json!({"minReplicas": 0})),
            vec![
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                "spec.metrics: Forbidden: must specify at least one Object or External metric to \
                 support scaling to zero replicas",
            ],
        ),
        (
            spec(json!({"maxReplicas": 0})),
            vec![
                "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                "spec.maxReplicas: Invalid value: 0: must be greater than or equal to \
                 `minReplicas`",
            ],
        ),
        (
            spec(json!({"minReplicas": 6})),
            vec!["spec.maxReplicas: Invalid value: 5: must be greater than or equal to"],
        ),
        (
            target(json!({"kind": "", "name": null})),
            vec![
                "spec.scaleTargetRef.kind: Required value",
                "spec.scaleTargetRef.name: Required value",
            ],
        ),
        (
            target(json!({"kind": "a/b", "name": ".."})),
            vec![
                "spec.scaleTargetRef.kind: Invalid value: \"a/b\": may not contain '/'",
                "spec.scaleTargetRef.name: Invalid value: \"..\": may not be '..'",
            ],
        ),
        (
            target(json!({"apiVersion": null})),
            vec![
                "spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API \
                 group",
            ],
        ),
        (
            target(json!({"apiVersion": "a/b/c"})),
            vec![
                "spec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion \
                 string: a/b/c",
            ],
        ),
    ]);
    let external = json!([{"type": "External", "external": {"metric": {"name": "m"},
        "target": {"type": "Value", "value": "1"}}}]);
    autoscaler().updates(&[
        (json!({}), spec(json!({"maxReplicas": 9, "scaleTargetRef": {"name": "e"}})), vec![]),
        // What was let in once may stay.
        (target(json!({"apiVersion": "v1"})), spec(json!({"maxReplicas": 9})), vec![]),
        (
            target(json!({"apiVersion": "v1"})),
            target(json!({"kind": "StatefulSet"})),
            vec!["spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify"],
        ),
        (
            spec(json!({"minReplicas": 0, "metrics": external})),
            spec(json!({"maxReplicas": 9})),
            vec![],
        ),
        (
            spec(json!({"metrics": external})),
            spec(json!({"minReplicas": 0})),
            vec!["spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"],
        ),
        (
            json!({}),
            json!({"status": {"currentReplicas": -1}}),
            vec!["status.currentReplicas: Invalid value: -1: must be greater"],
        ),
    ]);
}

#[test]
fn autoscaler_metrics() {
    let one = |metric: Value| spec(json!({"metrics": [metric]}));
    let of = |kind: &str, field: &str, source: Value| one(json!({"type": kind, field: source}));
    let utilization = json!({"type": "Utilization", "averageUtilization": 50});
    let average = json!({"type": "AverageValue", "averageValue": "10"});
    let service = json!({"apiVersion": "v1", "kind": "Service", "name": "s"});
    let metric = json!({"name": "m"});
    autoscaler().creates(&[
        (of("Resource", "resource", json!({"name": "cpu", "target": utilization})), vec![]),
        (
            of(
                "ContainerResource",
                "containerResource",
                json!({"name": "memory", "container": "c", "target": average}),
            ),
            vec![],
        ),
        (of("Pods", "pods", json!({"metric": metric, "target": average})), vec![]),
        (
            of(
                "Object",
                "object",
                json!({"describedObject": service, "metric": metric, "target": average}),
            ),
            vec![],
        ),
        (
            one(json!({})),
            vec![
                "spec.metrics[0].type: Required value: must specify a metric source type",
                "spec.metrics[0].type: Unsupported value: \"\": supported values: \
                 \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
            ],
        ),
        (
            one(json!({"type": "Pods", "resource": {"name": "cpu", "target": utilization}})),
            vec![
                "spec.metrics[0].pods: Required value: must populate information for the given \
                 metric source",
            ],
        ),
        (
            one(json!({"type": "Resource", "resource": {"name": "cpu", "target": utilization},
                "pods": {"metric": metric, "target": average}})),
            vec!["spec.metrics[0].pods: Forbidden: must populate the given metric source only"],
        ),
        (
            of("Resource", "resource", json!({"target": {"type": "Utilization"}})),
            vec![
                "spec.metrics[0].resource.name: Required value: must specify a resource name",
                "spec.metrics[0].resource.target.averageUtilization: Required value: must set \
                 either a target raw value or a target utilization",
            ],
        ),
        (
            of(
                "Resource",
                "resource",
                json!({"name": "cpu", "target": {"type": "Utilization",
                "averageUtilization": 0, "averageValue": "0"}}),
            ),
            vec![
                "spec.metrics[0].resource.target.averageValue: Invalid value: \"0\": must be \
                 positive",
                "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be \
                 greater than 0",
                "spec.metrics[0].resource.target.averageValue: Forbidden: may not set both a \
                 target raw value and a target utilization",
            ],
        ),
        (
            of(
                "ContainerResource",
                "containerResource",
                json!({"name": "gpu", "container": "A", "target": utilization}),
            ),
            vec![
                "spec.metrics[0].containerResource.name: Invalid value: \"gpu\": must be a \
                 standard resource type or fully qualified",
                "spec.metrics[0].containerResource.name: Invalid value: \"gpu\": must be a \
                 standard resource for containers",
                "spec.metrics[0].containerResource.container: Invalid value: \"A\": a lowercase",
            ],
        ),
        (
            of(
                "ContainerResource",
                "containerResource",
                json!({"name": "cpu", "target": utilization}),
            ),
            vec![
                "spec.metrics[0].containerResource.container: Required value: must specify a \
                 container",
            ],
        ),
        (
            of("Pods", "pods", json!({"metric": {"name": "a/b"}, "target": {"type": "Often"}})),
            vec![
                "spec.metrics[0].pods.metric.name: Invalid value: \"a/b\": may not contain '/'",
                "spec.metrics[0].pods.target.type: Invalid value: \"Often\": must be either \
                 Utilization, Value, or AverageValue",
                "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive \
                 target averageValue",
            ],
        ),
        (
            of(
                "Object",
                "object",
                json!({"describedObject": {"apiVersion": "a/b/c",
                "kind": "K", "name": "n"}, "metric": {}, "target": {}}),
            ),
            vec![
                "spec.metrics[0].object.describedObject.apiVersion: Invalid value: \"a/b/c\"",
                "spec.metrics[0].object.metric.name: Required value: must specify a metric name",
                "spec.metrics[0].object.target.type: Required value: must specify a metric target \
                 type",
                "spec.metrics[0].object.target.type: Invalid value: \"\": must be either",
                "spec.metrics[0].object.target.averageValue: Required value: must set either a \
                 target value or averageValue",
            ],
        ),
        (
            of(
                "External",
                "external",
                json!({"metric": metric, "target": {"type": "Value",
                "value": "-1", "averageValue": "1"}}),
            ),
            vec![
                "spec.metrics[0].external.target.value: Invalid value: \"-1\": must be positive",
                "spec.metrics[0].external.target.value: Forbidden: may not set both a target value \
                 for metric and a per-pod target",
            ],
        ),
        (
            of("External", "external", json!({"metric": metric, "target": {"type": "Value"}})),
            vec![
                "spec.metrics[0].external.target.averageValue: Required value: must set either a \
                 target value for metric or a per-pod target",
            ],
        ),
    ]);
}

#[test]
fn autoscaler_behavior() {
    let up = |rules: Value| spec(json!({"behavior": {"scaleUp": rules}}));
    let policy = |policy: Value| {
        let mut whole = json!({"type": "Pods", "value": 1, "periodSeconds": 1800});
        json_patch::merge(&mut whole, &policy);
        up(json!({"policies": [whole]}))
    };
    autoscaler().creates(&[
        (spec(json!({"behavior": {}})), vec![]),
        (
            up(json!({"stabilizationWindowSeconds": 3600, "selectPolicy": "Disabled",
                "tolerance": "50m"})),
            vec![],
        ),
        (policy(json!({"type": "Percent", "value": 200})), vec![]),
        (
            up(json!({"stabilizationWindowSeconds": -1})),
            vec![
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: -1: must be \
                 greater than or equal to zero",
            ],
        ),
        (
            up(json!({"stabilizationWindowSeconds": 3601})),
            vec![
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be \
                 less than or equal to 3600",
            ],
        ),
        (
            up(json!({"selectPolicy": "Some"})),
            vec![
                "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Some\": supported \
                 values: \"Disabled\", \"Max\", \"Min\"",
            ],
        ),
        (
            up(json!({"policies": []})),
            vec![
                "spec.behavior.scaleUp.policies: Required value: must specify at least one Policy",
            ],
        ),
        (
            up(json!({"tolerance": "-1"})),
            vec![
                "spec.behavior.scaleUp.tolerance: Invalid value: \"-1\": must be greater than or \
                 equal to 0",
            ],
        ),
        (
            policy(json!({"type": "Nodes", "value": 0, "periodSeconds": 1801})),
            vec![
                "spec.behavior.scaleUp.policies[0].type: Unsupported value: \"Nodes\": supported \
                 values: \"Percent\", \"Pods\"",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than \
                 zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be \
                 less than or equal to 1800",
            ],
        ),
        (
            spec(json!({"behavior": {"scaleDown": {"policies": [{"type": "Pods"}]}}})),
            vec![
                "spec.behavior.scaleDown.policies[0].value: Invalid value: 0: must be greater",
                "spec.behavior.scaleDown.policies[0].periodSeconds: Invalid value: 0: must be \
                 greater",
            ],
        ),
    ]);
}
