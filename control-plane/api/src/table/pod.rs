//! The cells of a pod, whose status line sums up all of its containers.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::format::{age, human_duration, list, name, number, text_or, timestamp};
use crate::object::is_true;

pub(crate) fn pod(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let total = list(pod, "/spec/containers").len()
        + list(pod, "/spec/initContainers").iter().filter(|one| is_sidecar(one)).count();
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, human_duration(now.duration_since(at)))
        }
        _ => summary.restarts.to_string(),
    };
    vec![
        name(pod),
        Value::from(format!("{}/{total}", summary.ready)),
        Value::from(summary.reason),
        Value::from(restarts),
        age(pod, now),
        Value::from(text_or(pod, "/status/podIPs/0/ip", text_or(pod, "/status/podIP", "<none>"))),
        Value::from(text_or(pod, "/spec/nodeName", "<none>")),
        Value::from(text_or(pod, "/status/nominatedNodeName", "<none>")),
        Value::from(readiness_gates(pod)),
    ]
}

/// Tells clients which rows are over, so that `kubectl get` can leave them out.
pub(super) fn row_conditions(pod: &Value, row: &mut Map<String, Value>) {
    let (reason, message) = match text_or(pod, "/status/phase", "") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return,
    };
    let condition =
        json!({"type": "Completed", "status": "True", "reason": reason, "message": message});
    row.insert("conditions".to_owned(), json!([condition]));
}

fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let phase = text_or(pod, "/status/phase", "");
        let mut summary = Self {
            reason: text_or(pod, "/status/reason", phase).to_owned(),
            ready: 0,
            restarts: 0,
            last_restart: None,
        };
        let gated = list(pod, "/status/conditions")
            .iter()
            .any(|one| one["type"] == "PodScheduled" && one["reason"] == "SchedulingGated");
        if gated {
            summary.reason = "SchedulingGated".to_owned();
        }
        let sidecars = summary.init_containers(pod);
        if !sidecars.initializing || is_true(pod, "Initialized") {
            summary.restarts = sidecars.restarts;
            summary.last_restart = sidecars.last_restart;
            summary.containers(pod);
        }
        let deleted = crate::object::deletion_timestamp(pod).is_some();
        if deleted && text_or(pod, "/status/reason", "") == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if deleted && !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
        summary
    }

    fn count_restarts(&mut self, status: &Value) {
        self.restarts += number(status, "/restartCount");
        let last = timestamp(&status["lastState"]["terminated"]["finishedAt"]);
        self.last_restart = self.last_restart.max(last);
    }

    /// Goes through the init containers up to the first that is not done.
    fn init_containers(&mut self, pod: &Value) -> Sidecars {
        let specs = list(pod, "/spec/initContainers");
        let mut sidecars = Sidecars::default();
        for (index, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
            let spec = specs.iter().find(|spec| spec["name"] == status["name"]);
            let sidecar = spec.is_some_and(is_sidecar);
            self.count_restarts(status);
            if sidecar {
                sidecars.count_restarts(status);
            }
            let terminated = &status["state"]["terminated"];
            if terminated.is_object() && number(terminated, "/exitCode") == 0 {
                continue;
            }
            if sidecar && status["started"] == true {
                self.ready += usize::from(status["ready"] == true);
                continue;
            }
            let waiting = text_or(status, "/state/waiting/reason", "");
            self.reason = if terminated.is_object() {
                format!("Init:{}", termination(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", specs.len())
            };
            sidecars.initializing = true;
            break;
        }
        sidecars
    }

    fn containers(&mut self, pod: &Value) {
        let mut running = false;
        for status in list(pod, "/status/containerStatuses").iter().rev() {
            self.count_restarts(status);
            let waiting = text_or(status, "/state/waiting/reason", "");
            let terminated = &status["state"]["terminated"];
            if !waiting.is_empty() {
                waiting.clone_into(&mut self.reason);
            } else if terminated.is_object() {
                self.reason = termination(terminated);
            } else if status["ready"] == true && status["state"]["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        // One container may be done while another still serves.
        if self.reason == "Completed" && running {
            let reason = if is_true(pod, "Ready") { "Running" } else { "NotReady" };
            reason.clone_into(&mut self.reason);
        }
    }
}

/// What the init containers that keep running count for.
#[derive(Default)]
struct Sidecars {
    initializing: bool,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Sidecars {
    fn count_restarts(&mut self, status: &Value) {
        self.restarts += number(status, "/restartCount");
        let last = timestamp(&status["lastState"]["terminated"]["finishedAt"]);
        self.last_restart = self.last_restart.max(last);
    }
}

fn termination(terminated: &Value) -> String {
    let reason = text_or(terminated, "/reason", "");
    if !reason.is_empty() {
        return reason.to_owned();
    }
    match number(terminated, "/signal") {
        0 => format!("ExitCode:{}", number(terminated, "/exitCode")),
        signal => format!("Signal:{signal}"),
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter_map(|gate| gate["conditionType"].as_str());
    format!("{}/{}", open.filter(|kind| is_true(pod, kind)).count(), gates.len())
}
