//! Which nodes can take a pod, and why the others cannot. Pure.

use std::collections::BTreeMap;

use bowline_api::taints::tolerates;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

use crate::cluster::{Cluster, Usage};
use crate::facts::{NodeFacts, PodFacts};

/// Why a node refuses a pod. The order is that of the checks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    Unschedulable,
    Taint { key: String, value: String },
    Affinity,
    HostPorts,
    TooManyPods,
    Insufficient { resource: String },
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Taint { key, value } => {
                write!(f, "node(s) had untolerated taint {{{key}: {value}}}")
            }
            Self::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::HostPorts => {
                f.write_str("node(s) didn't have free ports for the requested pod ports")
            }
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::Insufficient { resource } => write!(f, "Insufficient {resource}"),
        }
    }
}

impl Refusal {
    /// Whether the end of some pod can heal it.
    pub(crate) fn is_about_pods(&self) -> bool {
        matches!(self, Self::HostPorts | Self::TooManyPods | Self::Insufficient { .. })
    }
}

/// All refusals, by node.
pub(crate) type Refusals = BTreeMap<String, Vec<Refusal>>;

/// The nodes that can take the pod, or why each of them cannot.
pub(crate) fn filter<'a>(
    pod: &PodFacts,
    cluster: &'a Cluster,
) -> Result<Vec<&'a NodeFacts>, Refusals> {
    let mut fitting = Vec::new();
    let mut refusals = Refusals::new();
    for node in cluster.nodes.values() {
        let refused = check(pod, node, cluster.usage(&node.name));
        if refused.is_empty() {
            fitting.push(node);
        } else {
            refusals.insert(node.name.clone(), refused);
        }
    }
    if fitting.is_empty() { Err(refusals) } else { Ok(fitting) }
}

/// Only the first kind of refusal is named; of resources, all that are short.
fn check(pod: &PodFacts, node: &NodeFacts, usage: Option<&Usage>) -> Vec<Refusal> {
    let unschedulable = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if node.unschedulable && !is_tolerated(&unschedulable, &pod.tolerations) {
        return vec![Refusal::Unschedulable];
    }
    let keeps_off = |taint: &&Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !is_tolerated(taint, &pod.tolerations)
    };
    if let Some(taint) = node.taints.iter().find(keeps_off) {
        let value = taint.value.clone().unwrap_or_default();
        return vec![Refusal::Taint { key: taint.key.clone(), value }];
    }
    if !matches_affinity(pod, node) {
        return vec![Refusal::Affinity];
    }
    let taken = |port: &crate::facts::HostPort| {
        usage.is_some_and(|usage| usage.host_ports().any(|other| port.conflicts(other)))
    };
    if pod.host_ports.iter().any(taken) {
        return vec![Refusal::HostPorts];
    }
    check_room(pod, node, usage)
}

fn check_room(pod: &PodFacts, node: &NodeFacts, usage: Option<&Usage>) -> Vec<Refusal> {
    let mut short = Vec::new();
    let count = i64::try_from(usage.map_or(0, |usage| usage.pods.len())).unwrap_or(i64::MAX);
    if node.allocatable.get("pods").is_some_and(|limit| count >= *limit) {
        short.push(Refusal::TooManyPods);
    }
    for (resource, wanted) in pod.requests.iter().filter(|(_, wanted)| **wanted > 0) {
        let has = node.allocatable.get(resource).copied().unwrap_or(0);
        let taken = usage.and_then(|usage| usage.requested.get(resource)).copied().unwrap_or(0);
        if *wanted > has.saturating_sub(taken) {
            short.push(Refusal::Insufficient { resource: resource.clone() });
        }
    }
    short
}

pub(crate) fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

fn matches_affinity(pod: &PodFacts, node: &NodeFacts) -> bool {
    let selected = pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let required = pod
        .node_affinity
        .as_ref()
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && required
            .is_none_or(|required| required.node_selector_terms.iter().any(|t| term(t, node)))
}

/// An empty term matches nothing.
pub(crate) fn term(term: &NodeSelectorTerm, node: &NodeFacts) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| requirement(r, node.labels.get(&r.key).map(String::as_str)))
        && fields
            .iter()
            .all(|r| requirement(r, (r.key == "metadata.name").then_some(node.name.as_str())))
}

fn requirement(requirement: &NodeSelectorRequirement, have: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = have.is_some_and(|have| values.iter().any(|value| value == have));
    let compare = |holds: fn(i64, i64) -> bool| {
        let numbers = have
            .and_then(|have| have.parse().ok())
            .zip(values.first().and_then(|value| value.parse().ok()));
        numbers.is_some_and(|(have, bound)| holds(have, bound))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => have.is_some(),
        "DoesNotExist" => have.is_none(),
        "Gt" => compare(|have, bound| have > bound),
        "Lt" => compare(|have, bound| have < bound),
        _ => false,
    }
}

/// The message of the event `FailedScheduling` and of the condition `PodScheduled`: each reason and
/// the nodes that have it. A node that is short of two resources is named twice.
pub(crate) fn explain(refusals: &Refusals) -> String {
    if refusals.is_empty() {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut nodes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (node, refused) in refusals {
        for refusal in refused {
            nodes.entry(refusal.to_string()).or_default().push(node);
        }
    }
    let reasons = nodes.iter().map(|(reason, nodes)| {
        let count = nodes.len();
        format!("{count} {reason} ({})", named(nodes))
    });
    let mut reasons: Vec<String> = reasons.collect();
    reasons.sort();
    format!("0/{} nodes are available: {}.", refusals.len(), reasons.join(", "))
}

/// Names of nodes, so many that a message stays readable.
fn named(nodes: &[&str]) -> String {
    const NAMED: usize = 10;
    let first = nodes[..nodes.len().min(NAMED)].join(", ");
    match nodes.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
