//! The tasks of the controllers.
//!
//! Guarantees: a task that panics ends all of them, and whoever waits for them learns of it: a
//! worker that is lost would leave its key locked and its controller deaf, and nobody would know.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A task panicked; the panic itself has been printed.
#[derive(Debug, thiserror::Error)]
#[error("a task panicked")]
pub(crate) struct TaskPanicked;

#[derive(Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
    panicked: Arc<AtomicBool>,
}

impl Tasks {
    /// The tasks are to end when the token is cancelled.
    pub(crate) fn new(token: CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), token, panicked: Arc::default() }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let (token, panicked) = (self.token.clone(), self.panicked.clone());
        self.tracker.spawn(async move {
            // What it leaves half done is used by nobody: all end.
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                panicked.store(true, Ordering::Release);
                token.cancel();
            }
        });
    }

    /// Waits for the end of all tasks.
    pub(crate) async fn wait(&self) -> Result<(), TaskPanicked> {
        self.tracker.close();
        self.tracker.wait().await;
        if self.panicked.load(Ordering::Acquire) { Err(TaskPanicked) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_all_tasks_and_is_told() {
        let token = CancellationToken::new();
        let tasks = Tasks::new(token.clone());
        tasks.spawn(token.clone().cancelled_owned());
        tasks.spawn(async { panic!("as a test asks for") });
        assert!(tasks.wait().await.is_err());
        assert!(token.is_cancelled());
    }

    #[tokio::test]
    async fn an_end_that_is_asked_for_is_no_failure() {
        let token = CancellationToken::new();
        let tasks = Tasks::new(token.clone());
        tasks.spawn(token.clone().cancelled_owned());
        token.cancel();
        assert!(tasks.wait().await.is_ok());
    }
}
