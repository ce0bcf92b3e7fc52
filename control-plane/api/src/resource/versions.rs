//! One kind in several versions.
//!
//! Guarantees: in the version that is stored nothing is converted or copied. An object that is
//! converted says that it is of the version it is in. Does not: default or check what it converts.

use std::borrow::Cow;

use serde_json::Value;

use super::{Resource, find, find_kind};
use crate::object;

impl Resource {
    /// Whether its objects are stored as it shows them.
    pub fn is_storage(&self) -> bool {
        self.stored && self.conversion.is_none()
    }

    /// The group and the version in which its objects are stored.
    pub fn stored_as(&self) -> (&'static str, &'static str) {
        self.conversion.map_or((self.group, self.version), |conversion| conversion.stored)
    }

    /// The row of the version in which its objects are stored.
    pub fn storage(&self) -> &Self {
        let other = self.conversion.and_then(|conversion| {
            let (group, version) = conversion.stored;
            find(group, version, self.plural)
        });
        other.unwrap_or(self)
    }

    /// An object of the store as this version shows it.
    pub fn shown<'a>(&self, stored: &'a Value) -> Cow<'a, Value> {
        let conversion = self.conversion.filter(|_| stored.is_object());
        let Some(conversion) = conversion else { return Cow::Borrowed(stored) };
        let mut shown = stored.clone();
        (conversion.from_stored)(&mut shown);
        object::set_type(self, &mut shown);
        Cow::Owned(shown)
    }

    /// Makes of an object of this version what is stored.
    pub fn make_stored(&self, object: &mut Value) {
        let Some(conversion) = self.conversion.filter(|_| object.is_object()) else { return };
        (conversion.to_stored)(object);
        object::set_type(self.storage(), object);
    }

    /// The row of the same kind in another version, if that is served.
    pub(crate) fn in_version(&self, api_version: &str) -> Option<&Self> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if (self.group, self.version) == (group, version) {
            return Some(self);
        }
        let same =
            |other: &&Self| other.plural == self.plural && other.stored_as() == self.stored_as();
        find_kind(api_version, self.kind).filter(same)
    }

    /// An object of this version in another one of the kind.
    pub(crate) fn converted<'a>(&self, to: &Self, object: &'a Value) -> Cow<'a, Value> {
        if (self.group, self.version) == (to.group, to.version) {
            return Cow::Borrowed(object);
        }
        if self.is_storage() {
            return to.shown(object);
        }
        let mut stored = object.clone();
        self.make_stored(&mut stored);
        if to.is_storage() {
            return Cow::Owned(stored);
        }
        Cow::Owned(to.shown(&stored).into_owned())
    }
}
