//! What the programs tell of packets, with names instead of this build's numbers, for who follows
//! one across nodes; and `GET /bowline/events` of the agent's HTTPS server, which tells it as it
//! happens.
//!
//! Guarantees: the kernel filters; a stream ends by itself after the seconds that were asked for,
//! and when its reader is gone; its last message says how many events were lost, or why it ended
//! early. As one listens to a node at a time, a second one is refused. Not here: who may ask
//! (`server`).

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bowline_ebpf_abi::{Address, Direction, Event, Reason, U16Be, protocol};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{task::spawn_blocking, time::sleep};

use crate::datapath::{Filter, LEASE, ListenFailed, Listener, NodePlace, link_names};

/// Bytes of a packet that reach its ICMP header, behind all options of an IPv4 header.
const HEADERS: u32 = 14 + 60 + 8;

/// Events that are told at most a second.
const RATE: u32 = 10_000;

/// Between two looks when there was nothing.
const PAUSE: Duration = Duration::from_millis(5);

/// Events that are written at once.
const BATCH: usize = 256;

/// Seconds that a stream lasts at most.
const LONGEST: u64 = 120;

/// Which packets to tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceFilter {
    /// The number of the protocol in the IP header.
    pub protocol: u8,
    /// Of either end.
    pub port: Option<u16>,
    /// Of either end.
    pub address: Option<IpAddr>,
    /// For so long.
    pub seconds: u64,
}

impl TraceFilter {
    /// What the kernel is asked for.
    pub fn filter(&self) -> Filter {
        let is_control = matches!(self.protocol, protocol::ICMP | protocol::ICMPV6);
        Filter {
            addresses: self.address.into_iter().collect(),
            port: self.port,
            protocol: Some(self.protocol),
            rate: RATE,
            snap: if is_control { HEADERS } else { 0 },
            ..Filter::default()
        }
    }
}

/// A packet at a hook, or a call on a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceEvent {
    /// By the monotonic clock of the node's kernel.
    pub time_ns: u64,
    /// As [`Direction::name`] has it.
    pub hook: String,
    /// The name of the link in the node.
    pub device: String,
    /// As [`Reason::name`] has it.
    pub reason: String,
    pub refused: bool,
    /// As it came in; without ports these are 0.
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// What the destination, or an answer's source, is changed to.
    pub becomes: Option<SocketAddr>,
    /// As the TCP header has them.
    pub tcp_flags: u8,
    pub echo: Option<Echo>,
    /// With the Ethernet header.
    pub bytes: u32,
}

/// An ICMP echo request or its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    pub identifier: u16,
    pub reply: bool,
}

impl TraceEvent {
    /// What an event says, with the beginning of its packet and the names of the node's links.
    pub fn of(event: &Event, packet: &[u8], links: &BTreeMap<u32, String>) -> Self {
        let (reason, hook) = (Reason::of(event.reason), Direction::of(event.direction));
        let end = |address: Address, port: U16Be| SocketAddr::new(address.into(), port.get());
        let link = || format!("link {}", event.ifindex);
        Self {
            time_ns: event.time_ns,
            hook: hook.map_or("unknown", Direction::name).to_owned(),
            device: links.get(&event.ifindex).cloned().unwrap_or_else(link),
            reason: reason.map_or("unknown", Reason::name).to_owned(),
            refused: reason.is_some_and(Reason::is_drop),
            source: end(event.source, event.source_port),
            destination: end(event.destination, event.destination_port),
            becomes: event.is_changed().then(|| end(event.becomes, event.becomes_port)),
            tcp_flags: event.tcp_flags,
            echo: Echo::of(event.protocol, packet),
            bytes: event.bytes,
        }
    }
}

