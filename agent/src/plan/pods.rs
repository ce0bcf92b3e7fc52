//! From a pod and what is known of it to the next steps. Pure: time is an argument.
//!
//! Rules, in the order in which they are asked:
//! - A pod that must go: running containers are stopped, all at once; when none is left, the ground
//!   (network, volumes) is taken away.
//! - A pod past its deadline fails: containers are stopped, nothing is started again.
//! - The ground comes before any container.
//! - Init containers run one after the other, each to success. One with `restartPolicy: Always` is
//!   a sidecar: it counts as done once it has started, and keeps running.
//! - A container that ended is started again as the restart policy says: the first time at once,
//!   then after 10 s, doubling to 5 min; a run of 10 min forgives what was before.
//! - A pod whose containers have all ended for good gives its network back.
//!
//! Steps that are under way are in the state (`Starting`, `stopping`, `UnderWay`), so that planning
//! twice does not do a thing twice.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::pods::state::{ContainerRecord, Ground, Phase, PodState};

const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_mins(5);
const BACKOFF_FORGIVEN_AFTER: Duration = Duration::from_mins(10);

/// What the API wants of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    Run,
    /// It is being deleted, or is gone from the API.
    Go,
}

/// One thing to do. Steps of one plan are independent of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make namespaces, network, volumes and files.
    Prepare,
    Start {
        container: String,
        attempt: u32,
    },
    Stop {
        container: String,
        why: StopReason,
    },
    /// Give the network back; records and logs stay.
    Release,
    /// Remove all that is left of the pod from the node.
    TearDown,
}

/// Why a container is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    PodGoes,
    /// The pod has failed or has succeeded without this container.
    PodEnded,
    Unhealthy(String),
}

/// How a pod has ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Failed,
    DeadlineExceeded,
}

/// The next steps, when to ask again without an event, and whether the pod has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodPlan {
    pub(crate) steps: Vec<Step>,
    pub(crate) wake_at: Option<Timestamp>,
    pub(crate) outcome: Option<Outcome>,
}

impl PodPlan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// When a container is started again after it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    fn of(spec: &PodSpec) -> Self {
        match spec.restart_policy.as_deref() {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn restarts(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// How long to wait after the `ends`-th end in a row before starting again.
pub(crate) fn restart_delay(ends: u32) -> Duration {
    match ends {
        0 | 1 => Duration::ZERO,
        more => retry_delay(more - 1),
    }
}

/// How long to wait after the `failures`-th failure in a row before trying again.
pub(crate) fn retry_delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(10);
    (BACKOFF_FIRST * (1 << doublings)).min(BACKOFF_MAX)
}

/// The count of ends in a row after one more end.
pub(crate) fn ends_after(ends: u32, ran_for: Duration) -> u32 {
    if ran_for >= BACKOFF_FORGIVEN_AFTER { 1 } else { ends.saturating_add(1) }
}

pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub(crate) fn plan(spec: &PodSpec, goal: Goal, state: &PodState, now: Timestamp) -> PodPlan {
    let mut plan = PodPlan::default();
    if goal == Goal::Go {
        stop_all(state, StopReason::PodGoes, &mut plan);
        if is_still(state) && !matches!(state.ground, Ground::UnderWay) {
            plan.steps.push(Step::TearDown);
        }
        return plan;
    }
    plan.outcome = outcome(spec, state, now);
    if plan.outcome.is_some() {
        stop_all(state, StopReason::PodEnded, &mut plan);
        if is_still(state) && !matches!(state.ground, Ground::UnderWay | Ground::Released(_)) {
            plan.steps.push(Step::Release);
        }
        return plan;
    }
    if let Some(deadline) = deadline(spec, state) {
        plan.wake(deadline);
    }
    match &state.ground {
        Ground::Absent => plan.steps.push(Step::Prepare),
        Ground::Failed { retry_at, .. } if now >= *retry_at => plan.steps.push(Step::Prepare),
        Ground::Failed { retry_at, .. } => plan.wake(*retry_at),
        Ground::UnderWay | Ground::Released(_) => {}
        Ground::Ready(_) => run_containers(spec, state, now, &mut plan),
    }
    plan
}

fn record<'a>(state: &'a PodState, container: &Container) -> Option<&'a ContainerRecord> {
    state.containers.get(&container.name)
}

/// True when init containers need not be looked at: their work is done, whatever is left of them.
pub(crate) fn is_initialized(spec: &PodSpec, state: &PodState) -> bool {
    let begun = spec.containers.iter().any(|container| {
        record(state, container).is_some_and(|record| {
            record.attempt > 0 || matches!(record.phase, Phase::Running(_) | Phase::Ended(_))
        })
    });
    begun || spec.init_containers.iter().flatten().all(|init| init_done(init, record(state, init)))
}

