//! What the data plane refuses, and what it says about it: packets that pods must not send,
//! services that nobody answers for, and maps without room.
//!
//! Every counter that changes is compared, not only the expected ones, and what was refused is
//! looked for on the links that it must not reach.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_tests::api::{Api, Found, uid, wait};
use bowline_tests::cluster::BOTH_FAMILIES;
use bowline_tests::command::{finish, output};
use bowline_tests::pod_network::{Family, Stage, run};
use bowline_tests::{Place, Running, load};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Enough for what the cluster and this test need, and not for [`TOO_MANY`] backends on top.
const SLOTS: &str = "SLOTS=96";
const TOO_MANY: u8 = 100;
/// The same of services, each port and family of which has an entry, and [`PORTS`].
const SERVICES: &str = "SERVICES=32";
const PORTS: u16 = 12;

/// How often each packet is sent.
const COUNT: u64 = 20;
/// The stack of a pod reports its groups when its addresses change, which is refused as well.
const GROUP_REPORTS: u64 = 20;

/// The last parts of the services' addresses.
const NEAR: u8 = 1;
const FAR: u8 = 2;
const EMPTY: u8 = 3;
const WEB: u8 = 4;
const TOO_BIG: u8 = 5;
const LATE: u8 = 6;
const MANY: u8 = 7;

/// Looks at a link until both packets marked as the last ones came by; prints how often it saw
/// each mark.
const WATCH: &str = r#"
import json, re, socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(('eth0', 0))
s.settimeout(20)
# Without a receiver the stack would send the packets back, in what it says about them.
receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
receiver.bind(('::', 7007))
print('watching', flush=True)
seen = {}
while not {'last4', 'last6'} <= seen.keys():
    for mark in re.findall(rb'<bowline:([a-z0-9-]+)>', s.recv(4096)):
        mark = mark.decode()
        seen[mark] = seen.get(mark, 0) + 1
print(json.dumps(seen))
"#;

/// Sends each kind of packet so many times to each peer: from an address that is not the pod's, to
/// a group, with a header that contradicts itself, with IP options, and at last a plain one.
const SEND: &str = r#"
import os, socket, struct, sys
# Packets of one CPU stay in order: what comes after the last one is nothing of ours.
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
count, own, spoofed, peers = int(sys.argv[1]), sys.argv[2:4], sys.argv[4:6], sys.argv[6:]
def kind(address):
    return (socket.AF_INET6, 6) if ':' in address else (socket.AF_INET, 4)
def mark(name, number):
    return f'<bowline:{name}{number}>'.encode()
def send(name, target, source=None, option=None):
    family, number = kind(target)
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        if source:
            s.bind((source, 0))
        if option:
            s.setsockopt(*option)
        for _ in range(count):
            s.sendto(mark(name, number), (target, 7007))
def malformed(own, target):
    family, number = kind(target)
    data = struct.pack('!4H', 7007, 7007, 8 + 20, 0) + mark('malformed', number)
    one, other = (socket.inet_pton(family, address) for address in (own, target))
    if number == 4:
        # A header of four words, where five are the least.
        head = struct.pack('!BBHHHBBH', 0x44, 0, 20 + len(data), 0, 0, 64, 17, 0) + one + other
    else:
        # More payload than there is.
        head = struct.pack('!IHBB', 6 << 28, 1000 + len(data), 17, 64) + one + other
    # The stack itself would refuse to send it.
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as s:
        for _ in range(count):
            s.sendto(head + data, ('eth0', 0x0800 if number == 4 else 0x86dd, 0, 0, b'\xff' * 6))
send('group', '224.0.0.1')
send('group', 'ff02::1%eth0')
nothing = (socket.IPPROTO_IP, socket.IP_OPTIONS, b'\1\1\1\1')
padding = (socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, b'\0\0\1\4\0\0\0\0')
for peer in peers:
    six = ':' in peer
    send('spoofed', peer, source=spoofed[six])
    malformed(own[six], peer)
    send('options', peer, option=padding if six else nothing)
for peer in peers:
    send('last', peer)
"#;

