//! What a path means.
//!
//! One parser for every kind in the resource table; there is no route per resource.

use crate::health::Endpoint;
use bowline_api::resource::{Resource, find};

/// The meaning of a path.
#[derive(PartialEq)]
pub(crate) enum Route {
    /// An object, a collection or a subresource.
    Resource(Target),
    /// `/healthz`, `/livez`, `/readyz`, or one of their checks.
    Health {
        endpoint: Endpoint,
        /// Empty for all of them.
        check: String,
    },
    Version,
    Metrics,
    /// `/`: the list of paths.
    Root,
    /// `/api`, `/apis`.
    Groups {
        core: bool,
    },
    /// `/apis/<group>`.
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`.
    GroupVersion {
        group: String,
        version: String,
    },
    OpenApiV2,
    OpenApiIndex,
    /// `/openapi/v3/<path>`.
    OpenApi(String),
    /// `/.well-known/openid-configuration`: who issues tokens.
    Issuer,
    /// `/openid/v1/jwks`: how they are checked.
    IssuerKeys,
    Authority,
    Join,
    /// What packets meet on this node, as it happens.
    Events(String),
    /// A `bowline net` command on this node.
    Net(String),
    Unknown,
}

/// What a resource path names.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) resource: &'static Resource,
    /// Empty for cluster objects and for all namespaces.
    pub(super) namespace: String,
    /// Empty for a collection.
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        let fields = |t: &Self| (t.namespace.clone(), t.name.clone(), t.subresource.clone());
        std::ptr::eq(self.resource, other.resource) && fields(self) == fields(other)
    }
}

/// Subresources of a namespace, which would otherwise read as resources in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["finalize", "status"];

pub(super) fn parse(path: &str) -> Route {
    let segments: Option<Vec<String>> =
        path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect();
    let Some(segments) = segments else { return Route::Unknown };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        [] => Route::Root,
        ["healthz", check @ ..] => health(Endpoint::Healthz, check),
        ["livez", check @ ..] => health(Endpoint::Livez, check),
        ["readyz", check @ ..] => health(Endpoint::Readyz, check),
        ["version"] => Route::Version,
        ["metrics"] => Route::Metrics,
        ["api"] => Route::Groups { core: true },
        ["apis"] => Route::Groups { core: false },
        ["apis", group] => Route::Group((*group).to_owned()),
        ["api", version] => group_version("", version),
        ["apis", group, version] => group_version(group, version),
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiIndex,
        ["openapi", "v3", rest @ ..] => Route::OpenApi(rest.join("/")),
        [".well-known", "openid-configuration"] => Route::Issuer,
        ["openid", "v1", "jwks"] => Route::IssuerKeys,
        ["bowline", "v1", "ca"] => Route::Authority,
        ["bowline", "v1", "join"] => Route::Join,
        ["bowline", "v1", "nodes", node, "events"] => Route::Events((*node).to_owned()),
        ["bowline", "v1", "nodes", node, "net"] => Route::Net((*node).to_owned()),
        _ => Route::Unknown,
    }
}

fn health(endpoint: Endpoint, check: &[&str]) -> Route {
    Route::Health { endpoint, check: check.join("/") }
}

fn group_version(group: &str, version: &str) -> Route {
    Route::GroupVersion { group: group.to_owned(), version: version.to_owned() }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Route {
    let (namespace, rest) = match rest {
        ["namespaces", namespace, plural, ..] if !NAMESPACE_SUBRESOURCES.contains(plural) => {
            (*namespace, &rest[2..])
        }
        _ => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (plural, "", ""),
        [plural, name] => (plural, *name, ""),
        [plural, name, subresource] => (plural, *name, *subresource),
        _ => return Route::Unknown,
    };
    let Some(resource) = find(group, version, plural) else { return Route::Unknown };
    // A cluster object has no namespace; an object in a namespace is not found outside of it.
    let misplaced = if resource.namespaced {
        namespace.is_empty() && !name.is_empty()
    } else {
        !namespace.is_empty()
    };
    let served = subresource.is_empty()
        || (subresource == "status" && resource.status)
        || (subresource == "scale" && resource.scale.is_some())
        || (subresource == "finalize" && resource.plural == "namespaces")
        || resource.subresources.iter().any(|sub| sub.name == subresource);
    if misplaced || !served {
        return Route::Unknown;
    }
    Route::Resource(Target {
        resource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    })
}

/// Percent-decodes one segment; `None` when it is no text.
fn decode(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_resources() {
        let table = [
            ("/api/v1/pods", "pods", "", "", ""),
            ("/api/v1/namespaces/a/pods", "pods", "a", "", ""),
            ("/api/v1/namespaces/a/pods/p", "pods", "a", "p", ""),
            ("/api/v1/namespaces/a/pods/p/status", "pods", "a", "p", "status"),
            ("/api/v1/namespaces/a/pods/p/log", "pods", "a", "p", "log"),
            ("/api/v1/namespaces", "namespaces", "", "", ""),
            ("/api/v1/namespaces/a", "namespaces", "", "a", ""),
            ("/api/v1/namespaces/a/status", "namespaces", "", "a", "status"),
            ("/api/v1/namespaces/a/finalize", "namespaces", "", "a", "finalize"),
            ("/api/v1/nodes/n%2e1/status", "nodes", "", "n.1", "status"),
            ("/apis/apps/v1/namespaces/a/deployments/d/scale", "deployments", "a", "d", "scale"),
        ];
        for (path, plural, namespace, name, subresource) in table {
            let Route::Resource(target) = parse(path) else { panic!("{path} is no resource") };
            assert_eq!(
                (target.resource.plural, &*target.namespace, &*target.name, &*target.subresource),
                (plural, namespace, name, subresource),
                "{path}"
            );
        }
    }

    #[test]
    fn paths_of_nothing() {
        for path in [
            "/api/v1/unicorns",
            "/api/v2/pods",
            "/apis/apps/v1/pods",
            "/api/v1/pods/p",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/namespaces/a/configmaps/c/status",
            "/api/v1/namespaces/a/pods/p/status/x",
            "/api/v1/namespaces/%ff/pods",
            "/nothing",
        ] {
            assert!(parse(path) == Route::Unknown, "{path}");
        }
    }
}
