//! What the loops of the agent measure of themselves.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::recent::Round;

/// A loop that keeps a part of the node in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loop {
    /// Service maps. Only rounds that had something to write are measured.
    Services,
    /// Links, addresses, kernel routes.
    Network,
    /// The comparison of maps and programs with what was programmed.
    Verify,
}

impl Loop {
    const ALL: [Self; 3] = [Self::Services, Self::Network, Self::Verify];

    const fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Network => "network",
            Self::Verify => "verify",
        }
    }

    const fn labels(self) -> Labels {
        [("loop", self.name())]
    }
}

type Labels = [(&'static str, &'static str); 1];

/// The meters. A handle: clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    programming: Histogram,
    rounds: Family<Labels, Histogram, fn() -> Histogram>,
    failures: Family<Labels, Counter>,
    repairs: Counter,
    /// Of each loop that went round.
    last: Arc<Mutex<Vec<Round>>>,
}

impl Default for Meters {
    fn default() -> Self {
        let rounds: Family<Labels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(round_histogram);
        let failures = Family::default();
        for each in Loop::ALL {
            drop(rounds.get_or_create(&each.labels()));
            drop(Family::<Labels, Counter>::get_or_create(&failures, &each.labels()));
        }
        // Half a millisecond to half a minute.
        let programming = Histogram::new(exponential_buckets(0.000_5, 2.0, 17));
        let repairs = Counter::default();
        Self { programming, rounds, failures, repairs, last: Arc::default() }
    }
}

/// A tenth of a millisecond to half a minute.
fn round_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 3.0, 12))
}

impl Meters {
    /// A change of services is in the maps, so long after its watch event.
    pub(crate) fn programmed(&self, after: Duration) {
        self.programming.observe(after.as_secs_f64());
    }

    /// A loop has gone round, and may have left something undone.
    pub(crate) fn round(&self, which: Loop, took: Duration, failure: Option<String>) {
        self.rounds.get_or_create(&which.labels()).observe(took.as_secs_f64());
        if failure.is_some() {
            self.failures.get_or_create(&which.labels()).inc();
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let place = last.iter().position(|round| round.name == which.name());
        let before = place.map(|place| last.swap_remove(place));
        let failures = failure.as_ref().map_or(0, |_| before.map_or(0, |it| it.failures) + 1);
        let (name, ended) = (which.name().to_owned(), Timestamp::now());
        last.push(Round { name, ended, took, failure, failures });
        last.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// The last round of each loop that went round.
    pub(super) fn rounds(&self) -> Vec<Round> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// So much of the data plane was damaged by others, and is mended.
    pub(crate) fn repaired(&self, count: usize) {
        self.repairs.inc_by(count as u64);
    }

    /// How many rounds brought all changes into the maps.
    #[cfg(test)]
    pub(crate) fn programmed_rounds(&self) -> u64 {
        let name = "bowline_service_programming_duration_seconds_count";
        let mut registry = Registry::default();
        self.register(&mut registry);
        let body = bowline_metrics::Format::Prometheus.write(&[&registry]).unwrap_or_default();
        let value = body.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_default()
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "bowline_service_programming_duration_seconds",
            "From the watch event of a service or its endpoints to the maps",
            self.programming.clone(),
        );
        registry.register(
            "bowline_reconcile_duration_seconds",
            "How long a loop took to compare and mend once",
            self.rounds.clone(),
        );
        registry.register(
            "bowline_reconcile_failures",
            "Rounds of a loop that left something undone",
            self.failures.clone(),
        );
        registry.register(
            "bowline_datapath_repairs",
            "Map entries and links that somebody damaged and the agent mended",
            self.repairs.clone(),
        );
    }
}
