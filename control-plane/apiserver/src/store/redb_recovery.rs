//! What the writer does about a disk that failed.
//!
//! Guarantees: after an error nothing is written before the file was opened anew; that is tried at
//! growing intervals, up to [`LONGEST_PAUSE`], for as long as somebody wants to write, and until
//! one write has lasted. Each state is said once in the log: the failure and the recovery.

use super::StoreError;
use std::time::{Duration, Instant};

/// Between an error and the first try to go on.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between two tries at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

struct Failure {
    reason: String,
    since: Instant,
    pause: Duration,
    next_try: Instant,
}

/// Whether the disk can be written to.
#[derive(Default)]
pub(super) struct Recovery(Option<Failure>);

/// What to do before a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    /// Open the file anew.
    Reopen,
    /// Refuse: it is too early for another try.
    Refuse(String),
}

impl Recovery {
    pub(super) fn before_write(&self, now: Instant) -> Before {
        match &self.0 {
            None => Before::Nothing,
            Some(failure) if now < failure.next_try => Before::Refuse(failure.reason.clone()),
            Some(_) => Before::Reopen,
        }
    }

    /// Whether no write has lasted since an error.
    pub(super) fn is_failing(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn failed(&mut self, error: &StoreError, now: Instant) {
        let reason = match error {
            StoreError::Engine(reason) => reason.clone(),
            other => other.to_string(),
        };
        match &mut self.0 {
            None => {
                tracing::error!(reason, "the store cannot write; it tries again by itself");
                let (pause, next_try) = (FIRST_PAUSE, now + FIRST_PAUSE);
                self.0 = Some(Failure { reason, since: now, pause, next_try });
            }
            Some(failure) => {
                failure.reason = reason;
                failure.pause = (failure.pause * 2).min(LONGEST_PAUSE);
                failure.next_try = now + failure.pause;
            }
        }
    }

    /// A write has lasted.
    pub(super) fn succeeded(&mut self, now: Instant) {
        if let Some(failure) = self.0.take() {
            let after = now - failure.since;
            tracing::info!(?after, reason = failure.reason, "the store takes writes again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_rarer_until_one_succeeds() {
        let (mut recovery, mut now) = (Recovery::default(), Instant::now());
        assert_eq!(recovery.before_write(now), Before::Nothing);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            recovery.failed(&StoreError::Engine("full".to_owned()), now);
            assert_eq!(recovery.before_write(now), Before::Refuse("full".to_owned()));
            let pause = recovery.0.as_ref().unwrap().pause;
            pauses.push(pause.as_millis());
            now += pause;
            assert_eq!(recovery.before_write(now), Before::Reopen);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        recovery.succeeded(now);
        assert_eq!(recovery.before_write(now), Before::Nothing);
    }
}
