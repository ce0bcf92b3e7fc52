//! Changing objects.

use super::{CONFLICT_RETRIES, Caller, Objects, Place, make_stored, settle};
use crate::admission::{Admission, Reserved};
use crate::store::Write;
use crate::watch::Object;
use bowline_api::pod_parts::{self, PodPart};
use bowline_api::status::Status;
use bowline_api::{managed, object};
use serde_json::Value;
use std::sync::Arc;

/// Kinds whose objects an update makes when they are absent, as their writers expect.
const CREATED_BY_UPDATE: [&str; 5] = ["endpoints", "events", "leases", "limitranges", "services"];
/// Kinds that only their reader may write: an update must name the revision it read.
const ALWAYS_VERSIONED: [&str; 7] = [
    "csidrivers",
    "csinodes",
    "csistoragecapacities",
    "leases",
    "poddisruptionbudgets",
    "runtimeclasses",
    "volumeattachments",
];

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status, where the kind has a status subresource.
    Main,
    Status,
    /// A namespace's `spec.finalizers`.
    Finalize,
    /// A pod's node, and the condition that says so.
    Binding,
    OfPod(PodPart),
}

/// How the writer gets into the object's entries of managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    /// By what the write changes.
    ByChange,
    /// It is there: a configuration was applied.
    Already,
}

/// What one try to write an update came to.
enum Tried {
    Done(Arc<Object>),
    /// Somebody else wrote in between.
    Overtaken,
}

impl Objects {
    /// Replaces a part of the object. The second value is whether it was created.
    pub(crate) async fn replace(
        &self,
        caller: &mut Caller,
        place: &Place,
        part: Part,
        value: Value,
    ) -> Result<(Arc<Object>, bool), Status> {
        let said = object::name(&value);
        if !said.is_empty() && said != place.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({said}) does not match the name on the URL ({})",
                place.name
            )));
        }
        let unversioned = object::resource_version(&value).is_empty();
        let plural = place.resource.plural;
        if part == Part::Main && unversioned && CREATED_BY_UPDATE.contains(&plural) {
            match self.get(place).await {
                Err(missing) if missing.code == 404 => {
                    let mut value = value;
                    object::set_metadata(&mut value, "name", &place.name);
                    return Ok((self.create(caller, place, value).await?, true));
                }
                other => other?,
            };
        }
        if unversioned && ALWAYS_VERSIONED.contains(&plural) {
            return Err(Status::invalid(
                place.resource,
                &place.name,
                &[bowline_api::validation::FieldError {
                    field: "metadata.resourceVersion".to_owned(),
                    reason: "FieldValueInvalid",
                    detail: "Invalid value: 0: must be specified for an update".to_owned(),
                }],
            ));
        }
        let updated = self.change(caller, place, part, &|_| Ok(value.clone())).await?;
        Ok((updated, false))
    }

    /// Writes what `make` makes of the current object, again when somebody else was faster. It is
    /// given what is stored, and gives an object in the version of the place.
    pub(crate) async fn change(
        &self,
        caller: &mut Caller,
        place: &Place,
        part: Part,
        make: &(dyn Fn(&Object) -> Result<Value, Status> + Sync),
    ) -> Result<Arc<Object>, Status> {
        self.change_noted(caller, place, part, Noted::ByChange, make).await
    }

    pub(super) async fn change_noted(
        &self,
        caller: &mut Caller,
        place: &Place,
        part: Part,
        noted: Noted,
        make: &(dyn Fn(&Object) -> Result<Value, Status> + Sync),
    ) -> Result<Arc<Object>, Status> {
        for _ in 0..CONFLICT_RETRIES {
            let current = self.get(place).await?;
            let proposed = make(&current)?;
            caller.warnings.clear();
            match self.try_update(caller, place, (part, noted), &current, proposed).await? {
                Tried::Done(object) => {
                    if matches!(part, Part::Main) {
                        caller.warnings.extend(Admission::warnings(place, &object.value));
                    }
                    return Ok(object);
                }
                Tried::Overtaken => {}
            }
        }
        Err(Status::modified(place.resource, &place.name))
    }

    async fn try_update(
        &self,
        caller: &mut Caller,
        place: &Place,
        (part, noted): (Part, Noted),
        current: &Object,
        mut value: Value,
    ) -> Result<Tried, Status> {
        let resource = place.resource;
        check_versions(place, current, &value)?;
        settle(place, &mut value)?;
        caller.decode(resource, &mut value)?;
        let (old, revision) = (&current.value, current.revision);
        prepare(caller, place, (part, noted), &mut value, old);
        object::set_metadata(&mut value, "resourceVersion", &revision.to_string());
        managed::keep_times(&mut value, old);
        self.admission.check_update(&caller.user, place, &value, old)?;
        let errors = match part {
            // A binding changes what an update may not.
            Part::Binding => Vec::new(),
            Part::OfPod(part) => pod_parts::validate(part, &value, old),
            _ => (resource.validate)(&value, Some(old)),
        };
        if !errors.is_empty() {
            return Err(Status::invalid(resource, &place.name, &errors));
        }
        let reserved = match part {
            Part::Main => {
                self.admission.check_valid(place, &value, Some(old))?;
                self.admission.allocate(place, &mut value, Some(old)).await?
            }
            Part::OfPod(PodPart::Resources) => {
                // What a pod may ask for, a resize may.
                self.admission.check_valid(place, &value, None)?;
                self.admission.allocate(place, &mut value, Some(old)).await?
            }
            Part::Status | Part::Finalize | Part::Binding | Part::OfPod(_) => Reserved::default(),
        };
        if value == *old {
            return Ok(Tried::Done(Arc::new(Object::new(place.key(), value, revision))));
        }
        let write = if super::delete::is_finished(resource, &value) {
            Write::Delete { at: revision }
        } else {
            Write::Update { at: revision, value: Object::encode(value.clone()) }
        };
        if caller.dry_run {
            return Ok(Tried::Done(Arc::new(Object::new(place.key(), value, revision))));
        }
        match self.write(place, write, reserved).await? {
            Some(revision) => Ok(Tried::Done(Arc::new(Object::new(place.key(), value, revision)))),
            None => Ok(Tried::Overtaken),
        }
    }
}

