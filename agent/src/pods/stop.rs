//! Stopping containers, and taking a pod's remains off the node.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Node;
use super::images::PullPolicy;
use super::probes::{ProbeTarget, http_get};
use crate::network::is_pod_uid;
use crate::runtime::ExecOutcome;

/// A hook may outlast the grace period by this much, as the API documents.
const AFTER_HOOK: Duration = Duration::from_secs(2);
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// How long a killed process may take to be gone before it is killed again.
const KILL_AGAIN: Duration = Duration::from_secs(5);

/// How long a container may take to end. The time given may become shorter while it runs.
struct Grace {
    given: watch::Receiver<Duration>,
    over_at: Instant,
}

impl Grace {
    fn new(mut given: watch::Receiver<Duration>) -> Self {
        let over_at = Instant::now() + *given.borrow_and_update();
        Self { given, over_at }
    }

    fn is_none(&self) -> bool {
        self.given.borrow().is_zero()
    }

    /// Waits for the end; a new grace counts from when it is given.
    async fn over(&mut self) {
        loop {
            let changed = tokio::select! {
                () = sleep_until(self.over_at) => return,
                changed = self.given.changed() => changed,
            };
            if changed.is_err() {
                return sleep_until(self.over_at).await;
            }
            self.over_at = Instant::now() + *self.given.borrow_and_update();
        }
    }
}

/// Runs the container's preStop hook, once, asks the container to stop, and kills it when the grace
/// is over. Returns never: the caller drops it when the process has ended.
pub(super) async fn stop_container(
    node: &Node,
    target: ProbeTarget,
    given: watch::Receiver<Duration>,
) {
    let container = &target.container;
    let mut grace = Grace::new(given);
    let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let (Some(hook), false) = (hook, grace.is_none()) {
        let limit = grace.over_at.duration_since(Instant::now());
        let ran = tokio::select! {
            ran = run_hook(node, hook, &target, limit) => ran,
            () = grace.over() => Err("it took longer than the grace period".to_owned()),
        };
        if let Err(error) = ran {
            tracing::info!(container = target.id, error, "preStop hook failed");
        }
        grace.over_at = grace.over_at.max(Instant::now() + AFTER_HOOK);
    }
    if !grace.is_none() {
        kill(node, &target.id, stop_signal(node, container).await, false).await;
        grace.over().await;
    }
    loop {
        kill(node, &target.id, SIGKILL, true).await;
        sleep(KILL_AGAIN).await;
    }
}

async fn kill(node: &Node, id: &str, signal: i32, all: bool) {
    if let Err(error) = node.runtime.kill(id, signal, all).await {
        tracing::warn!(container = id, signal, %error, "signal is not delivered");
    }
}

/// Runs a lifecycle hook of a container.
pub(super) async fn run_hook(
    node: &Node,
    hook: &LifecycleHandler,
    target: &ProbeTarget,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        return match node.runtime.exec(&target.id, command, limit).await {
            Ok(ExecOutcome::Exited(0)) => Ok(()),
            Ok(ExecOutcome::Exited(code)) => Err(format!("the command exited with status {code}")),
            Ok(ExecOutcome::TimedOut) => Err(format!("the command took more than {limit:?}")),
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(http) = &hook.http_get {
        let late = |_| Err(format!("the request took more than {limit:?}"));
        return timeout(limit, http_get(target, http)).await.unwrap_or_else(late);
    }
    if let Some(pause) = &hook.sleep {
        sleep(Duration::from_secs(u64::try_from(pause.seconds).unwrap_or(0))).await;
    }
    Ok(())
}

/// The signal that the image asks for.
async fn stop_signal(node: &Node, container: &Container) -> i32 {
    let image = container.image.as_deref().unwrap_or_default();
    let image = node.images.resolve(image, PullPolicy::Never, || {}).await;
    let named = image.ok().and_then(|(image, _)| image.config.stop_signal.clone());
    named.and_then(|name| signal_number(&name)).unwrap_or(SIGTERM)
}

fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return (1..65).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

/// Removes containers, network, volumes, logs and cgroups of a pod. Goes on past errors and
/// returns them all; it can be called again.
pub(super) async fn tear_down(node: &Node, pod: &Pod) -> Result<(), Vec<String>> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if !is_pod_uid(uid) {
        // It would name a directory of more than one pod. Nothing was ever made for it.
        return Ok(());
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    match node.runtime.containers().await {
        Ok(containers) => {
            let own: Vec<_> = containers.iter().filter(|found| found.key.pod_uid == uid).collect();
            let removals = own.iter().map(|found| node.runtime.remove(&found.id));
            for removed in futures::future::join_all(removals).await {
                errors.extend(removed.err().map(|error| error.to_string()));
            }
        }
        Err(error) => errors.push(error.to_string()),
    }
    errors.extend(node.network.tear_down(uid).await.err());
    if !errors.is_empty() {
        // Volumes and cgroups are in use as long as containers may be.
        return Err(errors);
    }
    // Before the files: an agent that ends meanwhile leaves no group that nobody looks for.
    if let Err(error) = node.cgroups.remove_pod(uid) {
        errors.push(format!("cgroups: {error}"));
    }
    let (dir, logs) = (node.pod_dir(uid), node.logs.clone());
    let [namespace, name, own] = [namespace, name, uid].map(str::to_owned);
    // A volume may hold a million files.
    let removing = tokio::task::spawn_blocking(move || {
        let removed = match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Some(format!("{}: {error}", dir.display()))
            }
            _ => None,
        };
        let forgotten = logs.remove_pod(&namespace, &name, &own);
        removed.into_iter().chain(forgotten.err().map(|error| format!("logs: {error}"))).collect()
    });
    let failed: Vec<String> = removing.await.unwrap_or_else(|error| vec![error.to_string()]);
    errors.extend(failed);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (name, expected) in [
            ("SIGQUIT", Some(3)),
            ("quit", Some(3)),
            ("SIGTERM", Some(15)),
            ("15", Some(15)),
            ("0", None),
            ("SIGNONE", None),
        ] {
            assert_eq!(signal_number(name), expected, "{name}");
        }
    }
}
