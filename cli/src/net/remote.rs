//! `bowline net` for nodes that answer for themselves: through the API, or all nodes of a local
//! cluster.
//!
//! Guarantees: nothing is read here, so nobody needs to be root to ask through the API; files are
//! written here, and nowhere else.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::answers::{self, Asked};
use super::packets::Packets;
use super::source::every_source;
use super::{Args, What, bugreport, capture, clear, listen, top, trace, way};
use crate::launch;
use crate::output;
use crate::verbs::client::{Connection, connect_file};

/// How long a node may take to end what goes on by itself.
const LAST_WORD: Duration = Duration::from_secs(2);

/// The kubeconfig of the API through which nodes are asked, if they are.
pub(super) fn api(args: &Args) -> anyhow::Result<Option<PathBuf>> {
    if args.served.is_some() || args.bpffs.is_some() {
        return Ok(None);
    }
    if let Some(file) = &args.kubeconfig {
        return Ok(Some(file.clone()));
    }
    let from_environment = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
    let Some(file) = from_environment.map(PathBuf::from).filter(|_| args.name.is_none()) else {
        return Ok(None);
    };
    // What can be had without the API is.
    let own = crate::cluster::only(None, "").ok().map(|place| place.kubeconfig());
    let is_own = own.is_some_and(|own| match (own.canonicalize(), file.canonicalize()) {
        (Ok(own), Ok(file)) => own == file,
        _ => false,
    });
    Ok((!is_own).then_some(file))
}

/// Asks nodes through the API, and shows what they say.
pub(super) fn run(args: &Args, kubeconfig: PathBuf) -> anyhow::Result<()> {
    match &args.what {
        What::Bugreport(of) => {
            let nodes = crate::wait(async { nodes(args, &kubeconfig).await })?;
            let nodes = nodes.into_iter().map(|node| node.name).collect();
            bugreport::run(of, &bugreport::Subject::of_api(nodes, &kubeconfig))
        }
        What::Top(of) => launch::run_until_stopped(2, async |stop| {
            let nodes = nodes(args, &kubeconfig).await?;
            let told = top::told::listen(&nodes, of, args.numeric).await;
            tokio::task::block_in_place(|| {
                top::run(of, &top::From::Told(told), args.numeric, args.output, &stop)
            })
        }),
        _ => {
            must_choose(args)?;
            show(args, async || {
                let nodes = nodes(args, &kubeconfig).await?;
                way::through(args, &kubeconfig, nodes.iter().map(|node| &*node.name));
                Ok(nodes)
            })
        }
    }
}

/// Asks all nodes of a local cluster, each by a process of its own.
pub(super) fn every_local(args: &Args) -> anyhow::Result<()> {
    must_choose(args)?;
    super::must_be_root()?;
    let sources = every_source(args)?;
    show(args, async || {
        way::here(args);
        Ok(Asked::here(sources.clone()))
    })
}

/// What is about one pod is about one node.
fn must_choose(args: &Args) -> anyhow::Result<()> {
    match args.what {
        What::Explain(_) | What::Trace(_) if args.all_nodes => {
            bail!("--all-nodes is for what shows nodes: a pod is on one, choose it with --node")
        }
        _ => Ok(()),
    }
}

fn show(args: &Args, nodes: impl AsyncFn() -> anyhow::Result<Vec<Asked>>) -> anyhow::Result<()> {
    let mut status = 0;
    launch::run_until_stopped(1, async |stop| {
        let asked = async {
            loop {
                if args.watch.is_some() {
                    clear(args)?;
                }
                let status = shown(args, &nodes().await?, &stop).await?;
                let Some(seconds) = args.watch else { return Ok(status) };
                sleep(Duration::from_secs(seconds)).await;
            }
        };
        let goes_on = matches!(args.what, What::Monitor(_) | What::Capture(_));
        status = match until_stopped(asked, &stop, goes_on).await {
            Some(ended) => ended?,
            None => silent(args),
        };
        Ok(())
    })?;
    match (status, args.watch) {
        (0, _) | (_, Some(_)) => Ok(()),
        (status, None) => std::process::exit(status),
    }
}

/// The exit status of what was asked; nothing if it was ended from outside. For what goes on by
/// itself that is the way to end: its nodes have a last word, unless they do not know that they are
/// told to end, as older builds.
async fn until_stopped(
    asked: impl Future<Output = anyhow::Result<i32>>,
    stop: &CancellationToken,
    goes_on: bool,
) -> Option<anyhow::Result<i32>> {
    let mut asked = pin!(asked);
    match stop.run_until_cancelled(asked.as_mut()).await {
        None if goes_on => Some(match timeout(LAST_WORD, asked).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) | Err(_) => Ok(0),
        }),
        ended => ended,
    }
}

/// The exit status for a node that does not answer.
fn silent(args: &Args) -> i32 {
    if args.what.judges() { 2 } else { 1 }
}

