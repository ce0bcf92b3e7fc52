//! The API server goes away, and agents die and start again meanwhile: services, names and pods
//! go on, and when it is back nothing is written but what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::api::{Api, Found, address, node_of, uid, wait};
use bowline_tests::load::{self, Load};
use bowline_tests::maps::Dump;
use bowline_tests::node::Paused;
use bowline_tests::pod_network::run;
use bowline_tests::{EchoStage, Guest, Node, Wishes};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);
/// The agent's RESYNC, and more: whatever would be written for no reason has been written by then.
const QUIET: Duration = Duration::from_millis(2500);

/// Deleted and made while no agent hears of it.
const LEAVES: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 31);
const COMES: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 32);

/// Asks for the address of a name every 20 ms on a fresh socket, until its input is closed, and
/// says how often that went well and what went wrong.
const ASK: &str = r#"
import select, socket, struct, sys
server, name, wanted = sys.argv[1], sys.argv[2], socket.inet_aton(sys.argv[3])
labels = b''.join(bytes([len(part)]) + part for part in name.encode().split(b'.'))
good, bad = 0, []
while not select.select([sys.stdin], [], [], 0.02)[0] and good + len(bad) < 10000:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(1)
        try:
            s.connect((server, 53))
            s.send(struct.pack('!6H', good & 0xffff, 0x100, 1, 0, 0, 0) + labels + b'\0\0\1\0\1')
            answer = s.recv(4096)
            if wanted in answer:
                good += 1
            else:
                bad.append(answer.hex())
        except OSError as error:
            bad.append(str(error))
print(good, bad)
"#;

