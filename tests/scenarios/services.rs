//! What a service's fields mean to its clients: traffic policy and distribution, addresses that are
//! not ready, endpoints written by hand, ports, and pods on their way out.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bowline_tests::api::{Api, Found, address, uid, wait};
use bowline_tests::load::{self, Load, LoadReport};
use bowline_tests::pod_network::Family;
use bowline_tests::{Cluster, Running, Wishes};
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::clients::{HOLD, HeldReport, MOVED_WITHIN, python_name};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a pod serves after it was told to end.
const LAMEDUCK: Duration = Duration::from_secs(20);

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Connections of each client that talks to a pod on its way out.
const TALKING: usize = 10;

/// Keeps connections to a service's echo port until the other end closes them; prints when that
/// was, or what happened instead.
const TALK: &str = r#"
import json, socket, sys, time
kept = [socket.create_connection((sys.argv[1], 7), 5) for _ in range(int(sys.argv[2]))]
rounds, ended, end = 0, [], time.monotonic() + 120
while kept and time.monotonic() < end:
    for s in list(kept):
        try:
            s.sendall(b'?')
            said = s.recv(1)
            why = None if said == b'?' else 'closed' if not said else str(said)
        except (ConnectionResetError, BrokenPipeError):
            why = 'closed'
        except OSError as error:
            why = str(error)
        if why:
            ended.append((time.time(), why))
            kept.remove(s)
    rounds += 1
    if rounds == 1:
        print('begun', flush=True)
    time.sleep(0.02)
print(json.dumps({'rounds': rounds, 'ended': ended}))
"#;

/// What [`TALK`] printed.
#[derive(serde::Deserialize)]
struct Talked {
    rounds: u64,
    /// In seconds since 1970, and why.
    ended: Vec<(f64, String)>,
}

/// One pod on each node, `web1` to `web3`; the third listens elsewhere, under the same port name.
struct Stage {
    cluster: Cluster,
    api: Api,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn fields_of_services_mean_what_they_say() -> Result<()> {
    let mut wishes = Wishes::default();
    let ranges = [
        ["--pod-cidr", "10.240.0.0/16,fd00:10:240::/48"],
        ["--service-cidr", "10.9.0.0/16,fd00:10:9::/112"],
    ];
    wishes.flags.extend(ranges.concat().into_iter().map(str::to_owned));
    let cluster = Cluster::up(&wishes)?;
    let api = cluster.api().await?;
    let stage = Stage { cluster, api };
    let played = stage.play().await;
    played.map_err(|error| stage.cluster.with_logs(error))
}

impl Stage {
    async fn play(&self) -> Result<()> {
        self.set_up().await.context("making pods and services")?;
        self.named_ports().await.context("named ports")?;
        self.local_policy().await.context("internalTrafficPolicy")?;
        self.distribution().await.context("trafficDistribution")?;
        self.not_ready().await.context("publishNotReadyAddresses")?;
        self.by_hand().await.context("endpoints written by hand")?;
        self.open_connections().await.context("open connections")?;
        self.same_number().await.context("TCP and UDP on one port number")?;
        self.on_the_way_out().await.context("terminating pods")
    }

    async fn set_up(&self) -> Result<()> {
        for (index, node) in self.cluster.nodes.iter().enumerate() {
            let zone = if index < 2 { "a" } else { "b" };
            let patch =
                json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": zone } } });
            let patch = kube::api::Patch::Merge(patch);
            let params = kube::api::PatchParams::default();
            self.api.of_cluster::<Node>().patch(&node.name, &params, &patch).await?;
            let port = if index < 2 { 9376 } else { 9377 };
            self.create_pod(&format!("web{}", index + 1), "web", &node.name, port, 7007).await?;
        }
        self.create_pod("sleepy", "sleepy", &self.cluster.nodes[0].name, 9376, 1).await?;
        let web = json!({ "app": "web" });
        let sleepy = json!({ "app": "sleepy" });
        for (name, last, selector, spec) in [
            ("all", 1, web.clone(), json!({})),
            ("local", 2, web.clone(), json!({ "internalTrafficPolicy": "Local" })),
            ("zone", 3, web.clone(), json!({ "trafficDistribution": "PreferSameZone" })),
            ("node", 4, web.clone(), json!({ "trafficDistribution": "PreferSameNode" })),
            ("strict", 5, sleepy.clone(), json!({})),
            ("published", 6, sleepy, json!({ "publishNotReadyAddresses": true })),
            ("third", 7, json!({ "app": "web", "pod": "web3" }), json!({})),
            ("hand", 8, Value::Null, json!({})),
        ] {
            self.create_service(name, last, selector, spec).await?;
        }
        self.api.ready_pods("app=web", 3, PATIENCE).await?;
        Ok(())
    }

