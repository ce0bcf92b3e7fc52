//! Paths of files that must stay below a directory.
//!
//! Guarantees: one complaint about a path that climbs, however often it does.

use super::{Errors, Path};

/// A path from the root is none, and neither is one that climbs.
pub(super) fn descending(errors: &mut Errors, target: &str, path: &Path) {
    if target.starts_with('/') {
        errors.invalid_text(path, target, "must be a relative path");
    }
    without_backsteps(errors, target, path);
}

pub(super) fn without_backsteps(errors: &mut Errors, target: &str, path: &Path) {
    if has_backsteps(target) {
        errors.invalid_text(path, target, "must not contain '..'");
    }
}

pub(super) fn has_backsteps(target: &str) -> bool {
    target.split('/').any(|part| part == "..")
}

/// A file that a volume shows: names that begin with two dots are for the agent's own.
pub(super) fn not_reserved(errors: &mut Errors, target: &str, path: &Path) {
    descending(errors, target, path);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.invalid_text(path, target, "must not start with '..'");
    }
}
