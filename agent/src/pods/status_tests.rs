//! Statuses as kubectl users know them.

use std::net::Ipv4Addr;

use super::*;
use crate::network::Sandbox;
use crate::pods::state::{Blocked, Running};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u"}, "spec": spec,
    }))
    .unwrap()
}

fn ground() -> Ground {
    Ground::Ready(Sandbox {
        addresses: Ipv4Addr::new(10, 240, 0, 9).into(),
        netns: "/n".into(),
        ipc: "/i".into(),
        uts: "/u".into(),
        shm: "/s".into(),
    })
}

fn running(ready: bool) -> Phase {
    Phase::Running(Running {
        id: "abc".into(),
        started_at: at(1),
        started: true,
        ready,
        unhealthy: None,
        stopping: false,
    })
}

fn end(code: i32, second: i64) -> End {
    End {
        id: "abc".into(),
        code,
        reason: "Error".into(),
        message: String::new(),
        started_at: Some(at(0)),
        finished_at: at(second),
    }
}

fn state(containers: &[(&str, u32, u32, Phase)]) -> PodState {
    let containers = containers.iter().map(|(name, attempt, ends, phase)| {
        let record = ContainerRecord {
            attempt: *attempt,
            ends: *ends,
            phase: phase.clone(),
            image_id: "r@sha256:1".into(),
            ..ContainerRecord::default()
        };
        ((*name).to_owned(), record)
    });
    PodState { ground: ground(), containers: containers.collect(), started_at: Some(at(0)) }
}

fn status(pod: &Pod, state: &PodState, outcome: Option<Outcome>, now: i64) -> PodStatus {
    let node_ips = Ipv4Addr::new(172, 30, 0, 11).into();
    let context = StatusContext { pod, outcome, node_ips, previous: None, now: at(now) };
    pod_status(context, state)
}

fn waiting_reason(status: &PodStatus) -> Option<String> {
    let container = &status.container_statuses.as_ref()?[0];
    container.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

fn one() -> Pod {
    pod(serde_json::json!({"containers": [{"name": "a", "image": "x"}]}))
}

#[test]
fn a_running_pod() {
    let status = status(&one(), &state(&[("a", 0, 0, running(true))]), None, 5);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.240.0.9"));
    assert_eq!(status.host_ip.as_deref(), Some("172.30.0.11"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    for kind in ["PodScheduled", "Initialized", "ContainersReady", "Ready"] {
        assert_eq!(condition_status(&status, kind), Some("True"), "{kind}");
    }
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert!(container.ready);
    assert_eq!(container.container_id.as_deref(), Some("containerd://abc"));
    assert_eq!(container.restart_count, 0);
}

#[test]
fn phases_and_reasons() {
    let blocked = Phase::Blocked(Blocked {
        reason: "ImagePullBackOff",
        message: "m".into(),
        failures: 2,
        retry_at: at(50),
    });
    for (name, attempt, ends, phase, outcome, expected_phase, reason, ready) in [
        ("new", 0, 0, Phase::Absent, None, "Pending", Some("ContainerCreating"), "False"),
        ("blocked", 0, 0, blocked, None, "Pending", Some("ImagePullBackOff"), "False"),
        ("not ready", 0, 0, running(false), None, "Running", None, "False"),
        ("first end", 0, 1, Phase::Ended(end(1, 100)), None, "Running", None, "False"),
        (
            "second end",
            1,
            2,
            Phase::Ended(end(1, 100)),
            None,
            "Running",
            Some("CrashLoopBackOff"),
            "False",
        ),
        (
            "done",
            0,
            1,
            Phase::Ended(end(0, 100)),
            Some(Outcome::Succeeded),
            "Succeeded",
            None,
            "False",
        ),
        ("failed", 0, 1, Phase::Ended(end(1, 100)), Some(Outcome::Failed), "Failed", None, "False"),
    ] {
        let status = status(&one(), &state(&[("a", attempt, ends, phase)]), outcome, 101);
        assert_eq!(status.phase.as_deref(), Some(expected_phase), "{name}");
        assert_eq!(waiting_reason(&status).as_deref(), reason, "{name}");
        assert_eq!(condition_status(&status, "Ready"), Some(ready), "{name}");
    }
}

#[test]
fn a_crash_loop_tells_how_the_last_run_ended() {
    let status = status(&one(), &state(&[("a", 3, 4, Phase::Ended(end(7, 100)))]), None, 101);
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!(last.exit_code, 7);
    assert_eq!(container.restart_count, 3);
    let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(
        waiting.message.as_deref(),
        Some("back-off 40s restarting failed container=a pod=web_default(u)")
    );
}

#[test]
fn init_containers_come_first() {
    let pod = pod(serde_json::json!({
        "initContainers": [{"name": "i"}], "containers": [{"name": "a"}],
    }));
    let status = status(&pod, &state(&[("i", 0, 0, running(true))]), None, 5);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting_reason(&status).as_deref(), Some("PodInitializing"));
    assert_eq!(condition_status(&status, "Initialized"), Some("False"));
    assert_eq!(condition_status(&status, "PodScheduled"), Some("True"), "somebody bound it");
    for (code, ready) in [(0, true), (7, false)] {
        let ended = state(&[("i", 0, 0, Phase::Ended(end(code, 3)))]);
        let told = self::status(&pod, &ended, None, 5);
        assert_eq!(told.init_container_statuses.unwrap()[0].ready, ready, "{code}");
    }
}

#[test]
fn others_conditions_are_theirs_and_times_change_with_the_status() {
    let mut pod = one();
    pod.status = serde_json::from_value(serde_json::json!({"conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T00:00:00Z"},
        {"type": "ContainersReady", "status": "False",
         "lastTransitionTime": "2026-01-03T00:00:00Z"},
    ]}))
    .unwrap();
    let status = status(&pod, &state(&[("a", 0, 0, running(true))]), None, 5);
    let time = |kind: &str| {
        let mut all = status.conditions.iter().flatten();
        all.find(|c| c.type_ == kind).unwrap().last_transition_time.clone().unwrap().0
    };
    assert_eq!(condition_status(&status, "PodScheduled"), None);
    assert_eq!(time("Ready").to_string(), "2026-01-02T00:00:00Z");
    assert_eq!(time("ContainersReady"), at(5));
}

#[test]
fn readiness_gates_hold_a_pod_back() {
    let pod = pod(serde_json::json!({
        "containers": [{"name": "a"}], "readinessGates": [{"conditionType": "x/y"}],
    }));
    let status = status(&pod, &state(&[("a", 0, 0, running(true))]), None, 5);
    assert_eq!(condition_status(&status, "ContainersReady"), Some("True"));
    assert_eq!(condition_status(&status, "Ready"), Some("False"));
}
