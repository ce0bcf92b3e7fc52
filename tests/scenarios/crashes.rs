//! Pods with containers come and go while the node's agent is killed again and again: nothing is
//! used twice meanwhile, what should be there is, and nothing is left of what went.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::api::{Api, Found, address, name, uid, wait};
use bowline_tests::command::{command, output};
use bowline_tests::load;
use bowline_tests::pod_network::run;
use bowline_tests::{Cluster, Node, Wishes};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const MOST: usize = 8;

/// How much has to happen.
#[derive(Clone, Copy)]
struct Goal {
    /// Pods that were made, had an address, and were deleted.
    cycles: usize,
    kills: u32,
    /// At least so long.
    time: Duration,
    /// Something happens so often.
    pace: Duration,
    /// An agent lives no longer, in milliseconds.
    longest_life: u64,
}

const USUAL: Goal = Goal {
    cycles: 5,
    kills: 5,
    time: Duration::from_secs(8),
    pace: Duration::from_millis(100),
    longest_life: 1_500,
};

/// With `cargo xtask test --thorough`.
const THOROUGH: Goal = Goal {
    cycles: 1_000,
    kills: 80,
    time: Duration::from_secs(60),
    pace: Duration::from_millis(20),
    longest_life: 4_000,
};

/// By then it must have happened.
const LATEST: Duration = Duration::from_secs(290);

fn goal() -> Goal {
    if std::env::var_os("BOWLINE_THOROUGH").is_some() { THOROUGH } else { USUAL }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn random_kills_of_an_agent_leave_nothing_behind_and_lose_nothing() -> Result<()> {
    let cluster = Cluster::up(&Wishes { nodes: 1, ..Wishes::default() })?;
    let played = play(&cluster).await;
    played.map_err(|error| cluster.with_logs(error))
}

async fn play(cluster: &Cluster) -> Result<()> {
    let (api, node) = (cluster.api().await?, &cluster.nodes[0]);
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let clean = traces(cluster, node)?;
    // The image is unpacked by the first pod, and stays.
    make_pod(&api, "first").await?;
    api.ready_pods("app=churn", 1, PATIENCE).await?;
    let with_one = traces(cluster, node)?;
    let own = with_one.difference(&clean).count();
    ensure!(own > 12, "the look sees too little of a pod: {with_one:#?}");
    remove_all(&api, ["first".to_owned()]).await?;
    nothing_left(cluster, node, &clean).await?;

    let sandboxes = cluster.dir.join("nodes").join(&node.name).join("run/sandboxes");
    let alive = BTreeSet::new();
    let mut churn =
        Churn { api: &api, node, sandboxes, alive, made: 0, cycles: 0, ended: 0, looks: 0 };
    let (goal, kills, over) = (goal(), AtomicU32::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    let (kills, played) = {
        let killing = kill_again_and_again(node, seed, goal.longest_life, &kills, &over);
        let playing = async {
            let played = churn.play(seed + 1, goal, &kills).await;
            over.store(true, Ordering::Relaxed);
            played
        };
        tokio::join!(killing, playing)
    };
    let took = begun.elapsed();
    let kills = kills.and_then(|kills| played.map(|()| kills))?;
    let start = Instant::now();
    let pods = api.ready_pods("app=churn", churn.alive.len(), PATIENCE).await;
    let pods = pods.map_err(|error| error.context(what_containerd_has(cluster, node)))?;
    cluster.agrees(PATIENCE).await?;
    println!(
        "{} pods in {:.1} s, {} deleted, {} of these with an address, {} containers killed, \
         {kills} kills of the agent; all {} left are Ready after {:.1} s",
        churn.made,
        took.as_secs_f64(),
        churn.made - pods.len(),
        churn.cycles,
        churn.ended,
        pods.len(),
        start.elapsed().as_secs_f64()
    );
    let enough = kills >= goal.kills && churn.cycles >= goal.cycles && churn.made > 2 * MOST;
    ensure!(enough && churn.looks > 20, "too little happened");
    for pod in &pods {
        let answers = load::requests(&node.place()?, (address(pod)?, 9376).into(), 1)?;
        answers.expect_no_failure(&name(pod))?;
        ensure!(answers.values("pod") == [name(pod)], "{} is {answers:?}", name(pod));
    }
    let running = containers_in_cgroups(node);
    let wanted: BTreeMap<String, usize> = pods.iter().map(|pod| (uid(pod), 1)).collect();
    ensure!(running == wanted, "containers that run: {running:?}, not {wanted:?}");
    remove_all(&api, churn.alive.clone()).await?;
    nothing_left(cluster, node, &clean).await
}

/// Pods that come and go.
struct Churn<'a> {
    api: &'a Api,
    node: &'a Node,
    /// The directory of the node's sandboxes.
    sandboxes: PathBuf,
    alive: BTreeSet<String>,
    made: usize,
    cycles: usize,
    ended: usize,
    looks: usize,
}

impl Churn<'_> {
    async fn play(&mut self, seed: u64, goal: Goal, kills: &AtomicU32) -> Result<()> {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut pace = tokio::time::interval(goal.pace);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let start = Instant::now();
        // How much happens in a while is chance; too little would show nothing.
        let enough = |it: &Self| {
            let done = it.cycles >= goal.cycles && kills.load(Ordering::Relaxed) >= goal.kills;
            done && it.made > 2 * MOST && start.elapsed() > goal.time
        };
        while !enough(self) && start.elapsed() < LATEST {
            pace.tick().await;
            let names: Vec<String> = self.alive.iter().cloned().collect();
            let victim = names.choose(&mut rng).filter(|_| names.len() > MOST / 2);
            match (rng.random_range(0..4), victim) {
                (0, Some(victim)) => {
                    let pod: Pod = self.api.of().get(victim).await?;
                    let record = self.sandboxes.join(uid(&pod)).join("sandbox.json");
                    // Few that are not begun: they show little.
                    if record.exists() || rng.random_bool(0.1) {
                        self.cycles += usize::from(record.exists());
                        self.api.of::<Pod>().delete(victim, &DeleteParams::default()).await?;
                        self.alive.remove(victim);
                    }
                }
                (1, Some(victim)) => self.end_container(victim).await?,
                _ if names.len() < MOST => {
                    self.made += 1;
                    let name = format!("p{}", self.made);
                    make_pod(self.api, &name).await?;
                    self.alive.insert(name);
                }
                _ => {}
            }
            self.nothing_twice().await?;
        }
        Ok(())
    }

    /// Ends what runs in a pod, if anything does by now.
    async fn end_container(&mut self, name: &str) -> Result<()> {
        let pod: Pod = self.api.of().get(name).await?;
        if self.node.pod_pid(&uid(&pod)).is_ok() {
            // It may end by itself in this moment.
            self.ended += usize::from(self.node.kill_pod_process(&uid(&pod)).is_ok());
        }
        Ok(())
    }

    /// No two pods have one address, and no pod runs its container twice.
    async fn nothing_twice(&mut self) -> Result<()> {
        let pods = self.api.pods("app=churn").await?;
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        // The address of one that goes may be another's before the API has forgotten the pod.
        for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
            let Some(ip) = ip else { continue };
            if let Some(other) = owners.insert(ip.clone(), name(pod)) {
                bail!("{ip} is of {other} and of {}", name(pod));
            }
        }
        self.no_address_twice()?;
        let running = containers_in_cgroups(self.node);
        let twice = running.iter().find(|(_, count)| **count > 1);
        ensure!(twice.is_none(), "{twice:?} containers of one pod run at once");
        self.looks += 1;
        Ok(())
    }
}

