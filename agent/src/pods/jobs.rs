//! What a pod's worker has done for it: everything that takes time.
//!
//! A job ends with one [`News`]. Jobs are dropped with the worker: a dropped job leaves at most an
//! operation half done, which the same operation, called again, completes. One that panics is told
//! as failed, or runs again: no pod waits for a job that is gone.

use std::fs::File;
use std::io::Read as _;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::Node;
use super::env::ConfigSource;
use super::events::Severity;
use super::files::{hostname, write_files};
use super::log_times::{keep_log, note_growth};
use super::probes::{ProbeReport, ProbeTarget, run_probes};
use super::start::{Grounded, StartFailed, Started, start_container, termination_path};
use super::state::{End, Ground};
use super::stop::{run_hook, tear_down};
use super::volumes::provide_volumes;
use super::worker::Desired;
use super::writer::delete_from_api;
use crate::network::{Addresses, PodIdentity};
use crate::runtime::{ContainerKey, Ended, Exit, RuntimeCallFailed};

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);
const AFTER_PANIC: Duration = Duration::from_secs(1);
/// How long a postStart hook may take.
const POST_START_LIMIT: Duration = Duration::from_secs(60);
const MESSAGE_BYTES_MAX: u64 = 4096;
const MESSAGE_LOG_LINES: u64 = 80;
const MESSAGE_LOG_BYTES: u64 = 2048;
/// What a shell reports for a process that was killed.
const KILLED: i32 = 137;

/// The pod's ground, or an event's reason and message.
pub(super) type Prepared = Result<Box<Grounded>, (&'static str, String)>;

/// What jobs have to say to the worker.
pub(super) enum News {
    Prepared(Prepared),
    Started {
        container: String,
        attempt: u32,
        result: Box<Result<Started, StartFailed>>,
    },
    Ended {
        container: String,
        attempt: u32,
        end: Box<End>,
    },
    Probe {
        container: String,
        attempt: u32,
        report: ProbeReport,
    },
    Released(Option<Addresses>),
    TornDown,
    /// A release or removal ended for a fault of the agent's own; this is the ground before it.
    Undone(Ground),
}

/// What is told of a job that panicked.
pub(super) const PANICKED: &str =
    "the agent made a mistake (a panic); its log says where, and it tries again";

/// The job's news; those of `lost`, after a pause, if it panics.
pub(super) async fn or_lost(job: impl Future<Output = News>, lost: impl FnOnce() -> News) -> News {
    match AssertUnwindSafe(job).catch_unwind().await {
        Ok(news) => news,
        Err(_) => {
            tracing::error!("a pod's job panicked; it is tried again");
            sleep(AFTER_PANIC).await;
            lost()
        }
    }
}

/// Runs a job that has no news of its own, again for as long as it panics.
pub(super) async fn until_done<F: Future<Output = ()>>(job: impl Fn() -> F) {
    while AssertUnwindSafe(async { job().await }).catch_unwind().await.is_err() {
        tracing::error!("a pod's job panicked; it is tried again");
        sleep(AFTER_PANIC).await;
    }
}

pub(super) async fn prepare(node: Arc<Node>, pod: Arc<Pod>) -> News {
    News::Prepared(prepare_ground(&node, &pod).await.map(Box::new))
}

async fn prepare_ground(node: &Node, pod: &Pod) -> Result<Grounded, (&'static str, String)> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let dir = node.pod_dir(&uid);
    let source = ConfigSource::new(node.client.clone(), &namespace);
    let identity = PodIdentity {
        uid,
        namespace,
        name: pod.metadata.name.clone().unwrap_or_default(),
        hostname: hostname(pod),
        host_network: pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)),
    };
    let volumes_dir = dir.join("volumes");
    let (sandbox, volumes) =
        tokio::join!(node.network.set_up(&identity), provide_volumes(pod, &volumes_dir, &source),);
    let sandbox = sandbox.map_err(|error| {
        ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"))
    })?;
    let volumes =
        volumes.map_err(|error| ("FailedMount", format!("MountVolume.SetUp failed: {error}")))?;
    let files = write_files(&dir.join("etc"), pod, sandbox.addresses, &node.config.dns)
        .map_err(|error| ("FailedMount", format!("writing the pod's files: {error}")))?;
    Ok(Grounded { sandbox, volumes, files })
}

/// Everything that a start needs to own.
pub(super) struct StartJob {
    pub(super) node: Arc<Node>,
    pub(super) pod: Arc<Pod>,
    pub(super) container: Container,
    pub(super) key: ContainerKey,
    pub(super) grounded: Grounded,
    pub(super) desired: watch::Receiver<Desired>,
}

pub(super) async fn start(mut job: StartJob) -> News {
    let (container, attempt) = (job.key.container.clone(), job.key.attempt);
    let node = job.node.clone();
    let started = start_container(&node, &job.pod, &job.container, job.key.clone(), &job.grounded);
    // A pull may take minutes; a pod that goes does not wait for it.
    let gone = job
        .desired
        .wait_for(|desired| desired.removed || desired.pod.metadata.deletion_timestamp.is_some());
    let result = tokio::select! {
        biased;
        result = started => result,
        _ = gone => Err(StartFailed::Blocked {
            reason: "ContainerCreating",
            message: "the pod is being deleted".to_owned(),
        }),
    };
    if matches!(result, Err(StartFailed::Blocked { .. })) {
        // The root file system, above all.
        if let Err(error) = node.runtime.remove(&job.key.id()).await {
            tracing::warn!(%container, %error, "remains of a start that did not happen are left");
        }
    }
    if result.is_ok()
        && let Some(attempt) = attempt.checked_sub(2)
    {
        let old = ContainerKey { attempt, ..job.key };
        if let Err(error) = node.runtime.remove(&old.id()).await {
            tracing::warn!(%container, %error, "the record of an old run is left");
        }
    }
    News::Started { container, attempt, result: Box::new(result) }
}

