//! `POST /bowline/net` of the agent's HTTPS server: a `bowline net` command, carried out on this
//! node by this build, whose layouts the maps have, and passed on as it comes.
//!
//! Guarantees: a command is a process of its own, which is told where the node's data plane is and
//! does not believe words that name anything else; it ends when whoever asked is gone. So many run
//! at one time. Not here: who may ask (`server`), and which words are answered (`bowline net`).

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{Stream, StreamExt, stream};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
    sync::{Semaphore, mpsc},
    time::timeout,
};

/// The hidden command of this program that takes the words.
const NET_SERVED: &str = "net-served";

/// Parameter of the query: a word of the command line, in order.
const WORD: &str = "word";

/// Words of a command line at most, and bytes of all together.
const MOST_WORDS: usize = 64;
const MOST_BYTES: usize = 4096;

/// What is read of a command's output at once.
const CHUNK: usize = 16 * 1024;

/// Chunks that wait for a slow reader; the command waits, too.
const ROOM: usize = 16;

/// How long a command may take to end once nobody reads.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a command is told of its node.
#[derive(Clone, Debug)]
pub struct NetPlace {
    pub node_name: String,
    pub bpffs: PathBuf,
    pub run_dir: PathBuf,
    /// Of the API that its answers are compared with.
    pub kubeconfig: PathBuf,
    /// The node's network namespace, if it is not that of who starts it.
    pub netns: Option<PathBuf>,
}

impl NetPlace {
    /// What [`carry_out`] takes once it is started: this program, with these words behind its name,
    /// for the node.
    pub fn command(&self, program: &Path, words: &[String]) -> Command {
        let Self { node_name, bpffs, run_dir, kubeconfig, netns } = self;
        let mut command = Command::new(program);
        command.arg(NET_SERVED).arg("--node-name").arg(node_name);
        command.arg("--bpffs").arg(bpffs).arg("--run-dir").arg(run_dir);
        command.arg("--kubeconfig").arg(kubeconfig);
        if let Some(netns) = netns {
            command.arg("--netns").arg(netns);
        }
        command.arg("--").args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for who starts it, which then ends its input.
        command.process_group(0);
        command
    }
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NetFrame {
    /// Of its standard output.
    Out(String),
    /// The same where it is no text, in base64 (RFC 4648, section 4).
    OutBytes(String),
    /// Of its standard error.
    Err(String),
    /// The last one: its exit status, nothing if a signal ended it.
    Ended(Option<i32>),
}

impl NetFrame {
    fn out(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Out(text.to_owned()),
            Err(_) => Self::OutBytes(STANDARD.encode(bytes)),
        }
    }

    /// What was written to standard output, if that is what it is.
    pub fn output(self) -> Option<Vec<u8>> {
        match self {
            Self::Out(text) => Some(text.into_bytes()),
            Self::OutBytes(text) => STANDARD.decode(text).ok(),
            Self::Err(_) | Self::Ended(_) => None,
        }
    }

    fn line(&self) -> Bytes {
        // It has no part that JSON could not have.
        Bytes::from(serde_json::to_string(self).unwrap_or_default() + "\n")
    }
}

struct Shell {
    place: NetPlace,
    most: usize,
    running: Arc<Semaphore>,
}

/// Serves the commands, `most` at one time.
pub(crate) fn router(place: NetPlace, most: usize) -> Router {
    let shell = Shell { place, most, running: Arc::new(Semaphore::new(most)) };
    Router::new().route("/bowline/net", post(answer)).with_state(Arc::new(shell))
}

