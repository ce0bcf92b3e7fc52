//! `bowline net monitor`: what the programs do with packets and calls, as it happens.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use bowline_agent::datapath::{Snapshot, monotonic_ns, namespace_cookie};
use bowline_ebpf_abi::{Direction, Event, Reason, protocol};
use jiff::Timestamp;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::listen::{self, Selection, Sink};
use super::tcp;
use crate::output::{self, Format};

/// Connections whose answer is waited for, to tell how long it took.
const MOST_OPENING: usize = 4096;

/// Longer than any stack asks for a connection.
const LONGEST_OPENING_NS: u64 = 130_000_000_000;

/// What to show; without any of these, everything.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline net monitor --node node1 --verdict refused
  bowline net monitor --node node1 --service default/nifty-svc
  bowline net monitor --node node1 --pod web --port 53 --protocol udp -o json
  bowline net monitor --node node1 --rate 0 --sample 1000 --duration 10

A packet shows at each hook that it meets; a connect() once, and once more when its TCP connection
is open, with the time between; a sendto() when it is refused. One can listen on a node at a time.
Through the API, what the node's agent (port 10250) exchanges shows only with --port 10250.")]
pub(super) struct Args {
    #[command(flatten)]
    selection: Selection,
}

impl Args {
    /// Told through the agent.
    pub(super) fn through_agent(self) -> Self {
        Self { selection: self.selection.through_agent() }
    }
}

/// Shows events until it is told to end.
pub(super) async fn run(
    args: &Args,
    bpffs: &Path,
    run_dir: &Path,
    numeric: bool,
    format: Format,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let snapshot = listen::snapshot(bpffs, run_dir)?;
    let filter = args.selection.filter(&snapshot)?;
    let mut shown = Shown::new(if numeric { None } else { Some(&snapshot) }, format);
    listen::listen(&args.selection, bpffs, &filter, &mut shown, stop).await
}

/// One event, for scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    time: String,
    verdict: &'static str,
    reason: &'static str,
    direction: &'static str,
    protocol: String,
    /// Of a call: the pod, by its network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<End>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<End>,
    /// What the destination, or an answer's source, is changed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    becomes: Option<End>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tcp_flags: Vec<&'static str>,
    bytes: u32,
    ifindex: u32,
    /// From connect() to the answer, or from the first packet of a connection to its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_microseconds: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct End {
    address: IpAddr,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl End {
    pub(super) fn shown(&self) -> String {
        let end = match self.port {
            0 => self.address.to_string(),
            port => SocketAddr::new(self.address, port).to_string(),
        };
        match &self.name {
            Some(name) => format!("{end} ({name})"),
            None => end,
        }
    }
}

/// How events are shown.
struct Shown {
    format: Format,
    /// What is yet to be printed.
    text: String,
    names: Names,
    /// When connections were asked for, by who asked and whom.
    opening: HashMap<(SocketAddr, SocketAddr), u64>,
}

