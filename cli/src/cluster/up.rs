//! `bowline up`: makes a local cluster.
//!
//! Guarantees: `cluster.json` says everything that will be made before anything is; when a step
//! fails or the user interrupts, everything made is removed again. What does not depend on each
//! other starts at the same time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::place::{Place, register};
use super::plan::{Plan, plan};
use super::preflight::{self, NotPossible};
use super::process::start;
use super::progress::Progress;
use super::ready::Limit;
use super::record::Record;
pub(crate) use super::spec::Args as Wishes;
use super::{cgroups, containerd, down, mounts, namespaces, ready};
use crate::output;

/// Makes the cluster and prints how to use it.
pub(crate) fn run(wishes: &Wishes) -> anyhow::Result<()> {
    let place = wishes.check()?;
    let machine = preflight::check(&place, wishes)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let plan = plan(&place, wishes, &machine.cgroup_root);
    // Before anything is made: much of it is made without a pause in which to listen.
    let mut interruption = {
        let _inside = runtime.enter();
        Interruption::listen().context("cannot listen for signals")?
    };
    claim(&place)?;
    let progress = Progress::new();
    let made = runtime.block_on(async {
        tokio::select! {
            made = make(&place, wishes, &plan, &machine.cgroup_root, &progress) => made,
            () = interruption.came() => bail!("interrupted: everything made so far is removed"),
        }
    });
    progress.finish();
    if let Err(error) = made {
        if let Err(left) = down::remove(&place) {
            bail!("{error:#}; and cleaning up failed: {left:#}");
        }
        return Err(error);
    }
    Ok(print_how_to_use(&place, &plan, progress.elapsed())?)
}

/// Takes the name; of two at the same time one fails here.
fn claim(place: &Place) -> anyhow::Result<()> {
    match register(place) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let (name, dir) = (place.name.clone(), place.dir.clone());
            Err(NotPossible::Taken { name, dir }.into())
        }
        other => other.context("cannot enter the cluster into /run/bowline/clusters"),
    }
}

/// SIGINT and SIGTERM, also those that come while nobody waits for them.
struct Interruption {
    interrupt: Signal,
    terminate: Signal,
}

impl Interruption {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn came(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

async fn make(
    place: &Place,
    wishes: &Wishes,
    plan: &Plan,
    cgroup_root: &Path,
    progress: &Progress,
) -> anyhow::Result<()> {
    let limit = Limit::new(wishes.timeout);
    progress.doing("making directories".to_owned());
    make_directories(place, plan)?;
    for group in &plan.cgroups {
        cgroups::make(cgroup_root, group)?;
    }
    containerd::write_config(place)?;
    let mut runtime = start(&plan.containerd, cgroup_root)?;
    progress.doing("making namespaces and links".to_owned());
    namespaces::make_all(plan)?;
    for node in &plan.nodes {
        mounts::make_bpffs(&node.bpffs)?;
    }
    progress.done(&format!("{} network namespaces, joined by a bridge", plan.nodes.len() + 1));

    let mut server = start(&plan.server, cgroup_root)?;
    progress.doing("waiting for the server".to_owned());
    let (kubeconfig, token_file) = (place.kubeconfig(), place.token_file());
    let socket = place.containerd_socket();
    let (client, ()) = tokio::try_join!(
        ready::server(&kubeconfig, &token_file, &mut server, limit),
        ready::socket(&socket, &mut runtime, limit),
    )?;
    progress.done("server and containerd answer");

    let mut processes = vec![runtime, server];
    for node in &plan.nodes {
        processes.push(start(&node.agent, cgroup_root)?);
    }
    let names: Vec<&str> = plan.nodes.iter().map(|node| node.agent.name.as_str()).collect();
    let nodes = ready::nodes(client, &names, &mut processes, progress, limit).await?;
    namespaces::lead_to_pods(plan, &nodes)?;
    progress.done("all nodes are ready");
    Ok(())
}

/// Makes the cluster's directory, writes the record, then makes the directories in it.
fn make_directories(place: &Place, plan: &Plan) -> anyhow::Result<()> {
    let make = |dir: &Path| {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
    };
    let mut wanted = vec![place.dir.as_path(), Path::new(namespaces::PINS)];
    wanted.extend(containerd::SHARED_DIRECTORIES.map(Path::new));
    let made_directories = absent(&wanted);
    make(&place.dir).context("--dir")?;
    let record = Record {
        name: place.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        made_directories,
        plan: plan.clone(),
    };
    record.write(place)?;
    plan.directories.iter().try_for_each(|dir| make(dir))
}

/// Those of the directories and their parents that are not there, each before its parent.
fn absent(wanted: &[&Path]) -> Vec<PathBuf> {
    let all = wanted.iter().flat_map(|dir| dir.ancestors());
    let mut absent: Vec<PathBuf> = all.filter(|dir| !dir.exists()).map(Path::to_path_buf).collect();
    // A directory sorts before what is in it.
    absent.sort();
    absent.reverse();
    absent.dedup();
    absent
}

fn print_how_to_use(
    place: &Place,
    plan: &Plan,
    took: Duration,
) -> Result<(), output::WriteOutputFailed> {
    let (name, count) = (&place.name, plan.nodes.len());
    let kubeconfig = place.kubeconfig();
    let nodes = if count == 1 { "1 node" } else { &format!("{count} nodes") };
    let first = plan.nodes.first().map_or("", |node| node.namespace.as_str());
    output::text(&format!(
        "cluster {name} is up: {nodes} ready in {:.1} s

  kubeconfig    {}
  use it        bowline get nodes --name {name}
                kubectl --kubeconfig {} get nodes
  look inside   bowline status --name {name}
                bowline net services --name {name} --node node1
                ip netns exec {first} ip addr
  remove it     bowline down --name {name}
",
        took.as_secs_f64(),
        kubeconfig.display(),
        kubeconfig.display(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_directories_come_once_and_before_their_parents() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        let other = root.path().join("a/c");
        let absent = absent(&[&dir, &other, root.path()]);
        assert_eq!(absent.len(), 3);
        assert_eq!(absent.last(), Some(&root.path().join("a")));
    }
}
