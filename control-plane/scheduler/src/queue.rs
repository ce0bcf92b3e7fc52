//! The pods that wait for a node.
//!
//! Guarantees: the higher priority goes first, then the older; a pod that was refused waits until
//! something happens that can help it, and then no longer than its back-off; at the latest it is
//! tried again after some minutes. Time is an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::facts::PodFacts;
use crate::filter::{Refusal, Refusals};

const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(10);
/// A refused pod is tried again after this long even if nothing seems to have changed.
const LONGEST_REST: Duration = Duration::from_secs(300);

/// What happened in the cluster that can help a refused pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relief {
    /// A node came, or its labels, taints or room changed.
    Node,
    /// A pod ended and gave back what it took.
    PodGone,
}

/// Higher priority first, then older, then first seen.
type Rank = (std::cmp::Reverse<i32>, Option<Timestamp>, u64);

enum Place {
    /// To be tried as soon as possible.
    Active(Rank),
    /// To be tried when the time has come.
    BackOff(Instant),
    /// Being bound.
    InFlight,
    /// Waits for relief; what it was refused for, and until when it rests at most.
    Refused(Vec<Refusal>, Instant),
}

struct Waiting {
    pod: Arc<PodFacts>,
    place: Place,
    attempts: u32,
    may_retry_at: Instant,
    sequence: u64,
}

#[derive(Default)]
pub(crate) struct Queue {
    waiting: HashMap<String, Waiting>,
    active: BTreeMap<Rank, String>,
    timers: BTreeSet<(Instant, String)>,
    sequence: u64,
}

impl Queue {
    /// Takes in a pod that waits, or its newer version; a change of what it asks for helps it.
    pub(crate) fn add(&mut self, pod: &Arc<PodFacts>, now: Instant) {
        let Some(known) = self.waiting.get_mut(&pod.uid) else {
            self.sequence += 1;
            let waiting = Waiting {
                pod: pod.clone(),
                place: Place::InFlight,
                attempts: 0,
                may_retry_at: now,
                sequence: self.sequence,
            };
            self.waiting.insert(pod.uid.clone(), waiting);
            self.activate(&pod.uid);
            return;
        };
        let helped = known.pod.labels != pod.labels
            || known.pod.requests != pod.requests
            || known.pod.tolerations != pod.tolerations
            || known.pod.node_selector != pod.node_selector
            || known.pod.node_affinity != pod.node_affinity;
        known.pod = pod.clone();
        if helped && matches!(known.place, Place::Refused(..)) {
            self.retry(&pod.uid.clone(), now);
        }
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        self.leave_place(uid);
        self.waiting.remove(uid);
    }

    pub(crate) fn contains(&self, uid: &str) -> bool {
        self.waiting.contains_key(uid)
    }