/// Makes of what the client sent what is to be stored, and notes who it was.
fn prepare(
    caller: &Caller,
    place: &Place,
    (part, noted): (Part, Noted),
    value: &mut Value,
    old: &Value,
) {
    let (resource, stored) = (place.resource, place.resource.storage());
    // Of a part, where the rest is taken from the old object.
    let entries = match (noted, part) {
        (Noted::Already, Part::Status | Part::Finalize | Part::OfPod(_)) => {
            value["metadata"]["managedFields"].clone()
        }
        _ => Value::Null,
    };
    if matches!(part, Part::Main | Part::OfPod(_)) {
        (resource.apply_defaults)(value);
    }
    make_stored(resource, value);
    match part {
        Part::Main => {
            if noted == Noted::ByChange {
                caller.note(resource, Some(old), value);
            }
            object::prepare_for_update(stored, value, old);
            return;
        }
        Part::Status => object::prepare_for_status_update(stored, value, old),
        Part::Finalize => {
            let finalizers = value["spec"]["finalizers"].take();
            *value = old.clone();
            value["spec"]["finalizers"] = finalizers;
        }
        Part::OfPod(part) => pod_parts::keep_only(part, value, old),
        // Made by the server itself from the current object; whose it is, is not noted.
        Part::Binding => return,
    }
    match noted {
        Noted::ByChange => caller.note(resource, Some(old), value),
        Noted::Already if entries.is_null() => {
            object::metadata_mut(value).remove("managedFields");
        }
        Noted::Already => {
            object::metadata_mut(value).insert("managedFields".to_owned(), entries);
        }
    }
}

/// The identity and the revision that a writer names must be the current ones.
fn check_versions(place: &Place, current: &Object, value: &Value) -> Result<(), Status> {
    let version = object::resource_version(value);
    if !matches!(version, "" | "0") && version != current.revision.to_string() {
        return Err(Status::modified(place.resource, &place.name));
    }
    let (uid, own) = (object::uid(value), object::uid(&current.value));
    if !uid.is_empty() && uid != own {
        let cause =
            format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
        return Err(Status::conflict(place.resource, &place.name, &cause));
    }
    Ok(())
}
