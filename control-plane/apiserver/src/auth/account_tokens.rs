//! Tokens of service accounts: what they claim, and whether it still holds.
//!
//! Guarantees: a token is worth something only as long as it lasts, its account is there, and what
//! it is bound to is there, each with the uid that the token names; of a deleted object no longer
//! than [`LEEWAY`] after its end. A token for others is worth nothing here. Nothing of a token is
//! logged.

use super::jwt::{self, SignFailed, Signer};
use super::{CREDENTIAL_ID, User};
use crate::watch::Caches;
use bowline_api::object::{self, text};
use bowline_api::resource::find;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The group of all service accounts; with a colon and a namespace after it that of a namespace's.
pub(crate) const ACCOUNTS: &str = "system:serviceaccounts";
/// What the name of an account's user starts with; namespace and name follow.
const USER_PREFIX: &str = "system:serviceaccount:";
/// Where a token says what it is for.
const PRIVATE: &str = "kubernetes.io";
/// Seconds that clocks may be apart.
const LEEWAY: i64 = 60;

/// Who a token is, and for which of the audiences that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) user: User,
    pub(crate) audiences: Vec<String>,
}

/// Why a token is worth nothing, in the words that clients know.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("invalid bearer token")]
    Unknown,
    #[error(
        "token audiences {} is invalid for the target audiences {}",
        listed(.own),
        listed(.asked)
    )]
    Audience { own: Vec<String>, asked: Vec<String> },
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("{what} {name:?} not found")]
    Gone { what: &'static str, name: String },
    #[error("{what} UID ({found}) does not match claim ({claimed})")]
    Another { what: &'static str, found: String, claimed: String },
    #[error("{what} {name} has been deleted")]
    Deleted { what: &'static str, name: String },
}

fn listed(audiences: &[String]) -> String {
    let quoted: Vec<String> = audiences.iter().map(|one| format!("{one:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// Those of the token's audiences that are asked for; an error when there are none.
pub(super) fn shared(own: &[String], asked: &[String]) -> Result<Vec<String>, Refused> {
    let shared: Vec<String> = own.iter().filter(|one| asked.contains(one)).cloned().collect();
    if shared.is_empty() {
        return Err(Refused::Audience { own: own.to_vec(), asked: asked.to_vec() });
    }
    Ok(shared)
}

/// What a token is made of.
pub(crate) struct Issue<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a str,
    /// The account and what the token is bound to, as [`reference`]s by what they are: the
    /// claims beside the namespace.
    pub(crate) references: BTreeMap<&'static str, Value>,
    pub(crate) audiences: &'a [String],
    pub(crate) now: Timestamp,
    pub(crate) life: Duration,
}

/// How a token names an object.
pub(crate) fn reference(name: &str, uid: &str) -> Value {
    let mut reference = json!({ "name": name });
    if !uid.is_empty() {
        reference["uid"] = Value::from(uid);
    }
    reference
}

/// See the module's documentation.
pub(crate) struct AccountTokens {
    signer: Signer,
    issuer: String,
    caches: Arc<Caches>,
}

impl AccountTokens {
    pub(crate) fn new(signer: Signer, issuer: String, caches: Arc<Caches>) -> Self {
        Self { signer, issuer, caches }
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The keys that tokens are signed with.
    pub(crate) fn keys(&self) -> Value {
        json!({ "keys": [self.signer.public()] })
    }

    pub(crate) fn issue(&self, issue: &Issue<'_>) -> Result<String, SignFailed> {
        let now = issue.now.as_second();
        let life = i64::try_from(issue.life.as_secs()).unwrap_or(i64::MAX);
        let mut private = json!({ "namespace": issue.namespace });
        for (what, reference) in &issue.references {
            private[*what] = reference.clone();
        }
        self.signer.sign(&json!({
            "aud": issue.audiences,
            "exp": now.saturating_add(life),
            "iat": now,
            "iss": self.issuer,
            "jti": uuid::Uuid::new_v4().to_string(),
            PRIVATE: private,
            "nbf": now,
            "sub": format!("{USER_PREFIX}{}:{}", issue.namespace, issue.account),
        }))
    }

    /// Who the token is. `None` when another issued it, or nobody.
    pub(crate) fn check(
        &self,
        token: &str,
        asked: &[String],
        now: Timestamp,
    ) -> Option<Result<Known, Refused>> {
        let claimed = jwt::claims(token)?;
        (claimed["iss"] == self.issuer.as_str()).then(|| {
            let claims = self.signer.open(token).ok_or(Refused::Unknown)?;
            self.judge(&claims, asked, now)
        })
    }

    fn judge(&self, claims: &Value, asked: &[String], now: Timestamp) -> Result<Known, Refused> {
        let own = claims["aud"].as_array().into_iter().flatten();
        let own: Vec<String> = own.filter_map(Value::as_str).map(str::to_owned).collect();
        let audiences = shared(&own, asked)?;
        let second = |claim: &str| claims[claim].as_i64();
        if second("exp").is_none_or(|end| end.saturating_add(LEEWAY) < now.as_second()) {
            return Err(Refused::Expired);
        }
        let latest = now.as_second() + LEEWAY;
        if ["nbf", "iat"].iter().any(|claim| second(claim).is_none_or(|at| at > latest)) {
            return Err(Refused::NotYet);
        }
        let private = &claims[PRIVATE];
        let namespace = text(private, "namespace");
        let account = &private["serviceaccount"];
        self.check_object("service account", "serviceaccounts", namespace, account, now)?;
        let bound = |claim: &str| Some(&private[claim]).filter(|it| it.is_object());
        if let Some(secret) = bound("secret") {
            self.check_object("secret", "secrets", namespace, secret, now)?;
        }
        match (bound("pod"), bound("node")) {
            // The node of a pod is told, and not looked for.
            (Some(pod), _) => self.check_object("pod", "pods", namespace, pod, now)?,
            (None, Some(node)) => self.check_object("node", "nodes", "", node, now)?,
            (None, None) => {}
        }
        let user = user(namespace, private, text(claims, "jti"));
        Ok(Known { user, audiences })
    }

    /// Whether the object that a claim names is there, and the same one.
    fn check_object(
        &self,
        what: &'static str,
        plural: &str,
        namespace: &str,
        claim: &Value,
        now: Timestamp,
    ) -> Result<(), Refused> {
        let name = text(claim, "name");
        let key = match namespace {
            "" => name.to_owned(),
            namespace => format!("{namespace}/{name}"),
        };
        let resource = find("", "v1", plural);
        let Some(found) = resource.and_then(|resource| self.caches.of(resource).get(&key)) else {
            return Err(Refused::Gone { what, name: name.to_owned() });
        };
        let (uid, claimed) = (object::uid(&found.value), text(claim, "uid"));
        if uid != claimed {
            let (found, claimed) = (uid.to_owned(), claimed.to_owned());
            return Err(Refused::Another { what, found, claimed });
        }
        let end = object::deletion_timestamp(&found.value);
        let end = end.and_then(|end| end.parse::<Timestamp>().ok());
        if end.is_some_and(|end| end.as_second() + LEEWAY < now.as_second()) {
            return Err(Refused::Deleted { what, name: key });
        }
        Ok(())
    }
}

fn user(namespace: &str, private: &Value, id: &str) -> User {
    let account = &private["serviceaccount"];
    let name = format!("{USER_PREFIX}{namespace}:{}", text(account, "name"));
    let own = format!("{ACCOUNTS}:{namespace}");
    let mut user = User::new(name, &[ACCOUNTS, &own]);
    user.uid = text(account, "uid").to_owned();
    let mut tell = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(key.to_owned(), vec![value.to_owned()]);
        }
    };
    let credential = if id.is_empty() { String::new() } else { format!("JTI={id}") };
    tell(CREDENTIAL_ID, &credential);
    for what in ["pod", "node"] {
        for part in ["name", "uid"] {
            let key = format!("authentication.kubernetes.io/{what}-{part}");
            tell(&key, text(&private[what], part));
        }
    }
    user
}
