//! Disruption budgets.

use serde_json::Value;

use super::metadata::{label_selector, metadata};
use super::names::path_segment;
use super::workload::{amount, at_most_all, counts};
use super::{Errors, FieldError, Path};

pub(crate) fn pod_disruption_budget(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, path_segment);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        errors.invalid(&path, spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for field in ["minAvailable", "maxUnavailable"] {
        amount(&mut errors, &spec[field], &path.child(field));
        at_most_all(&mut errors, &spec[field], &path.child(field));
    }
    label_selector(&mut errors, &spec["selector"], &path.child("selector"));
    let policy = &spec["unhealthyPodEvictionPolicy"];
    let supported = &["AlwaysAllow", "IfHealthyBudget"];
    errors.one_of(&path.child("unhealthyPodEvictionPolicy"), policy, supported);
    if old.is_some() {
        let fields = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        counts(&mut errors, &new["status"], &Path::root("status"), &fields);
    }
    errors.into_vec()
}
