//! The data plane as clients see it: UDP and TCP, packets that no socket hook saw, services
//! without a backend, and addresses that arrive as they were sent.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_tests::api::{address, node_of, uid};
use bowline_tests::command::output;
use bowline_tests::load::{self, LoadReport};
use bowline_tests::{Cluster, Place, Wishes};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::PostParams;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const ECHO_UDP: &str = "10.9.8.9:7";
const ECHO_HTTP: &str = "10.9.8.9:80";
const EMPTY_HTTP: &str = "10.9.8.21:80";

/// A cluster with echo servers and a client.
struct Stage {
    cluster: Cluster,
    client: Pod,
    servers: Vec<Pod>,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn services_and_pods_as_clients_see_them() -> Result<()> {
    let cluster = Cluster::up(&Wishes::default())?;
    let api = cluster.api().await?;
    cluster.apply("echo.yaml")?;
    cluster.apply("client.yaml")?;
    let empty = json!({
        "metadata": { "name": "empty" },
        "spec": { "clusterIP": "10.9.8.21", "ports": [{ "port": 80 }] },
    });
    api.of().create(&PostParams::default(), &serde_json::from_value::<Service>(empty)?).await?;
    let ready = async {
        let servers = api.ready_pods("app=echo", 2, PATIENCE).await?;
        api.endpoints("echo", 2, PATIENCE).await?;
        let clients = api.ready_pods("app=client", 1, PATIENCE).await?;
        cluster.agrees(PATIENCE).await?;
        Ok((servers, clients.into_iter().next().context("no client")?))
    };
    let ready: Result<_> = ready.await;
    let (servers, client) = ready.map_err(|error| cluster.with_logs(error))?;
    let stage = Stage { cluster, client, servers };
    stage.play().map_err(|error| stage.cluster.with_logs(error))
}

impl Stage {
    fn play(&self) -> Result<()> {
        let pod = self.cluster.pod_place(&self.client)?;
        let node = self.cluster.nodes[2].place()?;
        self.udp(&pod).context("UDP from a pod")?;
        self.udp(&node).context("UDP from a node")?;
        self.raw(&pod).context("raw sockets")?;
        self.pods_reach_pods().context("pod to pod")?;
        Self::no_backend(&pod).context("a service without backends")?;
        self.net_shows_it().context("bowline net")
    }

    /// Connected and unconnected sockets see the service's address as their peer, always.
    fn udp(&self, place: &Place) -> Result<()> {
        let seen: Value = load::run(place, &["udp", ECHO_UDP, "--requests", "200"])?;
        for kind in ["connected", "unconnected"] {
            let report: LoadReport = serde_json::from_value(seen[kind].clone())?;
            report.expect_no_failure(kind)?;
            ensure!(report.values("source") == [ECHO_UDP], "{kind}: {:?}", report.seen("source"));
            let pods = report.values("pod");
            ensure!(pods.len() == self.servers.len(), "{kind}: answers from {pods:?}");
        }
        Ok(())
    }

    /// Packets that were built by hand pass no socket hook; the pod's link balances them.
    fn raw(&self, place: &Place) -> Result<()> {
        let own = address(&self.client)?.to_string();
        let seen: Value = load::run(place, &["raw", ECHO_UDP])?;
        ensure!(seen["udp"]["answered"] == true, "UDP: {seen}");
        ensure!(seen["udp"]["source"] == ECHO_UDP, "the answer's source: {seen}");
        ensure!(seen["udp"]["body"]["client"] == own.as_str(), "the server saw: {seen}");
        ensure!(seen["tcp"]["answered"] == true && seen["tcp"]["synAck"] == true, "TCP: {seen}");
        ensure!(seen["tcp"]["source"] == ECHO_UDP, "the SYN-ACK's source: {seen}");
        Ok(())
    }

    /// On one node and across nodes, TCP and ICMP, with the sender's own address.
    fn pods_reach_pods(&self) -> Result<()> {
        let own = address(&self.client)?;
        for server in &self.servers {
            let there = address(server)?;
            let place = self.cluster.pod_place(&self.client)?;
            let target = SocketAddr::from((there, 9376));
            let report = load::requests(&place, target, 100)?;
            let way = format!("{} -> {}", node_of(&self.client), node_of(server));
            report.expect_no_failure(&way)?;
            ensure!(report.values("client") == [own.to_string()], "{way}: {:?}", report.seen);
            self.ping(there).with_context(|| format!("ICMP {way}"))?;
        }
        Ok(())
    }

    fn ping(&self, target: Ipv4Addr) -> Result<()> {
        let network = self.cluster.node(&node_of(&self.client))?.pod_network(&uid(&self.client))?;
        let target = target.to_string();
        output(network.command("busybox").args(["ping", "-c", "2", "-W", "2", &target]))?;
        Ok(())
    }

    /// Refused at once: 5.18 and later can say "refused", older kernels say "not permitted".
    fn no_backend(place: &Place) -> Result<()> {
        let start = Instant::now();
        let report = load::requests(place, EMPTY_HTTP.parse()?, 20)?;
        let took = start.elapsed();
        ensure!(report.ok == 0 && report.failed == 20, "somebody answered: {report:?}");
        for error in report.errors.keys() {
            let named = error.contains("refused") || error.contains("not permitted");
            ensure!(error.starts_with("connect: ") && named, "not refused: {error}");
        }
        ensure!(took < Duration::from_secs(1), "20 refusals took {took:?}");
        Ok(())
    }

    /// The maps say the same as the API.
    fn net_shows_it(&self) -> Result<()> {
        for node in &self.cluster.nodes {
            for (what, expected) in
                [("services", "10.9.8.9"), ("backends", "7007"), ("routes", "10.240.")]
            {
                let mut net = self.cluster.bowline(&[
                    "net",
                    what,
                    "--name",
                    &self.cluster.name,
                    "--node",
                    &node.name,
                    "-o",
                    "json",
                ])?;
                let said = output(&mut net)?;
                serde_json::from_str::<Value>(&said).context("not JSON")?;
                ensure!(said.contains(expected), "{what} on {}: {said}", node.name);
            }
        }
        let first = load::requests(&self.cluster.nodes[0].place()?, ECHO_HTTP.parse()?, 10)?;
        first.expect_no_failure("HTTP from a node")
    }
}
