//! A pod's status as the API shows it. Pure: time is an argument.
//!
//! Guarantees: conditions that others own (readiness gates, `PodScheduled` where there is one) are
//! left to them; a condition's transition time changes only with its status.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::resources::qos_class;
use super::state::{ContainerRecord, End, Ground, Phase, PodState};
use crate::network::Addresses;
use crate::plan::pods::{Outcome, is_initialized, is_sidecar, restart_delay};

/// Conditions that the agent decides.
const OWN_CONDITIONS: [&str; 4] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

/// The inputs besides the pod's state.
#[derive(Clone, Copy)]
pub(crate) struct StatusContext<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) node_ips: Addresses,
    /// What was written last; transition times come from there.
    pub(crate) previous: Option<&'a PodStatus>,
    pub(crate) now: Timestamp,
}

pub(crate) fn pod_status(context: StatusContext<'_>, state: &PodState) -> PodStatus {
    let StatusContext { pod, outcome, node_ips, now, .. } = context;
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let initialized = is_initialized(spec, state);
    let container_status = |container: &Container, init: bool| {
        let record = state.containers.get(&container.name);
        let waits = if init || initialized { "ContainerCreating" } else { "PodInitializing" };
        let again = will_restart(spec, container, init, outcome);
        one_container(container, record, waits, again, pod, now)
    };
    let inits: Vec<_> =
        spec.init_containers.iter().flatten().map(|init| container_status(init, true)).collect();
    let containers: Vec<_> =
        spec.containers.iter().map(|container| container_status(container, false)).collect();
    let addresses = match &state.ground {
        Ground::Ready(sandbox) => Some(sandbox.addresses),
        Ground::Released(addresses) => *addresses,
        Ground::Absent | Ground::UnderWay | Ground::Failed { .. } => None,
    };
    let deadline = outcome == Some(Outcome::DeadlineExceeded);
    PodStatus {
        phase: Some(phase(spec, state, outcome, initialized).to_owned()),
        conditions: Some(conditions(context, state, initialized, &containers)),
        host_ip: Some(node_ips.v4.to_string()),
        host_ips: Some(node_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: addresses.map(|addresses| addresses.v4.to_string()),
        pod_ips: addresses
            .map(|addresses| addresses.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        start_time: state.started_at.map(Time),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: Some(containers),
        qos_class: Some(qos_class(pod).as_str().to_owned()),
        reason: deadline.then(|| "DeadlineExceeded".to_owned()),
        message: deadline
            .then(|| "Pod was active on the node longer than the specified deadline".to_owned()),
        ..PodStatus::default()
    }
}

fn phase(
    spec: &PodSpec,
    state: &PodState,
    outcome: Option<Outcome>,
    initialized: bool,
) -> &'static str {
    match outcome {
        Some(Outcome::Succeeded) => return "Succeeded",
        Some(Outcome::Failed | Outcome::DeadlineExceeded) => return "Failed",
        None => {}
    }
    let begun = |container: &Container| {
        state.containers.get(&container.name).is_some_and(|record| {
            record.attempt > 0
                || record.last_end.is_some()
                || matches!(record.phase, Phase::Running(_) | Phase::Ended(_))
        })
    };
    if initialized && spec.containers.iter().all(begun) { "Running" } else { "Pending" }
}

fn will_restart(
    spec: &PodSpec,
    container: &Container,
    init: bool,
    outcome: Option<Outcome>,
) -> impl Fn(i32) -> bool {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let (always, on_failure) = match (init, policy) {
        (true, _) if is_sidecar(container) => (true, true),
        (true, policy) => (false, policy != "Never"),
        (false, policy) => (policy == "Always", policy != "Never"),
    };
    move |code| outcome.is_none() && (always || (on_failure && code != 0))
}

fn one_container(
    container: &Container,
    record: Option<&ContainerRecord>,
    waits: &str,
    will_restart: impl Fn(i32) -> bool,
    pod: &Pod,
    now: Timestamp,
) -> ContainerStatus {
    let mut inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let does_work = inits.any(|init| init.name == container.name);
    let fallback = ContainerRecord::default();
    let record = record.unwrap_or(&fallback);
    let mut last = record.last_end.as_ref();
    let state = match &record.phase {
        Phase::Absent => waiting(waits, None),
        Phase::Starting { reason } => waiting(if reason.is_empty() { waits } else { reason }, None),
        Phase::Blocked(blocked) => waiting(blocked.reason, Some(blocked.message.clone())),
        Phase::Running(running) => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(running.started_at)) }),
            ..ContainerState::default()
        },
        Phase::Ended(end) => {
            let delay = restart_delay(record.ends);
            if will_restart(end.code) && now < end.finished_at + delay {
                last = Some(end);
                waiting("CrashLoopBackOff", Some(back_off_message(container, pod, delay)))
            } else {
                ContainerState { terminated: Some(terminated(end)), ..ContainerState::default() }
            }
        }
    };
    let running = record.running();
    let id = match &record.phase {
        Phase::Running(running) => Some(&running.id),
        Phase::Ended(end) => Some(&end.id),
        _ => last.map(|end| &end.id),
    };
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: record.image_id.clone(),
        container_id: id.filter(|id| !id.is_empty()).map(|id| container_id(id)),
        ready: is_ready(record, does_work),
        started: Some(running.is_some_and(|running| running.started)),
        restart_count: i32::try_from(record.attempt).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: Some(ContainerState {
            terminated: last.map(terminated),
            ..ContainerState::default()
        }),
        ..ContainerStatus::default()
    }
}

