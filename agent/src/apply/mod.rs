//! Apply: runs the steps of the plans.

pub(crate) mod network;
pub(crate) mod services;
