//! The rows of the table.

mod networking;
mod quota;
mod reviews;
mod storage;
mod versions;
mod workloads;

use k8s_openapi::api::{apps, coordination, core, discovery, policy};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

pub use reviews::TOKEN_REQUEST;

use super::decode::decode;
use super::{Resource, ScalePaths, Subresource, fields};
use crate::{defaults, table, validation};

const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Of a part of an object.
const PART_VERBS: &[&str] = &["get", "patch", "update"];
/// A namespace is deleted one at a time: its content goes with it.
const NAMESPACE_VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

const SCALE: Option<ScalePaths> = Some(ScalePaths {
    spec_replicas: "/spec/replicas",
    status_replicas: "/status/replicas",
    selector: "/spec/selector",
});

fn add_schema<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

fn nothing(_: &mut Value) {}

fn carry_nothing(_: &mut Value, _: &Value) {}

/// What a row has unless it says otherwise.
const BASE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "",
    list_kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    stored: true,
    verbs: ALL_VERBS,
    status: false,
    status_on_create: false,
    generation: false,
    scale: None,
    graceful_delete: false,
    shows_deleted: false,
    subresources: &[],
    columns: &[],
    cells: table::no_cells,
    schema: "",
    conversion: None,
    decode: |_| Ok(()),
    initialize: nothing,
    carry_over: carry_nothing,
    apply_defaults: nothing,
    validate: |_, _| Vec::new(),
    fields: fields::none,
    add_schema: |_| {},
};

const NAMESPACE: Resource = Resource {
    kind: "Namespace",
    list_kind: "NamespaceList",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    verbs: NAMESPACE_VERBS,
    status: true,
    subresources: &[Subresource {
        name: "finalize",
        kind: "Namespace",
        group_version: ("", ""),
        verbs: &["update"],
    }],
    columns: table::NAMESPACE,
    cells: table::namespace,
    schema: "io.k8s.api.core.v1.Namespace",
    decode: decode::<core::v1::Namespace>,
    initialize: defaults::initialize_namespace,
    carry_over: defaults::carry_over_namespace,
    apply_defaults: defaults::namespace,
    validate: validation::namespace,
    fields: fields::namespace,
    add_schema: add_schema::<core::v1::Namespace>,
    ..BASE
};

const NODE: Resource = Resource {
    kind: "Node",
    list_kind: "NodeList",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    namespaced: false,
    status: true,
    status_on_create: true,
    columns: table::NODE,
    cells: table::node,
    schema: "io.k8s.api.core.v1.Node",
    decode: decode::<core::v1::Node>,
    apply_defaults: defaults::node,
    validate: validation::node,
    fields: fields::node,
    add_schema: add_schema::<core::v1::Node>,
    ..BASE
};

const POD: Resource = Resource {
    kind: "Pod",
    list_kind: "PodList",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    status: true,
    generation: true,
    graceful_delete: true,
    shows_deleted: true,
    subresources: &[
        Subresource {
            name: "binding",
            kind: "Binding",
            group_version: ("", ""),
            verbs: &["create"],
        },
        Subresource {
            name: "eviction",
            kind: "Eviction",
            group_version: ("policy", "v1"),
            verbs: &["create"],
        },
        Subresource {
            name: "ephemeralcontainers",
            kind: "Pod",
            group_version: ("", ""),
            verbs: PART_VERBS,
        },
        Subresource { name: "log", kind: "Pod", group_version: ("", ""), verbs: &["get"] },
        Subresource { name: "resize", kind: "Pod", group_version: ("", ""), verbs: PART_VERBS },
    ],
    columns: table::POD,
    cells: table::pod,
    schema: "io.k8s.api.core.v1.Pod",
    decode: decode::<core::v1::Pod>,
    initialize: defaults::initialize_pod,
    carry_over: defaults::carry_over_pod,
    apply_defaults: defaults::pod,
    validate: validation::pod,
    fields: fields::pod,
    add_schema: |generator| {
        add_schema::<core::v1::Pod>(generator);
        // What its subresources take.
        add_schema::<core::v1::Binding>(generator);
        add_schema::<policy::v1::Eviction>(generator);
    },
    ..BASE
};

