//! Startup, readiness and liveness probes, dialed from the node.
//!
//! Guarantees: liveness and readiness begin when the startup probe has succeeded. Until the first
//! success, and within the first period only, startup and readiness are also asked at short
//! growing intervals, so that a container that is ready early is in service early; those extra
//! questions never count as failures.
//! Not supported: gRPC probes and HTTPS. Such a probe is reported once and never succeeds; it
//! never restarts a container either.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use crate::runtime::{ExecOutcome, Runtime};

const EAGER_FIRST: Duration = Duration::from_millis(10);
const USER_AGENT: &str = "kube-probe/bowline";
/// A probe reads no more of an answer than this; only the status matters.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    /// As events spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What a probe has to say to the pod's worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProbeReport {
    /// The success threshold is reached.
    Passed(ProbeKind),
    /// One question failed; for the event.
    Failure(ProbeKind, String),
    /// The failure threshold is reached.
    GaveUp(ProbeKind, String),
}

/// Counts answers against the thresholds of a probe.
#[derive(Clone, Copy, Debug)]
struct Tally {
    success_threshold: u32,
    failure_threshold: u32,
    successes: u32,
    failures: u32,
}

impl Tally {
    fn new(probe: &Probe) -> Self {
        Self {
            success_threshold: at_least_one(probe.success_threshold, 1),
            failure_threshold: at_least_one(probe.failure_threshold, 3),
            successes: 0,
            failures: 0,
        }
    }

    /// `Some` when this answer, or one before it without a break, reaches a threshold.
    fn count(&mut self, success: bool) -> Option<bool> {
        if success {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            (self.successes >= self.success_threshold).then_some(true)
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            (self.failures >= self.failure_threshold).then_some(false)
        }
    }
}

fn at_least_one(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    let value = value.and_then(|value| u64::try_from(value).ok());
    Duration::from_secs(value.unwrap_or(default))
}

/// One running container as probes see it.
#[derive(Clone)]
pub(crate) struct ProbeTarget {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) id: String,
    pub(crate) address: IpAddr,
    pub(crate) container: Container,
}

/// Runs a container's probes until it is dropped. `started` says that the startup probe has
/// succeeded already, in the life of an earlier agent.
pub(crate) async fn run_probes(
    target: ProbeTarget,
    started: bool,
    reports: mpsc::Sender<ProbeReport>,
) {
    if let (Some(probe), false) = (&target.container.startup_probe, started) {
        run_probe(&target, ProbeKind::Startup, probe, &reports).await;
    }
    let readiness = async {
        if let Some(probe) = &target.container.readiness_probe {
            run_probe(&target, ProbeKind::Readiness, probe, &reports).await;
        }
    };
    let liveness = async {
        if let Some(probe) = &target.container.liveness_probe {
            run_probe(&target, ProbeKind::Liveness, probe, &reports).await;
        }
    };
    tokio::join!(readiness, liveness);
}

/// True when the container has something to run.
pub(crate) fn has_probes(container: &Container) -> bool {
    container.startup_probe.is_some()
        || container.readiness_probe.is_some()
        || container.liveness_probe.is_some()
}

/// When a probe asks.
#[derive(Clone, Copy, Debug)]
struct Timing {
    initial_delay: Duration,
    period: Duration,
}

impl Timing {
    fn new(probe: &Probe) -> Self {
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
        }
    }
}

async fn run_probe(
    target: &ProbeTarget,
    kind: ProbeKind,
    probe: &Probe,
    reports: &mpsc::Sender<ProbeReport>,
) {
    if let Some(what) = unsupported(probe) {
        let message = format!("{what} probes are not supported");
        let _ = reports.send(ProbeReport::Failure(kind, message)).await;
        return;
    }
    let ask = || async {
        let limit = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
        ask(target, probe, limit).await
    };
    probe_loop(kind, Timing::new(probe), Tally::new(probe), ask, reports).await;
}