/// Everything that waiting for an end needs to own.
#[derive(Clone)]
pub(super) struct WaitJob {
    pub(super) node: Arc<Node>,
    pub(super) id: String,
    pub(super) key: ContainerKey,
    pub(super) container: Container,
    pub(super) started_at: Timestamp,
    pub(super) news: mpsc::Sender<News>,
}

/// Waits for the process's end, tells, and then frees what the process held.
pub(super) async fn wait(job: WaitJob) {
    let log = job.node.logs.path(&job.key);
    let (exit, known) = tokio::select! {
        exit = wait_for_exit(&job.node, &job.id) => exit,
        () = keep_log(log.clone()) => return,
    };
    let reason = if !known {
        "ContainerStatusUnknown"
    } else if exit.code != 0 && job.node.cgroups.ran_out_of_memory(&job.key.pod_uid, &job.id) {
        "OOMKilled"
    } else if exit.code == 0 {
        "Completed"
    } else {
        "Error"
    };
    let end = End {
        id: job.id.clone(),
        code: exit.code,
        reason: reason.to_owned(),
        message: last_words(&job, exit.code),
        started_at: Some(job.started_at),
        finished_at: exit.at,
    };
    let ended = Ended {
        code: end.code,
        reason: end.reason.clone(),
        message: end.message.clone(),
        started_at: end.started_at,
        finished_at: end.finished_at,
    };
    let news = News::Ended {
        container: job.key.container.clone(),
        attempt: job.key.attempt,
        end: Box::new(end),
    };
    let _ = job.news.send(news).await;
    // The last lines' time; an empty or missing log has none.
    let _ = note_growth(&log, 0);
    match job.node.runtime.settle(&job.id, &ended).await {
        Ok(()) | Err(RuntimeCallFailed::NotFound(_)) => {}
        Err(error) => tracing::warn!(container = job.id, %error, "an ended container is not freed"),
    }
}

/// The exit, and whether the runtime knew it.
async fn wait_for_exit(node: &Node, id: &str) -> (Exit, bool) {
    let mut pause = RETRY_FIRST;
    loop {
        match node.runtime.wait(id).await {
            Ok(exit) => return (exit, true),
            Err(RuntimeCallFailed::NotFound(_)) => {
                return (Exit { code: KILLED, at: Timestamp::now() }, false);
            }
            Err(error) => {
                tracing::warn!(container = id, %error, "waiting for a container; trying again");
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

/// What the container wrote to its termination file, or the end of its log when it asks for that.
fn last_words(job: &WaitJob, code: i32) -> String {
    let text = beginning_of(&termination_path(&job.node, &job.key)).unwrap_or_default();
    let policy = job.container.termination_message_policy.as_deref();
    if !text.is_empty() || code == 0 || policy != Some("FallbackToLogsOnError") {
        return text;
    }
    job.node.logs.tail(&job.key, MESSAGE_LOG_LINES, MESSAGE_LOG_BYTES).unwrap_or_default()
}

/// A container may write as much as it likes to its termination file.
fn beginning_of(file: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    File::open(file)?.take(MESSAGE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) async fn probe(
    target: ProbeTarget,
    started: bool,
    attempt: u32,
    news: mpsc::Sender<News>,
) {
    let (sender, mut reports) = mpsc::channel(8);
    let container = target.container.name.clone();
    let forward = async {
        while let Some(report) = reports.recv().await {
            let news_item = News::Probe { container: container.clone(), attempt, report };
            if news.send(news_item).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(run_probes(target, started, sender), forward);
}

/// Runs the hook beside the container. Unlike in the API's description the container counts as
/// running meanwhile; a hook that fails is told by an event.
pub(super) async fn post_start(
    node: Arc<Node>,
    pod: Arc<Pod>,
    target: ProbeTarget,
    hook: LifecycleHandler,
) {
    if let Err(error) = run_hook(&node, &hook, &target, POST_START_LIMIT).await {
        let name = &target.container.name;
        let message = format!("PostStartHook failed: {error}");
        node.events.container(&pod, name, Severity::Warning, "FailedPostStartHook", message);
    }
}

pub(super) async fn release(node: Arc<Node>, uid: String, addresses: Option<Addresses>) -> News {
    let mut pause = RETRY_FIRST;
    while let Err(error) = node.network.tear_down(&uid).await {
        tracing::warn!(pod = uid, error, "the network of an ended pod is not given back yet");
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
    News::Released(addresses)
}

/// Takes the pod off the node and then, unless it is gone from there, out of the API.
pub(super) async fn remove(
    node: Arc<Node>,
    pod: Arc<Pod>,
    desired: watch::Receiver<Desired>,
) -> News {
    let mut pause = RETRY_FIRST;
    while let Err(errors) = tear_down(&node, &pod).await {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        tracing::warn!(pod = name, errors = errors.join("; "), "pod is not removed yet");
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
    let removed = desired.borrow().removed;
    if !removed {
        delete_from_api(node.client.clone(), &pod).await;
    }
    News::TornDown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_cut_before_they_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web-0");
        // Larger than any memory, and no block of it on the disk.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(beginning_of(&path).unwrap().len() as u64, MESSAGE_BYTES_MAX);
        std::fs::write(&path, "short").unwrap();
        assert_eq!(beginning_of(&path).unwrap(), "short");
    }
}
