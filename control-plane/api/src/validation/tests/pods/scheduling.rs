//! Where pods want to run, and what they bear.

use serde_json::{Value, json};

use super::{in_spec, tries};

pub(super) const ALL: &[fn()] = &[
    tolerations,
    nodes_required,
    nodes_preferred,
    other_pods,
    label_keys,
    spread,
    spread_by_labels,
];

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

#[test]
fn tolerations() {
    let place = |one: &Value| json!({"spec": {"tolerations": [one]}});
    tries(
        "spec.tolerations[0]",
        place,
        &[
            (json!({"operator": "Exists"}), &[]),
            (json!({"key": "a", "value": "b", "effect": "NoSchedule"}), &[]),
            (
                json!({"key": "a", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": -5}),
                &[],
            ),
            (
                json!({"operator": "Exists", "tolerationSeconds": 5}),
                &[".effect: Invalid value: \"\": effect must be 'NoExecute' when \
                 `tolerationSeconds` is set"],
            ),
            (
                json!({"operator": "Equal", "value": "a"}),
                &[".operator: Invalid value: \"Equal\": operator must be Exists when `key` is \
                 empty, which means \"match all values and all keys\""],
            ),
            (json!({}), &[".operator: Invalid value: \"\": operator must be Exists when `key` is"]),
            (
                json!({"key": "a", "operator": "Exists", "value": "b"}),
                &[".operator: Invalid value: \"b\": value must be empty when `operator` is \
                 'Exists'"],
            ),
            (
                json!({"key": "a", "value": "b c"}),
                &[".operator: Invalid value: \"b c\": a valid label must be an empty string"],
            ),
            (
                json!({"key": "a b", "operator": "Exists"}),
                &[".key: Invalid value: \"a b\": name part must consist of"],
            ),
            (
                json!({"key": "a", "operator": "Like"}),
                &[".operator: Unsupported value: \"Like\": supported values: \"Equal\", \
                     \"Exists\""],
            ),
            (
                json!({"key": "a", "operator": "Gt", "value": "5"}),
                &[".operator: Unsupported value: \"Gt\": supported values: \"Equal\", \
                 \"Exists\", \"Lt\", \"Gt\""],
            ),
            (
                json!({"key": "a", "operator": "Exists", "effect": "Never"}),
                &[".effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \
                 \"PreferNoSchedule\", \"NoExecute\""],
            ),
        ],
    );
}

fn by_expression(one: &Value) -> Value {
    json!({"spec": {"affinity": {"nodeAffinity": {REQUIRED:
        {"nodeSelectorTerms": [{"matchExpressions": [one]}]}}}}})
}

#[test]
fn nodes_required() {
    let at = format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0]");
    tries(
        &format!("{at}.matchExpressions[0]"),
        by_expression,
        &[
            (json!({"key": "a", "operator": "In", "values": ["b", "c"]}), &[]),
            (json!({"key": "a", "operator": "Gt", "values": ["5"]}), &[]),
            (
                json!({"key": "a", "operator": "In"}),
                &[".values: Required value: must be specified when `operator` is 'In' or 'NotIn'"],
            ),
            (
                json!({"key": "a", "operator": "Exists", "values": ["b"]}),
                &[".values: Forbidden: may not be specified when `operator` is 'Exists' or \
                 'DoesNotExist'"],
            ),
            (
                json!({"key": "a", "operator": "Lt", "values": ["1", "2"]}),
                &[".values: Required value: must be specified single value when `operator` is \
                 'Lt' or 'Gt'"],
            ),
            (
                json!({"key": "a", "operator": "Like"}),
                &[".operator: Invalid value: \"Like\": not a valid selector operator"],
            ),
            (
                json!({"key": "", "operator": "Exists"}),
                &[
                    ".key: Invalid value: \"\": name part must be non-empty",
                    ".key: Invalid value: \"\": name part must consist of",
                ],
            ),
            (
                json!({"key": "a", "operator": "In", "values": ["b c"]}),
                &[".values[0]: Invalid value: \"b c\": a valid label must be"],
            ),
        ],
    );
    let place = |one: &Value| {
        json!({"spec": {"affinity": {"nodeAffinity": {REQUIRED:
            {"nodeSelectorTerms": [{"matchFields": [one]}]}}}}})
    };
    tries(
        &format!("{at}.matchFields[0]"),
        place,
        &[
            (json!({"key": "metadata.name", "operator": "In", "values": ["n1"]}), &[]),
            (
                json!({"key": "metadata.name", "operator": "In", "values": ["n1", "n2"]}),
                &[".values: Required value: must be only one value when `operator` is 'In' or \
                 'NotIn' for node field selector"],
            ),
            (
                json!({"key": "metadata.name", "operator": "Exists"}),
                &[".operator: Invalid value: \"Exists\": not a valid selector operator"],
            ),
            (
                json!({"key": "spec.unschedulable", "operator": "In", "values": ["true"]}),
                &[".key: Invalid value: \"spec.unschedulable\": not a valid field selector key"],
            ),
        ],
    );
    in_spec(&[(
        json!({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}}}}),
        &[&format!(
            ".affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms: Required value: must have at \
             least one node selector term"
        )],
    )]);
}

