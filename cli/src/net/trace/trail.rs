//! Which events are of a packet and of its answer, and in which order they were.
//!
//! Order: what was seen by the sender's clock (all that runs on its machine) is in order of time.
//! Another machine's clock says nothing beside it, so its events are put where they must have
//! happened: after the packet's last one at the sender's, and before the answer's first one there;
//! among themselves in order of their own time. Their times are moved into the middle of that gap,
//! and marked as being about right.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use bowline_agent::TraceEvent;
use bowline_ebpf_abi::{Direction, Reason};
use serde::Serialize;

use super::sender::{Protocol, Sent};
use super::subscriptions::Seen;
use crate::net::tcp::{RST, SYN, SYN_ACK};

/// What was sent, and from where.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) protocol: Protocol,
    /// Its source port, or the identifier of an echo request.
    pub(super) identifier: u16,
    /// The address that it is sent with, if that was known before.
    pub(super) source: Option<IpAddr>,
    pub(super) to: SocketAddr,
    /// It passes the hooks of sockets.
    pub(super) calls: bool,
    /// The node of the client, and the addresses of that node's pods.
    pub(super) node: String,
    pub(super) pods: BTreeSet<IpAddr>,
    /// Seconds that an answer was waited for.
    pub(super) wait: u64,
}

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FlowDirection {
    /// The packet that was sent.
    Request,
    /// Its answer.
    Reply,
}

impl Packet {
    /// Whether an event is of this packet or of its answer. The rest of a connection that was
    /// opened is of neither.
    fn direction(&self, seen: &TraceEvent, source: Option<IpAddr>) -> Option<FlowDirection> {
        let is_own = |address: IpAddr| source.is_none_or(|own| own == address);
        let (from, to) = (seen.source, seen.destination);
        let (asks, replies) = match self.protocol {
            Protocol::Icmp => {
                let echo = seen.echo.filter(|echo| echo.identifier == self.identifier)?;
                (!echo.reply, echo.reply)
            }
            _ => (from.port() == self.identifier, to.port() == self.identifier),
        };
        let opens = self.protocol != Protocol::Tcp || seen.tcp_flags & SYN_ACK == SYN;
        let answers = self.protocol != Protocol::Tcp
            || seen.tcp_flags & SYN_ACK == SYN_ACK
            || seen.tcp_flags & RST != 0;
        if asks && is_own(from.ip()) && opens {
            return Some(FlowDirection::Request);
        }
        (replies && is_own(to.ip()) && answers).then_some(FlowDirection::Reply)
    }

    /// Whether an event is of this packet or of its answer.
    pub(super) fn is_in(&self, seen: &Seen, sent: &Sent) -> bool {
        self.direction(&seen.event, self.source_of(sent)).is_some()
    }

    /// The address that it was sent from.
    pub(super) fn source_of(&self, sent: &Sent) -> Option<IpAddr> {
        self.source.or(sent.source.map(|end| end.ip()))
    }

    /// Whether this handed it to a pod.
    pub(super) fn is_handed(&self, seen: &Seen) -> bool {
        let Seen { node, event, .. } = seen;
        let to = event.becomes.unwrap_or(event.destination).ip();
        let is_own = *node == self.node && self.pods.contains(&to);
        let is_local =
            event.reason == Reason::LocalPod.name() || event.hook == Direction::ToPod.name();
        !event.refused && (is_local || is_own && event.becomes.is_some())
    }
}

/// An event of the packet or of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) direction: FlowDirection,
    pub(super) seen: Seen,
    /// Nanoseconds since it was sent.
    pub(super) since: i64,
    /// Its clock was another one than the sender's.
    pub(super) about: bool,
}

impl Found {
    /// Whether the other is the same but for the time.
    fn is_again(&self, other: &Self) -> bool {
        let untimed = |it: &Self| TraceEvent { time_ns: 0, ..it.seen.event.clone() };
        self.seen.node == other.seen.node && untimed(self) == untimed(other)
    }
}

/// All of them, in order.
#[derive(Clone, Debug)]
pub(super) struct Trail(pub(super) Vec<Found>);

impl Trail {
    pub(super) fn of(packet: &Packet, sent: &Sent, seen: Vec<Seen>) -> Self {
        let source = packet.source_of(sent);
        let found = seen.into_iter().filter_map(|seen| {
            let direction = packet.direction(&seen.event, source)?;
            // What came after the sender was content is of something else.
            let is_later =
                seen.same_clock && sent.answer.is_some() && seen.event.time_ns > sent.answered_ns;
            let since = difference(seen.event.time_ns, sent.sent_ns);
            let about = !seen.same_clock;
            (!is_later).then_some(Found { direction, seen, since, about })
        });
        let mut all: Vec<Found> = Vec::new();
        for it in found {
            // Where nobody answers, the sender's stack asks again.
            match all.iter_mut().find(|first| first.is_again(&it)) {
                Some(first) if it.since < first.since => *first = it,
                Some(_) => {}
                None => all.push(it),
            }
        }
        let has_other = all.iter().any(|it| it.about);
        all.sort_by_cached_key(|it| match (it.about, it.direction) {
            (true, _) => (1, it.seen.node.clone(), it.since),
            (false, FlowDirection::Reply) if has_other => (2, String::new(), it.since),
            (false, _) => (0, String::new(), it.since),
        });
        let came = sent.answer.map(|_| difference(sent.answered_ns, sent.sent_ns));
        move_into_gap(&mut all, came);
        Self(all)
    }

