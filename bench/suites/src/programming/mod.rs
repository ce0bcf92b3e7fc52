//! What many services cost a node's agent, beside kube-proxy's rules: `cargo xtask bench
//! programming`.
//!
//! A real cluster of three nodes, and services made through the API, in several numbers one after
//! the other. With each number, the agent of one node starts on an empty node, and single endpoints
//! are replaced, at rest and while other services change: first with the agent of one node, then
//! with all three. In the same rounds `iptables-restore` and nft write what kube-proxy would, in
//! namespaces of their own, a namespace a node: their time alone, beside bowline's from the API's
//! write to the map. Under churn they are not measured: kube-proxy has one writer, which would put
//! everything into its next transaction. Making the services is measured once.

mod changes;
mod others;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_tests::alone::Alone;
use bowline_tests::maps::Services;
use bowline_tests::{Cluster, Node, api::Api};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fleet::{Fleet, memory_goal};
use crate::rules::Services as _;
use bowline_figures::results::{Better, Figure, Relation, median, quantile};
use bowline_figures::screen::Screen;
use changes::{Change, Churn, Churned, change, changed};
use others::{Rules, Writer};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many services there are; may be repeated
    #[arg(long, value_name = "COUNT", default_values_t = [1_000, 10_000, 30_000])]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=50_000))]
    services: Vec<u32>,
    /// How many endpoints each of the first 10,000 has; the others have one
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10))]
    endpoints: u32,
    /// Rounds; in each, everybody has a turn
    #[arg(long, value_name = "COUNT", default_value_t = 7)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many changes are timed in a round
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
    /// kube-proxy's rules are written for so many services at most: of more it takes minutes
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    rules: u32,
}

const NODES: usize = 3;
/// How long anything may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(300);
/// After this long the names are written.
const SETTLE: Duration = Duration::from_secs(3);
/// Room for all the endpoints, and for those that were replaced and rest.
const ROOM: [&str; 2] = ["--map-size", "BACKENDS=262144"];
/// Of the agent with 10,000 services: seconds, milliseconds.
const GOALS_WITH: u32 = 10_000;
const START_GOAL: f64 = 2.0;
const CHANGE_GOAL: f64 = 3.0;
/// nft writes all rules in each round only for so many services: of ten thousand it takes minutes.
const NFT_ROUNDS: u32 = 1_000;
/// How many changes rules of others see in a round.
const THEIR_CHANGES: u32 = 2;

impl Options {
    pub(crate) fn parameters(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("services", json!(self.services)),
            ("endpoints", json!(self.endpoints)),
            ("rounds", json!(self.rounds)),
            ("changes", json!(self.changes)),
            ("rules", json!(self.rules)),
        ]
    }
}

/// A sample a round.
type Samples = Vec<f64>;

/// What a figure is of, and where it stands in which plot.
#[derive(Clone, Copy)]
struct What<'a> {
    count: u32,
    plot: &'a str,
    /// What tells it from others in the plot.
    line: &'a str,
    unit: &'a str,
}

const BOWLINE: &str = "bowline";

impl What<'_> {
    fn name(&self) -> String {
        let Self { count, plot, line, .. } = self;
        match *line {
            BOWLINE => format!("{count} services: {plot}"),
            line => format!("{count} services: {plot}, {line}"),
        }
    }
}

/// What is handed from one number of services to the next.
struct Stage<'a> {
    options: &'a Options,
    screen: &'a Screen,
    cluster: &'a Cluster,
    api: Api,
    fleet: Fleet,
    /// How many changes there were.
    step: u32,
    /// What churn has done so far; nothing while it goes on.
    churned: Option<Churned>,
    directory: TempDir,
    figures: Vec<Figure>,
}

/// Makes a cluster and measures with each number of services, the smallest first.
pub(crate) async fn measure(
    options: &Options,
    alone: &Alone,
    screen: &Screen,
) -> Result<Vec<Figure>> {
    screen.begin("starting three nodes");
    let mut wishes = alone.wishes(NODES);
    wishes.flags.extend(ROOM.map(str::to_owned));
    let cluster = Cluster::up(&wishes)?;
    let (api, directory) = (cluster.api().await?, alone.directory()?);
    let fleet = Fleet::new(options.endpoints, 0);
    let mut counts = options.services.clone();
    counts.sort_unstable();
    counts.dedup();
    let most = counts.last().copied().unwrap_or(0);
    let churned = Some(Churned::new(options.endpoints, most));
    let (cluster, figures) = (&cluster, Vec::new());
    let mut stage =
        Stage { options, screen, cluster, api, fleet, step: 0, churned, directory, figures };
    for count in counts {
        stage.with(count).await.map_err(|error| cluster.with_logs(error))?;
    }
    Ok(stage.figures)
}

/// What only 10,000 services have a goal for.
fn goal(count: u32, goal: f64) -> Option<f64> {
    (count == GOALS_WITH).then_some(goal)
}

