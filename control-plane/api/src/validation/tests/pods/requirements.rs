//! What containers and pods ask for and are limited to.

use serde_json::{Value, json};

use super::{in_container, in_spec};

pub(super) const ALL: &[fn()] = &[
    amounts,
    what_is_not_shared,
    claims_of_containers,
    claims_of_pods,
    resizing,
    whole_pods,
    overhead,
];

fn both(requests: Value, limits: Value) -> Value {
    json!({"resources": {"requests": requests, "limits": limits}})
}

#[test]
fn amounts() {
    in_container(&[
        (both(json!({"cpu": "100m", "memory": "1Gi"}), json!({"cpu": 1})), &[]),
        (both(json!({"cpu": "0.5", "ephemeral-storage": "1Gi"}), Value::Null), &[]),
        (
            both(json!({"cpu": "2"}), json!({"cpu": "1"})),
            &[".resources.requests: Invalid value: \"2\": must be less than or equal to cpu \
                 limit of 1"],
        ),
        (
            both(json!({"memory": "2Gi"}), json!({"memory": "1Gi"})),
            &[".resources.requests: Invalid value: \"2Gi\": must be less than or equal to \
                 memory limit of 1Gi"],
        ),
        (
            both(json!({"memory": "-1"}), Value::Null),
            &[".resources.requests[memory]: Invalid value: \"-1\": must be greater than or \
                 equal to 0"],
        ),
        (
            both(json!({"gpu": "1"}), json!({"gpu": "1"})),
            &[
                ".resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type \
                 or fully qualified",
                ".resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for \
                 containers",
                ".resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource \
                 type or fully qualified",
                ".resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource \
                 for containers",
            ],
        ),
        (
            both(json!({"pods": "1"}), Value::Null),
            &[".resources.requests[pods]: Invalid value: \"pods\": must be a standard resource \
                 for containers"],
        ),
        (
            both(json!({"a b": "1"}), Value::Null),
            &[
                ".resources.requests[a b]: Invalid value: \"a b\": name part must consist of",
                ".resources.requests[a b]: Invalid value: \"a b\": must be a standard resource \
                 for containers",
            ],
        ),
        (
            both(json!({"requests.example.com/a": "1"}), json!({"requests.example.com/a": "1"})),
            &[
                ".resources.limits[requests.example.com/a]: Invalid value: \
                 \"requests.example.com/a\": doesn't follow extended resource name standard",
                ".resources.requests[requests.example.com/a]: Invalid value: \
                 \"requests.example.com/a\": doesn't follow extended resource name standard",
            ],
        ),
    ]);
}

#[test]
fn what_is_not_shared() {
    let gpu = "example.com/gpu";
    let pages = "hugepages-2Mi";
    in_container(&[
        (both(Value::Null, json!({gpu: 2})), &[]),
        (both(json!({"cpu": 1}), json!({pages: "4Mi"})), &[]),
        (
            both(json!({gpu: 1}), json!({gpu: 2})),
            &[".resources.requests: Invalid value: \"1\": must be equal to example.com/gpu \
                 limit of 2"],
        ),
        (
            both(json!({gpu: 1}), Value::Null),
            &[".resources.limits: Required value: Limit must be set for non overcommitable \
                 resources"],
        ),
        (
            both(json!({gpu: "500m"}), json!({gpu: "500m"})),
            &[
                ".resources.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer",
                ".resources.requests[example.com/gpu]: Invalid value: \"500m\": must be an \
                 integer",
            ],
        ),
        (
            both(Value::Null, json!({pages: "4Mi"})),
            &[".resources: Forbidden: HugePages require cpu or memory"],
        ),
        (
            both(json!({"cpu": 1}), json!({pages: "3Mi"})),
            &[
                ".resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive \
                 integer multiple of hugepages-2Mi",
                ".resources.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive \
                 integer multiple of hugepages-2Mi",
            ],
        ),
        (
            both(json!({"cpu": 1, pages: "2Mi"}), json!({pages: "4Mi"})),
            &[".resources.requests: Invalid value: \"2Mi\": must be equal to hugepages-2Mi \
                 limit of 4Mi"],
        ),
        (
            both(json!({"cpu": 1, pages: "2Mi"}), Value::Null),
            &[".resources.limits: Required value: Limit must be set for non overcommitable"],
        ),
    ]);
}

#[test]
fn claims_of_containers() {
    let row = |claims: Value| {
        json!({"containers": [{"name": "c", "image": "i", "resources": {"claims": claims}}],
            "resourceClaims": [{"name": "a", "resourceClaimName": "a"},
                {"name": "b", "resourceClaimTemplateName": "t"}]})
    };
    let at = ".containers[0].resources.claims";
    in_spec(&[
        (row(json!([{"name": "a", "request": "x"}, {"name": "a", "request": "y"}])), &[]),
        (row(json!([{"name": ""}])), &[&format!("{at}[0]: Required value")]),
        (
            row(json!([{"name": "z"}])),
            &[&format!(
                "{at}[0]: Not found: \"z\": must be one of the names in pod.spec.resourceClaims: \
                 a, b"
            )],
        ),
        (
            row(json!([{"name": "a"}, {"name": "a"}])),
            &[&format!("{at}[1]: Duplicate value: \"a\"")],
        ),
        (
            row(json!([{"name": "a"}, {"name": "a", "request": "x"}])),
            &[&format!("{at}[1]: Duplicate value: \"a\"")],
        ),
        (
            row(json!([{"name": "a", "request": "x"}, {"name": "a"}])),
            &[&format!("{at}[1]: Duplicate value: \"a\"")],
        ),
        (
            row(json!([{"name": "a", "request": "x"}, {"name": "a", "request": "x"}])),
            &[&format!("{at}[1]: Duplicate value: \"a/x\"")],
        ),
        (
            row(json!([{"name": "a", "request": "X"}])),
            &[&format!("{at}[0].request: Invalid value: \"X\": a lowercase RFC 1123 label")],
        ),
    ]);
    in_container(&[(
        json!({"resources": {"claims": [{"name": "a"}]}}),
        &[".resources.claims[0]: Not found: \"a\": must be one of the names in \
             pod.spec.resourceClaims which is empty"],
    )]);
}

