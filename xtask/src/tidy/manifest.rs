//! The rules about `Cargo.toml` files: one place for versions, one set of lints.

use super::Violation;
use crate::workspace::OUTSIDE;

/// Check one manifest by its lines; manifests here are written in the plain form that allows it.
pub(super) fn check(path: &str, text: &str) -> Vec<Violation> {
    // Packages outside the workspace have nothing to inherit from.
    if path == "Cargo.toml" || OUTSIDE.contains(&path) {
        return Vec::new();
    }
    let mut violations = Vec::new();
    let mut section = "";
    let mut inherits_lints = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
            // [dependencies.x] is the long form of an entry; it hides what it declares.
            if section.contains("dependencies.") {
                let message = "write `x.workspace = true` below [dependencies]";
                violations.push(Violation::new(path, index + 1, "dependency", message));
            }
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        inherits_lints |= section == "lints" && line == "workspace = true";
        if section.ends_with("dependencies") && !inherits(line) {
            let message = "declare it in the workspace, and write `x.workspace = true` here";
            violations.push(Violation::new(path, index + 1, "dependency", message));
        }
    }
    if !inherits_lints {
        let message = "add `[lints]` with `workspace = true`";
        violations.push(Violation::new(path, 1, "lints", message));
    }
    violations
}

fn inherits(line: &str) -> bool {
    let squeezed: String = line.chars().filter(|c| !c.is_whitespace()).collect();
    squeezed.contains(".workspace=true")
        || squeezed.contains("workspace=true,")
        || squeezed.contains("{workspace=true}")
}