/// How long agents run without the API; longer with `cargo xtask test --thorough`.
fn away() -> Duration {
    Duration::from_secs(if std::env::var_os("BOWLINE_THOROUGH").is_some() { 120 } else { 4 })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn nodes_go_on_without_the_api_and_agree_with_it_later() -> Result<()> {
    let stage = EchoStage::up(&Wishes { nodes: 2, ..Wishes::default() }).await?;
    play(&stage).await.map_err(|error| stage.cluster.with_logs(error))
}

async fn play(stage: &EchoStage) -> Result<()> {
    let api = stage.cluster.api().await?;
    let idle = make_idle(&api).await?;
    make_service(&api, "leaves", LEAVES).await?;
    stage.cluster.agrees(PATIENCE).await?;
    for node in &stage.cluster.nodes {
        is_written(stage, node, &idle).await?;
    }
    let objects = objects(&api).await?;
    let written = on_nodes(stage)?;

    let start = Instant::now();
    let fresh = goes_on(stage, &idle).await?;
    for (node, (before, after)) in
        stage.cluster.nodes.iter().zip(written.iter().zip(on_nodes(stage)?))
    {
        before.is(&after).with_context(|| format!("{}, while the API was away", node.name))?;
    }
    let away = start.elapsed();

    let agents = stage.cluster.nodes.iter().map(|node| Paused::pause(node.agent_pid()?));
    let agents = agents.collect::<Result<Vec<_>>>()?;
    stage.cluster.start_server()?;
    let api = stage.cluster.api().await?;
    make_service(&api, "comes", COMES).await?;
    api.of::<Service>().delete("leaves", &DeleteParams::default()).await?;
    drop(agents);
    let back = Instant::now();
    stage.cluster.agrees(PATIENCE).await?;
    let agreed = back.elapsed();
    takes_in(stage, &api, &idle).await?;
    tokio::time::sleep(QUIET).await;
    nothing_else(stage, &api, &objects, &written, &idle).await?;
    println!(
        "the API was away for {:.1} s, both agents started twice without it: {fresh} fresh \
         connections, 0 failed; {} objects, the entries of SERVICES, SLOTS, BACKENDS, PODS and \
         ROUTES and {} kernel routes, rules and neighbours the same; agreed {:.1} s after it was \
         back",
        away.as_secs_f64(),
        objects.len(),
        written.iter().map(|node| node.kernel.len()).sum::<usize>(),
        agreed.as_secs_f64()
    );
    Ok(())
}

/// While nobody can be asked: agents die, twice, and all that was there goes on.
async fn goes_on(stage: &EchoStage, idle: &Pod) -> Result<u64> {
    let open = Load::hold(&stage.place()?, EchoStage::service(), 10)?;
    let fresh = Load::start(&stage.place()?, EchoStage::service(), 2, 5000)?;
    stage.cluster.kill_server()?;
    let guest = Guest::of(&stage.cluster, &stage.client)?;
    for times in 1..=2 {
        let start = Instant::now();
        for node in &stage.cluster.nodes {
            node.kill_agent()?;
            node.start_agent()?;
        }
        answers(&guest).await?;
        println!("names are answered {:.1} s after the agents died", start.elapsed().as_secs_f64());
        for node in &stage.cluster.nodes {
            says(node, "going on with what it said last", times).await?;
        }
    }
    let names = Names::start(&guest)?;
    let node = stage.cluster.node(&node_of(idle))?;
    let ended = node.pod_pid(&uid(idle))?;
    node.kill_pod_process(&uid(idle))?;
    wait("the next process of a container that ended", PATIENCE, async || {
        let now = node.pod_pid(&uid(idle))?;
        Ok(if now == ended { Found::NotYet(format!("{ended}")) } else { Found::Yes(()) })
    })
    .await?;
    tokio::time::sleep(away()).await;
    let (good, bad) = names.stop()?;
    ensure!(bad == "[]" && good > 50, "names: {good} answers, and {bad}");
    println!("{good} names answered without the API, 0 failed");
    open.stop()?.expect_no_failure("on open connections")?;
    let fresh = fresh.stop()?;
    fresh.expect_no_failure("on fresh connections")?;
    ensure!(fresh.values("pod").len() == 2, "answers from {:?}", fresh.seen("pod"));
    Ok(fresh.ok)
}

/// What changed meanwhile is on the nodes, and what happened there is in the API.
async fn takes_in(stage: &EchoStage, api: &Api, idle: &Pod) -> Result<()> {
    let place = stage.place()?;
    load::requests(&place, (COMES, 80).into(), 100)?.expect_no_failure("at the new service")?;
    // Nobody is at that address any more: only from where it leads nowhere.
    for node in &stage.cluster.nodes {
        let slots = node.maps().services()?.slot_count(LEAVES, 80);
        ensure!(slots.is_none(), "{}: the deleted service has {slots:?} slots", node.name);
    }
    for node in &stage.cluster.nodes {
        wait(&format!("{} to be Ready", node.name), PATIENCE, async || {
            let ready = api.node_ready(&node.name).await?;
            Ok(if ready == "True" { Found::Yes(()) } else { Found::NotYet(ready) })
        })
        .await?;
    }
    wait("the restart in the API", PATIENCE, async || {
        let now: Pod = api.of().get(&idle.name_any()).await?;
        let statuses = now.status.and_then(|status| status.container_statuses);
        let restarts: i32 = statuses.iter().flatten().map(|status| status.restart_count).sum();
        Ok(if restarts == 1 { Found::Yes(()) } else { Found::NotYet(format!("{restarts}")) })
    })
    .await
}

/// Nothing was written again that is as it was.
async fn nothing_else(
    stage: &EchoStage,
    api: &Api,
    before: &BTreeMap<String, String>,
    written: &[Written],
    idle: &Pod,
) -> Result<()> {
    let mut after = objects(api).await?;
    let mut wanted = before.clone();
    wanted.remove(&format!("Pod {}", idle.name_any()));
    wanted.retain(|name, _| !name.contains(" leaves"));
    after.retain(|name, _| wanted.contains_key(name));
    let again: Vec<_> = wanted.iter().filter(|(name, at)| after.get(*name) != Some(at)).collect();
    ensure!(again.is_empty(), "written for no reason: {again:?}, now {after:?}");
    for (node, (before, mut after)) in
        stage.cluster.nodes.iter().zip(written.iter().zip(on_nodes(stage)?))
    {
        let mut before = before.clone();
        let (left, came) = (before.maps.take_service(LEAVES), after.maps.take_service(COMES));
        ensure!(left > 0 && came > 0, "{before:?}");
        before.is(&after).with_context(|| format!("{}, when the API was back", node.name))?;
    }
    load::requests(&stage.place()?, EchoStage::service(), 100)?.expect_no_failure("at the end")
}

/// The resource version of each object whose writer might write it for no reason.
async fn objects(api: &Api) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    collect::<Pod>(api, &mut found).await?;
    collect::<Service>(api, &mut found).await?;
    collect::<EndpointSlice>(api, &mut found).await?;
    collect::<Endpoints>(api, &mut found).await?;
    collect::<Deployment>(api, &mut found).await?;
    collect::<ReplicaSet>(api, &mut found).await?;
    Ok(found)
}

async fn collect<K>(api: &Api, found: &mut BTreeMap<String, String>) -> Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    for object in api.of::<K>().list(&ListParams::default()).await? {
        let version = object.resource_version().unwrap_or_default();
        found.insert(format!("{kind} {}", object.name_any()), version);
    }
    Ok(())
}

/// What an agent writes on its node.
#[derive(Clone, Debug)]
struct Written {
    maps: Dump,
    /// Routes, routing rules and the neighbours that were entered for good, of both families.
    kernel: BTreeSet<String>,
}

impl Written {
    fn of(node: &Node) -> Result<Self> {
        let (place, mut kernel) = (node.place()?, BTreeSet::new());
        for what in ["route show table all", "rule", "neigh show nud permanent"] {
            for family in ["-4", "-6"] {
                let shown = run(&place, &format!("ip {family} {what}"))?;
                ensure!(family == "-6" || !shown.is_empty(), "{} has no {what}", node.name);
                kernel.extend(shown.lines().map(|line| format!("{family} {}", line.trim())));
            }
        }
        Ok(Self { maps: node.maps().dump()?, kernel })
    }

