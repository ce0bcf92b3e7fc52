//! What an earlier agent left running, taken over as it is.
//!
//! Guarantee: a container that runs is never started again, and its readiness does not change
//! hands: what the API says of it stands until a probe says otherwise.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::state::{ContainerRecord, End, Phase, PodState, Running};
use super::status::container_id;
use crate::runtime::{Ended, FoundContainer, FoundState};

/// The state of a pod from its containers in the runtime and its status in the API.
pub(super) fn adopt(pod: &Pod, found: &[FoundContainer]) -> PodState {
    let mut state = PodState {
        started_at: pod
            .status
            .as_ref()
            .and_then(|status| status.start_time.as_ref())
            .map(|time| time.0),
        ..PodState::default()
    };
    let spec = pod.spec.iter();
    let names = spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let mut names: Vec<&str> = names.map(|container| container.name.as_str()).collect();
    // A pod that is gone from the API has no specification; its containers are found all the same.
    names.extend(found.iter().map(|found| found.key.container.as_str()));
    names.sort_unstable();
    names.dedup();
    for name in names {
        let mut own: Vec<_> = found.iter().filter(|found| found.key.container == name).collect();
        own.sort_by_key(|found| found.key.attempt);
        let known = known_status(pod, name);
        if let Some(record) = adopt_container(&own, known) {
            state.containers.insert(name.to_owned(), record);
        }
    }
    state
}

fn known_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let inits = status.init_container_statuses.iter().flatten();
    inits.chain(status.container_statuses.iter().flatten()).find(|status| status.name == name)
}

fn adopt_container(
    attempts: &[&FoundContainer],
    known: Option<&ContainerStatus>,
) -> Option<ContainerRecord> {
    let Some((current, earlier)) = attempts.split_last() else {
        return lost_container(known);
    };
    let phase = match &current.state {
        FoundState::Created => Phase::Absent,
        // A stopped one is waited for like a running one: the answer comes at once.
        FoundState::Running | FoundState::Stopped(_) => {
            Phase::Running(adopt_running(current, known))
        }
        FoundState::Settled(end) => Phase::Ended(adopt_end(&current.id, end)),
    };
    let last_end = earlier.last().and_then(|found| match &found.state {
        FoundState::Settled(end) => Some(adopt_end(&found.id, end)),
        _ => None,
    });
    let over = u32::from(matches!(phase, Phase::Ended(_)));
    Some(ContainerRecord {
        attempt: current.key.attempt,
        // How many of the earlier ends came in a row is not known: all of them.
        ends: current.key.attempt + over,
        phase,
        last_end,
        image_id: current.image_id.clone(),
    })
}

/// The API knows of a run that the runtime has no trace of, as after a reboot of the node.
fn lost_container(known: Option<&ContainerStatus>) -> Option<ContainerRecord> {
    let known = known.filter(|status| status.container_id.is_some())?;
    let restarts = u32::try_from(known.restart_count).unwrap_or(0);
    Some(ContainerRecord { attempt: restarts + 1, ..ContainerRecord::default() })
}

fn adopt_running(found: &FoundContainer, known: Option<&ContainerStatus>) -> Running {
    let id = container_id(&found.id);
    let known = known.filter(|status| status.container_id.as_ref() == Some(&id));
    let since = known
        .and_then(|status| status.state.as_ref()?.running.as_ref()?.started_at.as_ref())
        .map_or(found.created_at, |time| time.0);
    Running {
        id: found.id.clone(),
        started_at: since,
        started: known.is_some_and(|status| status.started == Some(true)),
        ready: known.is_some_and(|status| status.ready),
        unhealthy: None,
        stopping: false,
    }
}

fn adopt_end(id: &str, end: &Ended) -> End {
    End {
        id: id.to_owned(),
        code: end.code,
        reason: end.reason.clone(),
        message: end.message.clone(),
        started_at: end.started_at,
        finished_at: end.finished_at,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::runtime::{ContainerKey, Exit};

    fn found(container: &str, attempt: u32, state: FoundState) -> FoundContainer {
        let key = ContainerKey {
            pod_uid: "u".into(),
            namespace: "n".into(),
            pod: "p".into(),
            container: container.into(),
            attempt,
        };
        FoundContainer {
            id: format!("{container}{attempt}"),
            key,
            image_id: "i".into(),
            created_at: Timestamp::from_second(100).unwrap(),
            state,
        }
    }

    fn settled(code: i32) -> FoundState {
        FoundState::Settled(Ended {
            code,
            reason: "Error".into(),
            message: String::new(),
            started_at: None,
            finished_at: Timestamp::from_second(90).unwrap(),
        })
    }

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"}]},
            "status": {"startTime": "2026-01-01T00:00:00Z", "containerStatuses": [
                {"name": "a", "containerID": "containerd://a2", "ready": true, "started": true,
                 "restartCount": 2, "image": "", "imageID": "",
                 "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}}},
                {"name": "d", "containerID": "containerd://gone", "ready": true,
                 "restartCount": 4, "image": "", "imageID": ""},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn running_containers_stay_as_they_are() {
        let exit = Exit { code: 1, at: Timestamp::from_second(99).unwrap() };
        let state = adopt(
            &pod(),
            &[
                found("a", 1, settled(1)),
                found("a", 2, FoundState::Running),
                found("b", 0, FoundState::Stopped(exit)),
            ],
        );
        let a = &state.containers["a"];
        let running = a.running().unwrap();
        assert!(running.ready && running.started);
        assert_eq!(running.started_at.to_string(), "2026-01-01T00:00:01Z");
        assert_eq!(a.last_end.as_ref().unwrap().code, 1);
        assert!(!state.containers["b"].running().unwrap().ready);
        assert!(!state.containers.contains_key("c"));
    }

    #[test]
    fn ended_and_lost_containers_go_on_counting() {
        let state = adopt(&pod(), &[found("a", 3, settled(7))]);
        assert_eq!(state.containers["a"].ended().unwrap().code, 7);
        assert_eq!(state.containers["a"].ends, 4);
        assert_eq!(state.containers["d"].attempt, 5);
        assert_eq!(state.containers["d"].phase, Phase::Absent);
    }

    #[test]
    fn an_interrupted_start_is_repeated_under_its_number() {
        let state = adopt(&pod(), &[found("a", 3, FoundState::Created)]);
        assert_eq!(state.containers["a"].attempt, 3);
        assert_eq!(state.containers["a"].phase, Phase::Absent);
    }
}
