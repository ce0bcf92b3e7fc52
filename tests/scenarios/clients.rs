//! Programs with plain sockets in a cluster of both families: curl, dig, Python and Rust's
//! standard library, in pods, on the host network, on nodes, and where no socket hook sees them.
//!
//! Every answer says who answered and whom it saw: a client must be seen by its own address.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::api::{Api, uid};
use bowline_tests::cluster::BOTH_FAMILIES;
use bowline_tests::command::output;
use bowline_tests::load::{self, LoadReport};
use bowline_tests::pod_network::Family;
use bowline_tests::{Cluster, Guest, Place, Running, Wishes};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
/// A connected UDP client is with another backend within this time.
pub(crate) const MOVED_WITHIN: Duration = Duration::from_secs(1);
/// The timeout of the service with session affinity.
const AFFINITY: Duration = Duration::from_secs(1);
/// So often each way is gone where there are two backends. That one of them is never chosen happens
/// once in a hundred thousand times.
const ROUNDS: u32 = 18;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The last parts of the services' addresses.
const BOTH: u8 = 1;
const LOCAL: u8 = 2;
const STICKY: u8 = 3;
const ITSELF: u8 = 4;
const HOSTED: u8 = 5;
const HAND: u8 = 6;
const SIX: u8 = 7;
const IPERF: u8 = 8;

/// Asks a service on all its ports and prints who answered and whom it saw. The names that the
/// sockets show must be the service's.
const ASK: &str = r#"
import ctypes, json, select, socket, struct, sys
family, host, count = getattr(socket, sys.argv[1]), sys.argv[2], int(sys.argv[3])
known = {}
class Part(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]
class Head(ctypes.Structure):
    _fields_ = [('name', ctypes.c_void_p), ('name_length', ctypes.c_uint32),
                ('parts', ctypes.POINTER(Part)), ('count', ctypes.c_size_t),
                ('control', ctypes.c_void_p), ('control_length', ctypes.c_size_t),
                ('flags', ctypes.c_int)]
class Message(ctypes.Structure):
    _fields_ = [('head', Head), ('length', ctypes.c_uint)]
libc = ctypes.CDLL(None, use_errno=True)
def batch(call, s, texts, names):
    '''sendmmsg() or recvmmsg(): several datagrams in one call; the lengths of those that it did.'''
    messages = (Message * len(texts))()
    parts = [Part(ctypes.addressof(text), len(text)) for text in texts]
    for message, part, name in zip(messages, parts, names):
        message.head.parts, message.head.count = ctypes.pointer(part), 1
        if name:
            message.head.name, message.head.name_length = ctypes.addressof(name), len(name)
    done = call(s.fileno(), messages, len(texts), 0, *[None][:call is libc.recvmmsg])
    assert done > 0, ctypes.get_errno()
    return [message.length for message in messages[:done]]
def name_of(target):
    kind = socket.AF_INET6 if ':' in target[0] else socket.AF_INET
    port, address = struct.pack('!H', target[1]), socket.inet_pton(kind, target[0])
    rest = bytes(4) + address + bytes(4) if kind == socket.AF_INET6 else address + bytes(8)
    return struct.pack('=H', kind) + port + rest
def at(port, kind):
    if (port, kind) not in known:
        known[port, kind] = socket.getaddrinfo(host, port, family, kind)[0]
    found = known[port, kind]
    s = socket.socket(found[0], kind)
    s.settimeout(5)
    return s, found[4]
def is_at(name, target):
    assert name[:2] == target[:2], (name, target)
def http(port):
    s, target = at(port, socket.SOCK_STREAM)
    with s:
        s.connect(target)
        is_at(s.getpeername(), target)
        s.sendall(b'GET / HTTP/1.0\r\nConnection: close\r\n\r\n')
        text = b''
        while part := s.recv(4096):
            text += part
    return json.loads(text.split(b'\r\n\r\n', 1)[1])
def echo():
    s, target = at(7, socket.SOCK_STREAM)
    with s:
        s.connect(target)
        s.sendall(b'to and fro')
        assert s.recv(100) == b'to and fro'
