//! One endpoint of a service becomes another: how long it takes until nodes' maps have it.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::api::Api;
use bowline_tests::maps::Services;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::fleet::{Fleet, Names};
use crate::rules::Services as _;

/// How long a change may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_micros(50);
const BETWEEN_CHANGES: Duration = Duration::from_millis(5);
/// Other services change so often meanwhile.
const CHURN: Duration = Duration::from_millis(10);

/// Milliseconds until the last map had it.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    pub(crate) from_write: f64,
    /// The map may be ahead of our own event: then it is below zero.
    pub(crate) from_event: f64,
}

/// Services of even numbers are changed and timed, those of odd numbers churn meanwhile.
pub(crate) fn changed(step: u32, count: u32) -> u32 {
    step.wrapping_mul(7919) % (count / 2) * 2
}

/// Changes a service, and waits for all these maps.
pub(crate) async fn change(
    api: &Api,
    fleet: &mut Fleet,
    number: u32,
    maps: &[Services],
) -> Result<Change> {
    let names = Names::of(number);
    let slices: kube::Api<EndpointSlice> = kube::Api::namespaced(api.client(), &names.namespace);
    let (follow, heard) = follow(&slices, &names).await?;
    let (address, port) = (fleet.address(number), Fleet::PORT);
    let first_slots = || maps.iter().map(move |map| map.first_slot(address, port));
    let before: Vec<Option<u32>> = first_slots().collect();
    fleet.change(number);
    let new = fleet.slice(number)?;
    let begun = Instant::now();
    let write =
        tokio::spawn(
            async move { slices.replace(&names.slice, &PostParams::default(), &new).await },
        );
    let seen = tokio::task::block_in_place(|| {
        loop {
            if first_slots().zip(&before).all(|(now, before)| now != *before) {
                return Ok(Instant::now());
            }
            ensure!(begun.elapsed() < PATIENCE, "a change of service {number} is in no map");
            std::thread::sleep(BETWEEN_LOOKS);
        }
    })?;
    write.await??;
    follow.await??;
    let event = heard.recv()?;
    let from_write = (seen - begun).as_secs_f64() * 1e3;
    let from_event = from_write - (event - begun).as_secs_f64() * 1e3;
    tokio::time::sleep(BETWEEN_CHANGES).await;
    Ok(Change { from_write, from_event })
}

/// Tells when the watch has the next change of a slice.
async fn follow(
    slices: &kube::Api<EndpointSlice>,
    names: &Names,
) -> Result<(JoinHandle<Result<()>>, mpsc::Receiver<Instant>)> {
    let labels = format!("kubernetes.io/service-name={}", names.service);
    // Of now: the slice's own may be older than what the server remembers.
    let current = slices.list(&ListParams::default().labels(&labels).limit(1)).await?;
    let revision = current.metadata.resource_version.unwrap_or_default();
    let params = WatchParams::default().labels(&labels);
    let mut watch = slices.watch(&params, &revision).await?.boxed();
    let (told, heard) = mpsc::channel();
    let follow = tokio::spawn(async move {
        while let Some(event) = watch.try_next().await? {
            if matches!(&event, WatchEvent::Modified(_)) {
                // Whoever waits for it gives up by itself.
                let _ = told.send(Instant::now());
                return Ok(());
            }
        }
        bail!("the watch ended")
    });
    Ok((follow, heard))
}

/// What churn has done to its services so far. The next one goes on from there: a server writes
/// nothing when it is told what it has.
pub(crate) struct Churned {
    fleet: Fleet,
    /// How many changes there were.
    steps: u32,
    /// Of the last of them.
    revision: u64,
}

impl Churned {
    /// Nothing yet, of so many services at most.
    pub(crate) fn new(endpoints: u32, most: u32) -> Self {
        Self { fleet: Fleet::new(endpoints, most), steps: 0, revision: 0 }
    }

    /// Changes the next one of so many services. An error if nothing was written.
    async fn change(&mut self, api: &Api, count: u32) -> Result<()> {
        let number = changed(self.steps, count) + 1;
        self.steps += 1;
        let names = Names::of(number);
        self.fleet.change(number);
        let slices = kube::Api::namespaced(api.client(), &names.namespace);
        let new = self.fleet.slice(number)?;
        let written = slices.replace(&names.slice, &PostParams::default(), &new).await?;
        // What is not written keeps its revision, which is not above that of a later change.
        let revision = written.metadata.resource_version.context("no revision")?.parse()?;
        ensure!(revision > self.revision, "a change of service {number} wrote nothing");
        self.revision = revision;
        Ok(())
    }
}

/// Other services that change all the time, until this value is dropped.
pub(crate) struct Churn {
    /// It ends with its set.
    running: JoinSet<Result<Churned>>,
    /// Dropping it asks for the end.
    end: oneshot::Sender<()>,
    since: Instant,
    /// How many changes there had been before.
    before: u32,
}

impl Churn {
    pub(crate) fn begin(api: &Api, mut churned: Churned, count: u32) -> Self {
        let (api, before) = (api.clone(), churned.steps);
        let (end, mut ended) = oneshot::channel();
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut pace = tokio::time::interval(CHURN);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while let Err(oneshot::error::TryRecvError::Empty) = ended.try_recv() {
                pace.tick().await;
                churned.change(&api, count).await?;
            }
            Ok(churned)
        });
        Self { running, end, since: Instant::now(), before }
    }

    /// How many changes a second there were, and where the next churn goes on.
    pub(crate) async fn end(mut self) -> Result<(f64, Churned)> {
        drop(self.end);
        let ended = self.running.join_next().await.context("nothing churned")?;
        let churned = ended?.context("services should have gone on changing")?;
        let done = f64::from(churned.steps - self.before);
        Ok((done / self.since.elapsed().as_secs_f64(), churned))
    }
}