/// Asks services by UDP with sockets that are connected and expects to be told that nobody
/// listens there.
const ASK: &str = r#"
import socket, sys
for host in sys.argv[1:]:
    with socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        s.connect((host, 80))
        s.send(b'<bowline:closed>')
        try:
            raise SystemExit(f'{host} answered {s.recv(100)}')
        except ConnectionRefusedError:
            assert s.getpeername()[0] == host, s.getpeername()
"#;

/// Sends to services without backends, with sockets that are not connected; prints how many calls
/// were refused. Kernels older than 5.18 have one word only for refusing.
const OFFER: &str = r#"
import socket, sys
refused = 0
for host in sys.argv[2:]:
    with socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM) as s:
        for _ in range(int(sys.argv[1])):
            try:
                s.sendto(b'<bowline:empty>', (host, 80))
            except (ConnectionRefusedError, PermissionError):
                refused += 1
print(refused)
"#;

/// Sends the marked packets that end each look at a link.
const LAST: &str = r#"
import socket, sys
for peer in sys.argv[1:]:
    family, number = (socket.AF_INET6, 6) if ':' in peer else (socket.AF_INET, 4)
    text = f'<bowline:last{number}>'.encode()
    socket.socket(family, socket.SOCK_DGRAM).sendto(text, (peer, 7007))
"#;

/// By reason and direction.
type Counters = BTreeMap<(String, String), u64>;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn what_is_refused_is_counted_by_name_and_arrives_nowhere() -> Result<()> {
    let others = ["--map-size", SLOTS, "--map-size", SERVICES, "--disable-feature", "tcx"];
    let flags = [&BOTH_FAMILIES[..], &others].concat();
    let refusals = Refusals(Stage::up(&flags).await?);
    let played = refusals.play().await;
    played.map_err(|error| refusals.0.explain(error))
}

struct Refusals(Stage);

impl Refusals {
    async fn play(&self) -> Result<()> {
        let api = self.0.cluster.api().await?;
        for (name, last, selector) in [
            ("near", NEAR, json!({ "pod": "beside" })),
            ("far", FAR, json!({ "pod": "there" })),
            ("empty", EMPTY, json!({ "pod": "nobody" })),
            ("web", WEB, json!({ "app": "stage" })),
        ] {
            make_service(&api, name, last, &selector).await?;
        }
        self.0.cluster.agrees(PATIENCE).await?;
        self.packets().context("packets that pods must not send")?;
        self.closed_ports().context("a service's port that is closed on its pod")?;
        self.no_backends().context("a service without backends")?;
        self.full_map(&api).await.context("a map without room")?;
        self.full_services(&api).await.context("no room for services")
    }

    /// On the node of the pod that sends.
    fn net(&self, what: &str) -> Result<Value> {
        let cluster = &self.0.cluster;
        let mut net = cluster.bowline(&["net", what, "-o", "json", "--node", "node1"])?;
        // That a map is full is a status of its own.
        let ended = finish(net.args(["--name", &cluster.name]))?;
        let error = || String::from_utf8_lossy(&ended.stderr).into_owned();
        serde_json::from_slice(&ended.stdout).with_context(error)
    }

    fn counters(&self) -> Result<Counters> {
        let rows = self.net("counters")?;
        let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
        let count = |row: &Value| {
            let key = (text(row, "reason"), text(row, "direction"));
            Ok((key, row["packets"].as_u64().context("no packets")?))
        };
        rows.as_array().context("no rows")?.iter().map(count).collect()
    }

    /// What is refused of what pods send, and what goes on with a remark, since then.
    fn risen(&self, before: &Counters) -> Result<Counters> {
        let usual = ["local-pod", "remote-node", "stack", "balanced", "answer-translated"];
        let risen = self.counters()?.into_iter().filter_map(|(key, now)| {
            let more = now - before.get(&key).copied().unwrap_or_default();
            (more > 0 && !usual.contains(&key.0.as_str())).then_some((key, more))
        });
        Ok(risen.collect())
    }

    /// The pods on both sides of the sender, and the sender's uplink.
    fn watch(&self) -> Result<[Watch; 3]> {
        Ok([
            Watch::at("the pod beside it", &self.0.network(&self.0.beside)?)?,
            Watch::at("the pod on the other node", &self.0.network(&self.0.there)?)?,
            Watch::at("the uplink", &self.0.cluster.nodes[0].place()?)?,
        ])
    }

