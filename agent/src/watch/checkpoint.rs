//! What the API said last, in files, for an agent that starts while the API is away.
//!
//! Guarantees: a file is replaced whole; pods are written before anything is done about them, so
//! what runs is in the file. Objects are as stripped as they are in memory. After a reboot nothing
//! of what the files say is on the node any more: they are kept by the boot they were written in,
//! and those of another boot are not read. They are never read once the API has answered.
//! Not here: service maps, which are pinned and newer than any file; see [`Watched::restore`].

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Node;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Watched;

/// Directory below the agent's run directory. It has one for the files of each boot.
pub(crate) const DIRECTORY: &str = "known";

/// What names this boot of the kernel (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

const PODS: &str = "pods.json";
const NODES: &str = "nodes.json";
const SERVICES: &str = "services.json";
const SLICES: &str = "slices.json";

/// How long changes of nodes and services are gathered: a write of ten thousand services takes
/// part of a second.
const GATHER: Duration = Duration::from_secs(1);

/// The files.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    dir: PathBuf,
}

impl Checkpoint {
    pub(crate) fn below(run_dir: &Path) -> Self {
        // Where a boot has no name, every agent has files of its own.
        let boot = fs::read_to_string(BOOT_ID);
        Self::of_boot(run_dir, boot.unwrap_or_else(|_| std::process::id().to_string()).trim())
    }

    fn of_boot(run_dir: &Path, boot: &str) -> Self {
        Self { dir: run_dir.join(DIRECTORY).join(boot) }
    }

    /// Writes the pods of this node.
    pub(crate) async fn save_pods(&self, watched: &Watched) {
        let pods = watched.pods.all();
        self.save(PODS, move |out| lines(out, pods.iter().map(AsRef::as_ref))).await;
    }

    async fn save_nodes(&self, watched: &Watched) {
        let nodes = watched.nodes.all();
        self.save(NODES, move |out| lines(out, nodes.iter().map(AsRef::as_ref))).await;
    }

    async fn save_services(&self, watched: &Watched) {
        let (services, slices) = watched.services.held();
        self.save(SERVICES, move |out| lines(out, services.iter().map(AsRef::as_ref))).await;
        self.save(SLICES, move |out| lines(out, slices.iter())).await;
    }

    async fn save<W>(&self, name: &'static str, write: W)
    where
        W: FnOnce(&mut BufWriter<File>) -> io::Result<()> + Send + 'static,
    {
        let dir = self.dir.clone();
        let work = tokio::task::spawn_blocking(move || {
            replace(&dir, name, write)?;
            remove_others(&dir)
        });
        // A panic is reported by the runtime.
        if let Ok(Err(error)) = work.await {
            tracing::warn!(%error, dir = %self.dir.display(), "what the API said is not kept");
        }
    }

    /// The nodes as they were last seen; none when that is not known.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        self.load(NODES).unwrap_or_default()
    }

    /// Reads one kind; none when there is no sound file.
    fn load<K: DeserializeOwned>(&self, name: &str) -> Option<Vec<K>> {
        let path = self.dir.join(name);
        let file = BufReader::new(File::open(&path).ok()?);
        let objects: Result<Vec<K>, io::Error> =
            file.lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect();
        objects
            .inspect_err(|error| tracing::warn!(%error, "{} is not readable", path.display()))
            .ok()
    }
}

