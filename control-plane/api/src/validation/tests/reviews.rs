//! Reviews of what somebody may do.

use serde_json::{Value, json};

use super::changes::{Row, creations};

const GROUP: &str = "authorization.k8s.io";

fn review() -> Value {
    json!({"metadata": {}, "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}})
}

/// What every review of access must be like.
fn rows() -> Vec<Row> {
    let asked = |attributes: Value| json!({"spec": {"resourceAttributes": attributes}});
    let selector = |field: &str, selector: Value| asked(json!({ field: selector }));
    let path = json!({"verb": "get", "path": "/healthz"});
    vec![
        (json!({}), vec![]),
        (json!({"spec": {"resourceAttributes": null, "nonResourceAttributes": path}}), vec![]),
        (asked(json!({"resource": null, "verb": null})), vec![]),
        (json!({"metadata": {"labels": {}, "generation": 0, "managedFields": [{}]}}), vec![]),
        (
            json!({"spec": {"resourceAttributes": null}}),
            vec![
                "spec.resourceAttributes: Invalid value: null: exactly one of \
                 nonResourceAttributes or resourceAttributes must be specified",
            ],
        ),
        (
            json!({"spec": {"nonResourceAttributes": path}}),
            vec![
                "spec.nonResourceAttributes: Invalid value: \
                 {\"Path\":\"/healthz\",\"Verb\":\"get\"}: cannot be specified in combination with \
                 resourceAttributes",
            ],
        ),
        (
            selector("fieldSelector", json!({})),
            vec![
                "spec.resourceAttributes.fieldSelector.requirements: Required value: when \
                 spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector \
                 is required",
            ],
        ),
        (
            selector(
                "labelSelector",
                json!({"rawSelector": "a", "requirements": [{"key": "a", "operator": "Exists"}]}),
            ),
            vec![
                "spec.resourceAttributes.labelSelector.rawSelector: Invalid value: \"a\": may not \
                 specified at the same time as requirements",
            ],
        ),
        (
            selector("fieldSelector", json!({"requirements": [{"operator": "In"}]})),
            vec![
                "spec.resourceAttributes.fieldSelector.requirements[0].key: Required value: must \
                 be specified",
                "spec.resourceAttributes.fieldSelector.requirements[0].values: Required value: \
                 must be specified when `operator` is 'In' or 'NotIn'",
            ],
        ),
        (
            selector("labelSelector", json!({"requirements": [{"key": "-", "operator": "Like"}]})),
            vec!["spec.resourceAttributes.labelSelector.requirements[0].key: Invalid value: \"-\""],
        ),
        (selector("fieldSelector", json!({"rawSelector": "not=parsed=here"})), vec![]),
    ]
}

#[test]
fn of_oneself() {
    creations(GROUP, "selfsubjectaccessreviews", &review(), rows());
    let named = vec![
        (
            json!({"metadata": {"name": "n"}}),
            vec!["metadata: Invalid value: {\"name\":\"n\"}: must be empty"],
        ),
        (
            json!({"metadata": {"namespace": "d"}}),
            vec!["metadata: Invalid value: {\"namespace\":\"d\"}: must be empty"],
        ),
    ];
    creations(GROUP, "selfsubjectaccessreviews", &review(), named);
}

#[test]
fn of_anybody() {
    let mut base = review();
    base["spec"]["user"] = json!("somebody");
    creations(GROUP, "subjectaccessreviews", &base, rows());
    let table = vec![
        (json!({"spec": {"user": null, "groups": ["g"]}}), vec![]),
        (
            json!({"spec": {"user": null}}),
            vec!["spec.user: Invalid value: \"\": at least one of user or group must be specified"],
        ),
        (
            json!({"metadata": {"generateName": "n"}}),
            vec!["metadata: Invalid value: {\"generateName\":\"n\"}: must be empty"],
        ),
    ];
    creations(GROUP, "subjectaccessreviews", &base, table);
}

#[test]
fn in_a_namespace() {
    let mut base = review();
    base["spec"]["user"] = json!("somebody");
    base["metadata"]["namespace"] = json!("d");
    base["spec"]["resourceAttributes"]["namespace"] = json!("d");
    let path = json!({"verb": "get", "path": "/healthz"});
    let table = vec![
        (json!({}), vec![]),
        (
            json!({"spec": {"resourceAttributes": {"namespace": "e"}}}),
            vec![
                "spec.resourceAttributes.namespace: Invalid value: \"e\": must match \
                 metadata.namespace",
            ],
        ),
        (
            json!({"metadata": {"name": "n"}}),
            vec![
                "metadata: Invalid value: {\"name\":\"n\",\"namespace\":\"d\"}: must be empty \
                 except for namespace",
            ],
        ),
        (
            json!({"spec": {"resourceAttributes": null, "nonResourceAttributes": path}}),
            vec![
                "spec.nonResourceAttributes: Invalid value: \
                 {\"Path\":\"/healthz\",\"Verb\":\"get\"}: disallowed on this kind of request",
            ],
        ),
    ];
    creations(GROUP, "localsubjectaccessreviews", &base, table);
}

#[test]
fn tokens_live_ten_minutes_at_least() {
    let row = &crate::resource::TOKEN_REQUEST;
    let short = "may not specify a duration less than 10 minutes";
    let long = "may not specify a duration larger than 2^32 seconds";
    for (seconds, complaint) in [
        (Value::Null, None),
        (json!(600), None),
        (json!(1_i64 << 32), None),
        (json!(599), Some(short)),
        (json!(0), Some(short)),
        (json!(-1), Some(short)),
        (json!((1_i64 << 32) + 1), Some(long)),
    ] {
        let mut request = json!({ "spec": { "expirationSeconds": seconds } });
        (row.apply_defaults)(&mut request);
        let errors: Vec<String> =
            (row.validate)(&request, None).iter().map(ToString::to_string).collect();
        let expected =
            complaint.map(|why| format!("spec.expirationSeconds: Invalid value: {seconds}: {why}"));
        assert_eq!(errors, Vec::from_iter(expected));
    }
}
