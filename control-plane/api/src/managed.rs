//! Who manages which fields of an object (`metadata.managedFields`), and server-side apply.
//!
//! Every write notes its manager: who updates has what the update changed, who applies has what the
//! applied configuration says. Two may have the same field as long as they agree on its value.
//!
//! Guarantees: what a write did not change stays with who has it; the server's own fields are
//! nobody's; a write that changes nothing leaves the entries alone, their times included. It costs
//! little where little changes: entries are parsed only when a write touches their fields.
//!
//! An entry names fields of the version in which its manager writes, and keeps that version. What a
//! write changes is found out in each version that an entry is in, by converting the objects before
//! and after, so that an entry loses what was changed through another version and nothing else. An
//! entry in a version that is not served goes away with the next write.
//!
//! Does not: follow a list or a map that changes from atomic to granular.

mod apply;
mod blank;
mod element;
mod entries;
mod list;
mod set;
mod versions;
mod view;
mod walks;

use serde_json::Value;

use crate::object;
use crate::resource::Resource;
use element::Element;
use entries::{Entries, Entry, Identity, Operation};
use set::Set;
use versions::Changes;
use view::TypedView;
use walks::{Difference, difference};

pub use apply::{ApplyFailed, apply};

/// The media type of a configuration to apply.
pub const APPLY_MEDIA_TYPE: &str = "application/apply-patch+yaml";
/// Whose configurations may take over what the annotation below says.
const KUBECTL: &str = "kubectl";
/// Where kubectl keeps what it applied without the server's help.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Who writes without saying who they are.
const UNKNOWN: &str = "unknown";

/// Who writes, and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339 in whole seconds.
    pub now: &'a str,
}

impl Writer<'_> {
    fn identity(&self, resource: &Resource, operation: Operation) -> Identity {
        let manager = if self.manager.is_empty() { UNKNOWN } else { self.manager };
        Identity {
            manager: manager.to_owned(),
            operation,
            api_version: resource.api_version(),
            subresource: self.subresource.to_owned(),
        }
    }
}

/// A field that a configuration would change and another manager has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Such as `"kubectl-edit" using v1`.
    pub manager: String,
    /// Such as `.spec.containers[name="c"].image`.
    pub field: String,
    path: Vec<Element>,
}

/// All conflicts in one text.
fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        let Conflict { manager, field, .. } = one;
        return format!("Apply failed with 1 conflict: conflict with {manager}: {field}");
    }
    let mut lines = Vec::new();
    let mut last = "";
    for conflict in conflicts {
        if conflict.manager != last {
            lines.push(format!("conflicts with {}:", conflict.manager));
            last = &conflict.manager;
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Which fields a write through an endpoint can change, and so own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    AllButStatus,
    Status,
}

impl Scope {
    fn of(resource: &Resource, writer: &Writer<'_>) -> Self {
        match writer.subresource {
            "status" => Self::Status,
            _ if resource.status => Self::AllButStatus,
            _ => Self::All,
        }
    }

    fn counts(self, field: &str) -> bool {
        match self {
            Self::All => true,
            Self::AllButStatus => field != "status",
            Self::Status => field == "status",
        }
    }
}

/// Takes out what is nobody's: the object's type, and the metadata that identifies it or that the
/// server sets.
fn strip(set: &mut Set) {
    set.discard_fields(&["apiVersion", "kind", "metadata"]);
    set.with_field("metadata", |metadata| {
        metadata.discard_fields(&[
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        ]);
    });
}

/// What a write of `after` in the place of `before` changes of what can be somebody's. Both are of
/// the kind's version.
fn changes(resource: &Resource, scope: Scope, before: &Value, after: &Value) -> Difference {
    let view = TypedView::Type(resource.schema);
    let mut found = difference(&view, before, after, |name| scope.counts(name));
    for set in [&mut found.changed, &mut found.removed] {
        strip(set);
        blank::discard(resource.schema, set);
    }
    found
}

fn set_entries(object: &mut Value, entries: Entries) {
    let metadata = object::metadata_mut(object);
    match entries.into_value() {
        Value::Null => metadata.remove("managedFields"),
        value => metadata.insert("managedFields".to_owned(), value),
    };
}

/// Whether a client asks to forget all managers: by an empty list, or by one empty entry.
fn is_reset(sent: &Value) -> bool {
    let is_zero = |value: &Value| value.is_null() || value == "";
    match sent.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => one.as_object().is_some_and(|entry| entry.values().all(is_zero)),
        _ => false,
    }
}

