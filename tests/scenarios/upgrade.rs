//! Another build of the agent takes over under load: one with the same map layouts ten times, then
//! one with others, and back, also when it is killed on the way. No connection breaks and none is
//! refused, of either family, and nothing of the agent before goes on running.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bowline_ebpf_abi::ABI_VERSION;
use bowline_tests::api::{Api, Found, node_of, uid, wait};
use bowline_tests::artifacts;
use bowline_tests::cluster::BOTH_FAMILIES;
use bowline_tests::command::{finish, output};
use bowline_tests::load::{self, Attempt, Fresh, Load};
use bowline_tests::machine::{self, PROGRAMS};
use bowline_tests::{EchoStage, Node, Place, Running, Wishes, registry};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::PostParams;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(60);
const REPLACEMENTS: usize = 10;
/// Workers that open a connection every 16 ms, and make up for what they had to wait: together a
/// thousand a second.
const WORKERS: u32 = 12;
const WORKERS_V6: u32 = 4;
const EVERY_US: u32 = 16_000;
const OPEN: u32 = 20;
/// Of fresh connections a second, on average: less than a thousand by what was not made up for yet
/// when the load was stopped, and by the time that starting and stopping it took.
const LEAST_RATE: f64 = 950.0;
/// The service of IPv6.
pub(crate) const SIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 9, 0, 0, 0, 0, 0x906);
/// The last parts of the addresses of services with session affinity: each keeps a pod of its own.
const STICKY: std::ops::Range<u8> = 30..38;
/// After so long TCP asks again: a first packet that went nowhere costs this, and no error.
const SECOND_TRY: Duration = Duration::from_secs(1);
/// Of the build with other layouts.
const NEXT_VERSION: u32 = ABI_VERSION + 1;

/// Asks by connected UDP sockets that it keeps, until its input is closed; prints how often, and
/// which answers were missing, were another pod's than before, or had another name than the
/// service's.
const CONVERSE: &str = r#"
import json, select, socket, sys, time
target, end, asked, wrong, kept = (sys.argv[1], int(sys.argv[2])), time.monotonic() + 600, 0, [], []
for _ in range(int(sys.argv[3])):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.connect(target)
    kept.append([s, None])
def ask(entry):
    s, pod = entry
    text = f'question {asked}'
    s.send(text.encode())
    data, peer = s.recvfrom(2048)
    answer = json.loads(data)
    if (peer, s.getpeername(), answer['text']) != (target, target, text):
        wrong.append(f'{text}: {answer} by {peer}, peer {s.getpeername()}')
    if pod not in (None, answer['pod']):
        wrong.append(f'{text}: {answer} after {pod}')
    entry[1] = answer['pod']
while not select.select([sys.stdin], [], [], 0.005)[0] and time.monotonic() < end:
    for entry in kept:
        asked += 1
        try:
            ask(entry)
        except OSError as error:
            wrong.append(f'question {asked}: {error}')
    if asked == len(kept):
        print('begun', flush=True)
print(json.dumps({'asked': asked, 'wrong': wrong}))
"#;

/// Opens a connection to each of these services in turn, until its input is closed; prints how
/// often, and which were answered by another pod than the first time or not at all.
const RETURN: &str = r#"
import json, select, socket, sys, time
end, asked, wrong, pods = time.monotonic() + 600, 0, [], {}
def who(host):
    with socket.create_connection((host, 80), 5) as s:
        s.sendall(b'GET / HTTP/1.0\r\nConnection: close\r\n\r\n')
        text = b''
        while part := s.recv(4096):
            text += part
    return json.loads(text.split(b'\r\n\r\n', 1)[1])['pod']
while not select.select([sys.stdin], [], [], 0.01)[0] and time.monotonic() < end:
    for host in sys.argv[1:]:
        asked += 1
        try:
            pod = who(host)
            if pods.setdefault(host, pod) != pod:
                wrong.append(f'{host}: {pod} after {pods[host]}')
        except (OSError, IndexError) as error:
            wrong.append(f'{host}: {error}')
    if asked == len(sys.argv[1:]):
        print('begun', flush=True)
print(json.dumps({'asked': asked, 'wrong': wrong}))
"#;

/// Of [`PROGRAMS`] those that see packets.
const PACKET_PROGRAMS: [&str; 3] = ["from_pod", "from_uplink", "to_pod"];

