//! What every new pod gets: a service account, and time before it leaves a node that is lost; and
//! what its owner is told that the scheduler does not do.

use super::account;
use serde_json::{Value, json};

pub(super) const DEFAULT_SERVICE_ACCOUNT: &str = "default";
/// Taints that the node controller puts on a node that is lost or not ready.
const LOST_NODE_TAINTS: [&str; 2] =
    ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Rules about other pods that must hold on the node, and that nobody here looks at.
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// Of a pod's spec, which is at `path`.
pub(super) fn warnings(spec: &Value, path: &str) -> Vec<String> {
    let mut fields = Vec::new();
    for kind in ["podAffinity", "podAntiAffinity"] {
        if spec["affinity"][kind][REQUIRED].as_array().is_some_and(|terms| !terms.is_empty()) {
            fields.push(format!("{path}.affinity.{kind}.{REQUIRED}"));
        }
    }
    let constraints = spec["topologySpreadConstraints"].as_array().into_iter().flatten();
    let hard =
        constraints.enumerate().filter(|(_, one)| one["whenUnsatisfiable"] == "DoNotSchedule");
    fields.extend(hard.map(|(index, _)| format!("{path}.topologySpreadConstraints[{index}]")));
    let warning = |field| {
        format!(
            "{field}: not read by this cluster's scheduler, which spreads copies of a pod over \
             the nodes but promises nothing"
        )
    };
    fields.into_iter().map(warning).collect()
}

pub(super) fn fill(value: &mut Value, toleration_seconds: i64) {
    let spec = &mut value["spec"];
    let account = match account::named(spec) {
        "" => DEFAULT_SERVICE_ACCOUNT,
        name => name,
    }
    .to_owned();
    spec["serviceAccountName"] = Value::from(account.as_str());
    spec["serviceAccount"] = Value::from(account);

    let tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let missing = LOST_NODE_TAINTS.iter().filter(|taint| !tolerates(&tolerations, taint));
    let added: Vec<Value> = missing
        .map(|taint| {
            json!({
                "key": taint,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": toleration_seconds,
            })
        })
        .collect();
    if !added.is_empty() {
        spec["tolerations"] = Value::from([tolerations, added].concat());
    }
}

fn tolerates(tolerations: &[Value], taint: &str) -> bool {
    tolerations.iter().any(|toleration| {
        let text = |field: &str| toleration[field].as_str().unwrap_or_default();
        matches!(text("key"), "") | (text("key") == taint)
            && matches!(text("effect"), "" | "NoExecute")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_added_where_there_are_none() {
        let own = json!({ "key": "node.kubernetes.io/not-ready", "operator": "Exists" });
        let all = json!({ "operator": "Exists" });
        let other = json!({ "key": "gpu", "operator": "Exists", "effect": "NoExecute" });
        let no_schedule = json!({ "operator": "Exists", "effect": "NoSchedule" });
        let cases = [
            (json!([]), 2),
            (json!([own]), 1),
            (json!([all]), 0),
            (json!([other]), 2),
            (json!([no_schedule]), 2),
        ];
        for (tolerations, added) in cases {
            let before = tolerations.as_array().map_or(0, Vec::len);
            let mut pod = json!({ "spec": { "tolerations": tolerations } });
            fill(&mut pod, 7);
            let after = pod["spec"]["tolerations"].as_array().unwrap();
            assert_eq!(after.len(), before + added, "{tolerations}");
            for toleration in &after[before..] {
                assert_eq!(toleration["tolerationSeconds"], 7);
            }
            assert_eq!(pod["spec"]["serviceAccountName"], "default");
        }
    }
}
