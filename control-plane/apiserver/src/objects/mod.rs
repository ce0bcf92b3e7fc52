//! What a verb does to objects: the way of a write through checks, admission and the store, and
//! the way of a read through the caches.
//!
//! Guarantees: a write that is refused stores nothing; an update is a compare-and-swap, so that two
//! writers never overwrite each other unseen; a read shows everything that was acknowledged before
//! it began; what a write relies on is held until it is visible or has failed, also when the caller
//! goes away or is told that it took too long. It knows nothing of HTTP: failures are [`Status`]
//! values.
//!
//! What a caller sends is in the version of the [`Place`] it names; what is read, kept and given
//! back is in the version that is stored, and whoever answers shows it in the other one.

mod apply;
mod binding;
mod create;
mod delete;
mod eviction;
mod list;
pub(crate) mod reviews;
mod scale;
mod sent;
pub(crate) mod token;
pub(crate) mod unreadable;
mod update;

use crate::admission::Admission;
use crate::auth::User;
use crate::store::{Revision, Store, StoreError, Write, WriteFailed};
use crate::watch::{CacheBehind, Caches, Object};
use bowline_api::managed::{self, Writer};
use bowline_api::resource::{Resource, find};
use bowline_api::status::Status;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{RwLock, oneshot};

pub(crate) use apply::Application;
pub(crate) use delete::{DeleteOptions, Deleted, Propagation};
pub(crate) use eviction::Eviction;
pub(crate) use list::{List, ListOptions, parse_revision};
pub(crate) use sent::Sent;
pub(crate) use update::Part;

/// How often a write is tried again when somebody else was faster.
const CONFLICT_RETRIES: usize = 8;
/// What the server is called as the manager of fields.
const SERVER_MANAGER: &str = "kube-apiserver";

/// Where an object is.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) resource: &'static Resource,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Place {
    /// The pod of this name, which a client gave.
    pub(crate) fn of_pod(namespace: &str, name: &str) -> Result<Self, Status> {
        let resource = find("", "v1", "pods").ok_or_else(Status::unknown_path)?;
        if name.is_empty() {
            return Err(Status::bad_request("metadata.name: Required value: name is required"));
        }
        Ok(Self { resource, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The key in the resource's cache.
    pub(crate) fn key(&self) -> String {
        if self.namespace.is_empty() {
            self.name.clone()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }

    fn store_key(&self) -> String {
        let (group, _) = self.resource.stored_as();
        crate::store::key(group, self.resource.plural, &self.namespace, &self.name)
    }

    /// Checks that an object has the name of the place.
    pub(crate) fn check_name(&self, value: &Value) -> Result<(), Status> {
        let said = bowline_api::object::name(value);
        if said == self.name {
            return Ok(());
        }
        Err(Status::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({})",
            self.name
        )))
    }

    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(self.resource, &self.name)
    }
}

/// What becomes of fields that the kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Who writes, and how.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) user: User,
    /// As the object's entries of managers name the writer.
    pub(crate) manager: String,
    /// Through which subresource; empty for the object itself.
    pub(crate) subresource: String,
    pub(crate) dry_run: bool,
    pub(crate) fields: FieldValidation,
    /// In what form the object comes.
    pub(crate) sent: Sent,
    /// What there is to say about the body, such as the fields that it has more than once.
    pub(crate) complaints: Vec<String>,
    /// For the client to see beside a success.
    pub(crate) warnings: Vec<String>,
}

