//! The other end of `bowline net` through the API: a command as a node's agent, or `--all-nodes` of
//! a local cluster, starts it.
//!
//! Guarantees: what the words say of files and places is not believed: it is about this node, and
//! what would be written to a file goes to standard output. What goes on until it is told to end
//! ends with its input, because then nobody reads any more, and when something comes by it: then
//! somebody waits for its last word.

use std::io::Read;
use std::path::PathBuf;

use anyhow::bail;
use nix::sys::signal::{Signal, raise};

use super::source::{Known, Source};
use super::{Args as NetArgs, DiffArgs, NetnsArgs, What, run};

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
}

/// Answers `asked` for the node.
pub(crate) fn serve(args: Args, asked: NetArgs) -> anyhow::Result<()> {
    let what = about_this_node(asked.what)?;
    if matches!(what, What::Monitor(_) | What::Capture(_) | What::Top(_)) {
        end_with_input();
    }
    let known = Known { name: args.node_name, kubeconfig: args.kubeconfig, netns: args.netns };
    let source = Source { bpffs: args.bpffs, run_dir: args.run_dir, node: Some(known) };
    let NetArgs { numeric, output, .. } = asked;
    run(&NetArgs { what, numeric, output, ..NetArgs::served(source) })
}

/// Without what the words say of files and places.
fn about_this_node(what: What) -> anyhow::Result<What> {
    Ok(match what {
        What::Bugreport(_) | What::Probe(_) | What::Send(_) => {
            bail!("a node does not answer this command: it is for who asks")
        }
        What::Monitor(of) => What::Monitor(of.through_agent()),
        What::Capture(of) => What::Capture(of.through_agent()),
        What::Explain(of) => What::Explain(of.through_agent()),
        What::Trace(of) => What::Trace(of.through_agent()),
        What::Neighbours(_) => What::Neighbours(NetnsArgs::default()),
        What::Diff(_) => What::Diff(DiffArgs::default()),
        // These have no such words.
        What::Services
        | What::Backends
        | What::Pods
        | What::Routes
        | What::Counters
        | What::Affinity
        | What::Drops
        | What::Maps(_)
        | What::Features
        | What::Programs
        | What::Status
        | What::Dns
        | What::Top(_) => what,
    })
}

fn end_with_input() {
    std::thread::spawn(|| {
        // Whatever it is.
        drop(std::io::stdin().lock().bytes().next());
        // As Ctrl-C at a terminal.
        let _ = raise(Signal::SIGTERM);
    });
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::path::Path;

    use bowline_agent::NetPlace;
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    fn asked(words: &str) -> NetArgs {
        let command = NetArgs::augment_args(clap::Command::new("net"));
        let matches = command.try_get_matches_from(words.split(' ')).unwrap();
        NetArgs::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn words_choose_no_place_and_no_file() {
        for words in [
            "net neighbours --bpffs b --netns /proc/1/ns/net",
            "net explain a b --bpffs b --netns /proc/1/ns/net",
            "net explain a b --bpffs b --node-name somebody",
            "net trace a b --bpffs b --netns /proc/1/ns/net --node-name somebody",
            "net diff --bpffs b --node-name somebody",
            "net capture --write /etc/passwd",
        ] {
            let what = format!("{:?}", about_this_node(asked(words).what).unwrap());
            for word in ["/proc", "somebody", "passwd"] {
                assert!(!what.contains(word), "{words}: {what}");
            }
        }
        for words in ["net bugreport", "net probe 10.0.0.1:80"] {
            let error = about_this_node(asked(words).what).unwrap_err().to_string();
            assert!(error.contains("does not answer this command"), "{words}: {error}");
        }
    }

    #[test]
    fn nodes_get_the_words_that_were_typed() {
        let place = NetPlace {
            node_name: "n1".to_owned(),
            bpffs: PathBuf::from("/b"),
            run_dir: PathBuf::from("/r"),
            kubeconfig: PathBuf::from("/k"),
            netns: Some(PathBuf::from("/n")),
        };
        let command = place.command(Path::new("bowline"), &["net".to_owned(), "pods".to_owned()]);
        let line: Vec<&OsStr> = command.as_std().get_args().collect();
        assert_eq!(line[0], "net-served");
        let parser = Args::augment_args(clap::Command::new("net-served"));
        let args = Args::from_arg_matches(&parser.get_matches_from(line)).unwrap();
        assert_eq!(args.words().collect::<Vec<_>>(), ["bowline", "net", "pods"]);
        assert_eq!((args.node_name, args.netns), ("n1".to_owned(), place.netns));
    }
}
