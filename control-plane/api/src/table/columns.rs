//! The columns of every kind.

use super::Column;

pub(super) const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", description, priority: 0 }
}

pub(super) const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", description, priority: 1 }
}

pub(super) const fn number(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "integer", format: "", description, priority: 0 }
}

pub(super) const fn boolean(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "boolean", format: "", description, priority: 0 }
}

pub(super) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
};
pub(super) const AGE: Column = text("Age", "The time since the object was created.");
pub(super) const CONTAINERS: Column = wide("Containers", "The names of the template's containers.");
pub(super) const IMAGES: Column = wide("Images", "The images of the template's containers.");
pub(super) const SELECTOR: Column = wide("Selector", "The labels of the pods that belong to it.");

pub(crate) const POD: &[Column] = &[
    NAME,
    text("Ready", "How many of the pod's containers are ready."),
    text("Status", "The state of the pod and its containers in one word."),
    text("Restarts", "How often containers were restarted, and when last."),
    AGE,
    wide("IP", "The pod's address."),
    wide("Node", "The node that the pod is bound to."),
    wide("Nominated Node", "The node that the pod may get after a preemption."),
    wide("Readiness Gates", "How many of the pod's readiness gates are open."),
];

pub(crate) const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    number("Desired", "How many pods are wanted."),
    number("Current", "How many pods there are."),
    number("Ready", "How many pods are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const REPLICA_SET: &[Column] = REPLICATION_CONTROLLER;

pub(crate) const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", "How many of the wanted pods are ready."),
    text("Up-to-date", "How many pods have the newest template."),
    text("Available", "How many pods have been ready for long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const SERVICE: &[Column] = &[
    NAME,
    text("Type", "How the service is exposed."),
    text("Cluster-IP", "The service's address inside the cluster."),
    text("External-IP", "The service's addresses outside the cluster."),
    text("Port(s)", "The ports that the service listens on."),
    AGE,
    SELECTOR,
];

pub(crate) const ENDPOINTS: &[Column] =
    &[NAME, text("Endpoints", "The addresses and ports of the ready pods."), AGE];

pub(crate) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    text("AddressType", "What kind of addresses the slice holds."),
    text("Ports", "The ports of every endpoint."),
    text("Endpoints", "The addresses of the endpoints."),
    AGE,
];

pub(crate) const NODE: &[Column] = &[
    NAME,
    text("Status", "Whether the node is ready, and whether it takes new pods."),
    text("Roles", "The roles of the node."),
    AGE,
    text("Version", "The version of the node's agent."),
    wide("Internal-IP", "The node's address inside the cluster's network."),
    wide("External-IP", "The node's address outside."),
    wide("OS-Image", "The node's operating system."),
    wide("Kernel-Version", "The node's kernel."),
    wide("Container-Runtime", "The node's container runtime."),
];

pub(crate) const NAMESPACE: &[Column] =
    &[NAME, text("Status", "Whether the namespace is in use or going away."), AGE];

pub(crate) const SECRET: &[Column] = &[
    NAME,
    text("Type", "What the secret holds."),
    number("Data", "How many keys the secret has."),
    AGE,
];

pub(crate) const CONFIG_MAP: &[Column] =
    &[NAME, number("Data", "How many keys the config map has."), AGE];

pub(crate) const SERVICE_ACCOUNT: &[Column] =
    &[NAME, number("Secrets", "How many secrets belong to the account."), AGE];

pub(crate) const EVENT: &[Column] = &[
    text("Last Seen", "The time since it last happened."),
    text("Type", "Normal or Warning."),
    text("Reason", "Why it happened, in one word."),
    text("Object", "The object that it is about."),
    wide("Subobject", "The part of the object that it is about."),
    wide("Source", "Who reported it."),
    text("Message", "What happened."),
    wide("First Seen", "The time since it first happened."),
    wide("Count", "How often it happened."),
    Column { priority: 1, ..NAME },
];

pub(crate) const LEASE: &[Column] = &[NAME, text("Holder", "Who holds the lease."), AGE];
