//! Whether a user may do something.
//!
//! [`BuiltIn`] knows the users that a cluster has by itself: masters, the two control loops and
//! the nodes. Everybody else may look at discovery, ask about themselves, and do nothing more; a
//! service account may also read how its tokens are checked. More would take roles.

use super::rules::{self, EVERYBODY, SCHEDULER_RULES, all_but_secrets};
use super::{AUTHENTICATED, CONTROLLER_MANAGER, MASTERS, NODES, SCHEDULER, User, node_rules};
use crate::watch::Caches;
use bowline_api::resource::RESOURCES;
use k8s_openapi::api::authorization::v1::SubjectRulesReviewStatus;
use std::sync::Arc;

/// What somebody wants to do to an object or a collection.
#[derive(Clone, Copy)]
pub(crate) struct Act<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`; in a
    /// review any other word, too.
    pub(crate) verb: &'a str,
    /// Empty for the core group.
    pub(crate) group: &'a str,
    /// The plural. A review may ask about one that the server does not know.
    pub(crate) resource: &'a str,
    /// Empty for cluster objects and for all namespaces.
    pub(crate) namespace: &'a str,
    /// Of the URL; empty for a collection. A list or watch of one object by field selector names
    /// that object.
    pub(crate) name: &'a str,
    /// Of pods: the node that a field selector asks for; empty for all.
    pub(crate) node: &'a str,
    pub(crate) subresource: &'a str,
}

impl Act<'_> {
    pub(super) fn is_read(&self) -> bool {
        rules::READ.contains(&self.verb)
    }

    /// `pods` or `pods/status`.
    pub(super) fn what(&self) -> String {
        match self.subresource {
            "" => self.resource.to_owned(),
            sub => format!("{}/{sub}", self.resource),
        }
    }

    /// Why `user` may not, in the words that clients know.
    pub(crate) fn refusal(&self, user: &User) -> String {
        let (name, verb, what) = (&user.name, self.verb, self.what());
        let group = self.group;
        let place = match self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        format!(
            "User \"{name}\" cannot {verb} resource \"{what}\" in API group \"{group}\" {place}"
        )
    }

    /// A reason for a refusal that has no other.
    fn unknown_kind(&self) -> Option<String> {
        let (group, plural) = (self.group, self.resource);
        if plural == "*" || RESOURCES.iter().any(|row| row.is(group, plural)) {
            return None;
        }
        Some(format!("the server has no resource \"{plural}\" in API group \"{group}\""))
    }
}

/// `Err` is the reason beyond "this user may not", if there is one.
pub(crate) type Verdict = Result<(), Option<String>>;

/// The decision about an act.
pub(crate) trait Authorizer: Send + Sync {
    fn authorize(&self, user: &User, act: &Act<'_>) -> Verdict;

    /// The same for a path that is no resource; `verb` is the method in small letters.
    fn authorize_path(&self, user: &User, verb: &str, path: &str) -> Verdict;

    /// All that a user may do in a namespace, as far as it can be told without an act.
    fn rules(&self, user: &User, namespace: &str) -> SubjectRulesReviewStatus;
}

/// The rules of a cluster without roles.
pub(crate) struct BuiltIn {
    caches: Arc<Caches>,
}

impl BuiltIn {
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }

    fn decide(&self, user: &User, act: &Act<'_>) -> Verdict {
        if may_all(user) || (user.is_in(AUTHENTICATED) && rules::allow(EVERYBODY, act)) {
            return Ok(());
        }
        if user.name == SCHEDULER {
            let reads = act.is_read() && act.subresource.is_empty();
            let may = rules::allow(SCHEDULER_RULES, act)
                || (reads && all_but_secrets().any(|row| row.is(act.group, act.resource)));
            return if may { Ok(()) } else { Err(None) };
        }
        if user.is_in(NODES) {
            let Some(node) = user.node() else {
                return Err(Some("the user is in system:nodes but is no node".to_owned()));
            };
            return node_rules::authorize(&self.caches, node, act);
        }
        Err(None)
    }
}

/// What may be done to resources.
fn may_all(user: &User) -> bool {
    user.is_in(MASTERS) || user.name == CONTROLLER_MANAGER
}

impl Authorizer for BuiltIn {
    fn authorize(&self, user: &User, act: &Act<'_>) -> Verdict {
        self.decide(user, act).map_err(|reason| reason.or_else(|| act.unknown_kind()))
    }

    fn authorize_path(&self, user: &User, verb: &str, path: &str) -> Verdict {
        let may = user.is_in(MASTERS) || rules::may_visit(user, verb, path);
        if may { Ok(()) } else { Err(None) }
    }

    fn rules(&self, user: &User, namespace: &str) -> SubjectRulesReviewStatus {
        let mut status = SubjectRulesReviewStatus::default();
        let known = &mut status.resource_rules;
        if may_all(user) {
            known.push(rules::everything());
        }
        if user.is_in(AUTHENTICATED) {
            known.extend(EVERYBODY.iter().map(rules::Rule::listed));
        }
        if user.name == SCHEDULER {
            known.extend(SCHEDULER_RULES.iter().map(rules::Rule::listed));
            known.extend(rules::reads_of_all_but_secrets());
        }
        if let Some(node) = user.node() {
            known.extend(node_rules::rules(node, namespace));
            status.incomplete = true;
            status.evaluation_error = Some(node_rules::NOT_ALL.to_owned());
        }
        status.non_resource_rules = rules::paths(user);
        status
    }
}