fn lines<'a, K: Serialize + 'a>(
    out: &mut BufWriter<File>,
    objects: impl Iterator<Item = &'a K>,
) -> io::Result<()> {
    for object in objects {
        serde_json::to_writer(&mut *out, object)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn replace(
    dir: &Path,
    name: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    // Pods have environments, and these may hold secrets.
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let fresh = dir.join(format!("{name}.new"));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh);
    let mut out = BufWriter::new(file?);
    write(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?;
    fs::rename(fresh, dir.join(name))
}

/// Removes what lies beside this directory: files of other boots.
fn remove_others(dir: &Path) -> io::Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        if path != dir {
            // Another task may be at it, too.
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }
    Ok(())
}

/// Writes nodes and services after they changed, until `shutdown`.
pub(crate) async fn keep(
    watched: Arc<Watched>,
    checkpoint: Checkpoint,
    shutdown: CancellationToken,
) {
    let synced = watched.synced();
    if shutdown.run_until_cancelled(synced).await.is_none() {
        return;
    }
    let (mut nodes, mut services) = (watched.nodes.changes(), watched.services.changes());
    nodes.mark_changed();
    services.mark_changed();
    while !shutdown.is_cancelled() {
        if nodes.has_changed().unwrap_or(false) {
            nodes.mark_unchanged();
            checkpoint.save_nodes(&watched).await;
        }
        let start = Instant::now();
        if services.has_changed().unwrap_or(false) {
            services.mark_unchanged();
            checkpoint.save_services(&watched).await;
        }
        // However many services there are, writing them is a small part of the time.
        let pause = GATHER.max(start.elapsed() * 20);
        let _ = shutdown.run_until_cancelled(sleep(pause)).await;
    }
}

impl Watched {
    /// Takes over what an agent before this one knew, until the API answers. Says whether there
    /// was anything. Nothing is taken for synced by it: what only the API may decide, such as
    /// which services are in the maps, waits.
    pub(crate) fn restore(&self, checkpoint: &Checkpoint) -> bool {
        let (Some(pods), Some(nodes)) = (checkpoint.load(PODS), checkpoint.load(NODES)) else {
            return false;
        };
        let (Some(services), Some(slices)) = (checkpoint.load(SERVICES), checkpoint.load(SLICES))
        else {
            return false;
        };
        self.pods.restore(pods);
        self.nodes.restore(nodes);
        self.services.restore(services, slices);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Node, Pod, Service};
    use kube::{ResourceExt, runtime::watcher::Event};
    use serde_json::json;

    fn named<K: DeserializeOwned>(name: &str) -> K {
        let metadata = json!({ "name": name, "namespace": "default", "resourceVersion": "7" });
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    async fn saved(checkpoint: &Checkpoint) -> Watched {
        let watched = Watched::empty();
        watched.pods.take(Event::Apply(named::<Pod>("p")));
        watched.nodes.take(Event::Apply(named::<Node>("n")));
        watched.services.take_service(Event::Apply(named::<Service>("s")));
        checkpoint.save_pods(&watched).await;
        checkpoint.save_nodes(&watched).await;
        checkpoint.save_services(&watched).await;
        watched
    }

    #[tokio::test]
    async fn what_was_known_is_known_again_and_not_taken_for_the_apis_word() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::below(dir.path());
        assert!(!Watched::empty().restore(&checkpoint), "nothing was saved yet");
        let before = saved(&checkpoint).await;
        let watched = Watched::empty();
        assert!(watched.restore(&checkpoint));
        assert_eq!(watched.pods.all(), before.pods.all());
        assert_eq!(watched.nodes.all(), before.nodes.all());
        assert!(watched.services.get("default", "s").is_some());
        let synced = tokio::time::timeout(Duration::from_millis(20), watched.synced());
        assert!(synced.await.is_err());
    }

    #[tokio::test]
    async fn a_list_that_says_the_same_changes_nothing_and_one_that_differs_wins() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::below(dir.path());
        saved(&checkpoint).await;
        let watched = Watched::empty();
        assert!(watched.restore(&checkpoint));
        let list = |names: &[&str]| {
            watched.services.take_service(Event::Init);
            for name in names {
                watched.services.take_service(Event::InitApply(named(name)));
            }
            watched.services.take_service(Event::InitDone);
            watched.services.take_slice(Event::Init);
            watched.services.take_slice(Event::InitDone);
        };
        list(&["s"]);
        assert!(watched.services.take_changed().0.is_empty());
        list(&["t"]);
        let names: Vec<String> =
            watched.services.take_changed().0.into_iter().map(|key| key.name.to_string()).collect();
        assert_eq!(names, ["s", "t"]);
        watched.pods.take(Event::Init);
        watched.pods.take(Event::InitApply(named("q")));
        watched.pods.take(Event::InitDone);
        let pods: Vec<String> = watched.pods.all().iter().map(|pod| pod.name_any()).collect();
        assert_eq!(pods, ["q"]);
    }

    #[tokio::test]
    async fn what_was_known_before_a_reboot_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let [before, after] = ["1", "2"].map(|boot| Checkpoint::of_boot(dir.path(), boot));
        saved(&before).await;
        assert!(!Watched::empty().restore(&after));
        assert!(Watched::empty().restore(&before));
        after.save_pods(&Watched::empty()).await;
        assert!(!before.dir.exists() && after.dir.exists());
        assert!(Checkpoint::below(dir.path()).dir.parent() == after.dir.parent());
    }

    #[tokio::test]
    async fn a_damaged_file_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::below(dir.path());
        saved(&checkpoint).await;
        fs::write(checkpoint.dir.join(PODS), "{\"metadata\":").unwrap();
        assert!(!Watched::empty().restore(&checkpoint));
    }
}
