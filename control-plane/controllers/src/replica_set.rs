//! Replica sets: a number of pods of one template.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::core::Selector;

use crate::replicas::{Counts, Failure, ReplicaOwner, ReplicaStatus};

impl ReplicaOwner for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";
    const COUNTS_TERMINATING: bool = true;

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn selector(&self) -> Option<Selector> {
        let selector: Selector = self.spec.as_ref()?.selector.clone().try_into().ok()?;
        (!selector.selects_all()).then_some(selector)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn status(&self) -> ReplicaStatus {
        let Some(status) = &self.status else { return ReplicaStatus::default() };
        let failure =
            status.conditions.iter().flatten().find(|c| c.type_ == "ReplicaFailure").map(|c| {
                Failure {
                    reason: c.reason.clone().unwrap_or_default(),
                    message: c.message.clone().unwrap_or_default(),
                    since: c.last_transition_time.as_ref().map(|time| time.0).unwrap_or_default(),
                }
            });
        ReplicaStatus {
            counts: Counts {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                ready: status.ready_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
                terminating: status.terminating_replicas.unwrap_or(0),
            },
            observed_generation: status.observed_generation,
            failure,
        }
    }
}
