//! One pod's worker: a loop of planning, acting and telling.
//!
//! The worker owns the pod's state and changes it only here; everything that takes time is a job
//! that ends by sending [`News`]. A job of an attempt that is over is recognised by its number and
//! not listened to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::Node;
use super::adopt::adopt;
use super::events::Severity;
use super::jobs::{self, News, Prepared};
use super::probes::{ProbeKind, ProbeReport, ProbeTarget, has_probes};
use super::start::{Grounded, StartFailed, Started, probe_address};
use super::state::{Blocked, ContainerRecord, End, Ground, LogView, Phase, PodState, Running};
use super::status::{StatusContext, back_off_message, condition_status, pod_status};
use super::stop::stop_container;
use super::writer::StatusWriter;
use crate::plan::pods::{
    Goal, Outcome, Step, StopReason, ends_after, plan, restart_delay, retry_delay,
};
use crate::runtime::{ContainerKey, FoundContainer};

const NEWS_QUEUE: usize = 64;
/// Kubernetes' default when a pod says nothing.
const GRACE: Duration = Duration::from_secs(30);
/// A pod that was deleted by force is gone from the API: nobody waits for it any more.
const GRACE_REMOVED_MAX: Duration = Duration::from_secs(5);
const PREPARE_RETRY_MAX: Duration = Duration::from_mins(1);

/// What the API says of the pod.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    pub(super) pod: Arc<Pod>,
    /// It is gone from the API; `pod` is what was known last.
    pub(super) removed: bool,
}

/// Jobs that belong to the current run of one container.
#[derive(Default)]
struct RunJobs {
    probes: Option<AbortHandle>,
    /// With the grace that it gives; it may become shorter.
    stop: Option<(AbortHandle, watch::Sender<Duration>)>,
}

/// See the module's documentation.
pub(super) struct Worker {
    node: Arc<Node>,
    desired: watch::Receiver<Desired>,
    pod: Arc<Pod>,
    removed: bool,
    state: PodState,
    grounded: Option<Grounded>,
    /// Failures of starts in a row, by container.
    failures: HashMap<String, u32>,
    /// The grace that running stops were given.
    grace: Option<Duration>,
    /// The API says that the pod has ended, and nothing of it is on the node.
    over: bool,
    /// Taken over from an earlier agent; no status is told before the ground is known again.
    adopted: bool,
    torn_down: bool,
    writer: Option<StatusWriter>,
    logs: watch::Sender<LogView>,
    news: mpsc::Receiver<News>,
    sender: mpsc::Sender<News>,
    runs: HashMap<String, RunJobs>,
    jobs: JoinSet<()>,
}

impl Worker {
    pub(super) fn new(
        node: Arc<Node>,
        mut desired: watch::Receiver<Desired>,
        logs: watch::Sender<LogView>,
        found: &[FoundContainer],
    ) -> Self {
        let Desired { pod, removed } = desired.borrow_and_update().clone();
        let mut state = adopt(&pod, found);
        state.started_at.get_or_insert_with(Timestamp::now);
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let over = found.is_empty() && matches!(phase, Some("Succeeded" | "Failed"));
        let writer = (!removed).then(|| StatusWriter::start(node.client.clone(), &pod));
        let (sender, news) = mpsc::channel(NEWS_QUEUE);
        Self {
            desired,
            removed,
            state,
            grounded: None,
            failures: HashMap::new(),
            grace: None,
            over,
            adopted: !found.is_empty(),
            torn_down: false,
            writer,
            logs,
            news,
            sender,
            runs: HashMap::new(),
            jobs: JoinSet::new(),
            pod,
            node,
        }
    }

