//! A control plane of its own for each test, and nodes that are played through the API.
//!
//! The played nodes do what an agent does to the API and nothing else: they renew leases, report
//! pods as running and ready with an address, and remove pods that were told to stop.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bowline_control_plane::{CERTIFICATE_LIFE, Config, Limits, NodeMaskSize, Retention};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Resource;
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const GRACE: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) struct Plane {
    pub(crate) client: Client,
    /// The administrator's.
    pub(crate) kubeconfig: PathBuf,
    token: CancellationToken,
    server: JoinHandle<anyhow::Result<()>>,
    played: Vec<JoinHandle<()>>,
    silent: Arc<Mutex<Vec<String>>>,
    _directory: tempfile::TempDir,
}

impl Plane {
    /// A control plane with as many played nodes of 4 CPUs and 16Gi.
    pub(crate) async fn start(nodes: usize) -> Self {
        Self::start_with_certificates_of(CERTIFICATE_LIFE, nodes).await
    }

    pub(crate) async fn start_with_certificates_of(life: Duration, nodes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let kubeconfig = directory.path().join("admin.kubeconfig");
        let config = Config {
            data_dir: directory.path().join("server"),
            pod_cidr: "10.240.0.0/16,fd00:10:240::/48".parse().unwrap(),
            node_mask_size: NodeMaskSize { v4: 24, v6: 64 },
            service_cidr: "10.9.0.0/16".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            // Nobody dials it here; a loopback address could not be published.
            advertise: "172.30.0.1:6443".parse().unwrap(),
            server_names: vec![],
            join_secret: None,
            kubeconfig: kubeconfig.clone(),
            server_url: format!("https://{address}"),
            token_file: directory.path().join("join-token"),
            node_monitor_grace_period: GRACE,
            default_unreachable_toleration_seconds: 1,
            limits: Limits::DEFAULT,
            service_account_issuer: None,
            certificate_life: life,
            retention: Retention::DEFAULT,
        };
        let token = CancellationToken::new();
        let server =
            tokio::spawn(bowline_control_plane::run(config, vec![listener], token.clone()));
        let started = Instant::now();
        while !kubeconfig.exists() {
            assert!(!server.is_finished(), "the server ended: {:?}", server.await);
            assert!(started.elapsed() < PATIENCE, "no kubeconfig");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let client = client(&kubeconfig).await;
        let silent = Arc::new(Mutex::new(Vec::new()));
        let mut plane = Self {
            client,
            kubeconfig,
            token,
            server,
            played: vec![],
            silent,
            _directory: directory,
        };
        for index in 1..=nodes {
            plane.add_node(&format!("node{index}"), "4", "16Gi").await;
        }
        let (client, silent) = (plane.client.clone(), plane.silent.clone());
        plane.played.push(tokio::spawn(play_pods(client, silent)));
        plane.every_node_takes_pods().await;
        plane
    }

    /// Otherwise all pods may go to the node that was the first to be ready.
    async fn every_node_takes_pods(&self) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        eventually("nodes without taints", || async {
            let listed = nodes.list(&ListParams::default()).await.unwrap();
            let taints = listed.items.into_iter().filter_map(|node| node.spec?.taints);
            let taints: Vec<_> = taints.flatten().collect();
            holds(taints.is_empty(), taints)
        })
        .await;
    }

    pub(crate) async fn add_node(&mut self, name: &str, cpu: &str, memory: &str) {
        let capacity = json!({ "cpu": cpu, "memory": memory, "pods": "110" });
        let node: Node = from(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        }));
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.create(&PostParams::default(), &node).await.unwrap();
        self.report_node(name, &capacity).await;
        let (client, silent) = (self.client.clone(), self.silent.clone());
        self.played.push(tokio::spawn(play_lease(client, name.to_owned(), silent)));
    }

    pub(crate) async fn report_node(&self, name: &str, capacity: &Value) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let status = json!({ "status": {
            "capacity": capacity, "allocatable": capacity,
            "conditions": [{ "type": "Ready", "status": "True", "reason": "AgentReady" }],
        }});
        nodes
            .patch_status(name, &PatchParams::default(), &Patch::Strategic(&status))
            .await
            .unwrap();
    }

    /// The node is not heard any more, and its pods do not change.
    pub(crate) fn silence(&self, node: &str) {
        self.silent.lock().unwrap().push(node.to_owned());
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::default_namespaced(self.client.clone())
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Serialize
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let object: K = from(object);
        let namespace = object.meta().namespace.clone().unwrap_or("default".into());
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        api.create(&PostParams::default(), &object).await.unwrap()
    }

    /// The pods of `default` that are not on their way out, by name.
    pub(crate) async fn pods(&self, labels: &str) -> Vec<Pod> {
        let listed = self.api::<Pod>().list(&ListParams::default().labels(labels)).await.unwrap();
        listed.items.into_iter().filter(|p| p.metadata.deletion_timestamp.is_none()).collect()
    }

    /// The endpoints of a service over all its slices.
    pub(crate) async fn endpoints(&self, service: &str) -> Vec<Endpoint> {
        let of = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let slices = self.api::<EndpointSlice>().list(&of).await.unwrap();
        slices.items.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default()).collect()
    }

    pub(crate) async fn ready_addresses(&self, service: &str) -> Vec<String> {
        let ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().unwrap().ready == Some(true);
        let mut addresses: Vec<_> = self
            .endpoints(service)
            .await
            .into_iter()
            .filter(ready)
            .flat_map(|endpoint| endpoint.addresses)
            .collect();
        addresses.sort();
        addresses
    }

    pub(crate) async fn events(&self, reason: &str) -> Vec<String> {
        let events: Api<k8s_openapi::api::core::v1::Event> = self.api();
        let listed = events.list(&ListParams::default()).await.unwrap();
        listed
            .items
            .into_iter()
            .filter(|event| event.reason.as_deref() == Some(reason))
            .filter_map(|event| event.message)
            .collect()
    }

    /// Stops everything and waits for it.
    pub(crate) async fn stop(self) {
        for played in &self.played {
            played.abort();
        }
        self.token.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.server).await;
        ended.expect("the control plane does not stop").unwrap().unwrap();
    }
}