    /// The last one of this direction.
    pub(super) fn last(&self, direction: FlowDirection) -> Option<&Found> {
        self.0.iter().rfind(|it| it.direction == direction)
    }
}

/// Between two times of one clock.
pub(super) fn difference(later: u64, earlier: u64) -> i64 {
    later.wrapping_sub(earlier) as i64
}

/// Moves the times of other clocks between those of the sender's; `answered` is when the sender had
/// its answer.
fn move_into_gap(all: &mut [Found], answered: Option<i64>) {
    let own = |direction: FlowDirection| {
        all.iter().filter(move |it| it.direction == direction && !it.about)
    };
    let left = own(FlowDirection::Request).next_back().map_or(0, |it| it.since);
    let came = own(FlowDirection::Reply).next().map(|it| it.since).or(answered);
    for its in all.chunk_by_mut(|a, b| a.about == b.about && a.seen.node == b.seen.node) {
        let (Some(first), Some(last)) = (its.first(), its.last()) else { continue };
        if !first.about {
            continue;
        }
        let by = match came {
            Some(came) => (left + came - first.since - last.since) / 2,
            None => left - first.since,
        };
        for it in its {
            it.since += by;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{self, packet};
    use super::*;

    fn seen(node: &str, same_clock: bool, time_ns: u64, ends: [&str; 2], flags: u8) -> Seen {
        let [source, destination] = ends.map(|end| end.parse().unwrap());
        let event = fixtures::seen().event;
        let event = TraceEvent { time_ns, source, destination, tcp_flags: flags, ..event };
        Seen { node: node.to_owned(), same_clock, event }
    }

    const THERE: [&str; 2] = ["10.240.0.5:40000", "10.240.1.9:80"];
    const BACK: [&str; 2] = ["10.240.1.9:80", "10.240.0.5:40000"];

    fn sent(answered_ns: u64) -> Sent {
        let answer = Some(super::super::sender::Answer::SynAck);
        Sent { sent_ns: 1000, answered_ns, answer, ..Sent::default() }
    }

    #[test]
    fn what_follows_and_what_is_others_is_left_out() {
        let all = vec![
            seen("node1", true, 1900, BACK, SYN_ACK),
            seen("node1", true, 1100, THERE, SYN),
            seen("node1", true, 1950, THERE, 0x10),
            seen("node1", true, 2500, BACK, RST),
            seen("node1", true, 1200, ["10.240.0.5:40001", "10.240.1.9:80"], SYN),
            seen("node1", true, 1300, ["10.240.0.6:40000", "10.240.1.9:80"], SYN),
        ];
        let trail = Trail::of(&packet(), &sent(2000), all);
        let found: Vec<(FlowDirection, i64)> =
            trail.0.iter().map(|it| (it.direction, it.since)).collect();
        assert_eq!(found, [(FlowDirection::Request, 100), (FlowDirection::Reply, 900)]);
    }

    #[test]
    fn a_packet_that_is_sent_again_is_told_once() {
        let all = vec![
            seen("node1", true, 900_001_100, THERE, SYN),
            seen("node1", true, 1100, THERE, SYN),
            seen("node2", false, 900_001_200, THERE, SYN),
        ];
        let trail = Trail::of(&packet(), &Sent { answer: None, ..sent(2000) }, all);
        let found: Vec<(&str, bool)> =
            trail.0.iter().map(|it| (&*it.seen.node, it.about)).collect();
        assert_eq!(found, [("node1", false), ("node2", true)]);
        assert_eq!(trail.0[0].since, 100);
    }

    #[test]
    fn echoes_are_known_by_their_identifier() {
        let mut all = vec![
            seen("node1", true, 1100, ["10.240.0.5:0", "10.240.1.9:0"], 0),
            seen("node1", true, 1200, ["10.240.0.5:0", "10.240.1.9:0"], 0),
        ];
        let echo = |identifier| Some(bowline_agent::Echo { identifier, reply: false });
        all[0].event.echo = echo(40_000);
        all[1].event.echo = echo(7);
        let packet = Packet { protocol: Protocol::Icmp, ..packet() };
        let trail = Trail::of(&packet, &sent(2000), all);
        assert_eq!(trail.0.len(), 1);
    }

    #[test]
    fn another_clock_is_put_where_it_must_have_been() {
        let all = vec![
            seen("node2", false, 70, BACK, SYN_ACK),
            seen("node1", true, 1900, BACK, SYN_ACK),
            seen("node1", true, 1100, THERE, SYN),
            seen("node2", false, 50, THERE, SYN),
        ];
        let trail = Trail::of(&packet(), &sent(2000), all.clone());
        let order: Vec<(&str, i64, bool)> =
            trail.0.iter().map(|it| (&*it.seen.node, it.since, it.about)).collect();
        let expected = [
            ("node1", 100, false),
            ("node2", 490, true),
            ("node2", 510, true),
            ("node1", 900, false),
        ];
        assert_eq!(order, expected);
        // Nothing came back: right after it was last seen here.
        let lost = Sent { answer: None, ..sent(2000) };
        let trail = Trail::of(&packet(), &lost, all[2..].to_vec());
        let order: Vec<(&str, i64)> = trail.0.iter().map(|it| (&*it.seen.node, it.since)).collect();
        assert_eq!(order, [("node1", 100), ("node2", 100)]);
    }
}
