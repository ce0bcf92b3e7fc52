//! `metav1.Status`: how every failure, and a finished delete, is told to a client.
//!
//! Guarantees: reason, code, details and message agree with each other and with what Kubernetes
//! clients match on. Does not: choose a status; callers map their own errors.

use std::fmt;

use serde_json::{Value, json};

use crate::managed::Conflict;
use crate::resource::Resource;
use crate::validation::FieldError;

/// A `metav1.Status` with its HTTP code.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub code: u16,
    /// Empty for a success.
    pub reason: &'static str,
    pub message: String,
    /// The `details` field; `Value::Null` when there are none.
    pub details: Value,
    /// The token with which a list that failed can go on all the same.
    pub next: Option<String>,
}

impl std::error::Error for Status {}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

fn details(resource: &Resource, name: &str) -> Value {
    let mut details = json!({ "name": name, "kind": resource.plural });
    if !resource.group.is_empty() {
        details["group"] = json!(resource.group);
    }
    details
}

fn causes_and_text(errors: &[FieldError]) -> (Vec<Value>, String) {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let text = match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    (errors.iter().map(FieldError::cause).collect(), text)
}

impl Status {
    fn new(code: u16, reason: &'static str, message: String, details: Value) -> Self {
        Self { code, reason, message, details, next: None }
    }

