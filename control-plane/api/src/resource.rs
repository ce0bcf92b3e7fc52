//! The table of kinds that the API serves.
//!
//! Guarantees: [`RESOURCES`] is the only place that says which kinds exist and what each can do;
//! discovery, OpenAPI, routing, printing and patching all read it.
//! Does not: hold behaviour; that lives in [`crate::defaults`], [`crate::validation`] and
//! [`crate::table`], one function per kind.

pub(crate) mod decode;
mod fields;
mod rows;
mod versions;

use jiff::Timestamp;
use serde_json::Value;

use crate::table::Column;
use crate::validation::FieldError;

pub use decode::DecodeError;
pub use rows::{RESOURCES, TOKEN_REQUEST};

/// What the server knows of one kind in one version.
///
/// Of a kind that is served in several versions, each has a row, and its objects are stored in one
/// of them. `decode` and `apply_defaults` take objects of the row's own version; all other
/// functions take them as they are stored.
pub struct Resource {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// Empty where nothing is stored.
    pub list_kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// Whether there are objects of it. What is not stored are questions, which are answered when
    /// they are posted.
    pub stored: bool,
    /// What discovery announces and the router serves.
    pub verbs: &'static [&'static str],
    /// Whether `/status` exists, and so whether `status` is ignored in ordinary writes.
    pub status: bool,
    /// Whether a create may carry a status all the same: nodes register with theirs.
    pub status_on_create: bool,
    /// Whether `metadata.generation` counts the changes of the desired state.
    pub generation: bool,
    /// Where `/scale` reads and writes.
    pub scale: Option<ScalePaths>,
    /// Whether a delete waits for the kind's own agent (pods).
    pub graceful_delete: bool,
    /// Whether a delete is answered with the object that was, not with a status.
    pub shows_deleted: bool,
    /// Subresources other than `status` and `scale`.
    pub subresources: &'static [Subresource],
    pub columns: &'static [Column],
    /// The cells of a table row, one per column.
    pub cells: fn(object: &Value, now: Timestamp) -> Vec<Value>,
    /// The name of the kind's schema, such as `io.k8s.api.core.v1.Pod`.
    pub schema: &'static str,
    /// The way to and from the version that is stored, if that is another one.
    pub conversion: Option<Conversion>,
    /// Checks every field's type.
    pub decode: fn(&Value) -> Result<(), DecodeError>,
    /// Sets what only a new object gets; called by [`crate::object::prepare_for_create`].
    pub initialize: fn(&mut Value),
    /// Takes from the old object what an update may leave out; called by
    /// [`crate::object::prepare_for_update`].
    pub carry_over: fn(new: &mut Value, old: &Value),
    /// Fills in what the API documents as the default.
    pub apply_defaults: fn(&mut Value),
    /// Checks the object, metadata included; with `old`, also what may change in an update.
    pub validate: fn(new: &Value, old: Option<&Value>) -> Vec<FieldError>,
    /// The values of the fields that a field selector may name, beside `metadata.name` and
    /// `metadata.namespace`. The labels do not depend on the object.
    pub fields: fn(&Value) -> Vec<(&'static str, String)>,
    pub(crate) add_schema: fn(&mut schemars::SchemaGenerator),
}

/// How a version differs from the one that is stored. The functions convert everything but the
/// object's type; what goes there and back is the same again, as long as it is valid.
#[derive(Clone, Copy, Debug)]
pub struct Conversion {
    /// The group and the version of the row that is stored.
    pub stored: (&'static str, &'static str),
    pub(crate) from_stored: fn(&mut Value),
    pub(crate) to_stored: fn(&mut Value),
}

/// JSON pointers into an object that has a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    pub spec_replicas: &'static str,
    pub status_replicas: &'static str,
    /// A map of labels or a `metav1.LabelSelector`.
    pub selector: &'static str,
}

/// A subresource beyond `status` and `scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    pub name: &'static str,
    /// The kind of what is read or written, and its group and version (empty: the parent's).
    pub kind: &'static str,
    pub group_version: (&'static str, &'static str),
    pub verbs: &'static [&'static str],
}

impl Subresource {
    /// The group and version of what is read or written.
    pub(crate) fn group_version(&self, parent: &Resource) -> (&'static str, &'static str) {
        match self.group_version {
            (_, "") => (parent.group, parent.version),
            other => other,
        }
    }

    /// The name of the schema of what is read or written.
    pub(crate) fn schema(&self, parent: &Resource) -> String {
        let (group, version) = self.group_version(parent);
        let group = match group.split('.').next() {
            None | Some("") => "core",
            Some(first) => first,
        };
        match self.kind == parent.kind {
            true => parent.schema.to_owned(),
            false => format!("io.k8s.api.{group}.{version}.{}", self.kind),
        }
    }
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods` or `deployments.apps`, as messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Whether it is this one, in whichever version.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    /// Whether the server answers `verb` for it.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}

/// The kind at `/apis/<group>/<version>/<plural>` (the core group is "").
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The kind of an object with this `apiVersion` and `kind`.
pub fn find_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.kind == kind)
}

#[cfg(test)]
mod tests;
