//! Who owns whom, by uid, over all kinds. Pure.
//!
//! Guarantees: after each change it names the objects whose fate may have changed. An owner that
//! was never seen has dependents all the same: they are found when its deletion is.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::ApiResource;
use std::sync::Arc;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

pub(super) type Uid = String;

/// What the collector knows of one object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) resource: Arc<ApiResource>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) version: Option<String>,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) finalizers: Vec<String>,
    pub(super) deleting: bool,
}

impl Object {
    pub(super) fn of(meta: &ObjectMeta, resource: Arc<ApiResource>) -> Self {
        Self {
            resource,
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
            version: meta.resource_version.clone(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }

    pub(super) fn holds(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|held| held == finalizer)
    }

    /// Waits for its dependents to go first.
    pub(super) fn is_foreground(&self) -> bool {
        self.deleting && self.holds(FOREGROUND)
    }

    pub(super) fn is_orphaning(&self) -> bool {
        self.deleting && self.holds(ORPHAN)
    }

    pub(super) fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|o| o.uid == owner && o.block_owner_deletion == Some(true))
    }
}

#[derive(Default)]
pub(super) struct Graph {
    objects: HashMap<Uid, Object>,
    dependents: HashMap<Uid, HashSet<Uid>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<(Uid, &Object)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| Some((uid.clone(), self.objects.get(uid)?))).collect()
    }

    /// Takes in an object; returns what is to be looked at.
    pub(super) fn observe(&mut self, meta: &ObjectMeta, resource: &Arc<ApiResource>) -> Vec<Uid> {
        let Some(uid) = meta.uid.clone() else { return Vec::new() };
        let new = Object::of(meta, resource.clone());
        let old = self.objects.insert(uid.clone(), new.clone());
        for owner in old.iter().flat_map(|old| &old.owners) {
            self.unlink(&owner.uid, &uid);
        }
        for owner in &new.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let mut work = Vec::new();
        // An owner that waits may have waited for the change of this very reference.
        if let Some(old) = old.as_ref().filter(|old| old.owners != new.owners) {
            work.extend(old.owners.iter().map(|owner| owner.uid.clone()));
        }
        let became = |test: fn(&Object) -> bool| test(&new) && !old.as_ref().is_some_and(test);
        if became(Object::is_foreground) {
            work.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        if self.is_of_interest(&new) {
            work.push(uid);
        }
        work
    }

    fn is_of_interest(&self, object: &Object) -> bool {
        object.is_foreground()
            || object.is_orphaning()
            || object
                .owners
                .iter()
                .any(|owner| self.objects.get(&owner.uid).is_none_or(Object::is_foreground))
    }

    /// Takes out an object that is gone; returns what is to be looked at.
    pub(super) fn forget(&mut self, uid: &str) -> Vec<Uid> {
        let mut work: Vec<Uid> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        if let Some(old) = self.objects.remove(uid) {
            for owner in &old.owners {
                self.unlink(&owner.uid, uid);
                work.push(owner.uid.clone());
            }
        }
        work
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

/// What one owner means for its dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Is there and stays.
    Solid,
    /// Is being deleted and waits for its dependents.
    Waiting,
    /// Is not there.
    Gone,
}

/// What is to be done with an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    /// Drop the references to owners that are gone or wait; others hold it.
    DropOwners(Vec<Uid>),
    Delete(Policy),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// Decides about an object that is not being deleted, from the state of each of its owners.
pub(super) fn fate(object: &Object, owners: &[(Uid, Owner)], has_dependents: bool) -> Fate {
    let any = |state| owners.iter().any(|(_, owner)| *owner == state);
    if any(Owner::Solid) || owners.is_empty() {
        let dropped: Vec<Uid> = owners
            .iter()
            .filter(|(_, owner)| *owner != Owner::Solid)
            .map(|(uid, _)| uid.clone())
            .collect();
        return if dropped.is_empty() { Fate::Keep } else { Fate::DropOwners(dropped) };
    }
    let policy = if any(Owner::Waiting) && has_dependents || object.holds(FOREGROUND) {
        Policy::Foreground
    } else if object.holds(ORPHAN) {
        Policy::Orphan
    } else {
        Policy::Background
    };
    Fate::Delete(policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::time;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn resource() -> Arc<ApiResource> {
        Arc::new(ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()))
    }

    fn meta(uid: &str, owners: &[&str]) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            name: Some(uid.into()),
            owner_references: Some(
                owners
                    .iter()
                    .map(|uid| OwnerReference {
                        uid: (*uid).into(),
                        block_owner_deletion: Some(true),
                        ..OwnerReference::default()
                    })
                    .collect(),
            ),
            ..ObjectMeta::default()
        }
    }

    fn deleting(mut meta: ObjectMeta, finalizer: &str) -> ObjectMeta {
        meta.deletion_timestamp = Some(Time(time(0)));
        meta.finalizers = Some(vec![finalizer.into()]);
        meta
    }

    #[test]
    fn changes_name_whom_they_concern() {
        let mut graph = Graph::default();
        assert_eq!(graph.observe(&meta("pod", &["set"]), &resource()), ["pod"], "owner unseen");
        assert!(graph.observe(&meta("set", &[]), &resource()).is_empty());
        assert!(graph.observe(&meta("pod", &["set"]), &resource()).is_empty(), "all well");
        let work = graph.observe(&deleting(meta("set", &[]), FOREGROUND), &resource());
        assert_eq!(work, ["pod", "set"]);
        assert_eq!(graph.forget("pod"), ["set"], "the waiting owner can go on");
        assert!(graph.forget("set").is_empty());
        assert!(graph.objects.is_empty() && graph.dependents.is_empty());
    }

    #[test]
    fn dependents_of_an_owner_that_goes_are_looked_at() {
        let mut graph = Graph::default();
        graph.observe(&meta("set", &[]), &resource());
        graph.observe(&meta("pod", &["set"]), &resource());
        assert_eq!(graph.forget("set"), ["pod"]);
        assert_eq!(graph.observe(&meta("pod", &[]), &resource()), ["set"]);
        assert!(graph.dependents.is_empty());
    }

    #[test]
    fn fates() {
        use Owner::{Gone, Solid, Waiting};
        let plain = Object::of(&meta("pod", &[]), resource());
        let orphaning = Object { finalizers: vec![ORPHAN.into()], ..plain.clone() };
        let named = |states: &[Owner]| {
            states.iter().enumerate().map(|(i, s)| (format!("o{i}"), *s)).collect::<Vec<_>>()
        };
        let table = [
            ("no owner", &plain, vec![], false, Fate::Keep),
            ("held", &plain, vec![Solid], false, Fate::Keep),
            ("held by one", &plain, vec![Gone, Solid], false, Fate::DropOwners(vec!["o0".into()])),
            ("owner gone", &plain, vec![Gone], false, Fate::Delete(Policy::Background)),
            ("owner waits", &plain, vec![Waiting], false, Fate::Delete(Policy::Background)),
            ("owner waits, has own", &plain, vec![Waiting], true, Fate::Delete(Policy::Foreground)),
            ("orphans its own", &orphaning, vec![Gone], true, Fate::Delete(Policy::Orphan)),
        ];
        for (name, object, owners, dependents, expected) in table {
            assert_eq!(fate(object, &named(&owners), dependents), expected, "{name}");
        }
    }
}
