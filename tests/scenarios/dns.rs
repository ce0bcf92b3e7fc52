//! The cluster's DNS as programs see it: `dig` and glibc's resolver, in a pod and on a node, with
//! real servers for the names of others, and with the API server stopped.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::api::{Api, address, node_of, uid};
use bowline_tests::command::{finish, output};
use bowline_tests::node::Paused;
use bowline_tests::{Cluster, Guest, Node, Place, Wishes};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PostParams;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const CLUSTER_DNS: &str = "10.9.0.10";
/// On every node.
const NODE_DNS: &str = "169.254.20.10";
/// Beside the bridge.
const UPSTREAM: &str = "172.30.0.1";
const STUB_PORT: u16 = 5353;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn names_as_programs_see_them() -> Result<()> {
    let mut wishes = Wishes { nodes: 2, ..Wishes::default() };
    let stub = format!("example.internal={UPSTREAM}:{STUB_PORT}");
    let flags = ["--dns-upstream", UPSTREAM, "--dns-stub-domain", &stub];
    wishes.flags.extend(flags.map(str::to_owned));
    let cluster = Cluster::up(&wishes)?;
    let others = Others::start(&cluster)?;
    let stage = Stage::prepare(cluster, others).await?;
    let played = async {
        stage.server_answers().context("the API from a pod")?;
        stage.names().context("names")?;
        stage.wire().context("the protocol")?;
        stage.resolvers().context("glibc's resolver")?;
        stage.others().context("names of others")?;
        stage.counts().context("bowline net dns")?;
        stage.each_node_itself().context("a node whose neighbour's agent stands still")?;
        stage.without_the_api().context("without the API")
    };
    let played: Result<()> = played.await;
    played.map_err(|error| stage.cluster.with_logs(error))
}

/// DNS servers of others, beside the bridge. Dropping it ends them.
struct Others {
    servers: Vec<Child>,
    logs: tempfile::TempDir,
}

impl Others {
    fn start(cluster: &Cluster) -> Result<Self> {
        let mut others = Self { servers: Vec::new(), logs: tempfile::tempdir()? };
        let many: String = (1..=120).map(|n| format!("192.0.2.{n} many.example.com\n")).collect();
        let hosts = others.logs.path().join("hosts");
        fs::write(&hosts, many)?;
        others.serve(
            cluster,
            53,
            &[
                "--host-record=www.example.com,192.0.2.1,2001:db8::1",
                "--cname=alias.example.com,www.example.com",
                "--local=/example.com/",
                "--local=/default.svc.cluster.local/",
                &format!("--addn-hosts={}", hosts.display()),
            ],
        )?;
        let stub = ["--host-record=db.example.internal,192.0.2.77", "--local=/example.internal/"];
        others.serve(cluster, STUB_PORT, &stub)?;
        Ok(others)
    }

    fn serve(&mut self, cluster: &Cluster, port: u16, flags: &[&str]) -> Result<()> {
        let log = self.log(port);
        let mut dnsmasq = cluster.bridge_place()?.command("dnsmasq");
        dnsmasq.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--user=root",
        ]);
        dnsmasq.args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--local-ttl=60"]);
        dnsmasq.arg(format!("--listen-address={UPSTREAM}")).arg(format!("--port={port}"));
        dnsmasq.arg("--log-queries").arg(format!("--log-facility={}", log.display())).args(flags);
        let mut server = dnsmasq.spawn().context("cannot start dnsmasq")?;
        let end = Instant::now() + Duration::from_secs(10);
        while !fs::read_to_string(&log).unwrap_or_default().contains("started") {
            if let Some(status) = server.try_wait()? {
                bail!("dnsmasq ended with {status}");
            }
            ensure!(Instant::now() < end, "dnsmasq has not started after 10 s");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.servers.push(server);
        Ok(())
    }

    fn log(&self, port: u16) -> PathBuf {
        self.logs.path().join(format!("{port}.log"))
    }

    /// The names that the server on this port was asked for by `client`, in lower case.
    fn asked(&self, port: u16, client: &str) -> Result<Vec<String>> {
        let log = fs::read_to_string(self.log(port))?;
        let asked = log.lines().filter(|line| line.contains("query["));
        let from = format!(" from {client}");
        let words = asked.filter(|line| line.ends_with(&from)).filter_map(|line| {
            line.split("query[").nth(1)?.split_whitespace().nth(1).map(str::to_ascii_lowercase)
        });
        Ok(words.collect())
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // It may have ended with the cluster.
            drop(server.kill());
            drop(server.wait());
        }
    }
}

