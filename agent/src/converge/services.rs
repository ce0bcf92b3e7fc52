//! The loop that keeps the service maps in line with the API.
//!
//! Guarantees: the first round programs all services and removes what an earlier agent left; every
//! later one costs by what changed. What could not be written is tried again, alone, with the next
//! change and at every tick, and keeps nothing else from being written. Nothing is written before
//! the API has listed everything once.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use tokio_util::sync::CancellationToken;

use super::resync;
use crate::{
    data_plane::{DataPlane, ProgramServicesFailed, ServicesProgrammed},
    datapath::{Place, ServiceChanges, ServiceTable, memory},
    metrics::{Loop, Meters},
    plan::services::{
        claims::{Claims, Wanted},
        wanted_of,
    },
    watch::{ServiceKey, Watched},
};

/// Keeps the service maps in line until `shutdown`.
pub(crate) async fn services(
    watched: Arc<Watched>,
    data_plane: DataPlane,
    node_name: String,
    meters: Meters,
    shutdown: CancellationToken,
) {
    // Until the API has said which services there are, those in the maps stay as they are.
    let synced = async {
        watched.services.synced().await;
        watched.nodes.synced().await;
    };
    if shutdown.run_until_cancelled(synced).await.is_none() {
        return;
    }
    let mut changes = watched.services.changes();
    let mut nodes = watched.nodes.changes();
    let mut tick = resync();
    let mut programmer = Programmer::new(watched, data_plane, node_name, meters);
    loop {
        changes.mark_unchanged();
        nodes.mark_unchanged();
        programmer.round().await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = changes.changed() => {}
            _ = nodes.changed() => {}
            _ = tick.tick() => {}
        }
    }
}

/// The maps that services are written to.
trait ServiceMaps {
    /// Programs exactly these services.
    async fn set(&self, wanted: ServiceTable) -> ServicesProgrammed;
    /// Programs services that changed.
    async fn change(&self, changes: ServiceChanges) -> ServicesProgrammed;
}

impl ServiceMaps for DataPlane {
    async fn set(&self, wanted: ServiceTable) -> ServicesProgrammed {
        self.set_services(wanted).await
    }

    async fn change(&self, changes: ServiceChanges) -> ServicesProgrammed {
        self.change_services(changes).await
    }
}

/// What is known about the services that were handed to the data plane.
struct Programmer<M> {
    watched: Arc<Watched>,
    maps: M,
    node_name: String,
    place: Option<Place>,
    claims: Claims,
    /// Changes that the data plane did not take.
    unfinished: ServiceChanges,
    /// The watch event of the oldest change that is not in the maps.
    waiting_since: Option<Instant>,
    meters: Meters,
    /// Whether all services were handed over once.
    begun: bool,
    failing: bool,
}

impl<M: ServiceMaps> Programmer<M> {
    fn new(watched: Arc<Watched>, maps: M, node_name: String, meters: Meters) -> Self {
        Self {
            watched,
            maps,
            node_name,
            place: None,
            claims: Claims::default(),
            unfinished: ServiceChanges::default(),
            waiting_since: None,
            meters,
            begun: false,
            failing: false,
        }
    }

    async fn round(&mut self) {
        let node = self.watched.nodes.get("", &self.node_name);
        let place = Place::new(&self.node_name, node.as_deref());
        let start = Instant::now();
        let (mut names, since) = self.watched.services.take_changed();
        self.waiting_since = self.waiting_since.or(since);
        // Which endpoints are near depends on where the node is.
        if !self.begun || self.place.as_ref() != Some(&place) {
            names.append(&mut self.watched.services.names());
        }
        self.place = Some(place.clone());
        if !self.begun {
            self.claims = Claims::default();
            let (all, _) = self.claims.update(self.wanted(names, &place));
            let done = self.maps.set(all.put.clone()).await;
            self.begun = !matches!(done, Err(ProgramServicesFailed::TaskDied));
            self.note(all, &done, start);
            // With this went the last that was planned for all of them.
            let _ = tokio::task::spawn_blocking(memory::give_back).await;
            return;
        }
        let mut changes = std::mem::take(&mut self.unfinished);
        while !names.is_empty() {
            let (more, again) = self.claims.update(self.wanted(names, &place));
            changes.add(more);
            names = again;
        }
        if changes.is_empty() {
            // Nothing that the maps hold has changed.
            self.waiting_since = None;
            return;
        }
        let done = self.maps.change(changes.clone()).await;
        self.note(changes, &done, start);
    }

    /// What these services want of the maps now.
    fn wanted(&self, names: BTreeSet<ServiceKey>, place: &Place) -> Vec<(ServiceKey, Wanted)> {
        let known = self.watched.services.get_all(names);
        let wanted = known.into_iter().map(|(name, now)| {
            let slices = now.slices.iter().map(AsRef::as_ref);
            let wanted = now.service.map(|service| wanted_of(&service, slices, place));
            (name, wanted.unwrap_or_default())
        });
        wanted.collect()
    }

    /// Measures a round, keeps what is to be tried again, and says when trouble begins; a failure
    /// that repeats is logged once.
    fn note(&mut self, changes: ServiceChanges, done: &ServicesProgrammed, start: Instant) {
        let failure = done.as_ref().err().map(ToString::to_string);
        self.meters.round(Loop::Services, start.elapsed(), failure);
        if done.is_ok()
            && let Some(since) = self.waiting_since.take()
        {
            self.meters.programmed(since.elapsed());
        }
        self.unfinished = match done {
            Ok(_) => ServiceChanges::default(),
            Err(ProgramServicesFailed::Apply(failed)) => changes.about(&failed.keys()),
            Err(ProgramServicesFailed::TaskDied) => changes,
        };
        match done {
            Ok(summary) => tracing::debug!(?summary, "services"),
            Err(error) if !self.failing => {
                tracing::warn!(%error, "services are not programmed, retrying");
            }
            Err(_) => {}
        }
        self.failing = done.is_err();
    }
}

#[cfg(test)]
mod tests;
