//! A local cluster for one test, and its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use tempfile::TempDir;

use crate::api::{self, Api};
use crate::command::{command, finish, output};
use crate::node::{Memory, Node, kill_and_wait, processes};
use crate::place::Place;
use crate::registry::Registry;
use crate::{artifacts, node};

/// Flags of `bowline up`: pods and services have addresses of both families.
pub const BOTH_FAMILIES: [&str; 4] = [
    "--pod-cidr",
    "10.240.0.0/16,fd00:10:240::/48",
    "--service-cidr",
    "10.9.0.0/16,fd00:10:9::/112",
];

/// What a test wants of its cluster.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// None makes a name that no other test has.
    pub name: Option<String>,
    /// None makes a temporary directory.
    pub dir: Option<PathBuf>,
    pub nodes: usize,
    /// More flags of `bowline up`.
    pub flags: Vec<String>,
    /// Start a registry inside and push the images.
    pub registry: bool,
}

impl Default for Wishes {
    fn default() -> Self {
        let flags = ["--node-cpu", "4", "--node-memory", "16Gi"].map(str::to_owned).to_vec();
        Self { name: None, dir: None, nodes: 3, flags, registry: true }
    }
}

/// Whether a node is joined to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uplink {
    Cut,
    Joined,
}

/// A running cluster. Dropping it runs `bowline down`.
pub struct Cluster {
    pub name: String,
    pub dir: PathBuf,
    pub nodes: Vec<Node>,
    /// How long `bowline up` took.
    pub up_took: Duration,
    cgroup: PathBuf,
    registry: Option<Registry>,
    keep: bool,
    _temporary: Option<TempDir>,
}

impl Cluster {
    /// Make a cluster and wait until `bowline up` says that it is ready.
    pub fn up(wishes: &Wishes) -> Result<Self> {
        let mut cluster = Self::planned(wishes)?;
        let up = cluster.up_command(wishes)?;
        // If we are killed meanwhile it takes that for an interrupt, and removes what it made.
        let mut bound = command("setpriv");
        bound.args(["--pdeathsig", "TERM"]).arg(up.get_program()).args(up.get_args());
        let start = Instant::now();
        output(&mut bound)?;
        cluster.keep = false;
        cluster.up_took = start.elapsed();
        if wishes.registry {
            cluster.registry = Some(Registry::start(&cluster)?);
        }
        Ok(cluster)
    }

    /// Start `bowline up` and do not wait for it. The cluster is removed when this value is
    /// dropped, however far `up` came.
    pub fn begin(wishes: &Wishes) -> Result<(Self, Child)> {
        let mut cluster = Self::planned(wishes)?;
        let mut up = cluster.up_command(wishes)?;
        let up = up.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        cluster.keep = false;
        Ok((cluster, up))
    }

