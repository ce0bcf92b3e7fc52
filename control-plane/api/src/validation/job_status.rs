//! The status of a job: what an outside controller (`managedBy`) may say of it.
//!
//! Most rules look only at what an update changes: what is already wrong does not stop a write
//! about something else, and a list of indexes may be longer than the job is now.

use std::collections::HashSet;

use serde_json::Value;

use super::batch::is_indexed;
use super::containers::{list, text};
use super::job_policies::parse_indexes;
use super::workload::counts;
use super::{Errors, Path};
use crate::object::is_true;

fn is_finished(job: &Value) -> bool {
    is_true(job, "Complete") || is_true(job, "Failed")
}

/// Two versions of a job's status.
struct Change<'a> {
    new: &'a Value,
    old: &'a Value,
}

impl Change<'_> {
    /// Whether any of these fields differ.
    fn of(&self, fields: &[&str]) -> bool {
        fields.iter().any(|field| self.new["status"][*field] != self.old["status"][*field])
    }

    /// Whether any of these conditions became true or stopped to be.
    fn of_conditions(&self, kinds: &[&str]) -> bool {
        kinds.iter().any(|kind| is_true(self.new, kind) != is_true(self.old, kind))
    }

    fn of_end(&self) -> bool {
        is_finished(self.new) != is_finished(self.old)
    }
}

pub(super) fn update(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::root("status");
    let status = &new["status"];
    counts(errors, status, &path, &["active", "succeeded", "failed", "ready", "terminating"]);
    uncounted(errors, &status["uncountedTerminatedPods"], &path.child("uncountedTerminatedPods"));
    let change = Change { new, old };
    conditions(errors, &change, &path.child("conditions"));
    ended(errors, &change, &path);
    times(errors, &change, &path);
    indexes(errors, &change, &path);
    counters(errors, &change, &path);
}

fn uncounted(errors: &mut Errors, pods: &Value, path: &Path) {
    let mut seen = HashSet::new();
    for field in ["succeeded", "failed"] {
        for (index, uid) in list(pods, field).iter().enumerate() {
            let path = path.child(field).index(index);
            if uid == "" {
                errors.invalid(&path, uid, "must not be empty");
            } else if !seen.insert(uid.as_str()) {
                errors.duplicate(&path, uid);
            }
        }
    }
}

