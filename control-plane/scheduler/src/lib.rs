//! The scheduler: queue, filter, score, bind.
//!
//! Guarantees: one pod is decided on at a time, against a view that already counts every earlier
//! decision; a pod is bound at most once (the API refuses a second binding); a pod that fits
//! nowhere says why in an event and in its condition `PodScheduled`; a task that panics ends the
//! scheduler with an error.
//!
//! It does not preempt, and it does not read inter-pod affinity or topology spread constraints:
//! copies of one thing are spread over the nodes anyway.

mod bind;
mod cluster;
mod facts;
mod filter;
mod queue;
mod report;
mod score;
mod watches;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Client;
use kube::runtime::watcher::Event;
use tokio_util::sync::CancellationToken;

use crate::bind::{Binder, Bound};
use crate::cluster::Cluster;
use crate::facts::{NodeFacts, PodFacts, ServiceFacts};
use crate::queue::{Queue, Relief};
use crate::report::Reporter;
use crate::watches::Seen;

/// Schedules until the token is cancelled.
pub async fn run(client: Client, token: CancellationToken) -> anyhow::Result<()> {
    // Whatever ends this function ends its tasks.
    let (reporter, mut reporting) = Reporter::start(client.clone());
    let binder = Binder::new(client.clone(), reporter.clone());
    let mut events = watches::all(client);
    let mut scheduler = Scheduler::new(binder, reporter);
    loop {
        scheduler.place_waiting();
        let due = scheduler.queue.next_due();
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            Some(seen) = events.next() => scheduler.take(seen),
            ended = scheduler.binder.ended() => scheduler.take_bound(&ended?),
            ended = &mut reporting => return ended.context("the reports ended"),
            () = timer => {}
        }
    }
}

/// What was seen of a kind since its list began.
#[derive(Default)]
struct Listing {
    complete: bool,
    seen: HashSet<String>,
}

struct Scheduler {
    cluster: Cluster,
    queue: Queue,
    binder: Binder,
    reporter: Reporter,
    nodes: Listing,
    pods: Listing,
    services: Listing,
    /// Makes equal nodes take turns.
    turn: usize,
}

impl Scheduler {
    fn new(binder: Binder, reporter: Reporter) -> Self {
        Self {
            cluster: Cluster::default(),
            queue: Queue::default(),
            binder,
            reporter,
            nodes: Listing::default(),
            pods: Listing::default(),
            services: Listing::default(),
            turn: 0,
        }
    }

    /// Places every pod whose turn it is, once the view is complete.
    fn place_waiting(&mut self) {
        if !(self.nodes.complete && self.pods.complete && self.services.complete) {
            return;
        }
        while let Some(pod) = self.queue.pop(Instant::now()) {
            self.place(&pod);
        }
    }

    fn place(&mut self, pod: &Arc<PodFacts>) {
        match filter::filter(pod, &self.cluster) {
            Ok(fitting) => {
                self.turn = self.turn.wrapping_add(1);
                let best = score::best(pod, &self.cluster, &fitting, self.turn);
                let Some(node) = best.map(|node| node.name.clone()) else { return };
                self.cluster.place(pod, &node);
                self.binder.bind(pod.clone(), node);
            }
            Err(refusals) => {
                let message = filter::explain(&refusals);
                tracing::debug!(pod = pod.name, namespace = pod.namespace, message, "refused");
                self.reporter.refused(pod.clone(), message);
                self.queue.refuse(&pod.uid, &refusals, Instant::now());
            }
        }
    }

    fn take_bound(&mut self, bound: &Bound) {
        // A pod that the watch shows on its node left the queue: there is nothing to take back.
        if bound.failed && self.queue.contains(&bound.uid) {
            self.cluster.remove(&bound.uid);
            self.queue.fail(&bound.uid, Instant::now());
        }
    }

    fn take(&mut self, seen: Seen) {
        match seen {
            Seen::Pod(event) => self.take_pod(event),
            Seen::Node(event) => self.take_node(event),
            Seen::Service(event) => self.take_service(event),
        }
    }

    fn take_pod(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.pods = Listing::default(),
            Event::InitApply(pod) | Event::Apply(pod) => self.apply_pod(&pod),
            Event::Delete(pod) => {
                let uid = pod.metadata.uid.unwrap_or_default();
                self.queue.remove(&uid);
                if self.cluster.remove(&uid) {
                    self.queue.relieve(Relief::PodGone, Instant::now());
                }
            }
            Event::InitDone => {
                let seen = std::mem::take(&mut self.pods.seen);
                self.queue.retain(|uid| seen.contains(uid));
                self.cluster.retain(|uid| seen.contains(uid));
                self.pods.complete = true;
                self.queue.relieve(Relief::PodGone, Instant::now());
            }
        }
    }

    fn apply_pod(&mut self, pod: &Pod) {
        let pod = Arc::new(PodFacts::of(pod));
        if !self.pods.complete {
            self.pods.seen.insert(pod.uid.clone());
        }
        let now = Instant::now();
        if self.cluster.observe(&pod) {
            self.queue.relieve(Relief::PodGone, now);
        }
        if pod.waits {
            self.queue.add(&pod, now);
        } else {
            self.queue.remove(&pod.uid);
        }
    }

    fn take_node(&mut self, event: Event<Node>) {
        match event {
            Event::Init => self.nodes = Listing::default(),
            Event::InitApply(node) | Event::Apply(node) => {
                let node = NodeFacts::of(&node);
                if !self.nodes.complete {
                    self.nodes.seen.insert(node.name.clone());
                }
                // Heartbeats change nothing that matters here.
                if self.cluster.nodes.get(&node.name) != Some(&node) {
                    self.cluster.nodes.insert(node.name.clone(), node);
                    self.queue.relieve(Relief::Node, Instant::now());
                }
            }
            Event::Delete(node) => {
                self.cluster.nodes.remove(&node.metadata.name.unwrap_or_default());
            }
            Event::InitDone => {
                let seen = std::mem::take(&mut self.nodes.seen);
                self.cluster.nodes.retain(|name, _| seen.contains(name));
                self.nodes.complete = true;
            }
        }
    }

    fn take_service(&mut self, event: Event<Service>) {
        let key = |service: &Service| {
            let meta = &service.metadata;
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
        };
        let line = |key: &(String, String)| format!("{}/{}", key.0, key.1);
        match event {
            Event::Init => self.services = Listing::default(),
            Event::InitApply(service) | Event::Apply(service) => {
                let key = key(&service);
                if !self.services.complete {
                    self.services.seen.insert(line(&key));
                }
                match ServiceFacts::of(&service) {
                    Some(facts) => self.cluster.services.insert(key, facts),
                    None => self.cluster.services.remove(&key),
                };
            }
            Event::Delete(service) => {
                self.cluster.services.remove(&key(&service));
            }
            Event::InitDone => {
                let seen = std::mem::take(&mut self.services.seen);
                self.cluster.services.retain(|key, _| seen.contains(&line(key)));
                self.services.complete = true;
            }
        }
    }
}
