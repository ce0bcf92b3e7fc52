//! The parameters that verbs have in common.

use super::body;
use super::path::Target;
use super::query::Query;
use crate::auth::User;
use crate::objects::unreadable::IGNORE_READ_ERROR;
use crate::objects::{Caller, DeleteOptions, FieldValidation, ListOptions, Propagation};
use crate::watch::Filter;
use bowline_api::managed::APPLY_MEDIA_TYPE;
use bowline_api::selector::{FieldSelector, LabelSelector};
use bowline_api::status::Status;
use bowline_api::validation::{self, AskedState, FieldError, manager_of_user_agent};
use http::HeaderMap;
use http::header::{HeaderValue, USER_AGENT};
use serde_json::Value;

/// The one value of `dryRun`.
const DRY_RUN: &str = "All";

/// Whose call it is and how it is meant, by parameters that [`check_write`] has seen.
pub(super) fn caller(user: &User, target: &Target, query: &Query, headers: &HeaderMap) -> Caller {
    let mut caller = Caller::new(user.clone());
    caller.fields = match query.get("fieldValidation") {
        "Strict" => FieldValidation::Strict,
        "Ignore" => FieldValidation::Ignore,
        _ => FieldValidation::Warn,
    };
    caller.subresource.clone_from(&target.subresource);
    caller.manager = match query.get("fieldManager") {
        "" => {
            let user_agent = headers.get(USER_AGENT).map(HeaderValue::as_bytes);
            manager_of_user_agent(&String::from_utf8_lossy(user_agent.unwrap_or_default()))
        }
        manager => manager.to_owned(),
    };
    caller.dry_run = query.all("dryRun").any(|mode| mode == DRY_RUN);
    caller
}

/// Checks what a write says of itself. To apply is the one that must name its manager.
pub(super) fn check_write(verb: &str, headers: &HeaderMap, query: &Query) -> Result<(), Status> {
    let kind = match verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        _ => return Ok(()),
    };
    let applies = verb == "patch" && body::content_type(headers) == APPLY_MEDIA_TYPE;
    let mut errors = match verb == "patch" && !applies && query.first("force").is_some() {
        true => validation::force_without_apply(),
        false => Vec::new(),
    };
    errors.extend(validation::field_manager(query.get("fieldManager"), applies));
    errors.extend(validation::dry_run(&query.all("dryRun").collect::<Vec<_>>()));
    errors.extend(validation::field_validation(query.get("fieldValidation")));
    refuse(kind, &errors)
}

fn refuse(kind: &str, errors: &[FieldError]) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid_options(kind, errors)) }
}

/// Which objects a list, watch or deletion of a collection is about.
pub(super) fn filter(target: &Target, query: &Query) -> Result<Filter, Status> {
    let labels = LabelSelector::parse(query.get("labelSelector"))
        .map_err(|error| Status::bad_request(error.to_string()))?;
    let fields = FieldSelector::parse(target.resource, query.get("fieldSelector"))
        .map_err(|error| Status::bad_request(error.to_string()))?;
    Ok(Filter { namespace: target.namespace.clone(), labels, fields })
}

fn asked_state(query: &Query) -> AskedState<'_> {
    AskedState {
        resource_version: query.get("resourceVersion"),
        version_match: query.get("resourceVersionMatch"),
        next: query.get("continue"),
        says_initial_events: query.first("sendInitialEvents").is_some(),
    }
}

pub(super) fn list(query: &Query) -> Result<ListOptions, Status> {
    let asked = asked_state(query);
    refuse("ListOptions", &validation::list_options(&asked))?;
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let version = asked.resource_version;
    if !asked.next.is_empty() && !matches!(version, "" | "0") {
        return Err(Status::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    // A page at a named revision has always meant exactly that one.
    let page = asked.version_match.is_empty() && limit.is_some() && !matches!(version, "" | "0");
    Ok(ListOptions {
        limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        next: asked.next.to_owned(),
        resource_version: version.to_owned(),
        exact: page || asked.version_match == "Exact",
    })
}

/// Whether a watch wants the first state sent, if it says so.
pub(super) fn initial_events(query: &Query) -> Result<Option<bool>, Status> {
    let asked = asked_state(query);
    refuse("ListOptions", &validation::watch_options(&asked))?;
    Ok(asked.says_initial_events.then(|| query.flag("sendInitialEvents")))
}

/// The options of a delete: from the body, and from the query what the body does not say.
pub(super) fn delete(
    headers: &HeaderMap,
    query: &Query,
    body: &[u8],
    caller: &mut Caller,
) -> Result<DeleteOptions, Status> {
    let value = if body.is_empty() { Value::Null } else { body::object(headers, body)?.value };
    let body_modes = value["dryRun"].as_array().into_iter().flatten();
    let body_modes = body_modes.map(|mode| mode.as_str().unwrap_or_default());
    let modes: Vec<&str> = query.all("dryRun").chain(body_modes).collect();
    let policy = value["propagationPolicy"].as_str().or_else(|| query.first("propagationPolicy"));
    let orphan = match value["orphanDependents"].as_bool() {
        Some(orphan) => Some(orphan),
        None => query.first("orphanDependents").map(|_| query.flag("orphanDependents")),
    };
    refuse("DeleteOptions", &validation::delete_options(policy, orphan.is_some(), &modes))?;
    let grace_seconds = match value["gracePeriodSeconds"].as_i64() {
        Some(seconds) => Some(seconds),
        None => query.number("gracePeriodSeconds")?,
    };
    let ignore_read_error =
        value[IGNORE_READ_ERROR].as_bool().unwrap_or_else(|| query.flag(IGNORE_READ_ERROR));
    if ignore_read_error {
        let set = [
            (".dryRun", !modes.is_empty()),
            (".propagationPolicy", policy.is_some()),
            (".orphanDependents", orphan.is_some()),
            (".gracePeriodSeconds", grace_seconds.is_some()),
            (".preconditions", !value["preconditions"].is_null()),
        ];
        refuse("DeleteOptions", &validation::delete_alone(IGNORE_READ_ERROR, &set))?;
    }
    caller.dry_run |= modes.contains(&DRY_RUN);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(DeleteOptions {
        grace_seconds,
        ignore_read_error,
        uid: text(&value["preconditions"]["uid"]),
        resource_version: text(&value["preconditions"]["resourceVersion"]),
        propagation: match (policy, orphan) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some(_), _) | (None, Some(false)) => Some(Propagation::Background),
            (None, None) => None,
        },
    })
}
