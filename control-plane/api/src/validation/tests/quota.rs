//! Quotas and limit ranges.

use serde_json::{Value, json};

use super::changes::{creations, updates};

/// The tables, to be counted.
pub(super) const ALL: &[fn()] = &[
    resource_quotas,
    resource_quotas_of_a_scope,
    resource_quotas_that_select,
    limit_ranges,
    limit_ranges_that_contradict_themselves,
];

fn spec(spec: Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn resource_quotas() {
    let base = json!({
        "metadata": {"name": "q", "namespace": "d"},
        "spec": {"hard": {"pods": "10", "requests.cpu": "1500m", "limits.memory": "4Gi",
            "count/jobs.batch": "5", "requests.example.com/gpu": "2", "hugepages-2Mi": "4Mi",
            "requests.hugepages-1Gi": "1Gi", "services.nodeports": "0",
            "fast.storageclass.storage.k8s.io/requests.storage": "10Gi"}},
    });
    let hard = |name: &str, amount: &str| spec(json!({"hard": {name: amount}}));
    let table = vec![
        (json!({}), vec![]),
        (json!({"metadata": {"name": "Q"}}), vec!["metadata.name: Invalid value: \"Q\""]),
        (
            hard("pods", "-1"),
            vec!["spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"],
        ),
        (
            hard("pods", "1500m"),
            vec!["spec.hard[pods]: Invalid value: \"1500m\": must be an integer"],
        ),
        (
            hard("count/jobs.batch", "500m"),
            vec!["spec.hard[count/jobs.batch]: Invalid value: \"500m\": must be an integer"],
        ),
        (
            hard("wishes", "3"),
            vec![
                "spec.hard[wishes]: Invalid value: \"wishes\": must be a standard resource type \
                 or fully qualified",
                "spec.hard[wishes]: Invalid value: \"wishes\": must be a standard resource for \
                 quota",
            ],
        ),
        (
            hard("storage", "3"),
            vec!["spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for"],
        ),
        (
            hard("a/b/c", "3"),
            vec!["spec.hard[a/b/c]: Invalid value: \"a/b/c\": a qualified name must consist"],
        ),
        (
            json!({"status": {"hard": {"pods": "-1"}, "used": {"secrets": "100m"}}}),
            vec![
                "status.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.used[secrets]: Invalid value: \"100m\": must be an integer",
            ],
        ),
    ];
    creations("", "resourcequotas", &base, table);
}

#[test]
fn resource_quotas_of_a_scope() {
    let base = json!({
        "metadata": {"name": "q", "namespace": "d"},
        "spec": {"hard": {"pods": "10"}, "scopes": ["BestEffort"]},
    });
    let table = vec![
        (json!({}), vec![]),
        (spec(json!({"scopes": ["Terminating", "NotBestEffort"]})), vec![]),
        (
            spec(json!({"scopes": ["Sometimes"]})),
            vec!["spec.scopes: Invalid value: [\"Sometimes\"]: unsupported scope"],
        ),
        (
            spec(json!({"hard": {"cpu": "1"}})),
            vec![
                "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to \
                 resource",
            ],
        ),
        (spec(json!({"hard": {"cpu": "1"}, "scopes": ["NotBestEffort"]})), vec![]),
        (
            spec(json!({"hard": {"secrets": "1"}, "scopes": ["PriorityClass"]})),
            vec!["spec.scopes: Invalid value: [\"PriorityClass\"]: unsupported scope applied to"],
        ),
        // What the quota does not know itself may be in any scope.
        (spec(json!({"hard": {"count/pods": "1"}})), vec![]),
        (
            spec(json!({"hard": {"pods": null, "persistentvolumeclaims": "1",
                "requests.storage": "1Gi"}, "scopes": ["VolumeAttributesClass"]})),
            vec![],
        ),
        (
            spec(json!({"scopes": ["VolumeAttributesClass"]})),
            vec!["spec.scopes: Invalid value: [\"VolumeAttributesClass\"]: unsupported scope"],
        ),
        (
            spec(json!({"scopes": ["Terminating", "NotTerminating"]})),
            vec!["spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting"],
        ),
        (
            spec(json!({"scopes": ["BestEffort", "NotBestEffort"]})),
            vec!["spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting"],
        ),
    ];
    creations("", "resourcequotas", &base, table);
    let table = vec![
        (spec(json!({"hard": {"pods": "20"}})), vec![]),
        (spec(json!({"scopes": ["BestEffort", "BestEffort"]})), vec![]),
        (
            spec(json!({"scopes": null})),
            vec!["spec.scopes: Invalid value: null: field is immutable"],
        ),
        (
            spec(json!({"scopes": ["BestEffort", "Terminating"]})),
            vec!["spec.scopes: Invalid value: [\"BestEffort\",\"Terminating\"]: field is"],
        ),
    ];
    updates("", "resourcequotas", &base, table);
}

#[test]
fn resource_quotas_that_select() {
    let base =
        json!({"metadata": {"name": "q", "namespace": "d"}, "spec": {"hard": {"pods": "1"}}});
    let select =
        |expressions: Value| spec(json!({"scopeSelector": {"matchExpressions": expressions}}));
    let one = |scope: &str, operator: &str, values: Value| {
        select(json!([{"scopeName": scope, "operator": operator, "values": values}]))
    };
    let table = vec![
        (one("PriorityClass", "In", json!(["high"])), vec![]),
        (one("CrossNamespacePodAffinity", "Exists", json!(null)), vec![]),
        (
            one("Sometimes", "Exists", json!([])),
            vec![
                "spec.scopeSelector.matchExpressions.scopeName: Invalid value: \"Sometimes\": \
                 unsupported scope",
            ],
        ),
        (
            one("Terminating", "In", json!(["a"])),
            vec![
                "spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be \
                 'Exists' when scope is any of ResourceQuotaScopeTerminating",
            ],
        ),
        (
            one("PriorityClass", "NotIn", json!([])),
            vec![
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one \
                 value when `operator` is 'In' or 'NotIn'",
            ],
        ),
        (
            one("PriorityClass", "DoesNotExist", json!(["a"])),
            vec![
                "spec.scopeSelector.matchExpressions.values: Invalid value: [\"a\"]: must be no \
                 value when `operator` is 'Exist' or 'DoesNotExist'",
            ],
        ),
        (
            one("PriorityClass", "Above", json!(["a"])),
            vec![
                "spec.scopeSelector.matchExpressions.operator: Invalid value: \"Above\": not a \
                 valid selector operator",
            ],
        ),
        (
            select(json!([{"scopeName": "Terminating", "operator": "Exists"},
                {"scopeName": "NotTerminating", "operator": "Exists"}])),
            vec!["spec.scopeSelector.matchExpressions: Invalid value: null: conflicting scopes"],
        ),
        (
            spec(json!({"hard": {"memory": "1Gi"}, "scopeSelector": {"matchExpressions": [
                {"scopeName": "BestEffort", "operator": "Exists"}]}})),
            vec![
                "spec.scopeSelector.matchExpressions: Invalid value: {\"matchExpressions\":\
                 [{\"operator\":\"Exists\",\"scopeName\":\"BestEffort\"}]}: unsupported scope \
                 applied to resource",
            ],
        ),
    ];
    creations("", "resourcequotas", &base, table);
}

#[test]
fn limit_ranges() {
    let base = json!({"metadata": {"name": "l", "namespace": "d"}, "spec": {"limits": []}});
    let limits = |items: Value| spec(json!({"limits": items}));
    let container = |item: Value| {
        let mut item = item;
        item["type"] = json!("Container");
        spec(json!({"limits": [item]}))
    };
    let table = vec![
        (json!({}), vec![]),
        (
            container(json!({"max": {"cpu": "2"}, "min": {"cpu": "100m"}, "default": {"cpu": "1"},
                "defaultRequest": {"cpu": "500m"}, "maxLimitRequestRatio": {"cpu": "20"}})),
            vec![],
        ),
        (
            limits(json!([{}])),
            vec![
                "spec.limits[0].type: Invalid value: \"\": name part must be non-empty",
                "spec.limits[0].type: Invalid value: \"\": name part must consist",
            ],
        ),
        (
            limits(json!([{"type": "Node"}, {"type": "example.com/Node"}])),
            vec![
                "spec.limits[0].type: Invalid value: \"Node\": must be a standard limit type or \
                 fully qualified",
            ],
        ),
        (
            limits(json!([{"type": "Pod"}, {"type": "Pod"}])),
            vec!["spec.limits[1].type: Duplicate value: \"Pod\""],
        ),
        (
            limits(
                json!([{"type": "Pod", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}]),
            ),
            vec![
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
                "spec.limits[0].defaultRequest: Forbidden: may not be specified when `type` is",
            ],
        ),
        (
            container(json!({"max": {"storage": "1Gi"}, "default": {"storage": "1Gi"},
                "defaultRequest": {"storage": "1Gi"}})),
            vec![
                "spec.limits[0].max[storage]: Invalid value: \"storage\": must be a standard \
                 resource for containers",
                "spec.limits[0].default[storage]: Invalid value: \"storage\"",
                "spec.limits[0].defaultRequest[storage]: Invalid value: \"storage\"",
            ],
        ),
        (
            limits(json!([{"type": "Pod", "max": {"wishes": "3", "requests.a.com/b": "1"}}])),
            vec![
                "spec.limits[0].max[requests.a.com/b]: Invalid value: \"requests.a.com/b\": \
                 doesn't follow extended resource name standard",
                "spec.limits[0].max[wishes]: Invalid value: \"wishes\": must be a standard \
                 resource type or fully qualified",
                "spec.limits[0].max[wishes]: Invalid value: \"wishes\": must be a standard \
                 resource for containers",
            ],
        ),
        (
            limits(json!([{"type": "PersistentVolumeClaim", "min": {"cpu": "1"}}])),
            vec![
                "spec.limits[0].limits: Required value: either minimum or maximum storage value \
                 is required, but neither was provided",
            ],
        ),
        (limits(json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}}])), vec![]),
    ];
    creations("", "limitranges", &base, table.clone());
    updates("", "limitranges", &base, table);
}

