//! The names of what can be asked for, limited and counted.

use super::names::qualified_name;
use super::{Errors, Path};

/// What a pod can ask for, and what a namespace can be held to.
const COMPUTE: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
const CLAIMED: &str = "requests.storage";
/// Objects, of which there are none by halves.
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

pub(crate) fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether a quota counts the resource without being told its group.
pub(super) fn is_standard_for_quota(name: &str) -> bool {
    COMPUTE.contains(&name)
        || COUNTED.contains(&name)
        || name == CLAIMED
        || is_huge_pages(name.strip_prefix("requests.").unwrap_or(name))
}

/// Whether the name is Kubernetes's own, by its domain or for lack of one.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether it is a resource that nodes have beside their own, such as `example.com/gpu`.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether only whole numbers of the resource make sense.
pub(super) fn is_whole(name: &str) -> bool {
    COUNTED.contains(&name) || is_extended(name)
}

/// Whether more may be promised than there is.
pub(super) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

/// Checks the name of any resource; whether it passed.
pub(super) fn resource_name(errors: &mut Errors, name: &str, path: &Path) -> bool {
    let complaints = qualified_name(name);
    if !complaints.is_empty() {
        errors.complain(path, name, complaints);
        return false;
    }
    let standard = is_standard_for_quota(name) || name == "storage";
    if !name.contains('/') && !standard {
        let why = "must be a standard resource type or fully qualified";
        errors.invalid_text(path, name, why);
        return false;
    }
    true
}

/// Checks the name of a resource that a container can ask for.
pub(super) fn container_resource_name(errors: &mut Errors, name: &str, path: &Path) {
    resource_name(errors, name, path);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_pages(name);
    if !name.contains('/') && !standard {
        errors.invalid_text(path, name, "must be a standard resource for containers");
    } else if !is_native(name) && !is_extended(name) {
        errors.invalid_text(path, name, "doesn't follow extended resource name standard");
    }
}

/// Checks the name of a resource that a quota can hold a namespace to.
pub(super) fn quota_resource_name(errors: &mut Errors, name: &str, path: &Path) {
    resource_name(errors, name, path);
    if !name.contains('/') && !is_standard_for_quota(name) {
        errors.invalid_text(path, name, "must be a standard resource for quota");
    }
}
