//! The loop against maps that have room for some services.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use bowline_ebpf_abi::ServiceKey as Key;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher::Event;
use serde_json::json;

use super::*;
use crate::{
    apply::services::NotProgrammed,
    datapath::{ApplyServicesFailed, ServiceSummary, WriteMapFailed},
};

/// What was asked of the maps, and what they hold.
#[derive(Default)]
struct Seen {
    room: usize,
    held: BTreeMap<Key, String>,
    /// The services of each call, `=` before those of one that sets all.
    calls: Vec<String>,
}

#[derive(Clone, Default)]
struct SmallMaps(Arc<Mutex<Seen>>);

impl SmallMaps {
    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, call: &str, changes: ServiceChanges) -> ServicesProgrammed {
        self.seen(|seen| {
            let names: Vec<&str> =
                changes.put.services.values().map(|service| &*service.name).collect();
            seen.calls.push(format!("{call}{}", names.join(" ")));
            changes.removed.iter().for_each(|key| drop(seen.held.remove(key)));
            let mut failures = Vec::new();
            for (key, service) in changes.put.services {
                if seen.held.len() < seen.room || seen.held.contains_key(&key) {
                    seen.held.insert(key, service.name.to_string());
                } else {
                    let error = WriteMapFailed::Full { map: "SERVICES", size: 2, flag: "" };
                    let service = service.name.to_string();
                    failures.push(NotProgrammed { key, service, error });
                }
            }
            match failures.is_empty() {
                true => Ok(ServiceSummary::default()),
                false => Err(ApplyServicesFailed { failures }.into()),
            }
        })
    }
}

impl ServiceMaps for SmallMaps {
    async fn set(&self, put: ServiceTable) -> ServicesProgrammed {
        self.seen(|seen| seen.held.clear());
        self.write("=", ServiceChanges { put, ..ServiceChanges::default() })
    }

    async fn change(&self, changes: ServiceChanges) -> ServicesProgrammed {
        self.write("", changes)
    }
}

fn service(number: u8, version: u32) -> Service {
    let address = IpAddr::from([10, 9, 0, number]);
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": format!("s{number}"),
                     "resourceVersion": version.to_string()},
        "spec": {"clusterIP": address, "clusterIPs": [address],
                 "ports": [{"port": 80, "protocol": "TCP"}]}}))
    .unwrap()
}

#[tokio::test]
async fn what_finds_no_room_at_first_is_tried_again_alone_until_it_does() {
    let watched = Arc::new(Watched::empty());
    for number in 1..=3 {
        watched.services.take_service(Event::Apply(service(number, 1)));
    }
    let maps = SmallMaps::default();
    maps.seen(|seen| seen.room = 2);
    let meters = Meters::default();
    let mut programmer =
        Programmer::new(watched.clone(), maps.clone(), "node1".to_owned(), meters.clone());
    programmer.round().await;
    programmer.round().await;
    assert!(programmer.failing);
    // A change that succeeds says nothing about the one that still has no room.
    watched.services.take_service(Event::Apply(service(1, 2)));
    programmer.round().await;
    assert!(programmer.failing);
    watched.services.take_service(Event::Delete(service(2, 1)));
    programmer.round().await;
    assert!(!programmer.failing);
    programmer.round().await;
    // From the first change to when the last one found room.
    assert_eq!(meters.programmed_rounds(), 1);
    maps.seen(|seen| {
        assert_eq!(seen.calls, ["=s1 s2 s3", "s3", "s1 s3", "s3"]);
        assert_eq!(seen.held.values().collect::<Vec<_>>(), ["s1", "s3"]);
    });
}