fn conditions(errors: &mut Errors, change: &Change<'_>, path: &Path) {
    let (new, old) = (change.new, change.old);
    let [complete, failed, failing, met] =
        ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"].map(|one| is_true(new, one));
    let was_met = is_true(old, "SuccessCriteriaMet");
    let changed = |kinds: &[&str]| change.of_conditions(kinds);
    let with_policy = !new["spec"]["successPolicy"].is_null();
    let rules = [
        (
            complete && failed && changed(&["Complete", "Failed"]),
            "cannot set Complete=True and Failed=true conditions",
        ),
        (
            complete && failing && changed(&["Complete", "FailureTarget"]),
            "cannot set Complete=True and FailureTarget=true conditions",
        ),
        (
            failed && !failing && (changed(&["Failed"]) || change.of(&["failedIndexes"])),
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            complete && !met && changed(&["Complete", "SuccessCriteriaMet"]),
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (met && failing, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
        (
            with_policy && !met && complete,
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
        (was_met && !met, "cannot disable the SuccessCriteriaMet=True condition"),
        (
            is_true(old, "Complete") && !was_met && met,
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
        ),
    ];
    for (_, why) in rules.iter().filter(|(broken, _)| *broken) {
        errors.invalid_whole(path, why);
    }
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is_true(old, kind) && !is_true(new, kind) {
            let why = format!("cannot disable the terminal {kind}=True condition");
            errors.invalid_whole(path, &why);
        }
    }
}

/// What a job that is over has left.
fn ended(errors: &mut Errors, change: &Change<'_>, path: &Path) {
    if !is_finished(change.new) {
        return;
    }
    let status = &change.new["status"];
    for field in ["active", "terminating"] {
        let looked_at = change.of_end() || change.of(&[field]);
        if looked_at && status[field].as_i64().is_some_and(|count| count > 0) {
            let why = format!("{field}>0 is invalid for finished job");
            errors.invalid(&path.child(field), &status[field], &why);
        }
    }
    if status["startTime"].is_null() && (change.of_end() || change.of(&["startTime"])) {
        errors.required(&path.child("startTime"), "startTime is required for finished job");
    }
    let pods = &status["uncountedTerminatedPods"];
    let left = list(pods, "failed").len() + list(pods, "succeeded").len();
    if left > 0 && (change.of_end() || change.of(&["uncountedTerminatedPods"])) {
        let why = "must be empty for finished job";
        errors.invalid(&path.child("uncountedTerminatedPods"), pods, why);
    }
}

fn times(errors: &mut Errors, change: &Change<'_>, path: &Path) {
    let (status, before) = (&change.new["status"], &change.old["status"]);
    let (end, end_path) = (&status["completionTime"], path.child("completionTime"));
    let complete = is_true(change.new, "Complete");
    if change.of_conditions(&["Complete"]) || change.of(&["completionTime"]) {
        if !end.is_null() && !complete {
            let why = "cannot set completionTime when there is no Complete=True condition";
            errors.invalid(&end_path, end, why);
        }
        if end.is_null() && complete {
            errors.required(&end_path, "completionTime is required for Complete jobs");
        }
    }
    // Both are in UTC and whole seconds, and so are ordered as texts.
    let (start, end_text) = (text(status, "startTime"), text(status, "completionTime"));
    if change.of(&["startTime", "completionTime"])
        && !start.is_empty()
        && !end_text.is_empty()
        && end_text < start
    {
        errors.invalid(&end_path, end, "must be equal to or after `startTime`");
    }
    if !end.is_null() && !before["completionTime"].is_null() {
        errors.immutable(&end_path, end, &before["completionTime"]);
    }
    let suspended = change.new["spec"]["suspend"] == true;
    if !before["startTime"].is_null() && change.of(&["startTime"]) && !suspended {
        let why = "startTime cannot be removed for unsuspended job";
        errors.required(&path.child("startTime"), why);
    }
}

fn indexes(errors: &mut Errors, change: &Change<'_>, path: &Path) {
    let (spec, status) = (&change.new["spec"], &change.new["status"]);
    let completions = spec["completions"].as_i64();
    let by_index = !spec["backoffLimitPerIndex"].is_null();
    for (field, checked) in [("completedIndexes", true), ("failedIndexes", by_index)] {
        let (value, path) = (&status[field], path.child(field));
        if let (true, true, Some(completions)) = (checked, change.of(&[field]), completions)
            && let Err(why) = parse_indexes(text(status, field), completions)
        {
            errors.invalid(&path, value, &format!("error parsing {field}: {why}"));
        }
    }
    let (completed, failed) = (text(status, "completedIndexes"), &status["failedIndexes"]);
    if change.of(&["completedIndexes"]) && !completed.is_empty() && !is_indexed(spec) {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid_text(&path.child("completedIndexes"), completed, why);
    }
    if !change.of(&["failedIndexes", "completedIndexes"]) {
        return;
    }
    if change.of(&["failedIndexes"]) && !failed.is_null() && !by_index {
        let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid(&path.child("failedIndexes"), failed, why);
    }
    let Some(completions) = completions else { return };
    let both = (
        parse_indexes(completed, completions),
        parse_indexes(text(status, "failedIndexes"), completions),
    );
    let (Ok(done), Ok(lost)) = both else { return };
    let shared = lost.iter().find_map(|(first, last)| {
        let range = done.iter().find(|range| range.0 <= *last && *first <= range.1)?;
        Some(range.0.max(*first))
    });
    if let Some(index) = shared {
        let why = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.invalid(&path.child("failedIndexes"), failed, &why);
    }
}

fn counters(errors: &mut Errors, change: &Change<'_>, path: &Path) {
    let (status, before) = (&change.new["status"], &change.old["status"]);
    let spec = &change.new["spec"];
    let count = |status: &Value, field: &str| status[field].as_i64().unwrap_or(0);
    // Such a job can be made smaller, and then has succeeded less often.
    let elastic = is_indexed(spec) && spec["completions"] == spec["parallelism"];
    for (field, checked) in [("failed", true), ("succeeded", !elastic)] {
        if checked && count(status, field) < count(before, field) {
            let why = format!("cannot decrease the {field} counter");
            errors.invalid(&path.child(field), &Value::from(count(status, field)), &why);
        }
    }
    let (ready, active) = (&status["ready"], count(status, "active"));
    if change.of(&["ready", "active"]) && ready.as_i64().is_some_and(|ready| ready > active) {
        errors.invalid(&path.child("ready"), ready, "cannot set more ready pods than active");
    }
}
