//! Validation, one function per kind, in the wording that Kubernetes users know.
//!
//! Guarantees: every problem of an object is reported at once, each with its field's path; nothing
//! panics on an object of any shape. Does not: look at other objects, or at JSON types (the decode
//! function of [`crate::resource::Resource`] does).

mod containers;
mod core_kinds;
mod field_error;
mod metadata;
mod names;
mod network;
mod options;
mod pod;
mod service_addresses;
mod volumes;
mod workload;

pub use field_error::FieldError;
pub use options::{field_manager, force_without_apply, manager_of_user_agent};

pub(crate) use core_kinds::{config_map, event, lease, namespace, node, secret, service_account};
pub(crate) use metadata::ANNOTATIONS_SIZE;
pub(crate) use names::{label_value, qualified_name};
pub(crate) use network::{endpoint_slice, endpoints, service};
pub(crate) use pod::pod;
pub(crate) use workload::{deployment, replica_set, replication_controller};

use field_error::{Errors, Path};

#[cfg(test)]
mod tests;
