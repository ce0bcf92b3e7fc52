//! How it ended with a packet, in words, and the steps to it: from what hooks and sender saw.

use std::net::SocketAddr;

use bowline_agent::TraceEvent;
use bowline_ebpf_abi::Reason;
use serde::Serialize;

use super::sender::{Answer, ControlError, Protocol, Sent};
use super::subscriptions::{Seen, Subscriptions};
use super::trail::{FlowDirection, Found, Packet, Trail, difference};
use crate::net::monitor::{End, Names};
use crate::net::tcp::{SYN, flag_names};

/// The hook of what the sender itself says.
const CLIENT: &str = "client";

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// By whom it was sent to, also if that says no.
    Answered,
    /// It got to its pod, and needs no answer.
    Delivered,
    /// By a hook, or by a machine on the way.
    Refused,
    Lost,
    /// The sender's own kernel did not send it.
    Unsent,
}

/// A place on the way.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Step {
    /// Since it was sent.
    pub(super) nanoseconds: i64,
    /// The clock was another: it is about right.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) about: bool,
    pub(super) node: String,
    pub(super) hook: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<String>,
    flow_direction: FlowDirection,
    pub(super) verdict: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<End>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) destination: Option<End>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) becomes: Option<End>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tcp_flags: Vec<&'static str>,
    pub(super) bytes: u32,
}

/// The whole.
#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) steps: Vec<Step>,
    pub(super) outcome: Outcome,
    pub(super) verdict: String,
    /// Where it, or its answer, was seen last.
    pub(super) last: Option<Seen>,
}

/// Puts it together. `refused` is what the hook said that refused the sender's call.
pub(super) fn tell(
    packet: &Packet,
    sent: &Sent,
    subscriptions: &mut Subscriptions,
    refused: Option<&TraceEvent>,
    names: &Names,
) -> Story {
    let trail = Trail::of(packet, sent, std::mem::take(&mut subscriptions.seen));
    let is_partial = !subscriptions.are_whole();
    let teller = Teller { packet, sent, trail: &trail, names, is_partial };
    let (outcome, verdict) = match refused {
        Some(refused) => teller.refused_call(refused),
        None => teller.end(),
    };
    let steps = teller.steps(refused, outcome);
    let last = trail.0.last().map(|it| it.seen.clone());
    Story { steps, outcome, verdict, last }
}

struct Teller<'a> {
    packet: &'a Packet,
    sent: &'a Sent,
    trail: &'a Trail,
    names: &'a Names,
    /// Some node could not be listened to, or has lost events.
    is_partial: bool,
}

