//! Tables of names and answers.

use k8s_openapi::api::{
    core::v1::{Service, ServicePort, ServiceSpec},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use kube::{api::ObjectMeta, runtime::watcher::Event};

use super::*;

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        ..Default::default()
    }
}

fn port(name: &str, protocol: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: number,
        ..Default::default()
    }
}

fn service(name: &str, spec: ServiceSpec) -> Event<Service> {
    Event::InitApply(Service { metadata: meta(name), spec: Some(spec), status: None })
}

fn endpoint(address: &str, hostname: Option<&str>, ready: Option<bool>) -> Endpoint {
    Endpoint {
        addresses: vec![address.to_owned()],
        hostname: hostname.map(str::to_owned),
        conditions: Some(EndpointConditions { ready, ..Default::default() }),
        ..Default::default()
    }
}

fn slice(name: &str, owner: &str, endpoints: Vec<Endpoint>) -> Event<EndpointSlice> {
    let mut metadata = meta(name);
    metadata.labels = Some([("kubernetes.io/service-name".to_owned(), owner.to_owned())].into());
    let ports = vec![EndpointPort {
        name: Some("peer".to_owned()),
        protocol: Some("TCP".to_owned()),
        port: Some(9376),
        ..Default::default()
    }];
    let is_v6 = endpoints.iter().any(|endpoint| endpoint.addresses[0].contains(':'));
    Event::InitApply(EndpointSlice {
        metadata,
        address_type: if is_v6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports),
    })
}

fn cluster() -> ServiceTable {
    let headless = || ServiceSpec { cluster_ip: Some("None".to_owned()), ..Default::default() };
    let table = ServiceTable::new();
    table.take_service(Event::Init);
    table.take_service(service(
        "nifty-svc",
        ServiceSpec {
            cluster_ip: Some("10.9.8.7".to_owned()),
            ports: Some(vec![port("http", "TCP", 80), port("dns", "UDP", 53)]),
            ..Default::default()
        },
    ));
    table.take_service(service("db", headless()));
    table.take_service(service("empty", headless()));
    let all = ServiceSpec { publish_not_ready_addresses: Some(true), ..headless() };
    table.take_service(service("all", all));
    let external = ServiceSpec {
        type_: Some("ExternalName".to_owned()),
        external_name: Some("db.example.com".to_owned()),
        ..Default::default()
    };
    table.take_service(service("outside", external));
    let addresses = |all: [&str; 2]| ServiceSpec {
        cluster_ip: Some(all[0].to_owned()),
        cluster_ips: Some(all.map(str::to_owned).to_vec()),
        ports: Some(vec![port("http", "TCP", 80), port("", "TCP", 81)]),
        ..Default::default()
    };
    table.take_service(service("dual", addresses(["10.9.8.8", "fd00:10:9::8"])));
    table.take_service(service("both", headless()));
    table.take_service(Event::InitDone);
    table.take_slice(Event::Init);
    let ready = [
        endpoint("10.240.2.2", Some("db-1"), None),
        endpoint("10.240.1.2", Some("db-0"), Some(true)),
        endpoint("10.240.3.2", Some("db-2"), Some(false)),
    ];
    table.take_slice(slice("db-a", "db", ready.to_vec()));
    table.take_slice(slice("db-b", "db", vec![endpoint("10.240.4.2", None, Some(true))]));
    table.take_slice(slice("all-a", "all", vec![endpoint("10.240.5.2", None, Some(false))]));
    let v4 = endpoint("10.240.6.2", Some("both-0"), None);
    let v6 = endpoint("fd00:10:240:6::2", Some("both-0"), None);
    table.take_slice(slice("both-4", "both", vec![v4]));
    let unnamed = endpoint("fd00:10:240:7::2", None, None);
    table.take_slice(slice("both-6", "both", vec![v6, unnamed]));
    table.take_slice(Event::InitDone);
    table
}

