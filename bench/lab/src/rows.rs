//! Rows of a table of packets: what goes in at which program, and what is to come of it.

use std::net::IpAddr;

use bowline_ebpf_abi::{Direction, Flow, FlowKey, Reason};

use crate::frame::Packet;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    FromPod,
    ToPod,
    FromUplink,
}

impl Hook {
    pub fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::FromUplink => "from_uplink",
        }
    }

    pub(crate) fn direction(self) -> Direction {
        match self {
            Self::FromPod => Direction::FromPod,
            Self::ToPod => Direction::ToPod,
            Self::FromUplink => Direction::FromUplink,
        }
    }
}

/// What a program says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to the node's stack.
    Stack,
    /// It goes to another device.
    Redirect,
    Drop,
    /// None that these programs may give.
    Unknown(i32),
}

impl Verdict {
    /// By what the program returned.
    pub fn of(returned: i32) -> Self {
        match returned {
            -1 => Self::Stack,
            2 => Self::Drop,
            7 => Self::Redirect,
            other => Self::Unknown(other),
        }
    }
}

/// One line of a table.
#[derive(Clone)]
pub struct Row {
    pub(crate) what: String,
    pub(crate) hook: Hook,
    /// Packets that went through before, with what they are to come to.
    pub(crate) before: Vec<(Hook, Packet)>,
    /// Flows written by hand, with how many seconds ago they were used.
    pub(crate) flows: Vec<(FlowKey, Flow, u32)>,
    /// A client of the service with affinity that is known: the backend's place among the
    /// service's, and how many seconds ago it was used.
    pub(crate) known: Option<(IpAddr, u32, u64)>,
    pub(crate) packet: Packet,
    pub(crate) verdict: Verdict,
    pub(crate) out: Packet,
    pub(crate) reasons: Vec<Reason>,
    /// Service, new connections, packets, refused.
    pub(crate) service: Option<(u32, u64, u64, u64)>,
    /// Later kernels refuse to run programs on frames that end within the IP header.
    pub(crate) may_be_refused: bool,
}

impl Row {
    pub fn new(what: impl Into<String>, hook: Hook, packet: Packet) -> Self {
        Self {
            what: what.into(),
            hook,
            before: Vec::new(),
            flows: Vec::new(),
            known: None,
            out: packet.clone(),
            packet,
            verdict: Verdict::Unknown(0),
            reasons: Vec::new(),
            service: None,
            may_be_refused: false,
        }
    }

    /// Not every kernel runs programs on such a frame; where it does, the row has to hold.
    pub fn if_the_kernel_lets(self) -> Self {
        Self { may_be_refused: true, ..self }
    }

    pub fn after(mut self, hook: Hook, packet: Packet) -> Self {
        self.before.push((hook, packet));
        self
    }

    pub fn flow(mut self, key: FlowKey, flow: Flow, seconds_ago: u32) -> Self {
        self.flows.push((key, flow, seconds_ago));
        self
    }

    pub fn known(self, client: IpAddr, backend: u32, seconds_ago: u64) -> Self {
        Self { known: Some((client, backend, seconds_ago)), ..self }
    }

    fn ends(mut self, verdict: Verdict, out: Packet, reason: Reason) -> Self {
        self.verdict = verdict;
        self.out = out;
        self.reasons.push(reason);
        self
    }

    /// To a pod with this hardware address.
    pub fn into_pod(self, mac: [u8; 6]) -> Self {
        let out = self.packet.clone();
        self.into_pod_as(mac, out)
    }

    /// The same, after a change.
    pub fn into_pod_as(self, mac: [u8; 6], out: Packet) -> Self {
        let hop_limit = out.hop_limit - 1;
        let out = Packet { from: self.packet.to, to: mac, hop_limit, ..out };
        self.ends(Verdict::Redirect, out, Reason::LocalPod)
    }

    /// To another node; the neighbour table adds hardware addresses later.
    pub fn into_node(self) -> Self {
        let out = self.packet.clone();
        self.into_node_as(out)
    }

    pub fn into_node_as(self, out: Packet) -> Self {
        let hop_limit = out.hop_limit - 1;
        self.ends(Verdict::Redirect, Packet { hop_limit, ..out }, Reason::RemoteNode)
    }

    pub fn into_stack(self) -> Self {
        let out = self.packet.clone();
        self.into_stack_as(out)
    }

    pub fn into_stack_as(self, out: Packet) -> Self {
        self.ends(Verdict::Stack, out, Reason::Stack)
    }

    pub fn dropped(self, reason: Reason) -> Self {
        assert!(reason.is_drop());
        let out = self.packet.clone();
        self.ends(Verdict::Drop, out, reason)
    }

    /// Counted, too.
    pub fn also(mut self, reason: Reason) -> Self {
        self.reasons.push(reason);
        self
    }

    /// A packet of this service, which opens a flow.
    pub fn opens(mut self, service: u32) -> Self {
        self.service = Some((service, 1, 1, 0));
        self.also(Reason::Balanced)
    }

    /// A packet of a flow of this service that is there already.
    pub fn continues(mut self, service: u32, reason: Reason) -> Self {
        self.service = Some((service, 0, 1, 0));
        self.also(reason)
    }

    /// The frame, if the row is one of a pod's that is refused.
    pub fn dropped_frame(&self) -> Option<Vec<u8>> {
        let alone = self.before.is_empty() && !self.may_be_refused;
        (self.verdict == Verdict::Drop && self.hook == Hook::FromPod && alone)
            .then(|| self.packet.bytes())
    }

    pub fn refused_by(mut self, service: u32) -> Self {
        self.service = Some((service, 0, 0, 1));
        self
    }
}
