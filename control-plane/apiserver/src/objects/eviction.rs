//! Evicting a pod: deleting it, if its disruption budget has room for that.
//!
//! Guarantees: a budget is spent before the pod goes, by one write that names the pod, so that two
//! evictions never share one allowance; a pod whose state let it pass without its budget is deleted
//! only in that state; the pod says why it goes in the write that marks it.
//! Does not: compute what a budget allows; the disruption controller does.

use super::delete::{check_preconditions, mark};
use super::{
    CONFLICT_RETRIES, Caller, DeleteOptions, Objects, Part, Place, check_namespace, check_type,
    timestamp,
};
use crate::watch::{Filter, Object};
use bowline_api::object::{self, text};
use bowline_api::resource::{Resource, find};
use bowline_api::selector::LabelSelector;
use bowline_api::status::Status;
use k8s_openapi::api::policy::v1;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const VERSION: &str = "policy/v1";
/// The kind was the same in it, and old clients still send it.
const OLD_VERSION: &str = "policy/v1beta1";
const KIND: &str = "Eviction";

const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const SEVERAL: &str = "This pod has more than one PodDisruptionBudget, which the eviction \
                       subresource does not support.";
/// When to ask again while the controller has not seen a budget, or a pod changed meanwhile.
const PROCESSING_SECONDS: u64 = 10;
/// How many evicted pods that are still there a budget may list.
const MAX_DISRUPTED_PODS: usize = 2000;
/// How often a budget is read anew, each time with the retries of an update: its controller and
/// everybody who drains a node write to it.
const BUDGET_TRIES: usize = 8;

const ALLOWED: &str = "DisruptionAllowed";
const TARGET: &str = "DisruptionTarget";

/// The body of an eviction.
pub(crate) struct Eviction(Value);

impl Eviction {
    pub(crate) fn read(place: &Place, mut body: Value) -> Result<Self, Status> {
        if body["apiVersion"] == OLD_VERSION {
            body["apiVersion"] = Value::from(VERSION);
        }
        check_type(&body, VERSION, KIND)?;
        v1::Eviction::deserialize(&body).map_err(|error| {
            let cause = format!("{KIND} in version \"v1\" cannot be handled as a {KIND}: {error}");
            Status::bad_request(cause)
        })?;
        if object::name(&body) != place.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        check_namespace(place, &body)?;
        Ok(Self(body))
    }

    pub(crate) fn options(&self) -> Option<&Value> {
        self.0.get("deleteOptions").filter(|options| !options.is_null())
    }
}

impl Objects {
    /// Deletes the pod at `place` if its budget allows it.
    pub(crate) async fn evict(
        &self,
        caller: &Caller,
        place: &Place,
        options: &DeleteOptions,
    ) -> Result<(), Status> {
        for _ in 0..CONFLICT_RETRIES {
            let pod = self.get(place).await?;
            check_preconditions(place, &pod, options)?;
            if !needs_no_budget(&pod.value) {
                return self.evict_within_budget(caller, place, &pod, options).await;
            }
            let mut exact = options.clone();
            if may_become_ready(&pod.value) {
                exact.resource_version = Some(pod.revision.to_string());
            }
            match self.leave(caller, place, &exact).await {
                Err(changed) if changed.code == 409 && options.resource_version.is_none() => {}
                done => return done,
            }
        }
        Err(Status::modified(place.resource, &place.name))
    }

    async fn evict_within_budget(
        &self,
        caller: &Caller,
        place: &Place,
        pod: &Object,
        options: &DeleteOptions,
    ) -> Result<(), Status> {
        let budgets = self.budgets_of(&pod.value)?;
        let budget = match budgets.as_slice() {
            [] => return self.leave(caller, place, options).await,
            [budget] => budget,
            _ => return Err(Status::unexpected(SEVERAL.to_owned())),
        };
        if object::is_true(&pod.value, "Ready") || !spares_unready(&budget.value) {
            self.spend(caller, place, budget).await?;
            return self.leave(caller, place, options).await;
        }
        // It must not become ready before it goes.
        let exact =
            DeleteOptions { resource_version: Some(pod.revision.to_string()), ..options.clone() };
        match self.leave(caller, place, &exact).await {
            Err(changed) if changed.code == 409 && options.resource_version.is_none() => {
                Err(in_process(object::name(&budget.value)))
            }
            done => done,
        }
    }

    /// The budgets that count the pod.
    fn budgets_of(&self, pod: &Value) -> Result<Vec<Arc<Object>>, Status> {
        let Some(labels) = object::labels(pod).filter(|labels| !labels.is_empty()) else {
            return Ok(Vec::new());
        };
        let filter = Filter { namespace: object::namespace(pod).to_owned(), ..Filter::default() };
        let mut budgets = self.caches.of(budgets()?).list(&filter, None, None).objects;
        budgets.retain(|budget| {
            let selector = LabelSelector::from_label_selector(&budget.value["spec"]["selector"]);
            selector.is_ok_and(|one| one.matches(|key| labels.get(key).and_then(Value::as_str)))
        });
        Ok(budgets)
    }

