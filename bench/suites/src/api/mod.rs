//! What the API costs its clients: `cargo xtask bench api`.
//!
//! A real server with its store on this machine's disk and no nodes; clients over TLS, each with a
//! connection of its own, which share the machine's processors with it. In each round 1, 16 and 256
//! clients get, list, create and update, each in a loop; what they reach is divided by what as many
//! reach with `/version`, an answer that needs neither store nor cache (for reads), and by what one
//! thread writes durably to a file beside the store (for writes), and the many by the one. Then one
//! change is told to 1, 16, 256 and 1,000 watchers, and 10,000 pods are listed, at once and in
//! pages of 500.

mod watchers;
mod work;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_tests::alone::Alone;
use bowline_tests::api::connect;
use bowline_tests::server::Server;
use futures::{StreamExt, TryStreamExt};
use kube::api::{ListParams, PostParams};
use kube::core::Request;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use bowline_figures::results::{Better, Figure, Relation, median, quantile};
use bowline_figures::screen::Screen;
use watchers::Watchers;
use work::{Turn, Work, turn};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; in each, every number of clients has its turn with everything
    #[arg(long, value_name = "COUNT", default_value_t = 9)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long a turn lasts, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 500)]
    turn: u64,
    /// How many watchers the largest fan-out has
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=5_000))]
    watchers: u32,
    /// How many changes they are told in a round
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
    /// How many pods are listed
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pods: u32,
}

impl Options {
    pub(crate) fn parameters(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("rounds", json!(self.rounds)),
            ("turn_milliseconds", json!(self.turn)),
            ("watchers", json!(self.watchers)),
            ("changes", json!(self.changes)),
            ("pods", json!(self.pods)),
        ]
    }
}

const CLIENTS: [usize; 3] = [1, 16, 256];
/// So that the server turns none of them away: what is measured is how it answers.
const PLACES: [&str; 4] =
    ["--max-requests-inflight", "2000", "--max-mutating-requests-inflight", "1000"];
const PODS: &str = "/api/v1/namespaces/default/pods";
const PAGE: u32 = 500;
const AT_ONCE: usize = 32;
const OPERATIONS: &str = "operations a second";
const DURABLE: &str = "durable writes to a file";

/// Starts a server and measures.
pub(crate) async fn measure(
    options: &Options,
    alone: &Alone,
    screen: &Screen,
) -> Result<Vec<Figure>> {
    many_files()?;
    screen.begin("starting a server and its clients");
    let directory = alone.directory()?;
    let mut server = Server::start_with(directory.path(), &PLACES)?;
    server.client().await?;
    let most = CLIENTS[CLIENTS.len() - 1].max(options.watchers as usize);
    let mut clients = Vec::new();
    for _ in 0..most {
        clients.push(connect(&server.kubeconfig()).await?);
    }
    work::prepare(&clients[..CLIENTS[CLIENTS.len() - 1]]).await?;
    let stage = Stage { options, screen, clients };
    let mut figures = stage.requests(directory.path()).await?;
    figures.extend(stage.fan_out().await?);
    figures.extend(stage.lists().await?);
    Ok(figures)
}

/// A connection is a file here and one in the server, which inherits the limit.
fn many_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the number of open files")
}

struct Stage<'a> {
    options: &'a Options,
    screen: &'a Screen,
    clients: Vec<kube::Client>,
}

/// What was found of one kind of question with one number of clients: a sample a round.
struct Found {
    work: Work,
    clients: usize,
    rates: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Found {
    fn new(work: Work, clients: usize) -> Self {
        Self { work, clients, rates: Vec::new(), p50: Vec::new(), p99: Vec::new() }
    }

    fn name(&self) -> String {
        name(&self.work.name(), self.clients)
    }

    fn add(&mut self, turn: &Turn) {
        self.rates.push(turn.a_second);
        self.p50.push(median(&turn.times));
        self.p99.push(quantile(&turn.times, 0.99));
    }
}

fn name(what: &str, clients: usize) -> String {
    format!("{what}, {clients} {}", if clients == 1 { "client" } else { "clients" })
}

fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}