/// Kernels before 6.6 have none, and this one can do without.
const WITHOUT_TCX: [&str; 2] = ["--disable-feature", "tcx"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn agents_that_are_replaced_under_load_break_nothing() -> Result<()> {
    Stage::play(&[], same_layouts).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn agents_that_are_replaced_without_tcx_break_nothing() -> Result<()> {
    Stage::play(&WITHOUT_TCX, same_layouts).await
}

/// Needs a second build: `cargo xtask test --thorough` makes it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn an_upgrade_to_other_layouts_under_load_breaks_nothing() -> Result<()> {
    Stage::play(&[], upgrades).await
}

/// The same.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn an_upgrade_to_other_layouts_without_tcx_breaks_nothing() -> Result<()> {
    Stage::play(&WITHOUT_TCX, upgrades).await
}

async fn upgrades(stage: &Stage) -> Result<()> {
    other_layouts(stage).await.context("a build with other layouts and back")?;
    broken_off(stage).await.context("takeovers that are killed")
}

/// The scenario's cluster, and more than its echo service.
struct Stage {
    echo: EchoStage,
    /// Pods on the client's node whose programs no socket hook sees. What a hook balances has the
    /// backend's name from the start, and may get a port that packets of a flow have already: so
    /// these are pods of their own. With one on the other node they are the backends of [`SIX`].
    unhooked: [Pod; 2],
    /// Whether packets are seen through TCX links.
    tcx: bool,
}

impl Stage {
    /// Plays on a cluster whose agents have these flags.
    async fn play(flags: &[&str], play: impl AsyncFnOnce(&Self) -> Result<()>) -> Result<()> {
        let stage = Self::up(flags).await?;
        let played = stage.watched(play(&stage)).await;
        played.map_err(|error| stage.echo.cluster.with_logs(error))
    }

    async fn up(more: &[&str]) -> Result<Self> {
        let mut wishes = Wishes { nodes: 2, ..Wishes::default() };
        // An agent that is killed all the time says nothing, and its pods shall stay for all that.
        let flags = [&["--node-monitor-grace-period", "120"], &BOTH_FAMILIES[..]].concat();
        wishes.flags.extend(flags.iter().chain(more).map(|flag| (*flag).to_owned()));
        let echo = EchoStage::up(&wishes).await?;
        let ready = Self::over(&echo).await.map_err(|error| echo.cluster.with_logs(error));
        ready.map(|unhooked| Self { echo, unhooked, tcx: more != WITHOUT_TCX })
    }

    /// Plays; meanwhile the node must never be called anything but ready.
    async fn watched(&self, play: impl Future<Output = Result<()>>) -> Result<()> {
        let watch = ReadyWatch::start(self).await?;
        let played = play.await;
        let steady = watch.stop().await.and_then(|seen| {
            let only_ready = seen.iter().all(|(_, ready)| ready == "True");
            ensure!(
                !seen.is_empty() && only_ready,
                "by seconds the node was called ready: {seen:?}"
            );
            Ok(())
        });
        match (played, steady) {
            (Err(error), Err(unready)) => Err(error.context(format!("besides, {unready:#}"))),
            (played, steady) => played.and(steady),
        }
    }

    async fn over(echo: &EchoStage) -> Result<[Pod; 2]> {
        let api = echo.cluster.api().await?;
        for last in STICKY {
            let service: Service = serde_json::from_value(json!({
                "metadata": { "name": format!("sticky{last}") },
                "spec": {
                    "clusterIP": format!("10.9.8.{last}"),
                    "selector": { "app": "echo" },
                    "sessionAffinity": "ClientIP",
                    "ports": [{ "port": 80, "targetPort": 9376 }],
                },
            }))?;
            api.of().create(&PostParams::default(), &service).await?;
        }
        let here = node_of(&echo.client);
        let there = echo.cluster.nodes.iter().find(|node| node.name != here);
        let there = there.context("no other node")?.name.clone();
        let pods = [("unhooked1", &*here), ("unhooked2", &here), ("far", &there)];
        let mut unhooked = make_six(&api, &pods).await?;
        unhooked.retain(|pod| node_of(pod) == here);
        let unhooked = <[Pod; 2]>::try_from(unhooked).map_err(|_| anyhow!("not two pods"))?;
        for last in STICKY {
            api.endpoints(&format!("sticky{last}"), echo.servers.len(), PATIENCE).await?;
        }
        echo.cluster.agrees(PATIENCE).await?;
        Ok(unhooked)
    }
}

