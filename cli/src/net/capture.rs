//! `bowline net capture`: packets at the hooks of the data plane, as a pcapng file (the IETF's
//! draft-ietf-opsawg-pcapng) that Wireshark and tshark read.
//!
//! Guarantees: a packet is as it came in at its hook, with what became of it as its comment; what
//! is told without a packet, such as calls on sockets, is not in the file.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_agent::datapath::Snapshot;
use bowline_ebpf_abi::{Direction, Event, MOST_SNAP, Reason};
use clap::ValueEnum;
use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{PcapNgBlock as _, PcapNgWriter};
use tokio_util::sync::CancellationToken;

use super::listen::{self, Selection, Sink};
use super::monitor::Names;
use crate::output;

/// Stands for standard output instead of a file.
const STANDARD_OUTPUT: &str = "-";

/// What to write; without any of these, every packet at every hook.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline net capture --node node1 --pod web --write web.pcapng --duration 30
  bowline net capture --node node1 --service nifty-svc --hook from-pod --count 100 -w svc.pcapng
  bowline net capture --node node1 --verdict refused -w - | tshark -r - -T fields -e frame.comment
  bowline net capture --node node1 --pod web -w - | wireshark -k -i -

Each packet's comment says what became of it. One can listen on a node at a time.")]
pub(super) struct Args {
    #[command(flatten)]
    selection: Selection,
    /// At this hook only; may be given again
    #[arg(long, value_enum, value_name = "HOOK")]
    hook: Vec<Hook>,
    /// So many bytes of each packet
    #[arg(long, value_name = "BYTES", default_value_t = 2048)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SNAP)))]
    snaplen: u32,
    /// The file to write; `-` is the standard output
    #[arg(long, short, value_name = "FILE")]
    pub(super) write: PathBuf,
}

impl Args {
    /// Told through the agent: the file is made by who asks.
    pub(super) fn through_agent(self) -> Self {
        let selection = self.selection.through_agent();
        Self { selection, write: PathBuf::from(STANDARD_OUTPUT), ..self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Hook {
    FromPod,
    ToPod,
    FromUplink,
}

impl Hook {
    const fn direction(self) -> Direction {
        match self {
            Self::FromPod => Direction::FromPod,
            Self::ToPod => Direction::ToPod,
            Self::FromUplink => Direction::FromUplink,
        }
    }
}

/// Writes packets until it is told to end.
pub(super) async fn run(
    args: &Args,
    bpffs: &Path,
    run_dir: &Path,
    numeric: bool,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let snapshot = listen::snapshot(bpffs, run_dir)?;
    let mut filter = args.selection.filter(&snapshot)?;
    filter.snap = args.snaplen;
    let all = [Hook::FromPod, Hook::ToPod, Hook::FromUplink];
    let hooks = if args.hook.is_empty() { &all[..] } else { &args.hook };
    filter.hooks = hooks.iter().map(|hook| hook.direction()).collect();
    let mut capture = Capture::new(open(&args.write)?, &snapshot, numeric, args.snaplen)?;
    listen::listen(&args.selection, bpffs, &filter, &mut capture, stop).await?;
    if capture.file.is_some() {
        listen::say(&written(capture.packets, &args.write));
    }
    if args.selection.is_of_a_service() && capture.described.is_empty() {
        listen::say(
            "connections that connect() balanced carry pod addresses: capture with --pod, or with \
             --port of the backend",
        );
    }
    Ok(())
}

/// What was written where, in words.
pub(super) fn written(packets: u64, path: &Path) -> String {
    let many = if packets == 1 { "packet" } else { "packets" };
    format!("{packets} {many} in {}", path.display())
}

/// The file to write; none is the standard output.
pub(super) fn open(path: &Path) -> anyhow::Result<Option<File>> {
    if path != Path::new(STANDARD_OUTPUT) {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        return Ok(Some(file));
    }
    if io::stdout().is_terminal() {
        bail!("a capture is not for a terminal: pipe it, or name a file with --write");
    }
    Ok(None)
}

/// The capture as it grows.
struct Capture {
    file: Option<File>,
    /// What is yet to be written to it.
    out: PcapNgWriter<Vec<u8>>,
    names: Names,
    snaplen: u32,
    /// Of pods' links, by their numbers.
    links: Vec<(u32, String)>,
    /// The links that the file has described, in its order.
    described: Vec<u32>,
    packets: u64,
}

impl Capture {
    fn new(
        file: Option<File>,
        snapshot: &Snapshot,
        numeric: bool,
        snaplen: u32,
    ) -> anyhow::Result<Self> {
        let names = Names::of(if numeric { None } else { Some(snapshot) });
        let pods = snapshot.pods.iter().filter(|_| !numeric);
        let links = pods.filter_map(|row| Some((row.ifindex, names.pod(row.address)?))).collect();
        let out = PcapNgWriter::new(Vec::new())?;
        Ok(Self { file, out, names, snaplen, links, described: Vec::new(), packets: 0 })
    }

    /// The number in the file of the link with this number in the node.
    fn interface(&mut self, ifindex: u32) -> anyhow::Result<u32> {
        let at = match self.described.iter().position(|known| *known == ifindex) {
            Some(at) => at,
            None => {
                self.describe(ifindex)?;
                self.described.push(ifindex);
                self.described.len() - 1
            }
        };
        Ok(u32::try_from(at)?)
    }

    fn describe(&mut self, ifindex: u32) -> anyhow::Result<()> {
        let pod = self.links.iter().find(|(known, _)| *known == ifindex);
        let name = pod.map_or_else(|| format!("link {ifindex}"), |(_, pod)| pod.clone());
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snaplen,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(name)),
                InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
            ],
        };
        self.out.write_block(&block.into_block())?;
        Ok(())
    }
}

impl Sink for Capture {
    fn add(&mut self, event: &Event, packet: &[u8]) -> anyhow::Result<()> {
        if packet.is_empty() {
            return Ok(());
        }
        let since = self.names.time(event).as_nanosecond();
        let comment = comment(event, &self.names);
        let block = EnhancedPacketBlock {
            interface_id: self.interface(event.ifindex)?,
            timestamp: Duration::from_nanos(u64::try_from(since).unwrap_or_default()),
            original_len: event.bytes,
            data: Cow::Borrowed(packet),
            options: vec![EnhancedPacketOption::Common(CommonOption::Comment(comment.into()))],
        };
        self.out.write_block(&block.into_block())?;
        self.packets += 1;
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let bytes = std::mem::take(self.out.get_mut());
        match &mut self.file {
            Some(file) => file.write_all(&bytes).context("writing the capture"),
            None => Ok(output::bytes(&bytes)?),
        }
    }
}

/// What became of a packet, and where.
fn comment(event: &Event, names: &Names) -> String {
    let (reason, hook) = (Reason::of(event.reason), Direction::of(event.direction));
    let verdict = if reason.is_some_and(Reason::is_drop) { "refused" } else { "passed" };
    let mut text = format!(
        "{verdict}: {} at {}",
        reason.map_or("unknown", Reason::name),
        hook.map_or("unknown", Direction::name)
    );
    let (address, port) = (IpAddr::from(event.becomes), event.becomes_port.get());
    if let Some(end) = names.end(address, port).filter(|_| event.is_changed()) {
        let answer = reason == Some(Reason::AnswerTranslated);
        let which = if answer { "source" } else { "destination" };
        text.push_str(&format!(", {which} becomes {}", end.shown()));
    }
    text
}
