//! What users may do whatever the object is, in tables that can be shown.
//!
//! Guarantees: what a table shows is what it allows. Nodes have more rules, which look at objects.

use super::account_tokens::ACCOUNTS;
use super::authorizer::Act;
use super::{AUTHENTICATED, MASTERS, User};
use bowline_api::resource::{RESOURCES, Resource};
use k8s_openapi::api::authorization::v1::{NonResourceRule, ResourceRule};

pub(super) const READ: &[&str] = &["get", "list", "watch"];
pub(super) const WRITE: &[&str] = &["create", "update", "patch"];
const CREATE: &[&str] = &["create"];
const REVIEWS: &[&str] = &["authorization.k8s.io"];
const ALL: &str = "*";

/// Verbs on kinds.
pub(super) struct Rule {
    pub(super) verbs: &'static [&'static str],
    pub(super) groups: &'static [&'static str],
    /// `pods` or `pods/binding`.
    pub(super) resources: &'static [&'static str],
}

/// Who somebody is, and what they may do, they may ask themselves.
pub(super) const EVERYBODY: &[Rule] = &[
    Rule { verbs: CREATE, groups: &["authentication.k8s.io"], resources: &["selfsubjectreviews"] },
    Rule {
        verbs: CREATE,
        groups: REVIEWS,
        resources: &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    },
];

/// Beside [`all_but_secrets`], which the scheduler reads.
pub(super) const SCHEDULER_RULES: &[Rule] = &[
    Rule { verbs: CREATE, groups: &[""], resources: &["pods/binding"] },
    Rule { verbs: &["update", "patch"], groups: &[""], resources: &["pods/status"] },
    Rule { verbs: WRITE, groups: &["", "events.k8s.io"], resources: &["events"] },
    Rule { verbs: WRITE, groups: &["coordination.k8s.io"], resources: &["leases"] },
    Rule { verbs: CREATE, groups: REVIEWS, resources: &["subjectaccessreviews"] },
];

/// What answers strangers, too.
const OPEN_PATHS: &[&str] = &[
    "/bowline/v1/ca",
    "/healthz",
    "/healthz/*",
    "/livez",
    "/livez/*",
    "/readyz",
    "/readyz/*",
    "/version",
];
/// What the server says of itself to those whom it knows.
const DISCOVERY_PATHS: &[&str] =
    &["/", "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"];
/// How others can check the tokens of service accounts.
const ISSUER_PATHS: &[&str] = &["/.well-known/openid-configuration", "/openid/v1/jwks"];
const LOOK: &[&str] = &["get", "head"];

impl Rule {
    fn allows(&self, act: &Act<'_>) -> bool {
        self.verbs.contains(&act.verb)
            && self.groups.contains(&act.group)
            && self.resources.contains(&act.what().as_str())
    }

    pub(super) fn listed(&self) -> ResourceRule {
        listed(self.verbs, self.groups, self.resources, &[])
    }
}

pub(super) fn allow(rules: &[Rule], act: &Act<'_>) -> bool {
    rules.iter().any(|rule| rule.allows(act))
}

/// A rule as a review shows it; without names it holds for all.
pub(super) fn listed(
    verbs: &[&str],
    groups: &[&str],
    resources: &[&str],
    names: &[&str],
) -> ResourceRule {
    ResourceRule {
        verbs: texts(verbs),
        api_groups: Some(texts(groups)),
        resources: Some(texts(resources)),
        resource_names: Some(texts(names)).filter(|names| !names.is_empty()),
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub(super) fn everything() -> ResourceRule {
    listed(&[ALL], &[ALL], &[ALL], &[])
}

/// The kinds that have no secrets in them.
pub(super) fn all_but_secrets() -> impl Iterator<Item = &'static Resource> {
    RESOURCES.iter().filter(|row| row.stored && !row.is("", "secrets"))
}

/// A rule for each group.
pub(super) fn reads_of_all_but_secrets() -> Vec<ResourceRule> {
    let mut groups: Vec<&str> = all_but_secrets().map(|row| row.group).collect();
    groups.sort_unstable();
    groups.dedup();
    let rule = |group: &&str| {
        let rows = all_but_secrets().filter(|row| row.group == *group);
        listed(READ, &[*group], &rows.map(|row| row.plural).collect::<Vec<_>>(), &[])
    };
    groups.iter().map(rule).collect()
}

fn open_to(user: &User) -> impl Iterator<Item = &'static str> {
    let known: &'static [&'static str] =
        if user.is_in(AUTHENTICATED) { DISCOVERY_PATHS } else { &[] };
    let issuer: &'static [&'static str] = if user.is_in(ACCOUNTS) { ISSUER_PATHS } else { &[] };
    OPEN_PATHS.iter().chain(known).chain(issuer).copied()
}

/// Whether somebody may look at a path that is no resource.
pub(super) fn may_visit(user: &User, verb: &str, path: &str) -> bool {
    let fits = |pattern: &str| match pattern.strip_suffix(ALL) {
        Some(start) => path.starts_with(start),
        None => path == pattern,
    };
    LOOK.contains(&verb) && open_to(user).any(fits)
}

/// The paths that somebody may look at.
pub(super) fn paths(user: &User) -> Vec<NonResourceRule> {
    let rule = |verb: &str, paths: Vec<String>| NonResourceRule {
        verbs: texts(&[verb]),
        non_resource_urls: Some(paths),
    };
    // Who may get a path may also ask for its head alone, which goes without saying.
    let mut rules = vec![rule("get", open_to(user).map(str::to_owned).collect())];
    if user.is_in(MASTERS) {
        rules.insert(0, rule(ALL, vec![ALL.to_owned()]));
    }
    rules
}
