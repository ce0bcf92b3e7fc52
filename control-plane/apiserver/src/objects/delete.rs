//! Deleting objects: at once, after their agent is done, or after their finalizers are.

use super::unreadable::read_failed;
use super::{CONFLICT_RETRIES, Caller, Objects, Place, timestamp};
use crate::store::Write;
use crate::watch::{Filter, Object};
use bowline_api::object;
use bowline_api::resource::Resource;
use bowline_api::status::Status;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// The time a pod gets to stop when neither it nor the caller says.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// What becomes of the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They stay, without their owner.
    Orphan,
    /// They are collected after it.
    Background,
    /// They are collected before it.
    Foreground,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_seconds: Option<i64>,
    /// The object must have this identity.
    pub(crate) uid: Option<String>,
    /// The object must be at this revision.
    pub(crate) resource_version: Option<String>,
    pub(crate) propagation: Option<Propagation>,
    /// What cannot be read is deleted all the same.
    pub(crate) ignore_read_error: bool,
}

/// What a delete came to.
pub(crate) enum Deleted {
    /// The object is gone.
    Gone(Arc<Object>),
    /// It is marked, and goes when its agent or its finalizers are done.
    Marked(Arc<Object>),
}

/// Whether an object that is marked for deletion has nothing left to wait for.
pub(super) fn is_finished(resource: &Resource, value: &Value) -> bool {
    if object::deletion_timestamp(value).is_none() || !object::finalizers(value).is_empty() {
        return false;
    }
    let waits_for_content = value["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    if resource.plural == "namespaces" && waits_for_content {
        return false;
    }
    !resource.graceful_delete || grace_of(value) == 0
}