fn ask(name: &str, record_type: RecordType) -> Answer {
    let services = cluster();
    let domain = Name::from_ascii("cluster.local.").unwrap();
    let zone = Zone { domain: &domain, services: &services };
    zone.lookup(&Name::from_ascii(name).unwrap(), record_type)
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn addresses_of_names() {
    let table: [(&str, &[&str]); 15] = [
        ("nifty-svc.default.svc.cluster.local.", &["10.9.8.7"]),
        ("NIFTY-svc.Default.SVC.cluster.LOCAL.", &["10.9.8.7"]),
        ("db.default.svc.cluster.local.", &["10.240.1.2", "10.240.2.2", "10.240.4.2"]),
        ("all.default.svc.cluster.local.", &["10.240.5.2"]),
        ("db-0.db.default.svc.cluster.local.", &["10.240.1.2"]),
        ("10-240-4-2.db.default.svc.cluster.local.", &["10.240.4.2"]),
        ("dual.default.svc.cluster.local.", &["10.9.8.8"]),
        ("both.default.svc.cluster.local.", &["10.240.6.2"]),
        ("both-0.both.default.svc.cluster.local.", &["10.240.6.2"]),
        ("10-240-1-2.default.pod.cluster.local.", &["10.240.1.2"]),
        ("cluster.local.", &[]),
        ("svc.cluster.local.", &[]),
        ("default.svc.cluster.local.", &[]),
        ("default.pod.cluster.local.", &[]),
        ("_tcp.nifty-svc.default.svc.cluster.local.", &[]),
    ];
    for (name, wanted) in table {
        let Answer::Found { answers, additionals } = ask(name, RecordType::A) else {
            panic!("{name} has no answer");
        };
        assert_eq!(texts(&answers), wanted, "{name}");
        assert!(additionals.is_empty(), "{name}");
        let asked = Name::from_ascii(name).unwrap();
        assert!(answers.iter().all(|record| record.name.eq_case(&asked)), "{name}: case is kept");
    }
}

#[test]
fn ipv6_addresses_of_names() {
    let table: [(&str, &[&str]); 7] = [
        ("dual.default.svc.cluster.local.", &["fd00:10:9::8"]),
        ("nifty-svc.default.svc.cluster.local.", &[]),
        ("both.default.svc.cluster.local.", &["fd00:10:240:6::2", "fd00:10:240:7::2"]),
        ("both-0.both.default.svc.cluster.local.", &["fd00:10:240:6::2"]),
        ("fd00-10-240-7--2.both.default.svc.cluster.local.", &["fd00:10:240:7::2"]),
        ("FD00-10-240-7--2.default.pod.cluster.local.", &["fd00:10:240:7::2"]),
        ("10-240-1-2.default.pod.cluster.local.", &[]),
    ];
    for (name, wanted) in table {
        let Answer::Found { answers, .. } = ask(name, RecordType::AAAA) else {
            panic!("{name} has no answer");
        };
        assert_eq!(texts(&answers), wanted, "{name}");
    }
}

#[test]
fn a_name_may_stand_for_another() {
    for record_type in [RecordType::A, RecordType::AAAA, RecordType::CNAME] {
        let answer = ask("outside.default.svc.cluster.local.", record_type);
        let Answer::Alias(target) = answer else { panic!("{answer:?}") };
        assert_eq!(target.to_string(), "db.example.com.");
    }
}

#[test]
fn the_version_of_the_specification() {
    let Answer::Found { answers, .. } = ask("dns-version.cluster.local.", RecordType::TXT) else {
        panic!("no version");
    };
    assert_eq!(texts(&answers), ["1.1.0"]);
}

#[test]
fn names_that_are_not_there() {
    for name in [
        "nifty-svc.other.svc.cluster.local.",
        "other.svc.cluster.local.",
        "missing.default.svc.cluster.local.",
        "empty.default.svc.cluster.local.",
        "db-2.db.default.svc.cluster.local.",
        "db-0.nifty-svc.default.svc.cluster.local.",
        "example.com.default.svc.cluster.local.",
        "nifty-svc.default.cluster.local.",
        "10-240-1.default.pod.cluster.local.",
        "10-240-1-999.default.pod.cluster.local.",
        "a.b.c.d.e.f.cluster.local.",
        "_nope._tcp.nifty-svc.default.svc.cluster.local.",
        "_http._udp.nifty-svc.default.svc.cluster.local.",
        "_._tcp.dual.default.svc.cluster.local.",
        "_udp.dual.default.svc.cluster.local.",
        "_http._tcp.outside.default.svc.cluster.local.",
        "10-240-6-2.both.default.svc.cluster.local.",
    ] {
        assert_eq!(ask(name, RecordType::A), Answer::NoSuchName, "{name}");
    }
}

#[test]
fn names_of_others_are_left_to_others() {
    for name in ["example.com.", "local.", ".", "xcluster.local.", "1.2.240.10.in-addr.arpa."] {
        assert_eq!(ask(name, RecordType::A), Answer::NotOurs, "{name}");
    }
}

#[test]
fn a_name_without_a_record_of_the_type_exists_all_the_same() {
    for record_type in [RecordType::AAAA, RecordType::TXT, RecordType::SRV] {
        let answer = ask("nifty-svc.default.svc.cluster.local.", record_type);
        assert_eq!(answer, nothing(), "{record_type}");
    }
    assert_eq!(ask("7.8.9.10.in-addr.arpa.", RecordType::A), nothing());
}

#[test]
fn ports_of_services() {
    let table: [(&str, &[&str], &[&str]); 5] = [
        (
            "_http._tcp.dual.default.svc.cluster.local.",
            &["0 100 80 dual.default.svc.cluster.local."],
            &["10.9.8.8", "fd00:10:9::8"],
        ),
        (
            "_peer._tcp.both.default.svc.cluster.local.",
            &[
                "0 100 9376 both-0.both.default.svc.cluster.local.",
                "0 100 9376 fd00-10-240-7--2.both.default.svc.cluster.local.",
            ],
            &["10.240.6.2", "fd00:10:240:6::2", "fd00:10:240:7::2"],
        ),
        (
            "_http._tcp.nifty-svc.default.svc.cluster.local.",
            &["0 100 80 nifty-svc.default.svc.cluster.local."],
            &["10.9.8.7"],
        ),
        (
            "_dns._udp.nifty-svc.default.svc.cluster.local.",
            &["0 100 53 nifty-svc.default.svc.cluster.local."],
            &["10.9.8.7"],
        ),
        (
            "_peer._tcp.db.default.svc.cluster.local.",
            &[
                "0 100 9376 db-1.db.default.svc.cluster.local.",
                "0 100 9376 db-0.db.default.svc.cluster.local.",
                "0 100 9376 10-240-4-2.db.default.svc.cluster.local.",
            ],
            &["10.240.1.2", "10.240.2.2", "10.240.4.2"],
        ),
    ];
    for (name, wanted, hints) in table {
        let Answer::Found { answers, additionals } = ask(name, RecordType::SRV) else {
            panic!("{name} has no answer");
        };
        let sorted = |records: &[Record]| {
            let mut all = texts(records);
            all.sort();
            all
        };
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        assert_eq!(sorted(&answers), wanted, "{name}");
        assert_eq!(sorted(&additionals), hints, "{name}");
    }
}

#[test]
fn names_of_addresses() {
    let table: [(&str, &[&str]); 6] = [
        ("10.9.8.7", &["nifty-svc.default.svc.cluster.local."]),
        ("10.9.8.8", &["dual.default.svc.cluster.local."]),
        ("fd00:10:9::8", &["dual.default.svc.cluster.local."]),
        ("10.240.1.2", &["db-0.db.default.svc.cluster.local."]),
        ("10.240.4.2", &["10-240-4-2.db.default.svc.cluster.local."]),
        ("fd00:10:240:6::2", &["both-0.both.default.svc.cluster.local."]),
    ];
    for (address, wanted) in table {
        let name = Name::from(address.parse::<IpAddr>().unwrap()).to_string();
        let Answer::Found { answers, .. } = ask(&name, RecordType::PTR) else {
            panic!("{address} has no name");
        };
        assert_eq!(texts(&answers), wanted, "{address}");
        assert_eq!(ask(&name, RecordType::A), nothing(), "{address}");
    }
    // Not ready, unknown, and a range.
    for name in ["2.3.240.10.in-addr.arpa.", "9.9.9.10.in-addr.arpa.", "9.10.in-addr.arpa."] {
        assert_eq!(ask(name, RecordType::PTR), Answer::NotOurs, "{name}");
    }
}
