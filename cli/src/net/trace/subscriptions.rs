//! What the nodes tell that a packet may cross: on this machine through their pinned maps, on
//! others through the API.
//!
//! Guarantees: a node that tells nothing, or no more, is named with the reason, and costs nothing
//! else: what it told before stays, and so does what it lost; what is open ends when this value is
//! dropped.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_agent::datapath::{Filter, NodePlace};
use bowline_agent::{StreamMessage, Subscription, TraceEvent, TraceFilter, boot_id};
use futures::future::join_all;
use futures::{AsyncBufReadExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::timeout;

use super::lent::Lent;
use crate::verbs::client::{Connection, escape, query};

/// How long a node may take to begin.
const PATIENCE: Duration = Duration::from_secs(5);

/// Messages that wait to be read.
const ROOM: usize = 1024;

/// What is read at once.
const BATCH: usize = 4096;

/// A packet at a hook of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seen {
    pub(super) node: String,
    /// Whether its time is of the sender's clock.
    pub(super) same_clock: bool,
    pub(super) event: TraceEvent,
}

/// A node that is not listened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unreachable {
    pub(super) node: String,
    pub(super) why: String,
}

#[derive(Default)]
pub(super) struct Subscriptions {
    open: Vec<Open>,
    pub(super) seen: Vec<Seen>,
    pub(super) unreachable: Vec<Unreachable>,
    /// Events that found no room, of those that have ended.
    lost: u64,
    /// What of it was said to a borrower.
    said_lost: u64,
    /// Of the machine whose clock counts, if it is not this one.
    boot_id: Option<String>,
}

struct Open {
    node: String,
    same_clock: bool,
    source: Source,
}

pub(super) enum Source {
    Here(Box<Subscription>),
    There {
        messages: mpsc::Receiver<anyhow::Result<StreamMessage>>,
        lost: u64,
    },
    /// Several nodes', by whoever asked for the trace.
    Lent {
        messages: mpsc::Receiver<Lent>,
        lost: u64,
    },
}

impl Subscriptions {
    /// For somebody on the machine that was started with this.
    pub(super) fn of_boot(boot_id: String) -> Self {
        Self { boot_id: Some(boot_id), ..Self::default() }
    }

    /// What there is to say since the last time.
    pub(super) fn drain(&mut self) -> Vec<Lent> {
        let seen = std::mem::take(&mut self.seen).into_iter().map(Lent::Seen);
        let unreachable = std::mem::take(&mut self.unreachable).into_iter().map(Lent::Unreachable);
        let mut all: Vec<Lent> = seen.chain(unreachable).collect();
        let lost = self.lost();
        if lost > self.said_lost {
            self.said_lost = lost;
            all.push(Lent::Lost(lost));
        }
        all
    }

    /// Listens to a node of this machine.
    pub(super) fn here(&mut self, node: &str, place: &NodePlace, filter: &Filter) {
        match Subscription::open(place, filter) {
            Ok(open) => self.add(node, true, Source::Here(Box::new(open))),
            Err(error) => self.note_unreachable(node, &error),
        }
    }

    /// Listens to other nodes, through the API.
    pub(super) async fn there(&mut self, nodes: &[&str], api: &Connection, filter: &TraceFilter) {
        let begun = nodes.iter().map(|node| timeout(PATIENCE, begin(node, api, filter)));
        let ours = self.boot_id.clone().unwrap_or_else(boot_id);
        for (node, begun) in nodes.iter().zip(join_all(begun).await) {
            match begun {
                Ok(Ok((theirs, source))) => self.add(node, theirs == ours, source),
                Ok(Err(error)) => self.note_unreachable(node, &format!("{error:#}")),
                Err(_) => {
                    let why = format!("no answer within {} s", PATIENCE.as_secs());
                    self.note_unreachable(node, &why);
                }
            }
        }
    }

    /// Listens no longer.
    pub(super) fn close(&mut self) {
        self.lost = self.lost();
        self.open.clear();
    }

    pub(super) fn add(&mut self, node: &str, same_clock: bool, source: Source) {
        self.open.push(Open { node: node.to_owned(), same_clock, source });
    }

    pub(super) fn note_unreachable(&mut self, node: &str, why: &impl ToString) {
        self.unreachable.push(Unreachable { node: node.to_owned(), why: why.to_string() });
    }

    pub(super) fn note_all_unreachable(&mut self, nodes: &[IpAddr], why: &str) {
        for node in nodes {
            self.note_unreachable(&node.to_string(), &why);
        }
    }

    /// Notes what happened meanwhile. To be called every second.
    pub(super) fn poll(&mut self) {
        for mut open in std::mem::take(&mut self.open) {
            match open.poll(&mut self.seen, &mut self.unreachable) {
                Ok(()) => self.open.push(open),
                Err(error) => {
                    self.lost += open.lost();
                    self.note_unreachable(&open.node, &format!("{error:#}"));
                }
            }
        }
    }

    /// How many events found no room.
    pub(super) fn lost(&self) -> u64 {
        self.lost + self.open.iter().map(Open::lost).sum::<u64>()
    }

    /// Whether all that should be there is.
    pub(super) fn are_whole(&self) -> bool {
        self.unreachable.is_empty() && self.lost() == 0
    }
}

