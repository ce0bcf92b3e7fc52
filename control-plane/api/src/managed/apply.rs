//! Server-side apply: a configuration that says what one manager wants is merged into an object.
//!
//! Guarantees: the result has every field of the configuration; a field goes away exactly when the
//! manager had applied it before, does not any more, and nobody else has it. What others manage
//! changes only by force.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::element::path_text;
use super::entries::{Entries, Entry, Identity, Operation};
use super::set::Set;
use super::versions::{Changes, Versioned};
use super::view::TypedView;
use super::walks::{difference, fields_of, merge};
use super::{Conflict, KUBECTL, LAST_APPLIED, Scope, Writer, changes, set_entries, strip};
use crate::object;
use crate::resource::Resource;

/// Who manages the fields of an object that was never applied to.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Why a configuration was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyFailed {
    /// The request is wrong: 400.
    #[error("{0}")]
    Malformed(String),
    /// The configuration does not fit the kind's schema: 500, as Kubernetes answers.
    #[error("{0}")]
    Untyped(String),
    /// Others manage what it would change: 409.
    #[error("{}", super::conflict_message(.0))]
    Conflicts(Vec<Conflict>),
}

/// The live object with the configuration applied, and with what follows for its managers. Without
/// a live object it is a new one. The live object is in the version that is stored, all else in
/// that of `resource`. When the object that is made of it turns out to be the live one,
/// [`super::keep_times`] takes back that it was written now.
pub fn apply(
    resource: &Resource,
    live: Option<&Value>,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyFailed> {
    check(resource, config)?;
    let wanted = typed(resource, config)?;
    let applied = Apply {
        resource,
        view: TypedView::Type(resource.schema),
        scope: Scope::of(resource, writer),
        identity: writer.identity(resource, Operation::Apply),
        live: match live {
            Some(live) => resource.shown(live).into_owned(),
            None => Value::Object(Map::new()),
        },
        writer,
    };
    let mut result = match applied.run(config, wanted.clone(), live.is_some(), force) {
        Err(conflicts) if writer.manager == KUBECTL => {
            // What kubectl applied when it still did so itself it may take over.
            let allowed = applied.last_applied().unwrap_or_default();
            let others: Vec<Conflict> = conflicts
                .into_iter()
                .filter(|conflict| !allowed.contains(&conflict.path))
                .collect();
            match others.is_empty() {
                true => applied.run(config, wanted, live.is_some(), true),
                false => Err(others),
            }
        }
        other => other,
    }
    .map_err(ApplyFailed::Conflicts)?;
    if writer.manager == KUBECTL {
        renew_last_applied(&mut result, config);
    }
    Ok(result)
}

fn check(resource: &Resource, config: &Value) -> Result<(), ApplyFailed> {
    let text = |field: &str| config[field].as_str().unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version != resource.api_version() || kind != resource.kind {
        let kind = kind_text(version, kind);
        return Err(ApplyFailed::Malformed(format!("invalid object type: {kind}")));
    }
    if config["metadata"]["managedFields"].is_array() {
        let message = "metadata.managedFields must be nil".to_owned();
        return Err(ApplyFailed::Malformed(message));
    }
    Ok(())
}

/// A kind with its group and version, as messages of Kubernetes spell it.
fn kind_text(api_version: &str, kind: &str) -> String {
    let slash = if api_version.contains('/') { "" } else { "/" };
    format!("{slash}{api_version}, Kind={kind}")
}

/// The fields of the configuration, if it has no others than the kind has.
fn typed(resource: &Resource, config: &Value) -> Result<Set, ApplyFailed> {
    let fields = fields_of(&TypedView::Type(resource.schema), config);
    let fields = fields.and_then(|fields| match (resource.decode)(config) {
        Ok(()) => Ok(fields),
        Err(error) => Err(vec![format!(".{}: {}", error.path, error.message)]),
    });
    fields.map_err(|errors| {
        let errors = match errors.as_slice() {
            [one] => one.clone(),
            many => format!("errors:\n  {}", many.join("\n  ")),
        };
        ApplyFailed::Untyped(format!(
            "failed to create typed patch object ({}/{}; {}): {errors}",
            object::namespace(config),
            object::name(config),
            kind_text(&resource.api_version(), resource.kind),
        ))
    })
}

struct Apply<'a> {
    resource: &'a Resource,
    view: TypedView,
    scope: Scope,
    identity: Identity,
    live: Value,
    writer: &'a Writer<'a>,
}

