//! The decisions of the data plane, without a kernel: how a service becomes a backend, and where
//! a packet goes.
//!
//! The eBPF programs are thin: they read headers, ask one function of this crate, and do what the
//! [`Decision`] says. Everything here compiles on the host and is tested there.
//!
//! Guarantees: no panics, no loops without a bound, no memory but the stack, and no call that the
//! kernel's verifier could refuse; a packet that is refused always carries the [`Reason`].
//! Not here: writing packets, checksums, and counting.

#![no_std]

mod affinity;
mod balance;
mod deliver;
mod packet;
mod peers;

pub use affinity::Client;
pub use balance::{Choice, ServiceMaps, choose, spread};
pub use deliver::{Decision, PacketMaps, Rewrite, Side, Verdict, from_pod, from_uplink, to_pod};
pub use packet::{Ipv4Header, Ports, Transport};
pub use peers::{Conversation, Converse, PeerMaps, connect, converse, name_of};

use bowline_ebpf_abi as abi;
pub use bowline_ebpf_abi::Reason;

#[cfg(test)]
mod fake;
