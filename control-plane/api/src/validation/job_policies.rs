//! What a job's failed and succeeded pods mean for it, and lists of indexes.

use std::collections::HashSet;

use serde_json::Value;

use super::batch::is_indexed;
use super::containers::{list, text};
use super::names::qualified_name;
use super::{Errors, Path};

const RULES: usize = 20;
const EXIT_CODES: usize = 255;
const CONDITIONS: usize = 20;
/// Of a list of indexes.
const INDEXES_LENGTH: usize = 64 * 1024;

pub(super) fn pod_failure_policy(errors: &mut Errors, spec: &Value, path: &Path) {
    let path = path.child("podFailurePolicy").child("rules");
    let rules = list(&spec["podFailurePolicy"], "rules");
    if rules.len() > RULES {
        errors.too_many(&path, rules.len(), RULES);
    }
    for (index, rule) in rules.iter().enumerate() {
        failure_rule(errors, spec, rule, &path.index(index));
    }
}

/// One of a few, which must be said.
fn choice(errors: &mut Errors, value: &Value, supported: &[&str], path: &Path) {
    if value.as_str().unwrap_or_default().is_empty() {
        let list: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        errors.required(path, &format!("valid values: [{}]", list.join(" ")));
    } else {
        errors.one_of(path, value, supported);
    }
}

fn failure_rule(errors: &mut Errors, spec: &Value, rule: &Value, path: &Path) {
    let action = &rule["action"];
    choice(errors, action, &["Count", "FailIndex", "FailJob", "Ignore"], &path.child("action"));
    if action == "FailIndex" && spec["backoffLimitPerIndex"].is_null() {
        let why = "requires the backoffLimitPerIndex to be set";
        errors.invalid(&path.child("action"), action, why);
    }
    let (codes, conditions) = (&rule["onExitCodes"], list(rule, "onPodConditions"));
    if !codes.is_null() {
        exit_codes(errors, spec, codes, &path.child("onExitCodes"));
    }
    let conditions_path = path.child("onPodConditions");
    if conditions.len() > CONDITIONS {
        errors.too_many(&conditions_path, conditions.len(), CONDITIONS);
    }
    for (index, pattern) in conditions.iter().enumerate() {
        let path = conditions_path.index(index);
        let kind = text(pattern, "type");
        errors.complain(&path.child("type"), kind, qualified_name(kind));
        let supported = &["False", "True", "Unknown"];
        choice(errors, &pattern["status"], supported, &path.child("status"));
    }
    match (codes.is_null(), conditions.is_empty()) {
        (false, false) => errors.invalid_whole(
            path,
            "specifying both OnExitCodes and OnPodConditions is not supported",
        ),
        (true, true) => errors
            .invalid_whole(path, "specifying one of OnExitCodes and OnPodConditions is required"),
        _ => {}
    }
}

fn exit_codes(errors: &mut Errors, spec: &Value, codes: &Value, path: &Path) {
    choice(errors, &codes["operator"], &["In", "NotIn"], &path.child("operator"));
    if let Some(name) = codes["containerName"].as_str() {
        let pod = &spec["template"]["spec"];
        let mut containers = list(pod, "containers").iter().chain(list(pod, "initContainers"));
        if !containers.any(|container| container["name"] == name) {
            let why = "must be one of the container or initContainer names in the pod template";
            errors.invalid_text(&path.child("containerName"), name, why);
        }
    }
    let (values, path) = (list(codes, "values"), path.child("values"));
    if values.is_empty() {
        errors.invalid(&path, &Value::from(values), "at least one value is required");
    } else if values.len() > EXIT_CODES {
        errors.too_many(&path, values.len(), EXIT_CODES);
    }
    let mut seen = HashSet::new();
    for (index, value) in values.iter().enumerate() {
        let path = path.index(index);
        if codes["operator"] == "In" && value == 0 {
            errors.invalid(&path, value, "must not be 0 for the In operator");
        }
        if !seen.insert(value.as_i64()) {
            errors.duplicate(&path, value);
        }
    }
    if !values.is_sorted_by_key(Value::as_i64) {
        errors.invalid(&path, &codes["values"], "must be ordered");
    }
}

pub(super) fn success_policy(errors: &mut Errors, spec: &Value, path: &Path) {
    let (policy, path) = (&spec["successPolicy"], path.child("successPolicy"));
    if policy.is_null() {
        return;
    }
    if !is_indexed(spec) {
        errors.invalid(&path, policy, "requires indexed completion mode");
        return;
    }
    let (rules, path) = (list(policy, "rules"), path.child("rules"));
    if rules.is_empty() {
        let why = "at least one rules must be specified when the successPolicy is specified";
        errors.required(&path, why);
    } else if rules.len() > RULES {
        errors.too_many(&path, rules.len(), RULES);
    }
    for (index, rule) in rules.iter().enumerate() {
        let completions = spec["completions"].as_i64().unwrap_or(0);
        success_rule(errors, rule, completions, &path.index(index));
    }
}

fn success_rule(errors: &mut Errors, rule: &Value, completions: i64, path: &Path) {
    let (count, indexes) = (&rule["succeededCount"], &rule["succeededIndexes"]);
    if count.is_null() && indexes.is_null() {
        let why = "at least one of succeededCount or succeededIndexes must be specified";
        errors.required(path, why);
    }
    let mut total = 0;
    if let Some(text) = indexes.as_str() {
        let path = path.child("succeededIndexes");
        if text.len() > INDEXES_LENGTH {
            errors.too_long(&path, INDEXES_LENGTH);
        }
        match parse_indexes(text, completions) {
            Ok(ranges) => total = ranges.iter().map(|(first, last)| last - first + 1).sum(),
            Err(why) => {
                let why = format!("error parsing succeededIndexes: {why}");
                errors.invalid(&path, indexes, &why);
            }
        }
    }
    let path = path.child("succeededCount");
    errors.non_negative(&path, count);
    let Some(number) = count.as_i64() else { return };
    let mut at_most = |limit: i64, what: &str| {
        if number > limit {
            let why = format!("must be less than or equal to {limit} (the number of {what})");
            errors.invalid(&path, count, &why);
        }
    };
    at_most(completions, "specified completions");
    if !indexes.is_null() {
        at_most(total, "indexes in the specified succeededIndexes field");
    }
}

/// Reads a list of indexes below `completions`, such as `1,3-5`. The error says what is wrong.
pub(super) fn parse_indexes(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    let index = |text: &str| {
        let number = text.parse::<i64>();
        let number =
            number.map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if number >= completions {
            return Err(format!("too large index: {text:?}"));
        }
        Ok(number)
    };
    let order = |previous: i64, current: i64| {
        format!("non-increasing order, previous: {previous}, current: {current}")
    };
    for range in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = match range.split('-').collect::<Vec<_>>()[..] {
            [one] => (index(one)?, index(one)?),
            [first, last] => {
                let (first, last) = (index(first)?, index(last)?);
                if first >= last {
                    return Err(order(first, last));
                }
                (first, last)
            }
            _ => {
                return Err(format!(
                    "the fragment {range:?} violates the requirement that an index interval can \
                     have at most two parts separated by '-'"
                ));
            }
        };
        if let Some((_, before)) = ranges.last().filter(|(_, before)| *before >= first) {
            return Err(order(*before, first));
        }
        ranges.push((first, last));
    }
    Ok(ranges)
}
