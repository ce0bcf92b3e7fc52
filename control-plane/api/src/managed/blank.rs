//! Fields that are nobody's because every object has them.
//!
//! Typed clients of an API write every object that is no pointer, empty as it may be; so the fields
//! that lead to those never come nor go, and only what is inside them is somebody's. The schemas do
//! not tell which these are: this is one row a kind. A kind without a row has none.

use super::set::Set;

/// The fields of a schema that every object has.
fn standing(schema: &str) -> &'static [&'static [&'static str]] {
    match schema.strip_prefix("io.k8s.api.").unwrap_or_default() {
        "core.v1.Pod" => &[&["spec"], &["spec", "containers"], &["status"]],
        "core.v1.Service" => &[&["spec"], &["status"], &["status", "loadBalancer"]],
        "core.v1.Node" => &[
            &["spec"],
            &["status"],
            &["status", "daemonEndpoints"],
            &["status", "daemonEndpoints", "kubeletEndpoint"],
            &["status", "nodeInfo"],
        ],
        "core.v1.Namespace" | "core.v1.ReplicationController" => &[&["spec"], &["status"]],
        "core.v1.Event" => &[&["involvedObject"], &["source"]],
        "apps.v1.Deployment" | "apps.v1.ReplicaSet" => &[
            &["spec"],
            &["spec", "strategy"],
            &["spec", "template"],
            &["spec", "template", "metadata"],
            &["spec", "template", "spec"],
            &["spec", "template", "spec", "containers"],
            &["status"],
        ],
        "coordination.v1.Lease" => &[&["spec"]],
        "discovery.v1.EndpointSlice" => &[&["endpoints"], &["ports"]],
        _ => &[],
    }
}

/// Takes the fields that every object has out of what a write changed; what is inside them stays.
pub(super) fn discard(schema: &str, set: &mut Set) {
    for path in standing(schema) {
        discard_path(path, set);
    }
}

fn discard_path(path: &[&str], set: &mut Set) {
    match path {
        [] => {}
        [last] => set.discard_fields(&[*last]),
        [first, rest @ ..] => set.with_field(first, |below| discard_path(rest, below)),
    }
}
