//! Jobs and cron jobs.

use serde_json::{Value, json};

use super::kind::{Kind, containers, spec, starts};

/// The tables, to be counted.
pub(super) const ALL: &[fn()] = &[
    jobs,
    job_selectors,
    indexed_jobs,
    job_managers,
    pod_failure_policies,
    success_policies,
    job_updates,
    job_statuses,
    cron_jobs,
    cron_job_updates,
];

fn job() -> Kind {
    let pod = json!({"containers": containers(), "restartPolicy": "Never"});
    Kind::new("batch/v1", "Job", json!({"spec": {"template": {"spec": pod}}}))
}

#[test]
fn jobs() {
    let negative = |field: &str| spec(json!({ field: -1 }));
    job().creates(&[
        (spec(json!({"parallelism": 0, "completions": 0})), vec![]),
        (spec(json!({"template": {"spec": {"restartPolicy": "OnFailure"}}})), vec![]),
        (
            spec(json!({"template": {"spec": {"restartPolicy": null}}})),
            vec![
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \
                 \"Never\"",
            ],
        ),
        (
            spec(json!({"template": {"spec": {"restartPolicy": "Sometimes"}}})),
            vec![
                "spec.template.spec.restartPolicy: Unsupported value: \"Sometimes\": supported \
                 values: \"Always\"",
                "spec.template.spec.restartPolicy: Unsupported value: \"Sometimes\": supported \
                 values: \"OnFailure\", \"Never\"",
            ],
        ),
        (
            spec(json!({"template": null})),
            vec![
                "spec.template.spec.containers: Required value",
                "spec.template.spec.restartPolicy: Required value: valid values",
            ],
        ),
        (
            spec(json!({"template": {"spec": {"ephemeralContainers": [{"name": "e",
                "image": "i"}]}}})),
            vec![
                "spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not \
                 allowed in pod template",
            ],
        ),
        (
            spec(json!({"template": {"metadata": {"labels": {"a": "b c"}}}})),
            vec![
                "metadata.labels: Invalid value: \"b c\"",
                "spec.template.labels: Invalid value: \"b c\": a valid label must be",
            ],
        ),
        (
            negative("parallelism"),
            vec!["spec.parallelism: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (negative("completions"), vec!["spec.completions: Invalid value: -1: must be greater"]),
        (
            negative("activeDeadlineSeconds"),
            vec!["spec.activeDeadlineSeconds: Invalid value: -1: must be greater"],
        ),
        (negative("backoffLimit"), vec!["spec.backoffLimit: Invalid value: -1: must be greater"]),
        (
            negative("ttlSecondsAfterFinished"),
            vec!["spec.ttlSecondsAfterFinished: Invalid value: -1: must be greater"],
        ),
        (
            spec(json!({"podReplacementPolicy": "Soon"})),
            vec![
                "spec.podReplacementPolicy: Unsupported value: \"Soon\": supported values: \
                 \"Failed\", \"TerminatingOrFailed\"",
            ],
        ),
        (
            spec(json!({"completionMode": "Random"})),
            vec![
                "spec.completionMode: Unsupported value: \"Random\": supported values: \
                 \"NonIndexed\", \"Indexed\"",
            ],
        ),
    ]);
}

#[test]
fn job_selectors() {
    let own = json!({"manualSelector": true, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}}});
    job().creates(&[
        (spec(own), vec![]),
        (
            spec(json!({"manualSelector": true})),
            vec![
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: null: `selector` does not match \
             template `labels`",
            ],
        ),
        (
            spec(json!({"manualSelector": true, "selector": {"matchLabels": {"a": "b"}}})),
            vec!["spec.template.metadata.labels: Invalid value: null: `selector` does not match"],
        ),
        (
            spec(json!({"selector": {"matchLabels": {"a": "b"}}})),
            vec![
                "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\
                 \"batch.kubernetes.io/controller-uid\":\"u1\"}}: `selector` not auto-generated",
                "spec.template.metadata.labels: Invalid value",
            ],
        ),
        (
            spec(json!({"template": {"metadata": {"labels": {"job-name": "other"}}}})),
            vec!["spec.template.metadata.labels[job-name]: Invalid value: {"],
        ),
        (
            spec(json!({"template": {"metadata": {"labels": {"controller-uid": "u2",
                "batch.kubernetes.io/controller-uid": "u2"}}}})),
            vec![
                "spec.template.metadata.labels[controller-uid]: Invalid value: {",
                "spec.template.metadata.labels[batch.kubernetes.io/controller-uid]: Invalid value",
                "spec.template.metadata.labels: Invalid value",
            ],
        ),
    ]);
    let kind = job();
    let mut unlabelled = kind.created(&json!({}));
    unlabelled["spec"]["template"]["metadata"]["labels"] = json!({});
    unlabelled["metadata"]["uid"] = json!("");
    let expected = [
        "metadata.uid: Required value",
        "spec.template.metadata.labels[controller-uid]: Required value: must be ''",
        "spec.template.metadata.labels[job-name]: Required value: must be 'x'",
        "spec.template.metadata.labels[batch.kubernetes.io/controller-uid]: Required value",
        "spec.template.metadata.labels[batch.kubernetes.io/job-name]: Required value: must be 'x'",
        "spec.selector: Invalid value: {",
        "spec.template.metadata.labels: Invalid value: {}",
    ];
    starts(&kind.problems(&unlabelled, None), &expected, &unlabelled);
    // A job from before the prefixes is fine as it is.
    let mut old = kind.created(&json!({}));
    let labels = json!({"controller-uid": "u1", "job-name": "x"});
    old["spec"]["template"]["metadata"]["labels"] = labels;
    old["spec"]["selector"] = json!({"matchLabels": {"controller-uid": "u1"}});
    assert_eq!(kind.problems(&old, Some(&old)), [""; 0]);
    assert_eq!(kind.problems(&old, None).len(), 2);
}

