//! SIGKILL of the server at any moment loses no write that it acknowledged, brings nothing back
//! that it said it deleted, and takes no revision back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::Server;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, PostParams};
use tokio::task::JoinHandle;

const KILLS: u64 = 50;
const WRITERS: u64 = 4;
/// A server is not killed before it acknowledged so many writes.
const MIN_WRITES: u64 = 40;
const PATIENCE: Duration = Duration::from_secs(30);

/// What the server said about an object last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has this value.
    Stored(u64),
    /// It was asked to delete it and did not answer.
    Asked,
    /// It deleted it.
    Deleted,
}

/// What the server said it did.
#[derive(Default)]
struct Acknowledged {
    objects: BTreeMap<String, State>,
    /// The highest resourceVersion in any answer.
    revision: u64,
}

impl Acknowledged {
    fn stored(&mut self, map: &ConfigMap, value: u64) {
        self.objects.insert(map.metadata.name.clone().unwrap_or_default(), State::Stored(value));
        self.revision = self.revision.max(revision(map.metadata.resource_version.as_deref()));
    }

    fn extend(&mut self, more: Self) {
        self.objects.extend(more.objects);
        self.revision = self.revision.max(more.revision);
    }

    fn count(&self, state: State) -> usize {
        self.objects.values().filter(|&&other| other == state).count()
    }
}

fn revision(version: Option<&str>) -> u64 {
    version.and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_under_load_lose_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut acknowledged = Acknowledged::default();
    for round in 0..=KILLS {
        let mut server = Server::start(directory.path())?;
        let client = server.client().await.with_context(|| format!("after kill {round}"))?;
        check(&client, &acknowledged).await.with_context(|| format!("after kill {round}"))?;
        if round == KILLS {
            break;
        }
        let written = write_until_killed(&client, &mut server, round).await?;
        acknowledged.extend(written);
    }
    let deleted = acknowledged.count(State::Deleted);
    ensure!(deleted > 0, "no delete was acknowledged");
    println!(
        "{KILLS} kills: {} acknowledged objects, none lost; {deleted} of them deleted, none back; \
         {} deletes without an answer; last revision {}",
        acknowledged.objects.len(),
        acknowledged.count(State::Asked),
        acknowledged.revision
    );
    Ok(())
}

fn maps(client: &kube::Client) -> kube::Api<ConfigMap> {
    kube::Api::namespaced(client.clone(), "default")
}

/// Writers at full speed; after some writes, another number each round, the server is killed.
async fn write_until_killed(
    client: &kube::Client,
    server: &mut Server,
    round: u64,
) -> Result<Acknowledged> {
    let load = Arc::new(Load::default());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(client.clone(), round, writer, Arc::clone(&load))))
        .collect();
    let enough = MIN_WRITES + round * 37 % 100;
    let enough_or_failed = async {
        while load.done.load(Ordering::SeqCst) < enough
            && !writers.iter().any(JoinHandle::is_finished)
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, enough_or_failed).await;
    waited.with_context(|| format!("not {enough} writes in {PATIENCE:?}"))?;
    load.killed.store(true, Ordering::SeqCst);
    server.kill()?;
    let mut all = Acknowledged::default();
    for writer in writers {
        all.extend(writer.await??);
    }
    Ok(all)
}

/// What the writers of one round know of each other.
#[derive(Default)]
struct Load {
    /// How many writes were acknowledged.
    done: AtomicU64,
    /// Set before the server is killed: from then on connections may break.
    killed: AtomicBool,
}

impl Load {
    /// The answer to a write; `None` when the kill came first. Any other failure fails the test.
    fn answer<T>(&self, answer: kube::Result<T>) -> Result<Option<T>> {
        match answer {
            Ok(answer) => {
                self.done.fetch_add(1, Ordering::SeqCst);
                Ok(Some(answer))
            }
            Err(error) if matches!(error, kube::Error::Api(_)) => Err(error.into()),
            Err(_) if self.killed.load(Ordering::SeqCst) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Create objects, change each once and delete every third, noting what was acknowledged.
async fn write(
    client: kube::Client,
    round: u64,
    writer: u64,
    load: Arc<Load>,
) -> Result<Acknowledged> {
    let maps = maps(&client);
    let mut acknowledged = Acknowledged::default();
    for number in 0_u64.. {
        let name = format!("r{round}-w{writer}-{number}");
        let mut map = with_value(ConfigMap::default(), 1);
        map.metadata.name = Some(name.clone());
        let created = maps.create(&PostParams::default(), &map).await;
        let Some(created) = load.answer(created)? else { break };
        acknowledged.stored(&created, 1);
        let changed = with_value(created, 2);
        let replaced = maps.replace(&name, &PostParams::default(), &changed).await;
        let Some(replaced) = load.answer(replaced)? else { break };
        acknowledged.stored(&replaced, 2);
        if number.is_multiple_of(3) {
            acknowledged.objects.insert(name.clone(), State::Asked);
            let deleted = maps.delete(&name, &DeleteParams::default()).await;
            if load.answer(deleted)?.is_none() {
                break;
            }
            acknowledged.objects.insert(name, State::Deleted);
        }
    }
    Ok(acknowledged)
}

fn with_value(mut map: ConfigMap, value: u64) -> ConfigMap {
    map.data = Some([("value".to_owned(), value.to_string())].into());
    map
}

async fn check(client: &kube::Client, acknowledged: &Acknowledged) -> Result<()> {
    let list = maps(client).list(&ListParams::default()).await?;
    let now = revision(list.metadata.resource_version.as_deref());
    let highest = acknowledged.revision;
    ensure!(now >= highest, "the list is of revision {now}, {highest} was acknowledged");
    let stored: BTreeMap<String, u64> = list
        .items
        .into_iter()
        .filter_map(|map| {
            let value = map.data?.get("value")?.parse().ok()?;
            Some((map.metadata.name?, value))
        })
        .collect();
    for (name, state) in &acknowledged.objects {
        let found = stored.get(name);
        match state {
            // One more than acknowledged may have been stored: its answer was lost.
            State::Stored(value) => {
                ensure!(found >= Some(value), "{name}: acknowledged {value}, stored {found:?}");
            }
            State::Asked => {}
            State::Deleted => ensure!(found.is_none(), "{name} was deleted and is back"),
        }
    }
    Ok(())
}
