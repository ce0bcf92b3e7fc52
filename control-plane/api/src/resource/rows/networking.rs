//! Ways in from outside, what may reach a pod, and the addresses of services.

use k8s_openapi::api::networking;

use super::{BASE, add_schema};
use crate::resource::{Resource, decode::decode};
use crate::{defaults, table, validation};

const NETWORKING: Resource = Resource { group: "networking.k8s.io", ..BASE };

pub(super) const INGRESS: Resource = Resource {
    kind: "Ingress",
    list_kind: "IngressList",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    status: true,
    generation: true,
    columns: table::INGRESS,
    cells: table::ingress,
    schema: "io.k8s.api.networking.v1.Ingress",
    decode: decode::<networking::v1::Ingress>,
    apply_defaults: defaults::ingress,
    validate: validation::ingress,
    add_schema: add_schema::<networking::v1::Ingress>,
    ..NETWORKING
};

pub(super) const INGRESS_CLASS: Resource = Resource {
    kind: "IngressClass",
    list_kind: "IngressClassList",
    plural: "ingressclasses",
    singular: "ingressclass",
    namespaced: false,
    generation: true,
    columns: table::INGRESS_CLASS,
    cells: table::ingress_class,
    schema: "io.k8s.api.networking.v1.IngressClass",
    decode: decode::<networking::v1::IngressClass>,
    apply_defaults: defaults::ingress_class,
    validate: validation::ingress_class,
    add_schema: add_schema::<networking::v1::IngressClass>,
    ..NETWORKING
};

pub(super) const NETWORK_POLICY: Resource = Resource {
    kind: "NetworkPolicy",
    list_kind: "NetworkPolicyList",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    generation: true,
    columns: table::NETWORK_POLICY,
    cells: table::network_policy,
    schema: "io.k8s.api.networking.v1.NetworkPolicy",
    decode: decode::<networking::v1::NetworkPolicy>,
    apply_defaults: defaults::network_policy,
    validate: validation::network_policy,
    add_schema: add_schema::<networking::v1::NetworkPolicy>,
    ..NETWORKING
};

pub(super) const IP_ADDRESS: Resource = Resource {
    kind: "IPAddress",
    list_kind: "IPAddressList",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    namespaced: false,
    columns: table::IP_ADDRESS,
    cells: table::ip_address,
    schema: "io.k8s.api.networking.v1.IPAddress",
    decode: decode::<networking::v1::IPAddress>,
    validate: validation::ip_address,
    add_schema: add_schema::<networking::v1::IPAddress>,
    ..NETWORKING
};

pub(super) const SERVICE_CIDR: Resource = Resource {
    kind: "ServiceCIDR",
    list_kind: "ServiceCIDRList",
    plural: "servicecidrs",
    singular: "servicecidr",
    namespaced: false,
    status: true,
    columns: table::SERVICE_CIDR,
    cells: table::service_cidr,
    schema: "io.k8s.api.networking.v1.ServiceCIDR",
    decode: decode::<networking::v1::ServiceCIDR>,
    apply_defaults: defaults::service_cidr,
    validate: validation::service_cidr,
    add_schema: add_schema::<networking::v1::ServiceCIDR>,
    ..NETWORKING
};
