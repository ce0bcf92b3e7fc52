//! The verbs on resources.

use super::negotiate::{self, Form, Offer};
use super::path::Target;
use super::query::Query;
use super::{Api, body, logs, options, patches, respond, watch};
use crate::auth::User;
use crate::auth::authorizer::Act;
use crate::objects::{
    Application, Caller, DeleteOptions, Deleted, Eviction, List, Part, Place, reviews, token,
};
use crate::watch::Object;
use axum::extract::Request;
use axum::response::Response;
use bowline_api::managed::APPLY_MEDIA_TYPE;
use bowline_api::object;
use bowline_api::patch::{self, PatchFailed, PatchKind};
use bowline_api::pod_parts::PodPart;
use bowline_api::selector::FieldSelector;
use bowline_api::status::Status;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use std::sync::Arc;

/// Where bindings of all pods of a namespace are posted.
const BINDINGS: &str = "bindings";

/// A request on a resource, read and allowed.
struct Call<'a> {
    api: &'a Arc<Api>,
    target: &'a Target,
    query: &'a Query,
    headers: &'a HeaderMap,
    form: Form,
    caller: Caller,
}

pub(super) async fn serve(
    api: &Arc<Api>,
    user: &User,
    target: Target,
    query: &Query,
    request: Request,
) -> Result<Response, Status> {
    let (head, body) = request.into_parts();
    let verb = verb(&head.method, &target, query)?;
    authorize(api, user, &target, verb, query)?;
    let resource = target.resource;
    let offer = Offer::of(&resource.api_version(), resource.kind, verb == "watch");
    let form = match target.subresource.as_str() {
        "log" => Form::JSON,
        _ => negotiate::form(&head.headers, query, &offer)?,
    };
    let headers = &head.headers;
    options::check_write(verb, headers, query)?;
    let body = body::read(body).await?;
    let caller = options::caller(user, &target, query, headers);
    let mut call = Call { api, target: &target, query, headers, form, caller };
    let mut response = match verb {
        "get" => call.get().await,
        "list" => call.list().await,
        "watch" => {
            let open = api.bounds.watch(user)?;
            watch::serve(api, &target, query, form, open).await
        }
        "create" => call.create(&body).await,
        "update" => call.update(&body).await,
        "patch" => call.patch(&body).await,
        "delete" => call.delete(&body).await,
        _ => call.delete_collection(&body).await,
    }?;
    respond::warn(&mut response, &call.caller.warnings);
    Ok(response)
}

fn verb(method: &Method, target: &Target, query: &Query) -> Result<&'static str, Status> {
    let collection = target.name.is_empty();
    let verb = match (method.as_str(), collection) {
        ("GET" | "HEAD", _) if query.flag("watch") && target.subresource.is_empty() => "watch",
        ("GET" | "HEAD", false) => "get",
        ("GET" | "HEAD", true) => "list",
        ("POST", _) => "create",
        ("PUT", false) => "update",
        ("PATCH", false) => "patch",
        ("DELETE", false) => "delete",
        ("DELETE", true) => "deletecollection",
        _ => "",
    };
    let allowed = match (target.subresource.as_str(), verb) {
        (_, "") => false,
        ("", "create") => collection && target.resource.verbs.contains(&"create"),
        ("", verb) => target.resource.verbs.contains(&verb),
        ("status" | "scale", verb) => matches!(verb, "get" | "update" | "patch"),
        ("finalize", verb) => verb == "update",
        (name, verb) => {
            let sub = target.resource.subresources.iter().find(|sub| sub.name == name);
            sub.is_some_and(|sub| sub.verbs.contains(&verb))
        }
    };
    // An object lives in a namespace; a write to all of them means nothing.
    let everywhere = target.resource.namespaced && target.namespace.is_empty();
    let placed = !everywhere || matches!(verb, "list" | "watch");
    if allowed && placed {
        return Ok(verb);
    }
    Err(Status::method_not_allowed(
        "the server does not allow this method on the requested resource",
    ))
}

