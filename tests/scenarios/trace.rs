//! `bowline net trace` on real clusters: a packet is followed from hook to hook, past a service's
//! address and across nodes, as it is and through a tunnel; what refuses or loses it is named.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use anyhow::{Context, Result, ensure};
use bowline_ebpf_abi::map;
use bowline_tests::api::{address, name, node_of};
use bowline_tests::cluster::BOTH_FAMILIES;
use bowline_tests::command::{finish, output};
use bowline_tests::maps::address_key;
use bowline_tests::pod_network::Family;
use bowline_tests::{EchoStage, Node, Wishes};
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::monitor::{Monitor, knows_cookies};

const PATIENCE: Duration = Duration::from_secs(20);

/// Who listens is told nothing any more that has not read for so long.
const LEASE: Duration = Duration::from_secs(3);

/// Nobody's.
const STRANGER: &str = "10.240.99.99";

/// Where a packet between pods of two nodes and its answer are seen.
const ACROSS: [&str; 6] = [
    "HERE client sends",
    "HERE from-pod remote-node",
    "THERE from-uplink local-pod",
    "THERE from-pod remote-node",
    "HERE from-uplink local-pod",
    "HERE client is answered",
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn a_packet_is_followed_from_hook_to_hook() -> Result<()> {
    let stage = EchoStage::up(&Wishes { nodes: 2, ..Wishes::default() }).await?;
    let played = async {
        let traced = Traced::of(&stage)?;
        traced.whole("eth0")?;
        traced.refused()?;
        traced.one_at_a_time()?;
        traced.through_the_api()?;
        traced.events().await.context("the events of a node")?;
        traced.bad_input()?;
        traced.interrupted()?;
        traced.stalled()?;
        traced.broken()?;
        traced.leaves_nothing()
    };
    played.await.map_err(|error| stage.cluster.with_logs(error))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn a_packet_is_followed_through_the_tunnel() -> Result<()> {
    let mut wishes = Wishes { nodes: 2, ..Wishes::default() };
    wishes.flags.extend(["--routing", "tunnel"].map(str::to_owned));
    wishes.flags.extend(BOTH_FAMILIES.map(str::to_owned));
    let stage = EchoStage::up(&wishes).await?;
    let played = Traced::of(&stage).and_then(|traced| {
        traced.whole("bl-vxlan")?;
        traced.whole_v6().context("over IPv6")
    });
    played.map_err(|error| stage.cluster.with_logs(error))
}

/// The stage, with a server on either node.
struct Traced<'a> {
    stage: &'a EchoStage,
    client: String,
    here: &'a Node,
    there: &'a Node,
    near: &'a Pod,
    far: &'a Pod,
}

/// What `trace -o json` said.
struct Story {
    code: i32,
    said: Value,
}

impl fmt::Debug for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit status {}: {}", self.code, self.said)
    }
}

impl Story {
    fn steps(&self) -> &[Value] {
        self.said["steps"].as_array().map_or(&[], Vec::as_slice)
    }

    /// Each step as `NODE HOOK REASON`, or what it is instead of a reason.
    fn hooks(&self) -> Vec<String> {
        let word = |step: &Value, name: &str| step[name].as_str().unwrap_or_default().to_owned();
        let hook = |step: &Value| {
            let what = if step["reason"].is_null() { "verdict" } else { "reason" };
            format!("{} {} {}", word(step, "node"), word(step, "hook"), word(step, what))
        };
        self.steps().iter().map(hook).collect()
    }

    fn ended(&self, code: i32, outcome: &str, verdict: &str) -> Result<()> {
        let said = self.said["verdict"].as_str().unwrap_or_default();
        ensure!(self.code == code && self.said["outcome"] == outcome, "{self:?}");
        ensure!(said.contains(verdict), "no `{verdict}`: {self:?}");
        Ok(())
    }

    fn met(&self, hooks: &[String]) -> Result<()> {
        ensure!(self.hooks() == hooks, "{hooks:#?} was expected of {self:?}");
        let times = self.steps().iter().map(|step| step["nanoseconds"].as_i64());
        let times: Vec<i64> = times.collect::<Option<_>>().context("no times")?;
        ensure!(times.is_sorted() && times[0] == 0, "{times:?}");
        ensure!(self.said["notListenedTo"] == json!([]), "{self:?}");
        Ok(())
    }

