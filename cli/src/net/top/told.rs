//! What nodes say of themselves, for `top` through the API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use bowline_agent::NetFrame;
use futures::StreamExt;
use tokio::time::timeout;

use super::Args;
use super::view::{Line, View};
use crate::net::answers::{Asked, Frames, Lines};
use crate::output::Format;

/// How much longer than an interval a node may be silent.
const PATIENCE: Duration = Duration::from_secs(5);

/// The nodes' last words, which come by themselves.
pub(in crate::net) struct Told {
    interval: Duration,
    nodes: BTreeMap<String, Arc<Mutex<Last>>>,
}

struct Last {
    at: Instant,
    said: anyhow::Result<View>,
}

impl Last {
    fn now(said: anyhow::Result<View>) -> Self {
        Self { at: Instant::now(), said }
    }
}

/// Begins to listen, and waits until each node said something, or does not.
pub(in crate::net) async fn listen(nodes: &[Asked], of: &Args, numeric: bool) -> Told {
    let interval = of.interval;
    let mut words = ["net", "top", "-o", "json", "--interval"].map(str::to_owned).to_vec();
    words.push(interval.as_secs_f64().to_string());
    words.extend(numeric.then(|| "--numeric".to_owned()));
    let begun = nodes.iter().map(async |node| {
        let begun = node.ask(words.clone()).await;
        let mut documents = match begun {
            Ok(frames) => Documents { frames, lines: Lines::default() },
            Err(error) => return (node.name.clone(), Arc::new(Mutex::new(Last::now(Err(error))))),
        };
        let first = timeout(interval + PATIENCE, documents.next()).await;
        let first = first.unwrap_or_else(|_| Err(anyhow!("it says nothing")));
        let goes_on = first.is_ok();
        let last = Arc::new(Mutex::new(Last::now(first)));
        if goes_on {
            tokio::spawn(keep(documents, last.clone()));
        }
        (node.name.clone(), last)
    });
    let nodes = futures::future::join_all(begun).await.into_iter().collect();
    Told { interval, nodes }
}

/// Keeps what was said last, until there is no more.
async fn keep(mut documents: Documents, last: Arc<Mutex<Last>>) {
    loop {
        let said = documents.next().await;
        let ended = said.is_err();
        *last.lock().unwrap_or_else(PoisonError::into_inner) = Last::now(said);
        if ended {
            return;
        }
    }
}

impl Told {
    pub(super) fn names(&self) -> Vec<&str> {
        self.nodes.keys().map(String::as_str).collect()
    }

    /// All of them in one; a node that says nothing is its problem. Fails if none says anything.
    pub(super) fn view(&self) -> anyhow::Result<View> {
        let several = self.nodes.len() > 1;
        let mut whole = View::default();
        let mut failures = Vec::new();
        for (name, last) in &self.nodes {
            let last = last.lock().unwrap_or_else(PoisonError::into_inner);
            match &last.said {
                Ok(_) if last.at.elapsed() > self.interval + PATIENCE => {
                    failures.push(format!("{name}: it says nothing any more"));
                }
                Ok(view) => whole.join(several.then_some(name), view.clone()),
                Err(error) => failures.push(format!("{name}: {error:#}")),
            }
        }
        match failures.into_iter().next() {
            Some(failure) if whole.time.is_empty() => Err(anyhow!(failure)),
            failure => Ok(View { problem: failure.or(whole.problem.take()), ..whole }),
        }
    }
}

impl View {
    /// Adds another node's: services and drops are of all together.
    fn join(&mut self, node: Option<&String>, other: Self) {
        let add = |all: &mut Vec<Line>, lines: Vec<Line>| {
            for line in lines {
                let same = |it: &&mut Line| (&it.name, &it.address) == (&line.name, &line.address);
                match all.iter_mut().find(same) {
                    Some(there) => there.add(line),
                    None => all.push(line),
                }
            }
        };
        add(&mut self.services, other.services);
        add(&mut self.drops, other.drops);
        self.pods.extend(other.pods.into_iter().map(|pod| Line { node: node.cloned(), ..pod }));
        self.time = other.time.max(std::mem::take(&mut self.time));
        self.problem = self.problem.take().or(other.problem);
    }
}

/// The lines of `top -o json`.
struct Documents {
    frames: Frames,
    lines: Lines,
}

impl Documents {
    async fn next(&mut self) -> anyhow::Result<View> {
        let mut complaint = String::new();
        loop {
            if let Some(line) = self.lines.next(Format::Json) {
                return serde_json::from_str(&line).context("its agent says something else");
            }
            match self.frames.next().await {
                Some(Ok(NetFrame::Err(text))) => complaint.push_str(&text),
                Some(Ok(NetFrame::Ended(_))) | None => {
                    let why = complaint.trim().trim_start_matches("error: ");
                    return Err(anyhow!("{}", if why.is_empty() { "it broke off" } else { why }));
                }
                Some(frame) => self.lines.add(&frame?.output().unwrap_or_default()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bowline_agent::datapath::Amounts;
    use futures::FutureExt;

    use super::*;

    #[test]
    fn nodes_are_added_up() {
        let line = |name: &str, connections| {
            let so_far = Some(Amounts { connections, ..Amounts::default() });
            Line { name: name.to_owned(), so_far, ..Line::default() }
        };
        let view = |time: &str| View {
            time: time.to_owned(),
            services: vec![line("a", 1)],
            pods: vec![line("p", 1)],
            ..View::default()
        };
        let told = |said| Arc::new(Mutex::new(Last::now(said)));
        let mut all = Told { interval: Duration::from_secs(1), nodes: BTreeMap::new() };
        all.nodes.insert("n1".to_owned(), told(Ok(view("1"))));
        all.nodes.insert("n2".to_owned(), told(Ok(view("2"))));
        all.nodes.insert("n3".to_owned(), told(Err(anyhow!("gone"))));
        let whole = all.view().unwrap();
        assert_eq!(whole.services, [line("a", 2)]);
        let nodes: Vec<_> = whole.pods.iter().map(|pod| pod.node.clone().unwrap()).collect();
        assert_eq!((nodes, whole.time.as_str()), (vec!["n1".to_owned(), "n2".to_owned()], "2"));
        assert_eq!(whole.problem.unwrap(), "n3: gone");
        all.nodes.retain(|name, _| name == "n3");
        assert_eq!(all.view().unwrap_err().to_string(), "n3: gone");
    }

    #[tokio::test]
    async fn a_node_that_ends_says_why() {
        let frames = vec![
            NetFrame::Out("{\"time\":\"1\",\"drops\":[],".to_owned()),
            NetFrame::Out("\"pods\":[],\"services\":[]}\n".to_owned()),
            NetFrame::Err("error: no maps\n".to_owned()),
            NetFrame::Ended(Some(1)),
        ];
        let frames = futures::stream::iter(frames.into_iter().map(Ok)).boxed();
        let mut documents = Documents { frames, lines: Lines::default() };
        assert_eq!(documents.next().await.unwrap().time, "1");
        assert_eq!(documents.next().await.unwrap_err().to_string(), "no maps");
        assert!(documents.next().now_or_never().unwrap().is_err());
    }
}
