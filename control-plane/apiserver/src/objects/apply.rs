//! Server-side apply: a configuration is merged into the object, or makes it.

use super::update::Noted;
use super::{CONFLICT_RETRIES, Caller, Objects, Part, Place, timestamp};
use crate::watch::Object;
use bowline_api::managed::{self, ApplyFailed};
use bowline_api::object;
use bowline_api::status::Status;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// What is applied, and how.
pub(crate) struct Application<'a> {
    pub(crate) config: &'a Value,
    /// Whether to take what others manage.
    pub(crate) force: bool,
    /// Whether the caller may make the object; `None` where an absent one is not made.
    pub(crate) may_create: Option<&'a (dyn Fn() -> Result<(), Status> + Sync)>,
}

impl Objects {
    /// Applies a configuration to a part of the object. The second value is whether the object was
    /// created.
    pub(crate) async fn apply(
        &self,
        caller: &mut Caller,
        place: &Place,
        part: Part,
        application: &Application<'_>,
    ) -> Result<(Arc<Object>, bool), Status> {
        for _ in 0..CONFLICT_RETRIES {
            match self.get(place).await {
                Err(missing) if missing.code == 404 => {
                    let may_create = application.may_create.ok_or(missing)?;
                    may_create()?;
                    match self.create_applied(caller, place, application).await {
                        // Somebody else made it in between.
                        Err(taken) if taken.reason == "AlreadyExists" => {}
                        created => return created.map(|object| (object, true)),
                    }
                }
                other => {
                    other?;
                    match self.change_applied(caller, place, part, application).await {
                        // Somebody else deleted it in between.
                        Err(gone) if gone.code == 404 => {}
                        changed => return changed.map(|object| (object, false)),
                    }
                }
            }
        }
        Err(Status::modified(place.resource, &place.name))
    }

    async fn change_applied(
        &self,
        caller: &mut Caller,
        place: &Place,
        part: Part,
        application: &Application<'_>,
    ) -> Result<Arc<Object>, Status> {
        let now = timestamp(Duration::ZERO);
        let (manager, subresource) = (caller.manager.clone(), caller.subresource.clone());
        let make = |current: &Object| -> Result<Value, Status> {
            let writer =
                managed::Writer { manager: &manager, subresource: &subresource, now: &now };
            let Application { config, force, .. } = application;
            let applied =
                managed::apply(place.resource, Some(&current.value), config, &writer, *force)
                    .map_err(failed)?;
            place.check_name(&applied)?;
            Ok(applied)
        };
        self.change_noted(caller, place, part, Noted::Already, &make).await
    }

    async fn create_applied(
        &self,
        caller: &mut Caller,
        place: &Place,
        application: &Application<'_>,
    ) -> Result<Arc<Object>, Status> {
        let Application { config, force, .. } = application;
        let now = timestamp(Duration::ZERO);
        let applied = managed::apply(place.resource, None, config, &caller.writer(&now), *force)
            .map_err(failed)?;
        let uid = object::uid(&applied);
        if !uid.is_empty() {
            let cause = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object \
                 was found"
            );
            return Err(Status::conflict(place.resource, &place.name, &cause));
        }
        if object::name(&applied).is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({} based on URL) was undeterminable: name must be \
                 provided",
                place.name
            )));
        }
        place.check_name(&applied)?;
        if !object::resource_version(&applied).is_empty() {
            return Err(Status::modified(place.resource, &place.name));
        }
        self.create_noted(caller, place, Noted::Already, applied).await
    }
}

fn failed(error: ApplyFailed) -> Status {
    let message = error.to_string();
    match error {
        ApplyFailed::Malformed(_) => Status::bad_request(message),
        ApplyFailed::Untyped(_) => Status::unexpected(message),
        ApplyFailed::Conflicts(conflicts) => Status::apply_conflict(&conflicts, message),
    }
}