#[test]
fn limit_ranges_that_contradict_themselves() {
    let base = json!({"metadata": {"name": "l", "namespace": "d"}});
    let container = |item: Value| {
        let mut item = item;
        item["type"] = json!("Container");
        spec(json!({"limits": [item]}))
    };
    let pod = |item: Value| {
        let mut item = item;
        item["type"] = json!("Pod");
        spec(json!({"limits": [item]}))
    };
    let table = vec![
        (
            pod(json!({"min": {"cpu": "2"}, "max": {"cpu": "1"}})),
            vec![
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max \
                 value 1",
            ],
        ),
        (
            container(json!({"min": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"}})),
            vec![
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"500m\": min value 1 is \
                 greater than default request value 500m",
            ],
        ),
        (
            container(json!({"max": {"cpu": "1"}, "default": {"cpu": "1"},
                "defaultRequest": {"cpu": "2"}})),
            vec![
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2\": default request value \
                 2 is greater than max value 1",
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2\": default request value \
                 2 is greater than default limit value 1",
            ],
        ),
        (
            container(json!({"min": {"cpu": "2"}, "default": {"cpu": "1"},
                "defaultRequest": {"cpu": "2"}})),
            vec![
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2\": default request value \
                 2 is greater than default limit value 1",
                "spec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than \
                 default value 1",
            ],
        ),
        (
            container(json!({"max": {"memory": "1Gi"}, "default": {"memory": "2Gi"},
                "defaultRequest": {"memory": "1Gi"}})),
            vec![
                "spec.limits[0].default[memory]: Invalid value: \"1Gi\": default value 2Gi is \
                 greater than max value 1Gi",
            ],
        ),
        (
            pod(json!({"maxLimitRequestRatio": {"cpu": "800m"}})),
            vec![
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"800m\": ratio 800m is \
                 less than 1",
            ],
        ),
        (
            pod(json!({"min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu":
                "2"}})),
            vec![],
        ),
        (
            pod(json!({"min": {"cpu": "300m"}, "max": {"cpu": "1"}, "maxLimitRequestRatio":
                {"cpu": "4"}})),
            vec![
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"4\": ratio 4 is \
                 greater than max/min = 3.333333",
            ],
        ),
        (
            container(json!({"default": {"hugepages-2Mi": "4Mi"},
                "defaultRequest": {"hugepages-2Mi": "2Mi"}})),
            vec![
                "spec.limits[0].defaultRequest[hugepages-2Mi]: Invalid value: \"2Mi\": default \
                 value 4Mi must equal to defaultRequest value 2Mi in hugepages-2Mi",
            ],
        ),
        (
            container(json!({"default": {"example.com/gpu": "1"},
                "defaultRequest": {"example.com/gpu": "1"}})),
            vec![],
        ),
    ];
    creations("", "limitranges", &base, table);
}