impl Teller<'_> {
    fn refused_call(&self, refused: &TraceEvent) -> (Outcome, String) {
        let (node, hook, reason) = (&self.packet.node, self.call(), &refused.reason);
        (Outcome::Refused, format!("refused at {node} {hook} [{reason}]: nothing was sent"))
    }

    fn end(&self) -> (Outcome, String) {
        let sent = self.sent;
        let was_seen = !self.trail.0.is_empty();
        let is_reset = was_seen && sent.error.as_ref().is_some_and(|error| error.refused);
        if let Some(control) = &sent.control {
            return self.turned_back(control);
        }
        if let Some(answer) = sent.answer.or(is_reset.then_some(Answer::Reset)) {
            let says = match answer {
                Answer::SynAck => "the connection opens",
                Answer::Reset => "nobody listens at that port (RST)",
                Answer::Datagram => "a datagram",
                Answer::Echo => "an echo reply",
            };
            let verdict = format!("answered after {} by {}: {says}", self.waited(), self.whom());
            return (Outcome::Answered, verdict);
        }
        if let Some(Found { direction, seen, since, .. }) =
            self.trail.0.iter().rfind(|it| it.seen.event.refused)
        {
            let what = if *direction == FlowDirection::Request { "" } else { "its answer was " };
            let TraceEvent { hook, device, reason, .. } = &seen.event;
            let (node, after) = (&seen.node, shown(*since));
            let verdict =
                format!("{what}refused at {node} {hook} on {device} [{reason}] after {after}");
            return (Outcome::Refused, verdict);
        }
        match &sent.error {
            Some(error) if !was_seen && self.is_partial => {
                let verdict = format!("refused, where is not known: {}", error.text);
                (Outcome::Refused, verdict)
            }
            Some(error) if !was_seen => (Outcome::Unsent, format!("not sent: {}", error.text)),
            _ => self.unanswered(),
        }
    }

    fn turned_back(&self, control: &ControlError) -> (Outcome, String) {
        let shown = control.from.and_then(|from| self.names.end(from, 0));
        let from = shown.map_or_else(|| "somebody".to_owned(), |end| end.shown());
        let (after, says) = (self.waited(), &control.says);
        // Others on the way may say so, too, to keep it off.
        let ends = [self.packet.to.ip(), self.far_end().ip()];
        if control.is_port && control.from.is_some_and(|from| ends.contains(&from)) {
            let verdict = format!("answered after {after} by {from}: nobody has that port");
            return (Outcome::Answered, format!("{verdict} ({says})"));
        }
        (Outcome::Refused, format!("turned back after {after} by {from}: {says}"))
    }

    fn unanswered(&self) -> (Outcome, String) {
        let wait = self.packet.wait;
        let last = self
            .trail
            .last(FlowDirection::Reply)
            .or_else(|| self.trail.last(FlowDirection::Request));
        let Some(last) = last else {
            let whose = if self.is_partial { " that is listened to" } else { "" };
            let verdict =
                format!("lost: no hook{whose} saw it, and nothing answered within {wait} s");
            return (Outcome::Lost, verdict);
        };
        let TraceEvent { hook, device, reason, .. } = &last.seen.event;
        let (node, after) = (&last.seen.node, shown(last.since));
        let is_there = last.direction == FlowDirection::Request;
        if is_there && self.packet.is_handed(&last.seen) {
            let whom = self.whom();
            return match self.packet.protocol {
                Protocol::Udp => (
                    Outcome::Delivered,
                    format!(
                        "delivered to {whom} at {node} after {after}; no answer within {wait} s, \
                         which a datagram need not have"
                    ),
                ),
                _ => (
                    Outcome::Lost,
                    format!(
                        "lost: handed to {whom} at {node} after {after}, which did not answer \
                         within {wait} s"
                    ),
                ),
            };
        }
        let what = if is_there { "last seen" } else { "its answer was last seen" };
        let went = match &**reason {
            it if it == Reason::RemoteNode.name() => "sent to the other node",
            it if it == Reason::Stack.name() => "left to the node's own stack",
            other => other,
        };
        let verdict = format!(
            "lost: {what} at {node} {hook} on {device} after {after}, {went}; no answer came \
             within {wait} s"
        );
        (Outcome::Lost, verdict)
    }

    /// How long the sender waited.
    fn waited(&self) -> String {
        shown(difference(self.sent.answered_ns, self.sent.sent_ns))
    }

    /// Whom it was for in the end.
    fn far_end(&self) -> SocketAddr {
        let there = self.trail.last(FlowDirection::Request).map(|it| &it.seen.event);
        let seen = there.map(|seen| seen.becomes.unwrap_or(seen.destination));
        seen.or(self.sent.far_end).unwrap_or(self.packet.to)
    }

    fn whom(&self) -> String {
        let end = self.far_end();
        let known = self.names.end(end.ip(), end.port());
        known.map_or_else(|| end.to_string(), |end| end.shown())
    }

    /// The hook that sees the sender's call.
    fn call(&self) -> &'static str {
        if self.packet.to.is_ipv4() { "connect4" } else { "connect6" }
    }

    fn steps(&self, refused: Option<&TraceEvent>, outcome: Outcome) -> Vec<Step> {
        let mut steps = Vec::new();
        let there = self.trail.0.iter().find(|it| it.direction == FlowDirection::Request);
        let first = there.map(|it| it.seen.event.destination);
        let to = self.packet.to;
        let backend = self.sent.far_end.or(first).filter(|end| self.packet.calls && *end != to);
        let verb = match self.packet.protocol {
            _ if outcome == Outcome::Unsent => "cannot send",
            Protocol::Tcp if self.packet.calls => "connects",
            _ => "sends",
        };
        steps.push(self.own(verb, FlowDirection::Request, 0));
        if refused.is_some() || backend.is_some() {
            steps.push(Step {
                hook: self.call().to_owned(),
                verdict: if refused.is_some() { "refused" } else { "passed" },
                reason: refused.map_or(Reason::Balanced.name(), |it| &it.reason).to_owned(),
                becomes: backend.and_then(|end| self.names.end(end.ip(), end.port())),
                ..self.own("", FlowDirection::Request, 0)
            });
        }
        steps.extend(self.trail.0.iter().map(|found| self.step(found)));
        if outcome == Outcome::Answered || self.sent.control.is_some() {
            let after = difference(self.sent.answered_ns, self.sent.sent_ns);
            let is_answer = outcome == Outcome::Answered;
            let verdict = if is_answer { "is answered" } else { "is turned back" };
            steps.push(self.own(verdict, FlowDirection::Reply, after));
        }
        steps
    }

    /// What the sender itself does, or what comes of it.
    fn own(&self, verdict: &'static str, direction: FlowDirection, nanoseconds: i64) -> Step {
        let packet = self.packet;
        let is_there = direction == FlowDirection::Request;
        let is_tcp = packet.protocol == Protocol::Tcp;
        let source = packet.source_of(self.sent);
        let port = if packet.protocol == Protocol::Icmp { 0 } else { packet.identifier };
        let end = |end: SocketAddr| self.names.end(end.ip(), end.port()).filter(|_| is_there);
        Step {
            nanoseconds,
            about: false,
            node: packet.node.clone(),
            hook: CLIENT.to_owned(),
            device: None,
            flow_direction: direction,
            verdict,
            reason: String::new(),
            source: source.and_then(|source| end(SocketAddr::new(source, port))),
            destination: end(packet.to),
            becomes: None,
            tcp_flags: if is_tcp && is_there { flag_names(SYN) } else { Vec::new() },
            bytes: 0,
        }
    }

    fn step(&self, found: &Found) -> Step {
        let end = |end: SocketAddr| self.names.end(end.ip(), end.port());
        let event = &found.seen.event;
        Step {
            nanoseconds: found.since,
            about: found.about,
            node: found.seen.node.clone(),
            hook: event.hook.clone(),
            device: Some(event.device.clone()),
            flow_direction: found.direction,
            verdict: if event.refused { "refused" } else { "passed" },
            reason: event.reason.clone(),
            source: end(event.source),
            destination: end(event.destination),
            becomes: event.becomes.and_then(end),
            tcp_flags: flag_names(event.tcp_flags),
            bytes: event.bytes,
        }
    }
}