    /// 404 for a missing object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(404, "NotFound", message, details(resource, name))
    }

    /// 404 for a path that the server does not serve.
    pub fn unknown_path() -> Self {
        let message = "the server could not find the requested resource".to_owned();
        Self::new(404, "NotFound", message, json!({}))
    }

    /// 409 for a name that is taken.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message, details(resource, name))
    }

    /// 409 for a stale `resourceVersion`.
    pub fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and \
             try again",
        )
    }

    /// 409 with a cause of the caller's.
    pub fn conflict(resource: &Resource, name: &str, cause: &str) -> Self {
        let qualified = resource.qualified();
        let message = format!("Operation cannot be fulfilled on {qualified} \"{name}\": {cause}");
        Self::new(409, "Conflict", message, details(resource, name))
    }

    /// 409 with a cause of the caller's, for a write to a subresource such as `binding`.
    pub fn conflict_on(resource: &Resource, subresource: &str, name: &str, cause: &str) -> Self {
        let mut details = details(resource, name);
        details["kind"] = json!(format!("{}/{subresource}", resource.plural));
        let what = qualified(resource.group, &format!("{}/{subresource}", resource.plural));
        let message = format!("Operation cannot be fulfilled on {what} \"{name}\": {cause}");
        Self::new(409, "Conflict", message, details)
    }

    /// 409 for a configuration that would change what others manage.
    pub fn apply_conflict(conflicts: &[Conflict], message: String) -> Self {
        let cause = |conflict: &Conflict| {
            json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {}", conflict.manager),
                "field": conflict.field,
            })
        };
        let causes: Vec<Value> = conflicts.iter().map(cause).collect();
        Self::new(409, "Conflict", message, json!({ "causes": causes }))
    }

    /// 500 without a reason, for what Kubernetes' clients know in this form.
    pub fn unexpected(message: String) -> Self {
        Self::new(500, "", message, Value::Null)
    }

    /// 422 for parameters of a request; `kind` is such as `PatchOptions`.
    pub fn invalid_options(kind: &str, errors: &[FieldError]) -> Self {
        let (causes, text) = causes_and_text(errors);
        let message = format!("{kind}.meta.k8s.io \"\" is invalid: {text}");
        let details = json!({ "group": "meta.k8s.io", "kind": kind, "causes": causes });
        Self::new(422, "Invalid", message, details)
    }

    /// 422 with one cause per field.
    pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        let kind = qualified(resource.group, resource.kind);
        let (causes, text) = causes_and_text(errors);
        let message = format!("{kind} \"{name}\" is invalid: {text}");
        let mut details = details(resource, name);
        details["kind"] = json!(resource.kind);
        details["causes"] = json!(causes);
        Self::new(422, "Invalid", message, details)
    }

    /// 422 for a patch of which no object can be made. `shown` is the patched object or the patch.
    pub fn invalid_patch(shown: &str, cause: &str) -> Self {
        let detail = format!("Invalid value: {}: {cause}", Value::from(shown));
        let error = FieldError { field: "patch".to_owned(), reason: "FieldValueInvalid", detail };
        // It names no kind and no object.
        let message = format!(" \"\" is invalid: {error}");
        Self::new(422, "Invalid", message, json!({ "causes": [error.cause()] }))
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message.into(), Value::Null)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized".to_owned(), Value::Null)
    }

    /// 403 for an operation on an object, or on the collection when `name` is empty.
    pub fn forbidden(resource: &Resource, name: &str, cause: &str) -> Self {
        let qualified = resource.qualified();
        let message = if name.is_empty() {
            format!("{qualified} is forbidden: {cause}")
        } else {
            format!("{qualified} \"{name}\" is forbidden: {cause}")
        };
        Self::new(403, "Forbidden", message, details(resource, name))
    }

    /// 403 for a path that is no resource.
    pub fn forbidden_path(cause: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", format!("forbidden: {}", cause.into()), json!({}))
    }

    /// 405.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new(405, "MethodNotAllowed", message.into(), json!({}))
    }

    /// 406; `accepted` are the media types that the server can send.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message =
            format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message, Value::Null)
    }

    /// 415; `accepted` are the media types that the server can read.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message, Value::Null)
    }

    /// 410 for a revision that was compacted away.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message.into(), Value::Null)
    }

    /// 413.
    pub fn request_entity_too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message.into(), Value::Null)
    }

    /// 500.
    pub fn internal_error(cause: &dyn fmt::Display) -> Self {
        let cause = cause.to_string();
        let details = json!({ "causes": [{ "message": cause }] });
        Self::new(500, "InternalError", format!("Internal error occurred: {cause}"), details)
    }

    /// 500 for objects that are stored and cannot be read: `causes` are their keys with what is
    /// wrong. `name` is empty when many were asked for.
    pub fn storage_read_error(
        resource: &Resource,
        name: &str,
        causes: &[(String, String)],
        advice: &str,
    ) -> Self {
        let qualified = resource.qualified();
        let message = format!("failed to read one or more {qualified} from the storage: {advice}");
        let causes = causes.iter().map(|(key, message)| {
            json!({ "reason": "UnexpectedServerResponse", "message": message, "field": key })
        });
        let mut details = details(resource, name);
        details["causes"] = causes.collect();
        Self::new(500, "StorageReadError", message, details)
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message.into(), Value::Null)
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>) -> Self {
        Self::new(429, "TooManyRequests", message.into(), Value::Null)
    }

    /// 504.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message.into(), Value::Null)
    }

    /// 200 for a delete that removed the object.
    pub fn deleted(resource: &Resource, name: &str, uid: &str) -> Self {
        let mut details = details(resource, name);
        details["uid"] = json!(uid);
        Self::new(200, "", String::new(), details)
    }

    /// 200 or 201 without details, as a binding answers.
    pub fn success(code: u16) -> Self {
        Self::new(code, "", String::new(), Value::Null)
    }

    /// The object on the wire.
    pub fn to_value(&self) -> Value {
        let success = self.code < 400;
        let mut value = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": if success { "Success" } else { "Failure" },
        });
        if let Some(next) = &self.next {
            value["metadata"]["continue"] = json!(next);
        }
        if !self.message.is_empty() {
            value["message"] = json!(self.message);
        }
        if !self.reason.is_empty() {
            value["reason"] = json!(self.reason);
        }
        if !self.details.is_null() {
            value["details"] = self.details.clone();
        }
        if !success || self.code == 201 {
            value["code"] = json!(self.code);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::find;

    #[test]
    fn messages_are_what_clients_know() {
        let pods = find("", "v1", "pods").unwrap();
        let deployments = find("apps", "v1", "deployments").unwrap();
        let table = [
            (Status::not_found(pods, "a"), 404, "NotFound", "pods \"a\" not found"),
            (
                Status::already_exists(deployments, "d"),
                409,
                "AlreadyExists",
                "deployments.apps \"d\" already exists",
            ),
            (
                Status::modified(deployments, "d"),
                409,
                "Conflict",
                "Operation cannot be fulfilled on deployments.apps \"d\": the object has been \
                 modified; please apply your changes to the latest version and try again",
            ),
            (
                Status::conflict_on(pods, "binding", "a", "no"),
                409,
                "Conflict",
                "Operation cannot be fulfilled on pods/binding \"a\": no",
            ),
            (Status::forbidden(pods, "a", "no"), 403, "Forbidden", "pods \"a\" is forbidden: no"),
            (Status::forbidden(pods, "", "no"), 403, "Forbidden", "pods is forbidden: no"),
            (Status::unauthorized(), 401, "Unauthorized", "Unauthorized"),
            (Status::expired("gone"), 410, "Expired", "gone"),
            (
                Status::internal_error(&"disk"),
                500,
                "InternalError",
                "Internal error occurred: disk",
            ),
        ];
        for (status, code, reason, message) in table {
            let value = status.to_value();
            assert_eq!(value["code"], code);
            assert_eq!(value["reason"], reason);
            assert_eq!(value["message"], message);
            assert_eq!(value["status"], "Failure");
        }
        assert_eq!(
            Status::not_found(deployments, "d").to_value()["details"],
            json!({"name": "d", "group": "apps", "kind": "deployments"})
        );
    }

    #[test]
    fn invalid_lists_a_cause_per_field() {
        let resource = find("apps", "v1", "deployments").unwrap();
        let error = |field: &str| FieldError {
            field: field.to_owned(),
            reason: "FieldValueRequired",
            detail: "Required value".to_owned(),
        };
        let one = Status::invalid(resource, "d", &[error("spec.selector")]);
        assert_eq!(one.message, "Deployment.apps \"d\" is invalid: spec.selector: Required value");
        let two = Status::invalid(resource, "d", &[error("a"), error("b")]).to_value();
        assert_eq!(
            two["message"],
            "Deployment.apps \"d\" is invalid: [a: Required value, b: Required value]"
        );
        assert_eq!(two["code"], 422);
        assert_eq!(two["details"]["kind"], "Deployment");
        assert_eq!(
            two["details"]["causes"][1],
            json!({"reason": "FieldValueRequired", "message": "Required value", "field": "b"})
        );
    }

    #[test]
    fn success() {
        let pods = find("", "v1", "pods").unwrap();
        let value = Status::deleted(pods, "a", "u").to_value();
        assert_eq!(value["status"], "Success");
        assert_eq!(value["details"], json!({"name": "a", "kind": "pods", "uid": "u"}));
        assert!(value.get("reason").is_none());
        assert_eq!(Status::success(201).to_value()["code"], 201);
    }
}
