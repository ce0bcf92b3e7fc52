//! The suites: what each measures, how it is asked, and what its program is run with.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::child;
use crate::command::MEASURE;
use crate::results::partial;

/// Where results go, and how much is measured.
#[derive(clap::Args, Clone)]
pub(crate) struct Extent {
    /// Where the figures go: SUITE.json with all samples, and index.html, a page with plots of all
    /// that is there [default: bench-results; of `cargo xtask bench`, target/bench].
    #[arg(long, value_name = "DIRECTORY")]
    folder: Option<PathBuf>,
    /// Shorter turns or fewer rounds, and less of what takes long: about two minutes at most.
    #[arg(long)]
    quick: bool,
}

impl Extent {
    /// The folder, or the one that nobody asked for; it is made if it is not there.
    pub(crate) fn folder(&self, default: &Path) -> Result<PathBuf> {
        let folder = self.folder.as_deref().unwrap_or(default);
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(std::path::absolute(folder)?)
    }

    /// How long one suite is to take at most.
    pub(crate) fn budget(&self) -> Duration {
        Duration::from_mins(if self.quick { 2 } else { 15 })
    }

    /// As it was said on the command line.
    fn words(&self) -> Vec<OsString> {
        let folder = self.folder.iter().flat_map(|it| [OsStr::new("--folder"), it.as_os_str()]);
        let quick = self.quick.then_some(OsStr::new("--quick"));
        folder.chain(quick).map(OsStr::to_owned).collect()
    }
}

/// A suite with its arguments.
#[derive(clap::Parser)]
struct CommandLine {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(clap::Subcommand)]
pub(crate) enum Suite {
    /// What the way through a service costs, beside the pod's own address, kube-proxy's rules and a
    /// proxy in user space: requests, connections, streams, datagrams.
    Path(Way),
    /// What services cost at the socket: the programs by the kernel's own statistics, and connect()
    /// through a service beside a direct one.
    Sockets(Sockets),
    /// What many services cost a node's agent, beside kube-proxy's rules: programming them all,
    /// changing one at rest and under churn, memory.
    Programming(Programming),
    /// What a cluster takes: `up`; pods from `apply` to Ready, away again and to another version;
    /// memory and processor time, idle, with 100 pods, with 10,000 services.
    #[command(mut_arg("rounds", |rounds| by_itself(rounds, "7")))]
    Cluster(Rounds),
    /// What the API costs its clients: create, update, get and list with 1, 16 and 256 of them,
    /// one change told to 1,000 watchers, a list of 10,000 pods.
    #[command(mut_arg("rounds", |rounds| by_itself(rounds, "9")))]
    Api(Rounds),
    /// What the packet programs cost: nanoseconds, and instructions where the processor counts
    /// them, of each class of packets, beside a program that does nothing.
    #[command(mut_arg("rounds", |rounds| by_itself(rounds, "15")))]
    Programs(Rounds),
    /// What the network of pods costs, on one node and to another, natively and by VXLAN, beside
    /// node to node without pods and beside Linux bridges: requests, streams, datagrams.
    #[command(mut_arg("rounds", |rounds| by_itself(rounds, "25")))]
    Network(Rounds),
}

#[derive(clap::Args)]
pub(crate) struct Way {
    #[command(flatten)]
    extent: Extent,
    /// How many services there are, 32000 at most; may be repeated. Quick: 1 and 1000.
    #[arg(long, value_name = "COUNT", conflicts_with = "quick")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_SERVICES))]
    #[arg(default_values_t = [1, 100, 1_000, 10_000, 30_000])]
    services: Vec<u32>,
    /// Rounds; in each, all ways have their turn, in slices that alternate. Loads with short
    /// slices have two and a half times as many.
    #[arg(long, value_name = "COUNT", default_value_t = 14, conflicts_with = "quick")]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
}

#[derive(clap::Args)]
pub(crate) struct Sockets {
    #[command(flatten)]
    extent: Extent,
    /// How many services the larger table has.
    #[arg(long, value_name = "COUNT", default_value_t = 30_000)]
    services: u32,
    /// Pairs of TCP connections, one direct and one through the service.
    #[arg(long, value_name = "COUNT", default_value_t = 20_000, conflicts_with = "quick")]
    pairs: u32,
    /// Rounds; in each, what is measured and its baseline have their turn.
    #[arg(long, value_name = "COUNT", default_value_t = 9, conflicts_with = "quick")]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
}

#[derive(clap::Args)]
pub(crate) struct Programming {
    #[command(flatten)]
    extent: Extent,
    /// How many services there are; may be repeated [default: 1000, 10000, 30000; quick: 1000
    /// beside kube-proxy's rules, and 10000 alone].
    #[arg(long, value_name = "COUNT", conflicts_with = "quick")]
    services: Vec<u32>,
    /// Rounds; in each, the agent starts on an empty node, and everybody changes services.
    #[arg(long, value_name = "COUNT", default_value_t = 7, conflicts_with = "quick")]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
}

/// What is asked of suites that have nothing else to choose; how many rounds each has by itself is
/// said where it is named.
#[derive(clap::Args)]
pub(crate) struct Rounds {
    #[command(flatten)]
    extent: Extent,
    /// Rounds; in each, everything has its turn.
    #[arg(long, value_name = "COUNT", conflicts_with = "quick")]
    #[arg(value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
}

/// The argument, with what it is when nobody says it.
fn by_itself(argument: clap::Arg, value: &'static str) -> clap::Arg {
    argument.required(false).default_value(value)
}

