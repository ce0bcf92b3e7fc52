//! What a bowline API object is.
//!
//! One table of [`resource::RESOURCES`] says which kinds exist; everything the API server does
//! with an object (decode, default, validate, select, patch, apply, print, describe, convert) is a
//! pure function here, over `serde_json::Value`.
//!
//! Guarantees: no I/O, no clock, no randomness; time and random suffixes are arguments. A kind is
//! added with a row in the table, a defaulting function and a validation function; a version of a
//! kind with a row and a conversion.
//!
//! Does not: store, authorize, watch, or fill in what needs other objects (cluster IPs, admission).

pub mod amounts;
pub mod cidr;
mod convert;
mod defaults;
pub mod discovery;
pub mod happening;
pub mod managed;
#[cfg(test)]
mod manifests;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod pod_parts;
pub mod quantity;
pub mod quota;
pub mod resource;
mod schedule;
mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod taints;
pub mod validation;

/// The namespace in which agents keep their leases.
pub const NODE_LEASES: &str = "kube-node-lease";