/// The timing of a probe, apart from what it asks.
async fn probe_loop<F, A>(
    kind: ProbeKind,
    timing: Timing,
    mut tally: Tally,
    ask: F,
    reports: &mpsc::Sender<ProbeReport>,
) where
    F: Fn() -> A,
    A: Future<Output = Result<(), String>>,
{
    let period = timing.period;
    sleep(timing.initial_delay).await;
    let first = Instant::now();
    // What was said last, so that only changes are said.
    let mut said = None;
    if kind != ProbeKind::Liveness && tally.success_threshold == 1 {
        let mut pause = EAGER_FIRST;
        while said.is_none() && first.elapsed() + pause < period {
            if ask().await.is_err() {
                sleep(pause).await;
                pause *= 2;
                continue;
            }
            said = tally.count(true);
            if reports.send(ProbeReport::Passed(kind)).await.is_err() || kind == ProbeKind::Startup
            {
                return;
            }
        }
    }
    let mut ticks = interval_at(first + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = ask().await;
        let verdict = tally.count(answer.is_ok());
        if let Err(message) = &answer {
            let failure = ProbeReport::Failure(kind, message.clone());
            if reports.send(failure).await.is_err() {
                return;
            }
        }
        let report = match verdict {
            Some(true) if said != verdict => ProbeReport::Passed(kind),
            Some(false) if said != verdict => {
                ProbeReport::GaveUp(kind, answer.err().unwrap_or_default())
            }
            _ => continue,
        };
        said = verdict;
        let done = kind == ProbeKind::Startup;
        if reports.send(report).await.is_err() || done {
            return;
        }
    }
}

fn unsupported(probe: &Probe) -> Option<&'static str> {
    if probe.grpc.is_some() {
        Some("gRPC")
    } else if probe.http_get.as_ref().is_some_and(|http| http.scheme.as_deref() == Some("HTTPS")) {
        Some("HTTPS")
    } else {
        None
    }
}

async fn ask(target: &ProbeTarget, probe: &Probe, limit: Duration) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        return match target.runtime.exec(&target.id, command, limit).await {
            Ok(ExecOutcome::Exited(0)) => Ok(()),
            Ok(ExecOutcome::Exited(code)) => Err(format!("command exited with status {code}")),
            Ok(ExecOutcome::TimedOut) => Err(format!("command timed out after {limit:?}")),
            Err(error) => Err(error.to_string()),
        };
    }
    let dial = async {
        if let Some(tcp) = &probe.tcp_socket {
            let port = port_number(&target.container, &tcp.port)?;
            let host = host_of(target, tcp.host.as_deref());
            let connected = TcpStream::connect((host.as_str(), port)).await;
            return connected
                .map(|_| ())
                .map_err(|error| format!("dial tcp {host}:{port}: {error}"));
        }
        if let Some(http) = &probe.http_get {
            return http_get(target, http).await;
        }
        Err("the probe asks nothing".to_owned())
    };
    match timeout(limit, dial).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

fn host_of(target: &ProbeTarget, given: Option<&str>) -> String {
    given.filter(|host| !host.is_empty()).map_or_else(|| target.address.to_string(), str::to_owned)
}

fn port_number(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten();
            let mut named = named.filter(|port| port.name.as_ref() == Some(name));
            named.next().map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .ok_or_else(|| format!("the container has no port {port:?}"))
}