def connected():
    s, target = at(80, socket.SOCK_DGRAM)
    with s:
        s.connect(target)
        is_at(s.getpeername(), target)
        s.sendmsg([b'hel', b'lo'])
        data, peer = s.recvfrom(2048)
        is_at(peer, target)
        return json.loads(data)
def loose():
    s, target = at(80, socket.SOCK_DGRAM)
    with s:
        s.sendto(b'hello', target)
        data, peer = s.recvfrom(2048)
        is_at(peer, target)
        return json.loads(data)
def many(is_connected):
    s, target = at(80, socket.SOCK_DGRAM)
    with s:
        name = name_of(target)
        if is_connected:
            s.connect(target)
        texts = [ctypes.create_string_buffer(f'many {n}'.encode(), 6) for n in range(4)]
        names = [None if is_connected else ctypes.create_string_buffer(name, len(name))] * 4
        assert batch(libc.sendmmsg, s, texts, names) == [6] * 4
        answers = []
        while len(answers) < 4:
            assert select.select([s], [], [], 5)[0], answers
            room = [ctypes.create_string_buffer(2048) for _ in range(4)]
            peers = [ctypes.create_string_buffer(len(name)) for _ in range(4)]
            lengths = batch(libc.recvmmsg, s, room, peers)
            for text, peer, length in zip(room, peers, lengths):
                assert peer.raw == name, (peer.raw, name)
                answers.append(json.loads(text.raw[:length]))
        assert {answer['text'] for answer in answers} == {f'many {n}' for n in range(4)}, answers
        return answers
said = {}
for _ in range(count):
    echo()
    ways = [('tcp', http(80)), ('again', http(81)), ('connected', connected()), ('loose', loose())]
    ways += [('many', answer) for answer in many(False)]
    ways += [('many_connected', answer) for answer in many(True)]
    for way, answer in ways:
        said.setdefault(way, set()).add(answer['pod'])
        said.setdefault('clients', set()).add(answer['client'])
print(json.dumps({key: sorted(value) for key, value in said.items()}))
"#;

/// Uses services with session affinity without a break for more than two timeouts, and then only
/// once in each timeout and a third, until each has another pod.
const STICK: &str = r#"
import json, socket, sys, time
timeout, hosts = float(sys.argv[1]), sys.argv[2:]
def who(host):
    with socket.create_connection((host, 80), 5) as tcp:
        tcp.sendall(b'GET / HTTP/1.0\r\nConnection: close\r\n\r\n')
        text = b''
        while part := tcp.recv(4096):
            text += part
    with socket.socket(tcp.family, socket.SOCK_DGRAM) as udp:
        udp.settimeout(5)
        udp.sendto(b'hello', (host, 80))
        return [json.loads(text.split(b'\r\n\r\n', 1)[1])['pod'], json.loads(udp.recv(2048))['pod']]
used, longest, last = {}, 0, time.monotonic()
end = last + 2.5 * timeout
while last < end:
    for host in hosts:
        for way, pod in enumerate(who(host)):
            used.setdefault((host, way), set()).add(pod)
    now = time.monotonic()
    longest, last = max(longest, now - last), now
    time.sleep(0.02)
first, rounds = {host: who(host)[0] for host in hosts}, 0
left = set(hosts)
while left and rounds < 16:
    rounds += 1
    time.sleep(timeout * 1.3)
    left -= {host for host in left if who(host)[0] != first[host]}
print(json.dumps({'used': [sorted(pods) for pods in used.values()], 'longest': longest,
                  'rounds': rounds, 'changed': not left}))
"#;

/// Keeps one connected socket and asks again and again, as a resolver does; prints each answer's
/// time and giver once its input is closed.
pub(crate) const HOLD: &str = r#"
import json, select, socket, sys, time
family, host, wanted = getattr(socket, sys.argv[1]), sys.argv[2], sys.argv[3]
while True:
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(0.2)
    s.connect((host, 80))
    s.send(b'hello')
    if json.loads(s.recv(2048))['pod'] == wanted:
        break
    s.close()
own, seen, errors, end = s.getsockname()[:2], [], 0, time.monotonic() + 60
print('held', flush=True)
while not select.select([sys.stdin], [], [], 0.01)[0] and time.monotonic() < end:
    try:
        s.send(b'hello')
        seen.append((time.time(), json.loads(s.recv(2048))['pod']))
    except OSError:
        errors += 1
