//! Node registration, heartbeat and status.
//!
//! Guarantees: the Node object is there while the agent runs, also after somebody deleted it; its
//! status is written when it changes, when the API says something else, and every five minutes.
//! What an earlier agent said stands until this one knows better: a node that is unready for a
//! moment loses its pods. The Lease is renewed by a task that waits for nothing else. A request
//! that does not come back is given up, so that a network that was cut is used again as soon as it
//! is whole.

mod facts;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, interval_at, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{AGENT_PORT, Config},
    network::Addresses,
    watch::Watched,
};
pub(crate) use facts::Facts;

/// Where the nodes' leases are.
const LEASES: &str = "kube-node-lease";

/// How often the status is written although nothing changed.
const STATUS_INTERVAL: Duration = Duration::from_secs(300);

/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// How long a node that the API has may be left as it is described there while this agent does not
/// know yet how it is.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(10);

/// The pause after a request that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// The version that `kubectl get nodes` shows: the API that is spoken, and whose it is.
const VERSION: &str = concat!("v1.36.0+bowline.", env!("CARGO_PKG_VERSION"));

/// What is wrong with the node, if anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    /// The container runtime: its version, or what is wrong with it.
    pub(crate) runtime: Result<String, String>,
    /// The pod network, or what is wrong with it.
    pub(crate) network: Result<(), String>,
}

impl Health {
    /// Nothing is known to work yet.
    pub(crate) fn unknown() -> Self {
        Self {
            runtime: Err("container runtime status is not known yet".to_owned()),
            network: Err("the pod network is not set up yet".to_owned()),
        }
    }

    /// Whether each part was looked at.
    fn is_known(&self) -> bool {
        let unknown = Self::unknown();
        self.runtime != unknown.runtime && self.network != unknown.network
    }
}