impl Stage<'_> {
    async fn requests(&self, directory: &Path) -> Result<Vec<Figure>> {
        let length = Duration::from_millis(self.options.turn);
        let mut all: Vec<Found> = CLIENTS
            .iter()
            .flat_map(|clients| Work::ALL.map(|work| Found::new(work, *clients)))
            .collect();
        let (mut durable, mut turns) = (Vec::new(), 0);
        for round in 0..=self.options.rounds {
            self.screen.begin(match round {
                0 => "requests: connecting and warming up".to_owned(),
                round => format!("requests: round {round} of {}", self.options.rounds),
            });
            let written = tokio::task::block_in_place(|| write_durably(directory, length))?;
            for found in &mut all {
                turns += 1;
                let seen = turn(found.work, &self.clients[..found.clients], length, turns).await?;
                if found.work == Work::Create {
                    work::clear(&self.clients[0]).await?;
                }
                if round > 0 {
                    found.add(&seen);
                }
            }
            if round > 0 {
                durable.push(written);
            }
        }
        Ok(figures(&all, &durable))
    }

    async fn fan_out(&self) -> Result<Vec<Figure>> {
        let mut counts: Vec<usize> = CLIENTS.to_vec();
        counts.push(self.options.watchers as usize);
        counts.sort_unstable();
        counts.dedup();
        let mut last: Vec<Vec<f64>> = vec![Vec::new(); counts.len()];
        let (mut middle, mut events) = (last.clone(), last.clone());
        for round in 1..=self.options.rounds {
            for (place, count) in counts.iter().enumerate() {
                self.screen.begin(format!(
                    "changes told to {count} watchers: round {round} of {}",
                    self.options.rounds
                ));
                let clients = &self.clients[..*count];
                let mut watchers = Watchers::begin(clients, &self.clients[0]).await?;
                // The first one finds connections that never carried an event.
                watchers.change().await?;
                let (mut lasts, mut middles) = (Vec::new(), Vec::new());
                let start = Instant::now();
                for _ in 0..self.options.changes {
                    let times = watchers.change().await?;
                    lasts.push(quantile(&times, 1.0));
                    middles.push(median(&times));
                }
                let told = f64::from(self.options.changes) * *count as f64;
                events[place].push(told / start.elapsed().as_secs_f64());
                last[place].push(median(&lasts));
                middle[place].push(median(&middles));
            }
        }
        let mut figures = Vec::new();
        for (place, count) in counts.iter().enumerate() {
            let watchers = if *count == 1 { "watcher" } else { "watchers" };
            let name = format!("one change told to {count} {watchers}");
            let of = |what: &str, samples: &Vec<f64>| {
                Figure::new(format!("{name}, {what}"), "ms", Better::Less, samples.clone())
            };
            figures.push(of("write to the last of them", &last[place]));
            figures.push(of("write to the middle one", &middle[place]));
            let name = format!("{name}, events");
            figures.push(Figure::new(name, OPERATIONS, Better::More, events[place].clone()));
            if place > 0 {
                let other = format!("{} watcher, as many changes", counts[0]);
                let name = format!("one change told to {count} {watchers}, to {other}");
                let samples = ratios(&last[place], &last[0]);
                let figure = Figure::new(name, "ratio", Better::Less, samples);
                figures.push(figure.beside(&other, Relation::Ratio).from("ms", &last[place]));
            }
        }
        Ok(figures)
    }

    async fn lists(&self) -> Result<Vec<Figure>> {
        let count = self.options.pods;
        self.screen.begin(format!("making {count} pods"));
        let start = Instant::now();
        let made = futures::stream::iter(0..count).map(|number| async move {
            let client = &self.clients[number as usize % AT_ONCE];
            let request = Request::new(PODS).create(&PostParams::default(), pod(number))?;
            client.request_text(request).await?;
            anyhow::Ok(())
        });
        made.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        let made = f64::from(count) / start.elapsed().as_secs_f64();
        let (mut whole, mut paged, mut bytes) = (Vec::new(), Vec::new(), 0);
        for round in 0..=self.options.rounds {
            self.screen.begin(format!("listing {count} pods"));
            for (page, times) in [(None, &mut whole), (Some(PAGE), &mut paged)] {
                let start = Instant::now();
                let bodies = list(&self.clients[0], page).await?;
                let took = start.elapsed().as_secs_f64() * 1e3;
                let listed = items(&bodies)?;
                ensure!(listed == count as usize, "{listed} of {count} pods in pages of {page:?}");
                if round > 0 {
                    times.push(took);
                }
                if page.is_none() {
                    bytes = bodies.iter().map(|body| body.as_ref().len()).sum();
                }
            }
        }
        let rates = whole.iter().map(|took| bytes as f64 / (took / 1e3)).collect();
        let name = format!("list of {count} pods");
        let pages = format!("the same in pages of {PAGE}");
        let ratio = Figure::new(
            format!("{name}, to {pages}"),
            "ratio",
            Better::Less,
            ratios(&whole, &paged),
        );
        Ok(vec![
            Figure::new(
                format!("{count} pods made, {AT_ONCE} at once"),
                OPERATIONS,
                None,
                vec![made],
            ),
            Figure::new(name.clone(), "ms", Better::Less, whole.clone()),
            Figure::new(format!("{name}, in pages of {PAGE}"), "ms", Better::Less, paged),
            Figure::new(format!("{name}, how large"), "MB", None, vec![bytes as f64 / 1e6]),
            Figure::new(format!("{name}, how fast"), "bytes a second", Better::More, rates),
            ratio.beside(&pages, Relation::Ratio).from("ms", &whole),
        ])
    }
}

