//! The server over real sockets, on loopback.

use hickory_proto::{
    op::Query,
    rr::{RData, RecordType},
};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::{api::ObjectMeta, runtime::watcher::Event};

use super::*;

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        labels: Some([("kubernetes.io/service-name".to_owned(), "many".to_owned())].into()),
        ..Default::default()
    }
}

/// A cluster with one service, `one`, and a headless one, `many`, of a hundred endpoints.
fn cluster() -> Arc<Watched> {
    let watched = Watched::empty();
    for (name, address) in [("one", "10.9.8.7"), ("many", "None")] {
        let spec = ServiceSpec { cluster_ip: Some(address.to_owned()), ..Default::default() };
        let service = Service { metadata: meta(name), spec: Some(spec), status: None };
        watched.services.take_service(Event::Apply(service));
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

async fn server(upstream: Vec<SocketAddr>) -> (SocketAddr, CancellationToken) {
    let loopback = Ipv4Addr::LOCALHOST;
    let server = DnsServer::bind(loopback, 0, "cluster.local", cluster(), upstream).await.unwrap();
    let address = server.udp.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(server.serve(shutdown.clone()));
    (address, shutdown)
}

fn question(name: &str, edns: bool) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

async fn by_datagram(server: SocketAddr, question: &[u8]) -> Message {
    let bytes = timeout(Duration::from_secs(5), forward_datagram(server, question)).await;
    let bytes = bytes.unwrap().unwrap();
    assert!(bytes.len() <= usize::from(MAX_DATAGRAM));
    Message::from_vec(&bytes).unwrap()
}

#[tokio::test]
async fn answers_over_udp_and_tcp() {
    let (address, shutdown) = server(Vec::new()).await;
    let asked = question("one.default.svc.cluster.local.", true);
    let datagram = by_datagram(address, &asked).await;
    let stream = Message::from_vec(&forward_stream(address, &asked).await.unwrap()).unwrap();
    for answer in [datagram, stream] {
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.authoritative);
        assert_eq!(answer.queries.len(), 1);
        assert_eq!(answer.answers.len(), 1);
        assert_eq!(answer.answers[0].data, RData::A("10.9.8.7".parse().unwrap()));
        assert!(answer.edns.is_some());
    }
    shutdown.cancel();
}

#[tokio::test]
async fn what_does_not_fit_is_marked_and_given_whole_over_tcp() {
    let (address, shutdown) = server(Vec::new()).await;
    for edns in [false, true] {
        let asked = question("many.default.svc.cluster.local.", edns);
        let cut = by_datagram(address, &asked).await;
        assert!(cut.metadata.truncation && cut.answers.len() < 100);
        let whole = Message::from_vec(&forward_stream(address, &asked).await.unwrap()).unwrap();
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 100);
    }
    shutdown.cancel();
}

#[tokio::test]
async fn says_no_in_the_right_way() {
    let (address, shutdown) = server(Vec::new()).await;
    let missing = by_datagram(address, &question("x.default.svc.cluster.local.", false)).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(missing.authorities[0].record_type(), RecordType::SOA);
    let foreign = by_datagram(address, &question("example.com.", false)).await;
    assert_eq!(foreign.metadata.response_code, ResponseCode::Refused);
    let mut two = Message::query();
    two.add_query(Query::new());
    two.add_query(Query::new());
    let refused = by_datagram(address, &two.to_vec().unwrap()).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::FormErr);
    // Garbage is not answered, and the server lives on.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(&[0xff; 40], address).await.unwrap();
    let after = by_datagram(address, &question("one.default.svc.cluster.local.", false)).await;
    assert_eq!(after.answers.len(), 1);
    shutdown.cancel();
}

#[tokio::test]
async fn other_names_go_upstream_only() {
    let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let upstream_address = upstream.local_addr().unwrap();
    let (address, shutdown) = server(vec![upstream_address]).await;
    let names = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = names.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = upstream.recv_from(&mut buffer).await {
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            seen.lock().unwrap().push(asked.queries[0].name().to_string());
            let mut answer = reply_to(&asked);
            answer.metadata.response_code = ResponseCode::NotAuth;
            upstream.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    let asked = question("example.com.", false);
    assert_eq!(by_datagram(address, &asked).await.metadata.response_code, ResponseCode::NotAuth);
    by_datagram(address, &question("gone.default.svc.cluster.local.", false)).await;
    assert_eq!(*names.lock().unwrap(), ["example.com."]);
    shutdown.cancel();
}