/// What `pods/binding` takes, for all pods of a namespace in one place.
const BINDING: Resource = Resource {
    kind: "Binding",
    plural: "bindings",
    singular: "binding",
    stored: false,
    verbs: &["create"],
    schema: "io.k8s.api.core.v1.Binding",
    decode: decode::<core::v1::Binding>,
    add_schema: add_schema::<core::v1::Binding>,
    ..BASE
};

const REPLICATION_CONTROLLER: Resource = Resource {
    kind: "ReplicationController",
    list_kind: "ReplicationControllerList",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    status: true,
    generation: true,
    scale: SCALE,
    columns: table::REPLICATION_CONTROLLER,
    cells: table::replication_controller,
    schema: "io.k8s.api.core.v1.ReplicationController",
    decode: decode::<core::v1::ReplicationController>,
    apply_defaults: defaults::replication_controller,
    validate: validation::replication_controller,
    fields: fields::replicas,
    add_schema: add_schema::<core::v1::ReplicationController>,
    ..BASE
};

const SERVICE: Resource = Resource {
    kind: "Service",
    list_kind: "ServiceList",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    status: true,
    shows_deleted: true,
    columns: table::SERVICE,
    cells: table::service,
    schema: "io.k8s.api.core.v1.Service",
    decode: decode::<core::v1::Service>,
    carry_over: defaults::carry_over_service,
    apply_defaults: defaults::service,
    validate: validation::service,
    fields: fields::service,
    add_schema: add_schema::<core::v1::Service>,
    ..BASE
};

const ENDPOINTS: Resource = Resource {
    kind: "Endpoints",
    list_kind: "EndpointsList",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    columns: table::ENDPOINTS,
    cells: table::endpoints,
    schema: "io.k8s.api.core.v1.Endpoints",
    decode: decode::<core::v1::Endpoints>,
    apply_defaults: defaults::endpoints,
    validate: validation::endpoints,
    add_schema: add_schema::<core::v1::Endpoints>,
    ..BASE
};

const CONFIG_MAP: Resource = Resource {
    kind: "ConfigMap",
    list_kind: "ConfigMapList",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    columns: table::CONFIG_MAP,
    cells: table::config_map,
    schema: "io.k8s.api.core.v1.ConfigMap",
    decode: decode::<core::v1::ConfigMap>,
    validate: validation::config_map,
    add_schema: add_schema::<core::v1::ConfigMap>,
    ..BASE
};

const SECRET: Resource = Resource {
    kind: "Secret",
    list_kind: "SecretList",
    plural: "secrets",
    singular: "secret",
    columns: table::SECRET,
    cells: table::secret,
    schema: "io.k8s.api.core.v1.Secret",
    decode: decode::<core::v1::Secret>,
    apply_defaults: defaults::secret,
    validate: validation::secret,
    fields: fields::secret,
    add_schema: add_schema::<core::v1::Secret>,
    ..BASE
};

const SERVICE_ACCOUNT: Resource = Resource {
    kind: "ServiceAccount",
    list_kind: "ServiceAccountList",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    subresources: &[Subresource {
        name: "token",
        kind: "TokenRequest",
        group_version: ("authentication.k8s.io", "v1"),
        verbs: &["create"],
    }],
    shows_deleted: true,
    columns: table::SERVICE_ACCOUNT,
    cells: table::service_account,
    schema: "io.k8s.api.core.v1.ServiceAccount",
    decode: decode::<core::v1::ServiceAccount>,
    validate: validation::service_account,
    add_schema: |generator| {
        add_schema::<core::v1::ServiceAccount>(generator);
        (TOKEN_REQUEST.add_schema)(generator);
    },
    ..BASE
};

const EVENT: Resource = Resource {
    kind: "Event",
    list_kind: "EventList",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    columns: table::EVENT,
    cells: table::event,
    schema: "io.k8s.api.core.v1.Event",
    decode: decode::<core::v1::Event>,
    validate: validation::event,
    fields: fields::event,
    add_schema: add_schema::<core::v1::Event>,
    ..BASE
};

