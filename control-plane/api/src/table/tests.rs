mod kinds;
mod workloads;

use jiff::SignedDuration;
use serde_json::json;

use super::format::human_duration;
use super::*;
use crate::resource::find;

const NOW: &str = "2026-01-02T00:00:00Z";

fn cells(group: &str, plural: &str, object: &Value) -> Vec<String> {
    let resource = find(group, "v1", plural).unwrap();
    let cells = (resource.cells)(object, NOW.parse().unwrap());
    let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    cells.iter().map(text).collect()
}

#[test]
fn durations() {
    let table = [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (630, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 120, "3h2m"),
        (8 * 3600 + 60, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (50 * 3600, "2d2h"),
        (8 * 86400, "8d"),
        (729 * 86400, "729d"),
        (730 * 86400, "2y"),
        (731 * 86400, "2y1d"),
        (8 * 365 * 86400, "8y"),
    ];
    for (seconds, expected) in table {
        assert_eq!(human_duration(SignedDuration::from_secs(seconds)), expected, "{seconds}");
    }
}

fn pod_with(status: Value) -> Value {
    json!({
        "metadata": {"name": "p", "creationTimestamp": "2026-01-01T23:55:00Z"},
        "spec": {"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}]},
        "status": status,
    })
}

#[test]
fn pod_status_in_one_word() {
    let running = json!({"name": "a", "ready": true, "state": {"running": {}}});
    let crashed = json!({"name": "b", "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T23:55:00Z"}}});
    let done =
        json!({"name": "b", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    let killed = json!({"name": "b", "state": {"terminated": {"exitCode": 137, "signal": 9}}});
    let failed = json!({"name": "b", "state": {"terminated": {"exitCode": 2}}});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let table = [
        (json!({"phase": "Pending"}), ["0/2", "Pending", "0"]),
        (
            json!({"phase": "Running", "containerStatuses": [running, running]}),
            ["2/2", "Running", "0"],
        ),
        (
            json!({"phase": "Running", "containerStatuses": [running, crashed]}),
            ["1/2", "CrashLoopBackOff", "3 (5m ago)"],
        ),
        (
            json!({"phase": "Running", "containerStatuses": [running, done]}),
            ["1/2", "NotReady", "0"],
        ),
        (
            json!({"phase": "Running", "conditions": ready, "containerStatuses": [running, done]}),
            ["1/2", "Running", "0"],
        ),
        (json!({"phase": "Failed", "containerStatuses": [killed]}), ["0/2", "Signal:9", "0"]),
        (json!({"phase": "Failed", "containerStatuses": [failed]}), ["0/2", "ExitCode:2", "0"]),
        (json!({"phase": "Failed", "reason": "Evicted"}), ["0/2", "Evicted", "0"]),
        (
            json!({"phase": "Pending",
                "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}),
            ["0/2", "ImagePullBackOff", "0"],
        ),
    ];
    for (status, [ready, reason, restarts]) in table {
        let got = cells("", "pods", &pod_with(status.clone()));
        assert_eq!(got[1..4], [ready, reason, restarts], "{status}");
    }
    let mut deleted = pod_with(json!({"phase": "Running"}));
    deleted["metadata"]["deletionTimestamp"] = json!(NOW);
    assert_eq!(cells("", "pods", &deleted)[2], "Terminating");
}

#[test]
fn pod_that_initializes() {
    let mut pod = pod_with(json!({"phase": "Pending"}));
    pod["spec"]["initContainers"] = json!([{"name": "i"}, {"name": "j"}]);
    let table = [
        (json!([{"name": "i", "state": {"running": {}}}]), "Init:0/2"),
        (
            json!([{"name": "i", "state": {"terminated": {"exitCode": 0}}},
                   {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]),
            "Init:1/2",
        ),
        (
            json!([{"name": "i", "state": {"waiting": {"reason": "ErrImagePull"}}}]),
            "Init:ErrImagePull",
        ),
        (json!([{"name": "i", "state": {"terminated": {"exitCode": 3}}}]), "Init:ExitCode:3"),
    ];
    for (statuses, expected) in table {
        pod["status"]["initContainerStatuses"] = statuses;
        assert_eq!(cells("", "pods", &pod)[2], expected);
    }
}

#[test]
fn wide_pod() {
    let mut pod = pod_with(json!({"phase": "Running", "podIPs": [{"ip": "10.240.0.5"}]}));
    pod["spec"]["readinessGates"] = json!([{"conditionType": "x"}]);
    assert_eq!(cells("", "pods", &pod)[4..], ["5m", "10.240.0.5", "n1", "<none>", "0/1"]);
}

#[test]
fn services() {
    let table = [
        (
            json!({"type": "ClusterIP", "clusterIPs": ["10.9.8.7"], "ports": [{"port": 80,
                "protocol": "TCP"}],
                   "selector": {"App": "Nifty"}}),
            ["ClusterIP", "10.9.8.7", "<none>", "80/TCP", "<unknown>", "App=Nifty"],
        ),
        (
            json!({"type": "NodePort", "clusterIP": "10.9.0.3",
                   "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]}),
            ["NodePort", "10.9.0.3", "<none>", "80:30080/TCP,53/UDP", "<unknown>", "<none>"],
        ),
        (
            json!({"type": "LoadBalancer"}),
            ["LoadBalancer", "<none>", "<pending>", "<none>", "<unknown>", "<none>"],
        ),
        (
            json!({"type": "ExternalName", "externalName": "a.example"}),
            ["ExternalName", "<none>", "a.example", "<none>", "<unknown>", "<none>"],
        ),
    ];
    for (spec, expected) in table {
        let got = cells("", "services", &json!({"metadata": {"name": "s"}, "spec": spec}));
        assert_eq!(got[1..], expected);
    }
}

#[test]
fn workloads_and_endpoints() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b",
        "image": "j:2"}]}});
    let set = json!({"metadata": {"name": "d"}, "status": {"replicas": 3, "readyReplicas": 2,
        "updatedReplicas": 3},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"x": "y"}}, "template": template}});
    assert_eq!(cells("apps", "deployments", &set)[1..4], ["2/3", "3", "0"]);
    assert_eq!(cells("apps", "replicasets", &set)[1..4], ["3", "3", "2"]);
    assert_eq!(cells("apps", "replicasets", &set)[5..], ["a,b", "i:1,j:2", "x=y"]);
    let addresses: Vec<Value> = (1..6).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
    let endpoints = json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
    assert_eq!(
        cells("", "endpoints", &endpoints)[1],
        "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."
    );
    let slice = json!({"addressType": "IPv4", "ports": [{"port": 80}, {}],
        "endpoints": [{"addresses": ["10.0.0.1"]}]});
    assert_eq!(
        cells("discovery.k8s.io", "endpointslices", &slice)[1..4],
        ["IPv4", "80,*", "10.0.0.1"]
    );
}

