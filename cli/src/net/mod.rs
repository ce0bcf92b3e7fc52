//! `bowline net`: what a node's data plane holds, read from its pinned BPF maps, and what its DNS
//! server did, read from the agent's run directory; on the node itself, or through the API.
//!
//! Guarantees: reads only (but `explain --run` connects, and `trace` sends a packet). On the node
//! it works without the agent and, but for `diff`, without the server. A map that changes while it
//! is read may show an entry that is just going or miss one that is just coming.

mod answers;
mod bugreport;
mod capture;
mod diff;
mod dns;
mod dump;
mod elsewhere;
mod ends;
mod explain;
mod listen;
mod monitor;
mod neighbours;
mod packets;
mod probe;
mod reasons;
mod remote;
mod rows;
mod served;
mod source;
mod status;
mod tcp;
mod top;
mod trace;
mod way;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_agent::datapath::{ListenFailed, Snapshot, Status};
use bowline_agent::{CONDITION_FILE, NAMES_FILE};
use clap::Subcommand;

use crate::launch;
use crate::output::{self, Format};
use source::{Source, every_source, local, local_nodes, source};

pub(crate) use served::{Args as ServedArgs, serve};

/// See a node's data plane: its tables and health, explain and trace a connection, watch and
/// capture packets.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline net services --node node1
  bowline net backends --name demo --node node2 -o json
  bowline net counters --bpffs /sys/fs/bpf
  bowline net status --node node1 --watch
  bowline net backends --node node1 -o wide
  bowline net drops --all-nodes
  bowline net status --all-nodes --kubeconfig admin.kubeconfig
  bowline net maps dump PODS --node node1
  bowline net maps get SERVICES 10.9.8.7:80/TCP --node node1 -o json
  bowline net explain web nifty-svc:80 --node node1 --run
  bowline net trace web nifty-svc:80 --node node1
  bowline net monitor --node node1 --verdict refused
  bowline net capture --node node1 --pod web --write web.pcapng --duration 30
  bowline net top --all-nodes --sort bytes
  bowline net bugreport
  bowline net diff --node node2 && echo healthy
  bowline net diff --bpffs /sys/fs/bpf --node-name worker1 --kubeconfig admin.kubeconfig
  nsenter --net=$(bowline net pods --node node1 -o json | jq -r '.[0].netns') ip addr

