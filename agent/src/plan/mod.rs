//! Plans: pure functions from what should be and what is to the steps between them.
//!
//! Nothing in here waits, reads a clock or touches the kernel; every bug becomes a table row.

pub(crate) mod network;
pub(crate) mod pods;
pub(crate) mod services;