/// The cluster with its services, and the places where programs ask.
struct Stage {
    // Ends before the cluster does.
    others: Others,
    cluster: Cluster,
    client: Pod,
    servers: Vec<Pod>,
    pod: Guest,
}

impl Stage {
    async fn prepare(cluster: Cluster, others: Others) -> Result<Self> {
        let made = async {
            let api = cluster.api().await?;
            cluster.apply("echo.yaml")?;
            cluster.apply("client.yaml")?;
            make_services(&api).await?;
            let servers = api.ready_pods("app=echo", 2, PATIENCE).await?;
            api.endpoints("echo", 2, PATIENCE).await?;
            api.endpoints("peers", 2, PATIENCE).await?;
            let mut clients = api.ready_pods("app=client", 1, PATIENCE).await?;
            let client = clients.pop().context("no client")?;
            let pod = Guest::of(&cluster, &client)?;
            Ok((servers, client, pod))
        };
        let made: Result<_> = made.await;
        let (servers, client, pod) = made.map_err(|error| cluster.with_logs(error))?;
        let stage = Self { others, cluster, client, servers, pod };
        stage.wait_for_dns()?;
        Ok(stage)
    }

    fn node(&self) -> Result<Place> {
        self.cluster.node(&node_of(&self.client))?.place()
    }