#[test]
fn indexed_jobs() {
    let indexed = |more: Value| {
        let mut whole = json!({"completionMode": "Indexed", "completions": 5});
        json_patch::merge(&mut whole, &more);
        spec(whole)
    };
    job().creates(&[
        (indexed(json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 5})), vec![]),
        (
            indexed(json!({"completions": null, "parallelism": 1})),
            vec!["spec.completions: Required value: when completion mode is Indexed"],
        ),
        (
            spec(json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 1})),
            vec![
                "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
                "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
            ],
        ),
        (
            indexed(json!({"maxFailedIndexes": 1})),
            vec!["spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified"],
        ),
        (
            indexed(json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 6})),
            vec![
                "spec.maxFailedIndexes: Invalid value: 6: must be less than or equal to \
                 completions",
            ],
        ),
        (
            indexed(json!({"parallelism": 100_001})),
            vec![
                "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 \
                 when completion mode is Indexed",
            ],
        ),
        (
            indexed(json!({"completions": 100_001, "backoffLimitPerIndex": 1})),
            vec![
                "spec.maxFailedIndexes: Required value: must be specified when completions is \
                 above 100000",
            ],
        ),
        (
            indexed(json!({"completions": 100_001, "backoffLimitPerIndex": 1,
                "maxFailedIndexes": 10_001, "parallelism": 10_001})),
            vec![
                "spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when \
                 completions are above 100000 and used with backoff limit per index",
                "spec.maxFailedIndexes: Invalid value: 10001: must be less than or equal to 10000",
            ],
        ),
        (
            indexed(json!({"completions": 200_000, "backoffLimitPerIndex": 1,
                "maxFailedIndexes": 100_001})),
            vec![
                "spec.maxFailedIndexes: Invalid value: 100001: must be less than or equal to \
                 100000",
                "spec.maxFailedIndexes: Invalid value: 100001: must be less than or equal to 10000",
            ],
        ),
        (
            json!({"metadata": {"name": "x".repeat(62)}, "spec": {"completionMode": "Indexed",
                "completions": 1, "manualSelector": true,
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}}}}),
            vec!["metadata.name: Invalid value: \"xxx"],
        ),
        (
            json!({"metadata": {"name": "a.b"}, "spec": {"completionMode": "Indexed",
                "completions": 1}}),
            vec![
                "metadata.name: Invalid value: \"a.b\": will not able to create pod with invalid \
                 DNS label: a.b-0",
            ],
        ),
    ]);
}

