//! One endpoint of a service becomes another: how long it takes until nodes' maps have it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::api::Api;
use bowline_tests::maps::Services;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::fleet::{Fleet, Names};
use super::rules::Services as _;

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

/// Other services that change all the time, until this value is dropped.
pub(crate) struct Churn {
    /// It ends with its set.
    running: JoinSet<Result<()>>,
    done: Arc<AtomicU32>,
    since: Instant,
}

impl Churn {
    pub(crate) fn begin(api: &Api, endpoints: u32, count: u32) -> Self {
        let (api, done) = (api.clone(), Arc::new(AtomicU32::new(0)));
        let counted = done.clone();
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut fleet = Fleet::new(endpoints, count);
            let mut pace = tokio::time::interval(CHURN);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for step in 0.. {
                pace.tick().await;
                let number = changed(step, count) + 1;
                let names = Names::of(number);
                fleet.change(number);
                let slices = kube::Api::namespaced(api.client(), &names.namespace);
                let new = fleet.slice(number)?;
                slices.replace(&names.slice, &PostParams::default(), &new).await?;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self { running, done, since: Instant::now() }
    }

    /// How many changes a second there were.
    pub(crate) fn end(mut self) -> Result<f64> {
        if let Some(ended) = self.running.try_join_next() {
            ended?.context("services should have gone on changing")?;
        }
        Ok(f64::from(self.done.load(Ordering::Relaxed)) / self.since.elapsed().as_secs_f64())
    }
}
