//! What the consumer of changes gets to see.

use k8s_openapi::api::core::v1::ServiceSpec;
use kube::api::ObjectMeta;

use super::*;

fn meta(name: &str, version: u32) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        uid: Some(format!("uid-{name}")),
        resource_version: Some(version.to_string()),
        ..Default::default()
    }
}

fn service(name: &str, version: u32, address: &str) -> Service {
    Service {
        metadata: meta(name, version),
        spec: Some(ServiceSpec {
            cluster_ip: Some(address.to_owned()),
            cluster_ips: Some(vec![address.to_owned()]),
            ..Default::default()
        }),
        status: None,
    }
}

fn slice(name: &str, version: u32, owner: &str) -> EndpointSlice {
    let mut metadata = meta(name, version);
    metadata.labels = Some([(SERVICE_NAME.to_owned(), owner.to_owned())].into());
    EndpointSlice { metadata, address_type: "IPv4".to_owned(), ..Default::default() }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "default".into(), name: name.into() }
}

fn changed(table: &ServiceTable) -> Vec<(String, usize, bool)> {
    let changed = table.take_changed().0.into_iter();
    changed
        .map(|key| {
            let now = table.get(&key.namespace, &key.name);
            let slices = now.as_ref().map_or(0, |now| now.slices.len());
            (key.name.to_string(), slices, now.is_some_and(|now| now.service.is_some()))
        })
        .collect()
}

fn listed(table: &ServiceTable, services: Vec<Service>, slices: Vec<EndpointSlice>) {
    table.take_service(Event::Init);
    services.into_iter().for_each(|service| table.take_service(Event::InitApply(service)));
    table.take_service(Event::InitDone);
    table.take_slice(Event::Init);
    slices.into_iter().for_each(|slice| table.take_slice(Event::InitApply(slice)));
    table.take_slice(Event::InitDone);
}

#[test]
fn changes_are_told_once_and_coalesce() {
    let table = ServiceTable::new();
    listed(&table, vec![service("a", 1, "10.9.0.5")], vec![slice("a-1", 2, "a")]);
    assert_eq!(changed(&table), [("a".to_owned(), 1, true)]);
    assert_eq!(changed(&table), []);
    table.take_slice(Event::Apply(slice("a-2", 3, "a")));
    table.take_slice(Event::Apply(slice("a-1", 4, "a")));
    assert_eq!(changed(&table), [("a".to_owned(), 2, true)]);
    table.take_service(Event::Delete(service("a", 5, "10.9.0.5")));
    assert_eq!(changed(&table), [("a".to_owned(), 2, false)]);
    table.take_slice(Event::Delete(slice("a-1", 6, "a")));
    table.take_slice(Event::Delete(slice("a-2", 7, "a")));
    assert_eq!(changed(&table), [("a".to_owned(), 0, false)]);
    assert!(table.get("default", "a").is_none());
}

#[test]
fn a_new_list_tells_only_what_differs() {
    let table = ServiceTable::new();
    let services = vec![service("a", 1, "10.9.0.5"), service("b", 1, "10.9.0.6")];
    listed(&table, services, vec![slice("a-1", 2, "a"), slice("b-1", 2, "b")]);
    changed(&table);
    let services = vec![service("a", 1, "10.9.0.5"), service("c", 9, "10.9.0.6")];
    listed(&table, services, vec![slice("a-1", 2, "a")]);
    assert_eq!(changed(&table), [("b".to_owned(), 0, false), ("c".to_owned(), 0, true)]);
    assert_eq!(table.at_address("10.9.0.6".parse().unwrap()), Some(key("c")));
    assert_eq!(table.names(), [key("a"), key("c")].into());
}

#[test]
fn a_slice_that_changes_its_service_is_told_for_both() {
    let table = ServiceTable::new();
    listed(&table, Vec::new(), vec![slice("s", 1, "a")]);
    changed(&table);
    table.take_slice(Event::Apply(slice("s", 2, "b")));
    assert_eq!(changed(&table), [("a".to_owned(), 0, false), ("b".to_owned(), 1, false)]);
    let mut orphan = slice("s", 3, "b");
    orphan.metadata.labels = None;
    table.take_slice(Event::Apply(orphan));
    assert_eq!(changed(&table), [("b".to_owned(), 0, false)]);
}

#[test]
fn the_address_index_follows() {
    let table = ServiceTable::new();
    listed(&table, vec![service("a", 1, "10.9.0.5")], Vec::new());
    let at = |address: &str| table.at_address(address.parse().unwrap());
    assert_eq!(at("10.9.0.5"), Some(key("a")));
    table.take_service(Event::Apply(service("a", 2, "10.9.0.7")));
    assert_eq!((at("10.9.0.5"), at("10.9.0.7")), (None, Some(key("a"))));
    // The address moved on before the deletion of its former owner is seen.
    table.take_service(Event::Apply(service("b", 3, "10.9.0.7")));
    table.take_service(Event::Delete(service("a", 4, "10.9.0.7")));
    assert_eq!(at("10.9.0.7"), Some(key("b")));
    table.take_service(Event::Apply(service("b", 5, "None")));
    assert_eq!(at("10.9.0.7"), None);
    assert!(table.has_namespace("default") && !table.has_namespace("defaul"));
}