Nodes of a local cluster, and a node by --bpffs, are read on this machine, as root. With
--kubeconfig, or $KUBECONFIG of another cluster, nodes are asked through its API. Which way was
taken is said before a table on a terminal; -o json and pipes have the answer alone, and
--log-level info says the way.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
    /// BPF file system of the node
    #[arg(long, value_name = "DIR", global = true, conflicts_with_all = ["name", "node"])]
    bpffs: Option<PathBuf>,
    /// The agent's --run-dir, which has the names that the maps do not hold
    #[arg(long, value_name = "DIR", global = true, default_value = "/run/bowline")]
    run_dir: PathBuf,
    /// Ask nodes through the API of this kubeconfig file, without being root [default: $KUBECONFIG,
    /// unless it is that of the only local cluster]. With --bpffs: the API to compare with
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "name")]
    kubeconfig: Option<PathBuf>,
    /// Local cluster [default: the only one]
    #[arg(long, value_name = "CLUSTER", global = true)]
    name: Option<String>,
    /// Node of the cluster [default: the first; of explain and trace through the API, the pod's]
    #[arg(long, value_name = "NODE", global = true)]
    node: Option<String>,
    /// Every node of the cluster, one after the other; as JSON or YAML by its name. Events come as
    /// they happen, each with its node; captures are a file for each. Not for explain
    /// and trace, which begin at one node
    #[arg(long, global = true, conflicts_with_all = ["node", "bpffs"])]
    all_nodes: bool,
    /// Show addresses and numbers only, no names of Kubernetes objects
    #[arg(long, global = true)]
    numeric: bool,
    /// Show a table again every so many seconds, until Ctrl-C (of explain, trace, diff, monitor,
    /// capture, top and bugreport there is none)
    #[arg(long, value_name = "SECONDS", global = true)]
    #[arg(num_args = 0..=1, default_missing_value = "2")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    /// Form of the output (of capture and bugreport, a file, there is one)
    #[arg(long, short, value_enum, default_value_t, global = true)]
    output: Format,
    /// The node that this process answers for.
    #[arg(skip)]
    served: Option<Source>,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Service addresses with the slots that they choose from
    #[command(after_help = "Examples:
  bowline net services --node node1
  bowline net services --all-nodes -o json")]
    Services,
    /// Addresses behind services
    #[command(after_help = "Examples:
  bowline net backends --node node1 -o wide
  bowline net backends --node node1 --watch 1")]
    Backends,
    /// Pods of this node, with the path of their network namespace
    #[command(after_help = "Examples:
  bowline net pods --node node1
  bowline net pods --all-nodes -o wide
  bowline net pods --node node1 -o json | jq -r '.[].netns'")]
    Pods,
    /// Where the pods of other nodes are
    #[command(after_help = "Examples:
  bowline net routes --node node1 -o wide
  bowline net routes --all-nodes --numeric")]
    Routes,
    /// What the kernel knows of the machines at the other end of the node's links
    #[command(after_help = "Examples:
  bowline net neighbours --node node1 -o wide
  bowline net neighbours --bpffs /sys/fs/bpf")]
    Neighbours(NetnsArgs),
    /// Packets and bytes by reason and direction
    #[command(after_help = "Examples:
  bowline net counters --node node1 --watch
  bowline net counters --node node1 -o wide")]
    Counters,
    /// Clients that stay with a backend, of services with session affinity
    #[command(after_help = "Examples:
  bowline net affinity --node node1 -o wide")]
    Affinity,
    /// Packets, bytes and calls that were refused, by reason and direction
    #[command(after_help = "Examples:
  bowline net drops --node node1 -o wide
  bowline net drops --all-nodes --watch 1")]
    Drops,
    /// How full the maps are; or what is in one of them, entry by entry
    #[command(after_help = "Examples:
  bowline net maps --node node1 -o wide
  bowline net maps dump SERVICES --node node1")]
    Maps(dump::Args),
    /// What of the kernel is used, and from which release on it has it
    #[command(after_help = "Examples:
  bowline net features --all-nodes")]
    Features,
    /// The programs, where they are attached, and what they cost
    #[command(after_help = "Examples:
  bowline net programs --node node1 -o wide
  bowline net programs --node node1 -o json | jq '.[] | {name, runs}'

The kernel counts runs only while its statistics are on: `sysctl kernel.bpf_stats_enabled=1`, which
costs each run some nanoseconds. Without them runs and ns per run are `-`; in JSON and YAML `runs`
and `nanosecondsPerRun` are null.")]
    Programs,
    /// Kernel features, maps, programs, and what is wrong: exit status 0 if nothing is, 1 if
    /// something, 2 if that could not be found out
    #[command(after_help = "Examples:
  bowline net status --node node1
  bowline net status --all-nodes -o json | jq 'map_values(.problems)'")]
    Status,
    /// What the node's DNS server was asked and answered, and its limits
    #[command(after_help = "Examples:
  bowline net dns --node node1
  bowline net dns --run-dir /run/bowline --bpffs /sys/fs/bpf -o yaml")]
    Dns,
    /// What will happen, step by step, to a connection or a datagram from a pod to an address
    Explain(explain::Args),
    /// One real packet from a pod to an address, followed from hook to hook across nodes
    Trace(trace::Args),
    /// What becomes of packets and calls, as it happens
    Monitor(monitor::Args),
    /// Packets at the data plane's hooks, as a file for Wireshark, with what became of each
    Capture(capture::Args),
    /// Services and pods by connections, packets, bytes and drops, as they come
    Top(top::Args),
    /// One archive with all of this, of a node or of all nodes of a cluster
    Bugreport(bugreport::Args),
    #[command(hide = true)]
    Probe(probe::Args),
    #[command(hide = true)]
    Send(trace::SenderArgs),
    /// What differs between the API and the maps: exit status 0 if nothing does, 1 if something,
    /// 2 if that could not be found out
    #[command(after_help = "Examples:
  bowline net diff --node node2 && echo healthy
  bowline net diff --bpffs /sys/fs/bpf --node-name worker1 --kubeconfig admin.kubeconfig")]
    Diff(DiffArgs),
}

