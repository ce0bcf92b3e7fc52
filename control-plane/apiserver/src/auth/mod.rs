//! Who asks, and may they.
//!
//! Guarantees: every request carries a [`User`] that came from a verified client certificate of
//! the cluster's own CA, from a token that the cluster knows ([`bearer`]), or from an in-process
//! client; nothing else in an HTTP message can name a user. What the [`authorizer::Authorizer`]
//! does not allow is refused, and reviews tell beforehand what it would say.
//!
//! It does not know role bindings or impersonation.

pub(crate) mod account_tokens;
pub(crate) mod authorizer;
pub(crate) mod bearer;
mod bootstrap_tokens;
pub(crate) mod join;
pub(crate) mod jwt;
mod node_rules;
pub(crate) mod pki;
pub(crate) mod renewed;
mod rules;
pub(crate) mod secret_file;

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";
/// The group of everybody who is known.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// The group of the agents.
pub(crate) const NODES: &str = "system:nodes";
/// What the name of an agent's user starts with; the node's name follows.
pub(crate) const NODE_USER_PREFIX: &str = "system:node:";
/// The user of the scheduler.
pub(crate) const SCHEDULER: &str = "system:kube-scheduler";
/// The user of the controllers.
pub(crate) const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
/// The user of the server's own writes and of its connections to agents.
const APISERVER_USER: &str = "system:apiserver";

/// What a user has beside the name: by which certificate or token they came.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Who makes a request. A request extension: HTTP clients cannot set it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    /// Tells users of one name apart; empty when there is only one.
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    /// What else is known of the user. It decides nothing.
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub(crate) fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// The server itself.
    pub(crate) fn apiserver() -> Self {
        Self::new(APISERVER_USER, &[MASTERS])
    }

    /// The user with the group that everybody has who is known.
    pub(crate) fn authenticated(mut self) -> Self {
        if !self.is_in(AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The name of the node that this user is the agent of.
    pub(crate) fn node(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_USER_PREFIX)?;
        (self.is_in(NODES) && !name.is_empty()).then_some(name)
    }

    /// Whether the cluster lives by what the user does: an agent, a control loop, the server.
    pub(crate) fn is_system(&self) -> bool {
        let own = [SCHEDULER, CONTROLLER_MANAGER, APISERVER_USER];
        self.node().is_some() || own.contains(&self.name.as_str())
    }

    /// The user of a client certificate that TLS has verified: the common name, and one group per
    /// organization. `None` when the certificate names nobody.
    pub(crate) fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject
            .iter_organization()
            .filter_map(|group| group.as_str().ok())
            .map(str::to_owned)
            .collect();
        let digest: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
        let credential = vec![format!("X509SHA256={digest}")];
        let extra = BTreeMap::from([(CREDENTIAL_ID.to_owned(), credential)]);
        Some(Self { name, groups, extra, ..Self::default() })
    }
}
