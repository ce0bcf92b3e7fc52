//! `bowline net trace`: one real packet, and what each hook on its way and on its answer's made of
//! it.
//!
//! Guarantees: one packet is sent (the kernel sends what opens a connection again after a second,
//! if it is waited for so long), and whatever connection opens is broken off. A call to a service
//! that a hook refused, so that nothing was sent, is made again to learn why; where a node was not
//! listened to that is not known, and it is not made again. The packet is known by a source port,
//! or an identifier, that its sender holds, and the kernels filter by that. Nodes are listened to
//! for as long as it takes; one that cannot be listened to is named, and the rest is told. What a
//! node's own network stack does between hooks is not seen; where a packet is lost there, what the
//! maps and the kernel's tables say of its way is told as well (`explain`).

#[cfg(test)]
mod fixtures;
mod lent;
mod nodes;
mod packet;
mod sender;
mod start;
mod story;
mod subscriptions;
mod trail;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use bowline_agent::datapath::{
    Became, Client, Explanation, Filter, Outcome as Foretold, Question, Snapshot, explain,
    namespace_cookie,
};
use bowline_agent::{TraceEvent, TraceFilter};
use bowline_ebpf_abi::Direction;
use serde::Serialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::monitor::{Names, packet_words};
use super::{LOCAL, ends, listen, probe};
use crate::output::{self, Format, Table};
use sender::{Protocol, Sent};
use start::Sender;
use story::{Outcome, Step, Story};
use subscriptions::{Subscriptions, Unreachable};
use trail::Packet;

pub(super) use lent::lend;
pub(super) use nodes::{Here, Nodes};
pub(super) use sender::{Args as SenderArgs, send};

/// Until what other nodes saw has come here.
const SETTLE: Duration = Duration::from_millis(50);

/// Seconds that nodes are listened to beside the waiting.
const MARGIN: u64 = 10;

/// One packet, and where it comes from.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline net trace web nifty-svc --node node1
  bowline net trace default/web 10.9.8.7:80 --node node1 --past-hooks
  bowline net trace web kube-system/kube-dns:53 --udp --node node1 -o json
  bowline net trace web 10.240.1.3 --icmp --node node1
  bowline net trace node nifty-1:9376 --node node2
  bowline net trace web nifty-svc --node node1 --source 192.0.2.1
  bowline net trace web nifty-svc --bpffs /sys/fs/bpf --node-name worker1 --kubeconfig FILE

A line for each hook that sees the packet or its answer, addresses as they come in there; => is what
they are changed to. Through the hooks of sockets (connect4) a service's address is changed before
there is a packet. One can listen on a node at a time.

Exit status: 0 if it is answered or delivered, 1 if it is refused or lost, 2 if that could not be
found out.")]
pub(super) struct Args {
    /// A pod of the node, as NAME, NAMESPACE/NAME or address; or `node` for a process of the node
    from: String,
    /// A service or a pod, as NAME or NAMESPACE/NAME, or an address; with :PORT
    to: String,
    /// A datagram instead of what opens a TCP connection
    #[arg(long, conflicts_with = "icmp")]
    udp: bool,
    /// An ICMP echo request instead
    #[arg(long)]
    icmp: bool,
    /// Past the hooks of sockets, as packets of raw sockets go: each is balanced by itself
    #[arg(long, conflicts_with = "icmp")]
    past_hooks: bool,
    /// Send it from this address, whoever has it
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// Wait so long for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=60))]
    wait: u64,
    /// With --bpffs: the node's network namespace [default: that of the agent]
    #[arg(long, value_name = "PATH", requires = "bpffs", conflicts_with_all = LOCAL)]
    netns: Option<PathBuf>,
    /// With --bpffs: the agent's --node-name
    #[arg(long, value_name = "NAME", requires = "bpffs", conflicts_with_all = LOCAL)]
    node_name: Option<String>,
}

impl Args {
    pub(super) fn from(&self) -> &str {
        &self.from
    }

    /// The node's network namespace, if it is said.
    pub(super) fn netns(&self) -> Option<&Path> {
        self.netns.as_deref()
    }

    /// For the node that answers.
    pub(super) fn through_agent(self) -> Self {
        Self { netns: None, node_name: None, ..self }
    }

    fn protocol(&self) -> Protocol {
        match (self.udp, self.icmp) {
            (true, _) => Protocol::Udp,
            (_, true) => Protocol::Icmp,
            _ => Protocol::Tcp,
        }
    }
}

/// What is printed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    /// Of an echo request.
    #[serde(skip_serializing_if = "Option::is_none")]
    identifier: Option<u16>,
    to: SocketAddr,
    outcome: Outcome,
    verdict: &'a str,
    steps: &'a [Step],
    /// What is wrong where it ended, by `explain` there.
    causes: Vec<String>,
    not_listened_to: &'a [Unreachable],
    lost_events: u64,
}

