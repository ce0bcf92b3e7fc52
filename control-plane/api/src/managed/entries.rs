//! `metadata.managedFields`: who manages which fields.
//!
//! Guarantees: an entry that a write does not touch is written back as it was read, without being
//! parsed; no two entries have the same identity; entries are in the order that readers expect.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::set::{ParseSetFailed, Set};
use crate::resource::Resource;

/// How many managers that update an object are told apart.
const MOST_UPDATERS: usize = 10;
/// The manager that the oldest ones are merged into.
const ANCIENT: &str = "ancient-changes";
const FIELDS_TYPE: &str = "FieldsV1";

/// How a manager came to its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who an entry is about. The same manager has an entry for each way in which it writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) manager: String,
    pub(super) operation: Operation,
    /// Who applies stays the same through versions; who updates does not.
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Identity {
    fn is_same(&self, other: &Self) -> bool {
        let versions_count = self.operation == Operation::Update;
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (!versions_count || self.api_version == other.api_version)
    }

    /// As a conflict names it.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// The fields of an entry: as stored, in canonical form, or as a set.
#[derive(Clone, Debug)]
enum Fields {
    Stored(Value),
    Known(Set),
}

/// What one manager manages.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) identity: Identity,
    /// RFC 3339; empty when it is not known.
    pub(super) time: String,
    fields: Fields,
}

/// Why entries cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReadEntriesFailed {
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    #[error("apiVersion must not be empty")]
    ApiVersion,
    #[error("the type of the fields must be FieldsV1, not {0:?}")]
    FieldsType(String),
    #[error(transparent)]
    Fields(#[from] ParseSetFailed),
}

impl Entry {
    pub(super) fn new(identity: Identity, time: &str, set: Set) -> Self {
        Self { identity, time: time.to_owned(), fields: Fields::Known(set) }
    }

    fn read(value: &Value) -> Result<Self, ReadEntriesFailed> {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let operation = match value["operation"].as_str() {
            Some("Apply") => Operation::Apply,
            Some("Update") => Operation::Update,
            _ => return Err(ReadEntriesFailed::Operation),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err(ReadEntriesFailed::ApiVersion);
        }
        if value["fieldsType"] != FIELDS_TYPE {
            return Err(ReadEntriesFailed::FieldsType(text("fieldsType")));
        }
        let identity = Identity {
            manager: text("manager"),
            operation,
            api_version,
            subresource: text("subresource"),
        };
        let fields = match &value["fieldsV1"] {
            Value::Null => Value::Object(Map::new()),
            fields => fields.clone(),
        };
        Ok(Self { identity, time: text("time"), fields: Fields::Stored(fields) })
    }

    pub(super) fn set(&self) -> Cow<'_, Set> {
        match &self.fields {
            // What is stored was written from a set.
            Fields::Stored(value) => Cow::Owned(Set::parse(value).unwrap_or_default()),
            Fields::Known(set) => Cow::Borrowed(set),
        }
    }

    fn is_empty(&self) -> bool {
        match &self.fields {
            Fields::Stored(value) => value.as_object().is_none_or(Map::is_empty),
            Fields::Known(set) => set.is_empty(),
        }
    }

    /// What it has of a set.
    pub(super) fn shared(&self, other: &Set) -> Set {
        match &self.fields {
            Fields::Stored(value) if !other.touches(value) => Set::default(),
            _ => self.set().intersection(other),
        }
    }

    pub(super) fn take_away(&mut self, taken: &Set) {
        if !self.shared(taken).is_empty() {
            let left = self.set().difference(taken);
            self.fields = Fields::Known(left);
        }
    }

    pub(super) fn give(&mut self, given: &Set) {
        let has_all = match &self.fields {
            Fields::Stored(value) => given.is_within(value),
            Fields::Known(_) => false,
        };
        if !has_all {
            let all = self.set().union(given);
            self.fields = Fields::Known(all);
        }
    }

    fn seconds(&self) -> i64 {
        self.time.parse::<Timestamp>().map_or(0, Timestamp::as_second)
    }

    fn into_value(self) -> Value {
        let fields = match self.fields {
            Fields::Stored(value) => value,
            Fields::Known(set) => set.to_value(),
        };
        let identity = self.identity;
        let texts = [
            ("manager", identity.manager),
            ("operation", identity.operation.as_str().to_owned()),
            ("apiVersion", identity.api_version),
            ("time", self.time),
            ("fieldsType", FIELDS_TYPE.to_owned()),
            ("subresource", identity.subresource),
        ];
        let mut map: Map<String, Value> = texts
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(field, text)| (field.to_owned(), Value::from(text)))
            .collect();
        map.insert("fieldsV1".to_owned(), fields);
        Value::Object(map)
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries(Vec<Entry>);

