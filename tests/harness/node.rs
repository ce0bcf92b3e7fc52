//! A node of a local cluster: its namespace, cgroup, agent and maps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::artifacts;
use crate::command::{command, shown};
use crate::maps::Maps;
use crate::place::Place;

/// One node, by the names that `up` gives.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    namespace: String,
    cgroup: PathBuf,
    dir: PathBuf,
}

impl Node {
    pub(crate) fn new(cluster: &str, cluster_dir: &Path, cgroup: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: format!("bl-{cluster}-{name}"),
            cgroup: cgroup.join(name),
            dir: cluster_dir.to_path_buf(),
        }
    }

    /// The cgroup2 directory of everything on this node.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Name of the network namespace below /run/netns.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A process of the node itself: in its namespace, below its cgroup, outside any pod.
    pub fn place(&self) -> Result<Place> {
        let cgroup = self.cgroup.join("guests");
        fs::create_dir_all(&cgroup)
            .with_context(|| format!("cannot make cgroup {}", cgroup.display()))?;
        Ok(Place::network(&netns_path(&self.namespace)).in_cgroup(&cgroup))
    }

    /// Inside a container of a pod of this node.
    pub fn pod_place(&self, uid: &str) -> Result<Place> {
        let (cgroup, pid) = self.pod_process(uid)?;
        Ok(Place::process(pid).in_cgroup(&cgroup))
    }

    /// A pod's network, with the machine's programs instead of those of the image.
    pub fn pod_network(&self, uid: &str) -> Result<Place> {
        let (_, pid) = self.pod_process(uid)?;
        Ok(Place::network(&Path::new("/proc").join(pid.to_string()).join("ns/net")))
    }

    /// A pod's network and cgroup, with the machine's programs instead of those of the image.
    pub fn pod_network_in_cgroup(&self, uid: &str) -> Result<Place> {
        let (cgroup, _) = self.pod_process(uid)?;
        Ok(self.pod_network(uid)?.in_cgroup(&cgroup))
    }

    /// Where a file of a pod's first container is seen from outside.
    pub fn pod_file(&self, uid: &str, path: &str) -> Result<PathBuf> {
        let (_, pid) = self.pod_process(uid)?;
        Ok(PathBuf::from(format!("/proc/{pid}/root{path}")))
    }

    /// The first process of a pod.
    pub fn pod_pid(&self, uid: &str) -> Result<u32> {
        Ok(self.pod_process(uid)?.1)
    }

    /// SIGKILL the first process of a pod and wait until it is gone.
    pub fn kill_pod_process(&self, uid: &str) -> Result<()> {
        kill_and_wait(self.pod_pid(uid)?)
    }

    fn pod_process(&self, uid: &str) -> Result<(PathBuf, u32)> {
        find_process(&self.cgroup.join("pods"), uid)
            .with_context(|| format!("pod {uid} has no process on {}", self.name))
    }

    /// The agent's process.
    pub fn agent_pid(&self) -> Result<u32> {
        let cgroup = self.cgroup.join("agent");
        processes(&cgroup)
            .first()
            .copied()
            .with_context(|| format!("no agent runs on {}", self.name))
    }

    /// SIGKILL the agent and wait until it is gone.
    pub fn kill_agent(&self) -> Result<()> {
        self.end_agent(Signal::SIGKILL)
    }

    /// End the agent by a signal and wait until it is gone.
    pub fn end_agent(&self, signal: Signal) -> Result<()> {
        end_and_wait(self.agent_pid()?, signal)
    }

    /// Start the agent again, exactly as `up` did.
    pub fn start_agent(&self) -> Result<()> {
        self.start_agent_of(&artifacts::bowline()?, &[])
    }

    /// Start the agent with the arguments that `up` gave it and more, maybe from another build.
    pub fn start_agent_of(&self, bowline: &Path, more: &[&str]) -> Result<()> {
        let arguments = recorded(&self.dir, |plan| {
            let nodes = plan["nodes"].as_array()?;
            let node = nodes.iter().find(|node| node["name"] == self.name.as_str())?;
            Some(&node["agent"]["command"])
        })?;
        // A session of its own, as `up` gives it: it outlives us when the cluster does.
        let mut command = detached(&self.cgroup.join("agent"), Some(&self.namespace))?;
        command.arg(bowline).args(arguments).args(more);
        start(command, &self.log())
    }

    /// The files with what the API said last, of this boot.
    pub fn known(&self) -> Result<PathBuf> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let run = self.dir.join("nodes").join(&self.name).join("run");
        Ok(run.join("known").join(boot.trim()))
    }

    /// The agent's log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("logs").join(format!("{}.log", self.name))
    }

    /// Where the data plane is pinned.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("nodes").join(&self.name).join("bpf")
    }

    /// Remove everything that is pinned, so that the next agent finds an empty node.
    pub fn forget_pins(&self) -> Result<()> {
        let pins = self.bpffs().join("bowline");
        fs::remove_dir_all(&pins).with_context(|| format!("cannot remove {}", pins.display()))
    }

    /// The pinned maps.
    pub fn maps(&self) -> Maps {
        let version = bowline_ebpf_abi::ABI_VERSION;
        Maps::new(self.bpffs().join("bowline").join(format!("v{version}")).join("maps"))
    }

    /// Memory of the agent.
    pub fn agent_memory(&self) -> Result<Memory> {
        Memory::of(self.agent_pid()?)
    }

    /// How long the agent has kept a processor busy since the node was made.
    pub fn agent_busy(&self) -> Result<Duration> {
        busy(&self.cgroup.join("agent"))
    }
}

