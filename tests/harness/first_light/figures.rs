//! The figures at the end of the report, each measured in this run.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::json;

use super::report::Figure;
use super::{NIFTY, PATIENCE, Stage};
use crate::api::{address, is_ready, node_of};
use crate::load::run;
use crate::maps::Services;
use crate::node::{Memory, Node};
use crate::pod_watch::PodWatch;

const ONE: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 20);
const MEGABYTE: f64 = 1_000_000.0;

/// Two targets compared by the workload.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Comparison {
    fresh: Ratio,
    keep_alive: Ratio,
}

#[derive(Deserialize)]
struct Ratio {
    ns: [u32; 2],
    ratio: f64,
}

impl Stage {
    pub(super) async fn measure(&mut self) -> Result<Vec<Figure>> {
        let mut figures = vec![Figure {
            name: "cluster up, all nodes Ready",
            value: self.cluster.up_took.as_secs_f64(),
            unit: "s",
            goal: 5.0,
            method: format!("`bowline up` with {} nodes, start to exit", self.cluster.nodes.len()),
        }];
        figures.push(self.apply_to_ready().await?);
        self.one_backend().await?;
        figures.extend(self.latency().await?);
        figures.push(self.endpoint_to_maps().await?);
        figures.extend(self.memory()?);
        Ok(figures)
    }

    async fn apply_to_ready(&self) -> Result<Figure> {
        let mut times = Vec::new();
        for round in 0..7 {
            times.push(self.three_pods(round).await?);
        }
        Ok(Figure {
            name: "apply to 3 pods Ready, warm image",
            value: median(&mut times) * 1000.0,
            unit: "ms",
            goal: 500.0,
            method: "`bowline apply` starts to the watch's third Ready; median of 7".to_owned(),
        })
    }

    async fn three_pods(&self, round: usize) -> Result<f64> {
        let label = format!("app=warm{round}");
        let text = std::fs::read_to_string(crate::artifacts::example("web.yaml"))?;
        // The deployment alone, under a name of its own.
        let deployment = text.split("\n---\n").next().unwrap_or_default();
        let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        std::fs::write(&file, deployment.replace(": web\n", &format!(": warm{round}\n")))?;

        let mut watch = PodWatch::begin(&self.api, &label).await?;
        let mut apply = self.cluster.bowline(&["apply", "-f"])?;
        apply.arg(file.path());
        let start = Instant::now();
        let applied = tokio::task::spawn_blocking(move || crate::command::output(&mut apply));
        let ready = watch
            .until("a third Ready one", PATIENCE, |pods| {
                pods.values().filter(|pod| is_ready(pod)).count() == 3
            })
            .await?;
        let took = (ready - start).as_secs_f64();
        applied.await??;
        let deployments = self.api.of::<k8s_openapi::api::apps::v1::Deployment>();
        deployments.delete(&format!("warm{round}"), &DeleteParams::background()).await?;
        self.api.no_pods(&label, PATIENCE).await?;
        Ok(took)
    }

    /// A service whose endpoints we write ourselves: one pod, on another node than the client.
    async fn one_backend(&self) -> Result<()> {
        let service = json!({
            "metadata": { "name": "one" },
            "spec": {
                "clusterIP": ONE,
                "ports": [{ "name": "http", "port": 80, "targetPort": 9376 }],
            },
        });
        let service: Service = serde_json::from_value(service)?;
        self.api.of::<Service>().create(&PostParams::default(), &service).await?;
        let backend = self.far_pod().await?;
        let slice = json!({
            "metadata": { "name": "one-1", "labels": { "kubernetes.io/service-name": "one" } },
            "addressType": "IPv4",
            "endpoints": endpoints(&[backend]),
            "ports": [{ "name": "http", "port": 9376, "protocol": "TCP" }],
        });
        let slice: EndpointSlice = serde_json::from_value(slice)?;
        self.api.of::<EndpointSlice>().create(&PostParams::default(), &slice).await?;
        self.everywhere(1).await?;
        Ok(())
    }