    fn addresses(&self, pods: &[&k8s_openapi::api::core::v1::Pod]) -> Result<Vec<String>> {
        let all = pods.iter().flat_map(|pod| FAMILIES.map(|family| family.of(pod)));
        all.map(|address| Ok(address?.to_string())).collect()
    }

    fn packets(&self) -> Result<()> {
        let sender = self.0.network(&self.0.here)?;
        let spoofed = ["10.240.0.222", "fd00:10:240::dead"];
        run(&sender, &format!("ip addr add {}/32 dev eth0", spoofed[0]))?;
        run(&sender, &format!("ip addr add {}/128 dev eth0 nodad", spoofed[1]))?;
        let watches = self.watch()?;
        let before = self.counters()?;
        let mut python = sender.command("python3");
        python.args(["-c", SEND, &COUNT.to_string()]).args(self.addresses(&[&self.0.here])?);
        python.args(spoofed).args(self.addresses(&[&self.0.beside, &self.0.there])?);
        output(&mut python)?;
        // Each place is passed by what goes to one of the two peers.
        let passed: BTreeMap<String, u64> =
            ["options4", "options6"].map(|mark| (mark.to_owned(), COUNT)).into();
        for watch in watches {
            let (what, seen) = (watch.what, watch.end()?);
            ensure!(seen == passed, "seen at {what}: {seen:?}; expected: {passed:?}");
        }
        let mut risen = self.risen(&before)?;
        let from_pod = |reason: &str| (reason.to_owned(), "from-pod".to_owned());
        let groups = risen.remove(&from_pod("multicast")).unwrap_or_default();
        let expected = 2 * COUNT..2 * COUNT + GROUP_REPORTS;
        ensure!(expected.contains(&groups), "{groups} packets to groups were refused");
        let risen = without_reports(risen)?;
        let each = ["spoofed-source", "malformed", "ip-options"];
        let wanted: Counters = each.map(|reason| (from_pod(reason), 4 * COUNT)).into();
        ensure!(risen == wanted, "counted: {risen:?}; expected: {wanted:?}");
        for address in spoofed {
            run(&sender, &format!("ip addr del {address} dev eth0"))?;
        }
        Ok(())
    }

    /// No socket hook sees this client. What the backend's node says about its packets is about
    /// addresses that the client does not know, unless they are translated back.
    fn closed_ports(&self) -> Result<()> {
        let before = self.counters()?;
        let mut python = self.0.network(&self.0.here)?.command("python3");
        let hosts = FAMILIES.map(|family| [vip(family, NEAR), vip(family, FAR)].map(text));
        output(python.args(["-c", ASK]).args(hosts.as_flattened()))?;
        let risen = self.risen(&before)?;
        let translated = |direction: &str| ("error-translated".to_owned(), direction.to_owned());
        let risen = without_reports(risen)?;
        let wanted = [(translated("from-pod"), 2), (translated("from-uplink"), 2)].into();
        ensure!(risen == wanted, "counted: {risen:?}; expected: {wanted:?}");
        Ok(())
    }

    /// At once where a hook sees the call; where none does the packet goes no further than the
    /// pod's link.
    fn no_backends(&self) -> Result<()> {
        let refused = || -> Result<u64> {
            let rows = self.net("services")?;
            let mine = rows.as_array().into_iter().flatten().filter(|row| {
                row["namespace"] == "default" && row["name"] == "empty" && row["protocol"] == "UDP"
            });
            let counts: Vec<u64> = mine.filter_map(|row| row["refused"].as_u64()).collect();
            ensure!(counts.len() == 2, "rows of the service: {rows}");
            Ok(counts.iter().sum())
        };
        let here = &self.0.here;
        let hooked = self.0.cluster.nodes[0].pod_network_in_cgroup(&uid(here))?;
        let unhooked = self.0.network(here)?;
        let watches = self.watch()?;
        let (before, counted) = (self.counters()?, refused()?);
        let start = Instant::now();
        ensure!(offer(&hooked)? == 2 * COUNT, "not each call was refused");
        ensure!(start.elapsed() < Duration::from_secs(1), "refused after {:?}", start.elapsed());
        ensure!(offer(&unhooked)? == 0, "a hook saw it");
        let peers = self.addresses(&[&self.0.beside, &self.0.there])?;
        output(unhooked.command("python3").args(["-c", LAST]).args(peers))?;
        for watch in watches {
            let (what, seen) = (watch.what, watch.end()?);
            ensure!(seen.is_empty(), "seen at {what}: {seen:?}");
        }
        let more = refused()? - counted;
        ensure!(more == 4 * COUNT, "{more} calls and packets were counted as refused");
        let risen = without_reports(self.risen(&before)?)?;
        let no_backend = |direction: &str| ("no-backend".to_owned(), direction.to_owned());
        let each = ["socket", "from-pod"];
        let wanted: Counters = each.map(|direction| (no_backend(direction), 2 * COUNT)).into();
        ensure!(risen == wanted, "counted: {risen:?}; expected: {wanted:?}");
        Ok(())
    }

