//! Nodes.

use std::collections::HashSet;

use serde_json::Value;

use super::addresses::cidr;
use super::containers::{list, text};
use super::metadata::{SUBDOMAIN, metadata};
use super::requirements::quantity;
use super::tolerations::taints;
use super::{Errors, FieldError, Path};
use crate::schema::parse_quantity;

pub(crate) fn node(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    taints(&mut errors, spec);
    amounts(&mut errors, &new["status"]);
    pod_ranges(&mut errors, spec, &path);
    if let Some(old) = old {
        update(&mut errors, spec, &old["spec"], &path);
        addresses(&mut errors, &new["status"]);
    }
    errors.into_vec()
}

fn amounts(errors: &mut Errors, status: &Value) {
    for field in ["capacity", "allocatable"] {
        for (name, amount) in status[field].as_object().into_iter().flatten() {
            let path = Path::root("status").child(field).child(name);
            if let Ok(amount) = parse_quantity(amount) {
                quantity(errors, name, amount, &path);
            }
        }
    }
}

fn pod_ranges(errors: &mut Errors, spec: &Value, path: &Path) {
    let path = path.child("podCIDRs");
    let ranges = list(spec, "podCIDRs").iter().filter_map(Value::as_str);
    let ranges: Vec<&str> = ranges.collect();
    for (index, range) in ranges.iter().enumerate() {
        errors.complain(&path.index(index), range, cidr(range));
    }
    let first = ranges.first().copied().unwrap_or_default();
    if !first.is_empty() && first != text(spec, "podCIDR") {
        errors.invalid_text(&path.index(0), first, "must match `podCIDR`");
    }
    let is_ipv6 = |range: &str| range.contains(':');
    let dual = matches!(ranges[..], [one, other] if is_ipv6(one) != is_ipv6(other));
    if ranges.len() > 1 && !dual {
        let why = "may specify no more than one CIDR for each IP family";
        errors.invalid(&path, &spec["podCIDRs"], why);
    }
}

/// What a node was given stays its own.
fn update(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    let changed = |field: &str| !text(old, field).is_empty() && old[field] != new[field];
    let ranges = list(old, "podCIDRs");
    if changed("podCIDR") || (!ranges.is_empty() && ranges != list(new, "podCIDRs")) {
        let why = "node updates may not change podCIDR except from \"\" to valid";
        errors.forbidden(&path.child("podCIDRs"), why);
    }
    if changed("providerID") {
        let why = "node updates may not change providerID except from \"\" to valid";
        errors.forbidden(&path.child("providerID"), why);
    }
    if text(old, "externalID") != text(new, "externalID") {
        errors.forbidden(&path.child("externalID"), "may not be updated");
    }
}

fn addresses(errors: &mut Errors, status: &Value) {
    let mut seen = HashSet::new();
    for (index, address) in list(status, "addresses").iter().enumerate() {
        if !seen.insert((text(address, "type"), text(address, "address"))) {
            errors.duplicate(&Path::root("status").child("addresses").index(index), address);
        }
    }
}
