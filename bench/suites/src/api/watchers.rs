//! Clients that watch, and one change that all of them are told.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use kube::api::{GetParams, PostParams, WatchParams};
use kube::core::Request;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use super::work::object;

const OBJECTS: &str = "/api/v1/namespaces/default/configmaps";
const WATCHED: &str = "watched";
const PATIENCE: Duration = Duration::from_secs(30);
/// How many begin to watch at once.
const AT_ONCE: usize = 64;

/// Watches that are open, a connection each. They end with this value.
pub(crate) struct Watchers {
    count: usize,
    told: UnboundedReceiver<Instant>,
    running: JoinSet<Result<()>>,
    writer: kube::Client,
    version: u64,
}

impl Watchers {
    /// Every client watches the one object, from now on.
    pub(crate) async fn begin(clients: &[kube::Client], writer: &kube::Client) -> Result<Self> {
        let revision = revision(writer).await?;
        let fields = format!("metadata.name={WATCHED}");
        let params = WatchParams::default().fields(&fields).disable_bookmarks();
        let opened = futures::stream::iter(clients).map(async |client| {
            let request = Request::new(OBJECTS).watch(&params, &revision)?;
            anyhow::Ok(client.request_stream(request).await?)
        });
        let opened: Vec<_> = opened.buffer_unordered(AT_ONCE).try_collect().await?;
        let (tell, told) = unbounded_channel();
        let mut running = JoinSet::new();
        for stream in opened {
            let tell = tell.clone();
            running.spawn(async move {
                let mut lines = Box::pin(stream).lines();
                while let Some(line) = lines.try_next().await? {
                    let now = Instant::now();
                    if !line.contains("\"MODIFIED\"") {
                        bail!("a watcher was told {}", line.chars().take(300).collect::<String>());
                    }
                    // Nobody listens any more when all of this ends.
                    let _ = tell.send(now);
                }
                bail!("a watch ended")
            });
        }
        let (count, writer) = (clients.len(), writer.clone());
        Ok(Self { count, told, running, writer, version: 0 })
    }

    /// Changes the object; milliseconds from the write until each of them was told, in order.
    pub(crate) async fn change(&mut self) -> Result<Vec<f64>> {
        self.version += 1;
        let body = object(WATCHED, self.version);
        let request = Request::new(OBJECTS).replace(WATCHED, &PostParams::default(), body)?;
        let start = Instant::now();
        let all = async {
            let mut times = Vec::new();
            while times.len() < self.count {
                let told = tokio::select! {
                    told = self.told.recv() => told.context("nobody watches")?,
                    Some(ended) = self.running.join_next() => return Err(match ended? {
                        Ok(()) => anyhow::anyhow!("a watcher went"),
                        Err(error) => error,
                    }),
                };
                times.push((told - start).as_secs_f64() * 1e3);
            }
            Ok(times)
        };
        let told = tokio::time::timeout(PATIENCE, all);
        let (written, told) = tokio::join!(self.writer.request_text(request), told);
        written?;
        told.context("not all watchers were told")?
    }
}

/// Makes the object that is watched, unless it is there; the revision of now.
async fn revision(writer: &kube::Client) -> Result<String> {
    let make = Request::new(OBJECTS).create(&PostParams::default(), object(WATCHED, 0))?;
    // The second time it is there already.
    drop(writer.request_text(make).await);
    let got = Request::new(OBJECTS).get(WATCHED, &GetParams::default())?;
    let object: Value = writer.request(got).await?;
    let revision = object["metadata"]["resourceVersion"].as_str();
    Ok(revision.context("an object without a revision")?.to_owned())
}