/// Shows what these nodes say; gives the exit status.
async fn shown(args: &Args, nodes: &[Asked], stop: &CancellationToken) -> anyhow::Result<i32> {
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(OsString::into_string)
        .collect::<Result<_, _>>()
        .map_err(|word| anyhow::anyhow!("{} is no UTF-8", word.to_string_lossy()))?;
    let silent = silent(args);
    match (&args.what, nodes) {
        (What::Capture(of), nodes) => captured(of, nodes, args.all_nodes, &words, stop).await,
        (_, [only]) if !args.all_nodes => {
            let named = || only.name.clone();
            let print = &mut |bytes: &[u8]| Ok(output::bytes(bytes)?);
            if matches!(args.what, What::Trace(_)) {
                return trace::lend(only, words, print).await.with_context(named);
            }
            let frames = only.ask_until(words, stop).await.with_context(named)?;
            answers::pass_through(frames, silent, print).await.with_context(named)
        }
        (What::Monitor(_), nodes) => answers::side_by_side(nodes, &words, args.output, stop).await,
        (_, nodes) => answers::one_after_the_other(nodes, &words, args.output, silent).await,
    }
}

/// Writes what each node captures to a file of its own, with the node's name if there are several,
/// and says what is where.
async fn captured(
    of: &capture::Args,
    nodes: &[Asked],
    all: bool,
    words: &[String],
    stop: &CancellationToken,
) -> anyhow::Result<i32> {
    let one = async |node: &Asked| {
        let path = if all { with_name(&of.write, &node.name)? } else { of.write.clone() };
        let mut frames = node.ask_until(words.to_vec(), stop).await?;
        if all {
            frames = answers::with_name(node.name.clone(), frames);
        }
        let (mut file, mut packets) = (capture::open(&path)?, Packets::default());
        let mut write = |bytes: &[u8]| {
            packets.add(bytes);
            match &mut file {
                Some(file) => Ok(file.write_all(bytes).context("cannot write the capture")?),
                None => Ok(output::bytes(bytes)?),
            }
        };
        let ended = answers::pass_through(frames, 1, &mut write).await;
        if file.is_some() {
            let whose = if all { format!("{}: ", node.name) } else { String::new() };
            listen::say(&format!("{whose}{}", capture::written(packets.count(), &path)));
        }
        ended
    };
    let ended = futures::future::join_all(nodes.iter().map(one)).await;
    let mut worst = 0;
    for (node, ended) in nodes.iter().zip(ended) {
        worst = worst.max(match ended {
            Ok(status) => status,
            Err(error) => {
                tracing::warn!("{}: {error:#}", node.name);
                1
            }
        });
    }
    Ok(worst)
}

/// `web.pcapng` of node1 is `web.node1.pcapng`.
fn with_name(path: &Path, node: &str) -> anyhow::Result<PathBuf> {
    let Some(stem) = path.file_stem().filter(|_| path != Path::new("-")) else {
        bail!("--write: several nodes need files: name one, each node's has its name in it");
    };
    let mut name = stem.to_os_string();
    name.push(format!(".{node}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    Ok(path.with_file_name(name))
}

/// The nodes that are asked about.
async fn nodes(args: &Args, kubeconfig: &Path) -> anyhow::Result<Vec<Asked>> {
    let api = connect_file(kubeconfig).await?;
    let wanted = match (&args.node, &args.what) {
        (Some(node), _) => Some(node.clone()),
        (None, What::Explain(of)) => pods_node(&api, of.from()).await?,
        (None, What::Trace(of)) => pods_node(&api, of.from()).await?,
        (None, _) => None,
    };
    let mut nodes = answers::nodes_of(api, wanted.as_deref()).await?;
    // An archive is of all nodes.
    if !args.all_nodes && !matches!(args.what, What::Bugreport(_)) {
        nodes.truncate(1);
    }
    Ok(nodes)
}

async fn pods_node(api: &Connection, from: &str) -> anyhow::Result<Option<String>> {
    if from == "node" { Ok(None) } else { answers::node_of(api, from).await }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_goes_on_has_a_last_word() {
        let (stop, never) = (CancellationToken::new(), std::future::pending);
        let word = async {
            stop.cancelled().await;
            sleep(LAST_WORD / 2).await;
            Ok(7)
        };
        let status = |ended: Option<anyhow::Result<i32>>| ended.map(Result::unwrap);
        assert_eq!(status(until_stopped(async { Ok(3) }, &stop, true).await), Some(3));
        stop.cancel();
        assert_eq!(status(until_stopped(never(), &stop, true).await), Some(0), "it does not hear");
        assert_eq!(status(until_stopped(never(), &stop, false).await), None);
        assert_eq!(status(until_stopped(word, &stop, true).await), Some(0));
        let failed = async {
            stop.cancelled().await;
            sleep(LAST_WORD / 2).await;
            bail!("it broke off")
        };
        let ended = until_stopped(failed, &stop, true).await;
        assert_eq!(ended.unwrap().unwrap_err().to_string(), "it broke off");
    }

    #[test]
    fn each_nodes_file_has_its_name() {
        for (path, named) in [("web.pcapng", "web.n1.pcapng"), ("/tmp/a.b/web", "/tmp/a.b/web.n1")]
        {
            assert_eq!(with_name(Path::new(path), "n1").unwrap(), Path::new(named));
        }
        let error = with_name(Path::new("-"), "n1").unwrap_err().to_string();
        assert!(error.starts_with("--write: several nodes need files"), "{error}");
    }
}
