//! What a pod as a whole asks for and is limited to, and the resource claims that it brings.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::containers::{is_sidecar, list, text};
use super::names::{label, subdomain};
use super::requirements::amounts;
use super::resource_names::{is_huge_pages, resource_name};
use super::{Errors, Path};
use crate::quantity::Quantity;
use crate::schema::parse_quantity;

const RESOURCES: &[&str] = &["cpu", "hugepages-", "memory"];

/// Whether a pod as a whole can ask for the resource.
pub(crate) fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_pages(name)
}

type Amounts<'a> = BTreeMap<&'a str, Quantity>;

/// What the containers of a pod have in `field` (`requests` or `limits`) when most of them run: the
/// containers and sidecars together, or one of the others before them if that has more.
pub(crate) fn aggregate<'a>(spec: &'a Value, field: &str) -> Amounts<'a> {
    let of = |container: &'a Value| -> Amounts<'a> {
        let amounts = container["resources"][field].as_object().into_iter().flatten();
        let read = |(name, amount): (&'a String, &'a Value)| {
            Some((name.as_str(), parse_quantity(amount).ok()?))
        };
        amounts.filter_map(read).collect()
    };
    let mut together = Amounts::new();
    for container in list(spec, "containers") {
        add(&mut together, &of(container));
    }
    let (mut sidecars, mut highest) = (Amounts::new(), Amounts::new());
    for container in list(spec, "initContainers") {
        let own = of(container);
        let mut now = sidecars.clone();
        add(&mut now, &own);
        if is_sidecar(container) {
            add(&mut together, &own);
            sidecars.clone_from(&now);
        }
        raise(&mut highest, &now);
    }
    raise(&mut together, &highest);
    together
}

fn add<'a>(sum: &mut Amounts<'a>, other: &Amounts<'a>) {
    for (&name, &amount) in other {
        let held = sum.entry(name).or_default();
        *held = *held + amount;
    }
}

fn raise<'a>(highest: &mut Amounts<'a>, other: &Amounts<'a>) {
    for (&name, &amount) in other {
        let held = highest.entry(name).or_insert(amount);
        *held = (*held).max(amount);
    }
}

pub(super) fn pod_resources(errors: &mut Errors, spec: &Value, path: &Path) {
    let (resources, path) = (&spec["resources"], path.child("resources"));
    if resources.is_null() {
        return;
    }
    if spec["os"]["name"] == "windows" {
        return errors.forbidden(&path, "may not be set for a windows pod");
    }
    if !resources["claims"].is_null() {
        let why = "claims may not be set for Resources at pod-level";
        errors.forbidden(&path.child("claims"), why);
    }
    amounts(errors, resources, name_of_pods, &path);
    consistent(errors, spec, &path);
}

fn name_of_pods(errors: &mut Errors, name: &str, path: &Path) {
    if resource_name(errors, name, path) && !is_of_pods(name) {
        errors.unsupported(path, &Value::from(name), RESOURCES);
    }
}

/// The containers get no more than the pod.
fn consistent(errors: &mut Errors, spec: &Value, path: &Path) {
    let resources = &spec["resources"];
    let own = |field: &str, name: &str| -> Option<Quantity> {
        resources[field].get(name).and_then(|amount| parse_quantity(amount).ok())
    };
    for (field, matters) in
        [("requests", (|_: &str| true) as fn(&str) -> bool), ("limits", is_huge_pages)]
    {
        for (name, sum) in aggregate(spec, field).iter().filter(|(name, _)| matters(name)) {
            let Some(own) = own(field, name).filter(|own| sum > own) else { continue };
            let why =
                format!("must be greater than or equal to aggregate container {field} of {sum}");
            errors.invalid_text(&path.child(field).key(name), &own.to_string(), &why);
        }
    }
    for (index, container) in list(spec, "containers").iter().enumerate() {
        let limits = container["resources"]["limits"].as_object().into_iter().flatten();
        for (name, limit) in limits {
            let (Ok(limit), Some(own)) = (parse_quantity(limit), own("limits", name)) else {
                continue;
            };
            if limit > own {
                let why = format!("must be less than or equal to pod limits of {own}");
                let path = path.child("containers").index(index).key(name).child("limits");
                errors.invalid_text(&path, &limit.to_string(), &why);
            }
        }
    }
}

/// Checks the pod's resource claims; what its containers use of them is checked with them.
pub(super) fn resource_claims(errors: &mut Errors, spec: &Value, path: &Path) {
    let mut names = HashSet::new();
    for (index, claim) in list(spec, "resourceClaims").iter().enumerate() {
        let path = path.child("resourceClaims").index(index);
        let name = text(claim, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !names.insert(name) {
            errors.duplicate(&path.child("name"), &claim["name"]);
        } else {
            errors.complain(&path.child("name"), name, label(name));
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        match sources.iter().filter(|source| !claim[**source].is_null()).count() {
            0 => {
                let why = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.invalid(&path, claim, why);
            }
            1 => {}
            _ => {
                let why = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may \
                           be specified";
                errors.invalid(&path, claim, why);
            }
        }
        for source in sources {
            if let Some(name) = claim[source].as_str() {
                errors.complain(&path.child(source), name, subdomain(name));
            }
        }
    }
}