impl Open {
    /// Adds what happened, also if there is no more after it.
    fn poll(
        &mut self,
        seen: &mut Vec<Seen>,
        unreachable: &mut Vec<Unreachable>,
    ) -> anyhow::Result<()> {
        let (node, same_clock) = (&self.node, self.same_clock);
        if let Source::Lent { messages, lost } = &mut self.source {
            loop {
                match messages.try_recv() {
                    Ok(Lent::Seen(it)) => seen.push(it),
                    Ok(Lent::Unreachable(it)) => unreachable.push(it),
                    Ok(Lent::Lost(count)) => *lost = count,
                    Ok(Lent::Begun) => {}
                    Err(TryRecvError::Empty) => return Ok(()),
                    Err(TryRecvError::Disconnected) => bail!("whoever listens to them is gone"),
                }
            }
        }
        let mut add = |event| seen.push(Seen { node: node.clone(), same_clock, event });
        match &mut self.source {
            Source::Here(open) => {
                let mut events = Vec::new();
                let polled = open.poll(BATCH, &mut events);
                events.into_iter().for_each(add);
                polled?;
            }
            Source::Lent { .. } => {}
            Source::There { messages, lost } => loop {
                match messages.try_recv() {
                    Ok(message) => match message? {
                        StreamMessage::Event(event) => add(event),
                        StreamMessage::Lost(count) => *lost = count,
                        StreamMessage::Failed(why) => bail!("{why}"),
                        StreamMessage::Listening { .. } => {}
                    },
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => bail!("its agent says no more"),
                }
            },
        }
        Ok(())
    }

    fn lost(&self) -> u64 {
        match &self.source {
            Source::Here(open) => open.lost(),
            Source::There { lost, .. } | Source::Lent { lost, .. } => *lost,
        }
    }
}

/// Asks a node's agent, and waits until it listens; since which boot it runs, and what it says.
async fn begin(
    node: &str,
    api: &Connection,
    filter: &TraceFilter,
) -> anyhow::Result<(String, Source)> {
    let mut parameters =
        vec![("protocol", filter.protocol.to_string()), ("seconds", filter.seconds.to_string())];
    parameters.extend(filter.port.map(|port| ("port", port.to_string())));
    parameters.extend(filter.address.map(|address| ("address", address.to_string())));
    let path = format!("/bowline/v1/nodes/{}/events{}", escape(node), query(&parameters));
    let mut lines = Box::pin(api.stream(&path, "*/*").await?).lines();
    let mut next = async move || -> Option<anyhow::Result<StreamMessage>> {
        let line = lines.next().await?;
        let line = line.context("its agent broke off");
        Some(line.and_then(|line| serde_json::from_str(&line).context("its agent says no events")))
    };
    let Some(first) = next().await else { bail!("its agent said nothing") };
    let StreamMessage::Listening { boot_id } = first? else { bail!("its agent did not begin") };
    let (told, messages) = mpsc::channel(ROOM);
    tokio::spawn(async move {
        // Until whoever listens has gone, or there is no more.
        while let Some(message) = next().await {
            if told.send(message).await.is_err() {
                break;
            }
        }
    });
    Ok((boot_id, Source::There { messages, lost: 0 }))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::super::fixtures;
    use super::*;

    type Told = mpsc::Sender<anyhow::Result<StreamMessage>>;

    fn listening() -> (Told, Subscriptions) {
        let (told, messages) = mpsc::channel(ROOM);
        let mut all = Subscriptions::default();
        all.add("node2", true, Source::There { messages, lost: 0 });
        (told, all)
    }

    fn event() -> StreamMessage {
        StreamMessage::Event(fixtures::seen().event)
    }

    /// How a node's messages are lost must not cost what it said before.
    #[tokio::test]
    async fn what_was_told_before_an_end_stays() {
        for (last, why) in [
            (Some(Err(anyhow!("it broke off"))), "it broke off"),
            (Some(Ok(StreamMessage::Failed("too slow".to_owned()))), "too slow"),
            (None, "its agent says no more"),
        ] {
            let (told, mut all) = listening();
            for message in [event(), StreamMessage::Lost(3), event()] {
                told.send(Ok(message)).await.unwrap();
            }
            all.poll();
            assert_eq!((all.seen.len(), all.lost(), all.unreachable.len()), (2, 3, 0));
            told.send(Ok(event())).await.unwrap();
            if let Some(last) = last {
                told.send(last).await.unwrap();
            }
            drop(told);
            all.poll();
            assert_eq!((all.seen.len(), all.lost()), (3, 3), "{why}");
            let named = Unreachable { node: "node2".to_owned(), why: why.to_owned() };
            assert_eq!(all.unreachable, [named]);
            // It is named once.
            all.poll();
            assert_eq!((all.lost(), all.unreachable.len()), (3, 1), "{why}");
        }
    }

    #[tokio::test]
    async fn what_was_lost_counts_after_the_end() {
        let (told, mut all) = listening();
        told.send(Ok(StreamMessage::Lost(3))).await.unwrap();
        all.poll();
        assert!(!all.are_whole());
        all.close();
        assert_eq!(all.lost(), 3);
    }
}