/// Sends, follows, prints; says whether it got to where it should.
pub(super) async fn run(
    args: &Args,
    nodes: &Nodes,
    numeric: bool,
    format: Format,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let trace = Trace::prepare(args, nodes, numeric)?;
    let sender = Sender::start(&trace.words(), trace.netns(), trace.hooks()).await?;
    let packet = trace.packet(sender.identifier);
    let mut subscriptions = Subscriptions::default();
    trace.open(&mut subscriptions, sender.identifier).await?;
    let sent = sender.send(args.wait, &mut subscriptions, stop).await?;
    sleep(SETTLE).await;
    subscriptions.poll();
    subscriptions.close();
    let refused = match trace.was_refused(&packet, &sent, &subscriptions) {
        true => trace.why_refused(stop).await?,
        false => None,
    };
    let names = Names::of(if numeric { None } else { Some(&trace.known) });
    let story = story::tell(&packet, &sent, &mut subscriptions, refused.as_ref(), &names);
    let went_well = matches!(story.outcome, Outcome::Answered | Outcome::Delivered);
    let told = Told {
        protocol: packet.protocol.name(),
        source_port: Some(packet.identifier).filter(|_| !args.icmp),
        identifier: Some(packet.identifier).filter(|_| args.icmp),
        to: packet.to,
        outcome: story.outcome,
        verdict: &story.verdict,
        steps: &story.steps,
        causes: if went_well { Vec::new() } else { trace.causes(&story) },
        not_listened_to: &subscriptions.unreachable,
        lost_events: subscriptions.lost(),
    };
    output::unless_unread(print(&told, format))?;
    Ok(went_well)
}

/// What is known before anything is sent.
struct Trace<'a> {
    args: &'a Args,
    nodes: &'a Nodes,
    /// What the client's node knows, and the other nodes' pods.
    known: Snapshot,
    own_pods: BTreeSet<IpAddr>,
    question: Question,
    foretold: Explanation,
}

impl<'a> Trace<'a> {
    fn prepare(args: &'a Args, nodes: &'a Nodes, numeric: bool) -> anyhow::Result<Self> {
        let own = &nodes.own;
        let mut known = listen::snapshot(&own.bpffs, &own.run_dir)?;
        let own_pods = known.pods.iter().map(|row| row.address).collect();
        let (addresses, namespace) = ends::clients(&args.from, &known)?;
        for other in &nodes.others {
            // A node without a data plane has no pods to name.
            if let Ok(snapshot) = listen::snapshot(&other.bpffs, &other.run_dir) {
                known.pods.extend(snapshot.pods);
            }
        }
        let to = match args.protocol() {
            Protocol::Icmp => {
                SocketAddr::new(ends::address(&args.to, namespace.as_deref(), &known)?, 0)
            }
            _ => ends::destination(&args.to, namespace.as_deref(), args.udp, &known)?,
        };
        if to.ip().is_loopback() || to.ip().is_unspecified() {
            bail!("{} does not leave its sender: no hook sees it", to.ip());
        }
        if let Some(source) = args.source
            && source.is_ipv4() != to.is_ipv4()
        {
            bail!("--source {source} is not of the family of {}", to.ip());
        }
        let from = ends::client(&args.from, addresses, to)?;
        let question = Question { from, to, udp: args.udp, numeric };
        let foretold = explain(&own.place(), &question)?;
        probe::must_be_known(&question.from, foretold.netns.as_deref())?;
        Ok(Self { args, nodes, known, own_pods, question, foretold })
    }

    fn netns(&self) -> Option<&Path> {
        self.foretold.netns.as_deref()
    }

    /// It is a call that the hooks of sockets see.
    fn calls(&self) -> bool {
        !self.args.past_hooks && !self.args.icmp
    }

    /// Where those are attached, if they are to see it.
    fn hooks(&self) -> Option<&Explanation> {
        self.calls().then_some(&self.foretold)
    }

    /// What the sender is told.
    fn words(&self) -> Vec<String> {
        let protocol = self.args.protocol().name().to_lowercase();
        let wait = self.args.wait.to_string();
        let to = self.question.to.to_string();
        let mut words = ["net", "send", &to, "--protocol", &protocol, "--wait", &wait]
            .map(str::to_owned)
            .to_vec();
        if self.args.past_hooks {
            words.push("--past-hooks".to_owned());
        }
        words.extend(self.args.source.map(|source| format!("--source={source}")));
        words
    }

    fn packet(&self, identifier: u16) -> Packet {
        let client = match self.question.from {
            Client::Pod(address) => Some(address),
            Client::Node => None,
        };
        Packet {
            protocol: self.args.protocol(),
            identifier,
            source: self.args.source.or(client),
            to: self.question.to,
            calls: self.calls(),
            node: self.nodes.own.name.clone(),
            pods: self.own_pods.clone(),
            wait: self.args.wait,
        }
    }

    /// Listens to the client's node, and to those where the packet may come to.
    async fn open(&self, subscriptions: &mut Subscriptions, identifier: u16) -> anyhow::Result<()> {
        let to = self.question.to.ip();
        let is_icmp = self.args.icmp;
        let filter = TraceFilter {
            protocol: self.args.protocol().number(to),
            port: (!is_icmp).then_some(identifier),
            address: is_icmp.then_some(to),
            seconds: self.args.wait + MARGIN,
        };
        self.nodes.listen(subscriptions, &self.others(), &filter).await
    }