impl Churn<'_> {
    /// By the node's own records, of sandboxes that come and go, too.
    fn no_address_twice(&self) -> Result<()> {
        let mut owners = BTreeMap::new();
        for sandbox in entries(&self.sandboxes) {
            // It may be written or removed in this moment.
            let text = fs::read_to_string(Path::new(&sandbox).join("sandbox.json"));
            let record: Value = serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default();
            let Some(address) = record["address"].as_str() else { continue };
            if let Some(other) = owners.insert(address.to_owned(), sandbox.clone()) {
                bail!("{address} is of {other} and of {sandbox}");
            }
        }
        Ok(())
    }
}

/// Until it is over; counts in `kills`, too.
async fn kill_again_and_again(
    node: &Node,
    seed: u64,
    longest_life: u64,
    kills: &AtomicU32,
    over: &AtomicBool,
) -> Result<u32> {
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    while !over.load(Ordering::Relaxed) {
        let alive = Duration::from_millis(rng.random_range(100..longest_life));
        tokio::time::sleep(alive).await;
        node.kill_agent()?;
        kills.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
        node.start_agent()?;
    }
    Ok(kills.load(Ordering::Relaxed))
}

async fn make_pod(api: &Api, name: &str) -> Result<()> {
    let pod = json!({
        "metadata": { "name": name, "labels": { "app": "churn" } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "volumes": [{ "name": "scratch", "emptyDir": {} }],
            "containers": [{
                "name": "web",
                "image": "172.30.0.1:5000/workload:v1",
                "args": ["serve", "--lameduck-ms", "0"],
                "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }],
            }],
        },
    });
    api.of::<Pod>().create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    Ok(())
}

async fn remove_all(api: &Api, names: impl IntoIterator<Item = String>) -> Result<()> {
    for name in names {
        api.of::<Pod>().delete(&name, &DeleteParams::default()).await?;
    }
    api.no_pods("app=churn", PATIENCE).await
}

/// Waits until a node is as it was.
async fn nothing_left(cluster: &Cluster, node: &Node, clean: &BTreeSet<String>) -> Result<()> {
    wait("nothing to be left of pods that are gone", PATIENCE / 2, async || {
        let now = traces(cluster, node)?;
        let differs: Vec<_> = now.symmetric_difference(clean).collect();
        Ok(if differs.is_empty() { Found::Yes(()) } else { Found::NotYet(format!("{differs:#?}")) })
    })
    .await
}