/// What names nodes of a local cluster, of which all is known that flags beside --bpffs tell.
const LOCAL: [&str; 3] = ["name", "node", "all_nodes"];

/// The node's network namespace; that of a local cluster's node is known.
#[derive(Clone, Debug, Default, clap::Args)]
struct NetnsArgs {
    /// With --bpffs: the node's network namespace [default: that of the agent]
    #[arg(long, value_name = "PATH", requires = "bpffs", conflicts_with_all = LOCAL)]
    netns: Option<PathBuf>,
}

/// The name that the API has for the node; that of a local cluster's is known.
#[derive(Clone, Debug, Default, clap::Args)]
struct DiffArgs {
    /// The agent's --node-name, with --bpffs
    #[arg(long, value_name = "NAME", requires = "bpffs", conflicts_with_all = LOCAL)]
    node_name: Option<String>,
}

impl Args {
    /// A command about a node.
    fn served(source: Source) -> Self {
        Self {
            what: What::Status,
            bpffs: None,
            run_dir: PathBuf::new(),
            kubeconfig: None,
            name: None,
            node: None,
            all_nodes: false,
            numeric: false,
            watch: None,
            output: Format::default(),
            served: Some(source),
        }
    }
}

impl What {
    /// Tells by its exit status how things are, and with 2 that it found no judgement.
    fn judges(&self) -> bool {
        matches!(self, Self::Diff(_) | Self::Explain(_) | Self::Trace(_) | Self::Status)
    }

    /// Why it is not shown again and again.
    fn not_watched(&self) -> Option<&'static str> {
        Some(match self {
            Self::Diff(_) => {
                "diff is for scripts and takes no --watch: `watch bowline net diff` shows it again"
            }
            Self::Explain(_) => {
                "explain is for scripts and takes no --watch: `watch bowline net explain` does it"
            }
            Self::Trace(_) => "trace sends one packet: leave --watch out",
            Self::Bugreport(_) => "bugreport writes one archive: leave --watch out",
            Self::Monitor(_) | Self::Capture(_) => {
                "what happens is shown as it happens: leave --watch out"
            }
            Self::Top(_) => {
                "top is shown again and again: leave --watch out, --interval says how often"
            }
            _ => return None,
        })
    }

    /// Why it has no other form.
    fn has_one_form(&self) -> Option<&'static str> {
        match self {
            Self::Bugreport(_) => {
                Some("bugreport writes an archive: leave --output out, --file names it")
            }
            Self::Capture(_) => {
                Some("capture writes a pcapng file: leave --output out, --write names it")
            }
            _ => None,
        }
    }
}

/// What judges tells by its exit status that it found no judgement, too.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    match output::unless_unread(answer(args)) {
        Err(error) if args.what.judges() => {
            crate::complain(&error);
            std::process::exit(2)
        }
        answered => answered,
    }
}

