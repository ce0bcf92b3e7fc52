//! The decisions of the data plane, without a kernel: how a service becomes a backend, and where
//! a packet goes.
//!
//! The eBPF programs are thin: they read headers, ask one function of this crate, and do what its
//! [`Verdict`] and the [`Work`] say. Everything here compiles on the host and is tested there.
//!
//! Guarantees: no panics, no loops without a bound, no memory but the stack, and no call that the
//! kernel's verifier could refuse; a packet that is refused always carries the [`Reason`].
//! Not here: writing packets and counting.

#![no_std]

mod affinity;
mod balance;
mod checksum;
mod control;
mod deliver;
mod flows;
mod monitor;
mod packet;
mod peers;
mod quote;

pub use affinity::Client;
pub use balance::{Choice, Near, ServiceMaps, choose, choose_near};
pub use checksum::Delta;
pub use deliver::{
    Change, PacketMaps, ReasonCode, Rewrite, Verdict, Way, Work, from_pod, from_uplink, to_pod,
};
pub use flows::{Endpoint, Ends};
pub use monitor::{is_wanted, is_within_limit, outcome_of};
pub use packet::{
    Bytes, ETHERNET, Extent, Family, Fragment, Frame, Ipv4Header, Packet, Ports, packet_flags,
    parse,
};
pub use peers::{Conversation, Converse, PeerMaps, connect, converse, name_of, opened, recall};
pub use quote::{IP_CHECKSUM, Quote};

use bowline_ebpf_abi as abi;
pub use bowline_ebpf_abi::Reason;

#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), expect(dead_code, reason = "some of it only tests use"))]
mod fake;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
