//! `bowline net`: what a node's data plane holds, read from its pinned BPF maps, and what its DNS
//! server did, read from the agent's run directory.
//!
//! Guarantees: reads only (but `explain --run` connects, and `trace` sends a packet), and works
//! without the agent and, but for `diff`, without the server. A map that changes while it is read
//! may show an entry that is just going or miss one that is just coming.

mod all_nodes;
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
mod probe;
mod reasons;
mod rows;
mod status;
mod tcp;
mod top;
mod trace;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_agent::datapath::{ListenFailed, Snapshot, Status};
use bowline_agent::{CONDITION_FILE, NAMES_FILE};
use clap::Subcommand;

use crate::cluster::{self, Place, Record};
use crate::launch;
use crate::output::{self, Format};

/// Show what a node's data plane holds.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline net services --node node1
  bowline net backends --name demo --node node2 -o json
  bowline net counters --bpffs /sys/fs/bpf
  bowline net status --node node1 --watch
  bowline net backends --node node1 -o wide
  bowline net drops --all-nodes
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
  nsenter --net=$(bowline net pods --node node1 -o json | jq -r '.[0].netns') ip addr")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
    /// BPF file system of the node
    #[arg(long, value_name = "DIR", global = true, conflicts_with_all = ["name", "node"])]
    bpffs: Option<PathBuf>,
    /// The agent's --run-dir, which has the names that the maps do not hold
    #[arg(long, value_name = "DIR", global = true, default_value = "/run/bowline")]
    run_dir: PathBuf,
    /// Local cluster [default: the only one]
    #[arg(long, value_name = "CLUSTER", global = true)]
    name: Option<String>,
    /// Node of the local cluster [default: the first]
    #[arg(long, value_name = "NODE", global = true)]
    node: Option<String>,
    /// Every node of the local cluster, one after the other; as JSON or YAML by its name
    #[arg(long, global = true, conflicts_with_all = ["node", "bpffs", "watch"])]
    all_nodes: bool,
    /// Show addresses and numbers only, no names of Kubernetes objects
    #[arg(long, global = true)]
    numeric: bool,
    /// Show it again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", global = true)]
    #[arg(num_args = 0..=1, default_missing_value = "2")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t, global = true)]
    output: Format,
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
    Pods,
    /// Where the pods of other nodes are
    Routes,
    /// What the kernel knows of the machines at the other end of the node's links
    Neighbours(NetnsArgs),
    /// Packets and bytes by reason and direction
    Counters,
    /// Clients that stay with a backend, of services with session affinity
    Affinity,
    /// Packets, bytes and calls that were refused, by reason and direction
    Drops,
    /// How full the maps are; or what is in one of them, entry by entry
    #[command(after_help = "Examples:
  bowline net maps --node node1 -o wide
  bowline net maps dump SERVICES --node node1")]
    Maps(dump::Args),
    /// What of the kernel is used, and from which release on it has it
    Features,
    /// The programs, where they are attached, and what they cost
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
    /// One archive with all of this, of a node or of all nodes of a local cluster
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
    /// With --bpffs: the node's network namespace [default: this one]
    #[arg(long, value_name = "PATH", requires = "bpffs", conflicts_with_all = LOCAL)]
    netns: Option<PathBuf>,
}

/// Where the API is, and the name that it has for the node; with a local cluster both are known.
#[derive(Clone, Debug, Default, clap::Args)]
struct DiffArgs {
    /// Kubeconfig file of the cluster, with --bpffs
    #[arg(long, value_name = "FILE", requires = "bpffs", conflicts_with_all = LOCAL)]
    kubeconfig: Option<PathBuf>,
    /// The agent's --node-name, with --bpffs
    #[arg(long, value_name = "NAME", requires = "bpffs", conflicts_with_all = LOCAL)]
    node_name: Option<String>,
}

/// Where a node's data plane is.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    bpffs: PathBuf,
    run_dir: PathBuf,
    /// Of a local cluster's node.
    local: Option<Local>,
}