impl Apply<'_> {
    fn run(
        &self,
        config: &Value,
        mut wanted: Set,
        exists: bool,
        force: bool,
    ) -> Result<Value, Vec<Conflict>> {
        let mut entries = self.entries(exists);
        wanted.retain_fields(|name| self.scope.counts(name));
        let before = entries.remove(&self.identity);
        let merged = merge(&self.view, &self.live, config);
        let mut result = match &before {
            Some(before) => self.prune(merged, before, &wanted, &entries),
            None => merged,
        };
        let mut found = Changes::new(self.resource, self.scope, &self.live, &result);
        let conflicts = if force { Vec::new() } else { conflicts(&entries, &mut found) };
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        for entry in entries.iter_mut() {
            let found = found.in_version(&entry.identity.api_version);
            entry.take_away(&found.changed);
            entry.take_away(&found.removed);
        }
        strip(&mut wanted);
        entries.put(Entry::new(self.identity.clone(), self.writer.now, wanted));
        entries.tidy(self.resource);
        set_entries(&mut result, entries);
        Ok(result)
    }

    /// Who manages what now. Of an object that nobody was noted for, everything that it has is
    /// somebody's who came before.
    fn entries(&self, exists: bool) -> Entries {
        let mut entries = Entries::stored(&self.live["metadata"]["managedFields"]);
        if entries.is_empty() && exists {
            let found = changes(self.resource, self.scope, &Value::Null, &self.live);
            let identity = Identity {
                manager: BEFORE_FIRST_APPLY.to_owned(),
                operation: Operation::Update,
                ..self.identity.clone()
            };
            entries.put(Entry::new(identity, self.writer.now, found.changed));
        }
        entries.tidy(self.resource);
        entries
    }

    /// The merged object without what the manager applied before and nobody wants any more. What it
    /// applied before may be of another version.
    fn prune(&self, merged: Value, before: &Entry, wanted: &Set, entries: &Entries) -> Value {
        let set = before.set();
        let last = self.resource.in_version(&before.identity.api_version);
        let Some(last) = last.filter(|_| !set.is_empty()) else { return merged };
        let merged = Versioned::new(self.resource, merged);
        let all = merged.to(last);
        let before = all.named(&set);
        let mut pruned = all.without(&before);
        // What somebody has, whoever it is, comes back.
        for (resource, kept) in self.kept(last, wanted, entries) {
            let all = merged.to(resource);
            let left = pruned.to(resource).fields().union(&all.named(&kept));
            pruned = all.without(&all.fields().difference(&left));
        }
        // So does what was nobody's, and went with what was around it.
        let left = pruned.to(last).fields();
        let gone = all.fields().difference(&left).intersection(&before);
        all.without(&gone).to(self.resource).into_object()
    }

    /// What everybody manages, by versions, the one of the last configuration first.
    fn kept<'b>(
        &'b self,
        last: &'b Resource,
        wanted: &Set,
        entries: &Entries,
    ) -> Vec<(&'b Resource, Set)> {
        let mut kept = vec![(last, Set::default())];
        let own = (self.identity.api_version.as_str(), Cow::Borrowed(wanted));
        let others = entries.iter().map(|it| (it.identity.api_version.as_str(), it.set()));
        for (version, set) in std::iter::once(own).chain(others) {
            let Some(resource) = self.resource.in_version(version) else { continue };
            let known = kept.iter_mut().find(|(known, _)| known.api_version() == version);
            match known {
                Some((_, all)) => *all = all.union(&set),
                None => kept.push((resource, set.into_owned())),
            }
        }
        kept
    }

    /// What of the object is still as kubectl last applied it, before it left that to the server.
    fn last_applied(&self) -> Option<Set> {
        let text = object::annotations(&self.live)?.get(LAST_APPLIED)?.as_str()?;
        let config: Value = serde_json::from_str(text).ok()?;
        if config["apiVersion"] != self.resource.api_version() {
            return None;
        }
        let fields = fields_of(&self.view, &config).ok()?;
        let found = difference(&self.view, &config, &self.live, |_| true);
        Some(fields.difference(&found.changed).difference(&found.removed))
    }
}

/// What others have of the changed fields.
fn conflicts(entries: &Entries, found: &mut Changes<'_>) -> Vec<Conflict> {
    let mut holders: Vec<&Entry> = entries.iter().collect();
    holders.sort_by(|a, b| a.identity.cmp(&b.identity));
    let mut conflicts = Vec::new();
    for entry in holders {
        let manager = entry.identity.describe();
        let changed = &found.in_version(&entry.identity.api_version).changed;
        for path in entry.shared(changed).paths() {
            let field = path_text(&path);
            conflicts.push(Conflict { manager: manager.clone(), field, path });
        }
    }
    conflicts
}

/// Keeps the annotation of those who apply without the server up to date, where there is one.
fn renew_last_applied(result: &mut Value, config: &Value) {
    let annotation = object::annotations(result).and_then(|all| all.get(LAST_APPLIED)?.as_str());
    if annotation.is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    let annotations = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    if let Some(annotations) = annotations {
        annotations.remove(LAST_APPLIED);
    }
    let annotations = object::child_mut(&mut result["metadata"], "annotations");
    let others: usize = annotations
        .iter()
        .filter(|(key, _)| *key != LAST_APPLIED)
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    let text = format!("{config}\n");
    if others + LAST_APPLIED.len() + text.len() > crate::validation::ANNOTATIONS_SIZE {
        annotations.remove(LAST_APPLIED);
    } else {
        annotations.insert(LAST_APPLIED.to_owned(), Value::from(text));
    }
}
