//! Endpoint slices in a form of a few dozen bytes an endpoint.
//!
//! The typed form of one endpoint takes most of a kilobyte, and a large cluster has a hundred
//! thousand of them on every node. Here an endpoint is one address with the facts that plans and
//! the DNS server read; what many endpoints have in common (node names, hints, ports) is held once.
//!
//! Not here: what nobody reads, such as an endpoint's own zone (its hints say who may use it).

use std::{borrow::Borrow, collections::HashSet, hash::Hash, net::IpAddr, sync::Arc};

use k8s_openapi::api::{
    core::v1::ServicePort,
    discovery::v1::{self, EndpointSlice},
};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

/// An endpoint slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slice {
    pub(super) name: Box<str>,
    /// uid and resource version; `None` where the object has none.
    version: Option<Box<str>>,
    pub(crate) ports: Arc<[Port]>,
    /// Those whose addresses are of the slice's own address type.
    pub(crate) endpoints: Box<[Endpoint]>,
}

/// A port of a service, or of all endpoints of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Port {
    /// Empty for the only port of a service.
    pub(crate) name: Box<str>,
    /// As the API writes it: `TCP`, `UDP` or `SCTP`.
    pub(crate) protocol: Box<str>,
    pub(crate) number: u16,
}

/// One address that answers for a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    /// Conditions, with the API's defaults for what is not said.
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) hostname: Option<Box<str>>,
    /// `namespace/name` of the pod.
    pub(crate) target: Option<Arc<str>>,
    pub(crate) node: Option<Arc<str>>,
    /// Topology hints: the zones and the nodes that are to use it.
    pub(crate) for_zones: Option<Arc<[Arc<str>]>>,
    pub(crate) for_nodes: Option<Arc<[Arc<str>]>>,
}

/// What slices, and services, have in common, held once.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    names: HashSet<Arc<str>>,
    lists: HashSet<Arc<[Arc<str>]>>,
    ports: HashSet<Arc<[Port]>>,
}

impl Shared {
    fn name(&mut self, name: &str) -> Arc<str> {
        shared(&mut self.names, name)
    }

    fn list<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> Option<Arc<[Arc<str>]>> {
        let names: Vec<Arc<str>> = names.map(|name| self.name(name)).collect();
        (!names.is_empty()).then(|| shared(&mut self.lists, names.as_slice()))
    }

    pub(super) fn ports(&mut self, ports: &[Port]) -> Arc<[Port]> {
        shared(&mut self.ports, ports)
    }

    /// Lets go of what nobody holds any more.
    pub(crate) fn forget_unused(&mut self) {
        self.lists.retain(|held| Arc::strong_count(held) > 1);
        self.names.retain(|held| Arc::strong_count(held) > 1);
        self.ports.retain(|held| Arc::strong_count(held) > 1);
    }
}

fn shared<T>(held: &mut HashSet<Arc<T>>, wanted: &T) -> Arc<T>
where
    T: ?Sized + Hash + Eq,
    Arc<T>: for<'a> From<&'a T> + Borrow<T>,
{
    if let Some(known) = held.get(wanted) {
        return known.clone();
    }
    let new = Arc::<T>::from(wanted);
    held.insert(new.clone());
    new
}

impl Slice {
    /// The compact form of an object.
    pub(crate) fn new(object: &EndpointSlice, shared_parts: &mut Shared) -> Self {
        let ports: Vec<Port> = object.ports.iter().flatten().filter_map(Port::of_slice).collect();
        let endpoints: Vec<Endpoint> = object
            .endpoints
            .iter()
            .flatten()
            .flat_map(|endpoint| Endpoint::each(endpoint, &object.address_type, shared_parts))
            .collect();
        Self {
            name: object.name_any().into(),
            version: version(object),
            ports: shared_parts.ports(&ports),
            endpoints: endpoints.into_boxed_slice(),
        }
    }

    /// Whether this is the same version of the same object.
    pub(crate) fn is(&self, object: &EndpointSlice) -> bool {
        self.version.is_some() && self.version == version(object)
    }
}

