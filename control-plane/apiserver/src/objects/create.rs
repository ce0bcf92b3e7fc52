//! Creating objects.

use super::update::Noted;
use super::{Caller, Objects, Place, make_stored, settle, timestamp};
use crate::admission::Admission;
use crate::store::Write;
use crate::watch::Object;
use bowline_api::object::{self, Creation};
use bowline_api::status::Status;
use rand::Rng;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// How many names are made up for an object with `generateName` before it fails.
const GENERATE_NAME_TRIES: usize = 8;
/// Letters of generated names: none that could be confused or spell a word.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;

impl Objects {
    /// Creates an object in the collection at `place`, whose name is ignored.
    pub(crate) async fn create(
        &self,
        caller: &mut Caller,
        place: &Place,
        value: Value,
    ) -> Result<Arc<Object>, Status> {
        self.create_noted(caller, place, Noted::ByChange, value).await
    }

    pub(super) async fn create_noted(
        &self,
        caller: &mut Caller,
        place: &Place,
        noted: Noted,
        mut value: Value,
    ) -> Result<Arc<Object>, Status> {
        let resource = place.resource;
        settle(place, &mut value)?;
        if !object::resource_version(&value).is_empty() {
            return Err(Status::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        caller.decode(resource, &mut value)?;
        (resource.apply_defaults)(&mut value);
        make_stored(resource, &mut value);
        if noted == Noted::ByChange {
            // Before the cluster adds its own: that is nobody's.
            caller.note(resource, None, &mut value);
        }
        // Before anything is held that the cluster may need for it.
        self.admission.wait_for_needs(place, &value).await;
        let generated = object::name(&value).is_empty()
            && !value["metadata"]["generateName"].as_str().unwrap_or_default().is_empty();
        let tries = if generated { GENERATE_NAME_TRIES } else { 1 };
        let mut last = Status::already_exists(resource, object::name(&value));
        for _ in 0..tries {
            match self.create_once(caller, place, value.clone()).await? {
                Ok(created) => {
                    caller.warnings.extend(Admission::warnings(place, &created.value));
                    return Ok(created);
                }
                Err(taken) => last = Status::already_exists(resource, &taken),
            }
        }
        Err(last)
    }

    /// Creates what is ready to be stored. The inner `Err` is a name that is taken.
    async fn create_once(
        &self,
        caller: &Caller,
        place: &Place,
        mut value: Value,
    ) -> Result<Result<Arc<Object>, String>, Status> {
        let (resource, stored) = (place.resource, place.resource.storage());
        let uid = uuid::Uuid::new_v4().to_string();
        let creation = Creation {
            uid: &uid,
            timestamp: &timestamp(Duration::ZERO),
            name_suffix: &name_suffix(),
        };
        object::prepare_for_create(stored, &mut value, &creation);
        (stored.apply_defaults)(&mut value);
        let open = match resource.namespaced {
            true => Some(self.namespaces.clone().read_owned().await),
            false => None,
        };
        self.catch_up().await?;
        self.admission.mutate_new(&caller.user, place, &mut value)?;
        let name = object::name(&value).to_owned();
        let errors = (resource.validate)(&value, None);
        if !errors.is_empty() {
            return Err(Status::invalid(resource, &name, &errors));
        }
        self.admission.check_valid(place, &value, None)?;
        let place = Place { name: name.clone(), ..place.clone() };
        let cache = self.caches.of(resource);
        if cache.get(&place.key()).is_some() {
            return Ok(Err(name));
        }
        let reserved = self.admission.allocate(&place, &mut value, None).await?;
        if caller.dry_run {
            return Ok(Ok(Arc::new(Object::new(place.key(), value, 0))));
        }
        let write = Write::Create(Object::encode(value.clone()));
        match self.write(&place, write, (reserved, open)).await? {
            Some(revision) => Ok(Ok(Arc::new(Object::new(place.key(), value, revision)))),
            None => Ok(Err(name)),
        }
    }
}

fn name_suffix() -> String {
    let mut random = rand::rng();
    (0..SUFFIX_LENGTH)
        .map(|_| char::from(SUFFIX_LETTERS[random.random_range(0..SUFFIX_LETTERS.len())]))
        .collect()
}
