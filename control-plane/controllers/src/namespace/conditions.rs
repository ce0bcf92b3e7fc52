//! The conditions of a namespace that is being deleted: what was tried, and what is left. Pure.
//!
//! Guarantees: a condition that says the same as before keeps its time, and one of another's stays.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ApiResource;
use kube::error::DiscoveryError;

use crate::failure::SyncFailed;

/// What one round of deleting everything in a namespace came to.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// How many objects of each resource are left, named `resource.group`.
    objects: BTreeMap<String, usize>,
    /// How many of them each finalizer holds.
    finalizers: BTreeMap<String, usize>,
    undiscovered: Option<String>,
    unparsed: Option<String>,
    undeleted: BTreeSet<String>,
    /// What failed first.
    error: Option<SyncFailed>,
}

impl Round {
    /// Notes objects that are left, each by its finalizers.
    pub(super) fn count<'a>(
        &mut self,
        resource: &ApiResource,
        left: impl Iterator<Item = Option<&'a [String]>>,
    ) {
        let name = format!("{}.{}", resource.plural, resource.group);
        for finalizers in left {
            *self.objects.entry(name.clone()).or_default() += 1;
            for finalizer in finalizers.into_iter().flatten() {
                *self.finalizers.entry(finalizer.clone()).or_default() += 1;
            }
        }
    }

    /// Notes that not all kinds are known.
    pub(super) fn undiscovered(&mut self, error: &kube::Error) {
        let message = Some(error.to_string());
        match error {
            kube::Error::Discovery(DiscoveryError::InvalidGroupVersion(_)) => {
                self.unparsed = message;
            }
            _ => self.undiscovered = message,
        }
    }

    pub(super) fn undeleted(&mut self, error: SyncFailed) {
        self.undeleted.insert(error.cause());
        self.failed(Err(error));
    }

    /// Notes for the retry what failed, if anything did.
    pub(super) fn failed(&mut self, result: Result<(), SyncFailed>) {
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }

    /// Whether all was looked at and nothing is left.
    pub(super) fn is_done(&self) -> bool {
        self.error.is_none() && self.objects.is_empty()
    }

    pub(super) fn into_error(self) -> Option<SyncFailed> {
        self.error
    }

    /// Each condition's type, reason and message: when all is well, and when it is not.
    fn findings(&self) -> [Finding; 5] {
        let list = |counts: &BTreeMap<String, usize>, what: &str| {
            let parts: Vec<_> = counts
                .iter()
                .map(|(name, count)| format!("{name} {what} {count} resource instances"))
                .collect();
            (!parts.is_empty()).then(|| parts.join(", "))
        };
        let undeleted: Vec<&str> = self.undeleted.iter().map(String::as_str).collect();
        let undeleted = (!undeleted.is_empty()).then(|| {
            let (count, causes) = (undeleted.len(), undeleted.join(", "));
            format!("Failed to delete all resource types, {count} remaining: {causes}")
        });
        let objects =
            list(&self.objects, "has").map(|list| format!("Some resources are remaining: {list}"));
        let finalizers = list(&self.finalizers, "in")
            .map(|list| format!("Some content in the namespace has finalizers remaining: {list}"));
        [
            Finding {
                name: "NamespaceDeletionDiscoveryFailure",
                well: ("ResourcesDiscovered", "All resources successfully discovered"),
                reason: "DiscoveryFailed",
                found: self.undiscovered.clone(),
            },
            Finding {
                name: "NamespaceDeletionGroupVersionParsingFailure",
                well: ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
                reason: "GroupVersionParsingFailed",
                found: self.unparsed.clone(),
            },
            Finding {
                name: "NamespaceDeletionContentFailure",
                well: (
                    "ContentDeleted",
                    "All content successfully deleted, may be waiting on finalization",
                ),
                reason: "ContentDeletionFailed",
                found: undeleted,
            },
            Finding {
                name: "NamespaceContentRemaining",
                well: ("ContentRemoved", "All content successfully removed"),
                reason: "SomeResourcesRemain",
                found: objects,
            },
            Finding {
                name: "NamespaceFinalizersRemaining",
                well: ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
                reason: "SomeFinalizersRemain",
                found: finalizers,
            },
        ]
    }
}

/// One condition's part of a round.
struct Finding {
    name: &'static str,
    /// Reason and message when there is nothing to say.
    well: (&'static str, &'static str),
    reason: &'static str,
    found: Option<String>,
}

pub(super) fn conditions(
    old: &[NamespaceCondition],
    round: &Round,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let findings = round.findings();
    let is_ours = |known: &&NamespaceCondition| findings.iter().any(|it| it.name == known.type_);
    let others: Vec<_> = old.iter().filter(|known| !is_ours(known)).cloned().collect();
    let ours = findings.into_iter().map(|finding| {
        let (status, reason, message) = match finding.found {
            Some(message) => ("True", finding.reason, message),
            None => ("False", finding.well.0, finding.well.1.to_owned()),
        };
        let known = old.iter().find(|known| known.type_ == finding.name);
        let since = known.filter(|known| known.status == status);
        NamespaceCondition {
            type_: finding.name.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since
                .map_or(Some(Time(now)), |known| known.last_transition_time.clone()),
        }
    });
    others.into_iter().chain(ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::time;
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::Pod;

    #[test]
    fn conditions_say_what_holds_the_namespace() {
        let mut round = Round::default();
        let wait = ["example.org/wait".to_owned()];
        let left = [Some(&wait[..]), None];
        round.count(&ApiResource::erase::<Pod>(&()), left.into_iter());
        round.count(&ApiResource::erase::<Deployment>(&()), [None].into_iter());
        let other = NamespaceCondition { type_: "Other".to_owned(), ..Default::default() };
        let first = conditions(&[other], &round, time(0));
        let said: Vec<_> = first
            .iter()
            .map(|it| (&*it.type_, &*it.status, it.message.as_deref().unwrap_or_default()))
            .collect();
        let expected = [
            ("Other", "", ""),
            ("NamespaceDeletionDiscoveryFailure", "False", "All resources successfully discovered"),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                "False",
                "All legacy kube types successfully parsed",
            ),
            (
                "NamespaceDeletionContentFailure",
                "False",
                "All content successfully deleted, may be waiting on finalization",
            ),
            (
                "NamespaceContentRemaining",
                "True",
                "Some resources are remaining: deployments.apps has 1 resource instances, \
                 pods. has 2 resource instances",
            ),
            (
                "NamespaceFinalizersRemaining",
                "True",
                "Some content in the namespace has finalizers remaining: example.org/wait in 1 \
                 resource instances",
            ),
        ];
        assert_eq!(said, expected);
        assert_eq!(conditions(&first, &round, time(9)), first, "nothing new to write");
    }

    #[test]
    fn what_discovery_could_not_read_is_told_apart() {
        let invalid = DiscoveryError::InvalidGroupVersion("a/b/c".to_owned());
        let missing = DiscoveryError::MissingApiGroup("x".to_owned());
        for (error, parsing) in [(invalid, true), (missing, false)] {
            let mut round = Round::default();
            round.undiscovered(&kube::Error::Discovery(error));
            let all = conditions(&[], &round, time(0));
            let is_true = |index: usize| all[index].status == "True";
            assert_eq!((is_true(0), is_true(1)), (!parsing, parsing));
        }
    }
}
