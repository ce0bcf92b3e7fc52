//! Whether the server does its work: the checks behind `/livez`, `/readyz` and `/healthz`.
//!
//! Guarantees: a check says what was tried just now. That the store takes writes is tried with a
//! commit that changes nothing, all the way to the disk, once in [`TRY_EVERY`] at most, however
//! many ask; nothing is waited for longer than [`TRY_WITHIN`] and the wait of the caches. The names
//! are those of Kubernetes' server, where clients and dashboards look for them. Not here: who gets
//! to see why a check fails.

use crate::store::{Revision, Store, StoreError};
use crate::watch::Caches;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Between two tries to write.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// For one of them.
const TRY_WITHIN: Duration = Duration::from_secs(2);

/// One thing that can be in order or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Requests are answered.
    Ping,
    /// Events are logged. Nothing stands between the log and its file that could hang.
    Log,
    /// The store takes writes, if it is not only busy.
    Store,
    /// The store takes writes now.
    StoreReady,
    /// The caches, from which reads and watches are served, follow the store.
    Feed,
    /// The server has not been told to stop.
    Shutdown,
}

impl Check {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Log => "log",
            Self::Store => "etcd",
            Self::StoreReady => "etcd-readiness",
            Self::Feed => "informer-sync",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Both others at once, from before they were told apart.
    Healthz,
    /// Whether a restart would help.
    Livez,
    /// Whether requests should come here.
    Readyz,
}

impl Endpoint {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Healthz => "healthz",
            Self::Livez => "livez",
            Self::Readyz => "readyz",
        }
    }

    pub(crate) const fn checks(self) -> &'static [Check] {
        match self {
            Self::Healthz | Self::Livez => &[Check::Ping, Check::Log, Check::Store, Check::Feed],
            Self::Readyz => &[
                Check::Ping,
                Check::Log,
                Check::Store,
                Check::StoreReady,
                Check::Feed,
                Check::Shutdown,
            ],
        }
    }
}

/// Why a check fails.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CheckFailed {
    #[error("the store does not take writes: {0}")]
    Store(String),
    #[error("the store has not taken a write within {0:?}")]
    StoreSlow(Duration),
    #[error("the store is busy: {0}")]
    StoreBusy(String),
    #[error("the caches do not follow the store any more")]
    FeedEnded,
    #[error("the caches are at revision {applied}, and the store is at {stored}")]
    FeedBehind { applied: Revision, stored: Revision },
    #[error("the server is shutting down")]
    ShuttingDown,
}

type Checked = Result<(), CheckFailed>;

/// See the module's documentation.
pub(crate) struct Health {
    store: Arc<dyn Store>,
    caches: Arc<Caches>,
    stop: CancellationToken,
    /// The last try to write. Held during a try, so that there is one at a time.
    tried: Mutex<Option<(Instant, Checked)>>,
}

impl Health {
    pub(crate) fn new(store: Arc<dyn Store>, caches: Arc<Caches>, stop: CancellationToken) -> Self {
        Self { store, caches, stop, tried: Mutex::default() }
    }

    pub(crate) async fn run(&self, check: Check) -> Checked {
        match check {
            Check::Ping | Check::Log => Ok(()),
            Check::Store => match self.try_write().await {
                Err(CheckFailed::StoreBusy(_)) => Ok(()),
                tried => tried,
            },
            Check::StoreReady => self.try_write().await,
            Check::Feed => self.feed().await,
            Check::Shutdown if self.stop.is_cancelled() => Err(CheckFailed::ShuttingDown),
            Check::Shutdown => Ok(()),
        }
    }

    async fn try_write(&self) -> Checked {
        let mut last = self.tried.lock().await;
        if let Some((when, tried)) = &*last
            && when.elapsed() < TRY_EVERY
        {
            return tried.clone();
        }
        let tried = match timeout(TRY_WITHIN, self.store.probe()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error @ StoreError::Overloaded { .. })) => {
                Err(CheckFailed::StoreBusy(error.to_string()))
            }
            Ok(Err(error)) => Err(CheckFailed::Store(error.to_string())),
            Err(_) => Err(CheckFailed::StoreSlow(TRY_WITHIN)),
        };
        *last = Some((Instant::now(), tried.clone()));
        tried
    }

    async fn feed(&self) -> Checked {
        if self.caches.has_ended() {
            return Err(CheckFailed::FeedEnded);
        }
        let stored = self.store.revision().await;
        let stored = stored.map_err(|error| CheckFailed::Store(error.to_string()))?;
        let reached = self.caches.wait_for(stored).await;
        reached.map_err(|behind| CheckFailed::FeedBehind { applied: behind.applied, stored })
    }
}