fn grace_of(value: &Value) -> i64 {
    value["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0)
}

impl Objects {
    pub(crate) async fn delete(
        &self,
        caller: &Caller,
        place: &Place,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        self.admission.check_delete(place)?;
        let _closed = match place.resource.plural {
            "namespaces" => Some(self.namespaces.write().await),
            _ => None,
        };
        for _ in 0..CONFLICT_RETRIES {
            let current = match self.get(place).await {
                Err(_) if options.ignore_read_error => {
                    if let Some(done) = self.delete_unreadable(caller, place).await? {
                        return Ok(done);
                    }
                    self.get(place).await?
                }
                current => current?,
            };
            check_preconditions(place, &current, options)?;
            if let Some(done) = self.try_delete(caller, place, &current, options).await? {
                return Ok(done);
            }
        }
        Err(Status::modified(place.resource, &place.name))
    }

    /// Deletes every selected object and returns what it found.
    pub(crate) async fn delete_collection(
        &self,
        caller: &Caller,
        resource: &'static Resource,
        filter: &Filter,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Object>>, Status> {
        self.catch_up().await?;
        let cache = self.caches.of(resource);
        let unreadable = cache.unreadables(filter);
        if !unreadable.is_empty() {
            return Err(read_failed(resource, "", &unreadable));
        }
        let objects = cache.list(filter, None, None).objects;
        for found in &objects {
            let place = Place {
                resource,
                namespace: object::namespace(&found.value).to_owned(),
                name: object::name(&found.value).to_owned(),
            };
            match self.delete(caller, &place, options).await {
                // Somebody else deleted it in between.
                Err(status) if status.code == 404 => {}
                other => {
                    other?;
                }
            }
        }
        Ok(objects)
    }

    /// `None` when somebody else wrote in between.
    async fn try_delete(
        &self,
        caller: &Caller,
        place: &Place,
        current: &Object,
        options: &DeleteOptions,
    ) -> Result<Option<Deleted>, Status> {
        let marked = mark(place.resource, &current.value, options);
        self.write_marked(caller, place, current, marked).await
    }

    /// Writes what a delete makes of the object. `None` when somebody else wrote in between.
    pub(super) async fn write_marked(
        &self,
        caller: &Caller,
        place: &Place,
        current: &Object,
        marked: Value,
    ) -> Result<Option<Deleted>, Status> {
        let finished = is_finished(place.resource, &marked);
        let at = current.revision;
        let object = |revision| Arc::new(Object::new(place.key(), marked.clone(), revision));
        if !finished && marked == current.value {
            return Ok(Some(Deleted::Marked(object(at))));
        }
        let write = if finished {
            Write::Delete { at }
        } else {
            Write::Update { at, value: Object::encode(marked.clone()) }
        };
        let revision = if caller.dry_run {
            at
        } else {
            match self.write(place, write, ()).await? {
                Some(revision) => revision,
                None => return Ok(None),
            }
        };
        let object = object(revision);
        Ok(Some(if finished { Deleted::Gone(object) } else { Deleted::Marked(object) }))
    }
}

pub(super) fn check_preconditions(
    place: &Place,
    current: &Object,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let own_uid = object::uid(&current.value);
    let own_version = current.revision.to_string();
    let pairs = [
        ("UID", &options.uid, own_uid),
        ("ResourceVersion", &options.resource_version, own_version.as_str()),
    ];
    for (what, expected, own) in pairs {
        if let Some(expected) = expected
            && expected != own
        {
            let cause = format!(
                "Precondition failed: {what} in precondition: {expected}, {what} in object meta: \
                 {own}"
            );
            return Err(Status::conflict(place.resource, &place.name, &cause));
        }
    }
    Ok(())
}

/// The object with the marks of its deletion.
pub(super) fn mark(resource: &Resource, current: &Value, options: &DeleteOptions) -> Value {
    let mut value = current.clone();
    let grace = if resource.graceful_delete { grace(&value, options) } else { 0 };
    mark_propagation(resource, &mut value, options.propagation);
    let already = object::deletion_timestamp(&value).is_some();
    if already && grace >= grace_of(&value) {
        return value;
    }
    let generation = object::generation(&value);
    let metadata = object::metadata_mut(&mut value);
    let after = Duration::from_secs(grace.unsigned_abs());
    metadata.insert("deletionTimestamp".to_owned(), Value::from(timestamp(after)));
    metadata.insert("deletionGracePeriodSeconds".to_owned(), Value::from(grace));
    if generation > 0 && !already {
        metadata.insert("generation".to_owned(), Value::from(generation + 1));
    }
    if resource.plural == "namespaces" {
        value["status"]["phase"] = Value::from("Terminating");
    }
    value
}

/// The seconds a pod gets. One that no agent runs, or that has ended, gets none.
fn grace(pod: &Value, options: &DeleteOptions) -> i64 {
    let unbound = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unbound || ended {
        return 0;
    }
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
    match options.grace_seconds.or(own).unwrap_or(DEFAULT_GRACE_SECONDS) {
        // Less than nothing has always meant the shortest time that is one.
        ..0 => 1,
        seconds => seconds,
    }
}

fn mark_propagation(resource: &Resource, value: &mut Value, propagation: Option<Propagation>) {
    // These have left their pods behind since before there was a choice.
    let orphans = matches!(resource.plural, "replicationcontrollers" | "jobs");
    let default = if orphans { Some(Propagation::Orphan) } else { None };
    let held: Vec<&str> = object::finalizers(value);
    let wanted = match propagation {
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Background) => None,
        // Without a wish, what is there stays.
        None if held.contains(&ORPHAN) || held.contains(&FOREGROUND) => return,
        None => default.map(|_| ORPHAN),
    };
    let mut finalizers: Vec<Value> = held
        .into_iter()
        .filter(|finalizer| ![ORPHAN, FOREGROUND].contains(finalizer))
        .map(Value::from)
        .collect();
    finalizers.extend(wanted.map(Value::from));
    let metadata = object::metadata_mut(value);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), Value::from(finalizers));
    }
}
