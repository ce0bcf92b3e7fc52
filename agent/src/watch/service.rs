//! Services in a form of a few hundred bytes.
//!
//! The typed form of a service takes kilobytes, and every node holds all of them. Here are the
//! facts that plans and the DNS server read, with the API's defaults for what is not said.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use super::{
    services::ServiceKey,
    slice::{Port, Shared, version},
};

/// The API's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

/// What a service is made of, as far as a node is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceFacts {
    pub(crate) key: ServiceKey,
    /// uid and resource version; `None` where the object has none.
    version: Option<Box<str>>,
    /// The cluster addresses, in order, each once. None if it is headless or stands for a name
    /// outside.
    pub(crate) addresses: Box<[IpAddr]>,
    /// Whether it was made without cluster addresses on purpose.
    pub(crate) is_headless: bool,
    /// What a service of type ExternalName stands for.
    pub(crate) external_name: Option<Box<str>>,
    pub(crate) ports: Arc<[Port]>,
    /// `internalTrafficPolicy: Local`.
    pub(crate) only_local: bool,
    /// `publishNotReadyAddresses`.
    pub(crate) unready_too: bool,
    /// `sessionAffinity: ClientIP` with its timeout; zero: none.
    pub(crate) affinity_seconds: u32,
}

impl ServiceFacts {
    /// The compact form of an object.
    pub(crate) fn new(object: &Service, shared: &mut Shared) -> Self {
        let none = ServiceSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        let is_external = spec.type_.as_deref() == Some("ExternalName");
        let external = spec.external_name.as_deref().filter(|_| is_external);
        let ports: Vec<Port> = spec.ports.iter().flatten().filter_map(Port::of_service).collect();
        Self {
            key: name_of(object),
            version: version(object),
            addresses: if is_external { Box::default() } else { cluster_addresses(spec) },
            is_headless: spec.cluster_ip.as_deref() == Some("None"),
            external_name: external.map(Into::into),
            ports: shared.ports(&ports),
            only_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            unready_too: spec.publish_not_ready_addresses.unwrap_or(false),
            affinity_seconds: affinity_seconds(spec),
        }
    }

    /// Whether this is the same version of the same object.
    pub(crate) fn is(&self, object: &Service) -> bool {
        self.version.is_some() && self.version == version(object)
    }
}

/// Namespace and name of a service.
pub(super) fn name_of(service: &Service) -> ServiceKey {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    ServiceKey { namespace: namespace.into(), name: service.name_any().into() }
}

fn cluster_addresses(spec: &ServiceSpec) -> Box<[IpAddr]> {
    let many = spec.cluster_ips.iter().flatten();
    let all = many.chain(spec.cluster_ip.as_ref()).filter_map(|text| text.parse().ok());
    all.collect::<BTreeSet<IpAddr>>().into_iter().collect()
}

fn affinity_seconds(spec: &ServiceSpec) -> u32 {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return 0;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    u32::try_from(seconds).unwrap_or_default()
}