pub(crate) fn from<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

/// Asks until the answer is there; panics with what was missing.
pub(crate) async fn eventually<T, F>(what: &str, ask: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let started = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(missing) => assert!(started.elapsed() < PATIENCE, "{what}: {missing}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// `Ok` when it holds, else what there is instead.
pub(crate) fn holds<T: std::fmt::Debug>(is_so: bool, instead: T) -> Result<T, String> {
    if is_so { Ok(instead) } else { Err(format!("{instead:?}")) }
}

pub(crate) async fn client(kubeconfig: &Path) -> Client {
    // Fails when another test of this process was first, which is just as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(read, &options).await.unwrap();
    // The environment may name a proxy; this stays on the loopback.
    config.proxy_url = None;
    Client::try_from(config).unwrap()
}

async fn play_lease(client: Client, node: String, silent: Arc<Mutex<Vec<String>>>) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let mut lease = Lease {
        metadata: ObjectMeta { name: Some(node.clone()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec { holder_identity: Some(node.clone()), ..LeaseSpec::default() }),
    };
    lease.spec.as_mut().unwrap().renew_time = Some(MicroTime(Timestamp::now()));
    leases.create(&PostParams::default(), &lease).await.unwrap();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if silent.lock().unwrap().contains(&node) {
            continue;
        }
        let renewed = json!({ "spec": { "renewTime": MicroTime(Timestamp::now()) } });
        leases.patch(&node, &PatchParams::default(), &Patch::Merge(&renewed)).await.unwrap();
    }
}

/// Pods with this label never become ready.
pub(crate) const STUCK: &str = "stuck";

async fn play_pods(client: Client, silent: Arc<Mutex<Vec<String>>>) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let all: Api<Pod> = Api::all(client.clone());
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let Ok(pods) = all.list(&ListParams::default()).await else { continue };
        for pod in pods {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            let Some(node) = node else { continue };
            if !silent.lock().unwrap().contains(&node) {
                play_pod(&client, &pod, &mut seen).await;
            }
        }
    }
}

/// Errors are those of races with the test itself; the next round sees the newer state.
async fn play_pod(client: &Client, pod: &Pod, seen: &mut BTreeMap<String, usize>) {
    let namespace = pod.metadata.namespace.as_deref().unwrap();
    let (name, uid) = (pod.metadata.name.clone().unwrap(), pod.metadata.uid.clone().unwrap());
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    if pod.metadata.deletion_timestamp.is_some() {
        let preconditions = Preconditions { uid: Some(uid), ..Preconditions::default() };
        let now = DeleteParams::default().grace_period(0).preconditions(preconditions);
        let _ = api.delete(&name, &now).await;
        return;
    }
    let next = seen.len();
    let number = *seen.entry(uid).or_insert(next);
    let stuck = pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(STUCK));
    let running = pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
    if running {
        return;
    }
    let ip = format!("10.240.{}.{}", number / 250, number % 250 + 2);
    let ready = if stuck { "False" } else { "True" };
    let status = json!({ "status": {
        "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
        "conditions": [{ "type": "Ready", "status": ready,
            "lastTransitionTime": Timestamp::now() }],
    }});
    let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&status)).await;
}

/// A pod's spec that asks for so much.
pub(crate) fn pod_spec(cpu: &str, memory: &str) -> Value {
    json!({ "containers": [{
        "name": "c", "image": "registry.test/x:1",
        "ports": [{ "name": "web", "containerPort": 9376 }],
        "resources": { "requests": { "cpu": cpu, "memory": memory } },
    }]})
}