/// What tells versions of objects apart: uid and resource version.
pub(super) fn version(object: &impl ResourceExt) -> Option<Box<str>> {
    let revision = object.resource_version()?;
    Some(format!("{}/{revision}", object.uid().unwrap_or_default()).into())
}

impl Port {
    fn of_slice(port: &v1::EndpointPort) -> Option<Self> {
        Self::new(port.name.as_deref(), port.protocol.as_deref(), port.port?)
    }

    pub(super) fn of_service(port: &ServicePort) -> Option<Self> {
        Self::new(port.name.as_deref(), port.protocol.as_deref(), port.port)
    }

    fn new(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Self> {
        Some(Self {
            name: name.unwrap_or_default().into(),
            protocol: protocol.unwrap_or("TCP").into(),
            number: u16::try_from(number).ok().filter(|number| *number != 0)?,
        })
    }
}

impl Endpoint {
    /// One for each address of the wanted type; the API says that all of an endpoint's addresses
    /// lead to the same place.
    fn each(endpoint: &v1::Endpoint, address_type: &str, shared_parts: &mut Shared) -> Vec<Self> {
        let said = endpoint.conditions.as_ref();
        let ready = said.and_then(|said| said.ready).unwrap_or(true);
        let hints = endpoint.hints.as_ref();
        let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
        let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
        let target = endpoint.target_ref.as_ref().and_then(|target| {
            let namespace = target.namespace.as_deref().unwrap_or_default();
            Some(Arc::from(format!("{namespace}/{}", target.name.as_deref()?)))
        });
        let all = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        all.filter(|address| match address {
            IpAddr::V4(_) => address_type == "IPv4",
            IpAddr::V6(_) => address_type == "IPv6",
        })
        .map(|address| Self {
            address,
            ready,
            serving: said.and_then(|said| said.serving).unwrap_or(true),
            terminating: said.and_then(|said| said.terminating).unwrap_or(false),
            hostname: endpoint.hostname.as_deref().filter(|name| !name.is_empty()).map(Into::into),
            target: target.clone(),
            node: endpoint.node_name.as_deref().map(|name| shared_parts.name(name)),
            for_zones: shared_parts.list(zones.iter().map(|zone| zone.name.as_str())),
            for_nodes: shared_parts.list(nodes.iter().map(|node| node.name.as_str())),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn endpoints_of_the_slice_s_own_family_come_with_their_defaults() {
        let object: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "uid": "u", "resourceVersion": "7"},
            "addressType": "IPv6",
            "ports": [{"port": 80}, {"name": "all"}],
            "endpoints": [
                {"addresses": ["fd00::1", "10.240.0.1"], "nodeName": "node1"},
                {"addresses": ["fd00::2"], "nodeName": "node1",
                 "conditions": {"ready": false, "terminating": true},
                 "hints": {"forZones": [{"name": "a"}]}}]
        }))
        .unwrap();
        let mut parts = Shared::default();
        let slice = Slice::new(&object, &mut parts);
        let [first, second] = &*slice.endpoints else { panic!("{slice:?}") };
        assert_eq!(first.address, "fd00::1".parse::<IpAddr>().unwrap());
        assert_eq!((first.ready, first.serving, first.terminating), (true, true, false));
        assert_eq!((second.ready, second.serving, second.terminating), (false, true, true));
        assert!(Arc::ptr_eq(first.node.as_ref().unwrap(), second.node.as_ref().unwrap()));
        assert_eq!(second.for_zones.as_deref(), Some(&["a".into()][..]));
        let port = Port { name: "".into(), protocol: "TCP".into(), number: 80 };
        assert_eq!(&*slice.ports, [port]);
        assert!(slice.is(&object));
        drop(slice);
        parts.forget_unused();
        parts.forget_unused();
        assert!(parts.names.is_empty() && parts.lists.is_empty() && parts.ports.is_empty());
    }

    #[test]
    fn an_endpoint_is_small() {
        assert!(size_of::<Endpoint>() <= 120, "{}", size_of::<Endpoint>());
    }
}
