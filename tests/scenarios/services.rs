//! What a service's fields mean to its clients: traffic policy and distribution, addresses that are
//! not ready, endpoints written by hand, ports, and pods on their way out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bowline_tests::api::{Api, Found, address, uid, wait};
use bowline_tests::cluster::BOTH_FAMILIES;
use bowline_tests::load::{self, Attempt, Fresh, Load, LoadReport};
use bowline_tests::pod_network::Family;
use bowline_tests::{Cluster, Place, Running, Wishes};
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::clients::{HOLD, HeldReport, MOVED_WITHIN, python_name};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a pod serves after it was told to end.
const LAMEDUCK: Duration = Duration::from_secs(20);

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// So long after its deletion a pod gets no new connection any more while another one is ready.
const LEFT_WITHIN: Duration = Duration::from_secs(1);
/// For how long nobody may come from then on, and how often each way was tried in that time.
const LEFT_FOR: Duration = Duration::from_secs(3);
const LEAST_ATTEMPTS: usize = 20;

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
    wishes.flags.extend(BOTH_FAMILIES.map(str::to_owned));
    let cluster = Cluster::up(&wishes)?;
    let api = cluster.api().await?;
    let stage = Stage { cluster, api };
    let played = stage.play().await;
    played.map_err(|error| stage.cluster.with_logs(error))
}

impl Stage {
    async fn play(&self) -> Result<()> {
        self.set_up().await.context("making pods and services")?;
        self.ports().await.context("ports by name, and one number for TCP and UDP")?;
        self.local_policy().await.context("internalTrafficPolicy")?;
        self.distribution().await.context("trafficDistribution")?;
        self.not_ready().await.context("publishNotReadyAddresses")?;
        self.by_hand().await.context("endpoints written by hand")?;
        self.open_connections().await.context("open connections")?;
        self.hints().await.context("hints written by hand")?;
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

    /// Waits until a node's clients of IPv4 and TCP reach exactly these pods through a service, and
    /// none is refused. Nobody means that all are refused.
    async fn expect(&self, node: usize, service: u8, pods: &[u8]) -> Result<()> {
        let place = self.cluster.nodes[node - 1].place()?;
        let wanted: Vec<String> = pods.iter().map(|pod| format!("web{pod}")).collect();
        let what = format!("node{node} to reach {wanted:?} at {}", vip(service));
        wait(&what, PATIENCE / 4, async || {
            let report = load::requests(&place, vip(service), 60)?;
            Ok(match are_only(&report, &wanted) {
                true => Found::Yes(()),
                false => Found::NotYet(format!("{report:?}")),
            })
        })
        .await
    }

    /// The same for new clients of each kind: TCP, and UDP by connected sockets and others, of both
    /// families.
    async fn expect_each_way(&self, node: usize, service: u8, pods: &[&str]) -> Result<()> {
        let place = self.cluster.nodes[node - 1].place()?;
        for family in FAMILIES {
            let target = vip_of(family, service);
            let what = format!("only {pods:?} to answer node{node} at {target}");
            wait(&what, PATIENCE / 4, async || {
                let tcp = load::requests(&place, target, 60)?;
                let words = ["udp", &target.to_string(), "--requests", "60"];
                let udp: Value = load::run(&place, &words)?;
                let udp = ["connected", "unconnected"].map(|kind| udp[kind].clone());
                let [connected, loose] = udp.map(serde_json::from_value::<LoadReport>);
                let reports = [tcp, connected?, loose?];
                Ok(match reports.iter().all(|report| are_only(report, pods)) {
                    true => Found::Yes(()),
                    false => Found::NotYet(format!("{reports:?}")),
                })
            })
            .await?;
        }
        Ok(())
    }

    async fn ports(&self) -> Result<()> {
        self.expect_each_way(1, 1, &["web1", "web2", "web3"]).await
    }

    async fn local_policy(&self) -> Result<()> {
        self.expect_each_way(1, 2, &["web1"]).await?;
        self.expect_each_way(3, 2, &["web3"]).await
    }

    async fn distribution(&self) -> Result<()> {
        self.expect_each_way(1, 3, &["web1", "web2"]).await.context("zone a")?;
        self.expect_each_way(3, 3, &["web3"]).await.context("zone b")?;
        self.expect_each_way(1, 4, &["web1"]).await.context("node1")?;
        self.expect_each_way(2, 4, &["web2"]).await.context("node2")
    }

    async fn not_ready(&self) -> Result<()> {
        self.expect_each_way(2, 5, &[]).await.context("a pod that is not ready")?;
        self.expect_each_way(2, 6, &["sleepy"]).await.context("published")
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

    /// The zones that endpoints are for, as nobody but their author knows them: followed while each
    /// endpoint says one.
    async fn hints(&self) -> Result<()> {
        let slices = self.api.of::<EndpointSlice>();
        slices.delete("by-hand", &DeleteParams::default()).await?;
        let write = async |pod: &str, port: u16, hints: Value| -> Result<()> {
            let made: Pod = self.api.of().get(pod).await?;
            for (family, kind) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
                let slice: EndpointSlice = serde_json::from_value(json!({
                    "metadata": {
                        "name": format!("{pod}-{}", kind.to_lowercase()),
                        "labels": { "kubernetes.io/service-name": "hand" },
                    },
                    "addressType": kind,
                    "ports": [
                        { "name": "web", "port": port },
                        { "name": "echo", "port": 7007, "protocol": "UDP" },
                    ],
                    "endpoints": [{ "addresses": [family.of(&made)?], "hints": hints }],
                }))?;
                slices.create(&PostParams::default(), &slice).await?;
            }
            Ok(())
        };
        let zone = |name| json!({ "forZones": [{ "name": name }] });
        // Not where they are: web2 is in zone a.
        write("web2", 9376, zone("b")).await?;
        write("web3", 9377, zone("a")).await?;
        self.expect_each_way(1, 8, &["web3"]).await.context("zone a")?;
        self.expect_each_way(3, 8, &["web2"]).await.context("zone b")?;
        write("web1", 9376, Value::Null).await?;
        self.expect_each_way(3, 8, &["web1", "web2", "web3"]).await.context("one is for nobody")
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
        let fresh = Newcomers::start(&place, &unhooked)?;
        tokio::time::sleep(LEFT_WITHIN).await;
        let deleted = SystemTime::now();
        self.api.of::<Pod>().delete("web3", &DeleteParams::default()).await?;
        let start = Instant::now();
        self.expect_each_way(1, 7, &["web3"]).await.context("no other is there")?;
        tokio::time::sleep((LEFT_WITHIN + LEFT_FOR).saturating_sub(start.elapsed())).await;
        fresh.left(deleted).context("others are ready")?;
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
        self.expect_each_way(1, 7, &[]).await.context("gone")?;
        let here = "internalTrafficPolicy without a pod here";
        self.expect_each_way(3, 2, &[]).await.context(here)?;
        self.expect_each_way(3, 3, &["web1", "web2"]).await.context("no endpoint in the zone")
    }
}

/// Whether these pods answered and nobody else; none of them means that everybody was refused, and
/// at once.
fn are_only(report: &LoadReport, pods: &[impl AsRef<str>]) -> bool {
    let is_refusal = |error: &String| error.contains("Connection refused");
    let as_wanted = match pods.is_empty() {
        true => report.ok == 0 && report.failed > 0 && report.errors.keys().all(is_refusal),
        false => report.failed == 0,
    };
    as_wanted && report.values("pod").iter().map(String::as_str).eq(pods.iter().map(AsRef::as_ref))
}

/// Clients that come anew all the time, of both families, with the socket hooks and without.
struct Newcomers(Vec<(String, bool, Fresh)>);

impl Newcomers {
    /// Each has met `web3` by the socket that it keeps.
    fn start(hooked: &Place, unhooked: &Place) -> Result<Self> {
        let mut all = Vec::new();
        for family in FAMILIES {
            for (is_hooked, place) in [(true, hooked), (false, unhooked)] {
                let what = format!("{family:?}, hooks {is_hooked}");
                let target = vip_of(family, 1);
                let ports = [target.port(), target.port()];
                let fresh =
                    Fresh::start(place, target.ip(), ports, "web3").context(what.clone())?;
                all.push((what, is_hooked, fresh));
            }
        }
        Ok(Self(all))
    }

