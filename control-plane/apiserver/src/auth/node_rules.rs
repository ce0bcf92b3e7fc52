//! What an agent may do.
//!
//! * Read: the objects that describe the cluster; the pods bound to it; a secret or config map only
//!   by name, and only when a pod bound to the node refers to it.
//! * Write: its own Node and its status, its own Lease, the status of pods bound to it, the
//!   deletion of those pods, and events.
//!
//! The name in the body of a create is checked by admission, where the body is known.

use super::authorizer::Act;
use crate::watch::{Caches, Object};
use bowline_api::NODE_LEASES;
use bowline_api::resource::{Resource, find};
use serde_json::Value;

type Verdict = Result<(), Option<String>>;

pub(super) fn authorize(caches: &Caches, node: &str, act: &Act<'_>) -> Verdict {
    match (act.resource.plural, act.subresource) {
        ("secrets" | "configmaps", "") => referenced(caches, node, act),
        ("nodes", "" | "status") => own_node(node, act),
        ("leases", "") => own_lease(node, act),
        ("pods", "") if act.verb == "delete" => bound_pod(caches, node, act),
        ("pods", "status") if matches!(act.verb, "get" | "update" | "patch") => {
            bound_pod(caches, node, act)
        }
        ("events", "") if matches!(act.verb, "create" | "update" | "patch") => Ok(()),
        ("pods", "") if act.is_read() => own_pods(caches, node, act),
        ("services" | "endpoints" | "endpointslices" | "namespaces" | "serviceaccounts", "")
            if act.is_read() =>
        {
            Ok(())
        }
        _ => Err(None),
    }
}

fn own_node(node: &str, act: &Act<'_>) -> Verdict {
    match act.verb {
        "get" | "list" | "watch" | "create" => Ok(()),
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
        "get" | "list" | "watch" | "update" | "patch" | "delete" if act.name == node => Ok(()),
        _ => Err(Some(format!("node \"{node}\" can only access its own lease"))),
    }
}

fn bound_pod(caches: &Caches, node: &str, act: &Act<'_>) -> Verdict {
    let pod = caches.of(act.resource).get(&format!("{}/{}", act.namespace, act.name));
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

fn node_of(pod: &Object) -> &str {
    pod.value["spec"]["nodeName"].as_str().unwrap_or_default()
}

fn referenced(caches: &Caches, node: &str, act: &Act<'_>) -> Verdict {
    let refused = || {
        let what = act.resource.singular;
        Err(Some(format!("no pod that is bound to node \"{node}\" refers to this {what}")))
    };
    if !act.is_read() || act.name.is_empty() || act.namespace.is_empty() {
        return refused();
    }
    let Some(pods) = find("", "v1", "pods") else { return refused() };
    let filter = crate::watch::Filter {
        namespace: act.namespace.to_owned(),
        ..crate::watch::Filter::default()
    };
    let on_node = caches.of(pods).list(&filter, None, None).objects;
    let refers = on_node
        .iter()
        .any(|pod| node_of(pod) == node && refers(&pod.value["spec"], act.resource, act.name));
    if refers { Ok(()) } else { refused() }
}

/// Whether a pod's spec names a secret or config map: in a volume, in the environment, or for
/// pulling images.
fn refers(spec: &Value, resource: &Resource, name: &str) -> bool {
    let secret = resource.plural == "secrets";
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
