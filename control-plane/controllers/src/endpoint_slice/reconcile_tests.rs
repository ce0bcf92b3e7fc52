//! Tables of the slice reconciliation.

use super::*;
use crate::pods::samples::{pod, terminating, unready};
use k8s_openapi::api::core::v1::{Container, ContainerPort, PodIP, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

fn service(target: IntOrString) -> Service {
    Service {
        metadata: ObjectMeta {
            name: Some("nifty-svc".into()),
            namespace: Some("default".into()),
            uid: Some("service-uid".into()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            selector: Some([("App".to_owned(), "Nifty".to_owned())].into()),
            cluster_ip: Some("10.9.8.7".into()),
            ports: Some(vec![ServicePort {
                port: 80,
                target_port: Some(target),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn plain() -> Service {
    service(IntOrString::Int(9376))
}

fn backend(index: usize) -> Pod {
    let mut pod = pod(&format!("p{index:03}"));
    pod.metadata.labels = Some([("App".to_owned(), "Nifty".to_owned())].into());
    let ip = format!("10.240.{}.{}", index / 200, index % 200 + 2);
    pod.status.as_mut().unwrap().pod_ips = Some(vec![PodIP { ip }]);
    pod
}

fn backends_of(range: std::ops::Range<usize>) -> Vec<Arc<Pod>> {
    range.map(|index| Arc::new(backend(index))).collect()
}

fn no_zone(_: &str) -> Option<String> {
    None
}

/// Plays the writes and returns what is stored then.
fn settle(stored: Vec<Arc<EndpointSlice>>, changes: &Changes) -> Vec<Arc<EndpointSlice>> {
    let mut after: Vec<Arc<EndpointSlice>> = stored
        .into_iter()
        .filter(|slice| {
            let gone = |other: &EndpointSlice| other.metadata.name == slice.metadata.name;
            !changes.delete.iter().any(|other| gone(other)) && !changes.update.iter().any(gone)
        })
        .collect();
    after.extend(changes.update.iter().cloned().map(Arc::new));
    for (index, slice) in changes.create.iter().enumerate() {
        let mut slice = slice.clone();
        slice.metadata.name = Some(format!("new-{}-{index}", after.len()));
        after.push(Arc::new(slice));
    }
    after
}

fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    let mut sizes: Vec<_> =
        slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect();
    sizes.sort_unstable();
    sizes
}

fn made(service: &Service, pods: &[Arc<Pod>]) -> Vec<Arc<EndpointSlice>> {
    settle(Vec::new(), &reconcile(service, pods, &[], &no_zone))
}

#[test]
fn slices_hold_at_most_a_hundred_and_settle_at_once() {
    let pods = backends_of(0..250);
    let slices = made(&plain(), &pods);
    assert_eq!(sizes(&slices), [50, 100, 100]);
    let again = reconcile(&plain(), &pods, &slices, &no_zone);
    assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
}

#[test]
fn one_more_pod_is_one_write_and_moves_nobody() {
    let slices = made(&plain(), &backends_of(0..250));
    let changes = reconcile(&plain(), &backends_of(0..251), &slices, &no_zone);
    assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 1, 0));
    let before =
        slices.iter().find(|slice| slice.metadata.name == changes.update[0].metadata.name).unwrap();
    let (old, new) = (before.endpoints.as_ref().unwrap(), changes.update[0].endpoints.as_ref());
    assert_eq!(&new.unwrap()[..50], &old[..]);
}

#[test]
fn a_replaced_pod_takes_the_place_in_the_slice_that_is_written_anyway() {
    let slices = made(&plain(), &backends_of(0..200));
    let mut pods = backends_of(0..201);
    pods.remove(150);
    let changes = reconcile(&plain(), &pods, &slices, &no_zone);
    assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 1, 0));
}

#[test]
fn conditions() {
    let table = [
        ("ready", backend(0), false, (true, true, false)),
        ("not ready", unready(backend(0)), false, (false, false, false)),
        ("leaving, still serving", terminating(backend(0)), false, (false, true, true)),
        ("leaving", terminating(unready(backend(0))), false, (false, false, true)),
        ("published", unready(backend(0)), true, (true, false, false)),
        ("published and leaving", terminating(backend(0)), true, (true, true, true)),
    ];
    for (name, pod, published, expected) in table {
        let mut service = plain();
        service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(published);
        let slices = made(&service, &[Arc::new(pod)]);
        let conditions = slices[0].endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
        let got = (
            conditions.ready.unwrap(),
            conditions.serving.unwrap(),
            conditions.terminating.unwrap(),
        );
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn named_ports_that_differ_make_slices_of_their_own() {
    let named = |index: usize, port: i32| {
        let mut pod = backend(index);
        pod.spec.as_mut().unwrap().containers = vec![Container {
            ports: Some(vec![ContainerPort {
                name: Some("web".into()),
                container_port: port,
                ..ContainerPort::default()
            }]),
            ..Container::default()
        }];
        Arc::new(pod)
    };
    let service = service(IntOrString::String("web".into()));
    let slices = made(&service, &[named(0, 8080), named(1, 9090), named(2, 8080)]);
    let mut shape: Vec<_> = slices
        .iter()
        .map(|slice| {
            let port = slice.ports.as_ref().unwrap()[0].port.unwrap();
            (port, slice.endpoints.as_ref().unwrap().len())
        })
        .collect();
    shape.sort_unstable();
    assert_eq!(shape, [(8080, 2), (9090, 1)]);
    let changes = reconcile(&service, &[named(0, 8080)], &slices, &no_zone);
    assert_eq!((changes.update.len(), changes.delete.len()), (1, 1));
}

#[test]
fn a_service_without_endpoints_keeps_one_empty_slice() {
    let empty = made(&plain(), &[]);
    assert_eq!(sizes(&empty), [0]);
    let slices = made(&plain(), &backends_of(0..150));
    let changes = reconcile(&plain(), &[], &slices, &no_zone);
    assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 1, 1));
    let after = settle(slices, &changes);
    let again = reconcile(&plain(), &[], &after, &no_zone);
    assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
}

#[test]
fn slices_say_whose_they_are_and_where_the_endpoint_is() {
    let zone = |node: &str| (node == "node1").then(|| "z1".to_owned());
    let pods = backends_of(0..1);
    let changes = reconcile(&plain(), &pods, &[], &zone);
    let slice = &changes.create[0];
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!(labels[SERVICE_NAME], "nifty-svc");
    assert_eq!(labels[MANAGED_BY], MANAGER);
    assert_eq!(slice.metadata.owner_references.as_ref().unwrap()[0].uid, "service-uid");
    let endpoint = &slice.endpoints.as_ref().unwrap()[0];
    assert_eq!(endpoint.node_name.as_deref(), Some("node1"));
    assert_eq!(endpoint.zone.as_deref(), Some("z1"));
    assert_eq!(endpoint.target_ref.as_ref().unwrap().uid.as_deref(), Some("uid-p000"));
}

#[test]
fn hints_are_what_the_service_prefers() {
    let zone = |node: &str| (node == "node1").then(|| "z1".to_owned());
    let table = [
        (None, true, "", ""),
        (Some("PreferClose"), true, "z1", ""),
        (Some("PreferSameZone"), true, "z1", ""),
        (Some("PreferSameZone"), false, "", ""),
        (Some("PreferSameNode"), true, "z1", "node1"),
        (Some("PreferSameNode"), false, "", "node1"),
    ];
    for (distribution, has_zone, zones, nodes) in table {
        let zone: &dyn Fn(&str) -> Option<String> = if has_zone { &zone } else { &no_zone };
        let mut service = plain();
        service.spec.as_mut().unwrap().traffic_distribution = distribution.map(str::to_owned);
        let changes = reconcile(&service, &backends_of(0..1), &[], zone);
        let hints = changes.create[0].endpoints.as_ref().unwrap()[0].hints.clone();
        let hints = hints.unwrap_or_default();
        let named_zones: Vec<_> = hints.for_zones.iter().flatten().map(|z| &*z.name).collect();
        let named_nodes: Vec<_> = hints.for_nodes.iter().flatten().map(|n| &*n.name).collect();
        assert_eq!(named_zones.join(" "), zones, "{distribution:?}");
        assert_eq!(named_nodes.join(" "), nodes, "{distribution:?}");
    }
}

#[test]
fn each_family_has_slices_of_its_own() {
    let mut service = plain();
    let both = vec!["IPv4".to_owned(), "IPv6".to_owned()];
    service.spec.as_mut().unwrap().ip_families = Some(both);
    let mut pod = backend(0);
    let ips = pod.status.as_mut().unwrap().pod_ips.as_mut().unwrap();
    ips.push(PodIP { ip: "fd00:10:240::2".into() });
    let slices = made(&service, &[Arc::new(pod), Arc::new(backend(1))]);
    let shape = |slice: &Arc<EndpointSlice>| {
        (slice.address_type.clone(), slice.endpoints.as_ref().unwrap().len())
    };
    let mut shapes: Vec<_> = slices.iter().map(shape).collect();
    shapes.sort();
    assert_eq!(shapes, [("IPv4".to_owned(), 2), ("IPv6".to_owned(), 1)]);
}
