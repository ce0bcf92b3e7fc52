//! Local clusters: a server and nodes on one machine, each node a network namespace.
//!
//! `up` makes a cluster, `down` removes it after any kind of end, `status` looks at it. Nothing
//! here is in the way of a request: the processes are the ordinary `bowline server` and
//! `bowline agent`.
//!
//! Guarantees: everything a cluster owns has a name derived from the cluster's name or lies in
//! the cluster's directory, and nothing else is touched. No link and no route is made in the
//! host's own namespace.

mod cgroups;
mod containerd;
pub(crate) mod down;
mod mounts;
mod namespaces;
mod place;
mod plan;
mod preflight;
mod process;
mod progress;
mod ready;
mod record;
mod spec;
pub(crate) mod status;
pub(crate) mod up;
mod uplinks;

pub(crate) use namespaces::path as netns_path;
pub(crate) use place::{Place, only};
pub(crate) use progress::Progress;
pub(crate) use record::Record;
