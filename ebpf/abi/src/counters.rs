//! What can happen to a packet or a socket call, each with a name: the COUNTERS map is indexed by
//! (reason, direction).

/// Packets and bytes of one counter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

/// CONNECT_TIMES value: connections to services that took about as long, from connect() until they
/// were open.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectTimes {
    pub count: u64,
    /// What they took all together.
    pub total_ns: u64,
}

impl ConnectTimes {
    /// What takes no longer than this is in the first entry; each next one goes twice as far.
    const FIRST_NS: u64 = 8_000;

    /// How many entries CONNECT_TIMES has. The last one has no bound: it begins at 67 seconds.
    pub const ENTRIES: u32 = 25;

    /// The place of what took so long.
    #[inline(always)]
    pub const fn place(took_ns: u64) -> u32 {
        let place = u64::BITS - (took_ns.saturating_sub(1) / Self::FIRST_NS).leading_zeros();
        if place < Self::ENTRIES { place } else { Self::ENTRIES - 1 }
    }

    /// How long what is at this place took at most.
    pub const fn most_ns(place: u32) -> Option<u64> {
        if place < Self::ENTRIES - 1 { Some(Self::FIRST_NS << place) } else { None }
    }
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

    /// The one with this number, as an event has it; none if another build made it.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|it| *it as u32 == u32::from(number))
    }

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
    /// Sent to another node of the cluster, over the uplink or the tunnel.
    RemoteNode = 1,
    /// Left to the node's own network stack.
    Stack = 2,
    /// A backend was chosen for a packet (tc) or for a system call (socket).
    Balanced = 3,
    /// A backend's answer got the service's name back.
    AnswerTranslated = 4,
    /// An ICMP error about a translated flow got its quoted packet translated back.
    ErrorTranslated = 5,
    /// A piece of a larger packet went its way, in addition to where it went.
    Fragment = 6,
    /// A packet with IP options or extension headers went its way, in addition to where it went.
    IpOptions = 7,
    /// A connected UDP socket was connected to its service anew, away from a backend that is gone.
    SocketMoved = 8,
    /// A connected UDP socket whose backend is gone was aborted, so that its owner connects anew.
    SocketDestroyed = 9,
    /// A TCP connection to a service is open.
    Connected = 10,
    /// Refused: the source address is not the sending pod's.
    SpoofedSource = 11,
    /// Refused: neither IP nor ARP.
    UnsupportedProtocol = 12,
    /// Refused: shorter than its own headers say, or contradicting itself.
    Malformed = 13,
    /// Refused: the service has no ready backend.
    NoBackend = 14,
    /// Refused: the translation could not be remembered, so the answer would get lost.
    FlowNotStored = 15,
    /// Refused: the packet could not be rewritten, or there was no room to look at it in.
    RewriteFailed = 16,
    /// Refused: a pod sent a VLAN tag; pods have no VLANs.
    Vlan = 17,
    /// Refused: pods reach no groups; neighbour discovery is not counted here.
    Multicast = 18,
    /// Refused: 255.255.255.255 is nobody's address here.
    Broadcast = 19,
    /// Refused: a pod's packet from a link-local or from no IPv6 address.
    LinkLocal = 20,
    /// Refused: the packet names its own way (RFC 5095, RFC 7126).
    SourceRoute = 21,
    /// Refused: more IPv6 extension headers than RFC 8200 has a use for.
    TooManyHeaders = 22,
    /// Refused: a pod played router (redirect or router advertisement).
    RouterMessage = 23,
    /// Refused: a pod's ICMP error about a packet that it cannot have received.
    ForgedError = 24,
    /// Refused: a piece of a packet that a service's name would have to be changed in.
    FragmentedService = 25,
    /// Refused: an address that services have, and a port that none of them has.
    UnknownPort = 26,
    /// Refused: an address that services have, and a protocol that services are not named by: an
    /// echo request, say.
    ServiceProtocol = 27,
    /// Refused: a connection whose answers could not be told from those of an open one, which a
    /// service's name is changed in.
    PortTaken = 28,
}

