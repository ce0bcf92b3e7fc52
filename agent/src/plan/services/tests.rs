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
        "spec": {"clusterIP": "10.9.0.10", "clusterIPs": ["10.9.0.10", "fd00:9::a"], "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]}}));
    assert_eq!(
        table_of(&dns, &[]),
        [
            "10.9.0.10:53/6 -> 169.254.20.10:53",
            "10.9.0.10:53/17 -> 169.254.20.10:53",
            "fd00:9::a:53/6 -> fd62:6f77:6c69:6e65::10:53",
            "fd00:9::a:53/17 -> fd62:6f77:6c69:6e65::10:53",
        ]
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
            slot_count: wanted.backends.len() as u32,
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
    // One slot more than there are sound backends.
    let mut damaged = programmed(&two);
    damaged.get_mut(&key).unwrap().slot_count += 1;
    assert_eq!(plan(&two, &damaged), [ServiceStep::Change { key, wanted }]);
}

/// One endpoint: `address[@node][!zone,zone][~node,node][=state]`, where `!` and `~` are the hints
/// for zones and nodes, and the state is one of ready, starting, leaving (it still serves), gone.
fn endpoint(text: &str) -> Value {
    let (rest, state) = text.split_once('=').unwrap_or((text, "ready"));
    let (rest, nodes) = rest.split_once('~').unwrap_or((rest, ""));
    let (rest, zones) = rest.split_once('!').unwrap_or((rest, ""));
    let (address, node) = rest.split_once('@').unwrap_or((rest, ""));
    let named = |list: &str| -> Vec<Value> {
        list.split(',').filter(|name| !name.is_empty()).map(|name| json!({"name": name})).collect()
    };
    let (ready, serving, terminating) = match state {
        "ready" => (true, true, false),
        "starting" => (false, false, false),
        "leaving" => (false, true, true),
        "gone" => (false, false, true),
        other => panic!("{other}"),
    };
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
    });
    if !node.is_empty() {
        endpoint["nodeName"] = json!(node);
    }
    if !zones.is_empty() || !nodes.is_empty() {
        endpoint["hints"] = json!({"forZones": named(zones), "forNodes": named(nodes)});
    }
    endpoint
}

/// The slices of a table's row, one for each of its texts: `[v6 ]endpoint endpoint...`.
fn slices(texts: &[&str]) -> Vec<EndpointSlice> {
    let one = |text: &&str| {
        let six = text.starts_with("v6");
        let endpoints: Vec<Value> =
            text.trim_start_matches("v6").split_whitespace().map(endpoint).collect();
        let mut slice = slice(&json!(endpoints));
        slice.address_type = if six { "IPv6" } else { "IPv4" }.to_owned();
        slice
    };
    texts.iter().map(one).collect()
}