print(json.dumps({'seen': seen, 'errors': errors, 'same': s.getsockname()[:2] == own}))
"#;

/// A service's address.
fn vip(family: Family, service: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 9, 7, service).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 9, 0, 0, 0, 0, 0x700 + u16::from(service)).into(),
    }
}

/// The address of IPv4 as a socket of IPv6 names it.
fn mapped(service: u8) -> Ipv6Addr {
    Ipv4Addr::new(10, 9, 7, service).to_ipv6_mapped()
}

pub(crate) fn python_name(family: Family) -> &'static str {
    if family == Family::V4 { "AF_INET" } else { "AF_INET6" }
}

/// Where a client runs, and by which addresses it has to be seen.
struct Client<'a> {
    what: &'static str,
    guest: &'a Guest,
    place: Place,
    own: [IpAddr; 2],
}

/// What [`ASK`] printed.
#[derive(Debug, serde::Deserialize)]
struct Said {
    clients: BTreeSet<IpAddr>,
    tcp: BTreeSet<String>,
    again: BTreeSet<String>,
    connected: BTreeSet<String>,
    loose: BTreeSet<String>,
    /// Several datagrams in one call, by both kinds of sockets.
    many: BTreeSet<String>,
    many_connected: BTreeSet<String>,
}

impl Client<'_> {
    fn command(&self, program: &str) -> Command {
        self.guest.command_at(&self.place, program)
    }

    fn own(&self, family: Family) -> IpAddr {
        self.own[usize::from(family == Family::V6)]
    }

    fn ask(&self, family: &str, host: &str, count: u32) -> Result<Said> {
        let mut python = self.command("python3");
        let said = output(python.args(["-c", ASK, family, host, &count.to_string()]));
        let said = said.with_context(|| format!("{}: {family} {host}", self.what))?;
        Ok(serde_json::from_str(&said)?)
    }

    /// All of these answer on every port, nobody else, and they see our own address.
    fn reaches(&self, family: Family, host: &str, pods: &[&str]) -> Result<()> {
        self.reaches_as(python_name(family), host, pods, self.own(family))
    }

    fn reaches_as(&self, family: &str, host: &str, pods: &[&str], own: IpAddr) -> Result<()> {
        let said = self.ask(family, host, if pods.len() > 1 { ROUNDS } else { 2 })?;
        let wanted: BTreeSet<String> = pods.iter().map(|&pod| pod.to_owned()).collect();
        for (way, seen) in [
            ("TCP", &said.tcp),
            ("the other TCP port", &said.again),
            ("connected UDP", &said.connected),
            ("UDP", &said.loose),
            ("sendmmsg()", &said.many),
            ("sendmmsg() on a connected socket", &said.many_connected),
        ] {
            ensure!(*seen == wanted, "{}: {family} {host} by {way}: {said:?}", self.what);
        }
        ensure!(
            said.clients == [own].into(),
            "{}: {family} {host}: seen as {:?}, not {own}",
            self.what,
            said.clients
        );
        Ok(())
    }

    fn curl(&self, arguments: &[&str]) -> Result<(String, IpAddr)> {
        let mut curl = self.command("curl");
        let said = output(curl.args(["-sS", "--max-time", "5"]).args(arguments))?;
        let said: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        let text = |field: &str| said[field].as_str().unwrap_or_default().to_owned();
        Ok((text("pod"), text("client").parse()?))
    }

    fn dig(&self, arguments: &[&str]) -> Result<BTreeSet<String>> {
        let mut dig = self.command("dig");
        let flags = ["-r", "+short", "+search", "+time=3", "+tries=1"];
        let said = output(dig.args(flags).args(arguments))
            .with_context(|| format!("{}: dig {arguments:?}", self.what))?;
        Ok(said.lines().map(str::to_owned).collect())
    }
}

/// What [`STICK`] printed.
#[derive(Debug, serde::Deserialize)]
struct Stuck {
    /// The pods that answered at each address by each protocol, while there was no break.
    used: Vec<Vec<String>>,
    /// The longest break, in seconds.
    longest: f64,
    rounds: u32,
    changed: bool,
}