    /// Lasts until the pod is gone from node and API, or the agent ends.
    pub(super) async fn run(mut self) {
        self.watch_adopted();
        let shutdown = self.node.shutdown.clone();
        while !self.torn_down {
            let wake_at = self.step();
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.on_desired();
                }
                Some(news) = self.news.recv() => self.on_news(news),
                () = until(wake_at) => {}
            }
            while self.jobs.try_join_next().is_some() {}
        }
    }

    fn goal(&self) -> Goal {
        let deleted = self.pod.metadata.deletion_timestamp.is_some();
        if self.removed || deleted { Goal::Go } else { Goal::Run }
    }

    /// Plans and acts; returns when to plan again if nothing happens.
    fn step(&mut self) -> Option<Timestamp> {
        let goal = self.goal();
        if self.over && goal == Goal::Run {
            return None;
        }
        let pod = self.pod.clone();
        let default = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&default);
        let plan = plan(spec, goal, &self.state, Timestamp::now());
        // Removing takes a while, in which nobody should be sent to a pod whose containers ended.
        if plan.steps.contains(&Step::TearDown) {
            self.tell(plan.outcome);
        }
        for step in plan.steps {
            self.act(step);
        }
        self.tell(plan.outcome);
        plan.wake_at
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Prepare => self.prepare(),
            Step::Start { container, attempt } => self.start(&container, attempt),
            Step::Stop { container, why } => self.stop(&container, &why),
            Step::Release => {
                let addresses = match &self.state.ground {
                    Ground::Ready(sandbox) => Some(sandbox.addresses),
                    _ => None,
                };
                let before = std::mem::replace(&mut self.state.ground, Ground::UnderWay);
                let job = jobs::release(self.node.clone(), self.uid(), addresses);
                self.spawn(job, || News::Undone(before));
            }
            Step::TearDown => {
                let before = std::mem::replace(&mut self.state.ground, Ground::UnderWay);
                let job = jobs::remove(self.node.clone(), self.pod.clone(), self.desired.clone());
                self.spawn(job, || News::Undone(before));
            }
        }
    }

    /// Runs a job that ends with news; `lost` is the news of one that panicked.
    fn spawn(
        &mut self,
        job: impl Future<Output = News> + Send + 'static,
        lost: impl FnOnce() -> News + Send + 'static,
    ) {
        let sender = self.sender.clone();
        self.jobs.spawn(async move {
            let news = jobs::or_lost(job, lost).await;
            // The worker drops its jobs before its end of the queue.
            let _ = sender.send(news).await;
        });
    }

    fn uid(&self) -> String {
        self.pod.metadata.uid.clone().unwrap_or_default()
    }

    fn key(&self, container: &str, attempt: u32) -> ContainerKey {
        ContainerKey {
            pod_uid: self.uid(),
            namespace: self.pod.metadata.namespace.clone().unwrap_or_default(),
            pod: self.pod.metadata.name.clone().unwrap_or_default(),
            container: container.to_owned(),
            attempt,
        }
    }

    /// The container's specification; of a pod that is only a name, so are its containers.
    fn container(&self, name: &str) -> Container {
        let spec = self.pod.spec.iter();
        let mut all =
            spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        let found = all.find(|container| container.name == name).cloned();
        found.unwrap_or_else(|| Container { name: name.to_owned(), ..Container::default() })
    }

    fn prepare(&mut self) {
        let job = jobs::prepare(self.node.clone(), self.pod.clone());
        let failures = match self.state.ground {
            Ground::Failed { failures, .. } => failures,
            _ => 0,
        };
        self.failures.insert(String::new(), failures);
        self.state.ground = Ground::UnderWay;
        let lost = ("FailedCreatePodSandBox", jobs::PANICKED.to_owned());
        self.spawn(job, || News::Prepared(Err(lost)));
    }

    fn start(&mut self, name: &str, attempt: u32) {
        let Some(grounded) = self.grounded.clone() else { return };
        let record = self.state.containers.entry(name.to_owned()).or_default();
        let reason = if let Phase::Blocked(blocked) = &record.phase { blocked.reason } else { "" };
        if let Phase::Ended(end) = &record.phase {
            record.last_end = Some(end.clone());
        }
        record.attempt = attempt;
        record.phase = Phase::Starting { reason };
        let job = jobs::start(jobs::StartJob {
            node: self.node.clone(),
            pod: self.pod.clone(),
            container: self.container(name),
            key: self.key(name, attempt),
            grounded,
            desired: self.desired.clone(),
        });
        let container = name.to_owned();
        self.spawn(job, move || {
            let (reason, message) = ("CreateContainerError", jobs::PANICKED.to_owned());
            let result = Box::new(Err(StartFailed::Blocked { reason, message }));
            News::Started { container, attempt, result }
        });
    }

    fn stop(&mut self, name: &str, why: &StopReason) {
        let Some(running) = self.state.containers.get_mut(name).and_then(|r| r.running_mut())
        else {
            return;
        };
        running.stopping = true;
        let message = match why {
            StopReason::PodGoes | StopReason::PodEnded => format!("Stopping container {name}"),
            StopReason::Unhealthy(probe) => {
                format!("Container {name} failed {probe} probe, will be restarted")
            }
        };
        self.node.events.container(&self.pod, name, Severity::Normal, "Killing", message);
        let grace = self.grace_period();
        self.spawn_stop(name, grace);
    }

    fn spawn_stop(&mut self, name: &str, grace: Duration) {
        let Some(running) = self.state.containers.get(name).and_then(ContainerRecord::running)
        else {
            return;
        };
        self.grace = Some(self.grace.map_or(grace, |given| given.min(grace)));
        let target = self.target(name, &running.id);
        let node = self.node.clone();
        let jobs = self.runs.entry(name.to_owned()).or_default();
        if let Some(probes) = jobs.probes.take() {
            probes.abort();
        }
        if let Some((_, given)) = &jobs.stop {
            given.send_replace(grace);
            return;
        }
        let (give, given) = watch::channel(grace);
        let stop = self.jobs.spawn(async move {
            jobs::until_done(|| stop_container(&node, target.clone(), given.clone())).await;
        });
        jobs.stop = Some((stop, give));
    }

    fn target(&self, name: &str, id: &str) -> ProbeTarget {
        let address = self.grounded.as_ref().map(|grounded| probe_address(&grounded.sandbox));
        ProbeTarget {
            runtime: self.node.runtime.clone(),
            id: id.to_owned(),
            address: address.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into()),
            container: self.container(name),
        }
    }

    fn grace_period(&self) -> Duration {
        let seconds = |value: i64| Duration::from_secs(u64::try_from(value).unwrap_or(0));
        let spec = self.pod.spec.as_ref();
        let own =
            spec.and_then(|spec| spec.termination_grace_period_seconds).map_or(GRACE, seconds);
        match self.pod.metadata.deletion_grace_period_seconds {
            _ if self.removed => own.min(GRACE_REMOVED_MAX),
            Some(given) => seconds(given),
            None => own,
        }
    }

    fn on_desired(&mut self) {
        let Desired { pod, removed } = self.desired.borrow_and_update().clone();
        self.pod = pod;
        self.removed = removed;
        let grace = self.grace_period();
        if self.goal() == Goal::Go && self.grace.is_some_and(|given| grace < given) {
            let running: Vec<String> = self
                .state
                .containers
                .iter()
                .filter(|(_, record)| record.running().is_some_and(|running| running.stopping))
                .map(|(name, _)| name.clone())
                .collect();
            for name in running {
                self.spawn_stop(&name, grace);
            }
        }
        if let (Some(writer), Some(status)) = (&self.writer, &self.pod.status)
            && writer.last().is_some_and(|ours| was_overruled(ours, status))
        {
            writer.repeat();
        }
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Prepared(prepared) => self.on_prepared(prepared),
            News::Started { container, attempt, result } => {
                if self.is_current(&container, attempt) {
                    match *result {
                        Ok(started) => self.on_started(&container, started),
                        Err(failed) => self.on_start_failed(&container, failed),
                    }
                }
            }
            News::Ended { container, attempt, end } => {
                if self.is_current(&container, attempt) {
                    self.on_ended(&container, *end);
                }
            }
            News::Probe { container, attempt, report } => {
                if self.is_current(&container, attempt) {
                    self.on_probe(&container, report);
                }
            }
            News::Released(addresses) => self.state.ground = Ground::Released(addresses),
            News::TornDown => self.torn_down = true,
            News::Undone(before) => self.state.ground = before,
        }
    }

    fn is_current(&self, container: &str, attempt: u32) -> bool {
        self.state.containers.get(container).is_some_and(|record| record.attempt == attempt)
    }

    fn running_containers(&self) -> Vec<String> {
        let running = self.state.containers.iter().filter(|(_, record)| record.running().is_some());
        running.map(|(name, _)| name.clone()).collect()
    }

    fn on_prepared(&mut self, prepared: Prepared) {
        match prepared {
            Ok(grounded) => {
                self.state.ground = Ground::Ready(grounded.sandbox.clone());
                self.grounded = Some(*grounded);
                for name in self.running_containers() {
                    self.spawn_probes(&name);
                }
            }
            Err((reason, message)) => {
                self.node.events.pod(&self.pod, Severity::Warning, reason, message);
                let failures = self.failures.get("").copied().unwrap_or(0) + 1;
                let pause = Duration::from_secs(1) * (1 << (failures - 1).min(6));
                let retry_at = Timestamp::now() + pause.min(PREPARE_RETRY_MAX);
                self.state.ground = Ground::Failed { failures, retry_at };
            }
        }
    }

    fn on_started(&mut self, name: &str, started: Started) {
        let container = self.container(name);
        let begun = container.startup_probe.is_none();
        self.failures.remove(name);
        let Some(record) = self.state.containers.get_mut(name) else { return };
        record.image_id = started.image_id;
        record.phase = Phase::Running(Running {
            id: started.id.clone(),
            started_at: started.at,
            started: begun,
            ready: begun && container.readiness_probe.is_none(),
            unhealthy: None,
            stopping: false,
        });
        self.spawn_wait(name);
        self.spawn_probes(name);
        if let Some(hook) = container.lifecycle.and_then(|lifecycle| lifecycle.post_start) {
            let target = self.target(name, &started.id);
            let job = jobs::post_start(self.node.clone(), self.pod.clone(), target, hook);
            self.jobs.spawn(job);
        }
    }

    fn spawn_wait(&mut self, name: &str) {
        let Some(record) = self.state.containers.get(name) else { return };
        let Some(running) = record.running() else { return };
        let job = jobs::WaitJob {
            node: self.node.clone(),
            id: running.id.clone(),
            key: self.key(name, record.attempt),
            container: self.container(name),
            started_at: running.started_at,
            news: self.sender.clone(),
        };
        self.jobs.spawn(async move { jobs::until_done(|| jobs::wait(job.clone())).await });
    }

    fn spawn_probes(&mut self, name: &str) {
        let Some(record) = self.state.containers.get(name) else { return };
        let Some(running) = record.running() else { return };
        let target = self.target(name, &running.id);
        if !has_probes(&target.container) || running.stopping {
            return;
        }
        let (attempt, started) = (record.attempt, running.started);
        let sender = self.sender.clone();
        let probes = self.jobs.spawn(async move {
            let probe = || jobs::probe(target.clone(), started, attempt, sender.clone());
            jobs::until_done(probe).await;
        });
        if let Some(old) = self.runs.entry(name.to_owned()).or_default().probes.replace(probes) {
            old.abort();
        }
    }

    fn on_start_failed(&mut self, name: &str, failed: StartFailed) {
        let now = Timestamp::now();
        match failed {
            StartFailed::Blocked { reason, message } => {
                let failures = self.failures.entry(name.to_owned()).or_default();
                *failures += 1;
                let failures = *failures;
                let image = self.container(name).image.unwrap_or_default();
                let (reason, message) = if reason == "ErrImagePull" && failures > 1 {
                    let text = format!("Back-off pulling image \"{image}\"");
                    let events = &self.node.events;
                    events.container(&self.pod, name, Severity::Normal, "BackOff", text.clone());
                    ("ImagePullBackOff", format!("{text}: {reason}: {message}"))
                } else {
                    (reason, message)
                };
                if reason.starts_with("CreateContainer") {
                    let text = format!("Error: {message}");
                    self.node.events.container(&self.pod, name, Severity::Warning, "Failed", text);
                }
                let retry_at = now + retry_delay(failures);
                if let Some(record) = self.state.containers.get_mut(name) {
                    record.phase = Phase::Blocked(Blocked { reason, message, failures, retry_at });
                }
            }
            StartFailed::Crashed { id, image_id, message } => {
                if let Some(record) = self.state.containers.get_mut(name) {
                    record.image_id = image_id;
                }
                let end = End {
                    id,
                    code: 128,
                    reason: "StartError".to_owned(),
                    message,
                    started_at: None,
                    finished_at: now,
                };
                self.on_ended(name, end);
            }
        }
    }

    fn on_ended(&mut self, name: &str, end: End) {
        if let Some(jobs) = self.runs.remove(name) {
            let stop = jobs.stop.as_ref().map(|(stop, _)| stop);
            jobs.probes.iter().chain(stop).for_each(AbortHandle::abort);
        }
        let container = self.container(name);
        let Some(record) = self.state.containers.get_mut(name) else { return };
        let ran_for = end.started_at.map_or(Duration::ZERO, |started| {
            Duration::try_from(end.finished_at.duration_since(started)).unwrap_or_default()
        });
        record.ends = ends_after(record.ends, ran_for);
        let delay = restart_delay(record.ends);
        record.phase = Phase::Ended(end);
        if !delay.is_zero() && self.goal() == Goal::Run {
            let text = back_off_message(&container, &self.pod, delay);
            let text = text.replacen("back-off", "Back-off", 1);
            self.node.events.container(&self.pod, name, Severity::Warning, "BackOff", text);
        }
    }

    fn on_probe(&mut self, name: &str, report: ProbeReport) {
        if let ProbeReport::Failure(kind, message) = &report {
            let text = format!("{} probe failed: {message}", kind.name());
            self.node.events.container(&self.pod, name, Severity::Warning, "Unhealthy", text);
        }
        let waits_for_probe = self.container(name).readiness_probe.is_some();
        let record = self.state.containers.get_mut(name);
        let Some(running) = record.and_then(ContainerRecord::running_mut) else { return };
        match report {
            ProbeReport::Passed(ProbeKind::Startup) => {
                running.started = true;
                running.ready |= !waits_for_probe;
            }
            ProbeReport::Passed(ProbeKind::Readiness) => running.ready = true,
            ProbeReport::GaveUp(ProbeKind::Readiness, _) => running.ready = false,
            ProbeReport::GaveUp(kind, _) => {
                running.unhealthy = Some(kind.name().to_ascii_lowercase());
            }
            ProbeReport::Passed(ProbeKind::Liveness) | ProbeReport::Failure(..) => {}
        }
    }

    /// Containers that an earlier agent started are waited for from the first moment.
    fn watch_adopted(&mut self) {
        for name in self.running_containers() {
            self.settle_probeless(&name);
            self.spawn_wait(&name);
        }
    }

    /// A container without probes is started and ready by running; the API may not know yet.
    fn settle_probeless(&mut self, name: &str) {
        let container = self.container(name);
        let record = self.state.containers.get_mut(name);
        let Some(running) = record.and_then(ContainerRecord::running_mut) else { return };
        running.started |= container.startup_probe.is_none();
        running.ready |= running.started && container.readiness_probe.is_none();
    }

    fn tell(&mut self, outcome: Option<Outcome>) {
        let records = self.state.containers.iter();
        let view: LogView =
            records.map(|(name, record)| (name.clone(), record.log_state())).collect();
        self.logs.send_if_modified(|old| {
            let changed = *old != view;
            *old = view;
            changed
        });
        let unknown = matches!(self.state.ground, Ground::Absent | Ground::UnderWay);
        let going = self.goal() == Goal::Go;
        if self.removed || (self.adopted && unknown) || (going && unknown) {
            return;
        }
        self.adopted = false;
        let Some(writer) = &mut self.writer else { return };
        let status = pod_status(
            StatusContext {
                pod: &self.pod,
                outcome,
                node_ips: self.node.config.node_ips,
                previous: writer.last(),
                now: Timestamp::now(),
            },
            &self.state,
        );
        writer.set(status);
    }
}

/// Somebody changed the pod's readiness over what the agent had written: the containers in the
/// API are those that were written, the condition is not.
fn was_overruled(ours: &PodStatus, api: &PodStatus) -> bool {
    let facts = |status: &PodStatus| -> Vec<_> {
        let containers = status.container_statuses.iter().flatten();
        containers
            .map(|one| (one.name.clone(), one.container_id.clone(), one.ready, one.restart_count))
            .collect()
    };
    facts(ours) == facts(api) && condition_status(ours, "Ready") != condition_status(api, "Ready")
}

async fn until(at: Option<Timestamp>) {
    let Some(at) = at else { return std::future::pending().await };
    let left = at.duration_since(Timestamp::now());
    tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
}