    /// An error unless they all met `web3` before it was deleted, none did from a second later on,
    /// and none ever failed.
    fn left(self, deleted: SystemTime) -> Result<()> {
        let deleted = deleted.duration_since(UNIX_EPOCH)?.as_secs_f64();
        for (what, is_hooked, fresh) in self.0 {
            let mut ways: BTreeMap<String, Vec<Attempt>> = BTreeMap::new();
            for attempt in fresh.stop()? {
                ways.entry(attempt.way.clone()).or_default().push(attempt);
            }
            for (way, attempts) in ways {
                let failed = attempts.iter().find(|attempt| attempt.error.is_some());
                ensure!(failed.is_none(), "{what}, {way}: {failed:?}");
                let at_web3 = |it: &&Attempt| it.pod.as_deref() == Some("web3");
                let before = attempts.iter().filter(|it| it.at < deleted);
                ensure!(before.filter(at_web3).count() > 0, "{what}, {way}: never at web3");
                let late = deleted + LEFT_WITHIN.as_secs_f64();
                let late: Vec<&Attempt> = attempts.iter().filter(|it| it.at >= late).collect();
                ensure!(late.len() >= LEAST_ATTEMPTS, "{what}, {way}: {} attempts", late.len());
                let last = attempts.iter().rfind(at_web3).map_or(0.0, |it| it.at - deleted);
                println!("{what}, {way}: the last one came to web3 {last:.3} s after the deletion");
                // A flow that packets were balanced in goes on to the end; a socket's datagrams
                // are none for the hook.
                if is_hooked || way != "kept" {
                    let came = late.iter().filter(|it| at_web3(it)).count();
                    ensure!(came == 0, "{what}, {way}: {came} of {} came to web3", late.len());
                }
            }
        }
        Ok(())
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