/// A request about the node did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportFailed {
    #[error("{act}: {source}")]
    Api { act: &'static str, source: Box<kube::Error> },
    #[error("{act}: no answer within {} s", REQUEST_LIMIT.as_secs())]
    TimedOut { act: &'static str },
}

/// Everything that is said about the node.
pub(crate) struct Reporter {
    client: Client,
    node_name: String,
    addresses: Addresses,
    lease_interval: Duration,
    facts: Facts,
    watched: Arc<Watched>,
    health: watch::Receiver<Health>,
}

impl Reporter {
    pub(crate) fn new(
        config: &Config,
        client: Client,
        addresses: Addresses,
        facts: Facts,
        watched: Arc<Watched>,
        health: watch::Receiver<Health>,
    ) -> Self {
        Self {
            client,
            node_name: config.node_name.clone(),
            addresses,
            lease_interval: config.lease_renew_interval,
            facts,
            watched,
            health,
        }
    }

    /// Keeps the Node object and its status right until `shutdown`.
    pub(crate) async fn report(&self, shutdown: CancellationToken) {
        let mut health = self.health.clone();
        if self.watched.nodes.get("", &self.node_name).is_some() {
            let known = timeout(UNKNOWN_LIMIT, health.wait_for(Health::is_known));
            if shutdown.run_until_cancelled(known).await.is_none() {
                return;
            }
        }
        let mut nodes = self.watched.nodes.changes();
        let mut tick = interval_at(Instant::now() + STATUS_INTERVAL, STATUS_INTERVAL);
        let mut transitions = Transitions::default();
        let mut failing = false;
        loop {
            health.mark_unchanged();
            nodes.mark_unchanged();
            let conditions = transitions.conditions(&health.borrow(), Timestamp::now());
            let done = self.write(&conditions).await;
            if let Err(error) = &done
                && !failing
            {
                tracing::warn!(%error, "the node's status is not written, retrying");
            }
            failing = done.is_err();
            if failing {
                if shutdown.run_until_cancelled(sleep(PAUSE)).await.is_none() {
                    return;
                }
                continue;
            }
            let ready = status_of(&conditions, "Ready");
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = health.changed() => {}
                () = self.contradicted(&mut nodes, &ready) => {}
                _ = tick.tick() => {}
            }
        }
    }

    /// Waits until the API says something about the node that is not what was reported. Does not
    /// come back at once, so that two who disagree do not write in circles.
    async fn contradicted(&self, nodes: &mut watch::Receiver<u64>, ready: &str) {
        loop {
            if nodes.changed().await.is_err() {
                return std::future::pending().await;
            }
            let agrees = self.watched.nodes.get("", &self.node_name).is_some_and(|node| {
                let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
                let condition = conditions.and_then(|all| all.iter().find(|c| c.type_ == "Ready"));
                condition.is_some_and(|condition| condition.status == ready)
            });
            if !agrees {
                return sleep(PAUSE).await;
            }
        }
    }

    async fn write(&self, conditions: &[Value]) -> Result<(), ReportFailed> {
        let nodes = Api::<Node>::all(self.client.clone());
        let status = json!({ "status": self.status(conditions) });
        // Strategic: conditions that others keep stay as they are.
        let patch = Patch::Strategic(&status);
        let params = PatchParams::default();
        let act = "writing the node's status";
        let patched = limited(act, nodes.patch_status(&self.node_name, &params, &patch)).await;
        match patched {
            Err(ReportFailed::Api { source, .. }) if is_missing(&source) => {}
            other => return other.map(drop),
        }
        self.register(&nodes).await?;
        limited(act, nodes.patch_status(&self.node_name, &params, &patch)).await.map(drop)
    }

    /// Makes the Node object.
    async fn register(&self, nodes: &Api<Node>) -> Result<(), ReportFailed> {
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": self.node_name, "labels": self.labels() },
        });
        let act = "making the node";
        let node: Node = serde_json::from_value(node).map_err(|error| ReportFailed::Api {
            act,
            source: Box::new(kube::Error::SerdeError(error)),
        })?;
        match limited(act, nodes.create(&PostParams::default(), &node)).await {
            Ok(_) => {
                tracing::info!(node = self.node_name, "registered");
                Ok(())
            }
            Err(ReportFailed::Api { source, .. }) if has_code(&source, 409) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives a Node object that is there already the labels of this one.
    pub(crate) async fn label(&self) -> Result<(), ReportFailed> {
        let nodes = Api::<Node>::all(self.client.clone());
        let labels = json!({ "metadata": { "labels": self.labels() } });
        let (params, patch) = (PatchParams::default(), Patch::Merge(&labels));
        let patched = limited("labelling the node", nodes.patch(&self.node_name, &params, &patch));
        match patched.await {
            Err(ReportFailed::Api { source, .. }) if is_missing(&source) => {
                self.register(&nodes).await
            }
            other => other.map(drop),
        }
    }

    fn labels(&self) -> BTreeMap<&'static str, &str> {
        [
            ("kubernetes.io/hostname", self.node_name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture()),
        ]
        .into()
    }

    fn status(&self, conditions: &[Value]) -> Value {
        let facts = &self.facts;
        let internal = self.addresses.iter().map(|address| ("InternalIP", address.to_string()));
        let addresses: Vec<Value> = internal
            .chain([("Hostname", self.node_name.clone())])
            .map(|(kind, address)| json!({ "type": kind, "address": address }))
            // They merge by type, of which there may be two addresses.
            .chain([json!({ "$patch": "replace" })])
            .collect();
        let runtime = self.health.borrow().runtime.clone().unwrap_or_default();
        let resources = json!({
            "cpu": facts.cpu,
            "memory": facts.memory,
            "ephemeral-storage": facts.storage,
            "pods": facts.pods.to_string(),
        });
        json!({
            "addresses": addresses,
            "capacity": resources,
            "allocatable": resources,
            "conditions": conditions,
            "daemonEndpoints": { "kubeletEndpoint": { "Port": AGENT_PORT } },
            "nodeInfo": {
                "architecture": architecture(),
                "bootID": facts.boot_id,
                "containerRuntimeVersion": runtime,
                "kernelVersion": facts.kernel,
                "kubeProxyVersion": "",
                "kubeletVersion": VERSION,
                "machineID": facts.machine_id,
                "operatingSystem": "linux",
                "osImage": facts.os_image,
                "systemUUID": facts.system_uuid,
            },
        })
    }

    /// Renews the node's lease until `shutdown`.
    pub(crate) async fn heartbeat(&self, shutdown: CancellationToken) {
        let leases = Api::<Lease>::namespaced(self.client.clone(), LEASES);
        let mut tick = interval(self.lease_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            if shutdown.run_until_cancelled(tick.tick()).await.is_none() {
                return;
            }
            let renewed = self.renew(&leases).await;
            if let Err(error) = &renewed
                && !failing
            {
                tracing::warn!(%error, "the node's lease is not renewed, retrying");
            }
            failing = renewed.is_err();
        }
    }

    async fn renew(&self, leases: &Api<Lease>) -> Result<(), ReportFailed> {
        let spec = json!({
            "holderIdentity": self.node_name,
            "leaseDurationSeconds": self.lease_interval.as_secs().max(1) * 4,
            "renewTime": format!("{:.6}", Timestamp::now()),
        });
        let params = PatchParams::default();
        let body = json!({ "spec": spec });
        let act = "renewing the node's lease";
        let patch = Patch::Merge(&body);
        let patched = limited(act, leases.patch(&self.node_name, &params, &patch));
        match patched.await {
            Err(ReportFailed::Api { source, .. }) if is_missing(&source) => {}
            other => return other.map(drop),
        }
        let mut metadata = json!({ "name": self.node_name, "namespace": LEASES });
        // With its node as the owner, the lease goes when the node does.
        if let Some(uid) = self.watched.nodes.get("", &self.node_name).and_then(|node| node.uid()) {
            metadata["ownerReferences"] = json!([
                { "apiVersion": "v1", "kind": "Node", "name": self.node_name, "uid": uid }
            ]);
        }
        let lease = json!({ "metadata": metadata, "spec": spec });
        let lease: Lease = serde_json::from_value(lease).map_err(|error| ReportFailed::Api {
            act,
            source: Box::new(kube::Error::SerdeError(error)),
        })?;
        limited(act, leases.create(&PostParams::default(), &lease)).await.map(drop)
    }
}

