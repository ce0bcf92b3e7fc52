//! The status of a disruption budget. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::deployment::amount;
use crate::pods;

/// How long a pod whose eviction was granted may take until it is marked for deletion.
pub(super) const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
const ALLOWED: &str = "DisruptionAllowed";

/// How many pods a budget is about, and how many of them must be healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) expected: i32,
    pub(super) desired: i32,
}

/// What a budget needs that does not depend on how many pods their owners want.
pub(super) fn of_pods(budget: &PodDisruptionBudget, pods: usize) -> Option<Counted> {
    let spec = budget.spec.as_ref()?;
    match (&spec.max_unavailable, &spec.min_available) {
        (None, Some(IntOrString::Int(least))) => {
            Some(Counted { expected: i32::try_from(pods).unwrap_or(i32::MAX), desired: *least })
        }
        (None, None) => Some(Counted { expected: 0, desired: 0 }),
        _ => None,
    }
}

/// What a budget needs of as many pods as their owners want. Percentages are rounded up.
pub(super) fn of_scale(budget: &PodDisruptionBudget, expected: i32) -> Counted {
    let spec = budget.spec.clone().unwrap_or_default();
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => expected.saturating_sub(amount(most, expected, true)).max(0),
        (None, Some(least)) => amount(least, expected, true),
        (None, None) => 0,
    };
    Counted { expected, desired }
}

/// Pods whose eviction was granted.
pub(super) struct Disrupted<'a> {
    /// Those that may still go, and since when.
    pub(super) pods: BTreeMap<String, Time>,
    /// Those that did not go in time.
    pub(super) left: Vec<&'a Pod>,
    /// When to look at the first of those that may still go.
    pub(super) recheck: Option<Duration>,
}

pub(super) fn disrupted<'a>(
    budget: &PodDisruptionBudget,
    pods: &'a [Arc<Pod>],
    now: Timestamp,
) -> Disrupted<'a> {
    let known = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
    let mut found = Disrupted { pods: BTreeMap::new(), left: Vec::new(), recheck: None };
    for pod in pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(since) = known.and_then(|known| known.get(name)) else { continue };
        let until = since.0.checked_add(DELETION_TIMEOUT).unwrap_or(Timestamp::MAX);
        if until < now {
            found.left.push(pod);
            continue;
        }
        let wait = Duration::try_from(until.duration_since(now)).unwrap_or_default();
        found.recheck = Some(found.recheck.map_or(wait, |known| known.min(wait)));
        found.pods.insert(name.to_owned(), since.clone());
    }
    found
}

/// The status by what was counted.
pub(super) fn next(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    (counted, disrupted): (Counted, BTreeMap<String, Time>),
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let is_healthy = |pod: &&Arc<Pod>| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        !pods::is_terminating(pod) && !disrupted.contains_key(name) && pods::is_ready(pod)
    };
    let healthy = i32::try_from(pods.iter().filter(is_healthy).count()).unwrap_or(i32::MAX);
    // Where no pods are expected, the first that come must not go before they are counted.
    let allowed = match counted.expected {
        ..=0 => 0,
        _ => healthy.saturating_sub(counted.desired).max(0),
    };
    let mut conditions = conditions(budget);
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let generation = budget.metadata.generation;
    set(&mut conditions, (status, reason, ""), generation, now);
    PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(counted.desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(counted.expected),
        observed_generation: generation,
    }
}

/// The status when the pods cannot be counted: the counts stay, and nothing is allowed.
pub(super) fn failed(
    budget: &PodDisruptionBudget,
    why: &str,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    let mut conditions = conditions(budget);
    set(&mut conditions, ("False", "SyncFailed", why), old.observed_generation, now);
    PodDisruptionBudgetStatus { conditions: Some(conditions), disruptions_allowed: Some(0), ..old }
}

fn conditions(budget: &PodDisruptionBudget) -> Vec<Condition> {
    budget.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default()
}

