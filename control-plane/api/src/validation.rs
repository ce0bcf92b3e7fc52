//! Validation, one function per kind, in the wording that Kubernetes users know.
//!
//! Guarantees: every problem of an object is reported at once, each with its field's path; nothing
//! panics on an object of any shape. Does not: look at other objects, or at JSON types (the decode
//! function of [`crate::resource::Resource`] does).

mod addresses;
mod affinity;
mod autoscaling;
mod batch;
mod claims;
mod containers;
mod core_kinds;
mod disruption;
mod endpoints;
mod environment;
mod equality;
mod events;
mod field_error;
mod ingress;
mod job_policies;
mod job_status;
mod limit_range;
mod metadata;
mod mounts;
mod names;
mod network_policy;
mod node;
mod node_selector;
mod options;
mod paths;
mod persistent_volumes;
mod pod;
mod pod_annotations;
mod pod_names;
mod pod_parts;
mod pod_resources;
mod pod_update;
mod probes;
mod projected;
mod quota;
mod requirements;
mod resource_names;
mod reviews;
mod scheduling;
mod security;
mod service;
mod service_addresses;
mod sets;
mod storage;
mod tolerations;
mod volume_sources;
mod volumes;
mod windows;
mod workload;

pub use field_error::FieldError;
pub use options::{
    AskedState, delete_alone, delete_options, dry_run, field_manager, field_validation,
    force_without_apply, list_options, manager_of_user_agent, watch_options,
};
pub use scheduling::SYSTEM_PRIORITY_CLASSES;

pub(crate) use addresses::{ip_address, service_cidr};
pub(crate) use autoscaling::horizontal_pod_autoscaler;
pub(crate) use batch::{cron_job, job};
pub(crate) use claims::persistent_volume_claim;
pub(crate) use core_kinds::{config_map, lease, namespace, secret, service_account};
pub(crate) use disruption::pod_disruption_budget;
pub(crate) use endpoints::{endpoint_slice, endpoints};
pub(crate) use events::{event, reported_event};
pub(crate) use ingress::{ingress, ingress_class};
pub(crate) use limit_range::limit_range;
pub(crate) use metadata::ANNOTATIONS_SIZE;
pub(crate) use names::{label_value, qualified_name};
pub(crate) use network_policy::network_policy;
pub(crate) use node::node;
pub(crate) use persistent_volumes::persistent_volume;
pub(crate) use pod::pod;
pub(crate) use pod_parts::{ephemeral_containers, resize};
pub(crate) use pod_resources::{aggregate, is_of_pods};
pub(crate) use quota::resource_quota;
pub(crate) use resource_names::{is_extended, is_huge_pages, is_native};
pub(crate) use reviews::{
    local_subject_access_review, self_subject_access_review, subject_access_review, token_request,
};
pub(crate) use scheduling::{priority_class, runtime_class};
pub(crate) use service::service;
pub(crate) use sets::{controller_revision, daemon_set, pod_template, stateful_set};
pub(crate) use storage::{
    csi_driver, csi_node, csi_storage_capacity, storage_class, volume_attachment,
};
pub(crate) use workload::{deployment, replica_set, replication_controller};

use field_error::{Errors, Path};

#[cfg(test)]
mod tests;