    fn causes(&self, words: &str) -> Result<()> {
        let causes = self.said["causes"].to_string();
        ensure!(causes.contains(words), "no `{words}`: {self:?}");
        Ok(())
    }
}

/// Waits until something is so.
fn until(otherwise: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        ensure!(start.elapsed() < PATIENCE, "{otherwise}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

impl<'a> Traced<'a> {
    fn of(stage: &'a EchoStage) -> Result<Self> {
        let here = stage.node()?;
        let server = |is_near: bool| {
            let mut servers = stage.servers.iter();
            servers.find(|pod| (node_of(pod) == here.name) == is_near).context("no such server")
        };
        let there = stage.cluster.nodes.iter().find(|node| node.name != here.name);
        Ok(Self {
            stage,
            client: name(&stage.client),
            here,
            there: there.context("one node only")?,
            near: server(true)?,
            far: server(false)?,
        })
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.stage.cluster.bowline(&["net", "trace"])?;
        command.args(words).args(["--name", &self.stage.cluster.name, "--node", &self.here.name]);
        Ok(command)
    }

    fn trace(&self, words: &[&str]) -> Result<Story> {
        Self::told(self.command(words)?)
    }

    fn told(mut command: Command) -> Result<Story> {
        let ended = finish(command.args(["-o", "json"]))?;
        let said = serde_json::from_slice(&ended.stdout).with_context(|| {
            format!("{command:?} said {}", String::from_utf8_lossy(&ended.stderr))
        })?;
        Ok(Story { code: ended.status.code().context("killed")?, said })
    }

    fn end(pod: &Pod, port: u16) -> Result<String> {
        Ok(format!("{}:{port}", address(pod)?))
    }

    /// What hooks make of the packet, with `HERE` and `THERE` for the nodes.
    fn hooks(&self, hooks: &[&str]) -> Vec<String> {
        let (here, there) = (&self.here.name, &self.there.name);
        hooks.iter().map(|it| it.replace("THERE", there).replace("HERE", here)).collect()
    }

    /// The same where a socket connects.
    fn connects(&self, hooks: &[&str]) -> Vec<String> {
        let mut hooks = self.hooks(hooks);
        hooks[0] = format!("{} client connects", self.here.name);
        hooks
    }

    /// Nothing is wrong; `link` is where packets of other nodes come in.
    fn whole(&self, link: &str) -> Result<()> {
        self.to_pods(link).context("from pod to pod")?;
        self.to_services().context("to a service")?;
        let near = Self::end(self.near, 9376)?;
        let mut table = self.command(&[&self.client, &near])?;
        let text = output(&mut table)?;
        for word in ["TIME ", " VERDICT ", "local-pod", "SYN+ACK", "\nanswered after "] {
            ensure!(text.contains(word), "no `{word}` in:\n{text}");
        }
        let far = Self::end(self.far, 9376)?;
        let numeric = self.trace(&[&self.client, &far, "--numeric"])?;
        ensure!(!numeric.said.to_string().contains("default/"), "{numeric:?}");
        Ok(())
    }

    fn to_pods(&self, link: &str) -> Result<()> {
        let [sends, .., answered] = ACROSS;
        let on_node = [sends, "HERE from-pod local-pod", "HERE from-pod local-pod", answered];
        let far = address(self.far)?.to_string();
        for (pod, way) in [(self.near, &on_node[..]), (self.far, &ACROSS)] {
            let tcp = self.trace(&[&self.client, &Self::end(pod, 9376)?])?;
            tcp.ended(0, "answered", "the connection opens")?;
            tcp.met(&self.connects(way))?;
            let udp = self.trace(&[&self.client, &Self::end(pod, 7007)?, "--udp"])?;
            udp.ended(0, "answered", "a datagram")?;
            udp.met(&self.hooks(way))?;
            let icmp = self.trace(&[&self.client, &address(pod)?.to_string(), "--icmp"])?;
            icmp.ended(0, "answered", "an echo reply")?;
            icmp.met(&self.hooks(way))?;
            let raw = self.trace(&[&self.client, &Self::end(pod, 9376)?, "--past-hooks"])?;
            raw.ended(0, "answered", "the connection opens")?;
            raw.met(&self.hooks(way))?;
            // By its name: the other node's pods are known, too.
            let closed = self.trace(&[&self.client, &format!("{}:9", name(pod))])?;
            closed.ended(0, "answered", "nobody listens at that port (RST)")?;
            let closed = self.trace(&[&self.client, &Self::end(pod, 9)?, "--udp"])?;
            closed.ended(0, "answered", "port unreachable")?;
        }
        let story = self.trace(&[&self.client, &Self::end(self.far, 9376)?])?;
        let came_in = &story.steps()[2];
        ensure!(came_in["device"] == link, "{came_in}");
        ensure!(came_in["source"]["name"] == format!("default/{}", self.client), "{came_in}");
        ensure!(came_in["destination"]["address"] == far.as_str(), "{came_in}");
        ensure!(came_in["tcpFlags"] == json!(["SYN"]), "{came_in}");
        ensure!(story.steps()[3]["tcpFlags"] == json!(["SYN", "ACK"]), "{story:?}");
        let node = self.trace(&["node", &Self::end(self.far, 9376)?])?;
        node.ended(0, "answered", "the connection opens")?;
        node.met(&self.hooks(&[
            "HERE client connects",
            "THERE from-uplink local-pod",
            "THERE from-pod stack",
            "HERE from-uplink stack",
            "HERE client is answered",
        ]))
    }

    /// The same between addresses of IPv6.
    fn whole_v6(&self) -> Result<()> {
        let far = Family::V6.of(self.far)?;
        let end = |port: u16| format!("[{far}]:{port}");
        // The servers have IPv4 only.
        for (words, says) in [
            (&[&*end(9376), "--past-hooks"][..], "(RST)"),
            (&[&far.to_string(), "--icmp"], "an echo reply"),
        ] {
            let story = self.trace(&[&[&*self.client], words].concat())?;
            story.ended(0, "answered", says)?;
            story.met(&self.hooks(&ACROSS))?;
        }
        self.trace(&[&self.client, &end(9376)])?.ended(0, "answered", "(RST)")?;
        for words in [&["--udp"][..], &["--udp", "--past-hooks"]] {
            let story = self.trace(&[&[&*self.client, &end(7007)], words].concat())?;
            story.ended(0, "answered", "port unreachable")?;
        }
        let dns = "[fd00:10:9::a]:53";
        let called = self.trace(&[&self.client, dns])?;
        called.ended(0, "answered", "the connection opens")?;
        ensure!(called.hooks()[1].ends_with(" connect6 balanced"), "{called:?}");
        let raw = self.trace(&[&self.client, dns, "--past-hooks"])?;
        raw.ended(0, "answered", "the connection opens")?;
        ensure!(raw.hooks()[1].ends_with(" from-pod balanced"), "{raw:?}");
        let spoofed = self.trace(&[&self.client, &end(9376), "--source", "fd00:99::1"])?;
        spoofed.ended(1, "refused", "[spoofed-source]")
    }

    fn to_services(&self) -> Result<()> {
        let servers = [Self::end(self.near, 9376)?, Self::end(self.far, 9376)?];
        let shown = |end: &Value| {
            format!("{}:{}", end["address"].as_str().unwrap_or_default(), end["port"])
        };
        let story = self.trace(&[&self.client, "echo:80"])?;
        story.ended(0, "answered", "the connection opens")?;
        let [client, call, packet, ..] = story.steps() else { anyhow::bail!("{story:?}") };
        ensure!(client["destination"]["name"] == "default/echo", "{client}");
        ensure!(call["hook"] == "connect4" && call["reason"] == "balanced", "{call}");
        let backend = shown(&call["becomes"]);
        ensure!(servers.contains(&backend), "{call}");
        // There never was a packet to the service.
        ensure!(packet["hook"] == "from-pod" && shown(&packet["destination"]) == backend);

        let story = self.trace(&[&self.client, "echo:80", "--past-hooks"])?;
        story.ended(0, "answered", "the connection opens")?;
        let [client, packet, .., last, end] = story.steps() else { anyhow::bail!("{story:?}") };
        ensure!(client["verdict"] == "sends" && end["verdict"] == "is answered", "{story:?}");
        ensure!(packet["hook"] == "from-pod" && packet["reason"] == "balanced", "{packet}");
        ensure!(shown(&packet["destination"]) == "10.9.8.9:80", "{packet}");
        let backend = shown(&packet["becomes"]);
        ensure!(servers.contains(&backend), "{packet}");
        ensure!(last["reason"] == "answer-translated" && shown(&last["source"]) == backend);
        ensure!(last["becomes"]["name"] == "default/echo", "{last}");

        for words in [&["echo:7", "--udp"][..], &["echo:7", "--udp", "--past-hooks"]] {
            let story = self.trace(&[&[&*self.client], words].concat())?;
            story.ended(0, "answered", "a datagram")?;
        }
        Ok(())
    }

    /// What the data plane refuses, and at which hook.
    fn refused(&self) -> Result<()> {
        let far = Self::end(self.far, 9376)?;
        let own = address(self.near)?.to_string();
        for (words, reason) in [
            (&["echo:81", "--past-hooks"][..], "unknown-port"),
            (&["echo", "--icmp"], "service-protocol"),
            (&[&far, "--source", STRANGER], "spoofed-source"),
            // That of a pod of the same node, past the hooks of sockets.
            (&["echo:80", "--past-hooks", "--source", &own], "spoofed-source"),
            (&["224.0.0.9:9", "--udp"], "multicast"),
        ] {
            let story = self.trace(&[&[&*self.client], words].concat())?;
            let verdict = format!("refused at {} from-pod", self.here.name);
            story.ended(1, "refused", &verdict).with_context(|| format!("{words:?}"))?;
            ensure!(story.hooks().len() == 2, "{story:?}");
            ensure!(story.steps()[1]["reason"] == reason, "{words:?}: {story:?}");
        }
        let story = self.trace(&[&self.client, &far, "--source", STRANGER])?;
        story.causes(&format!("PODS: {STRANGER}: no entry"))?;
        for words in [&["echo:81"][..], &["echo:81", "--udp"]] {
            let story = self.trace(&[&[&*self.client], words].concat())?;
            let hook = format!("{} connect4", self.here.name);
            story.causes("which has 7/TCP, 7/UDP, 80/TCP only")?;
            if knows_cookies()? {
                let verdict = format!("refused at {hook} [unknown-port]: nothing was sent");
                story.ended(1, "refused", &verdict)?;
                ensure!(story.hooks()[1] == format!("{hook} unknown-port"), "{story:?}");
            } else {
                story.ended(1, "unsent", "not sent: ")?;
            }
        }
        // An address of a node's range that no pod has: the node says so.
        let story = self.trace(&[&self.client, &format!("{}:9", self.nobody()?)])?;
        story.ended(1, "refused", "host unreachable")?;
        story.causes("kernel routes")
    }

    /// An address that the other node has for a pod and gives none.
    fn nobody(&self) -> Result<String> {
        let [a, b, c, _] = address(self.far)?.octets();
        Ok(format!("{a}.{b}.{c}.200"))
    }

    /// Somebody listens to the client's node: that is said, and the rest is told.
    fn one_at_a_time(&self) -> Result<()> {
        let monitor = Monitor::run(self.stage, &["monitor", "--port", "1"])?;
        let story = self.trace(&[&self.client, &Self::end(self.far, 9376)?])?;
        monitor.stop()?;
        story.ended(0, "answered", "the connection opens")?;
        let deaf = &story.said["notListenedTo"];
        ensure!(deaf[0]["node"] == self.here.name.as_str(), "{deaf}");
        let why = deaf[0]["why"].as_str().unwrap_or_default();
        ensure!(why.starts_with("somebody else listens on this node"), "{deaf}");
        let hooks = self.hooks(&["THERE from-uplink local-pod", "THERE from-pod remote-node"]);
        ensure!(story.hooks()[1..3] == hooks, "{story:?}");
        // What is refused where nobody looks is not tried again: one packet is one.
        let monitor = Monitor::run(self.stage, &["monitor", "-o", "json", "--port", "9"])?;
        let story = self.trace(&[&self.client, &Self::end(self.near, 9)?])?;
        let (shown, _) = monitor.stop()?;
        story.ended(1, "refused", "refused, where is not known: ")?;
        let openings = shown.lines().filter(|line| line.contains(r#""tcpFlags":["SYN"]"#));
        ensure!(openings.count() == 1, "{shown}");
        Ok(())
    }

    /// As on a machine of its own, with the other node behind its agent.
    fn remote(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.stage.cluster.bowline(&["net", "trace"])?;
        let run_dir = self.here.bpffs().with_file_name("run");
        let netns = Path::new("/run/netns").join(self.here.namespace());
        command.args(words).arg("--bpffs").arg(self.here.bpffs()).arg("--run-dir").arg(run_dir);
        command.arg("--netns").arg(netns).args(["--node-name", &self.here.name]);
        Ok(command)
    }

    fn through_the_api(&self) -> Result<()> {
        let far = Self::end(self.far, 9376)?;
        let kubeconfig = self.stage.cluster.kubeconfig().display().to_string();
        let words = [&*self.client, &far, "--kubeconfig", &kubeconfig];
        let story = Self::told(self.remote(&words)?)?;
        story.ended(0, "answered", "the connection opens")?;
        story.met(&self.connects(&ACROSS))?;
        let far = address(self.far)?.to_string();
        let words = [&*self.client, &far, "--icmp", "--kubeconfig", &kubeconfig];
        let story = Self::told(self.remote(&words)?)?;
        story.met(&self.hooks(&ACROSS))?;
        let story = Self::told(self.remote(&[&self.client, &far, "--icmp"])?)?;
        let deaf = story.said["notListenedTo"].to_string();
        ensure!(story.code == 0 && deaf.contains("--kubeconfig names the API"), "{story:?}");
        ensure!(story.hooks().len() == 4, "{story:?}");
        Ok(())
    }

    /// What the API server passes on, as it comes.
    async fn events(&self) -> Result<()> {
        let node = &self.there.name;
        let get = |query: &str| {
            let path = format!("/bowline/v1/nodes/{node}/events?{query}");
            http::Request::get(path).body(Body::empty())
        };
        let client = self.stage.cluster.api().await?.client();
        let answer = client.send(get("protocol=6&port=1&seconds=1")?).await?;
        let media_type = answer.headers().get("content-type").cloned();
        ensure!(media_type.is_some_and(|it| it == "application/x-ndjson"), "{answer:?}");
        let body = answer.into_body().collect_bytes().await?;
        let lines: Vec<Value> = body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(serde_json::from_slice)
            .collect::<Result<_, _>>()?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let listening = json!({ "listening": { "bootId": boot.trim() } });
        ensure!(lines == [listening, json!({ "lost": 0 })], "{lines:?}");
        let refused = client.send(get("port=1")?).await?;
        ensure!(refused.status() == 400, "{refused:?}");
        Ok(())
    }

    fn bad_input(&self) -> Result<()> {
        let client = &*self.client;
        for (words, says) in [
            (&["clientt", "echo:80"][..], format!("did you mean default/{client}")),
            (&[client, "ecko"], "no service and no pod default/ecko: did you mean".to_owned()),
            (&[client, "echo:80", "--icmp"], "an echo request has no port".to_owned()),
            (&[client, "10.240.0.9"], "needs a port".to_owned()),
            (&[client, "127.0.0.1:80"], "does not leave its sender".to_owned()),
            (&[client, "echo:80", "--source", "fd00::1"], "is not of the family".to_owned()),
            (&[client, "echo:80", "--watch"], "leave --watch out".to_owned()),
            (&[client, "echo:80", "--udp", "--icmp"], "cannot be used with".to_owned()),
            (&[client, "echo:80", "--kubeconfig", "x"], "cannot be used with".to_owned()),
        ] {
            let ended = finish(&mut self.command(words)?)?;
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            ensure!(ended.status.code() == Some(2) && said.contains(&says), "{words:?}: {said}");
        }
        Ok(())
    }

    /// Ctrl-C while an answer is waited for; what is left then is looked at in the end.
    fn interrupted(&self) -> Result<()> {
        let mut command = self.command(&[&self.client, "192.0.2.1:9", "--wait", "60"])?;
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn()?;
        let start = Instant::now();
        // Its sender waits.
        until("no sender was started", || self.has_senders())?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
        let ended = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(ended.status.code() == Some(2) && said.contains("interrupted"), "{said}");
        ensure!(start.elapsed() < PATIENCE, "it took {:?}", start.elapsed());
        Ok(())
    }

    /// Who does not read for longer than a lease has missed something, and says so.
    fn stalled(&self) -> Result<()> {
        let mut command =
            self.command(&[&self.client, "192.0.2.1:9", "--wait", "2", "-o", "json"])?;
        let child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        until("nobody listens", || Ok(self.listener(self.here)? != "[]"))?;
        let process = Pid::from_raw(i32::try_from(child.id())?);
        kill(process, Signal::SIGSTOP)?;
        std::thread::sleep(LEASE + Duration::from_secs(1));
        kill(process, Signal::SIGCONT)?;
        let ended = child.wait_with_output()?;
        let said = serde_json::from_slice(&ended.stdout)?;
        let story = Story { code: ended.status.code().context("killed")?, said };
        let named = &story.said["notListenedTo"][0];
        ensure!(named["node"] == self.here.name.as_str(), "{story:?}");
        let why = named["why"].as_str().unwrap_or_default();
        ensure!(why.starts_with("who reads this was too slow"), "{story:?}");
        Ok(())
    }

    /// What the programs of a node were asked to tell.
    fn listener(&self, node: &Node) -> Result<String> {
        let mut dump = self.stage.cluster.bowline(&["net", "maps", "dump", "MONITOR"])?;
        dump.args(["-o", "json", "--node", &node.name, "--name", &self.stage.cluster.name]);
        Ok(output(&mut dump)?.trim().to_owned())
    }

    /// Whether a cgroup is there that senders are made in.
    fn has_senders(&self) -> Result<bool> {
        for node in [self.here, self.there] {
            for entry in fs::read_dir(node.cgroup())? {
                if entry?.file_name().to_string_lossy().starts_with("client-") {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The other node loses the far server, and nobody is there to mend it.
    fn broken(&self) -> Result<()> {
        let far = Self::end(self.far, 9376)?;
        let hook = |hook: &str| format!("{} {hook} on ", self.there.name);
        self.there.end_agent(Signal::SIGKILL)?;
        let mut pods = self.there.maps().table(map::PODS)?;
        pods.remove(&address_key(IpAddr::from(address(self.far)?)))?;
        // The node's stack still brings it to the pod, which may not answer.
        let story = self.trace(&[&self.client, &far])?;
        story.ended(1, "refused", &format!("its answer was refused at {}", hook("from-pod")))?;
        let hooks = [
            "HERE client connects",
            "HERE from-pod remote-node",
            "THERE from-uplink stack",
            "THERE to-pod stack",
            "THERE from-pod spoofed-source",
        ];
        ensure!(story.hooks().starts_with(&self.hooks(&hooks)), "{story:?}");
        story.causes("has no entry in PODS: its packets are refused [spoofed-source]")?;
        // Past its agent, too: the API cannot reach it.
        let kubeconfig = self.stage.cluster.kubeconfig().display().to_string();
        let words = [&*self.client, &far, "--kubeconfig", &kubeconfig];
        let story = Self::told(self.remote(&words)?)?;
        story.ended(1, "lost", "sent to the other node; no answer came within 1 s")?;
        let deaf = story.said["notListenedTo"].to_string();
        ensure!(deaf.contains(&self.there.name) && deaf.contains("cannot be reached"), "{deaf}");

        let blackhole = format!("route replace blackhole {}", address(self.far)?);
        let mut ip = self.there.place()?.command("ip");
        output(ip.args(blackhole.split_whitespace()))?;
        let story = self.trace(&[&self.client, &far])?;
        let last = format!("lost: last seen at {}eth0", hook("from-uplink"));
        story.ended(1, "lost", &last)?;
        story.ended(1, "lost", "left to the node's own stack")?;
        story.causes("blackhole")
    }

    /// Neither cgroups nor somebody whom the programs would tell.
    fn leaves_nothing(&self) -> Result<()> {
        ensure!(!self.has_senders()?, "a cgroup is left");
        for node in [self.here, self.there] {
            let left = self.listener(node)?;
            ensure!(left == "[]", "{}: {left}", node.name);
        }
        Ok(())
    }
}