/// Each beside its limit, and the many beside the one.
fn figures(all: &[Found], durable: &[f64]) -> Vec<Figure> {
    let find = |work: Work, clients: usize| {
        all.iter().find(|found| (found.work, found.clients) == (work, clients))
    };
    let mut figures = vec![Figure::new(DURABLE, OPERATIONS, None, durable.to_vec())];
    for found in all {
        let ours = Some(Better::More).filter(|_| found.work != Work::Version);
        let limit = match found.work {
            Work::Version => None,
            work if work.is_write() => Some((DURABLE.to_owned(), durable)),
            _ => find(Work::Version, found.clients).map(|limit| (limit.name(), &limit.rates[..])),
        };
        let mut beside = |other: &str, theirs: &[f64]| {
            let name = format!("{}, to {other}", found.name());
            let figure = Figure::new(name, "ratio", ours, ratios(&found.rates, theirs));
            figures.push(figure.beside(other, Relation::Ratio).from(OPERATIONS, &found.rates));
        };
        if let Some((other, theirs)) = limit {
            beside(&other, theirs);
        }
        if let Some(one) = find(found.work, 1).filter(|_| found.clients > 1) {
            beside(&one.name(), &one.rates);
        }
        let figure = |what: &str, unit: &str, better, samples: &[f64]| {
            Figure::new(format!("{}{what}", found.name()), unit, better, samples.to_vec())
        };
        let less = ours.map(|_| Better::Less);
        figures.push(figure("", OPERATIONS, ours, &found.rates));
        figures.push(figure(", p50", "ms", less, &found.p50));
        figures.push(figure(", p99", "ms", less, &found.p99));
    }
    figures
}

