//! The other end of `bowline net` through the API: a command as a node's agent, or `--all-nodes` of
//! a local cluster, starts it.
//!
//! Guarantees: what the words say of files and places is not believed: it is about this node, and
//! what would be written to a file goes to standard output. What goes on until it is told to end
//! ends with its input, because then nobody reads any more.

use std::io::Read;
use std::path::PathBuf;

use anyhow::bail;
use nix::sys::signal::{Signal, raise};

use super::source::{Known, Source};
use super::{Args as NetArgs, What, run};

/// Where the node's data plane is, and what is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    node_name: String,
    #[arg(long)]
    bpffs: PathBuf,
    #[arg(long)]
    run_dir: PathBuf,
    #[arg(long)]
    kubeconfig: PathBuf,
    #[arg(long)]
    netns: Option<PathBuf>,
    /// Behind the program's name
    #[arg(last = true)]
    words: Vec<String>,
}

impl Args {
    /// The command line that somebody typed elsewhere.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        std::iter::once("bowline").chain(self.words.iter().map(String::as_str))
    }

    /// The words that start it for a node of a local cluster.
    pub(super) fn line(of: &Source, known: &Known, words: Vec<String>) -> Vec<String> {
        let mut line = vec![bowline_agent::NET_SERVED.to_owned()];
        let path = |path: &std::path::Path| path.display().to_string();
        let mut flag = |name: &str, value: String| line.extend([name.to_owned(), value]);
        flag("--node-name", known.name.clone());
        flag("--bpffs", path(&of.bpffs));
        flag("--run-dir", path(&of.run_dir));
        flag("--kubeconfig", path(&known.kubeconfig));
        if let Some(netns) = &known.netns {
            flag("--netns", path(netns));
        }
        line.push("--".to_owned());
        line.extend(words);
        line
    }
}

/// Answers `asked` for the node.
pub(crate) fn serve(args: Args, asked: NetArgs) -> anyhow::Result<()> {
    let what = match asked.what {
        What::Bugreport(_) | What::Probe(_) | What::Send(_) => {
            bail!("a node does not answer this command: it is for who asks")
        }
        What::Monitor(of) => What::Monitor(of.through_agent()),
        What::Capture(of) => What::Capture(of.through_agent()),
        what => what,
    };
    if matches!(what, What::Monitor(_) | What::Capture(_) | What::Top(_)) {
        end_with_input();
    }
    let known = Known { name: args.node_name, kubeconfig: args.kubeconfig, netns: args.netns };
    let source = Source { bpffs: args.bpffs, run_dir: args.run_dir, node: Some(known) };
    let NetArgs { numeric, output, .. } = asked;
    run(&NetArgs { what, numeric, output, ..NetArgs::served(source) })
}

fn end_with_input() {
    std::thread::spawn(|| {
        let mut rest = [0; 512];
        while std::io::stdin().read(&mut rest).is_ok_and(|count| count > 0) {}
        // As Ctrl-C at a terminal.
        let _ = raise(Signal::SIGTERM);
    });
}
