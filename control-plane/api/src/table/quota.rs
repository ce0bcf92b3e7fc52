//! Columns and cells of quotas and limit ranges.

use jiff::Timestamp;
use serde_json::Value;

use super::Column;
use super::columns::{AGE, NAME, text};
use super::format::{age, name, text_or};

pub(crate) const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    text("Request", "How much is asked for, and how much may be."),
    text("Limit", "How much the limits come to, and how much they may."),
    AGE,
];

pub(crate) const LIMIT_RANGE: &[Column] =
    &[NAME, text("Created At", "The time at which the object was created.")];

pub(crate) fn resource_quota(object: &Value, now: Timestamp) -> Vec<Value> {
    let hard = object["status"]["hard"].as_object().into_iter().flatten();
    let mut all: Vec<(&str, String)> = hard
        .map(|(resource, hard)| {
            let used = &object["status"]["used"][resource];
            let (used, hard) = (used.as_str().unwrap_or("0"), hard.as_str().unwrap_or("0"));
            (resource.as_str(), format!("{resource}: {used}/{hard}"))
        })
        .collect();
    all.sort_unstable();
    let column = |of_limits: bool| {
        let mine = all.iter().filter(|(name, _)| name.starts_with("limits.") == of_limits);
        Value::from(mine.map(|(_, shown)| shown.as_str()).collect::<Vec<_>>().join(", "))
    };
    vec![name(object), column(false), column(true), age(object, now)]
}

pub(crate) fn limit_range(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![name(object), Value::from(text_or(object, "/metadata/creationTimestamp", "<unknown>"))]
}