/// The agent's resident memory.
fn megabytes(node: &Node) -> Result<f64> {
    Ok(node.agent_memory()?.resident as f64 / 1e6)
}

impl Stage<'_> {
    fn add(&mut self, what: What<'_>, samples: Samples, goal: Option<f64>) {
        let figure = Figure::new(what.name(), what.unit, Better::Less, samples).goal(goal);
        self.figures.push(figure.at(what.plot, what.line, what.count, "services"));
    }

    /// What others take, and what bowline takes of that.
    fn beside(&mut self, what: What<'_>, ours: &[f64], other: &'static str, theirs: Samples) {
        let name = format!("{}, to {other}", what.name());
        let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        let ratio = Figure::new(name, "ratio", Better::Less, ratios);
        let what = What { line: other, ..what };
        let theirs = Figure::new(what.name(), what.unit, None, theirs);
        self.figures.push(theirs.at(what.plot, what.line, what.count, "services"));
        self.figures.push(ratio.beside(other, Relation::Ratio).from(what.unit, ours));
    }

    async fn with(&mut self, count: u32) -> Result<()> {
        let cluster = self.cluster;
        for node in &cluster.nodes {
            // Of the last one only the first may run.
            if node.agent_pid().is_ok() {
                node.kill_agent()?;
            }
        }
        self.screen.begin(format!("making {count} services through the API"));
        let start = Instant::now();
        self.fleet.grow(&self.api, count).await.context("making services")?;
        let made = start.elapsed().as_secs_f64();
        let what = What { count, plot: "made through the API", line: BOWLINE, unit: "s" };
        self.add(what, vec![made], None);
        let writers = if count <= self.options.rules { &Writer::ALL[..] } else { &[] };
        let mut rules = self.starts(count, writers).await?;
        let maps = vec![self.wait_for_all(&self.cluster.nodes[0], count).await?];
        self.changes(count, "one node", &maps, &mut rules).await?;
        let maps = self.start_all(count).await?;
        for nodes in &mut rules {
            self.screen
                .begin(format!("{count} services: {} on all nodes", nodes[0].writer().name()));
            while nodes.len() < NODES {
                let (fresh, _) = self.written(nodes[0].writer(), count, true).await?;
                nodes.push(fresh);
            }
        }
        self.changes(count, &format!("{NODES} nodes"), &maps, &mut rules).await
    }

    /// All rules, in a namespace of their own; how many seconds it took to write them.
    async fn written(&self, writer: Writer, count: u32, parts: bool) -> Result<(Rules, f64)> {
        let mut rules = Rules::new(writer, self.directory.path())?;
        let took = rules.fill(&self.fleet, count, parts).await?;
        rules.check()?;
        Ok((rules, took))
    }

    /// Agents start on an empty node, and others write all their rules; gives the last rules of
    /// each.
    async fn starts(&mut self, count: u32, writers: &[Writer]) -> Result<Vec<Vec<Rules>>> {
        let node = &self.cluster.nodes[0];
        let (mut ours, mut rules) = (Samples::new(), Vec::<Vec<Rules>>::new());
        let mut theirs = vec![Samples::new(); writers.len()];
        for round in 1..=self.options.rounds {
            self.screen.begin(format!(
                "{count} services: cold starts, round {round} of {}",
                self.options.rounds
            ));
            if node.agent_pid().is_ok() {
                node.kill_agent()?;
            }
            node.forget_pins()?;
            let start = Instant::now();
            node.start_agent()?;
            self.wait_for_all(node, count).await?;
            ours.push(start.elapsed().as_secs_f64());
            tokio::time::sleep(SETTLE).await;
            for (writer, seconds) in writers.iter().zip(&mut theirs) {
                let parts = *writer == Writer::Nftables && count > NFT_ROUNDS;
                if parts && round < self.options.rounds {
                    continue;
                }
                rules.retain(|nodes| nodes[0].writer() != *writer);
                self.screen.begin(format!("{count} services: {} writes rules", writer.name()));
                let (fresh, took) = self.written(*writer, count, parts).await?;
                rules.push(vec![fresh]);
                if !parts {
                    seconds.push(took);
                }
            }
        }
        let plot = "agent's start to all of them in an empty node's maps";
        let what = What { count, plot, line: BOWLINE, unit: "s" };
        self.add(what, ours.clone(), goal(count, START_GOAL));
        for (writer, theirs) in writers.iter().zip(theirs).filter(|(_, one)| !one.is_empty()) {
            self.beside(what, &ours, writer.name(), theirs);
        }
        Ok(rules)
    }

    /// Waits until every service is in the maps with all its endpoints.
    async fn wait_for_all(&self, node: &Node, count: u32) -> Result<Services> {
        let start = Instant::now();
        let mut number = 0;
        let mut opened = None;
        while number < count {
            ensure!(start.elapsed() < PATIENCE, "service {number} is not in the maps");
            if opened.is_none() {
                opened = node.maps().services().ok();
            }
            let address = self.fleet.address(number);
            let slots = opened.as_ref().and_then(|map| map.slot_count(address, Fleet::PORT));
            if slots == Some(self.fleet.endpoints_of(number)) {
                number += 1;
            } else {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        opened.context("no services were asked for")
    }

    /// Milliseconds of each of a round's changes.
    async fn round(&mut self, count: u32, maps: &[Services]) -> Result<Vec<Change>> {
        let mut found = Vec::new();
        for _ in 0..self.options.changes {
            self.step += 1;
            let number = changed(self.step, count);
            found.push(change(&self.api, &mut self.fleet, number, maps).await?);
        }
        Ok(found)
    }

    /// The maps of all nodes, whose agents run from now on.
    async fn start_all(&self, count: u32) -> Result<Vec<Services>> {
        self.screen.begin(format!("{count} services: starting all agents"));
        let mut maps = Vec::new();
        for node in &self.cluster.nodes {
            if node.agent_pid().is_err() {
                node.start_agent()?;
            }
        }
        for node in &self.cluster.nodes {
            maps.push(self.wait_for_all(node, count).await?);
        }
        Ok(maps)
    }

    /// Rounds of changes, at rest and under churn in turns, and of others' rules, on as many nodes.
    async fn changes(
        &mut self,
        count: u32,
        place: &str,
        maps: &[Services],
        rules: &mut [Vec<Rules>],
    ) -> Result<()> {
        let mut theirs = vec![Samples::new(); rules.len()];
        let mut found: BTreeMap<(&str, &str), Samples> = BTreeMap::new();
        let (mut churn_rates, mut memory) = (Samples::new(), Samples::new());
        for round in 1..=self.options.rounds {
            self.screen.begin(format!(
                "{count} services: changes, {place}, round {round} of {}",
                self.options.rounds
            ));
            for when in ["idle", "churn"] {
                let churned = self.churned.take_if(|_| when == "churn");
                let churn = churned.map(|before| Churn::begin(&self.api, before, count));
                let changes = self.round(count, maps).await?;
                if let Some(churn) = churn {
                    let (rate, after) = churn.end().await?;
                    churn_rates.push(rate);
                    self.churned = Some(after);
                }
                let write: Samples = changes.iter().map(|change| change.from_write).collect();
                let event: Samples = changes.iter().map(|change| change.from_event).collect();
                for (what, sample) in [
                    ("p50", median(&write)),
                    ("p99", quantile(&write, 0.99)),
                    ("p50 from the watch event", median(&event)),
                    ("p99 from the watch event", quantile(&event, 0.99)),
                ] {
                    found.entry((when, what)).or_default().push(sample);
                }
            }
            memory.push(megabytes(&self.cluster.nodes[0])?);
            for (nodes, samples) in rules.iter_mut().zip(&mut theirs) {
                samples.push(self.their_change(count, nodes).await?);
            }
        }
        for rules in rules.iter().flatten() {
            rules.check()?;
        }
        let ours = found.get(&("idle", "p50")).cloned().unwrap_or_default();
        for (nodes, theirs) in rules.iter().zip(theirs) {
            let plot = format!("endpoint change, {place}, p50");
            let what = What { count, plot: &plot, line: "idle", unit: "ms" };
            self.beside(what, &ours, nodes[0].writer().name(), theirs);
        }
        for ((when, what), samples) in found {
            let plot = format!("endpoint change, {place}, {what}");
            let is_goal = (when, what) == ("idle", "p50 from the watch event") && maps.len() == 1;
            let goal = goal(count, CHANGE_GOAL).filter(|_| is_goal);
            self.add(What { count, plot: &plot, line: when, unit: "ms" }, samples, goal);
        }
        if maps.len() == 1 {
            let what = What { count, plot: "agent's memory", line: BOWLINE, unit: "MB" };
            self.add(what, memory, memory_goal(count));
        }
        let name = format!("{count} services: other changes under churn, {place}");
        self.figures.push(Figure::new(name, "operations a second", None, churn_rates));
        Ok(())
    }

    /// What a change takes others, from its beginning until the last of these nodes has it, in
    /// milliseconds: the median of some.
    async fn their_change(&mut self, count: u32, nodes: &mut [Rules]) -> Result<f64> {
        let mut times = Samples::new();
        for _ in 0..THEIR_CHANGES {
            self.step += 1;
            let number = changed(self.step, count);
            self.fleet.change(number);
            for rules in &mut *nodes {
                rules.prepare(&self.fleet, count, number)?;
            }
            let start = Instant::now();
            try_join_all(nodes.iter().map(|rules| rules.write(true))).await?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(median(&times))
    }
}
