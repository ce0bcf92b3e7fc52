//! `bowline net` through the API, by somebody who is not root and has a kubeconfig, on a real
//! cluster: every command, of one node and of all, what goes on until it is told to end, and what
//! is refused.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::api::{address, name, node_of};
use bowline_tests::command::{command, finish, output, shown};
use bowline_tests::{EchoStage, Place, Wishes, artifacts};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::bad_input::error_line;
use crate::monitor::connect;

/// `nobody` of Debian.
const NOBODY: u32 = 65_534;

const PATIENCE: Duration = Duration::from_secs(20);

/// Tables whose rows stay as they are while nothing happens.
const STEADY: [&str; 5] = ["backends", "features", "pods", "routes", "affinity"];

/// The others that show a state.
const OTHERS: [&str; 8] =
    ["services", "neighbours", "counters", "drops", "maps", "programs", "status", "dns"];

/// A service without an address.
const HEADLESS: &str = r#"{ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "bare" },
    "spec": { "clusterIP": "None", "selector": { "app": "stage" },
              "ports": [{ "port": 9376 }] } }"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn nodes_answer_through_the_api() -> Result<()> {
    let stage = EchoStage::up(&Wishes { nodes: 2, ..Wishes::default() }).await?;
    let played = Somebody::new(&stage).and_then(|somebody| play(&somebody));
    played.map_err(|error| stage.cluster.with_logs(error))
}

fn play(somebody: &Somebody<'_>) -> Result<()> {
    states(somebody).context("states")?;
    all_nodes(somebody).context("--all-nodes")?;
    ways(somebody).context("explain and trace")?;
    events(somebody).context("monitor")?;
    captures(somebody).context("capture")?;
    top_and_archive(somebody).context("top and bugreport")?;
    refusals(somebody).context("refusals")
}

/// Who has nothing but an administrator's kubeconfig.
struct Somebody<'a> {
    stage: &'a EchoStage,
    dir: TempDir,
}