/// Makes the service of IPv6, with these pods on these nodes behind it, and waits until they are
/// ready. It has the ports of the echo service.
pub(crate) async fn make_six(api: &Api, pods: &[(&str, &str)]) -> Result<Vec<Pod>> {
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": "six" },
        "spec": {
            "clusterIP": SIX,
            "ipFamilies": ["IPv6"],
            "selector": { "six": "yes" },
            "ports": [
                { "name": "udp", "port": 7, "targetPort": 7007, "protocol": "UDP" },
                { "name": "tcp", "port": 7, "targetPort": 7007 },
                { "name": "http", "port": 80, "targetPort": 9376 },
            ],
        },
    }))?;
    api.of().create(&PostParams::default(), &service).await?;
    for (name, node) in pods {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "six": "yes" } },
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "six",
                    "image": format!("{}/workload:v1", registry::ADDRESS),
                    "args": ["serve", "--listen", "::", "--udp-echo", "7007", "--tcp-echo", "7007"],
                }],
            },
        }))?;
        api.of().create(&PostParams::default(), &pod).await?;
    }
    let made = api.ready_pods("six=yes", pods.len(), PATIENCE).await?;
    api.endpoints("six", pods.len(), PATIENCE).await?;
    Ok(made)
}

/// Looks all the time at what the API says of the node's readiness: pods are evicted from a node
/// that is not ready, and an agent that is just starting has nothing to say against it.
struct ReadyWatch {
    stop: oneshot::Sender<()>,
    seen: JoinHandle<Result<Changes>>,
}

/// What was said at first and each time that something else was said, with the seconds.
type Changes = Vec<(f32, String)>;

