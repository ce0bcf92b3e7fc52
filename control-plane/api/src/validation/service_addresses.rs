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
    if listed.first().is_some_and(|first| *first != spec["clusterIP"]) {
        errors.invalid(&path_of_list, &spec["clusterIPs"], "first value must match `clusterIP`");
    }
    errors.one_of(&path.child("ipFamilyPolicy"), &spec["ipFamilyPolicy"], POLICIES);
    for (index, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(index);
        errors.one_of(&path, family, FAMILIES);
        if families[..index].contains(family) {
            errors.duplicate(&path, family);
        }
    }
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

/// What an update must not change.
pub(super) fn check_update(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    let external = |spec: &Value| spec["type"] == "ExternalName";
    if external(old) || external(new) {
        return;
    }
    let before = text(old, "clusterIP");
    if !before.is_empty() && before != text(new, "clusterIP") {
        let path = path.child("clusterIPs").index(0);
        errors.invalid(&path, &json!([new["clusterIP"]]), ONCE_SET);
    }
    for field in ["clusterIPs", "ipFamilies"] {
        let (was, is) = (list(old, field), list(new, field));
        if field == "ipFamilies"
            && let ([was, ..], [is, ..]) = (was, is)
            && was != is
        {
            errors.invalid(&path.child(field).index(0), is, ONCE_SET);
        }
        if let ([_, was], [_, is]) = (was, is)
            && was != is
        {
            errors.invalid(&path.child(field).index(1), is, ONCE_SET);
        }
    }
    let releases = list(old, "ipFamilies").len() > list(new, "ipFamilies").len();
    if releases && text(new, "ipFamilyPolicy") != "SingleStack" {
        let why = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.invalid(&path.child("ipFamilyPolicy"), &new["ipFamilyPolicy"], why);
    }
}
