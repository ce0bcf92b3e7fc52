//! A packet, and where it was seen, for tests to change what they need.

use std::net::SocketAddr;

use bowline_agent::TraceEvent;
use bowline_ebpf_abi::{Direction, Reason};

use super::sender::Protocol;
use super::subscriptions::Seen;
use super::trail::Packet;
use crate::net::tcp::SYN;

/// What opens a connection between pods of two nodes.
pub(super) fn packet() -> Packet {
    Packet {
        protocol: Protocol::Tcp,
        identifier: 40_000,
        source: Some("10.240.0.5".parse().unwrap()),
        to: "10.240.1.9:80".parse().unwrap(),
        calls: true,
        node: "node1".to_owned(),
        pods: ["10.240.0.5".parse().unwrap()].into(),
        wait: 1,
    }
}

/// It at the hook of its sender.
pub(super) fn seen() -> Seen {
    let end = |text: &str| -> SocketAddr { text.parse().unwrap() };
    let event = TraceEvent {
        time_ns: 1100,
        hook: Direction::FromPod.name().to_owned(),
        device: "bl0".to_owned(),
        reason: Reason::RemoteNode.name().to_owned(),
        refused: false,
        source: end("10.240.0.5:40000"),
        destination: end("10.240.1.9:80"),
        becomes: None,
        tcp_flags: SYN,
        echo: None,
        bytes: 74,
    };
    Seen { node: "node1".to_owned(), same_clock: true, event }
}