/// Asks once; any status from 200 to 399 is a success. Redirects are not followed.
pub(crate) async fn http_get(target: &ProbeTarget, http: &HTTPGetAction) -> Result<(), String> {
    let port = port_number(&target.container, &http.port)?;
    let host = host_of(target, http.host.as_deref());
    let path = http.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let failed =
        |error: &dyn std::fmt::Display| format!("Get \"http://{host}:{port}{path}\": {error}");
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| failed(&e))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    let mut request =
        Request::get(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") });
    let headers = http.http_headers.iter().flatten();
    let named = |name: &str| {
        http.http_headers.iter().flatten().any(|header| header.name.eq_ignore_ascii_case(name))
    };
    if !named("host") {
        request = request.header("Host", format!("{host}:{port}"));
    }
    if !named("user-agent") {
        request = request.header("User-Agent", USER_AGENT);
    }
    request = request.header("Connection", "close");
    for header in headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| failed(&e))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), BODY_BYTES_MAX);
        // The body is read so that the server sees a whole exchange; what it says is not used.
        let _ = body.collect().await;
        if status.is_success() || status.is_redirection() {
            Ok(())
        } else {
            Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
        }
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The server may close right after its answer, which is then there to be read.
        _ = connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(period: i32, success: i32, failure: i32) -> Probe {
        Probe {
            period_seconds: Some(period),
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..Probe::default()
        }
    }

    #[test]
    fn thresholds() {
        let mut tally = Tally::new(&probe(1, 2, 3));
        let answers = [true, true, false, false, true, false, false, false, true, true];
        let verdicts: Vec<_> = answers.into_iter().map(|answer| tally.count(answer)).collect();
        let mut expected = vec![None; 10];
        expected[1] = Some(true);
        expected[7] = Some(false);
        expected[9] = Some(true);
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn ports_by_name_and_number() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "c", "ports": [{"name": "http", "containerPort": 8080}],
        }))
        .unwrap();
        assert_eq!(port_number(&container, &IntOrString::Int(80)), Ok(80));
        assert_eq!(port_number(&container, &IntOrString::String("http".into())), Ok(8080));
        assert!(port_number(&container, &IntOrString::String("none".into())).is_err());
        assert!(port_number(&container, &IntOrString::Int(70_000)).is_err());
    }

    const MILLI: Duration = Duration::from_millis(1);

    /// Asks a probe that succeeds from `up_after` on; the period is 100 ms.
    async fn play(
        kind: ProbeKind,
        tally: Tally,
        up_after: Duration,
        run: Duration,
    ) -> Vec<(Duration, ProbeReport)> {
        let timing = Timing { initial_delay: Duration::ZERO, period: 100 * MILLI };
        let (sender, mut receiver) = mpsc::channel(100);
        let begun = Instant::now();
        let ask = || async move {
            if begun.elapsed() >= up_after { Ok(()) } else { Err("down".to_owned()) }
        };
        let mut reports = Vec::new();
        let probing = async {
            let _ = timeout(run, probe_loop(kind, timing, tally, ask, &sender)).await;
            drop(sender);
        };
        let collect = async {
            while let Some(report) = receiver.recv().await {
                reports.push((begun.elapsed(), report));
            }
        };
        tokio::join!(probing, collect);
        reports
    }

    #[tokio::test]
    async fn early_success_is_seen_early() {
        let tally = Tally::new(&probe(1, 1, 3));
        let reports = play(ProbeKind::Readiness, tally, 15 * MILLI, 400 * MILLI).await;
        assert_eq!(reports.len(), 1, "{reports:?}");
        assert_eq!(reports[0].1, ProbeReport::Passed(ProbeKind::Readiness));
        assert!(reports[0].0 < 100 * MILLI, "{reports:?}");
    }

    #[tokio::test]
    async fn liveness_gives_up_after_its_threshold() {
        let tally = Tally::new(&probe(1, 1, 2));
        let reports = play(ProbeKind::Liveness, tally, Duration::MAX, 290 * MILLI).await;
        let down = "down".to_owned();
        let said: Vec<_> = reports.into_iter().map(|(_, report)| report).collect();
        assert_eq!(
            said,
            [
                ProbeReport::Failure(ProbeKind::Liveness, down.clone()),
                ProbeReport::Failure(ProbeKind::Liveness, down.clone()),
                ProbeReport::GaveUp(ProbeKind::Liveness, down),
            ]
        );
    }

    #[tokio::test]
    async fn eager_questions_are_no_failures() {
        let tally = Tally::new(&probe(1, 1, 1));
        let reports = play(ProbeKind::Startup, tally, Duration::MAX, 90 * MILLI).await;
        assert!(reports.is_empty(), "{reports:?}");
    }
}
