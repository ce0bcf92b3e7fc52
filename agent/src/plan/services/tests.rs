//! Services and slices in, tables and steps out.

use super::*;
use serde_json::{Value, json};

fn service(change: &Value) -> Service {
    let mut object = json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"clusterIP": "10.9.8.7", "clusterIPs": ["10.9.8.7"],
                 "ports": [{"port": 80, "protocol": "TCP"}]}
    });
    merge(&mut object, change);
    serde_json::from_value(object).unwrap()
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn slice(endpoints: &Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web-x",
                     "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 9376, "protocol": "TCP"},
                  {"name": "admin", "port": 9999, "protocol": "TCP"}],
        "endpoints": endpoints
    }))
    .unwrap()
}

fn rows(table: &ServiceTable) -> Vec<String> {
    let row = |(key, wanted): (&ServiceKey, &WantedService)| {
        let backends: Vec<String> = wanted
            .backends
            .keys()
            .map(|b| format!("{}:{}", IpAddr::from(b.address), b.port.get()))
            .collect();
        let address = IpAddr::from(key.address);
        format!("{address}:{}/{} -> {}", key.port.get(), key.protocol, backends.join(" "))
    };
    table.services.iter().map(row).collect()
}

fn table_of(service: &Service, slices: &[EndpointSlice]) -> Vec<String> {
    rows(&service_table([service], slices, "node1"))
}

#[test]
fn endpoints_are_used_by_their_conditions() {
    let ready = json!({"addresses": ["10.240.0.1"], "conditions": {"ready": true}});
    let plain = json!({"addresses": ["10.240.0.2"]});
    let going = json!({"addresses": ["10.240.0.3"],
        "conditions": {"ready": false, "serving": true, "terminating": true}});
    let gone = json!({"addresses": ["10.240.0.4"],
        "conditions": {"ready": false, "serving": false, "terminating": true}});
    let starting = json!({"addresses": ["10.240.0.5"], "conditions": {"ready": false}});
    let table = [
        ("all", json!([ready, plain, going, gone, starting]), "10.240.0.1:9376 10.240.0.2:9376"),
        ("only terminating", json!([going, gone, starting]), "10.240.0.3:9376"),
        ("nobody", json!([gone, starting]), ""),
    ];
    for (what, endpoints, backends) in table {
        let found = table_of(&service(&json!({})), &[slice(&endpoints)]);
        assert_eq!(found, [format!("10.9.8.7:80/6 -> {backends}")], "{what}");
    }
}

#[test]
fn services_without_a_virtual_address_do_not_appear() {
    for spec in [
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"type": "ExternalName", "externalName": "example.org"}),
        json!({"clusterIP": "", "clusterIPs": []}),
    ] {
        let found = table_of(&service(&json!({"spec": spec})), &[]);
        assert!(found.is_empty(), "{spec}: {found:?}");
    }
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let ports = json!([
        {"name": "admin", "port": 81, "protocol": "TCP"},
        {"name": "admin", "port": 81, "protocol": "UDP"},
        {"name": "other", "port": 82},
        {"name": "sctp", "port": 83, "protocol": "SCTP"}]);
    let found = table_of(
        &service(&json!({"spec": {"ports": ports}})),
        &[slice(&json!([{"addresses": ["10.240.0.1"]}]))],
    );
    assert_eq!(
        found,
        ["10.9.8.7:81/6 -> 10.240.0.1:9999", "10.9.8.7:81/17 -> ", "10.9.8.7:82/6 -> "]
    );
}

#[test]
fn local_traffic_policy_keeps_to_the_node() {
    let endpoints = json!([
        {"addresses": ["10.240.0.1"], "nodeName": "node1"},
        {"addresses": ["10.240.1.1"], "nodeName": "node2"}]);
    let found = table_of(
        &service(&json!({"spec": {"internalTrafficPolicy": "Local"}})),
        &[slice(&endpoints)],
    );
    assert_eq!(found, ["10.9.8.7:80/6 -> 10.240.0.1:9376"]);
}

#[test]
fn cluster_dns_is_answered_by_the_node_itself() {
    let dns = service(&json!({
        "metadata": {"namespace": "kube-system", "name": "kube-dns"},
        "spec": {"clusterIP": "10.9.0.10", "clusterIPs": ["10.9.0.10"], "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]}}));
    assert_eq!(
        table_of(&dns, &[]),
        ["10.9.0.10:53/6 -> 169.254.20.10:53", "10.9.0.10:53/17 -> 169.254.20.10:53"]
    );
}

#[test]
fn slices_of_others_are_not_used() {
    let mut other = slice(&json!([{"addresses": ["10.240.0.1"]}]));
    other.metadata.namespace = Some("elsewhere".to_owned());
    let mut six = slice(&json!([{"addresses": ["fd00::1"]}]));
    six.address_type = "IPv6".to_owned();
    assert_eq!(table_of(&service(&json!({})), &[other, six]), ["10.9.8.7:80/6 -> "]);
}

#[test]
fn affinity_is_read_with_the_api_s_default() {
    let table = [
        (json!({}), 0),
        (json!({"sessionAffinity": "ClientIP"}), 10_800),
        (
            json!({"sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}),
            60,
        ),
    ];
    for (spec, seconds) in table {
        let table = service_table([&service(&json!({"spec": spec}))], &[], "node1");
        assert_eq!(table.services.values().next().unwrap().affinity_seconds, seconds);
    }
}

#[test]
fn a_plan_holds_the_difference_and_nothing_else() {
    let one = json!([{"addresses": ["10.240.0.1"]}]);
    let two = json!([{"addresses": ["10.240.0.2"]}, {"addresses": ["10.240.0.1"]}]);
    let table = |endpoints: &Value| service_table([&service(&json!({}))], &[slice(endpoints)], "n");
    let programmed = |table: &ServiceTable| -> BTreeMap<ServiceKey, ProgrammedService> {
        let service = |wanted: &WantedService| ProgrammedService {
            id: 0,
            first_slot: 0,
            affinity_seconds: wanted.affinity_seconds,
            backends: wanted.backends.keys().copied().collect(),
        };
        table.services.iter().map(|(key, wanted)| (*key, service(wanted))).collect()
    };
    let (one, two, none) = (table(&one), table(&two), ServiceTable::default());
    let key = *one.services.keys().next().unwrap();

    assert_eq!(plan(&one, &programmed(&one)), []);
    assert_eq!(plan(&two, &programmed(&two)), []);
    assert_eq!(plan(&none, &programmed(&one)), [ServiceStep::Remove { key }]);
    let wanted = &two.services[&key];
    assert_eq!(plan(&two, &programmed(&one)), [ServiceStep::Change { key, wanted }]);
    assert_eq!(plan(&two, &programmed(&none)), [ServiceStep::Add { key, wanted }]);
}
