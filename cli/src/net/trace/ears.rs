//! Who listens to the nodes that a packet may cross: on this machine to their pinned maps, on
//! others through the API.
//!
//! Guarantees: a node that cannot be listened to is named with the reason, and costs nothing else;
//! what is open ends when this value is dropped.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_agent::datapath::{Filter, NodePlace};
use bowline_agent::{Ear, Followed, Line, Sighting, boot};
use futures::future::join_all;
use futures::{AsyncBufReadExt, StreamExt};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::verbs::client::{Connection, escape, query};

/// How long a node may take to begin.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lines that wait to be read.
const ROOM: usize = 1024;

/// What is read at once.
const BATCH: usize = 4096;

/// A packet at a hook of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) node: String,
    /// Whether its time is of the sender's clock.
    pub(super) same_clock: bool,
    pub(super) sighting: Sighting,
}

/// A node that is not listened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Deaf {
    pub(super) node: String,
    pub(super) why: String,
}

#[derive(Default)]
pub(super) struct Ears {
    open: Vec<Open>,
    pub(super) seen: Vec<Seen>,
    pub(super) deaf: Vec<Deaf>,
    /// Events that found no room.
    pub(super) lost: u64,
}

struct Open {
    node: String,
    same_clock: bool,
    source: Source,
}

enum Source {
    Here(Box<Ear>),
    There { lines: mpsc::Receiver<anyhow::Result<Line>>, lost: u64 },
}

impl Ears {
    /// Listens to a node of this machine.
    pub(super) fn here(&mut self, node: &str, place: &NodePlace, filter: &Filter) {
        match Ear::open(place, filter) {
            Ok(ear) => self.add(node, true, Source::Here(Box::new(ear))),
            Err(error) => self.is_deaf(node, &error),
        }
    }

    /// Listens to other nodes, through the API.
    pub(super) async fn there(&mut self, nodes: &[&str], api: &Connection, followed: &Followed) {
        let begun = nodes.iter().map(|node| timeout(PATIENCE, begin(node, api, followed)));
        for (node, begun) in nodes.iter().zip(join_all(begun).await) {
            match begun {
                Ok(Ok((theirs, source))) => self.add(node, theirs == boot(), source),
                Ok(Err(error)) => self.is_deaf(node, &format!("{error:#}")),
                Err(_) => self.is_deaf(node, &format!("no answer within {} s", PATIENCE.as_secs())),
            }
        }
    }

    /// Listens no longer.
    pub(super) fn close(&mut self) {
        self.open.clear();
    }

    fn add(&mut self, node: &str, same_clock: bool, source: Source) {
        self.open.push(Open { node: node.to_owned(), same_clock, source });
    }

    pub(super) fn is_deaf(&mut self, node: &str, why: &impl ToString) {
        self.deaf.push(Deaf { node: node.to_owned(), why: why.to_string() });
    }

    pub(super) fn are_deaf(&mut self, nodes: &[IpAddr], why: &str) {
        for node in nodes {
            self.is_deaf(&node.to_string(), &why);
        }
    }

    /// Notes what was seen meanwhile. To be called every second.
    pub(super) fn listen(&mut self) {
        let mut open = std::mem::take(&mut self.open);
        open.retain_mut(|ear| match ear.hear() {
            Ok(heard) => {
                let (node, same_clock) = (&ear.node, ear.same_clock);
                let of = |sighting| Seen { node: node.clone(), same_clock, sighting };
                self.seen.extend(heard.into_iter().map(of));
                true
            }
            Err(error) => {
                self.is_deaf(&ear.node, &format!("{error:#}"));
                false
            }
        });
        self.lost = open.iter().map(Open::lost).sum();
        self.open = open;
    }
}

impl Open {
    fn hear(&mut self) -> anyhow::Result<Vec<Sighting>> {
        match &mut self.source {
            Source::Here(ear) => Ok(ear.hear(BATCH)?),
            Source::There { lines, lost } => {
                let mut heard = Vec::new();
                while let Ok(line) = lines.try_recv() {
                    match line? {
                        Line::Seen(sighting) => heard.push(sighting),
                        Line::Lost(count) => *lost = count,
                        Line::Listening { .. } => {}
                    }
                }
                Ok(heard)
            }
        }
    }

    fn lost(&self) -> u64 {
        match &self.source {
            Source::Here(ear) => ear.lost(),
            Source::There { lost, .. } => *lost,
        }
    }
}

/// Asks a node's agent, and waits until it listens; since which boot it runs, and what it says.
async fn begin(
    node: &str,
    api: &Connection,
    followed: &Followed,
) -> anyhow::Result<(String, Source)> {
    let mut parameters = vec![
        ("protocol", followed.protocol.to_string()),
        ("seconds", followed.seconds.to_string()),
    ];
    parameters.extend(followed.port.map(|port| ("port", port.to_string())));
    parameters.extend(followed.address.map(|address| ("address", address.to_string())));
    let path = format!("/bowline/v1/nodes/{}/events{}", escape(node), query(&parameters));
    let mut lines = Box::pin(api.stream(&path, "*/*").await?).lines();
    let mut next = async move || -> Option<anyhow::Result<Line>> {
        let line = lines.next().await?;
        let line = line.context("its agent broke off");
        Some(line.and_then(|line| serde_json::from_str(&line).context("its agent says no events")))
    };
    let Some(first) = next().await else { bail!("its agent said nothing") };
    let Line::Listening { boot } = first? else { bail!("its agent did not begin") };
    let (heard, lines) = mpsc::channel(ROOM);
    tokio::spawn(async move {
        // Until whoever listens has gone, or there is no more.
        while let Some(line) = next().await {
            if heard.send(line).await.is_err() {
                break;
            }
        }
    });
    Ok((boot, Source::There { lines, lost: 0 }))
}
