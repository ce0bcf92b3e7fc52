//! The status of a replica owner. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::pods;

/// How many pods there are of each sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) replicas: i32,
    pub(crate) fully_labeled: i32,
    pub(crate) ready: i32,
    pub(crate) available: i32,
    pub(crate) terminating: i32,
}

/// Why pods could not be made or deleted.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) since: Timestamp,
}

impl PartialEq for Failure {
    /// The time of the first failure stays, so it does not make two failures different.
    fn eq(&self, other: &Self) -> bool {
        self.reason == other.reason && self.message == other.message
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ReplicaStatus {
    pub(crate) counts: Counts,
    pub(crate) observed_generation: Option<i64>,
    pub(crate) failure: Option<Failure>,
}

impl ReplicaStatus {
    pub(crate) fn next(
        &self,
        counts: Counts,
        failure: Option<Failure>,
        generation: Option<i64>,
    ) -> Self {
        let since = self.failure.as_ref().map(|old| old.since);
        let failure = failure.map(|new| Failure { since: since.unwrap_or(new.since), ..new });
        Self { counts, observed_generation: generation, failure }
    }

    /// The merge patch that writes this status.
    pub(crate) fn patch(&self, with_terminating: bool) -> Value {
        let conditions: Vec<Value> = self
            .failure
            .iter()
            .map(|failure| {
                json!({
                    "type": "ReplicaFailure",
                    "status": "True",
                    "reason": failure.reason,
                    "message": failure.message,
                    "lastTransitionTime": Time(failure.since),
                })
            })
            .collect();
        let mut status = json!({
            "replicas": self.counts.replicas,
            "fullyLabeledReplicas": self.counts.fully_labeled,
            "readyReplicas": self.counts.ready,
            "availableReplicas": self.counts.available,
            "observedGeneration": self.observed_generation,
            "conditions": if conditions.is_empty() { Value::Null } else { conditions.into() },
        });
        if with_terminating {
            status["terminatingReplicas"] = self.counts.terminating.into();
        }
        json!({ "status": status })
    }
}

/// Counts the pods; also says when the next ready one becomes available.
pub(crate) fn count(
    pods: &[Arc<Pod>],
    template: Option<&PodTemplateSpec>,
    min_ready_seconds: i32,
    now: Timestamp,
) -> (Counts, Option<Duration>) {
    let mut counts = Counts::default();
    let mut next = None;
    let wanted = template
        .and_then(|template| template.metadata.as_ref()?.labels.clone())
        .unwrap_or_default();
    for pod in pods {
        if pods::is_finished(pod) {
            continue;
        }
        if pods::is_terminating(pod) {
            counts.terminating += 1;
            continue;
        }
        counts.replicas += 1;
        let labels = pod.metadata.labels.as_ref();
        if wanted.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value)) {
            counts.fully_labeled += 1;
        }
        match pods::available_in(pod, min_ready_seconds, now) {
            None => {}
            Some(Duration::ZERO) => {
                counts.ready += 1;
                counts.available += 1;
            }
            Some(wait) => {
                counts.ready += 1;
                next = Some(next.map_or(wait, |known: Duration| known.min(wait)));
            }
        }
    }
    (counts, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::{pod, terminating, time, unready};

    #[test]
    fn terminating_and_unready_pods_are_told_apart() {
        let pods = [pod("a"), unready(pod("b")), terminating(pod("c"))].map(Arc::new);
        let (counts, next) = count(&pods, None, 30, time(10));
        let expected =
            Counts { replicas: 2, fully_labeled: 2, ready: 1, available: 0, terminating: 1 };
        assert_eq!(counts, expected);
        assert_eq!(next, Some(Duration::from_secs(20)));
    }

    #[test]
    fn a_failure_keeps_its_first_time_and_goes_with_success() {
        let failure = |second| {
            Some(Failure {
                reason: "FailedCreate".into(),
                message: "no".into(),
                since: time(second),
            })
        };
        let first = ReplicaStatus::default().next(Counts::default(), failure(1), Some(1));
        let second = first.next(Counts::default(), failure(9), Some(1));
        assert_eq!(second.failure.as_ref().unwrap().since, time(1));
        assert_eq!(first, second, "nothing to write again");
        let healed = second.next(Counts::default(), None, Some(1));
        assert_eq!(healed.patch(true)["status"]["conditions"], Value::Null);
    }
}