impl Entries {
    /// Those of a stored object.
    pub(super) fn stored(value: &Value) -> Self {
        let list = value.as_array().into_iter().flatten();
        Self(list.filter_map(|entry| Entry::read(entry).ok()).collect())
    }

    /// Those that a client sends: everything is checked, and put in canonical form.
    pub(super) fn sent(value: &Value) -> Result<Self, ReadEntriesFailed> {
        let mut entries = Self::default();
        for value in value.as_array().into_iter().flatten() {
            let mut entry = Entry::read(value)?;
            if let Fields::Stored(fields) = &entry.fields {
                entry.fields = Fields::Known(Set::parse(fields)?);
            }
            entries.put(entry);
        }
        Ok(entries)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.iter_mut()
    }

    /// Adds an entry, in the place of the one with its identity.
    pub(super) fn put(&mut self, entry: Entry) {
        self.remove(&entry.identity);
        self.0.push(entry);
    }

    pub(super) fn remove(&mut self, identity: &Identity) -> Option<Entry> {
        let index = self.0.iter().position(|entry| entry.identity.is_same(identity))?;
        Some(self.0.remove(index))
    }

    /// Without those that manage nothing, and those in versions that are not served: what they
    /// named cannot be compared with anything.
    pub(super) fn tidy(&mut self, resource: &Resource) {
        let is_served = |entry: &Entry| resource.in_version(&entry.identity.api_version).is_some();
        self.0.retain(|entry| !entry.is_empty() && is_served(entry));
    }

    /// Merges the oldest updaters, so that writers with ever new names do not fill the object.
    pub(super) fn cap(&mut self) {
        let updates = |entry: &Entry| entry.identity.operation == Operation::Update;
        let mut count = self.0.iter().filter(|entry| updates(entry)).count();
        if count <= MOST_UPDATERS {
            return;
        }
        let mut oldest: Vec<(i64, Identity)> = self
            .iter()
            .filter(|entry| updates(entry))
            .map(|entry| (entry.seconds(), entry.identity.clone()))
            .collect();
        oldest.sort();
        // The first of each version waits until there is a second one to be merged with.
        let mut waiting: Vec<Identity> = Vec::new();
        for (_, identity) in oldest {
            if count <= MOST_UPDATERS {
                break;
            }
            let first = waiting.iter().find(|first| first.api_version == identity.api_version);
            let Some(first) = first.cloned() else {
                waiting.push(identity);
                continue;
            };
            self.merge_into_ancient(&first, &identity);
            count -= 1;
        }
    }

    fn merge_into_ancient(&mut self, first: &Identity, second: &Identity) {
        let ancient =
            Identity { manager: ANCIENT.to_owned(), subresource: String::new(), ..second.clone() };
        let second = self.remove(second);
        let into = self.remove(&ancient).or_else(|| self.remove(first));
        // Its time is the younger one's.
        let (Some(mut into), Some(second)) = (into, second) else { return };
        into.give(&second.set());
        into.identity = ancient;
        into.time = second.time;
        self.put(into);
    }

    /// As `metadata.managedFields`; `Null` when there are none.
    pub(super) fn into_value(mut self) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        self.0.sort_by_cached_key(|entry| {
            let Identity { manager, operation, api_version, subresource } = entry.identity.clone();
            (operation, entry.seconds(), manager, api_version, subresource)
        });
        Value::Array(self.0.into_iter().map(Entry::into_value).collect())
    }
}