#[test]
fn job_managers() {
    let by = |manager: &str| spec(json!({ "managedBy": manager }));
    job().creates(&[
        (by("example.com/queue"), vec![]),
        (by(""), vec!["spec.managedBy: Required value"]),
        (
            by("queue"),
            vec!["spec.managedBy: Invalid value: \"queue\": must be a domain-prefixed path"],
        ),
        (
            by("example.com/"),
            vec!["spec.managedBy: Invalid value: \"example.com/\": must be a domain-prefixed path"],
        ),
        (by("A/b"), vec!["spec.managedBy: Invalid value: \"A\": a lowercase RFC 1123 subdomain"]),
        (by("a/b c"), vec!["spec.managedBy: Invalid value: \"b c\": Invalid path (regex used"]),
        (
            by(&format!("a/{}", "b".repeat(62))),
            vec!["spec.managedBy: Too long: may not be more than 63 bytes"],
        ),
    ]);
}

#[test]
fn pod_failure_policies() {
    let rules = |rules: Value| spec(json!({"podFailurePolicy": {"rules": rules}}));
    let codes = |codes: Value| {
        let mut whole = json!({"operator": "In", "values": [1]});
        json_patch::merge(&mut whole, &codes);
        rules(json!([{"action": "FailJob", "onExitCodes": whole}]))
    };
    let conditions = json!([{"type": "DisruptionTarget"}]);
    job().creates(&[
        (rules(json!([{"action": "Ignore", "onPodConditions": conditions}])), vec![]),
        (codes(json!({"values": [1, 2, 40], "containerName": "c"})), vec![]),
        (
            rules(json!([{"onPodConditions": conditions}])),
            vec![
                "spec.podFailurePolicy.rules[0].action: Required value: valid values: [\"Count\" \
                 \"FailIndex\" \"FailJob\" \"Ignore\"]",
            ],
        ),
        (
            rules(json!([{"action": "Shrug", "onPodConditions": conditions}])),
            vec![
                "spec.podFailurePolicy.rules[0].action: Unsupported value: \"Shrug\": supported \
                 values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
            ],
        ),
        (
            rules(json!([{"action": "FailIndex", "onPodConditions": conditions}])),
            vec![
                "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the \
                 backoffLimitPerIndex to be set",
            ],
        ),
        (
            rules(json!([{"action": "Count"}])),
            vec![
                "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and \
                 OnPodConditions is required",
            ],
        ),
        (
            rules(json!([{"action": "Count", "onPodConditions": conditions,
                "onExitCodes": {"operator": "NotIn", "values": [0]}}])),
            vec![
                "spec.podFailurePolicy.rules[0]: Invalid value: specifying both OnExitCodes and \
                 OnPodConditions is not supported",
            ],
        ),
        (
            rules(json!([{"action": "Count", "onPodConditions": [{"type": "a b",
                "status": "Maybe"}]}])),
            vec![
                "spec.podFailurePolicy.rules[0].onPodConditions[0].type: Invalid value: \"a b\"",
                "spec.podFailurePolicy.rules[0].onPodConditions[0].status: Unsupported value: \
                 \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
            ],
        ),
        (
            codes(json!({"values": [0, 3, 2, 3]})),
            vec![
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not \
                 be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[3]: Duplicate value: 3",
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [0,3,2,3]: must \
                 be ordered",
            ],
        ),
        (
            codes(json!({"values": []})),
            vec![
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: []: at least \
                 one value is required",
            ],
        ),
        (
            codes(json!({"values": (1..=256).collect::<Vec<_>>()})),
            vec![
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Too many: 256: must have at \
                 most 255 items",
            ],
        ),
        (
            codes(json!({"operator": "", "containerName": "d"})),
            vec![
                "spec.podFailurePolicy.rules[0].onExitCodes.operator: Required value: valid \
                 values: [\"In\" \"NotIn\"]",
                "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"d\": \
                 must be one of the container or initContainer names in the pod template",
            ],
        ),
        (
            rules(json!(vec![json!({"action": "Count", "onPodConditions": conditions}); 21])),
            vec!["spec.podFailurePolicy.rules: Too many: 21: must have at most 20 items"],
        ),
        (
            spec(json!({"podFailurePolicy": {"rules": []},
                "podReplacementPolicy": "TerminatingOrFailed",
                "template": {"spec": {"restartPolicy": "OnFailure"}}})),
            vec![
                "spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported \
                 values: \"Failed\"",
                "spec.template.spec.restartPolicy: Invalid value: \"OnFailure\": only \"Never\" is \
                 supported when podFailurePolicy is specified",
            ],
        ),
    ]);
}