    async fn far_pod(&self) -> Result<Ipv4Addr> {
        let home = self.client.as_ref().map(node_of).unwrap_or_default();
        let pods = self.api.ready_pods(NIFTY, 6, PATIENCE).await?;
        let far = pods.iter().find(|pod| node_of(pod) != home);
        address(far.context("all pods are on the client's node")?)
    }

    async fn latency(&self) -> Result<Vec<Figure>> {
        let (vip, pod) = (format!("{ONE}:80"), format!("{}:9376", self.far_pod().await?));
        let seen: Comparison = run(
            &self.client_place()?,
            &["compare", &vip, &pod, "--rounds", "11", "--requests", "400"],
        )?;
        let figure = |name, ratio: &Ratio| Figure {
            name,
            value: ratio.ratio,
            unit: "x",
            goal: 1.03,
            method: format!(
                "VIP {:.1} us, pod on another node {:.1} us, request by request in turn, median \
                 of 11 rounds of 400",
                f64::from(ratio.ns[0]) / 1000.0,
                f64::from(ratio.ns[1]) / 1000.0
            ),
        };
        Ok(vec![
            figure("request latency, VIP / pod, fresh connections", &seen.fresh),
            figure("request latency, VIP / pod, kept connections", &seen.keep_alive),
        ])
    }

    async fn endpoint_to_maps(&self) -> Result<Figure> {
        let backend = self.far_pod().await?;
        let mut times = Vec::new();
        for round in 0..20 {
            // From one address to two and back. Nothing connects to the second.
            let count = 2 - round % 2;
            let second = Ipv4Addr::new(10, 240, 255, 254);
            let addresses = [backend, second];
            let patch = json!({ "endpoints": endpoints(&addresses[..count]) });
            let slices = self.api.of::<EndpointSlice>();
            let params = PatchParams::default();
            let patch = Patch::Merge(patch);
            let start = Instant::now();
            let patching = slices.patch("one-1", &params, &patch);
            let (patched, reached) = tokio::join!(patching, self.everywhere(u32::try_from(count)?));
            patched.context("cannot patch the slice")?;
            times.push((reached? - start).as_secs_f64() * 1000.0);
        }
        Ok(Figure {
            name: "endpoint change to the last node's maps",
            value: median(&mut times),
            unit: "ms",
            goal: 20.0,
            method: "PATCH sent to all nodes' pinned maps changed; median of 20".to_owned(),
        })
    }

    /// When every node's map has `count` slots for the service.
    async fn everywhere(&self, count: u32) -> Result<Instant> {
        let maps: Vec<Services> =
            self.cluster.nodes.iter().map(|node| node.maps().services()).collect::<Result<_>>()?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if maps.iter().all(|map| map.slot_count(ONE, 80) == Some(count)) {
                return Ok(Instant::now());
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        let last: Vec<_> = maps.iter().map(|map| map.slot_count(ONE, 80)).collect();
        bail!("the nodes' maps have {last:?} slots, not {count}")
    }

    fn memory(&self) -> Result<Vec<Figure>> {
        let agents: Vec<Memory> =
            self.cluster.nodes.iter().map(Node::agent_memory).collect::<Result<_>>()?;
        let largest = agents.into_iter().max().context("no nodes")?;
        let figure = |name, memory: Memory, goal| Figure {
            name,
            value: memory.resident as f64 / MEGABYTE,
            unit: "MB",
            goal,
            method: format!(
                "VmRSS at the end of the run; {:.1} MB of it mapped from files, shared by all",
                memory.from_files as f64 / MEGABYTE
            ),
        };
        Ok(vec![
            figure("memory of the server", self.cluster.server_memory()?, 80.0),
            figure("memory of the largest agent", largest, 40.0),
        ])
    }
}

fn endpoints(addresses: &[Ipv4Addr]) -> serde_json::Value {
    let one = |address| json!({ "addresses": [address], "conditions": { "ready": true } });
    addresses.iter().map(one).collect()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