/// The arguments of a process as `up` recorded them, without the program.
pub(crate) fn recorded(
    dir: &Path,
    select: impl Fn(&serde_json::Value) -> Option<&serde_json::Value>,
) -> Result<Vec<String>> {
    let path = dir.join("cluster.json");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let record: serde_json::Value = serde_json::from_str(&text)?;
    let command = select(&record["plan"]).and_then(serde_json::Value::as_array);
    let words = command.with_context(|| format!("{} has no such process", path.display()))?;
    Ok(words.iter().skip(1).filter_map(|word| Some(word.as_str()?.to_owned())).collect())
}

/// Start a process that outlives us, with its output at the end of a log.
pub(crate) fn start(mut command: Command, log: &Path) -> Result<()> {
    let log = fs::OpenOptions::new().append(true).create(true).open(log)?;
    command.stdout(log.try_clone()?).stderr(log);
    reap(command.spawn().with_context(|| format!("cannot start `{}`", shown(&command)))?);
    Ok(())
}

/// A command, to be completed, that runs in a session and cgroup of its own, and in a network
/// namespace if one is named.
pub(crate) fn detached(cgroup: &Path, namespace: Option<&str>) -> Result<Command> {
    fs::create_dir_all(cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
    let mut command = command(artifacts::bowline()?);
    command.arg("internal-exec").arg("--cgroup").arg(cgroup);
    if let Some(namespace) = namespace {
        command.arg("--netns").arg(netns_path(namespace));
    }
    command.arg("--");
    Ok(command)
}

/// Where a named network namespace is found.
pub fn netns_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Wait for a child in the background, so that it leaves no zombie when it ends.
fn reap(mut child: std::process::Child) {
    std::thread::spawn(move || {
        // Whatever its status: whoever needs it looks at the node.
        drop(child.wait());
    });
}

/// Processes of a cgroup, without those of its children.
pub(crate) fn processes(cgroup: &Path) -> Vec<u32> {
    fs::read_to_string(cgroup.join("cgroup.procs"))
        .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
        .unwrap_or_default()
}

/// How long processes of a cgroup have kept a processor busy. The kernel counts that with any
/// controllers.
pub(crate) fn busy(cgroup: &Path) -> Result<Duration> {
    let path = cgroup.join("cpu.stat");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
    Ok(Duration::from_micros(number.with_context(|| format!("no usage in {}", path.display()))?))
}

/// The first process in a cgroup below `root` whose path names the pod.
fn find_process(root: &Path, uid: &str) -> Option<(PathBuf, u32)> {
    let names_pod = root.to_string_lossy().contains(uid);
    if names_pod && let Some(&pid) = processes(root).first() {
        return Some((root.to_path_buf(), pid));
    }
    let entries = fs::read_dir(root).ok()?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .find_map(|path| find_process(&path, uid))
}

/// SIGKILL a process and wait until it is gone.
pub(crate) fn kill_and_wait(pid: u32) -> Result<()> {
    end_and_wait(pid, Signal::SIGKILL)
}

fn end_and_wait(pid: u32, signal: Signal) -> Result<()> {
    let id = Pid::from_raw(i32::try_from(pid)?);
    kill(id, signal).with_context(|| format!("cannot send {signal} to {pid}"))?;
    for _ in 0..1000 {
        if has_ended(pid) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("process {pid} survives {signal}")
}

/// Gone, or a zombie that nobody waited for. As long as it has other threads, one of them may still
/// be in the kernel and hold what was open: ports above all.
fn has_ended(pid: u32) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let Ok(stat) = fs::read_to_string(process.join("stat")) else { return true };
    let threads = fs::read_dir(process.join("task")).map_or(0, Iterator::count);
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")) && threads <= 1
}

/// A process that sleeps until this value is dropped.
pub struct Paused(Pid);

impl Paused {
    /// Stops it with a signal that it cannot ignore.
    pub fn pause(pid: u32) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid)?);
        kill(pid, Signal::SIGSTOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// What a process holds in memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory {
    /// All that is resident.
    pub resident: u64,
    /// The part of it that is mapped from files: mostly the binary, which all processes share.
    pub from_files: u64,
}

impl Memory {
    /// Read it from /proc.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let kilobytes: Option<u64> = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
            kilobytes.map(|kb| kb * 1024).with_context(|| format!("process {pid} has no {name}"))
        };
        Ok(Self { resident: field("VmRSS:")?, from_files: field("RssFile:")? })
    }
}
