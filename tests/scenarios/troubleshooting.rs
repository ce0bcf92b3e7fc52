//! A network that is broken on purpose, one thing at a time: which command of `bowline net` names
//! the cause, and in which words. The table in `docs/troubleshooting.md` is made here.
//!
//! The node's agent is dead meanwhile, so that it mends nothing: a broken node is when these
//! commands are needed. It comes back for what only an agent has: loops, and maps that it fills.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::panic::resume_unwind as resume;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_ebpf_abi::map;
use bowline_tests::api::{Found, address, node_of, uid, wait};
use bowline_tests::command::{finish, output, shown};
use bowline_tests::maps::{address_key, range_key};
use bowline_tests::node::netns_path;
use bowline_tests::{EchoStage, Place, Wishes};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{DeleteParams, PostParams};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bad_input::error_line;

const PATIENCE: Duration = Duration::from_secs(60);
const VIP: &str = "10.9.8.9";
/// Of every pod.
const GATEWAY: &str = "169.254.1.1";
const TABLE: &str = "docs/troubleshooting.md";
/// Enough for the stage, and for no service of MANY ports.
const FEW_SLOTS: &str = "SLOTS=16";
const MANY: u16 = 20;
/// From so many of these slots on, 80 % of them are used.
const NEARLY_FULL: u64 = 13;

/// A packet with a source address that is not the sender's.
const SPOOF: &str = r"
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
source, target = map(socket.inet_aton, sys.argv[1:])
header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 28, 1, 0, 64, 17, 0, source, target)
s.sendto(header + struct.pack('!HHHH', 7, 7, 8, 0), (sys.argv[2], 0))
";

/// What shows a state, whatever is broken.
const TABLES: [&str; 12] = [
    "services",
    "backends",
    "affinity",
    "pods",
    "routes",
    "neighbours",
    "counters",
    "drops",
    "features",
    "maps",
    "programs",
    "dns",
];

/// The socket programs whose end alone is not a row of its own.
const SOCKET_PROGRAMS: [&str; 7] =
    ["connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// What is broken, and how that shows.
struct Row {
    fault: String,
    command: String,
    words: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn what_is_broken_is_named() -> Result<()> {
    let mut wishes = Wishes { nodes: 2, ..Wishes::default() };
    wishes.flags.extend(["--map-size", FEW_SLOTS].map(str::to_owned));
    let stage = EchoStage::up(&wishes).await?;
    let rows = play(&stage).await.map_err(|error| stage.cluster.with_logs(error))?;
    let text = document(&rows)?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no root")?.join(TABLE);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return Ok(fs::write(path, text)?);
    }
    let kept = fs::read_to_string(path).unwrap_or_default();
    ensure!(kept == text, "{TABLE} says something else: make it anew with UPDATE_GOLDEN=1");
    Ok(())
}

fn document(rows: &[Row]) -> Result<String> {
    let mut text = "# Troubleshooting\n\nWhat is broken, which command names it, and in which \
                    words. Each row is a fault that the scenario `troubleshooting` makes on a real \
                    cluster;\nthe scenario fails when a command does not find it, and writes this \
                    file (`UPDATE_GOLDEN=1`).\n\n| fault | command | words |\n|---|---|---|\n"
        .to_owned();
    for Row { fault, command, words } in rows {
        writeln!(text, "| {fault} | `{command}` | {words} |")?;
    }
    Ok(text)
}

/// The node of the client, without an agent.
struct Broken<'a> {
    stage: &'a EchoStage,
    place: Place,
    pod: Place,
    /// Until the cluster, which misses the agent, has its pods elsewhere.
    has_client: bool,
    rows: Vec<Row>,
}

