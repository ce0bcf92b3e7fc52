//! What tests and benchmarks of the data plane stand on: nodes that are network namespaces
//! ([`world`]), packets byte by byte ([`frame`]), and the packet programs on their own
//! ([`packets`]), with tables of what they do ([`rows`]). Needs root; nothing of it outlives the
//! values here.
//!
//! Does not return errors: where its own support code fails, it panics and says what failed.

#![expect(clippy::unwrap_used, reason = "a failure of the support code ends the run")]
#![expect(clippy::new_without_default, reason = "what is made is no value: a namespace, nodes")]

pub mod cgroup;
pub mod frame;
pub mod packets;
pub mod rows;
pub mod world;