impl Stuck {
    fn is_sound(&self) -> Result<()> {
        ensure!(self.used.len() == 4, "{self:?}");
        for used in &self.used {
            ensure!(used.len() == 1, "not one pod while it was used: {self:?}");
        }
        // One in two stays with its pod by chance.
        ensure!(self.changed, "the same pod after {} timeouts: {self:?}", self.rounds);
        println!("affinity: another pod after {} timeouts of two clients", self.rounds);
        Ok(())
    }
}

/// On node1 `client` and `web1`, on node2 `web2` and, on its host network, `hosted`.
struct Stage<'a> {
    cluster: &'a Cluster,
    api: Api,
    client: Pod,
    web: [Pod; 2],
    /// The addresses of the nodes.
    nodes: [[IpAddr; 2]; 2],
    guest: Guest,
    on_host: Guest,
    itself: Guest,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn plain_sockets_are_served_in_both_families() -> Result<()> {
    let mut wishes = Wishes { nodes: 2, ..Wishes::default() };
    wishes.flags.extend(BOTH_FAMILIES.map(str::to_owned));
    let cluster = Cluster::up(&wishes)?;
    let played = async {
        let stage = Stage::prepare(&cluster).await.context("making pods and services")?;
        stage.play().await
    };
    let played: Result<()> = played.await;
    played.map_err(|error| cluster.with_logs(error))
}

