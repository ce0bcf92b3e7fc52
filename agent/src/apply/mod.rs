//! Apply: carries out the steps of the plans, and goes on past errors.

pub(crate) mod network;
pub(crate) mod services;