impl<'a> Somebody<'a> {
    fn new(stage: &'a EchoStage) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        chown(dir.path(), Some(NOBODY), Some(NOBODY))?;
        let file = dir.path().join("kubeconfig");
        fs::copy(stage.cluster.kubeconfig(), &file)?;
        chown(&file, Some(NOBODY), Some(NOBODY))?;
        Ok(Self { stage, dir })
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Nobody's `bowline net` with these words.
    fn bare(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.stage.cluster.bowline(&["net"])?;
        command.args(words).env_remove("KUBECONFIG").current_dir(self.dir.path());
        command.uid(NOBODY).gid(NOBODY);
        Ok(command)
    }

    fn net(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.bare(words)?;
        command.arg("--kubeconfig").arg(self.kubeconfig());
        Ok(command)
    }

    fn ask(&self, words: &[&str]) -> Result<Value> {
        let said = output(self.net(words)?.args(["-o", "json"]))?;
        serde_json::from_str(&said).with_context(|| format!("{words:?} said {said}"))
    }

    /// In the client's network, past the hooks of sockets.
    fn place(&self) -> Result<Place> {
        let uid = self.stage.client.metadata.uid.as_deref().context("no uid")?;
        self.stage.node()?.pod_network(uid)
    }

    fn client_node(&self) -> String {
        node_of(&self.stage.client)
    }

    fn client(&self) -> String {
        name(&self.stage.client)
    }
}

/// The same as on the node itself.
fn states(somebody: &Somebody<'_>) -> Result<()> {
    let node = somebody.client_node();
    let here = |what: &str| -> Result<Value> {
        let cluster = &somebody.stage.cluster;
        let mut command = cluster.bowline(&["net", what, "-o", "json", "--node", &node])?;
        Ok(serde_json::from_str(&output(command.args(["--name", &cluster.name]))?)?)
    };
    for what in STEADY {
        // What is on its way to the maps may come between.
        let end = Instant::now() + PATIENCE;
        loop {
            let (there, here) = (somebody.ask(&[what, "--node", &node])?, here(what)?);
            if there == here {
                break;
            }
            let late = Instant::now() > end;
            ensure!(!late, "{what} is {there:#} through the API, and {here:#} on the node");
        }
    }
    for what in OTHERS {
        let said = somebody.ask(&[what, "--node", &node])?;
        // Nothing may have been refused yet.
        let is_empty = said.as_array().is_some_and(Vec::is_empty);
        ensure!(!is_empty || what == "drops", "{what} says {said}");
    }
    let address = address(&somebody.stage.client)?.to_string();
    let entry = somebody.ask(&["maps", "get", "PODS", &address, "--node", &node])?;
    ensure!(entry["value"].is_object(), "{entry}");
    output(somebody.net(&["diff", "--node", &node])?.args(["-o", "table"]))?;
    let watch = somebody.net(&["status", "--node", &node, "--watch", "1"])?;
    let mut watch = Stream::start(watch)?;
    watch.wait_for(|said| said.matches("\nhealthy").count() >= 2)?;
    watch.end()?;
    // The environment names the API, too.
    let mut bare = somebody.bare(&["pods", "--node", &node])?;
    let table = output(bare.env("KUBECONFIG", somebody.kubeconfig()))?;
    ensure!(table.contains(&somebody.client()), "{table}");
    Ok(())
}

fn all_nodes(somebody: &Somebody<'_>) -> Result<()> {
    let said = somebody.ask(&["status", "--all-nodes"])?;
    for node in ["node1", "node2"] {
        let problems = said[node]["problems"].as_array().context("no problems")?;
        ensure!(problems.is_empty(), "{node}: {problems:?}");
    }
    let table = output(&mut somebody.net(&["routes", "--all-nodes"])?)?;
    ensure!(table.starts_with("node1:\n") && table.contains("\nnode2:\n"), "{table}");
    output(&mut somebody.net(&["diff", "--all-nodes"])?).map(drop)
}

fn ways(somebody: &Somebody<'_>) -> Result<()> {
    let client = somebody.client();
    // The node is the client's own.
    let told = somebody.ask(&["explain", &client, "echo:80", "--run"])?;
    ensure!(told["outcome"] == "sent" && told["tried"]["error"].is_null(), "{told:#}");
    let mut servers = somebody.stage.servers.iter();
    let far = servers.find(|server| node_of(server) != somebody.client_node());
    let far = far.context("both servers are on the client's node")?;
    let to = format!("{}:9376", address(far)?);
    let told = somebody.ask(&["trace", &client, &to])?;
    ensure!(told["outcome"] == "answered", "{told:#}");
    ensure!(told["notListenedTo"].as_array().is_some_and(Vec::is_empty), "{told:#}");
    let steps = told["steps"].as_array().context("no steps")?;
    let saw = |node: &str| steps.iter().any(|step| step["node"] == node && step["hook"] != "-");
    ensure!(saw(&somebody.client_node()) && saw(&node_of(far)), "{told:#}");
    // What asks for no other node.
    let table = output(&mut somebody.net(&["trace", &client, "10.9.8.9:80", "--past-hooks"])?)?;
    ensure!(table.starts_with("TIME ") && table.contains("from-pod"), "{table}");
    let ended = finish(&mut somebody.net(&["explain", &client, "10.9.8.9:83"])?)?;
    ensure!(ended.status.code() == Some(1), "{ended:?}");
    Ok(())
}

fn events(somebody: &Somebody<'_>) -> Result<()> {
    let place = somebody.place()?;
    let words = ["monitor", "-o", "json", "--verdict", "refused", "--port", "83"];
    for more in [&["--node", &somebody.client_node()][..], &["--all-nodes"]] {
        let mut monitor = Stream::start(somebody.net(&[&words, more].concat())?)?;
        let nodes = if more.len() == 1 { 2 } else { 1 };
        monitor.wait_for_complaint(|said| said.matches("listening").count() == nodes)?;
        connect(&place, "10.9.8.9", 83)?;
        monitor.wait_for(|said| said.contains("unknown-port"))?;
        let (said, complaint) = monitor.end()?;
        // The last word of each, as on the node itself.
        let sums = complaint.lines().filter(|line| line.ends_with(", 0 lost")).count();
        ensure!(sums == nodes && complaint.contains(" event"), "{complaint}");
        let first = said.lines().next().context("no event")?;
        let event: Value = serde_json::from_str(first)?;
        ensure!(event["reason"] == "unknown-port", "{event}");
        let node = (nodes == 2).then(|| Value::from(somebody.client_node()));
        ensure!(event.get("node") == node.as_ref(), "{event}");
    }
    nobody_listens(somebody)
}

/// What nodes began for somebody has ended.
fn nobody_listens(somebody: &Somebody<'_>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let node = somebody.stage.cluster.node("node1")?.bpffs();
    // Of all nodes.
    let place = node.ancestors().nth(2).context("no place")?.to_string_lossy().into_owned();
    loop {
        let mut left = Vec::new();
        for process in fs::read_dir("/proc")?.flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(" net-served ") && line.contains(&place) {
                left.push(line);
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "still at work: {left:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn captures(somebody: &Somebody<'_>) -> Result<()> {
    let (file, client) = (somebody.dir.path().join("web.pcapng"), somebody.client());
    let path = file.to_string_lossy().into_owned();
    let node = somebody.client_node();
    let words = ["capture", "--pod", &client, "--write", &path, "--node", &node];
    let mut capture = Stream::start(somebody.net(&words)?)?;
    capture.wait_for_complaint(|said| said.contains("listening"))?;
    connect(&somebody.place()?, "10.9.8.9", 80)?;
    let end = Instant::now() + PATIENCE;
    while comments(&file)?.is_empty() {
        ensure!(Instant::now() < end, "nothing was captured");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (_, said) = capture.end()?;
    ensure!(comments(&file)?.contains("passed"), "{}", comments(&file)?);
    let packets = comments(&file)?.lines().count();
    ensure!(said.contains(&format!("{packets} packets in {path}\n")), "{packets} packets: {said}");
    let words = ["capture", "--all-nodes", "--write", &path, "--duration", "1"];
    let ended = finish(&mut somebody.net(&words)?)?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.success(), "{}: {said}", ended.status);
    for node in ["node1", "node2"] {
        let file = somebody.dir.path().join(format!("web.{node}.pcapng"));
        let what = format!(" in {}", file.display());
        let of_it = |line: &str| line.starts_with(&format!("{node}: ")) && line.ends_with(&what);
        ensure!(said.lines().any(of_it), "{node}: {said}");
        // How a pcapng file begins.
        let begins =
            fs::read(&file).is_ok_and(|bytes| bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]));
        ensure!(begins, "{} is no capture", file.display());
    }
    nobody_listens(somebody)
}

/// What became of the packets in a capture that may still grow.
fn comments(file: &Path) -> Result<String> {
    let mut tshark = command("tshark");
    tshark.args(["-n", "-T", "fields", "-e", "frame.comment", "-r"]).arg(file);
    let ended = finish(&mut tshark)?;
    Ok(String::from_utf8_lossy(&ended.stdout).trim().to_owned())
}

fn top_and_archive(somebody: &Somebody<'_>) -> Result<()> {
    let words = ["top", "--all-nodes", "--count", "1", "--interval", "0.5"];
    let said = output(somebody.net(&words)?.args(["-o", "json"]))?;
    let said: Value = serde_json::from_str(said.trim())?;
    let pods = said["pods"].as_array().context("no pods")?;
    for node in ["node1", "node2"] {
        ensure!(pods.iter().any(|pod| pod["node"] == node), "{said:#}");
    }
    ensure!(said.to_string().contains("default/echo:80/TCP"), "{said:#}");
    nobody_listens(somebody)?;
    let archive = somebody.dir.path().join("report.tar.gz");
    let path = archive.to_string_lossy();
    output(&mut somebody.net(&["bugreport", "--file", &path])?)?;
    let names = output(command("tar").arg("-tzf").arg(&archive))?;
    for part in ["nodes/node1/status.json", "nodes/node2/diff.json", "api/services.yaml"] {
        ensure!(names.contains(part), "{part} is missing: {names}");
    }
    ensure!(!names.contains(".err"), "something failed: {names}");
    Ok(())
}

fn refusals(somebody: &Somebody<'_>) -> Result<()> {
    let refused = |words: &[&str], status: i32, expected: &str| -> Result<()> {
        let mut command = somebody.net(words)?;
        let ended = finish(&mut command)?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(ended.status.code() == Some(status), "{}: {ended:?}", shown(&command));
        ensure!(said.contains(expected), "{}: {said}", shown(&command));
        Ok(())
    };
    let client = somebody.client();
    refused(&["pods", "--node", "node9"], 1, "the cluster has no node node9: did you mean node")?;
    refused(&["status", "--node", "node9"], 2, "the cluster has no node node9")?;
    refused(&["explain", "nobody", "echo"], 2, "this node has no pod default/nobody")?;
    refused(&["explain", &client, "ecko"], 2, "did you mean default/echo")?;
    refused(&["explain", &client, "echo", "--all-nodes"], 2, "choose it with --node")?;
    let manifest = somebody.dir.path().join("bare.json");
    fs::write(&manifest, HEADLESS)?;
    let cluster = &somebody.stage.cluster;
    let mut apply = cluster.bowline(&["apply", "--name", &cluster.name, "-f"])?;
    output(apply.arg(&manifest))?;
    let says = "default/bare is headless: it has no virtual IP, its name leads to ";
    refused(&["explain", &client, "bare:80"], 2, says)?;
    refused(&["trace", &client, "bare:80"], 2, says)?;
    refused(&["maps", "dump", "PODZ"], 1, "did you mean PODS")?;
    // Nodes have certificates, too, and may not.
    let node = somebody.stage.cluster.node("node1")?;
    let own = node.bpffs().with_file_name("data").join("pki/kubeconfig");
    let bowline = || -> Result<Command> {
        let mut command = node.place()?.command(artifacts::bowline()?);
        command.arg("net");
        Ok(command)
    };
    let mut asked = bowline()?;
    asked.args(["status", "--kubeconfig"]).arg(&own);
    let said = error_line(&finish(&mut asked)?)?;
    ensure!(said.contains("only members of system:masters may give nodes commands"), "{said}");
    // What its agent compares with, whoever may read its files can.
    let mut diff = bowline()?;
    diff.args(["diff", "--node-name", "node1", "--kubeconfig"]).arg(&own);
    diff.arg("--bpffs").arg(node.bpffs()).arg("--run-dir").arg(node.bpffs().with_file_name("run"));
    output(&mut diff)?;
    // On this machine, without rights and without an API.
    let mut bare = somebody.bare(&["pods", "--name", &somebody.stage.cluster.name])?;
    let said = error_line(&finish(&mut bare)?)?;
    ensure!(said.contains("needs root") && said.contains("--kubeconfig"), "{said}");
    Ok(())
}

/// A command that goes on.
struct Stream {
    process: Child,
    said: Reader,
    complaint: Reader,
}

/// What comes from one of its outputs.
struct Reader {
    lines: std::sync::mpsc::Receiver<String>,
    text: String,
}

impl Reader {
    fn of(from: impl Read + Send + 'static) -> Self {
        let (told, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                if told.send(line + "\n").is_err() {
                    break;
                }
            }
        });
        Self { lines, text: String::new() }
    }

    fn wait_for(&mut self, is: impl Fn(&str) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !is(&self.text) {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.text.push_str(&line),
                Err(error) => bail!("{error}; it said {}", self.text),
            }
        }
        Ok(())
    }

    fn rest(mut self) -> String {
        self.text.extend(self.lines);
        self.text
    }
}

impl Stream {
    fn start(mut command: Command) -> Result<Self> {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let said = Reader::of(process.stdout.take().context("no stdout")?);
        let complaint = Reader::of(process.stderr.take().context("no stderr")?);
        Ok(Self { process, said, complaint })
    }

    fn wait_for(&mut self, is: impl Fn(&str) -> bool) -> Result<()> {
        self.said.wait_for(is)
    }

    fn wait_for_complaint(&mut self, is: impl Fn(&str) -> bool) -> Result<()> {
        self.complaint.wait_for(is)
    }

    /// As Ctrl-C does.
    fn end(mut self) -> Result<(String, String)> {
        kill(Pid::from_raw(i32::try_from(self.process.id())?), Signal::SIGINT)?;
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.process.try_wait()? {
                break status;
            }
            if Instant::now() > end {
                self.process.kill()?;
                bail!("Ctrl-C does not end it: {} {}", self.said.rest(), self.complaint.rest());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let (said, complaint) = (self.said.rest(), self.complaint.rest());
        ensure!(status.success(), "{status}: {complaint}");
        Ok((said, complaint))
    }
}
