//! Cluster addresses and IP families of services, as far as the object alone says (KEP-563).
//! What the cluster has ranges for is the API server's to say.

use serde_json::{Value, json};

use super::containers::{list, text};
use super::names::ip;
use super::{Errors, Path};

const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
const ONCE_SET: &str = "may not change once set";

/// The fields that a service without a cluster address must not have.
pub(super) fn forbid(errors: &mut Errors, spec: &Value, path: &Path) {
    let why = "may not be set for ExternalName services";
    if !text(spec, "clusterIP").is_empty() || !list(spec, "clusterIPs").is_empty() {
        errors.forbidden(&path.child("clusterIPs"), why);
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if !spec[field].is_null() {
            errors.forbidden(&path.child(field), why);
        }
    }
}

/// Those of a service that is no ExternalName.
pub(super) fn check(errors: &mut Errors, spec: &Value, path: &Path) {
    let listed = list(spec, "clusterIPs");
    let path_of_list = path.child("clusterIPs");
    let families = list(spec, "ipFamilies");
    match (text(spec, "clusterIP"), listed.first()) {
        ("", Some(_)) => {
            let why = "must be empty when `clusterIP` is not specified";
            errors.invalid(&path_of_list, &spec["clusterIPs"], why);
        }
        (one, Some(first)) if *first != one => {
            let why = "first value must match `clusterIP`";
            errors.invalid(&path_of_list, &spec["clusterIPs"], why);
        }
        (one, None) if !one.is_empty() => errors.required(&path_of_list, ""),
        _ => {}
    }
    for (index, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(index);
        errors.one_of(&path, family, FAMILIES);
        if families[..index].contains(family) {
            errors.duplicate(&path, family);
        }
    }
    errors.one_of(&path.child("ipFamilyPolicy"), &spec["ipFamilyPolicy"], POLICIES);
    check_list(errors, spec, &path_of_list);
    for field in ["clusterIPs", "ipFamilies"] {
        if list(spec, field).len() < 2 {
            continue;
        }
        let path = path.child("ipFamilyPolicy");
        let why = format!(
            "must be RequireDualStack or PreferDualStack when multiple '{field}' are specified"
        );
        match text(spec, "ipFamilyPolicy") {
            "" => errors.required(&path, &why),
            "SingleStack" => errors.invalid(&path, &spec["ipFamilyPolicy"], &why),
            _ => continue,
        }
        break;
    }
}

fn check_list(errors: &mut Errors, spec: &Value, path: &Path) {
    let first = text(spec, "clusterIP");
    let listed = list(spec, "clusterIPs").iter().filter_map(Value::as_str);
    let mut listed: Vec<&str> = listed.collect();
    if listed.is_empty() && !first.is_empty() {
        listed.push(first);
    }
    if listed.len() > 2 {
        errors.invalid(path, &json!(listed), "may only hold up to 2 values");
    }
    if listed.len() > 1 && listed.contains(&"None") {
        errors.invalid(path, &json!(listed), "'None' must be the first and only value");
        return;
    }
    let family = |address: &str| if address.contains(':') { "IPv6" } else { "IPv4" };
    for (index, address) in listed.iter().enumerate().filter(|(_, address)| **address != "None") {
        let path = path.index(index);
        let complaints = ip(address);
        let wanted = spec["ipFamilies"][index].as_str().unwrap_or(family(address));
        if complaints.is_empty() && wanted != family(address) {
            let why = format!("expected an {wanted} value as indicated by `ipFamilies[{index}]`");
            errors.invalid_text(&path, address, &why);
        }
        errors.complain(&path, address, complaints);
    }
    if let [one, other] = listed[..]
        && family(one) == family(other)
    {
        let why = "may specify no more than one IP for each IP family";
        errors.invalid(path, &json!(listed), why);
    }
}

fn is_headless(spec: &Value) -> bool {
    matches!(list(spec, "clusterIPs"), [only] if only == "None")
}

/// What an update must not change: a second family may come and go, the first stays.
pub(super) fn check_update(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    let external = |spec: &Value| spec["type"] == "ExternalName";
    if external(old) || external(new) {
        return;
    }
    let (was_headless, is_headless) = (is_headless(old), is_headless(new));
    if !(was_headless && is_headless) {
        let path = path.child("clusterIPs");
        changes(errors, (new, old), &Listed { field: "clusterIPs", one: "clusterIP" }, &path);
    }
    if !was_headless && !is_headless {
        let path = path.child("ipFamilies");
        changes(errors, (new, old), &Listed { field: "ipFamilies", one: "ipFamily" }, &path);
    }
}

/// A list with one entry per family.
struct Listed {
    field: &'static str,
    /// What an entry is called.
    one: &'static str,
}

fn changes(errors: &mut Errors, (new, old): (&Value, &Value), listed: &Listed, path: &Path) {
    let Listed { field, one } = listed;
    let (was, is) = (list(old, field), list(new, field));
    let shown = Value::from(is.to_vec());
    if was.len() == is.len() {
        for (index, _) in was.iter().zip(is).enumerate().filter(|(_, (was, is))| was != is) {
            // Of the families, all is said at the first.
            let index = if *field == "ipFamilies" { 0 } else { index };
            errors.invalid(&path.index(index), &shown, ONCE_SET);
        }
        return;
    }
    let Some(first) = was.first() else { return };
    match is.first() {
        None => {
            errors.invalid(&path.index(0), &shown, &format!("primary {one} can not be unset"));
        }
        Some(now) if now != first => errors.invalid(&path.index(0), &shown, ONCE_SET),
        Some(_) => {}
    }
    let releases = was.len() > is.len() && is.len() == 1;
    if releases && text(new, "ipFamilyPolicy") != "SingleStack" {
        let path = Path::root("spec").child("ipFamilyPolicy");
        let why = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        errors.invalid(&path, &new["ipFamilyPolicy"], &why);
    }
}