fn answer(args: &Args) -> anyhow::Result<()> {
    if let (Some(_), Some(why)) = (args.watch, args.what.not_watched()) {
        bail!("{why}");
    }
    if let (true, Some(why)) = (args.output != Format::Table, args.what.has_one_form()) {
        bail!("{why}");
    }
    match &args.what {
        What::Probe(of) => return probe::connect(of),
        What::Send(of) => return trace::send(of),
        _ => {}
    }
    if let Some(api) = remote::api(args)? {
        return remote::run(args, api);
    }
    match &args.what {
        What::Top(of) => return show_top(args, of),
        // An archive has all nodes anyway.
        What::Bugreport(of) => {
            must_be_root()?;
            return bugreport::run(of, &subject(args, of)?);
        }
        _ if args.all_nodes => return remote::every_local(args),
        _ => way::here(args),
    }
    match &args.what {
        What::Diff(of) => return show_differences(args, of),
        What::Explain(of) => return tell(asked_elsewhere(args, show_way(args, of))),
        What::Trace(of) => return tell(asked_elsewhere(args, follow(args, of))),
        _ => {}
    }
    let source = source(args)?;
    if matches!(args.what, What::Monitor(_) | What::Capture(_)) {
        return asked_elsewhere(args, show_events(args, &source));
    }
    let Some(seconds) = args.watch else { return tell(show(args, &source)) };
    loop {
        clear(args)?;
        way::here(args);
        show(args, &source)?;
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// Clears a terminal that shows tables, for the next one.
fn clear(args: &Args) -> anyhow::Result<()> {
    if args.output.is_table() && std::io::stdout().is_terminal() {
        // Clear the screen, and go to its first place (ECMA-48).
        output::text("\x1b[2J\x1b[H")?;
    }
    Ok(())
}

/// Shows or writes what happens, as it happens.
fn show_events(args: &Args, source: &Source) -> anyhow::Result<()> {
    must_be_root()?;
    let (bpffs, run_dir) = (&source.bpffs, &source.run_dir);
    let ended = launch::run_until_stopped(1, async |stop| match &args.what {
        What::Monitor(of) => {
            monitor::run(of, bpffs, run_dir, args.numeric, args.output, stop).await
        }
        What::Capture(of) => capture::run(of, bpffs, run_dir, args.numeric, stop).await,
        _ => Ok(()),
    });
    match (&source.node, ended) {
        (Some(node), Err(error)) if error.is::<ListenFailed>() => {
            Err(error.context(node.name.clone()))
        }
        (_, ended) => ended,
    }
}

/// What the node does not know, the others of the cluster may.
fn asked_elsewhere<T>(args: &Args, found: anyhow::Result<T>) -> anyhow::Result<T> {
    found.map_err(|error| elsewhere::explained(error, &source::cluster_of(args)))
}

fn show_top(args: &Args, of: &top::Args) -> anyhow::Result<()> {
    let sources = match args.all_nodes {
        true => every_source(args)?,
        false => vec![source(args)?],
    };
    must_be_root()?;
    launch::run_until_stopped(1, async |stop| {
        top::run(of, &top::From::Here(sources), args.numeric, args.output, &stop)
    })
}

/// Prints; says whether what it shows is as it should be, as far as that is judged.
fn show(args: &Args, source: &Source) -> anyhow::Result<bool> {
    if let What::Dns = args.what {
        return dns::print(&source.run_dir, args.output).map(|()| true);
    }
    must_be_root()?;
    if let What::Neighbours(of) = &args.what {
        let netns = source.netns_or(of.netns.as_deref())?;
        return neighbours::print(netns.as_deref(), args.output).map(|()| true);
    }
    // Maps can be read all the same where it is not known.
    let netns = source.netns_or(None).unwrap_or_default();
    if let What::Maps(of) = &args.what
        && let Some(wanted) = &of.wanted
    {
        return dump::print(&source.bpffs, wanted, args.output).map(|()| true);
    }
    if matches!(args.what, What::Status | What::Features | What::Programs) {
        let condition = source.run_dir.join(CONDITION_FILE);
        let status = Status::read(&source.bpffs, &condition, netns.as_deref())?;
        match args.what {
            What::Features => status::print_features(&status.features, args.output)?,
            What::Programs => status::print_programs(&status.programs, args.output)?,
            _ => {
                output::unless_unread(status::print(&status, args.output))?;
                return Ok(status.problems.is_empty());
            }
        }
        return Ok(true);
    }
    let snapshot = Snapshot::read(&source.bpffs)?;
    let snapshot = match args.numeric {
        true => snapshot,
        false => snapshot.with_names(&source.run_dir.join(NAMES_FILE)),
    };
    // Links have other names than numbers only in the node's own namespace.
    rows::print(&args.what, &snapshot, netns.as_deref(), args.output).map(|()| true)
}

fn must_be_root() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "reading BPF maps needs root: run it with sudo, or ask the API with --kubeconfig FILE"
        );
    }
    Ok(())
}

/// The exit status tells scripts whether anything differs.
fn show_differences(args: &Args, of: &DiffArgs) -> anyhow::Result<()> {
    tell(sides(args, of).and_then(|sides| {
        must_be_root()?;
        crate::wait(diff::run(&sides, args.output))
    }))
}

