//! What other nodes tell, for a trace whose client's node answers through the API: a node may not
//! listen to others, so whoever asked listens to them, and lends what it hears.
//!
//! Guarantees: nothing is sent before everything that is wanted is listened to, or said not to be.
//! Messages are lines of JSON: one on the sender's standard output, before anything else is there,
//! and the others on its standard input.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_agent::{NetFrame, TraceFilter, boot_id};
use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc;
use serde::{Deserialize, Serialize};
use tokio::time::{interval, timeout};

use super::nodes::listen_elsewhere;
use super::subscriptions::{Seen, Source, Subscriptions, Unreachable};
use crate::net::answers::{Asked, Frames, pass_through};
use crate::output;
use crate::verbs::client::Connection;

/// How long it may take until others are listened to.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between two looks at what others saw.
const PAUSE: Duration = Duration::from_millis(5);

/// Messages that wait to be read.
const ROOM: usize = 1024;

/// The exit status of a trace that came to no judgement.
const BROKEN: i32 = 2;

/// How the line begins that is not for people.
const BEGINS: &[u8] = b"{\"listen\":";

/// Whom the sender wants to hear.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    listen: TraceFilter,
    nodes: BTreeSet<IpAddr>,
    /// Of the sender's machine.
    boot_id: String,
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Lent {
    /// Everything that can be is listened to.
    Begun,
    Seen(Seen),
    Unreachable(Unreachable),
    Lost(u64),
}

/// The sender's side: asks for these nodes, and waits until they are listened to.
pub(super) async fn borrow(
    subscriptions: &mut Subscriptions,
    nodes: BTreeSet<IpAddr>,
    filter: &TraceFilter,
) -> anyhow::Result<()> {
    let wanted = Wanted { listen: *filter, nodes, boot_id: boot_id() };
    output::line(&serde_json::to_string(&wanted)?)?;
    let (told, mut messages) = tokio::sync::mpsc::channel(ROOM);
    // It may wait for a line when the program ends.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let Ok(message) = serde_json::from_str::<Lent>(&line) else { break };
            if told.blocking_send(message).is_err() {
                break;
            }
        }
    });
    let mut lost = 0;
    let begun = async {
        while let Some(message) = messages.recv().await {
            match message {
                Lent::Begun => return Ok(()),
                Lent::Seen(seen) => subscriptions.seen.push(seen),
                Lent::Unreachable(node) => subscriptions.unreachable.push(node),
                Lent::Lost(count) => lost = count,
            }
        }
        bail!("whoever asked is gone")
    };
    timeout(PATIENCE, begun).await.context("other nodes are not listened to")??;
    subscriptions.add("other nodes", true, Source::Lent { messages, lost });
    Ok(())
}

/// The other side: has the node send, lends what others hear, and passes on what the node says of
/// it; gives its exit status.
pub(in crate::net) async fn lend(
    node: &Asked,
    words: Vec<String>,
    out: &mut impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<i32> {
    let api = node.api().context("it needs no help")?;
    let (mut told, input) = mpsc::channel(ROOM);
    let mut frames = node.ask_with(words, input.boxed()).await?;
    let Some((first, wanted)) = first(&mut frames).await? else {
        bail!("its agent broke off");
    };
    let Some(wanted) = wanted else {
        // It asks for nobody.
        let frames = futures::stream::iter(first.into_iter().map(Ok)).chain(frames).boxed();
        return pass_through(frames, BROKEN, out).await;
    };
    let mut heard = hear(api, &wanted).await;
    send(&mut told, heard.drain())?;
    send(&mut told, [Lent::Begun])?;
    let lending = async {
        let mut looks = interval(PAUSE);
        loop {
            looks.tick().await;
            heard.poll();
            // It may have ended meanwhile.
            drop(send(&mut told, heard.drain()));
        }
    };
    tokio::select! {
        ended = pass_through(frames, BROKEN, out) => ended,
        () = lending => bail!("nobody lends"),
    }
}

async fn hear(api: &Connection, wanted: &Wanted) -> Subscriptions {
    let mut heard = Subscriptions::of_boot(wanted.boot_id.clone());
    let nodes: Vec<IpAddr> = wanted.nodes.iter().copied().collect();
    listen_elsewhere(&mut heard, &nodes, &wanted.listen, api).await;
    heard
}

/// What the node says first: frames that are to be shown, or whom it wants to hear.
async fn first(frames: &mut Frames) -> anyhow::Result<Option<(Vec<NetFrame>, Option<Wanted>)>> {
    let mut text = Vec::new();
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        let Some(bytes) = frame.clone().output() else { return Ok(Some((vec![frame], None))) };
        text.extend(bytes);
        let begun = text.len().min(BEGINS.len());
        if text[..begun] != BEGINS[..begun] {
            let said = String::from_utf8_lossy(&text).into_owned();
            return Ok(Some((vec![NetFrame::Out(said)], None)));
        }
        if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let wanted = serde_json::from_slice(&text[..end]).context("its agent says no nodes")?;
            return Ok(Some((Vec::new(), Some(wanted))));
        }
    }
    Ok(None)
}

fn send(
    told: &mut mpsc::Sender<Bytes>,
    messages: impl IntoIterator<Item = Lent>,
) -> anyhow::Result<()> {
    for message in messages {
        let line = serde_json::to_string(&message)? + "\n";
        told.try_send(Bytes::from(line)).context("its agent takes no more")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn whom_to_listen_to_is_told_from_an_answer() {
        let listen = TraceFilter { protocol: 6, port: Some(40_000), address: None, seconds: 11 };
        let nodes = BTreeSet::from(["172.30.0.12".parse().unwrap()]);
        let wanted = Wanted { listen, nodes, boot_id: "b".to_owned() };
        let line = serde_json::to_string(&wanted).unwrap() + "\n";
        assert!(line.as_bytes().starts_with(BEGINS), "{line}");
        let said = async |parts: &[&str]| {
            let parts: Vec<_> =
                parts.iter().map(|it| Ok(NetFrame::Out((*it).to_owned()))).collect();
            first(&mut stream::iter(parts).boxed()).await.unwrap()
        };
        let (begin, end) = line.split_at(20);
        assert_eq!(said(&[begin, end]).await, Some((Vec::new(), Some(wanted))));
        let shown = |text: &str| Some((vec![NetFrame::Out(text.to_owned())], None));
        assert_eq!(said(&["{\n", "  \"protocol\""]).await, shown("{\n"));
        assert_eq!(said(&["{", "\n  \"protocol\""]).await, shown("{\n  \"protocol\""));
        assert_eq!(said(&[]).await, None);
    }
}