impl Sink for Shown {
    fn add(&mut self, event: &Event, _packet: &[u8]) -> anyhow::Result<()> {
        let row = self.row(event);
        match self.format {
            Format::Table | Format::Wide => line(&row, self.format, &mut self.text),
            Format::Json => {
                self.text.push_str(&serde_json::to_string(&row)?);
                self.text.push('\n');
            }
            Format::Yaml => {
                self.text.push_str("---\n");
                self.text.push_str(&output::yaml(&row)?);
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(output::text(&std::mem::take(&mut self.text))?)
    }
}

/// The objects behind addresses, and the time of day behind the kernel's clock.
pub(super) struct Names {
    services: BTreeMap<SocketAddr, String>,
    targets: BTreeMap<SocketAddr, String>,
    pods: BTreeMap<IpAddr, String>,
    /// By the cookie of the network namespace.
    callers: BTreeMap<u64, String>,
    /// The kernel's clock at the beginning of Unix time.
    began: i128,
}

impl Names {
    /// Those of a node, or none.
    pub(super) fn of(node: Option<&Snapshot>) -> Self {
        let mut names = Self {
            services: BTreeMap::new(),
            targets: BTreeMap::new(),
            pods: BTreeMap::new(),
            callers: BTreeMap::new(),
            began: Timestamp::now().as_nanosecond() - i128::from(monotonic_ns()),
        };
        let Some(node) = node else { return names };
        for row in &node.services {
            if let (Some(namespace), Some(name)) = (&row.namespace, &row.name) {
                let end = SocketAddr::new(row.address, row.port);
                names.services.insert(end, format!("{namespace}/{name}"));
            }
        }
        for row in &node.backends {
            if let Some(target) = &row.target {
                names.targets.insert(SocketAddr::new(row.address, row.port), target.clone());
            }
        }
        for row in &node.pods {
            let (Some(namespace), Some(name)) = (&row.namespace, &row.name) else { continue };
            let full = format!("{namespace}/{name}");
            // Not told by old kernels; then the number is shown.
            if let Some(Ok(cookie)) = row.netns.as_deref().map(namespace_cookie) {
                names.callers.insert(cookie, full.clone());
            }
            names.pods.insert(row.address, full);
        }
        names
    }

    /// When an event happened.
    pub(super) fn time(&self, event: &Event) -> Timestamp {
        let nanoseconds = self.began + i128::from(event.time_ns);
        Timestamp::from_nanosecond(nanoseconds).unwrap_or_default()
    }

    /// A pod as NAMESPACE/NAME.
    pub(super) fn pod(&self, address: IpAddr) -> Option<String> {
        self.pods.get(&address).cloned()
    }

    pub(super) fn end(&self, address: IpAddr, port: u16) -> Option<End> {
        if address.is_unspecified() {
            return None;
        }
        let end = SocketAddr::new(address, port);
        let named = self.services.get(&end).or_else(|| self.targets.get(&end));
        let name = named.or_else(|| self.pods.get(&address)).cloned();
        Some(End { address, port, name })
    }

    fn caller(&self, cookie: u64) -> String {
        self.callers.get(&cookie).cloned().unwrap_or_else(|| format!("netns:{cookie}"))
    }
}

impl Shown {
    fn new(names: Option<&Snapshot>, format: Format) -> Self {
        Self { format, text: String::new(), names: Names::of(names), opening: HashMap::new() }
    }

    fn row(&mut self, event: &Event) -> Row {
        let (reason, direction) = (Reason::of(event.reason), Direction::of(event.direction));
        let names = &self.names;
        let is_call = direction == Some(Direction::Socket);
        let port = |port: bowline_ebpf_abi::U16Be| port.get();
        let becomes = names.end(event.becomes.into(), port(event.becomes_port));
        Row {
            time: format!("{:.6}", names.time(event)),
            verdict: if reason.is_some_and(Reason::is_drop) { "refused" } else { "passed" },
            reason: reason.map_or("unknown", Reason::name),
            direction: direction.map_or("unknown", Direction::name),
            protocol: protocol_name(event.protocol),
            // Of a connection that is open its client's end is told instead.
            caller: (is_call && event.netns != 0).then(|| names.caller(event.netns)),
            source: names.end(event.source.into(), port(event.source_port)),
            destination: names.end(event.destination.into(), port(event.destination_port)),
            becomes: becomes.filter(|_| event.is_changed()),
            tcp_flags: tcp::flag_names(event.tcp_flags),
            bytes: event.bytes,
            ifindex: event.ifindex,
            connect_microseconds: self.took(event),
        }
    }

    /// How long a connection took that is answered now.
    fn took(&mut self, event: &Event) -> Option<u64> {
        let end = |address: bowline_ebpf_abi::Address, port: bowline_ebpf_abi::U16Be| {
            SocketAddr::new(address.into(), port.get())
        };
        if event.connect_ns > 0 {
            return Some(event.connect_ns / 1000);
        }
        let from = end(event.source, event.source_port);
        match event.tcp_flags & tcp::SYN_ACK {
            tcp::SYN => {
                // An opening that nobody answers stays until there are many.
                if self.opening.len() >= MOST_OPENING {
                    self.opening.clear();
                }
                let whom = end(event.becomes, event.becomes_port);
                let asked = self.opening.entry((from, whom)).or_insert(event.time_ns);
                // An opening that is asked for again begins where it began; ports are used again.
                if event.time_ns.saturating_sub(*asked) > LONGEST_OPENING_NS {
                    *asked = event.time_ns;
                }
                None
            }
            tcp::SYN_ACK => {
                let who = end(event.destination, event.destination_port);
                let asked = self.opening.remove(&(who, from))?;
                Some(event.time_ns.saturating_sub(asked) / 1000)
            }
            _ => None,
        }
    }
}

/// What a packet is, in words: from where to where, what is changed, and what it carries.
pub(super) fn packet_words(
    [source, destination, becomes]: [Option<&End>; 3],
    tcp_flags: &[&str],
    bytes: u32,
) -> Vec<String> {
    let mut words: Vec<String> = source.map(End::shown).into_iter().collect();
    words.extend(destination.map(|end| format!("-> {}", end.shown())));
    words.extend(becomes.map(|end| format!("=> {}", end.shown())));
    if !tcp_flags.is_empty() {
        words.push(tcp_flags.join("+"));
    }
    if bytes > 0 {
        words.push(format!("{bytes} B"));
    }
    words
}

fn protocol_name(number: u8) -> String {
    match number {
        0 => "-".to_owned(),
        protocol::TCP => "TCP".to_owned(),
        protocol::UDP => "UDP".to_owned(),
        protocol::ICMP => "ICMP".to_owned(),
        protocol::ICMPV6 => "ICMPv6".to_owned(),
        other => format!("protocol {other}"),
    }
}

/// Wide: with the link, by its number.
fn line(row: &Row, format: Format, text: &mut String) {
    let clock = row.time.split_once('T').map_or(&*row.time, |(_, clock)| clock);
    let clock = clock.trim_end_matches('Z');
    let mut words =
        vec![format!("{clock} {:7} {:17} {:11}", row.verdict, row.reason, row.direction)];
    words.push(row.protocol.clone());
    words.extend(row.caller.clone());
    let ends = [row.source.as_ref(), row.destination.as_ref(), row.becomes.as_ref()];
    words.extend(packet_words(ends, &row.tcp_flags, row.bytes));
    words.extend(row.connect_microseconds.map(|took| format!("connected in {took} us")));
    if format == Format::Wide && row.ifindex > 0 {
        words.push(format!("link {}", row.ifindex));
    }
    text.push_str(&words.join(" "));
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use bowline_ebpf_abi::U16Be;

    use super::*;

    fn event(flags: u8, time_ns: u64) -> Event {
        let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
        Event {
            time_ns,
            source: address("10.240.0.5"),
            destination: address("10.9.8.7"),
            becomes: address("10.240.1.9"),
            source_port: U16Be::new(40_000),
            destination_port: U16Be::new(80),
            becomes_port: U16Be::new(9376),
            protocol: protocol::TCP,
            tcp_flags: flags,
            reason: Reason::Balanced as u16,
            direction: Direction::FromPod as u16,
            bytes: 74,
            service: 3,
            ..Event::default()
        }
    }

    #[test]
    fn a_line_says_from_where_to_where_and_how_long_it_took() {
        let mut shown = Shown::new(None, Format::Table);
        shown.add(&event(tcp::SYN, 1_000_000), &[]).unwrap();
        let text = std::mem::take(&mut shown.text);
        let says = "TCP 10.240.0.5:40000 -> 10.9.8.7:80 => 10.240.1.9:9376 SYN 74 B";
        assert!(text.trim_end().ends_with(says), "{text}");
        let (mut wide, row) = (String::new(), shown.row(&Event { ifindex: 7, ..event(0, 0) }));
        line(&row, Format::Wide, &mut wide);
        assert!(wide.ends_with(" 74 B link 7\n"), "{wide}");
        let there = event(0, 0);
        let answer = Event {
            source: there.becomes,
            source_port: there.becomes_port,
            destination: there.source,
            destination_port: there.source_port,
            reason: Reason::AnswerTranslated as u16,
            ..event(tcp::SYN_ACK, 1_250_000)
        };
        assert_eq!(shown.row(&answer).connect_microseconds, Some(250));
        assert_eq!(shown.row(&answer).connect_microseconds, None);
    }

    #[test]
    fn an_open_connection_is_told_with_its_client_and_its_time() {
        let open = Event {
            reason: Reason::Connected as u16,
            direction: Direction::Socket as u16,
            bytes: 0,
            connect_ns: 73_900,
            ..event(0, 1_000_000)
        };
        let mut shown = Shown::new(None, Format::Table);
        shown.add(&open, &[]).unwrap();
        let says = "passed  connected         socket      TCP 10.240.0.5:40000 -> 10.9.8.7:80 \
                    => 10.240.1.9:9376 connected in 73 us";
        assert!(shown.text.trim_end().ends_with(says), "{}", shown.text);
        assert_eq!(shown.row(&open).caller, None);
    }
}
