//! `bowline net monitor`: what the programs do with packets and calls, as it happens.
//!
//! Guarantees: the kernel filters, so what is not asked for costs nothing here; memory is bounded;
//! what was lost is said. Ctrl-C and SIGTERM end it in order.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_agent::NAMES_FILE;
use bowline_agent::datapath::{
    Became, Filter, LEASE, Listener, Snapshot, monotonic_ns, namespace_cookie,
};
use bowline_ebpf_abi::{Direction, Event, NO_SERVICE, Reason, protocol};
use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::diff::is_an_agent_at_work;
use super::ends;
use crate::output::{self, Format};

/// Connections whose answer is waited for, to tell how long it took.
const MOST_OPENING: usize = 4096;

/// Longer than any stack asks for a connection.
const LONGEST_OPENING_NS: u64 = 130_000_000_000;

/// Between two looks when there was nothing: with a megabyte for EVENTS two million events a second
/// find room.
const PAUSE: Duration = Duration::from_millis(5);

/// Events that are read before anything else is looked at.
const BATCH: usize = 1024;

mod tcp {
    pub(super) const NAMES: [(u8, &str); 6] =
        [(0x02, "SYN"), (0x10, "ACK"), (0x01, "FIN"), (0x04, "RST"), (0x08, "PSH"), (0x20, "URG")];
    pub(super) const SYN: u8 = 0x02;
    pub(super) const SYN_ACK: u8 = 0x12;
}

/// What to show; without any of these, everything.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline net monitor --node node1 --verdict refused
  bowline net monitor --node node1 --service default/nifty-svc
  bowline net monitor --node node1 --pod web --port 53 --protocol udp -o json
  bowline net monitor --node node1 --rate 0 --sample 1000 --duration 10