#[derive(Debug, PartialEq, Eq)]
struct Local {
    node: String,
    kubeconfig: PathBuf,
    netns: PathBuf,
}

/// What judges tells by its exit status that it found no judgement, too.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let judges =
        matches!(args.what, What::Diff(_) | What::Explain(_) | What::Trace(_) | What::Status);
    match output::unless_unread(answer(args)) {
        Err(error) if judges => {
            crate::complain(&error);
            std::process::exit(2)
        }
        answered => answered,
    }
}

fn answer(args: &Args) -> anyhow::Result<()> {
    if let What::Top(of) = &args.what {
        return show_top(args, of);
    }
    // An archive has all nodes anyway.
    if args.all_nodes && !matches!(args.what, What::Bugreport(_)) {
        if matches!(
            args.what,
            What::Monitor(_) | What::Capture(_) | What::Explain(_) | What::Trace(_)
        ) {
            bail!("--all-nodes is for what shows a state: choose one with --node");
        }
        let (place, record) = local(args)?;
        let names: Vec<String> = record.plan.nodes.iter().map(|node| node.name.clone()).collect();
        match all_nodes::run(&place.name, &names, args.output)? {
            0 => return Ok(()),
            status => std::process::exit(status),
        }
    }
    if let What::Diff(of) = &args.what {
        if args.watch.is_some() {
            bail!(
                "diff is for scripts and takes no --watch: `watch bowline net diff` shows it again"
            );
        }
        return show_differences(args, of);
    }
    if let What::Probe(of) = &args.what {
        return probe::connect(of);
    }
    if let What::Send(of) = &args.what {
        return trace::send(of);
    }
    if let What::Explain(of) = &args.what {
        return tell(asked_elsewhere(args, show_way(args, of)));
    }
    if let What::Trace(of) = &args.what {
        return tell(asked_elsewhere(args, follow(args, of)));
    }
    if let What::Bugreport(of) = &args.what {
        if args.watch.is_some() {
            bail!("bugreport writes one archive: leave --watch out");
        }
        if args.output != Format::Table {
            bail!("bugreport writes an archive: leave --output out, --file names it");
        }
        must_be_root()?;
        return bugreport::run(of, &subject(args, of)?);
    }
    let source = source(args)?;
    if matches!(args.what, What::Monitor(_) | What::Capture(_)) {
        return asked_elsewhere(args, show_events(args, &source));
    }
    let Some(seconds) = args.watch else { return tell(show(args, &source)) };
    let clears = args.output.is_table() && std::io::stdout().is_terminal();
    loop {
        if clears {
            // Clear the screen, and go to its first place (ECMA-48).
            output::text("\x1b[2J\x1b[H")?;
        }
        show(args, &source)?;
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// Shows or writes what happens, as it happens.
fn show_events(args: &Args, source: &Source) -> anyhow::Result<()> {
    if args.watch.is_some() {
        bail!("what happens is shown as it happens: leave --watch out");
    }
    if matches!(args.what, What::Capture(_)) && args.output != Format::Table {
        bail!("capture writes a pcapng file: leave --output out, --write names it");
    }
    must_be_root()?;
    let (bpffs, run_dir) = (&source.bpffs, &source.run_dir);
    let ended = launch::run_until_stopped(1, async |stop| match &args.what {
        What::Monitor(of) => {
            monitor::run(of, bpffs, run_dir, args.numeric, args.output, stop).await
        }
        What::Capture(of) => capture::run(of, bpffs, run_dir, args.numeric, stop).await,
        _ => Ok(()),
    });
    match (&source.local, ended) {
        (Some(local), Err(error)) if error.is::<ListenFailed>() => {
            Err(error.context(local.node.clone()))
        }
        (_, ended) => ended,
    }
}

/// What the node does not know, the others of the cluster may.
fn asked_elsewhere<T>(args: &Args, found: anyhow::Result<T>) -> anyhow::Result<T> {
    found.map_err(|error| match (&args.bpffs, every_source(args)) {
        (None, Ok(nodes)) => elsewhere::explained(error, &nodes),
        _ => error,
    })
}

fn show_top(args: &Args, of: &top::Args) -> anyhow::Result<()> {
    if args.watch.is_some() {
        bail!("top is shown again and again: leave --watch out, --interval says how often");
    }
    let sources = match args.all_nodes {
        true => every_source(args)?,
        false => vec![source(args)?],
    };
    must_be_root()?;
    launch::run_until_stopped(1, async |stop| {
        top::run(of, &sources, args.numeric, args.output, &stop)
    })
}

/// Prints; says whether what it shows is as it should be, as far as that is judged.
fn show(args: &Args, source: &Source) -> anyhow::Result<bool> {
    if let What::Dns = args.what {
        return dns::print(&source.run_dir, args.output).map(|()| true);
    }
    must_be_root()?;
    if let What::Neighbours(of) = &args.what {
        let netns = of.netns.clone().or_else(|| Some(source.local.as_ref()?.netns.clone()));
        return neighbours::print(netns.as_deref(), args.output).map(|()| true);
    }
    if let What::Maps(of) = &args.what
        && let Some(wanted) = &of.wanted
    {
        return dump::print(&source.bpffs, wanted, args.output).map(|()| true);
    }
    if matches!(args.what, What::Status | What::Features | What::Programs) {
        let condition = source.run_dir.join(CONDITION_FILE);
        let netns = source.local.as_ref().map(|local| local.netns.as_path());
        let status = Status::read(&source.bpffs, &condition, netns)?;
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
    let netns = source.local.as_ref().map(|local| local.netns.as_path());
    rows::print(&args.what, &snapshot, netns, args.output).map(|()| true)
}

fn must_be_root() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("reading BPF maps needs root: run it with sudo");
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
    if args.watch.is_some() {
        bail!("explain is for scripts and takes no --watch: `watch bowline net explain` does it");
    }
    let source = source(args)?;
    must_be_root()?;
    let (netns, api) = match source.local {
        Some(local) => (Some(local.netns), Some((local.node, local.kubeconfig))),
        None => (None, None),
    };
    let (bpffs, run_dir) = (source.bpffs.as_path(), source.run_dir.as_path());
    explain::run(of, &explain::Node { bpffs, run_dir, netns, api }, args.output)
}

/// Sends a packet and follows it.
fn follow(args: &Args, of: &trace::Args) -> anyhow::Result<bool> {
    if args.watch.is_some() {
        bail!("trace sends one packet: leave --watch out");
    }
    let nodes = match &args.bpffs {
        Some(bpffs) => trace::Nodes::of_bpffs(of, bpffs, &args.run_dir),
        None => local_nodes(args)?,
    };
    must_be_root()?;
    let mut went_well = false;
    launch::run_until_stopped(1, async |stop| {
        went_well = trace::run(of, &nodes, args.numeric, args.output, &stop).await?;
        Ok(())
    })?;
    Ok(went_well)
}

/// The nodes of a local cluster, the wanted one first.
fn local_nodes(args: &Args) -> anyhow::Result<trace::Nodes> {
    let (own, wanted) = (source(args)?, every_source(args)?);
    let (_, record) = local(args)?;
    let here = |of: Source| {
        let local = of.local?;
        let node = record.plan.nodes.iter().find(|node| node.name == local.node)?;
        Some(trace::Here {
            name: local.node,
            addresses: node.addresses.iter().map(|it| it.address).collect(),
            bpffs: of.bpffs,
            run_dir: of.run_dir,
            netns: Some(local.netns),
        })
    };
    let own = here(own).context("the cluster's record does not have the node")?;
    let others = wanted.into_iter().filter_map(here).filter(|it| it.name != own.name).collect();
    Ok(trace::Nodes { own, others })
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
    let (node, kubeconfig) = match source.local {
        Some(local) => (local.node, local.kubeconfig),
        None => (
            of.node_name.clone().context("--bpffs needs --node-name as well")?,
            of.kubeconfig.clone().context("--bpffs needs --kubeconfig as well")?,
        ),
    };
    Ok(diff::Sides { kubeconfig, node, bpffs: source.bpffs, run_dir: source.run_dir })
}

/// All nodes of a local cluster, unless one is named.
fn subject(args: &Args, of: &bugreport::Args) -> anyhow::Result<bugreport::Subject> {
    if let Some(bpffs) = &args.bpffs {
        return Ok(of.named(bpffs, &args.run_dir));
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

fn local(args: &Args) -> anyhow::Result<(Place, Record)> {
    let place = cluster::only(args.name.as_deref(), ", or give --bpffs")?;
    match Record::read(&place)? {
        Some(record) => Ok((place, record)),
        None => {
            bail!("cluster {} was never finished: remove it with `bowline down`", place.name)
        }
    }
}

fn source(args: &Args) -> anyhow::Result<Source> {
    if let Some(bpffs) = &args.bpffs {
        let run_dir = args.run_dir.clone();
        return Ok(Source { bpffs: bpffs.clone(), run_dir, local: None });
    }
    let (place, record) = local(args)?;
    let nodes: Vec<(&str, &str)> =
        record.plan.nodes.iter().map(|node| (&*node.name, &*node.namespace)).collect();
    of_node(&place, &nodes, args.node.as_deref())
}

fn every_source(args: &Args) -> anyhow::Result<Vec<Source>> {
    let (place, record) = local(args)?;
    let nodes: Vec<(&str, &str)> =
        record.plan.nodes.iter().map(|node| (&*node.name, &*node.namespace)).collect();
    nodes.iter().map(|(name, _)| of_node(&place, &nodes, Some(name))).collect()
}

/// One of these nodes, each with its network namespace.
fn of_node(place: &Place, nodes: &[(&str, &str)], wanted: Option<&str>) -> anyhow::Result<Source> {
    let first = nodes.first().map(|(name, _)| *name);
    let wanted = wanted.or(first).unwrap_or_default();
    let Some((node, namespace)) = nodes.iter().find(|(name, _)| *name == wanted) else {
        let names: Vec<&str> = nodes.iter().map(|(name, _)| *name).collect();
        bail!("cluster {} has no node {wanted}: it has {}", place.name, names.join(", "));
    };
    let run_dir = place.node_dir(node).join("run");
    let local = Local {
        node: (*node).to_owned(),
        kubeconfig: place.kubeconfig(),
        netns: cluster::netns_path(namespace),
    };
    Ok(Source { bpffs: place.bpffs(node), run_dir, local: Some(local) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Args as _;
    use clap::error::ErrorKind;

    use super::*;

    const NODES: [(&str, &str); 2] = [("node1", "bl-x-node1"), ("node2", "bl-x-node2")];

    #[test]
    fn flags_for_a_machine_of_its_own_are_not_for_local_clusters() {
        let of = |words: &str| {
            let command = Args::augment_args(clap::Command::new("net"));
            command.try_get_matches_from(words.split(' ')).map(drop).map_err(|it| it.kind())
        };
        for words in [
            "net trace a b --kubeconfig x",
            "net trace a b --node-name x",
            "net trace a b --netns x",
            "net explain a b --netns x",
            "net neighbours --netns x",
            "net diff --kubeconfig x",
            "net diff --node-name x",
            "net bugreport --kubeconfig x",
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
    fn the_first_node_is_the_default() {
        let place = Place::new("x", Some(Path::new("/d"))).unwrap();
        let source = of_node(&place, &NODES, None).unwrap();
        assert_eq!(source.bpffs, Path::new("/d/nodes/node1/bpf"));
        let source = of_node(&place, &NODES, Some("node2")).unwrap();
        assert_eq!(source.bpffs, Path::new("/d/nodes/node2/bpf"));
        let error = of_node(&place, &NODES, Some("node9")).unwrap_err().to_string();
        assert!(error.contains("has no node node9: it has node1"), "{error}");
    }
}