    /// Takes one disruption from the budget, for the pod.
    async fn spend(&self, caller: &Caller, pod: &Place, budget: &Object) -> Result<(), Status> {
        let name = object::name(&budget.value);
        let place =
            Place { resource: budgets()?, namespace: pod.namespace.clone(), name: name.to_owned() };
        let mut server = Caller::new(caller.user.clone());
        "status".clone_into(&mut server.subresource);
        server.dry_run = caller.dry_run;
        let now = timestamp(Duration::ZERO);
        let make = |current: &Object| spent(&current.value, &pod.name, &now);
        for _ in 0..BUDGET_TRIES {
            match self.change(&mut server, &place, Part::Status, &make).await {
                Err(overtaken) if overtaken.code == 409 => {}
                done => return done.map(drop),
            }
        }
        let cause = format!("couldn't update PodDisruptionBudget {name:?} due to conflicts");
        let mut status = Status::timeout(format!("Timeout: {cause}"));
        status.details = json!({ "retryAfterSeconds": PROCESSING_SECONDS });
        Err(status)
    }

    /// Deletes the pod, which is told why.
    async fn leave(
        &self,
        caller: &Caller,
        place: &Place,
        options: &DeleteOptions,
    ) -> Result<(), Status> {
        for _ in 0..CONFLICT_RETRIES {
            let current = self.get(place).await?;
            check_preconditions(place, &current, options)?;
            let mut pod = current.value.clone();
            set_target(&mut pod, &timestamp(Duration::ZERO));
            let marked = mark(place.resource, &pod, options);
            if self.write_marked(caller, place, &current, marked).await?.is_some() {
                return Ok(());
            }
        }
        Err(Status::modified(place.resource, &place.name))
    }
}

fn budgets() -> Result<&'static Resource, Status> {
    find("policy", "v1", "poddisruptionbudgets").ok_or_else(Status::unknown_path)
}

/// Whether a pod serves nobody, so that no budget counts it.
fn needs_no_budget(pod: &Value) -> bool {
    object::deletion_timestamp(pod).is_some()
        || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
}

fn may_become_ready(pod: &Value) -> bool {
    object::deletion_timestamp(pod).is_none() && pod["status"]["phase"] == "Pending"
}

/// Whether pods that are not ready may go without being counted.
fn spares_unready(budget: &Value) -> bool {
    let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        || (count("desiredHealthy") > 0 && count("currentHealthy") >= count("desiredHealthy"))
}

fn refused(cause: &str) -> Status {
    let mut status = Status::too_many_requests(REFUSED);
    status.details = json!({ "causes": [{ "reason": "DisruptionBudget", "message": cause }] });
    status
}

fn in_process(budget: &str) -> Status {
    let cause = format!("The disruption budget {budget} is still being processed by the server.");
    let mut status = refused(&cause);
    status.details["retryAfterSeconds"] = Value::from(PROCESSING_SECONDS);
    status
}

fn forbidden(budget: &str, cause: &str) -> Status {
    let details = json!({ "name": budget, "group": "policy", "kind": "poddisruptionbudget" });
    let message = format!("poddisruptionbudget.policy {budget:?} is forbidden: {cause}");
    Status { details, message, ..Status::forbidden_path("") }
}

/// The budget with one disruption less, which is the pod's.
fn spent(budget: &Value, pod: &str, now: &str) -> Result<Value, Status> {
    let (name, status) = (object::name(budget), &budget["status"]);
    if status["observedGeneration"].as_i64().unwrap_or(0) < object::generation(budget) {
        return Err(in_process(name));
    }
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
    if allowed < 0 {
        return Err(forbidden(name, "pdb disruptions allowed is negative"));
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_DISRUPTED_PODS) {
        let cause =
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(forbidden(name, cause));
    }
    if allowed == 0 {
        return Err(refused(&why_none(name, status)));
    }
    let mut budget = budget.clone();
    let status = &mut budget["status"];
    status["disruptionsAllowed"] = Value::from(allowed - 1);
    if allowed == 1 {
        set_exhausted(status, now);
    }
    status["disruptedPods"][pod] = Value::from(now);
    Ok(budget)
}

/// Why a budget allows no disruption.
fn why_none(name: &str, status: &Value) -> String {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let failure = conditions.find(|one| {
        one["type"] == ALLOWED && one["status"] == "False" && !text(one, "message").is_empty()
    });
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    let (current, desired) = (count("currentHealthy"), count("desiredHealthy"));
    let none = format!("The disruption budget {name} does not allow evicting pods currently");
    match failure {
        // The counts are not to be trusted then.
        Some(failure) if failure["reason"] == "SyncFailed" => {
            format!("{none} because it failed sync: {}", text(failure, "message"))
        }
        _ if current <= desired => format!(
            "The disruption budget {name} needs {desired} healthy pods and has {current} currently"
        ),
        Some(failure) => {
            format!("{none} ({}): {}", text(failure, "reason"), text(failure, "message"))
        }
        None => none,
    }
}

/// Says in the status of a budget that nothing is left.
fn set_exhausted(status: &mut Value, now: &str) {
    let condition = json!({
        "type": ALLOWED,
        "status": "False",
        "observedGeneration": status["observedGeneration"],
        "lastTransitionTime": now,
        "reason": "InsufficientPods",
        "message": "",
    });
    set_condition(status, condition);
}

fn set_target(pod: &mut Value, now: &str) {
    let condition = json!({
        "type": TARGET,
        "status": "True",
        "observedGeneration": object::generation(pod),
        "lastProbeTime": null,
        "lastTransitionTime": now,
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    });
    set_condition(&mut pod["status"], condition);
}

/// Puts a condition in the place of the one of its type; one that says the same as before keeps its
/// time.
fn set_condition(status: &mut Value, mut condition: Value) {
    let conditions = &mut status["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    match list.iter_mut().find(|one| one["type"] == condition["type"]) {
        Some(known) => {
            if known["status"] == condition["status"] {
                condition["lastTransitionTime"] = known["lastTransitionTime"].clone();
            }
            *known = condition;
        }
        None => list.push(condition),
    }
}
