//! Plans: pure functions from what is desired and observed to steps.

pub(crate) mod network;
pub(crate) mod pods;
pub(crate) mod services;
