//! What an agent may do.
//!
//! * Read: the objects that describe the cluster; the pods bound to it; a secret or config map only
//!   by name, and only when a pod bound to the node refers to it.
//! * Write: its own Node and its status, its own Lease, the status of pods bound to it, the
//!   deletion of those pods, and events.
//! * Tokens of the accounts of pods bound to it, bound to those pods.
//!
//! The name in the body of a create is checked by admission, where the body is known, and the pod
//! of a token where the token is made.

use super::authorizer::{Act, Verdict};
use super::rules::{self, READ, Rule, WRITE, listed};
use crate::watch::{Cache, Caches, Object};
use bowline_api::NODE_LEASES;
use bowline_api::resource::find;
use k8s_openapi::api::authorization::v1::ResourceRule;
use serde_json::Value;

/// What a review of an agent's rules says beside them: the rest depends on pods.
pub(super) const NOT_ALL: &str = "node authorizer does not support user rule resolution";

const LEASE_GROUP: &str = "coordination.k8s.io";
const ON_LEASES: &[&str] = &["get", "list", "watch", "update", "patch", "delete"];

/// What holds whatever the object is.
const RULES: &[Rule] = &[
    Rule {
        verbs: READ,
        groups: &[""],
        resources: &["services", "endpoints", "namespaces", "serviceaccounts", "nodes"],
    },
    Rule { verbs: READ, groups: &["discovery.k8s.io"], resources: &["endpointslices"] },
    Rule { verbs: &["create"], groups: &[""], resources: &["nodes"] },
    Rule { verbs: WRITE, groups: &["", "events.k8s.io"], resources: &["events"] },
];

pub(super) fn authorize(caches: &Caches, node: &str, act: &Act<'_>) -> Verdict {
    if rules::allow(RULES, act) {
        return Ok(());
    }
    match (act.group, act.resource, act.subresource) {
        ("", "secrets" | "configmaps", "") => referenced(caches, node, act),
        ("", "serviceaccounts", "token") if act.verb == "create" => referenced(caches, node, act),
        ("", "nodes", "" | "status") => own_node(node, act),
        (LEASE_GROUP, "leases", "") => own_lease(node, act),
        ("", "pods", "") if act.verb == "delete" => bound_pod(caches, node, act),
        ("", "pods", "status") if matches!(act.verb, "get" | "update" | "patch") => {
            bound_pod(caches, node, act)
        }
        ("", "pods", "") if act.is_read() => own_pods(caches, node, act),
        _ => Err(None),
    }
}

/// What can be told without an object, in a namespace.
pub(super) fn rules(node: &str, namespace: &str) -> Vec<ResourceRule> {
    let mut all: Vec<ResourceRule> = RULES.iter().map(Rule::listed).collect();
    all.push(listed(&["update", "patch"], &[""], &["nodes", "nodes/status"], &[node]));
    if namespace == NODE_LEASES {
        all.push(listed(&["create"], &[LEASE_GROUP], &["leases"], &[]));
        all.push(listed(ON_LEASES, &[LEASE_GROUP], &["leases"], &[node]));
    }
    all
}

fn own_node(node: &str, act: &Act<'_>) -> Verdict {
    match act.verb {
        "get" => Ok(()),
        "update" | "patch" if act.name == node => Ok(()),
        "update" | "patch" => {
            Err(Some(format!("node \"{node}\" is not allowed to modify node \"{}\"", act.name)))
        }
        _ => Err(None),
    }
}

fn own_lease(node: &str, act: &Act<'_>) -> Verdict {
    if act.namespace != NODE_LEASES {
        let reason = format!("can only access leases in the \"{NODE_LEASES}\" system namespace");
        return Err(Some(reason));
    }
    match act.verb {
        "create" => Ok(()),
        verb if ON_LEASES.contains(&verb) && act.name == node => Ok(()),
        _ => Err(Some(format!("node \"{node}\" can only access its own lease"))),
    }
}

fn bound_pod(caches: &Caches, node: &str, act: &Act<'_>) -> Verdict {
    let Some(pods) = pods(caches) else { return Err(None) };
    if act.namespace.is_empty() || act.name.is_empty() {
        return Err(Some(format!("can only act on pods that are bound to node \"{node}\"")));
    }
    let pod = pods.get(&format!("{}/{}", act.namespace, act.name));
    // A pod that is gone is answered with 404 by the verb.
    if pod.is_none_or(|pod| node_of(&pod) == node) {
        return Ok(());
    }
    Err(Some(format!("pod \"{}\" is not bound to node \"{node}\"", act.name)))
}

fn own_pods(caches: &Caches, node: &str, act: &Act<'_>) -> Verdict {
    match act.verb {
        "get" => bound_pod(caches, node, act),
        _ if act.node == node => Ok(()),
        _ => Err(Some(format!("can only read pods with the field selector spec.nodeName={node}"))),
    }
}

fn pods(caches: &Caches) -> Option<&Cache> {
    Some(caches.of(find("", "v1", "pods")?))
}

fn node_of(pod: &Object) -> &str {
    pod.value["spec"]["nodeName"].as_str().unwrap_or_default()
}

fn referenced(caches: &Caches, node: &str, act: &Act<'_>) -> Verdict {
    let refused = || {
        let what = act.resource.trim_end_matches('s');
        Err(Some(format!("no pod that is bound to node \"{node}\" refers to this {what}")))
    };
    let is_token = act.subresource == "token";
    if !(act.is_read() || is_token) || act.name.is_empty() || act.namespace.is_empty() {
        return refused();
    }
    let Some(pods) = pods(caches) else { return refused() };
    let filter = crate::watch::Filter {
        namespace: act.namespace.to_owned(),
        ..crate::watch::Filter::default()
    };
    let on_node = pods.list(&filter, None, None).objects;
    let refers = on_node
        .iter()
        .any(|pod| node_of(pod) == node && refers(&pod.value["spec"], act.resource, act.name));
    if refers { Ok(()) } else { refused() }
}

/// Whether a pod's spec names a secret or config map (in a volume, in the environment, or for
/// pulling images) or an account.
fn refers(spec: &Value, plural: &str, name: &str) -> bool {
    if plural == "serviceaccounts" {
        return spec["serviceAccountName"] == name;
    }
    let secret = plural == "secrets";
    let (volume, volume_name) =
        if secret { ("secret", "secretName") } else { ("configMap", "name") };
    let (key_ref, all_ref) =
        if secret { ("secretKeyRef", "secretRef") } else { ("configMapKeyRef", "configMapRef") };
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let volumes = list(&spec["volumes"]).iter().any(|v| {
        v[volume][volume_name] == name
            || list(&v["projected"]["sources"]).iter().any(|s| s[volume]["name"] == name)
    });
    let pull = secret && list(&spec["imagePullSecrets"]).iter().any(|s| s["name"] == name);
    let environment = ["containers", "initContainers"].iter().any(|field| {
        list(&spec[*field]).iter().any(|container| {
            list(&container["env"]).iter().any(|e| e["valueFrom"][key_ref]["name"] == name)
                || list(&container["envFrom"]).iter().any(|e| e[all_ref]["name"] == name)
        })
    });
    volumes || pull || environment
}