impl ReadyWatch {
    async fn start(stage: &Stage) -> Result<Self> {
        let (api, node) = (stage.echo.cluster.api().await?, node_of(&stage.echo.client));
        let (stop, mut stopped) = oneshot::channel();
        let start = Instant::now();
        let seen = tokio::spawn(async move {
            let mut seen = Changes::new();
            loop {
                let ready = api.node_ready(&node).await?;
                if seen.last().is_none_or(|(_, last)| *last != ready) {
                    seen.push((start.elapsed().as_secs_f32(), ready));
                }
                tokio::select! {
                    _ = &mut stopped => return Ok(seen),
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
            }
        });
        Ok(Self { stop, seen })
    }

    /// What the API said.
    async fn stop(self) -> Result<Changes> {
        // It has ended if it failed.
        let _ = self.stop.send(());
        self.seen.await?
    }
}

/// What runs while agents come and go.
struct Traffic {
    /// Fresh connections by IPv4 and by IPv6.
    fresh: [Load; 2],
    /// Fresh sockets of TCP and UDP, by both families, with the socket hooks and without.
    sockets: Vec<(&'static str, Fresh)>,
    open: Vec<(&'static str, Load)>,
    /// Remembered in PEERS.
    datagrams: Program,
    /// Remembered in AFFINITY, by the pod's network namespace and by its address.
    sticky: [Program; 2],
    start: Instant,
}

impl Traffic {
    async fn start(stage: &Stage) -> Result<Self> {
        let (service, client) = (EchoStage::service(), uid(&stage.echo.client));
        let (six, place) = (SocketAddr::from((SIX, 80)), stage.echo.place()?);
        let fresh = [
            Load::start(&place, service, WORKERS, EVERY_US)?,
            Load::start(&place, six, WORKERS_V6, EVERY_US)?,
        ];
        let start = Instant::now();
        let outside = |pod| stage.echo.node()?.pod_network(&uid(pod));
        let inside = stage.echo.node()?.pod_network_in_cgroup(&client)?;
        let before = translated(stage)?;
        // No socket hook sees the latter: the pod's link balances them, and remembers it in FLOWS.
        let past = outside(&stage.unhooked[0])?;
        let open = vec![
            ("open", Load::hold(&place, service, OPEN)?),
            ("open by IPv6", Load::hold(&place, six, OPEN)?),
            ("that no hook saw", Load::hold(&past, service, OPEN)?),
            ("by IPv6 that no hook saw", Load::hold(&past, six, OPEN)?),
        ];
        let mut sockets = Vec::new();
        for (what, place, host) in [
            ("IPv4", &inside, service.ip()),
            ("IPv6", &inside, six.ip()),
            ("IPv4 that no hook saw", &past, service.ip()),
            ("IPv6 that no hook saw", &past, six.ip()),
        ] {
            sockets.push((what, Fresh::start(place, host, [80, 7], "").context(what)?));
        }
        let open_sockets = OPEN.to_string();
        let datagrams = [CONVERSE, "10.9.8.9", "7", &open_sockets].map(str::to_owned);
        let datagrams = Program::start("connected UDP sockets", &inside, datagrams)?;
        let returning =
            || [RETURN.to_owned()].into_iter().chain(STICKY.map(|last| format!("10.9.8.{last}")));
        let sticky = [
            Program::start("session affinity at socket hooks", &inside, returning())?,
            Program::start(
                "session affinity at the pod's link",
                &outside(&stage.unhooked[1])?,
                returning(),
            )?,
        ];
        // As many as there are answers to the first question of each connection.
        wait("packets that are translated", PATIENCE, async || {
            let packets = translated(stage)? - before;
            let enough = packets > 2 * u64::from(OPEN);
            Ok(if enough { Found::Yes(()) } else { Found::NotYet(packets.to_string()) })
        })
        .await?;
        Ok(Self { fresh, sockets, open, datagrams, sticky, start })
    }

    fn stop(self, during: &str) -> Result<()> {
        let fresh = self.fresh.map(Load::stop);
        let seconds = self.start.elapsed().as_secs_f64();
        let [v4, v6] = fresh;
        let (v4, v6) = (v4?, v6?);
        let slowest = Duration::from_micros(v4.latency_us.max.max(v6.latency_us.max).into());
        let rate = (v4.requests + v6.requests) as f64 / seconds;
        println!(
            "{during}: {} fresh connections by IPv4 and {} by IPv6 in {seconds:.1} s ({rate:.0} a \
             second), {} failed, the slowest took {slowest:.0?}",
            v4.requests,
            v6.requests,
            v4.failed + v6.failed
        );
        let open = self.open.into_iter().map(|(what, load)| {
            let report = load.stop()?;
            let (requests, failed) = (report.requests, report.failed);
            println!("  {OPEN} connections {what} with {requests} requests, {failed} failed");
            Ok((what, report))
        });
        let open = open.collect::<Result<Vec<_>>>()?;
        let sockets: Vec<Result<()>> =
            self.sockets.into_iter().map(|(what, fresh)| none_failed(what, fresh)).collect();
        let [hooks, link] = self.sticky;
        let programs = [self.datagrams, hooks, link].map(|program| program.stop(during));
        v4.expect_no_failure(&format!("on fresh connections during {during}"))?;
        v6.expect_no_failure(&format!("on fresh connections by IPv6 during {during}"))?;
        for (what, report) in open {
            report.expect_no_failure(&format!("on connections {what} during {during}"))?;
        }
        sockets.into_iter().collect::<Result<()>>().with_context(|| during.to_owned())?;
        programs.into_iter().collect::<Result<()>>()?;
        ensure!(slowest < SECOND_TRY, "during {during} a connection was asked for twice");
        ensure!(rate > LEAST_RATE, "during {during} only {rate:.0} connections a second");
        Ok(())
    }
}

/// Every fresh socket was answered, and none was asked for twice.
fn none_failed(what: &str, fresh: Fresh) -> Result<()> {
    let attempts = fresh.stop()?;
    let failed: Vec<&Attempt> = attempts.iter().filter(|it| it.error.is_some()).collect();
    let slowest = attempts.iter().max_by(|one, other| one.took.total_cmp(&other.took));
    let (all, slowest) = (attempts.len(), slowest.context("no attempt")?);
    println!(
        "  {all} times by fresh sockets of TCP and UDP by {what}, {} failed, the slowest took \
         {:.0} ms ({})",
        failed.len(),
        slowest.took * 1000.0,
        slowest.way
    );
    let first = failed.iter().take(10).collect::<Vec<_>>();
    ensure!(failed.is_empty(), "fresh sockets by {what}: {} failed: {first:?}", failed.len());
    let in_time = slowest.took < SECOND_TRY.as_secs_f64();
    ensure!(in_time, "a fresh socket by {what} was asked for twice: {slowest:?}");
    ensure!(all > 100, "only {all} times by fresh sockets by {what}");
    Ok(())
}

/// How many packets of the service were translated one by one.
fn translated(stage: &Stage) -> Result<u64> {
    let node = &stage.echo.node()?.name;
    let mut net = stage.echo.cluster.bowline(&["net", "services", "-o", "json", "--node", node])?;
    let rows: Value =
        serde_json::from_str(&output(net.args(["--name", &stage.echo.cluster.name]))?)?;
    let service = EchoStage::service();
    let row = rows.as_array().into_iter().flatten().find(|row| {
        row["address"] == service.ip().to_string().as_str()
            && row["port"] == service.port()
            && row["protocol"] == "TCP"
    });
    row.and_then(|row| row["packets"].as_u64()).with_context(|| format!("no such service: {rows}"))
}

/// One of the programs in Python above.
struct Program {
    what: &'static str,
    running: Running,
}

/// What they print.
#[derive(Debug, serde::Deserialize)]
struct Asked {
    asked: u64,
    wrong: Vec<String>,
}

impl Program {
    /// Starts it and waits until everything was asked once.
    fn start(
        what: &'static str,
        place: &Place,
        words: impl IntoIterator<Item = String>,
    ) -> Result<Self> {
        let mut python = place.command("python3");
        python.arg("-c").args(words);
        let running = Running::until(python, "begun").context(what)?;
        Ok(Self { what, running })
    }

    fn stop(mut self, during: &str) -> Result<()> {
        let said = self.running.rest()?;
        let Asked { asked, wrong } = serde_json::from_str(&said).with_context(|| said.clone())?;
        println!("  {}: {asked} questions, {} of them wrong", self.what, wrong.len());
        let first = wrong.iter().take(10).collect::<Vec<_>>();
        ensure!(
            wrong.is_empty(),
            "{} during {during}: {} wrong: {first:?}",
            self.what,
            wrong.len()
        );
        ensure!(asked > 100, "{} during {during}: only {asked} questions", self.what);
        Ok(())
    }
}

/// Ends the agent and starts that of a build; waits until it has the node's data plane in hand.
async fn replace(node: &Node, signal: Signal, build: &Path) -> Result<()> {
    let opened = || -> Result<usize> {
        Ok(std::fs::read_to_string(node.log())?.matches("the data plane is open").count())
    };
    let before = opened()?;
    if node.agent_pid().is_ok() {
        node.end_agent(signal)?;
    }
    node.start_agent_of(build, &[])?;
    wait("an agent that has the data plane in hand", PATIENCE, async || {
        Ok(if opened()? > before { Found::Yes(()) } else { Found::NotYet("none".to_owned()) })
    })
    .await
}

async fn same_layouts(stage: &Stage) -> Result<()> {
    let (node, build) = (stage.echo.node()?, artifacts::bowline()?);
    let said = std::fs::read_to_string(node.log())?.len();
    let traffic = Traffic::start(stage).await?;
    let mut old = programs(stage)?;
    for round in 0..REPLACEMENTS {
        let signal = if round % 2 == 0 { Signal::SIGKILL } else { Signal::SIGTERM };
        replace(node, signal, &build).await?;
        let after = format!("the programs of agent {round} to be replaced, each");
        old = wait(&after, PATIENCE / 6, async || replaced(stage, &old)).await?;
    }
    traffic.stop(&format!("{REPLACEMENTS} replacements"))?;
    // No agent found anything that the one before it left wrong.
    let log = std::fs::read_to_string(node.log())?;
    let mended = log
        .get(said..)
        .context("the log was cut")?
        .lines()
        .find(|line| line.contains("was damaged"));
    ensure!(mended.is_none(), "an agent left damage: {mended:?}");
    stage.echo.cluster.agrees(PATIENCE).await.map(drop)
}

/// What `net status` says of the node, healthy or not.
fn status(stage: &Stage) -> Result<Value> {
    let node = &stage.echo.node()?.name;
    let mut net = stage.echo.cluster.bowline(&["net", "status", "-o", "json", "--node", node])?;
    let said = finish(net.args(["--name", &stage.echo.cluster.name]))?;
    let errors = String::from_utf8_lossy(&said.stderr).into_owned();
    serde_json::from_slice(&said.stdout).with_context(|| errors)
}

/// The node's programs by name, with the kernel's numbers for them.
fn programs(stage: &Stage) -> Result<BTreeMap<String, u64>> {
    let status = status(stage)?;
    let rows = status["programs"].as_array().into_iter().flatten();
    let named = rows.map(|row| Some((row["name"].as_str()?.to_owned(), row["id"].as_u64()?)));
    named.collect::<Option<_>>().with_context(|| format!("programs without numbers: {status}"))
}

/// Every program is new, runs at its hooks, filters of clsact included, and the kernel has none of
/// the old ones any more.
fn replaced(stage: &Stage, old: &BTreeMap<String, u64>) -> Result<Found<BTreeMap<String, u64>>> {
    let (new, kernel) = (programs(stage)?, machine::programs()?);
    let all = new.len() == PROGRAMS.len() && PROGRAMS.iter().all(|name| new.contains_key(*name));
    // The kernel counts links; a filter is none. That it is there, `net status` says.
    let is_filter = |name: &str| !stage.tcx && PACKET_PROGRAMS.contains(&name);
    let attached = |(name, id): (&String, &u64)| {
        kernel.get(id).is_some_and(|links| *links > 0 || is_filter(name))
    };
    let done = all && new.iter().all(attached) && !old.values().any(|id| kernel.contains_key(id));
    let problems = status(stage)?["problems"].clone();
    Ok(match done && problems == json!([]) {
        true => Found::Yes(new),
        false => Found::NotYet(format!(
            "{new:?} after {old:?}; the kernel has {kernel:?}; problems {problems}"
        )),
    })
}

async fn other_layouts(stage: &Stage) -> Result<()> {
    let node = stage.echo.node()?;
    let traffic = Traffic::start(stage).await?;
    for (build, version) in
        [(artifacts::next_bowline()?, NEXT_VERSION), (artifacts::bowline()?, ABI_VERSION)]
    {
        replace(node, Signal::SIGKILL, &build).await?;
        ensure!(versions(node)? == [version], "pinned are versions {:?}", versions(node)?);
        load::requests(&stage.echo.place()?, EchoStage::service(), 200)?
            .expect_no_failure(&format!("with the maps of version {version}"))?;
    }
    traffic.stop("an upgrade to other layouts and a downgrade")?;
    stage.echo.cluster.agrees(PATIENCE).await.map(drop)
}

/// Agents of both builds in turn, each killed at a step of its takeover; then one that may finish.
async fn broken_off(stage: &Stage) -> Result<()> {
    let node = stage.echo.node()?;
    let traffic = Traffic::start(stage).await?;
    node.end_agent(Signal::SIGKILL)?;
    let builds = [(artifacts::next_bowline()?, NEXT_VERSION), (artifacts::bowline()?, ABI_VERSION)];
    let (mut rounds, mut halfway) = (0, 0);
    // What a takeover makes one after the other, and how long after it the agent dies.
    for step in ["maps/SERVICES", "layouts", "links/connect4", "links/getpeername6"] {
        for (delay, (build, version)) in
            [0, 2, 8, 30, 120, 500].into_iter().zip(builds.iter().cycle())
        {
            let directory = node.bpffs().join(format!("bowline/v{version}"));
            let was_there = directory.join(step).exists();
            node.start_agent_of(build, &[])?;
            appears(&directory.join(step), was_there)?;
            std::thread::sleep(Duration::from_millis(delay));
            node.end_agent(Signal::SIGKILL)?;
            halfway += usize::from(versions(node)?.len() > 1);
            rounds += 1;
        }
    }
    replace(node, Signal::SIGKILL, &artifacts::bowline()?).await?;
    traffic.stop(&format!("{rounds} takeovers that were killed, {halfway} of them halfway"))?;
    ensure!(halfway * 4 > rounds, "only {halfway} of {rounds} were killed halfway");
    ensure!(versions(node)? == [ABI_VERSION], "pinned are versions {:?}", versions(node)?);
    stage.echo.cluster.agrees(PATIENCE).await.map(drop)
}

/// Waits for a pin; one that was there before is waited for until it is made anew or a while.
fn appears(path: &Path, was_there: bool) -> Result<()> {
    let start = Instant::now();
    while !path.exists() || (was_there && start.elapsed() < Duration::from_millis(500)) {
        ensure!(start.elapsed() < PATIENCE, "{} does not appear", path.display());
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// The versions that are pinned, in order.
fn versions(node: &Node) -> Result<Vec<u32>> {
    let entries = std::fs::read_dir(node.bpffs().join("bowline"))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<Result<_>>()?;
    let mut versions: Vec<u32> =
        names.iter().filter_map(|name| name.strip_prefix('v')?.parse().ok()).collect();
    versions.sort_unstable();
    Ok(versions)
}
