//! Tables for the pod plan; the clock is in the rows.

use std::path::PathBuf;

use super::*;
use crate::network::Sandbox;
use crate::pods::state::{Blocked, End, Running};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn spec(json: serde_json::Value) -> PodSpec {
    serde_json::from_value(json).unwrap()
}

fn one(policy: &str) -> PodSpec {
    spec(serde_json::json!({"containers": [{"name": "a"}], "restartPolicy": policy}))
}

fn ready() -> Ground {
    Ground::Ready(Sandbox {
        addresses: std::net::Ipv4Addr::LOCALHOST.into(),
        netns: PathBuf::from("/n"),
        ipc: PathBuf::from("/i"),
        uts: PathBuf::from("/u"),
        shm: PathBuf::from("/s"),
    })
}

fn running() -> Phase {
    Phase::Running(Running {
        id: "id".into(),
        started_at: at(0),
        started: true,
        ready: true,
        unhealthy: None,
        stopping: false,
    })
}

fn with(change: impl FnOnce(&mut Running)) -> Phase {
    let Phase::Running(mut inner) = running() else { unreachable!() };
    change(&mut inner);
    Phase::Running(inner)
}

fn ended(code: i32, second: i64) -> Phase {
    Phase::Ended(End {
        id: "id".into(),
        code,
        reason: String::new(),
        message: String::new(),
        started_at: None,
        finished_at: at(second),
    })
}

fn blocked(retry: i64) -> Phase {
    Phase::Blocked(Blocked {
        reason: "ErrImagePull",
        message: String::new(),
        failures: 1,
        retry_at: at(retry),
    })
}

fn state(ground: Ground, containers: &[(&str, u32, u32, Phase)]) -> PodState {
    let containers = containers.iter().map(|(name, attempt, ends, phase)| {
        let record = ContainerRecord {
            attempt: *attempt,
            ends: *ends,
            phase: phase.clone(),
            ..ContainerRecord::default()
        };
        ((*name).to_owned(), record)
    });
    PodState { ground, containers: containers.collect(), started_at: Some(at(0)) }
}

fn start(container: &str, attempt: u32) -> Step {
    Step::Start { container: container.into(), attempt }
}

fn stop(container: &str, why: StopReason) -> Step {
    Step::Stop { container: container.into(), why }
}

