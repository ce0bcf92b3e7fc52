//! The status of a deployment: counts and the conditions that `kubectl rollout status` reads. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::rollout::{Wanted, total};

/// What a look found out that the objects alone do not say.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) made_new: bool,
    pub(super) create_error: Option<String>,
    pub(super) collisions: Option<i32>,
}

/// The status to store, and when the progress deadline must be looked at again.
pub(super) fn next(
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    all: &[Arc<ReplicaSet>],
    found: &Found,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = counts(deployment, new, all);
    status.collision_count = found.collisions.or(old.collision_count);
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let wanted = Wanted::of(deployment);
    let (available, reason, message) = if status.available_replicas.unwrap_or(0)
        >= wanted.least_available()
    {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut conditions, ("Available", available, reason, message), now);
    let again = progress(&mut conditions, deployment, new, (&old, &status), found, now);
    failure(&mut conditions, all, now);
    status.conditions = Some(conditions);
    (status, again)
}

fn counts(
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    all: &[Arc<ReplicaSet>],
) -> DeploymentStatus {
    let sum = |pick: &dyn Fn(&ReplicaSet) -> i32| total(all.iter().map(|set| pick(set)));
    let of_status = |set: &ReplicaSet, pick: fn(&_) -> Option<i32>| {
        set.status.as_ref().and_then(pick).unwrap_or(0)
    };
    use k8s_openapi::api::apps::v1::ReplicaSetStatus as Status;
    let asked = sum(&|set| set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0));
    let available = sum(&|set| of_status(set, |status: &Status| status.available_replicas));
    let updated = new.map_or(0, |set| of_status(set, |status: &Status| Some(status.replicas)));
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(sum(&|set| of_status(set, |status: &Status| Some(status.replicas)))),
        updated_replicas: Some(updated),
        ready_replicas: Some(sum(&|set| of_status(set, |status: &Status| status.ready_replicas))),
        available_replicas: Some(available),
        unavailable_replicas: Some(asked.saturating_sub(available).max(0)),
        terminating_replicas: Some(sum(&|set| {
            of_status(set, |status: &Status| status.terminating_replicas)
        })),
        ..DeploymentStatus::default()
    }
}

/// Every updated pod is there and available, and no other pod is left.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = Some(Wanted::of(deployment).replicas);
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let outdated = |status: &DeploymentStatus| {
        status.replicas.unwrap_or(0).saturating_sub(status.updated_replicas.unwrap_or(0))
    };
    new.updated_replicas > Some(old.updated_replicas.unwrap_or(0))
        || outdated(new) < outdated(old)
        || new.ready_replicas > Some(old.ready_replicas.unwrap_or(0))
        || new.available_replicas > Some(old.available_replicas.unwrap_or(0))
}

fn progress(
    conditions: &mut Vec<DeploymentCondition>,
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    (old, status): (&DeploymentStatus, &DeploymentStatus),
    found: &Found,
    now: Timestamp,
) -> Option<Duration> {
    let spec = deployment.spec.as_ref()?;
    let deadline = spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?;
    let paused = spec.paused.unwrap_or(false);
    let subject = match new {
        Some(set) => format!("ReplicaSet \"{}\"", set.metadata.name.as_deref().unwrap_or_default()),
        None => {
            format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default())
        }
    };
    let known = conditions.iter().find(|c| c.type_ == "Progressing").cloned();
    let reason = known.as_ref().and_then(|condition| condition.reason.as_deref());
    let mut put = |status: &str, reason: &str, message: &str| {
        set(conditions, ("Progressing", status, reason, message), now);
    };
    if let Some(error) = &found.create_error {
        put("False", "ReplicaSetCreateError", error);
        return None;
    }
    match reason {
        _ if paused && reason == Some("ProgressDeadlineExceeded") => return None,
        Some("DeploymentPaused") if paused => return None,
        _ if paused => {
            put("Unknown", "DeploymentPaused", "Deployment is paused");
            return None;
        }
        Some("DeploymentPaused") => put("Unknown", "DeploymentResumed", "Deployment is resumed"),
        _ => {}
    }
    if found.made_new {
        put(
            "True",
            "NewReplicaSetCreated",
            &format!("Created new replica set {}", quoted(&subject)),
        );
        return Some(seconds(deadline));
    }
    let rolled_out =
        reason == Some("NewReplicaSetAvailable") && status.replicas == status.updated_replicas;
    if rolled_out {
        return None;
    }
    if is_complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        put("True", "NewReplicaSetAvailable", &message);
        return None;
    }
    if has_progressed(old, status) || known.is_none() {
        touch(conditions, &format!("{subject} is progressing."), now);
        return Some(seconds(deadline));
    }
    if reason == Some("ProgressDeadlineExceeded") {
        return None;
    }
    let since = known.and_then(|c| c.last_update_time).map_or(now, |time| time.0);
    let waited: Duration = now.duration_since(since).try_into().unwrap_or_default();
    if waited < seconds(deadline) {
        // A little later than the deadline, so that the look finds it passed.
        return Some(seconds(deadline) - waited + Duration::from_millis(10));
    }
    put("False", "ProgressDeadlineExceeded", &format!("{subject} has timed out progressing."));
    None
}

fn quoted(subject: &str) -> String {
    subject.trim_start_matches("ReplicaSet ").to_owned()
}

fn seconds(seconds: i32) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Progress renews the condition even when nothing but its time changes: the deadline counts anew.
fn touch(conditions: &mut Vec<DeploymentCondition>, message: &str, now: Timestamp) {
    set(conditions, ("Progressing", "True", "ReplicaSetUpdated", message), now);
    for condition in conditions.iter_mut().filter(|c| c.type_ == "Progressing") {
        condition.last_update_time = Some(Time(now));
    }
}

/// A failure of any replica set is the deployment's.
fn failure(conditions: &mut Vec<DeploymentCondition>, all: &[Arc<ReplicaSet>], now: Timestamp) {
    let failed = all
        .iter()
        .flat_map(|set| set.status.iter())
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True");
    match failed {
        Some(failed) => {
            let reason = failed.reason.as_deref().unwrap_or_default();
            let message = failed.message.as_deref().unwrap_or_default();
            set(conditions, ("ReplicaFailure", "True", reason, message), now);
        }
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
    }
}

fn set(
    conditions: &mut Vec<DeploymentCondition>,
    (type_, status, reason, message): (&str, &str, &str, &str),
    now: Timestamp,
) {
    let old = conditions.iter_mut().find(|condition| condition.type_ == type_);
    let since = match &old {
        Some(old) if old.status == status => old.last_transition_time.clone(),
        _ => Some(Time(now)),
    };
    let new = DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: since,
        last_update_time: Some(Time(now)),
    };
    match old {
        Some(old) if old.status == new.status && old.reason == new.reason => {
            if old.message != new.message {
                *old =
                    DeploymentCondition { last_update_time: old.last_update_time.clone(), ..new };
            }
        }
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
