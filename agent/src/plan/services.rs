//! Plan of the service maps.
//!
//! [`service_table`] turns Services and EndpointSlices into what the maps should hold; [`plan`]
//! compares it with what they do hold. Both are pure.
//!
//! Guarantees: a service whose backends are the same set gives no step, in whatever order they are
//! listed; removals come before additions. Terminating endpoints are used only while a service has
//! no ready one. Headless and ExternalName services have no virtual address and do not appear.
//! Not here: session affinity is carried along but not balanced by yet; IPv6 endpoints are skipped.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bowline_ebpf_abi::{Address, ServiceKey, U16Be, protocol};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// The DNS server of each node, on an address of its own loopback device.
pub const NODE_DNS: (Ipv4Addr, u16) = (Ipv4Addr::new(169, 254, 20, 10), 53);

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The API's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

/// Every virtual address and its backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTable {
    pub(crate) services: BTreeMap<ServiceKey, WantedService>,
}

/// One virtual address, port and protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedService {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    /// Each backend with the object that it is, where the slice says so (`namespace/name`).
    pub(crate) backends: BTreeMap<BackendAddress, Option<Arc<str>>>,
    /// Zero: none.
    pub(crate) affinity_seconds: u32,
}

/// Where a backend listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BackendAddress {
    pub(crate) address: Address,
    pub(crate) port: U16Be,
}

/// What the maps hold for one virtual address, as far as planning is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgrammedService {
    pub(crate) id: u32,
    pub(crate) first_slot: u32,
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
    let written = wanted.services.iter().filter_map(|(key, wanted)| match programmed.get(key) {
        None => Some(ServiceStep::Add { key: *key, wanted }),
        Some(now) if now.is(wanted) => None,
        Some(_) => Some(ServiceStep::Change { key: *key, wanted }),
    });
    removed.chain(written).collect()
}

impl ProgrammedService {
    fn is(&self, wanted: &WantedService) -> bool {
        self.affinity_seconds == wanted.affinity_seconds
            && self.backends.len() == wanted.backends.len()
            && self.backends.iter().eq(wanted.backends.keys())
    }
}

/// What the maps of node `node_name` should hold.
pub fn service_table<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node_name: &str,
) -> ServiceTable {
    let mut slices_of: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in slices {
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) {
            slices_of.entry((namespace, service)).or_default().push(slice);
        }
    }
    let mut table = ServiceTable::default();
    for service in services {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let slices = slices_of.get(&(namespace, name)).map_or(&[][..], Vec::as_slice);
        table.add(service, slices, node_name);
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

    /// Whether any port of this address is there.
    pub(crate) fn has_address(&self, address: Address) -> bool {
        let first = ServiceKey { address, ..ServiceKey::default() };
        self.services.range(first..).next().is_some_and(|(key, _)| key.address == address)
    }

    /// Adds one service with its own slices.
    pub fn add(&mut self, service: &Service, slices: &[&EndpointSlice], node_name: &str) {
        let Some(spec) = &service.spec else { return };
        if spec.type_.as_deref() == Some("ExternalName") {
            return;
        }
        let namespace: Arc<str> = service.metadata.namespace.as_deref().unwrap_or_default().into();
        let name: Arc<str> = service.metadata.name.as_deref().unwrap_or_default().into();
        let is_node_dns = &*namespace == "kube-system" && &*name == "kube-dns";
        let only_node =
            (spec.internal_traffic_policy.as_deref() == Some("Local")).then_some(node_name);
        for address in virtual_addresses(spec.cluster_ip.as_ref(), spec.cluster_ips.as_deref()) {
            for port in spec.ports.iter().flatten() {
                let Some(key) = service_key(address, port) else { continue };
                let backends = if is_node_dns {
                    let (address, port) = NODE_DNS;
                    let dns = BackendAddress { address: address.into(), port: U16Be::new(port) };
                    BTreeMap::from([(dns, None)])
                } else {
                    backends(slices, port, only_node)
                };
                self.services.entry(key).or_insert_with(|| WantedService {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    backends,
                    affinity_seconds: affinity_seconds(spec),
                });
            }
        }
    }
}

/// The virtual addresses; headless services have none.
fn virtual_addresses<'a>(
    first: Option<&'a String>,
    all: Option<&'a [String]>,
) -> impl Iterator<Item = IpAddr> + 'a {
    let all = all.unwrap_or_default();
    let first = first.filter(|first| !all.contains(first));
    first.into_iter().chain(all).filter_map(|text| text.parse().ok())
}

fn service_key(address: IpAddr, port: &ServicePort) -> Option<ServiceKey> {
    let number = u16::try_from(port.port).ok().filter(|port| *port != 0)?;
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => protocol::TCP,
        Some("UDP") => protocol::UDP,
        Some(_) => return None,
    };
    Some(ServiceKey::new(address.into(), U16Be::new(number), protocol))
}

fn affinity_seconds(spec: &k8s_openapi::api::core::v1::ServiceSpec) -> u32 {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return 0;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    u32::try_from(seconds).unwrap_or_default()
}

/// Whether an endpoint may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// For new connections.
    Ready,
    /// Only while nobody else is there.
    Terminating,
    /// Not at all.
    Never,
}

fn usable(endpoint: &Endpoint) -> Use {
    let Some(conditions) = &endpoint.conditions else { return Use::Ready };
    if conditions.ready.unwrap_or(true) {
        Use::Ready
    } else if conditions.terminating == Some(true) && conditions.serving != Some(false) {
        Use::Terminating
    } else {
        Use::Never
    }
}

fn backends(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    only_node: Option<&str>,
) -> BTreeMap<BackendAddress, Option<Arc<str>>> {
    let mut ready = BTreeMap::new();
    let mut terminating = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let Some(number) = target_port(slice, port) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            if only_node.is_some() && endpoint.node_name.as_deref() != only_node {
                continue;
            }
            let found = match usable(endpoint) {
                Use::Ready => &mut ready,
                Use::Terminating => &mut terminating,
                Use::Never => continue,
            };
            for address in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                let backend = BackendAddress { address: address.into(), port: U16Be::new(number) };
                found.insert(backend, target_name(endpoint));
            }
        }
    }
    if ready.is_empty() { terminating } else { ready }
}

/// The slice's number for a service's port: they share the name, and unnamed ones are named "".
fn target_port(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let wanted = port.name.as_deref().unwrap_or_default();
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let found = slice.ports.iter().flatten().find(|candidate| {
        candidate.name.as_deref().unwrap_or_default() == wanted
            && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    found?.port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

fn target_name(endpoint: &Endpoint) -> Option<Arc<str>> {
    let target = endpoint.target_ref.as_ref()?;
    let namespace = target.namespace.as_deref().unwrap_or_default();
    Some(format!("{namespace}/{}", target.name.as_deref()?).into())
}

#[cfg(test)]
#[path = "services/tests.rs"]
mod tests;
