//! Reviews: who somebody is, and what somebody may do.
//!
//! Guarantees: an answer is what the authorizer would say to the act itself, at this moment; it is
//! given and forgotten, so that a dry run is like any other.

use super::{Caller, Place, settle, timestamp};
use crate::auth::User;
use crate::auth::authorizer::{Act, Authorizer};
use crate::auth::bearer::Bearer;
use crate::watch::Object;
use bowline_api::object::text;
use bowline_api::resource::RESOURCES;
use bowline_api::selector::FieldSelector;
use bowline_api::status::Status;
use serde_json::{Value, json};
use std::time::Duration;

/// The review with its status, as an object that was never stored.
pub(crate) fn answer(
    (authorizer, bearer): (&dyn Authorizer, &Bearer),
    caller: &mut Caller,
    place: &Place,
    mut value: Value,
) -> Result<Object, Status> {
    let resource = place.resource;
    settle(place, &mut value)?;
    caller.decode(resource, &mut value)?;
    let errors = (resource.validate)(&value, None);
    if !errors.is_empty() {
        return Err(Status::invalid(resource, "", &errors));
    }
    caller.note(resource, None, &mut value);
    let spec = &value["spec"];
    match resource.kind {
        "SelfSubjectReview" => {
            let now = timestamp(Duration::ZERO);
            value = json!({
                "metadata": { "creationTimestamp": now },
                "status": { "userInfo": shown(&caller.user) },
            });
        }
        "TokenReview" => value["status"] = token(bearer, spec)?,
        "SelfSubjectAccessReview" => value["status"] = access(authorizer, &caller.user, spec),
        "SelfSubjectRulesReview" => value = rules(authorizer, &caller.user, spec)?,
        _ => value["status"] = access(authorizer, &subject(spec), spec),
    }
    value["apiVersion"] = Value::from(resource.api_version());
    value["kind"] = Value::from(resource.kind);
    Ok(Object::new(place.key(), value, 0))
}

/// The status of a review of a token.
fn token(bearer: &Bearer, spec: &Value) -> Result<Value, Status> {
    let token = text(spec, "token");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let asked = spec["audiences"].as_array().into_iter().flatten();
    let asked: Vec<String> = asked.filter_map(Value::as_str).map(str::to_owned).collect();
    let asked = if asked.is_empty() { &bearer.audiences } else { &asked };
    Ok(match bearer.check(token, asked) {
        Ok(known) => json!({
            "authenticated": true,
            "user": shown(&known.user),
            "audiences": known.audiences,
        }),
        Err(error) => json!({ "user": {}, "error": error.to_string() }),
    })
}

fn shown(user: &User) -> Value {
    let mut info = json!({ "username": user.name, "groups": user.groups });
    if !user.uid.is_empty() {
        info["uid"] = Value::from(user.uid.as_str());
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Whom a review asks about.
fn subject(spec: &Value) -> User {
    let groups = spec["groups"].as_array().into_iter().flatten();
    let groups: Vec<&str> = groups.filter_map(Value::as_str).collect();
    User { uid: text(spec, "uid").to_owned(), ..User::new(text(spec, "user"), &groups) }
}

/// The status of a review of one act.
fn access(authorizer: &dyn Authorizer, user: &User, spec: &Value) -> Value {
    let asked = &spec["resourceAttributes"];
    let verdict = if asked.is_object() {
        let (name, node) = (required(asked, "metadata.name"), required(asked, "spec.nodeName"));
        let act = Act {
            verb: text(asked, "verb"),
            group: text(asked, "group"),
            resource: text(asked, "resource"),
            namespace: text(asked, "namespace"),
            name: if text(asked, "name").is_empty() { &name } else { text(asked, "name") },
            node: &node,
            subresource: text(asked, "subresource"),
        };
        authorizer.authorize(user, &act)
    } else {
        let asked = &spec["nonResourceAttributes"];
        authorizer.authorize_path(user, text(asked, "verb"), text(asked, "path"))
    };
    match verdict {
        Ok(()) => json!({ "allowed": true }),
        Err(None) => json!({ "allowed": false }),
        Err(Some(reason)) => json!({ "allowed": false, "reason": reason }),
    }
}

/// The one value that the field selector of an act asks of a field, or nothing.
fn required(asked: &Value, field: &str) -> String {
    let selector = &asked["fieldSelector"];
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    let mut exact = requirements.filter(|one| one["key"] == field && one["operator"] == "In");
    let only = |one: &Value| match one["values"].as_array()?.as_slice() {
        [Value::String(value)] => Some(value.clone()),
        _ => None,
    };
    if let Some(value) = exact.find_map(only) {
        return value;
    }
    let (group, plural) = (text(asked, "group"), text(asked, "resource"));
    let row = RESOURCES.iter().find(|row| row.is(group, plural));
    let parsed = row.and_then(|row| FieldSelector::parse(row, text(selector, "rawSelector")).ok());
    parsed.and_then(|parsed| parsed.required(field).map(str::to_owned)).unwrap_or_default()
}

/// A review with all that somebody may do in a namespace.
fn rules(authorizer: &dyn Authorizer, user: &User, spec: &Value) -> Result<Value, Status> {
    let namespace = text(spec, "namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let status = authorizer.rules(user, namespace);
    let status = serde_json::to_value(status).map_err(|error| Status::internal_error(&error))?;
    Ok(json!({ "metadata": {}, "spec": {}, "status": status }))
}