fn show_way(args: &Args, of: &explain::Args) -> anyhow::Result<bool> {
    let source = source(args)?;
    must_be_root()?;
    let netns = source.netns_or(of.netns())?;
    let api = match source.node {
        Some(node) => Some((node.name, node.kubeconfig)),
        None => of.api(args.kubeconfig.as_deref())?,
    };
    let (bpffs, run_dir) = (source.bpffs.as_path(), source.run_dir.as_path());
    let node = explain::Node { bpffs, run_dir, netns, api };
    explain::run(of, &node, args.numeric, args.output)
}

/// Sends a packet and follows it.
fn follow(args: &Args, of: &trace::Args) -> anyhow::Result<bool> {
    let nodes = match (&args.bpffs, &args.served) {
        (Some(_), _) => {
            must_be_root()?;
            let source = source(args)?;
            let netns = source.netns_or(of.netns())?;
            trace::Nodes::of_bpffs(of, source, netns, args.kubeconfig.clone())
        }
        (None, Some(source)) => trace::Nodes::of_served(source),
        (None, None) => local_nodes(args)?,
    };
    must_be_root()?;
    let mut went_well = false;
    launch::run_until_stopped(1, async |stop| {
        went_well = trace::run(of, &nodes, args.numeric, args.output, &stop).await?;
        Ok(())
    })?;
    Ok(went_well)
}

/// Ends the program unless all is well.
fn tell(found: anyhow::Result<bool>) -> anyhow::Result<()> {
    match found? {
        true => Ok(()),
        false => std::process::exit(1),
    }
}

fn sides(args: &Args, of: &DiffArgs) -> anyhow::Result<diff::Sides> {
    let source = source(args)?;
    let (node, kubeconfig) = match source.node {
        Some(node) => (node.name, node.kubeconfig),
        None => (
            of.node_name.clone().context("--bpffs needs --node-name as well")?,
            args.kubeconfig.clone().context("--bpffs needs --kubeconfig as well")?,
        ),
    };
    Ok(diff::Sides { kubeconfig, node, bpffs: source.bpffs, run_dir: source.run_dir })
}

/// All nodes of a local cluster, unless one is named.
fn subject(args: &Args, of: &bugreport::Args) -> anyhow::Result<bugreport::Subject> {
    if let Some(bpffs) = &args.bpffs {
        return Ok(of.named(bpffs, &args.run_dir, args.kubeconfig.clone()));
    }
    let (place, record) = local(args)?;
    let names = record.plan.nodes.iter().map(|node| node.name.clone());
    let names: Vec<String> = names.filter(|it| args.node.iter().all(|node| node == it)).collect();
    if names.is_empty() {
        bail!("cluster {} has no node {}", place.name, args.node.as_deref().unwrap_or_default());
    }
    let node = |name: String| bugreport::Node {
        flags: ["--name", &place.name, "--node", &name].map(str::to_owned).to_vec(),
        name,
    };
    Ok(bugreport::Subject {
        nodes: names.into_iter().map(node).collect(),
        kubeconfig: Some(place.kubeconfig()),
        logs: Some(place.dir.join("logs")),
    })
}

#[cfg(test)]
mod tests {
    use clap::Args as _;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn flags_for_a_machine_of_its_own_are_not_for_local_clusters() {
        let of = |words: &str| {
            let command = Args::augment_args(clap::Command::new("net"));
            command.try_get_matches_from(words.split(' ')).map(drop).map_err(|it| it.kind())
        };
        for words in [
            "net trace a b --node-name x",
            "net trace a b --netns x",
            "net explain a b --netns x",
            "net explain a b --node-name x",
            "net neighbours --netns x",
            "net diff --node-name x",
            "net bugreport --node-name x",
        ] {
            assert_eq!(of(&format!("{words} --bpffs y")), Ok(()), "{words}");
            assert_eq!(of(words), Err(ErrorKind::MissingRequiredArgument), "{words}");
            for local in ["--name c", "--node n", "--all-nodes"] {
                let all = format!("{words} {local}");
                assert_eq!(of(&all), Err(ErrorKind::ArgumentConflict), "{all}");
            }
        }
    }

    #[test]
    fn each_command_has_examples() {
        let net = Args::augment_args(clap::Command::new("net"));
        for command in net.get_subcommands().filter(|command| !command.is_hide_set()) {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_name();
            let own = format!("bowline net {name}");
            assert!(after.contains("Examples:\n") && after.contains(&own), "{name}: {after}");
        }
    }
}