#[test]
fn success_policies() {
    let rules = |rules: Value| {
        spec(json!({"completionMode": "Indexed", "completions": 10,
            "successPolicy": {"rules": rules}}))
    };
    let indexes = |text: &str| rules(json!([{ "succeededIndexes": text }]));
    job().creates(&[
        (rules(json!([{"succeededIndexes": "0,2-4,9", "succeededCount": 5}])), vec![]),
        (rules(json!([{"succeededCount": 10}])), vec![]),
        (indexes(""), vec![]),
        (
            spec(json!({"successPolicy": {"rules": [{"succeededCount": 1}]}})),
            vec![
                "spec.successPolicy: Invalid value: {\"rules\":[{\"succeededCount\":1}]}: requires \
                indexed completion mode",
            ],
        ),
        (rules(json!([])), vec!["spec.successPolicy.rules: Required value: at least one rules"]),
        (
            rules(json!(vec![json!({"succeededCount": 1}); 21])),
            vec!["spec.successPolicy.rules: Too many: 21: must have at most 20 items"],
        ),
        (
            rules(json!([{}])),
            vec![
                "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or \
                 succeededIndexes must be specified",
            ],
        ),
        (
            rules(json!([{"succeededCount": 11}])),
            vec![
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 11: must be less than \
                 or equal to 10 (the number of specified completions)",
            ],
        ),
        (
            rules(json!([{"succeededIndexes": "1-2", "succeededCount": 3}])),
            vec![
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than \
                 or equal to 2 (the number of indexes in the specified succeededIndexes field)",
            ],
        ),
        (
            indexes("3-10"),
            vec![
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"3-10\": error \
                 parsing succeededIndexes: too large index: \"10\"",
            ],
        ),
        (
            indexes("4,2"),
            vec![
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"4,2\": error \
                 parsing succeededIndexes: non-increasing order, previous: 4, current: 2",
            ],
        ),
        (
            indexes("4-4"),
            vec![
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"4-4\": error \
                 parsing succeededIndexes: non-increasing order, previous: 4, current: 4",
            ],
        ),
        (
            indexes("1-2-3"),
            vec![
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"1-2-3\": error \
                 parsing succeededIndexes: the fragment \"1-2-3\" violates",
            ],
        ),
        (
            indexes("1,x"),
            vec![
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"1,x\": error \
                 parsing succeededIndexes: cannot convert string to integer for index: \"x\"",
            ],
        ),
    ]);
}