/// The identifier as `containerID` shows it.
pub(crate) fn container_id(id: &str) -> String {
    format!("containerd://{id}")
}

pub(crate) fn back_off_message(
    container: &Container,
    pod: &Pod,
    delay: std::time::Duration,
) -> String {
    format!(
        "back-off {}s restarting failed container={} pod={}_{}({})",
        delay.as_secs(),
        container.name,
        pod.metadata.name.as_deref().unwrap_or_default(),
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.uid.as_deref().unwrap_or_default(),
    )
}

/// An init container is ready when it has done its work.
fn is_ready(record: &ContainerRecord, does_work: bool) -> bool {
    match &record.phase {
        Phase::Running(running) => running.ready && running.started,
        Phase::Ended(end) => does_work && end.code == 0,
        _ => false,
    }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    }
}

fn terminated(end: &End) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: (!end.id.is_empty()).then(|| container_id(&end.id)),
        exit_code: end.code,
        reason: Some(end.reason.clone()),
        message: (!end.message.is_empty()).then(|| end.message.clone()),
        started_at: end.started_at.map(Time),
        finished_at: Some(Time(end.finished_at)),
        ..ContainerStateTerminated::default()
    }
}

struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn holds(kind: &'static str) -> Self {
        Self { kind, holds: true, reason: None, message: None }
    }
}

fn conditions(
    context: StatusContext<'_>,
    state: &PodState,
    initialized: bool,
    containers: &[ContainerStatus],
) -> Vec<PodCondition> {
    let from_api = context.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let others: Vec<&PodCondition> =
        from_api.filter(|condition| !OWN_CONDITIONS.contains(&condition.type_.as_str())).collect();
    let is_scheduled = others.iter().any(|condition| condition.type_ == "PodScheduled");
    let scheduled = (!is_scheduled).then(|| Verdict::holds("PodScheduled"));
    let own = verdicts(context, state, initialized, containers, &others);
    scheduled.into_iter().chain(own).map(|verdict| condition(context, verdict)).collect()
}

fn verdicts(
    context: StatusContext<'_>,
    state: &PodState,
    initialized: bool,
    containers: &[ContainerStatus],
    others: &[&PodCondition],
) -> [Verdict; 4] {
    let grounded = Verdict {
        holds: matches!(state.ground, Ground::Ready(_)),
        ..Verdict::holds("PodReadyToStartContainers")
    };
    let mut initial = Verdict::holds("Initialized");
    if !initialized {
        initial.holds = false;
        initial.reason = Some("ContainersNotInitialized");
        initial.message = Some("init containers have not completed".to_owned());
    }
    let unready: Vec<&str> = containers
        .iter()
        .filter(|status| !status.ready)
        .map(|status| status.name.as_str())
        .collect();
    let mut contained = Verdict::holds("ContainersReady");
    if context.outcome == Some(Outcome::Succeeded) {
        contained.holds = false;
        contained.reason = Some("PodCompleted");
        initial.reason = Some("PodCompleted");
    } else if !unready.is_empty() {
        contained.holds = false;
        contained.reason = Some("ContainersNotReady");
        contained.message =
            Some(format!("containers with unready status: [{}]", unready.join(" ")));
    }
    let gates = context.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let closed = gates
        .map(|gate| &gate.condition_type)
        .find(|gate| !others.iter().any(|other| &other.type_ == *gate && other.status == "True"));
    let mut ready = Verdict {
        kind: "Ready",
        holds: contained.holds,
        reason: contained.reason,
        message: contained.message.clone(),
    };
    if let (true, Some(gate)) = (ready.holds, closed) {
        ready.holds = false;
        ready.reason = Some("ReadinessGatesNotReady");
        ready.message = Some(format!("condition {gate:?} is not True"));
    }
    [grounded, initial, ready, contained]
}

fn condition(context: StatusContext<'_>, verdict: Verdict) -> PodCondition {
    let status = if verdict.holds { "True" } else { "False" };
    let before = context.previous.or(context.pod.status.as_ref());
    let same = before
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|before| before.type_ == verdict.kind && before.status == status);
    let since = same.and_then(|before| before.last_transition_time.clone());
    PodCondition {
        type_: verdict.kind.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: Some(since.unwrap_or(Time(context.now))),
        ..PodCondition::default()
    }
}

/// The status of one condition, as `True`, `False` or `Unknown`.
pub(crate) fn condition_status<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a str> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind).map(|condition| condition.status.as_str())
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
