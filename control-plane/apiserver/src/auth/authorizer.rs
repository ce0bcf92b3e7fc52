//! Whether a user may do something.
//!
//! [`BuiltIn`] knows the users that a cluster has by itself: masters, the two control loops and
//! the nodes. Everybody else may look at discovery and at nothing more.

use super::{CONTROLLER_MANAGER, MASTERS, NODES, SCHEDULER, User, node_rules};
use crate::watch::Caches;
use bowline_api::resource::Resource;
use std::sync::Arc;

/// What somebody wants to do to an object or a collection.
#[derive(Clone, Copy)]
pub(crate) struct Act<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub(crate) verb: &'static str,
    pub(crate) resource: &'static Resource,
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
        matches!(self.verb, "get" | "list" | "watch")
    }

    /// `pods` or `pods/status`.
    fn what(&self) -> String {
        match self.subresource {
            "" => self.resource.plural.to_owned(),
            sub => format!("{}/{sub}", self.resource.plural),
        }
    }

    /// Why `user` may not, in the words that clients know.
    pub(crate) fn refusal(&self, user: &User) -> String {
        let (name, verb, what) = (&user.name, self.verb, self.what());
        let group = self.resource.group;
        let place = match self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        format!(
            "User \"{name}\" cannot {verb} resource \"{what}\" in API group \"{group}\" {place}"
        )
    }
}

/// The decision about an act.
pub(crate) trait Authorizer: Send + Sync {
    /// `Err` is the reason beyond "this user may not", if there is one.
    fn authorize(&self, user: &User, act: &Act<'_>) -> Result<(), Option<String>>;
}

/// The rules of a cluster without roles.
pub(crate) struct BuiltIn {
    caches: Arc<Caches>,
}

impl BuiltIn {
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
}

impl Authorizer for BuiltIn {
    fn authorize(&self, user: &User, act: &Act<'_>) -> Result<(), Option<String>> {
        if user.is_in(MASTERS) || user.name == CONTROLLER_MANAGER {
            return Ok(());
        }
        if user.name == SCHEDULER {
            return if scheduler_may(act) { Ok(()) } else { Err(None) };
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

fn scheduler_may(act: &Act<'_>) -> bool {
    let secret = act.resource.plural == "secrets";
    match (act.resource.plural, act.subresource, act.verb) {
        (_, "", "get" | "list" | "watch") => !secret,
        ("pods", "binding", "create") | ("pods", "status", "update" | "patch") => true,
        ("events" | "leases", "", "create" | "update" | "patch") => true,
        _ => false,
    }
}