#[test]
fn job_updates() {
    let pod = |pod: Value| spec(json!({"template": {"spec": pod}}));
    let indexed = spec(json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3}));
    let suspended = spec(json!({"suspend": true, "template": {"spec": {"affinity": {
        "podAffinity": {}}}}}));
    let resources = json!({"containers": [{"name": "c", "image": "i",
        "imagePullPolicy": "Always", "resources": {"limits": {"cpu": "2"}},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}]});
    let mut started = suspended.clone();
    started["status"] = json!({"startTime": "2026-01-01T00:00:00Z"});
    let mut stopped = started.clone();
    stopped["status"]["conditions"] = json!([{"type": "Suspended", "status": "True"}]);
    let mut stopping = stopped.clone();
    stopping["status"]["active"] = json!(1);
    let none = json!({});
    job().updates(&[
        (
            none.clone(),
            spec(json!({"parallelism": 5, "suspend": true, "backoffLimit": 1,
                "activeDeadlineSeconds": 9, "ttlSecondsAfterFinished": 3})),
            vec![],
        ),
        (
            none.clone(),
            spec(json!({"completions": 2})),
            vec!["spec.completions: Invalid value: 2: field is immutable"],
        ),
        (indexed.clone(), spec(json!({"completions": 5, "parallelism": 5})), vec![]),
        (
            indexed,
            spec(json!({"completions": 5})),
            vec![
                "spec.completions: Invalid value: 5: can only be modified in tandem with \
                 spec.parallelism",
            ],
        ),
        (
            none.clone(),
            spec(json!({"selector": {"matchLabels": {"job-name": "x"}}})),
            vec!["spec.selector: Invalid value: {\"matchLabels\":{"],
        ),
        (
            none.clone(),
            pod(json!({"nodeSelector": {"a": "b"}})),
            vec!["spec.template: Invalid value: {"],
        ),
        (
            none,
            spec(json!({"completionMode": "Indexed", "managedBy": "a.b/c",
                "backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": []},
                "podReplacementPolicy": "Failed",
                "successPolicy": {"rules": [{"succeededCount": 1}]}})),
            vec![
                "spec.completionMode: Invalid value: \"Indexed\": field is immutable",
                "spec.podFailurePolicy: Invalid value: {\"rules\":[]}: field is immutable",
                "spec.backoffLimitPerIndex: Invalid value: 1: field is immutable",
                "spec.managedBy: Invalid value: \"a.b/c\": field is immutable",
                "spec.successPolicy: Invalid value: {",
            ],
        ),
        (
            suspended.clone(),
            pod(json!({"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}],
                "schedulingGates": [{"name": "g"}],
                "affinity": {"nodeAffinity": {}, "podAffinity": {}}})),
            vec![],
        ),
        (
            suspended.clone(),
            spec(json!({"template": {"metadata": {"labels": {"more": "1"},
                "annotations": {"b": "c"}}}})),
            vec![],
        ),
        (suspended.clone(), pod(resources.clone()), vec![]),
        (
            suspended.clone(),
            pod(json!({"affinity": {"podAffinity": null}})),
            vec!["spec.template.spec: Invalid value: {"],
        ),
        (suspended, pod(json!({"hostname": "h"})), vec!["spec.template.spec: Invalid value: {"]),
        (
            started,
            pod(json!({"nodeSelector": {"a": "b"}})),
            vec!["spec.template: Invalid value: {"],
        ),
        (stopped.clone(), pod(json!({"nodeSelector": {"a": "b"}})), vec![]),
        (stopped, pod(resources), vec![]),
        (
            stopping,
            pod(json!({"nodeSelector": {"a": "b"}})),
            vec!["spec.template: Invalid value: {"],
        ),
        (spec(json!({"suspend": true})), pod(json!({"affinity": {"nodeAffinity": {}}})), vec![]),
        (
            spec(json!({"suspend": true, "template": {"spec": {"affinity": {
                "nodeAffinity": {}}}}})),
            pod(json!({"affinity": null})),
            vec![],
        ),
    ]);
}