impl Caller {
    /// The server itself, as the user.
    pub(crate) fn new(user: User) -> Self {
        Self {
            user,
            manager: SERVER_MANAGER.to_owned(),
            subresource: String::new(),
            dry_run: false,
            fields: FieldValidation::Ignore,
            sent: Sent::Whole,
            complaints: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Who writes, for the entries of managers.
    fn writer<'a>(&'a self, now: &'a str) -> Writer<'a> {
        Writer { manager: &self.manager, subresource: &self.subresource, now }
    }

    /// Notes the writer in an object that is as the client wants it, and is ready to be stored.
    fn note(&self, resource: &Resource, old: Option<&Value>, new: &mut Value) {
        managed::update(resource, old, new, &self.writer(&timestamp(Duration::ZERO)));
    }

    /// Checks the type of every field, and drops or refuses those that the kind does not have;
    /// refuses those that appear twice, if that is asked for.
    fn decode(&mut self, resource: &Resource, value: &mut Value) -> Result<(), Status> {
        if let Err(error) = (resource.decode)(value) {
            let shown = self.sent.shown(value);
            return Err(sent::refusal(resource, shown.as_deref(), false, &error.to_string()));
        }
        let strict = self.fields == FieldValidation::Strict;
        // Before the fields are dropped that a refusal is about.
        let shown = if strict { self.sent.shown(value) } else { None };
        let mut complaints = self.complaints.clone();
        complaints.extend(bowline_api::openapi::normalize(resource, value));
        if complaints.is_empty() || self.fields == FieldValidation::Ignore {
            return Ok(());
        }
        if strict {
            let why = complaints.join(", ");
            return Err(sent::refusal(resource, shown.as_deref(), true, &why));
        }
        self.warnings.extend(complaints);
        Ok(())
    }
}

/// See the module's documentation.
pub(crate) struct Objects {
    store: Arc<dyn Store>,
    caches: Arc<Caches>,
    admission: Admission,
    /// Held shared by whoever puts an object into a namespace, alone by whoever ends a namespace:
    /// nothing is put into one after its content has been looked at for the last time.
    namespaces: Arc<RwLock<()>>,
}

impl Objects {
    pub(crate) fn new(store: Arc<dyn Store>, caches: Arc<Caches>, admission: Admission) -> Self {
        Self { store, caches, admission, namespaces: Arc::default() }
    }

    /// Waits until the caches show every write that is acknowledged now.
    pub(crate) async fn catch_up(&self) -> Result<(), Status> {
        let revision = self.store.revision().await.map_err(store_failed)?;
        self.caches.wait_for(revision).await.map_err(behind)
    }

    /// Waits until the caches show a revision that a client names.
    pub(crate) async fn wait_for(&self, revision: Revision) -> Result<(), Status> {
        self.caches.wait_for(revision).await.map_err(behind)
    }

    /// Writes, and waits until the write is visible; until then `held` is not dropped, whatever
    /// becomes of the caller. `None` when somebody else wrote in between.
    async fn write(
        &self,
        place: &Place,
        write: Write,
        held: impl Send + 'static,
    ) -> Result<Option<Revision>, Status> {
        let (store, key) = (self.store.clone(), place.store_key());
        let mut applied = self.caches.subscribe();
        let (answer, written) = oneshot::channel();
        // A task of its own: callers go away.
        tokio::spawn(async move {
            let written = store.write(key, write).await;
            // Closing the store waits for no task.
            drop(store);
            let revision = written.as_ref().ok().copied();
            let _ = answer.send(written);
            if let Some(revision) = revision {
                // It fails when there are no caches any more, and nothing to hold either.
                let _ = applied.wait_for(|applied| *applied >= revision).await;
            }
            drop(held);
        });
        match written.await.unwrap_or(Err(WriteFailed::Store(StoreError::Closed))) {
            Ok(revision) => self.wait_for(revision).await.map(|()| Some(revision)),
            Err(WriteFailed::Conflict { .. }) => Ok(None),
            Err(WriteFailed::Store(error)) => Err(store_failed(error)),
        }
    }

    /// The object as it was at a revision that a client names, or later: `""` is now, `"0"` any.
    pub(crate) async fn get_since(
        &self,
        place: &Place,
        version: &str,
    ) -> Result<Arc<Object>, Status> {
        match version {
            "" => return self.get(place).await,
            "0" => {}
            version => self.wait_for(parse_revision(version)?).await?,
        }
        self.get_cached(place)
    }

    fn get_cached(&self, place: &Place) -> Result<Arc<Object>, Status> {
        let Some(object) = self.caches.of(place.resource).get(&place.key()) else {
            self.check_readable(place)?;
            return Err(place.not_found());
        };
        Ok(object)
    }

    pub(crate) async fn get(&self, place: &Place) -> Result<Arc<Object>, Status> {
        if self.catch_up().await.is_ok() {
            return self.get_cached(place);
        }
        // The caches are behind: one object can be had from the store itself.
        let entry = self.store.get(&place.store_key()).await.map_err(store_failed)?;
        let entry = entry.ok_or_else(|| place.not_found())?;
        let object = Object::read(place.key(), &entry.value, entry.modified);
        let object = object
            .map_err(|found| unreadable::read_failed(place.resource, &place.name, &[found]))?;
        Ok(Arc::new(object))
    }
}

fn behind(error: CacheBehind) -> Status {
    let mut status = Status::timeout(error.to_string());
    status.details = serde_json::json!({
        "retryAfterSeconds": 1,
        "causes": [{
            "reason": "ResourceVersionTooLarge",
            "message": "Too large resource version",
        }],
    });
    status
}

fn store_failed(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { .. } => Status::expired(error.to_string()),
        StoreError::Closed => Status::service_unavailable("the server is shutting down"),
        StoreError::Future { .. } => Status::timeout(error.to_string()),
        StoreError::Overloaded { .. } => {
            let mut status = Status::too_many_requests(error.to_string());
            status.details = serde_json::json!({ "retryAfterSeconds": 1 });
            status
        }
        StoreError::Engine(_) => Status::internal_error(&error),
    }
}

/// Checks that an object says of itself what its place says, and fills in what it leaves out.
fn settle(place: &Place, value: &mut Value) -> Result<(), Status> {
    check_type(value, &place.resource.api_version(), place.resource.kind)?;
    check_namespace(place, value)?;
    if bowline_api::object::namespace(value).is_empty() {
        bowline_api::object::set_metadata(value, "namespace", &place.namespace);
    }
    Ok(())
}

/// Checks that an object is of the kind that is asked for, if it says of which it is.
fn check_type(value: &Value, expected: &str, expected_kind: &str) -> Result<(), Status> {
    let said = |field: &str| value[field].as_str().unwrap_or_default();
    let (version, kind) = (said("apiVersion"), said("kind"));
    if !version.is_empty() && version != expected {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version \
             ({expected})"
        )));
    }
    if !kind.is_empty() && kind != expected_kind {
        return Err(Status::bad_request(format!(
            "the kind in the data ({kind}) does not match the expected kind ({expected_kind})"
        )));
    }
    Ok(())
}

/// Checks that an object is in the namespace of the place, if it says where it is.
fn check_namespace(place: &Place, value: &Value) -> Result<(), Status> {
    let namespace = bowline_api::object::namespace(value);
    if namespace.is_empty() || namespace == place.namespace {
        return Ok(());
    }
    Err(Status::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

/// Makes of an object that has the defaults of its version the one that is stored, with those of
/// that version.
fn make_stored(resource: &Resource, value: &mut Value) {
    if !resource.is_storage() {
        resource.make_stored(value);
        (resource.storage().apply_defaults)(value);
    }
}

/// Now, as timestamps are written: RFC 3339 in whole seconds.
pub(crate) fn timestamp(after: Duration) -> String {
    let now = jiff::Timestamp::now();
    let then = now.checked_add(after).unwrap_or(now);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod write_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_is_answered_with_when_to_come_back() {
        let status = store_failed(StoreError::Overloaded { waiting: 4096 });
        assert_eq!((status.code, status.reason), (429, "TooManyRequests"));
        assert_eq!(status.details["retryAfterSeconds"], 1);
        assert!(status.message.contains("4096 writes"), "{}", status.message);
    }
}
