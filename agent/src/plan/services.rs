//! Plan of the service maps.
//!
//! [`wanted_of`] says what one service wants of the maps of one node, [`claims::Claims`] turns
//! changed services into changed entries, and [`plan`] and [`plan_changes`] compare those with what
//! is programmed. All of it is pure.
//!
//! Guarantees: a service whose backends are the same set gives no step, in whatever order they are
//! listed; removals come before additions. Which endpoints are used is said in [`endpoints`].
//! Headless and ExternalName services have no virtual address and do not appear; nor do SCTP
//! ports, which this data plane does not balance.

pub(crate) mod claims;
mod endpoints;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use bowline_ebpf_abi::{Address, ServiceKey, U16Be, protocol};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::config::{DNS_ADDRESS, DNS_ADDRESS_V6, DNS_PORT};
use crate::watch::{Port, ServiceFacts, ServiceKey as ServiceName, Shared, Slice, owner_of};
pub use claims::ServiceChanges;
use claims::Wanted;
use endpoints::{Backends, Wish};

/// The label of a node that says where it is.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Where a node is, as far as services are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(crate) node: Arc<str>,
    pub(crate) zone: Option<Arc<str>>,
}

impl Place {
    /// The place of the node `name`, of which `node` is what the API says.
    pub fn new(name: &str, node: Option<&Node>) -> Self {
        let labels = node.and_then(|node| node.metadata.labels.as_ref());
        let zone = labels.and_then(|labels| labels.get(ZONE_LABEL)).filter(|zone| !zone.is_empty());
        Self { node: name.into(), zone: zone.map(|zone| zone.as_str().into()) }
    }
}

/// A node without a zone.
impl From<&str> for Place {
    fn from(name: &str) -> Self {
        Self::new(name, None)
    }
}

/// Every virtual address and its backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTable {
    pub(crate) services: BTreeMap<ServiceKey, WantedService>,
}

/// One virtual address, port and protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WantedService {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    /// Each backend with the object that it is, where the slice says so (`namespace/name`).
    pub(crate) backends: Backends,
    /// Endpoints that serve but are not used: they terminate while others are ready, or are others'
    /// by their hints. UDP only, whose sockets must know who is gone.
    pub(crate) lingering: Vec<BackendAddress>,
    /// Zero: none.
    pub(crate) affinity_seconds: u32,
}

/// Where a backend listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BackendAddress {
    pub(crate) address: Address,
    pub(crate) port: U16Be,
}

impl BackendAddress {
    pub(crate) fn is(&self, address: &Address, port: u16) -> bool {
        self.address == *address && self.port.get() == port
    }
}

/// What the maps hold for one virtual address, as far as planning is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgrammedService {
    pub(crate) id: u32,
    pub(crate) first_slot: u32,
    /// As many as there are backends, unless somebody damaged the maps.
    pub(crate) slot_count: u32,
    pub(crate) affinity_seconds: u32,
    /// Sorted, each once.
    pub(crate) backends: Vec<BackendAddress>,
}

/// One change of the service maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceStep<'a> {
    Remove { key: ServiceKey },
    Add { key: ServiceKey, wanted: &'a WantedService },
    Change { key: ServiceKey, wanted: &'a WantedService },
}

impl ServiceStep<'_> {
    pub(crate) fn key(&self) -> &ServiceKey {
        match self {
            Self::Remove { key } | Self::Add { key, .. } | Self::Change { key, .. } => key,
        }
    }
}

/// The steps from what is programmed to what is wanted.
pub(crate) fn plan<'a>(
    wanted: &'a ServiceTable,
    programmed: &BTreeMap<ServiceKey, ProgrammedService>,
) -> Vec<ServiceStep<'a>> {
    let removed = programmed
        .keys()
        .filter(|key| !wanted.services.contains_key(key))
        .map(|key| ServiceStep::Remove { key: *key });
    removed.chain(writes(wanted, programmed)).collect()
}