    /// The addresses of the other nodes where it may come to.
    fn others(&self) -> BTreeSet<IpAddr> {
        let to = self.question.to.ip();
        let candidates = self.foretold.candidates.iter().map(SocketAddr::ip);
        let mut found = BTreeSet::new();
        for end in candidates.chain([to]).filter(|end| !self.own_pods.contains(end)) {
            let is_node = self.nodes.others.iter().any(|node| node.addresses.contains(&end));
            found.extend(self.known.node_of(end).or(is_node.then_some(end)));
        }
        found
    }

    /// Whether a hook of sockets refused the call, so that nothing was sent.
    fn was_refused(&self, packet: &Packet, sent: &Sent, told: &Subscriptions) -> bool {
        let is_service = self.known.services.iter().any(|row| row.address == packet.to.ip());
        let is_seen = told.seen.iter().any(|seen| packet.is_in(seen, sent));
        let could_be = packet.calls && is_service && sent.error.is_some();
        could_be && told.are_whole() && !is_seen
    }

    /// Has the hook of sockets say why it refuses this client's call, by making it again: the call
    /// has no port to be known by, only its network namespace.
    async fn why_refused(&self, stop: &CancellationToken) -> anyhow::Result<Option<TraceEvent>> {
        let own = Path::new("/proc/thread-self/ns/net");
        // Kernels before 5.14 do not tell it.
        let Ok(cookie) = namespace_cookie(self.netns().unwrap_or(own)) else { return Ok(None) };
        let to = self.question.to;
        let filter = Filter {
            only: Some(Became::Refused),
            netns: Some(cookie),
            protocol: Some(self.args.protocol().number(to.ip())),
            ..Filter::default()
        };
        let node = &self.nodes.own;
        let sender = Sender::start(&self.words(), self.netns(), self.hooks()).await?;
        let mut subscriptions = Subscriptions::default();
        subscriptions.here(&node.name, &node.place(), &filter);
        if !subscriptions.are_whole() {
            // Somebody else was faster; it would be told nothing.
            return Ok(None);
        }
        sender.send(self.args.wait, &mut subscriptions, stop).await?;
        subscriptions.poll();
        let mut seen = subscriptions.seen.into_iter().map(|seen| seen.event);
        Ok(seen.rfind(|it| it.refused && it.destination == to))
    }

    /// What is wrong where it ended, as far as that can be looked at from here.
    fn causes(&self, story: &Story) -> Vec<String> {
        let (node, question) = match &story.last {
            None => (Some(&self.nodes.own), self.question.clone()),
            Some(seen) => {
                let event = &seen.event;
                let from = match &*event.hook {
                    it if it == Direction::FromPod.name() => Client::Pod(event.source.ip()),
                    _ => Client::Node,
                };
                let to = event.becomes.unwrap_or(event.destination);
                let node = self.nodes.all().find(|node| node.name == seen.node);
                (node, Question { from, to, ..self.question })
            }
        };
        let Some(node) = node else { return Vec::new() };
        match explain(&node.place(), &question) {
            Ok(found) => {
                let mut causes = found.faults;
                // It is asked about ports.
                if found.outcome == Foretold::Refused && !self.args.icmp {
                    let last = found.steps.last();
                    causes
                        .extend(last.map(|it| format!("{}: {}: {}", it.at, it.looks_up, it.finds)));
                }
                causes
            }
            Err(error) => vec![error.to_string()],
        }
    }
}

fn print(told: &Told<'_>, format: Format) -> anyhow::Result<()> {
    if !format.is_table() {
        return output::document(told, format);
    }
    let mut table = Table::new(["time", "node", "hook", "device", "verdict", "reason", "packet"]);
    for step in told.steps {
        let about = if step.about { "~" } else { "" };
        let ends = [&step.source, &step.destination, &step.becomes].map(Option::as_ref);
        let device = step.device.clone().unwrap_or_else(|| "-".to_owned());
        let reason = if step.reason.is_empty() { "-" } else { &step.reason };
        table.row([
            format!("{about}{}", story::shown(step.nanoseconds)),
            step.node.clone(),
            step.hook.clone(),
            device,
            step.verdict.to_owned(),
            reason.to_owned(),
            packet_words(ends, &step.tcp_flags, step.bytes).join(" "),
        ]);
    }
    table.print()?;
    let mut text = format!("\n{}\n", told.verdict);
    for cause in &told.causes {
        text.push_str(&format!("  {cause}\n"));
    }
    for Unreachable { node, why } in told.not_listened_to {
        text.push_str(&format!("not listened to: {node}: {why}\n"));
    }
    if told.lost_events > 0 {
        text.push_str(&format!("{} events found no room: some may be missing\n", told.lost_events));
    }
    Ok(output::text(&text)?)
}
