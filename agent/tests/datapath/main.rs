//! The data plane in the kernel, with real sockets and packets. Needs root and a cgroup2
//! hierarchy; `cargo xtask test` leaves them out, and counts them as skipped, when not root.

#![expect(clippy::unwrap_used, reason = "a failure of the support code ends the test")]

mod clients;
mod connect_times;
mod kernels;
mod lifecycle;
mod limits;
mod packets;
mod paths;
mod pins;
mod refusals;
mod repair;
mod servers;
mod sockets;
mod statistics;
mod takeover;
mod unhooked;
