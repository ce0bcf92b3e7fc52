//! Probes and hooks of containers.

use serde_json::{Value, json};

use super::{in_container, in_spec};

pub(super) const ALL: &[fn()] = &[handlers, numbers, requests, hooks, signals];

fn liveness(probe: Value) -> Value {
    json!({"livenessProbe": probe})
}

#[test]
fn handlers() {
    in_container(&[
        (liveness(json!({"exec": {"command": ["true"]}})), &[]),
        (liveness(json!({"tcpSocket": {"port": "http"}})), &[]),
        (liveness(json!({"grpc": {"port": 9000, "service": "s"}})), &[]),
        (liveness(json!({"httpGet": {"port": 80}})), &[]),
        (liveness(json!({})), &[".livenessProbe: Required value: must specify a handler type"]),
        (
            liveness(json!({"exec": {"command": ["true"]}, "httpGet": {"port": 80}})),
            &[".livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type"],
        ),
        (
            liveness(json!({"tcpSocket": {"port": 80}, "grpc": {"port": 80}})),
            &[".livenessProbe.grpc: Forbidden: may not specify more than 1 handler type"],
        ),
        (liveness(json!({"exec": {}})), &[".livenessProbe.exec.command: Required value"]),
        (
            liveness(json!({"tcpSocket": {"port": 0}})),
            &[".livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, \
                 inclusive"],
        ),
        (
            liveness(json!({"tcpSocket": {"port": "Web!"}})),
            &[".livenessProbe.tcpSocket.port: Invalid value: \"Web!\": must contain only"],
        ),
        (
            liveness(json!({"grpc": {"port": 65_536}})),
            &[".livenessProbe.grpc.port: Invalid value: 65536: must be between 1 and 65535"],
        ),
        (
            json!({"readinessProbe": {}}),
            &[".readinessProbe: Required value: must specify a handler type"],
        ),
        (json!({"startupProbe": {"exec": {}}}), &[".startupProbe.exec.command: Required value"]),
    ]);
}

#[test]
fn numbers() {
    let with = |kind: &str, field: &str, value: i64| {
        json!({kind: {"tcpSocket": {"port": 1},
        field: value}})
    };
    let negative = "Invalid value: -1: must be greater than or equal to 0";
    in_container(&[
        (with("readinessProbe", "successThreshold", 3), &[]),
        (with("livenessProbe", "terminationGracePeriodSeconds", 1), &[]),
        (
            with("livenessProbe", "initialDelaySeconds", -1),
            &[&format!(".livenessProbe.initialDelaySeconds: {negative}")],
        ),
        (
            with("livenessProbe", "timeoutSeconds", -1),
            &[&format!(".livenessProbe.timeoutSeconds: {negative}")],
        ),
        (
            with("readinessProbe", "periodSeconds", -1),
            &[&format!(".readinessProbe.periodSeconds: {negative}")],
        ),
        (
            with("readinessProbe", "successThreshold", -1),
            &[&format!(".readinessProbe.successThreshold: {negative}")],
        ),
        (
            with("startupProbe", "failureThreshold", -1),
            &[&format!(".startupProbe.failureThreshold: {negative}")],
        ),
        (
            with("livenessProbe", "successThreshold", 2),
            &[".livenessProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            with("startupProbe", "successThreshold", 2),
            &[".startupProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            with("livenessProbe", "terminationGracePeriodSeconds", 0),
            &[".livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater \
                 than 0"],
        ),
        (
            with("readinessProbe", "terminationGracePeriodSeconds", 5),
            &[".readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set \
                 for readinessProbes"],
        ),
    ]);
}

#[test]
fn requests() {
    let get = |change: Value| {
        let mut get = json!({"port": 80});
        json_patch::merge(&mut get, &change);
        liveness(json!({"httpGet": get}))
    };
    in_container(&[
        (get(json!({"scheme": "HTTPS", "httpHeaders": [{"name": "X-A", "value": "b"}]})), &[]),
        (
            get(json!({"scheme": "FTP"})),
            &[".livenessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \
                 \"HTTP\", \"HTTPS\""],
        ),
        (
            get(json!({"port": "a--b"})),
            &[".livenessProbe.httpGet.port: Invalid value: \"a--b\": must not contain \
                 consecutive hyphens"],
        ),
        (
            get(json!({"port": -1})),
            &[".livenessProbe.httpGet.port: Invalid value: -1: must be between 1 and 65535"],
        ),
        (
            get(json!({"httpHeaders": [{"name": "X A", "value": "b"}]})),
            &[".livenessProbe.httpGet.httpHeaders: Invalid value: \"X A\": a valid HTTP header \
                 must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used \
                 for validation is '[-A-Za-z0-9]+')"],
        ),
    ]);
}

#[test]
fn hooks() {
    let stop = |hook: Value| json!({"lifecycle": {"preStop": hook}});
    in_container(&[
        (stop(json!({"sleep": {"seconds": 30}})), &[]),
        (stop(json!({"sleep": {"seconds": 0}})), &[]),
        (
            stop(json!({"sleep": {"seconds": 31}})),
            &[".lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than \
                 terminationGracePeriodSeconds (30)"],
        ),
        (
            stop(json!({"sleep": {"seconds": -1}})),
            &[".lifecycle.preStop.sleep: Invalid value: -1: must be non-negative and less than"],
        ),
        (stop(json!({})), &[".lifecycle.preStop: Required value: must specify a handler type"]),
        (
            stop(json!({"exec": {"command": ["a"]}, "sleep": {"seconds": 1}})),
            &[".lifecycle.preStop.sleep: Forbidden: may not specify more than 1 handler type"],
        ),
        (
            json!({"lifecycle": {"postStart": {"exec": {}}}}),
            &[".lifecycle.postStart.exec.command: Required value"],
        ),
        (
            json!({"lifecycle": {"postStart": {"tcpSocket": {"port": 0}}}}),
            &[".lifecycle.postStart.tcpSocket.port: Invalid value: 0: must be between 1 and"],
        ),
    ]);
}

#[test]
fn signals() {
    let with = |signal: &str, os: Value| {
        json!({"os": os, "containers": [{"name": "c", "image": "i",
            "lifecycle": {"stopSignal": signal}}]})
    };
    let at = ".containers[0].lifecycle.stopSignal";
    in_spec(&[
        (with("SIGUSR1", json!({"name": "linux"})), &[]),
        (with("SIGKILL", json!({"name": "windows"})), &[]),
        (
            with("SIGUSR1", Value::Null),
            &[&format!("{at}: Forbidden: may not be set for containers with empty `spec.os.name`")],
        ),
        (
            with("SIGNAL", json!({"name": "linux"})),
            &[&format!(
                "{at}: Unsupported value: \"SIGNAL\": supported values: \"SIGABRT\", \"SIGALRM\""
            )],
        ),
        (
            with("SIGUSR1", json!({"name": "windows"})),
            &[&format!(
                "{at}: Unsupported value: \"SIGUSR1\": supported values: \"SIGKILL\", \"SIGTERM\""
            )],
        ),
    ]);
}