async fn play(stage: &EchoStage) -> Result<Vec<Row>> {
    let node = stage.node()?;
    let pod = node.pod_network(&uid(&stage.client))?;
    let mut broken =
        Broken { stage, place: node.place()?, pod, has_client: true, rows: Vec::new() };
    broken.healthy()?;
    broken.sticky_client().await.context("session affinity")?;
    broken.unready_backend().await?;
    broken.spoofing_pod()?;
    broken.closed_port()?;
    broken.inside_the_pod()?;
    node.end_agent(Signal::SIGKILL)?;
    broken.healthy()?;
    broken.route_and_mtu()?;
    broken.pod_entry()?;
    broken.route_entry()?;
    broken.programs()?;
    broken.map_entry()?;
    broken.pod_link()?;
    broken.silent_agent().await?;
    broken.has_client = false;
    node.start_agent()?;
    broken.mended("an agent that mends what was broken").await?;
    broken.failing_loop().await?;
    broken.nearly_full_map().await?;
    broken.full_map().await?;
    Ok(broken.rows)
}

impl Broken<'_> {
    fn client(&self) -> String {
        self.stage.client.metadata.name.clone().unwrap_or_default()
    }

    /// `bowline net`: how it ended, and what it said.
    fn net(&self, words: &[&str]) -> Result<(i32, String)> {
        let node = &self.stage.node()?.name;
        let mut command = self.stage.cluster.bowline(&["net"])?;
        command.args(words).args(["--node", node, "--name", &self.stage.cluster.name]);
        let ended = finish(&mut command)?;
        let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
        let code = ended.status.code().with_context(|| shown(&command))?;
        Ok((code, said.into_owned()))
    }

    /// The command must say so and, if it tells scripts, end with 1.
    fn names(&mut self, fault: &str, words: &[&str], says: &'static str, code: i32) -> Result<()> {
        if self.rows.last().is_none_or(|row| row.fault != fault) {
            self.everything_answers().with_context(|| fault.to_owned())?;
        }
        let (ended, said) = self.net(words)?;
        ensure!(said.contains(says), "{fault}: {words:?} does not say {says:?}:\n{said}");
        ensure!(ended == code, "{fault}: {words:?} ended with {ended}:\n{said}");
        let command = format!("bowline net {}", words.join(" "));
        let command = command.replace(&self.client(), "CLIENT");
        let command = command.replace(&self.backend(false)?.to_string(), "BACKEND");
        let command = command.replace(&self.backend(true)?.to_string(), "NEIGHBOUR");
        self.rows.push(Row { fault: fault.to_owned(), command, words: says });
        Ok(())
    }

    /// Whatever is broken, each command ends in time, judges or shows, and keeps to its form.
    fn everything_answers(&self) -> Result<()> {
        let client = self.client();
        let mut all: Vec<Vec<&str>> = TABLES.map(|table| vec![table]).to_vec();
        all.extend([vec!["status"], vec!["diff"], vec!["explain", "node", "echo:80"]]);
        if self.has_client {
            all.push(vec!["explain", &client, "echo:80"]);
        }
        let answer = |words: &[&str]| -> Result<()> {
            let start = Instant::now();
            let (code, said) = self.net(&[words, &["-o", "json"]].concat())?;
            let is_judge = !TABLES.contains(&words[0]);
            ensure!(code == 0 || is_judge && code == 1, "{words:?} ended with {code}: {said}");
            let form: Value = serde_json::from_str(&said)
                .with_context(|| format!("{words:?} is no JSON: {said}"))?;
            ensure!(form.is_array() || form.is_object(), "{words:?}: {said}");
            ensure!(start.elapsed() < PATIENCE, "{words:?} took {:?}", start.elapsed());
            Ok(())
        };
        std::thread::scope(|scope| {
            let asked: Vec<_> = all.iter().map(|words| scope.spawn(|| answer(words))).collect();
            asked.into_iter().try_for_each(|one| one.join().unwrap_or_else(|panic| resume(panic)))
        })
    }

    /// The server on the client's node, or on the other one.
    fn server(&self, is_near: bool) -> Result<&Pod> {
        let here = node_of(&self.stage.client);
        let mut servers = self.stage.servers.iter();
        let found = servers.find(|pod| (node_of(pod) == here) == is_near);
        found.context("both servers are on one node")
    }

    fn backend(&self, is_near: bool) -> Result<IpAddr> {
        Ok(address(self.server(is_near)?)?.into())
    }

    fn remote(&self) -> Result<IpAddr> {
        self.backend(false)
    }

    /// Nothing is wrong: each command says so, and a real connection comes where it is told to.
    fn healthy(&self) -> Result<()> {
        let client = self.client();
        let (code, said) = self.net(&["explain", &client, "echo:80", "--run", "-o", "json"])?;
        ensure!(code == 0, "explain of what is whole: {said}");
        let told: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        let ends: Vec<&str> =
            told["candidates"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let servers = self.stage.servers.iter();
        let servers = servers.map(|pod| Ok(format!("{}:9376", address(pod)?)));
        let mut servers: Vec<String> = servers.collect::<Result<_>>()?;
        servers.sort_unstable();
        ensure!(ends == servers, "candidates {ends:?}, servers {servers:?}");
        let tried = &told["tried"];
        let came_to = tried["backend"].as_str().unwrap_or_default();
        ensure!(ends.contains(&came_to), "the connection came to {tried}");
        ensure!(tried["peer"] == format!("{VIP}:80"), "the connection believes in {tried}");
        for words in [
            &["explain", "node", "echo:80", "--run"][..],
            &["explain", &client, "kube-system/kube-dns", "--udp", "--run"],
            &["explain", &client, &format!("{}:7007", self.remote()?), "--run"],
            &["diff"],
            &["status"],
        ] {
            let (code, said) = self.net(words)?;
            ensure!(code == 0, "{words:?} of what is whole ended with {code}: {said}");
        }
        let (code, said) = self.net(&["explain", &client, "echo:80", "--numeric", "--run"])?;
        ensure!(code == 0 && said.contains(VIP) && !said.contains("default/"), "{said}");
        let name = format!("--name={}", self.stage.cluster.name);
        let mut all = self.stage.cluster.bowline(&["net", "services", "--all-nodes", &name])?;
        let said: Value = serde_json::from_str(&output(all.args(["-o", "json"]))?)?;
        for node in &self.stage.cluster.nodes {
            let rows = said[&node.name].as_array().context("no rows of a node")?;
            ensure!(rows.iter().any(|row| row["name"] == "echo"), "{}: {rows:?}", node.name);
        }
        let (code, said) = self.net(&["neighbours"])?;
        ensure!(code == 0 && said.contains("eth0"), "neighbours: {said}");
        Ok(())
    }

    /// A client that stays with a backend is told which.
    async fn sticky_client(&self) -> Result<()> {
        let api = self.stage.cluster.api().await?;
        let service: Service = serde_json::from_value(json!({
            "metadata": { "name": "sticky" },
            "spec": {
                "selector": { "app": "echo" },
                "sessionAffinity": "ClientIP",
                "ports": [{ "port": 80, "targetPort": 9376 }],
            },
        }))?;
        let services = api.of::<Service>();
        services.create(&PostParams::default(), &service).await?;
        let client = self.client();
        wait("a service whose clients stay", PATIENCE, async || {
            let (code, said) = self.net(&["explain", &client, "sticky:80"])?;
            let there = code == 0 && said.contains("stays with nobody yet");
            Ok(if there { Found::Yes(()) } else { Found::NotYet(said) })
        })
        .await?;
        let json = |words: &[&str]| -> Result<Value> {
            let words = [&["explain", &client, "sticky:80", "-o", "json"], words].concat();
            let (code, said) = self.net(&words)?;
            ensure!(code == 0, "{words:?} ended with {code}: {said}");
            serde_json::from_str(&said).context(said)
        };
        let tried = json(&["--run"])?;
        let told = json(&["--run"])?;
        let kept = &tried["tried"]["backend"];
        ensure!(kept.is_string() && told["kept"] == *kept, "{kept}: {told}");
        ensure!(told["tried"]["backend"] == *kept, "{kept}: {told}");
        services.delete("sticky", &DeleteParams::default()).await?;
        Ok(())
    }

    async fn unready_backend(&mut self) -> Result<()> {
        let api = self.stage.cluster.api().await?;
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "never-ready", "labels": { "app": "echo" } },
            "spec": {
                "nodeName": node_of(&self.stage.client),
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "echo",
                    "image": format!("{}/workload:v1", bowline_tests::registry::ADDRESS),
                    "readinessProbe": { "tcpSocket": { "port": 9 }, "periodSeconds": 1 },
                }],
            },
        }))?;
        let pods = api.of::<Pod>();
        pods.create(&PostParams::default(), &pod).await?;
        let client = self.client();
        let words = ["explain", &client, "echo:80"];
        wait("an endpoint that is not ready", PATIENCE, async || {
            let (_, said) = self.net(&words)?;
            let there = said.contains("never-ready");
            Ok(if there { Found::Yes(()) } else { Found::NotYet(said) })
        })
        .await?;
        self.names(
            "a backend of a service is not ready",
            &words,
            "no candidate: it is not ready",
            0,
        )?;
        self.unready_by_flags()?;
        pods.delete("never-ready", &DeleteParams::default()).await?;
        wait("the pod's end", PATIENCE, async || {
            let gone = pods.get_opt("never-ready").await?.is_none();
            Ok(if gone { Found::Yes(()) } else { Found::NotYet("there".to_owned()) })
        })
        .await?;
        self.stage.cluster.agrees(PATIENCE).await.map(drop)
    }

    /// Without --netns it is the agent's, and where no agent said which that is nothing is told.
    fn netns_by_its_agent(&self) -> Result<()> {
        let node = self.stage.node()?;
        let run_dir = self.stage.cluster.dir.join("nodes").join(&node.name).join("run");
        let explain = |run_dir: &Path| -> Result<std::process::Command> {
            let client = self.client();
            let words = ["net", "explain", &client, "echo:80", "-o", "json"];
            let mut command = self.stage.cluster.bowline(&words)?;
            command.arg("--bpffs").arg(node.bpffs()).arg("--run-dir").arg(run_dir);
            Ok(command)
        };
        let told: Value = serde_json::from_slice(&finish(&mut explain(&run_dir)?)?.stdout)?;
        let mut named = explain(&run_dir)?;
        let named = finish(named.arg("--netns").arg(netns_path(node.namespace())))?;
        let named: Value = serde_json::from_slice(&named.stdout)?;
        ensure!(told["steps"] == named["steps"], "{told:#} is not {named:#}");
        let said = error_line(&finish(&mut explain(Path::new("/absent"))?)?)?;
        ensure!(said.contains("--run-dir") && said.contains("--netns PATH"), "{said}");
        Ok(())
    }

    /// On a machine of its own, the API is named by flags.
    fn unready_by_flags(&self) -> Result<()> {
        let node = self.stage.node()?;
        let run_dir = self.stage.cluster.dir.join("nodes").join(&node.name).join("run");
        let client = self.client();
        let mut command = self.stage.cluster.bowline(&["net", "explain", &client, "echo:80"])?;
        command.arg("--bpffs").arg(node.bpffs()).arg("--run-dir").arg(run_dir);
        command.arg("--netns").arg(netns_path(node.namespace()));
        command.args(["--node-name", &node.name]);
        let said = error_line(&finish(&mut command)?)?;
        ensure!(said.contains("--node-name needs --kubeconfig as well"), "{said}");
        self.netns_by_its_agent()?;
        let said = output(command.arg("--kubeconfig").arg(self.stage.cluster.kubeconfig()))?;
        ensure!(said.contains("never-ready") && said.contains("it is not ready"), "{said}");
        let said = output(command.arg("--numeric"))?;
        ensure!(!said.contains("never-ready") && said.contains("it is not ready"), "{said}");
        Ok(())
    }

    /// What was foretold and what came of it are told apart.
    fn closed_port(&mut self) -> Result<()> {
        let (client, to) = (self.client(), format!("{}:9", self.backend(true)?));
        let words = ["explain", &client, &to, "--run"];
        let fault = "nothing listens at a pod's port";
        self.names(fault, &words, "Connection refused", 1)?;
        let (_, said) = self.net(&words)?;
        let last = said.lines().last().unwrap_or_default();
        let (failed, why) = ("failed: ", "this contradicts the above");
        ensure!(last.starts_with(failed) && last.contains(why), "{last} ends {said}");
        let (_, said) = self.net(&[&words[..], &["-o", "json"]].concat())?;
        let told: Value = serde_json::from_str(&said)?;
        ensure!(told["outcome"] == "broken" && said.contains(why), "{said}");
        Ok(())
    }

    fn ip(place: &Place, line: &str) -> Result<()> {
        output(place.command("ip").args(line.split_whitespace())).map(drop)
    }

    fn route_and_mtu(&mut self) -> Result<()> {
        let (client, remote) = (self.client(), self.remote()?);
        let words = ["explain", &client, "echo:80"];
        Self::ip(&self.place, &format!("route add blackhole {remote}"))?;
        let to_remote = format!("{remote}:9376");
        self.names(
            "a blackholed route to a pod",
            &["explain", "node", &to_remote],
            "blackhole",
            1,
        )?;
        Self::ip(&self.place, &format!("route del blackhole {remote}"))?;
        Self::ip(&self.pod, "link set eth0 mtu 9000")?;
        let fault = "a pod's link takes larger packets than the node's";
        self.names(fault, &words, "large packets are dropped or fragmented", 1)?;
        Self::ip(&self.pod, "link set eth0 mtu 1500")?;
        Self::ip(&self.place, "link set eth0 mtu 1400")?;
        let fault = "the node's uplink takes smaller packets than pods";
        self.names(fault, &words, "large packets are dropped or fragmented", 1)?;
        Self::ip(&self.place, "link set eth0 mtu 1500")?;
        let link = self.link()?;
        Self::ip(&self.place, &format!("link set {link} mtu 1400"))?;
        let fault = "the node's end of a pod's link takes smaller packets than the pod's";
        self.names(fault, &words, "of the node has 1400", 1)?;
        self.names(fault, &["status"], "of the node has 1400", 1)?;
        Self::ip(&self.place, &format!("link set {link} mtu 1500"))?;
        Self::ip(&self.place, "link set eth0 down")?;
        self.names("the node's uplink is down", &words, "which is down", 1)?;
        Self::ip(&self.place, "link set eth0 up")
    }

    /// The node's end of the client's link.
    fn link(&self) -> Result<String> {
        let (_, pods) = self.net(&["pods", "-o", "json"])?;
        let pods: Vec<Value> = serde_json::from_str(&pods)?;
        let own = address(&self.stage.client)?.to_string();
        let own = pods.iter().find(|row| row["address"] == own.as_str()).context("no row")?;
        let links = output(self.place.command("ip").args(["-j", "link"]))?;
        let links: Vec<Value> = serde_json::from_str(&links)?;
        let link = links.iter().find(|it| it["ifindex"] == own["ifindex"]);
        let name = link.and_then(|it| it["ifname"].as_str()).context("no such link")?;
        Ok(name.to_owned())
    }

    /// What the client's network namespace has of its link, made again.
    fn wire(&self, mac: &str) -> Result<()> {
        let own = address(&self.stage.client)?;
        for line in [
            "link set eth0 up".to_owned(),
            format!("address replace {own}/32 dev eth0"),
            format!("neighbour replace {GATEWAY} lladdr {mac} dev eth0 nud permanent"),
            format!("route replace {GATEWAY} dev eth0 src {own}"),
            format!("route replace default via {GATEWAY} dev eth0 onlink src {own}"),
        ] {
            Self::ip(&self.pod, &line)?;
        }
        Ok(())
    }

    /// In the client's own network namespace, one thing at a time.
    fn inside_the_pod(&mut self) -> Result<()> {
        let (client, own) = (self.client(), address(&self.stage.client)?);
        let to_remote = format!("{}:9376", self.remote()?);
        let words = ["explain", &client, &to_remote];
        let link = output(self.place.command("ip").args(["-j", "link", "show", &self.link()?]))?;
        let link: Vec<Value> = serde_json::from_str(&link)?;
        let mac = link[0]["address"].as_str().context("no hardware address")?;
        let no_address = format!("address del {own}/32 dev eth0");
        let no_neighbour = format!("neighbour del {GATEWAY} dev eth0");
        for (fault, line, says) in [
            ("a pod's link is down in the pod", "link set eth0 down", "is down in the pod"),
            ("a pod has lost its address", &no_address, "the pod has it no more"),
            ("a pod has no default route", "route del default", "no route: nothing leaves the pod"),
            ("a pod does not know its gateway", &no_neighbour, "its neighbour 169.254.1.1 is"),
        ] {
            Self::ip(&self.pod, line)?;
            self.names(fault, &words, says, 1)?;
            self.names(fault, &["status"], says, 1)?;
            self.wire(mac)?;
        }
        for (kind, says) in [
            ("blackhole", "blackhole: nothing leaves the pod"),
            ("unreachable", "unreachable: nothing leaves the pod"),
            ("prohibit", "prohibit: nothing leaves the pod"),
        ] {
            let route = format!("{kind} {}", self.remote()?);
            Self::ip(&self.pod, &format!("route add {route}"))?;
            self.names(&format!("a route of the pod itself is `{kind}`"), &words, says, 1)?;
            Self::ip(&self.pod, &format!("route del {route}"))?;
        }
        let (near, to) = (self.server(true)?, format!("{}:9376", self.backend(true)?));
        let place = self.stage.node()?.pod_network(&uid(near))?;
        Self::ip(&place, &format!("route add blackhole {own}"))?;
        let fault = "a pod has no way back to who calls it";
        self.names(fault, &["explain", &client, &to], "blackhole: nothing leaves the pod", 1)?;
        Self::ip(&place, &format!("route del blackhole {own}"))?;
        self.healthy().context("pods that are mended")
    }

    /// Its routes go with it, and come again with the agent.
    fn pod_link(&mut self) -> Result<()> {
        let link = self.link()?;
        Self::ip(&self.place, &format!("link set {link} down"))?;
        let (client, fault) = (self.client(), "a pod's link is down on the node");
        self.names(fault, &["explain", &client, "echo:80"], "which is down", 1)?;
        self.names(fault, &["status"], "on the node is down", 1)?;
        Self::ip(&self.place, &format!("link set {link} up"))
    }

    fn spoofing_pod(&mut self) -> Result<()> {
        let mut spoof = self.pod.command("python3");
        output(spoof.args(["-c", SPOOF, "10.240.99.99", &self.remote()?.to_string()]))?;
        let fault = "a pod sends with another's address";
        self.names(fault, &["drops"], "spoofed-source", 0)?;
        self.names(fault, &["status"], "packets from addresses that are not theirs", 0)
    }

    /// The stack brings packets to it, so that all seems well from the client's side.
    fn pod_entry(&mut self) -> Result<()> {
        let near = self.backend(true)?;
        let mut pods = self.stage.node()?.maps().table(map::PODS)?;
        let key = address_key(near);
        let entry = pods.get(&key)?.context("the pod has no entry")?;
        pods.remove(&key)?;
        let (client, to) = (self.client(), format!("{near}:9376"));
        let fault = "a pod's entry is deleted from the map of its node";
        self.names(fault, &["trace", &client, &to], "its answer was refused at", 1)?;
        self.names(fault, &["explain", &client, &to], "has no entry in PODS", 1)?;
        self.names(fault, &["status"], "has no entry in PODS", 1)?;
        self.names(fault, &["diff"], "missing", 1)?;
        let (_, said) = self.net(&["trace", &client, &to, "--numeric"])?;
        ensure!(said.contains("has no entry in PODS") && !said.contains("default/"), "{said}");
        pods.put(&key, &entry)?;
        let key = address_key(address(&self.stage.client)?);
        let entry = pods.get(&key)?.context("the client has no entry")?;
        pods.remove(&key)?;
        let fault = "the client's own entry is deleted from the map";
        self.names(fault, &["explain", &client, "echo:80"], "has no entry in PODS", 1)?;
        self.names(fault, &["status"], "has no entry in PODS", 1)?;
        pods.put(&key, &entry)
    }

    /// The node's stack brings packets there, so that all seems well.
    fn route_entry(&mut self) -> Result<()> {
        let (_, said) = self.net(&["routes", "-o", "json"])?;
        let rows: Vec<Value> = serde_json::from_str(&said)?;
        let mut ranges = rows.iter().filter_map(|row| row["cidr"].as_str());
        let range = ranges.find(|range| !range.contains(':')).context("no route")?;
        let mut routes = self.stage.node()?.maps().table(map::ROUTES)?;
        let key = range_key(range)?;
        let entry = routes.get(&key)?.context("the route has no entry")?;
        routes.remove(&key)?;
        let (client, fault) = (self.client(), "the way to another node is deleted from the map");
        let words = ["explain", &client, "echo:80"];
        self.names(fault, &words, "no route of ROUTES covers it", 1)?;
        self.names(fault, &["diff"], "missing", 1)?;
        routes.put(&key, &entry)
    }

    /// Detached, each is gone: the agent that would attach it again is dead.
    fn programs(&mut self) -> Result<()> {
        let client = self.client();
        let node = self.stage.node()?;
        let links = node.bpffs().join(format!("bowline/v{}/links", bowline_ebpf_abi::ABI_VERSION));
        let words = ["explain", &client, "echo:80"];
        let link = self.link()?;
        self.detach(&links, "from_pod", &link, "ingress")?;
        let fault = "the program at a pod's link is detached";
        self.names(fault, &words, "no program of bowline", 1)?;
        self.names(fault, &["status"], "program from_pod does not run at link", 1)?;
        fs::remove_file(links.join("connect4"))?;
        let fault = "the program at connect() is detached";
        self.names(fault, &words, "Packets are balanced one by one", 1)?;
        self.names(fault, &["status"], "program connect4 does not run at cgroup", 1)?;
        for program in SOCKET_PROGRAMS {
            fs::remove_file(links.join(program))?;
            let fault = format!("the program {program} is detached");
            let (_, said) = self.net(&["diff"])?;
            ensure!(said.contains(program), "diff does not name {program}: {said}");
            let (_, said) = self.net(&["status"])?;
            let says = format!("program {program} does not run at cgroup");
            ensure!(said.contains(&says), "{fault}: {said}");
            self.names(&fault, &["status"], "does not run at cgroup", 1)?;
        }
        self.detach(&links, "to_pod", &link, "egress")?;
        let fault = "the program before a pod's link is detached";
        self.names(fault, &["status"], "program to_pod does not run at link", 1)?;
        self.detach(&links, "from_uplink", "eth0", "ingress")?;
        let fault = "the program at the uplink is detached";
        self.names(fault, &["status"], "program from_uplink does not run at link", 1)
    }

    /// Filters of clsact, where the kernel has no TCX, have no pin.
    fn detach(&self, links: &Path, program: &str, link: &str, way: &str) -> Result<()> {
        let found = output(self.place.command("ip").args(["-j", "link", "show", link]))?;
        let found: Vec<Value> = serde_json::from_str(&found)?;
        match fs::remove_file(links.join(format!("{program}-{}", found[0]["ifindex"]))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut tc = self.place.command("tc");
                output(tc.args(["filter", "del", "dev", link, way])).map(drop)
            }
            removed => Ok(removed?),
        }
    }

    fn map_entry(&mut self) -> Result<()> {
        let client = self.client();
        let mut services = self.stage.node()?.maps().services()?;
        services.remove(VIP.parse()?, 80)?;
        let fault = "a service's entry is deleted from the map";
        self.names(fault, &["explain", &client, "echo:80"], "refused [unknown-port]", 1)?;
        self.names(fault, &["diff"], "missing", 1)
    }

    /// Until `status` says so; what it says then.
    async fn status_says(&self, what: &str, word: &str) -> Result<String> {
        wait(what, PATIENCE, async || {
            let (_, said) = self.net(&["status"])?;
            Ok(if said.contains(word) { Found::Yes(said) } else { Found::NotYet(said) })
        })
        .await
    }

    /// Until nothing is wrong.
    async fn mended(&self, what: &str) -> Result<()> {
        let said = self.status_says(what, "\nhealthy").await?;
        ensure!(!said.contains("HIGH") && !said.contains("failed ("), "{said}");
        Ok(())
    }

    /// It is dead, and was alive half a minute ago.
    async fn silent_agent(&mut self) -> Result<()> {
        let says = "the agent has not worked for";
        self.status_says("an agent that is missed", says).await?;
        self.names("the agent is dead or hangs", &["status"], says, 1)
    }

    /// Routes cannot be put back at a link that is down.
    async fn failing_loop(&mut self) -> Result<()> {
        Self::ip(&self.place, "link set eth0 down")?;
        let said = self.status_says("a loop that fails", "loop network failed").await;
        let named = said.and_then(|said| {
            ensure!(said.contains("failed (") && said.contains("in a row): "), "{said}");
            let fault = "the agent cannot do its work";
            self.names(fault, &["status"], "loop network failed", 1)
        });
        Self::ip(&self.place, "link set eth0 up")?;
        named?;
        self.mended("a loop that goes round again").await
    }

    /// A service of so many ports, of which each takes a slot for each server.
    async fn service(&self, name: &str, count: u16) -> Result<()> {
        let port = |port: u16| json!({ "name": format!("p{port}"), "port": port });
        let ports: Vec<Value> = (1..=count).map(port).collect();
        let service: Service = serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": { "selector": { "app": "echo" }, "ports": ports },
        }))?;
        let api = self.stage.cluster.api().await?;
        api.of().create(&PostParams::default(), &service).await.map(drop).map_err(Into::into)
    }

    async fn nearly_full_map(&mut self) -> Result<()> {
        let (_, said) = self.net(&["maps", "-o", "json"])?;
        let maps: Vec<Value> = serde_json::from_str(&said).context(said)?;
        let slots = maps.iter().find(|map| map["name"] == map::SLOTS).context("no SLOTS")?;
        let used = slots["used"].as_u64().context("no number of slots")?;
        ensure!(slots["pressure"] == false && used < NEARLY_FULL, "{slots}");
        let servers = self.stage.servers.len() as u64;
        let ports = u16::try_from((NEARLY_FULL - used).div_ceil(servers))?;
        self.service("some", ports).await?;
        let says = "% full: raise it with --map-size SLOTS=";
        let said = self.status_says("a map that is nearly full", says).await?;
        let row = said.lines().find(|line| line.starts_with("SLOTS ")).context("no row")?;
        ensure!(row.contains("HIGH, "), "{row}");
        self.names("a map is nearly full", &["status"], says, 1)?;
        let (_, said) = self.net(&["maps"])?;
        ensure!(said.matches("HIGH, ").count() == 1, "{said}");
        let services = self.stage.cluster.api().await?.of::<Service>();
        services.delete("some", &DeleteParams::default()).await?;
        self.mended("a map with room again").await
    }

    async fn full_map(&mut self) -> Result<()> {
        self.service("many", MANY).await?;
        self.status_says("a map that is full", "without room in").await?;
        self.names("a map is full", &["status"], "without room in SLOTS: default/many", 1)
    }
}
