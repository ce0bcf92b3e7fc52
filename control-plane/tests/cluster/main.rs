//! The control plane as a whole, in this process, over its real API: only the nodes are played.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod deletion;
mod disruption;
mod kubeconfig;
mod namespaces;
mod nodes;
mod plane;
mod quotas;
mod replication;
mod rollout;
mod scheduling;
mod service_addresses;
