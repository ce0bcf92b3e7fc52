//! The parameters that verbs have in common.

use super::body;
use super::path::Target;
use super::query::Query;
use crate::auth::User;
use crate::objects::{Caller, DeleteOptions, FieldValidation, ListOptions, Propagation};
use crate::watch::Filter;
use bowline_api::managed::APPLY_MEDIA_TYPE;
use bowline_api::selector::{FieldSelector, LabelSelector};
use bowline_api::status::Status;
use bowline_api::validation::{field_manager, force_without_apply, manager_of_user_agent};
use http::HeaderMap;
use http::header::{HeaderValue, USER_AGENT};
use serde_json::Value;

/// Whose call it is and how it is meant.
pub(super) fn caller(
    user: &User,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Caller, Status> {
    let fields = match query.get("fieldValidation") {
        "" | "Warn" => FieldValidation::Warn,
        "Strict" => FieldValidation::Strict,
        "Ignore" => FieldValidation::Ignore,
        other => {
            return Err(Status::bad_request(format!(
                "fieldValidation: {other:?} is not one of Ignore, Warn, Strict"
            )));
        }
    };
    let mut caller = Caller::new(user.clone());
    caller.fields = fields;
    caller.subresource.clone_from(&target.subresource);
    caller.manager = match query.get("fieldManager") {
        "" => {
            let user_agent = headers.get(USER_AGENT).map(HeaderValue::as_bytes);
            manager_of_user_agent(&String::from_utf8_lossy(user_agent.unwrap_or_default()))
        }
        manager => manager.to_owned(),
    };
    for value in query.all("dryRun") {
        caller.dry_run = dry_run(value)?;
    }
    Ok(caller)
}

/// Checks what a write says of its manager. To apply is the one that must say it.
pub(super) fn check_manager(verb: &str, headers: &HeaderMap, query: &Query) -> Result<(), Status> {
    let kind = match verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        _ => return Ok(()),
    };
    let applies = verb == "patch" && body::content_type(headers) == APPLY_MEDIA_TYPE;
    let mut errors = match verb == "patch" && !applies && !query.get("force").is_empty() {
        true => force_without_apply(),
        false => Vec::new(),
    };
    errors.extend(field_manager(query.get("fieldManager"), applies));
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid_options(kind, &errors)) }
}

fn dry_run(value: &str) -> Result<bool, Status> {
    if value == "All" {
        return Ok(true);
    }
    Err(Status::bad_request(format!("dryRun: {value:?} is not \"All\"")))
}

/// Which objects a list, watch or deletion of a collection is about.
pub(super) fn filter(target: &Target, query: &Query) -> Result<Filter, Status> {
    let labels = LabelSelector::parse(query.get("labelSelector"))
        .map_err(|error| Status::bad_request(error.to_string()))?;
    let fields = FieldSelector::parse(target.resource, query.get("fieldSelector"))
        .map_err(|error| Status::bad_request(error.to_string()))?;
    Ok(Filter { namespace: target.namespace.clone(), labels, fields })
}

pub(super) fn list(query: &Query) -> Result<ListOptions, Status> {
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let version = query.get("resourceVersion");
    let exact = match query.get("resourceVersionMatch") {
        // A page at a named revision has always meant exactly that one.
        "" => limit.is_some() && !matches!(version, "" | "0"),
        "NotOlderThan" => false,
        "Exact" => true,
        other => {
            return Err(Status::bad_request(format!(
                "resourceVersionMatch: {other:?} is not one of Exact, NotOlderThan"
            )));
        }
    };
    if !query.get("resourceVersionMatch").is_empty() && version.is_empty() {
        return Err(Status::bad_request(
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ));
    }
    Ok(ListOptions {
        limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        next: query.get("continue").to_owned(),
        resource_version: version.to_owned(),
        exact,
    })
}

/// The options of a delete: from the body, and from the query what the body does not say.
pub(super) fn delete(
    headers: &HeaderMap,
    query: &Query,
    body: &[u8],
    caller: &mut Caller,
) -> Result<DeleteOptions, Status> {
    let value = if body.is_empty() { Value::Null } else { body::object(headers, body)?.value };
    for mode in value["dryRun"].as_array().into_iter().flatten() {
        caller.dry_run = dry_run(mode.as_str().unwrap_or_default())?;
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let grace_seconds = match value["gracePeriodSeconds"].as_i64() {
        Some(seconds) => Some(seconds),
        None => match query.get("gracePeriodSeconds") {
            "" => None,
            text => Some(text.parse().map_err(|_| {
                Status::bad_request(format!("gracePeriodSeconds: {text:?} is not a number"))
            })?),
        },
    };
    let policy = value["propagationPolicy"].as_str().unwrap_or(query.get("propagationPolicy"));
    let propagation = match policy {
        "" => None,
        "Orphan" => Some(Propagation::Orphan),
        "Background" => Some(Propagation::Background),
        "Foreground" => Some(Propagation::Foreground),
        other => {
            return Err(Status::bad_request(format!(
                "propagationPolicy: {other:?} is not one of Orphan, Background, Foreground"
            )));
        }
    };
    let orphan = match value["orphanDependents"].as_bool() {
        Some(orphan) => Some(orphan),
        None if query.get("orphanDependents").is_empty() => None,
        None => Some(query.flag("orphanDependents")?),
    };
    let by_flag =
        orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background });
    Ok(DeleteOptions {
        grace_seconds,
        uid: text(&value["preconditions"]["uid"]),
        resource_version: text(&value["preconditions"]["resourceVersion"]),
        propagation: propagation.or(by_flag),
    })
}