A packet shows at each hook that it meets; a connect() once, a sendto() when it is refused. One can
listen on a node at a
time.")]
pub(super) struct Args {
    /// Of or to this pod of the node, its calls included: as NAME, NAMESPACE/NAME or address
    #[arg(long, value_name = "POD", conflicts_with = "address")]
    pod: Option<String>,
    /// Balanced or refused as this service's, as NAME or NAMESPACE/NAME, with :PORT if it has
    /// several. What a call on a socket was balanced for, its packets do not show
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Of or to this address
    #[arg(long)]
    address: Option<IpAddr>,
    /// Of or to this port
    #[arg(long)]
    port: Option<u16>,
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    #[arg(long, value_enum)]
    verdict: Option<Verdict>,
    /// A reason as `bowline net counters` has it
    #[arg(long, value_name = "NAME")]
    reason: Option<String>,
    /// One event in so many, chosen at random
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// At most so many events a second; 0 is no bound
    #[arg(long, value_name = "EVENTS", default_value_t = 10_000)]
    rate: u32,
    /// End after so many events
    #[arg(long, value_name = "EVENTS")]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Icmp,
    Icmpv6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Verdict {
    Passed,
    Refused,
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
    /// From the first packet of a connection to its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_microseconds: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct End {
    address: IpAddr,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl End {
    fn shown(&self) -> String {
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

/// Shows events until it is told to end.
pub(super) async fn run(
    args: &Args,
    bpffs: &Path,
    run_dir: &Path,
    numeric: bool,
    format: Format,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let snapshot = Snapshot::read(bpffs)
        .with_context(|| is_an_agent_at_work(bpffs))?
        .with_names(&run_dir.join(NAMES_FILE));
    let filter = filter(args, &snapshot)?;
    let mut shown = Shown::new(if numeric { None } else { Some(&snapshot) }, format);
    let mut listener = Listener::open(bpffs, &filter)?;
    let end = args.duration.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut renewed = interval(LEASE / 3);
    renewed.set_missed_tick_behavior(MissedTickBehavior::Delay);
    say("listening");
    let (mut seen, mut lost) = (0, 0);
    let mut window = Window { rate: args.rate.into(), began: Instant::now(), shown: 0, over: 0 };
    let mut last_renewed = Instant::now();
    let most = args.count.unwrap_or(u64::MAX);
    while seen < most && !stop.is_cancelled() && end.is_none_or(|end| Instant::now() < end) {
        let before = seen;
        let mut text = String::new();
        while seen < most
            && seen - before < BATCH as u64
            && let Some(event) = listener.read()
        {
            if window.has_room() {
                seen += 1;
                shown.add(&event, &mut text)?;
            }
        }
        output::text(&text)?;
        // When there was as much as is read at once there may be more.
        let pause = if seen - before == BATCH as u64 { Duration::ZERO } else { PAUSE };
        tokio::select! {
            () = sleep(pause) => {}
            _ = renewed.tick() => {
                listener.renew()?;
                let gap = last_renewed.elapsed();
                if gap > LEASE {
                    tracing::warn!(
                        "nothing was told for {:.1} s: who reads this is too slow",
                        (gap - LEASE).as_secs_f64()
                    );
                }
                last_renewed = Instant::now();
                let lost_now = listener.lost()? + window.over;
                if lost_now > lost {
                    lost = lost_now;
                    let rate = args.rate;
                    tracing::warn!("{lost} events are lost: --rate is {rate}, --sample helps");
                }
            }
            () = stop.cancelled() => {}
            () = ended(end) => {}
        }
    }
    say(&format!("{seen} events, {} lost", listener.lost()? + window.over));
    Ok(())
}

/// The rate as the listener keeps to it; the kernel keeps to it about, each processor by itself.
struct Window {
    rate: u64,
    began: Instant,
    shown: u64,
    over: u64,
}

impl Window {
    fn has_room(&mut self) -> bool {
        if self.began.elapsed() >= Duration::from_secs(1) {
            (self.began, self.shown) = (Instant::now(), 0);
        }
        let has_room = self.rate == 0 || self.shown < self.rate;
        self.shown += u64::from(has_room);
        self.over += u64::from(!has_room);
        has_room
    }
}

/// A line for who waits for it, beside the events.
fn say(line: &str) {
    // Nobody may be there to read it.
    drop(writeln!(io::stderr(), "{line}"));
}

async fn ended(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// What the kernel is asked for.
fn filter(args: &Args, snapshot: &Snapshot) -> anyhow::Result<Filter> {
    let addresses = match &args.pod {
        Some(pod) => match ends::clients(pod, snapshot)?.0 {
            Some(addresses) => addresses,
            None => bail!("`node` is no pod: use --address"),
        },
        None => args.address.into_iter().collect(),
    };
    // Its calls have no address; old kernels do not tell whose they are.
    let row =
        snapshot.pods.iter().find(|row| args.pod.is_some() && addresses.contains(&row.address));
    let netns = row.and_then(|row| namespace_cookie(row.netns.as_deref()?).ok());
    let service = match &args.service {
        Some(service) => Some(service_number(service, args, snapshot)?),
        None => None,
    };
    let reason = match &args.reason {
        Some(name) => Some(reason(name)?),
        None => None,
    };
    Ok(Filter {
        only: args.verdict.map(|verdict| match verdict {
            Verdict::Passed => Became::Passed,
            Verdict::Refused => Became::Refused,
        }),
        reason,
        addresses,
        netns,
        port: args.port,
        protocol: args.protocol.map(|protocol| match protocol {
            Protocol::Tcp => protocol::TCP,
            Protocol::Udp => protocol::UDP,
            Protocol::Icmp => protocol::ICMP,
            Protocol::Icmpv6 => protocol::ICMPV6,
        }),
        service,
        sample: args.sample,
        rate: args.rate,
    })
}

fn service_number(text: &str, args: &Args, snapshot: &Snapshot) -> anyhow::Result<u32> {
    let udp = args.protocol == Some(Protocol::Udp);
    let end = ends::destination(text, None, udp, snapshot)?;
    let wanted = if udp { "UDP" } else { "TCP" };
    let row = snapshot
        .services
        .iter()
        .find(|row| row.address == end.ip() && row.port == end.port() && row.protocol == wanted);
    match row {
        Some(row) => Ok(row.id),
        None => bail!("{text} is no service of this node: use --address and --port"),
    }
}

fn reason(name: &str) -> anyhow::Result<Reason> {
    match Reason::ALL.into_iter().find(|reason| reason.name() == name) {
        Some(reason) => Ok(reason),
        None => {
            let known = Reason::ALL.map(Reason::name);
            bail!("there is no reason {name}{}", output::nearest(name, &known))
        }
    }
}

/// How events are shown.
struct Shown {
    format: Format,
    services: BTreeMap<SocketAddr, String>,
    targets: BTreeMap<SocketAddr, String>,
    pods: BTreeMap<IpAddr, String>,
    /// By the cookie of the network namespace.
    callers: BTreeMap<u64, String>,
    /// When connections were asked for, by who asked and whom.
    opening: HashMap<(SocketAddr, SocketAddr), u64>,
    /// The kernel's clock at the beginning of Unix time.
    began: i128,
}

impl Shown {
    fn new(names: Option<&Snapshot>, format: Format) -> Self {
        let mut shown = Self {
            format,
            services: BTreeMap::new(),
            targets: BTreeMap::new(),
            pods: BTreeMap::new(),
            callers: BTreeMap::new(),
            opening: HashMap::new(),
            began: Timestamp::now().as_nanosecond() - i128::from(monotonic_ns()),
        };
        let Some(names) = names else { return shown };
        for row in &names.services {
            if let (Some(namespace), Some(name)) = (&row.namespace, &row.name) {
                let end = SocketAddr::new(row.address, row.port);
                shown.services.insert(end, format!("{namespace}/{name}"));
            }
        }
        for row in &names.backends {
            if let Some(target) = &row.target {
                shown.targets.insert(SocketAddr::new(row.address, row.port), target.clone());
            }
        }
        for row in &names.pods {
            let (Some(namespace), Some(name)) = (&row.namespace, &row.name) else { continue };
            let full = format!("{namespace}/{name}");
            // Not told by old kernels; then the number is shown.
            if let Some(Ok(cookie)) = row.netns.as_deref().map(namespace_cookie) {
                shown.callers.insert(cookie, full.clone());
            }
            shown.pods.insert(row.address, full);
        }
        shown
    }

    fn end(&self, address: IpAddr, port: u16) -> Option<End> {
        if address.is_unspecified() {
            return None;
        }
        let end = SocketAddr::new(address, port);
        let named = self.services.get(&end).or_else(|| self.targets.get(&end));
        let name = named.or_else(|| self.pods.get(&address)).cloned();
        Some(End { address, port, name })
    }

    fn add(&mut self, event: &Event, text: &mut String) -> anyhow::Result<()> {
        let row = self.row(event);
        match self.format {
            Format::Table => line(&row, text),
            Format::Json => {
                text.push_str(&serde_json::to_string(&row)?);
                text.push('\n');
            }
            Format::Yaml => {
                text.push_str("---\n");
                text.push_str(&output::yaml(&row)?);
            }
        }
        Ok(())
    }

    fn row(&mut self, event: &Event) -> Row {
        let reason = Reason::ALL.into_iter().find(|it| *it as u32 == u32::from(event.reason));
        let direction =
            Direction::ALL.into_iter().find(|it| *it as u32 == u32::from(event.direction));
        let nanoseconds = self.began + i128::from(event.time_ns);
        let time = Timestamp::from_nanosecond(nanoseconds).unwrap_or_default();
        let is_call = direction == Some(Direction::Socket);
        let changed = event.service != NO_SERVICE && reason.is_some_and(|it| !it.is_drop());
        let port = |port: bowline_ebpf_abi::U16Be| port.get();
        let becomes = self.end(event.becomes.into(), port(event.becomes_port));
        Row {
            time: format!("{time:.6}"),
            verdict: if reason.is_some_and(Reason::is_drop) { "refused" } else { "passed" },
            reason: reason.map_or("unknown", Reason::name),
            direction: direction.map_or("unknown", Direction::name),
            protocol: protocol_name(event.protocol),
            caller: is_call.then(|| self.caller(event.netns)),
            source: self.end(event.source.into(), port(event.source_port)),
            destination: self.end(event.destination.into(), port(event.destination_port)),
            becomes: becomes.filter(|_| changed),
            tcp_flags: tcp::NAMES
                .iter()
                .filter(|(bit, _)| event.tcp_flags & bit != 0)
                .map(|(_, name)| *name)
                .collect(),
            bytes: event.bytes,
            ifindex: event.ifindex,
            connect_microseconds: self.took(event),
        }
    }

    fn caller(&self, cookie: u64) -> String {
        self.callers.get(&cookie).cloned().unwrap_or_else(|| format!("netns:{cookie}"))
    }

    /// How long a connection took that is answered now.
    fn took(&mut self, event: &Event) -> Option<u64> {
        let end = |address: bowline_ebpf_abi::Address, port: bowline_ebpf_abi::U16Be| {
            SocketAddr::new(address.into(), port.get())
        };
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

fn line(row: &Row, text: &mut String) {
    let clock = row.time.split_once('T').map_or(&*row.time, |(_, clock)| clock);
    let clock = clock.trim_end_matches('Z');
    let mut words =
        vec![format!("{clock} {:7} {:17} {:11}", row.verdict, row.reason, row.direction)];
    words.push(row.protocol.clone());
    words.extend(row.caller.clone());
    words.extend(row.source.as_ref().map(End::shown));
    if let Some(destination) = &row.destination {
        words.push(format!("-> {}", destination.shown()));
    }
    if let Some(becomes) = &row.becomes {
        words.push(format!("=> {}", becomes.shown()));
    }
    if !row.tcp_flags.is_empty() {
        words.push(row.tcp_flags.join("+"));
    }
    if row.bytes > 0 {
        words.push(format!("{} B", row.bytes));
    }
    words.extend(row.connect_microseconds.map(|took| format!("connected in {took} us")));
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
        let mut text = String::new();
        shown.add(&event(0x02, 1_000_000), &mut text).unwrap();
        let says = "TCP 10.240.0.5:40000 -> 10.9.8.7:80 => 10.240.1.9:9376 SYN 74 B";
        assert!(text.trim_end().ends_with(says), "{text}");
        let there = event(0, 0);
        let answer = Event {
            source: there.becomes,
            source_port: there.becomes_port,
            destination: there.source,
            destination_port: there.source_port,
            reason: Reason::AnswerTranslated as u16,
            ..event(0x12, 1_250_000)
        };
        assert_eq!(shown.row(&answer).connect_microseconds, Some(250));
        assert_eq!(shown.row(&answer).connect_microseconds, None);
    }

    #[test]
    fn reasons_that_there_are_not_have_neighbours() {
        assert_eq!(reason("no-backend").unwrap(), Reason::NoBackend);
        let error = reason("spoofed").unwrap_err().to_string();
        assert!(error.starts_with("there is no reason spoofed: did you mean spoofed-source"));
    }
}
