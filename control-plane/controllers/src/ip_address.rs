//! An IPAddress object for each cluster address that a service has.
//!
//! Guarantees: whoever lists them sees which service holds which address; one that says something
//! else, or whose service is gone, goes. They follow the services: the API server gives addresses
//! by the services alone, so that an object that comes late or is deleted gives no address away.
//! What others made without this controller's mark is left alone, unless a service has that
//! address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};

use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::queue::{Next, WorkQueue, start_workers};

const NAME: &str = "service-ip-address-controller";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGER: &str = "ipallocator.k8s.io";

/// Which service holds which address.
#[derive(Default)]
struct Holders(Mutex<HashMap<IpAddr, Key>>);

struct Addresses {
    client: Client,
    holders: Arc<Holders>,
    objects: Arc<Cache<IPAddress>>,
}

pub(crate) fn start(world: &World) {
    let queue: Arc<WorkQueue<Key>> = WorkQueue::new();
    let holders = Arc::new(Holders::default());
    let (on_service, held) = (queue.clone(), holders.clone());
    world.services.on_change(move |change| {
        let key = change.latest().map(|service| Key::of(&service.metadata));
        let of = |service: Option<&Arc<Service>>| service.map(|it| addresses(it));
        let (old, new) = (of(change.old).unwrap_or_default(), of(change.new).unwrap_or_default());
        let (Some(key), true) = (key, old != new) else { return };
        held.change(&key, &old, &new);
        for address in old.into_iter().chain(new) {
            on_service.add(Key::new("", &address.to_string()));
        }
    });
    queue.follow(&world.ip_addresses);
    let controller = Arc::new(Addresses {
        client: world.client.clone(),
        holders,
        objects: world.ip_addresses.clone(),
    });
    start_workers(world, (NAME, 2), &queue, move |key| {
        let controller = controller.clone();
        async move { controller.look(&key).await }
    });
}

impl Holders {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, service: &Key, old: &[IpAddr], new: &[IpAddr]) {
        let mut holders = self.lock();
        for address in old {
            // Another may have it by now.
            if holders.get(address) == Some(service) {
                holders.remove(address);
            }
        }
        holders.extend(new.iter().map(|address| (*address, service.clone())));
    }
}

impl Addresses {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let Ok(address) = key.name.parse::<IpAddr>() else { return Ok(Next::Rest) };
        let holder = self.holders.lock().get(&address).cloned();
        let wanted = holder.map(|holder| object(address, &holder));
        match (self.objects.get(key), wanted) {
            (None, Some(wanted)) => self.make(key, &wanted).await?,
            (Some(object), wanted) if is_wrong(&object, wanted.as_ref()) => {
                // It cannot change whom it belongs to. When it is gone it is made anew.
                self.remove(key, &object).await?;
            }
            _ => {}
        }
        Ok(Next::Rest)
    }

    fn api(&self) -> Api<IPAddress> {
        Api::all(self.client.clone())
    }

    async fn make(&self, key: &Key, wanted: &IPAddress) -> Result<(), SyncFailed> {
        let made = self.api().create(&PostParams::default(), wanted).await;
        if let Some(made) = made.unless_made("creating address", key)? {
            self.objects.written(made);
        }
        Ok(())
    }

    async fn remove(&self, key: &Key, object: &IPAddress) -> Result<(), SyncFailed> {
        let uid = object.metadata.uid.clone();
        let exactly = Preconditions { uid, resource_version: None };
        let params = DeleteParams::default().preconditions(exactly);
        self.api().delete(&key.name, &params).await.if_found("removing address", key).map(|_| ())
    }
}

fn addresses(service: &Service) -> Vec<IpAddr> {
    let listed = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
    listed.filter_map(|address| address.parse().ok()).collect()
}

fn object(address: IpAddr, holder: &Key) -> IPAddress {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let labels = [(FAMILY, family), (MANAGED_BY, MANAGER)];
    IPAddress {
        metadata: ObjectMeta {
            name: Some(address.to_string()),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: IPAddressSpec {
            parent_ref: ParentReference {
                group: None,
                name: holder.name.clone(),
                namespace: Some(holder.namespace.clone()),
                resource: "services".to_owned(),
            },
        },
    }
}

/// Whether it is to go.
fn is_wrong(object: &IPAddress, wanted: Option<&IPAddress>) -> bool {
    let parent = |object: &IPAddress| {
        let parent = object.spec.parent_ref.clone();
        (parent.resource, parent.namespace, parent.name)
    };
    match wanted {
        Some(wanted) => parent(object) != parent(wanted),
        None => {
            let labels = object.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == MANAGER)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_went_to_another_service_is_that_service_s() {
        let holders = Holders::default();
        let (first, second) = (Key::new("a", "first"), Key::new("a", "second"));
        let [v4, v6] = [address("10.9.0.7"), address("fd00::7")];
        holders.change(&first, &[], &[v4, v6]);
        // Told in another order than it happened.
        holders.change(&second, &[], &[v4]);
        holders.change(&first, &[v4, v6], &[]);
        assert_eq!(*holders.lock(), HashMap::from([(v4, second)]));
    }

    #[test]
    fn what_is_wrong() {
        let mine = object(address("10.9.0.7"), &Key::new("a", "s"));
        let mut foreign = mine.clone();
        foreign.metadata.labels = None;
        let other = object(address("10.9.0.7"), &Key::new("b", "s"));
        let table = [
            ("right", &mine, Some(&mine), false),
            ("right, without the mark", &foreign, Some(&mine), false),
            ("of another service", &other, Some(&mine), true),
            ("of a service that is gone", &mine, None, true),
            ("of somebody else", &foreign, None, false),
        ];
        for (name, object, wanted, expected) in table {
            assert_eq!(is_wrong(object, wanted), expected, "{name}");
        }
    }
}
