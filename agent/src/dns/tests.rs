//! The server over real sockets, on loopback, and the answerer with any bytes.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Mutex, time::Instant};

use hickory_proto::{
    op::{Edns, Message, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, CNAME, SOA, opt::EdnsOption},
    },
};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::{api::ObjectMeta, runtime::watcher::Event};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use super::*;

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        labels: Some([("kubernetes.io/service-name".to_owned(), "many".to_owned())].into()),
        ..Default::default()
    }
}

fn service(name: &str, spec: ServiceSpec) -> Event<Service> {
    Event::Apply(Service { metadata: meta(name), spec: Some(spec), status: None })
}

fn stands_for(target: &str) -> ServiceSpec {
    ServiceSpec {
        type_: Some("ExternalName".to_owned()),
        external_name: Some(target.to_owned()),
        ..Default::default()
    }
}

/// A cluster with one service, `one`, a headless one, `many`, of a hundred endpoints, and aliases.
fn cluster() -> Arc<Watched> {
    let watched = Watched::empty();
    for (name, address) in [("one", "10.9.8.7"), ("many", "None")] {
        let spec = ServiceSpec { cluster_ip: Some(address.to_owned()), ..Default::default() };
        watched.services.take_service(service(name, spec));
    }
    for (name, target) in [
        ("outside", "www.example.com"),
        ("inside", "one.default.svc.cluster.local"),
        ("nowhere", "gone.default.svc.cluster.local"),
        ("circle", "circle.default.svc.cluster.local"),
    ] {
        watched.services.take_service(service(name, stands_for(target)));
    }
    let endpoint =
        |number| Endpoint { addresses: vec![format!("10.240.1.{number}")], ..Default::default() };
    let slice = EndpointSlice {
        metadata: meta("many-1"),
        address_type: "IPv4".to_owned(),
        endpoints: Some((1..=100).map(endpoint).collect()),
        ports: None,
    };
    watched.services.take_slice(Event::Apply(slice));
    Arc::new(watched)
}

/// A server and what it counts.
struct Running {
    address: SocketAddr,
    dns: Dns,
    shutdown: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Running {
    async fn start(options: DnsOptions) -> Self {
        Self::with(cluster(), options).await
    }

    async fn with(watched: Arc<Watched>, options: DnsOptions) -> Self {
        let dns = Dns::new("cluster.local", watched, &options).unwrap();
        // The port that is free for UDP may be another test's for TCP.
        let mut server = Err(String::new());
        for _ in 0..20 {
            let bound = DnsServer::bind(dns.clone(), Ipv4Addr::LOCALHOST.into(), 0).await;
            server = bound.map_err(|error| error.to_string());
            if server.is_ok() {
                break;
            }
        }
        let server = server.unwrap();
        let address = server.udp.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(server.serve(shutdown.clone()));
        Self { address, dns, shutdown }
    }

    async fn datagram(&self, question: &[u8]) -> Message {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.send_to(question, self.address).await.unwrap();
        let mut buffer = [0; 4096];
        let received = timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await;
        let length = received.unwrap().unwrap();
        assert!(length <= usize::from(message::MAX_DATAGRAM));
        Message::from_vec(&buffer[..length]).unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn stream(&self, question: &[u8]) -> Message {
        let mut stream = self.connect().await;
        send(&mut stream, question).await;
        receive(&mut stream).await
    }

    async fn name(&self, name: &str, record_type: RecordType) -> Message {
        self.datagram(&question(name, record_type, true)).await
    }

    fn count(&self, name: &str) -> u64 {
        let figures = self.dns.answerer.counts();
        let found = figures.counts.iter().find(|row| row.name == name);
        found.unwrap_or_else(|| panic!("{name} is not counted: {figures:?}")).count
    }
}

async fn send(stream: &mut TcpStream, question: &[u8]) {
    let length = u16::try_from(question.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], question].concat()).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> Message {
    let length = timeout(Duration::from_secs(5), stream.read_u16()).await.unwrap().unwrap();
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn question(name: &str, record_type: RecordType, edns: bool) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

/// A server of somebody else: each name gets the same records, and the questions are remembered.
struct Upstream {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    /// Answers after `delay`. `None` leaves a question without an answer.
    async fn start(
        delay: Duration,
        answer: impl Fn(&Query, &mut Message) -> Option<()> + Send + Sync + 'static,
    ) -> Self {
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (asked.clone(), Arc::new(answer));
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                let query = asked.queries[0].clone();
                seen.lock().unwrap().push(query.name().to_string());
                let mut message = Message::response(asked.metadata.id, OpCode::Query);
                message.metadata = Metadata::response_from_request(&asked.metadata);
                message.add_query(query.clone());
                if answer(&query, &mut message).is_none() {
                    continue;
                }
                let socket = socket.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    socket.send_to(&message.to_vec().unwrap(), client).await.unwrap();
                });
            }
        });
        Self { address, asked }
    }

    async fn quick(
        answer: impl Fn(&Query, &mut Message) -> Option<()> + Send + Sync + 'static,
    ) -> Self {
        Self::start(Duration::ZERO, answer).await
    }

    /// Lower case: letters come in random case.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|name| name.to_ascii_lowercase()).collect()
    }

    fn options(&self) -> DnsOptions {
        DnsOptions { upstream: vec![DnsUpstream(self.address)], ..DnsOptions::default() }
    }
}