fn set(
    conditions: &mut Vec<Condition>,
    (status, reason, message): (&str, &str, &str),
    observed_generation: Option<i64>,
    now: Timestamp,
) {
    let known = conditions.iter().position(|condition| condition.type_ == ALLOWED);
    let since = known.map(|index| &conditions[index]).filter(|known| known.status == status);
    let condition = Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation,
        last_transition_time: since.map_or(Time(now), |known| known.last_transition_time.clone()),
    };
    match known {
        Some(index) => conditions[index] = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::{pod, terminating, time, unready};
    use serde_json::{Value, json};

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        let budget = json!({
            "metadata": { "name": "b", "namespace": "default", "generation": 3 },
            "spec": spec, "status": status,
        });
        serde_json::from_value(budget).unwrap()
    }

    #[test]
    fn what_a_budget_needs() {
        let counted = |expected, desired| Counted { expected, desired };
        let table = [
            (json!({ "minAvailable": 2 }), 3, 7, counted(3, 2)),
            (json!({ "minAvailable": "50%" }), 1, 7, counted(7, 4)),
            (json!({ "minAvailable": "0%" }), 1, 7, counted(7, 0)),
            (json!({ "minAvailable": "100%" }), 1, 7, counted(7, 7)),
            (json!({ "maxUnavailable": 1 }), 1, 7, counted(7, 6)),
            (json!({ "maxUnavailable": 9 }), 1, 7, counted(7, 0)),
            (json!({ "maxUnavailable": "30%" }), 1, 7, counted(7, 4)),
            (json!({ "maxUnavailable": "1%" }), 1, 10, counted(10, 9)),
            (json!({ "maxUnavailable": 0 }), 1, 7, counted(7, 7)),
            (json!({}), 3, 7, counted(0, 0)),
        ];
        for (spec, pods, scale, expected) in table {
            let budget = budget(spec.clone(), json!({}));
            let got = of_pods(&budget, pods).unwrap_or_else(|| of_scale(&budget, scale));
            assert_eq!(got, expected, "{spec}");
        }
    }

    #[test]
    fn only_what_is_healthy_and_stays_counts() {
        let pods = |pods: Vec<Pod>| pods.into_iter().map(Arc::new).collect::<Vec<_>>();
        let three = || vec![pod("a"), pod("b"), pod("c")];
        let counted = |expected, desired| Counted { expected, desired };
        let one_leaves = vec![pod("a"), terminating(pod("b")), pod("c")];
        let one_waits = vec![pod("a"), unready(pod("b")), pod("c")];
        let granted = json!({ "disruptedPods": { "a": time(0) } });
        let table = [
            ("all healthy", pods(three()), json!({}), counted(3, 2), 0, (3, 1)),
            ("one leaves", pods(one_leaves), json!({}), counted(3, 1), 0, (2, 1)),
            ("one is not ready", pods(one_waits), json!({}), counted(3, 2), 0, (2, 0)),
            ("fewer than needed", pods(three()), json!({}), counted(5, 5), 0, (3, 0)),
            ("none expected", pods(three()), json!({}), counted(0, 0), 0, (3, 0)),
            ("one was granted", pods(three()), granted.clone(), counted(3, 2), 60, (2, 0)),
            ("and did not go", pods(three()), granted, counted(3, 2), 121, (3, 1)),
        ];
        for (name, pods, status, counted, now, expected) in table {
            let budget = budget(json!({}), status);
            let disrupted = disrupted(&budget, &pods, time(now)).pods;
            let got = next(&budget, &pods, (counted, disrupted), time(now));
            let shown = (got.current_healthy, got.disruptions_allowed);
            assert_eq!(shown, (Some(expected.0), Some(expected.1)), "{name}");
            assert_eq!(got.observed_generation, Some(3));
            let condition = &got.conditions.as_ref().unwrap()[0];
            let allowed = if expected.1 > 0 { "SufficientPods" } else { "InsufficientPods" };
            assert_eq!(condition.reason, allowed, "{name}");
            let settled = PodDisruptionBudget { status: Some(got.clone()), ..budget.clone() };
            let again = got.disrupted_pods.clone().unwrap_or_default();
            let later = next(&settled, &pods, (counted, again), time(now + 1));
            assert_eq!(later, got, "{name}: nothing new to write");
        }
    }

    #[test]
    fn a_granted_pod_that_stays_is_told_of_and_forgotten() {
        let pods = [pod("a"), pod("b"), terminating(pod("c"))].map(Arc::new);
        let status = json!({ "disruptedPods": {
            "a": time(0), "b": time(100), "c": time(0), "gone": time(0),
        }});
        let budget = budget(json!({}), status);
        let found = disrupted(&budget, &pods, time(130));
        assert_eq!(found.pods.keys().collect::<Vec<_>>(), ["b"]);
        let left: Vec<_> = found.left.iter().map(|pod| pod.metadata.name.as_deref()).collect();
        assert_eq!(left, [Some("a")]);
        assert_eq!(found.recheck, Some(Duration::from_secs(90)));
    }

    #[test]
    fn what_cannot_be_counted_allows_nothing_and_says_why() {
        let known =
            json!({ "disruptionsAllowed": 2, "currentHealthy": 4, "observedGeneration": 2 });
        let budget = budget(json!({}), known);
        let got = failed(&budget, "no owner", time(5));
        assert_eq!((got.disruptions_allowed, got.current_healthy), (Some(0), Some(4)));
        let condition = &got.conditions.as_ref().unwrap()[0];
        let said = (&*condition.status, &*condition.reason, &*condition.message);
        assert_eq!(said, ("False", "SyncFailed", "no owner"));
        assert_eq!(condition.observed_generation, Some(2));
        let settled = PodDisruptionBudget { status: Some(got.clone()), ..budget };
        assert_eq!(failed(&settled, "no owner", time(9)), got, "nothing new to write");
    }
}
