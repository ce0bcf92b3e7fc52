//! Which objects of a namespace a quota is about.

use serde_json::Value;

use crate::resource::Resource;

/// One of the conditions that an object must meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    name: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// The scopes of a quota's spec.
pub(super) fn all(spec: &Value) -> Vec<Scope> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let named = list(&spec["scopes"]).into_iter().filter_map(|name| {
        let name = name.as_str()?.to_owned();
        Some(Scope { name, operator: Operator::Exists, values: Vec::new() })
    });
    let selected = list(&spec["scopeSelector"]["matchExpressions"]).into_iter().map(|one| {
        let values = list(&one["values"]);
        Scope {
            name: one["scopeName"].as_str().unwrap_or_default().to_owned(),
            operator: match one["operator"].as_str() {
                Some("In") => Operator::In,
                Some("NotIn") => Operator::NotIn,
                Some("DoesNotExist") => Operator::DoesNotExist,
                _ => Operator::Exists,
            },
            values: values.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    });
    named.chain(selected).collect()
}

impl Scope {
    pub(super) fn has(&self, resource: &Resource, object: &Value) -> bool {
        match (self.name.as_str(), resource.is("", "pods")) {
            ("Terminating", true) => has_deadline(object),
            ("NotTerminating", true) => !has_deadline(object),
            ("BestEffort", true) => is_best_effort(object),
            ("NotBestEffort", true) => !is_best_effort(object),
            ("CrossNamespacePodAffinity", true) => looks_elsewhere(object),
            ("PriorityClass", true) => self.selects(&named([&object["spec"]["priorityClassName"]])),
            ("VolumeAttributesClass", false) if resource.is("", "persistentvolumeclaims") => {
                let status = &object["status"];
                self.selects(&named([
                    &object["spec"]["volumeAttributesClassName"],
                    &status["currentVolumeAttributesClassName"],
                    &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
                ]))
            }
            _ => false,
        }
    }

    /// Whether one of the classes is selected; without any, whether none is asked for.
    fn selects(&self, classes: &[&str]) -> bool {
        let listed = |class: &&str| self.values.iter().any(|value| value == class);
        match self.operator {
            Operator::Exists => !classes.is_empty(),
            Operator::DoesNotExist => classes.is_empty(),
            Operator::In => classes.iter().any(listed),
            Operator::NotIn => classes.is_empty() || classes.iter().any(|class| !listed(class)),
        }
    }
}

fn named<const N: usize>(fields: [&Value; N]) -> Vec<&str> {
    fields.into_iter().filter_map(Value::as_str).filter(|name| !name.is_empty()).collect()
}

fn has_deadline(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

fn is_best_effort(pod: &Value) -> bool {
    pod["status"]["qosClass"] == "BestEffort"
}

/// Whether the pod wants to be near, or far from, pods of other namespaces.
fn looks_elsewhere(pod: &Value) -> bool {
    let affinity = &pod["spec"]["affinity"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let is_elsewhere = |term: &Value| {
        !list(&term["namespaces"]).is_empty() || !term["namespaceSelector"].is_null()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let terms = &affinity[*kind];
        let required = list(&terms["requiredDuringSchedulingIgnoredDuringExecution"]);
        let preferred = list(&terms["preferredDuringSchedulingIgnoredDuringExecution"]);
        required.iter().any(is_elsewhere)
            || preferred.iter().any(|one| is_elsewhere(&one["podAffinityTerm"]))
    })
}