impl<'a> Stage<'a> {
    async fn prepare(cluster: &'a Cluster) -> Result<Self> {
        let api = cluster.api().await?;
        make_pods(&api).await?;
        make_services(&api).await?;
        let pods = api.ready_pods("stage=clients", 4, PATIENCE).await?;
        cluster.agrees(PATIENCE).await?;
        let pod = |name: &str| {
            let found = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name));
            found.cloned().with_context(|| format!("pod {name} is gone"))
        };
        let (client, hosted, web) = (pod("client")?, pod("hosted")?, [pod("web1")?, pod("web2")?]);
        let nodes = [node_addresses(&api, "node1").await?, node_addresses(&api, "node2").await?];
        let guest = Guest::of(cluster, &client)?;
        let on_host = Guest::of(cluster, &hosted)?;
        let itself = Guest::of(cluster, &web[0])?;
        Ok(Self { cluster, api, client, web, nodes, guest, on_host, itself })
    }

    async fn play(&self) -> Result<()> {
        let start = Instant::now();
        let step = |what: &str| println!("{:5.1} s: {what}", start.elapsed().as_secs_f64());
        let sticking = self.start_sticking().context("session affinity")?;
        self.dual_stack().context("a service of both families")?;
        step("both families by curl, Python and Rust, by name, address and mapped address");
        self.one_family().context("a service of IPv6 alone")?;
        self.headless_and_alias().context("headless and ExternalName")?;
        self.kinds().await.context("kinds of services")?;
        step("IPv6 alone, headless, ExternalName, Local, endpoints by hand");
        self.host_network().context("the host network")?;
        self.hairpin().context("a pod that reaches itself")?;
        step("host network, nodes, and a pod through its own service");
        self.bulk().context("iperf3")?;
        step("iperf3 by TCP and UDP");
        self.names().context("the node's DNS")?;
        step("the node's DNS at both addresses");
        self.affinity(sticking).context("session affinity")?;
        step("session affinity and its timeout");
        self.connected_udp().await.context("connected UDP sockets")
    }

    /// In the client's pod.
    fn here(&self) -> Result<Client<'_>> {
        let own = addresses(&self.client)?;
        let place = self.guest.place().clone();
        Ok(Client { what: "a pod", guest: &self.guest, place, own })
    }

    /// In the client's pod, but not in its cgroup: only the packet programs balance it.
    fn unhooked(&self) -> Result<Client<'_>> {
        let place = self.cluster.nodes[0].pod_network(&uid(&self.client))?;
        Ok(Client { what: "a pod without socket hooks", place, ..self.here()? })
    }

    fn on_node1(&self) -> Result<Client<'_>> {
        let place = self.cluster.nodes[0].place()?;
        Ok(Client { what: "node1", place, own: self.nodes[0], guest: &self.guest })
    }

    fn dual_stack(&self) -> Result<()> {
        let (here, unhooked) = (self.here()?, self.unhooked()?);
        let all = ["web1", "web2"];
        for family in FAMILIES {
            let address = vip(family, BOTH).to_string();
            here.reaches(family, "both", &all)?;
            here.reaches(family, &address, &all)?;
            unhooked.reaches(family, &address, &all)?;
            let flag = if family == Family::V4 { "-4" } else { "-6" };
            let (_, client) = here.curl(&[flag, "http://both.default.svc.cluster.local/"])?;
            ensure!(client == here.own(family), "curl {flag} was seen as {client}");
            self.standard_library(family, vip(family, BOTH))?;
        }
        here.curl(&["http://both/"])?;
        let as_mapped = mapped(BOTH);
        here.reaches_as("AF_INET6", &as_mapped.to_string(), &all, here.own(Family::V4))?;
        here.curl(&[&format!("http://[{as_mapped}]/")])?;
        self.standard_library(Family::V4, as_mapped.into())
    }

    /// Rust's own sockets, in the container: resolve, connect, send.
    fn standard_library(&self, family: Family, address: IpAddr) -> Result<()> {
        let place = self.cluster.pod_place(&self.client)?;
        let own = Family::of(family, &self.client)?.to_string();
        let number = if family == Family::V4 { "4" } else { "6" };
        let found: Value = load::run(&place, &["resolve", "both", "--family", number])?;
        ensure!(found["addresses"] == json!([vip(family, BOTH)]), "{found}");
        let target = SocketAddr::new(address, 80);
        let check = |what: &str, report: &LoadReport| {
            report.expect_no_failure(what)?;
            ensure!(report.values("pod") == ["web1", "web2"], "{what}: {report:?}");
            ensure!(report.values("client") == [own.clone()], "{what}: {report:?}");
            let names = [report.values("peer"), report.values("source")].concat();
            ensure!(names == [target.to_string()], "{what}: {names:?}");
            Ok(())
        };
        check("TCP", &load::requests(&place, target, 40)?)?;
        let said: Value = load::run(&place, &["udp", &target.to_string(), "--requests", "30"])?;
        for kind in ["connected", "unconnected"] {
            check(kind, &serde_json::from_value(said[kind].clone())?)?;
        }
        Ok(())
    }

    fn one_family(&self) -> Result<()> {
        let here = self.here()?;
        here.reaches(Family::V6, "six", &["web1", "web2"])?;
        ensure!(here.dig(&["six", "A"])?.is_empty(), "an IPv6 service has an IPv4 address");
        let address = vip(Family::V6, SIX).to_string();
        ensure!(here.dig(&["six", "AAAA"])? == [address].into(), "the address of six");
        let (_, client) = here.curl(&["http://six/"])?;
        ensure!(client == here.own(Family::V6), "seen as {client}");
        Ok(())
    }

    fn headless_and_alias(&self) -> Result<()> {
        let here = self.here()?;
        for (family, kind) in [(Family::V4, "A"), (Family::V6, "AAAA")] {
            let pods: Vec<IpAddr> =
                self.web.iter().map(|pod| family.of(pod)).collect::<Result<_>>()?;
            let wanted: BTreeSet<String> = pods.iter().map(ToString::to_string).collect();
            let found = here.dig(&["peers", kind])?;
            ensure!(found == wanted, "peers {kind}: {found:?}, not {wanted:?}");
            for (pod, name, port) in [(pods[0], "web1", 9376), (pods[1], "web2", 9377)] {
                let (who, client) =
                    here.curl(&[&format!("http://{}/", SocketAddr::new(pod, port))])?;
                ensure!(who == name && client == here.own(family), "{pod}: {who}, {client}");
            }
            let found = here.dig(&["alias", kind])?;
            let wanted = ["both.default.svc.cluster.local.".to_owned()];
            let wanted = wanted.into_iter().chain([vip(family, BOTH).to_string()]).collect();
            ensure!(found == wanted, "alias {kind}: {found:?}");
            here.reaches(family, "alias", &["web1", "web2"])?;
        }
        Ok(())
    }

    async fn kinds(&self) -> Result<()> {
        let here = self.here()?;
        for family in FAMILIES {
            here.reaches(family, "local", &["web1"]).context("internalTrafficPolicy")?;
        }
        let place = self.cluster.pod_place(&self.client)?;
        for family in FAMILIES {
            let refused = load::requests(&place, SocketAddr::new(vip(family, HAND), 80), 5)?;
            let by_name = refused.errors.keys().all(|error| error.contains("refused"));
            ensure!(refused.ok == 0 && by_name && refused.seconds < 1.0, "{refused:?}");
        }
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {
                "name": "by-hand",
                "labels": { "kubernetes.io/service-name": "hand" },
            },
            "addressType": "IPv6",
            "ports": [
                { "name": "web", "port": 9377 },
                { "name": "again", "port": 9377 },
                { "name": "echo", "port": 7008 },
                { "name": "datagrams", "port": 7008, "protocol": "UDP" },
            ],
            "endpoints": [{ "addresses": [Family::V6.of(&self.web[1])?] }],
        }))?;
        self.api.of().create(&PostParams::default(), &slice).await?;
        self.cluster.agrees(PATIENCE).await?;
        here.reaches(Family::V6, "hand", &["web2"])?;
        let other = load::requests(&place, SocketAddr::new(vip(Family::V4, HAND), 80), 5)?;
        ensure!(other.ok == 0, "endpoints of IPv6 answer at the IPv4 address: {other:?}");
        Ok(())
    }

    /// One pod while it is used, for longer than the timeout; sooner or later another one when it
    /// was not used for that long. Started early: it takes its time.
    fn start_sticking(&self) -> Result<Running> {
        let hosts = FAMILIES.map(|family| vip(family, STICKY).to_string());
        let mut python = self.here()?.command("python3");
        python.args(["-c", STICK, &AFFINITY.as_secs().to_string()]).args(&hosts);
        Running::start(python)
    }

    fn affinity(&self, mut started: Running) -> Result<()> {
        for _ in 0..5 {
            let said: Stuck = serde_json::from_str(&started.rest()?)?;
            if said.longest < AFFINITY.as_secs_f64() {
                return said.is_sound();
            }
            // The machine had no time for us: that was no use without a break.
            started = self.start_sticking()?;
        }
        bail!("the machine is too slow to use a service every {AFFINITY:?}")
    }

    fn host_network(&self) -> Result<()> {
        let place = self.on_host.place().clone();
        let guest = &self.guest;
        let hosted = Client { what: "a host-network pod", place, own: self.nodes[1], guest };
        let all = ["web1", "web2"];
        for family in FAMILIES {
            hosted.reaches(family, "both", &all)?;
            self.on_node1()?.reaches(family, "both", &all)?;
            let address = vip(family, HOSTED).to_string();
            for client in [self.here()?, self.unhooked()?, self.on_node1()?] {
                client.reaches(family, &address, &["hosted"])?;
            }
        }
        Ok(())
    }

    /// By the socket hook a pod sees itself; without it, the service is its client.
    fn hairpin(&self) -> Result<()> {
        let own = addresses(&self.web[0])?;
        let guest = &self.itself;
        let hooked = Client { what: "a pod to itself", guest, place: guest.place().clone(), own };
        let place = self.cluster.nodes[0].pod_network(&uid(&self.web[0]))?;
        let own = FAMILIES.map(|family| vip(family, ITSELF));
        let unhooked = Client { what: "a pod to itself without hooks", guest, place, own };
        for family in FAMILIES {
            let address = vip(family, ITSELF).to_string();
            hooked.reaches(family, "itself", &["web1"])?;
            unhooked.reaches(family, &address, &["web1"])?;
        }
        Ok(())
    }

    /// Many full packets through a service, across nodes, with and without socket hooks.
    fn bulk(&self) -> Result<()> {
        let mut server = self.cluster.nodes[1].pod_network(&uid(&self.web[1]))?.command("iperf3");
        server.args(["--server", "--forceflush", "--port", "9400"]);
        let _server = Running::until(server, "Server listening")?;
        for client in [self.here()?, self.unhooked()?] {
            for family in FAMILIES {
                let host = vip(family, IPERF).to_string();
                for kind in [&["--bytes", "20M"][..], &["--bytes", "2M", "--udp", "-b", "50M"]] {
                    let mut iperf = client.command("iperf3");
                    iperf.args(["--json", "--port", "80", "--client", &host]).args(kind);
                    let said: Value = serde_json::from_str(&output(&mut iperf)?)?;
                    let sum = |name: &str| said["end"][name]["bytes"].as_f64();
                    let bytes = sum("sum_received").or(sum("sum")).unwrap_or_default();
                    // Datagrams may be lost on a machine that has no time for them.
                    ensure!(bytes >= 1e6, "{}: {host} {kind:?}: {said}", client.what);
                }
            }
        }
        Ok(())
    }

    /// The cluster's DNS server answers at both addresses of its service, to everybody.
    fn names(&self) -> Result<()> {
        let name = "both.default.svc.cluster.local";
        for client in [self.here()?, self.unhooked()?, self.on_node1()?] {
            for server in ["@10.9.0.10", "@fd00:10:9::a"] {
                for transport in ["+notcp", "+tcp"] {
                    for (family, kind) in [(Family::V4, "A"), (Family::V6, "AAAA")] {
                        let said = client.dig(&[server, transport, name, kind])?;
                        let wanted = [vip(family, BOTH).to_string()].into();
                        ensure!(said == wanted, "{}: {server} {kind}: {said:?}", client.what);
                    }
                    let said = client.dig(&[server, transport, "-x", "fd00:10:9::701"])?;
                    ensure!(said == [format!("{name}.")].into(), "{server} PTR: {said:?}");
                }
            }
        }
        Ok(())
    }

    /// Clients that hold one socket for ever are with another pod soon after theirs is deleted.
    async fn connected_udp(&self) -> Result<()> {
        let here = self.here()?;
        let mut held = Vec::new();
        for (what, family, host) in [
            ("IPv4", "AF_INET", vip(Family::V4, BOTH)),
            ("IPv6", "AF_INET6", vip(Family::V6, BOTH)),
            ("IPv4 by a socket of IPv6", "AF_INET6", mapped(BOTH).into()),
        ] {
            let mut python = here.command("python3");
            python.args(["-c", HOLD, family, &host.to_string(), "web2"]);
            held.push((what, Running::until(python, "held")?));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let deleted = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        self.api.of::<Pod>().delete("web2", &DeleteParams::default()).await?;
        self.api.no_pods("pod=web2", PATIENCE).await?;
        tokio::time::sleep(MOVED_WITHIN).await;
        for (what, mut held) in held {
            let report: HeldReport = serde_json::from_str(&held.rest()?)?;
            let gap = report.longest_gap();
            let pods: BTreeSet<&str> = report.seen.iter().map(|(_, pod)| &**pod).collect();
            let last = report.seen.last().map(|(_, pod)| &**pod);
            ensure!(pods == ["web1", "web2"].into() && last == Some("web1"), "{what}: {report:?}");
            ensure!(report.same, "{what}: the socket has another address of its own");
            ensure!(gap < MOVED_WITHIN, "{what}: {gap:?} without an answer");
            let moved = report.seen.iter().find(|(_, pod)| pod == "web1");
            println!(
                "connected UDP, {what}: {} answers, at most {:.0} ms without one, {} errors; with \
                 another pod {:.0} ms after the deletion of the first",
                report.seen.len(),
                gap.as_secs_f64() * 1000.0,
                report.errors,
                moved.map_or(f64::NAN, |(at, _)| (at - deleted) * 1000.0)
            );
        }
        Ok(())
    }
}

