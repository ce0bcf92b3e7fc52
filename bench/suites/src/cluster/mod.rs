//! What a cluster takes: `cargo xtask bench cluster`.
//!
//! Clusters of three nodes are started and removed, once a round, and before or after it a
//! containerd alone, by turns. Another one stays, with a registry: in it pods are applied, scaled
//! down and updated, their image at hand on each node, and beside one pod the same container is
//! started by containerd's own client (`ctr`), without bowline. What the client takes
//! (`bowline apply`, `ctr`) is part of it. Memory and processor time of the server and the largest
//! agent are those of a new cluster: idle and then with pods, and in another one with services.

mod bare;
mod pods;
mod runtime;
mod usage;

use std::time::{Duration, Instant};

use anyhow::Result;
use bowline_tests::alone::Alone;
use bowline_tests::{Cluster, Wishes};
use serde_json::{Value, json};

use crate::fleet::memory_goal;
use bowline_figures::results::{Better, Figure, Relation};
use bowline_figures::screen::Screen;
use runtime::Runtime;
use usage::Goals;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; in each, everything has its turn
    #[arg(long, value_name = "COUNT", default_value_t = 7)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many pods are applied one after the other
    #[arg(long, value_name = "COUNT", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    single: u32,
    /// How many pods there are at most
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=300))]
    pods: u32,
    /// How many services there are at last, with ten endpoints each
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=30_000))]
    services: u32,
    /// How long processor time is counted for a sample, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 5_000)]
    window: u64,
}

impl Options {
    pub(crate) fn parameters(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("rounds", json!(self.rounds)),
            ("single", json!(self.single)),
            ("pods", json!(self.pods)),
            ("services", json!(self.services)),
            ("window_milliseconds", json!(self.window)),
        ]
    }
}

const NODES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(120);
/// Room for the endpoints of all the services.
const ROOM: [&str; 2] = ["--map-size", "BACKENDS=262144"];
const RUNTIME: &str = "containerd alone, until it listens";
/// `bowline up`, in seconds.
const UP_GOAL: f64 = 5.0;

/// What is measured, and in what.
struct Stage<'a> {
    options: &'a Options,
    screen: &'a Screen,
    cluster: &'a Cluster,
}

/// Starts clusters, and measures in the last.
pub(crate) async fn measure(
    options: &Options,
    alone: &Alone,
    screen: &Screen,
) -> Result<Vec<Figure>> {
    let (mut ups, mut downs, mut runtimes) = (Vec::new(), Vec::new(), Vec::new());
    let mut runtime: Option<Runtime> = None;
    for round in 1..=options.rounds {
        screen.begin(format!("starting {NODES} nodes, round {round} of {}", options.rounds));
        if let Some(runtime) = runtime.as_ref().filter(|_| round.is_multiple_of(2)) {
            runtimes.push(runtime.start(&alone.directory()?)?);
        }
        let cluster = Cluster::up(&alone.wishes(NODES))?;
        ups.push(cluster.up_took.as_secs_f64());
        let own = Runtime::of(&cluster)?;
        let start = Instant::now();
        drop::<Cluster>(cluster);
        downs.push(start.elapsed().as_secs_f64());
        if !round.is_multiple_of(2) {
            runtimes.push(own.start(&alone.directory()?)?);
        }
        runtime = Some(own);
        // What is dropped at an interrupt is this function, which has to be asked for it.
        tokio::task::yield_now().await;
    }
    let figure = |name: String, samples: Vec<f64>| Figure::new(name, "s", Better::Less, samples);
    let name = format!("`up` to all {NODES} nodes Ready");
    let (beside, ratios) = (format!("{name}, to {RUNTIME}"), ups.iter().zip(&runtimes));
    let ratios = ratios.map(|(up, runtime)| up / runtime).collect();
    let mut figures = vec![
        Figure::new(beside, "ratio", Better::Less, ratios)
            .beside(RUNTIME, Relation::Ratio)
            .from("s", &ups),
        Figure::new(RUNTIME, "s", None, runtimes),
        figure(name, ups).goal(UP_GOAL),
        figure(format!("`down` of {NODES} nodes"), downs),
    ];
    screen.begin(format!("starting {NODES} nodes with a registry"));
    let cluster = Cluster::up(&Wishes { registry: true, ..alone.wishes(NODES) })?;
    let stage = Stage { options, screen, cluster: &cluster };
    let measured = stage.with_pods().await;
    figures.extend(measured.map_err(|error| cluster.with_logs(error))?);
    screen.begin(format!("starting {NODES} other nodes"));
    drop(cluster);
    let mut wishes = alone.wishes(NODES);
    wishes.flags.extend(ROOM.map(str::to_owned));
    let cluster = Cluster::up(&wishes)?;
    let stage = Stage { options, screen, cluster: &cluster };
    let measured = stage.with_services().await;
    figures.extend(measured.map_err(|error| cluster.with_logs(error))?);
    Ok(figures)
}

impl Stage<'_> {
    async fn with_pods(&self) -> Result<Vec<Figure>> {
        let api = self.cluster.api().await?;
        let mut figures = self.usage("idle", Goals::IDLE).await?;
        self.fetch_images(&api).await?;
        let count = self.options.pods;
        let label = self.many(&api, count).await?;
        figures.extend(self.usage(&format!("with {count} pods"), Goals::default()).await?);
        self.remove(&api, &label).await?;
        figures.extend(self.pods(&api).await?);
        Ok(figures)
    }

    async fn with_services(&self) -> Result<Vec<Figure>> {
        let count = self.options.services;
        self.services(&self.cluster.api().await?).await?;
        let goals = Goals { agent: memory_goal(count), ..Goals::default() };
        self.usage(&format!("with {count} services"), goals).await
    }
}