    /// The names of a cluster that is not made yet.
    fn planned(wishes: &Wishes) -> Result<Self> {
        let name = wishes.name.clone().unwrap_or_else(unique_name);
        let (dir, temporary) = match &wishes.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("bl-").tempdir()?;
                (temporary.path().join("c"), Some(temporary))
            }
        };
        let cgroup = cgroup2()?.join("bowline").join(&name);
        let nodes = (1..=wishes.nodes)
            .map(|number| Node::new(&name, &dir, &cgroup, &format!("node{number}")))
            .collect();
        Ok(Self {
            name,
            dir,
            nodes,
            up_took: Duration::ZERO,
            cgroup,
            registry: None,
            // What `up` refuses or gives up on it leaves as it was: not ours to remove.
            keep: true,
            _temporary: temporary,
        })
    }

    fn up_command(&self, wishes: &Wishes) -> Result<Command> {
        let mut up = command(artifacts::bowline()?);
        up.args(["up", "--name", &self.name, "--nodes", &wishes.nodes.to_string()]);
        up.arg("--dir").arg(&self.dir);
        up.args(["--insecure-registry", crate::registry::ADDRESS]).args(&wishes.flags);
        Ok(up)
    }

    /// Leave the cluster running when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
        if let Some(registry) = &mut self.registry {
            registry.keep();
        }
    }

    /// What the cgroup2 groups of all clusters stand in.
    pub fn parent_cgroup(&self) -> Result<&Path> {
        self.cgroup.parent().context("no parent")
    }

    /// The kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// `bowline` with this cluster's kubeconfig.
    pub fn bowline(&self, arguments: &[&str]) -> Result<Command> {
        let mut bowline = command(artifacts::bowline()?);
        bowline.args(arguments).env("KUBECONFIG", self.kubeconfig());
        Ok(bowline)
    }

    /// Run `bowline apply -f` on a manifest of `examples/`.
    pub fn apply(&self, example: &str) -> Result<String> {
        let mut apply = self.bowline(&["apply", "-f"])?;
        output(apply.arg(artifacts::example(example)))
    }

    /// Run `bowline delete -f` on a manifest of `examples/`.
    pub fn delete(&self, example: &str) -> Result<String> {
        let mut delete = self.bowline(&["delete", "-f"])?;
        output(delete.arg(artifacts::example(example)))
    }

    /// A client of the API.
    pub async fn api(&self) -> Result<Api> {
        Ok(Api::new(api::connect(&self.kubeconfig()).await?))
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .with_context(|| format!("no node {name} in the cluster"))
    }

    /// Name of the namespace with the bridge.
    pub fn bridge_namespace(&self) -> String {
        format!("bl-{}-net", self.name)
    }

    /// Inside the namespace with the bridge, in a cgroup that `down` clears.
    pub fn bridge_place(&self) -> Result<Place> {
        let cgroup = self.cgroup.join("guests");
        fs::create_dir_all(&cgroup)
            .with_context(|| format!("cannot make cgroup {}", cgroup.display()))?;
        Ok(Place::network(&node::netns_path(&self.bridge_namespace())).in_cgroup(&cgroup))
    }

    /// A command, to be completed, that lives beside the bridge until the cluster goes.
    pub(crate) fn detached_guest(&self) -> Result<Command> {
        node::detached(&self.cgroup.join("guests"), Some(&self.bridge_namespace()))
    }

    /// Cut a node's uplink, or join it again. The node itself sees its cable pulled.
    pub fn set_uplink(&self, node: &str, state: Uplink) -> Result<()> {
        let state = match state {
            Uplink::Cut => "down",
            Uplink::Joined => "up",
        };
        let mut ip = self.bridge_place()?.command("ip");
        output(ip.args(["link", "set", node, state]))?;
        Ok(())
    }

    /// Inside a pod's first container.
    pub fn pod_place(&self, pod: &Pod) -> Result<Place> {
        self.node(&api::node_of(pod))?.pod_place(&api::uid(pod))
    }

    /// The server's process.
    pub fn server_pid(&self) -> Result<u32> {
        let cgroup = self.cgroup.join("server");
        processes(&cgroup).first().copied().context("no server runs")
    }

    /// SIGKILL the server and wait until it is gone.
    pub fn kill_server(&self) -> Result<()> {
        kill_and_wait(self.server_pid()?)
    }

    /// Start the server again, exactly as `up` did. Its port is another one, and so is the
    /// kubeconfig: clients made before are of no more use.
    pub fn start_server(&self) -> Result<()> {
        drop(fs::remove_file(self.kubeconfig()));
        let arguments = node::recorded(&self.dir, |plan| Some(&plan["server"]["command"]))?;
        let mut command = node::detached(&self.cgroup.join("server"), None)?;
        command.arg(artifacts::bowline()?).args(arguments);
        node::start(command, &self.dir.join("logs").join("server.log"))?;
        for _ in 0..200 {
            if self.kubeconfig().exists() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the server was started again and wrote no kubeconfig")
    }

    /// What `bowline net diff` says of a node: its exit status and its rows.
    pub fn net_diff(&self, node: &str) -> Result<(i32, Vec<serde_json::Value>)> {
        let mut diff = self.bowline(&["net", "diff", "-o", "json", "--node", node])?;
        let ended = finish(diff.args(["--name", &self.name]))?;
        let errors = String::from_utf8_lossy(&ended.stderr);
        let status = ended.status.code().unwrap_or(-1);
        let rows = serde_json::from_slice(&ended.stdout)
            .with_context(|| format!("`net diff` ended with {status}: {}", errors.trim()))?;
        Ok((status, rows))
    }

    /// Waits until `bowline net diff` finds nothing on any node; how long the last one took.
    pub async fn agrees(&self, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        for node in &self.nodes {
            let what = format!("no difference between the API and {}", node.name);
            api::wait(&what, limit, async || {
                let (status, rows) = self.net_diff(&node.name)?;
                Ok(match status {
                    0 => api::Found::Yes(()),
                    _ => api::Found::NotYet(format!("{rows:?}")),
                })
            })
            .await?;
        }
        Ok(start.elapsed())
    }

    /// Memory of the server.
    pub fn server_memory(&self) -> Result<Memory> {
        Memory::of(self.server_pid()?)
    }

    /// How long the server has kept a processor busy since the cluster was made.
    pub fn server_busy(&self) -> Result<Duration> {
        node::busy(&self.cgroup.join("server"))
    }

    /// SIGKILL every process of the cluster, containers included.
    pub fn kill_everything(&self) -> Result<()> {
        for pid in all_processes(&self.cgroup) {
            // One may have ended because its parent did.
            if Path::new(&format!("/proc/{pid}")).exists() {
                drop(kill_and_wait(pid));
            }
        }
        let left = all_processes(&self.cgroup);
        if !left.is_empty() {
            bail!("still running after SIGKILL: {left:?}");
        }
        Ok(())
    }

    /// Run `bowline down`.
    pub fn down(&self) -> Result<String> {
        let mut down = command(artifacts::bowline()?);
        down.args(["down", "--name", &self.name]).arg("--dir").arg(&self.dir);
        output(&mut down)
    }

    /// An error with the last lines of each log and what happened to the pods, which are gone after
    /// `down`.
    pub fn with_logs(&self, error: anyhow::Error) -> anyhow::Error {
        let mut text = String::new();
        let entries = fs::read_dir(self.dir.join("logs")).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let log = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().filter(|l| !l.contains("level=info")).collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            text.push_str(&format!("\n--- {}\n{last}", path.display()));
        }
        for what in ["pods", "events"] {
            let said = self.bowline(&["get", what, "-A", "-o", "wide"]).and_then(|get| {
                // The server may be what hangs.
                output(
                    command("timeout")
                        .arg("10")
                        .arg(get.get_program())
                        .args(get.get_args())
                        .env("KUBECONFIG", self.kubeconfig()),
                )
            });
            let said = said.unwrap_or_else(|error| format!("{error:#}"));
            text.push_str(&format!("\n--- {what}\n{said}"));
        }
        error.context(format!("the ends of the cluster's logs:{text}\n--- and the failure"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        self.registry = None;
        let Err(error) = self.down() else { return };
        let again = self.down();
        let text =
            format!("`down` left parts of cluster {}: {error:#}; again: {again:?}", self.name);
        if std::thread::panicking() {
            eprintln!("{text}");
        } else {
            panic!("{text}");
        }
    }
}

/// A name that no other test of this machine has.
pub fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t{}-{number}", std::process::id())
}

/// Where the cgroup2 hierarchy is mounted.
pub fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    mounts
        .lines()
        .find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let kind = right.split_whitespace().next()?;
            (kind == "cgroup2").then(|| left.split_whitespace().nth(4)).flatten()
        })
        .map(PathBuf::from)
        .context("no cgroup2 hierarchy is mounted")
}

/// Processes of a cgroup and all cgroups below it.
fn all_processes(cgroup: &Path) -> Vec<u32> {
    let mut all = processes(cgroup);
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            all.extend(all_processes(&entry.path()));
        }
    }
    all
}
