//! One watcher's side of a watch.

use super::event::Delivery;
use std::collections::VecDeque;
use tokio::sync::mpsc::{self, error::TryRecvError};

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

    /// Takes what there is by now; whether the cache still tells this watcher what happens.
    pub(crate) fn drain(&mut self, mut take: impl FnMut(Delivery)) -> bool {
        self.backlog.drain(..).for_each(&mut take);
        loop {
            match self.live.try_recv() {
                Ok(delivery) => take(delivery),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
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
