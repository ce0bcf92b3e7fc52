//! What the conditions of a node mean for its taints. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition, the status that is bad, and its taint.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// What the condition `Ready` of a node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    Yes,
    No,
    Unknown,
    /// The node has not reported yet.
    Never,
}

pub(super) fn ready(node: &Node) -> Ready {
    match condition(node, "Ready") {
        None => Ready::Never,
        Some("True") => Ready::Yes,
        Some("False") => Ready::No,
        Some(_) => Ready::Unknown,
    }
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == type_).map(|c| c.status.as_str())
}

/// The conditions of a node that is not heard any more.
pub(super) fn unknown_conditions(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let known = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions: Vec<NodeCondition> = known.cloned().unwrap_or_default();
    for type_ in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let old = conditions.iter_mut().find(|condition| condition.type_ == type_);
        let (reason, message) = match &old {
            Some(_) => ("NodeStatusUnknown", "The node's agent stopped reporting."),
            None => ("NodeStatusNeverUpdated", "The node's agent never reported."),
        };
        let new = NodeCondition {
            type_: type_.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: old.as_ref().and_then(|old| old.last_heartbeat_time.clone()),
            last_transition_time: Some(Time(now)),
        };
        match old {
            Some(old) if old.status != "Unknown" => *old = new,
            Some(_) => {}
            None => conditions.push(new),
        }
    }
    conditions
}

/// The taints of the node, if they are to change. Taints that users set are kept.
pub(super) fn taints(node: &Node, anyone_ready: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let spec = node.spec.as_ref();
    let old: Vec<Taint> = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match ready(node) {
        Ready::Yes => {}
        Ready::Never => wanted.push((NOT_READY, "NoSchedule")),
        Ready::No => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Ready::Unknown => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
    }
    if !anyone_ready {
        // Nobody is heard: do not begin to evict, and do not take back what was begun.
        let has = |key| old.iter().any(|taint| taint.key == key && taint.effect == "NoExecute");
        wanted.retain(|(key, effect)| *effect != "NoExecute" || has(*key));
    }
    for (type_, key) in PRESSURES {
        if condition(node, type_) == Some("True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    if spec.and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let is_ours = |taint: &Taint| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str())
            || PRESSURES.iter().any(|(_, key)| *key == taint.key)
    };
    let mut new: Vec<Taint> = old.iter().filter(|taint| !is_ours(taint)).cloned().collect();
    for (key, effect) in wanted {
        let known = old.iter().find(|taint| taint.key == key && taint.effect == effect);
        new.push(known.cloned().unwrap_or_else(|| Taint {
            key: key.to_owned(),
            effect: effect.to_owned(),
            time_added: Some(Time(now)),
            value: None,
        }));
    }
    let names = |taints: &[Taint]| {
        let mut names: Vec<_> =
            taints.iter().map(|taint| (taint.key.clone(), taint.effect.clone())).collect();
        names.sort();
        names
    };
    (names(&old) != names(&new)).then_some(new)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pods::samples::time;
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus};

    pub(in crate::node_lifecycle) fn node(ready: Option<&str>, taints: &[(&str, &str)]) -> Node {
        let taints = taints.iter().map(|(key, effect)| Taint {
            key: (*key).to_owned(),
            effect: (*effect).to_owned(),
            time_added: Some(Time(time(0))),
            value: None,
        });
        Node {
            spec: Some(NodeSpec { taints: Some(taints.collect()), ..NodeSpec::default() }),
            status: Some(NodeStatus {
                conditions: ready.map(|status| {
                    vec![NodeCondition {
                        type_: "Ready".into(),
                        status: status.into(),
                        ..NodeCondition::default()
                    }]
                }),
                ..NodeStatus::default()
            }),
            ..Node::default()
        }
    }

    #[test]
    fn taints_follow_the_conditions() {
        let (schedule, execute) = ("NoSchedule", "NoExecute");
        type Names<'a> = Vec<(&'a str, &'a str)>;
        let silent: Names<'_> = vec![(UNREACHABLE, schedule), (UNREACHABLE, execute)];
        let table: Vec<(&str, Node, bool, Option<Names<'_>>)> = vec![
            ("healthy", node(Some("True"), &[]), true, None),
            ("new", node(None, &[]), true, Some(vec![(NOT_READY, schedule)])),
            ("silent", node(Some("Unknown"), &[]), true, Some(silent.clone())),
            ("all silent", node(Some("Unknown"), &[]), false, Some(vec![(UNREACHABLE, schedule)])),
            ("silent, known", node(Some("Unknown"), &silent), true, None),
            ("all silent, begun", node(Some("Unknown"), &silent), false, None),
            ("back", node(Some("True"), &silent), true, Some(vec![])),
            (
                "user's taint stays",
                node(Some("True"), &[("mine", schedule), (NOT_READY, schedule)]),
                true,
                Some(vec![("mine", schedule)]),
            ),
            (
                "ill",
                node(Some("False"), &silent),
                true,
                Some(vec![(NOT_READY, schedule), (NOT_READY, execute)]),
            ),
        ];
        for (name, node, anyone, expected) in table {
            let got = taints(&node, anyone, time(9));
            let got: Option<Vec<_>> = got
                .as_ref()
                .map(|t| t.iter().map(|t| (t.key.as_str(), t.effect.as_str())).collect());
            assert_eq!(got, expected, "{name}");
        }
    }

    #[test]
    fn a_silent_node_is_unknown_in_every_respect() {
        let conditions = unknown_conditions(&node(Some("True"), &[]), time(9));
        assert_eq!(conditions.len(), 4);
        assert!(conditions.iter().all(|condition| condition.status == "Unknown"));
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(conditions[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
    }
}
