//! Columns and cells of the kinds that run pods, and of what steers how many of them run.

use serde_json::{Value, json};

use crate::resource::find_kind;

const NOW: &str = "2026-01-02T00:00:00Z";

fn cells(api_version: &str, kind: &str, mut object: Value) -> Vec<String> {
    object["metadata"]["name"] = json!("x");
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T23:55:00Z");
    let resource = find_kind(api_version, kind).unwrap();
    let cells = (resource.cells)(&object, NOW.parse().unwrap());
    let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    cells.iter().map(text).collect()
}

fn headers(api_version: &str, kind: &str) -> Vec<String> {
    let columns = find_kind(api_version, kind).unwrap().columns.iter();
    columns.map(|one| format!("{}{}", one.name, if one.priority > 0 { "*" } else { "" })).collect()
}

fn template() -> Value {
    json!({"metadata": {"labels": {"l": "m"}}, "spec": {"nodeSelector": {"disk": "ssd"},
        "containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j:2"}]}})
}

#[test]
fn headers_are_those_of_kubernetes() {
    let table = [
        (
            "apps/v1",
            "DaemonSet",
            "Name Desired Current Ready Up-to-date Available Node_Selector Age Containers* Images* \
             Selector*",
        ),
        ("apps/v1", "StatefulSet", "Name Ready Age Containers* Images*"),
        ("apps/v1", "ControllerRevision", "Name Controller Revision Age"),
        ("batch/v1", "Job", "Name Status Completions Duration Age Containers* Images* Selector*"),
        (
            "batch/v1",
            "CronJob",
            "Name Schedule Timezone Suspend Active Last_Schedule Age Containers* Images* Selector*",
        ),
        ("v1", "PodTemplate", "Name Containers Images Pod_Labels"),
        (
            "policy/v1",
            "PodDisruptionBudget",
            "Name Min_Available Max_Unavailable Allowed_Disruptions Age",
        ),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            "Name Reference Targets MinPods MaxPods Replicas Age",
        ),
        ("scheduling.k8s.io/v1", "PriorityClass", "Name Value Global-Default Age PreemptionPolicy"),
        ("node.k8s.io/v1", "RuntimeClass", "Name Handler Age"),
    ];
    for (api_version, kind, expected) in table {
        let got: Vec<String> =
            headers(api_version, kind).iter().map(|one| one.replace(' ', "_")).collect();
        assert_eq!(got.join(" "), expected, "{kind}");
    }
}

#[test]
fn sets_and_templates() {
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"s": "t"}},
        "template": template()});
    let status = json!({"desiredNumberScheduled": 5, "currentNumberScheduled": 4, "numberReady": 3,
        "updatedNumberScheduled": 2, "numberAvailable": 1, "readyReplicas": 2});
    let set = json!({"spec": spec, "status": status});
    assert_eq!(
        cells("apps/v1", "DaemonSet", set.clone()),
        ["x", "5", "4", "3", "2", "1", "disk=ssd", "5m", "a,b", "i:1,j:2", "s=t"]
    );
    assert_eq!(cells("apps/v1", "StatefulSet", set), ["x", "2/3", "5m", "a,b", "i:1,j:2"]);
    let object = json!({ "template": template() });
    assert_eq!(cells("v1", "PodTemplate", object), ["x", "a,b", "i:1,j:2", "l=m"]);
    let owner = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web",
        "controller": true});
    let table = [
        (json!([]), "<none>"),
        (json!([{"kind": "Pod", "name": "p"}, owner]), "statefulset.apps/web"),
        (json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "controller": true}]), "pod/p"),
    ];
    for (owners, controller) in table {
        let revision = json!({"metadata": {"ownerReferences": owners}, "revision": 7});
        let got = cells("apps/v1", "ControllerRevision", revision);
        assert_eq!(got, ["x", controller, "7", "5m"]);
    }
}

#[test]
fn jobs() {
    let condition = |kind: &str| json!({"conditions": [{"type": kind, "status": "True"}]});
    let times = |start: &str, end: &str| json!({"startTime": start, "completionTime": end});
    let unset = json!({"conditions": [{"type": "Complete", "status": "False"}]});
    let table = [
        (json!({"completions": 3}), json!({"succeeded": 1}), ["Running", "1/3", ""]),
        (json!({"completions": 0}), unset, ["Running", "0/0", ""]),
        (json!({"parallelism": 4}), condition("Complete"), ["Complete", "0/1 of 4", ""]),
        (json!({"parallelism": 1}), condition("Failed"), ["Failed", "0/1", ""]),
        (json!({}), condition("Suspended"), ["Suspended", "0/1", ""]),
        (json!({}), condition("FailureTarget"), ["FailureTarget", "0/1", ""]),
        (json!({}), json!({"startTime": "2026-01-01T23:58:00Z"}), ["Running", "0/1", "2m"]),
        (
            json!({}),
            times("2026-01-01T23:00:00Z", "2026-01-01T23:00:07Z"),
            ["Running", "0/1", "7s"],
        ),
    ];
    for (mut spec, status, expected) in table {
        spec["selector"] = json!({"matchLabels": {"s": "t"}});
        spec["template"] = template();
        let job = json!({"spec": spec, "status": status});
        let got = cells("batch/v1", "Job", job.clone());
        assert_eq!(got[1..4], expected, "{job}");
        assert_eq!(got[4..], ["5m", "a,b", "i:1,j:2", "s=t"]);
    }
    let deleted = json!({"metadata": {"deletionTimestamp": NOW}});
    assert_eq!(cells("batch/v1", "Job", deleted)[1], "Terminating");
}

