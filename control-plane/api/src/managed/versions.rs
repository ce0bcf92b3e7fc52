//! Objects of a kind in the versions in which somebody manages their fields.
//!
//! Guarantees: an object is converted at most once to each version, and not at all to its own.

use std::borrow::Cow;

use serde_json::Value;

use super::set::Set;
use super::view::TypedView;
use super::walks::{Difference, fields_of, without};
use super::{Scope, changes};
use crate::resource::Resource;

/// What a write changes, in one version after another.
pub(super) struct Changes<'a> {
    /// The version of the two objects.
    resource: &'a Resource,
    scope: Scope,
    before: &'a Value,
    after: &'a Value,
    found: Vec<(String, Difference)>,
}

impl<'a> Changes<'a> {
    pub(super) fn new(
        resource: &'a Resource,
        scope: Scope,
        before: &'a Value,
        after: &'a Value,
    ) -> Self {
        Self { resource, scope, before, after, found: Vec::new() }
    }

    /// What is changed in a version; in one that is not served nothing is.
    pub(super) fn in_version(&mut self, api_version: &str) -> &Difference {
        let known = self.found.iter().position(|(version, _)| version == api_version);
        let place = known.unwrap_or_else(|| {
            let difference = self.difference(api_version);
            self.found.push((api_version.to_owned(), difference));
            self.found.len() - 1
        });
        &self.found[place].1
    }

    fn difference(&self, api_version: &str) -> Difference {
        let Some(resource) = self.resource.in_version(api_version) else {
            return Difference::default();
        };
        let before = self.resource.converted(resource, self.before);
        let after = self.resource.converted(resource, self.after);
        changes(resource, self.scope, &before, &after)
    }
}

/// An object in one version.
pub(super) struct Versioned<'a> {
    resource: &'a Resource,
    object: Cow<'a, Value>,
}

impl<'a> Versioned<'a> {
    pub(super) fn new(resource: &'a Resource, object: Value) -> Self {
        Self { resource, object: Cow::Owned(object) }
    }

    /// The same object in another version.
    pub(super) fn to<'b>(&'b self, resource: &'b Resource) -> Versioned<'b> {
        Versioned { resource, object: self.resource.converted(resource, &self.object) }
    }

    pub(super) fn into_object(self) -> Value {
        self.object.into_owned()
    }

    fn view(&self) -> TypedView {
        TypedView::Type(self.resource.schema)
    }

    /// What of its fields can be somebody's.
    pub(super) fn fields(&self) -> Set {
        // Objects in the store and merged ones have only fields that the kind has.
        match fields_of(&self.view(), &self.object) {
            Ok(fields) => self.named(&fields),
            Err(_) => Set::default(),
        }
    }

    /// A set of its fields with those that lead to members.
    pub(super) fn named(&self, set: &Set) -> Set {
        set.with_named_fields(&self.view())
    }

    pub(super) fn without(&self, set: &Set) -> Self {
        let left = without(&self.view(), &self.object, set);
        let object = Cow::Owned(left.unwrap_or_else(|| Value::Object(serde_json::Map::new())));
        Self { resource: self.resource, object }
    }
}
