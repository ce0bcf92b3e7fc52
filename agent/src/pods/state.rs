//! What the agent knows of one pod: the observed side of `plan::pods`, and what the status is
//! written from.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::network::{Addresses, Sandbox};

/// All that is known of a pod on this node.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodState {
    pub(crate) ground: Ground,
    /// By container name, init containers included.
    pub(crate) containers: BTreeMap<String, ContainerRecord>,
    /// When this agent, or an earlier one, accepted the pod.
    pub(crate) started_at: Option<Timestamp>,
}

/// What containers stand on: namespaces, network, volumes, files.
#[derive(Clone, Debug, Default)]
pub(crate) enum Ground {
    /// Nothing is there.
    #[default]
    Absent,
    /// Being made or being removed; a message says how that went.
    UnderWay,
    Ready(Sandbox),
    /// Making it failed; it is tried again at the given time.
    Failed {
        failures: u32,
        retry_at: Timestamp,
    },
    /// The pod has ended for good and its network is given back; the address is kept for the
    /// status.
    Released(Option<Addresses>),
}

/// One container of a pod: the current attempt, and how the one before ended.
#[derive(Clone, Debug)]
pub(crate) struct ContainerRecord {
    /// Number of the attempt that `phase` speaks of; the restart count.
    pub(crate) attempt: u32,
    /// Ends in a row without a long run between them; sets the back-off.
    pub(crate) ends: u32,
    pub(crate) phase: Phase,
    pub(crate) last_end: Option<End>,
    pub(crate) image_id: String,
}

impl Default for ContainerRecord {
    fn default() -> Self {
        Self { attempt: 0, ends: 0, phase: Phase::Absent, last_end: None, image_id: String::new() }
    }
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing was started under this attempt.
    Absent,
    /// A start is under way; the reason says what it waits for.
    Starting {
        reason: &'static str,
    },
    /// A start failed before the container's process ran; nothing of it is left.
    Blocked(Blocked),
    Running(Running),
    Ended(End),
}

/// Why a container could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blocked {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) failures: u32,
    pub(crate) retry_at: Timestamp,
}

/// A container whose process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) id: String,
    pub(crate) started_at: Timestamp,
    /// The startup probe has succeeded, or there is none.
    pub(crate) started: bool,
    pub(crate) ready: bool,
    /// Why the container must be replaced: a liveness or startup probe gave up.
    pub(crate) unhealthy: Option<String>,
    /// It has been asked to stop.
    pub(crate) stopping: bool,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) id: String,
    pub(crate) code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Timestamp,
}

/// What readers of logs need to know, by container.
pub(crate) type LogView = BTreeMap<String, LogState>;

/// Which log of a container is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogState {
    pub(crate) attempt: u32,
    /// The attempt's process has run, so there is a log.
    pub(crate) begun: bool,
    pub(crate) running: bool,
}

impl ContainerRecord {
    pub(crate) fn log_state(&self) -> LogState {
        LogState {
            attempt: self.attempt,
            begun: matches!(self.phase, Phase::Running(_) | Phase::Ended(_)),
            running: self.running().is_some(),
        }
    }

    pub(crate) fn running(&self) -> Option<&Running> {
        match &self.phase {
            Phase::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(crate) fn running_mut(&mut self) -> Option<&mut Running> {
        match &mut self.phase {
            Phase::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(crate) fn ended(&self) -> Option<&End> {
        match &self.phase {
            Phase::Ended(end) => Some(end),
            _ => None,
        }
    }
}
