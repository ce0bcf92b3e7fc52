//! What the reasons mean that the data plane counts by, for `-o wide`.

use bowline_ebpf_abi::Reason;

/// A counter's reason in a few words.
pub(super) fn meaning(name: &str) -> &'static str {
    let reason = Reason::ALL.into_iter().find(|reason| reason.name() == name);
    reason.map_or("-", words)
}

fn words(reason: Reason) -> &'static str {
    match reason {
        Reason::LocalPod => "handed to a pod of this node",
        Reason::RemoteNode => "sent to another node",
        Reason::Stack => "left to the node's own network stack",
        Reason::Balanced => "a backend was chosen",
        Reason::AnswerTranslated => "a backend's answer got the service's name back",
        Reason::ErrorTranslated => "an ICMP error about a translated packet was translated back",
        Reason::Fragment => "it was a piece of a larger packet",
        Reason::IpOptions => "it had IP options or extension headers",
        Reason::SocketMoved => "a UDP socket left a backend that is gone for another",
        Reason::SocketDestroyed => "a UDP socket whose backend is gone was aborted",
        Reason::Connected => "a TCP connection to a service is open",
        Reason::SpoofedSource => "the source address is not the sending pod's",
        Reason::UnsupportedProtocol => "neither IP nor ARP",
        Reason::Malformed => "shorter than its headers say, or contradicting itself",
        Reason::NoBackend => "the service has no ready backend",
        Reason::FlowNotStored => "the translation could not be remembered",
        Reason::RewriteFailed => "the packet could not be rewritten",
        Reason::Vlan => "a pod sent a VLAN tag",
        Reason::Multicast => "a pod sent to a group",
        Reason::Broadcast => "sent to 255.255.255.255",
        Reason::LinkLocal => "from a link-local or from no IPv6 address",
        Reason::SourceRoute => "the packet names its own way",
        Reason::TooManyHeaders => "more IPv6 extension headers than there is a use for",
        Reason::RouterMessage => "a pod played router",
        Reason::ForgedError => "an ICMP error about a packet that the pod cannot have received",
        Reason::FragmentedService => "a piece of a packet to or from a service",
        Reason::UnknownPort => "a service's address, and a port that it does not have",
        Reason::ServiceProtocol => "a service's address, and a protocol that services do not have",
        Reason::PortTaken => "its answers could not be told from those of an open connection",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_meanings() {
        assert_eq!(meaning("no-backend"), "the service has no ready backend");
        assert_eq!(meaning("of a later build"), "-");
    }
}