    /// Slices reach the node a moment after they are in the API.
    fn wait_for_dns(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        for name in ["db-0.db", "late.unready", "peers", "outside"] {
            let name = format!("{name}.default.svc.cluster.local");
            while dig(self.pod.place(), &[&name, "A"])?.records.is_empty() {
                ensure!(Instant::now() < end, "{name} is not known after a minute");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// The server of the API is one of the services, and sees the pod's own address.
    fn server_answers(&self) -> Result<()> {
        let mut curl = self.pod.command("curl");
        let said = output(curl.args(["-ksS", "--max-time", "5", "https://10.9.0.1/livez"]))?;
        ensure!(said == "ok", "the server told a pod {said}");
        Ok(())
    }

    /// Every kind of record, in the pod and on the node, over UDP and TCP.
    fn names(&self) -> Result<()> {
        let peers: Vec<String> =
            self.servers.iter().map(|pod| Ok(address(pod)?.to_string())).collect::<Result<_>>()?;
        let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
        let table: Vec<(&str, &str, &str, Vec<&str>)> = vec![
            ("echo.default.svc.cluster.local", "A", "NOERROR", vec!["10.9.8.9"]),
            ("EcHo.DEFAULT.svc.cluster.local", "A", "NOERROR", vec!["10.9.8.9"]),
            ("echo.default.svc.cluster.local", "AAAA", "NOERROR", vec![]),
            ("empty.default.svc.cluster.local", "A", "NOERROR", vec!["10.9.8.21"]),
            ("peers.default.svc.cluster.local", "A", "NOERROR", peers),
            ("db.default.svc.cluster.local", "A", "NOERROR", vec!["192.0.2.10", "192.0.2.11"]),
            ("db-0.db.default.svc.cluster.local", "A", "NOERROR", vec!["192.0.2.10"]),
            ("192-0-2-11.db.default.svc.cluster.local", "A", "NOERROR", vec!["192.0.2.11"]),
            ("db-2.db.default.svc.cluster.local", "A", "NXDOMAIN", vec![]),
            ("late.unready.default.svc.cluster.local", "A", "NOERROR", vec!["192.0.2.13"]),
            ("unready.default.svc.cluster.local", "A", "NOERROR", vec!["192.0.2.13"]),
            (
                "_sql._tcp.db.default.svc.cluster.local",
                "SRV",
                "NOERROR",
                vec![
                    "0 100 5432 192-0-2-11.db.default.svc.cluster.local.",
                    "0 100 5432 db-0.db.default.svc.cluster.local.",
                ],
            ),
            (
                "_http._tcp.echo.default.svc.cluster.local",
                "SRV",
                "NOERROR",
                vec!["0 100 80 echo.default.svc.cluster.local."],
            ),
            ("9.8.9.10.in-addr.arpa", "PTR", "NOERROR", vec!["echo.default.svc.cluster.local."]),
            (
                "10.2.0.192.in-addr.arpa",
                "PTR",
                "NOERROR",
                vec!["db-0.db.default.svc.cluster.local."],
            ),
            ("dns-version.cluster.local", "TXT", "NOERROR", vec!["\"1.1.0\""]),
            ("10-240-0-9.default.pod.cluster.local", "A", "NOERROR", vec!["10.240.0.9"]),
            ("nothing.default.svc.cluster.local", "A", "NXDOMAIN", vec![]),
            ("default.svc.cluster.local", "A", "NOERROR", vec![]),
            (
                "outside.default.svc.cluster.local",
                "A",
                "NOERROR",
                vec!["192.0.2.1", "www.example.com."],
            ),
            (
                "outside.default.svc.cluster.local",
                "AAAA",
                "NOERROR",
                vec!["2001:db8::1", "www.example.com."],
            ),
        ];
        for (place, transport) in
            [(self.pod.place(), "+notcp"), (self.pod.place(), "+tcp"), (&self.node()?, "+notcp")]
        {
            for (name, kind, status, records) in &table {
                let answer = dig(place, &[name, kind, transport])?;
                let wanted: BTreeSet<String> =
                    records.iter().map(|text| (*text).to_owned()).collect();
                ensure!(
                    answer.status == *status && answer.records == wanted,
                    "{name} {kind} {transport}: {answer:?}, not {status} {wanted:?}"
                );
                ensure!(answer.text.contains(&format!(";{name}.")), "case: {answer:?}");
                let negative = records.is_empty();
                ensure!(negative == answer.text.contains("SOA"), "{name} {kind}: {answer:?}");
            }
        }
        println!("{} names asked in 3 ways, every answer as specified", table.len());
        Ok(())
    }

    /// What the protocol asks of a server.
    fn wire(&self) -> Result<()> {
        let echo = "echo.default.svc.cluster.local";
        for (flags, expected) in [
            (&[echo, "+edns=1", "+noednsneg"][..], "status: BADVERS"),
            (&[echo, "+opcode=notify"], "status: NOTIMP"),
            (&[echo, "CH", "TXT"], "status: REFUSED"),
            (&[echo, "+header-only"], "status: FORMERR"),
            (&[echo, "ANY", "+notcp"], "HINFO"),
            (&[echo, "+ednsopt=65001:0102"], "status: NOERROR"),
            (&[echo, "+bufsize=4096"], "udp: 1232"),
            (&["cluster.local", "AXFR", "+noall", "+comments"], "Transfer failed"),
        ] {
            let text = dig(self.pod.place(), flags)?.text;
            ensure!(text.contains(expected), "{flags:?}: no {expected} in {text}");
        }
        let cut = dig(self.pod.place(), &["many.example.com", "+ignore", "+noedns"])?;
        ensure!(cut.text.contains("flags: qr tc"), "{cut:?}");
        ensure!((1..120).contains(&cut.records.len()), "{} records", cut.records.len());
        let whole = dig(self.pod.place(), &["many.example.com"])?;
        ensure!(whole.text.contains("Truncated, retrying in TCP mode"), "{whole:?}");
        ensure!(whole.records.len() == 120, "{} records", whole.records.len());
        let kept = dig(self.pod.place(), &["+tcp", "+keepopen", echo, "many.example.com"])?;
        ensure!(kept.records.len() == 121, "{} records over one connection", kept.records.len());
        Ok(())
    }

    /// glibc's getaddrinfo and getnameinfo, with the pod's own resolv.conf: search path and ndots.
    fn resolvers(&self) -> Result<()> {
        let text = self.pod.resolv_conf()?;
        let search = "search default.svc.cluster.local svc.cluster.local cluster.local";
        ensure!(text.starts_with(&format!("nameserver {CLUSTER_DNS}\n{search}")), "{text}");
        ensure!(text.contains("ndots:5"), "{text}");
        for place in [self.pod.place(), &self.node()?] {
            for (database, name, expected) in [
                ("ahosts", "echo", "10.9.8.9"),
                ("ahosts", "echo.default", "10.9.8.9"),
                ("ahosts", "echo.default.svc", "10.9.8.9"),
                ("ahosts", "echo.default.svc.cluster.local", "10.9.8.9"),
                ("ahosts", "echo.default.svc.cluster.local.", "10.9.8.9"),
                ("ahosts", "db-0.db", "192.0.2.10"),
                ("ahosts", "www.example.com", "192.0.2.1"),
                ("ahosts", "outside", "192.0.2.1"),
                ("ahosts", "alias.example.com", "192.0.2.1"),
                ("ahosts", "db.example.internal", "192.0.2.77"),
                ("hosts", "10.9.8.9", "echo.default.svc.cluster.local"),
            ] {
                let said = self.getent(place, database, name)?;
                ensure!(said.contains(expected), "{database} {name}: {said:?}, not {expected}");
            }
            let many = self.getent(place, "ahosts", "many.example.com")?;
            ensure!(many.matches("STREAM").count() == 120, "many.example.com: {many}");
            let none = self.getent(place, "ahosts", "nothing.default")?;
            ensure!(none.is_empty(), "{none}");
        }
        Ok(())
    }

    fn getent(&self, place: &Place, database: &str, name: &str) -> Result<String> {
        let mut command = self.pod.command_at(place, "getent");
        Ok(String::from_utf8(finish(command.args([database, name]))?.stdout)?)
    }

    /// Names of others are asked for once, and those of the cluster never.
    fn others(&self) -> Result<()> {
        let node = self.cluster.node(&node_of(&self.client))?;
        let own = output(
            node.place()?.command("ip").args(["-4", "-o", "addr", "show", "scope", "global"]),
        )?;
        let own = own
            .split_whitespace()
            .find_map(|word| word.split_once('/').map(|(address, _)| address))
            .context("the node has no address")?;
        let before = self.others.asked(53, own)?;
        let fresh = "fresh.example.com";
        for _ in 0..3 {
            let gone = dig(self.pod.place(), &[fresh, "A"])?;
            ensure!(gone.status == "NXDOMAIN", "{gone:?}");
        }
        let first = dig(self.pod.place(), &["www.example.com", "A"])?;
        std::thread::sleep(Duration::from_millis(1100));
        let second = dig(self.pod.place(), &["www.example.com", "A"])?;
        ensure!(second.ttl()? < first.ttl()?, "{first:?} {second:?}");
        ensure!(second.ttl()? <= 60, "{second:?}");
        let asked = self.others.asked(53, own)?;
        let www = asked.iter().filter(|name| *name == "www.example.com").count();
        // A and AAAA, each by itself and as the target of an alias, are two questions.
        ensure!(www == 2, "www.example.com was asked for {www} times");
        ensure!(asked.len() > before.len(), "{fresh} was not asked for");
        for port in [53, STUB_PORT] {
            let asked = self.others.asked(port, own)?;
            let leaked = asked.iter().find(|name| name.ends_with("cluster.local"));
            ensure!(leaked.is_none(), "{leaked:?} left the node");
            let of_stub = asked.iter().filter(|name| name.ends_with("example.internal")).count();
            ensure!((of_stub > 0) == (port == STUB_PORT), "port {port}: {asked:?}");
        }
        Ok(())
    }

    /// What was asked is counted.
    fn counts(&self) -> Result<()> {
        let name = node_of(&self.client);
        let arguments = ["net", "dns", "--name", &self.cluster.name, "--node", &name, "-o", "json"];
        std::thread::sleep(Duration::from_millis(1500));
        let said = output(&mut self.cluster.bowline(&arguments)?)?;
        let said: Value = serde_json::from_str(&said)?;
        let count = |name: &str| {
            let rows = said["counts"].as_array().cloned().unwrap_or_default();
            let row = rows.iter().find(|row| row["name"] == name).cloned();
            row.and_then(|row| row["count"].as_u64()).with_context(|| format!("{name}: {said}"))
        };
        for name in [
            "questions over UDP",
            "questions over TCP",
            "answers NOERROR",
            "answers NXDOMAIN",
            "answers BADVERS",
            "answers truncated",
            "cache hits",
            "cache misses, forwarded",
            &format!("server {UPSTREAM}:53 of . asked"),
        ] {
            ensure!(count(name)? > 0, "{name} is zero: {said}");
        }
        ensure!(count("questions to upstream servers refused")? == 0, "{said}");
        let table = output(&mut self.cluster.bowline(&arguments[..6])?)?;
        ensure!(table.contains("--dns-forwards"), "{table}");
        println!("{table}");
        Ok(())
    }

    /// While one agent stands still, the other node's clients are answered and its own are not.
    fn each_node_itself(&self) -> Result<()> {
        let client = node_of(&self.client);
        let guests = [self.pod.place().clone(), self.other_pod(&client)?];
        let (first, second) = (self.cluster.node(&client)?, self.other_node(&client)?);
        for (still, asked, guest) in [(first, second, 1), (second, first, 0)] {
            let agent = Paused::pause(still.agent_pid()?)?;
            for place in [&asked.place()?, &guests[guest]] {
                for (server, transport) in
                    [(CLUSTER_DNS, "+notcp"), (CLUSTER_DNS, "+tcp"), (NODE_DNS, "+notcp")]
                {
                    let flags = ["echo.default.svc.cluster.local", "A", transport, "+time=2"];
                    let answer = dig_at(place, &format!("@{server}"), &flags)
                        .with_context(|| format!("{} by {server} {transport}", asked.name))?;
                    ensure!(answer.records == ["10.9.8.9".to_owned()].into(), "{answer:?}");
                }
            }
            let flags = ["echo.default.svc.cluster.local", "A", "+time=1"];
            let nobody = dig_at(&still.place()?, &format!("@{CLUSTER_DNS}"), &flags);
            ensure!(nobody.is_err(), "{}'s agent stands still, and says {nobody:?}", still.name);
            drop(agent);
        }
        println!("each node answers by itself while the other one's agent stands still");
        Ok(())
    }

    fn other_node(&self, than: &str) -> Result<&Node> {
        let other = self.cluster.nodes.iter().find(|node| node.name != than);
        other.context("there is no other node")
    }

    /// Inside a pod that is not on this node.
    fn other_pod(&self, node: &str) -> Result<Place> {
        let other = self.servers.iter().find(|pod| node_of(pod) != node);
        let other = other.context("no server runs on the other node")?;
        self.cluster.node(&node_of(other))?.pod_network_in_cgroup(&uid(other))
    }

    /// Answers keep coming while the server is stopped; an agent that starts meanwhile denies no
    /// name that it has not heard of.
    fn without_the_api(&self) -> Result<()> {
        let node = self.cluster.node(&node_of(&self.client))?;
        let memory = node.agent_memory()?;
        println!("agent: {memory:?}");
        let echo = "echo.default.svc.cluster.local";
        let stopped = Paused::pause(self.cluster.server_pid()?)?;
        for name in [echo, "peers.default.svc.cluster.local", "www.example.com"] {
            let answer = dig(self.pod.place(), &[name, "A"])?;
            ensure!(!answer.records.is_empty(), "{name}: {answer:?}");
        }
        node.kill_agent()?;
        node.start_agent()?;
        let end = Instant::now() + Duration::from_secs(20);
        let node_dns = format!("@{NODE_DNS}");
        let others = loop {
            let answer = dig_at(&node.place()?, &node_dns, &["www.example.com", "A"]);
            match answer {
                Ok(answer) if !answer.records.is_empty() => break answer,
                other => ensure!(Instant::now() < end, "no DNS of the new agent: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        ensure!(others.status == "NOERROR", "{others:?}");
        let ours = dig(self.pod.place(), &[echo, "A"])?;
        ensure!(ours.records.contains("10.9.8.9"), "a new agent without the API says {ours:?}");
        drop(stopped);
        let end = Instant::now() + PATIENCE;
        while !dig(self.pod.place(), &[echo, "A"])?.records.contains("10.9.8.9") {
            ensure!(Instant::now() < end, "no answer after the API came back");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

async fn make_services(api: &Api) -> Result<()> {
    let none = json!("None");
    for (name, spec) in [
        ("empty", json!({ "clusterIP": "10.9.8.21", "ports": [{ "port": 80 }] })),
        ("peers", json!({ "clusterIP": none, "selector": { "app": "echo" } })),
        ("db", json!({ "clusterIP": none, "ports": [{ "name": "sql", "port": 5432 }] })),
        ("unready", json!({ "clusterIP": none, "publishNotReadyAddresses": true })),
        ("outside", json!({ "type": "ExternalName", "externalName": "www.example.com" })),
    ] {
        let service = json!({ "metadata": { "name": name }, "spec": spec });
        api.of::<Service>()
            .create(&PostParams::default(), &serde_json::from_value(service)?)
            .await?;
    }
    let endpoint = |address: &str, hostname: Value, ready: bool| {
        let conditions = json!({ "ready": ready });
        json!({ "addresses": [address], "hostname": hostname, "conditions": conditions })
    };
    for (owner, endpoints) in [
        (
            "db",
            vec![
                endpoint("192.0.2.10", json!("db-0"), true),
                endpoint("192.0.2.11", Value::Null, true),
                endpoint("192.0.2.12", json!("db-2"), false),
            ],
        ),
        ("unready", vec![endpoint("192.0.2.13", json!("late"), false)]),
    ] {
        let slice = json!({
            "metadata": {
                "name": format!("{owner}-hand-made"),
                "labels": { "kubernetes.io/service-name": owner },
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{ "name": "sql", "port": 5432, "protocol": "TCP" }],
        });
        let slice: EndpointSlice = serde_json::from_value(slice)?;
        api.of::<EndpointSlice>().create(&PostParams::default(), &slice).await?;
    }
    Ok(())
}

/// What dig printed.
#[derive(Debug)]
struct Dug {
    /// NOERROR, NXDOMAIN and so on; of several the last.
    status: String,
    /// The data of the records in the answer sections.
    records: BTreeSet<String>,
    text: String,
}

impl Dug {
    /// The first record's time to live.
    fn ttl(&self) -> Result<u32> {
        let first =
            self.text.lines().find(|line| line.contains("\tIN\t") && !line.starts_with(';'));
        let word = first.and_then(|line| line.split_whitespace().nth(1));
        Ok(word.with_context(|| format!("no record in {}", self.text))?.parse()?)
    }
}

fn dig(place: &Place, flags: &[&str]) -> Result<Dug> {
    dig_at(place, &format!("@{CLUSTER_DNS}"), flags)
}

fn dig_at(place: &Place, server: &str, flags: &[&str]) -> Result<Dug> {
    let mut command = place.command(Path::new("dig"));
    let all = ["-r", server, "+time=6", "+tries=1", "+nocookie"];
    let text = String::from_utf8(finish(command.args(all).args(flags))?.stdout)?;
    let status = text.rsplit("status: ").next().and_then(|rest| rest.split(',').next());
    let mut records = BTreeSet::new();
    let mut in_answer = false;
    for line in text.lines() {
        if line.starts_with(";;") || line.is_empty() {
            in_answer = line.starts_with(";; ANSWER SECTION");
        } else if in_answer {
            let mut words = line.split_whitespace().skip(4);
            let data: Vec<&str> = words.by_ref().collect();
            records.insert(data.join(" "));
        }
    }
    ensure!(!text.contains("no servers could be reached"), "{flags:?}: {text}");
    Ok(Dug { status: status.unwrap_or_default().to_owned(), records, text })
}