impl Reason {
    pub const ALL: [Self; 29] = [
        Self::LocalPod,
        Self::RemoteNode,
        Self::Stack,
        Self::Balanced,
        Self::AnswerTranslated,
        Self::ErrorTranslated,
        Self::Fragment,
        Self::IpOptions,
        Self::SocketMoved,
        Self::SocketDestroyed,
        Self::Connected,
        Self::SpoofedSource,
        Self::UnsupportedProtocol,
        Self::Malformed,
        Self::NoBackend,
        Self::FlowNotStored,
        Self::RewriteFailed,
        Self::Vlan,
        Self::Multicast,
        Self::Broadcast,
        Self::LinkLocal,
        Self::SourceRoute,
        Self::TooManyHeaders,
        Self::RouterMessage,
        Self::ForgedError,
        Self::FragmentedService,
        Self::UnknownPort,
        Self::ServiceProtocol,
        Self::PortTaken,
    ];

    /// The one with this number, as an event has it; none if another build made it.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|it| *it as u32 == u32::from(number))
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalPod => "local-pod",
            Self::RemoteNode => "remote-node",
            Self::Stack => "stack",
            Self::Balanced => "balanced",
            Self::AnswerTranslated => "answer-translated",
            Self::ErrorTranslated => "error-translated",
            Self::Fragment => "fragment",
            Self::IpOptions => "ip-options",
            Self::SocketMoved => "socket-moved",
            Self::SocketDestroyed => "socket-destroyed",
            Self::Connected => "connected",
            Self::SpoofedSource => "spoofed-source",
            Self::UnsupportedProtocol => "unsupported-protocol",
            Self::Malformed => "malformed",
            Self::NoBackend => "no-backend",
            Self::FlowNotStored => "flow-not-stored",
            Self::RewriteFailed => "rewrite-failed",
            Self::Vlan => "vlan",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::LinkLocal => "link-local",
            Self::SourceRoute => "source-route",
            Self::TooManyHeaders => "too-many-headers",
            Self::RouterMessage => "router-message",
            Self::ForgedError => "forged-error",
            Self::FragmentedService => "fragmented-service",
            Self::UnknownPort => "unknown-port",
            Self::ServiceProtocol => "service-protocol",
            Self::PortTaken => "port-taken",
        }
    }

    /// Why a system call on a socket may be refused.
    pub const OF_CALLS: [Self; 3] = [Self::NoBackend, Self::FlowNotStored, Self::UnknownPort];

    /// Whether the packet or the call was refused.
    pub const fn is_drop(self) -> bool {
        self as u32 >= Self::SpoofedSource as u32
    }

    /// The index into COUNTERS.
    #[inline(always)]
    pub const fn index(self, direction: Direction) -> u32 {
        Self::index_of(self as u32, direction)
    }

    /// The index into COUNTERS of the reason with this number.
    #[inline(always)]
    pub const fn index_of(reason: u32, direction: Direction) -> u32 {
        reason * Direction::ALL.len() as u32 + direction as u32
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
    fn what_takes_no_longer_than_a_bound_is_before_it() {
        assert_eq!((ConnectTimes::place(0), ConnectTimes::most_ns(0)), (0, Some(8_000)));
        for place in 0..ConnectTimes::ENTRIES - 1 {
            let most = ConnectTimes::most_ns(place).unwrap();
            assert_eq!(ConnectTimes::place(most), place);
            assert_eq!(ConnectTimes::place(most + 1), place + 1);
        }
        let last = ConnectTimes::ENTRIES - 1;
        assert_eq!((ConnectTimes::place(u64::MAX), ConnectTimes::most_ns(last)), (last, None));
    }

    #[test]
    fn every_counter_has_its_own_place_and_name() {
        let mut places = BTreeSet::new();
        let mut names = BTreeSet::new();
        for reason in Reason::ALL {
            assert!(names.insert(reason.name()));
            assert_eq!(Reason::of(reason as u16), Some(reason));
            for direction in Direction::ALL {
                let index = reason.index(direction);
                assert!(index < Reason::COUNTERS);
                assert!(places.insert(index));
                assert_eq!(Direction::of(direction as u16), Some(direction));
            }
        }
        assert_eq!(Reason::of(Reason::ALL.len() as u16), None);
        assert_eq!(Direction::of(Direction::ALL.len() as u16), None);
    }
}