#[test]
fn job_statuses() {
    let conditions = |kinds: &[&str]| -> Value {
        kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
    };
    let status = |status: Value| json!({ "status": status });
    let (start, end) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
    let complete = conditions(&["SuccessCriteriaMet", "Complete"]);
    let failed = conditions(&["FailureTarget", "Failed"]);
    let done = json!({"startTime": start, "completionTime": end, "conditions": complete});
    let none = json!({});
    let mut indexed = spec(json!({"completionMode": "Indexed", "completions": 5,
        "parallelism": 5, "backoffLimitPerIndex": 1}));
    indexed["status"] = json!({"succeeded": 3});
    job().updates(&[
        (none.clone(), status(json!({"active": 2, "ready": 1, "startTime": start})), vec![]),
        (none.clone(), status(done.clone()), vec![]),
        (none.clone(), status(json!({"startTime": start, "conditions": failed})), vec![]),
        (
            none.clone(),
            status(json!({"active": -1})),
            vec!["status.active: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            none.clone(),
            status(json!({"active": 1, "ready": 2})),
            vec!["status.ready: Invalid value: 2: cannot set more ready pods than active"],
        ),
        (
            none.clone(),
            status(json!({"uncountedTerminatedPods": {"succeeded": ["a", ""],
                "failed": ["a"]}})),
            vec![
                "status.uncountedTerminatedPods.succeeded[1]: Invalid value: \"\": must not be",
                "status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
            ],
        ),
        (
            none.clone(),
            status(json!({"startTime": start, "completionTime": end,
                "conditions": conditions(&["Complete"])})),
            vec![
                "status.conditions: Invalid value: cannot set Complete=True condition without the \
                 SuccessCriteriaMet=true condition",
            ],
        ),
        (
            none.clone(),
            status(json!({"startTime": start, "conditions": conditions(&["Failed"])})),
            vec![
                "status.conditions: Invalid value: cannot set Failed=True condition without the \
                 FailureTarget=true condition",
            ],
        ),
        (
            none.clone(),
            status(json!({"startTime": start,
                "conditions": conditions(&["SuccessCriteriaMet", "FailureTarget", "Failed"])})),
            vec![
                "status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and \
                 Failed=true conditions",
                "status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and \
                 FailureTarget=true conditions",
            ],
        ),
        (
            none.clone(),
            status(json!({"conditions": complete, "active": 1, "terminating": 2})),
            vec![
                "status.active: Invalid value: 1: active>0 is invalid for finished job",
                "status.terminating: Invalid value: 2: terminating>0 is invalid for finished job",
                "status.startTime: Required value: startTime is required for finished job",
                "status.completionTime: Required value: completionTime is required for Complete",
            ],
        ),
        (
            none.clone(),
            status(json!({"startTime": start, "completionTime": end})),
            vec![
                "status.completionTime: Invalid value: \"2026-01-01T00:01:00Z\": cannot set \
                 completionTime when there is no Complete=True condition",
            ],
        ),
        (
            none.clone(),
            status(json!({"startTime": end, "completionTime": start, "conditions": complete})),
            vec![
                "status.completionTime: Invalid value: \"2026-01-01T00:00:00Z\": must be equal to \
                 or after `startTime`",
            ],
        ),
        (
            status(done.clone()),
            status(json!({"conditions": [], "completionTime": null})),
            vec![
                "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True",
                "status.conditions: Invalid value: cannot disable the terminal Complete=True",
            ],
        ),
        (
            status(done),
            status(json!({"completionTime": "2026-01-01T00:02:00Z"})),
            vec![
                "status.completionTime: Invalid value: \"2026-01-01T00:02:00Z\": field is \
                 immutable",
            ],
        ),
        (
            status(json!({"startTime": start})),
            status(json!({"startTime": null})),
            vec!["status.startTime: Required value: startTime cannot be removed for unsuspended"],
        ),
        (
            status(json!({"failed": 2, "succeeded": 2})),
            status(json!({"failed": 1, "succeeded": 1})),
            vec![
                "status.failed: Invalid value: 1: cannot decrease the failed counter",
                "status.succeeded: Invalid value: 1: cannot decrease the succeeded counter",
            ],
        ),
        (
            none,
            status(json!({"completedIndexes": "0", "failedIndexes": "1"})),
            vec![
                "status.completedIndexes: Invalid value: \"0\": cannot set non-empty \
                 completedIndexes when non-indexed completion mode",
                "status.failedIndexes: Invalid value: \"1\": cannot set non-null failedIndexes \
                 when backoffLimitPerIndex is null",
            ],
        ),
        (
            indexed.clone(),
            status(json!({"succeeded": 2, "completedIndexes": "0,2-3", "failedIndexes": "4"})),
            vec![],
        ),
        (
            indexed.clone(),
            status(json!({"completedIndexes": "0-5"})),
            vec![
                "status.completedIndexes: Invalid value: \"0-5\": error parsing completedIndexes: \
                 too large index",
            ],
        ),
        (
            indexed,
            status(json!({"completedIndexes": "0,2-4", "failedIndexes": "1,3"})),
            vec![
                "status.failedIndexes: Invalid value: \"1,3\": failedIndexes and completedIndexes \
                 overlap at index: 3",
            ],
        ),
    ]);
}

fn cron_job() -> Kind {
    let pod = json!({"containers": containers(), "restartPolicy": "OnFailure"});
    let job = json!({"spec": {"template": {"spec": pod}}});
    Kind::new(
        "batch/v1",
        "CronJob",
        json!({"spec": {"schedule": "*/5 * * * *", "jobTemplate": job}}),
    )
}

#[test]
fn cron_jobs() {
    let zone = |zone: &str| spec(json!({ "timeZone": zone }));
    cron_job().creates(&[
        (spec(json!({"schedule": "@hourly", "concurrencyPolicy": "Forbid"})), vec![]),
        (zone("America/Argentina/Buenos_Aires"), vec![]),
        (zone("Etc/GMT+5"), vec![]),
        (json!({"metadata": {"name": "x".repeat(52)}}), vec![]),
        (
            json!({"metadata": {"name": "x".repeat(53)}}),
            vec!["metadata.name: Invalid value: \"xxx"],
        ),
        (spec(json!({"schedule": ""})), vec!["spec.schedule: Required value"]),
        (
            spec(json!({"schedule": "* * * *"})),
            vec![
                "spec.schedule: Invalid value: \"* * * *\": expected exactly 5 fields, found 4: \
                 [* * * *]",
            ],
        ),
        (
            spec(json!({"schedule": "61 * * * *"})),
            vec!["spec.schedule: Invalid value: \"61 * * * *\": end of range (61) above maximum"],
        ),
        (
            spec(json!({"schedule": "TZ=UTC 0 * * * *"})),
            vec![
                "spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in \
                 schedule, use timeZone field instead",
            ],
        ),
        (
            zone(""),
            vec!["spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string"],
        ),
        (
            zone("local"),
            vec!["spec.timeZone: Invalid value: \"local\": timeZone must be an explicit time zone"],
        ),
        (
            zone("Europe//Paris"),
            vec![
                "spec.timeZone: Invalid value: \"Europe//Paris\": unknown time zone Europe//Paris",
            ],
        ),
        (zone("../etc"), vec!["spec.timeZone: Invalid value: \"../etc\": unknown time zone"]),
        (zone("-a"), vec!["spec.timeZone: Invalid value: \"-a\": unknown time zone"]),
        (
            zone("Abcdefghijklmno"),
            vec!["spec.timeZone: Invalid value: \"Abcdefghijklmno\": unknown time zone"],
        ),
        (
            spec(json!({"concurrencyPolicy": "Queue"})),
            vec![
                "spec.concurrencyPolicy: Unsupported value: \"Queue\": supported values: \
                 \"Allow\", \"Forbid\", \"Replace\"",
            ],
        ),
        (
            spec(json!({"startingDeadlineSeconds": -1, "successfulJobsHistoryLimit": -1,
                "failedJobsHistoryLimit": -1})),
            vec![
                "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal",
                "spec.successfulJobsHistoryLimit: Invalid value: -1: must be greater",
                "spec.failedJobsHistoryLimit: Invalid value: -1: must be greater",
            ],
        ),
        (
            spec(json!({"jobTemplate": {"spec": {"manualSelector": true,
                "selector": {"matchLabels": {"a": "b"}}}}})),
            vec![
                "spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: \
                 `selector` will be auto-generated",
                "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \
                 \"nil\", \"false\"",
            ],
        ),
        (
            spec(json!({"jobTemplate": null})),
            vec![
                "spec.jobTemplate.spec.template.spec.containers: Required value",
                "spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values",
            ],
        ),
    ]);
}

#[test]
fn cron_job_updates() {
    let with_zone = spec(json!({"schedule": "CRON_TZ=UTC 0 * * * *"}));
    let none = json!({});
    cron_job().updates(&[
        (
            none.clone(),
            spec(json!({"schedule": "@daily", "suspend": true, "timeZone": "Europe/Paris"})),
            vec![],
        ),
        (none.clone(), spec(json!({"schedule": "x"})), vec!["spec.schedule: Invalid value: \"x\""]),
        (none, spec(json!({"timeZone": "a b"})), vec!["spec.timeZone: Invalid value: \"a b\""]),
        (spec(json!({"timeZone": "a b"})), spec(json!({"suspend": true})), vec![]),
        (with_zone.clone(), spec(json!({"suspend": true})), vec![]),
        (with_zone.clone(), spec(json!({"schedule": "TZ=UTC 1 * * * *"})), vec![]),
        (
            with_zone,
            spec(json!({"timeZone": "UTC"})),
            vec![
                "spec.schedule: Invalid value: \"CRON_TZ=UTC 0 * * * *\": cannot use both timeZone \
                 field and TZ or CRON_TZ in schedule",
            ],
        ),
        // A name that is too long for new ones may stay.
        (json!({"metadata": {"name": "x".repeat(60)}}), spec(json!({"suspend": true})), vec![]),
    ]);
}
