//! Listening to a node's programs for `monitor` and `capture`: what is asked for, and the loop.
//!
//! Guarantees: the kernel filters, so what is not asked for costs nothing here; memory is bounded;
//! what was lost is said. Ctrl-C and SIGTERM end it in order.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use bowline_agent::datapath::{
    Became, Filter, LEASE, ListenFailed, Listener, Snapshot, namespace_cookie,
};
use bowline_agent::{AGENT_PORT, NAMES_FILE};
use bowline_ebpf_abi::{Event, Reason, protocol};
use clap::ValueEnum;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::ends;
use crate::output;

/// Between two looks when there was nothing: with a megabyte for EVENTS two million events a second
/// find room.
const PAUSE: Duration = Duration::from_millis(5);

/// How long to wait for the listener before.
const TURN: Duration = Duration::from_secs(1);

/// Events that are read before anything else is looked at.
const BATCH: usize = 1024;

/// What to be told; without any of these, everything.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Selection {
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
    /// A reason as `bowline net counters` has it; a wrong name lists all
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
    /// The port on the node by which events go to who reads them: telling of its packets would make
    /// more of them.
    #[arg(skip)]
    told_by: Option<u16>,
}

impl Selection {
    /// Told through the agent, whose port is left out unless it is asked for.
    pub(super) fn through_agent(self) -> Self {
        let told_by = Some(AGENT_PORT).filter(|port| self.port != Some(*port));
        Self { told_by, ..self }
    }

    /// Whether it is of the way by which it would be told.
    fn is_of_its_way(&self, event: &Event) -> bool {
        let ports = [event.source_port.get(), event.destination_port.get()];
        event.protocol == protocol::TCP && self.told_by.is_some_and(|port| ports.contains(&port))
    }

    /// Only what is a service's is asked for.
    pub(super) fn is_of_a_service(&self) -> bool {
        self.service.is_some()
    }

    /// What the kernel is asked for.
    pub(super) fn filter(&self, snapshot: &Snapshot) -> anyhow::Result<Filter> {
        let addresses = match &self.pod {
            Some(pod) => match ends::clients(pod, snapshot)?.0 {
                Some(addresses) => addresses,
                None => bail!("`node` is no pod: use --address"),
            },
            None => self.address.into_iter().collect(),
        };
        // Its calls have no address; old kernels do not tell whose they are.
        let row =
            snapshot.pods.iter().find(|row| self.pod.is_some() && addresses.contains(&row.address));
        let netns = row.and_then(|row| namespace_cookie(row.netns.as_deref()?).ok());
        let service = match &self.service {
            Some(service) => Some(service_number(service, self, snapshot)?),
            None => None,
        };
        let reason = match &self.reason {
            Some(name) => Some(reason(name)?),
            None => None,
        };
        Ok(Filter {
            only: self.verdict.map(|verdict| match verdict {
                Verdict::Passed => Became::Passed,
                Verdict::Refused => Became::Refused,
            }),
            reason,
            addresses,
            netns,
            port: self.port,
            protocol: self.protocol.map(|protocol| match protocol {
                Protocol::Tcp => protocol::TCP,
                Protocol::Udp => protocol::UDP,
                Protocol::Icmp => protocol::ICMP,
                Protocol::Icmpv6 => protocol::ICMPV6,
            }),
            service,
            sample: self.sample,
            rate: self.rate,
            ..Filter::default()
        })
    }
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

/// Who takes what is told.
pub(super) trait Sink {
    /// One event, with as much of its packet as was asked for.
    fn add(&mut self, event: &Event, packet: &[u8]) -> anyhow::Result<()>;
    /// There is no more for the moment.
    fn flush(&mut self) -> anyhow::Result<()>;
}

/// The node's data plane, with the names of its objects.
pub(super) fn snapshot(bpffs: &Path, run_dir: &Path) -> anyhow::Result<Snapshot> {
    Ok(Snapshot::read(bpffs)?.with_names(&run_dir.join(NAMES_FILE)))
}

/// Hands events on until it is told to end.
pub(super) async fn listen(
    args: &Selection,
    bpffs: &Path,
    filter: &Filter,
    sink: &mut impl Sink,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut listener = open(bpffs, filter).await?;
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
        while seen < most
            && seen - before < BATCH as u64
            && let Some((event, packet)) = listener.read()
        {
            if args.is_of_its_way(&event) {
                continue;
            }
            if window.has_room() {
                seen += 1;
                sink.add(&event, &packet)?;
            }
        }
        sink.flush()?;
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
    let events = if seen == 1 { "event" } else { "events" };
    say(&format!("{seen} {events}, {} lost", listener.lost()? + window.over));
    Ok(())
}

/// One who listened through the API a moment ago may not have heard yet that nobody reads.
async fn open(bpffs: &Path, filter: &Filter) -> Result<Listener, ListenFailed> {
    let end = Instant::now() + TURN;
    loop {
        match Listener::open(bpffs, filter) {
            Err(ListenFailed::Busy) if Instant::now() < end => sleep(PAUSE).await,
            opened => return opened,
        }
    }
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
pub(super) fn say(line: &str) {
    // Nobody may be there to read it.
    drop(writeln!(io::stderr(), "{line}"));
}

async fn ended(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

fn service_number(text: &str, args: &Selection, snapshot: &Snapshot) -> anyhow::Result<u32> {
    let udp = args.protocol == Some(Protocol::Udp);
    let end = ends::service(text, udp, snapshot)?;
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
            let near = output::nearest(name, &known);
            bail!("there is no reason {name}{near} (all: {})", known.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use bowline_ebpf_abi::U16Be;

    use super::*;

    #[test]
    fn what_carries_events_is_left_out_unless_it_is_asked_for() {
        let of = |port| Selection {
            pod: None,
            service: None,
            address: None,
            port,
            protocol: None,
            verdict: None,
            reason: None,
            sample: 1,
            rate: 0,
            count: None,
            duration: None,
            told_by: None,
        };
        let event = |port| Event {
            source_port: U16Be::new(port),
            protocol: protocol::TCP,
            ..Event::default()
        };
        assert!(of(None).through_agent().is_of_its_way(&event(AGENT_PORT)));
        assert!(!of(None).through_agent().is_of_its_way(&event(80)));
        assert!(!of(Some(AGENT_PORT)).through_agent().is_of_its_way(&event(AGENT_PORT)));
        assert!(!of(None).is_of_its_way(&event(AGENT_PORT)));
    }

    #[test]
    fn reasons_that_there_are_not_have_neighbours() {
        assert_eq!(reason("no-backend").unwrap(), Reason::NoBackend);
        let error = reason("spoofed").unwrap_err().to_string();
        assert!(error.starts_with("there is no reason spoofed: did you mean spoofed-source"));
    }
}