impl Echo {
    /// Of a frame without IPv6 extension headers.
    fn of(number: u8, frame: &[u8]) -> Option<Self> {
        const ETHERNET: usize = 14;
        const IPV6: usize = 40;
        let (at, request, reply) = match number {
            protocol::ICMP => (usize::from(frame.get(ETHERNET)? & 0xf) * 4, 8, 0),
            protocol::ICMPV6 => (IPV6, 128, 129),
            _ => return None,
        };
        let header = frame.get(ETHERNET + at..)?.get(..8)?;
        if header[0] != request && header[0] != reply {
            return None;
        }
        let identifier = u16::from_be_bytes([header[4], header[5]]);
        Some(Self { identifier, reply: header[0] == reply })
    }
}

/// A line of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum StreamMessage {
    /// The first: from now on nothing is missed. Machines that run since the same boot have one
    /// clock.
    Listening {
        boot_id: String,
    },
    Event(TraceEvent),
    /// How many events found no room so far; the last one of a stream that was not broken off.
    Lost(u64),
    /// The last one of a stream that ends early: why.
    Failed(String),
}

impl StreamMessage {
    fn text(&self) -> String {
        // It has no part that JSON could not have.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// What is the same for all that runs since this machine was started.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.unwrap_or_default().trim().to_owned()
}

/// What somebody wants to know of packets on a node of this machine.
#[derive(Debug)]
pub struct Subscription {
    listener: Listener,
    links: BTreeMap<u32, String>,
    renewed: Instant,
}

impl Subscription {
    /// Begins to listen to a node.
    pub fn open(place: &NodePlace, filter: &Filter) -> Result<Self, ListenFailed> {
        let renewed = Instant::now();
        let listener = Listener::open(&place.bpffs, filter)?;
        // Links have numbers where this fails.
        let links = link_names(place.netns.as_deref()).unwrap_or_default();
        Ok(Self { listener, links, renewed })
    }

    /// Adds what happened meanwhile, so many events at most, also before it fails. To be called
    /// every second: whoever does not for the time of [`LEASE`] has missed something.
    pub fn poll(&mut self, most: usize, into: &mut Vec<TraceEvent>) -> Result<(), ListenFailed> {
        let renewed = self.renew();
        let (listener, links) = (&mut self.listener, &self.links);
        let events = std::iter::from_fn(|| listener.read()).take(most);
        into.extend(events.map(|(event, packet)| TraceEvent::of(&event, &packet, links)));
        renewed
    }

    fn renew(&mut self) -> Result<(), ListenFailed> {
        let (now, since) = (Instant::now(), self.renewed.elapsed());
        if since <= LEASE / 3 {
            return Ok(());
        }
        if since <= LEASE {
            self.listener.renew()?;
        }
        // What that took counts, too.
        if self.renewed.elapsed() > LEASE {
            return Err(ListenFailed::Lapsed);
        }
        self.renewed = now;
        Ok(())
    }

