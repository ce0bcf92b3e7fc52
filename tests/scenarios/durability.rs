//! SIGKILL of the server at any moment loses no write that it acknowledged, brings nothing back
//! that it said it deleted, and takes no revision back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::api::connect;
use bowline_tests::artifacts;
use bowline_tests::command::command;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, PostParams};

const KILLS: u64 = 50;
const WRITERS: u64 = 4;

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
        ensure!(!written.objects.is_empty(), "nothing was acknowledged before kill {round}");
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

struct Server {
    process: Child,
    directory: std::path::PathBuf,
}

impl Server {
    fn start(directory: &Path) -> Result<Self> {
        let kubeconfig = directory.join("kubeconfig");
        // Its return is the sign that the server is up, on the port that it took.
        drop(fs::remove_file(&kubeconfig));
        let log = fs::OpenOptions::new().create(true).append(true).open(directory.join("log"))?;
        let process = command(artifacts::bowline()?)
            // There are no nodes; an address of the documentation's range stands for theirs.
            .args(["server", "--listen", "127.0.0.1:0", "--advertise", "192.0.2.1:6443"])
            .arg("--data-dir")
            .arg(directory.join("data"))
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self { process, directory: directory.to_path_buf() })
    }

    async fn client(&mut self) -> Result<kube::Client> {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if let Some(status) = self.process.try_wait()? {
                let log = fs::read_to_string(self.directory.join("log"))?;
                bail!("the server ended with {status}:\n{log}");
            }
            if let Ok(client) = self.try_client().await {
                return Ok(client);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the server does not answer after 20 s")
    }

    async fn try_client(&self) -> Result<kube::Client> {
        let client = connect(&self.directory.join("kubeconfig")).await?;
        maps(&client).list(&ListParams::default().limit(1)).await?;
        Ok(client)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL, as in the test itself; it may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn maps(client: &kube::Client) -> kube::Api<ConfigMap> {
    kube::Api::namespaced(client.clone(), "default")
}

/// Writers at full speed; after a while, another one each round, the server is killed.
async fn write_until_killed(
    client: &kube::Client,
    server: &mut Server,
    round: u64,
) -> Result<Acknowledged> {
    let killed = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(client.clone(), round, writer, Arc::clone(&killed))))
        .collect();
    tokio::time::sleep(Duration::from_millis(60 + round * 37 % 100)).await;
    server.process.kill()?;
    killed.store(true, Ordering::SeqCst);
    server.process.wait()?;
    let mut all = Acknowledged::default();
    for writer in writers {
        all.extend(writer.await?);
    }
    Ok(all)
}

/// Create objects, change each once and delete every third, noting what was acknowledged.
async fn write(
    client: kube::Client,
    round: u64,
    writer: u64,
    killed: Arc<AtomicBool>,
) -> Acknowledged {
    let maps = maps(&client);
    let mut acknowledged = Acknowledged::default();
    for number in 0_u64.. {
        if killed.load(Ordering::SeqCst) {
            break;
        }
        let name = format!("r{round}-w{writer}-{number}");
        let mut map = with_value(ConfigMap::default(), 1);
        map.metadata.name = Some(name.clone());
        let Ok(created) = maps.create(&PostParams::default(), &map).await else { break };
        acknowledged.stored(&created, 1);
        let changed = with_value(created, 2);
        let replaced = maps.replace(&name, &PostParams::default(), &changed).await;
        let Ok(replaced) = replaced else { break };
        acknowledged.stored(&replaced, 2);
        if number.is_multiple_of(3) {
            acknowledged.objects.insert(name.clone(), State::Asked);
            if maps.delete(&name, &DeleteParams::default()).await.is_err() {
                break;
            }
            acknowledged.objects.insert(name, State::Deleted);
        }
    }
    acknowledged
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