#[test]
fn claims_of_pods() {
    let claims = |claims: Value| json!({"resourceClaims": claims});
    in_spec(&[
        (claims(json!([{"resourceClaimName": "a"}])), &[".resourceClaims[0].name: Required value"]),
        (
            claims(json!([{"name": "A", "resourceClaimName": "a"}])),
            &[".resourceClaims[0].name: Invalid value: \"A\": a lowercase RFC 1123 label"],
        ),
        (
            claims(json!([{"name": "a", "resourceClaimName": "a"},
                {"name": "a", "resourceClaimName": "b"}])),
            &[".resourceClaims[1].name: Duplicate value: \"a\""],
        ),
        (claims(json!([{"name": "a"}])), &[".resourceClaims[0]: Invalid value: {\"name\":\"a\"}"]),
        (
            claims(json!([{"name": "a", "resourceClaimName": "a",
                "resourceClaimTemplateName": "b"}])),
            &[".resourceClaims[0]: Invalid value: {\"name\":\"a\""],
        ),
        (
            claims(json!([{"name": "a", "resourceClaimName": "A"}])),
            &[".resourceClaims[0].resourceClaimName: Invalid value: \"A\": a lowercase"],
        ),
        (
            claims(json!([{"name": "a", "resourceClaimTemplateName": "A"}])),
            &[".resourceClaims[0].resourceClaimTemplateName: Invalid value: \"A\": a lowercase"],
        ),
    ]);
}

#[test]
fn resizing() {
    let policy = |name: &str, restart: &str| {
        json!({"resizePolicy": [{"resourceName": name,
        "restartPolicy": restart}]})
    };
    in_container(&[
        (policy("cpu", "NotRequired"), &[]),
        (policy("memory", "RestartContainer"), &[]),
        (
            policy("gpu", "NotRequired"),
            &[".resizePolicy: Unsupported value: \"gpu\": supported values: \"cpu\", \
                 \"memory\""],
        ),
        (policy("", "NotRequired"), &[".resizePolicy: Required value"]),
        (policy("cpu", ""), &[".resizePolicy: Required value"]),
        (
            policy("cpu", "Restart"),
            &[".resizePolicy: Unsupported value: \"Restart\": supported values: \
                 \"NotRequired\", \"RestartContainer\""],
        ),
        (
            json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"},
                {"resourceName": "cpu", "restartPolicy": "NotRequired"}]}),
            &[".resizePolicy[1]: Duplicate value: \"cpu\""],
        ),
    ]);
    let mut never = super::container(&policy("cpu", "RestartContainer"));
    never["name"] = json!("c");
    in_spec(&[(
        json!({"restartPolicy": "Never", "containers": [never]}),
        &[".containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be \
             'NotRequired' when pod `restartPolicy` is 'Never'"],
    )]);
}

#[test]
fn whole_pods() {
    let row = |own: Value, of_container: Value| {
        json!({"resources": own,
            "containers": [{"name": "c", "image": "i", "resources": of_container}]})
    };
    in_spec(&[
        (
            row(
                json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}),
                json!({"requests": {"cpu": "1"}}),
            ),
            &[],
        ),
        (
            row(json!({"requests": {"cpu": "1"}}), json!({"requests": {"cpu": "2"}})),
            &[".resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal \
                 to aggregate container requests of 2"],
        ),
        (
            row(
                json!({"limits": {"cpu": "1"}}),
                json!({"limits": {"cpu": "2"},
                "requests": {"cpu": "1"}}),
            ),
            &[".resources.containers[0][cpu].limits: Invalid value: \"2\": must be less than \
                 or equal to pod limits of 1"],
        ),
        (
            row(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}), json!({})),
            &[".resources.requests: Invalid value: \"2\": must be less than or equal to cpu \
                 limit of 1"],
        ),
        (
            row(json!({"requests": {"ephemeral-storage": "1Gi"}}), json!({})),
            &[".resources.requests[ephemeral-storage]: Unsupported value: \
                 \"ephemeral-storage\": supported values: \"cpu\", \"hugepages-\", \"memory\""],
        ),
        (
            row(json!({"claims": [{"name": "a"}]}), json!({})),
            &[".resources.claims: Forbidden: claims may not be set for Resources at pod-level"],
        ),
        (
            json!({"os": {"name": "windows"}, "resources": {"limits": {"cpu": "1"}}}),
            &[".resources: Forbidden: may not be set for a windows pod"],
        ),
    ]);
}

#[test]
fn overhead() {
    in_spec(&[
        (json!({"overhead": {"cpu": "100m", "memory": "50Mi"}}), &[]),
        (
            json!({"overhead": {"cpu": "-1"}}),
            &[".overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
        ),
        (
            json!({"overhead": {"gpu": "1"}}),
            &[
                ".overhead.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type",
                ".overhead.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for",
            ],
        ),
    ]);
}
