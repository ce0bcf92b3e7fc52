//! Objects that are stored and cannot be read: what is said of them, and the way to be rid of them.
//!
//! Guarantees: a read that would show one fails with code 500 and names its key, a list too;
//! nothing is left out in silence. Only masters who say so delete one: nobody knows what it was,
//! so neither finalizers nor the graceful end of a pod are heeded.

use super::{Caller, Deleted, Objects, Place};
use crate::auth::MASTERS;
use crate::store::Write;
use crate::watch::{Object, Unreadable};
use bowline_api::resource::Resource;
use bowline_api::status::Status;
use serde_json::json;
use std::sync::Arc;

/// The option of a delete.
pub(crate) const IGNORE_READ_ERROR: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
/// Objects that a failure names; of the others it has the number.
const NAMED: usize = 5;

/// The failure of a read of `name`, or of a list when that is empty, that met these.
pub(crate) fn read_failed(resource: &Resource, name: &str, found: &[Unreadable]) -> Status {
    let (group, _) = resource.stored_as();
    let root = crate::store::key(group, resource.plural, "", "");
    let named = found.iter().take(NAMED);
    let causes: Vec<(String, String)> = named
        .map(|unreadable| {
            let key = format!("{root}{}", unreadable.key);
            (key, format!("revision {}: {}", unreadable.revision, unreadable.reason))
        })
        .collect();
    let keys: Vec<&str> = causes.iter().map(|(key, _)| key.as_str()).collect();
    let mut keys = keys.join(", ");
    if found.len() > NAMED {
        keys.push_str(&format!(" and {} more", found.len() - NAMED));
    }
    let advice = format!(
        "{keys}; bring back a copy of the store, or delete each by name with \
         {IGNORE_READ_ERROR}=true"
    );
    Status::storage_read_error(resource, name, &causes, &advice)
}

impl Objects {
    /// Fails when the place has an object that cannot be read.
    pub(super) fn check_readable(&self, place: &Place) -> Result<(), Status> {
        match self.caches.of(place.resource).unreadable(&place.key()) {
            Some(found) => Err(read_failed(place.resource, &place.name, &[found])),
            None => Ok(()),
        }
    }

    /// Removes the object at the place if it cannot be read. `None` when it can, when there is none
    /// or when somebody else wrote in between.
    pub(super) async fn delete_unreadable(
        &self,
        caller: &Caller,
        place: &Place,
    ) -> Result<Option<Deleted>, Status> {
        let Some(found) = self.caches.of(place.resource).unreadable(&place.key()) else {
            return Ok(None);
        };
        if !caller.user.is_in(MASTERS) {
            let cause = format!("only members of {MASTERS} may use {IGNORE_READ_ERROR}");
            return Err(Status::forbidden(place.resource, &place.name, &cause));
        }
        let written = self.write(place, Write::Delete { at: found.revision }, ()).await?;
        let Some(revision) = written else { return Ok(None) };
        tracing::warn!(key = place.store_key(), "deleted an object that could not be read");
        let mut known = json!({
            "apiVersion": place.resource.storage().api_version(),
            "kind": place.resource.kind,
            "metadata": { "name": place.name },
        });
        if !place.namespace.is_empty() {
            known["metadata"]["namespace"] = json!(place.namespace);
        }
        Ok(Some(Deleted::Gone(Arc::new(Object::new(place.key(), known, revision)))))
    }
}