/// Everything on a node that pods bring with them.
fn traces(cluster: &Cluster, node: &Node) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let dir = cluster.dir.join("nodes").join(&node.name);
    for part in ["run/sandboxes", "data/pods", "data/logs"] {
        found.extend(entries(&dir.join(part)));
    }
    found.extend(entries(&node.bpffs().join(links_path())));
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|line| line.split_whitespace().nth(4));
    let ours = cluster.dir.display().to_string();
    found.extend(points.filter(|it| it.starts_with(&ours)).map(|it| format!("mount {it}")));
    for hierarchy in hierarchies(&mounts) {
        let pods = hierarchy.join("bowline").join(&cluster.name).join(&node.name).join("pods");
        found.extend(entries(&pods).into_iter().filter(|it| Path::new(it).is_dir()));
    }
    let place = node.place()?;
    for (what, line) in [
        ("link", "ip -br link"),
        ("route", "ip route show table main"),
        ("neighbour", "ip neigh show nud permanent"),
    ] {
        let text = run(&place, line)?;
        found.extend(text.lines().map(|it| format!("{what} {}", it.trim())));
    }
    let pods = ["net", "pods", "--name", &cluster.name, "--node", &node.name, "-o", "json"];
    let rows: Value = serde_json::from_str(&output(&mut cluster.bowline(&pods)?)?)?;
    let rows = rows.as_array().or_else(|| rows["items"].as_array()).context("no rows")?;
    found.extend(rows.iter().map(|row| format!("map {row}")));
    let namespace = format!("bowline-{}-{}", cluster.name, node.name);
    for kind in ["container", "task"] {
        let listed = ctr(&cluster.dir, &namespace, &[kind, "ls", "-q"])?;
        found.extend(listed.lines().map(|it| format!("{kind} {it}")));
    }
    let snapshots = ctr(&cluster.dir, &namespace, &["snapshot", "ls"])?;
    found.extend(snapshots.lines().filter(|it| it.contains("Active")).map(str::to_owned));
    found.extend(entries(&Path::new("/run/containerd/runc").join(&namespace)));
    let bundles = cluster.dir.join("containerd/state/io.containerd.runtime.v2.task");
    // Now and then containerd keeps an empty one of a container whose creation its client did not
    // live to see the end of; it removes those at its own next start.
    let full =
        |bundle: &String| fs::read_dir(bundle).is_ok_and(|mut within| within.next().is_some());
    found.extend(entries(&bundles.join(&namespace)).into_iter().filter(full));
    Ok(found)
}

fn links_path() -> PathBuf {
    format!("bowline/v{}/links", bowline_ebpf_abi::ABI_VERSION).into()
}

fn hierarchies(mounts: &str) -> Vec<PathBuf> {
    let lines = mounts.lines().filter(|line| line.contains(" - cgroup"));
    lines.filter_map(|line| line.split_whitespace().nth(4).map(PathBuf::from)).collect()
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

fn ctr(dir: &Path, namespace: &str, arguments: &[&str]) -> Result<String> {
    let mut ctr = command("ctr");
    ctr.arg("-a").arg(dir.join("containerd/containerd.sock")).args(["-n", namespace]);
    output(ctr.args(arguments))
}

/// For an error: containers, their tasks and the shims of this cluster.
fn what_containerd_has(cluster: &Cluster, node: &Node) -> String {
    let namespace = format!("bowline-{}-{}", cluster.name, node.name);
    let listed = |kind: &str| {
        let rows = ctr(&cluster.dir, &namespace, &[kind, "ls"]);
        rows.unwrap_or_else(|error| format!("{error:#}\n"))
    };
    let all = output(command("ps").args(["-eo", "pid,ppid,stat,etimes,wchan:20,args"]));
    let all = all.unwrap_or_else(|error| format!("{error:#}"));
    let ours: Vec<&str> = all.lines().filter(|line| line.contains(&namespace)).collect();
    format!("{}{}{}", listed("container"), listed("task"), ours.join("\n"))
}

/// How many containers of each pod run their program; `runc` on its way there does not count.
fn containers_in_cgroups(node: &Node) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for pod in fs::read_dir(node.cgroup().join("pods")).into_iter().flatten().flatten() {
        let containers = fs::read_dir(pod.path()).into_iter().flatten().flatten();
        let processes = containers.filter(|container| {
            let text = fs::read_to_string(container.path().join("cgroup.procs"));
            let comm = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm"));
            let runs = |pid: &str| comm(pid).is_ok_and(|comm| comm.trim() == "workload");
            text.is_ok_and(|text| text.lines().any(runs))
        });
        let count = processes.count();
        if count > 0 {
            found.insert(pod.file_name().to_string_lossy().into_owned(), count);
        }
    }
    found
}