    /// Drops the pods for which `keep` does not hold.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.waiting.keys().filter(|uid| !keep(uid)).cloned().collect();
        gone.iter().for_each(|uid| self.remove(uid));
    }

    /// The next pod to place; it is in flight until `done`, `refuse` or `fail`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Arc<PodFacts>> {
        while let Some((due, _)) = self.timers.first() {
            if *due > now {
                break;
            }
            let Some((_, uid)) = self.timers.pop_first() else { break };
            self.activate(&uid);
        }
        let (_, uid) = self.active.pop_first()?;
        let waiting = self.waiting.get_mut(&uid)?;
        waiting.place = Place::InFlight;
        waiting.attempts += 1;
        Some(waiting.pod.clone())
    }

    /// When `pop` has something at the earliest, if it has nothing now.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// No node took it.
    pub(crate) fn refuse(&mut self, uid: &str, refusals: &Refusals, now: Instant) {
        self.leave_place(uid);
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        waiting.may_retry_at = now + back_off(waiting.attempts);
        let until = now + LONGEST_REST;
        let mut reasons: Vec<Refusal> = refusals.values().flatten().cloned().collect();
        reasons.sort();
        reasons.dedup();
        waiting.place = Place::Refused(reasons, until);
        self.timers.insert((until, uid.to_owned()));
    }

    /// Binding went wrong: it is tried again after its back-off.
    pub(crate) fn fail(&mut self, uid: &str, now: Instant) {
        self.leave_place(uid);
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        waiting.may_retry_at = now + back_off(waiting.attempts);
        self.retry(uid, now);
    }

    /// Moves the refused pods that this can help.
    pub(crate) fn relieve(&mut self, relief: Relief, now: Instant) {
        let helped: Vec<String> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| match &waiting.place {
                Place::Refused(reasons, _) => {
                    relief == Relief::Node || reasons.iter().any(Refusal::is_about_pods)
                }
                _ => false,
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in helped {
            self.retry(&uid, now);
        }
    }

    fn retry(&mut self, uid: &str, now: Instant) {
        self.leave_place(uid);
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        if waiting.may_retry_at <= now {
            self.activate(uid);
            return;
        }
        let due = waiting.may_retry_at;
        waiting.place = Place::BackOff(due);
        self.timers.insert((due, uid.to_owned()));
    }

    fn activate(&mut self, uid: &str) {
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        let rank = (std::cmp::Reverse(waiting.pod.priority), waiting.pod.created, waiting.sequence);
        waiting.place = Place::Active(rank);
        self.active.insert(rank, uid.to_owned());
    }

    fn leave_place(&mut self, uid: &str) {
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        match std::mem::replace(&mut waiting.place, Place::InFlight) {
            Place::Active(rank) => {
                self.active.remove(&rank);
            }
            Place::BackOff(due) | Place::Refused(_, due) => {
                self.timers.remove(&(due, uid.to_owned()));
            }
            Place::InFlight => {}
        }
    }
}

fn back_off(attempts: u32) -> Duration {
    FIRST_BACK_OFF.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(LONGEST_BACK_OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: i32, created: i64) -> Arc<PodFacts> {
        Arc::new(PodFacts {
            uid: uid.into(),
            priority,
            created: Some(Timestamp::from_second(created).unwrap()),
            ..PodFacts::default()
        })
    }

    fn order(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|pod| pod.uid.clone()).collect()
    }

    fn short_of(resource: &str) -> Refusals {
        [("node1".to_owned(), vec![Refusal::Insufficient { resource: resource.into() }])].into()
    }

    #[test]
    fn priority_then_age() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for pod in [pod("young", 0, 9), pod("old", 0, 1), pod("urgent", 7, 9)] {
            queue.add(&pod, now);
            queue.add(&pod, now);
        }
        assert_eq!(order(&mut queue, now), ["urgent", "old", "young"]);
        assert!(queue.pop(now).is_none(), "in flight");
    }

    #[test]
    fn a_refused_pod_waits_for_relief_that_can_help() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let later = now + Duration::from_secs(20);
        queue.add(&pod("big", 0, 1), now);
        queue.add(&pod("picky", 0, 2), now);
        assert_eq!(order(&mut queue, now).len(), 2);
        queue.refuse("big", &short_of("memory"), now);
        queue.refuse("picky", &[("node1".to_owned(), vec![Refusal::Affinity])].into(), now);
        assert!(queue.pop(later).is_none());
        queue.relieve(Relief::PodGone, later);
        assert_eq!(order(&mut queue, later), ["big"]);
        queue.refuse("big", &short_of("memory"), later);
        queue.relieve(Relief::Node, later + Duration::from_secs(20));
        assert_eq!(order(&mut queue, later + Duration::from_secs(20)), ["big", "picky"]);
    }

    #[test]
    fn relief_does_not_cut_the_back_off_short() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(&pod("a", 0, 1), now);
        queue.pop(now).unwrap();
        queue.refuse("a", &short_of("cpu"), now);
        queue.relieve(Relief::Node, now);
        assert!(queue.pop(now).is_none());
        assert_eq!(queue.next_due(), Some(now + FIRST_BACK_OFF));
        assert!(queue.pop(now + FIRST_BACK_OFF).is_some());
        queue.fail("a", now + FIRST_BACK_OFF);
        assert_eq!(queue.next_due(), Some(now + 3 * FIRST_BACK_OFF), "twice as long");
        queue.remove("a");
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn at_last_everything_is_tried_again() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(&pod("a", 0, 1), now);
        queue.pop(now).unwrap();
        queue.refuse("a", &short_of("cpu"), now);
        assert!(queue.pop(now + LONGEST_REST).is_some());
    }
}