    /// An error unless both are the same.
    fn is(&self, after: &Self) -> Result<()> {
        ensure!(self.maps == after.maps, "maps: {:?}\nand then {:?}", self.maps, after.maps);
        let differs: Vec<_> = self.kernel.symmetric_difference(&after.kernel).collect();
        ensure!(differs.is_empty(), "routes, rules or neighbours changed: {differs:?}");
        Ok(())
    }
}

fn on_nodes(stage: &EchoStage) -> Result<Vec<Written>> {
    stage.cluster.nodes.iter().map(Written::of).collect()
}

async fn make_idle(api: &Api) -> Result<Pod> {
    let pod = json!({
        "metadata": { "name": "idle", "labels": { "app": "idle" } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "idle", "image": "172.30.0.1:5000/workload:v1" }],
        },
    });
    api.of::<Pod>().create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    api.ready_pods("app=idle", 1, PATIENCE).await?.pop().context("no pod")
}

async fn make_service(api: &Api, name: &str, address: Ipv4Addr) -> Result<()> {
    let service = json!({
        "metadata": { "name": name },
        "spec": {
            "clusterIP": address,
            "selector": { "app": "echo" },
            "ports": [{ "port": 80, "targetPort": 9376 }],
        },
    });
    let service: Service = serde_json::from_value(service)?;
    api.of().create(&PostParams::default(), &service).await?;
    api.endpoints(name, 2, PATIENCE).await?;
    Ok(())
}

/// Waits until an agent that starts now would know of everything.
async fn is_written(stage: &EchoStage, node: &Node, idle: &Pod) -> Result<()> {
    let mut wanted = vec![("nodes.json", "node1".to_owned()), ("nodes.json", "node2".to_owned())];
    wanted.extend(["echo", "leaves"].map(|name| ("services.json", format!("\"{name}\""))));
    for pod in &stage.servers {
        wanted.push(("slices.json", address(pod)?.to_string()));
    }
    let own = stage.servers.iter().chain([&stage.client, idle]);
    let own = own.filter(|pod| node_of(pod) == node.name);
    wanted.extend(own.map(|pod| ("pods.json", uid(pod))));
    wait(&format!("what {} knows to be written", node.name), PATIENCE, async || {
        for (file, text) in &wanted {
            let path = node.known()?.join(file);
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            if !found.contains(text) {
                return Ok(Found::NotYet(format!("{text} is not in {}", path.display())));
            }
        }
        // A pod whose readiness is not in the file would be written as not ready.
        let pods = std::fs::read_to_string(node.known()?.join("pods.json"))?;
        let unready = pods.lines().find(|pod| !pod.contains(r#""status":"True","type":"Ready""#));
        Ok(unready.map_or(Found::Yes(()), |pod| Found::NotYet(pod.to_owned())))
    })
    .await
}

async fn says(node: &Node, words: &str, times: usize) -> Result<()> {
    wait(&format!("{} to say `{words}` {times} times", node.name), PATIENCE, async || {
        let log = std::fs::read_to_string(node.log())?;
        Ok(match log.matches(words).count() >= times {
            true => Found::Yes(()),
            false => Found::NotYet(log.lines().last().unwrap_or_default().to_owned()),
        })
    })
    .await
}

/// Waits until the node's DNS server answers again.
async fn answers(guest: &Guest) -> Result<()> {
    wait("the node's DNS", PATIENCE, async || {
        let mut dig = guest.command("dig");
        dig.args(["-r", "+short", "+time=1", "+tries=1", "echo.default.svc.cluster.local"]);
        let said = bowline_tests::command::finish(&mut dig)?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        Ok(match said.trim() == EchoStage::service().ip().to_string() {
            true => Found::Yes(()),
            false => Found::NotYet(said),
        })
    })
    .await
}

/// A client that asks for a name again and again.
struct Names(Child);

impl Names {
    fn start(guest: &Guest) -> Result<Self> {
        let service: SocketAddr = EchoStage::service();
        let mut python: Command = guest.command("python3");
        python.args(["-c", ASK, "10.9.0.10", "echo.default.svc.cluster.local"]);
        python.arg(service.ip().to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Self(python.spawn()?))
    }

    /// How many answers came, and what came instead of others.
    fn stop(mut self) -> Result<(u32, String)> {
        drop(self.0.stdin.take());
        let mut text = String::new();
        let output = self.0.stdout.as_mut().context("no output")?;
        std::io::Read::read_to_string(output, &mut text)?;
        let Some((good, bad)) = text.trim().split_once(' ') else { bail!("printed {text:?}") };
        Ok((good.parse()?, bad.to_owned()))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
