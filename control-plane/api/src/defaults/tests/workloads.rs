//! Defaults of the kinds that run pods, and of what steers how many of them run and where.

use serde_json::{Value, json};

use crate::object::{Creation, generation, prepare_for_create, prepare_for_update};
use crate::resource::{Resource, find_kind};

const CREATION: Creation<'static> =
    Creation { uid: "u1", timestamp: "2026-01-01T00:00:00Z", name_suffix: "x7k2p" };

fn kind(api_version: &str, kind: &str) -> &'static Resource {
    find_kind(api_version, kind).unwrap()
}

fn created(resource: &Resource, mut object: Value) -> Value {
    prepare_for_create(resource, &mut object, &CREATION);
    (resource.apply_defaults)(&mut object);
    object
}

fn updated(resource: &Resource, old: &Value, change: Value) -> Value {
    let mut new = old.clone();
    json_patch::merge(&mut new, &change);
    (resource.apply_defaults)(&mut new);
    prepare_for_update(resource, &mut new, old);
    new
}

fn without_template(mut spec: Value) -> Value {
    spec.as_object_mut().unwrap().remove("template");
    spec
}

#[test]
fn defaulting_twice_changes_nothing_in_depth() {
    let objects = [
        (
            "batch/v1",
            "Job",
            json!({"spec": {"podFailurePolicy": {"rules": [{"onPodConditions": [
            {"type": "x"}]}]}, "template": {"metadata": {"labels": {"a": "b"}}}}}),
        ),
        ("batch/v1", "CronJob", json!({"spec": {"jobTemplate": {"spec": {}}}})),
        ("apps/v1", "StatefulSet", json!({"spec": {"volumeClaimTemplates": [{}]}})),
        ("apps/v1", "DaemonSet", json!({"spec": {"updateStrategy": {"type": "OnDelete"}}})),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            json!({"spec": {"behavior": {
            "scaleUp": {"selectPolicy": "Min"}}}}),
        ),
    ];
    for (api_version, name, object) in objects {
        let once = created(kind(api_version, name), object);
        let mut twice = once.clone();
        (kind(api_version, name).apply_defaults)(&mut twice);
        assert_eq!(once, twice, "{name}");
    }
}

#[test]
fn job() {
    let job = kind("batch/v1", "Job");
    let pod = json!({"containers": [{"name": "c", "image": "i:1"}], "restartPolicy": "Never"});
    let got = created(job, json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": pod}}}));
    let labels = json!({"job-name": "j", "batch.kubernetes.io/job-name": "j",
        "controller-uid": "u1", "batch.kubernetes.io/controller-uid": "u1"});
    assert_eq!(
        without_template(got["spec"].clone()),
        json!({
            "parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
            "suspend": false, "manualSelector": false,
            "podReplacementPolicy": "TerminatingOrFailed",
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}},
        })
    );
    assert_eq!(got["spec"]["template"]["metadata"]["labels"], labels);
    assert_eq!(got["metadata"]["labels"], labels);
    assert_eq!(got["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
    assert_eq!((&got["status"], generation(&got)), (&json!({}), 1));
    let suspended = updated(job, &got, json!({"spec": {"suspend": true}}));
    assert_eq!(generation(&suspended), 2);
    assert_eq!(suspended["spec"]["selector"], got["spec"]["selector"]);
}

#[test]
fn jobs_of_other_forms() {
    let table = [
        (json!({"parallelism": 3}), "completions", Value::Null),
        (json!({"completions": 3}), "parallelism", json!(1)),
        (json!({"backoffLimitPerIndex": 2}), "backoffLimit", json!(i32::MAX)),
        (json!({"podFailurePolicy": {}}), "podReplacementPolicy", json!("Failed")),
        (
            json!({"podFailurePolicy": {"rules": [{"onPodConditions": [{"type": "x"}]}]}}),
            "podFailurePolicy",
            json!({"rules": [{"onPodConditions": [{"type": "x", "status": "True"}]}]}),
        ),
        (json!({"manualSelector": true}), "selector", Value::Null),
        (
            json!({"selector": {"matchLabels": {"a": "b"}}}),
            "selector",
            json!({"matchLabels": {"a": "b", "batch.kubernetes.io/controller-uid": "u1"}}),
        ),
    ];
    for (spec, field, expected) in table {
        let job = json!({"metadata": {"name": "j"}, "spec": spec});
        let got = created(kind("batch/v1", "Job"), job);
        assert_eq!(got["spec"][field], expected, "{spec}");
    }
    let named = json!({"metadata": {"generateName": "j-", "labels": {"own": "1"}}, "spec": {
        "template": {"metadata": {"labels": {"job-name": "mine"}}}}});
    let got = created(kind("batch/v1", "Job"), named);
    let labels = &got["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["job-name"], "mine");
    assert_eq!(labels["batch.kubernetes.io/job-name"], "j-x7k2p");
    assert_eq!(got["metadata"]["labels"], json!({"own": "1"}));
}

#[test]
fn cron_job() {
    let got = created(kind("batch/v1", "CronJob"), json!({"spec": {"schedule": "@daily"}}));
    let template = got["spec"]["jobTemplate"]["spec"]["template"].clone();
    assert_eq!(
        got["spec"],
        json!({
            "schedule": "@daily", "concurrencyPolicy": "Allow", "suspend": false,
            "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"spec": {"template": template}},
        })
    );
    assert_eq!(template["spec"]["restartPolicy"], "Always");
    assert_eq!(generation(&got), 1);
}

#[test]
fn daemon_set() {
    let sets = kind("apps/v1", "DaemonSet");
    let key = "deprecated.daemonset.template.generation";
    let got = created(sets, json!({"spec": {}}));
    assert_eq!(
        without_template(got["spec"].clone()),
        json!({
            "revisionHistoryLimit": 10,
            "updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
        })
    );
    assert_eq!(
        got["status"],
        json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0,
            "numberReady": 0})
    );
    assert_eq!(got["metadata"]["annotations"], json!({key: "1"}));
    let other = updated(
        sets,
        &got,
        json!({"spec": {"minReadySeconds": 5},
        "metadata": {"annotations": {key: "7", "a": "b"}}}),
    );
    assert_eq!(other["metadata"]["annotations"], json!({key: "1", "a": "b"}));
    assert_eq!(generation(&other), 2);
    let again = updated(
        sets,
        &other,
        json!({"spec": {"template": {"spec": {"hostname": "h"}}},
        "metadata": {"annotations": null}}),
    );
    assert_eq!(again["metadata"]["annotations"], json!({key: "2"}));
    let brought = created(sets, json!({"metadata": {"annotations": {key: "4"}}}));
    assert_eq!(brought["metadata"]["annotations"][key], "4");
    let on_delete = created(sets, json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}));
    assert_eq!(on_delete["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
}

#[test]
fn stateful_set() {
    let sets = kind("apps/v1", "StatefulSet");
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}});
    let got = created(sets, json!({"spec": {"volumeClaimTemplates": [claim]}}));
    assert_eq!(
        without_template(got["spec"].clone()),
        json!({
            "podManagementPolicy": "OrderedReady", "replicas": 1, "revisionHistoryLimit": 10,
            "updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"partition": 0, "maxUnavailable": 1}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain",
                "whenScaled": "Retain"},
            "volumeClaimTemplates": [{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem"},
                "status": {"phase": "Pending"}}],
        })
    );
    assert_eq!(got["status"], json!({"replicas": 0, "availableReplicas": 0}));
    let table = [
        (json!({"type": "OnDelete"}), json!({"type": "OnDelete"})),
        (json!({"type": "RollingUpdate"}), json!({"type": "RollingUpdate"})),
        (
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 3}}),
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 3,
                "maxUnavailable": 1}}),
        ),
    ];
    for (strategy, expected) in table {
        let got = created(sets, json!({"spec": {"updateStrategy": strategy}}));
        assert_eq!(got["spec"]["updateStrategy"], expected);
    }
}