/// Notes who made `new` out of `live`, or made it anew, by a create, an update or a patch. `new`
/// comes as the client wants it, with defaults, before the server's own fields are restored. Both
/// are in the version that is stored, the writer wrote in that of `resource`.
pub fn update(resource: &Resource, live: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let sent = object::metadata_mut(new).remove("managedFields").unwrap_or_default();
    let stored = live.map_or(&Value::Null, |live| &live["metadata"]["managedFields"]);
    // Through a subresource nobody writes entries; a client that does not know them, or writes what
    // is none, does not lose them.
    let ignored = sent.is_null() || sent == *stored || !writer.subresource.is_empty();
    let replaced = match ignored {
        true => None,
        false if is_reset(&sent) => Some(Entries::default()),
        false => Entries::sent(&sent).ok().filter(|entries| !entries.is_empty()),
    };
    let is_replaced = replaced.is_some();
    let mut entries = replaced.unwrap_or_else(|| Entries::stored(stored));
    if entries.is_empty() && live.is_some() {
        // Nobody was noted before: that begins with the first apply.
        return;
    }
    let scope = Scope::of(resource, writer);
    let before = live.unwrap_or(&Value::Null);
    let found = changes(resource, scope, &resource.shown(before), &resource.shown(new));
    if found.is_empty() && !is_replaced {
        if !stored.is_null() {
            object::metadata_mut(new).insert("managedFields".to_owned(), stored.clone());
        }
        return;
    }
    let own = writer.identity(resource, Operation::Update);
    let mut elsewhere = Changes::new(resource.storage(), scope, before, new);
    for entry in entries.iter_mut() {
        let version = &entry.identity.api_version;
        let same = *version == own.api_version;
        let found = if same { &found } else { elsewhere.in_version(version) };
        entry.take_away(&found.removed);
        if entry.identity != own {
            entry.take_away(&found.changed);
        }
    }
    let gained = found.changed.difference(&found.removed);
    if !gained.is_empty() {
        let mut entry =
            entries.remove(&own).unwrap_or_else(|| Entry::new(own, writer.now, Set::default()));
        entry.give(&gained);
        entry.time = writer.now.to_owned();
        entries.put(entry);
    }
    entries.tidy(resource);
    entries.cap();
    set_entries(new, entries);
}

/// Takes the times of the entries from the old object when nothing else about the two differs: a
/// write that changes nothing is none.
pub fn keep_times(new: &mut Value, old: &Value) {
    let (ours, theirs) = (&new["metadata"]["managedFields"], &old["metadata"]["managedFields"]);
    if ours == theirs || !same_but_times(ours, theirs) {
        return;
    }
    let same = same_but(new, old, "metadata")
        && same_but(&new["metadata"], &old["metadata"], "managedFields");
    if same {
        let kept = theirs.clone();
        object::metadata_mut(new).insert("managedFields".to_owned(), kept);
    }
}

/// Times also decide the order, so that the same entries may come in another one.
fn same_but_times(ours: &Value, theirs: &Value) -> bool {
    let (Some(ours), Some(theirs)) = (ours.as_array(), theirs.as_array()) else { return false };
    let is_there = |mine: &Value| theirs.iter().any(|other| same_but(mine, other, "time"));
    ours.len() == theirs.len() && ours.iter().all(is_there)
}

/// Whether two objects have the same fields, one of them aside.
fn same_but(one: &Value, other: &Value, aside: &str) -> bool {
    fn fields<'a>(
        value: &'a Value,
        aside: &'a str,
    ) -> impl Iterator<Item = (&'a String, &'a Value)> {
        value.as_object().into_iter().flatten().filter(move |(name, _)| *name != aside)
    }
    fields(one, aside).eq(fields(other, aside))
}

#[cfg(test)]
mod tests;