/// How often a second what a client sends can be made durable in a file, one after the other.
fn write_durably(directory: &Path, length: Duration) -> Result<f64> {
    let bytes = work::written();
    let mut file = File::create(directory.join("durable"))?;
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < length {
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// A pod that nobody places.
fn pod(number: u32) -> Vec<u8> {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("web-5d8f9c7b6-{number:05}"),
            "labels": { "app": "web", "pod-template-hash": "5d8f9c7b6" },
            "annotations": { "example.org/config": "x".repeat(200) },
        },
        "spec": {
            "schedulerName": "nobody",
            "containers": [{
                "name": "web", "image": "registry.example.org/web:v1",
                "env": [{ "name": "LEVEL", "value": "info" }],
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } },
                "readinessProbe": { "httpGet": { "path": "/readyz", "port": 8080 } },
            }],
        },
    })
    .to_string()
    .into_bytes()
}

/// Lists all pods, at once or in pages: the answers.
async fn list(client: &kube::Client, page: Option<u32>) -> Result<Vec<impl AsRef<[u8]>>> {
    let (mut bodies, mut params) = (Vec::new(), ListParams { limit: page, ..Default::default() });
    loop {
        let body = work::answer(client, Request::new(PODS).list(&params)?).await?;
        let next = page.and_then(|_| next_page(body.as_ref()));
        bodies.push(body);
        let Some(next) = next else { return Ok(bodies) };
        params.continue_token = Some(next);
    }
}

/// How many there are in all these lists.
fn items(lists: &[impl AsRef<[u8]>]) -> Result<usize> {
    #[derive(Deserialize)]
    struct List {
        items: Vec<IgnoredAny>,
    }
    let mut count = 0;
    for list in lists {
        let List { items } = serde_json::from_slice(list.as_ref()).context("no list")?;
        count += items.len();
    }
    Ok(count)
}

/// Where the next page begins: the list's own metadata come before its items.
fn next_page(body: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(body.get(..body.len().min(1_000))?).into_owned();
    let (_, rest) = head.split_once("\"continue\":\"")?;
    Some(rest.split_once('"')?.0.to_owned()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_beside_version_writes_beside_a_file_and_many_beside_one() {
        let found = |work, clients, rate: f64| Found {
            rates: vec![rate; 5],
            p50: vec![1.0; 5],
            p99: vec![2.0; 5],
            ..Found::new(work, clients)
        };
        let all = [
            found(Work::Version, 1, 10.0),
            found(Work::Get, 1, 5.0),
            found(Work::Create, 1, 8.0),
            found(Work::Version, 16, 40.0),
            found(Work::Get, 16, 30.0),
        ];
        let figures = figures(&all, &[4.0; 5]);
        let ratio = |name: &str| {
            let found = figures.iter().find(|figure| figure.name == name);
            found.map(|figure| figure.median)
        };
        assert_eq!(ratio("get, 1 client, to /version, 1 client"), Some(0.5));
        assert_eq!(ratio("get, 16 clients, to /version, 16 clients"), Some(0.75));
        assert_eq!(ratio("get, 16 clients, to get, 1 client"), Some(6.0));
        assert_eq!(ratio("create, 1 client, to durable writes to a file"), Some(2.0));
        assert_eq!(ratio("create, 1 client, p99"), Some(2.0));
        let mut names: Vec<_> = figures.iter().map(|figure| &figure.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), figures.len(), "each name once");
    }

    #[test]
    fn what_pages_hold_is_counted_and_what_is_no_list_is_an_error() {
        let list = |count: usize| json!({ "metadata": {}, "items": vec![json!({}); count] });
        let pages = [list(500), list(3)].map(|list| list.to_string());
        assert_eq!(items(&pages).unwrap(), 503);
        assert!(items(&[json!({ "kind": "Status" }).to_string()]).is_err());
    }

    #[test]
    fn the_next_page_is_in_the_lists_metadata() {
        let list = |metadata: Value| json!({ "metadata": metadata, "items": [] }).to_string();
        let more = list(json!({ "continue": "abc", "resourceVersion": "7" }));
        assert_eq!(next_page(more.as_bytes()), Some("abc".to_owned()));
        let last = list(json!({ "resourceVersion": "7" }));
        assert_eq!(next_page(last.as_bytes()), None);
        assert_eq!(next_page(list(json!({ "continue": "" })).as_bytes()), None);
    }
}