/// The steps that some changes take.
pub(crate) fn plan_changes<'a>(
    changes: &'a ServiceChanges,
    programmed: &BTreeMap<ServiceKey, ProgrammedService>,
) -> Vec<ServiceStep<'a>> {
    let removed = changes.removed.iter().filter(|key| programmed.contains_key(key));
    let removed = removed.map(|key| ServiceStep::Remove { key: *key });
    removed.chain(writes(&changes.put, programmed)).collect()
}

fn writes<'a>(
    wanted: &'a ServiceTable,
    programmed: &BTreeMap<ServiceKey, ProgrammedService>,
) -> impl Iterator<Item = ServiceStep<'a>> {
    wanted.services.iter().filter_map(|(key, wanted)| match programmed.get(key) {
        None => Some(ServiceStep::Add { key: *key, wanted }),
        Some(now) if now.is(wanted) => None,
        Some(_) => Some(ServiceStep::Change { key: *key, wanted }),
    })
}

impl ProgrammedService {
    fn is(&self, wanted: &WantedService) -> bool {
        self.affinity_seconds == wanted.affinity_seconds
            && self.slot_count as usize == wanted.backends.len()
            && self.backends.iter().eq(wanted.backends.keys())
    }
}

/// What the maps of a node should hold.
pub fn service_table<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    place: impl Into<Place>,
) -> ServiceTable {
    let (place, mut shared) = (place.into(), Shared::default());
    let mut slices_of: HashMap<ServiceName, Vec<Slice>> = HashMap::new();
    for slice in slices {
        if let Some(service) = owner_of(slice) {
            slices_of.entry(service).or_default().push(Slice::new(slice, &mut shared));
        }
    }
    let mut table = ServiceTable::default();
    for service in services {
        let service = ServiceFacts::new(service, &mut shared);
        let slices = slices_of.get(&service.key).map_or(&[][..], Vec::as_slice);
        for (key, wanted) in wanted_of(&service, slices, &place) {
            table.services.entry(key).or_insert(wanted);
        }
    }
    table
}

impl ServiceTable {
    /// How many virtual addresses (address, port, protocol) the table has.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }
}

/// What a service with these slices wants of the maps of a node.
pub(crate) fn wanted_of<'a, S>(service: &ServiceFacts, slices: S, place: &Place) -> Wanted
where
    S: IntoIterator<Item = &'a Slice> + Clone,
{
    let ServiceName { namespace, name } = &service.key;
    let is_node_dns = &**namespace == "kube-system" && &**name == "kube-dns";
    let only_local = service.only_local;
    let mut wanted = Wanted::new();
    for &address in &service.addresses {
        for port in &*service.ports {
            let Some(key) = service_key(address, port) else { continue };
            let mut lingering = Vec::new();
            let backends = if is_node_dns {
                BTreeMap::from([(node_dns(address), None)])
            } else {
                let wish = Wish { address, port, only_local, place };
                let backends = wish.backends(slices.clone().into_iter());
                if key.protocol == protocol::UDP {
                    lingering = wish.serving(slices.clone().into_iter());
                    lingering.retain(|backend| !backends.contains_key(backend));
                }
                backends
            };
            let (namespace, name) = (namespace.clone(), name.clone());
            let affinity_seconds = service.affinity_seconds;
            wanted.push((
                key,
                WantedService { namespace, name, backends, lingering, affinity_seconds },
            ));
        }
    }
    wanted
}

/// The DNS server of the node itself, at its address of the same family as `like`.
fn node_dns(like: IpAddr) -> BackendAddress {
    let address: IpAddr = match like {
        IpAddr::V4(_) => DNS_ADDRESS.into(),
        IpAddr::V6(_) => DNS_ADDRESS_V6.into(),
    };
    BackendAddress { address: address.into(), port: U16Be::new(DNS_PORT) }
}

fn service_key(address: IpAddr, port: &Port) -> Option<ServiceKey> {
    let protocol = match &*port.protocol {
        "TCP" => protocol::TCP,
        "UDP" => protocol::UDP,
        _ => return None,
    };
    Some(ServiceKey::new(address.into(), U16Be::new(port.number), protocol))
}

#[cfg(test)]
#[path = "services/tests.rs"]
mod tests;