const REPLICA_SET: Resource = Resource {
    group: "apps",
    kind: "ReplicaSet",
    list_kind: "ReplicaSetList",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    status: true,
    generation: true,
    scale: SCALE,
    columns: table::REPLICA_SET,
    cells: table::replica_set,
    schema: "io.k8s.api.apps.v1.ReplicaSet",
    decode: decode::<apps::v1::ReplicaSet>,
    apply_defaults: defaults::replica_set,
    validate: validation::replica_set,
    fields: fields::replicas,
    add_schema: add_schema::<apps::v1::ReplicaSet>,
    ..BASE
};

const DEPLOYMENT: Resource = Resource {
    group: "apps",
    kind: "Deployment",
    list_kind: "DeploymentList",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    status: true,
    generation: true,
    scale: SCALE,
    columns: table::DEPLOYMENT,
    cells: table::deployment,
    schema: "io.k8s.api.apps.v1.Deployment",
    decode: decode::<apps::v1::Deployment>,
    apply_defaults: defaults::deployment,
    validate: validation::deployment,
    add_schema: add_schema::<apps::v1::Deployment>,
    ..BASE
};

const ENDPOINT_SLICE: Resource = Resource {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    list_kind: "EndpointSliceList",
    plural: "endpointslices",
    singular: "endpointslice",
    generation: true,
    columns: table::ENDPOINT_SLICE,
    cells: table::endpoint_slice,
    schema: "io.k8s.api.discovery.v1.EndpointSlice",
    decode: decode::<discovery::v1::EndpointSlice>,
    apply_defaults: defaults::endpoint_slice,
    validate: validation::endpoint_slice,
    add_schema: add_schema::<discovery::v1::EndpointSlice>,
    ..BASE
};

const LEASE: Resource = Resource {
    group: "coordination.k8s.io",
    kind: "Lease",
    list_kind: "LeaseList",
    plural: "leases",
    singular: "lease",
    columns: table::LEASE,
    cells: table::lease,
    schema: "io.k8s.api.coordination.v1.Lease",
    decode: decode::<coordination::v1::Lease>,
    validate: validation::lease,
    add_schema: add_schema::<coordination::v1::Lease>,
    ..BASE
};

/// Every kind that is served, of a kind with several versions the preferred one first.
pub static RESOURCES: &[Resource] = &[
    BINDING,
    CONFIG_MAP,
    ENDPOINTS,
    EVENT,
    NAMESPACE,
    NODE,
    POD,
    workloads::POD_TEMPLATE,
    REPLICATION_CONTROLLER,
    SECRET,
    SERVICE_ACCOUNT,
    SERVICE,
    quota::LIMIT_RANGE,
    quota::RESOURCE_QUOTA,
    storage::PERSISTENT_VOLUME,
    storage::PERSISTENT_VOLUME_CLAIM,
    workloads::CONTROLLER_REVISION,
    workloads::DAEMON_SET,
    DEPLOYMENT,
    REPLICA_SET,
    workloads::STATEFUL_SET,
    versions::EVENT,
    reviews::SELF_SUBJECT_REVIEW,
    reviews::TOKEN_REVIEW,
    reviews::LOCAL_SUBJECT_ACCESS_REVIEW,
    reviews::SELF_SUBJECT_ACCESS_REVIEW,
    reviews::SELF_SUBJECT_RULES_REVIEW,
    reviews::SUBJECT_ACCESS_REVIEW,
    workloads::HORIZONTAL_POD_AUTOSCALER,
    versions::HORIZONTAL_POD_AUTOSCALER,
    workloads::CRON_JOB,
    workloads::JOB,
    workloads::POD_DISRUPTION_BUDGET,
    workloads::PRIORITY_CLASS,
    LEASE,
    workloads::RUNTIME_CLASS,
    ENDPOINT_SLICE,
    networking::INGRESS,
    networking::INGRESS_CLASS,
    networking::IP_ADDRESS,
    networking::NETWORK_POLICY,
    networking::SERVICE_CIDR,
    storage::CSI_DRIVER,
    storage::CSI_NODE,
    storage::CSI_STORAGE_CAPACITY,
    storage::STORAGE_CLASS,
    storage::VOLUME_ATTACHMENT,
];