/// Each has TCP and UDP, and a node's map of services has 65,536 places.
const MAX_SERVICES: i64 = 32_000;
/// Of `path`, in a round: enough for an odd number of ways, of which the balanced order is longer.
const SLICES: u32 = 14;

/// A suite was interrupted: nothing is measured after it.
#[derive(Debug, thiserror::Error)]
#[error("the suite `{0}` was interrupted")]
pub(crate) struct Interrupted(&'static str);

/// A suite with numbers for its program, by their flags.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) numbers: Vec<(&'static str, u32)>,
}

impl Suite {
    /// In the order in which all of them are run.
    const NAMES: [&str; 7] =
        ["sockets", "programs", "path", "network", "api", "cluster", "programming"];

    /// Every suite, as it is run when nothing else is said of it.
    pub(crate) fn all(extent: &Extent) -> Result<Vec<Self>> {
        Self::NAMES.into_iter().map(|name| Self::parsed(name, &extent.words())).collect()
    }

    /// The suite with this name, asked with the words of a command line.
    pub(crate) fn parsed<W: AsRef<OsStr>>(name: &str, words: &[W]) -> Result<Self> {
        let line = ["bench", name].map(OsStr::new).into_iter().chain(words.iter().map(W::as_ref));
        match <CommandLine as clap::Parser>::try_parse_from(line) {
            Ok(CommandLine { suite }) => Ok(suite),
            Err(error) => {
                let text = error.to_string();
                let line = text.lines().next().unwrap_or_default();
                bail!("suite `{name}`: {}", line.trim_start_matches("error: "))
            }
        }
    }

    pub(crate) fn extent(&self) -> &Extent {
        match self {
            Self::Path(Way { extent, .. })
            | Self::Sockets(Sockets { extent, .. })
            | Self::Programming(Programming { extent, .. })
            | Self::Cluster(Rounds { extent, .. })
            | Self::Api(Rounds { extent, .. })
            | Self::Programs(Rounds { extent, .. })
            | Self::Network(Rounds { extent, .. }) => extent,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.call().name
    }

    pub(crate) fn call(&self) -> Call {
        let quick = self.extent().quick;
        let (name, numbers) = match self {
            Self::Path(Way { services, rounds, .. }) => {
                let (services, rounds) = match quick {
                    true => (&[1, 1_000][..], 6),
                    false => (&services[..], *rounds),
                };
                let mut numbers = repeated(services);
                numbers.extend([("rounds", rounds), ("slices", SLICES)]);
                ("path", numbers)
            }
            Self::Sockets(Sockets { services, pairs, rounds, .. }) => {
                let (rounds, pairs) = if quick { (5, 5_000) } else { (*rounds, *pairs) };
                let numbers = vec![("services", *services), ("pairs", pairs), ("rounds", rounds)];
                ("sockets", numbers)
            }
            Self::Programming(Programming { services, rounds, .. }) => {
                let (services, rounds, changes, rules) = match quick {
                    true => (&[1_000, 10_000][..], 5, 40, 1_000),
                    false => (&services[..], *rounds, 100, 10_000),
                };
                let mut numbers = repeated(services);
                numbers.extend([("rounds", rounds), ("changes", changes), ("rules", rules)]);
                ("programming", numbers)
            }
            Self::Cluster(Rounds { rounds, .. }) => {
                let (rounds, single, pods, services, window) = match quick {
                    true => (5, 10, 30, 1_000, 2_000),
                    false => (*rounds, 30, 100, 10_000, 5_000),
                };
                let mut numbers = vec![("rounds", rounds), ("single", single), ("pods", pods)];
                numbers.extend([("services", services), ("window", window)]);
                ("cluster", numbers)
            }
            Self::Api(Rounds { rounds, .. }) => {
                let (rounds, turn, changes) = if quick { (5, 200, 10) } else { (*rounds, 500, 20) };
                let numbers = vec![("rounds", rounds), ("turn", turn), ("changes", changes)];
                ("api", numbers)
            }
            Self::Programs(Rounds { rounds, .. }) => {
                let rounds = if quick { 5 } else { *rounds };
                ("programs", vec![("rounds", rounds)])
            }
            Self::Network(Rounds { rounds, .. }) => {
                let (rounds, turn) = if quick { (15, 50) } else { (*rounds, 100) };
                ("network", vec![("rounds", rounds), ("turn", turn)])
            }
        };
        Call { name, numbers }
    }

    /// Has this program measure it; its figures go to a file of this folder.
    pub(crate) fn run(&self, folder: &Path, program: &Path) -> Result<PathBuf> {
        let Call { name, numbers } = self.call();
        let mut command = Command::new(program);
        command.arg(MEASURE).arg(name);
        for (flag, number) in numbers {
            command.arg(format!("--{flag}")).arg(number.to_string());
        }
        let json = folder.join(format!("{name}.json"));
        let partial = partial(&json);
        let forget = || match std::fs::remove_file(&partial) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", partial.display()))
            }
            _ => Ok(()),
        };
        forget()?;
        let status = child::run(command.arg("--json").arg(&json))?;
        if status.success() {
            forget()?;
            return Ok(json);
        }
        if partial.exists() {
            eprintln!("what was measured until then is in {}", partial.display());
        }
        if child::was_interrupted(status) {
            return Err(Interrupted(name).into());
        }
        bail!("the suite `{name}` ended with {status}")
    }
}

fn repeated(services: &[u32]) -> Vec<(&'static str, u32)> {
    services.iter().map(|count| ("services", *count)).collect()
}
