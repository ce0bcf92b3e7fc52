//! The work queue of a controller: keys that need a look, and their retries.
//!
//! Guarantees: a key is worked on by one worker at a time; a key added while it is worked on is
//! worked on once more; a failing key is retried with growing delays. The queue is bounded by the
//! number of objects: a key is in it once. It does not keep an order between keys.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::World;
use crate::cache::{Cache, Key, Watched};
use crate::failure::SyncFailed;

const FIRST_RETRY: Duration = Duration::from_millis(10);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// How the look at one key ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing more until something changes.
    Rest,
    /// Something will be due by the clock alone.
    LookAgainIn(Duration),
}

struct State<K> {
    ready: VecDeque<K>,
    queued: HashSet<K>,
    running: HashSet<K>,
    /// Added while running.
    dirty: HashSet<K>,
    waiting: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    sequence: u64,
}

pub(crate) struct WorkQueue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                queued: HashSet::new(),
                running: HashSet::new(),
                dirty: HashSet::new(),
                waiting: BTreeMap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
                sequence: 0,
            }),
            wake: Notify::new(),
        })
    }

    /// Asks for a look at the key, now.
    pub(crate) fn add(&self, key: K) {
        self.lock().add(key);
        self.wake.notify_one();
    }

    /// The next key, or `None` when the token is cancelled. Whoever takes a key must `finish` it.
    pub(crate) async fn next(&self, token: &CancellationToken) -> Option<K> {
        loop {
            let notified = self.wake.notified();
            let until = {
                let mut state = self.lock();
                if let Some(key) = state.take(Instant::now()) {
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(key);
                }
                state.waiting.keys().next().map(|(due, _)| *due)
            };
            let timer = async {
                match until {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = token.cancelled() => return None,
                () = notified => {}
                () = timer => {}
            }
        }
    }

    /// Ends the work on a key; returns the delay before the retry, if there is one.
    pub(crate) fn finish(&self, key: K, result: Result<Next, ()>) -> Option<Duration> {
        let retry = self.lock().finish(key, result, Instant::now());
        self.wake.notify_one();
        retry
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn add(&mut self, key: K) {
        self.forget_timer(&key);
        if self.running.contains(&key) {
            self.dirty.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: K, due: Instant) {
        if self.queued.contains(&key) || self.due.get(&key).is_some_and(|(known, _)| *known <= due)
        {
            return;
        }
        self.forget_timer(&key);
        self.sequence += 1;
        self.due.insert(key.clone(), (due, self.sequence));
        self.waiting.insert((due, self.sequence), key);
    }

    fn forget_timer(&mut self, key: &K) {
        if let Some(timer) = self.due.remove(key) {
            self.waiting.remove(&timer);
        }
    }

    fn take(&mut self, now: Instant) -> Option<K> {
        while let Some(entry) = self.waiting.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    fn finish(&mut self, key: K, result: Result<Next, ()>, now: Instant) -> Option<Duration> {
        self.running.remove(&key);
        let again = self.dirty.remove(&key);
        let delay = match result {
            Ok(next) => {
                self.failures.remove(&key);
                match next {
                    Next::Rest => None,
                    Next::LookAgainIn(delay) => Some(delay),
                }
            }
            Err(()) => {
                let failures = self.failures.entry(key.clone()).or_insert(0);
                *failures += 1;
                Some(retry_delay(*failures))
            }
        };
        if again && result.is_ok() {
            self.add(key);
            return None;
        }
        // A failing key waits even when it changed meanwhile: this is what limits the rate.
        if let Some(delay) = delay {
            self.add_at(key, now + delay);
        }
        delay.filter(|_| result.is_err())
    }
}

fn retry_delay(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(LONGEST_RETRY)
}

impl WorkQueue<Key> {
    /// Asks for a look at each object of the cache that changes or goes.
    pub(crate) fn follow<K: Watched>(self: &Arc<Self>, cache: &Cache<K>) {
        let queue = self.clone();
        cache.on_change(move |change| {
            if let Some(object) = change.latest() {
                queue.add(Key::of(object.meta()));
            }
        });
    }
}

/// Starts the workers of one controller; they wait until all caches are complete.
pub(crate) fn start_workers<K, F, Fut>(
    world: &World,
    (controller, workers): (&'static str, usize),
    queue: &Arc<WorkQueue<K>>,
    look: F,
) where
    K: Clone + Eq + Hash + std::fmt::Display + Send + Sync + 'static,
    F: Fn(K) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, SyncFailed>> + Send + 'static,
{
    for _ in 0..workers {
        let (queue, token, look) = (queue.clone(), world.token.clone(), look.clone());
        let mut gate = world.gate.subscribe();
        world.tasks.spawn(async move {
            let complete = token.run_until_cancelled(gate.wait_for(|open| *open)).await;
            if !matches!(complete, Some(Ok(_))) {
                return;
            }
            drop(complete);
            while let Some(key) = queue.next(&token).await {
                let result = look(key.clone()).await;
                let failed =
                    result.as_ref().err().map(|error| (error.is_stale(), error.to_string()));
                let retry = queue.finish(key.clone(), result.map_err(|_| ()));
                match failed {
                    Some((true, error)) => tracing::debug!(controller, %key, %error, "stale view"),
                    Some((false, error)) => {
                        tracing::warn!(controller, %key, %error, ?retry, "retried later");
                    }
                    None => {}
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_key_is_queued_once_and_run_by_one_worker() {
        let queue = WorkQueue::new();
        let now = Instant::now();
        queue.add("a");
        queue.add("a");
        let mut state = queue.lock();
        assert_eq!(state.take(now), Some("a"));
        state.add("a");
        assert_eq!(state.take(now), None, "running elsewhere");
        assert_eq!(state.finish("a", Ok(Next::Rest), now), None);
        assert_eq!(state.take(now), Some("a"), "changed while it was worked on");
        state.finish("a", Ok(Next::Rest), now);
        assert_eq!(state.take(now), None);
    }

    #[test]
    fn failures_wait_longer_each_time_and_success_forgets_them() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        let mut state = queue.lock();
        state.add("a");
        let mut delays = Vec::new();
        let mut now = start;
        for _ in 0..14 {
            assert_eq!(state.take(now), Some("a"));
            let delay = state.finish("a", Err(()), now).unwrap();
            assert_eq!(state.take(now), None);
            now += delay;
            delays.push(delay.as_millis());
        }
        assert_eq!(delays[..4], [10, 20, 40, 80]);
        assert_eq!(delays[13], 30_000);
        assert_eq!(state.take(now), Some("a"));
        state.finish("a", Ok(Next::Rest), now);
        assert!(state.failures.is_empty() && state.waiting.is_empty());
    }

    #[test]
    fn the_earliest_timer_of_a_key_wins_and_an_add_cancels_it() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        let mut state = queue.lock();
        state.add_at("a", at(start, 50));
        state.add_at("a", at(start, 90));
        state.add_at("a", at(start, 20));
        assert_eq!(state.take(at(start, 19)), None);
        assert_eq!(state.take(at(start, 20)), Some("a"));
        state.finish("a", Ok(Next::LookAgainIn(Duration::from_millis(5))), at(start, 20));
        state.add("a");
        assert_eq!(state.take(at(start, 20)), Some("a"));
        assert!(state.waiting.is_empty());
    }
}