fn address(query: &Query, message: &mut Message, ttl: u32) -> Option<()> {
    let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 1)));
    message.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
    Some(())
}

fn no_such_name(query: &Query, message: &mut Message, negative_ttl: u32) -> Option<()> {
    let zone = query.name().base_name();
    let below = Name::from_ascii("ns.example.com.").unwrap();
    let data = RData::SOA(SOA::new(below.clone(), below, 1, 2, 3, 4, negative_ttl));
    message.metadata.response_code = ResponseCode::NXDomain;
    message.add_authority(Record::from_rdata(zone, 3600, data));
    Some(())
}

fn reason(answer: &Message) -> String {
    let edns = answer.edns.as_ref().expect("an answer with EDNS");
    let options: Vec<&EdnsOption> = edns.options().as_ref().iter().map(|(_, it)| it).collect();
    match options[..] {
        [EdnsOption::Unknown(15, data)] => String::from_utf8_lossy(&data[2..]).into_owned(),
        _ => panic!("no reason in {options:?}"),
    }
}

#[tokio::test]
async fn answers_over_udp_and_tcp() {
    let server = Running::start(DnsOptions::default()).await;
    let asked = question("ONE.default.svc.Cluster.local.", RecordType::A, true);
    for answer in [server.datagram(&asked).await, server.stream(&asked).await] {
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.authoritative && !answer.metadata.recursion_available);
        assert_eq!(answer.queries[0].name().to_string(), "ONE.default.svc.Cluster.local.");
        assert_eq!(answer.answers.len(), 1);
        assert_eq!(answer.answers[0].data, RData::A("10.9.8.7".parse().unwrap()));
        assert!(answer.edns.is_some());
    }
    assert_eq!(server.count("questions over UDP"), 1);
    assert_eq!(server.count("questions over TCP"), 1);
    assert_eq!(server.count("answers NOERROR"), 2);
}

#[tokio::test]
async fn what_does_not_fit_is_marked_and_given_whole_over_tcp() {
    let server = Running::start(DnsOptions::default()).await;
    for edns in [false, true] {
        let asked = question("many.default.svc.cluster.local.", RecordType::A, edns);
        let cut = server.datagram(&asked).await;
        assert!(cut.metadata.truncation);
        assert!((20..100).contains(&cut.answers.len()), "{}", cut.answers.len());
        assert_eq!(cut.edns.is_some(), edns, "OPT is in a cut answer too");
        let whole = server.stream(&asked).await;
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 100);
    }
    assert_eq!(server.count("answers truncated"), 2);
}

#[tokio::test]
async fn every_address_comes_first_at_some_time() {
    let server = Running::start(DnsOptions::default()).await;
    let mut first = BTreeMap::new();
    for _ in 0..400 {
        let answer = server.name("many.default.svc.cluster.local.", RecordType::A).await;
        *first.entry(answer.answers[0].data.to_string()).or_insert(0) += 1;
    }
    // 400 draws of 100: about 98 are drawn; fewer than 80 would be no even draw.
    assert!(first.len() > 80, "{first:?}");
}