/// What [`HOLD`] saw: the time of each answer, in seconds, and who gave it.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct HeldReport {
    pub(crate) seen: Vec<(f64, String)>,
    errors: u32,
    /// The socket kept its own address.
    pub(crate) same: bool,
}

impl HeldReport {
    pub(crate) fn longest_gap(&self) -> Duration {
        let gaps = self.seen.windows(2).map(|pair| pair[1].0 - pair[0].0);
        Duration::from_secs_f64(gaps.fold(0.0, f64::max))
    }
}

fn addresses(pod: &Pod) -> Result<[IpAddr; 2]> {
    Ok([Family::V4.of(pod)?, Family::V6.of(pod)?])
}

async fn node_addresses(api: &Api, name: &str) -> Result<[IpAddr; 2]> {
    let node = api.of_cluster::<Node>().get(name).await?;
    let listed = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let internal = listed.iter().filter(|address| address.type_ == "InternalIP");
    let all: Vec<IpAddr> =
        internal.map(|address| address.address.parse()).collect::<Result<_, _>>()?;
    let one = |six: bool| all.iter().copied().find(|address| address.is_ipv6() == six);
    let both = one(false).zip(one(true)).with_context(|| format!("{name} has {all:?}"))?;
    Ok([both.0, both.1])
}

