//! What nodes say to a command: those of a local cluster through processes of this program, others
//! through the API; and how that is shown.
//!
//! Guarantees: a node that does not answer is named and the others are shown all the same; what one
//! node says, and what goes on, is shown as it comes. The exit status is the highest of all.

use std::convert::Infallible;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_agent::{NetFrame, NetPlace, carry_out};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::ends::DEFAULT_NAMESPACE;
use super::source::Source;
use crate::launch::THIS_PROGRAM;
use crate::output::{self, Format};
use crate::verbs::client::{Connection, escape, query};

/// How long the API may take to say which nodes there are, and a node to begin to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a node among others may take for all of its answer.
const WHOLE_ANSWER: Duration = Duration::from_secs(60);

/// Nodes that are asked at one time.
const AT_ONCE: usize = 16;

/// What is said that nobody has read yet.
const ROOM: usize = 16;

/// The input by which a command that goes on by itself is told to end.
const END: &[u8] = b"end\n";

/// A node's answer as it comes.
pub(super) type Frames = BoxStream<'static, anyhow::Result<NetFrame>>;

/// A node that is asked.
pub(super) struct Asked {
    pub(super) name: String,
    way: Way,
}

enum Way {
    /// Boxed: it is much larger than the other.
    Here(Box<Source>),
    Api(Arc<Connection>),
}

impl Asked {
    /// The API through which it is asked.
    pub(super) fn api(&self) -> Option<&Connection> {
        match &self.way {
            Way::Here(_) => None,
            Way::Api(api) => Some(api),
        }
    }

    /// Nodes of this machine.
    pub(super) fn here(sources: Vec<Source>) -> Vec<Self> {
        let named = |source: Source| {
            let name = source.node.as_ref()?.name.clone();
            Some(Self { name, way: Way::Here(Box::new(source)) })
        };
        sources.into_iter().filter_map(named).collect()
    }

    /// Starts the command of these words (behind the program's name) on the node.
    pub(super) async fn ask(&self, words: Vec<String>) -> anyhow::Result<Frames> {
        self.ask_with(words, stream::pending().boxed()).await
    }

