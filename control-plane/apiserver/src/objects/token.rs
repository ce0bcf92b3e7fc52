//! Requests for tokens of service accounts.
//!
//! Guarantees: a token is bound to objects as they are when it is made, by their uids; an agent
//! gets tokens only for the pods of its own node, for audiences that those pods name.

use super::{Caller, Objects, Place, settle, timestamp};
use crate::auth::account_tokens::{Issue, reference};
use crate::auth::bearer::Bearer;
use crate::watch::Object;
use bowline_api::object::{self, text};
use bowline_api::resource::{Resource, TOKEN_REQUEST, find};
use bowline_api::status::Status;
use bowline_api::validation::FieldError;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a token is bound to, by the names that claims have for it.
type References = BTreeMap<&'static str, Value>;

/// The request with the token in its status, for the account at `place`.
pub(crate) async fn request(
    objects: &Objects,
    bearer: &Bearer,
    caller: &mut Caller,
    place: &Place,
    mut value: Value,
) -> Result<Value, Status> {
    let (namespace, name) = (place.namespace.as_str(), place.name.as_str());
    let posted = Place { resource: &TOKEN_REQUEST, ..place.clone() };
    settle(&posted, &mut value)?;
    caller.decode(&TOKEN_REQUEST, &mut value)?;
    let said = object::name(&value);
    if !said.is_empty() && said != name {
        let error = FieldError {
            field: "metadata.name".to_owned(),
            reason: "FieldValueInvalid",
            detail: format!(
                "Invalid value: {said:?}: must match the service account name if specified"
            ),
        };
        return Err(Status::invalid(&TOKEN_REQUEST, name, &[error]));
    }
    let account = objects.get(place).await?;
    object::set_metadata(&mut value, "name", name);
    object::set_metadata(&mut value, "creationTimestamp", &timestamp(Duration::ZERO));
    (TOKEN_REQUEST.apply_defaults)(&mut value);
    let asked = texts(&value["spec"]["audiences"]);
    let audiences = if asked.is_empty() { bearer.audiences.clone() } else { asked.clone() };
    value["spec"]["audiences"] = json!(audiences);
    let errors = (TOKEN_REQUEST.validate)(&value, None);
    if !errors.is_empty() {
        return Err(Status::invalid(&TOKEN_REQUEST, "", &errors));
    }
    check_node(objects, caller, place, &value["spec"]["boundObjectRef"], &asked).await?;
    let mut references = bound(objects, place, &value["spec"]["boundObjectRef"]).await?;
    references.insert("serviceaccount", reference(name, object::uid(&account.value)));
    let seconds = value["spec"]["expirationSeconds"].as_u64().unwrap_or_default();
    let (now, life) = (Timestamp::now(), Duration::from_secs(seconds));
    let issue = Issue { namespace, account: name, references, audiences: &audiences, now, life };
    let token = bearer.accounts.issue(&issue).map_err(|error| Status::internal_error(&error))?;
    value["status"] = json!({ "token": token, "expirationTimestamp": timestamp(life) });
    value["apiVersion"] = Value::from(TOKEN_REQUEST.api_version());
    value["kind"] = Value::from(TOKEN_REQUEST.kind);
    Ok(value)
}

fn texts(list: &Value) -> Vec<String> {
    let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// The object of the core group with this name, in the namespace of `near` if it has one.
async fn get(
    objects: &Objects,
    near: &Place,
    plural: &str,
    name: &str,
) -> Result<Arc<Object>, Status> {
    let resource: &'static Resource = find("", "v1", plural).ok_or_else(Status::unknown_path)?;
    let namespace = if resource.namespaced { near.namespace.clone() } else { String::new() };
    objects.get(&Place { resource, namespace, name: name.to_owned() }).await
}

/// What the token of the account at `place` is bound to.
async fn bound(objects: &Objects, place: &Place, asked: &Value) -> Result<References, Status> {
    let mut references = References::new();
    if !asked.is_object() {
        return Ok(references);
    }
    let (version, kind) = (text(asked, "apiVersion"), text(asked, "kind"));
    let name = text(asked, "name");
    let (claim, plural) = match (version.contains('/'), kind) {
        (false, "Pod") => ("pod", "pods"),
        (false, "Node") => ("node", "nodes"),
        (false, "Secret") => ("secret", "secrets"),
        _ => {
            let version =
                if version.contains('/') { version.to_owned() } else { format!("/{version}") };
            let message = format!("cannot bind token to object of type {version}, Kind={kind}");
            return Err(Status::bad_request(message));
        }
    };
    let object = get(objects, place, plural, name).await?;
    let spec = &object.value["spec"];
    if claim == "pod" && spec["serviceAccountName"] != place.name.as_str() {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different \
             serviceaccount name.",
            place.name
        )));
    }
    let node = text(spec, "nodeName");
    if claim == "pod" && !node.is_empty() {
        let found = get(objects, place, "nodes", node).await;
        let uid = found.as_ref().map_or("", |node| object::uid(&node.value));
        references.insert("node", reference(node, uid));
    }
    let (uid, claimed) = (object::uid(&object.value), text(asked, "uid"));
    if !claimed.is_empty() && claimed != uid {
        return Err(another_uid(kind, name, claimed));
    }
    references.insert(claim, reference(name, uid));
    Ok(references)
}

/// The one conflict that names a kind where others name a resource.
fn another_uid(kind: &str, name: &str, claimed: &str) -> Status {
    let cause = format!(
        "the UID in the bound object reference ({claimed}) does not match the UID in record. \
         The object might have been deleted and then recreated"
    );
    Status {
        code: 409,
        reason: "Conflict",
        details: json!({ "name": name, "kind": kind }),
        ..Status::bad_request(format!("Operation cannot be fulfilled on {kind} {name:?}: {cause}"))
    }
}

/// Whether the token is one that an agent may have, if an agent asks.
async fn check_node(
    objects: &Objects,
    caller: &Caller,
    place: &Place,
    bound: &Value,
    audiences: &[String],
) -> Result<(), Status> {
    let Some(node) = caller.user.node() else { return Ok(()) };
    let refused = |cause: &str| Err(Status::forbidden(place.resource, &place.name, cause));
    let (name, uid) = (text(bound, "name"), text(bound, "uid"));
    if text(bound, "apiVersion") != "v1" || text(bound, "kind") != "Pod" || name.is_empty() {
        return refused("node requested token not bound to a pod");
    }
    if uid.is_empty() {
        return refused("node requested token with a pod binding without a uid");
    }
    let pod = get(objects, place, "pods", name).await?;
    let own = object::uid(&pod.value);
    if uid != own {
        return refused(&format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record \
             ({own}). The object might have been deleted and then recreated"
        ));
    }
    if text(&pod.value["spec"], "nodeName") != node {
        return refused("node requested token bound to a pod scheduled on a different node");
    }
    let audience = match audiences {
        [] => "",
        [one] => one.as_str(),
        _ => return refused("node may only request 0 or 1 audiences"),
    };
    if !names_audience(&pod.value["spec"], audience) {
        return refused(&format!("audience {audience:?} not found in pod spec volume"));
    }
    Ok(())
}

/// Whether a volume of the pod asks for a token for the audience; an empty one is this server.
fn names_audience(spec: &Value, audience: &str) -> bool {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let sources =
        volumes.flat_map(|it| it["projected"]["sources"].as_array().into_iter().flatten());
    let mut tokens = sources.map(|it| &it["serviceAccountToken"]).filter(|it| it.is_object());
    tokens.any(|token| text(token, "audience") == audience)
}