    /// How many events found no room.
    pub fn lost(&self) -> u64 {
        // Maps that cannot be read any more are told of by `poll`.
        self.listener.lost().unwrap_or_default()
    }
}

/// Serves what happens on this node.
pub(crate) fn router(place: NodePlace) -> Router {
    Router::new().route("/bowline/events", get(events)).with_state(Arc::new(place))
}

async fn events(
    State(place): State<Arc<NodePlace>>,
    Query(wanted): Query<TraceFilter>,
) -> Response {
    let opened = spawn_blocking(move || Subscription::open(&place, &wanted.filter()));
    let subscription = match opened.await {
        Ok(Ok(subscription)) => subscription,
        Ok(Err(error)) => {
            let code = match error {
                ListenFailed::Busy => StatusCode::CONFLICT,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            return (code, error.to_string()).into_response();
        }
        Err(_) => return (StatusCode::INTERNAL_SERVER_ERROR, "it ended early").into_response(),
    };
    let end = Instant::now() + Duration::from_secs(wanted.seconds.clamp(1, LONGEST));
    let first = StreamMessage::Listening { boot_id: boot_id() }.text();
    let rest = stream::unfold(Some(subscription), move |subscription| async move {
        let mut subscription = subscription?;
        let last = match more(&mut subscription, end).await {
            Ok(Some(lines)) => return Some((lines, Some(subscription))),
            Ok(None) => StreamMessage::Lost(subscription.lost()),
            Err(error) => StreamMessage::Failed(error.to_string()),
        };
        Some((last.text(), None))
    });
    let lines = stream::iter([first]).chain(rest).map(|it| Ok::<_, Infallible>(Bytes::from(it)));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// The next lines, none after the end.
async fn more(
    subscription: &mut Subscription,
    end: Instant,
) -> Result<Option<String>, ListenFailed> {
    while Instant::now() < end {
        let mut events = Vec::new();
        let polled = subscription.poll(BATCH, &mut events);
        if events.is_empty() {
            polled?;
        } else {
            // What failed fails the next time, too.
            let messages = events.into_iter().map(StreamMessage::Event);
            let mut lines: String = messages.map(|message| message.text()).collect();
            match subscription.lost() {
                0 => {}
                lost => lines.push_str(&StreamMessage::Lost(lost).text()),
            }
            return Ok(Some(lines));
        }
        sleep(PAUSE).await;
    }
    // Nothing is missing only if it was listened to until now.
    subscription.renew()?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use bowline_ebpf_abi::NO_SERVICE;

    use super::*;

    fn frame(head: &[u8], rest: &[u8]) -> Vec<u8> {
        [&[0; 14], head, rest].concat()
    }

    #[test]
    fn echoes_have_an_identifier() {
        let mut v4 = [0; 24];
        v4[0] = 0x46;
        let request = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
        let found = Echo::of(protocol::ICMP, &frame(&v4, &request));
        assert_eq!(found, Some(Echo { identifier: 0x1234, reply: false }));
        let mut reply = request;
        reply[0] = 129;
        let found = Echo::of(protocol::ICMPV6, &frame(&[0x60; 40], &reply));
        assert_eq!(found, Some(Echo { identifier: 0x1234, reply: true }));
        // An error, a packet that is cut off, and what is no ICMP.
        reply[0] = 1;
        assert_eq!(Echo::of(protocol::ICMPV6, &frame(&[0x60; 40], &reply)), None);
        assert_eq!(Echo::of(protocol::ICMP, &frame(&v4, &request[..7])), None);
        assert_eq!(Echo::of(protocol::TCP, &frame(&v4, &request)), None);
    }

    #[test]
    fn an_event_gets_names() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
        let event = Event {
            source: address("10.240.0.5"),
            destination: address("10.9.8.7"),
            becomes: address("10.240.1.9"),
            destination_port: U16Be::new(80),
            becomes_port: U16Be::new(9376),
            reason: Reason::Balanced as u16,
            direction: Direction::FromPod as u16,
            ifindex: 3,
            service: 1,
            ..Event::default()
        };
        let links = BTreeMap::from([(3, "bl0".to_owned())]);
        let seen = TraceEvent::of(&event, &[], &links);
        assert_eq!((&*seen.hook, &*seen.reason, &*seen.device), ("from-pod", "balanced", "bl0"));
        assert_eq!(seen.becomes, Some("10.240.1.9:9376".parse().unwrap()));
        // What is no service's changes nothing; a link that nobody knows has its number.
        let event = Event { service: NO_SERVICE, ifindex: 4, ..event };
        let seen = TraceEvent::of(&event, &[], &links);
        assert_eq!((seen.becomes, &*seen.device), (None, "link 4"));
        // Another build's numbers, which this one has no names for.
        let event = Event { reason: 999, direction: 9, ..event };
        let seen = TraceEvent::of(&event, &[], &links);
        assert_eq!((&*seen.reason, &*seen.hook, seen.refused), ("unknown", "unknown", false));
    }
}