    /// Starts what goes on by itself, and tells it to end when it is time: it has a last word then.
    pub(super) async fn ask_until(
        &self,
        words: Vec<String>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Frames> {
        let stop = stop.clone();
        let end = stream::once(async move {
            stop.cancelled().await;
            Bytes::from_static(END)
        });
        self.ask_with(words, end.chain(stream::pending()).boxed()).await
    }

    /// The same, with an input.
    pub(super) async fn ask_with(
        &self,
        words: Vec<String>,
        input: BoxStream<'static, Bytes>,
    ) -> anyhow::Result<Frames> {
        match &self.way {
            Way::Here(source) => begin_here(source, words, input),
            Way::Api(api) => {
                let begun = begin_there(&self.name, api, words, input);
                in_time(begun).await?
            }
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = T>) -> anyhow::Result<T> {
    let late = || format!("no answer within {} s", PATIENCE.as_secs());
    timeout(PATIENCE, answer).await.with_context(late)
}

/// The nodes that the API knows, or the one of this name.
pub(super) async fn nodes_of(api: Connection, wanted: Option<&str>) -> anyhow::Result<Vec<Asked>> {
    let listed = Api::<Node>::all(api.client.clone());
    let listed = in_time(listed.list_metadata(&ListParams::default())).await?;
    let listed = listed.map_err(|error| api.explain(error))?;
    let mut names: Vec<String> = listed.into_iter().filter_map(|it| it.metadata.name).collect();
    names.sort_by_key(|name| natural(name));
    if let Some(wanted) = wanted {
        if !names.iter().any(|name| name == wanted) {
            let known: Vec<&str> = names.iter().map(String::as_str).collect();
            bail!("the cluster has no node {wanted}{}", output::nearest(wanted, &known));
        }
        names = vec![wanted.to_owned()];
    }
    if names.is_empty() {
        bail!("the cluster has no nodes");
    }
    let api = Arc::new(api);
    Ok(names.into_iter().map(|name| Asked { name, way: Way::Api(api.clone()) }).collect())
}

/// `node10` comes after `node9`.
fn natural(name: &str) -> (String, u64) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem.to_owned(), name[stem.len()..].parse().unwrap_or_default())
}

/// The node that has the pod, if it is one that the API knows by this name.
pub(super) async fn node_of(api: &Connection, pod: &str) -> anyhow::Result<Option<String>> {
    let (namespace, name) = pod.split_once('/').unwrap_or((DEFAULT_NAMESPACE, pod));
    let pods = Api::<Pod>::namespaced(api.client.clone(), namespace);
    let found = in_time(pods.get_opt(name)).await?;
    let Some(found) = found.map_err(|error| api.explain(error))? else { return Ok(None) };
    match found.spec.and_then(|spec| spec.node_name) {
        Some(node) => Ok(Some(node)),
        None => bail!("pod {namespace}/{name} is on no node yet"),
    }
}

fn begin_here(
    source: &Source,
    words: Vec<String>,
    input: BoxStream<'static, Bytes>,
) -> anyhow::Result<Frames> {
    let program = Path::new(THIS_PROGRAM);
    let known = source.node.as_ref().context("the node has no name")?;
    let place = NetPlace {
        node_name: known.name.clone(),
        bpffs: source.bpffs.clone(),
        run_dir: source.run_dir.clone(),
        kubeconfig: known.kubeconfig.clone(),
        netns: known.netns.clone(),
    };
    let child = place.command(program, &words).spawn().context("cannot ask a node")?;
    let (told, frames) = mpsc::channel(ROOM);
    tokio::spawn(carry_out(child, input.map(Ok::<_, Infallible>), told));
    Ok(ReceiverStream::new(frames).map(Ok).boxed())
}

async fn begin_there(
    node: &str,
    api: &Connection,
    words: Vec<String>,
    input: BoxStream<'static, Bytes>,
) -> anyhow::Result<Frames> {
    let words: Vec<(&str, String)> = words.into_iter().map(|word| ("word", word)).collect();
    let path = format!("/bowline/v1/nodes/{}/net{}", escape(node), query(&words));
    let lines = Box::pin(api.command(&path, input).await?).lines();
    let frames = lines.map_err(|error| anyhow::Error::from(error).context("its agent broke off"));
    let frames = frames.and_then(async |line| {
        serde_json::from_str(&line).context("its agent says something else")
    });
    Ok(frames.boxed())
}

/// Shows what one node says, as it comes; gives its exit status, which is `broken` if it had none.
pub(super) async fn pass_through(
    mut frames: Frames,
    broken: i32,
    out: &mut impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<i32> {
    while let Some(frame) = frames.next().await {
        match frame? {
            NetFrame::Err(text) => complain(&text),
            NetFrame::Ended(status) => return Ok(status.unwrap_or(broken)),
            frame => out(&frame.output().context("its agent says something else")?)?,
        }
    }
    bail!("its agent broke off")
}

/// What it says to somebody, beside what it answers.
fn complain(text: &str) {
    // Nobody may be there to read it.
    drop(std::io::stderr().write_all(text.as_bytes()));
}

/// Shows what each node says, one after the other; gives the highest exit status, which is this if
/// a node does not answer.
pub(super) async fn one_after_the_other(
    nodes: &[Asked],
    words: &[String],
    format: Format,
    silent: i32,
) -> anyhow::Result<i32> {
    let asked = stream::iter(nodes).map(async |node| (node, node.ask(words.to_vec()).await));
    let mut answers = asked.buffered(AT_ONCE);
    let (mut worst, mut documents) = (0, Map::new());
    while let Some((Asked { name, .. }, begun)) = answers.next().await {
        let whole = async {
            let late = || format!("no end within {} s", WHOLE_ANSWER.as_secs());
            let whole = timeout(WHOLE_ANSWER, whole(begun?)).await.with_context(late)??;
            let document = match format.is_table() || whole.said.trim().is_empty() {
                true => Value::Null,
                false => parsed(&whole.said, format)?,
            };
            anyhow::Ok((whole, document))
        };
        let (said, document, status) = match whole.await {
            Ok((Whole { said, complaint, status }, document)) => {
                if !complaint.trim().is_empty() {
                    tracing::warn!("{name}: {}", complaint.trim());
                }
                (said, document, status.unwrap_or(silent))
            }
            Err(error) => {
                tracing::warn!("{name}: {error:#}");
                (String::new(), Value::Null, silent)
            }
        };
        worst = worst.max(status);
        match format.is_table() {
            true => output::text(&format!("{name}:\n{said}\n"))?,
            false => drop(documents.insert(name.clone(), document)),
        }
    }
    if !format.is_table() {
        output::document(&Value::Object(documents), format)?;
    }
    Ok(worst)
}

struct Whole {
    said: String,
    complaint: String,
    status: Option<i32>,
}

async fn whole(mut frames: Frames) -> anyhow::Result<Whole> {
    let (mut said, mut complaint) = (Vec::new(), String::new());
    while let Some(frame) = frames.next().await {
        match frame? {
            NetFrame::Err(text) => complaint.push_str(&text),
            NetFrame::Ended(status) => {
                let said = String::from_utf8_lossy(&said).into_owned();
                return Ok(Whole { said, complaint, status });
            }
            frame => said.extend(frame.output().context("its agent says something else")?),
        }
    }
    bail!("its agent broke off")
}

/// The same with the node's name before each line of what it says beside its answer.
pub(super) fn with_name(name: String, frames: Frames) -> Frames {
    // It comes in pieces, not in lines.
    let mut lines = Lines::default();
    let named = frames.flat_map(move |frame| {
        let mut text = String::new();
        if let Ok(NetFrame::Err(said)) = &frame {
            lines.add(said.as_bytes());
            while let Some(line) = lines.next(Format::Table) {
                text.push_str(&format!("{name}: {line}"));
            }
        } else if let Ok(NetFrame::Ended(_)) = &frame
            && let Some(rest) = lines.rest()
        {
            text = format!("{name}: {rest}\n");
        }
        let other = Some(frame).filter(|frame| !matches!(frame, Ok(NetFrame::Err(_))));
        let said = (!text.is_empty()).then_some(Ok(NetFrame::Err(text)));
        stream::iter(said.into_iter().chain(other))
    });
    named.boxed()
}

/// Shows what happens on several nodes as it happens, each line with its node, until it is told to
/// end; gives the highest exit status.
pub(super) async fn side_by_side(
    nodes: &[Asked],
    words: &[String],
    format: Format,
    stop: &CancellationToken,
) -> anyhow::Result<i32> {
    let mut worst = 0;
    let mut all = stream::SelectAll::new();
    for node in nodes {
        match node.ask_until(words.to_vec(), stop).await {
            Ok(frames) => {
                let named = move |frame| (node.name.as_str(), frame);
                all.push(with_name(node.name.clone(), frames).map(named).boxed());
            }
            Err(error) => {
                tracing::warn!("{}: {error:#}", node.name);
                worst = 1;
            }
        }
    }
    let begun = |node: &'_ Asked| (node.name.clone(), Lines::default());
    let mut rest: Vec<(String, Lines)> = nodes.iter().map(begun).collect();
    while let Some((name, frame)) = all.next().await {
        let own = rest.iter_mut().find(|(node, ..)| node == name);
        let Some((_, lines)) = own else { continue };
        match frame {
            Ok(NetFrame::Ended(status)) => {
                worst = worst.max(status.unwrap_or(1));
                if let Some(rest) = lines.rest() {
                    output::text(&with_node(name, &rest, format)?)?;
                }
            }
            Ok(NetFrame::Err(text)) => complain(&text),
            Ok(frame) => {
                lines.add(&frame.output().context("its agent says something else")?);
                let mut text = String::new();
                while let Some(line) = lines.next(format) {
                    text.push_str(&with_node(name, &line, format)?);
                }
                output::text(&text)?;
            }
            Err(error) => {
                tracing::warn!("{name}: {error:#}");
                worst = worst.max(1);
            }
        }
    }
    Ok(worst)
}

/// What a node said that is not shown yet.
#[derive(Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// A line, or a document of YAML, that is whole. The last document is only known to be when the
    /// next begins.
    pub(super) fn next(&mut self, format: Format) -> Option<String> {
        let end = match format {
            Format::Yaml => {
                let text = &self.0;
                let next = text.windows(5).position(|it| it == b"\n---\n")?;
                next + 1
            }
            _ => self.0.iter().position(|byte| *byte == b'\n')? + 1,
        };
        let line: Vec<u8> = self.0.drain(..end).collect();
        Some(String::from_utf8_lossy(&line).into_owned())
    }

    /// What is left when there is no more.
    fn rest(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.0);
        (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
    }
}

fn with_node(node: &str, line: &str, format: Format) -> anyhow::Result<String> {
    if format.is_table() {
        return Ok(format!("{node}: {line}"));
    }
    let mut value = parsed(line, format)?;
    if let Value::Object(fields) = &mut value {
        fields.insert("node".to_owned(), Value::from(node));
    }
    match format {
        Format::Yaml => Ok(format!("---\n{}", output::yaml(&value)?)),
        _ => Ok(format!("{value}\n")),
    }
}

fn parsed(said: &str, format: Format) -> anyhow::Result<Value> {
    let value = match format {
        Format::Yaml => serde_yaml_ng::from_str(said).map_err(anyhow::Error::from),
        _ => serde_json::from_str(said).map_err(anyhow::Error::from),
    };
    match value {
        Ok(value) => Ok(value),
        Err(error) => bail!("a node said something else: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nodes_say_is_read_in_either_form() {
        assert_eq!(parsed("[1]", Format::Json).unwrap(), json!([1]));
        assert_eq!(parsed("- a: 1\n", Format::Yaml).unwrap(), json!([{ "a": 1 }]));
        assert!(parsed("oh", Format::Json).is_err());
    }

    #[test]
    fn nodes_are_in_the_order_of_their_numbers() {
        let mut names = ["node10", "a", "node9", "node", "7"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["7", "a", "node", "node9", "node10"]);
    }

    #[test]
    fn lines_come_whole_and_get_their_node() {
        let mut lines = Lines::default();
        lines.add(b"{\"a\":1}\n{\"a\"");
        let first = lines.next(Format::Json).unwrap();
        assert_eq!(with_node("n1", &first, Format::Json).unwrap(), "{\"a\":1,\"node\":\"n1\"}\n");
        assert_eq!(lines.next(Format::Json), None);
        lines.add(b":2}\n");
        assert_eq!(lines.next(Format::Table).unwrap(), "{\"a\":2}\n");
        let mut lines = Lines::default();
        lines.add(b"---\na: 1\nb: 2\n---\na: 3\n");
        let first = lines.next(Format::Yaml).unwrap();
        assert_eq!(first, "---\na: 1\nb: 2\n");
        assert_eq!(lines.next(Format::Yaml), None);
        assert_eq!(lines.rest().unwrap(), "---\na: 3\n");
        assert_eq!(lines.rest(), None);
        let named = with_node("n1", &first, Format::Yaml).unwrap();
        assert_eq!(named, "---\na: 1\nb: 2\nnode: n1\n");
        assert_eq!(with_node("n1", "10:00 x\n", Format::Table).unwrap(), "n1: 10:00 x\n");
    }

    #[tokio::test]
    async fn what_a_node_says_beside_its_answer_has_its_name() {
        let err = |text: &str| NetFrame::Err(text.to_owned());
        let said = [
            err("list"),
            NetFrame::Out("x".to_owned()),
            err("ening\n3 events"),
            err(", 0 lost\nbye"),
            NetFrame::Ended(Some(0)),
        ];
        let frames = stream::iter(said.into_iter().map(Ok)).boxed();
        let frames: Vec<NetFrame> =
            with_name("n1".to_owned(), frames).map(Result::unwrap).collect().await;
        let expected = [
            NetFrame::Out("x".to_owned()),
            err("n1: listening\n"),
            err("n1: 3 events, 0 lost\n"),
            err("n1: bye\n"),
            NetFrame::Ended(Some(0)),
        ];
        assert_eq!(frames, expected);
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_none() {
        let said = |frames: Vec<NetFrame>| stream::iter(frames.into_iter().map(Ok)).boxed();
        let frames = || vec![NetFrame::Out("a".to_owned()), NetFrame::Err("b".to_owned())];
        let mut ended = frames();
        ended.push(NetFrame::Ended(Some(3)));
        let mut out = Vec::new();
        let mut add = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        assert_eq!(pass_through(said(ended.clone()), 2, &mut add).await.unwrap(), 3);
        let error = pass_through(said(frames()), 2, &mut add).await.unwrap_err().to_string();
        assert_eq!((error.as_str(), &*out), ("its agent broke off", &b"aa"[..]));
        let Whole { said: text, complaint, status } = whole(said(ended)).await.unwrap();
        assert_eq!((&*text, &*complaint, status), ("a", "b", Some(3)));
        assert!(whole(said(frames())).await.is_err());
    }
}
