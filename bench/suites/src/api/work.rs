//! What clients ask of the server, each in a loop: the next question when the answer is there.
//!
//! Answers are read to their end and not decoded: the clients share the machine with the server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::{GetParams, ListParams, PostParams};
use kube::client::Body;
use kube::core::Request;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Objects that every client works with.
const OBJECTS: &str = "/api/v1/namespaces/default/configmaps";
/// Those that are listed; nobody changes them.
const LISTED: &str = "/api/v1/namespaces/listed/configmaps";
/// How many are listed.
pub(crate) const LIST: u32 = 100;
/// Bytes of what an object holds.
const PAYLOAD: usize = 1_000;

/// One kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// An answer that needs neither the store nor the cache: the limit.
    Version,
    Get,
    List,
    Create,
    Update,
}

impl Work {
    pub(crate) const ALL: [Self; 5] =
        [Self::Version, Self::Get, Self::List, Self::Create, Self::Update];

    pub(crate) fn name(self) -> String {
        match self {
            Self::Version => "/version".to_owned(),
            Self::Get => "get".to_owned(),
            Self::List => format!("list of {LIST}"),
            Self::Create => "create".to_owned(),
            Self::Update => "update".to_owned(),
        }
    }

    pub(crate) fn is_write(self) -> bool {
        matches!(self, Self::Create | Self::Update)
    }

    /// Asks once, as client `number` does for the time `count`; how many bytes the answer had.
    async fn ask(self, client: &kube::Client, number: usize, count: u64) -> Result<usize> {
        let (get, list, post) =
            (GetParams::default(), ListParams::default(), PostParams::default());
        let objects = Request::new(OBJECTS);
        let request = match self {
            Self::Version => Request::new("").get("version", &get)?,
            Self::Get => objects.get(&own(number), &get)?,
            Self::List => Request::new(LISTED).list(&list)?,
            Self::Create => objects.create(&post, object(&made(number, count), count))?,
            Self::Update => {
                let name = own(number);
                let body = object(&name, count);
                objects.replace(&name, &post, body)?
            }
        };
        let answer = answer(client, request).await.with_context(|| self.name())?;
        Ok(answer.as_ref().len())
    }
}

/// What the server answers, as it came. An error if it refuses.
pub(super) async fn answer(
    client: &kube::Client,
    request: http::Request<Vec<u8>>,
) -> Result<impl AsRef<[u8]>> {
    let response = client.send(request.map(Body::from)).await?;
    let status = response.status();
    let bytes = response.into_body().collect_bytes().await?;
    ensure!(status.is_success(), "{status}: {}", text(&bytes));
    Ok(bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(300).collect()
}

/// The object that a client gets and updates.
fn own(number: usize) -> String {
    format!("own-{number}")
}

/// One that a client makes.
fn made(number: usize, count: u64) -> String {
    format!("made-{number}-{count}")
}

/// A config map as JSON. Two with different counts differ.
pub(crate) fn object(name: &str, count: u64) -> Vec<u8> {
    let what = if name.starts_with("made") { "made" } else { "kept" };
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "labels": { "bench": what } },
        "data": { "count": count.to_string(), "text": "x".repeat(PAYLOAD) },
    })
    .to_string()
    .into_bytes()
}

/// The bytes that a write sends.
pub(crate) fn written() -> Vec<u8> {
    object(&made(0, 0), 0)
}

/// Makes what is read and updated.
pub(crate) async fn prepare(clients: &[kube::Client]) -> Result<()> {
    let client = clients.first().context("no clients")?;
    let post = PostParams::default();
    let namespace = json!({ "metadata": { "name": "listed" } }).to_string().into_bytes();
    client.request_text(Request::new("/api/v1/namespaces").create(&post, namespace)?).await?;
    for number in 0..LIST {
        let body = object(&format!("kept-{number}"), 0);
        client.request_text(Request::new(LISTED).create(&post, body)?).await?;
    }
    for (number, client) in clients.iter().enumerate() {
        let body = object(&own(number), 0);
        client.request_text(Request::new(OBJECTS).create(&post, body)?).await?;
    }
    Ok(())
}

/// Removes what was made: each turn finds as many objects as the one before.
pub(crate) async fn clear(client: &kube::Client) -> Result<()> {
    let made = ListParams::default().labels("bench=made");
    let request = Request::new(OBJECTS).delete_collection(&Default::default(), &made)?;
    client.request_text(request).await?;
    Ok(())
}

/// What all clients together saw in one turn.
#[derive(Default)]
pub(crate) struct Turn {
    pub(crate) a_second: f64,
    /// Milliseconds of each answer.
    pub(crate) times: Vec<f64>,
}

/// The revision of what was written last.
async fn revision(client: &kube::Client) -> Result<u64> {
    let request = Request::new(OBJECTS).list(&ListParams::default().limit(1))?;
    let list: Value = client.request(request).await?;
    let revision = list["metadata"]["resourceVersion"].as_str();
    Ok(revision.context("a list without a revision")?.parse()?)
}

/// Every client asks for so long. What it writes is new in each turn, and whether the server wrote
/// all of it is looked at afterwards: it writes nothing when it is told what it has.
pub(crate) async fn turn(
    work: Work,
    clients: &[kube::Client],
    length: Duration,
    turn: u32,
) -> Result<Turn> {
    let client = clients.first().context("no clients")?;
    let before = if work.is_write() { revision(client).await? } else { 0 };
    let start = Instant::now();
    let mut asking = JoinSet::new();
    for (number, client) in clients.iter().cloned().enumerate() {
        asking.spawn(async move {
            let mut times = Vec::new();
            while start.elapsed() < length {
                let asked = Instant::now();
                let count = (u64::from(turn) << 32) + times.len() as u64;
                work.ask(&client, number, count).await?;
                times.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = asking.join_next().await {
        times.extend(done??);
    }
    let a_second = times.len() as f64 / start.elapsed().as_secs_f64();
    if work.is_write() {
        let written = revision(client).await?.saturating_sub(before);
        let asked = times.len();
        ensure!(written >= asked as u64, "{}: {written} of {asked} were written", work.name());
    }
    Ok(Turn { a_second, times })
}
