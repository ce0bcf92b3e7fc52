//! What the state of a pod means to controllers.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Succeeded or failed: it will not run again.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Counts towards the replicas of its owner.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready")
        .filter(|condition| condition.status == "True")?
        .last_transition_time
        .as_ref()
        .map(|time| time.0)
}

/// How long until a ready pod counts as available; `None` when it is not ready.
pub(crate) fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds <= 0 {
        return Some(Duration::ZERO);
    }
    let needed = Duration::from_secs(u64::from(min_ready_seconds.unsigned_abs()));
    let ready_for = ready_since(pod)
        .map_or(Duration::ZERO, |since| now.duration_since(since).try_into().unwrap_or_default());
    Some(needed.saturating_sub(ready_for))
}

pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

#[cfg(test)]
pub(crate) mod samples {
    //! Pods for the tables of the tests.

    use super::*;
    use k8s_openapi::api::core::v1::{PodSpec, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

    pub(crate) fn time(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    /// A running, ready pod in `default`, made and ready at second 0.
    pub(crate) fn pod(name: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("default".into()),
                uid: Some(format!("uid-{name}")),
                creation_timestamp: Some(Time(time(0))),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec { node_name: Some("node1".into()), ..PodSpec::default() }),
            status: Some(PodStatus {
                phase: Some("Running".into()),
                conditions: Some(vec![PodCondition {
                    type_: "Ready".into(),
                    status: "True".into(),
                    last_transition_time: Some(Time(time(0))),
                    ..PodCondition::default()
                }]),
                ..PodStatus::default()
            }),
        }
    }

    pub(crate) fn unready(mut pod: Pod) -> Pod {
        for condition in pod.status.as_mut().and_then(|s| s.conditions.as_mut()).unwrap() {
            condition.status = "False".into();
        }
        pod
    }

    pub(crate) fn terminating(mut pod: Pod) -> Pod {
        pod.metadata.deletion_timestamp = Some(Time(time(60)));
        pod
    }

    pub(crate) fn on_node(mut pod: Pod, node: Option<&str>) -> Pod {
        pod.spec.as_mut().unwrap().node_name = node.map(str::to_owned);
        pod
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{pod, time, unready};
    use super::*;

    #[test]
    fn availability_counts_from_the_moment_of_readiness() {
        let table = [
            ("no minimum", pod("a"), 0, 0, Some(0)),
            ("not ready", unready(pod("a")), 0, 100, None),
            ("four seconds to go", pod("a"), 10, 6, Some(4)),
            ("long ready", pod("a"), 10, 60, Some(0)),
        ];
        for (name, pod, minimum, now, expected) in table {
            let got = available_in(&pod, minimum, time(now)).map(|d| d.as_secs());
            assert_eq!(got, expected, "{name}");
        }
    }
}
