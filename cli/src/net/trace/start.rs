//! Starting a trace's sender where the client is, and listening while it waits.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_agent::datapath::Explanation;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::sender::{Ready, Sent};
use super::subscriptions::Subscriptions;
use crate::net::probe::{OwnCgroup, at_client};

/// Between two looks at what was seen.
const PAUSE: Duration = Duration::from_millis(5);

/// How long it may take beside its waiting.
const PATIENCE: Duration = Duration::from_secs(10);

/// A sender that holds its port and has sent nothing yet. It ends with this value.
pub(super) struct Sender {
    child: Child,
    go: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
    /// Its source port, or the identifier of its echo request.
    pub(super) identifier: u16,
    /// After the process.
    _cgroup: Option<OwnCgroup>,
}

impl Sender {
    /// Starts it with these words in the client's network namespace; where `hooks` is given, where
    /// the hooks of sockets see it.
    pub(super) async fn start(
        words: &[String],
        netns: Option<&Path>,
        hooks: Option<&Explanation>,
    ) -> anyhow::Result<Self> {
        let cgroup = hooks.map(OwnCgroup::of).transpose()?;
        let mut command = Command::from(at_client(netns, cgroup.as_ref(), words)?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().context("cannot start a sender")?;
        let go = child.stdin.take().context("the sender has no input")?;
        let stdout = child.stdout.take().context("the sender has no output")?;
        let says = BufReader::new(stdout).lines();
        let mut sender = Self { child, go, says, identifier: 0, _cgroup: cgroup };
        let ready: Ready =
            timeout(PATIENCE, sender.line()).await.context("the sender does not start")??;
        sender.identifier = ready.identifier;
        Ok(sender)
    }

    async fn line<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        match self.says.next_line().await? {
            Some(line) => serde_json::from_str(&line).context("the sender said something else"),
            None => {
                let mut said = String::new();
                if let Some(stderr) = &mut self.child.stderr {
                    stderr.read_to_string(&mut said).await?;
                }
                bail!("the sender failed: {}", said.trim())
            }
        }
    }

    /// Has it send, and listens until it has its answer or waited long enough.
    pub(super) async fn send(
        mut self,
        wait: u64,
        subscriptions: &mut Subscriptions,
        stop: &CancellationToken,
    ) -> anyhow::Result<Sent> {
        self.go.write_all(b"\n").await.context("the sender has gone")?;
        let listen = async {
            loop {
                subscriptions.poll();
                sleep(PAUSE).await;
            }
        };
        let most = Duration::from_secs(wait) + PATIENCE;
        tokio::select! {
            sent = timeout(most, self.line()) => sent.context("the sender does not end")?,
            () = listen => bail!("nobody listens"),
            () = stop.cancelled() => bail!("interrupted"),
        }
    }
}