#[tokio::test]
async fn says_no_in_the_right_way() {
    let server = Running::start(DnsOptions::default()).await;
    let missing = server.name("x.default.svc.cluster.local.", RecordType::A).await;
    let nothing = server.name("one.default.svc.cluster.local.", RecordType::AAAA).await;
    for (answer, code) in [(missing, ResponseCode::NXDomain), (nothing, ResponseCode::NoError)] {
        assert_eq!(answer.metadata.response_code, code);
        assert!(answer.answers.is_empty() && answer.metadata.authoritative);
        let RData::SOA(soa) = &answer.authorities[0].data else { panic!("{answer}") };
        assert_eq!((soa.minimum, answer.authorities[0].ttl), (5, 5));
    }
    let foreign = server.name("example.com.", RecordType::A).await;
    assert_eq!(foreign.metadata.response_code, ResponseCode::Refused);
    assert!(reason(&foreign).contains("--dns-upstream"));
    let any = server.name("one.default.svc.cluster.local.", RecordType::ANY).await;
    assert_eq!(any.answers.len(), 1);
    assert_eq!(any.answers[0].record_type(), RecordType::HINFO);
    for name in ["one.default.svc.cluster.local.", "cluster.local."] {
        let transfer = server.name(name, RecordType::AXFR).await;
        assert_eq!(transfer.metadata.response_code, ResponseCode::Refused);
    }
}

