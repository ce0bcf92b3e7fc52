//! Limit ranges.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

use super::containers::{list, text};
use super::metadata::{SUBDOMAIN, metadata};
use super::names::qualified_name;
use super::resource_names::{container_resource_name, may_overcommit, resource_name};
use super::{Errors, FieldError, Path};
use crate::quantity::Quantity;
use crate::schema::parse_quantity;

const TYPES: &[&str] = &["Container", "PersistentVolumeClaim", "Pod"];
const BOUNDS: &[&str] = &["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

pub(crate) fn limit_range(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let mut types = HashSet::new();
    for (index, item) in list(&new["spec"], "limits").iter().enumerate() {
        let path = Path::root("spec").child("limits").index(index);
        let kind = text(item, "type");
        limited_type(&mut errors, kind, &path.child("type"));
        if !types.insert(kind) {
            errors.duplicate(&path.child("type"), &item["type"]);
        }
        limits(&mut errors, item, &path);
    }
    errors.into_vec()
}

fn limited_type(errors: &mut Errors, kind: &str, path: &Path) {
    let complaints = qualified_name(kind);
    if complaints.is_empty() && !kind.contains('/') && !TYPES.contains(&kind) {
        errors.invalid_text(path, kind, "must be a standard limit type or fully qualified");
    }
    errors.complain(path, kind, complaints);
}

fn limits(errors: &mut Errors, item: &Value, path: &Path) {
    let kind = text(item, "type");
    let mut named: BTreeMap<&str, BTreeMap<&str, Quantity>> = BTreeMap::new();
    for &bound in BOUNDS {
        let amounts = item[bound].as_object();
        let path = path.child(bound);
        if kind == "Pod" && matches!(bound, "default" | "defaultRequest") {
            // A pod's containers have defaults, the pod itself does not.
            if amounts.is_some_and(|amounts| !amounts.is_empty()) {
                errors.forbidden(&path, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, amount) in amounts.into_iter().flatten() {
            if matches!(kind, "Pod" | "Container") {
                container_resource_name(errors, name, &path.key(name));
            } else {
                resource_name(errors, name, &path.key(name));
            }
            if let Ok(amount) = parse_quantity(amount) {
                named.entry(bound).or_default().insert(name, amount);
            }
        }
    }
    let storage = |bound: &str| item[bound].get("storage").is_some();
    if kind == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&path.child("limits"), why);
    }
    let names: BTreeSet<&str> = named.values().flat_map(BTreeMap::keys).copied().collect();
    for name in names {
        let of = |bound: &str| named.get(bound).and_then(|amounts| amounts.get(name)).copied();
        consistent(errors, name, &of, path);
        ratio(errors, name, &of, path);
    }
}

/// Says that one bound is above another, if both are there.
struct Order {
    /// The bound that must not be above, and what it is called.
    low: (&'static str, &'static str),
    high: (&'static str, &'static str),
    /// The bound whose field is at fault, and the one whose amount is shown.
    at: &'static str,
    shown: &'static str,
}

const MIN: (&str, &str) = ("min", "min value");
const MAX: (&str, &str) = ("max", "max value");
const DEFAULT: (&str, &str) = ("default", "default value");
const REQUEST: (&str, &str) = ("defaultRequest", "default request value");

const ORDERS: &[Order] = &[
    Order { low: MIN, high: MAX, at: "min", shown: "min" },
    Order { low: MIN, high: REQUEST, at: "defaultRequest", shown: "defaultRequest" },
    Order { low: REQUEST, high: MAX, at: "defaultRequest", shown: "defaultRequest" },
    Order {
        low: REQUEST,
        high: ("default", "default limit value"),
        at: "defaultRequest",
        shown: "defaultRequest",
    },
    Order { low: MIN, high: DEFAULT, at: "default", shown: "min" },
    Order { low: DEFAULT, high: MAX, at: "default", shown: "max" },
];

type Bound<'a> = dyn Fn(&str) -> Option<Quantity> + 'a;

fn consistent(errors: &mut Errors, name: &str, of: &Bound<'_>, path: &Path) {
    for Order { low, high, at, shown } in ORDERS {
        if let (Some(lower), Some(higher), Some(value)) = (of(low.0), of(high.0), of(shown))
            && lower > higher
        {
            let why = format!("{} {lower} is greater than {} {higher}", low.1, high.1);
            errors.invalid_text(&path.child(at).key(name), &value.to_string(), &why);
        }
    }
    if let (Some(limit), Some(request)) = (of("default"), of("defaultRequest"))
        && !may_overcommit(name)
        && limit != request
    {
        let why =
            format!("default value {limit} must equal to defaultRequest value {request} in {name}");
        errors.invalid_text(&path.child("defaultRequest").key(name), &request.to_string(), &why);
    }
}

fn ratio(errors: &mut Errors, name: &str, of: &Bound<'_>, path: &Path) {
    let Some(ratio) = of("maxLimitRequestRatio") else { return };
    let path = path.child("maxLimitRequestRatio").key(name);
    if ratio.millis() < 1000 {
        let why = format!("ratio {ratio} is less than 1");
        errors.invalid_text(&path, &ratio.to_string(), &why);
    }
    let (Some(min), Some(max)) = (of("min"), of("max")) else { return };
    // Thousandths where they fit, as small amounts would be rounded up to one.
    let fine = |amount: Quantity| amount.units() < i64::MAX / 1000;
    let (ratio_value, min, max) = if fine(ratio) && fine(min) && fine(max) {
        (ratio.millis() as f64 / 1000.0, min.millis(), max.millis())
    } else {
        (ratio.units() as f64, min.units(), max.units())
    };
    let most = max as f64 / min as f64;
    if ratio_value > most {
        let why = format!("ratio {ratio} is greater than max/min = {most:.6}");
        errors.invalid_text(&path, &ratio.to_string(), &why);
    }
}