#[test]
fn nodes_preferred() {
    let place = |one: &Value| {
        let mut whole = json!({"weight": 1,
            "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}});
        json_patch::merge(&mut whole, one);
        json!({"spec": {"affinity": {"nodeAffinity": {PREFERRED: [whole]}}}})
    };
    let by = |one: Value| json!({"preference": {"matchExpressions": [one]}});
    tries(
        &format!("spec.affinity.nodeAffinity.{PREFERRED}[0]"),
        place,
        &[
            (json!({"weight": 100}), &[]),
            // It has always been let in.
            (by(json!({"key": "a", "operator": "In", "values": ["b c"]})), &[]),
            (json!({"weight": 0}), &[".weight: Invalid value: 0: must be in the range 1-100"]),
            (json!({"weight": 101}), &[".weight: Invalid value: 101: must be in the range 1-100"]),
            (
                by(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
                &[".preference.matchExpressions[0].values: Forbidden: may not be specified when"],
            ),
        ],
    );
}

#[test]
fn other_pods() {
    let term = |change: &Value| {
        let mut term = json!({"topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "web"}}});
        json_patch::merge(&mut term, change);
        term
    };
    let rows: &[super::Row<'_>] = &[
        (json!({"namespaces": ["d"], "namespaceSelector": {}}), &[]),
        (
            json!({"topologyKey": null}),
            &[
                ".topologyKey: Required value: can not be empty",
                ".topologyKey: Invalid value: \"\": name part must be non-empty",
                ".topologyKey: Invalid value: \"\": name part must consist of",
            ],
        ),
        (
            json!({"topologyKey": "a b"}),
            &[".topologyKey: Invalid value: \"a b\": name part must consist of"],
        ),
        (
            json!({"namespaces": ["D"]}),
            &[".namespace: Invalid value: \"D\": a lowercase RFC 1123 label"],
        ),
        (
            json!({"labelSelector": {"matchLabels": {"app": "a b"}}}),
            &[".labelSelector.matchLabels: Invalid value: \"a b\": a valid label must be"],
        ),
        (
            json!({"labelSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            &[".labelSelector.matchExpressions[0].values: Required value: must be specified"],
        ),
        (
            json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "x"}]}}),
            &[".namespaceSelector.matchExpressions[0].operator: Invalid value: \"x\": not a \
                 valid selector operator"],
        ),
    ];
    for kind in ["podAffinity", "podAntiAffinity"] {
        let required =
            |change: &Value| json!({"spec": {"affinity": {kind: {REQUIRED: [term(change)]}}}});
        tries(&format!("spec.affinity.{kind}.{REQUIRED}[0]"), required, rows);
        let preferred = |change: &Value| {
            json!({"spec": {"affinity": {kind: {PREFERRED:
                [{"weight": 5, "podAffinityTerm": term(change)}]}}}})
        };
        tries(&format!("spec.affinity.{kind}.{PREFERRED}[0].podAffinityTerm"), preferred, rows);
        let weight = |weight: &Value| {
            json!({"spec": {"affinity": {kind: {PREFERRED:
                [{"weight": weight, "podAffinityTerm": term(&json!({}))}]}}}})
        };
        tries(
            &format!("spec.affinity.{kind}.{PREFERRED}[0].weight"),
            weight,
            &[
                (json!(0), &[": Invalid value: 0: must be in the range 1-100"]),
                (json!(-1), &[": Invalid value: -1: must be in the range 1-100"]),
            ],
        );
    }
}

#[test]
fn label_keys() {
    let place = |change: &Value| {
        let mut term = json!({"topologyKey": "a", "labelSelector": {"matchLabels": {"b": "c"}}});
        json_patch::merge(&mut term, change);
        json!({"spec": {"affinity": {"podAffinity": {REQUIRED: [term]}}}})
    };
    let unselected = "Forbidden: must not be specified when labelSelector is not set";
    tries(
        &format!("spec.affinity.podAffinity.{REQUIRED}[0]"),
        place,
        &[
            (json!({"matchLabelKeys": ["d"], "mismatchLabelKeys": ["e", "b"]}), &[]),
            (
                json!({"labelSelector": null, "matchLabelKeys": ["d"]}),
                &[&format!(".matchLabelKeys: {unselected}")],
            ),
            (
                json!({"labelSelector": null, "mismatchLabelKeys": ["d"]}),
                &[&format!(".mismatchLabelKeys: {unselected}")],
            ),
            (
                json!({"matchLabelKeys": ["d e"]}),
                &[".matchLabelKeys[0]: Invalid value: \"d e\": name part must consist of"],
            ),
            (
                json!({"matchLabelKeys": ["d", "b"]}),
                &["[1]: Invalid value: \"b\": exists in both matchLabelKeys and labelSelector"],
            ),
            (
                json!({"matchLabelKeys": ["d"], "mismatchLabelKeys": ["d"]}),
                &[".matchLabelKeys[0]: Invalid value: \"d\": exists in both matchLabelKeys and \
                 mismatchLabelKeys"],
            ),
        ],
    );
}

fn constraint(change: &Value) -> Value {
    let mut whole = json!({"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule"});
    json_patch::merge(&mut whole, change);
    json!({"spec": {"topologySpreadConstraints": [whole]}})
}

#[test]
fn spread() {
    tries(
        "spec.topologySpreadConstraints[0]",
        constraint,
        &[
            (
                json!({"minDomains": 2, "nodeAffinityPolicy": "Honor",
                "nodeTaintsPolicy": "Ignore"}),
                &[],
            ),
            (json!({"maxSkew": 0}), &[".maxSkew: Invalid value: 0: must be greater than zero"]),
            (json!({"topologyKey": ""}), &[".topologyKey: Required value: can not be empty"]),
            (
                json!({"whenUnsatisfiable": "Never"}),
                &[".whenUnsatisfiable: Unsupported value: \"Never\": supported values: \
                 \"DoNotSchedule\", \"ScheduleAnyway\""],
            ),
            (
                json!({"minDomains": 0}),
                &[".minDomains: Invalid value: 0: must be greater than zero"],
            ),
            (
                json!({"minDomains": 2, "whenUnsatisfiable": "ScheduleAnyway"}),
                &[".minDomains: Invalid value: 2: can only use minDomains if \
                 whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway"],
            ),
            (
                json!({"nodeAffinityPolicy": "Maybe"}),
                &[".nodeAffinityPolicy: Unsupported value: \"Maybe\": supported values: \
                 \"Honor\", \"Ignore\""],
            ),
            (
                json!({"nodeTaintsPolicy": "Maybe"}),
                &[".nodeTaintsPolicy: Unsupported value: \"Maybe\": supported values: \"Honor\""],
            ),
        ],
    );
    let one = |key: &str, action: &str| {
        json!({"maxSkew": 1, "topologyKey": key,
        "whenUnsatisfiable": action})
    };
    in_spec(&[
        (
            json!({"topologySpreadConstraints": [one("a", "DoNotSchedule"),
                one("a", "ScheduleAnyway"), one("b", "DoNotSchedule")]}),
            &[],
        ),
        (
            json!({"topologySpreadConstraints": [one("a", "DoNotSchedule"),
                one("b", "DoNotSchedule"), one("a", "DoNotSchedule")]}),
            &[".topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \
                 \"{a, DoNotSchedule}\""],
        ),
    ]);
}

#[test]
fn spread_by_labels() {
    tries(
        "spec.topologySpreadConstraints[0]",
        constraint,
        &[
            (
                json!({"matchLabelKeys": ["pod-template-hash"],
                "labelSelector": {"matchLabels": {"a": "b"}}}),
                &[],
            ),
            (
                json!({"matchLabelKeys": ["a"]}),
                &[".matchLabelKeys: Forbidden: must not be specified when labelSelector is not \
                     set"],
            ),
            (
                json!({"matchLabelKeys": ["a b"], "labelSelector": {}}),
                &[".matchLabelKeys[0]: Invalid value: \"a b\": name part must consist of"],
            ),
            (
                json!({"matchLabelKeys": ["a"], "labelSelector": {"matchLabels": {"a": "b"}}}),
                &["[0]: Invalid value: \"a\": exists in both matchLabelKeys and labelSelector"],
            ),
            (
                json!({"matchLabelKeys": ["a"], "labelSelector": {"matchExpressions":
                [{"key": "a", "operator": "Exists"}]}}),
                &["[0]: Invalid value: \"a\": exists in both matchLabelKeys and labelSelector"],
            ),
            (
                json!({"labelSelector": {"matchLabels": {"a": "b c"}}}),
                &[".labelSelector.matchLabels: Invalid value: \"b c\": a valid label must be"],
            ),
        ],
    );
}
