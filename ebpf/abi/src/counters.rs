//! What can happen to a packet or a socket call, each with a name: the COUNTERS map is indexed by
//! (reason, direction).

/// Packets and bytes of one counter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

/// Where in the node the packet was seen.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// A packet that a pod sent.
    FromPod = 0,
    /// A packet that the node's own stack hands to a pod.
    ToPod = 1,
    /// A packet that arrived on the uplink.
    FromUplink = 2,
    /// No packet: a system call on a socket.
    Socket = 3,
}

impl Direction {
    pub const ALL: [Self; 4] = [Self::FromPod, Self::ToPod, Self::FromUplink, Self::Socket];

    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from-pod",
            Self::ToPod => "to-pod",
            Self::FromUplink => "from-uplink",
            Self::Socket => "socket",
        }
    }
}

/// What became of a packet or of a socket call. From [`Reason::SpoofedSource`] on it was refused.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Handed to a pod of this node.
    LocalPod = 0,
    /// Sent to another node of the cluster.
    RemoteNode = 1,
    /// Left to the node's own network stack.
    Stack = 2,
    /// A backend was chosen for a packet (tc) or for a system call (socket).
    Balanced = 3,
    /// A backend's answer got the service's name back.
    AnswerTranslated = 4,
    /// Refused: the source address is not the sending pod's.
    SpoofedSource = 5,
    /// Refused: neither IPv4 nor ARP; pods have no other addresses yet.
    UnsupportedProtocol = 6,
    /// Refused: shorter than its own headers say.
    Malformed = 7,
    /// Refused: the service has no ready backend.
    NoBackend = 8,
    /// Refused: the translation could not be remembered, so the answer would get lost.
    FlowNotStored = 9,
    /// Refused: the packet could not be rewritten.
    RewriteFailed = 10,
}

impl Reason {
    pub const ALL: [Self; 11] = [
        Self::LocalPod,
        Self::RemoteNode,
        Self::Stack,
        Self::Balanced,
        Self::AnswerTranslated,
        Self::SpoofedSource,
        Self::UnsupportedProtocol,
        Self::Malformed,
        Self::NoBackend,
        Self::FlowNotStored,
        Self::RewriteFailed,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalPod => "local-pod",
            Self::RemoteNode => "remote-node",
            Self::Stack => "stack",
            Self::Balanced => "balanced",
            Self::AnswerTranslated => "answer-translated",
            Self::SpoofedSource => "spoofed-source",
            Self::UnsupportedProtocol => "unsupported-protocol",
            Self::Malformed => "malformed",
            Self::NoBackend => "no-backend",
            Self::FlowNotStored => "flow-not-stored",
            Self::RewriteFailed => "rewrite-failed",
        }
    }

    /// Whether the packet or the call was refused.
    pub const fn is_drop(self) -> bool {
        self as u32 >= Self::SpoofedSource as u32
    }

    /// The index into COUNTERS.
    #[inline(always)]
    pub const fn index(self, direction: Direction) -> u32 {
        self as u32 * Direction::ALL.len() as u32 + direction as u32
    }

    /// How many entries COUNTERS has.
    pub const COUNTERS: u32 = (Self::ALL.len() * Direction::ALL.len()) as u32;
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_counter_has_its_own_place_and_name() {
        let mut places = BTreeSet::new();
        let mut names = BTreeSet::new();
        for reason in Reason::ALL {
            assert!(names.insert(reason.name()));
            for direction in Direction::ALL {
                let index = reason.index(direction);
                assert!(index < Reason::COUNTERS);
                assert!(places.insert(index));
            }
        }
    }
}