#[test]
fn revisions_templates_and_classes() {
    let got = created(kind("apps/v1", "ControllerRevision"), json!({"data": {"a": 1}}));
    assert_eq!((&got["revision"], &got["data"]), (&json!(0), &json!({"a": 1})));
    let template = created(kind("v1", "PodTemplate"), json!({"template": {"spec": {}}}));
    assert_eq!(template["template"]["spec"]["schedulerName"], "default-scheduler");
    assert_eq!(generation(&template), 1);
    let classes = kind("scheduling.k8s.io/v1", "PriorityClass");
    let class = created(classes, json!({"metadata": {"name": "high"}, "description": "d"}));
    assert_eq!(class["value"], 0);
    assert_eq!(class["preemptionPolicy"], "PreemptLowerPriority");
    let described = updated(classes, &class, json!({"description": "e"}));
    assert_eq!((generation(&class), generation(&described)), (1, 1));
    let runtime = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "h",
        "metadata": {}});
    let mut got = runtime.clone();
    (kind("node.k8s.io/v1", "RuntimeClass").apply_defaults)(&mut got);
    assert_eq!(got, runtime);
}

#[test]
fn disruption_budget() {
    let budgets = kind("policy/v1", "PodDisruptionBudget");
    let got = created(budgets, json!({"spec": {"minAvailable": 1}}));
    assert_eq!(
        got["status"],
        json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0,
            "expectedPods": 0})
    );
    assert_eq!((&got["spec"], generation(&got)), (&json!({"minAvailable": 1}), 1));
}

#[test]
fn autoscaler() {
    let autoscalers = kind("autoscaling/v2", "HorizontalPodAutoscaler");
    let got = created(autoscalers, json!({"spec": {"maxReplicas": 3}}));
    assert_eq!(
        got["spec"],
        json!({
            "minReplicas": 1, "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 80}}}],
        })
    );
    assert_eq!((&got["status"], generation(&got)), (&json!({"desiredReplicas": 0}), 0));
    let behavior = json!({"scaleDown": {"selectPolicy": "Disabled"}});
    let got = created(autoscalers, json!({"spec": {"maxReplicas": 3, "behavior": behavior}}));
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    assert_eq!(
        got["spec"]["behavior"],
        json!({
            "scaleUp": {"selectPolicy": "Max", "policies": [pods, percent],
                "stabilizationWindowSeconds": 0},
            "scaleDown": {"selectPolicy": "Disabled", "policies": [percent]},
        })
    );
}