#[test]
fn nodes_and_events() {
    let node = json!({
        "metadata": {"labels": {"node-role.kubernetes.io/worker": "",
            "node-role.kubernetes.io/edge": ""}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
            "addresses": [{"type": "InternalIP", "address": "172.30.0.11"}],
            "nodeInfo": {"kubeletVersion": "v0.1.0"}},
    });
    let got = cells("", "nodes", &node);
    assert_eq!(
        got[1..6],
        ["NotReady,SchedulingDisabled", "edge,worker", "<unknown>", "v0.1.0", "172.30.0.11"]
    );
    let event = json!({"type": "Warning", "reason": "FailedScheduling", "message": "no room\n",
        "count": 4,
        "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "scheduler"},
        "firstTimestamp": "2026-01-01T23:50:00Z", "lastTimestamp": "2026-01-01T23:59:00Z"});
    let got = cells("", "events", &event);
    assert_eq!(
        got[..9],
        ["60s", "Warning", "FailedScheduling", "pod/p", "", "scheduler", "no room", "10m", "4"]
    );
}

#[test]
fn tables_and_rows() {
    let pods = find("", "v1", "pods").unwrap();
    let pod = pod_with(json!({"phase": "Succeeded"}));
    let now = NOW.parse().unwrap();
    let metadata = row(pods, &pod, now, IncludeObject::Metadata);
    assert_eq!(metadata["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(metadata["object"]["metadata"]["name"], "p");
    assert_eq!(metadata["conditions"][0]["type"], "Completed");
    assert_eq!(row(pods, &pod, now, IncludeObject::Object)["object"], pod);
    assert!(row(pods, &pod, now, IncludeObject::None)["object"].is_null());
    let got = table(pods, json!({"resourceVersion": "5"}), vec![metadata], true);
    assert_eq!(got["columnDefinitions"].as_array().unwrap().len(), pods.columns.len());
    assert_eq!(got["columnDefinitions"][0]["format"], "name");
    assert_eq!(got["metadata"]["resourceVersion"], "5");
}