#[tokio::test]
async fn messages_that_are_no_questions_of_ours() {
    let server = Running::start(DnsOptions::default()).await;
    let name = "one.default.svc.cluster.local.";
    let plain = question(name, RecordType::A, true);
    let change = |change: &dyn Fn(&mut Message)| {
        let mut message = Message::from_vec(&plain).unwrap();
        change(&mut message);
        message.to_vec().unwrap()
    };
    let cut = plain[..plain.len() - 20].to_vec();
    let table = [
        (change(&|m| m.metadata.op_code = OpCode::Notify), ResponseCode::NotImp),
        (change(&|m| m.metadata.op_code = OpCode::Unknown(11)), ResponseCode::NotImp),
        (change(&|m| m.queries.push(Query::new())), ResponseCode::FormErr),
        (change(&|m| m.queries.clear()), ResponseCode::FormErr),
        (change(&|m| m.queries[0].query_class = DNSClass::CH), ResponseCode::Refused),
        (change(&|m| m.queries[0].query_type = RecordType::OPT), ResponseCode::FormErr),
        (cut, ResponseCode::FormErr),
        (plain[..12].to_vec(), ResponseCode::FormErr),
    ];
    for (bytes, code) in table {
        let answer = server.datagram(&bytes).await;
        assert_eq!(answer.metadata.response_code, code, "{bytes:?}");
        assert_eq!(answer.metadata.id.to_be_bytes(), bytes[..2]);
        assert!(answer.answers.is_empty());
    }
    let newer = change(&|m| {
        m.edns.as_mut().unwrap().set_version(1);
    });
    let answer = server.datagram(&newer).await;
    assert_eq!(u16::from(answer.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!(answer.edns.unwrap().version(), 0);
    let option = EdnsOption::Unknown(65_001, vec![1, 2, 3]);
    let known = change(&|m| m.edns.as_mut().unwrap().options_mut().insert(option.clone()));
    let answer = server.datagram(&known).await;
    assert_eq!(answer.answers.len(), 1, "an unknown option changes nothing");
    assert!(answer.edns.unwrap().options().as_ref().is_empty(), "and does not come back");

    // Answers and fragments of a header are not answered, and the server lives on.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(&[0xff; 40], server.address).await.unwrap();
    socket.send_to(&plain[..11], server.address).await.unwrap();
    assert_eq!(server.datagram(&plain).await.answers.len(), 1);
    assert_eq!(server.count("no question, ignored"), 2);
}

#[tokio::test]
async fn before_the_services_are_known_nothing_is_denied() {
    let watched = Arc::new(Watched::empty());
    let server = Running::with(watched.clone(), DnsOptions::default()).await;
    let name = "one.default.svc.cluster.local.";
    let early = server.name(name, RecordType::A).await;
    assert_eq!(early.metadata.response_code, ResponseCode::ServFail);
    assert!(reason(&early).contains("not known yet"));
    let reversed = server.name("7.8.9.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(reversed.metadata.response_code, ResponseCode::ServFail);
    assert!(reason(&reversed).contains("not known yet"), "nobody else is asked");
    let spec = ServiceSpec { cluster_ip: Some("10.9.8.7".to_owned()), ..Default::default() };
    watched.services.take_service(service("one", spec));
    assert_eq!(server.name(name, RecordType::A).await.answers.len(), 1, "what is known is said");
    let other = server.name("two.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(other.metadata.response_code, ResponseCode::ServFail);
    watched.services.take_slice(Event::InitDone);
    let other = server.name("two.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(other.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn other_names_go_upstream_only() {
    let upstream = Upstream::quick(|_, message| {
        message.metadata.response_code = ResponseCode::NotAuth;
        Some(())
    });
    let upstream = upstream.await;
    let server = Running::start(upstream.options()).await;
    let answer = server.name("example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NotAuth);
    assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
    let any = server.name("example.com.", RecordType::ANY).await;
    assert_eq!(any.answers[0].record_type(), RecordType::HINFO);
    server.name("gone.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(upstream.asked(), ["example.com."]);
}

#[tokio::test]
async fn answers_are_kept_and_counted_down() {
    let upstream = Upstream::quick(|query, message| {
        if query.name().to_string().to_ascii_lowercase().starts_with("www.") {
            address(query, message, 30)
        } else {
            no_such_name(query, message, 20)
        }
    });
    let upstream = upstream.await;
    let server = Running::start(upstream.options()).await;
    for round in 0..3 {
        let found = server.name("wWw.example.COM.", RecordType::A).await;
        assert_eq!(found.answers[0].name.to_string(), "wWw.example.COM.");
        let missing = server.name("gone.example.com.", RecordType::A).await;
        assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
        let (ttl, negative) = (found.answers[0].ttl, missing.authorities[0].ttl);
        match round {
            0 => assert_eq!(ttl, 30),
            _ => assert!((20..30).contains(&ttl), "{ttl}"),
        }
        assert!(negative <= 3600 && (round == 0 || negative < 3600), "{negative}");
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    assert_eq!(upstream.asked(), ["www.example.com.", "gone.example.com."]);
    assert_eq!(server.count("cache hits"), 4);
    assert_eq!(server.count("cache misses, forwarded"), 2);
}

#[tokio::test]
async fn the_cache_is_bounded_and_lets_go() {
    let upstream = Upstream::quick(|query, message| address(query, message, 1)).await;
    let none = DnsOptions { cache_size: 0, ..upstream.options() };
    for (options, asked) in [(upstream.options(), 2), (none, 2 + 3)] {
        let server = Running::start(options).await;
        for pause in [0, 0, 1100] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            server.name("www.example.com.", RecordType::A).await;
        }
        assert_eq!(upstream.asked().len(), asked);
    }
}

#[tokio::test]
async fn the_same_questions_at_one_time_are_one() {
    let answer = |query: &Query, message: &mut Message| address(query, message, 60);
    let upstream = Upstream::start(Duration::from_millis(50), answer).await;
    let server = Running::start(upstream.options()).await;
    let all = (0..40).map(|_| server.name("www.example.com.", RecordType::A));
    for answer in futures::future::join_all(all).await {
        assert_eq!(answer.answers.len(), 1);
    }
    assert_eq!(upstream.asked().len(), 1);
}

#[tokio::test]
async fn a_dead_server_is_passed_by() {
    // Nothing answers on the first: the socket is never read.
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let failing = Upstream::quick(|_, message| {
        message.metadata.response_code = ResponseCode::ServFail;
        Some(())
    });
    let failing = failing.await;
    let good = Upstream::quick(|query, message| address(query, message, 0)).await;
    let servers = [silent.local_addr().unwrap(), failing.address, good.address];
    let options =
        DnsOptions { upstream: servers.map(DnsUpstream).to_vec(), ..DnsOptions::default() };
    let server = Running::start(options).await;
    let start = Instant::now();
    assert_eq!(server.name("a.example.com.", RecordType::A).await.answers.len(), 1);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let start = Instant::now();
    for name in ["b.example.com.", "c.example.com."] {
        assert_eq!(server.name(name, RecordType::A).await.answers.len(), 1);
    }
    assert!(start.elapsed() < Duration::from_millis(500), "it is not asked again at once");
    let failed = format!("server {} of . failed", servers[0]);
    assert_eq!(server.count(&failed), 1);
}

#[tokio::test]
async fn without_any_server_there_is_an_answer_in_time() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = silent.local_addr().unwrap();
    let options = DnsOptions { upstream: vec![DnsUpstream(server)], ..DnsOptions::default() };
    let server = Running::start(options).await;
    let start = Instant::now();
    let answer = server.name("a.example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(reason(&answer).contains("no upstream"), "{}", reason(&answer));
    assert!(start.elapsed() < Duration::from_millis(4500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn stub_domains_have_servers_of_their_own() {
    let everything = Upstream::quick(|query, message| address(query, message, 60)).await;
    let stub = Upstream::quick(|query, message| address(query, message, 60)).await;
    let deeper = Upstream::quick(|query, message| address(query, message, 60)).await;
    let domain = |domain: &str, of: &Upstream| format!("{domain}={}", of.address).parse().unwrap();
    let options = DnsOptions {
        stub_domains: vec![
            domain("example.internal", &stub),
            domain("a.example.internal", &deeper),
            domain("2.0.192.in-addr.arpa", &stub),
        ],
        ..everything.options()
    };
    let server = Running::start(options).await;
    for name in [
        "x.example.internal.",
        "example.internal.",
        "x.a.example.internal.",
        "notexample.internal.",
        "1.2.0.192.in-addr.arpa.",
    ] {
        server.name(name, RecordType::A).await;
    }
    assert_eq!(
        stub.asked(),
        ["x.example.internal.", "example.internal.", "1.2.0.192.in-addr.arpa."]
    );
    assert_eq!(deeper.asked(), ["x.a.example.internal."]);
    assert_eq!(everything.asked(), ["notexample.internal."]);
}

#[tokio::test]
async fn aliases_are_followed() {
    let upstream = Upstream::quick(|query, message| {
        let real = Name::from_ascii("real.example.com.").unwrap();
        let alias = RData::CNAME(CNAME(real.clone()));
        message.add_answer(Record::from_rdata(query.name().clone(), 60, alias));
        let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 1)));
        message.add_answer(Record::from_rdata(real, 60, data));
        Some(())
    });
    let upstream = upstream.await;
    let server = Running::start(upstream.options()).await;
    let table: [(&str, RecordType, ResponseCode, &[&str]); 6] = [
        (
            "outside",
            RecordType::A,
            ResponseCode::NoError,
            &["www.example.com.", "real.example.com.", "192.0.2.1"],
        ),
        ("outside", RecordType::CNAME, ResponseCode::NoError, &["www.example.com."]),
        (
            "inside",
            RecordType::A,
            ResponseCode::NoError,
            &["one.default.svc.cluster.local.", "10.9.8.7"],
        ),
        ("inside", RecordType::AAAA, ResponseCode::NoError, &["one.default.svc.cluster.local."]),
        ("nowhere", RecordType::A, ResponseCode::NXDomain, &["gone.default.svc.cluster.local."]),
        ("circle", RecordType::A, ResponseCode::ServFail, &[]),
    ];
    for (name, record_type, code, expected) in table {
        let answer = server.name(&format!("{name}.default.svc.cluster.local."), record_type).await;
        let said: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(said, expected, "{name} {record_type}");
        assert_eq!(answer.metadata.response_code, code, "{name} {record_type}");
    }
    let alone = Running::start(DnsOptions::default()).await;
    let answer = alone.name("outside.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(answer.answers.len(), 1, "without anybody to ask the alias alone is the answer");
}

#[tokio::test]
async fn tcp_clients_need_not_wait_for_one_answer_to_ask_again() {
    let slow = |query: &Query, message: &mut Message| address(query, message, 60);
    let upstream = Upstream::start(Duration::from_millis(200), slow).await;
    let server = Running::start(upstream.options()).await;
    let mut stream = server.connect().await;
    send(&mut stream, &question("slow.example.com.", RecordType::A, true)).await;
    for _ in 0..3 {
        send(&mut stream, &question("one.default.svc.cluster.local.", RecordType::A, true)).await;
    }
    let mut names = Vec::new();
    for _ in 0..4 {
        names.push(receive(&mut stream).await.queries[0].name().to_string());
    }
    assert_eq!(names[3], "slow.example.com.", "{names:?}");
}

#[tokio::test]
async fn limits_turn_away_and_say_so() {
    let slow = |query: &Query, message: &mut Message| address(query, message, 60);
    let upstream = Upstream::start(Duration::from_millis(300), slow).await;
    let options = DnsOptions {
        forwards: 2,
        tcp_clients: 1,
        tcp_idle: Duration::from_millis(400),
        ..upstream.options()
    };
    let server = Running::start(options).await;
    let names = ["a.example.com.", "b.example.com.", "c.example.com."];
    let all = names.map(|name| server.name(name, RecordType::A));
    let answers = futures::future::join_all(all).await;
    let refused: Vec<&Message> =
        answers.iter().filter(|a| a.metadata.response_code == ResponseCode::ServFail).collect();
    assert_eq!(refused.len(), 1);
    assert!(reason(refused[0]).contains("--dns-forwards"), "{}", reason(refused[0]));
    assert_eq!(server.count("questions to upstream servers refused"), 1);

    let asked = question("one.default.svc.cluster.local.", RecordType::A, true);
    let mut first = server.connect().await;
    send(&mut first, &asked).await;
    receive(&mut first).await;
    assert_eq!(server.count("TCP connections now"), 1);
    let mut second = server.connect().await;
    drop(second.write_all(&asked).await);
    assert!(second.read_u8().await.is_err(), "the second is closed");
    assert_eq!(server.count("TCP connections refused"), 1);
    let start = Instant::now();
    assert!(first.read_u8().await.is_err(), "the first is closed once it is silent for too long");
    assert!(start.elapsed() > Duration::from_millis(200), "{:?}", start.elapsed());
    assert_eq!(server.count("TCP connections closed as idle"), 1);
    assert_eq!(server.stream(&asked).await.answers.len(), 1, "and its place is free again");
}

#[tokio::test]
async fn one_client_does_not_starve_another() {
    let slow = |query: &Query, message: &mut Message| address(query, message, 60);
    let upstream = Upstream::start(Duration::from_millis(500), slow).await;
    let options = DnsOptions { client_rate: 20, client_places: 1, ..upstream.options() };
    let server = Running::start(options).await;
    let (greedy, modest) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let at = server.address;
    let ask = async |client: Ipv4Addr, name: &str| {
        let socket = UdpSocket::bind((client, 0)).await.unwrap();
        socket.send_to(&question(name, RecordType::A, true), at).await.unwrap();
        let mut buffer = [0; 4096];
        let received = timeout(Duration::from_millis(900), socket.recv(&mut buffer)).await;
        received.ok().map(|length| Message::from_vec(&buffer[..length.unwrap()]).unwrap())
    };
    let (first, second, other) = tokio::join!(
        ask(greedy, "a.example.com."),
        ask(greedy, "b.example.com."),
        ask(modest, "c.example.com."),
    );
    let (first, second, other) = (first.unwrap(), second.unwrap(), other.unwrap());
    assert_eq!(first.answers.len() + second.answers.len(), 1);
    let refused = if first.answers.is_empty() { first } else { second };
    assert!(reason(&refused).contains("--dns-client-places"), "{}", reason(&refused));
    assert_eq!(other.answers.len(), 1);
    assert_eq!(server.count("questions to upstream servers of one client refused"), 1);

    let name = "one.default.svc.cluster.local.";
    let flood = UdpSocket::bind((greedy, 0)).await.unwrap();
    for _ in 0..100 {
        flood.send_to(&question(name, RecordType::A, true), at).await.unwrap();
    }
    assert_eq!(ask(modest, name).await.unwrap().answers.len(), 1);
    let dropped = server.count("questions of one client refused");
    assert!((60..100).contains(&dropped), "{dropped} of 100 questions were dropped");

    let held = TcpSocket::new_v4().unwrap();
    held.bind((greedy, 0).into()).unwrap();
    let held = held.connect(at).await.unwrap();
    let more = TcpSocket::new_v4().unwrap();
    more.bind((greedy, 0).into()).unwrap();
    assert!(more.connect(at).await.unwrap().read_u8().await.is_err(), "the second is closed");
    assert_eq!(server.count("TCP connections of one client refused"), 1);
    let asked = question(name, RecordType::A, true);
    assert_eq!(server.stream(&asked).await.answers.len(), 1);
    drop(held);
}

#[tokio::test]
async fn counts_are_in_a_file() {
    let server = Running::start(DnsOptions::default()).await;
    server.name("one.default.svc.cluster.local.", RecordType::A).await;
    let dir = tempfile::tempdir().unwrap();
    let (dns, path, stop) = (server.dns.clone(), dir.path().to_owned(), server.shutdown.clone());
    let keeper = tokio::spawn(async move { dns.keep_figures(&path, stop).await });
    for attempt in 0.. {
        if let Ok(figures) = DnsFigures::read(dir.path()) {
            assert_eq!(figures.counts, server.dns.answerer.counts().counts);
            break;
        }
        assert!(attempt < 100, "no file");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.shutdown.cancel();
    keeper.await.unwrap();
}

/// Kilobytes of memory that are resident.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4
}

/// Figures for people: how fast a cluster with many services is answered, what the cache costs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_services() {
    const SERVICES: usize = 5000;
    const CLIENTS: usize = 4;
    let watched = cluster();
    for number in 0..SERVICES {
        let address = format!("10.9.{}.{}", 100 + number / 250, 1 + number % 250);
        let spec = ServiceSpec { cluster_ip: Some(address), ..Default::default() };
        watched.services.take_service(service(&format!("s{number}"), spec));
    }
    let upstream = Upstream::quick(|query, message| address(query, message, 600)).await;
    let server = Running::with(watched, upstream.options()).await;
    let clients = (0..CLIENTS).map(|client| {
        let server = server.address;
        tokio::spawn(async move {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            socket.connect(server).await.unwrap();
            let mut buffer = [0; 512];
            for number in (client..SERVICES).step_by(CLIENTS) {
                let name = format!("s{number}.default.svc.cluster.local.");
                socket.send(&question(&name, RecordType::A, true)).await.unwrap();
                let received = timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await;
                let answer = Message::from_vec(&buffer[..received.unwrap().unwrap()]).unwrap();
                assert_eq!(answer.answers.len(), 1, "{name}");
            }
        })
    });
    let start = Instant::now();
    for client in futures::future::join_all(clients).await {
        client.unwrap();
    }
    let rate = SERVICES as f64 / start.elapsed().as_secs_f64();
    println!("DNS: {rate:.0} questions a second with {SERVICES} services, {CLIENTS} clients");

    let entries = usize::try_from(DnsOptions::default().cache_size).unwrap();
    let before = resident();
    for number in 0..entries {
        let answer = server.name(&format!("host{number}.example.com."), RecordType::A).await;
        assert_eq!(answer.answers.len(), 1);
    }
    let grown = resident().saturating_sub(before);
    println!("DNS: {entries} answers of others are kept in {grown} kB");
}

/// A question with some of its bytes changed: nearer to what the code looks at than noise is.
fn damaged_question() -> impl Strategy<Value = Vec<u8>> {
    let names = prop::sample::select(vec![
        "one.default.svc.cluster.local.",
        "_http._tcp.one.default.svc.cluster.local.",
        "7.8.9.10.in-addr.arpa.",
        "inside.default.svc.cluster.local.",
        ".",
    ]);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (names, any::<u16>(), any::<bool>(), changes, any::<prop::sample::Index>()).prop_map(
        |(name, record_type, edns, changes, end)| {
            let mut bytes = question(name, record_type.into(), edns);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(12 + end.index(bytes.len()));
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever comes in, the server lives, and says nothing or something that can be read.
    #[test]
    fn any_bytes_get_an_answer_that_can_be_read(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..600), damaged_question()],
    ) {
        thread_local! {
            static ANSWERER: Answerer = {
                let domain = Name::from_ascii("cluster.local.").unwrap();
                Answerer::new(domain, cluster(), &DnsOptions::default()).unwrap()
            };
        }
        for transport in [Transport::Datagram, Transport::Stream] {
            let client = Ipv4Addr::LOCALHOST.into();
            match ANSWERER.with(|answerer| answerer.answer(&bytes, transport, client)) {
                Outcome::Drop => prop_assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0),
                Outcome::Answer(answer) => {
                    let read = Message::from_vec(&answer).unwrap();
                    prop_assert_eq!(read.metadata.id.to_be_bytes(), [bytes[0], bytes[1]]);
                    let datagram = transport == Transport::Datagram;
                    prop_assert!(!datagram || answer.len() <= usize::from(message::MAX_DATAGRAM));
                }
                Outcome::Ask(_) => prop_assert!(false, "there is nobody to ask"),
            }
        }
    }
}