    /// The map, its flag and the service are named; everything else goes on, also what is new.
    async fn full_map(&self, api: &Api) -> Result<()> {
        let status = self.net("status")?;
        let feature = row(&status["features"], "tcx")?;
        ensure!(feature["used"] == false, "disabled and used: {feature}");
        for name in ["from_pod", "to_pod", "from_uplink"] {
            let program = row(&status["programs"], name)?;
            ensure!(
                program["hook"].as_str().is_some_and(|hook| !hook.contains("tcx")),
                "{program}"
            );
        }
        ensure!(row(&status["maps"], "SLOTS")?["full"].is_null(), "full at once: {status}");

        make_service(api, "too-big", TOO_BIG, &Value::Null).await?;
        let slices = api.of::<EndpointSlice>();
        slices.create(&PostParams::default(), &too_many()?).await?;
        self.is_full("SLOTS", 96, "default/too-big").await?;
        make_service(api, "late", LATE, &json!({ "app": "stage" })).await?;
        for family in FAMILIES {
            self.answers(family, WEB).await.context("a service of before")?;
            self.answers(family, LATE).await.context("a new service")?;
        }
        api.of::<Service>().delete("too-big", &DeleteParams::default()).await?;
        slices.delete("too-big", &DeleteParams::default()).await?;
        self.has_room("SLOTS").await?;
        self.cluster_agrees().await
    }

    /// A service too many: those that are there go on, in both families.
    async fn full_services(&self, api: &Api) -> Result<()> {
        self.has_room("SERVICES").await.context("before")?;
        let ports = (1..=PORTS).map(|port| json!({ "name": format!("p{port}"), "port": port }));
        let ports = ports.collect::<Vec<_>>();
        make_service_with(api, "many", MANY, &json!({ "app": "stage" }), json!(ports)).await?;
        self.is_full("SERVICES", 32, "default/many").await?;
        for family in FAMILIES {
            for service in [WEB, LATE] {
                self.answers(family, service).await.context("a service of before")?;
            }
        }
        api.of::<Service>().delete("many", &DeleteParams::default()).await?;
        self.has_room("SERVICES").await?;
        make_service(api, "after", MANY, &json!({ "app": "stage" })).await?;
        for family in FAMILIES {
            self.answers(family, MANY).await.context("a service that finds room again")?;
        }
        self.cluster_agrees().await
    }

    async fn cluster_agrees(&self) -> Result<()> {
        self.0.cluster.agrees(PATIENCE).await.map(drop)
    }

    /// Waits until a map could not take a service; what is said of it names all that matters.
    async fn is_full(&self, map: &str, entries: u32, refused: &str) -> Result<()> {
        let full = wait(&format!("{map} to be full"), PATIENCE, async || {
            let row = row(&self.net("status")?["maps"], map)?;
            Ok(match row["full"]["refused"].is_array() {
                true => Found::Yes(row),
                false => Found::NotYet(row.to_string()),
            })
        })
        .await?;
        let flag = format!("--map-size {map}=");
        ensure!(full["flag"] == flag, "{full}");
        ensure!(full["full"]["refused"] == json!([refused]), "{full}");
        let message = full["full"]["message"].as_str().unwrap_or_default();
        ensure!(message.contains(&format!("{map} is full ({entries} entries)")), "{message}");
        ensure!(message.contains(&flag), "{message}");
        Ok(())
    }

    async fn has_room(&self, map: &str) -> Result<()> {
        wait(&format!("{map} to have room"), PATIENCE, async || {
            let row = row(&self.net("status")?["maps"], map)?;
            Ok(if row["full"].is_null() { Found::Yes(()) } else { Found::NotYet(row.to_string()) })
        })
        .await
    }