async fn make_pods(api: &Api) -> Result<()> {
    for (name, app, node, http, echo) in [
        ("client", "client", "node1", 9376, 7007),
        ("web1", "web", "node1", 9376, 7007),
        ("web2", "web", "node2", 9377, 7008),
        ("hosted", "hosted", "node2", 9390, 7390),
    ] {
        let (web, other) = (http.to_string(), echo.to_string());
        let pod = json!({
            "metadata": {
                "name": name,
                "labels": { "app": app, "pod": name, "stage": "clients" },
            },
            "spec": {
                "nodeName": node,
                "hostNetwork": name == "hosted",
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "web",
                    "image": "172.30.0.1:5000/workload:v1",
                    "args": ["serve", "--listen", "::", "--http", web, "--udp-echo", other,
                             "--tcp-echo", other, "--lameduck-ms", "0"],
                    "ports": [
                        { "name": "web", "containerPort": http },
                        { "name": "echo", "containerPort": echo },
                        { "name": "datagrams", "containerPort": echo, "protocol": "UDP" },
                    ],
                    "readinessProbe": { "tcpSocket": { "port": "web" }, "periodSeconds": 1 },
                }],
            },
        });
        api.of::<Pod>().create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    }
    Ok(())
}

async fn make_services(api: &Api) -> Result<()> {
    let web = || json!({ "app": "web" });
    let sticky = json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": AFFINITY.as_secs() } },
    });
    let six = json!({ "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack" });
    let iperf = ["TCP", "UDP"].map(|protocol| {
        json!({ "name": protocol.to_lowercase(), "port": 80, "targetPort": 9400,
                "protocol": protocol })
    });
    let iperf = json!({ "ports": iperf });
    for (name, last, selector, more) in [
        ("both", Some(BOTH), web(), json!({})),
        ("local", Some(LOCAL), web(), json!({ "internalTrafficPolicy": "Local" })),
        ("sticky", Some(STICKY), web(), sticky),
        ("itself", Some(ITSELF), json!({ "pod": "web1" }), json!({})),
        ("hosted", Some(HOSTED), json!({ "app": "hosted" }), json!({})),
        ("hand", Some(HAND), Value::Null, json!({})),
        ("iperf", Some(IPERF), json!({ "pod": "web2" }), iperf),
        ("six", Some(SIX), web(), six),
        ("peers", None, web(), json!({})),
    ] {
        let mut spec = json!({
            "ipFamilyPolicy": "PreferDualStack",
            "clusterIPs": ["None"],
            "selector": selector,
            "ports": [
                { "name": "web", "port": 80, "targetPort": "web" },
                { "name": "again", "port": 81, "targetPort": "web" },
                { "name": "echo", "port": 7, "targetPort": "echo" },
                { "name": "datagrams", "port": 80, "targetPort": "datagrams", "protocol": "UDP" },
            ],
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        if let Some(last) = last {
            let single = spec["ipFamilyPolicy"] == "SingleStack";
            let families = if single { &FAMILIES[1..] } else { &FAMILIES[..] };
            spec["clusterIPs"] = families.iter().map(|&family| json!(vip(family, last))).collect();
        }
        spec["clusterIP"] = spec["clusterIPs"][0].clone();
        make_service(api, name, spec).await?;
    }
    let alias = json!({ "type": "ExternalName", "externalName": "both.default.svc.cluster.local" });
    make_service(api, "alias", alias).await
}

async fn make_service(api: &Api, name: &str, spec: Value) -> Result<()> {
    let service = json!({ "metadata": { "name": name }, "spec": spec });
    let service: Service = serde_json::from_value(service)?;
    let made = api.of().create(&PostParams::default(), &service).await;
    made.with_context(|| format!("service {name}"))?;
    Ok(())
}