/// The rows of the matrix: what, spec, slices, the last parts of the backends' addresses.
type Row = (&'static str, Value, &'static [&'static str], &'static str);

#[test]
fn endpoints_by_state_policy_and_place() {
    let local = || json!({"internalTrafficPolicy": "Local"});
    let table: Vec<Row> = vec![
        ("nobody", json!({}), &[], ""),
        ("an empty slice", json!({}), &[""], ""),
        ("ready ones only", json!({}), &["10.240.0.1 10.240.0.2=starting"], "1"),
        ("a leaving one rests", json!({}), &["10.240.0.1 10.240.0.2=leaving"], "1"),
        ("leaving ones are the last", json!({}), &["10.240.0.1=starting 10.240.0.2=leaving"], "2"),
        ("gone ones never", json!({}), &["10.240.0.1=gone 10.240.0.2=starting"], ""),
        ("two slices", json!({}), &["10.240.0.1", "10.240.0.2"], "1 2"),
        ("twice in one", json!({}), &["10.240.0.1 10.240.0.1"], "1"),
        ("twice in two", json!({}), &["10.240.0.1", "10.240.0.1 10.240.0.3"], "1 3"),
        ("ready here, leaving there", json!({}), &["10.240.0.1=leaving", "10.240.0.1"], "1"),
        ("local", local(), &["10.240.0.1@node1 10.240.0.2@node2"], "1"),
        ("local, nobody here", local(), &["10.240.0.2@node2 10.240.0.3"], ""),
        ("local, leaving here", local(), &["10.240.0.1@node1=leaving 10.240.0.2@node2"], "1"),
        ("local is not moved by hints", local(), &["10.240.0.1@node1!b 10.240.0.2@node2!a"], "1"),
        ("zone", json!({}), &["10.240.0.1!a 10.240.0.2!b 10.240.0.3!a,b"], "1 3"),
        ("zone over two slices", json!({}), &["10.240.0.1!a", "10.240.0.2!b"], "1"),
        ("one without a hint", json!({}), &["10.240.0.1!a 10.240.0.2"], "1 2"),
        ("nobody for this zone", json!({}), &["10.240.0.1!b 10.240.0.2!c"], "1 2"),
        ("hints of others count not", json!({}), &["10.240.0.1!a 10.240.0.2=starting"], "1"),
        ("ours is not ready", json!({}), &["10.240.0.1!a=starting 10.240.0.2!b"], "2"),
        (
            "all leaving, hints aside",
            json!({}),
            &["10.240.0.1!a=leaving 10.240.0.2!b=leaving"],
            "1 2",
        ),
        ("node", json!({}), &["10.240.0.1!a~node1 10.240.0.2!a~node2"], "1"),
        ("no endpoint on the node", json!({}), &["10.240.0.1!a~node3 10.240.0.2!b~node2"], "1"),
        ("neither node nor zone", json!({}), &["10.240.0.1!b~node3 10.240.0.2!b~node2"], "1 2"),
        ("one without a node hint", json!({}), &["10.240.0.1!a~node1 10.240.0.2!a"], "1 2"),
        ("other families' slices", json!({}), &["10.240.0.1", "v6 fd00::2"], "1"),
        ("host-network pods", json!({}), &["172.30.0.5@node1 172.30.0.6@node2"], "5 6"),
    ];
    let place = Place { node: "node1".into(), zone: Some("a".into()) };
    for (what, spec, texts, expected) in table {
        let service = service(&json!({"spec": spec}));
        let found = service_table([&service], &slices(texts), place.clone());
        let found = rows(&found).concat();
        let backends = found.split_once("-> ").unwrap().1.split_whitespace();
        let short = backends.map(|b| b.trim_end_matches(":9376").rsplit('.').next().unwrap());
        assert_eq!(short.collect::<Vec<_>>().join(" "), expected, "{what}: {found}");
    }
}

#[test]
fn a_node_without_a_zone_follows_no_zone_hints() {
    let found = service_table(
        [&service(&json!({}))],
        &slices(&["10.240.0.1!a 10.240.0.2!b"]),
        Place::from("node1"),
    );
    assert_eq!(rows(&found), ["10.9.8.7:80/6 -> 10.240.0.1:9376 10.240.0.2:9376"]);
}

#[test]
fn each_address_has_the_slices_of_its_own_family() {
    let table: [(Value, &[&str]); 3] = [
        (
            json!({"clusterIP": "10.9.8.7", "clusterIPs": ["10.9.8.7", "fd00:9::7"]}),
            &["10.9.8.7:80/6 -> 10.240.0.1:9376", "fd00:9::7:80/6 -> fd00::1:9376"],
        ),
        (
            json!({"clusterIP": "fd00:9::7", "clusterIPs": ["fd00:9::7"]}),
            &["fd00:9::7:80/6 -> fd00::1:9376"],
        ),
        (
            json!({"clusterIP": "10.9.8.7", "clusterIPs": ["10.9.8.7"]}),
            &["10.9.8.7:80/6 -> 10.240.0.1:9376"],
        ),
    ];
    for (spec, expected) in table {
        let service = service(&json!({"spec": spec}));
        // A slice says its family; an address of the other one in it is nobody's.
        let slices = slices(&["10.240.0.1 fd00::9", "v6 fd00::1 10.240.0.9"]);
        assert_eq!(table_of(&service, &slices), expected);
    }
}

#[test]
fn ports_are_each_slice_s_own() {
    let dns = json!([
        {"name": "udp", "port": 53, "protocol": "UDP"},
        {"name": "tcp", "port": 53, "protocol": "TCP"},
        {"name": "web", "port": 80, "protocol": "TCP"}]);
    let service = service(&json!({"spec": {"ports": dns}}));
    // A named target port leads to another number on other pods: they are in other slices.
    let with = |address: &str, ports: Value| {
        let mut slice = slice(&json!([{"addresses": [address]}]));
        slice.ports = serde_json::from_value(ports).unwrap();
        slice
    };
    let slices = [
        with("10.240.0.1", json!([{"name": "web", "port": 8080}])),
        with("10.240.0.2", json!([{"name": "web", "port": 9090}])),
        with(
            "10.240.0.3",
            json!([{"name": "udp", "port": 5353, "protocol": "UDP"},
                {"name": "tcp", "port": 5354, "protocol": "TCP"}]),
        ),
        with("10.240.0.4", json!([{"name": "web"}])),
    ];
    assert_eq!(
        table_of(&service, &slices),
        [
            "10.9.8.7:53/6 -> 10.240.0.3:5354",
            "10.9.8.7:53/17 -> 10.240.0.3:5353",
            "10.9.8.7:80/6 -> 10.240.0.1:8080 10.240.0.2:9090",
        ]
    );
}

proptest::proptest! {
    /// Whatever the endpoints' conditions: ready ones are used and nobody else, those that end and
    /// still serve only when there is no ready one.
    #[test]
    fn who_terminates_is_a_last_resort(
        all in proptest::collection::vec(proptest::prelude::any::<[bool; 3]>(), 0..12),
        parts in 1..4usize,
    ) {
        let endpoint = |(number, conditions): (usize, &[bool; 3])| {
            let [ready, serving, terminating] = conditions;
            json!({"addresses": [format!("10.240.0.{}", number + 10)],
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
        };
        let endpoints: Vec<Value> = all.iter().enumerate().map(endpoint).collect();
        let slices: Vec<EndpointSlice> = endpoints
            .chunks(all.len().div_ceil(parts).max(1))
            .map(|part| slice(&json!(part)))
            .collect();
        let those = |wanted: fn(&[bool; 3]) -> bool| -> Vec<String> {
            let numbers = all.iter().enumerate().filter(|(_, conditions)| wanted(conditions));
            numbers.map(|(number, _)| format!("10.240.0.{}:9376", number + 10)).collect()
        };
        let mut expected = those(|[ready, ..]| *ready);
        if expected.is_empty() {
            expected = those(|[_, serving, terminating]| *serving && *terminating);
        }
        let found = table_of(&service(&json!({})), &slices);
        proptest::prop_assert_eq!(found, [format!("10.9.8.7:80/6 -> {}", expected.join(" "))]);
    }
}