fn authorize(
    api: &Api,
    user: &User,
    target: &Target,
    verb: &'static str,
    query: &Query,
) -> Result<(), Status> {
    // A list or watch that names one object is judged as a read of that object, and one that names
    // a pod's node as a read of that node's pods.
    let fields = FieldSelector::parse(target.resource, query.get("fieldSelector")).ok();
    let selected = fields.as_ref().and_then(|fields| fields.required("metadata.name"));
    let node = fields.as_ref().and_then(|fields| fields.required("spec.nodeName"));
    let name = if target.name.is_empty() { selected.unwrap_or("") } else { &target.name };
    let act = Act {
        verb,
        group: target.resource.group,
        resource: target.resource.plural,
        namespace: &target.namespace,
        name,
        node: node.unwrap_or(""),
        subresource: &target.subresource,
    };
    api.authorizer.authorize(user, &act).map_err(|reason| {
        let refusal = act.refusal(user);
        let cause = match reason {
            Some(reason) => format!("{refusal}: {reason}"),
            None => refusal,
        };
        Status::forbidden(target.resource, &target.name, &cause)
    })
}

impl Call<'_> {
    fn place(&self) -> Place {
        Place {
            resource: self.target.resource,
            namespace: self.target.namespace.clone(),
            name: self.target.name.clone(),
        }
    }

    fn object(&self, code: StatusCode, object: &Object) -> Result<Response, Status> {
        respond::object(code, self.form, self.target.resource, object)
    }

    /// An object that is not of the target's kind.
    fn other(&self, object: &Value) -> Result<Response, Status> {
        respond::other(StatusCode::OK, self.form.encoding, object)
    }

    async fn get(&self) -> Result<Response, Status> {
        let place = self.place();
        let objects = &self.api.objects;
        match self.target.subresource.as_str() {
            "log" => logs::serve(self.api, &place, self.query).await,
            // Its kind has no columns of its own.
            "scale" => {
                let scale = objects.scale(&place).await?;
                self.other(&scale.value)
            }
            _ => {
                let version = self.query.get("resourceVersion");
                self.object(StatusCode::OK, &*objects.get_since(&place, version).await?)
            }
        }
    }

    async fn list(&self) -> Result<Response, Status> {
        let filter = options::filter(self.target, self.query)?;
        let options = options::list(self.query)?;
        let resource = self.target.resource;
        let list = self.api.objects.list(resource, &filter, &options).await?;
        respond::list(self.form, resource, &list)
    }

    /// The object in the body. What it says twice is for `decode` to judge.
    fn sent(&mut self, body: &[u8]) -> Result<Value, Status> {
        let document = body::object(self.headers, body)?;
        self.caller.complaints = document.complaints();
        Ok(document.value)
    }

    async fn create(&mut self, body: &[u8]) -> Result<Response, Status> {
        let value = self.sent(body)?;
        let place = self.place();
        let objects = &self.api.objects;
        match self.target.subresource.as_str() {
            "binding" => {
                objects.bind(&mut self.caller, &place, &value).await?;
                Ok(respond::status(self.form.encoding, &Status::success(201)))
            }
            "eviction" => {
                let eviction = Eviction::read(&place, value)?;
                let body = eviction.options().map(Value::to_string).unwrap_or_default();
                let json = HeaderMap::new();
                let options =
                    options::delete(&json, self.query, body.as_bytes(), &mut self.caller)?;
                objects.evict(&self.caller, &place, &options).await?;
                Ok(respond::status(self.form.encoding, &Status::success(201)))
            }
            // The same, before pods had it as a subresource.
            _ if place.resource.plural == BINDINGS => {
                let place = Place::of_pod(&place.namespace, object::name(&value))?;
                objects.bind(&mut self.caller, &place, &value).await?;
                Ok(respond::status(self.form.encoding, &Status::success(201)))
            }
            "token" => {
                let (api, caller) = (self.api, &mut self.caller);
                let answer = token::request(objects, &api.bearer, caller, &place, value).await?;
                respond::other(StatusCode::CREATED, self.form.encoding, &answer)
            }
            _ if place.resource.stored => {
                let created = objects.create(&mut self.caller, &place, value).await?;
                self.object(StatusCode::CREATED, &created)
            }
            _ => {
                let judges = (&*self.api.authorizer, &self.api.bearer);
                let answer = reviews::answer(judges, &mut self.caller, &place, value)?;
                self.object(StatusCode::CREATED, &answer)
            }
        }
    }

    fn part(&self) -> Part {
        match self.target.subresource.as_str() {
            "status" => Part::Status,
            "finalize" => Part::Finalize,
            "ephemeralcontainers" => Part::OfPod(PodPart::EphemeralContainers),
            "resize" => Part::OfPod(PodPart::Resources),
            _ => Part::Main,
        }
    }

    async fn update(&mut self, body: &[u8]) -> Result<Response, Status> {
        let value = self.sent(body)?;
        let (place, part) = (self.place(), self.part());
        let objects = &self.api.objects;
        if self.target.subresource == "scale" {
            if !object::name(&value).is_empty() {
                place.check_name(&value)?;
            }
            let make = |_: &Object| Ok(value.clone());
            let scale = objects.change_scale(&mut self.caller, &place, &make).await?;
            return self.other(&scale.value);
        }
        let (object, created) = objects.replace(&mut self.caller, &place, part, value).await?;
        let code = if created { StatusCode::CREATED } else { StatusCode::OK };
        self.object(code, &object)
    }

    async fn patch(&mut self, body: &[u8]) -> Result<Response, Status> {
        let content_type = body::content_type(self.headers);
        if content_type == APPLY_MEDIA_TYPE {
            return self.apply(body).await;
        }
        let kind = PatchKind::from_content_type(content_type).ok_or_else(|| {
            let [json, merge, strategic] = PatchKind::MEDIA_TYPES;
            Status::unsupported_media_type(&[json, merge, strategic, APPLY_MEDIA_TYPE])
        })?;
        let patch = patches::read(kind, body, &mut self.caller)?;
        let (place, part) = (self.place(), self.part());
        let resource = self.target.resource;
        let patched = |shown: &Value| -> Result<Value, Status> {
            let patched = patch::apply(kind, resource, shown, &patch).map_err(|e| match e {
                PatchFailed::Malformed(message) => Status::bad_request(message),
                PatchFailed::Unprocessable(message) => {
                    Status { code: 422, reason: "Invalid", ..Status::bad_request(message) }
                }
            })?;
            place.check_name(&patched)?;
            Ok(patched)
        };
        let objects = &self.api.objects;
        if self.target.subresource == "scale" {
            let make = |scale: &Object| patched(&scale.value);
            let scale = objects.change_scale(&mut self.caller, &place, &make).await?;
            return self.other(&scale.value);
        }
        let make = |current: &Object| patched(&resource.shown(&current.value));
        let object = objects.change(&mut self.caller, &place, part, &make).await?;
        self.object(StatusCode::OK, &object)
    }

    async fn apply(&mut self, body: &[u8]) -> Result<Response, Status> {
        let document = body::configuration(body)?;
        self.caller.complaints = document.complaints();
        let force = self.query.flag("force");
        let (place, part, config) = (self.place(), self.part(), &document.value);
        let objects = &self.api.objects;
        if self.target.subresource == "scale" {
            let scale = objects.apply_scale(&mut self.caller, &place, config, force).await?;
            return self.other(&scale.value);
        }
        let user = self.caller.user.clone();
        let may_create = || authorize(self.api, &user, self.target, "create", self.query);
        let may_create: Option<&(dyn Fn() -> Result<(), Status> + Sync)> = match part {
            Part::Main => Some(&may_create),
            _ => None,
        };
        let application = Application { config, force, may_create };
        let applied = objects.apply(&mut self.caller, &place, part, &application).await?;
        let (object, created) = applied;
        let code = if created { StatusCode::CREATED } else { StatusCode::OK };
        self.object(code, &object)
    }

    fn delete_options(&mut self, body: &[u8]) -> Result<DeleteOptions, Status> {
        options::delete(self.headers, self.query, body, &mut self.caller)
    }

    async fn delete(&mut self, body: &[u8]) -> Result<Response, Status> {
        let options = self.delete_options(body)?;
        let place = self.place();
        match self.api.objects.delete(&self.caller, &place, &options).await? {
            Deleted::Marked(object) => self.object(StatusCode::OK, &object),
            Deleted::Gone(object) if place.resource.shows_deleted => {
                self.object(StatusCode::OK, &object)
            }
            Deleted::Gone(gone) => {
                let uid = object::uid(&gone.value);
                let deleted = Status::deleted(place.resource, &place.name, uid);
                Ok(respond::status(self.form.encoding, &deleted))
            }
        }
    }

    async fn delete_collection(&mut self, body: &[u8]) -> Result<Response, Status> {
        let options = self.delete_options(body)?;
        let filter = options::filter(self.target, self.query)?;
        let resource = self.target.resource;
        let objects = &self.api.objects;
        let objects = objects.delete_collection(&self.caller, resource, &filter, &options).await?;
        let revision = self.api.caches.applied();
        let list = List { objects, revision, next: None, remaining: None };
        respond::list(self.form, resource, &list)
    }
}