#[test]
fn cron_jobs() {
    let job = json!({"spec": {"template": template()}});
    let plain = json!({"spec": {"schedule": "@hourly", "suspend": false, "jobTemplate": job}});
    assert_eq!(
        cells("batch/v1", "CronJob", plain.clone()),
        ["x", "@hourly", "<none>", "False", "0", "<none>", "5m", "a,b", "i:1,j:2", "<none>"]
    );
    let mut busy = plain;
    busy["spec"]["suspend"] = json!(true);
    busy["spec"]["timeZone"] = json!("Europe/Paris");
    busy["status"] = json!({"active": [{}, {}], "lastScheduleTime": "2026-01-01T23:59:30Z"});
    let got = cells("batch/v1", "CronJob", busy);
    assert_eq!(got[2..6], ["Europe/Paris", "True", "2", "30s"]);
}

#[test]
fn budgets_and_classes() {
    let table = [
        (json!({"minAvailable": "50%"}), ["50%", "N/A"]),
        (json!({"maxUnavailable": 1}), ["N/A", "1"]),
        (json!({"minAvailable": 0}), ["0", "N/A"]),
    ];
    for (spec, expected) in table {
        let budget = json!({"spec": spec, "status": {"disruptionsAllowed": 2}});
        let got = cells("policy/v1", "PodDisruptionBudget", budget);
        assert_eq!(got[1..3], expected);
        assert_eq!(got[3..], ["2", "5m"]);
    }
    let class = json!({"value": 1000, "globalDefault": true, "preemptionPolicy": "Never"});
    let got = cells("scheduling.k8s.io/v1", "PriorityClass", class);
    assert_eq!(got, ["x", "1000", "true", "5m", "Never"]);
    let got = cells("scheduling.k8s.io/v1", "PriorityClass", json!({}));
    assert_eq!(got, ["x", "0", "false", "5m", ""]);
    let got = cells("node.k8s.io/v1", "RuntimeClass", json!({"handler": "kata"}));
    assert_eq!(got, ["x", "kata", "5m"]);
}

#[test]
fn autoscalers() {
    let resource = |kind: &str, field: &str, target: Value| {
        let metric = json!({"name": "cpu", "target": target});
        json!({"type": kind, field: metric})
    };
    let cpu = resource("Resource", "resource", json!({"averageUtilization": 80}));
    let memory = resource("ContainerResource", "containerResource", json!({"averageValue": "1Gi"}));
    let automatic = resource("Resource", "resource", json!({}));
    let other =
        |kind: &str, field: &str, target: Value| json!({"type": kind, field: {"target": target}});
    let queue = other("External", "external", json!({"averageValue": "10"}));
    let length = other("Object", "object", json!({"value": "2k"}));
    let requests = other("Pods", "pods", json!({"averageValue": "5"}));
    let current = |field: &str, value: Value| json!({field: {"current": value}});
    let table = [
        (json!([]), json!([]), "<none>"),
        (json!([cpu]), json!([]), "cpu: <unknown>/80%"),
        (
            json!([cpu]),
            json!([current("resource", json!({"averageUtilization": 40}))]),
            "cpu: 40%/80%",
        ),
        (json!([automatic]), json!([]), "cpu: <unknown>/<auto>"),
        (
            json!([memory]),
            json!([current("containerResource", json!({"averageValue": "512Mi"}))]),
            "cpu: 512Mi/1Gi",
        ),
        (json!([queue]), json!([current("external", json!({"averageValue": "3"}))]), "3/10 (avg)"),
        (json!([length]), json!([current("object", json!({"value": "1k"}))]), "1k/2k"),
        (json!([requests]), json!([current("pods", json!({"averageValue": "4"}))]), "4/5"),
        (
            json!([requests]),
            json!([current("resource", json!({"averageValue": "4"}))]),
            "<unknown>/5",
        ),
        (
            json!([cpu, length, queue, requests]),
            json!([]),
            "cpu: <unknown>/80%, <unknown>/2k + 2 more...",
        ),
        (json!([{"type": "Odd"}]), json!([]), "<unknown type>"),
    ];
    for (metrics, statuses, expected) in table {
        let target = json!({"kind": "Deployment", "name": "web"});
        let object = json!({
            "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 9,
                "metrics": metrics},
            "status": {"currentReplicas": 3, "currentMetrics": statuses},
        });
        let got = cells("autoscaling/v2", "HorizontalPodAutoscaler", object);
        assert_eq!(got, ["x", "Deployment/web", expected, "2", "9", "3", "5m"]);
    }
    let got = cells("autoscaling/v2", "HorizontalPodAutoscaler", json!({}));
    assert_eq!(got[3], "<unset>");
}