/// Name, specification, goal, state, now, steps, wake, outcome.
type Row = (&'static str, PodSpec, Goal, PodState, i64, Vec<Step>, Option<i64>, Option<Outcome>);

fn check(rows: Vec<Row>) {
    for (name, spec, goal, state, now, steps, wake, outcome) in rows {
        let expected = PodPlan { steps, wake_at: wake.map(at), outcome };
        assert_eq!(plan(&spec, goal, &state, at(now)), expected, "{name}");
    }
}

#[test]
fn ground_comes_first() {
    let failed = Ground::Failed { failures: 1, retry_at: at(10) };
    check(vec![
        (
            "new",
            one("Always"),
            Goal::Run,
            state(Ground::Absent, &[]),
            0,
            vec![Step::Prepare],
            None,
            None,
        ),
        ("busy", one("Always"), Goal::Run, state(Ground::UnderWay, &[]), 0, vec![], None, None),
        ("failed", one("Always"), Goal::Run, state(failed.clone(), &[]), 5, vec![], Some(10), None),
        (
            "again",
            one("Always"),
            Goal::Run,
            state(failed, &[]),
            10,
            vec![Step::Prepare],
            None,
            None,
        ),
        (
            "ready",
            one("Always"),
            Goal::Run,
            state(ready(), &[]),
            0,
            vec![start("a", 0)],
            None,
            None,
        ),
    ]);
}

#[test]
fn restart_policy_and_back_off() {
    let row = |name, policy: &str, ends, phase, now, steps, wake, outcome| -> Row {
        (
            name,
            one(policy),
            Goal::Run,
            state(ready(), &[("a", 4, ends, phase)]),
            now,
            steps,
            wake,
            outcome,
        )
    };
    check(vec![
        row("first end: at once", "Always", 1, ended(1, 100), 100, vec![start("a", 5)], None, None),
        row("second end: 10 s", "Always", 2, ended(1, 100), 100, vec![], Some(110), None),
        row("second end, due", "Always", 2, ended(1, 100), 110, vec![start("a", 5)], None, None),
        row("third end: 20 s", "Always", 3, ended(0, 100), 101, vec![], Some(120), None),
        row("many: 5 min", "OnFailure", 40, ended(1, 100), 101, vec![], Some(400), None),
        row(
            "success ends it",
            "OnFailure",
            1,
            ended(0, 100),
            100,
            vec![Step::Release],
            None,
            Some(Outcome::Succeeded),
        ),
        row(
            "never",
            "Never",
            1,
            ended(3, 100),
            100,
            vec![Step::Release],
            None,
            Some(Outcome::Failed),
        ),
        row("blocked", "Never", 0, blocked(50), 49, vec![], Some(50), None),
        row("blocked, due", "Never", 0, blocked(50), 50, vec![start("a", 4)], None, None),
        row("running", "Always", 0, running(), 0, vec![], None, None),
        row("starting", "Always", 0, Phase::Starting { reason: "" }, 0, vec![], None, None),
        row(
            "unhealthy",
            "Always",
            0,
            with(|r| r.unhealthy = Some("x".into())),
            0,
            vec![stop("a", StopReason::Unhealthy("x".into()))],
            None,
            None,
        ),
        row(
            "unhealthy, told",
            "Always",
            0,
            with(|r| {
                r.unhealthy = Some("x".into());
                r.stopping = true;
            }),
            0,
            vec![],
            None,
            None,
        ),
    ]);
}

#[test]
fn init_containers_run_in_order() {
    let pod = || {
        spec(serde_json::json!({
            "initContainers": [{"name": "i1"}, {"name": "i2"}],
            "containers": [{"name": "a"}, {"name": "b"}],
        }))
    };
    let never = || PodSpec { restart_policy: Some("Never".into()), ..pod() };
    let row = |name, pod: PodSpec, containers: &[(&str, u32, u32, Phase)], steps, wake, outcome| {
        (name, pod, Goal::Run, state(ready(), containers), 100, steps, wake, outcome)
    };
    let done = || ("i1", 0, 1, ended(0, 50));
    check(vec![
        row("first", pod(), &[], vec![start("i1", 0)], None, None),
        row("first runs", pod(), &[("i1", 0, 0, running())], vec![], None, None),
        row("second", pod(), &[done()], vec![start("i2", 0)], None, None),
        row(
            "second failed twice",
            pod(),
            &[done(), ("i2", 1, 2, ended(1, 95))],
            vec![],
            Some(105),
            None,
        ),
        row(
            "second failed for good",
            never(),
            &[done(), ("i2", 0, 1, ended(1, 95))],
            vec![Step::Release],
            None,
            Some(Outcome::Failed),
        ),
        row(
            "all done",
            pod(),
            &[done(), ("i2", 0, 1, ended(0, 60))],
            vec![start("a", 0), start("b", 0)],
            None,
            None,
        ),
        row(
            "records of init containers are gone",
            pod(),
            &[("a", 0, 0, running())],
            vec![start("b", 0)],
            None,
            None,
        ),
    ]);
}

#[test]
fn sidecars_are_init_containers_that_stay() {
    let pod = || {
        spec(serde_json::json!({
            "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}],
            "containers": [{"name": "a"}], "restartPolicy": "Never",
        }))
    };
    let row = |name, containers: &[(&str, u32, u32, Phase)], steps, outcome| -> Row {
        (name, pod(), Goal::Run, state(ready(), containers), 100, steps, None, outcome)
    };
    check(vec![
        row("starting up", &[("s", 0, 0, with(|r| r.started = false))], vec![], None),
        row("started", &[("s", 0, 0, running())], vec![start("i", 0)], None),
        row(
            "restarted beside the app",
            &[("s", 0, 1, ended(0, 90)), ("i", 0, 1, ended(0, 50)), ("a", 0, 0, running())],
            vec![start("s", 1)],
            None,
        ),
        row(
            "stopped when the pod has ended",
            &[("s", 0, 0, running()), ("a", 0, 1, ended(0, 90))],
            vec![stop("s", StopReason::PodEnded)],
            Some(Outcome::Succeeded),
        ),
    ]);
}

#[test]
fn a_pod_that_goes_is_stopped_and_then_torn_down() {
    let row = |name, ground, phase, steps| -> Row {
        (name, one("Always"), Goal::Go, state(ground, &[("a", 0, 0, phase)]), 0, steps, None, None)
    };
    check(vec![
        row("running", ready(), running(), vec![stop("a", StopReason::PodGoes)]),
        row("told", ready(), with(|r| r.stopping = true), vec![]),
        row("starting", ready(), Phase::Starting { reason: "" }, vec![]),
        row("ended", ready(), ended(0, 0), vec![Step::TearDown]),
        row("blocked", ready(), blocked(50), vec![Step::TearDown]),
        row("ground under way", Ground::UnderWay, Phase::Absent, vec![]),
        row("nothing made", Ground::Absent, Phase::Absent, vec![Step::TearDown]),
    ]);
}

#[test]
fn a_deadline_fails_the_pod() {
    let pod = || PodSpec { active_deadline_seconds: Some(30), ..one("Always") };
    let run = |phase| state(ready(), &[("a", 0, 0, phase)]);
    check(vec![
        ("before", pod(), Goal::Run, run(running()), 29, vec![], Some(30), None),
        (
            "at",
            pod(),
            Goal::Run,
            run(running()),
            30,
            vec![stop("a", StopReason::PodEnded)],
            None,
            Some(Outcome::DeadlineExceeded),
        ),
        (
            "after",
            pod(),
            Goal::Run,
            run(ended(143, 31)),
            32,
            vec![Step::Release],
            None,
            Some(Outcome::DeadlineExceeded),
        ),
    ]);
}

#[test]
fn back_off_doubles_to_five_minutes_and_is_forgiven() {
    let seconds: Vec<u64> = (0..9).map(|ends| restart_delay(ends).as_secs()).collect();
    assert_eq!(seconds, [0, 0, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(retry_delay(u32::MAX).as_secs(), 300);
    assert_eq!(ends_after(5, Duration::from_secs(599)), 6);
    assert_eq!(ends_after(5, Duration::from_secs(600)), 1);
}