async fn limited<T>(
    act: &'static str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, ReportFailed> {
    match timeout(REQUEST_LIMIT, request).await {
        Ok(answer) => answer.map_err(|error| ReportFailed::Api { act, source: Box::new(error) }),
        Err(_) => Err(ReportFailed::TimedOut { act }),
    }
}

fn is_missing(error: &kube::Error) -> bool {
    has_code(error, 404)
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

fn status_of(conditions: &[Value], wanted: &str) -> String {
    let condition = conditions.iter().find(|condition| condition["type"] == wanted);
    condition.and_then(|c| c["status"].as_str()).unwrap_or_default().to_owned()
}

/// The name that Kubernetes has for this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Since when each condition has had its status.
#[derive(Debug, Default)]
struct Transitions(BTreeMap<&'static str, (&'static str, Timestamp)>);

impl Transitions {
    /// The node's conditions.
    fn conditions(&mut self, health: &Health, now: Timestamp) -> Vec<Value> {
        let troubles: Vec<&str> = [health.runtime.as_ref().err(), health.network.as_ref().err()]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let ready = if troubles.is_empty() {
            ("Ready", "True", "AgentReady", "the agent is ready for pods".to_owned())
        } else {
            ("Ready", "False", "AgentNotReady", troubles.join("; "))
        };
        let pressure = |kind, reason, what: &str| {
            (kind, "False", reason, format!("the agent has enough {what} available"))
        };
        [
            pressure("MemoryPressure", "AgentHasSufficientMemory", "memory"),
            pressure("DiskPressure", "AgentHasNoDiskPressure", "disk space"),
            pressure("PIDPressure", "AgentHasSufficientPID", "process numbers"),
            ready,
        ]
        .into_iter()
        .map(|(kind, status, reason, message)| {
            let since = self.0.entry(kind).or_insert((status, now));
            if since.0 != status {
                *since = (status, now);
            }
            json!({
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": format!("{now:.0}"),
                "lastTransitionTime": format!("{:.0}", since.1),
            })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_is_wrong_and_since_when() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut transitions = Transitions::default();
        let well = Health { runtime: Ok("containerd://1.6.20".to_owned()), network: Ok(()) };
        let network_only = Health { network: Ok(()), ..Health::unknown() };
        assert!(well.is_known() && !network_only.is_known() && !Health::unknown().is_known());
        let first = transitions.conditions(&Health::unknown(), at(100));
        assert_eq!(status_of(&first, "Ready"), "False");
        let ready = |conditions: &[Value]| {
            let found = conditions.iter().find(|condition| condition["type"] == "Ready");
            found.cloned().unwrap()
        };
        let message = ready(&first)["message"].as_str().unwrap().to_owned();
        assert!(message.contains("runtime") && message.contains("network"), "{message}");

        transitions.conditions(&well, at(110));
        let later = transitions.conditions(&well, at(120));
        assert_eq!(status_of(&later, "Ready"), "True");
        assert_eq!(ready(&later)["lastTransitionTime"], "1970-01-01T00:01:50Z");
        assert_eq!(ready(&later)["lastHeartbeatTime"], "1970-01-01T00:02:00Z");
        assert_eq!(status_of(&later, "MemoryPressure"), "False");
    }
}
