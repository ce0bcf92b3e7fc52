//! A client of the API, with the waits that tests need.

use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde::de::DeserializeOwned;

const NAMESPACE: &str = "default";
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// A client from a kubeconfig file.
pub async fn connect(file: &Path) -> Result<kube::Client> {
    // The second caller of a process finds it installed.
    drop(rustls::crypto::ring::default_provider().install_default());
    let kubeconfig = Kubeconfig::read_from(file)?;
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    // The server is on loopback, whatever the environment says about proxies.
    config.proxy_url = None;
    Ok(kube::Client::try_from(config)?)
}

/// The API, mostly of namespace `default`.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
}

impl Api {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// The client itself.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// Objects of a namespaced kind in `default`.
    pub fn of<K>(&self) -> kube::Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        kube::Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Objects of a kind without namespaces.
    pub fn of_cluster<K>(&self) -> kube::Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::ClusterResourceScope>,
        K::DynamicType: Default,
    {
        kube::Api::all(self.client.clone())
    }

    /// Pods with these labels, those being deleted included.
    pub async fn pods(&self, labels: &str) -> Result<Vec<Pod>> {
        let list = self.of::<Pod>().list(&ListParams::default().labels(labels)).await;
        Ok(list.with_context(|| format!("cannot list pods {labels}"))?.items)
    }

    /// Wait for exactly `count` pods with these labels, all Ready and none being deleted.
    pub async fn ready_pods(
        &self,
        labels: &str,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<Pod>> {
        let what = format!("{count} Ready pods {labels}");
        wait(&what, limit, || async {
            let pods = self.pods(labels).await?;
            let ready = pods.len() == count && pods.iter().all(is_ready);
            Ok(if ready { Found::Yes(pods) } else { Found::NotYet(describe(&pods)) })
        })
        .await
    }

    /// Wait until no pod has these labels.
    pub async fn no_pods(&self, labels: &str, limit: Duration) -> Result<()> {
        wait(&format!("the end of pods {labels}"), limit, || async {
            let pods = self.pods(labels).await?;
            Ok(if pods.is_empty() { Found::Yes(()) } else { Found::NotYet(describe(&pods)) })
        })
        .await
    }

    /// Addresses of a service's endpoints that are ready.
    pub async fn ready_endpoints(&self, service: &str) -> Result<Vec<String>> {
        let labels = format!("kubernetes.io/service-name={service}");
        let slices =
            self.of::<EndpointSlice>().list(&ListParams::default().labels(&labels)).await?;
        let mut addresses: Vec<String> = slices
            .items
            .into_iter()
            .flat_map(|slice| slice.endpoints.unwrap_or_default())
            .filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))
            .flat_map(|endpoint| endpoint.addresses)
            .collect();
        addresses.sort();
        Ok(addresses)
    }

    /// Wait until a service has `count` ready endpoints.
    pub async fn endpoints(
        &self,
        service: &str,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<String>> {
        wait(&format!("{count} ready endpoints of {service}"), limit, || async {
            let ready = self.ready_endpoints(service).await?;
            Ok(if ready.len() == count {
                Found::Yes(ready)
            } else {
                Found::NotYet(format!("{ready:?}"))
            })
        })
        .await
    }

    /// The messages of events about an object.
    pub async fn events_about(&self, name: &str, reason: &str) -> Result<Vec<String>> {
        let fields = format!("involvedObject.name={name},reason={reason}");
        let events = self.of::<Event>().list(&ListParams::default().fields(&fields)).await?;
        Ok(events.items.into_iter().filter_map(|event| event.message).collect())
    }

    /// The status of a node's Ready condition: True, False or Unknown.
    pub async fn node_ready(&self, name: &str) -> Result<String> {
        let node = self.of_cluster::<Node>().get(name).await?;
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
        Ok(ready.map(|condition| condition.status).unwrap_or_default())
    }

    /// A node's own addresses.
    pub async fn node_addresses(&self, name: &str) -> Result<Vec<String>> {
        let node = self.of_cluster::<Node>().get(name).await?;
        let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
        let own = addresses.into_iter().filter(|address| address.type_ == "InternalIP");
        Ok(own.map(|address| address.address).collect())
    }

    /// Merge-patch an object of namespace `default`.
    pub async fn patch<K>(&self, name: &str, patch: serde_json::Value) -> Result<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
        K::DynamicType: Default,
    {
        let patched =
            self.of::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.with_context(|| format!("cannot patch {name}"))
    }

    /// Set the replicas of a replication controller or deployment.
    pub async fn scale<K>(&self, name: &str, replicas: u32) -> Result<()>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
        K::DynamicType: Default,
    {
        let patch = serde_json::json!({ "spec": { "replicas": replicas } });
        self.of::<K>()
            .patch_scale(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("cannot scale {name}"))?;
        Ok(())
    }
}

/// What a look found.
pub enum Found<T> {
    Yes(T),
    /// What is there instead, for the error.
    NotYet(String),
}

/// Look again and again until something is there; the error says what was there last.
pub async fn wait<T, F>(what: &str, limit: Duration, mut look: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<Found<T>>,
{
    let start = Instant::now();
    loop {
        let instead = match look().await {
            Ok(Found::Yes(value)) => return Ok(value),
            Ok(Found::NotYet(instead)) => instead,
            Err(error) => format!("{error:#}"),
        };
        if start.elapsed() > limit {
            bail!("waited {:.0} s for {what}; last seen: {instead}", limit.as_secs_f64());
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Ready, and not being deleted.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|all| {
        all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    });
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// A pod's name, or nothing.
pub fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

/// A pod's UID, or nothing.
pub fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// The node that a pod was bound to.
pub fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

/// A pod's address.
pub fn address(pod: &Pod) -> Result<std::net::Ipv4Addr> {
    let text = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap_or_default();
    text.parse().with_context(|| format!("pod {} has the address `{text}`", name(pod)))
}

pub(crate) fn describe(pods: &[Pod]) -> String {
    let one = |pod: &Pod| {
        let status = pod.status.clone().unwrap_or_default();
        let waiting: Vec<String> = status
            .container_statuses
            .unwrap_or_default()
            .into_iter()
            .filter_map(|container| container.state?.waiting)
            .map(|waiting| {
                let message = waiting.message.unwrap_or_default();
                format!(" {} {message}", waiting.reason.unwrap_or_default())
            })
            .collect();
        let deleting = if pod.metadata.deletion_timestamp.is_some() { " deleting" } else { "" };
        let ready = if is_ready(pod) { " Ready" } else { "" };
        let phase = status.phase.unwrap_or_default();
        format!("{}@{} {phase}{ready}{deleting}{}", name(pod), node_of(pod), waiting.join(","))
    };
    pods.iter().map(one).collect::<Vec<_>>().join("; ")
}