/// Nanoseconds as people read them.
pub(super) fn shown(nanoseconds: i64) -> String {
    /// From so many on, microseconds are too many digits.
    const LONG: i64 = 10_000_000;
    let (unit, of) = if nanoseconds < LONG { ("us", 1000) } else { ("ms", 1_000_000) };
    format!("{:.1} {unit}", nanoseconds as f64 / f64::from(of))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;
    use crate::net::tcp::SYN_ACK;
    use crate::net::trace::sender::Failure;

    /// One to a service that no hook of sockets sees.
    fn packet(protocol: Protocol) -> Packet {
        let to = "10.9.8.7:80".parse().unwrap();
        Packet { protocol, to, calls: false, ..fixtures::packet() }
    }

    /// At this node and hook, for this reason; `refused` if that is marked with a `!`.
    fn seen(time_ns: u64, place: &str, direction: FlowDirection) -> Seen {
        let mut words = place.split_whitespace().map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        let (node, hook, reason) = (word(), word(), word());
        let (client, far) =
            ("10.240.0.5:40000".parse().unwrap(), "10.240.1.9:9376".parse().unwrap());
        let (source, destination, tcp_flags) = match direction {
            FlowDirection::Request => (client, far, SYN),
            FlowDirection::Reply => (far, client, SYN_ACK),
        };
        let event = TraceEvent {
            time_ns,
            hook,
            refused: reason.ends_with('!'),
            reason: reason.trim_end_matches('!').to_owned(),
            source,
            destination,
            tcp_flags,
            ..fixtures::seen().event
        };
        Seen { node, same_clock: true, event }
    }

    fn ended(protocol: Protocol, sent: &Sent, seen: &[Seen]) -> (Outcome, String) {
        let mut subscriptions = Subscriptions::default();
        subscriptions.seen.extend_from_slice(seen);
        let told = tell(&packet(protocol), sent, &mut subscriptions, None, &Names::of(None));
        assert_eq!(told.last.as_ref(), seen.last());
        (told.outcome, told.verdict)
    }

    #[test]
    fn an_end_is_told_in_words() {
        use Outcome::{Delivered, Lost, Refused};
        let sent = Sent { sent_ns: 1000, answered_ns: 1_000_001_000, ..Sent::default() };
        let left = seen(2000, "node1 from-pod remote-node", FlowDirection::Request);
        let got = seen(3000, "node2 from-uplink local-pod", FlowDirection::Request);
        let own = "node1 from-uplink stack";
        let answered = seen(4000, "node2 from-pod remote-node", FlowDirection::Reply);
        for (protocol, all, outcome, verdict) in [
            (Protocol::Tcp, vec![], Lost, "lost: no hook saw it, and nothing answered within 1 s"),
            (
                Protocol::Tcp,
                vec![left.clone()],
                Lost,
                "lost: last seen at node1 from-pod on bl0 after 1.0 us, sent to the other node; no \
                 answer came within 1 s",
            ),
            (
                Protocol::Tcp,
                vec![left.clone(), got.clone()],
                Lost,
                "lost: handed to 10.240.1.9:9376 at node2 after 2.0 us, which did not answer \
                 within 1 s",
            ),
            (
                Protocol::Udp,
                vec![left.clone(), got.clone()],
                Delivered,
                "delivered to 10.240.1.9:9376 at node2 after 2.0 us; no answer within 1 s, which a \
                 datagram need not have",
            ),
            (
                Protocol::Udp,
                vec![left.clone(), got, answered, seen(5000, own, FlowDirection::Reply)],
                Lost,
                "lost: its answer was last seen at node1 from-uplink on bl0 after 4.0 us, left to \
                 the node's own stack; no answer came within 1 s",
            ),
            (
                Protocol::Tcp,
                vec![left, seen(3000, "node2 from-pod spoofed-source!", FlowDirection::Reply)],
                Refused,
                "its answer was refused at node2 from-pod on bl0 [spoofed-source] after 2.0 us",
            ),
        ] {
            assert_eq!(ended(protocol, &sent, &all), (outcome, verdict.to_owned()), "{all:?}");
        }
    }

    #[test]
    fn who_says_that_a_port_is_nobodys_matters() {
        let left = [seen(2000, "node1 from-pod remote-node", FlowDirection::Request)];
        let from = |address: &str| Sent {
            answered_ns: 20_000_000,
            control: Some(ControlError {
                from: Some(address.parse().unwrap()),
                says: "port unreachable".to_owned(),
                is_port: true,
            }),
            ..Sent::default()
        };
        let (outcome, verdict) = ended(Protocol::Udp, &from("10.240.1.9"), &left);
        assert_eq!(outcome, Outcome::Answered);
        assert!(verdict.starts_with("answered after 20.0 ms by 10.240.1.9: nobody"), "{verdict}");
        let (outcome, verdict) = ended(Protocol::Udp, &from("172.30.0.1"), &left);
        assert_eq!(outcome, Outcome::Refused);
        assert_eq!(verdict, "turned back after 20.0 ms by 172.30.0.1: port unreachable");
    }

    #[test]
    fn a_refusal_is_a_reset_only_if_the_packet_was_seen() {
        let failure = Failure { text: "refused".to_owned(), refused: true };
        let sent = Sent { sent_ns: 1000, error: Some(failure), ..Sent::default() };
        let left = [seen(2000, "node1 from-pod remote-node", FlowDirection::Request)];
        assert_eq!(ended(Protocol::Tcp, &sent, &left).0, Outcome::Answered);
        let unsent = (Outcome::Unsent, "not sent: refused".to_owned());
        assert_eq!(ended(Protocol::Tcp, &sent, &[]), unsent);
        let mut subscriptions = Subscriptions::default();
        subscriptions.note_unreachable("node1", &"of nothing");
        let names = Names::of(None);
        let told = tell(&packet(Protocol::Tcp), &sent, &mut subscriptions, None, &names);
        assert_eq!(told.verdict, "refused, where is not known: refused");
        // The hook said why.
        let mut refused = seen(1500, "node1 socket no-backend!", FlowDirection::Request).event;
        refused.destination = "10.9.8.7:80".parse().unwrap();
        let told = tell(&packet(Protocol::Tcp), &sent, &mut subscriptions, Some(&refused), &names);
        assert_eq!(told.verdict, "refused at node1 connect4 [no-backend]: nothing was sent");
        let hooks: Vec<&str> = told.steps.iter().map(|step| &*step.hook).collect();
        assert_eq!(hooks, ["client", "connect4"]);
    }
}
