//! One watcher's side of a watch.

use super::event::Delivery;
use std::collections::VecDeque;
use tokio::sync::mpsc::{self, error::TryRecvError};

/// The cache let go of this watcher.
#[derive(Debug)]
pub(crate) struct LetGo;

/// The deliveries of one watch: first what it starts with, then what happens.
pub(crate) struct Session {
    backlog: VecDeque<Delivery>,
    live: mpsc::Receiver<Delivery>,
}

impl Session {
    pub(super) fn new(backlog: VecDeque<Delivery>, live: mpsc::Receiver<Delivery>) -> Self {
        Self { backlog, live }
    }

    /// The next delivery; `None` when the cache let go of this watcher.
    pub(crate) async fn next(&mut self) -> Option<Delivery> {
        match self.backlog.pop_front() {
            Some(delivery) => Some(delivery),
            None => self.live.recv().await,
        }
    }

    /// The next delivery, if there is one by now.
    pub(crate) fn next_ready(&mut self) -> Result<Option<Delivery>, LetGo> {
        if let Some(delivery) = self.backlog.pop_front() {
            return Ok(Some(delivery));
        }
        match self.live.try_recv() {
            Ok(delivery) => Ok(Some(delivery)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(LetGo),
        }
    }

    /// A delivery of the start, without waiting.
    pub(crate) fn next_initial(&mut self) -> Option<Delivery> {
        self.backlog.pop_front()
    }

    /// Whether everything that was delivered so far has been taken.
    pub(crate) fn is_drained(&self) -> bool {
        self.backlog.is_empty() && self.live.is_empty()
    }
}