    /// All three pods, from the pod on the first node.
    async fn answers(&self, family: Family, service: u8) -> Result<()> {
        let place = self.0.cluster.pod_place(&self.0.here)?;
        let target = (vip(family, service), 80).into();
        wait(&format!("answers from {target}"), PATIENCE, async || {
            let report = load::requests(&place, target, 60)?;
            let done = report.failed == 0 && report.values("pod").len() == 3;
            Ok(if done { Found::Yes(()) } else { Found::NotYet(format!("{report:?}")) })
        })
        .await
    }
}

/// A look at a link, with a name for the error.
struct Watch {
    what: &'static str,
    running: Running,
}

impl Watch {
    fn at(what: &'static str, place: &Place) -> Result<Self> {
        let mut python: Command = place.command("python3");
        python.args(["-c", WATCH]);
        Ok(Self { what, running: Running::until(python, "watching")? })
    }

    /// How often each mark was seen before the last ones.
    fn end(mut self) -> Result<BTreeMap<String, u64>> {
        let said = self.running.rest()?;
        let seen = serde_json::from_str(&said);
        let mut seen: BTreeMap<String, u64> = seen
            .with_context(|| format!("the last packets were not seen at {}: {said}", self.what))?;
        seen.retain(|mark, _| !mark.starts_with("last"));
        Ok(seen)
    }
}

/// Sends to the service without backends; how many calls were refused.
fn offer(place: &Place) -> Result<u64> {
    let hosts = FAMILIES.map(|family| text(vip(family, EMPTY)));
    let mut python = place.command("python3");
    let said = output(python.args(["-c", OFFER, &COUNT.to_string()]).args(hosts))?;
    Ok(said.trim().parse()?)
}

fn vip(family: Family, service: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 9, 6, service).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 9, 0, 0, 0, 0, 0x600 + u16::from(service)).into(),
    }
}

/// What was counted, but for the few reports of groups that stacks make by themselves: those of
/// pods are refused, those of other nodes and of the node's end of a pod's link carry the router
/// alert option.
fn without_reports(mut risen: Counters) -> Result<Counters> {
    let from_nodes = ["from-uplink", "to-pod"].map(|direction| ("ip-options", direction));
    for (reason, direction) in [("multicast", "from-pod")].into_iter().chain(from_nodes) {
        let reports = risen.remove(&(reason.to_owned(), direction.to_owned())).unwrap_or_default();
        ensure!(reports < GROUP_REPORTS, "{reports} times {reason} {direction}");
    }
    Ok(risen)
}

fn text(address: IpAddr) -> String {
    address.to_string()
}

/// The row of this name.
fn row(rows: &Value, name: &str) -> Result<Value> {
    let found = rows.as_array().into_iter().flatten().find(|row| row["name"] == name);
    found.cloned().with_context(|| format!("no {name} in {rows}"))
}

async fn make_service(api: &Api, name: &str, last: u8, selector: &Value) -> Result<()> {
    let ports = json!([
        { "name": "web", "port": 80, "targetPort": 9376 },
        { "name": "closed", "port": 80, "targetPort": 9, "protocol": "UDP" },
    ]);
    make_service_with(api, name, last, selector, ports).await
}

async fn make_service_with(
    api: &Api,
    name: &str,
    last: u8,
    selector: &Value,
    ports: Value,
) -> Result<()> {
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "ipFamilyPolicy": "RequireDualStack",
            "clusterIP": vip(Family::V4, last),
            "clusterIPs": [vip(Family::V4, last), vip(Family::V6, last)],
            "selector": selector,
            "ports": ports,
        },
    }))?;
    let made = api.of().create(&PostParams::default(), &service).await;
    made.with_context(|| format!("service {name}"))?;
    Ok(())
}

fn too_many() -> Result<EndpointSlice> {
    let endpoints = (1..=TOO_MANY).map(|last| {
        json!({ "addresses": [Ipv4Addr::new(10, 240, 9, last)], "conditions": { "ready": true } })
    });
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": "too-big",
            "labels": { "kubernetes.io/service-name": "too-big" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "web", "port": 9376 }],
        "endpoints": endpoints.collect::<Vec<_>>(),
    }))?)
}
