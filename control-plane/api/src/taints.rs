//! Taints of nodes, and which pods tolerate them.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether the toleration is one for the taint. For how long is not looked at.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let same_value = toleration.value.as_deref().unwrap_or_default()
        == taint.value.as_deref().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && match toleration.operator.as_deref() {
            Some("Exists") => key.is_empty() || key == taint.key,
            None | Some("" | "Equal") => key == taint.key && same_value,
            Some(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations() {
        let taint = Taint {
            key: "gpu".into(),
            value: Some("a".into()),
            effect: "NoExecute".into(),
            ..Taint::default()
        };
        let table = [
            ("everything", "Exists", "", "", "", true),
            ("the key", "Exists", "gpu", "", "", true),
            ("another key", "Exists", "disk", "", "", false),
            ("the effect", "Exists", "", "", "NoExecute", true),
            ("another effect", "Exists", "gpu", "", "NoSchedule", false),
            ("the value", "Equal", "gpu", "a", "", true),
            ("without operator", "", "gpu", "a", "", true),
            ("another value", "Equal", "gpu", "b", "", false),
            ("no value", "Equal", "gpu", "", "", false),
            ("a value of no key", "Equal", "", "a", "", false),
            ("an operator that nobody knows", "Near", "gpu", "a", "", false),
        ];
        for (name, operator, key, value, effect, expected) in table {
            let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let toleration = Toleration {
                key: text(key),
                operator: text(operator),
                value: text(value),
                effect: text(effect),
                toleration_seconds: None,
            };
            assert_eq!(tolerates(&toleration, &taint), expected, "{name}");
        }
    }
}