fn init_done(init: &Container, record: Option<&ContainerRecord>) -> bool {
    match record.map(|record| &record.phase) {
        Some(Phase::Ended(end)) => end.code == 0 && !is_sidecar(init),
        Some(Phase::Running(running)) => is_sidecar(init) && running.started,
        _ => false,
    }
}

fn run_containers(spec: &PodSpec, state: &PodState, now: Timestamp, plan: &mut PodPlan) {
    let policy = RestartPolicy::of(spec);
    let initialized = is_initialized(spec, state);
    for init in spec.init_containers.iter().flatten() {
        let record = record(state, init);
        if is_sidecar(init) {
            run_container(init, record, RestartPolicy::Always, now, plan);
        } else if !initialized && !init_done(init, record) {
            // An init container runs to success: only Never lets the pod fail with it.
            let policy = match policy {
                RestartPolicy::Never => RestartPolicy::Never,
                _ => RestartPolicy::OnFailure,
            };
            run_container(init, record, policy, now, plan);
        }
        if !initialized && !init_done(init, record) {
            return;
        }
    }
    for container in &spec.containers {
        run_container(container, record(state, container), policy, now, plan);
    }
}

fn run_container(
    container: &Container,
    record: Option<&ContainerRecord>,
    policy: RestartPolicy,
    now: Timestamp,
    plan: &mut PodPlan,
) {
    let name = container.name.clone();
    let attempt = record.map_or(0, |record| record.attempt);
    match record.map_or(&Phase::Absent, |record| &record.phase) {
        Phase::Absent => plan.steps.push(Step::Start { container: name, attempt }),
        Phase::Starting { .. } => {}
        Phase::Blocked(blocked) if now >= blocked.retry_at => {
            plan.steps.push(Step::Start { container: name, attempt });
        }
        Phase::Blocked(blocked) => plan.wake(blocked.retry_at),
        Phase::Running(running) => {
            if let (Some(why), false) = (&running.unhealthy, running.stopping) {
                let why = StopReason::Unhealthy(why.clone());
                plan.steps.push(Step::Stop { container: name, why });
            }
        }
        Phase::Ended(end) if policy.restarts(end.code) => {
            let ends = record.map_or(0, |record| record.ends);
            let at = end.finished_at + restart_delay(ends);
            if now >= at {
                plan.steps.push(Step::Start { container: name, attempt: attempt + 1 });
            } else {
                plan.wake(at);
            }
        }
        Phase::Ended(_) => {}
    }
}

fn stop_all(state: &PodState, why: StopReason, plan: &mut PodPlan) {
    for (name, record) in &state.containers {
        if record.running().is_some_and(|running| !running.stopping) {
            plan.steps.push(Step::Stop { container: name.clone(), why: why.clone() });
        }
    }
}

/// No process runs and none is being started.
fn is_still(state: &PodState) -> bool {
    let moves = |record: &ContainerRecord| {
        matches!(record.phase, Phase::Starting { .. } | Phase::Running(_))
    };
    !state.containers.values().any(moves)
}

fn deadline(spec: &PodSpec, state: &PodState) -> Option<Timestamp> {
    let seconds = u64::try_from(spec.active_deadline_seconds?).ok()?;
    state.started_at?.checked_add(Duration::from_secs(seconds)).ok()
}

/// How the pod has ended, or `None` while something of it runs or will run.
pub(crate) fn outcome(spec: &PodSpec, state: &PodState, now: Timestamp) -> Option<Outcome> {
    if deadline(spec, state).is_some_and(|deadline| now >= deadline) {
        return Some(Outcome::DeadlineExceeded);
    }
    let policy = RestartPolicy::of(spec);
    if policy == RestartPolicy::Never && !is_initialized(spec, state) {
        let failed = spec.init_containers.iter().flatten().any(|init| {
            !is_sidecar(init)
                && record(state, init)
                    .and_then(ContainerRecord::ended)
                    .is_some_and(|end| end.code != 0)
        });
        if failed {
            return Some(Outcome::Failed);
        }
    }
    let mut all_well = true;
    for container in &spec.containers {
        let end = record(state, container)?.ended()?;
        if policy.restarts(end.code) {
            return None;
        }
        all_well &= end.code == 0;
    }
    Some(if all_well { Outcome::Succeeded } else { Outcome::Failed })
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