    async fn create_pod(
        &self,
        name: &str,
        app: &str,
        node: &str,
        http: u16,
        ready: u16,
    ) -> Result<()> {
        let lameduck = LAMEDUCK.as_millis().to_string();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "app": app, "pod": name } },
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 2 * LAMEDUCK.as_secs(),
                "containers": [{
                    "name": "web",
                    "image": "172.30.0.1:5000/workload:v1",
                    "args": ["serve", "--listen", "::", "--http", http.to_string(),
                             "--udp-echo", "7007", "--tcp-echo", "7007", "--lameduck-ms", lameduck],
                    "ports": [{ "name": "web", "containerPort": http }],
                    "readinessProbe": { "tcpSocket": { "port": ready }, "periodSeconds": 1 },
                }],
            },
        }))?;
        self.api.of().create(&PostParams::default(), &pod).await?;
        Ok(())
    }

    async fn create_service(
        &self,
        name: &str,
        last: u8,
        selector: Value,
        spec: Value,
    ) -> Result<()> {
        let mut object = json!({
            "metadata": { "name": name },
            "spec": {
                "ipFamilyPolicy": "RequireDualStack",
                "clusterIPs": FAMILIES.map(|family| vip_of(family, last).ip()),
                "clusterIP": vip(last).ip(),
                "selector": selector,
                "ports": [
                    { "name": "web", "port": 80, "targetPort": "web" },
                    { "name": "echo", "port": 80, "targetPort": 7007, "protocol": "UDP" },
                    { "name": "talk", "port": 7, "targetPort": 7007 },
                ],
            },
        });
        for (field, value) in spec.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        let service: Service = serde_json::from_value(object)?;
        self.api.of().create(&PostParams::default(), &service).await?;
        Ok(())
    }

    fn requests(&self, node: usize, service: u8) -> Result<LoadReport> {
        load::requests(&self.cluster.nodes[node - 1].place()?, vip(service), 60)
    }

    /// Waits until a node's clients reach exactly these pods through a service; none is refused
    /// then. Nobody means that all are refused.
    async fn expect(&self, node: usize, service: u8, pods: &[u8]) -> Result<()> {
        let wanted: BTreeSet<String> = pods.iter().map(|pod| format!("web{pod}")).collect();
        let start = Instant::now();
        loop {
            let report = self.requests(node, service)?;
            let seen: BTreeSet<String> = report.values("pod").into_iter().collect();
            let failed = if wanted.is_empty() { report.requests } else { 0 };
            if seen == wanted && report.failed == failed {
                return Ok(());
            }
            ensure!(
                start.elapsed() < PATIENCE / 4,
                "from node{node}: {seen:?} instead of {wanted:?}; errors: {:?}",
                report.errors
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until a node's new clients of each kind reach exactly these pods.
    async fn expect_each_way(&self, node: usize, service: u8, pods: &[&str]) -> Result<()> {
        let place = self.cluster.nodes[node - 1].place()?;
        for family in FAMILIES {
            let target = vip_of(family, service);
            let what = format!("{pods:?} to answer at {target}, and nobody else");
            wait(&what, PATIENCE / 4, async || {
                let tcp = load::requests(&place, target, 60)?;
                let words = ["udp", &target.to_string(), "--requests", "60"];
                let udp: Value = load::run(&place, &words)?;
                let udp = ["connected", "unconnected"].map(|kind| udp[kind].clone());
                let [connected, loose] = udp.map(serde_json::from_value::<LoadReport>);
                let reports = [tcp, connected?, loose?];
                let as_wanted = |it: &LoadReport| it.failed == 0 && it.values("pod") == pods;
                Ok(match reports.iter().all(as_wanted) {
                    true => Found::Yes(()),
                    false => Found::NotYet(format!("{reports:?}")),
                })
            })
            .await?;
        }
        Ok(())
    }

    async fn named_ports(&self) -> Result<()> {
        self.expect(1, 1, &[1, 2, 3]).await
    }

    async fn local_policy(&self) -> Result<()> {
        self.expect(1, 2, &[1]).await?;
        self.expect(3, 2, &[3]).await
    }

    async fn distribution(&self) -> Result<()> {
        self.expect(1, 3, &[1, 2]).await.context("zone a")?;
        self.expect(3, 3, &[3]).await.context("zone b")?;
        self.expect(1, 4, &[1]).await.context("node1")?;
        self.expect(2, 4, &[2]).await.context("node2")
    }

    async fn not_ready(&self) -> Result<()> {
        self.expect(2, 5, &[]).await.context("a pod that is not ready")?;
        let start = Instant::now();
        loop {
            let report = self.requests(2, 6)?;
            if report.failed == 0 && report.values("pod") == ["sleepy"] {
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE / 4, "published: {report:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A service without a selector, and the older kind of object for its endpoints.
    async fn by_hand(&self) -> Result<()> {
        self.expect(1, 8, &[]).await.context("nobody yet")?;
        let pod: Pod = self.api.of().get("web2").await?;
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": { "name": "hand" },
            "subsets": [{
                "addresses": [{ "ip": address(&pod)? }],
                "ports": [{ "name": "web", "port": 9376 }],
            }],
        }))?;
        self.api.of().create(&PostParams::default(), &endpoints).await?;
        self.expect(1, 8, &[2]).await?;
        self.api.of::<Endpoints>().delete("hand", &DeleteParams::default()).await?;
        self.expect(1, 8, &[]).await.context("deleted")
    }

    /// What is open stays open when its endpoint is on its way out; what is new goes elsewhere.
    async fn open_connections(&self) -> Result<()> {
        let [first, second]: [Pod; 2] =
            [self.api.of().get("web1").await?, self.api.of().get("web2").await?];
        let leaving = json!({ "ready": false, "serving": true, "terminating": true });
        let ready = json!({ "ready": true });
        let slice = |endpoints: Value| -> Result<EndpointSlice> {
            Ok(serde_json::from_value(json!({
                "metadata": {
                    "name": "by-hand",
                    "labels": { "kubernetes.io/service-name": "hand" },
                },
                "addressType": "IPv4",
                "ports": [{ "name": "web", "port": 9376 }],
                "endpoints": endpoints,
            }))?)
        };
        let slices = self.api.of::<EndpointSlice>();
        let one = slice(json!([{ "addresses": [address(&second)?], "conditions": ready }]))?;
        slices.create(&PostParams::default(), &one).await?;
        self.expect(1, 8, &[2]).await?;
        let open = Load::hold(&self.cluster.nodes[0].place()?, vip(8), 10)?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let both = slice(json!([
            { "addresses": [address(&second)?], "conditions": leaving },
            { "addresses": [address(&first)?], "conditions": ready },
        ]))?;
        slices.replace("by-hand", &PostParams::default(), &both).await?;
        self.expect(1, 8, &[1]).await?;
        let report = open.stop()?;
        report.expect_no_failure("on open connections to an endpoint on its way out")?;
        ensure!(report.values("pod") == ["web2"], "open connections moved: {report:?}");
        Ok(())
    }

    async fn same_number(&self) -> Result<()> {
        self.expect(2, 1, &[1, 2, 3]).await?;
        let place = self.cluster.nodes[1].place()?;
        let target = vip(1).to_string();
        let seen: Value = load::run(&place, &["udp", &target, "--requests", "60"])?;
        for kind in ["connected", "unconnected"] {
            let report: LoadReport = serde_json::from_value(seen[kind].clone())?;
            report.expect_no_failure(kind)?;
            ensure!(report.values("pod") == ["web1", "web2", "web3"], "{kind}: {report:?}");
        }
        Ok(())
    }

    /// No new connection to a pod on its way out while another is ready; used while there is no
    /// other. What is open stays so until the pod ends it, whichever way it was balanced; a
    /// connected UDP socket stays as long as the pod serves, and is with another one then.
    async fn on_the_way_out(&self) -> Result<()> {
        self.expect_each_way(1, 7, &["web3"]).await?;
        let web1 = self.api.of::<Pod>().get("web1").await?;
        let unhooked = self.cluster.nodes[0].pod_network(&uid(&web1))?;
        let place = self.cluster.nodes[0].place()?;
        let (mut talking, mut held) = (Vec::new(), Vec::new());
        for family in FAMILIES {
            for place in [&place, &unhooked] {
                let mut python = place.command("python3");
                let host = vip_of(family, 7).ip().to_string();
                python.args(["-c", TALK, &host, &TALKING.to_string()]);
                talking.push(Running::until(python, "begun")?);
            }
            let mut python = place.command("python3");
            let host = vip_of(family, 1).ip().to_string();
            python.args(["-c", HOLD, python_name(family), &host, "web3"]);
            held.push((family, Running::until(python, "held")?));
        }
        let deleted = SystemTime::now();
        self.api.of::<Pod>().delete("web3", &DeleteParams::default()).await?;
        let start = Instant::now();
        self.expect_each_way(1, 1, &["web1", "web2"]).await.context("others are ready")?;
        self.expect_each_way(1, 7, &["web3"]).await.context("no other is there")?;
        ensure!(start.elapsed() < LAMEDUCK - Duration::from_secs(3), "too slow to tell");
        self.api.no_pods("pod=web3", PATIENCE).await?;
        for mut talking in talking {
            let Talked { rounds, ended } = serde_json::from_str(&talking.rest()?)?;
            ensure!(ended.len() == TALKING, "{} connections, {rounds} rounds", ended.len());
            for (at, why) in ended {
                let after = after(at, deleted)?;
                ensure!(after >= LAMEDUCK, "{why} {after:?} after the pod was told to end");
                ensure!(why == "closed", "not ended by the pod: {why} after {after:?}");
            }
        }
        tokio::time::sleep(MOVED_WITHIN).await;
        for (family, mut held) in held {
            let report: HeldReport = serde_json::from_str(&held.rest()?)?;
            let (gap, same) = (report.longest_gap(), report.same);
            let moved = report.seen.iter().position(|(_, pod)| pod != "web3");
            let moved = moved.with_context(|| format!("{family:?}: {report:?}"))?;
            let ever_after = report.seen[moved..].iter().all(|(_, pod)| pod != "web3");
            let after = after(report.seen[moved].0, deleted)?;
            println!(
                "connected UDP, {family:?}: moved {after:.1?} after the deletion, gap {gap:?}"
            );
            ensure!(after >= LAMEDUCK, "{family:?}: moved while the pod served, after {after:?}");
            ensure!(ever_after && same && gap < MOVED_WITHIN, "{family:?}: {gap:?}, {report:?}");
        }
        self.expect(1, 7, &[]).await.context("gone")?;
        self.expect(3, 2, &[]).await.context("internalTrafficPolicy without a pod here")?;
        self.expect(3, 3, &[1, 2]).await.context("no endpoint in the zone")
    }
}

/// How long after a moment something was, in seconds since 1970.
fn after(at: f64, moment: SystemTime) -> Result<Duration> {
    Ok((UNIX_EPOCH + Duration::from_secs_f64(at)).duration_since(moment)?)
}

fn vip_of(family: Family, last: u8) -> SocketAddr {
    let address: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(10, 9, 7, last).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 9, 0, 0, 0, 0, 0x700 + u16::from(last)).into(),
    };
    (address, 80).into()
}

fn vip(last: u8) -> SocketAddr {
    vip_of(Family::V4, last)
}
