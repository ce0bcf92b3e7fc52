//! The founding scenario, step by step on a real cluster: what the demo shows and the end-to-end
//! test checks is the same code.
//!
//! Guarantees: a step that did not see what it must is an error; nothing is claimed that was not
//! observed. Figures are measured in the same run; whether they meet their goals is reported, not
//! enforced, because another machine has other figures.

mod churn;
mod failures;
mod figures;
mod replicas;
mod report;
mod service;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;

use crate::api::Api;
use crate::cluster::{Cluster, Wishes};
use crate::place::Place;

pub use report::{Figure, Report, Step};

/// Long enough for a slow machine; nothing here should take a tenth of it.
const PATIENCE: Duration = Duration::from_secs(60);
const NIFTY: &str = "App=Nifty";
const VIP: &str = "10.9.8.7:80";

/// Who is told what happens.
pub trait Audience {
    /// A step or a measurement begins.
    fn begin(&mut self, title: &str);
    /// A step ended with these facts.
    fn end(&mut self, step: &Step);
}

/// The cluster and what the steps hand on to each other.
pub struct Stage {
    cluster: Cluster,
    api: Api,
    /// The pod that requests are sent from.
    client: Option<Pod>,
    facts: Vec<String>,
}

impl Stage {
    /// Make the cluster.
    pub async fn new(wishes: &Wishes) -> Result<Self> {
        let cluster = Cluster::up(wishes)?;
        let api = cluster.api().await?;
        Ok(Self { cluster, api, client: None, facts: Vec::new() })
    }

    /// The cluster, for who wants to keep it.
    pub fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// Play everything and measure.
    pub async fn play(&mut self, audience: &mut dyn Audience) -> Result<Report> {
        let played = self.play_all(audience).await;
        played.map_err(|error| self.cluster.with_logs(error))
    }

    async fn play_all(&mut self, audience: &mut dyn Audience) -> Result<Report> {
        let mut report = Report::default();
        for number in 1..=7 {
            let title = title(number);
            audience.begin(title);
            let start = Instant::now();
            let step = match number {
                1 => self.run_x().await,
                2 => self.nifty().await,
                3 => self.three_thousand().await,
                4 => self.scale_under_load().await,
                5 => self.rolling_update().await,
                6 => self.agent_killed().await,
                _ => self.node_cut_off().await,
            };
            step.with_context(|| format!("step {number}: {title}"))?;
            let facts = std::mem::take(&mut self.facts);
            let step = Step { number, title, seconds: start.elapsed().as_secs_f64(), facts };
            audience.end(&step);
            report.steps.push(step);
        }
        audience.begin("measuring");
        report.figures = self.measure().await.context("measuring")?;
        Ok(report)
    }

    /// Note something that was seen.
    fn saw(&mut self, fact: impl Into<String>) {
        self.facts.push(fact.into());
    }

    fn client_place(&self) -> Result<Place> {
        let client = self.client.as_ref().context("the client pod is not up yet")?;
        self.cluster.pod_place(client)
    }

    fn vip() -> Result<SocketAddr> {
        Ok(VIP.parse()?)
    }
}

fn title(number: usize) -> &'static str {
    match number {
        1 => "Run X, Replicas = 2, Memory = 4Gi, CPU = 2.5",
        2 => "three Nifty pods, a service, its name",
        3 => "3,000 requests from a pod, 3,000 from a node",
        4 => "scale to 6 and lose a pod while requests run",
        5 => "a rolling update while requests run",
        6 => "SIGKILL of a node's agent while requests run",
        _ => "a node is cut off",
    }
}