/// The body is the command's input.
async fn answer(
    State(shell): State<Arc<Shell>>,
    Query(query): Query<Vec<(String, String)>>,
    body: Body,
) -> Response {
    let words: Vec<String> =
        query.into_iter().filter(|(key, _)| key == WORD).map(|(_, word)| word).collect();
    let bytes: usize = words.iter().map(String::len).sum();
    if words.is_empty() || words.len() > MOST_WORDS || bytes > MOST_BYTES {
        let most = format!("a command has 1 to {MOST_WORDS} words and {MOST_BYTES} bytes at most");
        return (StatusCode::BAD_REQUEST, most).into_response();
    }
    let Ok(permit) = shell.running.clone().try_acquire_owned() else {
        let most = shell.most;
        let busy = format!("{most} commands run on this node already: --net-commands is {most}");
        return (StatusCode::TOO_MANY_REQUESTS, busy).into_response();
    };
    // This very build, whatever lies at its path by now.
    let mut command = shell.place.command(Path::new("/proc/self/exe"), &words);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let why = format!("cannot start a command: {error}");
            return (StatusCode::INTERNAL_SERVER_ERROR, why).into_response();
        }
    };
    let (told, frames) = mpsc::channel(ROOM);
    tokio::spawn(async move {
        carry_out(child, body.into_data_stream(), told).await;
        drop(permit);
    });
    let lines = stream::unfold(frames, |mut frames| async {
        let frame: NetFrame = frames.recv().await?;
        Some((Ok::<_, Infallible>(frame.line()), frames))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// Passes on what a command ([`NetPlace::command`]) says until it ends, or until nobody reads: then
/// its input ends, by which it knows.
pub async fn carry_out<E>(
    mut child: Child,
    input: impl Stream<Item = Result<Bytes, E>> + Unpin,
    told: mpsc::Sender<NetFrame>,
) {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else { return };
    let said = async {
        let out = pass(stdout, &told, NetFrame::out);
        let err = |bytes: &[u8]| NetFrame::Err(String::from_utf8_lossy(bytes).into_owned());
        tokio::join!(out, pass(stderr, &told, err));
    };
    tokio::select! {
        () = said => {}
        () = feed(stdin, input) => {}
        () = told.closed() => {}
    }
    let status = match timeout(PATIENCE, child.wait()).await {
        Ok(ended) => ended.ok().as_ref().and_then(ExitStatus::code),
        Err(_) => {
            // With whatever it started.
            let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
            if let Some(group) = group {
                // It may have ended just now.
                let _ = killpg(group, Signal::SIGKILL);
            }
            drop(child.kill().await);
            None
        }
    };
    drop(told.send(NetFrame::Ended(status)).await);
}

/// Passes on one of a command's outputs.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    to: &mpsc::Sender<NetFrame>,
    frame: impl Fn(&[u8]) -> NetFrame,
) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        if to.send(frame(bytes)).await.is_err() {
            break;
        }
    }
}

/// Hands a command its input, and keeps that open when there is no more; ends when whoever gives it
/// is gone, which nothing else tells while it may give more.
async fn feed<E>(mut stdin: ChildStdin, mut input: impl Stream<Item = Result<Bytes, E>> + Unpin) {
    while let Some(bytes) = input.next().await {
        let Ok(bytes) = bytes else { return };
        // A command that reads nothing is none that ends early.
        if stdin.write_all(&bytes).await.is_err() {
            break;
        }
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn frames_carry_text_and_bytes() {
        let frame = NetFrame::out("ü\n".as_bytes());
        assert_eq!(frame.line(), "{\"out\":\"ü\\n\"}\n");
        assert_eq!(frame.output().unwrap(), "ü\n".as_bytes());
        let frame = NetFrame::out(&[0x0a, 0xff]);
        assert_eq!(frame, NetFrame::OutBytes("Cv8=".to_owned()));
        assert_eq!(frame.output().unwrap(), [0x0a, 0xff]);
        assert_eq!(NetFrame::Ended(Some(1)).output(), None);
    }

    #[tokio::test]
    async fn a_command_ends_with_whoever_asked() {
        let start = || {
            let mut command = Command::new("cat");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.process_group(0).spawn().unwrap()
        };
        // It is gone in the middle of its input.
        let (told, mut frames) = mpsc::channel(ROOM);
        let gone = stream::iter([Ok(Bytes::from("a")), Err(())]);
        let soon = async |work| timeout(PATIENCE / 2, work).await.expect("it goes on");
        soon(carry_out(start(), gone, told).boxed()).await;
        let mut last = None;
        while let Some(frame) = frames.recv().await {
            last = Some(frame);
        }
        assert!(matches!(last, Some(NetFrame::Ended(_))), "{last:?}");
        // It does not read any more.
        let (told, frames) = mpsc::channel(ROOM);
        drop(frames);
        soon(carry_out(start(), stream::pending::<Result<_, ()>>(), told).boxed()).await;
    }

    #[tokio::test]
    async fn words_and_commands_are_bounded() {
        let place = NetPlace {
            node_name: "n1".to_owned(),
            bpffs: PathBuf::from("/nowhere"),
            run_dir: PathBuf::from("/nowhere"),
            kubeconfig: PathBuf::from("/nowhere"),
            netns: None,
        };
        let shell = Arc::new(Shell { place, most: 0, running: Arc::new(Semaphore::new(0)) });
        let ask = async |words: Vec<String>| {
            let query = words.into_iter().map(|word| (WORD.to_owned(), word)).collect();
            let answer = answer(State(shell.clone()), Query(query), Body::empty()).await;
            let status = answer.status();
            let text = axum::body::to_bytes(answer.into_body(), CHUNK).await.unwrap();
            (status, String::from_utf8(text.to_vec()).unwrap())
        };
        let words = |count| vec!["x".to_owned(); count];
        for bad in [words(0), words(MOST_WORDS + 1), vec!["x".repeat(MOST_BYTES + 1)]] {
            let (status, text) = ask(bad).await;
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert!(text.contains("1 to 64 words and 4096 bytes"), "{text}");
        }
        let (status, text) = ask(words(1)).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(text, "0 commands run on this node already: --net-commands is 0");
    }
}
